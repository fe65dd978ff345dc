//! The view of one TCP segment: header fields, the options that matter, payload, checksums.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::TcpHeaderSlice;
use etherparse::checksum::Sum16BitWords;

use super::checksum::{PROTOCOL_TCP, is_intact, pseudo_header};
use super::classify::{Reason, Untouchable, classify_ip};
use super::flow::FlowKey;
use super::l2::L2Header;
use super::vnet::VnetHeader;

/// Length of a TCP header without options.
pub const TCP_HEADER_LEN: usize = 20;

/// The control bits of a segment (RFC 9293 section 3.1), as on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// The sender has finished.
    pub const FIN: TcpFlags = TcpFlags(0x01);
    /// Opens a direction.
    pub const SYN: TcpFlags = TcpFlags(0x02);
    /// Ends the connection at once.
    pub const RST: TcpFlags = TcpFlags(0x04);
    /// Deliver without waiting for more.
    pub const PSH: TcpFlags = TcpFlags(0x08);
    /// The acknowledgement number counts.
    pub const ACK: TcpFlags = TcpFlags(0x10);
    /// The urgent pointer counts.
    pub const URG: TcpFlags = TcpFlags(0x20);
    /// ECN echo (RFC 3168).
    pub const ECE: TcpFlags = TcpFlags(0x40);
    /// Congestion window reduced (RFC 3168).
    pub const CWR: TcpFlags = TcpFlags(0x80);

    /// Whether all bits of `flags` are set.
    pub const fn contains(self, flags: TcpFlags) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// The bits of both.
    pub const fn union(self, flags: TcpFlags) -> TcpFlags {
        TcpFlags(self.0 | flags.0)
    }

    /// SYN.
    pub const fn syn(self) -> bool {
        self.contains(Self::SYN)
    }

    /// ACK.
    pub const fn ack(self) -> bool {
        self.contains(Self::ACK)
    }

    /// FIN.
    pub const fn fin(self) -> bool {
        self.contains(Self::FIN)
    }

    /// RST.
    pub const fn rst(self) -> bool {
        self.contains(Self::RST)
    }

    /// Whether the segment asks for a connection: SYN without ACK.
    pub const fn opens(self) -> bool {
        self.syn() && !self.ack()
    }

    /// Combinations that no TCP sends, and that ends treat differently.
    const fn are_bogus(self) -> bool {
        let one_of = (self.syn() as u8) + (self.fin() as u8) + (self.rst() as u8);
        one_of > 1 || (one_of == 0 && !self.ack())
    }
}

impl fmt::Debug for TcpFlags {
    /// `SYN|ACK`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 8] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];
        let mut separator = "";
        for (bit, name) in NAMES.iter().enumerate() {
            if self.0 & (1 << bit) != 0 {
                write!(f, "{separator}{name}")?;
                separator = "|";
            }
        }
        if self.0 == 0 { f.write_str("none") } else { Ok(()) }
    }
}

/// The options of a segment, as far as a decision hangs on them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TcpOptions {
    /// Maximum segment size (kind 2, RFC 9293).
    pub mss: Option<u16>,
    /// Window scale shift (kind 3, RFC 7323).
    pub window_scale: Option<u8>,
    /// SACK permitted (kind 4, RFC 2018).
    pub sack_permitted: bool,
    /// Timestamps (kind 8, RFC 7323).
    pub timestamps: bool,
    /// MD5 signature (kind 19, RFC 2385): cannot be terminated.
    pub md5: bool,
    /// TCP-AO (kind 29, RFC 5925): cannot be terminated.
    pub ao: bool,
    /// Multipath TCP (kind 30, RFC 8684): cannot be terminated silently.
    pub mptcp: bool,
    /// Fast Open (kind 34, RFC 7413).
    pub fast_open: bool,
}

