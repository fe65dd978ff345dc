//! The path between the appliances, as a test names it: `longhaul::wan` links and the goodput they leave.

use std::time::Duration;

use longhaul::units::{BitRate, ByteCount};
use longhaul::wan::{Jitter, Link, LinkConfig, Loss, Path, Probability, links};

/// Bytes that a UDP datagram takes on the line beside its payload: Ethernet 14, IPv4 20, UDP 8.
pub const DATAGRAM_OVERHEAD: usize = 42;
/// The least queue of a path of our own making: 100 full packets.
const QUEUE_MIN: u64 = 151_400;

/// Both directions of a path, which are alike.
#[derive(Clone, Debug)]
pub struct PathSpec {
    /// What tables and failures call it.
    pub name: String,
    /// Propagation, there and back.
    pub rtt: Duration,
    /// One direction.
    pub link: LinkConfig,
}

impl PathSpec {
    /// A path with a queue of `queue_bdp` x BDP, but no less than 100 full packets.
    pub fn new(rate: BitRate, rtt: Duration, queue_bdp: f64) -> Self {
        let mut link = LinkConfig::new(rate, rtt / 2);
        let bdp = rate.bytes_in(rtt).as_u64() as f64;
        link.queue = ByteCount::new(((bdp * queue_bdp) as u64).max(QUEUE_MIN));
        PathSpec { name: format!("{rate}, {rtt:?}"), rtt, link }
    }

    /// With this loss in per cent, in bursts of mean length `burst` (1: each packet on its own).
    pub fn loss(mut self, percent: f64, burst: f64) -> Self {
        let average = Probability::from_ppb((percent * 1e7).round() as u32);
        self.link.loss = match burst {
            burst if burst > 1.0 => Loss::Bursts { average, mean_burst_milli: (burst * 1e3) as u32 },
            _ => Loss::random(average),
        };
        self
    }

    /// With this jitter.
    pub fn jitter(mut self, jitter: Jitter) -> Self {
        self.link.jitter = jitter;
        self
    }

    /// Called so.
    pub fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// The five links of the report, latency as round trip.
    pub fn report() -> Vec<PathSpec> {
        let spec =
            |link: links::NamedLink| PathSpec { name: link.name.to_owned(), rtt: link.rtt, link: link.direction() };
        links::ALL.into_iter().map(spec).collect()
    }

    /// Line rate.
    pub fn rate(&self) -> BitRate {
        self.link.rate
    }

    /// Share of packets lost at random.
    pub fn loss_share(&self) -> f64 {
        let (Loss::Random(average) | Loss::Bursts { average, .. }) = self.link.loss else { return 0.0 };
        f64::from(average.as_ppb()) / 1e9
    }

    /// Goodput that headers and loss leave: 1440 of a full packet's bytes on the wire, less the lost share.
    pub fn ceiling(&self) -> BitRate {
        BitRate::from_bps((self.rate().as_bps() as f64 * 1440.0 / 1514.0 * (1.0 - self.loss_share())) as u64)
    }

    /// A session should have 90 % of the ceiling after this: 10 RTT and 100 ms.
    pub fn time_bar(&self) -> Duration {
        self.rtt * 10 + Duration::from_millis(100)
    }

    /// A session should need no more memory than this: 3 BDP and 8 MiB.
    pub fn memory_bar(&self) -> ByteCount {
        ByteCount::new(3 * self.rate().bytes_in(self.rtt).as_u64() + 8 * 1024 * 1024)
    }

    /// The two directions, A to B first.
    pub fn links(&self, seed: u64) -> [Link; 2] {
        Path::symmetric(self.link.clone(), seed).expect("a path of a test can be").into_links()
    }
}
