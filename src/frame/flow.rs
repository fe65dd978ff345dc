//! The key of a flow: VLANs and both socket addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::l2::VlanIds;
use super::{DecodeError, take};

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

/// Bit of the first encoded byte: the addresses are IPv6. The two bits below count the VLANs.
const ENCODED_IPV6: u8 = 4;

impl FlowKey {
    /// The key of the other direction.
    pub const fn reversed(self) -> FlowKey {
        FlowKey { vlans: self.vlans, src: self.dst, dst: self.src }
    }

    /// Whether a TCP connection can exist under this key: two different unicast socket addresses of one family, with
    /// ports (RFC 1122 section 4.2.3.10; loopback addresses never appear on a wire, RFC 1122 section 3.2.1.3).
    pub fn is_terminable(&self) -> bool {
        let unicast = |address: &SocketAddr| {
            let ip_is_unicast = match address.ip() {
                IpAddr::V4(ip) => !(ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast() || ip.is_loopback()),
                IpAddr::V6(ip) => !(ip.is_unspecified() || ip.is_multicast() || ip.is_loopback()),
            };
            ip_is_unicast && address.port() != 0
        };
        unicast(&self.src) && unicast(&self.dst) && self.src != self.dst && self.src.is_ipv4() == self.dst.is_ipv4()
    }

    /// Longest result of [`FlowKey::encode`].
    pub const ENCODED_LEN_MAX: usize = 1 + 4 + 2 * 18;

    /// Appends the encoding for the peer: family and number of VLANs, VIDs, then address and port of source and
    /// destination; big endian.
    ///
    /// Both addresses have to be of one family, as in every key that [`super::classify()`] makes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let vids = self.vlans.0.iter().flatten();
        let family = if self.src.is_ipv6() { ENCODED_IPV6 } else { 0 };
        out.push(family | vids.clone().count() as u8);
        for vid in vids {
            out.extend_from_slice(&vid.to_be_bytes());
        }
        for address in [self.src, self.dst] {
            match address.ip() {
                IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
                IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
            }
            out.extend_from_slice(&address.port().to_be_bytes());
        }
    }

    /// Reads what [`FlowKey::encode`] wrote and moves `bytes` behind it. What it gives may still not be
    /// [terminable](FlowKey::is_terminable).
    pub fn decode(bytes: &mut &[u8]) -> Result<FlowKey, DecodeError> {
        let [head] = take(bytes)?;
        let depth = usize::from(head & 3);
        let mut vlans = VlanIds::default();
        if head & !(3 | ENCODED_IPV6) != 0 || depth > vlans.0.len() {
            return Err(DecodeError::Invalid);
        }
        for slot in &mut vlans.0[..depth] {
            let vid = u16::from_be_bytes(take(bytes)?);
            if vid == 0 || vid > 0x0fff {
                return Err(DecodeError::Invalid);
            }
            *slot = Some(vid);
        }
        let address = |bytes: &mut &[u8]| {
            let ip = if head & ENCODED_IPV6 != 0 {
                IpAddr::V6(Ipv6Addr::from(take::<16>(bytes)?))
            } else {
                IpAddr::V4(Ipv4Addr::from(take::<4>(bytes)?))
            };
            Ok(SocketAddr::new(ip, u16::from_be_bytes(take(bytes)?)))
        };
        Ok(FlowKey { vlans, src: address(bytes)?, dst: address(bytes)? })
    }
}

impl fmt::Display for FlowKey {
    /// `10.0.0.1:40000 > 10.0.0.2:8000 vlan 10.20`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} > {}", self.src, self.dst)?;
        if self.vlans != VlanIds::default() {
            write!(f, " vlan {}", self.vlans)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(src: &str, dst: &str, vids: [Option<u16>; 2]) -> FlowKey {
        FlowKey { vlans: VlanIds(vids), src: src.parse().unwrap(), dst: dst.parse().unwrap() }
    }

    #[test]
    fn a_key_prints_and_reverses() {
        let key = key("10.0.0.1:40000", "10.0.0.2:8000", [Some(10), Some(20)]);
        assert_eq!(key.to_string(), "10.0.0.1:40000 > 10.0.0.2:8000 vlan 10.20");
        assert_eq!(key.reversed().to_string(), "10.0.0.2:8000 > 10.0.0.1:40000 vlan 10.20");
    }

    #[test]
    fn addresses_without_a_connection_behind_them_are_not_terminable() {
        assert!(key("10.0.0.1:1", "10.0.0.2:2", [None; 2]).is_terminable());
        assert!(key("[fd00::1]:1", "[fd00::2]:2", [None; 2]).is_terminable());
        for (src, dst) in [
            ("10.0.0.1:0", "10.0.0.2:2"),
            ("10.0.0.1:1", "10.0.0.2:0"),
            ("0.0.0.0:1", "10.0.0.2:2"),
            ("10.0.0.1:1", "255.255.255.255:2"),
            ("10.0.0.1:1", "224.0.0.1:2"),
            ("127.0.0.1:1", "10.0.0.2:2"),
            ("10.0.0.1:1", "10.0.0.1:1"),
            ("10.0.0.1:1", "[fd00::2]:2"),
            ("[::]:1", "[fd00::2]:2"),
            ("[fd00::1]:1", "[ff02::1]:2"),
        ] {
            assert!(!key(src, dst, [None; 2]).is_terminable(), "{src} > {dst}");
        }
    }

    #[test]
    fn the_peers_encoding_round_trips_and_its_cuts_are_refused() {
        for key in [
            key("10.0.0.1:40000", "10.0.0.2:8000", [None; 2]),
            key("10.0.0.1:40000", "10.0.0.2:8000", [Some(4095), None]),
            key("[fd00::1]:1", "[fd00::2]:65535", [Some(1), Some(2)]),
        ] {
            let mut bytes = Vec::new();
            key.encode(&mut bytes);
            assert!(bytes.len() <= FlowKey::ENCODED_LEN_MAX);
            for cut in 0..bytes.len() {
                assert_eq!(FlowKey::decode(&mut &bytes[..cut]), Err(DecodeError::Truncated));
            }
            let mut rest = &bytes[..];
            assert_eq!(FlowKey::decode(&mut rest), Ok(key));
            assert!(rest.is_empty());
        }
        assert_eq!(FlowKey::decode(&mut &[3; 64][..]), Err(DecodeError::Invalid));
        assert_eq!(FlowKey::decode(&mut &[0x80; 64][..]), Err(DecodeError::Invalid));
    }

    proptest! {
        #[test]
        fn random_bytes_decode_to_what_encodes_to_them_or_to_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..48)) {
            let mut rest = &bytes[..];
            if let Ok(key) = FlowKey::decode(&mut rest) {
                let mut again = Vec::new();
                key.encode(&mut again);
                prop_assert_eq!(&bytes[..bytes.len() - rest.len()], &again[..]);
            }
        }
    }
}
