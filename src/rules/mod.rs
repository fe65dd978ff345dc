//! Ordered rules to a verdict for a flow key.
//!
//! A rule speaks of addresses, never of "LAN" or "this side", so the same list serves both appliances unchanged.
//! It is asked once per flow, with the key of the opening SYN: `src` opens the connection, `dst` is the server.

mod finding;
mod overlap;
mod ports;
mod subnet;

use std::fmt;
use std::net::IpAddr;

use crate::frame::{FlowKey, VlanIds};
use crate::units::Weight;

pub use finding::Finding;
pub use ports::{ParsePortsError, PortRange};
pub use subnet::{ParseSubnetError, Subnet};

/// Whether the payload of an accelerated flow may be compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Compression {
    /// Measured per stream; switched off while it does not pay.
    #[default]
    Auto,
    /// Never.
    Off,
}

/// What a rule asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Split the connection and relay it through the channel.
    Accelerate {
        /// Of its payload, both directions.
        compression: Compression,
        /// How much of the line each of its connections gets while others want it too, in the direction that leaves
        /// here.
        weight: Weight,
    },
    /// Forward its frames untouched.
    Bypass,
}

/// The answer for one flow: what to do, and which rule said so (`None`: the default, bypass).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// What to do.
    pub action: Action,
    /// Index of the rule that matched first.
    pub rule: Option<usize>,
}

/// Which pairs of hosts a rule speaks of. An empty list matches nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Hosts {
    /// Connections opened by a host of `source` to one of `destination`.
    Directed {
        /// Who may open the connection.
        source: Vec<Subnet>,
        /// The servers.
        destination: Vec<Subnet>,
    },
    /// Connections between the two sides, whichever opens them.
    Between([Vec<Subnet>; 2]),
}

impl Hosts {
    fn matches(&self, src: IpAddr, dst: IpAddr) -> bool {
        let has = |subnets: &[Subnet], address| subnets.iter().any(|subnet| subnet.contains(address));
        match self {
            Hosts::Directed { source, destination } => has(source, src) && has(destination, dst),
            Hosts::Between([a, b]) => (has(a, src) && has(b, dst)) || (has(b, src) && has(a, dst)),
        }
    }

    /// Pairs of (opener's subnets, server's subnets) that the rule matches.
    fn directions(&self) -> impl Iterator<Item = (&[Subnet], &[Subnet])> {
        let pairs: [Option<(&[Subnet], &[Subnet])>; 2] = match self {
            Hosts::Directed { source, destination } => [Some((source, destination)), None],
            Hosts::Between([a, b]) => [Some((a, b)), Some((b, a))],
        };
        pairs.into_iter().flatten()
    }
}

/// One rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// What the administrator calls it.
    pub name: String,
    /// Which hosts.
    pub hosts: Hosts,
    /// The server's ports; empty matches nothing.
    pub ports: Vec<PortRange>,
    /// Only flows of this VLAN: the innermost VID of the frame, the one the host's port group knows (1 to 4094).
    /// `None`: tagged or not.
    pub vlan: Option<u16>,
    /// What to do with them.
    pub action: Action,
}

impl Rule {
    /// Whether the flow whose opening SYN has this key is meant.
    pub fn matches(&self, key: &FlowKey) -> bool {
        self.vlan.is_none_or(|vlan| innermost_vlan(key.vlans) == Some(vlan))
            && self.ports.iter().any(|ports| ports.contains(key.dst.port()))
            && self.hosts.matches(key.src.ip(), key.dst.ip())
    }
}

/// The VID nearest to the IP packet. VID 0 is a priority tag, not a VLAN (IEEE 802.1Q-2018 table 9-2).
fn innermost_vlan(vlans: VlanIds) -> Option<u16> {
    vlans.0.iter().rev().flatten().copied().find(|&vid| vid != 0)
}

/// In an administrator's words, one line: `accelerate TCP between 10.1.8.0/24 and 10.2.8.0/24 to port 8000, …`.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = match self.action {
            Action::Accelerate { .. } => "accelerate",
            Action::Bypass => "bypass",
        };
        write!(f, "{verb} TCP ")?;
        match &self.hosts {
            Hosts::Directed { source, destination } => {
                write!(f, "from {} to {}", SubnetList(source), SubnetList(destination))?;
            }
            Hosts::Between([a, b]) => write!(f, "between {} and {}", SubnetList(a), SubnetList(b))?,
        }
        match self.ports.as_slice() {
            [PortRange::ANY] => f.write_str(", any port")?,
            [one] if one.first() == one.last() => write!(f, ", port {one}")?,
            many => write!(f, ", ports {}", joined(many))?,
        }
        if let Some(vlan) = self.vlan {
            write!(f, ", VLAN {vlan}")?;
        }
        let Action::Accelerate { compression, weight } = self.action else { return Ok(()) };
        f.write_str(match compression {
            Compression::Auto => "; compress while it pays",
            Compression::Off => "; never compress",
        })?;
        if weight == Weight::default() { Ok(()) } else { write!(f, "; weight {weight}") }
    }
}

struct SubnetList<'a>(&'a [Subnet]);

impl fmt::Display for SubnetList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == [Subnet::ANY_IPV4, Subnet::ANY_IPV6] {
            f.write_str("anywhere")
        } else {
            f.write_str(&joined(self.0))
        }
    }
}

fn joined(items: &[impl fmt::Display]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// An ordered rule list; first match wins, default bypass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    list: Vec<Rule>,
}

impl Rules {
    /// These rules, in this order. See [`Rules::findings`] for what may be wrong with them.
    pub fn new(list: Vec<Rule>) -> Self {
        Rules { list }
    }

    /// The verdict for the flow whose opening SYN has this key (`dst` is the server).
    ///
    /// Linear in the rules: it is asked per flow, not per frame, and lists are short.
    pub fn verdict(&self, key: &FlowKey) -> Verdict {
        match self.list.iter().position(|rule| rule.matches(key)) {
            Some(index) => Verdict { action: self.list[index].action, rule: Some(index) },
            None => Verdict { action: Action::Bypass, rule: None },
        }
    }

    /// The rules in order; [`Verdict::rule`] is an index into them.
    pub fn list(&self) -> &[Rule] {
        &self.list
    }

    /// Whether any rule asks for acceleration; if none does, the appliance is a plain bridge.
    pub fn accelerates(&self) -> bool {
        self.list.iter().any(|rule| matches!(rule.action, Action::Accelerate { .. }))
    }

    /// What cannot be meant: rules that never match, names given twice. Empty when all is well.
    pub fn findings(&self) -> Vec<Finding> {
        finding::inspect(&self.list)
    }
}

#[cfg(test)]
mod tests;
