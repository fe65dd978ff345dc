//! What a kernel does between a TAP and a wire: segmentation, checksums, VLAN tags, and the merging of a host's NIC.
//!
//! A frame here is what a TAP carries: virtio-net header (virtio 1.2 section 5.1.6, little-endian), then Ethernet.
//! A plain frame is Ethernet alone, complete, as on a wire.

use longhaul::frame::VNET_HEADER_LEN;

const NEEDS_CSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const ETHERNET_HEADER_LEN: usize = 14;
/// Longest IP packet of a super-segment: with its Ethernet header it stays below 65536 bytes.
const SUPER_PACKET_MAX: usize = 65_521;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;

fn get16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

fn get32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// One's complement sum of 16-bit words (RFC 1071), not folded.
fn sum(bytes: &[u8]) -> u64 {
    let words = bytes.chunks_exact(4);
    let mut tail = [0; 4];
    tail[..words.remainder().len()].copy_from_slice(words.remainder());
    let whole: u64 = words.map(|word| u64::from(get32(word, 0))).sum();
    whole + u64::from(u32::from_be_bytes(tail))
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

/// The virtio-net header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Vnet {
    flags: u8,
    gso_type: u8,
    hdr_len: u16,
    gso_size: u16,
    csum_start: u16,
    csum_offset: u16,
}

impl Vnet {
    fn parse(frame: &[u8]) -> Vnet {
        let word = |at: usize| u16::from_le_bytes([frame[at], frame[at + 1]]);
        Vnet {
            flags: frame[0],
            gso_type: frame[1],
            hdr_len: word(2),
            gso_size: word(4),
            csum_start: word(6),
            csum_offset: word(8),
        }
    }

    fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[self.flags, self.gso_type]);
        for word in [self.hdr_len, self.gso_size, self.csum_start, self.csum_offset] {
            out.extend_from_slice(&word.to_le_bytes());
        }
    }
}

/// Where the headers of a TCP packet lie in its Ethernet frame.
#[derive(Clone, Copy, Debug)]
pub struct TcpLayout {
    ip: usize,
    tcp: usize,
    payload: usize,
    end: usize,
    v6: bool,
}

impl TcpLayout {
    /// Of a plain frame; `None` where it is not unfragmented TCP.
    pub fn of(ethernet: &[u8]) -> Option<TcpLayout> {
        let mut ip = ETHERNET_HEADER_LEN;
        while ip + 4 <= ethernet.len() && matches!(get16(ethernet, ip - 2), 0x8100 | 0x88a8) {
            ip += 4;
        }
        let (tcp, end, v6) = match get16(ethernet, ip - 2) {
            0x0800 if ethernet.len() >= ip + 20 && ethernet[ip + 9] == 6 && get16(ethernet, ip + 6) & 0x3fff == 0 => {
                (ip + usize::from(ethernet[ip] & 15) * 4, ip + usize::from(get16(ethernet, ip + 2)), false)
            }
            0x86dd if ethernet.len() >= ip + 40 && ethernet[ip + 6] == 6 => {
                (ip + 40, ip + 40 + usize::from(get16(ethernet, ip + 4)), true)
            }
            _ => return None,
        };
        if ethernet.len() < tcp + 20 || ethernet.len() < end {
            return None;
        }
        let payload = tcp + usize::from(ethernet[tcp + 12] >> 4) * 4;
        (payload <= end).then_some(TcpLayout { ip, tcp, payload, end, v6 })
    }

    /// Source and destination port.
    pub fn ports(&self, ethernet: &[u8]) -> (u16, u16) {
        (get16(ethernet, self.tcp), get16(ethernet, self.tcp + 2))
    }

    /// Whether it opens a connection.
    pub fn is_syn(&self, ethernet: &[u8]) -> bool {
        ethernet[self.tcp + 13] & (SYN | ACK) == SYN
    }

