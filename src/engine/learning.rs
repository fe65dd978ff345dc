//! What passing traffic tells about Ethernet: which MAC is on which side, and which header reaches a host.
//!
//! The far appliance connects to a host that may never have spoken through it. Where the header comes from, in order:
//! the opener's own header if its destination lives on our LAN side (one stretched L2 network); the header of frames
//! that were forwarded to the host, or of its own frames reversed (routed); the MAC that it gave in ARP or ND. If all
//! fail, the caller asks with a probe.

use std::net::IpAddr;
use std::time::Duration;

use crate::frame::{L2Header, MacAddr, Neighbor, Port, VlanIds, VlanStack};
use crate::units::Instant;

use super::lru::{Lru, SeededState};

/// MACs remembered.
const MACS_MAX: usize = 8192;

/// Hosts remembered.
const HOSTS_MAX: usize = 8192;

/// How long an observation counts: the ageing time of a bridge (IEEE 802.1Q table 8-6). A probe costs little.
const AGE_MAX: Duration = Duration::from_secs(300);

/// An observation is not written again before it is this old: steady traffic costs no look-up.
const REFRESH: Duration = Duration::from_secs(1);

/// Latest observations that are compared with a frame, a power of two: the directions of the connections that are busy
/// within a second. More, or two at one place, cost the look-ups again.
const LATEST_MAX: usize = 64;

#[derive(Clone, Copy, Debug)]
struct Seen<T> {
    what: T,
    at: Instant,
}

impl<T: PartialEq> Seen<T> {
    fn fresh(&self, now: Instant) -> Option<&T> {
        (now.saturating_since(self.at) <= AGE_MAX).then_some(&self.what)
    }
}

/// How a host on the LAN side was reached or heard.
#[derive(Clone, Copy, Debug, Default)]
struct Host {
    /// Header of frames that were forwarded to it.
    forwarded: Option<Seen<L2Header>>,
    /// Header of its own frames, reversed.
    reversed: Option<Seen<L2Header>>,
    /// What it said in ARP or ND.
    neighbor: Option<Seen<(MacAddr, VlanStack)>>,
}

/// On which VLANs an address was seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Whereabouts {
    /// On these only.
    One(VlanIds),
    /// On several: addresses overlap, nothing may be concluded from the address alone.
    Several,
}

/// What one frame tells: its port, its header, and source and destination of its packet.
type Observation = (Port, L2Header, IpAddr, IpAddr);

/// Tables learnt from passing frames.
#[derive(Debug)]
pub(super) struct Learning {
    macs: Lru<(MacAddr, VlanIds), Seen<Port>>,
    hosts: Lru<(IpAddr, VlanIds), Host>,
    whereabouts: Lru<IpAddr, Whereabouts>,
    latest: [Option<Seen<Observation>>; LATEST_MAX],
}

impl Learning {
    pub(super) fn new(state: SeededState) -> Self {
        Learning {
            macs: Lru::new(MACS_MAX, state),
            hosts: Lru::new(HOSTS_MAX, state),
            whereabouts: Lru::new(HOSTS_MAX, state),
            latest: [None; LATEST_MAX],
        }
    }

    /// A frame of an IP packet was read from `port`.
    pub(super) fn handle_ip(&mut self, now: Instant, port: Port, l2: &L2Header, src: IpAddr, dst: IpAddr) {
        let what = (port, *l2, src, dst);
        let latest = &mut self.latest[place(l2, src, dst)];
        if latest.is_some_and(|latest| latest.what == what && now.saturating_since(latest.at) < REFRESH) {
            return;
        }
        *latest = Some(Seen { what, at: now });
        self.handle_mac(now, port, l2);
        match port {
            // An answer needs a station to go to and one to come from.
            Port::Lan if !src.is_unspecified() && l2.dst.is_unicast() && l2.src.is_unicast() => {
                self.host(src, l2.vlans.ids()).reversed = Some(Seen { what: l2.reversed(), at: now });
            }
            Port::Wan if l2.dst.is_unicast() && !dst.is_multicast() => {
                self.host(dst, l2.vlans.ids()).forwarded = Some(Seen { what: *l2, at: now });
            }
            _ => {}
        }
    }

    /// ARP or ND was read from `port`.
    pub(super) fn handle_neighbor(&mut self, now: Instant, port: Port, neighbor: &Neighbor) {
        self.handle_mac(now, port, &neighbor.l2);
        if port == Port::Lan && neighbor.mac.is_unicast() && !neighbor.ip.is_multicast() {
            let what = (neighbor.mac, neighbor.l2.vlans);
            self.host(neighbor.ip, neighbor.l2.vlans.ids()).neighbor = Some(Seen { what, at: now });
        }
    }

