//! Beside a neighbour that fills the queue until it overflows: what is in flight grows and shrinks as the neighbour's does.
//!
//! Such a neighbour answers to nothing but loss. Whoever holds a rate beside it keeps what he has for ever, as the
//! neighbour's window only lengthens the queue; whoever yields to the queue loses everything. So here the window is CUBIC's
//! (RFC 9438), as in the competitive modes of Copa (NSDI 2018, section 2.2) and Nimbus (SIGCOMM 2022). The losses
//! at a full queue may all be the neighbour's: a queue that shrinks after any loss is taken for its answer to one.

use std::time::Duration;

use crate::units::Instant;

/// RFC 9438 section 4.1 and 4.6: segments per second cubed, and what is left of the window after a loss.
const C: f64 = 0.4;
const BETA: f64 = 0.7;
/// No overflow is minded for longer.
const COMES_BACK_MAX: Duration = Duration::from_secs(10);
/// Rounds of overflows without a probe, and more than one in a second, that no neighbour makes who answers to them.
const IN_VAIN: u32 = 8;
/// A neighbour has answered to a loss where the queue shrinks by this part of what it would if all reduced their windows.
const ANSWER: f64 = 0.75;
/// So many reductions in a row without an answer, each from a window smaller than this part of the one before: he does not
/// answer to loss at all (BBR) …
const UNANSWERED: u32 = 4;
const SHRINKS: f64 = 0.97;
/// … which counts for so long, or until the window is so many times what it was.
const FIRM_FOR: Duration = Duration::from_secs(20);
const ENOUGH: f64 = 4.0;
/// Rounds in which the queue still answers to the last reduction.
const SETTLE_ROUNDS: u32 = 4;

/// K of RFC 9438 section 4.2, in seconds: how long a window needs to have back so many datagrams.
fn comes_back_after(datagrams: f64) -> f64 {
    (datagrams.max(0.0) / C).cbrt()
}

/// A queue that has overflowed. Whoever answers to loss needs his time to come back, and until then he loses more by each
/// loss than he has gained.
#[derive(Clone, Copy, Debug)]
pub(super) struct Overflow {
    /// How long the queue may become without overflowing, as far as it was seen to.
    most: Duration,
    /// The same, less for each time that a probe made it overflow all the same.
    queue: Duration,
    /// A CUBIC sender beside us has come back by then.
    until: Instant,
    /// Since when it overflows, and in how many rounds it did without a probe.
    since: Instant,
    unasked: u32,
}

impl Overflow {
    /// The queue overflowed when it was so long; the window of a CUBIC sender beside us is taken for one like our own, in
    /// datagrams.
    pub(super) fn new(now: Instant, queue: Duration, window: f64) -> Self {
        // Of a window that was not reduced before.
        let comes_back = Duration::from_secs_f64(comes_back_after(window * (1.0 - BETA))).min(COMES_BACK_MAX);
        let most = queue * 3 / 4;
        Overflow { most, queue: most, until: now + comes_back, since: now, unasked: 0 }
    }

    /// It overflowed once more, by a probe that was to leave room, or by others.
    pub(super) fn again(self, now: Instant, queue: Duration, window: f64, probing: bool) -> Self {
        let next = Overflow::new(now, queue, window);
        let most = self.most.min(next.most);
        let (queue, unasked) =
            if probing { (self.queue / 2, self.unasked) } else { (self.queue.min(most), self.unasked + 1) };
        Overflow { most, queue, unasked, since: self.since, ..next }
    }

    /// By how much a queue of this length may still grow; none, where there is no queue.
    pub(super) fn room(&self, queue: Option<Duration>) -> Duration {
        queue.map_or(self.most, |queue| self.queue.saturating_sub(queue))
    }

    /// It overflows again and again whatever we do: the neighbour does not answer to loss (BBR), and leaves us nothing for
    /// our patience.
    pub(super) fn is_in_vain(&self, now: Instant) -> bool {
        self.unasked >= IN_VAIN && u64::from(self.unasked) > (now - self.since).as_secs()
    }

    /// Everybody has had time to come back.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        now >= self.until
    }
}

/// How long to go on giving way to a neighbour who does not.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Patience {
    in_vain: u32,
    /// The window before the last reduction.
    before: f64,
    /// When it ended, and with what window.
    ended: Option<(Instant, f64)>,
}