impl TcpOptions {
    /// Reads an option list; `None` if a length in it is wrong (RFC 9293 section 3.1).
    fn parse(mut bytes: &[u8]) -> Option<TcpOptions> {
        let mut options = TcpOptions::default();
        while let Some(&kind) = bytes.first() {
            match kind {
                0 => break,
                1 => bytes = &bytes[1..],
                _ => {
                    let len = usize::from(*bytes.get(1)?);
                    if len < 2 {
                        return None;
                    }
                    let value = bytes.get(2..len)?;
                    bytes = &bytes[len..];
                    match kind {
                        2 => options.mss = Some(u16::from_be_bytes(value.try_into().ok()?)),
                        3 => options.window_scale = Some(<[u8; 1]>::try_from(value).ok()?[0]),
                        4 if value.is_empty() => options.sack_permitted = true,
                        8 if value.len() == 8 => options.timestamps = true,
                        4 | 8 => return None,
                        19 => options.md5 = true,
                        29 => options.ao = true,
                        30 => options.mptcp = true,
                        34 => options.fast_open = true,
                        _ => {}
                    }
                }
            }
        }
        Some(options)
    }
}

/// One TCP segment in a frame: unfragmented, without IP options or extension headers, its lengths consistent.
#[derive(Clone, Copy, Debug)]
pub struct TcpSegment<'a> {
    /// The virtio-net header of its frame.
    pub vnet: VnetHeader,
    /// The Ethernet header of its frame.
    pub l2: L2Header,
    /// Its direction of its flow.
    pub key: FlowKey,
    /// The IP packet, exactly as long as its length field says.
    pub ip_packet: &'a [u8],
    /// Where the TCP header starts in [`TcpSegment::ip_packet`].
    pub tcp_offset: usize,
    /// DSCP and ECN: the IPv4 type of service or the IPv6 traffic class.
    pub traffic_class: u8,
    /// IPv4 time to live or IPv6 hop limit.
    pub hop_limit: u8,
    /// Control bits.
    pub flags: TcpFlags,
    /// Sequence number of the first byte (or of SYN, FIN).
    pub seq: u32,
    /// Acknowledgement number; counts with ACK only.
    pub ack: u32,
    /// Window as on the wire, not scaled.
    pub window: u16,
    /// Options.
    pub options: TcpOptions,
    /// Payload; up to a super-segment's.
    pub payload: &'a [u8],
}

