//! The operator's rate: a pace that neither loss nor delay changes, and what bounds it all the same.
//! What it is for and whom it harms: [`crate::rate`].

use std::time::Duration;

use super::controller::{AckReport, WINDOW_MIN};
use super::queue::ROUND_MIN;
use super::rounds::Rounds;
use crate::units::{BitRate, ByteCount, Instant};

/// In flight is what leaves in this many RTTs: one to arrive and be acknowledged, one for what is lost to be found out.
const FLIGHT_RTTS: u32 = 2;
/// And in this time: offload batches, held acks, machines that wake late, an RTT that grows within a round.
const FLIGHT_SLACK: Duration = Duration::from_millis(20);
/// A queue longer than this is not followed: the pace would fill any buffer, however large.
const QUEUE_MAX: Duration = Duration::from_millis(500);
/// Rounds over which it is judged how much of the pace arrives.
const MEAN_ROUNDS: usize = 4;
/// With so much of the window in flight, in percent, it is the window that holds the pace back.
const HELD: u64 = 90;

/// The pace of a session whose operator has set it.
#[derive(Clone, Debug)]
pub struct FixedRate {
    rate: BitRate,
    datagram: ByteCount,
    rounds: Rounds,
    /// Mean RTT of the last whole round; before the first, what it is taken for.
    rtt: Duration,
    min_rtt: Duration,
    queue: Duration,
    /// What of the pace arrives.
    delivered: BitRate,
}

impl FixedRate {
    /// Paces at `rate`, wire bytes. `datagram`: wire bytes of a full one; `rtt`: a first idea of it.
    pub fn new(rate: BitRate, datagram: ByteCount, now: Instant, rtt: Duration) -> Self {
        FixedRate {
            rate,
            datagram,
            rounds: Rounds::new(now),
            rtt,
            min_rtt: rtt,
            queue: Duration::ZERO,
            delivered: rate,
        }
    }

    /// Wire bytes of a full datagram from now on (the path MTU changed).
    pub fn set_datagram(&mut self, datagram: ByteCount) {
        self.datagram = datagram;
    }

    /// What to pace at: the operator's rate, always.
    pub fn pacing_rate(&self) -> BitRate {
        self.rate
    }

    /// What of it arrives, so that what waits to be sent is bounded by what the path really carries. Nothing is probed:
    /// until the path falls behind it is taken to carry the whole.
    pub fn delivery_rate(&self) -> BitRate {
        self.delivered
    }

    /// Most bytes that may be in flight: what stops the pace when the path is dead, and when nothing comes back in time
    /// because the path carries less.
    pub fn window(&self) -> ByteCount {
        let time = self.rtt.min(self.min_rtt + QUEUE_MAX) * FLIGHT_RTTS + FLIGHT_SLACK;
        self.rate.bytes_in(time).max(ByteCount::new(WINDOW_MIN * self.datagram.as_u64()))
    }

    /// Queueing delay of the last whole round.
    pub fn queue(&self) -> Duration {
        self.queue
    }

    /// Takes an ack.
    pub fn on_ack(&mut self, report: &AckReport) {
        self.min_rtt = report.min_rtt;
        self.rounds.on_lost(report.lost);
        if let Some(rtt) = report.rtt {
            self.rounds.on_rtt(rtt);
        }
        if let Some(sample) = report.sample
            && self.rounds.on_sample(report.now, &sample, report.delivered, ROUND_MIN)
            && let Some(rtt) = self.rounds.take_rtt()
        {
            self.rtt = rtt.mean;
            self.queue = rtt.min.saturating_sub(self.min_rtt);
            self.judge(report.in_flight);
        }
    }

