//! The queue on the path, told apart from delay that varies by itself.
//!
//! A standing queue raises every sample of a round, so it shows in the round's smallest; jitter raises single samples
//! (Copa's "standing RTT", NSDI 2018 section 2.2). Where jitter is slower than a round its smallest sample wanders too:
//! that wandering is measured, and what does not rise above it is no queue.

use std::collections::VecDeque;
use std::time::Duration;

use smallvec::SmallVec;

use super::rounds::RoundRtt;
use crate::units::Instant;

/// Queueing delay always tolerated: timers, interrupts and offloads of real machines.
const FLOOR: Duration = Duration::from_millis(1);
/// A round lasts at least this long. Below it the RTT is that of schedulers and interrupts rather than of the path, and
/// what arrives within it comes in lumps.
pub(super) const ROUND_MIN: Duration = Duration::from_millis(10);
/// Rounds over which the smallest RTT is averaged where it varies by itself.
pub(super) const NOISY_ROUNDS: usize = 8;
/// Over a path this long a queue of our own is a small part of the RTT.
const LONG: Duration = Duration::from_millis(40);
/// Rounds that the mean of all samples is taken over, about.
const MEAN_ROUNDS: u32 = 32;
/// Rounds in a row whose smallest RTT rose, or fell, that chance seldom makes.
const RAMP_ROUNDS: usize = 3;
/// Rounds without variation that show that there is none: chance leaves out a few.
const QUIET_ROUNDS: u32 = 8;
/// How long the smallest average counts, and in what steps it is forgotten.
const FLOOR_STEPS: usize = 20;
const FLOOR_STEP: Duration = Duration::from_secs(1);

/// What the RTT shows of the path's queue.
#[derive(Clone, Debug)]
pub(super) struct QueueEstimator {
    min_rtt: Duration,
    /// When a sample was last about as small as the smallest.
    pub(super) min_rtt_seen: Instant,
    /// The path has become so long, whatever the window of the smallest RTT still holds.
    longer: Option<Duration>,
    queue: Duration,
    /// How far the mean RTT of a round is from its smallest, and the smallest from that of the round before, in quiet
    /// rounds.
    spread: Duration,
    step: Duration,
    noisy: bool,
    /// Rounds in a row that it was known not to vary by itself.
    quiet_rounds: u32,
    /// It did so not long ago.
    varied: bool,
    /// The RTT of all samples, averaged over many rounds.
    mean: Duration,
    /// The last rounds: smallest RTT, spread, step.
    last: VecDeque<[Duration; 3]>,
    /// Smallest RTTs to be averaged.
    minima: VecDeque<Duration>,
    /// Smallest average of [`NOISY_ROUNDS`] minima, by steps of time.
    floors: VecDeque<(Instant, Duration)>,
}

impl QueueEstimator {
    pub(super) fn new(now: Instant, min_rtt: Duration) -> Self {
        QueueEstimator {
            min_rtt: min_rtt.max(Duration::from_micros(50)),
            min_rtt_seen: now,
            longer: None,
            queue: Duration::ZERO,
            spread: Duration::ZERO,
            step: Duration::ZERO,
            noisy: false,
            quiet_rounds: 0,
            varied: false,
            mean: Duration::ZERO,
            last: VecDeque::new(),
            minima: VecDeque::new(),
            floors: VecDeque::new(),
        }
    }

    /// Takes the RTT of an ack and the smallest of the window.
    pub(super) fn on_rtt(&mut self, now: Instant, rtt: Option<Duration>, min_rtt: Duration) {
        if self.longer.is_some_and(|longer| min_rtt > longer || rtt.is_some_and(|rtt| rtt + self.target() / 2 < longer))
        {
            self.longer = None;
        }
        let min_rtt = self.longer.unwrap_or(min_rtt);
        if rtt.is_some_and(|rtt| rtt <= min_rtt + self.target() / 2) {
            self.min_rtt_seen = now;
        }
        self.min_rtt = min_rtt.max(Duration::from_micros(50));
    }

    /// Takes a whole round.
    pub(super) fn on_round(&mut self, now: Instant, rtt: RoundRtt) {
        let step = self.last.back().map_or(Duration::ZERO, |last| last[0].abs_diff(rtt.min));
        let slope = if !self.noisy && self.is_ramp(rtt.min) { step } else { Duration::ZERO };
        self.last.push_back([rtt.min, rtt.mean.saturating_sub(rtt.min + slope / 2), step]);
        if self.last.len() > NOISY_ROUNDS {
            self.last.pop_front();
        }
        // A queue of ours grows and shrinks in some rounds; delay that varies by itself does so in all of them.
        if self.last.len() >= NOISY_ROUNDS / 2 {
            self.spread = self.ranked(1, 3);
            self.step = self.ranked(2, 2);
            let limit = (self.min_rtt / 16).max(FLOOR);
            self.noisy = self.spread > if self.noisy { limit * 3 / 4 } else { limit };
            self.quiet_rounds = if self.noisy { 0 } else { self.quiet_rounds.saturating_add(1) };
            self.varied = self.noisy || (self.varied && !self.is_quiet());
        }
        self.mean =
            if self.mean.is_zero() { rtt.mean } else { (self.mean * (MEAN_ROUNDS - 1) + rtt.mean) / MEAN_ROUNDS };
        self.minima.push_back(rtt.min);
        if self.minima.len() > NOISY_ROUNDS {
            self.minima.pop_front();
        }
        if self.minima.len() == NOISY_ROUNDS {
            self.note_floor(now, self.recent(NOISY_ROUNDS));
        }
        self.queue = if !self.is_noisy() {
            rtt.min.saturating_sub(self.min_rtt)
        } else if self.minima.len() == NOISY_ROUNDS {
            self.recent(NOISY_ROUNDS).saturating_sub(self.floor().unwrap_or(self.min_rtt))
        } else {
            Duration::ZERO
        };
    }

