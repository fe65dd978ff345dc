//! Acceleration: looking for a rate that is not known, and what ends it.

use std::time::Duration;

use super::{BEHIND, Controller, DRAIN_GAIN, INITIAL_WINDOW, OVERFLOW_MIN, Phase, SLICES};
use crate::rate::queue::ROUND_MIN;
use crate::rate::rounds::{RoundRtt, Span};
use crate::units::{ByteCount, Instant};

/// Growth per round, in percent, that keeps acceleration going.
const GROWTH: u64 = 125;
/// Rounds without growth that end acceleration even when the path does not fall behind.
const FLAT_ROUNDS: u32 = 3;
/// Rounds without growth that end it in any case, as when the window or the far end is the limit.
const FLAT_ROUNDS_MAX: u32 = 8;
/// The estimate falls to this share of itself at most, in percent, where acceleration ends.
const START_FALL: u64 = 60;
/// RTTs may always vary by this: timers, interrupts and offloads of real machines.
const CALM_MIN: Duration = Duration::from_millis(2);
/// Slices without queue that show that the RTT does not vary by itself, and slices with more and more of one that show it.
const CALM_SLICES: u32 = 6;
const GROWN_SLICES: u32 = 3;
/// Times that it varied that count at most, each for as many slices without queue.
const VARIED_MAX: u32 = 4;
/// The path is the limit where these deliver no more than this share, in percent, of the first of them.
const FLAT: u64 = 110;

/// A queue that builds up where there was none.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Buildup {
    calm: u32,
    /// The smallest RTT when it began to be calm.
    calm_from: Duration,
    /// How often it fell, or rose and fell again.
    varied: u32,
    grown: u32,
    last: Duration,
    min_rtt: Duration,
}

impl Buildup {
    /// Takes a slice's RTT and the smallest ever. True once what builds up can be nothing but our own queue.
    fn on_slice(&mut self, rtt: RoundRtt, min_rtt: Duration) -> bool {
        let rise = rtt.min.saturating_sub(min_rtt);
        let grows = rise >= self.last;
        let varies = (min_rtt / 8).max(CALM_MIN);
        // In one slice, or little by little.
        let fell = min_rtt + varies < self.min_rtt || (self.calm > 0 && min_rtt + varies < self.calm_from);
        (self.last, self.min_rtt) = (rise, min_rtt);
        if rise > min_rtt / 8 && grows && !fell {
            self.grown += 1;
        } else if self.grown > 0 || fell || (rtt.mean > min_rtt + varies && !grows) {
            // The queue is gone again while more is sent than before: it was none.
            (self.calm, self.grown) = (0, 0);
            self.varied = (self.varied + 1).min(VARIED_MAX);
        } else if rtt.mean <= min_rtt + varies {
            if self.calm == 0 {
                self.calm_from = min_rtt;
            }
            self.calm += 1;
        }
        self.is_calm() && self.grown >= GROWN_SLICES
    }

    /// The RTT does not vary by itself. One that did has to prove it for longer: delay that wanders stays where it is for a
    /// while before it rises again.
    fn is_calm(&self) -> bool {
        self.calm >= CALM_SLICES * (1 + self.varied)
    }
}

impl Controller {
    /// One round of acceleration.
    pub(super) fn on_round_accelerating(&mut self, now: Instant, span: &Span, app_limited: bool, in_flight: ByteCount) {
        if self.is_short() || self.may_vary() {
            self.rate = self.rate.max(span.shown());
        }
        if self.rate >= self.flat_base.percent(GROWTH) {
            self.flat_base = self.rate;
            self.flat_rounds = 0;
        } else {
            self.flat_rounds += 1;
        }
        // A sender with little to say proves nothing, whatever jitter makes its few samples look like.
        if app_limited && in_flight.as_u64() < INITIAL_WINDOW / 2 * self.config.datagram.as_u64() {
            self.flat_rounds = 0;
            return;
        }
        let noisy = self.queue.is_noisy() || (!self.buildup.is_calm() && !self.has_cruised && !self.is_short());
        // A full queue drops, and it is long: both together are no weather.
        if self.is_overflow(span, noisy) && self.queue.rise() > self.full_queue() {
            self.fall_to(span.delivered, START_FALL);
            self.enter(now, Phase::Drain, DRAIN_GAIN);
            return;
        }
        // The rate stands still while the path is offered more: it is the limit. A pause of some machine looks the same
        // for a moment, but then nothing is offered either, or the next round makes up for it.
        let both = self.rounds.last(if noisy { 3 } else { 2 }).unwrap_or(*span);
        let kept = both.kept(self.possible_loss_permille());
        // An RTT that grows by itself makes deliveries late as well, but not for long.
        let late = both.lasted.mul_f64((1.0 - both.delivered.as_bps() as f64 / kept.as_bps().max(1) as f64).max(0.0));
        let behind = both.delivered < kept.percent(BEHIND) && (!noisy || late > self.queue.min_rtt());
        let queued = self.queue.queue() > self.queue.min_rtt() / 4;
        let wanted = if noisy {
            3
        } else if (queued || self.is_overflow(&both, noisy)) && !self.is_short() {
            1
        } else {
            2
        };
        let plenty = both.offered > self.rate.percent(110);
        // What a probe found was left by others who make room for more, as long as they see a queue.
        let pushes = self.queue.queue() > self.deep_queue() && self.has_cruised && !noisy && !self.is_short();
        let ended = pushes
            || (behind && self.flat_rounds >= wanted)
            || (plenty && self.flat_rounds >= if noisy { 2 * FLAT_ROUNDS } else { FLAT_ROUNDS })
            || self.flat_rounds >= FLAT_ROUNDS_MAX;
        if ended {
            if behind || self.queue.is_noisy() {
                // Over more than one RTT the ends of the interval matter less than in the samples so far.
                self.fall_to(both.delivered, START_FALL);
            }
            self.enter(now, Phase::Drain, DRAIN_GAIN);
        }
    }

