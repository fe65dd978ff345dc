//! Building frames: outer headers in front of an IP packet, bare segments, address probes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::checksum::{PROTOCOL_ICMPV6, PROTOCOL_TCP, complement, fill_ipv4_header, is_intact, partial, pseudo_header};
use super::flow::FlowKey;
use super::l2::{L2Header, MacAddr, VlanStack};
use super::segment::TcpFlags;
use super::vnet::{VNET_HEADER_LEN, VnetHeader};
use super::{ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPV4_HEADER_LEN, IPV6_HEADER_LEN, TCP_HEADER_LEN};
use crate::buffer::FrameBuf;

/// Time to live of packets we make (RFC 1700's default, and every common host's).
const HOP_LIMIT: u8 = 64;

/// Where the TCP checksum is in its header.
const TCP_CHECKSUM_OFFSET: usize = 16;

/// What was to be framed is no TCP over IPv4 without options or IPv6 without extension headers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a TCP/IP packet without IP options")]
pub struct MalformedPacket;

/// Puts the virtio-net and the Ethernet header in front of the TCP/IP packet in `frame`.
///
/// The packet may be a super-segment: what is longer than `mss` bytes of payload is left to the kernel to cut into
/// segments of `mss`. The TCP checksum is left to the kernel (the pseudo-header's sum is put in place), the IPv4 header
/// checksum is computed here, since a zero one makes bridges drop the packet. `frame` needs its headroom. On error it
/// is unchanged.
pub fn encapsulate_tcp(frame: &mut FrameBuf, l2: &L2Header, mss: u16) -> Result<(), MalformedPacket> {
    let version = frame.first().map(|byte| byte >> 4);
    let (ip_len, ether_type, gso_type) = match version {
        Some(4) => (IPV4_HEADER_LEN, ETHERTYPE_IPV4, VnetHeader::GSO_TCPV4),
        Some(6) => (IPV6_HEADER_LEN, ETHERTYPE_IPV6, VnetHeader::GSO_TCPV6),
        _ => return Err(MalformedPacket),
    };
    let packet_len = frame.len();
    if packet_len < ip_len + TCP_HEADER_LEN || packet_len > usize::from(u16::MAX) {
        return Err(MalformedPacket);
    }
    let (ip, tcp) = frame.split_at_mut(ip_len);
    let (src, dst, length_field, protocol): (IpAddr, IpAddr, usize, u8) = if ip_len == IPV4_HEADER_LEN {
        let address = |at: usize| Ipv4Addr::new(ip[at], ip[at + 1], ip[at + 2], ip[at + 3]);
        let total_len = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
        (address(12).into(), address(16).into(), total_len, ip[9])
    } else {
        let address = |at: usize| super::segment::ipv6_at(&ip[at..]).ok_or(MalformedPacket);
        let payload_len = usize::from(u16::from_be_bytes([ip[4], ip[5]]));
        (address(8)?.into(), address(24)?.into(), IPV6_HEADER_LEN + payload_len, ip[6])
    };
    let tcp_header_len = usize::from(tcp[12] >> 4) * 4;
    let options_in_ip = ip_len == IPV4_HEADER_LEN && ip[0] != 0x45;
    if protocol != PROTOCOL_TCP
        || length_field != packet_len
        || options_in_ip
        || tcp_header_len < TCP_HEADER_LEN
        || tcp_header_len > tcp.len()
    {
        return Err(MalformedPacket);
    }
    if ip_len == IPV4_HEADER_LEN {
        fill_ipv4_header(ip);
    }
    let sum = partial(&pseudo_header(src, dst, PROTOCOL_TCP, tcp.len()));
    tcp[TCP_CHECKSUM_OFFSET..TCP_CHECKSUM_OFFSET + 2].copy_from_slice(&sum);
    let is_super = tcp.len() - tcp_header_len > usize::from(mss.max(1));
    let has_cwr = tcp[13] & TcpFlags::CWR.0 != 0;

    let l2_len = l2.header_len();
    l2.write(ether_type, frame.prepend(l2_len));
    let csum_start = (l2_len + ip_len) as u16;
    let mut vnet = VnetHeader {
        flags: VnetHeader::NEEDS_CSUM,
        csum_start,
        csum_offset: TCP_CHECKSUM_OFFSET as u16,
        ..VnetHeader::default()
    };
    if is_super {
        vnet.gso_type = gso_type | if has_cwr { VnetHeader::GSO_ECN } else { 0 };
        vnet.gso_size = mss.max(1);
        vnet.hdr_len = csum_start + tcp_header_len as u16;
    }
    frame.prepend(VNET_HEADER_LEN).copy_from_slice(&vnet.to_bytes());
    Ok(())
}

