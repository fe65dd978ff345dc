//! The controller, the pacer and the estimators together on a bottleneck with a drop-tail queue: the law, tested without
//! a channel around it.

use std::collections::VecDeque;
use std::time::Duration;

use super::{AckReport, Controller, ControllerConfig, DeliveryEstimator, Pacer, RttEstimator, SendSnapshot};
use crate::units::{BitRate, ByteCount, Instant};

const DATAGRAM: u64 = 1500;
const TICK: Duration = Duration::from_micros(50);

/// A path, and what disturbs it.
struct Bottleneck {
    rate: BitRate,
    rtt: Duration,
    /// Longest time that a datagram may wait.
    buffer: Duration,
    /// One datagram in so many is lost; zero: none.
    lost_one_in: u64,
    /// The sender sleeps so long out of every 50 ms.
    asleep: Duration,
}

/// Flows over it for as long as asked, with as much to send as may leave.
struct Sender {
    path: Bottleneck,
    now: Instant,
    free_at: Instant,
    controller: Controller,
    pacer: Pacer,
    delivery: DeliveryEstimator,
    rtt: RttEstimator,
    /// What is under way, oldest first; without a moment of its ack where it was lost.
    under_way: VecDeque<(SendSnapshot, bool, Option<Instant>)>,
    in_flight: u64,
    sent: u64,
    overflowed: u64,
}

impl Sender {
    fn new(path: Bottleneck) -> Self {
        let now = Instant::from_millis(1);
        let config = ControllerConfig { cap: None, datagram: ByteCount::new(DATAGRAM) };
        let controller = Controller::new(config, now, path.rtt);
        let mut rtt = RttEstimator::default();
        rtt.on_sample(now, path.rtt, Duration::ZERO);
        Sender {
            pacer: Pacer::new(now, controller.pacing_rate()),
            delivery: DeliveryEstimator::new(now),
            free_at: now,
            under_way: VecDeque::new(),
            in_flight: 0,
            sent: 0,
            overflowed: 0,
            path,
            now,
            controller,
            rtt,
        }
    }

    /// Goodput over the time.
    fn run(&mut self, lasts: Duration) -> BitRate {
        let (until, before) = (self.now + lasts, self.delivery.delivered());
        while self.now < until {
            self.now += TICK;
            let awake = (self.now - Instant::ZERO).as_micros() % 50_000 >= self.path.asleep.as_micros();
            if awake {
                self.take_acks();
                self.send();
            }
        }
        BitRate::from_transfer(ByteCount::new(self.delivery.delivered() - before), lasts)
    }

    fn send(&mut self) {
        while self.in_flight + DATAGRAM <= self.controller.window().as_u64()
            && self.pacer.available(self.now, true) >= DATAGRAM
        {
            self.pacer.on_sent(DATAGRAM);
            let snapshot = self.delivery.on_sent(self.now, ByteCount::new(self.in_flight), DATAGRAM);
            self.in_flight += DATAGRAM;
            self.sent += 1;
            let waits = self.free_at - self.now.min(self.free_at);
            let overflows = waits > self.path.buffer;
            self.overflowed += u64::from(overflows);
            let random = self.path.lost_one_in > 0 && self.sent.is_multiple_of(self.path.lost_one_in);
            let acked_at = (!overflows).then(|| {
                self.free_at = self.free_at.max(self.now) + self.path.rate.time_for(ByteCount::new(DATAGRAM));
                self.free_at + self.path.rtt
            });
            self.under_way.push_back((snapshot, self.controller.is_below_path_rate(), acked_at.filter(|_| !random)));
        }
    }

    fn take_acks(&mut self) {
        while let Some(next) = self.under_way.iter().position(|(.., acked_at)| acked_at.is_some())
            && self.under_way[next].2.is_some_and(|at| at <= self.now)
        {
            let low_lost = self.under_way.drain(..next).filter(|(_, low, _)| *low).count() as u64;
            let (snapshot, low, _) = self.under_way.pop_front().expect("invariant: just found");
            self.in_flight -= (next as u64 + 1) * DATAGRAM;
            let rtt = self.now - snapshot.sent;
            self.rtt.on_sample(self.now, rtt, Duration::ZERO);
            let min_rtt = self.rtt.min_rtt().expect("invariant: a sample was taken");
            self.delivery.on_delivered(self.now, DATAGRAM);
            self.controller.on_ack(&AckReport {
                now: self.now,
                sample: self.delivery.sample(&snapshot, min_rtt),
                rtt: Some(rtt),
                min_rtt,
                in_flight: ByteCount::new(self.in_flight),
                delivered: self.delivery.delivered(),
                lost: next as u64 * DATAGRAM,
                low_acked: u64::from(low),
                low_lost,
            });
            self.pacer.set_rate(self.now, self.controller.pacing_rate(), min_rtt);
        }
    }

    fn queue(&self) -> Duration {
        self.free_at - self.now.min(self.free_at)
    }
}

fn path(mbps: u64) -> Bottleneck {
    let rtt = Duration::from_millis(20);
    Bottleneck { rate: BitRate::from_mbps(mbps), rtt, buffer: rtt, lost_one_in: 0, asleep: Duration::ZERO }
}