impl Patience {
    /// The window was reduced.
    pub(super) fn on_reduction(&mut self, now: Instant, reduction: &Reduction) {
        // Among many who do answer, not all of them each time, a window stays what it is.
        let shrinks = reduction.from < self.before * SHRINKS;
        self.before = reduction.from;
        match reduction.answered {
            Some(false) if shrinks => self.in_vain += 1,
            Some(_) => self.in_vain = 0,
            None => {}
        }
        if self.in_vain >= UNANSWERED {
            self.in_vain = 0;
            self.ended = Some((now, reduction.from));
        }
    }

    /// The queue is gone.
    pub(super) fn on_gone(&mut self) {
        self.ended = None;
    }

    /// Whoever gives way to him has nothing in the end. What has come back, with what is in flight now, is enough to try
    /// again.
    pub(super) fn is_at_end(&mut self, now: Instant, window: f64) -> bool {
        self.ended = self.ended.filter(|(ended, from)| now - *ended < FIRM_FOR && window < from * ENOUGH);
        self.ended.is_some()
    }
}

/// A reduction of the window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Reduction {
    /// Whether the queue became as short after the reduction before, if there was one, as if all had reduced with us.
    answered: Option<bool>,
    /// The window before.
    from: f64,
}

/// A window beside somebody else's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Contest {
    /// Datagrams.
    window: f64,
    window_max: f64,
    /// What the last reduction left.
    start: f64,
    /// What additive growth would have come to (RFC 9438 section 4.3).
    additive: f64,
    since: Instant,
    /// The queue that the last reduction, if there was one, should have led to had all reduced their windows with us, and
    /// the shortest since.
    wanted: Option<Duration>,
    trough: Duration,
    /// The longest queue since the last reduction, and rounds since then.
    peak: Duration,
    rounds: u32,
    /// Rounds since the last loss.
    loss_free: u32,
}

impl Contest {
    /// Begins with what is in flight.
    pub(super) fn new(now: Instant, window: f64) -> Self {
        Contest {
            window,
            window_max: window,
            start: window,
            additive: window,
            since: now,
            wanted: None,
            trough: Duration::MAX,
            peak: Duration::ZERO,
            rounds: 0,
            loss_free: u32::MAX,
        }
    }

    /// Takes a round: its RTT, the queue in it, the least change of it that means something, whether anything was lost
    /// and whether more than the path loses by itself. What that reduced, if it did.
    pub(super) fn on_round(
        &mut self,
        now: Instant,
        rtt: Duration,
        queue: Duration,
        change: Duration,
        lost: bool,
        overflows: bool,
    ) -> Option<Reduction> {
        self.rounds += 1;
        self.trough = self.trough.min(queue);
        self.loss_free = if lost { 0 } else { self.loss_free.saturating_add(1) };
        if self.rounds <= SETTLE_ROUNDS {
            self.peak = queue;
        }
        self.peak = self.peak.max(queue);
        let answered = queue + change.max(self.peak / 16) < self.peak && self.loss_free < SETTLE_ROUNDS;
        if self.rounds > SETTLE_ROUNDS && (overflows || answered) {
            let answered = self.wanted.map(|wanted| self.trough <= wanted);
            self.wanted = Some(self.peak.saturating_sub(rtt.mul_f64((1.0 - BETA) * ANSWER)));
            self.trough = queue;
            let from = self.window;
            self.window_max =
                if self.window < self.window_max { self.window * (1.0 + BETA) / 2.0 } else { self.window };
            self.window *= BETA;
            self.start = self.window;
            self.additive = self.window;
            self.since = now;
            self.rounds = 0;
            return Some(Reduction { answered, from });
        }
        let since = (now - self.since).as_secs_f64() + rtt.as_secs_f64();
        let k = comes_back_after(self.window_max - self.start);
        let cubic = C * (since - k).powi(3) + self.window_max;
        self.additive += 3.0 * (1.0 - BETA) / (1.0 + BETA);
        self.window = cubic.max(self.additive).clamp(self.window, 1.5 * self.window);
        None
    }