/// A reset in the direction of `key`. `ack` makes it a RST-ACK.
///
/// To be accepted by `key.dst`, `seq` has to be the next one it expects of `key.src` (RFC 5961 section 3.2).
pub fn bare_rst(frame: &mut FrameBuf, l2: &L2Header, key: &FlowKey, seq: u32, ack: Option<u32>) {
    let flags = if ack.is_some() { TcpFlags::RST.union(TcpFlags::ACK) } else { TcpFlags::RST };
    bare_segment(frame, l2, key, flags, seq, ack.unwrap_or(0), 0, &[]);
}

/// An acknowledgement without payload in the direction of `key`, with a closed window: for a connection that is over.
pub fn bare_ack(frame: &mut FrameBuf, l2: &L2Header, key: &FlowKey, seq: u32, ack: u32) {
    bare_segment(frame, l2, key, TcpFlags::ACK, seq, ack, 0, &[]);
}

/// What a SYN of ours announces.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SynOptions {
    /// Maximum segment size.
    pub mss: u16,
    /// Window, not scaled.
    pub window: u16,
}

/// A SYN in the direction of `key`, with an MSS option only.
///
/// A host that has this connection answers with a challenge ACK (RFC 5961 section 4.2), which tells the sequence
/// number that a [`bare_rst`] needs; a host that does not have it answers as to any new connection.
pub fn bare_syn(frame: &mut FrameBuf, l2: &L2Header, key: &FlowKey, seq: u32, options: SynOptions) {
    let [high, low] = options.mss.to_be_bytes();
    bare_segment(frame, l2, key, TcpFlags::SYN, seq, 0, options.window, &[2, 4, high, low]);
}

/// A segment without payload; `options` are a multiple of 4 bytes.
#[expect(clippy::too_many_arguments, reason = "the fields of a TCP header")]
fn bare_segment(
    frame: &mut FrameBuf,
    l2: &L2Header,
    key: &FlowKey,
    flags: TcpFlags,
    seq: u32,
    ack: u32,
    window: u16,
    options: &[u8],
) {
    frame.clear();
    let tcp_len = TCP_HEADER_LEN + options.len();
    let tcp_at = match (key.src.ip(), key.dst.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let packet = frame.resize(IPV4_HEADER_LEN + tcp_len);
            packet[0] = 0x45;
            packet[2..4].copy_from_slice(&((IPV4_HEADER_LEN + tcp_len) as u16).to_be_bytes());
            packet[6] = 0x40;
            packet[8] = HOP_LIMIT;
            packet[9] = PROTOCOL_TCP;
            packet[12..16].copy_from_slice(&src.octets());
            packet[16..20].copy_from_slice(&dst.octets());
            IPV4_HEADER_LEN
        }
        (src, dst) => {
            let (src, dst) = (as_ipv6(src), as_ipv6(dst));
            ipv6_header(frame.resize(IPV6_HEADER_LEN + tcp_len), src, dst, PROTOCOL_TCP, HOP_LIMIT);
            IPV6_HEADER_LEN
        }
    };
    let port = |address: SocketAddr| address.port().to_be_bytes();
    let tcp = &mut frame[tcp_at..];
    tcp[..2].copy_from_slice(&port(key.src));
    tcp[2..4].copy_from_slice(&port(key.dst));
    tcp[4..8].copy_from_slice(&seq.to_be_bytes());
    tcp[8..12].copy_from_slice(&ack.to_be_bytes());
    tcp[12] = ((tcp_len / 4) as u8) << 4;
    tcp[13] = flags.0;
    tcp[14..16].copy_from_slice(&window.to_be_bytes());
    tcp[TCP_HEADER_LEN..].copy_from_slice(options);
    encapsulate_tcp(frame, l2, u16::MAX).expect("invariant: a well-formed segment was written above");
}