#[track_caller]
fn assert_share(goodput: BitRate, of: BitRate, percent: u64) {
    assert!(goodput >= of.percent(percent), "{goodput} of {of}, wanted {percent} %");
}

#[test]
fn a_clean_path_is_filled_without_a_standing_queue() {
    let mut sender = Sender::new(path(100));
    sender.run(Duration::from_secs(1));
    let overflowed = sender.overflowed;
    let goodput = sender.run(Duration::from_secs(4));
    assert_share(goodput, BitRate::from_mbps(100), 97);
    assert_eq!(sender.overflowed, overflowed, "a probe overflowed the queue");
    assert!(sender.queue() < Duration::from_millis(8), "{:?}", sender.queue());
}

#[test]
fn random_loss_costs_itself_and_no_more() {
    let mut sender = Sender::new(Bottleneck { lost_one_in: 20, ..path(100) });
    sender.run(Duration::from_secs(2));
    let goodput = sender.run(Duration::from_secs(4));
    assert_share(goodput, BitRate::from_mbps(95), 96);
}

#[test]
fn a_sender_that_sleeps_does_not_take_the_path_for_slow() {
    let mut sender = Sender::new(Bottleneck { asleep: Duration::from_millis(10), ..path(100) });
    sender.run(Duration::from_secs(1));
    let goodput = sender.run(Duration::from_secs(4));
    // It sleeps a fifth of the time, and what it may make up for is bounded.
    assert_share(goodput, BitRate::from_mbps(100), 75);
    let estimate = sender.controller.delivery_rate();
    assert!(estimate < BitRate::from_mbps(125) && estimate > BitRate::from_mbps(80), "{estimate}");
}

#[test]
fn the_path_s_rate_is_followed_down_and_up() {
    let mut sender = Sender::new(path(100));
    sender.run(Duration::from_secs(2));
    sender.path.rate = BitRate::from_mbps(50);
    sender.run(Duration::from_millis(140));
    assert!(sender.queue() < Duration::from_millis(20), "a queue of {:?} after 7 RTT", sender.queue());
    sender.run(Duration::from_millis(260));
    assert_share(sender.run(Duration::from_secs(1)), BitRate::from_mbps(50), 90);
    assert!(sender.controller.delivery_rate() < BitRate::from_mbps(60), "{}", sender.controller.delivery_rate());
    sender.path.rate = BitRate::from_mbps(100);
    sender.run(Duration::from_millis(600));
    assert_share(sender.run(Duration::from_secs(1)), BitRate::from_mbps(100), 90);
}

#[test]
fn a_shallow_buffer_is_not_flooded_for_long() {
    let mut sender = Sender::new(Bottleneck { buffer: Duration::from_millis(2), ..path(100) });
    sender.run(Duration::from_secs(1));
    let (sent, overflowed) = (sender.sent, sender.overflowed);
    assert_share(sender.run(Duration::from_secs(4)), BitRate::from_mbps(100), 90);
    let lost = (sender.overflowed - overflowed) * 1000 / (sender.sent - sent);
    // Each probe overflows such a buffer: that is what a probe is.
    assert!(lost <= 30, "{lost} in 1000 overflowed");
}

/// The ack of `bytes` that took `rtt`, over a path whose smallest is `min_rtt`, with so much more in flight.
fn ack(
    controller: &mut Controller,
    delivery: &mut DeliveryEstimator,
    (snapshot, bytes): (SendSnapshot, u64),
    (rtt, min_rtt): (Duration, Duration),
    in_flight: u64,
) {
    let now = snapshot.sent + rtt;
    delivery.on_delivered(now, bytes);
    controller.on_ack(&AckReport {
        now,
        sample: delivery.sample(&snapshot, min_rtt),
        rtt: Some(rtt),
        min_rtt,
        in_flight: ByteCount::new(in_flight),
        delivered: delivery.delivered(),
        lost: 0,
        low_acked: 0,
        low_lost: 0,
    });
}

#[test]
fn a_channel_that_idled_on_a_wandering_path_still_accelerates() {
    let (millis, rtt) = (Instant::from_millis, Duration::from_millis(100));
    let mut controller =
        Controller::new(ControllerConfig { cap: None, datagram: ByteCount::new(DATAGRAM) }, millis(0), rtt);
    let mut delivery = DeliveryEstimator::new(millis(0));
    // A keep-alive now and then, with an RTT of its own each time.
    for number in 1..20_u64 {
        delivery.on_app_limited(ByteCount::ZERO);
        let snapshot = delivery.on_sent(millis(number * 500), ByteCount::ZERO, 60);
        let wander = Duration::from_millis(30) * (number % 2) as u32;
        ack(&mut controller, &mut delivery, (snapshot, 60), (rtt + wander, rtt), 0);
    }
    // Then there is plenty to say: a window, and its acks spread over the next round.
    let send = |number| {
        let at = millis(11_000) + Duration::from_micros(500 * number);
        delivery.on_sent(at, ByteCount::new(number * DATAGRAM), DATAGRAM)
    };
    let sent: Vec<_> = (0..200).map(send).collect();
    for snapshot in sent {
        ack(&mut controller, &mut delivery, (snapshot, DATAGRAM), (rtt, rtt), 128 * DATAGRAM);
    }
    assert_eq!(controller.phase(), super::Phase::Accelerate);
}
