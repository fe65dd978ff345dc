//! Packet numbers received, and when to acknowledge them.

use std::ops::Range;
use std::time::Duration;

use super::ranges::RangeSet;
use crate::units::Instant;

/// An ack waits at most this long (RFC 9002's max_ack_delay; small, so that the peer's RTT samples are dense).
pub(super) const ACK_DELAY_MAX: Duration = Duration::from_millis(1);
/// This many datagrams are acknowledged at once: about one segmentation-offload batch.
const ACK_EVERY: u32 = 44;
/// Ranges remembered. Each was reported several times by the time it falls out.
const RANGES_MAX: usize = 2048;

/// What has arrived.
#[derive(Debug, Default)]
pub(super) struct Received {
    numbers: RangeSet,
    largest: Option<u64>,
    largest_at: Instant,
    unacked: u32,
    deadline: Option<Instant>,
    forgotten: u64,
}

impl Received {
    /// Notes a packet that opened and was not a replay. `arrived`: when it reached this machine.
    pub(super) fn on_packet(&mut self, (now, arrived): (Instant, Instant), number: u64, eliciting: bool) {
        let orderly = self.largest.is_none_or(|largest| number == largest + 1);
        if self.largest.is_none_or(|largest| number > largest) {
            self.largest = Some(number);
            self.largest_at = arrived;
        }
        if number >= self.forgotten {
            self.numbers.insert(number..number + 1);
            if self.numbers.len() > RANGES_MAX {
                self.numbers.pop_first();
            }
        }
        if !eliciting {
            return;
        }
        self.unacked += 1;
        // A gap or its filling is news for the peer's loss detection; a batch of them is still one ack.
        let due = if !orderly || self.unacked >= ACK_EVERY { now } else { now + ACK_DELAY_MAX };
        self.deadline = Some(self.deadline.map_or(due, |deadline| deadline.min(due)));
    }

    /// The peer has settled everything below.
    pub(super) fn on_forget(&mut self, below: u64) {
        if below > self.forgotten && self.largest.is_some_and(|largest| below <= largest) {
            self.forgotten = below;
            self.numbers.remove_below(below);
        }
    }

    /// When an ack has to leave.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// The number the next packet of an orderly path has.
    pub(super) fn next_expected(&self) -> u64 {
        self.largest.map_or(0, |largest| largest + 1)
    }

    /// Whether there is anything new to acknowledge, due or not: it rides along with whatever leaves.
    pub(super) fn has_news(&self) -> bool {
        self.deadline.is_some()
    }

    /// The ranges from the highest down, and for how long the newest was held. The ack counts as sent.
    pub(super) fn acknowledge(&mut self, now: Instant) -> (Duration, impl Iterator<Item = Range<u64>> + '_) {
        self.unacked = 0;
        self.deadline = None;
        (now - self.largest_at, self.numbers.iter_descending())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acks_wait_for_a_batch_or_the_delay() {
        let mut received = Received::default();
        let now = Instant::from_millis(5);
        received.on_packet((now, now), 0, true);
        assert_eq!(received.deadline(), Some(now + ACK_DELAY_MAX));
        for number in 1..u64::from(ACK_EVERY) {
            received.on_packet((now, now), number, true);
        }
        assert_eq!(received.deadline(), Some(now));
    }

    #[test]
    fn a_gap_is_acknowledged_at_once_and_a_pure_ack_never() {
        let mut received = Received::default();
        received.on_packet((Instant::ZERO, Instant::ZERO), 0, false);
        assert_eq!(received.deadline(), None);
        received.on_packet((Instant::from_millis(1), Instant::from_millis(1)), 2, true);
        assert_eq!(received.deadline(), Some(Instant::from_millis(1)));
        let (delay, ranges) = received.acknowledge(Instant::from_millis(2));
        assert_eq!((delay, ranges.collect::<Vec<_>>()), (Duration::from_millis(1), vec![2..3, 0..1]));
        assert!(!received.has_news());
    }

    #[test]
    fn what_the_peer_settled_is_reported_no_more_and_memory_is_bounded() {
        let mut received = Received::default();
        for number in 0..3 * RANGES_MAX as u64 {
            received.on_packet((Instant::ZERO, Instant::ZERO), number * 2, true);
        }
        assert_eq!(received.numbers.len(), RANGES_MAX);
        received.on_forget(6 * RANGES_MAX as u64 - 3);
        assert_eq!(received.numbers.len(), 1);
        received.on_forget(u64::MAX);
        assert_eq!(received.numbers.len(), 1, "beyond what was received: nonsense");
    }

    #[test]
    fn the_ack_delay_counts_from_the_arrival_and_the_deadline_from_the_moment_it_is_known() {
        let mut received = Received::default();
        let (arrived, now) = (Instant::from_millis(5), Instant::from_millis(8));
        received.on_packet((now, arrived), 0, true);
        assert_eq!(received.deadline(), Some(now + ACK_DELAY_MAX));
        assert_eq!(received.acknowledge(now).0, now - arrived);
    }
}
