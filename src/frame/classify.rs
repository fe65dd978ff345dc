//! What a frame carries: a segment that may be terminated, something to learn from, or something to leave alone.

use std::net::IpAddr;

use etherparse::{Ipv4HeaderSlice, Ipv6HeaderSlice};

use super::checksum::{PROTOCOL_ICMPV6, PROTOCOL_TCP};
use super::flow::FlowKey;
use super::l2::{ETHERNET_HEADER_LEN, L2Header, MacAddr, VlanTag};
use super::segment::{IpHeader, TcpSegment, flow_key, ipv4_at, ipv6_at, parse_segment};
use super::vnet::{VNET_HEADER_LEN, VnetHeader};
use super::{ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPV6_HEADER_LEN};

/// VLAN tags and IPv6 extension headers followed at most, to find out whether there is TCP below. Deeper frames are
/// [`Classified::Other`].
const NESTING_MAX: usize = 8;

/// What a frame carries.
#[derive(Clone, Copy, Debug)]
pub enum Classified<'a> {
    /// A segment that may be terminated. Its checksums are not verified yet: [`TcpSegment::verify_checksums`].
    Tcp(TcpSegment<'a>),
    /// TCP that must never be terminated.
    Untouchable(Untouchable),
    /// ARP or IPv6 neighbour discovery that binds an address to a MAC.
    Neighbor(Neighbor),
    /// Another IP packet.
    Ip(IpPacket),
    /// Everything else: other EtherTypes, 802.3/LLC, deeper VLAN stacks, runts, truncated packets.
    Other,
}

/// Why a TCP segment must pass through untouched.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// Part of a fragmented packet.
    Fragment,
    /// IPv4 options.
    IpOptions,
    /// IPv6 extension headers.
    ExtensionHeaders,
    /// More than two VLAN tags.
    VlanDepth,
    /// Lengths, flags or options that contradict each other.
    Malformed,
    /// A port or address that no connection can have: see [`FlowKey::is_terminable`].
    Address,
    /// No TCP; only [`TcpSegment::parse`] says so.
    NotTcp,
}

/// TCP that must never be terminated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Untouchable {
    /// Its Ethernet header (of a deeper VLAN stack, with the outermost two tags).
    pub l2: L2Header,
    /// Its flow, where the frame tells: not in later fragments, nor under more than two VLAN tags.
    pub key: Option<FlowKey>,
    /// Why.
    pub reason: Reason,
}

/// An address and the MAC that answers for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Neighbor {
    /// The Ethernet header of the frame that said so.
    pub l2: L2Header,
    /// Whose address.
    pub ip: IpAddr,
    /// Its MAC.
    pub mac: MacAddr,
}

/// The outside of an IP packet without TCP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IpPacket {
    /// Its Ethernet header.
    pub l2: L2Header,
    /// Who sends.
    pub src: IpAddr,
    /// Who receives.
    pub dst: IpAddr,
}

/// Says what a frame (virtio-net header, then Ethernet) carries. Never panics.
pub fn classify(frame: &[u8]) -> Classified<'_> {
    let Some(vnet) = VnetHeader::parse(frame) else { return Classified::Other };
    let ethernet = &frame[VNET_HEADER_LEN..];
    if ethernet.len() < ETHERNET_HEADER_LEN {
        return Classified::Other;
    }
    let mac = |at: usize| MacAddr(*ethernet[at..].first_chunk().expect("invariant: length checked above"));
    let mut l2 = L2Header { dst: mac(0), src: mac(6), ..L2Header::default() };
    let mut rest = &ethernet[12..];
    for depth in 0..=NESTING_MAX {
        let Some((&[high, low], body)) = rest.split_first_chunk::<2>() else { break };
        let ether_type = u16::from_be_bytes([high, low]);
        if !VlanTag::is_tpid(ether_type) {
            return match (ether_type, depth) {
                (ETHERTYPE_IPV4 | ETHERTYPE_IPV6, 0..=2) => classify_ip(vnet, l2, body),
                (ETHERTYPE_IPV4 | ETHERTYPE_IPV6, _) => match classify_ip(vnet, l2, body) {
                    Classified::Tcp(_) | Classified::Untouchable(_) => {
                        Classified::Untouchable(Untouchable { l2, key: None, reason: Reason::VlanDepth })
                    }
                    _ => Classified::Other,
                },
                (ETHERTYPE_ARP, 0..=2) => arp(l2, body).map_or(Classified::Other, Classified::Neighbor),
                _ => Classified::Other,
            };
        }
        let Some((&tci, inner)) = body.split_first_chunk::<2>() else { break };
        if let Some(slot) = l2.vlans.tags.get_mut(depth) {
            *slot = Some(VlanTag { tpid: ether_type, tci: u16::from_be_bytes(tci) });
        }
        rest = inner;
    }
    Classified::Other
}

