//! Delay variation, with the order of segments kept or not.

use std::time::Duration;

use rand_pcg::Pcg64Mcg;
use rand_pcg::rand_core::Rng;

use crate::units::Instant;

/// How the delay varies around its mean.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Jitter {
    /// The delay stays within ± this; uniform draws.
    pub amplitude: Duration,
    /// Whether each segment has a delay of its own, so that segments overtake each other.
    pub reorders: bool,
}

impl Jitter {
    /// A constant delay.
    pub const NONE: Jitter = Jitter { amplitude: Duration::ZERO, reorders: false };

    /// The default kind: the delay of the whole link wanders and order is kept.
    ///
    /// Every 3 x amplitude a new target is drawn, uniform in ± amplitude, and the delay moves there in a straight line: at
    /// most 2/3 of a second per second, so a segment never catches up with the one before, as in a FIFO behind other
    /// traffic. Drawing for each segment and clamping to the delivery before, the obvious other way, would make a busy
    /// link's mean delay its maximum.
    pub const fn ordered(amplitude: Duration) -> Self {
        Jitter { amplitude, reorders: false }
    }

    /// Each segment's delay is drawn independently, uniform in ± amplitude: segments overtake each other.
    pub const fn reordering(amplitude: Duration) -> Self {
        Jitter { amplitude, reorders: true }
    }
}

/// Nanoseconds of line time between two targets of the wandering delay, per nanosecond of amplitude.
const TARGET_SPACING: u64 = 3;

/// A [`Jitter`] at work.
#[derive(Clone, Debug)]
pub(super) struct JitterProcess {
    amplitude: i64,
    reorders: bool,
    /// The interval between targets that the last draw fell into, and the targets at its ends.
    interval: Option<u64>,
    targets: [i64; 2],
}

impl JitterProcess {
    pub(super) fn new(jitter: Jitter) -> Self {
        let amplitude = i64::try_from(jitter.amplitude.as_nanos()).unwrap_or(i64::MAX / 8).min(i64::MAX / 8);
        JitterProcess { amplitude, reorders: jitter.reorders, interval: None, targets: [0, 0] }
    }

    /// Deviation from the mean delay, in nanoseconds, of a segment that leaves the line at `departure`.
    pub(super) fn deviation(&mut self, departure: Instant, rng: &mut Pcg64Mcg) -> i64 {
        if self.amplitude == 0 {
            return 0;
        }
        if self.reorders {
            return uniform(self.amplitude, rng);
        }
        let spacing = self.amplitude.unsigned_abs() * TARGET_SPACING;
        let interval = departure.as_nanos() / spacing;
        if self.interval != Some(interval) {
            let follows = self.interval.is_some_and(|last| last + 1 == interval);
            let from = if follows { self.targets[1] } else { uniform(self.amplitude, rng) };
            self.targets = [from, uniform(self.amplitude, rng)];
            self.interval = Some(interval);
        }
        let [from, to] = self.targets.map(i128::from);
        let passed = i128::from(departure.as_nanos() % spacing);
        let deviation = from + (to - from) * passed / i128::from(spacing);
        i64::try_from(deviation).expect("invariant: between two targets, both i64")
    }
}

/// Uniform in ± `amplitude`.
fn uniform(amplitude: i64, rng: &mut Pcg64Mcg) -> i64 {
    let width = 2 * amplitude.unsigned_abs() + 1;
    // Multiply-shift: biased by 2^-64 x width, which nothing here can see.
    let drawn = ((u128::from(rng.next_u64()) * u128::from(width)) >> 64) as i64;
    drawn - amplitude
}

#[cfg(test)]
mod tests {
    use rand_pcg::rand_core::SeedableRng;

    use super::*;

    const AMPLITUDE: Duration = Duration::from_millis(3);

    fn deviations(jitter: Jitter, every: Duration, segments: u32) -> Vec<i64> {
        let mut rng = Pcg64Mcg::seed_from_u64(3);
        let mut process = JitterProcess::new(jitter);
        (0..segments).map(|i| process.deviation(Instant::ZERO + every * i, &mut rng)).collect()
    }

    #[test]
    fn both_kinds_fill_the_range_around_a_zero_mean() {
        for jitter in [Jitter::ordered(AMPLITUDE), Jitter::reordering(AMPLITUDE)] {
            let seen = deviations(jitter, Duration::from_micros(500), 200_000);
            let mean = seen.iter().sum::<i64>() / seen.len() as i64;
            assert!(mean.abs() < 60_000, "{jitter:?}: mean {mean} ns");
            let (min, max) = (seen.iter().min().unwrap(), seen.iter().max().unwrap());
            assert!((-3_000_000..-2_900_000).contains(min), "{jitter:?}: min {min}");
            assert!((2_900_000..=3_000_000).contains(max), "{jitter:?}: max {max}");
        }
    }

    #[test]
    fn a_wandering_delay_never_falls_faster_than_time_passes() {
        let every = Duration::from_micros(10);
        for pair in deviations(Jitter::ordered(AMPLITUDE), every, 500_000).windows(2) {
            assert!(pair[1] - pair[0] > -10_000, "{pair:?}");
        }
    }

    #[test]
    fn a_wandering_delay_forgets_over_a_pause() {
        let seen = deviations(Jitter::ordered(AMPLITUDE), Duration::from_millis(100), 1_000);
        let far = seen.windows(2).filter(|w| (w[1] - w[0]).abs() > 1_000_000).count();
        assert!(far > 300, "only {far} of 1,000 neighbours differ by more than 1 ms");
    }
}
