//! The two appliances of a simulated network: mirrored rules, pinned keys, fixed seeds.

use longhaul::channel::PathMtu;
use longhaul::engine::{Engine, EngineConfig, Limits};
use longhaul::rules::{Action, Compression, Hosts, PortRange, Rule, Rules};
use longhaul::units::{ByteCount, Weight};

use crate::network::Wiring;

/// The port that is accelerated; every other is not.
pub const ACCELERATED_PORT: u16 = 8000;

/// How both appliances are configured.
#[derive(Clone, Copy, Debug)]
pub struct ApplianceSpec {
    /// Largest IP packet on the LANs.
    pub lan_mtu: usize,
    /// Largest IP packet on the WAN.
    pub path_mtu: usize,
    /// Whether any rule accelerates.
    pub accelerate: bool,
    /// Compression of accelerated flows.
    pub compression: Compression,
    /// Flows at most.
    pub flows: usize,
    /// Further ports that are accelerated, each with the weight of its rule.
    pub weights: &'static [(u16, u8)],
}

impl Default for ApplianceSpec {
    fn default() -> Self {
        ApplianceSpec {
            lan_mtu: 1500,
            path_mtu: 1500,
            accelerate: true,
            compression: Compression::Auto,
            flows: 10_000,
            weights: &[],
        }
    }
}

impl ApplianceSpec {
    fn rules(self) -> Rules {
        if !self.accelerate {
            return Rules::default();
        }
        let anywhere = || vec!["0.0.0.0/0".parse().expect("a subnet"), "::/0".parse().expect("a subnet")];
        let rule = |port, weight| Rule {
            name: format!("simulated-{port}"),
            hosts: Hosts::Directed { source: anywhere(), destination: anywhere() },
            ports: PortRange::single(port).into_iter().collect(),
            vlan: None,
            action: Action::Accelerate { compression: self.compression, weight },
        };
        let weighted = self.weights.iter().map(|&(port, weight)| rule(port, Weight::new(weight).expect("1 to 100")));
        Rules::new(weighted.chain([rule(ACCELERATED_PORT, Weight::default())]).collect())
    }

    /// The wiring with two such appliances, in a run of this seed.
    pub fn wiring(self, seed: u64) -> Wiring {
        Wiring::Engines(Box::new(move |end, instance, now| {
            let config = EngineConfig {
                rules: self.rules(),
                channel: self.accelerate.then(|| end.channel_config(PathMtu::Discover { max: self.path_mtu })),
                lan_mtu: self.lan_mtu,
                limits: Limits { flows: self.flows, memory: ByteCount::from_mib(256) },
            };
            Engine::new(config, now, end.seed(seed, instance))
        }))
    }
}