    fn seq(&self, ethernet: &[u8]) -> u32 {
        get32(ethernet, self.tcp + 4)
    }

    /// Cuts a frame down to a bare acknowledgement that continues where it ended, to be sent later.
    pub fn keep_ack(&self, ethernet: &[u8], out: &mut Vec<u8>) {
        let flags = ethernet[self.tcp + 13];
        let octets = (self.end - self.payload) as u32 + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
        out.clear();
        out.extend_from_slice(&ethernet[..self.tcp + 20]);
        out[self.tcp + 4..self.tcp + 8].copy_from_slice(&self.seq(ethernet).wrapping_add(octets).to_be_bytes());
        out[self.tcp + 12] = 5 << 4;
        out[self.tcp + 13] = ACK;
        self.set_ip_len(out, self.tcp + 20);
        put16(out, self.tcp + 16, 0);
        let checksum = !fold(self.pseudo_sum(out, 20) + sum(&out[self.tcp..]));
        put16(out, self.tcp + 16, checksum);
    }

    /// Sum of the pseudo-header of a segment of `tcp_len` bytes (RFC 9293 section 3.1).
    fn pseudo_sum(&self, ethernet: &[u8], tcp_len: usize) -> u64 {
        let addresses = if self.v6 { self.ip + 8..self.ip + 40 } else { self.ip + 12..self.ip + 20 };
        sum(&ethernet[addresses]) + 6 + tcp_len as u64
    }

    /// Sets the IP header's length, and its checksum where it has one.
    fn set_ip_len(&self, ethernet: &mut [u8], end: usize) {
        if self.v6 {
            put16(ethernet, self.ip + 4, (end - self.ip - 40) as u16);
        } else {
            put16(ethernet, self.ip + 2, (end - self.ip) as u16);
            put16(ethernet, self.ip + 10, 0);
            let checksum = !fold(sum(&ethernet[self.ip..self.tcp]));
            put16(ethernet, self.ip + 10, checksum);
        }
    }
}

/// Bytes that `frame` takes on a wire, and as how many frames.
pub fn wire_len(frame: &[u8]) -> (usize, usize) {
    let vnet = Vnet::parse(frame);
    let ethernet = &frame[VNET_HEADER_LEN..];
    let Some(layout) = TcpLayout::of(ethernet).filter(|_| vnet.gso_type != GSO_NONE) else {
        return (ethernet.len(), 1);
    };
    let segments = (layout.end - layout.payload).div_ceil(usize::from(vnet.gso_size).max(1)).max(1);
    (ethernet.len() + (segments - 1) * layout.payload, segments)
}