/// Says what an IP packet (possibly with Ethernet padding behind it) carries.
pub(super) fn classify_ip(vnet: VnetHeader, l2: L2Header, packet: &[u8]) -> Classified<'_> {
    match packet.first().map(|byte| byte >> 4) {
        Some(4) => classify_ipv4(vnet, l2, packet),
        Some(6) => classify_ipv6(vnet, l2, packet),
        _ => Classified::Other,
    }
}

fn classify_ipv4(vnet: VnetHeader, l2: L2Header, packet: &[u8]) -> Classified<'_> {
    let Ok(header) = Ipv4HeaderSlice::from_slice(packet) else { return Classified::Other };
    let (src, dst) = (header.source_addr().into(), header.destination_addr().into());
    if header.protocol().0 != PROTOCOL_TCP {
        return Classified::Ip(IpPacket { l2, src, dst });
    }
    let header_len = header.slice().len();
    let total_len = usize::from(header.total_len());
    let is_first = header.fragments_offset().value() == 0;
    let key = flow_key(&l2, src, dst, &packet[header_len..]).filter(|_| is_first);
    let untouchable = |reason| Classified::Untouchable(Untouchable { l2, key, reason });
    if header.is_fragmenting_payload() {
        return untouchable(Reason::Fragment);
    }
    if total_len < header_len || total_len > packet.len() {
        return untouchable(Reason::Malformed);
    }
    if !header.options().is_empty() {
        return untouchable(Reason::IpOptions);
    }
    let ip_header = IpHeader { src, dst, len: header_len, traffic_class: header.slice()[1], hop_limit: header.ttl() };
    parse_segment(vnet, l2, &ip_header, &packet[..total_len]).map_or_else(Classified::Untouchable, Classified::Tcp)
}

fn classify_ipv6(vnet: VnetHeader, l2: L2Header, packet: &[u8]) -> Classified<'_> {
    let Ok(header) = Ipv6HeaderSlice::from_slice(packet) else { return Classified::Other };
    let (src, dst) = (header.source_addr().into(), header.destination_addr().into());
    let total_len = IPV6_HEADER_LEN + usize::from(header.payload_length());
    let body = &packet[IPV6_HEADER_LEN..packet.len().min(total_len)];
    match header.next_header().0 {
        PROTOCOL_TCP if total_len > packet.len() => {
            let key = flow_key(&l2, src, dst, body);
            Classified::Untouchable(Untouchable { l2, key, reason: Reason::Malformed })
        }
        PROTOCOL_TCP => {
            let ip_header = IpHeader {
                src,
                dst,
                len: IPV6_HEADER_LEN,
                traffic_class: header.traffic_class(),
                hop_limit: header.hop_limit(),
            };
            parse_segment(vnet, l2, &ip_header, &packet[..total_len])
                .map_or_else(Classified::Untouchable, Classified::Tcp)
        }
        PROTOCOL_ICMPV6 => {
            neighbor_discovery(l2, header, body).map_or(Classified::Ip(IpPacket { l2, src, dst }), Classified::Neighbor)
        }
        next_header => match tcp_below_extensions(next_header, body) {
            Some((reason, tcp)) => {
                let key = tcp.and_then(|tcp| flow_key(&l2, src, dst, tcp));
                Classified::Untouchable(Untouchable { l2, key, reason })
            }
            None => Classified::Ip(IpPacket { l2, src, dst }),
        },
    }
}

