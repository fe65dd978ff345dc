//! What lowers the estimate: a queue that stands, loss beyond the path's own, a path that has become slower.

use std::time::Duration;

use super::{BEHIND, Controller, DRAIN_GAIN, FALL, FOREIGN_QUEUE_ROUNDS, LOSS_KNOWN, MEAN_ROUNDS, OVERFLOW_MIN, Phase};
use crate::rate::contest::{Contest, Overflow};
use crate::rate::rounds::{RoundRtt, Span};
use crate::units::{BitRate, ByteCount, Instant};

/// Drains a queue that stands because the path has become slower: it is deep, and the path stays busy with it.
const DEEP_DRAIN_GAIN: u64 = 25;
/// The path has become slower where so many slices in a row each delivered less than this share, in percent, of the
/// estimate and of what was offered. A machine that pauses makes up for it in the next.
const SLOWER: u64 = 75;
const SLOWER_SLICES: usize = 3;
/// Rounds in which is still being missed what the first acceleration, or a path that became slower, made overflow.
const MOVED_LOSSES: u64 = 8;
/// Loss beyond the path's own by this much shows it where the RTT may vary by itself.
const FLOOD_PERMILLE: u64 = 150;
/// Of whole rounds it takes two, three where the RTT is shorter than machines may pause.
const SLOWER_PAUSE: Duration = Duration::from_millis(20);
/// Where the RTT does not vary by itself, a queue that stands is drained after [`FOREIGN_QUEUE_ROUNDS`] and again each
/// time so many have passed, until less than this share of the BDP, in percent, is in flight. It answers within some rounds.
const TEST_ROUNDS: u32 = 32;
const TEST_DRAIN: u64 = 85;
const TEST_ANSWER: u64 = 4;
const TEST_OVER: u64 = 8;
/// Until it has answered the estimate falls to this share of itself at most, in percent.
const GIVEN_WAY: u64 = 60;
/// For so long after a neighbour's queue was gone the next one is taken for his again.
const WARY: Duration = Duration::from_secs(20);
const WARY_ROUNDS: u32 = 2;
/// Beside a neighbour who does not answer to loss: rounds of which the best counts, rounds of a cycle, and its gains (BBR
/// draft section 5.3.3, as deployed in its first version).
const FIRM_ROUNDS: usize = 8;
const FIRM_CYCLE: u64 = 8;
const FIRM_UP_GAIN: u64 = 125;
const FIRM_DOWN_GAIN: u64 = 75;
/// Lost datagrams that make a share of loss believable.
pub(super) const EXCESS_LOSS_MIN: u64 = 24;

impl Controller {
    /// Lowers the estimate where the path shows that it is too high. True when that begins another phase.
    ///
    /// A sender that was late, or had little to say, sees little delivered, which is no evidence against the path: what
    /// counts is a queue that stands although the path is not offered more than the estimate, and loss beyond the own.
    pub(super) fn lower(&mut self, now: Instant, span: &Span, app_limited: bool, in_flight: ByteCount) -> bool {
        // What is missing at the far end may leave a sender nothing to say: then the overflow tells all the same.
        if app_limited && !self.is_flooded(self.queue.rise(), Some(span)) {
            return false;
        }
        let held = in_flight.as_u64() * 100 > self.window().as_u64() * 90;
        if self.queue.is_noisy() {
            self.lower_noisy(held);
            return false;
        }
        let deep = self.queue.queue() > self.deep_queue();
        if deep
            && let Some(delivered) = self.rounds.best(1, 2)
            && delivered < self.offered(span).percent(90)
            && delivered < self.rate.percent(BEHIND)
        {
            self.rate = delivered;
            self.rounds.forget();
            self.queue.forget();
            self.standing_rounds = 0;
            self.enter(now, Phase::Drain, DRAIN_GAIN);
            return true;
        }
        let standing = usize::try_from(self.standing_rounds).unwrap_or(MEAN_ROUNDS).min(MEAN_ROUNDS);
        if standing >= 3
            && !self.foreign_queue
            && let Some(mean) = self.rounds.last(standing)
        {
            let offered = self.offered(&mean);
            // Less was offered because the window was full, not because the sender was late.
            let paced = if self.is_short() { 100 } else { self.effective_gain() };
            let undecided = self.is_short() || self.rate > self.standing_from.percent(GIVEN_WAY);
            if undecided
                && (held || mean.delivered < offered.percent(98) || offered >= self.rate.percent(paced * 97 / 100))
            {
                self.fall_to(self.shown(&mean, standing), FALL);
            }
        }
        if let Some(mean) = self.rounds.last(MEAN_ROUNDS)
            && self.is_lossy(&mean, EXCESS_LOSS_MIN)
            // While the own loss is unknown a long queue tells; nor can it be learned before that is gone.
            && (self.low_acked + self.low_lost >= LOSS_KNOWN
                || (self.overflows(&mean) && self.queue.queue() > self.queue.min_rtt() / 2))
        {
            self.fall_to(self.shown(&mean, MEAN_ROUNDS), FALL);
            self.rounds.forget();
        }
        false
    }