/// Hands the plain frames that `frame` is on a wire to `emit`, one after the other, in `scratch`.
///
/// # Panics
/// When a kernel would refuse the frame (EINVAL on the TAP).
pub fn to_wire(frame: &[u8], scratch: &mut Vec<u8>, mut emit: impl FnMut(&[u8])) {
    let vnet = Vnet::parse(frame);
    let ethernet = &frame[VNET_HEADER_LEN..];
    assert!(ethernet.len() < 65_536, "a frame of {} bytes is beyond what a kernel takes as one", ethernet.len());
    if vnet.gso_type == GSO_NONE {
        if vnet.flags & NEEDS_CSUM == 0 {
            return emit(ethernet);
        }
        let start = usize::from(vnet.csum_start);
        let at = start + usize::from(vnet.csum_offset);
        assert!(at + 2 <= ethernet.len(), "checksum to be put beyond the frame: {vnet:?}");
        scratch.clear();
        scratch.extend_from_slice(ethernet);
        let end = TcpLayout::of(ethernet).map_or(ethernet.len(), |layout| layout.end);
        let checksum = !fold(sum(&scratch[start..end]));
        put16(scratch, at, checksum);
        return emit(scratch);
    }
    let layout = TcpLayout::of(ethernet).expect("a super-segment is TCP");
    let expected = if layout.v6 { GSO_TCPV6 } else { GSO_TCPV4 };
    assert_eq!(vnet.gso_type & 0x7f, expected, "GSO type of the wrong IP version");
    assert!(vnet.flags & NEEDS_CSUM != 0, "GSO needs its checksum completed: {vnet:?}");
    assert_eq!(usize::from(vnet.csum_start), layout.tcp, "the checksum starts at the TCP header");
    assert_eq!(vnet.csum_offset, 16, "where TCP has its checksum");
    assert!(vnet.gso_size > 0, "GSO of nothing");
    let gso_size = usize::from(vnet.gso_size);
    // The kernel trusts the partial sum of the whole super-segment and corrects it for each segment's length.
    let whole_len = (layout.end - layout.tcp) as u64;
    let partial = u64::from(get16(ethernet, layout.tcp + 16)) + u64::from(!fold(whole_len));
    let (seq, ip_id) = (layout.seq(ethernet), if layout.v6 { 0 } else { get16(ethernet, layout.ip + 4) });
    let mut offset = 0;
    let mut index: u16 = 0;
    while layout.payload + offset < layout.end {
        let take = gso_size.min(layout.end - layout.payload - offset);
        let last = layout.payload + offset + take == layout.end;
        scratch.clear();
        scratch.extend_from_slice(&ethernet[..layout.payload]);
        scratch.extend_from_slice(&ethernet[layout.payload + offset..][..take]);
        if !layout.v6 {
            put16(scratch, layout.ip + 4, ip_id.wrapping_add(index));
        }
        layout.set_ip_len(scratch, layout.payload + take);
        scratch[layout.tcp + 4..layout.tcp + 8].copy_from_slice(&seq.wrapping_add(offset as u32).to_be_bytes());
        if !last {
            scratch[layout.tcp + 13] &= !(FIN | PSH);
        }
        put16(scratch, layout.tcp + 16, 0);
        let tcp_len = (layout.payload + take - layout.tcp) as u64;
        let checksum = !fold(partial + tcp_len + sum(&scratch[layout.tcp..]));
        put16(scratch, layout.tcp + 16, checksum);
        emit(scratch);
        offset += take;
        index = index.wrapping_add(1);
    }
}

/// Puts a VLAN tag into a plain frame.
pub fn tag(ethernet: &mut Vec<u8>, vlan: u16) {
    let [high, low] = vlan.to_be_bytes();
    ethernet.splice(12..12, [0x81, 0x00, high, low]);
}

/// Takes the VLAN tag off; whether it was there, with this VLAN.
pub fn untag(ethernet: &mut Vec<u8>, vlan: u16) -> bool {
    let tagged = ethernet.len() >= 18 && get16(ethernet, 12) == 0x8100 && get16(ethernet, 14) & 0xfff == vlan;
    if tagged {
        ethernet.drain(12..16);
    }
    tagged
}

/// A frame with nothing left to do for whoever takes it.
pub fn as_complete(ethernet: &[u8], out: &mut Vec<u8>) {
    out.clear();
    Vnet::default().write(out);
    out.extend_from_slice(ethernet);
}

/// A plain frame whose TCP checksum is left to be completed, as a host with checksum offload emits it.
pub fn as_partial(ethernet: &[u8], out: &mut Vec<u8>) {
    let Some(layout) = TcpLayout::of(ethernet) else { return as_complete(ethernet, out) };
    out.clear();
    let vnet = Vnet { flags: NEEDS_CSUM, csum_start: layout.tcp as u16, csum_offset: 16, ..Vnet::default() };
    vnet.write(out);
    out.extend_from_slice(ethernet);
    let partial = fold(layout.pseudo_sum(ethernet, layout.end - layout.tcp));
    put16(out, VNET_HEADER_LEN + layout.tcp + 16, partial);
}

