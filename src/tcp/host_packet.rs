//! Packets as if the host had sent them: what smoltcp is fed instead of, or in addition to, the real ones.

use std::net::IpAddr;

use crate::frame::{FlowKey, TCP_HEADER_LEN, TcpFlags};

/// Writes packets without payload in one direction of a flow. Their checksums are void: nobody below verifies them.
#[derive(Debug, Default)]
pub(super) struct HostPackets {
    bytes: Vec<u8>,
    ip_header_len: usize,
}

/// The TCP header fields that vary.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields {
    pub(super) flags: TcpFlags,
    pub(super) seq: u32,
    pub(super) ack: u32,
    pub(super) window: u16,
}

impl HostPackets {
    /// For packets in the direction of `key`.
    pub(super) fn new(key: &FlowKey) -> Self {
        let mut bytes = Vec::with_capacity(40 + TCP_HEADER_LEN + 40);
        match (key.src.ip(), key.dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                bytes.extend_from_slice(&[0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6, 0, 0]);
                bytes.extend_from_slice(&src.octets());
                bytes.extend_from_slice(&dst.octets());
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                bytes.extend_from_slice(&[0x60, 0, 0, 0, 0, 0, 6, 64]);
                bytes.extend_from_slice(&src.octets());
                bytes.extend_from_slice(&dst.octets());
            }
            // No flow has both families; smoltcp drops what follows as malformed.
            _ => bytes.resize(20, 0),
        }
        let ip_header_len = bytes.len();
        bytes.extend_from_slice(&key.src.port().to_be_bytes());
        bytes.extend_from_slice(&key.dst.port().to_be_bytes());
        HostPackets { bytes, ip_header_len }
    }

    /// Length of the IP header of this flow's packets, both ways.
    pub(super) fn ip_header_len(&self) -> usize {
        self.ip_header_len
    }

    /// The packet with these fields and `options` (a multiple of 4 bytes, at most 40).
    pub(super) fn write(&mut self, fields: Fields, options: &[u8]) -> &[u8] {
        let tcp_len = TCP_HEADER_LEN + options.len();
        let (at, len) = if self.ip_header_len == 20 { (2, 20 + tcp_len) } else { (4, tcp_len) };
        self.bytes[at..at + 2].copy_from_slice(&(len as u16).to_be_bytes());
        self.bytes.truncate(self.ip_header_len + 4);
        self.bytes.extend_from_slice(&fields.seq.to_be_bytes());
        self.bytes.extend_from_slice(&fields.ack.to_be_bytes());
        self.bytes.extend_from_slice(&[((tcp_len / 4) as u8) << 4, fields.flags.0]);
        self.bytes.extend_from_slice(&fields.window.to_be_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(options);
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{TcpSegment, VlanIds};

    #[test]
    fn a_written_packet_parses_as_what_it_says() {
        for (src, dst) in [("10.0.0.1:5", "10.0.0.2:6"), ("[fd00::1]:5", "[fd00::2]:6")] {
            let key = FlowKey { vlans: VlanIds::default(), src: src.parse().unwrap(), dst: dst.parse().unwrap() };
            let mut packets = HostPackets::new(&key);
            for options in [&[2, 4, 5, 0xb4, 1, 3, 3, 7][..], &[]] {
                let fields = Fields { flags: TcpFlags::SYN, seq: 7, ack: 8, window: 9 };
                let segment = TcpSegment::parse(packets.write(fields, options)).unwrap();
                assert_eq!((segment.key, segment.seq, segment.ack, segment.window), (key, 7, 8, 9));
                assert_eq!(segment.options.mss, (!options.is_empty()).then_some(1460));
                assert!(segment.flags.opens() && segment.payload.is_empty());
            }
        }
    }
}
