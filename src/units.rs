//! Units in types: instants of the engine's clock, bit rates, byte counts and weights.

use std::fmt;
use std::ops::{Add, AddAssign, Mul, Sub, SubAssign};
use std::str::FromStr;
use std::time::Duration;

/// A moment on the engine's clock: nanoseconds since the clock's arbitrary start.
///
/// Not `std::time::Instant`, which only a real clock can make: below level 4 time is always an argument, and the
/// simulator's clock starts at zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Instant(u64);

impl Instant {
    /// The clock's start.
    pub const ZERO: Instant = Instant(0);

    /// The moment `nanos` nanoseconds after the clock's start.
    pub const fn from_nanos(nanos: u64) -> Self {
        Instant(nanos)
    }

    /// The moment `micros` microseconds after the clock's start.
    pub const fn from_micros(micros: u64) -> Self {
        Instant(micros * 1_000)
    }

    /// The moment `millis` milliseconds after the clock's start.
    pub const fn from_millis(millis: u64) -> Self {
        Instant(millis * 1_000_000)
    }

    /// Nanoseconds since the clock's start.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Whole microseconds since the clock's start.
    pub const fn as_micros(self) -> u64 {
        self.0 / 1_000
    }

    /// Time passed since `earlier`; zero if `earlier` is later (clocks of two threads may cross by nanoseconds).
    pub const fn saturating_since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;
    fn add(self, rhs: Duration) -> Instant {
        Instant(self.0.saturating_add(nanos(rhs)))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, rhs: Duration) {
        *self = *self + rhs;
    }
}

impl Sub<Duration> for Instant {
    type Output = Instant;
    /// Saturates at the clock's start.
    fn sub(self, rhs: Duration) -> Instant {
        Instant(self.0.saturating_sub(nanos(rhs)))
    }
}

impl Sub for Instant {
    type Output = Duration;
    /// Saturates at zero, as [`Instant::saturating_since`].
    fn sub(self, rhs: Instant) -> Duration {
        self.saturating_since(rhs)
    }
}

/// Nanoseconds of a duration; 584 years, which no clock here reaches, stand for all that is longer.
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Bits of a byte times nanoseconds of a second.
const BIT_NANOS: u64 = 8_000_000_000;

/// `a * b / divisor`, rounded down; saturates.
///
/// Asked for with every datagram: 64 bits are enough for a second of 18 Gbps, and divide faster.
///
/// # Panics
/// When the divisor is zero.
#[inline]
fn mul_div(a: u64, b: u64, divisor: u64) -> u64 {
    match a.checked_mul(b) {
        Some(product) => product / divisor,
        None => u64::try_from(u128::from(a) * u128::from(b) / u128::from(divisor)).unwrap_or(u64::MAX),
    }
}

/// Bytes: of a queue, a buffer, a counter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ByteCount(u64);

impl ByteCount {
    /// No bytes.
    pub const ZERO: ByteCount = ByteCount(0);

    /// `bytes` bytes.
    pub const fn new(bytes: u64) -> Self {
        ByteCount(bytes)
    }

    /// `kib` units of 1024 bytes.
    pub const fn from_kib(kib: u64) -> Self {
        ByteCount(kib * 1024)
    }

    /// `mib` units of 1024 x 1024 bytes.
    pub const fn from_mib(mib: u64) -> Self {
        ByteCount(mib * 1024 * 1024)
    }

    /// The number of bytes.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The number of bytes, for indexing; saturates where `usize` is narrower.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    /// `self - rhs`, or zero.
    pub const fn saturating_sub(self, rhs: ByteCount) -> ByteCount {
        ByteCount(self.0.saturating_sub(rhs.0))
    }
}

impl From<usize> for ByteCount {
    fn from(bytes: usize) -> Self {
        ByteCount(bytes as u64)
    }
}

impl Add for ByteCount {
    type Output = ByteCount;
    fn add(self, rhs: ByteCount) -> ByteCount {
        ByteCount(self.0.saturating_add(rhs.0))
    }
}

impl AddAssign for ByteCount {
    fn add_assign(&mut self, rhs: ByteCount) {
        *self = *self + rhs;
    }
}

impl Sub for ByteCount {
    type Output = ByteCount;
    fn sub(self, rhs: ByteCount) -> ByteCount {
        self.saturating_sub(rhs)
    }
}

impl SubAssign for ByteCount {
    fn sub_assign(&mut self, rhs: ByteCount) {
        *self = *self - rhs;
    }
}

impl fmt::Display for ByteCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const STEPS: [(u64, &str); 3] = [(1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
        for (step, suffix) in STEPS {
            if self.0 >= step {
                return write!(f, "{:.1} {suffix}", self.0 as f64 / step as f64);
            }
        }
        write!(f, "{} B", self.0)
    }
}