    /// Datagrams that may be in flight.
    pub(super) fn window(&self) -> f64 {
        self.window
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(50);
    const CHANGE: Duration = Duration::from_millis(3);

    /// Rounds `from..until`, with this queue and these losses in each.
    fn rounds(contest: &mut Contest, from: u32, until: u32, queue: Duration, lost: bool, overflows: bool) {
        for number in from..until {
            contest.on_round(Instant::ZERO + RTT * number, RTT, queue, CHANGE, lost, overflows);
        }
    }

    #[test]
    fn the_window_comes_back_to_where_it_was_reduced_and_goes_on() {
        let mut contest = Contest::new(Instant::ZERO, 1000.0);
        rounds(&mut contest, 0, SETTLE_ROUNDS, RTT, false, false);
        let before = contest.window();
        rounds(&mut contest, SETTLE_ROUNDS, SETTLE_ROUNDS + 1, RTT, true, true);
        assert!((contest.window() - before * BETA).abs() < 1.0, "{} after {before}", contest.window());
        // K of RFC 9438 section 4.2 is 9.1 s here.
        rounds(&mut contest, 5, 150, RTT, false, false);
        assert!(contest.window() < before, "{} before K", contest.window());
        rounds(&mut contest, 150, 300, RTT, false, false);
        assert!(contest.window() > before, "{} after K", contest.window());
    }

    #[test]
    fn an_overflow_counts_until_a_window_like_ours_is_back_and_leaves_less_room_where_a_probe_repeats_it() {
        let (start, full) = (Instant::ZERO, Duration::from_millis(12));
        let first = Overflow::new(start, full, 1000.0);
        // K is 9.1 s.
        assert!(!first.is_over(start + Duration::from_secs(9)) && first.is_over(start + Duration::from_millis(9_100)));
        assert_eq!(first.room(Some(Duration::from_millis(4))), Duration::from_millis(5));
        let by_others = first.again(start, full, 1000.0, false);
        assert_eq!(by_others.room(Some(Duration::ZERO)), first.room(Some(Duration::ZERO)));
        let by_probes = first.again(start, full, 1000.0, true).again(start, full, 1000.0, true);
        assert_eq!(by_probes.room(Some(Duration::from_millis(3))), Duration::ZERO);
        assert_eq!(by_probes.room(None), Duration::from_millis(9));
        let by_bbr = (0..IN_VAIN).fold(first, |overflow, _| overflow.again(start, full, 1000.0, false));
        assert!(by_bbr.is_in_vain(start + Duration::from_secs(3)) && !by_others.is_in_vain(start));
        assert!(!by_bbr.is_in_vain(start + Duration::from_secs(20)), "pauses of a machine");
    }

    #[test]
    fn patience_ends_with_windows_that_shrink_without_an_answer_and_comes_back_with_the_window() {
        let reductions = |answers: [Option<bool>; 5], shrink: f64| {
            let mut patience = Patience::default();
            let mut from = 100.0;
            for answered in answers {
                patience.on_reduction(Instant::ZERO, &Reduction { answered, from });
                from *= shrink;
            }
            patience
        };
        let unanswered = [None, Some(false), Some(false), Some(false), Some(false)];
        let mut firm = reductions(unanswered, 0.9);
        assert!(firm.is_at_end(Instant::from_millis(19_000), 60.0));
        assert!(!Patience { ..firm }.is_at_end(Instant::from_millis(20_000), 60.0), "for a while");
        assert!(!firm.is_at_end(Instant::from_millis(1_000), 300.0), "it has come back");
        assert!(!firm.is_at_end(Instant::from_millis(1_000), 60.0), "and gives way again");
        assert!(!reductions(unanswered, 1.0).is_at_end(Instant::ZERO, 60.0), "many, who answer by turns");
        let answered = [None, Some(false), Some(false), Some(true), Some(false)];
        assert!(!reductions(answered, 0.9).is_at_end(Instant::ZERO, 60.0));
    }

    #[test]
    fn a_reduction_is_answered_where_the_queue_becomes_as_short_as_by_all_windows_together() {
        // 50 ms and a queue of as much: 30 % less of both is a queue of 20 ms.
        for (trough, expected) in [(Duration::from_millis(24), true), (Duration::from_millis(35), false)] {
            let mut contest = Contest::new(Instant::ZERO, 100.0);
            let mut told = Vec::new();
            for number in 0..20 {
                let queue = if number % 10 == 8 { trough } else { RTT };
                let now = Instant::ZERO + RTT * number;
                told.extend(contest.on_round(now, RTT + queue, queue, CHANGE, false, number % 10 == 9));
            }
            let answers: Vec<Option<bool>> = told.iter().map(|reduction| reduction.answered).collect();
            assert_eq!(answers, [None, Some(expected)]);
        }
    }

    #[test]
    fn a_queue_that_shrinks_after_a_loss_is_an_answer_and_one_that_shrinks_without_is_none() {
        for lost in [false, true] {
            let mut contest = Contest::new(Instant::ZERO, 100.0);
            rounds(&mut contest, 0, 6, RTT, lost, false);
            let before = contest.window();
            rounds(&mut contest, 6, 7, RTT / 2, false, false);
            assert_eq!(contest.window() < before, lost, "{} after {before}", contest.window());
        }
    }
}
