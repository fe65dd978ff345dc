//! The values of a path that may differ by direction: on the command line, and in a file of changes.

use std::time::Duration;

use longhaul::units::{BitRate, ByteCount};
use longhaul::wan::{Jitter, LinkConfig, Loss, Probability};

/// As given; for both directions, and what replaces it in one.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Values {
    /// Line rate, e.g. "100 Mbps"
    #[arg(long)]
    pub rate: Option<BitRate>,
    /// Round-trip time, half of it each way, e.g. 25ms
    #[arg(long, value_parser = duration, conflicts_with = "delay")]
    pub rtt: Option<Duration>,
    /// Delay, one way
    #[arg(long, value_parser = duration)]
    pub delay: Option<Duration>,
    /// The delay varies within plus/minus this; order is kept
    #[arg(long, value_parser = duration)]
    pub jitter: Option<Duration>,
    /// Random loss, e.g. 0.1%
    #[arg(long)]
    pub loss: Option<Probability>,
    /// Drop-tail queue, e.g. 312500 or 256KiB [default: one bandwidth-delay product, at least 256KiB]
    #[arg(long, value_parser = bytes, value_name = "BYTES")]
    pub queue: Option<ByteCount>,

    /// Line rate from a to b only
    #[arg(long)]
    pub ab_rate: Option<BitRate>,
    /// Delay from a to b only
    #[arg(long, value_parser = duration)]
    pub ab_delay: Option<Duration>,
    /// Jitter from a to b only
    #[arg(long, value_parser = duration)]
    pub ab_jitter: Option<Duration>,
    /// Loss from a to b only
    #[arg(long)]
    pub ab_loss: Option<Probability>,
    /// Queue from a to b only
    #[arg(long, value_parser = bytes, value_name = "BYTES")]
    pub ab_queue: Option<ByteCount>,
    /// Line rate from b to a only
    #[arg(long)]
    pub ba_rate: Option<BitRate>,
    /// Delay from b to a only
    #[arg(long, value_parser = duration)]
    pub ba_delay: Option<Duration>,
    /// Jitter from b to a only
    #[arg(long, value_parser = duration)]
    pub ba_jitter: Option<Duration>,
    /// Loss from b to a only
    #[arg(long)]
    pub ba_loss: Option<Probability>,
    /// Queue from b to a only
    #[arg(long, value_parser = bytes, value_name = "BYTES")]
    pub ba_queue: Option<ByteCount>,
}

/// What was given for one direction.
#[derive(Clone, Copy, Debug)]
pub struct Directed {
    /// Line rate.
    pub rate: Option<BitRate>,
    /// Delay, one way.
    pub delay: Option<Duration>,
    /// Jitter's amplitude.
    pub jitter: Option<Duration>,
    /// Loss on average.
    pub loss: Option<Probability>,
    /// Queue.
    pub queue: Option<ByteCount>,
}

impl Values {
    /// From a to b, and from b to a.
    pub fn directed(&self) -> [Directed; 2] {
        let delay = self.delay.or(self.rtt.map(|rtt| rtt / 2));
        let both = Directed { rate: self.rate, delay, jitter: self.jitter, loss: self.loss, queue: self.queue };
        let ab = Directed {
            rate: self.ab_rate,
            delay: self.ab_delay,
            jitter: self.ab_jitter,
            loss: self.ab_loss,
            queue: self.ab_queue,
        };
        let ba = Directed {
            rate: self.ba_rate,
            delay: self.ba_delay,
            jitter: self.ba_jitter,
            loss: self.ba_loss,
            queue: self.ba_queue,
        };
        [ab.or(both), ba.or(both)]
    }
}

impl Directed {
    fn or(self, other: Directed) -> Directed {
        Directed {
            rate: self.rate.or(other.rate),
            delay: self.delay.or(other.delay),
            jitter: self.jitter.or(other.jitter),
            loss: self.loss.or(other.loss),
            queue: self.queue.or(other.queue),
        }
    }

    /// `config` with these values in it. Bursts keep their length, a queue its bytes.
    pub fn applied_to(&self, config: &LinkConfig) -> LinkConfig {
        let loss = match (self.loss, config.loss) {
            (None, loss) => loss,
            (Some(average), Loss::Bursts { mean_burst_milli, .. }) if average > Probability::ZERO => {
                Loss::Bursts { average, mean_burst_milli }
            }
            (Some(average), _) => Loss::random(average),
        };
        LinkConfig {
            rate: self.rate.unwrap_or(config.rate),
            delay: self.delay.unwrap_or(config.delay),
            jitter: Jitter { amplitude: self.jitter.unwrap_or(config.jitter.amplitude), ..config.jitter },
            loss,
            queue: self.queue.unwrap_or(config.queue),
            ..config.clone()
        }
    }
}

/// A number and `us`, `ms` or `s`; a bare zero needs no unit.
pub fn duration(text: &str) -> Result<Duration, String> {
    let refuse = || format!("`{text}` is not a time; write a number and a unit: 300us, 25ms, 1.5s");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).ok_or_else(refuse)?;
    let scale = match text[split..].trim_start() {
        "ns" => 1e-9,
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        _ => return Err(refuse()),
    };
    let seconds = text[..split].parse::<f64>().map_err(|_| refuse())? * scale;
    if seconds > 1e6 {
        return Err(refuse());
    }
    Ok(Duration::from_nanos((seconds * 1e9).round() as u64))
}

/// A whole number of bytes, or of `kB`, `KiB`, `MB`, `MiB`.
pub fn bytes(text: &str) -> Result<ByteCount, String> {
    let refuse = || format!("`{text}` is not a size; write bytes, or a number and kB, KiB, MB or MiB");
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let scale = match text[split..].trim_start() {
        "" | "B" => 1,
        "kB" => 1_000,
        "KiB" => 1_024,
        "MB" => 1_000_000,
        "MiB" => 1_048_576,
        _ => return Err(refuse()),
    };
    let number: u64 = text[..split].parse().map_err(|_| refuse())?;
    number.checked_mul(scale).map(ByteCount::new).ok_or_else(refuse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_need_their_units() {
        assert_eq!(duration("1.5ms"), Ok(Duration::from_micros(1_500)));
        assert_eq!(bytes("256KiB"), Ok(ByteCount::from_kib(256)));
        for text in ["5", "ms", "5 parsecs", "-1ms", "1e9s"] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert!(bytes("99999999999999999999").is_err() && bytes("1.5MB").is_err());
    }

    #[test]
    fn a_direction_s_own_values_replace_those_of_both_and_the_rest_stays() {
        let values = Values {
            rate: Some(BitRate::from_mbps(50)),
            ba_rate: Some(BitRate::from_mbps(7)),
            rtt: Some(Duration::from_millis(8)),
            loss: Some(Probability::from_ppm(20_000)),
            ..Values::default()
        };
        let before = LinkConfig {
            loss: Loss::Bursts { average: Probability::from_ppm(10_000), mean_burst_milli: 4_000 },
            ..LinkConfig::new(BitRate::from_mbps(100), Duration::from_millis(12))
        };
        let [ab, ba] = values.directed().map(|directed| directed.applied_to(&before));
        assert_eq!((ab.rate, ba.rate), (BitRate::from_mbps(50), BitRate::from_mbps(7)));
        assert_eq!((ab.delay, ba.delay), (Duration::from_millis(4), Duration::from_millis(4)));
        assert_eq!(ab.loss, Loss::Bursts { average: Probability::from_ppm(20_000), mean_burst_milli: 4_000 });
        assert_eq!((ab.queue, ab.mtu, ab.jitter), (before.queue, before.mtu, before.jitter));
    }
}