/// A rate in bits per second (RFC 2647 line rate, goodput and throughput are all of this type).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct BitRate(u64);

impl BitRate {
    /// Nothing moves.
    pub const ZERO: BitRate = BitRate(0);

    /// `bps` bits per second.
    pub const fn from_bps(bps: u64) -> Self {
        BitRate(bps)
    }

    /// `kbps` thousand bits per second.
    pub const fn from_kbps(kbps: u64) -> Self {
        BitRate(kbps * 1_000)
    }

    /// `mbps` million bits per second.
    pub const fn from_mbps(mbps: u64) -> Self {
        BitRate(mbps * 1_000_000)
    }

    /// The rate at which `bytes` pass in `interval`; zero for an empty interval.
    pub fn from_transfer(bytes: ByteCount, interval: Duration) -> Self {
        match nanos(interval) {
            0 => BitRate::ZERO,
            nanos => BitRate(mul_div(bytes.as_u64(), BIT_NANOS, nanos)),
        }
    }

    /// Bits per second.
    pub const fn as_bps(self) -> u64 {
        self.0
    }

    /// Bytes that pass in `interval` at this rate: the BDP, when `interval` is the RTT.
    pub fn bytes_in(self, interval: Duration) -> ByteCount {
        ByteCount(mul_div(self.0, nanos(interval), BIT_NANOS))
    }

    /// How long `bytes` take at this rate; [`Duration::MAX`] at rate zero.
    pub fn time_for(self, bytes: ByteCount) -> Duration {
        if self.0 == 0 {
            return Duration::MAX;
        }
        Duration::from_nanos(mul_div(bytes.as_u64(), BIT_NANOS, self.0))
    }

    /// This rate times `percent` / 100.
    pub fn percent(self, percent: u64) -> BitRate {
        BitRate(mul_div(self.0, percent, 100))
    }

    /// This rate times `permille` / 1000.
    pub fn permille(self, permille: u64) -> BitRate {
        BitRate(mul_div(self.0, permille, 1000))
    }
}

impl Mul<u64> for BitRate {
    type Output = BitRate;
    fn mul(self, rhs: u64) -> BitRate {
        BitRate(self.0.saturating_mul(rhs))
    }
}

impl fmt::Display for BitRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const STEPS: [(u64, &str); 3] = [(1_000_000_000, "Gbps"), (1_000_000, "Mbps"), (1_000, "kbps")];
        for (step, suffix) in STEPS {
            if self.0 >= step {
                let scaled = self.0 as f64 / step as f64;
                let digits = if self.0.is_multiple_of(step) { 0 } else { 2 };
                return write!(f, "{scaled:.digits$} {suffix}");
            }
        }
        write!(f, "{} bps", self.0)
    }
}

