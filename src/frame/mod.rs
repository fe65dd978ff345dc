//! Bytes to a checked view: Ethernet, VLAN stack, IPv4/IPv6, TCP; flow keys; the virtio-net header.
//!
//! A *frame* here is what a TAP hands over: a [`VnetHeader`], then Ethernet. [`classify()`] says what it carries and
//! never panics, whatever the bytes. The builders go the other way: they put the outer headers in front of an IP
//! packet that is already in place in a [`crate::buffer::FrameBuf`].

mod build;
mod checksum;
mod classify;
#[cfg(test)]
mod fixtures;
mod flow;
mod l2;
mod mss;
mod segment;
mod vnet;

pub use build::{
    MalformedPacket, SynOptions, arp_probe, bare_ack, bare_rst, bare_syn, encapsulate_tcp, neighbor_solicitation,
};
pub use classify::{Classified, IpPacket, Neighbor, Reason, Untouchable, classify};
pub use flow::FlowKey;
pub use l2::{ETHERNET_HEADER_LEN, L2Header, MacAddr, VlanIds, VlanStack, VlanTag};
pub use mss::{ChecksumField, clamp_mss, rewrite_mss};
pub use segment::{TCP_HEADER_LEN, TcpFlags, TcpOptions, TcpSegment};
pub use vnet::{VNET_HEADER_LEN, VnetHeader};

/// Length of an IPv4 header without options.
pub const IPV4_HEADER_LEN: usize = 20;

/// Length of an IPv6 header without extensions.
pub const IPV6_HEADER_LEN: usize = 40;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;

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

/// The bytes are no encoding of ours: the peer is broken or of another version.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DecodeError {
    /// They end too early.
    #[error("encoding is cut short")]
    Truncated,
    /// A field has a value that no encoder writes.
    #[error("encoding has an invalid field")]
    Invalid,
}

/// Takes the first `N` bytes off `bytes`.
fn take<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], DecodeError> {
    let (head, rest) = bytes.split_first_chunk::<N>().ok_or(DecodeError::Truncated)?;
    *bytes = rest;
    Ok(*head)
}
