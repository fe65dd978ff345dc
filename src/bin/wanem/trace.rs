//! What a direction's queue held in the course of time, in bins of one length.

use std::time::Duration;

use longhaul::units::Instant;
use longhaul::wan::Link;
use serde::Serialize;

/// Bins kept at most, the rest of the run is not recorded: a quarter of an hour at 5 ms.
const BINS_MAX: usize = 180_000;

/// A recorder for one direction.
#[derive(Debug)]
pub struct Trace {
    bin: Duration,
    /// End of the bin at work.
    until: Instant,
    least: u64,
    most: u64,
    record: QueueTrace,
}

/// Least and most bytes of the queue in each finished bin, from the emulator's start on.
#[derive(Clone, Debug, Default, Serialize)]
pub struct QueueTrace {
    bin_s: f64,
    queue_min_bytes: Vec<u64>,
    queue_max_bytes: Vec<u64>,
}

impl Trace {
    /// A recorder whose first bin begins at `start`; `bin` is longer than zero.
    pub fn new(bin: Duration, start: Instant) -> Self {
        let record = QueueTrace { bin_s: bin.as_secs_f64(), ..QueueTrace::default() };
        Trace { bin, until: start + bin, least: 0, most: 0, record }
    }

    /// Notes what the queue holds at `now`, before or after something was offered; not before the last call's.
    pub fn observe(&mut self, link: &mut Link, now: Instant) {
        while self.until <= now && self.record.queue_max_bytes.len() < BINS_MAX {
            // In between it only drained.
            let left = link.backlog(self.until).as_u64();
            self.record.queue_min_bytes.push(self.least.min(left));
            self.record.queue_max_bytes.push(self.most);
            (self.least, self.most) = (left, left);
            self.until += self.bin;
        }
        let held = link.backlog(now).as_u64();
        self.least = self.least.min(held);
        self.most = self.most.max(held);
    }

    /// The finished bins.
    pub fn record(&self) -> &QueueTrace {
        &self.record
    }
}

#[cfg(test)]
mod tests {
    use longhaul::units::BitRate;
    use longhaul::wan::LinkConfig;

    use super::*;

    #[test]
    fn bins_tell_the_extremes_and_the_draining_in_silence() {
        // 8 Mbps: 1000 bytes are a millisecond.
        let config = LinkConfig::new(BitRate::from_mbps(8), Duration::ZERO);
        let mut link = Link::new(config, 1).unwrap();
        let mut trace = Trace::new(Duration::from_millis(2), Instant::ZERO);
        let mut offer = |trace: &mut Trace, ms: u64, count: usize| {
            let now = Instant::from_millis(ms);
            trace.observe(&mut link, now);
            for _ in 0..count {
                link.offer(now, 1000);
            }
            trace.observe(&mut link, now);
        };
        offer(&mut trace, 1, 5);
        offer(&mut trace, 9, 0);
        // 5000 bytes at 1 ms; 4000 are left at 2 ms, 2000 at 4 ms, none at 6 ms.
        assert_eq!(trace.record().queue_max_bytes, [5000, 4000, 2000, 0]);
        assert_eq!(trace.record().queue_min_bytes, [0, 2000, 0, 0]);
    }
}
