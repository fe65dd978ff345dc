//! Random loss: independent, or in bursts (Gilbert-Elliott).

use std::fmt;
use std::str::FromStr;

use rand_pcg::Pcg64Mcg;
use rand_pcg::rand_core::Rng;

use super::LinkConfigError;

/// A probability in billionths: 0.001 % is 10,000 of them, exactly.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Probability(u32);

impl Probability {
    const ONE_PPB: u32 = 1_000_000_000;

    /// Never.
    pub const ZERO: Probability = Probability(0);

    /// Always.
    pub const ONE: Probability = Probability(Self::ONE_PPB);

    /// `ppb` billionths; more than all is [`Probability::ONE`].
    pub const fn from_ppb(ppb: u32) -> Self {
        if ppb > Self::ONE_PPB { Self::ONE } else { Probability(ppb) }
    }

    /// `ppm` millionths; more than all is [`Probability::ONE`].
    pub const fn from_ppm(ppm: u32) -> Self {
        Self::from_ppb(ppm.saturating_mul(1_000))
    }

    /// Billionths.
    pub const fn as_ppb(self) -> u32 {
        self.0
    }

    /// Whether a fair draw says yes.
    pub(super) fn draw(self, rng: &mut Pcg64Mcg) -> bool {
        Threshold::of(u128::from(self.0), u128::from(Self::ONE_PPB)).draw(rng)
    }
}

impl fmt::Display for Probability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = f64::from(self.0) / 1e7;
        write!(f, "{percent} %")
    }
}

/// The text is not a probability: a number and `%`.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{0}` is not a probability; write a number from 0 to 100 and a percent sign: 0.1%")]
pub struct ParseProbabilityError(String);

impl FromStr for Probability {
    type Err = ParseProbabilityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || ParseProbabilityError(text.to_owned());
        let trimmed = text.trim();
        let number = match trimmed.strip_suffix('%') {
            Some(number) => number.trim_end(),
            None if trimmed == "0" => trimmed,
            None => return Err(refuse()),
        };
        let percent: f64 = number.parse().map_err(|_| refuse())?;
        if !(0.0..=100.0).contains(&percent) {
            return Err(refuse());
        }
        Ok(Probability((percent * 1e7).round() as u32))
    }
}

/// A probability as a bound for 64 random bits; `None` is certainty, which no 64-bit bound can say.
#[derive(Clone, Copy, Debug)]
pub(super) struct Threshold(Option<u64>);

impl Threshold {
    /// `part / whole`; certainty where the part is not smaller.
    fn of(part: u128, whole: u128) -> Self {
        if part >= whole {
            return Threshold(None);
        }
        // Both parts are far below 2^88, so the shift cannot overflow, and 2^-40 is finer than any run can see.
        let scaled = (part << 40) / whole;
        Threshold(Some((scaled as u64) << 24))
    }

    fn draw(self, rng: &mut Pcg64Mcg) -> bool {
        let bits = rng.next_u64();
        self.0.is_none_or(|bound| bits < bound)
    }
}

/// How segments are lost at random.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Loss {
    /// Not at all.
    #[default]
    None,
    /// Each with the same probability, independently.
    Random(Probability),
    /// In bursts: the Gilbert model (Gilbert 1960; Elliott 1963 with nothing lost in the good state and everything in the bad).
    Bursts {
        /// Share of all segments lost in the long run.
        average: Probability,
        /// Mean length of a burst, in thousandths of a segment: 4000 is four segments.
        mean_burst_milli: u32,
    },
}

impl Loss {
    /// [`Loss::Random`], or [`Loss::None`] for zero.
    pub const fn random(probability: Probability) -> Self {
        if probability.as_ppb() == 0 { Loss::None } else { Loss::Random(probability) }
    }

    pub(super) fn check(self) -> Result<(), LinkConfigError> {
        let Loss::Bursts { average, mean_burst_milli } = self else { return Ok(()) };
        if mean_burst_milli < 1_000 {
            return Err(LinkConfigError::BurstBelowOne);
        }
        let (enter_part, enter_whole) = Self::enter(average, mean_burst_milli);
        if enter_part > enter_whole { Err(LinkConfigError::BurstsTooDense) } else { Ok(()) }
    }

    /// Probability of a burst's begin at a segment, as a fraction: with exit probability r = 1/burst and average p, it is
    /// p r / (1 - p), so that the stationary share of the bad state is p.
    fn enter(average: Probability, mean_burst_milli: u32) -> (u128, u128) {
        let p = u128::from(average.as_ppb());
        (p * 1_000, (u128::from(Probability::ONE_PPB) - p) * u128::from(mean_burst_milli))
    }
}

