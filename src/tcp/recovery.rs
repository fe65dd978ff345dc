//! When to tell smoltcp that a segment was lost: selective acknowledgements, partial acknowledgements, tail loss.
//!
//! smoltcp 0.14 retransmits after three duplicate ACKs with an unchanged window or after a timeout of at least one
//! second; it ignores SACK blocks and partial acknowledgements. Behind a kernel that merges segments (GRO) a loss
//! often yields one or two duplicate ACKs, each with another window, so that every loss would cost a second. This
//! room's endpoint reads the host's ACKs itself and, when they prove a loss, hands smoltcp the duplicate ACKs it waits
//! for.

use super::sequence::at_or_after;
use crate::units::Instant;
use std::time::Duration;

/// Segments' worth of selectively acknowledged bytes above a hole that prove it lost (RFC 6675 section 4, DupThresh).
const DUP_THRESH: u32 = 3;

/// How long the oldest byte may stay unacknowledged without progress before its segment is sent again (a tail loss
/// probe, RFC 8985 section 7.2). Above the delayed ACK of every common host (200 ms).
pub(super) const PROBE_TIMEOUT: Duration = Duration::from_millis(250);

/// Least time without progress that proves a retransmission lost: above the jitter of a busy host's scheduler.
const RETRY_TIMEOUT_MIN: Duration = Duration::from_millis(10);

/// Round trips without progress that prove a retransmission lost.
const RETRY_ROUND_TRIPS: u32 = 4;

/// Retries with doubled patience; then smoltcp's own timeout (a second or more) is left to decide.
const RETRIES_MAX: u32 = 5;

/// Loss detection of one direction.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Recovery {
    /// Where the recovery that is under way ends: behind what was sent when it began.
    recovery_end: Option<u32>,
    /// Behind what the last retransmission covered.
    covered_to: Option<u32>,
    /// Last progress, or the last byte sent into an empty pipe.
    progress_at: Option<Instant>,
    /// Probes and retries since the last progress.
    attempts: u32,
    /// A number whose acknowledgement is awaited, and when it was sent (Karn: not during recovery).
    timed: Option<(u32, Instant)>,
    /// Smoothed round trip (RFC 6298 section 2).
    srtt: Option<Duration>,
}

impl Recovery {
    /// Takes an acknowledgement: `sacked` bytes above `ack` are selectively acknowledged, `sent_to` is behind the
    /// highest number sent. Says whether the segment at `ack` is lost and not retransmitted yet; that retransmission
    /// will cover `covers` bytes.
    pub(super) fn on_ack(&mut self, ack: u32, sacked: u32, sent_to: u32, mss: u16, covers: u32) -> bool {
        if self.recovery_end.is_some_and(|end| at_or_after(ack, end)) {
            self.recovery_end = None;
            self.covered_to = None;
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
        self.on_retransmit(ack, covers);
        true
    }

    fn on_retransmit(&mut self, ack: u32, covers: u32) {
        self.covered_to = Some(ack.wrapping_add(covers));
        self.timed = None;
    }

    /// Notes that acknowledgements advanced to `ack`; nothing is left in flight unless `in_flight`.
    pub(super) fn on_progress(&mut self, now: Instant, ack: u32, in_flight: bool) {
        if let Some((_, sent_at)) = self.timed.filter(|&(number, _)| at_or_after(ack, number)) {
            let sample = now - sent_at;
            self.srtt = Some(self.srtt.map_or(sample, |srtt| (srtt * 7 + sample) / 8));
            self.timed = None;
        }
        self.progress_at = in_flight.then_some(now);
        self.attempts = 0;
    }

    /// Notes that everything up to `sent_to` is sent and not all of it acknowledged.
    pub(super) fn on_in_flight(&mut self, now: Instant, sent_to: u32) {
        self.progress_at.get_or_insert(now);
        if self.recovery_end.is_none() && self.attempts == 0 {
            self.timed.get_or_insert((sent_to, now));
        }
    }

    /// When the oldest segment is to be sent again: once as a probe, a few times during a recovery.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        let patience = if self.recovery_end.is_none() {
            (self.attempts == 0).then_some(PROBE_TIMEOUT)
        } else {
            let round_trips = self.srtt.unwrap_or(PROBE_TIMEOUT) * RETRY_ROUND_TRIPS;
            // Patience doubles, and the attempts add up: 1, 2, 4, ... after the last progress.
            (self.attempts < RETRIES_MAX)
                .then(|| round_trips.clamp(RETRY_TIMEOUT_MIN, PROBE_TIMEOUT) * ((2 << self.attempts) - 1))
        };
        self.progress_at.zip(patience).map(|(at, patience)| at + patience)
    }

    /// Notes that the oldest segment, at `ack`, is sent again because [`Recovery::retry_at`] has passed.
    pub(super) fn on_retry(&mut self, ack: u32, covers: u32) {
        self.attempts += 1;
        self.on_retransmit(ack, covers);
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
        assert_eq!(recovery.retry_at(), None);
        recovery.on_in_flight(Instant::from_millis(5), 10);
        recovery.on_in_flight(Instant::from_millis(6), 20);
        assert_eq!(recovery.retry_at(), Some(Instant::from_millis(255)));
        recovery.on_retry(0, 10);
        assert_eq!(recovery.retry_at(), None);
        recovery.on_progress(Instant::from_millis(300), 10, true);
        assert_eq!(recovery.retry_at(), Some(Instant::from_millis(550)));
        recovery.on_progress(Instant::from_millis(301), 20, false);
        assert_eq!(recovery.retry_at(), None);
    }

    #[test]
    fn a_lost_retransmission_is_retried_after_round_trips_with_growing_patience() {
        let mut recovery = Recovery::default();
        recovery.on_in_flight(Instant::from_millis(0), 10);
        recovery.on_progress(Instant::from_millis(5), 10, true);
        assert!(recovery.on_ack(10, 3000, 100_000, MSS, 64_000));
        let mut waits = Vec::new();
        while let Some(at) = recovery.retry_at() {
            waits.push((at - Instant::from_millis(5)).as_millis());
            recovery.on_retry(10, 64_000);
        }
        assert_eq!(waits, [20, 60, 140, 300, 620]);
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
