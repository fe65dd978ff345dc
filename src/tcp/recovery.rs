//! When to tell smoltcp that a segment was lost: selective acknowledgements, partial acknowledgements, tail loss.
//!
//! smoltcp 0.14 retransmits after three duplicate ACKs with an unchanged window or after a timeout of at least one
//! second; it ignores SACK blocks and partial acknowledgements. Behind a kernel that merges segments (GRO) a loss
//! often yields one or two duplicate ACKs, each with another window, so that every loss would cost a second. This
//! room's endpoint reads the host's ACKs itself and, when they prove a loss, hands smoltcp the duplicate ACKs it waits for.

use super::sequence::at_or_after;
use crate::units::Instant;
use std::time::Duration;

/// Segments' worth of selectively acknowledged bytes above a hole that prove it lost (RFC 6675 section 4, DupThresh).
const DUP_THRESH: u32 = 3;

/// How long the oldest byte may stay unacknowledged without progress before its segment is sent again (a tail loss
/// probe, RFC 8985 section 7.2). Above the delayed ACK of every common host (200 ms).
pub(super) const PROBE_TIMEOUT: Duration = Duration::from_millis(250);

/// Loss detection of one direction.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Recovery {
    /// Where the recovery that is under way ends: behind what was sent when it began.
    recovery_end: Option<u32>,
    /// Behind what the last retransmission covered.
    covered_to: Option<u32>,
    /// Last progress, or the last byte sent into an empty pipe.
    progress_at: Option<Instant>,
    /// The probe for this lack of progress has left.
    probed: bool,
}

impl Recovery {
    /// Takes an acknowledgement: `sacked` bytes above `ack` are selectively acknowledged, `sent_to` is behind the
    /// highest number sent. Says whether the segment at `ack` is lost and not retransmitted yet; that retransmission
    /// will cover `covers` bytes.
    pub(super) fn on_ack(&mut self, ack: u32, sacked: u32, sent_to: u32, mss: u16, covers: u32) -> bool {
        if self.recovery_end.is_some_and(|end| at_or_after(ack, end)) {
            *self = Recovery { progress_at: self.progress_at, ..Recovery::default() };
        }
        if sacked == 0 || ack == sent_to {
            return false;
        }
        let proven = sacked >= DUP_THRESH * u32::from(mss);
        let is_covered = self.covered_to.is_some_and(|to| !at_or_after(ack, to));
        if is_covered || !(proven || self.recovery_end.is_some()) {
            return false;
        }
        self.recovery_end.get_or_insert(sent_to);
        self.covered_to = Some(ack.wrapping_add(covers));
        true
    }

    /// Notes that acknowledgements advanced or nothing is in flight (`in_flight` false).
    pub(super) fn on_progress(&mut self, now: Instant, in_flight: bool) {
        self.progress_at = in_flight.then_some(now);
        self.probed = false;
    }

    /// Notes that something is in flight.
    pub(super) fn on_in_flight(&mut self, now: Instant) {
        self.progress_at.get_or_insert(now);
    }

    /// When a probe is due.
    pub(super) fn probe_at(&self) -> Option<Instant> {
        self.progress_at.filter(|_| !self.probed).map(|at| at + PROBE_TIMEOUT)
    }

    /// Notes that the probe leaves.
    pub(super) fn on_probe(&mut self) {
        self.probed = true;
    }
}

/// Bytes above `ack` that the SACK option (kind 5, RFC 2018) in `options` acknowledges. Zero for a malformed option.
pub(super) fn sacked_above(mut options: &[u8], ack: u32) -> u32 {
    let mut sum = 0u32;
    while let Some(&kind) = options.first() {
        let len = match kind {
            0 => break,
            1 => 1,
            _ => options.get(1).map_or(0, |&len| usize::from(len)).max(2),
        };
        let Some(option) = options.get(..len) else { break };
        if kind == 5 {
            for block in option[2..].chunks_exact(8) {
                let number = |at: usize| u32::from_be_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
                let (left, right) = (number(0), number(4));
                // A block below `ack` reports a duplicate (RFC 2883).
                if at_or_after(left, ack) && at_or_after(right, left) {
                    sum = sum.saturating_add(right.wrapping_sub(left));
                }
            }
        }
        options = &options[len..];
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    const MSS: u16 = 1000;

    #[test]
    fn three_segments_above_a_hole_prove_it_lost_once() {
        let mut recovery = Recovery::default();
        assert!(!recovery.on_ack(100, 2999, 100_000, MSS, 64_000));
        assert!(recovery.on_ack(100, 3000, 100_000, MSS, 64_000));
        assert!(!recovery.on_ack(100, 50_000, 100_000, MSS, 64_000), "its retransmission is under way");
    }

    #[test]
    fn a_partial_acknowledgement_beyond_the_retransmission_shows_the_next_hole() {
        let mut recovery = Recovery::default();
        assert!(recovery.on_ack(0, 9000, 200_000, MSS, 64_000));
        assert!(!recovery.on_ack(30_000, 500, 200_000, MSS, 64_000), "covered by the first retransmission");
        assert!(recovery.on_ack(70_000, 500, 200_000, MSS, 64_000), "one block is enough during recovery");
        assert!(!recovery.on_ack(200_000, 0, 250_000, MSS, 64_000));
        assert!(!recovery.on_ack(210_000, 500, 250_000, MSS, 64_000), "recovery has ended");
    }

    #[test]
    fn a_probe_is_due_once_per_lack_of_progress() {
        let mut recovery = Recovery::default();
        assert_eq!(recovery.probe_at(), None);
        recovery.on_in_flight(Instant::from_millis(5));
        recovery.on_in_flight(Instant::from_millis(6));
        assert_eq!(recovery.probe_at(), Some(Instant::from_millis(255)));
        recovery.on_probe();
        assert_eq!(recovery.probe_at(), None);
        recovery.on_progress(Instant::from_millis(300), true);
        assert_eq!(recovery.probe_at(), Some(Instant::from_millis(550)));
        recovery.on_progress(Instant::from_millis(301), false);
        assert_eq!(recovery.probe_at(), None);
    }

    #[test]
    fn blocks_are_summed_and_nonsense_is_not() {
        let block = |left: u32, right: u32| [left.to_be_bytes(), right.to_be_bytes()].concat();
        let mut options = vec![1, 1, 5, 18];
        options.extend(block(2000, 3000));
        options.extend(block(500, 900));
        assert_eq!(sacked_above(&options, 1000), 1000);
        assert_eq!(sacked_above(&options[..10], 1000), 0);
        assert_eq!(sacked_above(&[5, 0, 5, 1, 5], 1000), 0);
        assert_eq!(sacked_above(&[], 1000), 0);
    }
}
