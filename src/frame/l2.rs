//! The Ethernet header with its VLAN stack: read, reversed, re-emitted, carried to the peer.

use std::fmt;

use super::{DecodeError, take};

/// Length of an Ethernet header without tags: two addresses and the EtherType.
pub const ETHERNET_HEADER_LEN: usize = 14;

/// Length of one VLAN tag.
const VLAN_TAG_LEN: usize = 4;

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord, Default)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// Every station.
    pub const BROADCAST: MacAddr = MacAddr([0xff; 6]);

    /// Whether it names one station: neither a group nor all zero.
    pub const fn is_unicast(self) -> bool {
        self.0[0] & 1 == 0 && !matches!(self.0, [0, 0, 0, 0, 0, 0])
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// One VLAN tag as on the wire: TPID (0x8100, 0x88a8, …) and TCI (PCP, DEI, VID).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct VlanTag {
    /// Tag protocol identifier.
    pub tpid: u16,
    /// Tag control information.
    pub tci: u16,
}

impl VlanTag {
    /// Whether this EtherType announces a tag: IEEE 802.1Q, 802.1ad, and the older QinQ value.
    pub const fn is_tpid(ether_type: u16) -> bool {
        matches!(ether_type, 0x8100 | 0x88a8 | 0x9100)
    }

    /// The VLAN identifier; zero in a tag that carries a priority only (IEEE 802.1Q section 9.6).
    pub const fn vid(self) -> u16 {
        self.tci & 0x0fff
    }
}

/// The tags of a frame, outermost first; at most two (deeper stacks are never terminated).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct VlanStack {
    /// The tags; `None` past the innermost.
    pub tags: [Option<VlanTag>; 2],
}

impl VlanStack {
    /// The VLANs that the tags name. A priority tag (VID 0) names none, so that a host that tags its priority and one
    /// that does not still speak of the same flow.
    pub fn ids(&self) -> VlanIds {
        let mut ids = VlanIds::default();
        let named = self.tags.iter().flatten().map(|tag| tag.vid()).filter(|&vid| vid != 0);
        for (slot, vid) in ids.0.iter_mut().zip(named) {
            *slot = Some(vid);
        }
        ids
    }

    /// Number of tags.
    pub fn depth(&self) -> usize {
        self.tags.iter().flatten().count()
    }
}

/// The VLAN identifiers of a flow, outermost first: part of its key (PCP and DEI are not).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, PartialOrd, Ord)]
pub struct VlanIds(pub [Option<u16>; 2]);

impl fmt::Display for VlanIds {
    /// `10`, `10.20`, or nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, vid) in self.0.iter().flatten().enumerate() {
            write!(f, "{}{vid}", if at == 0 { "" } else { "." })?;
        }
        Ok(())
    }
}

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

impl L2Header {
    /// The header of an answer: addresses swapped, the same tags.
    pub const fn reversed(self) -> L2Header {
        L2Header { dst: self.src, src: self.dst, vlans: self.vlans }
    }

    /// Bytes on the wire, EtherType included.
    pub fn header_len(&self) -> usize {
        ETHERNET_HEADER_LEN + VLAN_TAG_LEN * self.vlans.depth()
    }

    /// Writes the header, ending with `ether_type`, into the first [`L2Header::header_len`] bytes of `out`.
    ///
    /// # Panics
    /// When `out` is shorter: a bug of the caller.
    pub fn write(&self, ether_type: u16, out: &mut [u8]) {
        out[..6].copy_from_slice(&self.dst.0);
        out[6..12].copy_from_slice(&self.src.0);
        let mut at = 12;
        for tag in self.vlans.tags.iter().flatten() {
            out[at..at + 2].copy_from_slice(&tag.tpid.to_be_bytes());
            out[at + 2..at + 4].copy_from_slice(&tag.tci.to_be_bytes());
            at += VLAN_TAG_LEN;
        }
        out[at..at + 2].copy_from_slice(&ether_type.to_be_bytes());
    }

    /// Longest result of [`L2Header::encode`].
    pub const ENCODED_LEN_MAX: usize = 13 + 2 * VLAN_TAG_LEN;

