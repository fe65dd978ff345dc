//! Wake-up moderation: under bulk load the loop looks at its sources once per pause instead of at each arrival.
//!
//! A wake-up costs the waker and the woken tens of microseconds, more in a virtual machine, whatever it brings. With
//! bytes pouring in, what arrives within a pause is better taken at once: longer segments to the hosts, fewer acks,
//! fewer rounds. It is what network cards do (`ethtool -C … rx-usecs`). Deadlines of the engine are kept all the same,
//! and whoever exchanges little is served at once. So is whoever is only forwarded: a wire does not wait.

use std::time::Duration;

use crate::units::Instant;

/// From one wake-up to the next under bulk load. Adds half of it to a round trip, on average, and only then.
const PAUSE: Duration = Duration::from_millis(1);

/// Bulk load: more bytes than this between two looks. Single messages of interactive applications are shorter.
const BULK: usize = 16 * 1024;

/// Decides when to look again.
#[derive(Debug, Default)]
pub(super) struct Moderation {
    woke_at: Instant,
    /// Bytes that came in or left since.
    bytes: usize,
    /// A frame passed through since.
    is_forwarding: bool,
}

impl Moderation {
    /// Notes bytes that came in or left.
    pub(super) fn on_bytes(&mut self, bytes: usize) {
        self.bytes += bytes;
    }

    /// Notes a frame that passes through: who sends such frames may wait for their answers.
    pub(super) fn on_forwarded(&mut self) {
        self.is_forwarding = true;
    }

    /// Called when there is nothing left to do at `now`: until when to leave the sources alone, if at all. `deadline`:
    /// the engine's.
    pub(super) fn pause(&mut self, now: Instant, deadline: Option<Instant>) -> Option<Instant> {
        let is_forwarding = std::mem::take(&mut self.is_forwarding);
        if std::mem::take(&mut self.bytes) < BULK || is_forwarding {
            return None;
        }
        let until = self.woke_at + PAUSE;
        let until = deadline.map_or(until, |deadline| deadline.min(until));
        (until > now).then_some(until)
    }

    /// Notes that the loop looks at its sources after a wait or a pause.
    pub(super) fn on_woken(&mut self, now: Instant) {
        self.woke_at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Instant = Instant::from_millis(100);

    #[test]
    fn bulk_load_is_looked_at_once_per_pause() {
        let mut moderation = Moderation::default();
        moderation.on_woken(T);
        moderation.on_bytes(BULK);
        let now = T + PAUSE / 4;
        assert_eq!(moderation.pause(now, None), Some(T + PAUSE));
        assert_eq!(moderation.pause(now, None), None, "nothing came since");
        moderation.on_bytes(BULK);
        assert_eq!(moderation.pause(T + PAUSE, None), None, "the rounds took as long as a pause");
    }

    #[test]
    fn few_bytes_are_served_at_once() {
        let mut moderation = Moderation::default();
        moderation.on_woken(T);
        moderation.on_bytes(1500);
        assert_eq!(moderation.pause(T, None), None);
        moderation.on_bytes(BULK - 1500);
        assert_eq!(moderation.pause(T, None), None, "each look counts by itself");
    }

    #[test]
    fn what_is_forwarded_does_not_wait_for_more() {
        let mut moderation = Moderation::default();
        moderation.on_woken(T);
        moderation.on_bytes(BULK);
        moderation.on_forwarded();
        assert_eq!(moderation.pause(T, None), None);
        moderation.on_bytes(BULK);
        assert_eq!(moderation.pause(T, None), Some(T + PAUSE));
    }

    #[test]
    fn a_deadline_of_the_engine_ends_the_pause() {
        let mut moderation = Moderation::default();
        moderation.on_woken(T);
        moderation.on_bytes(BULK);
        assert_eq!(moderation.pause(T, Some(T + PAUSE / 2)), Some(T + PAUSE / 2));
        moderation.on_bytes(BULK);
        assert_eq!(moderation.pause(T, Some(T + PAUSE * 2)), Some(T + PAUSE));
        moderation.on_bytes(BULK);
        assert_eq!(moderation.pause(T, Some(T)), None);
    }
}
