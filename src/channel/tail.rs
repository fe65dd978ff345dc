//! Copies of a burst's last datagrams, where their loss would cost round trips.
//!
//! A loss in the middle of a burst is repaired while the rest still leaves. The last datagrams have nothing behind them:
//! a lost one waits for a probe timeout, and one that was sent again and is lost again costs one more round trip. When
//! the send queue has run empty, line time is free; so on a long and lossy path these are sent once more, unasked:
//! first what was a retransmission already, then the very last datagrams. Their bytes stay below [`SHARE_PERCENT`] of
//! all, and where the path loses nothing to speak of or is short, there are none at all.

use std::time::Duration;

use smallvec::SmallVec;

use super::sent::SentFrame;
use crate::units::Instant;

/// Copies and repair symbols are this share of the stream bytes sent at most, in percent.
const SHARE_PERCENT: u64 = 2;
/// Share that a pause saves up for copies at most, in bytes.
const SAVED_MAX: u64 = 32 * 1024;
/// The same for repair symbols.
const SAVED_FOR_SYMBOLS_MAX: u64 = 64 * 1024;
/// Below this RTT a probe is quick enough.
const RTT_MIN: Duration = Duration::from_millis(20);
/// Loss below this share, in permille, is not worth a copy.
const LOSS_MIN_PERMILLE: u64 = 1;
/// Losses that make a share credible.
const LOSSES_MIN: u64 = 3;
/// The loss measurement forgets half of itself each time it has seen this many datagrams.
const LOSS_WINDOW: u64 = 4096;
/// Frames that may wait to be copied.
const WAITING_MAX: usize = 24;
/// Of those, ones that were sent for the first time: the end of the burst.
const FIRST_TIME_MAX: usize = 2;
/// Copies leave this part of the RTT after the queue ran empty: not within the same burst of losses, and not in a short
/// pause of a busy sender.
const DELAY_DIVISOR: u32 = 16;

/// What is lost, but for what a queue lost.
#[derive(Debug, Default)]
struct LossMeter {
    settled: u64,
    lost: u64,
}

impl LossMeter {
    fn on_settled(&mut self, lost: bool) {
        self.settled += 1;
        self.lost += u64::from(lost);
        if self.settled >= LOSS_WINDOW {
            (self.settled, self.lost) = (self.settled / 2, self.lost / 2);
        }
    }

    /// Whether that is enough to do something about.
    fn counts(&self) -> bool {
        self.lost >= LOSSES_MIN && self.lost * 1000 >= self.settled * LOSS_MIN_PERMILLE
    }
}

/// What the last datagrams carried, and what may be sent again of it.
#[derive(Debug)]
pub(super) struct TailCopies {
    enabled: bool,
    /// Hundredths of bytes that copies may take, and symbols: of one share, but a pause saves up less for copies.
    budget: u64,
    budget_for_symbols: u64,
    own: LossMeter,
    /// Sent again already, oldest first.
    again: SmallVec<[SentFrame; WAITING_MAX]>,
    /// Sent once, oldest first.
    once: SmallVec<[SentFrame; FIRST_TIME_MAX]>,
    /// When the last datagram with stream bytes left.
    sent_at: Instant,
    copied: u64,
}

impl TailCopies {
    pub(super) fn new(now: Instant, enabled: bool) -> Self {
        TailCopies {
            enabled,
            budget: 0,
            budget_for_symbols: 0,
            own: LossMeter::default(),
            again: SmallVec::new(),
            once: SmallVec::new(),
            sent_at: now,
            copied: 0,
        }
    }

    /// Stream bytes copied so far.
    pub(super) fn copied(&self) -> u64 {
        self.copied
    }

    /// Stream bytes left. Copies themselves are not told.
    pub(super) fn on_sent(&mut self, now: Instant, frame: SentFrame, retransmission: bool) {
        let SentFrame::Stream { len, .. } = frame else { return };
        self.sent_at = now;
        let share = u64::from(len) * SHARE_PERCENT;
        self.budget = (self.budget + share).min(SAVED_MAX * 100);
        self.budget_for_symbols = (self.budget_for_symbols + share).min(SAVED_FOR_SYMBOLS_MAX * 100);
        if retransmission {
            if self.again.len() < WAITING_MAX {
                self.again.push(frame);
            }
        } else {
            if self.once.len() == FIRST_TIME_MAX {
                self.once.remove(0);
            }
            self.once.push(frame);
        }
    }

    /// A datagram has arrived, or was lost. `own_loss`: its queue is not what the path loses by now.
    pub(super) fn on_settled(&mut self, lost: bool, own_loss: bool) {
        if own_loss {
            self.own.on_settled(lost);
        }
    }

    /// The path is another: what it loses is not known.
    pub(super) fn on_new_path(&mut self) {
        self.own = LossMeter::default();
    }

    /// Whether the end of a burst is worth symbols on such a path.
    pub(super) fn pays_symbols(&self, srtt: Duration) -> bool {
        srtt >= RTT_MIN && self.own.counts()
    }