    /// A queue that grows or shrinks steadily moves all samples of a round, the later the more.
    fn is_ramp(&self, min: Duration) -> bool {
        let Some(first) = self.last.len().checked_sub(RAMP_ROUNDS) else { return false };
        let minima = || self.last.range(first..).map(|last| last[0]).chain([min]);
        minima().is_sorted_by(|earlier, later| earlier < later)
            || minima().is_sorted_by(|earlier, later| earlier > later)
    }

    /// Of one column of the last rounds, the value that one in `share` does not exceed.
    fn ranked(&self, column: usize, share: usize) -> Duration {
        let mut values: SmallVec<[Duration; NOISY_ROUNDS]> = self.last.iter().map(|row| row[column]).collect();
        values.sort_unstable();
        values.get(values.len() / share).copied().unwrap_or(Duration::ZERO)
    }

    fn note_floor(&mut self, now: Instant, average: Duration) {
        match self.floors.back_mut() {
            Some((since, floor)) if now - *since < FLOOR_STEP => *floor = (*floor).min(average),
            _ => self.floors.push_back((now, average)),
        }
        if self.floors.len() > FLOOR_STEPS {
            self.floors.pop_front();
        }
    }

    /// Mean of the smallest RTTs of the last `count` rounds.
    pub(super) fn recent(&self, count: usize) -> Duration {
        let count = count.min(self.minima.len()).max(1);
        self.minima.iter().rev().take(count).sum::<Duration>() / count as u32
    }

    /// What stands has not changed at all in the last rounds, however much was sent in them: no queue does that, the path
    /// has become longer. True where it was so.
    pub(super) fn lengthen(&mut self) -> bool {
        let still = self.last.len() == NOISY_ROUNDS && self.last.iter().all(|last| last[2] <= self.target() / 4);
        if still {
            self.min_rtt += self.rise();
            self.longer = Some(self.min_rtt);
            self.queue = Duration::ZERO;
        }
        still
    }

    /// Averages anew: what was averaged led to a decision already.
    pub(super) fn forget(&mut self) {
        self.minima.clear();
        if self.is_noisy() {
            self.queue = Duration::ZERO;
        }
    }

    /// Looks anew whether the RTT varies by itself: in the rounds so far it did by our own queue, as it grew and shrank.
    pub(super) fn forget_noise(&mut self) {
        self.last.clear();
        self.minima.clear();
        (self.spread, self.step, self.noisy) = (Duration::ZERO, Duration::ZERO, false);
    }

    /// The smallest average, as far as jitter explains it: a queue may have stood all the time.
    fn floor(&self) -> Option<Duration> {
        let most = self.min_rtt + (self.step * 3).max(self.min_rtt / 16).max(FLOOR);
        self.floors.iter().map(|(_, floor)| *floor).min().map(|floor| floor.min(most))
    }

    /// Queueing delay of the last whole round, or where the RTT varies by itself, of the last [`NOISY_ROUNDS`].
    pub(super) fn queue(&self) -> Duration {
        self.queue
    }

    /// The smallest RTT of the last round above the propagation delay.
    pub(super) fn rise(&self) -> Duration {
        self.last.back().map_or(Duration::ZERO, |last| last[0].saturating_sub(self.min_rtt))
    }

    /// The mean RTT of the last round; the smallest ever before there was one.
    pub(super) fn last_rtt(&self) -> Duration {
        self.last.back().map_or(self.min_rtt, |last| last[0] + last[1])
    }

    /// How far the RTT varies within a round by itself, as far as known.
    pub(super) fn jitter(&self) -> Duration {
        self.spread
    }

    /// More than this is a queue.
    pub(super) fn target(&self) -> Duration {
        let least = (self.min_rtt / 16).max(FLOOR);
        if self.is_noisy() { least.max(self.step * 5 / 4) } else { least.max(self.step * 2) }
    }

    /// More queue than there should be.
    pub(super) fn is_standing(&self) -> bool {
        self.queue > self.target()
    }

    /// Propagation delay.
    pub(super) fn min_rtt(&self) -> Duration {
        self.min_rtt
    }

