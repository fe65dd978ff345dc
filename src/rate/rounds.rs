//! Rounds: what the path was offered and what it delivered, round after round.
//!
//! Single samples of the delivery rate say little on a path with jitter, or from a machine that wakes late: the ends of
//! their interval move. A round compares two counts over the same datagrams: the rate at which they were sent, and the
//! rate at which they were acknowledged. Where both agree the path kept up, however slow the sender was; where the
//! second stays behind, the path is the limit and the second is its rate.

use std::collections::VecDeque;
use std::time::Duration;

use super::RateSample;
use crate::units::{BitRate, ByteCount, Instant};

/// Rounds remembered.
const ROUNDS: usize = 8;

/// The counts at the end of a round.
#[derive(Clone, Copy, Debug)]
struct Mark {
    at: Instant,
    delivered: u64,
    lost: u64,
    sent_at: Instant,
    sent: u64,
}

/// What a number of rounds came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Span {
    /// The rate at which the acknowledged datagrams had been sent.
    pub(super) offered: BitRate,
    /// The rate at which they arrived.
    pub(super) delivered: BitRate,
    /// Datagram bytes delivered.
    pub(super) bytes: u64,
    /// Of what was sent, this share was lost, in permille.
    pub(super) lost_permille: u64,
    /// How long it took.
    pub(super) lasted: Duration,
}

impl Span {
    fn between(start: &Mark, end: &Mark) -> Span {
        let bytes = end.delivered - start.delivered;
        let lost = end.lost - start.lost;
        Span {
            offered: BitRate::from_transfer(ByteCount::new(end.sent - start.sent), end.sent_at - start.sent_at),
            delivered: BitRate::from_transfer(ByteCount::new(bytes), end.at - start.at),
            bytes,
            lost_permille: lost * 1000 / (bytes + lost).max(1),
            lasted: end.at - start.at,
        }
    }

    /// What was offered, less what was lost of it, up to `most_permille` of it.
    pub(super) fn kept(&self, most_permille: u64) -> BitRate {
        self.offered.permille(1000 - self.lost_permille.min(most_permille))
    }

    /// What the path has shown that it can carry. It never delivers more than it was offered: acks that arrive in a
    /// lump (draft-cheng-iccrg-delivery-rate-estimation section 3.3 has the same bound for a sample).
    pub(super) fn shown(&self) -> BitRate {
        self.offered.min(self.delivered)
    }
}

/// RTT statistics of one round.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RoundRtt {
    /// The smallest sample.
    pub(super) min: Duration,
    /// The mean of the samples.
    pub(super) mean: Duration,
}

/// The last rounds, and the one that is under way.
#[derive(Clone, Debug)]
pub(super) struct Rounds {
    marks: VecDeque<Mark>,
    ends_at: u64,
    began: Instant,
    lost: u64,
    app_limited: bool,
    rtt_min: Option<Duration>,
    rtt_sum: Duration,
    rtt_samples: u32,
}

impl Rounds {
    pub(super) fn new(now: Instant) -> Self {
        Rounds {
            marks: VecDeque::new(),
            ends_at: 0,
            began: now,
            lost: 0,
            app_limited: false,
            rtt_min: None,
            rtt_sum: Duration::ZERO,
            rtt_samples: 0,
        }
    }

    /// Forgets the rounds before this one.
    pub(super) fn forget(&mut self) {
        let keep = self.marks.pop_back();
        self.marks.clear();
        self.marks.extend(keep);
    }

    pub(super) fn on_lost(&mut self, bytes: u64) {
        self.lost += bytes;
    }

    pub(super) fn on_rtt(&mut self, rtt: Duration) {
        self.rtt_min = Some(self.rtt_min.map_or(rtt, |min| min.min(rtt)));
        self.rtt_sum += rtt;
        self.rtt_samples += 1;
    }

    /// Takes a sample. True when it ends the round: a datagram sent after the round began has been acknowledged, and
    /// the round has lasted `at_least`.
    pub(super) fn on_sample(&mut self, now: Instant, sample: &RateSample, delivered: u64, at_least: Duration) -> bool {
        self.app_limited |= sample.app_limited;
        let newer = self.marks.back().is_none_or(|last| sample.sent_at > last.sent_at);
        if sample.prior_delivered < self.ends_at || now - self.began < at_least || !newer {
            return false;
        }
        self.ends_at = delivered;
        self.began = now;
        let mark = Mark { at: now, delivered, lost: self.lost, sent_at: sample.sent_at, sent: sample.sent_before };
        self.marks.push_back(mark);
        if self.marks.len() > ROUNDS + 1 {
            self.marks.pop_front();
        }
        true
    }

    /// Whether the sender had too little to say in the round that has just ended. Asking begins the next.
    pub(super) fn take_app_limited(&mut self) -> bool {
        std::mem::take(&mut self.app_limited)
    }

    /// The RTT of the round that has just ended. Asking begins the next.
    pub(super) fn take_rtt(&mut self) -> Option<RoundRtt> {
        let min = self.rtt_min.take()?;
        let mean = std::mem::take(&mut self.rtt_sum) / std::mem::take(&mut self.rtt_samples).max(1);
        Some(RoundRtt { min, mean })
    }