    /// When the copies are due, if the queue is and stays empty.
    pub(super) fn poll_timeout(&self, srtt: Duration) -> Option<Instant> {
        let waiting = !self.again.is_empty() || !self.once.is_empty();
        (waiting && self.enabled && srtt >= RTT_MIN && self.own.counts()).then(|| self.sent_at + self.delay(srtt))
    }

    /// How long the queue has been empty when the end of a burst is protected.
    pub(super) fn delay(&self, srtt: Duration) -> Duration {
        srtt / DELAY_DIVISOR
    }

    /// The share of datagrams that the path loses.
    pub(super) fn loss_share(&self) -> f64 {
        self.own.lost as f64 / self.own.settled.max(1) as f64
    }

    /// Bytes that symbols may take.
    pub(super) fn affordable(&self) -> u64 {
        self.budget_for_symbols / 100
    }

    /// So many bytes of the share went into repair symbols.
    pub(super) fn spend(&mut self, bytes: u64) {
        self.spend_hundredths(bytes * 100);
    }

    fn spend_hundredths(&mut self, cost: u64) {
        self.budget = self.budget.saturating_sub(cost);
        self.budget_for_symbols = self.budget_for_symbols.saturating_sub(cost);
    }

    /// Repair symbols cover what was sent once.
    pub(super) fn forget_once(&mut self) {
        self.once.clear();
    }

    /// Hands over what is to be copied now, as far as the share allows; to be called with an empty queue only.
    pub(super) fn poll(&mut self, now: Instant, srtt: Duration, mut copy: impl FnMut(SentFrame)) {
        if self.poll_timeout(srtt).is_none_or(|at| at > now) {
            return;
        }
        let (again, once) = (std::mem::take(&mut self.again), std::mem::take(&mut self.once));
        for frame in again.into_iter().chain(once.into_iter().rev()) {
            let SentFrame::Stream { len, .. } = frame else { continue };
            let cost = (u64::from(len) + 1) * 100;
            if cost <= self.budget {
                self.spend_hundredths(cost);
                self.copied += u64::from(len);
                copy(frame);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::StreamId;

    const SRTT: Duration = Duration::from_millis(100);

    fn frame(offset: u64) -> SentFrame {
        SentFrame::Stream { stream: StreamId(0), offset, len: 1000, fin: false }
    }

    fn offsets(tail: &mut TailCopies, now: Instant, srtt: Duration) -> Vec<u64> {
        let mut copied = Vec::new();
        tail.poll(now, srtt, |frame| {
            let SentFrame::Stream { offset, .. } = frame else { panic!("no stream") };
            copied.push(offset);
        });
        copied
    }

    fn lossy(tail: &mut TailCopies, lost: u32, of: u32) {
        (0..of).for_each(|at| tail.on_settled(at < lost, true));
    }

    #[test]
    fn retransmissions_and_the_last_datagrams_are_copied_once_when_the_queue_rests() {
        let mut tail = TailCopies::new(Instant::ZERO, true);
        lossy(&mut tail, 10, 1000);
        (0..500).for_each(|at| tail.on_sent(Instant::ZERO, frame(at), at == 7));
        let due = tail.poll_timeout(SRTT).unwrap();
        assert_eq!(due, Instant::ZERO + SRTT / DELAY_DIVISOR);
        assert!(offsets(&mut tail, Instant::ZERO, SRTT).is_empty());
        assert_eq!(offsets(&mut tail, due, SRTT), [7, 499, 498]);
        assert_eq!((tail.poll_timeout(SRTT), tail.copied()), (None, 3000));
    }

    #[test]
    fn a_clean_or_a_short_path_gets_no_copies() {
        let mut tail = TailCopies::new(Instant::ZERO, true);
        (0..500).for_each(|at| tail.on_sent(Instant::ZERO, frame(at), false));
        lossy(&mut tail, 0, 10_000);
        assert_eq!(tail.poll_timeout(SRTT), None);
        lossy(&mut tail, 3, 3000);
        assert_eq!(tail.poll_timeout(SRTT), None, "less than one in a thousand");
        lossy(&mut tail, 30, 30);
        assert_eq!(tail.poll_timeout(Duration::from_millis(5)), None);
        assert!(tail.poll_timeout(SRTT).is_some());
        tail.on_new_path();
        assert_eq!(tail.poll_timeout(SRTT), None, "another path");
    }

    #[test]
    fn copies_stay_within_their_share_of_the_bytes() {
        let mut tail = TailCopies::new(Instant::ZERO, true);
        lossy(&mut tail, 100, 1000);
        let mut sent = 0;
        for burst in 0..1000_u64 {
            for at in 0..4 {
                tail.on_sent(Instant::ZERO, frame(burst * 4 + at), at > 1);
                sent += 1000;
            }
            offsets(&mut tail, Instant::from_millis(1000), SRTT);
        }
        assert!(tail.copied() * 100 <= sent * SHARE_PERCENT, "{} of {sent}", tail.copied());
        assert!(tail.copied() * 110 >= sent * SHARE_PERCENT, "{} of {sent}", tail.copied());
    }
}
