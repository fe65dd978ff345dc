//! What a host's kernel answers and smoltcp does not: probes for its address, and a SYN out of the blue.

use std::net::IpAddr;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, Icmpv6Packet,
    Icmpv6Repr, IpProtocol, Ipv6Address, Ipv6Packet, Ipv6Repr, NdiscNeighborFlags, NdiscRepr,
};

/// The answer to an ARP probe, a request from no address (RFC 5227 section 2.1.1), for `address`.
pub fn arp_probe_reply(ethernet: &[u8], mac: EthernetAddress, address: IpAddr) -> Option<Vec<u8>> {
    let IpAddr::V4(address) = address else { return None };
    let frame = EthernetFrame::new_checked(ethernet).ok()?;
    if frame.ethertype() != EthernetProtocol::Arp {
        return None;
    }
    let packet = ArpPacket::new_checked(frame.payload()).ok()?;
    let ArpRepr::EthernetIpv4 { operation, source_hardware_addr, source_protocol_addr, target_protocol_addr, .. } =
        ArpRepr::parse(&packet).ok()?
    else {
        return None;
    };
    let is_probe = operation == ArpOperation::Request && source_protocol_addr.is_unspecified();
    if !is_probe || target_protocol_addr != address {
        return None;
    }
    let reply = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: mac,
        source_protocol_addr: address,
        target_hardware_addr: source_hardware_addr,
        target_protocol_addr: source_protocol_addr,
    };
    let header = EthernetRepr { src_addr: mac, dst_addr: source_hardware_addr, ethertype: EthernetProtocol::Arp };
    let mut out = vec![0; header.buffer_len() + reply.buffer_len()];
    let mut frame = EthernetFrame::new_unchecked(&mut out[..]);
    header.emit(&mut frame);
    reply.emit(&mut ArpPacket::new_unchecked(frame.payload_mut()));
    Some(out)
}

/// The answer to a neighbor solicitation from no address (RFC 4862 section 5.4.4): to all nodes.
pub fn address_detection_reply(ethernet: &[u8], mac: EthernetAddress, address: IpAddr) -> Option<Vec<u8>> {
    let IpAddr::V6(address) = address else { return None };
    let frame = EthernetFrame::new_checked(ethernet).ok()?;
    if frame.ethertype() != EthernetProtocol::Ipv6 {
        return None;
    }
    let ip = Ipv6Packet::new_checked(frame.payload()).ok()?;
    if ip.next_header() != IpProtocol::Icmpv6 || !ip.src_addr().is_unspecified() {
        return None;
    }
    let caps = ChecksumCapabilities::default();
    let icmp = Icmpv6Packet::new_checked(ip.payload()).ok()?;
    let Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit { target_addr, .. }) =
        Icmpv6Repr::parse(&ip.src_addr(), &ip.dst_addr(), &icmp, &caps).ok()?
    else {
        return None;
    };
    if target_addr != address {
        return None;
    }
    let all_nodes = Ipv6Address::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let advert = Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert {
        flags: NdiscNeighborFlags::OVERRIDE,
        target_addr: address,
        lladdr: Some(mac.into()),
    });
    let ip = Ipv6Repr {
        src_addr: address,
        dst_addr: all_nodes,
        next_header: IpProtocol::Icmpv6,
        payload_len: advert.buffer_len(),
        hop_limit: 255,
    };
    let header = EthernetRepr {
        src_addr: mac,
        dst_addr: EthernetAddress([0x33, 0x33, 0, 0, 0, 1]),
        ethertype: EthernetProtocol::Ipv6,
    };
    let mut out = vec![0; header.buffer_len() + ip.buffer_len() + advert.buffer_len()];
    let mut frame = EthernetFrame::new_unchecked(&mut out[..]);
    header.emit(&mut frame);
    let mut packet = Ipv6Packet::new_unchecked(frame.payload_mut());
    ip.emit(&mut packet);
    advert.emit(&address, &all_nodes, &mut Icmpv6Packet::new_unchecked(packet.payload_mut()), &caps);
    Some(out)
}