    /// The path has become slower for all to see: its queue is deep, and several slices in a row delivered far less than
    /// was offered. No moment to wait for the end of a probe, of a round or for averages.
    pub(super) fn on_slice(&mut self, now: Instant) {
        let Some(rtt) = self.slices.take_rtt() else { return };
        self.slice_rise = rtt.min.saturating_sub(self.queue.min_rtt());
        if self.phase == Phase::Accelerate && !self.is_short() {
            self.on_slice_accelerating(now, rtt);
            return;
        }
        if !self.is_settled() || self.contest.is_some() {
            return;
        }
        let seen = self.slices.last(SLOWER_SLICES);
        // Delay that varies by itself hurries and holds back single slices.
        let shows = if self.queue.is_quiet() {
            self.slice_rise >= self.deep_queue()
        } else {
            !self.queue.is_noisy() && self.is_flooded(self.slice_rise, seen.as_ref())
        };
        if shows {
            self.follow_down(now, seen, self.slices.best(1, SLOWER_SLICES));
        }
    }

    /// The same by whole rounds, where the RTT may vary by itself. True when the path was found to be slower.
    pub(super) fn on_slower_rounds(&mut self, now: Instant) -> bool {
        let count = if self.queue.is_noisy() {
            MEAN_ROUNDS
        } else if self.queue.min_rtt() < SLOWER_PAUSE {
            3
        } else {
            2
        };
        let seen = self.rounds.last(count);
        let rise = self.queue.rise();
        (rise >= self.deep_queue() || self.is_flooded(rise, seen.as_ref()))
            && self.follow_down(now, seen, self.rounds.best(1, count))
    }

    /// With a queue of this length so much was lost that no weather explains it.
    fn is_flooded(&self, rise: Duration, seen: Option<&Span>) -> bool {
        let most = self.possible_loss_permille() + FLOOD_PERMILLE;
        rise > self.full_queue()
            && seen.is_some_and(|span| span.lost_permille > most && self.is_lossy(span, EXCESS_LOSS_MIN))
    }

    /// Follows a path whose best of late was far less than it was offered.
    fn follow_down(&mut self, now: Instant, seen: Option<Span>, best: Option<BitRate>) -> bool {
        let (Some(seen), Some(best)) = (seen, best) else { return false };
        if best >= self.rate.min(self.offered(&seen)).percent(SLOWER) {
            return false;
        }
        self.rate = seen.delivered;
        self.rounds.forget();
        self.slices.forget();
        // The RTT has varied by this queue, which is no jitter, and what was lost since the last probe began may have
        // overflowed it.
        self.queue.forget_noise();
        self.overflowed = None;
        self.moved_at = Some(self.round);
        (self.low_acked, self.low_lost) = self.low_before_probe;
        self.standing_rounds = 0;
        self.enter(now, Phase::Drain, DEEP_DRAIN_GAIN);
        self.unsettled = true;
        true
    }

    /// Drains a queue that stands, to see whose it is: senders of our kind see it stand from the same moment on, so that
    /// they drain it together and it is gone; what stands on all the same is kept up by somebody else. True when that
    /// begins.
    pub(super) fn test_queue(&mut self, now: Instant) -> bool {
        let due = self.standing_rounds % TEST_ROUNDS == FOREIGN_QUEUE_ROUNDS;
        if !due || !self.queue.is_quiet() || self.is_short() {
            return false;
        }
        self.tested_at = Some(self.round);
        self.enter(now, Phase::Drain, DRAIN_GAIN);
        self.drain_to = TEST_DRAIN;
        true
    }

    /// The RTT is smaller than ever: others drain a queue that was there before us. Whoever sees that drains what is his,
    /// so that all see the path empty.
    pub(super) fn join_drain(&mut self, now: Instant) {
        if self.is_settled() && !self.queue.is_noisy() && !self.is_short() {
            self.enter(now, Phase::Drain, DRAIN_GAIN);
            self.drain_to = TEST_DRAIN;
        }
    }

    /// Decides whose queue it is.
    pub(super) fn meet_neighbours(&mut self, now: Instant) {
        if self.standing_rounds == 0 {
            self.foreign_queue = false;
        } else if self.queue.is_noisy() || self.is_short() {
            self.foreign_queue |= self.standing_rounds >= FOREIGN_QUEUE_ROUNDS;
        } else if self.contest.is_none() && self.queue.is_quiet() {
            let answered = self.tested_at.is_some_and(|at| (TEST_ANSWER..TEST_OVER).contains(&(self.round - at)));
            if answered && self.queue.lengthen() {
                self.standing_rounds = 0;
                return;
            }
            let failed = self.standing_rounds >= 2 * FOREIGN_QUEUE_ROUNDS;
            if failed || (now < self.wary_until && self.standing_rounds >= WARY_ROUNDS) {
                let rtt = self.queue.min_rtt() + self.queue.queue();
                self.contest = Some(Contest::new(now, self.in_datagrams(rtt)));
            }
        }
    }

