//! Arguments, and the path that they describe.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Parser};
use longhaul::units::Instant;
use longhaul::wan::{Jitter, LinkConfig, Loss, Outage, Probability, Reorder, links};

use crate::values::{Directed, Values, duration};

/// Joins two network interfaces by an emulated WAN.
///
/// Rate, loss and queue count per segment of at most MTU size, also where the kernel hands over super-segments; bytes count
/// with the Ethernet header, without preamble, FCS and gap. Give the path as --link NAME, as --rate and --rtt, or as a link
/// with single values replaced. Counters come as one JSON object on SIGUSR1, after a change (SIGUSR2) and at the end (SIGTERM,
/// SIGINT).
#[derive(Clone, Debug, Parser)]
#[command(name = "wanem", version, group(ArgGroup::new("path").required(true).multiple(true).args(["link", "rate"])))]
#[command(group(ArgGroup::new("end-a").required(true).args(["a", "tap_a"])))]
#[command(group(ArgGroup::new("end-b").required(true).args(["b", "tap_b"])))]
pub struct Args {
    /// Interface at end a (AF_PACKET)
    #[arg(long, value_name = "IF")]
    pub a: Option<String>,
    /// Interface at end b (AF_PACKET)
    #[arg(long, value_name = "IF")]
    pub b: Option<String>,
    /// TAP at end a; made if there is none
    #[arg(long, value_name = "IF")]
    pub tap_a: Option<String>,
    /// TAP at end b; made if there is none
    #[arg(long, value_name = "IF")]
    pub tap_b: Option<String>,

    /// A link of the report: baseline, sonet, metro-low, metro, mpls
    #[arg(long, value_parser = named_link, value_name = "NAME")]
    pub link: Option<links::NamedLink>,
    /// Read the named link's latency as one-way instead of round-trip
    #[arg(long, requires = "link")]
    pub one_way: bool,
    /// Rate, delay, jitter, loss, queue
    #[command(flatten)]
    pub values: Values,
    /// Let segments overtake each other by jitter
    #[arg(long)]
    pub jitter_reorders: bool,
    /// Lose in bursts of this mean length (segments), --loss on average
    #[arg(long, value_parser = burst, value_name = "SEGMENTS")]
    pub burst: Option<u32>,
    /// Hold this share of segments back, so that later ones overtake them, e.g. 1%
    #[arg(long)]
    pub reorder: Option<Probability>,
    /// For how long they are held back
    #[arg(long, value_parser = duration, default_value = "1ms")]
    pub reorder_hold: Duration,
    /// Largest IP packet
    #[arg(long, default_value_t = 1500, value_parser = clap::value_parser!(u32).range(68..=65_535))]
    pub mtu: u32,
    /// The link is dead from START for LENGTH, counted from the program's start, e.g. 10s+30s; may be repeated
    #[arg(long, value_parser = outage, value_name = "START+LENGTH")]
    pub outage: Vec<(Duration, Duration)>,

    /// Seed of all random draws
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Write the counters to this file too
    #[arg(long, value_name = "FILE")]
    pub stats: Option<PathBuf>,
    /// On SIGUSR2 change the path as this file says: one option a line, without dashes, e.g. `rate 50 Mbps` or `ab-loss 1%`
    #[arg(long, value_name = "FILE")]
    pub changes: Option<PathBuf>,
    /// Record the queues in bins of this length, e.g. 5ms; they come with the counters
    #[arg(long, value_parser = bin, value_name = "TIME")]
    pub trace: Option<Duration>,
    /// Run with real-time priority, so that busy cores delay no frame
    #[arg(long)]
    pub realtime: bool,
}

impl Args {
    /// The links from a to b and from b to a, outages counted from `start`.
    pub fn links(&self, start: Instant) -> [LinkConfig; 2] {
        let directed = self.values.directed();
        let rtt = directed.iter().map(|values| self.delay_of(values)).sum();
        directed.map(|values| self.direction(&values, rtt, start))
    }

    fn base(&self) -> Option<links::NamedLink> {
        self.link.map(|link| if self.one_way { link.with_one_way_latency() } else { link })
    }

    fn delay_of(&self, values: &Directed) -> Duration {
        values.delay.or(self.base().map(|link| link.rtt / 2)).unwrap_or_default()
    }