/// The text is not a rate: a number, then one of `bps kbps Mbps Gbps` (case is ignored, a space is allowed).
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{0}` is not a rate; write a number and a unit: 100 Mbps, 2.5 Gbps, 800 kbps")]
pub struct ParseBitRateError(String);

impl FromStr for BitRate {
    type Err = ParseBitRateError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || ParseBitRateError(text.to_owned());
        let trimmed = text.trim();
        let split = trimmed.find(|c: char| !(c.is_ascii_digit() || c == '.')).ok_or_else(refuse)?;
        let (number, unit) = trimmed.split_at(split);
        let scale = match unit.trim().to_ascii_lowercase().as_str() {
            "bps" | "bit/s" => 1.0,
            "kbps" | "kbit" | "kbit/s" => 1e3,
            "mbps" | "mbit" | "mbit/s" => 1e6,
            "gbps" | "gbit" | "gbit/s" => 1e9,
            _ => return Err(refuse()),
        };
        let bps = number.parse::<f64>().map_err(|_| refuse())? * scale;
        if !(1.0..=1e15).contains(&bps) {
            return Err(refuse());
        }
        Ok(BitRate(bps.round() as u64))
    }
}

/// How much of a line one of several that want it gets: each in proportion to its weight.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Weight(u8);

impl Weight {
    /// The smallest.
    pub const MIN: Weight = Weight(1);
    /// The largest.
    pub const MAX: Weight = Weight(100);

    /// `weight`, if it is 1 to 100.
    pub const fn new(weight: u8) -> Option<Self> {
        if weight >= Self::MIN.0 && weight <= Self::MAX.0 { Some(Weight(weight)) } else { None }
    }

    /// The bare number.
    pub const fn as_u8(self) -> u8 {
        self.0
    }
}

/// Ten: there is room for less.
impl Default for Weight {
    fn default() -> Self {
        Weight(10)
    }
}

impl From<Weight> for u64 {
    fn from(weight: Weight) -> u64 {
        weight.0.into()
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_reads_what_it_prints() {
        for text in ["100 Mbps", "1 Gbps", "800 kbps", "12 bps", "2.50 Gbps"] {
            assert_eq!(text.parse::<BitRate>().unwrap().to_string(), text);
        }
        assert_eq!("1gbit".parse::<BitRate>().unwrap(), BitRate::from_mbps(1000));
    }

    #[test]
    fn a_weight_is_one_to_a_hundred() {
        assert_eq!([0, 101, 255].map(Weight::new), [None; 3]);
        assert_eq!([1, 100].map(Weight::new), [Some(Weight::MIN), Some(Weight::MAX)]);
        assert_eq!(Weight::new(10), Some(Weight::default()));
    }

    #[test]
    fn a_rate_without_unit_or_value_is_refused() {
        for text in ["", "100", "Mbps", "-1 Mbps", "1 furlong", "0 bps", "1e400 Gbps", "1.2.3 Mbps"] {
            assert!(text.parse::<BitRate>().is_err(), "{text}");
        }
    }

    #[test]
    fn bytes_and_time_are_inverse() {
        let rate = BitRate::from_mbps(100);
        assert_eq!(rate.bytes_in(Duration::from_millis(25)), ByteCount::new(312_500));
        assert_eq!(rate.time_for(ByteCount::new(312_500)), Duration::from_millis(25));
        assert_eq!(BitRate::from_transfer(ByteCount::new(312_500), Duration::from_millis(25)), rate);
        assert_eq!(BitRate::ZERO.time_for(ByteCount::new(1)), Duration::MAX);
    }

    #[test]
    fn products_beyond_64_bits_are_exact_and_results_beyond_saturate() {
        for (a, b, divisor) in [
            (0, u64::MAX, 1),
            (u64::MAX, 1, u64::MAX),
            (u64::MAX, 1, 2),
            (u64::MAX, u64::MAX, u64::MAX),
            (u64::MAX, u64::MAX, u64::MAX - 1),
            (u64::MAX, 2, 1),
            (u64::MAX, 101, 100),
            (1 << 32, 1 << 32, 3),
            ((1 << 32) - 1, (1 << 32) + 1, 7),
            (18_446_744_073, 1_000_000_000, BIT_NANOS),
            (18_446_744_074, 1_000_000_000, BIT_NANOS),
        ] {
            let exact = u128::from(a) * u128::from(b) / u128::from(divisor);
            assert_eq!(mul_div(a, b, divisor), u64::try_from(exact).unwrap_or(u64::MAX), "{a} * {b} / {divisor}");
        }
    }

    #[test]
    fn rates_round_down_and_never_wrap() {
        let (most, all, ever) = (BitRate::from_bps(u64::MAX), ByteCount::new(u64::MAX), Duration::MAX);
        assert_eq!(BitRate::from_bps(7_999_999_999).bytes_in(Duration::from_nanos(1)), ByteCount::ZERO);
        assert_eq!(BitRate::from_bps(8_000_000_000).bytes_in(Duration::from_nanos(1)), ByteCount::new(1));
        assert_eq!(most.bytes_in(Duration::from_secs(1)), ByteCount::new(u64::MAX / 8));
        assert_eq!((most.bytes_in(ever), BitRate::ZERO.bytes_in(ever)), (all, ByteCount::ZERO));
        assert_eq!(BitRate::from_bps(3).time_for(ByteCount::new(1)), Duration::from_nanos(2_666_666_666));
        assert_eq!(most.time_for(all), Duration::from_secs(8));
        assert_eq!(BitRate::from_bps(1).time_for(all), Duration::from_nanos(u64::MAX));
        assert_eq!(BitRate::from_bps(199).percent(50), BitRate::from_bps(99));
        assert_eq!((most.percent(100), most.percent(101), most.percent(0)), (most, most, BitRate::ZERO));
        assert_eq!(BitRate::from_transfer(all, Duration::from_nanos(1)), most);
        assert_eq!(BitRate::from_transfer(all, Duration::from_secs(8)), most);
        assert_eq!(BitRate::from_transfer(ByteCount::new(1), Duration::from_secs(9)), BitRate::ZERO);
        assert_eq!(BitRate::from_transfer(all, Duration::ZERO), BitRate::ZERO);
    }

    #[test]
    fn instants_never_wrap() {
        assert_eq!(Instant::ZERO - Duration::from_secs(1), Instant::ZERO);
        assert_eq!(Instant::ZERO - Instant::from_millis(1), Duration::ZERO);
        assert_eq!(Instant::from_millis(1) + Duration::MAX, Instant::from_nanos(u64::MAX));
    }
}