    /// What the best `together` rounds in a row delivered, of the last `count`; `None` where there are not as many.
    ///
    /// A machine that pauses delivers little in one round and makes up for it in the next. A path that has become
    /// slower does so in all of them.
    pub(super) fn best(&self, together: usize, count: usize) -> Option<BitRate> {
        self.spans(together, count)?.map(|span| span.delivered).max()
    }

    /// The most that `together` rounds in a row have shown ([`Span::shown`]), of the last `count`; `None` where there are
    /// not as many.
    pub(super) fn best_shown(&self, together: usize, count: usize) -> Option<BitRate> {
        self.spans(together, count)?.map(|span| span.shown()).max()
    }

    /// What every `together` rounds in a row came to, of the last `count`.
    fn spans(&self, together: usize, count: usize) -> Option<impl Iterator<Item = Span> + '_> {
        let first = self.marks.len().checked_sub(count + 1)?;
        let ends = self.marks.range(first..).zip(self.marks.range(first + together..));
        Some(ends.map(|(start, end)| Span::between(start, end)))
    }

    /// What the last `count` whole rounds came to; `None` where there are not as many.
    pub(super) fn last(&self, count: usize) -> Option<Span> {
        self.back(count, 0)
    }

    /// What the round `back` rounds before the last whole one came to.
    pub(super) fn ago(&self, back: usize) -> Option<Span> {
        self.back(back + 1, back)
    }

    /// What came between the ends of two rounds, counted back from the last whole one.
    fn back(&self, start: usize, end: usize) -> Option<Span> {
        let mark = |back: usize| self.marks.get(self.marks.len().checked_sub(back + 1)?);
        Some(Span::between(mark(start)?, mark(end)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(sent_ms: u64, sent_before: u64, prior_delivered: u64) -> RateSample {
        let sent_at = Instant::from_millis(sent_ms);
        RateSample { rate: BitRate::ZERO, prior_delivered, app_limited: false, sent_at, sent_before }
    }

    #[test]
    fn a_path_slower_than_the_sender_shows_its_own_rate() {
        let mut rounds = Rounds::new(Instant::ZERO);
        assert!(rounds.on_sample(Instant::from_millis(10), &sample(0, 0, 0), 0, Duration::ZERO));
        assert!(!rounds.on_sample(Instant::from_millis(15), &sample(0, 0, 0), 500, Duration::ZERO), "nothing newer");
        assert!(rounds.on_sample(Instant::from_millis(30), &sample(10, 2000, 0), 2000, Duration::ZERO));
        let span = rounds.last(1).unwrap();
        assert_eq!((span.offered, span.delivered), (BitRate::from_kbps(1600), BitRate::from_kbps(800)));
        assert_eq!(span.shown(), BitRate::from_kbps(800));
        assert_eq!(rounds.last(2), None);
    }

    #[test]
    fn a_sender_that_paused_shows_that_the_path_kept_up() {
        let mut rounds = Rounds::new(Instant::ZERO);
        rounds.on_sample(Instant::from_millis(10), &sample(0, 0, 0), 0, Duration::ZERO);
        rounds.on_sample(Instant::from_millis(50), &sample(40, 1000, 0), 1000, Duration::ZERO);
        let span = rounds.last(1).unwrap();
        assert_eq!(span.offered, span.delivered);
    }

    #[test]
    fn the_best_round_is_not_hidden_by_a_pause() {
        let mut rounds = Rounds::new(Instant::ZERO);
        for (at, delivered) in [(10, 0), (20, 1000), (40, 1100), (50, 2100)] {
            let sample = sample(at - 10, delivered, delivered);
            assert!(rounds.on_sample(Instant::from_millis(at), &sample, delivered, Duration::ZERO));
        }
        assert_eq!(rounds.best(1, 1), Some(BitRate::from_kbps(800)));
        assert_eq!(rounds.best(1, 2), Some(BitRate::from_kbps(800)));
        assert!(rounds.last(2).unwrap().delivered < BitRate::from_kbps(300));
        assert_eq!(rounds.best(1, 4), None);
        assert_eq!(rounds.best_shown(1, 3), Some(BitRate::from_kbps(800)), "no more than was offered");
        assert_eq!(rounds.ago(1).unwrap().delivered, BitRate::from_kbps(40));
        assert_eq!((rounds.ago(0), rounds.ago(3)), (rounds.last(1), None));
    }

    #[test]
    fn losses_count_against_what_was_sent() {
        let mut rounds = Rounds::new(Instant::ZERO);
        rounds.on_sample(Instant::from_millis(10), &sample(0, 0, 0), 0, Duration::ZERO);
        rounds.on_lost(100);
        rounds.on_sample(Instant::from_millis(20), &sample(10, 1000, 0), 900, Duration::ZERO);
        assert_eq!(rounds.last(1).unwrap().lost_permille, 100);
    }
}