    fn direction(&self, values: &Directed, rtt: Duration, start: Instant) -> LinkConfig {
        let base = self.base();
        let rate = values.rate.or(base.map(|link| link.rate)).expect("invariant: clap's group `path`");
        let jitter = values.jitter.or(base.map(|link| link.jitter)).unwrap_or_default();
        let loss = values.loss.or(base.map(|link| link.loss)).unwrap_or_default();
        let queue = values.queue.unwrap_or_else(|| LinkConfig::default_queue(rate, rtt));
        LinkConfig {
            jitter: Jitter { amplitude: jitter, reorders: self.jitter_reorders },
            loss: match self.burst {
                Some(mean_burst_milli) if loss > Probability::ZERO => Loss::Bursts { average: loss, mean_burst_milli },
                _ => Loss::random(loss),
            },
            reorder: self
                .reorder
                .map_or_else(Reorder::default, |probability| Reorder { probability, hold: self.reorder_hold }),
            queue,
            mtu: self.mtu,
            outages: self
                .outage
                .iter()
                .map(|&(from, length)| Outage { from: start + from, until: start + from + length })
                .collect(),
            ..LinkConfig::new(rate, self.delay_of(values))
        }
    }
}

fn named_link(name: &str) -> Result<links::NamedLink, String> {
    links::by_name(name).ok_or_else(|| format!("the links are: {}", links::ALL.map(|link| link.name).join(", ")))
}

/// A time above zero.
fn bin(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("a bin has a length".to_owned()),
        length => Ok(length),
    }
}

/// Segments, to thousandths.
fn burst(text: &str) -> Result<u32, String> {
    let segments: f64 = text.parse().map_err(|_| format!("`{text}` is not a number of segments"))?;
    if (1.0..=1e6).contains(&segments) {
        Ok((segments * 1e3).round() as u32)
    } else {
        Err("a mean burst is 1 to 1,000,000 segments long".to_owned())
    }
}

fn outage(text: &str) -> Result<(Duration, Duration), String> {
    let (start, length) = text.split_once('+').ok_or_else(|| format!("`{text}` is not START+LENGTH, as in 10s+30s"))?;
    Ok((duration(start)?, duration(length)?))
}

#[cfg(test)]
mod tests {
    use longhaul::units::BitRate;

    use super::*;

    fn links_of(line: &str) -> [LinkConfig; 2] {
        let ends = ["wanem", "--a", "x", "--b", "y"];
        Args::try_parse_from(ends.into_iter().chain(line.split_whitespace())).unwrap().links(Instant::ZERO)
    }

    #[test]
    fn a_named_link_is_the_shared_table_s() {
        for link in links::ALL {
            assert_eq!(links_of(&format!("--link {}", link.name)), [link.direction(), link.direction()]);
        }
        let one_way = links::METRO.with_one_way_latency().direction();
        assert_eq!(links_of("--link metro --one-way")[0], one_way);
    }

    #[test]
    fn single_values_replace_those_of_the_link_and_directions_those_of_both() {
        let [ab, ba] = links_of("--link mpls --loss 1% --ab-loss 2% --ba-rate 10mbit --ab-delay 2ms --burst 4");
        assert_eq!(ab.loss, Loss::Bursts { average: Probability::from_ppm(20_000), mean_burst_milli: 4_000 });
        assert_eq!(ba.loss, Loss::Bursts { average: Probability::from_ppm(10_000), mean_burst_milli: 4_000 });
        assert_eq!((ab.rate, ba.rate), (BitRate::from_mbps(100), BitRate::from_mbps(10)));
        assert_eq!((ab.delay, ba.delay), (Duration::from_millis(2), Duration::from_micros(12_500)));
        assert_eq!(ab.queue, LinkConfig::MIN_DEFAULT_QUEUE);
    }

    #[test]
    fn a_path_needs_a_rate_and_ends_need_an_interface_each() {
        for line in ["--a x --b y --rtt 5ms", "--a x --rate 1gbit", "--a x --tap-a z --b y --rate 1gbit"] {
            let line = ["wanem"].into_iter().chain(line.split_whitespace());
            assert!(Args::try_parse_from(line).is_err());
        }
    }

    #[test]
    fn bursts_and_outages_are_checked() {
        assert_eq!(outage("10s+30s"), Ok((Duration::from_secs(10), Duration::from_secs(30))));
        assert_eq!(burst("2.5"), Ok(2_500));
        assert!(burst("0.5").is_err() && burst("NaN").is_err());
        assert!(outage("10s").is_err());
        assert!(bin("0").is_err() && bin("5ms").is_ok());
    }
}
