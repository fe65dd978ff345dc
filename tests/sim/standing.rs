//! The queue that stands, told apart from what comes and goes.

use std::time::Duration;

use longhaul::units::Instant;

/// Finds the largest queue that stands: probes and bursts come and go within an RTT, a queue that does not is a standing
/// one.
pub struct Standing {
    window: Duration,
    since: Instant,
    least: Duration,
    /// The largest so far.
    pub worst: Duration,
}

impl Standing {
    /// Over a path with this RTT.
    pub fn new(rtt: Duration) -> Self {
        let window = rtt.max(Duration::from_millis(50));
        Standing { window, since: Instant::ZERO, least: Duration::MAX, worst: Duration::ZERO }
    }

    /// A datagram meets a queue of this length.
    pub fn on_wait(&mut self, now: Instant, wait: Duration) {
        if now - self.since >= self.window {
            if self.least < Duration::MAX {
                self.worst = self.worst.max(self.least);
            }
            (self.since, self.least) = (now, Duration::MAX);
        }
        self.least = self.least.min(wait);
    }
}