impl<'a> TcpSegment<'a> {
    /// The view of a bare IP packet. `Err` with the reason when it is TCP of a kind that is never terminated or no
    /// TCP at all ([`Reason::NotTcp`]).
    pub fn parse(ip_packet: &'a [u8]) -> Result<TcpSegment<'a>, Reason> {
        match classify_ip(VnetHeader::default(), L2Header::default(), ip_packet) {
            super::Classified::Tcp(segment) => Ok(segment),
            super::Classified::Untouchable(untouchable) => Err(untouchable.reason),
            _ => Err(Reason::NotTcp),
        }
    }

    /// Sequence numbers the segment occupies: payload, SYN and FIN.
    pub fn seq_len(&self) -> u32 {
        self.payload.len() as u32 + u32::from(self.flags.syn()) + u32::from(self.flags.fin())
    }

    /// Whether its IPv4 header checksum and its TCP checksum are good. The latter is computed only when the
    /// virtio-net header does not vouch for it.
    pub fn verify_checksums(&self) -> bool {
        let (ip_header, tcp) = self.ip_packet.split_at(self.tcp_offset);
        if self.key.src.is_ipv4() && !is_intact(&Sum16BitWords::new().add_slice(ip_header)) {
            return false;
        }
        self.vnet.vouches_for_tcp(self.l2.header_len() + self.tcp_offset)
            || is_intact(&pseudo_header(self.key.src.ip(), self.key.dst.ip(), PROTOCOL_TCP, tcp.len()).add_slice(tcp))
    }
}

/// What a classified IP packet says about the TCP segment inside.
pub(super) struct IpHeader {
    pub(super) src: IpAddr,
    pub(super) dst: IpAddr,
    pub(super) len: usize,
    pub(super) traffic_class: u8,
    pub(super) hop_limit: u8,
}

/// The key of a segment whose ports are in the first bytes of `tcp`, if they are.
pub(super) fn flow_key(l2: &L2Header, src: IpAddr, dst: IpAddr, tcp: &[u8]) -> Option<FlowKey> {
    let ports = tcp.first_chunk::<4>()?;
    Some(FlowKey {
        vlans: l2.vlans.ids(),
        src: (src, u16::from_be_bytes([ports[0], ports[1]])).into(),
        dst: (dst, u16::from_be_bytes([ports[2], ports[3]])).into(),
    })
}

/// Reads the TCP segment that follows an IP header without options in `ip_packet` (cut to its length field).
pub(super) fn parse_segment<'a>(
    vnet: VnetHeader,
    l2: L2Header,
    ip_header: &IpHeader,
    ip_packet: &'a [u8],
) -> Result<TcpSegment<'a>, Untouchable> {
    let tcp = &ip_packet[ip_header.len..];
    let key = flow_key(&l2, ip_header.src, ip_header.dst, tcp);
    let refuse = |reason| Untouchable { l2, key, reason };
    let header = TcpHeaderSlice::from_slice(tcp).map_err(|_| refuse(Reason::Malformed))?;
    let key = key.ok_or(refuse(Reason::Malformed))?;
    if !key.is_terminable() {
        return Err(refuse(Reason::Address));
    }
    let flags = TcpFlags(header.slice()[13]);
    let options = TcpOptions::parse(header.options()).filter(|_| !flags.are_bogus());
    let options = options.ok_or(refuse(Reason::Malformed))?;
    Ok(TcpSegment {
        vnet,
        l2,
        key,
        ip_packet,
        tcp_offset: ip_header.len,
        traffic_class: ip_header.traffic_class,
        hop_limit: ip_header.hop_limit,
        flags,
        seq: header.sequence_number(),
        ack: header.acknowledgment_number(),
        window: header.window_size(),
        options,
        payload: &tcp[header.slice().len()..],
    })
}

/// An IPv4 address at the start of four bytes.
pub(super) fn ipv4_at(bytes: &[u8]) -> Option<Ipv4Addr> {
    bytes.first_chunk::<4>().map(|&octets| Ipv4Addr::from(octets))
}

/// An IPv6 address at the start of sixteen bytes.
pub(super) fn ipv6_at(bytes: &[u8]) -> Option<Ipv6Addr> {
    bytes.first_chunk::<16>().map(|&octets| Ipv6Addr::from(octets))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_a_linux_syn_are_read() {
        let bytes = [2, 4, 5, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7];
        assert_eq!(
            TcpOptions::parse(&bytes),
            Some(TcpOptions {
                mss: Some(1460),
                window_scale: Some(7),
                sack_permitted: true,
                timestamps: true,
                ..TcpOptions::default()
            })
        );
    }

    #[test]
    fn options_that_forbid_termination_are_seen() {
        let options = TcpOptions::parse(&[19, 2, 29, 4, 0, 0, 30, 2, 34, 2, 253, 3, 9, 0, 77]).unwrap();
        assert!(options.md5 && options.ao && options.mptcp && options.fast_open);
    }

    #[test]
    fn options_with_a_wrong_length_are_refused() {
        for bytes in [&[2][..], &[2, 0], &[2, 1], &[2, 3, 5], &[2, 4, 5], &[3, 2], &[4, 3, 0], &[8, 2], &[77, 9, 1]] {
            assert_eq!(TcpOptions::parse(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn flags_print_their_names_and_nonsense_is_bogus() {
        assert_eq!(format!("{:?}", TcpFlags::SYN.union(TcpFlags::ACK)), "SYN|ACK");
        for bogus in [0x00, 0x03, 0x06, 0x05, 0x28, 0xc0] {
            assert!(TcpFlags(bogus).are_bogus(), "{bogus:#x}");
        }
        for good in [0x02, 0xc2, 0x10, 0x11, 0x12, 0x18, 0x04, 0x14] {
            assert!(!TcpFlags(good).are_bogus(), "{good:#x}");
        }
    }
}