/// A [`Loss`] at work.
#[derive(Clone, Debug)]
pub(super) enum LossProcess {
    None,
    Random(Threshold),
    Bursts { enter: Threshold, exit: Threshold, bad: bool },
}

impl LossProcess {
    pub(super) fn new(loss: Loss) -> Self {
        match loss {
            Loss::None => LossProcess::None,
            Loss::Random(p) => {
                LossProcess::Random(Threshold::of(u128::from(p.as_ppb()), u128::from(Probability::ONE_PPB)))
            }
            Loss::Bursts { average, mean_burst_milli } => {
                let (part, whole) = Loss::enter(average, mean_burst_milli);
                let exit = Threshold::of(1_000, u128::from(mean_burst_milli));
                LossProcess::Bursts { enter: Threshold::of(part, whole), exit, bad: false }
            }
        }
    }

    /// Whether the next segment is lost.
    pub(super) fn strikes(&mut self, rng: &mut Pcg64Mcg) -> bool {
        match self {
            LossProcess::None => false,
            LossProcess::Random(threshold) => threshold.draw(rng),
            LossProcess::Bursts { enter, exit, bad } => {
                *bad = if *bad { !exit.draw(rng) } else { enter.draw(rng) };
                *bad
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rand_pcg::rand_core::SeedableRng;

    use super::*;

    fn losses(loss: Loss, segments: usize) -> Vec<bool> {
        loss.check().unwrap();
        let mut rng = Pcg64Mcg::seed_from_u64(7);
        let mut process = LossProcess::new(loss);
        (0..segments).map(|_| process.strikes(&mut rng)).collect()
    }

    fn lost(outcome: &[bool]) -> f64 {
        outcome.iter().filter(|&&l| l).count() as f64
    }

    #[test]
    fn independent_loss_stays_within_four_sigma() {
        for (ppm, segments) in [(10, 10_000_000), (1_000, 1_000_000), (20_000, 200_000), (500_000, 100_000)] {
            let p = f64::from(ppm) / 1e6;
            let expected = p * segments as f64;
            let sigma = (expected * (1.0 - p)).sqrt();
            let seen = lost(&losses(Loss::Random(Probability::from_ppm(ppm)), segments));
            assert!((seen - expected).abs() < 4.0 * sigma, "{ppm} ppm: {seen} lost, {expected} ± {sigma} expected");
        }
    }

    #[test]
    fn bursts_have_the_asked_average_and_mean_length() {
        let segments = 2_000_000;
        let outcome =
            losses(Loss::Bursts { average: Probability::from_ppm(10_000), mean_burst_milli: 5_000 }, segments);
        let bursts = outcome.windows(2).filter(|w| !w[0] && w[1]).count() as f64;
        let average = lost(&outcome) / segments as f64;
        let mean_length = lost(&outcome) / bursts;
        // 4,000 bursts: the average's relative sigma is about sqrt(2 * 5) / sqrt(20,000), the length's 1 / sqrt(4,000).
        assert!((average - 0.01).abs() < 0.001, "{average}");
        assert!((mean_length - 5.0).abs() < 0.3, "{mean_length}");
    }

    #[test]
    fn certainty_and_impossibility_are_exact() {
        assert_eq!(lost(&losses(Loss::Random(Probability::ONE), 1000)), 1000.0);
        assert_eq!(lost(&losses(Loss::Random(Probability::ZERO), 1000)), 0.0);
        assert_eq!(Loss::random(Probability::ZERO), Loss::None);
    }

    #[test]
    fn impossible_bursts_are_refused() {
        let bursts = |ppm, mean_burst_milli| Loss::Bursts { average: Probability::from_ppm(ppm), mean_burst_milli };
        assert_eq!(bursts(10_000, 999).check(), Err(LinkConfigError::BurstBelowOne));
        assert_eq!(bursts(900_000, 2_000).check(), Err(LinkConfigError::BurstsTooDense));
        assert_eq!(bursts(500_000, 2_000).check(), Ok(()));
        assert_eq!(bursts(1_000_000, 2_000).check(), Err(LinkConfigError::BurstsTooDense));
    }

    #[test]
    fn a_probability_reads_what_it_prints_and_needs_its_percent_sign() {
        for text in ["0.001 %", "0.005 %", "0.1 %", "100 %", "0 %"] {
            assert_eq!(text.parse::<Probability>().unwrap().to_string(), text);
        }
        assert_eq!("0.1%".parse(), Ok(Probability::from_ppm(1_000)));
        assert_eq!("0".parse(), Ok(Probability::ZERO));
        for text in ["0.1", "", "%", "-1%", "101%", "nan%", "inf%", "1e-3"] {
            assert!(text.parse::<Probability>().is_err(), "{text}");
        }
    }
}