    /// What acceleration sends beyond the path's rate queues, and once the queue overflows it is lost: every quarter of an
    /// RTT counts.
    pub(super) fn on_slice_accelerating(&mut self, now: Instant, rtt: RoundRtt) {
        let Some(span) = self.slices.last(1) else { return };
        // Where the RTT varies, so do the times at which losses are found.
        let varies = self.may_vary() || self.queue.is_noisy();
        let seen = if varies { self.slices.last(SLICES as usize) } else { Some(span) };
        let overflows = seen.is_some_and(|seen| self.is_overflow(&seen, varies));
        if overflows && self.slice_rise > self.full_queue() {
            // Where the RTT varies, a slice shows more than the path has as often as less.
            let mean = if self.queue.is_noisy() { self.rounds.last(2).or(seen) } else { None };
            let shown = mean.map(|mean| mean.delivered).or_else(|| self.slices.best(1, 2));
            let delivered = shown.unwrap_or(span.delivered);
            self.fall_to(delivered, START_FALL);
            self.enter(now, Phase::Drain, DRAIN_GAIN);
            return;
        }
        let min_rtt = self.queue.min_rtt();
        if !self.buildup.on_slice(rtt, min_rtt) || min_rtt < ROUND_MIN * SLICES {
            return;
        }
        let grown = GROWN_SLICES as usize;
        if let (Some(before), Some(all)) = (self.slices.ago(grown - 1), self.slices.last(grown))
            && all.delivered < all.kept(self.possible_loss_permille()).percent(BEHIND)
            // Among others more offered is more delivered, and they are to make room.
            && span.delivered < before.delivered.percent(FLAT)
        {
            self.rate = all.delivered.max(self.rate.percent(START_FALL)).min(all.offered);
            self.enter(now, Phase::Drain, DRAIN_GAIN);
        }
    }

    /// The RTT is long enough for its slices to show that it does not vary by itself, and they have not.
    pub(super) fn may_vary(&self) -> bool {
        self.queue.min_rtt() >= ROUND_MIN * SLICES && !self.buildup.is_calm()
    }

    /// More is lost than the path may lose by itself; a queue that shows by the RTT as well needs less of it.
    fn is_overflow(&self, span: &Span, varies: bool) -> bool {
        let weather = if varies { self.possible_loss_permille() } else { 0 };
        span.lost_permille > weather + weather / 4 && self.is_lossy(span, OVERFLOW_MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN_RTT: Duration = Duration::from_millis(100);

    /// Slices with these smallest RTTs, in milliseconds; true where one of them told of a queue of ours.
    fn slices(buildup: &mut Buildup, rtts: &[u64]) -> bool {
        rtts.iter().fold(false, |told, &millis| {
            let min = Duration::from_millis(millis);
            buildup.on_slice(RoundRtt { min, mean: min }, MIN_RTT.min(min)) || told
        })
    }

    #[test]
    fn a_queue_that_builds_up_on_a_calm_path_is_our_own() {
        let mut buildup = Buildup::default();
        assert!(!slices(&mut buildup, &[100; 6]) && buildup.is_calm());
        assert!(!slices(&mut buildup, &[108, 115, 130]), "on its way");
        assert!(slices(&mut buildup, &[145]));
    }

    #[test]
    fn an_rtt_that_fell_little_by_little_varies_by_itself() {
        let mut buildup = Buildup::default();
        let falls = [150, 144, 138, 132, 126, 120, 114, 108, 102, 100];
        for millis in falls {
            let min = Duration::from_millis(millis);
            assert!(!buildup.on_slice(RoundRtt { min, mean: min }, min));
        }
        assert!(!buildup.is_calm());
        assert!(!slices(&mut buildup, &[115, 130, 145, 160]), "and rises again");
    }

    #[test]
    fn an_rtt_that_went_up_and_down_before_proves_nothing() {
        let mut buildup = Buildup::default();
        assert!(!slices(&mut buildup, &[100, 100, 120, 104, 100, 101, 125, 140, 160]));
        assert!(!buildup.is_calm());
        assert!(!slices(&mut buildup, &[130, 100, 100, 100, 100, 100]));
        assert!(!slices(&mut buildup, &[100, 115, 130, 145]), "it may be about to wander again");
        assert!(!slices(&mut buildup, &[100; 40]) && buildup.is_calm());
        assert!(slices(&mut buildup, &[115, 130, 145]), "calm since");
    }
}