/// Follows IPv6 extension headers (RFC 8200 section 4). If TCP is below them: why it is untouchable, and its first
/// bytes unless it is a later fragment.
fn tcp_below_extensions(mut next_header: u8, mut body: &[u8]) -> Option<(Reason, Option<&[u8]>)> {
    let mut reason = Reason::ExtensionHeaders;
    for _ in 0..NESTING_MAX {
        let len = match next_header {
            PROTOCOL_TCP => return Some((reason, Some(body))),
            // Fragment header: the offset is the upper 13 bits of its third and fourth byte.
            44 => {
                reason = Reason::Fragment;
                if u16::from_be_bytes([*body.get(2)?, *body.get(3)?]) >> 3 != 0 {
                    return (body[0] == PROTOCOL_TCP).then_some((reason, None));
                }
                8
            }
            // Authentication header: length in 4-byte units minus 2 (RFC 4302).
            51 => (usize::from(*body.get(1)?) + 2) * 4,
            // Hop-by-hop, routing, destination options, mobility, HIP, shim6: 8-byte units minus 1 (RFC 6564).
            0 | 43 | 60 | 135 | 139 | 140 => (usize::from(*body.get(1)?) + 1) * 8,
            _ => return None,
        };
        next_header = *body.first()?;
        body = body.get(len..)?;
    }
    None
}

/// The sender of an ARP packet for IPv4 over Ethernet (RFC 826), unless it is a probe (RFC 5227).
fn arp(l2: L2Header, packet: &[u8]) -> Option<Neighbor> {
    let packet = packet.first_chunk::<28>()?;
    if packet[..6] != [0, 1, 8, 0, 6, 4] {
        return None;
    }
    let mac = MacAddr(*packet[8..].first_chunk()?);
    let ip = ipv4_at(&packet[14..])?;
    (mac.is_unicast() && !ip.is_unspecified()).then_some(Neighbor { l2, ip: ip.into(), mac })
}

