//! Which segments can be of an accelerated flow at all, told from their ports without a look-up.
//!
//! Most frames of a bridge are of connections that no rule is about. Each flow here, whoever opened it, has a server's
//! port that some rule accelerates: what has no such port on either side needs no keyed hash of its addresses.

use crate::frame::FlowKey;
use crate::rules::{Action, Rules};

/// One bit per TCP port.
#[derive(Debug)]
pub(super) struct Prefilter {
    ports: Box<[u64; 1024]>,
}

impl Prefilter {
    pub(super) fn new(rules: &Rules) -> Self {
        let mut ports = Box::new([0; 1024]);
        let accelerating = rules.list().iter().filter(|rule| matches!(rule.action, Action::Accelerate { .. }));
        for range in accelerating.flat_map(|rule| &rule.ports) {
            for port in range.first()..=range.last() {
                ports[usize::from(port / 64)] |= 1 << (port % 64);
            }
        }
        Prefilter { ports }
    }

    /// Whether a segment with this key, or its reverse, may be of an accelerated flow.
    pub(super) fn admits(&self, key: &FlowKey) -> bool {
        let is_set = |port: u16| self.ports[usize::from(port / 64)] & (1 << (port % 64)) != 0;
        is_set(key.dst.port()) || is_set(key.src.port())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::VlanIds;
    use crate::rules::{Compression, Hosts, PortRange, Rule, Subnet};
    use crate::units::Weight;

    fn rule(ports: Vec<PortRange>, action: Action) -> Rule {
        let anywhere = || vec![Subnet::ANY_IPV4, Subnet::ANY_IPV6];
        let hosts = Hosts::Between([anywhere(), anywhere()]);
        Rule { name: "tested".to_owned(), hosts, ports, vlan: None, action }
    }

    fn admits(filter: &Prefilter, src: u16, dst: u16) -> bool {
        let key =
            FlowKey { vlans: VlanIds::default(), src: ([10, 0, 0, 1], src).into(), dst: ([10, 0, 0, 2], dst).into() };
        filter.admits(&key)
    }

    #[test]
    fn only_accelerated_ports_are_admitted_on_either_side() {
        let accelerate = Action::Accelerate { compression: Compression::Auto, weight: Weight::default() };
        let ports = vec!["8000-8063".parse().unwrap(), PortRange::single(u16::MAX).unwrap()];
        let bypassed = vec![PortRange::single(443).unwrap()];
        let filter = Prefilter::new(&Rules::new(vec![rule(bypassed, Action::Bypass), rule(ports, accelerate)]));
        for port in [8000, 8063, u16::MAX] {
            assert!(admits(&filter, 40_000, port) && admits(&filter, port, 40_000));
        }
        for port in [443, 7999, 8064, 0] {
            assert!(!admits(&filter, 40_000, port) && !admits(&filter, port, 40_000));
        }
        let all = Prefilter::new(&Rules::new(vec![rule(vec![PortRange::ANY], accelerate)]));
        assert!(admits(&all, 1, u16::MAX) && !admits(&all, 0, 0));
        assert!(!admits(&Prefilter::new(&Rules::default()), 8000, 8000));
    }
}