/// Appends plain frame `next` to the frame `merged`, if a host with TSO would have emitted the two as one.
pub fn merge(merged: &mut Vec<u8>, next: &[u8]) -> bool {
    let vnet = Vnet::parse(merged);
    let ethernet = &merged[VNET_HEADER_LEN..];
    let (Some(head), Some(tail)) = (TcpLayout::of(ethernet), TcpLayout::of(next)) else { return false };
    let (head_len, tail_len) = (head.end - head.payload, tail.end - tail.payload);
    let gso_size = if vnet.gso_type == GSO_NONE { head_len } else { usize::from(vnet.gso_size) };
    let same_path = head.payload == tail.payload
        && head.v6 == tail.v6
        && ethernet[..14] == next[..14]
        && head.ports(ethernet) == tail.ports(next)
        && ethernet[head.ip + 12..head.ip + 20] == next[head.ip + 12..head.ip + 20]
        && (!head.v6 || ethernet[head.ip + 8..head.ip + 40] == next[head.ip + 8..head.ip + 40]);
    let consecutive = head.seq(ethernet).wrapping_add(head_len as u32) == tail.seq(next);
    let plain_flags = ethernet[head.tcp + 13] & !PSH == ACK && next[tail.tcp + 13] & !(PSH | FIN) == ACK;
    let same_options = ethernet[head.tcp + 20..head.payload] == next[tail.tcp + 20..tail.payload];
    // A short segment may only be the last.
    let room = head_len > 0
        && tail_len > 0
        && tail_len <= gso_size
        && head_len.is_multiple_of(gso_size)
        && head.end - head.ip + tail_len <= SUPER_PACKET_MAX;
    if !(same_path && consecutive && plain_flags && same_options && room) {
        return false;
    }
    let ack: [u8; 4] = next[tail.tcp + 8..tail.tcp + 12].try_into().expect("four bytes");
    let (flags, window) = (next[tail.tcp + 13], get16(next, tail.tcp + 14));
    let payload = &next[tail.payload..tail.end];
    merged.truncate(VNET_HEADER_LEN + head.end);
    merged.extend_from_slice(payload);
    let end = head.end + tail_len;
    let header = Vnet {
        flags: NEEDS_CSUM,
        gso_type: if head.v6 { GSO_TCPV6 } else { GSO_TCPV4 },
        hdr_len: head.payload as u16,
        gso_size: gso_size as u16,
        csum_start: head.tcp as u16,
        csum_offset: 16,
    };
    let mut bytes = Vec::with_capacity(VNET_HEADER_LEN);
    header.write(&mut bytes);
    merged[..VNET_HEADER_LEN].copy_from_slice(&bytes);
    let ethernet = &mut merged[VNET_HEADER_LEN..];
    head.set_ip_len(ethernet, end);
    ethernet[head.tcp + 8..head.tcp + 12].copy_from_slice(&ack);
    ethernet[head.tcp + 13] |= flags & (FIN | PSH);
    put16(ethernet, head.tcp + 14, window);
    let partial = fold(head.pseudo_sum(ethernet, end - head.tcp));
    put16(ethernet, head.tcp + 16, partial);
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use smoltcp::wire::{Ipv4Packet, TcpPacket};

    /// An IPv4 TCP frame with `payload` at `seq`, its TCP checksum zero.
    fn segment(seq: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
        frame.extend_from_slice(&[0x45, 0, 0, 0, 0, 9, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend_from_slice(&[0x9c, 0x40, 0x1f, 0x40]);
        frame.extend_from_slice(&seq.to_be_bytes());
        frame.extend_from_slice(&[0, 0, 0, 7, 0x50, flags, 0x10, 0, 0, 0, 0, 0]);
        frame.extend_from_slice(payload);
        put16(&mut frame, 16, (payload.len() + 40) as u16);
        let layout = TcpLayout::of(&frame).expect("well formed");
        let end = frame.len();
        layout.set_ip_len(&mut frame, end);
        frame
    }

    fn assert_valid(ethernet: &[u8]) {
        let ip = Ipv4Packet::new_checked(&ethernet[14..]).expect("an IP packet");
        assert!(ip.verify_checksum(), "IP checksum");
        let tcp = TcpPacket::new_checked(ip.payload()).expect("a TCP segment");
        assert!(tcp.verify_checksum(&ip.src_addr().into(), &ip.dst_addr().into()), "TCP checksum");
    }

    #[test]
    fn merged_segments_come_apart_as_they_were() {
        let payload: Vec<u8> = (0..3_501_u32).map(|i| i as u8).collect();
        let parts = [&payload[..1460], &payload[1460..2920], &payload[2920..]];
        let mut merged = Vec::new();
        as_partial(&segment(u32::MAX - 100, ACK, parts[0]), &mut merged);
        assert!(merge(&mut merged, &segment((u32::MAX - 100).wrapping_add(1460), ACK, parts[1])));
        assert!(merge(&mut merged, &segment((u32::MAX - 100).wrapping_add(2920), ACK | PSH | FIN, parts[2])));
        assert_eq!(wire_len(&merged), (3 * 54 + 3501, 3));
        let mut seen = Vec::new();
        to_wire(&merged, &mut Vec::new(), |frame| seen.push(frame.to_vec()));
        assert_eq!(seen.len(), 3);
        for (i, frame) in seen.iter().enumerate() {
            assert_valid(frame);
            assert_eq!(&frame[54..], parts[i]);
            assert_eq!(get32(frame, 38), (u32::MAX - 100).wrapping_add(1460 * i as u32));
            assert_eq!(frame[47], if i == 2 { ACK | PSH | FIN } else { ACK });
            assert_eq!(get16(frame, 18), 9 + i as u16);
        }
    }

    #[test]
    fn what_does_not_continue_a_segment_is_not_merged() {
        let mut merged = Vec::new();
        as_partial(&segment(1000, ACK, &[1; 1000]), &mut merged);
        assert!(!merge(&mut merged, &segment(2001, ACK, &[1; 1000])), "a gap");
        assert!(!merge(&mut merged, &segment(2000, ACK, &[1; 1001])), "longer than the first");
        assert!(!merge(&mut merged, &segment(2000, ACK, &[])), "no payload");
        assert!(!merge(&mut merged, &segment(2000, ACK | 4, &[1; 1000])), "a reset");
        assert!(merge(&mut merged, &segment(2000, ACK, &[1; 999])));
        assert!(!merge(&mut merged, &segment(2999, ACK, &[1; 999])), "after a short one");
    }

    #[test]
    fn a_partial_checksum_is_completed() {
        let mut frame = Vec::new();
        as_partial(&segment(5, ACK, b"odd"), &mut frame);
        let mut seen = 0;
        to_wire(&frame, &mut Vec::new(), |ethernet| {
            assert_valid(ethernet);
            seen += 1;
        });
        assert_eq!(seen, 1);
    }

    #[test]
    fn an_acknowledgement_kept_of_a_segment_continues_it() {
        let frame = segment(u32::MAX - 1, ACK | PSH | FIN, &[7; 100]);
        let mut kept = Vec::new();
        TcpLayout::of(&frame).expect("TCP").keep_ack(&frame, &mut kept);
        assert_valid(&kept);
        assert_eq!((kept.len(), get32(&kept, 38), kept[47]), (54, 99, ACK));
    }

    #[test]
    fn a_tag_goes_in_and_comes_off() {
        let mut frame = segment(5, ACK, b"payload");
        let plain = frame.clone();
        tag(&mut frame, 0x2064);
        assert_eq!(TcpLayout::of(&frame).map(|layout| layout.ports(&frame)), Some((40_000, 8_000)));
        assert!(!untag(&mut frame, 101));
        assert!(untag(&mut frame, 100));
        assert_eq!(frame, plain);
    }
}