/// The binding in a neighbour solicitation (its source) or advertisement (its target), RFC 4861 sections 4.3, 4.4.
fn neighbor_discovery(l2: L2Header, header: Ipv6HeaderSlice<'_>, icmp: &[u8]) -> Option<Neighbor> {
    /// Neighbour discovery that crossed a router is forged (RFC 4861 section 7.1).
    const HOP_LIMIT: u8 = 255;
    const SOURCE_LINK_LAYER: u8 = 1;
    const TARGET_LINK_LAYER: u8 = 2;
    if header.hop_limit() != HOP_LIMIT || icmp.len() < 24 {
        return None;
    }
    let (ip, option_kind) = match icmp[0] {
        135 => (header.source_addr(), SOURCE_LINK_LAYER),
        136 => (ipv6_at(&icmp[8..])?, TARGET_LINK_LAYER),
        _ => return None,
    };
    let mut options = &icmp[24..];
    let mut mac = l2.src;
    while let Some((&[kind, units], _)) = options.split_first_chunk::<2>() {
        let len = usize::from(units) * 8;
        if len == 0 {
            return None;
        }
        let option = options.get(..len)?;
        if kind == option_kind {
            mac = MacAddr(*option[2..].first_chunk()?);
        }
        options = &options[len..];
    }
    (mac.is_unicast() && !ip.is_unspecified() && !ip.is_multicast()).then_some(Neighbor { l2, ip: ip.into(), mac })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::VlanIds;
    use crate::frame::fixtures::*;
    use proptest::prelude::*;

    fn segment(frame: &[u8]) -> TcpSegment<'_> {
        match classify(frame) {
            Classified::Tcp(segment) => segment,
            other => panic!("{other:?}"),
        }
    }

    fn untouchable(frame: &[u8]) -> Untouchable {
        match classify(frame) {
            Classified::Untouchable(untouchable) => untouchable,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_syn_is_read_in_full() {
        let frame = frame(SYN_V4);
        let syn = segment(&frame);
        assert_eq!(syn.key.to_string(), "10.1.0.1:40000 > 10.1.0.2:8000");
        assert_eq!(syn.l2.src.to_string(), "02:00:00:00:00:0a");
        assert!(syn.flags.opens());
        assert_eq!((syn.seq, syn.ack, syn.window), (0xed72_4e34, 0, 0xfaf0));
        assert_eq!((syn.hop_limit, syn.traffic_class, syn.payload.len(), syn.seq_len()), (64, 0, 0, 1));
        assert_eq!((syn.options.mss, syn.options.window_scale), (Some(1460), Some(10)));
        assert!(syn.options.sack_permitted && syn.options.timestamps && !syn.options.md5);
        assert!(syn.verify_checksums());
        let frame = super::super::fixtures::frame(SYN_V6);
        assert!(segment(&frame).verify_checksums());
        assert_eq!(segment(&frame).key.to_string(), "[fd00::1]:40000 > [fd00::2]:8000");
    }

    #[test]
    fn ethernet_padding_is_no_payload() {
        let mut frame = frame(RST_V4);
        frame.extend([0xee; 6]);
        let rst = segment(&frame);
        assert!(rst.flags.rst() && rst.flags.ack() && rst.payload.is_empty());
        assert_eq!(rst.ip_packet.len(), 40);
        assert!(rst.verify_checksums());
    }

    #[test]
    fn a_flipped_bit_is_noticed_unless_the_virtio_header_vouches() {
        for hex in [SYN_V4, SYN_V6] {
            let mut frame = frame(hex);
            let last = frame.len() - 1;
            frame[last] ^= 1;
            assert!(!segment(&frame).verify_checksums());
            frame[0] = VnetHeader::DATA_VALID;
            assert!(segment(&frame).verify_checksums());
        }
        let mut frame = frame(SYN_V4);
        frame[VNET_HEADER_LEN + ETHERNET_HEADER_LEN + 8] -= 1;
        frame[0] = VnetHeader::DATA_VALID;
        assert!(!segment(&frame).verify_checksums(), "an IPv4 header is always verified");
    }

    #[test]
    fn two_tags_are_followed_and_three_are_untouchable() {
        let double = tagged(frame(SYN_V4), &[(0x88a8, 0x6064), (0x8100, 20)]);
        let syn = segment(&double);
        assert_eq!(syn.key.vlans, VlanIds([Some(100), Some(20)]));
        assert_eq!(syn.l2.header_len(), 22);
        assert!(syn.verify_checksums());
        assert_ne!(syn.key, segment(&frame(SYN_V4)).key, "the same addresses on another VLAN are another flow");
        let triple = untouchable(&tagged(frame(SYN_V4), &[(0x9100, 1), (0x8100, 2), (0x8100, 3)]));
        assert_eq!((triple.reason, triple.key), (Reason::VlanDepth, None));
        let deep = tagged(frame(SYN_V4), &[(0x8100, 1); 30]);
        assert!(matches!(classify(&deep), Classified::Other));
    }

    #[test]
    fn fragments_are_untouchable_and_only_the_first_names_its_flow() {
        let key = segment(&frame(SYN_V4)).key;
        let at = VNET_HEADER_LEN + ETHERNET_HEADER_LEN + 6;
        let mut first = frame(SYN_V4);
        first[at] = 0x20;
        assert_eq!((untouchable(&first).reason, untouchable(&first).key), (Reason::Fragment, Some(key)));
        let mut later = frame(SYN_V4);
        later[at + 1] = 9;
        assert_eq!((untouchable(&later).reason, untouchable(&later).key), (Reason::Fragment, None));
    }

    #[test]
    fn ip_options_and_extension_headers_are_untouchable() {
        let key = segment(&frame(SYN_V4)).key;
        let mut options = frame(SYN_V4);
        let ip = VNET_HEADER_LEN + ETHERNET_HEADER_LEN;
        options[ip] = 0x46;
        options[ip + 3] += 4;
        options.splice(ip + 20..ip + 20, [1, 1, 1, 0]);
        assert_eq!((untouchable(&options).reason, untouchable(&options).key), (Reason::IpOptions, Some(key)));

        let key = segment(&frame(SYN_V6)).key;
        for (kind, extension, reason, expected) in [
            (0, [6, 0, 1, 4, 0, 0, 0, 0], Reason::ExtensionHeaders, Some(key)),
            (60, [6, 0, 1, 4, 0, 0, 0, 0], Reason::ExtensionHeaders, Some(key)),
            (44, [6, 0, 0, 1, 0, 0, 0, 0], Reason::Fragment, Some(key)),
            (44, [6, 0, 1, 0, 0, 0, 0, 0], Reason::Fragment, None),
        ] {
            let mut frame = frame(SYN_V6);
            frame[ip + 6] = kind;
            frame[ip + 5] += 8;
            frame.splice(ip + 40..ip + 40, extension);
            let untouchable = untouchable(&frame);
            assert_eq!((untouchable.reason, untouchable.key), (reason, expected), "extension {kind}");
        }
    }

    #[test]
    fn lengths_and_flags_that_contradict_are_malformed() {
        let ip = VNET_HEADER_LEN + ETHERNET_HEADER_LEN;
        for (at, value) in [(ip + 3, 0x3d), (ip + 3, 19), (ip + 3, 39), (ip + 32, 0x40), (ip + 32, 0xf0), (ip + 33, 3)]
        {
            let mut frame = frame(SYN_V4);
            frame[at] = value;
            let untouchable = untouchable(&frame);
            assert_eq!(untouchable.reason, Reason::Malformed, "byte {at} = {value}");
            assert!(untouchable.key.is_some());
        }
        let mut jumbogram = frame(SYN_V6);
        jumbogram[ip + 4] = 0xff;
        assert_eq!(untouchable(&jumbogram).reason, Reason::Malformed);
        let mut no_port = frame(SYN_V4);
        no_port[ip + 22..ip + 24].fill(0);
        assert_eq!(untouchable(&no_port).reason, Reason::Address);
    }

    #[test]
    fn bindings_are_learned_from_arp_and_neighbour_discovery() {
        for (hex, ip, mac) in [
            (ARP_REQUEST, "10.1.0.1", "02:00:00:00:00:0a"),
            (SOLICITATION, "fd00::1", "02:00:00:00:00:0a"),
            (ADVERTISEMENT, "fd00::2", "02:00:00:00:00:0b"),
        ] {
            let frame = frame(hex);
            let Classified::Neighbor(neighbor) = classify(&frame) else { panic!("{hex}") };
            assert_eq!((neighbor.ip.to_string(), neighbor.mac.to_string()), (ip.to_owned(), mac.to_owned()));
        }
        let mut forged = frame(ADVERTISEMENT);
        forged[VNET_HEADER_LEN + ETHERNET_HEADER_LEN + 7] = 254;
        assert!(matches!(classify(&forged), Classified::Ip(_)));
    }

    #[test]
    fn other_traffic_shows_its_addresses_or_nothing() {
        let mut udp = frame(SYN_V4);
        udp[VNET_HEADER_LEN + ETHERNET_HEADER_LEN + 9] = 17;
        let Classified::Ip(packet) = classify(&udp) else { panic!() };
        assert_eq!((packet.src.to_string(), packet.dst.to_string()), ("10.1.0.1".into(), "10.1.0.2".into()));
        assert!(matches!(classify(&frame(LISTENER_REPORT)), Classified::Ip(_)));
        let mut llc = frame(SYN_V4);
        llc[VNET_HEADER_LEN + 12..VNET_HEADER_LEN + 14].copy_from_slice(&[0, 0x26]);
        assert!(matches!(classify(&llc), Classified::Other));
    }

    #[test]
    fn no_cut_of_a_frame_panics_or_passes_for_a_segment() {
        for hex in [SYN_V4, SYN_V6, ARP_REQUEST, SOLICITATION, ADVERTISEMENT, LISTENER_REPORT] {
            let frame = tagged(frame(hex), &[(0x8100, 7)]);
            for len in 0..frame.len() {
                assert!(!matches!(classify(&frame[..len]), Classified::Tcp(_)), "{len} bytes of {hex}");
            }
        }
    }

    /// Whatever passed as a segment has to be consistent enough for everybody above.
    fn use_all(frame: &[u8]) {
        if let Classified::Tcp(segment) = classify(frame) {
            segment.verify_checksums();
            assert!(segment.key.is_terminable());
            assert!(segment.tcp_offset + 20 + segment.payload.len() <= segment.ip_packet.len());
            let mut packet = segment.ip_packet.to_vec();
            crate::frame::clamp_mss(&mut packet, 1000, crate::frame::ChecksumField::Complete);
            assert_eq!(packet.len(), segment.ip_packet.len());
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            use_all(&bytes);
        }

        #[test]
        fn mutated_frames_never_panic(
            which in 0usize..6,
            tags in proptest::collection::vec((prop_oneof![Just(0x8100u16), Just(0x88a8), Just(0x9100)], any::<u16>()), 0..4),
            edits in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..6),
            cut in any::<proptest::sample::Index>(),
            keep in any::<bool>(),
        ) {
            let hex = [SYN_V4, SYN_V6, ARP_REQUEST, SOLICITATION, ADVERTISEMENT, LISTENER_REPORT][which];
            let mut frame = tagged(frame(hex), &tags);
            for (at, value) in edits {
                let at = at.index(frame.len());
                frame[at] = value;
            }
            if !keep {
                frame.truncate(cut.index(frame.len() + 1));
            }
            use_all(&frame);
        }
    }
}