    /// Appends the encoding for the peer: both addresses, the number of tags, the tags; big endian.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.dst.0);
        out.extend_from_slice(&self.src.0);
        out.push(self.vlans.depth() as u8);
        for tag in self.vlans.tags.iter().flatten() {
            out.extend_from_slice(&tag.tpid.to_be_bytes());
            out.extend_from_slice(&tag.tci.to_be_bytes());
        }
    }

    /// Reads what [`L2Header::encode`] wrote and moves `bytes` behind it.
    pub fn decode(bytes: &mut &[u8]) -> Result<L2Header, DecodeError> {
        let dst = MacAddr(take(bytes)?);
        let src = MacAddr(take(bytes)?);
        let [depth] = take(bytes)?;
        let mut vlans = VlanStack::default();
        if usize::from(depth) > vlans.tags.len() {
            return Err(DecodeError::Invalid);
        }
        for slot in &mut vlans.tags[..usize::from(depth)] {
            let tag = VlanTag { tpid: u16::from_be_bytes(take(bytes)?), tci: u16::from_be_bytes(take(bytes)?) };
            if !VlanTag::is_tpid(tag.tpid) {
                return Err(DecodeError::Invalid);
            }
            *slot = Some(tag);
        }
        Ok(L2Header { dst, src, vlans })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn qinq() -> L2Header {
        L2Header {
            dst: MacAddr([2, 0, 0, 0, 0, 1]),
            src: MacAddr([2, 0, 0, 0, 0, 0xab]),
            vlans: VlanStack {
                tags: [Some(VlanTag { tpid: 0x88a8, tci: 0x6064 }), Some(VlanTag { tpid: 0x8100, tci: 0x0014 })],
            },
        }
    }

    #[test]
    fn a_header_is_written_as_on_the_wire() {
        let header = qinq();
        let mut out = [0; 22];
        header.write(0x0800, &mut out);
        assert_eq!(header.header_len(), out.len());
        assert_eq!(out[12..], [0x88, 0xa8, 0x60, 0x64, 0x81, 0, 0, 0x14, 8, 0]);
        assert_eq!(header.vlans.ids(), VlanIds([Some(100), Some(20)]));
        assert_eq!(header.vlans.ids().to_string(), "100.20");
        assert_eq!(header.reversed().dst.to_string(), "02:00:00:00:00:ab");
        assert_eq!(header.reversed().vlans, header.vlans);
    }

    #[test]
    fn a_priority_tag_names_no_vlan() {
        let tags = [Some(VlanTag { tpid: 0x8100, tci: 0xa000 }), Some(VlanTag { tpid: 0x8100, tci: 0xa007 })];
        assert_eq!(VlanStack { tags }.ids(), VlanIds([Some(7), None]));
    }

    #[test]
    fn unicast_excludes_groups_and_the_null_address() {
        assert!(MacAddr([2, 0, 0, 0, 0, 1]).is_unicast());
        assert!(!MacAddr([1, 0, 0x5e, 0, 0, 1]).is_unicast());
        assert!(!MacAddr::BROADCAST.is_unicast());
        assert!(!MacAddr::default().is_unicast());
    }

    #[test]
    fn the_peers_encoding_round_trips_and_its_cuts_are_refused() {
        for header in [qinq(), L2Header { vlans: VlanStack::default(), ..qinq() }] {
            let mut bytes = Vec::new();
            header.encode(&mut bytes);
            assert!(bytes.len() <= L2Header::ENCODED_LEN_MAX);
            for cut in 0..bytes.len() {
                assert_eq!(L2Header::decode(&mut &bytes[..cut]), Err(DecodeError::Truncated));
            }
            bytes.push(9);
            let mut rest = &bytes[..];
            assert_eq!(L2Header::decode(&mut rest), Ok(header));
            assert_eq!(rest, [9]);
        }
    }

    proptest! {
        #[test]
        fn random_bytes_decode_to_what_encodes_to_them_or_to_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..32)) {
            let mut rest = &bytes[..];
            if let Ok(header) = L2Header::decode(&mut rest) {
                let mut again = Vec::new();
                header.encode(&mut again);
                prop_assert_eq!(&bytes[..bytes.len() - rest.len()], &again[..]);
            }
        }
    }
}
