//! The five links of the report longhaul starts from: one table for emulator, lab, simulator and benchmarks.
//!
//! Source: DeepStorage's validation of HyperIP for vMotion (2009). Its table calls the latency round trip, its prose
//! one-way. The table's reading is the default here; [`NamedLink::with_one_way_latency`] is the other.

use std::time::Duration;

use super::{Jitter, LinkConfig, Loss, Probability};
use crate::units::BitRate;

/// One of the report's links, the same both ways.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NamedLink {
    /// How command lines, tables and tests call it.
    pub name: &'static str,
    /// How the report calls it.
    pub title: &'static str,
    /// Line rate.
    pub rate: BitRate,
    /// Round-trip time without queueing.
    pub rtt: Duration,
    /// Random loss, each way.
    pub loss: Probability,
    /// The delay of each way stays within ± this.
    pub jitter: Duration,
    /// Seconds the report's migration took without acceleration.
    pub reported_plain_s: u32,
    /// Seconds it took with HyperIP.
    pub reported_hyperip_s: u32,
}

/// The link without fault.
pub const BASELINE: NamedLink = NamedLink {
    name: "baseline",
    title: "baseline",
    rate: BitRate::from_mbps(1_000),
    rtt: Duration::ZERO,
    loss: Probability::ZERO,
    jitter: Duration::ZERO,
    reported_plain_s: 19,
    reported_hyperip_s: 23,
};

/// 1 Gbps, 5 ms, 0.001 % loss.
pub const SONET: NamedLink = NamedLink {
    name: "sonet",
    title: "low-latency SONET",
    rate: BitRate::from_mbps(1_000),
    rtt: Duration::from_millis(5),
    loss: Probability::from_ppm(10),
    jitter: Duration::ZERO,
    reported_plain_s: 31,
    reported_hyperip_s: 25,
};

/// 1 Gbps, 5 ms, 0.005 % loss.
pub const METRO_LOW: NamedLink = NamedLink {
    name: "metro-low",
    title: "low-latency metro Ethernet",
    rate: BitRate::from_mbps(1_000),
    rtt: Duration::from_millis(5),
    loss: Probability::from_ppm(50),
    jitter: Duration::ZERO,
    reported_plain_s: 42,
    reported_hyperip_s: 24,
};

/// 1 Gbps, 12 ms, 0.1 % loss.
pub const METRO: NamedLink = NamedLink {
    name: "metro",
    title: "metro Ethernet",
    rate: BitRate::from_mbps(1_000),
    rtt: Duration::from_millis(12),
    loss: Probability::from_ppm(1_000),
    jitter: Duration::ZERO,
    reported_plain_s: 138,
    reported_hyperip_s: 22,
};

/// 100 Mbps, 25 ms, 0.05 % loss, 3 ms jitter.
pub const MPLS: NamedLink = NamedLink {
    name: "mpls",
    title: "MPLS VPN",
    rate: BitRate::from_mbps(100),
    rtt: Duration::from_millis(25),
    loss: Probability::from_ppm(500),
    jitter: Duration::from_millis(3),
    reported_plain_s: 256,
    reported_hyperip_s: 24,
};

/// All five, in the report's order.
pub const ALL: [NamedLink; 5] = [BASELINE, SONET, METRO_LOW, METRO, MPLS];

/// The link of that name.
pub fn by_name(name: &str) -> Option<NamedLink> {
    ALL.into_iter().find(|link| link.name == name)
}

impl NamedLink {
    /// The same link with the report's latency read as one-way: twice the round trip.
    pub fn with_one_way_latency(self) -> NamedLink {
        NamedLink { rtt: self.rtt * 2, ..self }
    }

    /// One direction: half the round trip, order-keeping jitter, a queue of one bandwidth-delay product (but at least
    /// [`LinkConfig::MIN_DEFAULT_QUEUE`]), MTU 1500.
    pub fn direction(self) -> LinkConfig {
        LinkConfig {
            jitter: Jitter::ordered(self.jitter),
            loss: Loss::random(self.loss),
            ..LinkConfig::new(self.rate, self.rtt / 2)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{ByteCount, Instant};
    use crate::wan::{Direction, Path};

    #[test]
    fn every_link_of_the_report_can_be_built_and_found_by_name() {
        for link in ALL {
            assert_eq!(by_name(link.name), Some(link));
            let mut path = Path::symmetric(link.direction(), 1).unwrap();
            let there = path.link_mut(Direction::AToB).offer(Instant::ZERO, 100).delivery().unwrap();
            assert!(there.as_nanos() >= (link.rtt / 2).saturating_sub(link.jitter).as_nanos() as u64, "{}", link.name);
        }
        assert_eq!(by_name("carrier pigeon"), None);
    }

    #[test]
    fn queues_are_one_bandwidth_delay_product_but_never_less_than_four_super_segments() {
        assert_eq!(BASELINE.direction().queue, ByteCount::from_kib(256));
        assert_eq!(METRO.direction().queue, ByteCount::new(1_500_000));
        assert_eq!(MPLS.direction().queue, ByteCount::new(312_500));
        assert_eq!(MPLS.with_one_way_latency().direction().queue, ByteCount::new(625_000));
    }
}