    fn handle_mac(&mut self, now: Instant, port: Port, l2: &L2Header) {
        if l2.src.is_unicast() {
            self.macs.insert((l2.src, l2.vlans.ids()), Seen { what: port, at: now });
        }
    }

    fn host(&mut self, ip: IpAddr, vlans: VlanIds) -> &mut Host {
        match self.whereabouts.touch(&ip) {
            None => self.whereabouts.insert(ip, Whereabouts::One(vlans)),
            Some(Whereabouts::One(known)) if *known == vlans => {}
            Some(other) => *other = Whereabouts::Several,
        }
        if self.hosts.peek(&(ip, vlans)).is_none() {
            self.hosts.insert((ip, vlans), Host::default());
        }
        self.hosts.touch(&(ip, vlans)).expect("invariant: inserted above")
    }

    /// On which side `mac` was last seen.
    pub(super) fn side(&self, now: Instant, mac: MacAddr, vlans: VlanIds) -> Option<Port> {
        self.macs.peek(&(mac, vlans)).and_then(|seen| seen.fresh(now)).copied()
    }

    /// The header that reaches `host` on the LAN side, for a connection whose opener sent its SYN with `opener`.
    /// `own` is the source where nobody else's is known.
    pub(super) fn resolve(&self, now: Instant, host: IpAddr, opener: &L2Header, own: MacAddr) -> Option<L2Header> {
        let vlans = opener.vlans.ids();
        if self.side(now, opener.dst, vlans) == Some(Port::Lan) {
            return Some(*opener);
        }
        let known = self.hosts.peek(&(host, vlans)).or_else(|| match self.whereabouts.peek(&host)? {
            Whereabouts::One(elsewhere) => self.hosts.peek(&(host, *elsewhere)),
            Whereabouts::Several => None,
        })?;
        let fresh = |seen: Option<Seen<L2Header>>| seen.filter(|seen| seen.fresh(now).is_some());
        match (fresh(known.forwarded), fresh(known.reversed)) {
            // The host (or its address) moved to another MAC: the newer observation counts.
            (Some(forwarded), Some(reversed)) if forwarded.what.dst != reversed.what.dst => {
                Some(if reversed.at > forwarded.at { reversed.what } else { forwarded.what })
            }
            (Some(forwarded), _) => Some(forwarded.what),
            (None, Some(reversed)) => Some(reversed.what),
            (None, None) => {
                let &(dst, vlans) = known.neighbor.as_ref()?.fresh(now)?;
                // The opener's own MAC is a source that is right only where its L2 network reaches us.
                let stretched = self.side(now, opener.src, vlans.ids()) == Some(Port::Wan);
                Some(L2Header { dst, src: if stretched { opener.src } else { own }, vlans })
            }
        }
    }
}

