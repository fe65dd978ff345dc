//! The emulator's own timer error: how late frames leave against their schedule.

use serde::Serialize;

/// Sub-buckets per power of two: values are known to 1/32, about 3 %.
const SUB_BITS: u32 = 5;
const BUCKETS: usize = (64 - SUB_BITS as usize + 1) << SUB_BITS;

/// A histogram of delays in nanoseconds, of constant size whatever the run's length.
#[derive(Clone, Debug)]
pub struct Lateness {
    buckets: Box<[u64]>,
    count: u64,
    total_ns: u128,
    max_ns: u64,
}

/// What a report says of it.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct LatenessSummary {
    /// Frames released.
    pub count: u64,
    /// Mean, microseconds.
    pub mean_us: f64,
    /// Half of the frames were not later than this, microseconds.
    pub p50_us: f64,
    /// All but one in a hundred were not later than this, microseconds.
    pub p99_us: f64,
    /// The latest, microseconds.
    pub max_us: f64,
}

impl Default for Lateness {
    fn default() -> Self {
        Lateness { buckets: vec![0; BUCKETS].into_boxed_slice(), count: 0, total_ns: 0, max_ns: 0 }
    }
}

impl Lateness {
    /// Counts one frame.
    pub fn record(&mut self, late_ns: u64) {
        self.buckets[bucket(late_ns)] += 1;
        self.count += 1;
        self.total_ns += u128::from(late_ns);
        self.max_ns = self.max_ns.max(late_ns);
    }

    /// All so far.
    pub fn summary(&self) -> LatenessSummary {
        let mean = if self.count == 0 { 0.0 } else { self.total_ns as f64 / self.count as f64 };
        LatenessSummary {
            count: self.count,
            mean_us: to_us(mean),
            p50_us: to_us(self.quantile(50) as f64),
            p99_us: to_us(self.quantile(99) as f64),
            max_us: to_us(self.max_ns as f64),
        }
    }

    /// The upper end of the bucket that holds the quantile.
    fn quantile(&self, percent: u64) -> u64 {
        let wanted = (self.count * percent).div_ceil(100);
        let mut seen = 0;
        for (index, &count) in self.buckets.iter().enumerate() {
            seen += count;
            if count > 0 && seen >= wanted {
                return upper_end(index).min(self.max_ns);
            }
        }
        self.max_ns
    }
}

fn to_us(nanos: f64) -> f64 {
    (nanos / 10.0).round() / 100.0
}

fn bucket(value: u64) -> usize {
    let exponent = (u64::BITS - value.leading_zeros()).saturating_sub(SUB_BITS + 1);
    ((exponent as usize) << SUB_BITS) + (value >> exponent) as usize
}

fn upper_end(index: usize) -> u64 {
    let sub = 1_usize << SUB_BITS;
    let (exponent, mantissa) = if index < 2 * sub { (0, index) } else { (index / sub - 1, sub + index % sub) };
    (((mantissa as u128 + 1) << exponent) - 1).min(u128::from(u64::MAX)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_its_bucket_and_buckets_are_narrow() {
        for value in (0..60).map(|bits| 1_u64 << bits).flat_map(|v| [v - 1, v, v + v / 3, v + v / 2]) {
            let index = bucket(value);
            assert!(index < BUCKETS);
            assert!(upper_end(index) >= value && upper_end(index) <= value + value / 32, "{value}");
            assert!(index == 0 || upper_end(index - 1) < value, "{value}");
        }
        assert_eq!(upper_end(bucket(u64::MAX)), u64::MAX);
    }

    #[test]
    fn a_summary_tells_mean_median_tail_and_worst() {
        let mut lateness = Lateness::default();
        assert_eq!(lateness.summary().max_us, 0.0);
        for micros in 1..=100 {
            lateness.record(micros * 1_000);
        }
        let summary = lateness.summary();
        assert_eq!((summary.count, summary.mean_us, summary.max_us), (100, 50.5, 100.0));
        assert!((50.0..52.0).contains(&summary.p50_us), "{summary:?}");
        assert!((99.0..=100.0).contains(&summary.p99_us), "{summary:?}");
    }
}