/// IPv4 addresses of a mixed pair as mapped ones: no such flow exists, and no frame of ours may panic over it.
fn as_ipv6(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

fn ipv6_header(packet: &mut [u8], src: Ipv6Addr, dst: Ipv6Addr, next_header: u8, hop_limit: u8) {
    let payload_len = (packet.len() - IPV6_HEADER_LEN) as u16;
    packet[0] = 0x60;
    packet[4..6].copy_from_slice(&payload_len.to_be_bytes());
    packet[6] = next_header;
    packet[7] = hop_limit;
    packet[8..24].copy_from_slice(&src.octets());
    packet[24..40].copy_from_slice(&dst.octets());
}

/// Asks who has `target`, from no address of our own, so that nobody's cache changes (RFC 5227 section 1.1). The
/// answer goes to `src`.
pub fn arp_probe(frame: &mut FrameBuf, src: MacAddr, vlans: VlanStack, target: Ipv4Addr) {
    frame.clear();
    let packet = frame.resize(28);
    packet[..8].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
    packet[8..14].copy_from_slice(&src.0);
    packet[24..28].copy_from_slice(&target.octets());
    let l2 = L2Header { dst: MacAddr::BROADCAST, src, vlans };
    l2.write(ETHERTYPE_ARP, frame.prepend(l2.header_len()));
    frame.prepend(VNET_HEADER_LEN).copy_from_slice(&VnetHeader::default().to_bytes());
}

/// Asks who has `target`, from no address of our own (RFC 4861 section 4.3, as in duplicate address detection,
/// RFC 4862 section 5.4.2). The answer goes to all nodes.
pub fn neighbor_solicitation(frame: &mut FrameBuf, src: MacAddr, vlans: VlanStack, target: Ipv6Addr) {
    const ICMP_LEN: usize = 24;
    frame.clear();
    let [.., a, b, c] = target.octets();
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]));
    let packet = frame.resize(IPV6_HEADER_LEN + ICMP_LEN);
    ipv6_header(packet, Ipv6Addr::UNSPECIFIED, group, PROTOCOL_ICMPV6, 255);
    let icmp = &mut packet[IPV6_HEADER_LEN..];
    icmp[0] = 135;
    icmp[8..24].copy_from_slice(&target.octets());
    let pseudo = || pseudo_header(Ipv6Addr::UNSPECIFIED.into(), group.into(), PROTOCOL_ICMPV6, ICMP_LEN);
    let checksum = complement(&pseudo().add_slice(icmp));
    icmp[2..4].copy_from_slice(&checksum);
    debug_assert!(is_intact(&pseudo().add_slice(icmp)));
    let l2 = L2Header { dst: MacAddr([0x33, 0x33, 0xff, a, b, c]), src, vlans };
    l2.write(ETHERTYPE_IPV6, frame.prepend(l2.header_len()));
    frame.prepend(VNET_HEADER_LEN).copy_from_slice(&VnetHeader::default().to_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::fixtures::*;
    use crate::frame::{Classified, ETHERNET_HEADER_LEN, VlanTag, classify};

    fn l2() -> L2Header {
        L2Header {
            dst: MacAddr([2, 0, 0, 0, 0, 0xb]),
            src: MacAddr([2, 0, 0, 0, 0, 0xa]),
            vlans: VlanStack { tags: [Some(VlanTag { tpid: 0x8100, tci: 0x2007 }), None] },
        }
    }

    /// What the kernel does with a frame whose checksum is left to it.
    fn complete_checksum(frame: &mut [u8]) {
        let vnet = VnetHeader::parse(frame).unwrap();
        assert_eq!(vnet.flags, VnetHeader::NEEDS_CSUM);
        let start = VNET_HEADER_LEN + usize::from(vnet.csum_start);
        let field = start + usize::from(vnet.csum_offset);
        let sum = etherparse::checksum::Sum16BitWords::new().add_slice(&frame[start..]);
        frame[field..field + 2].copy_from_slice(&complement(&sum));
        frame[..VNET_HEADER_LEN].fill(0);
    }

    #[test]
    fn a_reset_is_what_linux_sends_for_a_refused_syn() {
        for (syn_hex, rst_hex) in [(SYN_V4, Some(RST_V4)), (SYN_V6, None)] {
            let syn = frame(syn_hex);
            let Classified::Tcp(syn) = classify(&syn) else { panic!() };
            let mut rst = FrameBuf::with_headroom();
            bare_rst(&mut rst, &syn.l2.reversed(), &syn.key.reversed(), 0, Some(syn.seq + 1));
            complete_checksum(&mut rst);
            let Classified::Tcp(parsed) = classify(&rst) else { panic!() };
            assert!(parsed.verify_checksums() && parsed.flags.rst() && parsed.ack == syn.seq + 1);
            if let Some(hex) = rst_hex {
                assert_eq!(rst[..], frame(hex)[..]);
            }
        }
    }

    #[test]
    fn a_bare_syn_announces_its_mss() {
        let key = FlowKey {
            vlans: l2().vlans.ids(),
            src: "[fd00::1]:5".parse().unwrap(),
            dst: "[fd00::2]:6".parse().unwrap(),
        };
        let mut frame = FrameBuf::with_headroom();
        bare_syn(&mut frame, &l2(), &key, 77, SynOptions { mss: 1220, window: 5 });
        complete_checksum(&mut frame);
        let Classified::Tcp(syn) = classify(&frame) else { panic!() };
        assert_eq!((syn.key, syn.seq, syn.window, syn.options.mss), (key, 77, 5, Some(1220)));
        assert!(syn.flags.opens() && syn.verify_checksums() && syn.l2 == l2());
    }

    /// An IP packet with `payload` bytes in the direction of the fixture's SYN.
    fn packet(hex: &str, payload: usize) -> FrameBuf {
        let bytes = frame(hex);
        let mut ip = bytes[VNET_HEADER_LEN + ETHERNET_HEADER_LEN..].to_vec();
        let ip_len = if ip[0] >> 4 == 4 { IPV4_HEADER_LEN } else { IPV6_HEADER_LEN };
        ip[ip_len + 13] = TcpFlags::ACK.0;
        ip.resize(ip.len() + payload, 0x5a);
        let (at, counted) = if ip_len == IPV4_HEADER_LEN { (2, ip.len()) } else { (4, ip.len() - ip_len) };
        ip[at..at + 2].copy_from_slice(&(counted as u16).to_be_bytes());
        let mut frame = FrameBuf::with_headroom();
        frame.resize(ip.len()).copy_from_slice(&ip);
        frame
    }

    #[test]
    fn a_super_segment_tells_the_kernel_how_to_cut_it() {
        for (hex, gso_type, ip_len) in [(SYN_V4, VnetHeader::GSO_TCPV4, 20), (SYN_V6, VnetHeader::GSO_TCPV6, 40)] {
            let mut frame = packet(hex, 44 * 1448);
            encapsulate_tcp(&mut frame, &l2(), 1448).unwrap();
            let vnet = VnetHeader::parse(&frame).unwrap();
            let csum_start = 18 + ip_len;
            assert_eq!(
                vnet,
                VnetHeader {
                    flags: VnetHeader::NEEDS_CSUM,
                    gso_type,
                    hdr_len: csum_start + 40,
                    gso_size: 1448,
                    csum_start,
                    csum_offset: 16
                }
            );
            let Classified::Tcp(segment) = classify(&frame) else { panic!() };
            assert!(segment.verify_checksums(), "the virtio-net header vouches and the IPv4 header is right");
            assert_eq!(segment.payload.len(), 44 * 1448);
            complete_checksum(&mut frame);
            let Classified::Tcp(segment) = classify(&frame) else { panic!() };
            assert!(segment.verify_checksums(), "the pseudo-header sum was right");
        }
    }

    #[test]
    fn a_small_segment_asks_for_no_cut() {
        let mut frame = packet(SYN_V4, 1448);
        encapsulate_tcp(&mut frame, &l2(), 1448).unwrap();
        let vnet = VnetHeader::parse(&frame).unwrap();
        assert_eq!((vnet.gso_type, vnet.gso_size, vnet.csum_start), (VnetHeader::GSO_NONE, 0, 38));
    }

    #[test]
    fn what_is_no_tcp_packet_is_refused_unchanged() {
        for (at, value) in [(0, 0x46), (0, 0x55), (9, 17), (3, 9), (32, 0x40), (32, 0xf0)] {
            let mut frame = packet(SYN_V4, 0);
            frame[at] = value;
            let before = frame.clone();
            assert_eq!(encapsulate_tcp(&mut frame, &l2(), 1448), Err(MalformedPacket));
            assert_eq!(frame, before);
        }
        assert_eq!(encapsulate_tcp(&mut FrameBuf::with_headroom(), &l2(), 1448), Err(MalformedPacket));
    }

    #[test]
    fn probes_ask_for_an_address_and_bind_none() {
        let mac = MacAddr([2, 0, 0, 0, 0, 0xa]);
        let mut frame = FrameBuf::with_headroom();
        arp_probe(&mut frame, mac, l2().vlans, Ipv4Addr::new(10, 1, 0, 2));
        assert_eq!(frame.len(), VNET_HEADER_LEN + 18 + 28);
        assert_eq!(frame[VNET_HEADER_LEN..][..6], [0xff; 6]);
        assert_eq!(frame[VNET_HEADER_LEN + 18 + 24..], [10, 1, 0, 2]);
        assert!(matches!(classify(&frame), Classified::Other), "nothing to learn from a probe");

        neighbor_solicitation(&mut frame, mac, VlanStack::default(), "fd00::2".parse().unwrap());
        // As Linux's, except for the unspecified source and, therefore, no link-layer option and another checksum.
        let linux = super::super::fixtures::frame(SOLICITATION);
        assert_eq!(frame[VNET_HEADER_LEN..][..18], linux[VNET_HEADER_LEN..][..18]);
        assert_eq!(frame[VNET_HEADER_LEN + 38..][..16], linux[VNET_HEADER_LEN + 38..][..16]);
        assert_eq!(frame[VNET_HEADER_LEN + 58..], linux[VNET_HEADER_LEN + 58..][..20]);
        assert!(matches!(classify(&frame), Classified::Ip(_)));
    }
}
