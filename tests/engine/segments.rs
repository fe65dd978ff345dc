//! Segments of a host's own making.

use longhaul::buffer::FrameBuf;
use longhaul::frame::{FlowKey, L2Header, TcpFlags, VlanIds, VlanStack, encapsulate_tcp};

use crate::world::{IP_A, MAC_A, MAC_B, server};

/// Host A's connection from `port` to host B's port 8000.
pub fn key(port: u16) -> FlowKey {
    FlowKey { vlans: VlanIds::default(), src: (IP_A, port).into(), dst: server() }
}

/// The Ethernet header of host A's frames to host B.
pub fn l2() -> L2Header {
    L2Header { dst: MAC_B, src: MAC_A, vlans: VlanStack::default() }
}

/// An IPv4 segment; `options` are a multiple of 4 bytes.
pub fn segment(
    l2: &L2Header,
    key: &FlowKey,
    flags: TcpFlags,
    (seq, ack): (u32, u32),
    options: &[u8],
    payload: &[u8],
) -> FrameBuf {
    let (std::net::SocketAddr::V4(src), std::net::SocketAddr::V4(dst)) = (key.src, key.dst) else { panic!("IPv4") };
    let len = 40 + options.len() + payload.len();
    let mut frame = FrameBuf::with_headroom();
    let packet = frame.resize(len);
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    packet[8..10].copy_from_slice(&[64, 6]);
    packet[12..16].copy_from_slice(&src.ip().octets());
    packet[16..20].copy_from_slice(&dst.ip().octets());
    packet[20..22].copy_from_slice(&src.port().to_be_bytes());
    packet[22..24].copy_from_slice(&dst.port().to_be_bytes());
    packet[24..28].copy_from_slice(&seq.to_be_bytes());
    packet[28..32].copy_from_slice(&ack.to_be_bytes());
    packet[32] = ((20 + options.len()) as u8 / 4) << 4;
    packet[33] = flags.0;
    packet[34..36].copy_from_slice(&[0xff, 0xff]);
    packet[40..40 + options.len()].copy_from_slice(options);
    packet[40 + options.len()..].copy_from_slice(payload);
    encapsulate_tcp(&mut frame, l2, 1460).unwrap();
    frame
}

/// Host A's SYN.
pub fn syn(port: u16, isn: u32, options: &[u8]) -> FrameBuf {
    segment(&l2(), &key(port), TcpFlags::SYN, (isn, 0), options, &[])
}