/// Where in [`Learning::latest`] an observation stands: the same for either port, so that one replaces the other when a
/// station moves.
fn place(l2: &L2Header, src: IpAddr, dst: IpAddr) -> usize {
    let last_byte = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets()[3],
        IpAddr::V6(ip) => ip.octets()[15],
    };
    let [.., mac] = l2.src.0;
    let mixed =
        usize::from(mac) ^ usize::from(last_byte(src)).wrapping_mul(7) ^ usize::from(last_byte(dst)).wrapping_mul(13);
    mixed % LATEST_MAX
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::VlanTag;

    const ROUTER: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xfe]);
    const HOST_A: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xa]);
    const HOST_B: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xb]);
    const OWN: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

    fn learning() -> Learning {
        Learning::new(SeededState::new([3, 4]))
    }

    fn l2(dst: MacAddr, src: MacAddr, vid: Option<u16>) -> L2Header {
        let tag = vid.map(|tci| VlanTag { tpid: 0x8100, tci });
        L2Header { dst, src, vlans: VlanStack { tags: [tag, None] } }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_stretched_network_keeps_the_openers_header() {
        let mut learning = learning();
        let opener = l2(HOST_B, HOST_A, Some(10));
        assert_eq!(learning.resolve(Instant::ZERO, ip("10.0.0.2"), &opener, OWN), None);
        learning.handle_ip(Instant::ZERO, Port::Lan, &l2(ROUTER, HOST_B, Some(10)), ip("10.0.0.2"), ip("10.9.9.9"));
        assert_eq!(learning.resolve(Instant::ZERO, ip("10.0.0.2"), &opener, OWN), Some(opener));
        // The same MAC on another VLAN proves nothing.
        let elsewhere = l2(HOST_B, HOST_A, Some(11));
        assert_ne!(learning.resolve(Instant::ZERO, ip("10.0.0.2"), &elsewhere, OWN), Some(elsewhere));
    }

    #[test]
    fn a_routed_network_takes_the_header_of_passing_frames() {
        let mut learning = learning();
        let opener = l2(MacAddr([2, 9, 9, 9, 9, 9]), HOST_A, None);
        learning.handle_ip(Instant::ZERO, Port::Lan, &l2(ROUTER, HOST_B, Some(20)), ip("10.2.0.2"), ip("10.1.0.1"));
        let expected = l2(HOST_B, ROUTER, Some(20));
        assert_eq!(learning.resolve(Instant::ZERO, ip("10.2.0.2"), &opener, OWN), Some(expected));
        // What was forwarded to the host is more exact than what it sends, as long as both name the same station.
        let other_router = MacAddr([2, 0, 0, 0, 0, 0xfd]);
        let inbound = l2(HOST_B, other_router, Some(20));
        learning.handle_ip(Instant::ZERO, Port::Wan, &inbound, ip("10.1.0.1"), ip("10.2.0.2"));
        assert_eq!(learning.resolve(Instant::ZERO, ip("10.2.0.2"), &opener, OWN), Some(inbound));
        // After a failover of the host the newer observation wins.
        let later = Instant::from_millis(5_000);
        let moved = MacAddr([2, 0, 0, 0, 1, 0xb]);
        learning.handle_ip(later, Port::Lan, &l2(ROUTER, moved, Some(20)), ip("10.2.0.2"), ip("10.1.0.1"));
        assert_eq!(learning.resolve(later, ip("10.2.0.2"), &opener, OWN).unwrap().dst, moved);
    }

    #[test]
    fn an_address_on_two_vlans_is_not_guessed() {
        let mut learning = learning();
        let opener = l2(MacAddr([2, 9, 9, 9, 9, 9]), HOST_A, None);
        for vid in [20, 21] {
            let header = l2(ROUTER, HOST_B, Some(vid));
            learning.handle_ip(Instant::ZERO, Port::Lan, &header, ip("10.2.0.2"), ip("10.1.0.1"));
        }
        assert_eq!(learning.resolve(Instant::ZERO, ip("10.2.0.2"), &opener, OWN), None);
    }

    #[test]
    fn a_neighbor_gives_its_mac_and_ages() {
        let mut learning = learning();
        let opener = l2(MacAddr([2, 9, 9, 9, 9, 9]), HOST_A, None);
        let said = Neighbor { l2: l2(MacAddr::BROADCAST, HOST_B, None), ip: ip("10.2.0.2"), mac: HOST_B };
        learning.handle_neighbor(Instant::ZERO, Port::Lan, &said);
        assert_eq!(learning.resolve(Instant::ZERO, ip("10.2.0.2"), &opener, OWN), Some(l2(HOST_B, OWN, None)));
        let late = Instant::ZERO + AGE_MAX + Duration::from_nanos(1);
        assert_eq!(learning.resolve(late, ip("10.2.0.2"), &opener, OWN), None);
        // Heard from the WAN side it says nothing about our LAN.
        let mut learning = self::learning();
        learning.handle_neighbor(Instant::ZERO, Port::Wan, &said);
        assert_eq!(learning.resolve(Instant::ZERO, ip("10.2.0.2"), &opener, OWN), None);
    }

    #[test]
    fn a_mac_that_moves_is_followed() {
        let mut learning = learning();
        let header = l2(ROUTER, HOST_B, None);
        learning.handle_ip(Instant::ZERO, Port::Lan, &header, ip("10.0.0.2"), ip("10.0.0.9"));
        assert_eq!(learning.side(Instant::ZERO, HOST_B, VlanIds::default()), Some(Port::Lan));
        learning.handle_ip(Instant::ZERO, Port::Wan, &header, ip("10.0.0.2"), ip("10.0.0.9"));
        assert_eq!(learning.side(Instant::ZERO, HOST_B, VlanIds::default()), Some(Port::Wan));
        // And back, within the second in which a repetition is not looked at.
        learning.handle_ip(Instant::ZERO, Port::Lan, &header, ip("10.0.0.2"), ip("10.0.0.9"));
        assert_eq!(learning.side(Instant::ZERO, HOST_B, VlanIds::default()), Some(Port::Lan));
    }
}
