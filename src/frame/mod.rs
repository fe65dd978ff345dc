//! Bytes to a checked view: Ethernet, VLAN stack, IPv4/IPv6, TCP; flow keys; the virtio-net header.

use std::net::SocketAddr;

/// Length of the virtio-net header a TAP puts in front of each frame (virtio 1.2 section 5.1.6, `struct virtio_net_hdr`).
pub const VNET_HEADER_LEN: usize = 10;

/// The two sides of the bridge.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Port {
    /// Towards the hosts.
    Lan,
    /// Towards the router and the peer.
    Wan,
}

impl Port {
    /// The other side.
    pub const fn other(self) -> Port {
        match self {
            Port::Lan => Port::Wan,
            Port::Wan => Port::Lan,
        }
    }
}

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord, Default)]
pub struct MacAddr(pub [u8; 6]);

/// One VLAN tag as on the wire: TPID (0x8100, 0x88a8, …) and TCI (PCP, DEI, VID).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct VlanTag {
    /// Tag protocol identifier.
    pub tpid: u16,
    /// Tag control information.
    pub tci: u16,
}

/// The tags of a frame, outermost first; at most two (deeper stacks are never terminated).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct VlanStack {
    /// The tags; `None` past the innermost.
    pub tags: [Option<VlanTag>; 2],
}

/// The VLAN identifiers of a flow, outermost first: part of its key (PCP and DEI are not).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, PartialOrd, Ord)]
pub struct VlanIds(pub [Option<u16>; 2]);

/// An Ethernet header to be re-emitted: addresses and the whole VLAN stack with priorities.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct L2Header {
    /// Destination address.
    pub dst: MacAddr,
    /// Source address.
    pub src: MacAddr,
    /// VLAN stack.
    pub vlans: VlanStack,
}

/// One direction of a TCP connection: VLAN identifiers and both socket addresses.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct FlowKey {
    /// The VLANs it was seen on: the same addresses on two VLANs are two flows.
    pub vlans: VlanIds,
    /// Who sends in this direction.
    pub src: SocketAddr,
    /// Who receives in this direction.
    pub dst: SocketAddr,
}

impl FlowKey {
    /// The key of the other direction.
    pub const fn reversed(self) -> FlowKey {
        FlowKey { vlans: self.vlans, src: self.dst, dst: self.src }
    }
}