    /// The RTT of an empty path, delay that varies by itself included.
    pub(super) fn base_rtt(&self) -> Duration {
        if self.min_rtt < ROUND_MIN {
            // Rounds are longer than the RTT, so that their smallest says little of the mean.
            return self.min_rtt.max(FLOOR) + (self.spread + self.step) * 3 / 2;
        }
        let floor = self.floor().filter(|_| self.is_noisy());
        floor.unwrap_or(self.min_rtt + self.step) + self.spread + self.step
    }

    /// The mean RTT of an empty path whose delay varies by itself.
    pub(super) fn mean_rtt(&self) -> Duration {
        self.floor().unwrap_or(self.min_rtt + self.step * 2) + self.spread
    }

    /// The mean RTT of the path without a queue where it varies by itself, or a little less, as part of what varies may be a
    /// queue all the same: more of it over short paths.
    pub(super) fn varying_rtt(&self) -> Option<Duration> {
        if self.min_rtt < LONG {
            return self.noisy.then(|| self.mean_rtt() * 7 / 8);
        }
        self.varied
            .then(|| self.mean.saturating_sub(self.queue.saturating_sub(self.target())).max(self.min_rtt) * 7 / 8)
    }

    /// It is well known that the RTT does not vary by itself.
    pub(super) fn is_quiet(&self) -> bool {
        self.quiet_rounds >= QUIET_ROUNDS
    }

    /// The RTT varies so much by itself that a single round proves little.
    pub(super) fn is_noisy(&self) -> bool {
        self.noisy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_rtt_that_rose_and_stays_is_a_longer_path_until_a_shorter_one_is_seen() {
        let mut queue = QueueEstimator::new(Instant::ZERO, ms(20));
        for number in 0..NOISY_ROUNDS as u64 {
            let min = if number == 4 { ms(48) } else { ms(40) };
            queue.on_round(Instant::from_millis(number * 40), RoundRtt { min, mean: min });
        }
        assert!(!queue.lengthen(), "it changed: a queue");
        for number in 0..NOISY_ROUNDS as u64 {
            queue.on_round(Instant::from_millis(400 + number * 40), RoundRtt { min: ms(40), mean: ms(40) });
        }
        assert!(queue.is_standing() && queue.lengthen());
        queue.on_rtt(Instant::from_millis(800), Some(ms(41)), ms(20));
        assert_eq!((queue.min_rtt(), queue.is_standing()), (ms(40), false));
        queue.on_rtt(Instant::from_millis(810), Some(ms(30)), ms(20));
        assert_eq!(queue.min_rtt(), ms(20));
    }

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_queue_that_stood_from_the_start_is_not_taken_for_jitter() {
        let mut queue = QueueEstimator::new(Instant::ZERO, ms(40));
        for number in 0..40 {
            let min = if number % 2 == 0 { ms(95) } else { ms(105) };
            queue.on_round(Instant::from_millis(number * 100), RoundRtt { min, mean: min + ms(6) });
        }
        assert!(queue.is_noisy() && queue.is_standing(), "{:?} of {:?}", queue.queue(), queue.target());
        assert!(queue.base_rtt() < ms(95), "{:?}", queue.base_rtt());
    }

    #[test]
    fn a_queue_that_grows_within_rounds_is_not_taken_for_jitter() {
        let is_noisy = |grows: u64| {
            let mut queue = QueueEstimator::new(Instant::ZERO, ms(25));
            for number in 0..10_u64 {
                let grown = number.saturating_sub(3);
                let (min, mean) = (ms(25 + grown * grows), ms(25 + grown * grows + 2 * grown.min(1)));
                queue.on_round(Instant::from_millis(number * 30), RoundRtt { min, mean });
            }
            queue.is_noisy()
        };
        assert!(!is_noisy(4), "half of its growth is what the mean shows");
        assert!(is_noisy(0));
    }

    #[test]
    fn a_steady_rise_is_a_queue_and_a_wandering_one_is_not() {
        let mut steady = QueueEstimator::new(Instant::ZERO, ms(40));
        steady.on_round(Instant::ZERO, RoundRtt { min: ms(50), mean: ms(51) });
        assert!(steady.is_standing() && !steady.is_noisy());
        let mut wandering = QueueEstimator::new(Instant::ZERO, ms(40));
        let round = |queue: &mut QueueEstimator, number: u64, min: Duration| {
            queue.on_round(Instant::from_millis(number * 50), RoundRtt { min, mean: min + ms(6) });
        };
        for number in 0..40 {
            round(&mut wandering, number, if number % 2 == 0 { ms(42) } else { ms(52) });
            let known = number >= 4;
            assert!(!known || !wandering.is_standing(), "{:?} of {:?}", wandering.queue(), wandering.target());
        }
        assert!(wandering.is_noisy());
        for number in 40..56 {
            round(&mut wandering, number, if number % 2 == 0 { ms(62) } else { ms(72) });
        }
        assert!(wandering.is_standing(), "{:?} of {:?}", wandering.queue(), wandering.target());
    }
}
