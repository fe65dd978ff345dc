//! Probes: offering a little more for a moment, and what the path answers.

use std::time::Duration;

use super::noisy::TOGETHER;
use super::{Controller, Phase};
use crate::rate::contest::Overflow;
use crate::rate::queue::{NOISY_ROUNDS, ROUND_MIN};
use crate::rate::rounds::Span;
use crate::units::{BitRate, Instant};

/// Pacing gain while following a path that answered a probe with more.
const FOLLOW_GAIN: u64 = 160;
const UP_GAIN: u64 = 120;
/// The same of a sender that is too late for a part of its pace: what counts is what leaves.
const UP_GAIN_MAX: u64 = 160;
/// Over a path shorter than a round a probe is longer and lower as well: its RTT and its deliveries are those of schedulers,
/// and its buffers are often shallow.
const SHORT_UP_GAIN: u64 = 110;
const SHORT_UP_GAIN_MAX: u64 = 125;
const SHORT_UP_ROUNDS: u32 = 2;
const SHORT_FOLLOW_GAIN: u64 = 130;
/// Where the RTT varies by itself, a probe is longer and lower: its answer is an average.
const NOISY_UP_GAIN: u64 = 115;
pub(super) const NOISY_UP_ROUNDS: u32 = 3;
/// After an overflow a queue shorter than this part of the smallest RTT, and than this, is none.
const EMPTY: u32 = 16;
const EMPTY_MIN: Duration = Duration::from_millis(1);
/// Excess over the estimate, in percent, that has to be offered before the answer to a probe counts.
const PROBED: u64 = 108;
/// The same over a path shorter than a round.
const SHORT_PROBED: u64 = 105;

impl Controller {
    /// Rounds that a probe lasts.
    pub(super) fn up_rounds(&self) -> u32 {
        if self.is_short() {
            SHORT_UP_ROUNDS
        } else if self.queue.is_noisy() {
            NOISY_UP_ROUNDS
        } else {
            1
        }
    }

    /// The overflow that is not to be repeated.
    fn heeded(&self) -> Option<Overflow> {
        self.overflowed.filter(|_| self.heeds_overflow)
    }

    /// By how much a probe may exceed the estimate, in percent, so that the queue does not overflow again so soon.
    fn excess_max(&self) -> u64 {
        let Some(overflow) = self.heeded() else { return UP_GAIN_MAX - 100 };
        // The last round, where the average was begun anew just now.
        let rtt = self.queue.recent(NOISY_ROUNDS).max(self.queue.min_rtt());
        let queue = self.queue.rise().max(rtt - self.queue.min_rtt());
        // An empty path is nobody's: machines that pause overflow a queue too, and take nothing by it.
        let empty = queue <= (self.queue.min_rtt() / EMPTY).max(EMPTY_MIN);
        let room = overflow.room((!empty).then_some(queue));
        let lasts = rtt.max(ROUND_MIN) * self.up_rounds();
        let percent = u64::try_from(room.as_nanos() * 100 / lasts.as_nanos()).unwrap_or(u64::MAX);
        percent.max(if empty { PROBED - 100 } else { 0 }).min(UP_GAIN - 100)
    }

    /// A probe would not overflow the queue.
    pub(super) fn has_room(&self) -> bool {
        100 + self.excess_max() >= PROBED
    }

    /// Begins a probe. Of what the sender's lateness leaves, the path is to see the whole.
    pub(super) fn probe(&mut self, now: Instant) {
        // What is acknowledged in the first rounds of a phase left in the one before, slower on purpose.
        let settled = if self.phase == Phase::Cruise && self.phase_rounds >= 3 { self.rounds.last(1) } else { None };
        let offered = settled.map_or(self.rate, |span| self.offered(&span));
        // Where the RTT varies by itself, less was offered to give a queue back as often as by a late sender.
        let paced = if self.queue.is_noisy() { self.rate.percent(self.lowest_gain) } else { self.rate };
        let late = paced.as_bps() * 100 / offered.as_bps().max(1);
        let (gain, most) = if self.queue.is_noisy() {
            (NOISY_UP_GAIN + 10 * self.answered.min(3), UP_GAIN_MAX)
        } else if self.is_short() {
            (SHORT_UP_GAIN, SHORT_UP_GAIN_MAX)
        } else {
            (UP_GAIN, UP_GAIN_MAX)
        };
        self.enter(now, Phase::Up, (gain * late.clamp(100, 200) / 100).min(most).min(100 + self.excess_max()));
    }

    /// A probe was answered with more: accelerate.
    pub(super) fn follow(&mut self, now: Instant, span: &Span) -> bool {
        if self.queue.is_noisy() {
            return self.probed && self.phase == Phase::Down && self.follow_noisy(now);
        }
        let short = self.is_short();
        let both = self.rounds.last(SHORT_UP_ROUNDS as usize).filter(|_| short);
        let span = both.as_ref().unwrap_or(span);
        let offered = self.offered(span);
        if !self.probed || offered < self.rate.percent(if short { SHORT_PROBED } else { PROBED }) {
            return false;
        }
        // Half of what was offered in excess is enough to tell: it arrived, and did not queue.
        let excess = (offered.as_bps() - self.rate.as_bps()) / 2;
        let grown = span.lasted.mul_f64(excess as f64 / self.rate.as_bps().max(1) as f64);
        if span.delivered.as_bps() < self.rate.as_bps() + excess || self.queue.queue() > self.queue.target().max(grown)
        {
            return false;
        }
        // What is free may be what a neighbour has left and comes back for: less than two probes in a row show.
        if self.heeded().is_some() && !self.has_room() {
            return false;
        }
        self.probed = false;
        self.rate = offered.min(span.delivered);
        if self.heeded().is_some() && self.answered == 0 {
            self.answered = 1;
            self.probed = true;
            self.probe(now);
            return true;
        }
        self.answered = 0;
        self.flat_base = self.rate;
        self.flat_rounds = 0;
        self.enter(now, Phase::Accelerate, if short { SHORT_FOLLOW_GAIN } else { FOLLOW_GAIN });
        true
    }

    /// A probe was answered with a little more: the estimate was a little low. Noise shows a little more as often as
    /// not, so that half of it is believed.
    pub(super) fn raise(&mut self, span: &Span) {
        let mean = if self.queue.is_noisy() { self.rounds.last(TOGETHER) } else { Some(*span) };
        let Some(span) = mean else { return };
        let more = self.offered(&span).min(span.delivered).as_bps().saturating_sub(self.rate.as_bps());
        self.rate = BitRate::from_bps(self.rate.as_bps() + more / 2);
    }
}
