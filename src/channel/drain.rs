//! How fast the far end takes what we send: the rate by which a backlog in time is turned into one in bytes.
//!
//! Compressed bytes that cross the path at 1 Gbps become several times as many host bytes, and the far appliance or
//! its host may take those more slowly than the path brings them. The bound on the backlog is a time (the stun trap:
//! what a host believes delivered has to be so soon), hence it has to follow the slower of the two rates.

use std::time::Duration;

use crate::units::{BitRate, ByteCount, Instant};

/// A measurement is not shorter than this.
const WINDOW_MIN: Duration = Duration::from_millis(100);
/// The largest of this many measurements counts.
const WINDOWS: usize = 3;

/// Measures consumption while the backlog is what holds the writers back.
#[derive(Debug)]
pub(super) struct DrainMeter {
    since: Instant,
    consumed: u64,
    /// The backlog has been near its bound since the window began.
    limited: bool,
    rates: [Option<BitRate>; WINDOWS],
}

impl DrainMeter {
    pub(super) fn new(now: Instant) -> Self {
        DrainMeter { since: now, consumed: 0, limited: false, rates: [None; WINDOWS] }
    }

    /// Takes the state of the streams: bytes consumed so far, and the backlog as a share of its bound in percent.
    pub(super) fn observe(&mut self, now: Instant, srtt: Duration, consumed: u64, filled_percent: u64) {
        let is_limited = filled_percent >= 75;
        if !is_limited || !self.limited {
            // A window in which the writers had little to say tells nothing; the next begins here.
            (self.since, self.consumed, self.limited) = (now, consumed, is_limited);
            return;
        }
        let elapsed = now - self.since;
        if elapsed < WINDOW_MIN.max(srtt) {
            return;
        }
        self.rates.rotate_left(1);
        self.rates[WINDOWS - 1] = Some(BitRate::from_transfer(ByteCount::new(consumed - self.consumed), elapsed));
        (self.since, self.consumed) = (now, consumed);
    }

    /// The rate at which the far end drains the backlog, with room to show that it can do more; `None` before there
    /// are enough measurements.
    pub(super) fn rate(&self) -> Option<BitRate> {
        let known = self.rates.iter().all(Option::is_some);
        self.rates.iter().flatten().max().filter(|_| known).map(|rate| rate.percent(125))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(10);

    #[test]
    fn a_slow_far_end_is_measured_while_it_is_what_limits() {
        let mut meter = DrainMeter::new(Instant::ZERO);
        for tick in 0..100 {
            meter.observe(Instant::from_millis(tick * 10), RTT, tick * 12_500, 100);
        }
        assert_eq!(meter.rate(), Some(BitRate::from_kbps(12_500)));
    }

    #[test]
    fn a_writer_with_little_to_say_teaches_nothing() {
        let mut meter = DrainMeter::new(Instant::ZERO);
        for tick in 0..100 {
            meter.observe(Instant::from_millis(tick * 10), RTT, tick * 10, if tick % 5 == 0 { 0 } else { 90 });
        }
        assert_eq!(meter.rate(), None);
    }
}