    /// Remembers a queue that overflowed, whoever filled it: neighbours who answer to loss need time to come back.
    pub(super) fn note_overflow(&mut self, now: Instant, span: &Span, rtt: RoundRtt) {
        let before = self.overflowed.take().filter(|overflow| !overflow.is_over(now));
        self.overflowed = before;
        let moved = self.moved_at.is_some_and(|at| self.round - at < MOVED_LOSSES);
        if !self.is_settled() || self.is_short() || moved || !self.is_lossy_round(span) {
            return;
        }
        // A queue that overflows raises the mean as well, more than jitter does.
        let queue = rtt.mean.saturating_sub(self.queue.min_rtt());
        if queue < (self.queue.min_rtt() / 4).max(2 * self.queue.jitter()) {
            return;
        }
        let window = self.in_datagrams(rtt.mean);
        let probing = matches!(self.phase, Phase::Up | Phase::Down);
        let next = match before {
            Some(before) => before.again(now, queue, window, probing),
            None => Overflow::new(now, queue, window),
        };
        self.overflowed = Some(next);
        self.heeds_overflow = !next.is_in_vain(now);
    }

    /// What is in flight at the estimate and this RTT.
    fn in_datagrams(&self, rtt: Duration) -> f64 {
        self.rate.bytes_in(rtt).as_u64() as f64 / self.config.datagram.as_u64().max(1) as f64
    }

    /// One round beside a neighbour who fills the queue.
    pub(super) fn contend(&mut self, now: Instant, span: &Span, rtt: RoundRtt, app_limited: bool) {
        let lost = std::mem::take(&mut self.lost_in_round);
        let overflows = self.is_lossy(span, OVERFLOW_MIN);
        let (queue, change) = (rtt.min.saturating_sub(self.queue.min_rtt()), self.queue.target());
        let gone = self.standing_rounds == 0;
        let in_flight = self.in_datagrams(rtt.mean);
        let Some(contest) = self.contest.as_mut().filter(|_| !gone && !self.queue.is_noisy()) else {
            // Gone as we drained it: it was our own, or somebody's of our kind.
            let drained = self.tested_at.is_some_and(|at| self.round - at <= TEST_ANSWER);
            self.wary_until = if gone && !drained { now + WARY } else { now };
            self.contest = None;
            if std::mem::take(&mut self.stands_firm) {
                self.patience.on_gone();
            }
            return;
        };
        // A window that is not used does not grow (RFC 9438 section 5.8).
        if self.phase != Phase::Cruise || app_limited {
            return;
        }
        let stood_firm = std::mem::replace(&mut self.stands_firm, self.patience.is_at_end(now, in_flight));
        if self.stands_firm {
            self.stand_firm();
            return;
        }
        if stood_firm {
            *contest = Contest::new(now, in_flight);
            self.gain = 100;
        }
        if let Some(reduction) = contest.on_round(now, rtt.mean, queue, change, lost, overflows) {
            self.patience.on_reduction(now, &reduction);
        }
        let contest = *contest;
        self.rate = BitRate::from_transfer(self.in_bytes(&contest), rtt.mean);
    }

    /// One round beside a neighbour who does not answer to loss, and whose estimate is the best of what he gets (BBR): the
    /// same, with probes like his, so that both have the same in the end.
    fn stand_firm(&mut self) {
        if let Some(best) = self.rounds.best(1, FIRM_ROUNDS) {
            self.rate = best;
        }
        self.gain = match self.round % FIRM_CYCLE {
            0 => FIRM_UP_GAIN,
            1 => FIRM_DOWN_GAIN,
            _ => 100,
        };
    }

    /// What the path has shown of its rate in the last `rounds`, which came to `mean`, where it was the limit. A busy
    /// machine lowers their mean, so the best counts.
    fn shown(&self, mean: &Span, rounds: usize) -> BitRate {
        self.rounds.best(2, rounds).unwrap_or(mean.delivered)
    }

    /// Lowers the estimate to what was delivered, but to no less than `floor` percent of itself.
    pub(super) fn fall_to(&mut self, delivered: BitRate, floor: u64) {
        self.rate = self.rate.min(delivered.max(self.rate.percent(floor)));
    }

    /// More queue than probes make.
    pub(super) fn deep_queue(&self) -> Duration {
        (self.queue.min_rtt() / 2).max(4 * self.queue.target())
    }
}