    /// A sender with little to say shows only which part of it arrives; one that the window holds back, the path's rate.
    fn judge(&mut self, in_flight: ByteCount) {
        let Some(span) = self.rounds.last(MEAN_ROUNDS).filter(|span| span.offered > BitRate::ZERO) else { return };
        let is_held = in_flight.as_u64() * 100 >= self.window().as_u64() * HELD;
        let of = if is_held { span.offered } else { self.rate };
        let arrives = u128::from(of.as_bps()) * u128::from(span.shown().as_bps()) / u128::from(span.offered.as_bps());
        self.delivered = self.rate.min(BitRate::from_bps(u64::try_from(arrives).unwrap_or(u64::MAX)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rate::RateSample;

    const RATE: BitRate = BitRate::from_mbps(100);
    const DATAGRAM: ByteCount = ByteCount::new(1500);
    const RTT: Duration = Duration::from_millis(20);

    fn fixed() -> FixedRate {
        FixedRate::new(RATE, DATAGRAM, Instant::ZERO, RTT)
    }

    /// Acks a round of 20 ms in each step, in which `percent` of what was sent arrived, `rtt` later. Where that is more than
    /// the path's own RTT, the window is full.
    fn run(fixed: &mut FixedRate, rounds: std::ops::Range<u64>, percent: u64, rtt: Duration) {
        run_at(fixed, RATE, rounds, percent, rtt);
    }

    /// The same of a sender that sends less than the pace.
    fn run_at(fixed: &mut FixedRate, rate: BitRate, rounds: std::ops::Range<u64>, percent: u64, rtt: Duration) {
        let sent = rate.bytes_in(RTT).as_u64();
        for round in rounds {
            let sent_at = Instant::ZERO + RTT * round as u32;
            let sample = RateSample {
                rate: rate.percent(percent),
                prior_delivered: sent * percent / 100 * round,
                app_limited: false,
                sent_at,
                sent_before: sent * round,
            };
            fixed.on_ack(&AckReport {
                now: sent_at + rtt,
                sample: Some(sample),
                rtt: Some(rtt),
                min_rtt: RTT,
                in_flight: if rtt > RTT { fixed.window() } else { ByteCount::ZERO },
                delivered: sent * percent / 100 * round,
                lost: sent * (100 - percent) / 100,
                low_acked: 0,
                low_lost: 0,
            });
        }
    }

    #[test]
    fn neither_loss_nor_delay_changes_the_pace() {
        let mut fixed = fixed();
        assert_eq!((fixed.pacing_rate(), fixed.delivery_rate()), (RATE, RATE));
        run(&mut fixed, 1..20, 70, RTT);
        run(&mut fixed, 20..40, 70, RTT * 10);
        assert_eq!(fixed.pacing_rate(), RATE);
        assert!(fixed.delivery_rate().as_bps().abs_diff(RATE.percent(70).as_bps()) < 1_000_000);
        assert_eq!(fixed.queue(), RTT * 9);
    }

    #[test]
    fn what_a_sender_with_little_to_say_shows_is_a_share_and_what_a_held_one_shows_is_a_rate() {
        let mut fixed = fixed();
        run_at(&mut fixed, RATE.percent(20), 1..10, 100, RTT);
        assert_eq!(fixed.delivery_rate(), RATE);
        run_at(&mut fixed, RATE.percent(50), 10..20, 100, RTT * 5);
        assert!(fixed.delivery_rate().as_bps().abs_diff(RATE.percent(50).as_bps()) < 1_000_000, "a full window");
    }

    #[test]
    fn the_window_holds_two_round_trips_of_the_pace_and_grows_with_a_queue_only_so_far() {
        let mut fixed = fixed();
        let of = |time: Duration| RATE.bytes_in(time * FLIGHT_RTTS + FLIGHT_SLACK);
        assert_eq!(fixed.window(), of(RTT));
        run(&mut fixed, 1..10, 100, RTT * 5);
        assert_eq!(fixed.window(), of(RTT * 5));
        run(&mut fixed, 10..20, 100, RTT * 500);
        assert_eq!(fixed.window(), of(RTT + QUEUE_MAX));
    }

    #[test]
    fn a_slow_pace_over_a_short_path_still_has_a_few_datagrams_in_flight() {
        let fixed = FixedRate::new(BitRate::from_kbps(64), DATAGRAM, Instant::ZERO, Duration::from_micros(100));
        assert_eq!(fixed.window(), ByteCount::new(WINDOW_MIN * 1500));
    }
}
