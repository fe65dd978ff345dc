//! One direction of the emulated path, as the simulator uses it.

use std::time::Duration;

use longhaul::units::{BitRate, ByteCount, Instant};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

/// Bytes that a UDP datagram takes on the line beside its payload: Ethernet 14, IPv4 20, UDP 8.
pub const DATAGRAM_OVERHEAD: usize = 42;

/// Both directions of a path.
#[derive(Clone, Debug)]
pub struct PathSpec {
    /// What tables and failures call it.
    pub name: String,
    /// Line rate, Ethernet headers included.
    pub rate: BitRate,
    /// Propagation, there and back.
    pub rtt: Duration,
    /// Each packet's one-way delay varies by up to this much either way, on its own: packets overtake each other.
    pub jitter: Duration,
    /// Share of packets lost (0..1).
    pub loss: f64,
    /// Mean number of packets lost together; 1: each on its own.
    pub burst: f64,
    /// Drop-tail queue.
    pub queue: ByteCount,
}

impl PathSpec {
    /// A path with a queue of `queue_bdp` x BDP, but no less than 100 full packets.
    pub fn new(rate: BitRate, rtt: Duration, queue_bdp: f64) -> Self {
        let bdp = rate.bytes_in(rtt).as_u64() as f64;
        PathSpec {
            name: format!("{rate}, {rtt:?}"),
            rate,
            rtt,
            jitter: Duration::ZERO,
            loss: 0.0,
            burst: 1.0,
            queue: ByteCount::new(((bdp * queue_bdp) as u64).max(151_400)),
        }
    }

    /// With this loss, in per cent.
    pub fn loss_percent(mut self, percent: f64) -> Self {
        self.loss = percent / 100.0;
        self
    }

    /// With this jitter.
    pub fn jitter(mut self, jitter: Duration) -> Self {
        self.jitter = jitter;
        self
    }

    /// With losses that come in bursts of this mean length.
    pub fn burst(mut self, burst: f64) -> Self {
        self.burst = burst;
        self
    }

    /// Called so.
    pub fn named(mut self, name: &str) -> Self {
        self.name = name.to_owned();
        self
    }

    /// The five links of the report, latency as round trip.
    pub fn report() -> Vec<PathSpec> {
        let gbps = BitRate::from_mbps(1000);
        let ms = Duration::from_millis;
        vec![
            PathSpec::new(gbps, Duration::ZERO, 1.0).named("baseline"),
            PathSpec::new(gbps, ms(5), 1.0).loss_percent(0.001).named("sonet"),
            PathSpec::new(gbps, ms(5), 1.0).loss_percent(0.005).named("metro-low"),
            PathSpec::new(gbps, ms(12), 1.0).loss_percent(0.1).named("metro"),
            PathSpec::new(BitRate::from_mbps(100), ms(25), 1.0).loss_percent(0.05).jitter(ms(3)).named("mpls"),
        ]
    }

    /// Goodput that headers and loss leave: 1440 of 1514 bytes, less the lost share.
    pub fn ceiling(&self) -> BitRate {
        BitRate::from_bps((self.rate.as_bps() as f64 * 1440.0 / 1514.0 * (1.0 - self.loss)) as u64)
    }
}

/// Counters of one direction.
#[derive(Clone, Copy, Debug, Default)]
pub struct LineCounters {
    /// Packets offered.
    pub offered: u64,
    /// Lost on the way.
    pub lost: u64,
    /// Dropped because the queue was full.
    pub queue_dropped: u64,
    /// Dropped because the path was down.
    pub outage_dropped: u64,
}

/// One direction.
#[derive(Debug)]
pub struct Line {
    rate: BitRate,
    delay: Duration,
    jitter: Duration,
    loss: f64,
    burst: f64,
    in_burst: bool,
    queue: ByteCount,
    free_at: Instant,
    outages: Vec<(Instant, Instant)>,
    rng: Pcg64Mcg,
    /// Counters.
    pub counters: LineCounters,
}

impl Line {
    /// One direction of `spec`.
    pub fn new(spec: &PathSpec, seed: u64) -> Self {
        Line {
            rate: spec.rate,
            delay: spec.rtt / 2,
            jitter: spec.jitter,
            loss: spec.loss,
            burst: spec.burst.max(1.0),
            in_burst: false,
            queue: spec.queue,
            free_at: Instant::ZERO,
            outages: Vec::new(),
            rng: Pcg64Mcg::seed_from_u64(seed),
            counters: LineCounters::default(),
        }
    }

    /// Everything offered in this time is lost.
    pub fn add_outage(&mut self, from: Instant, until: Instant) {
        self.outages.push((from, until));
    }

    /// Another line rate from now on.
    pub fn set_rate(&mut self, rate: BitRate) {
        self.rate = rate;
    }

    /// How long a packet that arrives at `now` waits.
    pub fn queue_delay(&self, now: Instant) -> Duration {
        self.free_at - now
    }

    /// Bytes that wait.
    pub fn queued(&self, now: Instant) -> ByteCount {
        self.rate.bytes_in(self.queue_delay(now))
    }

    /// Takes a packet of `wire_len` bytes, Ethernet header included; when it arrives, unless it is lost.
    pub fn offer(&mut self, now: Instant, wire_len: usize) -> Option<Instant> {
        self.counters.offered += 1;
        let len = ByteCount::from(wire_len);
        if self.queued(now) + len > self.queue + ByteCount::new(1514) {
            self.counters.queue_dropped += 1;
            return None;
        }
        self.free_at = self.free_at.max(now) + self.rate.time_for(len);
        if self.outages.iter().any(|(from, until)| (*from..*until).contains(&now)) {
            self.counters.outage_dropped += 1;
            return None;
        }
        if self.draw_loss() {
            self.counters.lost += 1;
            return None;
        }
        let mut arrival = self.free_at + self.delay;
        if !self.jitter.is_zero() {
            let span = 2 * self.jitter.as_nanos() as u64;
            let late = Duration::from_nanos(self.rng.random_range(0..=span));
            arrival = (arrival + late - self.jitter).max(self.free_at);
        }
        Some(arrival)
    }

    /// Gilbert's two states: in a burst everything is lost; its mean length and the long-run share are as specified.
    fn draw_loss(&mut self) -> bool {
        if self.loss <= 0.0 {
            return false;
        }
        let stay = 1.0 - 1.0 / self.burst;
        let enter = if self.burst > 1.0 { self.loss / (self.burst * (1.0 - self.loss)) } else { self.loss };
        self.in_burst = self.rng.random_bool(if self.in_burst && self.burst > 1.0 { stay } else { enter.min(1.0) });
        self.in_burst
    }
}
