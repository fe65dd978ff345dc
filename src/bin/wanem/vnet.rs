//! Super-segments: their shape as the virtio-net header and the packet headers tell it, and cutting runs out of them.
//!
//! A run of segments is cut out as a smaller super-segment (or a single one) with its own lengths, sequence number, IP
//! identification and flags, and with the checksum left to whoever needs it, as in the original: cheaper than computing
//! checksums here, and the kernel completes them where the frame leaves for real hardware.

/// Length of the virtio-net header in front of each frame (virtio 1.2 section 5.1.6, without `num_buffers`).
pub const VNET_LEN: usize = 10;

const FLAG_NEEDS_CSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
/// Set beside the type when the TCP segment carries CWR.
const GSO_ECN: u8 = 0x80;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPES_VLAN: [u16; 3] = [0x8100, 0x88a8, 0x9100];

const TCP_FIN: u8 = 0x01;
const TCP_PSH: u8 = 0x08;
const TCP_CWR: u8 = 0x80;

/// Not a frame that can be carried: shorter than its headers say, or a kind of super-segment nobody sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the frame contradicts its virtio-net header")]
pub struct Malformed;

/// What a frame (virtio-net header first) consists of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// One segment of this many bytes, Ethernet header included.
    Single(u32),
    /// Several.
    Super(SuperSegment),
}

impl Shape {
    /// Reads the shape of `frame`.
    pub fn of(frame: &[u8]) -> Result<Shape, Malformed> {
        let wire_len = frame.len().checked_sub(VNET_LEN).ok_or(Malformed)?;
        if wire_len < 14 {
            return Err(Malformed);
        }
        if frame[1] & !GSO_ECN == GSO_NONE {
            return Ok(Shape::Single(u32::try_from(wire_len).map_err(|_| Malformed)?));
        }
        SuperSegment::of(frame).map(Shape::Super)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Transport {
    Tcp,
    Udp,
}

/// Where the parts of a super-segment lie; offsets count from the frame's begin, virtio-net header included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SuperSegment {
    transport: Transport,
    ipv6: bool,
    ip: usize,
    l4: usize,
    payload: usize,
    end: usize,
    gso_size: usize,
}

impl SuperSegment {
    fn of(frame: &[u8]) -> Result<Self, Malformed> {
        let (ip, ethertype) = network_layer(frame)?;
        let (ipv6, transport) = match (frame[1] & !GSO_ECN, ethertype) {
            (GSO_TCPV4, ETHERTYPE_IPV4) => (false, Transport::Tcp),
            (GSO_TCPV6, ETHERTYPE_IPV6) => (true, Transport::Tcp),
            (GSO_UDP_L4, ETHERTYPE_IPV4) => (false, Transport::Udp),
            (GSO_UDP_L4, ETHERTYPE_IPV6) => (true, Transport::Udp),
            _ => return Err(Malformed),
        };
        let l4 = if ipv6 {
            // Behind the extension headers, wherever the checksum starts.
            VNET_LEN + usize::from(u16::from_ne_bytes([frame[6], frame[7]]))
        } else {
            ip + usize::from(frame.get(ip).ok_or(Malformed)? & 0x0f) * 4
        };
        if l4 < ip + if ipv6 { 40 } else { 20 } {
            return Err(Malformed);
        }
        let payload = l4
            + match transport {
                Transport::Tcp => usize::from(frame.get(l4 + 12).ok_or(Malformed)? >> 4) * 4,
                Transport::Udp => 8,
            };
        let gso_size = usize::from(u16::from_ne_bytes([frame[4], frame[5]]));
        if payload < l4 + 8 || (transport == Transport::Tcp && payload < l4 + 20) || payload >= frame.len() {
            return Err(Malformed);
        }
        if gso_size == 0 {
            return Err(Malformed);
        }
        Ok(SuperSegment { transport, ipv6, ip, l4, payload, end: frame.len(), gso_size })
    }

    /// How many segments.
    pub fn segments(&self) -> usize {
        (self.end - self.payload).div_ceil(self.gso_size)
    }

    /// Bytes of each segment on the wire, headers and Ethernet included, in order.
    pub fn wire_lens(&self) -> impl Iterator<Item = u32> + use<> {
        let Self { payload, end, gso_size, .. } = *self;
        (payload..end).step_by(gso_size).map(move |at| (payload - VNET_LEN + gso_size.min(end - at)) as u32)
    }

    /// The segments `first..first + count` as a frame of their own, virtio-net header included.
    ///
    /// # Panics
    /// When the range is empty or outside [`SuperSegment::segments`], or `frame` is not the one this was read from.
    pub fn cut(&self, frame: &[u8], first: usize, count: usize) -> Vec<u8> {
        assert!(count > 0 && first + count <= self.segments(), "invariant: a run of this super-segment");
        let from = self.payload + first * self.gso_size;
        let to = (self.payload + (first + count) * self.gso_size).min(self.end);
        let mut piece = Vec::with_capacity(self.payload + to - from);
        piece.extend_from_slice(&frame[..self.payload]);
        piece.extend_from_slice(&frame[from..to]);
        self.fix_vnet(&mut piece, count);
        self.fix_transport(&mut piece, first, to == self.end);
        self.fix_ip(&mut piece, first);
        self.fix_checksum_seed(&mut piece);
        piece
    }

    fn fix_vnet(&self, piece: &mut [u8], count: usize) {
        let csum_offset: u16 = if self.transport == Transport::Tcp { 16 } else { 6 };
        piece[0] = FLAG_NEEDS_CSUM;
        if count == 1 {
            piece[1] = GSO_NONE;
            piece[4..6].fill(0);
        }
        piece[2..4].copy_from_slice(&((self.payload - VNET_LEN) as u16).to_ne_bytes());
        piece[6..8].copy_from_slice(&((self.l4 - VNET_LEN) as u16).to_ne_bytes());
        piece[8..10].copy_from_slice(&csum_offset.to_ne_bytes());
    }

    /// Sequence number and flags as the last piece of hardware that segments would set them.
    fn fix_transport(&self, piece: &mut [u8], first: usize, is_last: bool) {
        match self.transport {
            Transport::Tcp => {
                let seq_at = self.l4 + 4;
                let seq = u32::from_be_bytes(piece[seq_at..seq_at + 4].try_into().expect("invariant: four bytes"));
                let moved = seq.wrapping_add((first * self.gso_size) as u32);
                piece[seq_at..seq_at + 4].copy_from_slice(&moved.to_be_bytes());
                let flags = &mut piece[self.l4 + 13];
                if !is_last {
                    *flags &= !(TCP_FIN | TCP_PSH);
                }
                if first > 0 {
                    *flags &= !TCP_CWR;
                    piece[1] &= !GSO_ECN;
                }
            }
            Transport::Udp => {
                let len = (piece.len() - self.l4) as u16;
                piece[self.l4 + 4..self.l4 + 6].copy_from_slice(&len.to_be_bytes());
            }
        }
    }

    fn fix_ip(&self, piece: &mut [u8], first: usize) {
        let ip = self.ip;
        if self.ipv6 {
            let len = (piece.len() - ip - 40) as u16;
            piece[ip + 4..ip + 6].copy_from_slice(&len.to_be_bytes());
            return;
        }
        let len = (piece.len() - ip) as u16;
        piece[ip + 2..ip + 4].copy_from_slice(&len.to_be_bytes());
        let id = u16::from_be_bytes([piece[ip + 4], piece[ip + 5]]).wrapping_add(first as u16);
        piece[ip + 4..ip + 6].copy_from_slice(&id.to_be_bytes());
        piece[ip + 10..ip + 12].fill(0);
        let checksum = !fold(sum(&piece[ip..self.l4], 0));
        piece[ip + 10..ip + 12].copy_from_slice(&checksum.to_be_bytes());
    }

    /// The checksum field holds the pseudo-header's sum, for whoever completes it (RFC 9293 section 3.1, RFC 8200 section 8.1).
    fn fix_checksum_seed(&self, piece: &mut [u8]) {
        let (addresses, protocol) = if self.ipv6 { (8..40, 0) } else { (12..20, piece[self.ip + 9]) };
        let protocol = match (self.ipv6, self.transport) {
            (false, _) => protocol,
            (true, Transport::Tcp) => 6,
            (true, Transport::Udp) => 17,
        };
        let length = (piece.len() - self.l4) as u64;
        let pseudo = sum(&piece[self.ip + addresses.start..self.ip + addresses.end], length + u64::from(protocol));
        let at = self.l4 + if self.transport == Transport::Tcp { 16 } else { 6 };
        piece[at..at + 2].copy_from_slice(&fold(pseudo).to_be_bytes());
    }
}

/// Puts a VLAN tag that the kernel took out back into `frame`, and moves the virtio-net header's offsets behind it.
pub fn insert_vlan(frame: &mut Vec<u8>, tpid: u16, tci: u16) {
    let at = VNET_LEN + 12;
    if frame.len() < at {
        return;
    }
    let [p0, p1] = tpid.to_be_bytes();
    let [t0, t1] = tci.to_be_bytes();
    frame.splice(at..at, [p0, p1, t0, t1]);
    // hdr_len, and csum_start: zero says nothing, and the kernel refuses a header shorter than Ethernet's.
    for field in [2, 6] {
        let offset = u16::from_ne_bytes([frame[field], frame[field + 1]]);
        if offset > 0 {
            frame[field..field + 2].copy_from_slice(&offset.saturating_add(4).to_ne_bytes());
        }
    }
}

/// Offset and EtherType of what the Ethernet header, with any VLAN tags, carries.
fn network_layer(frame: &[u8]) -> Result<(usize, u16), Malformed> {
    let mut at = VNET_LEN + 12;
    loop {
        let ethertype = u16::from_be_bytes(frame.get(at..at + 2).ok_or(Malformed)?.try_into().expect("invariant: two"));
        if !ETHERTYPES_VLAN.contains(&ethertype) {
            return Ok((at + 2, ethertype));
        }
        at += 4;
    }
}

/// Ones' complement sum (RFC 1071), not yet folded.
fn sum(bytes: &[u8], start: u64) -> u64 {
    let mut words = bytes.chunks_exact(2);
    let total = words.by_ref().fold(start, |total, word| total + u64::from(u16::from_be_bytes([word[0], word[1]])));
    total + words.remainder().first().map_or(0, |&last| u64::from(last) << 8)
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};

    use super::*;

    const MSS: usize = 1000;

    /// A super-segment as the kernel hands it over: `len` payload bytes that count up, checksum seed in place.
    fn super_segment(ipv6: bool, tcp: bool, vlan: bool, len: usize) -> Vec<u8> {
        let payload: Vec<u8> = (0..len).map(|i| (i / 7) as u8).collect();
        let mut bytes = Vec::new();
        let ethernet = PacketBuilder::ethernet2([2; 6], [4; 6]);
        let ip = |ipv6| {
            if ipv6 {
                etherparse::IpHeaders::Ipv6(
                    etherparse::Ipv6Header {
                        hop_limit: 64,
                        source: [0xfd; 16],
                        destination: [0xfe; 16],
                        ..Default::default()
                    },
                    Default::default(),
                )
            } else {
                let mut header = etherparse::Ipv4Header::new(0, 64, 6.into(), [10, 0, 0, 1], [10, 0, 0, 2]).unwrap();
                header.identification = 0xffff;
                etherparse::IpHeaders::Ipv4(header, Default::default())
            }
        };
        let builder =
            if vlan { ethernet.single_vlan(5.try_into().unwrap()).ip(ip(ipv6)) } else { ethernet.ip(ip(ipv6)) };
        if tcp {
            builder.tcp(1, 8000, 0xffff_ff00, 500).ack(9).psh().fin().cwr().write(&mut bytes, &payload).unwrap();
        } else {
            builder.udp(1, 8000).write(&mut bytes, &payload).unwrap();
        }
        let l4 = bytes.len() - len - if tcp { 20 } else { 8 };
        let gso_type = match (tcp, ipv6) {
            (true, false) => GSO_TCPV4 | GSO_ECN,
            (true, true) => GSO_TCPV6 | GSO_ECN,
            (false, _) => GSO_UDP_L4,
        };
        let mut frame = vec![FLAG_NEEDS_CSUM, gso_type];
        for field in [l4 + if tcp { 20 } else { 8 }, MSS, l4, if tcp { 16 } else { 6 }] {
            frame.extend_from_slice(&(field as u16).to_ne_bytes());
        }
        frame.extend_from_slice(&bytes);
        frame
    }

    /// Completes the checksum as the kernel would.
    fn completed(frame: &[u8]) -> Vec<u8> {
        assert_eq!(frame[0], FLAG_NEEDS_CSUM);
        let start = usize::from(u16::from_ne_bytes([frame[6], frame[7]]));
        let field = start + usize::from(u16::from_ne_bytes([frame[8], frame[9]]));
        let mut bytes = frame[VNET_LEN..].to_vec();
        let checksum = !fold(sum(&bytes[start..], 0));
        bytes[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }

    fn shape(frame: &[u8]) -> SuperSegment {
        match Shape::of(frame) {
            Ok(Shape::Super(shape)) => shape,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn pieces_of_every_kind_are_valid_packets_with_the_right_bytes() {
        for (ipv6, tcp, vlan) in (0..8).map(|bits| (bits & 1 > 0, bits & 2 > 0, bits & 4 > 0)) {
            let frame = super_segment(ipv6, tcp, vlan, 4_500);
            let shape = shape(&frame);
            assert_eq!(shape.segments(), 5);
            let headers = frame.len() - 4_500 - VNET_LEN;
            let lens: Vec<_> = shape.wire_lens().map(|len| len as usize - headers).collect();
            assert_eq!(lens, [1000, 1000, 1000, 1000, 500]);
            for (first, count) in [(0, 1), (0, 2), (1, 3), (4, 1), (3, 2), (0, 5)] {
                let piece = shape.cut(&frame, first, count);
                assert_eq!(piece[1] == GSO_NONE, count == 1);
                let bytes = completed(&piece);
                let packet = SlicedPacket::from_ethernet(&bytes).unwrap();
                let payload_from = frame.len() - 4_500 + first * MSS;
                let payload = &frame[payload_from..(payload_from + count * MSS).min(frame.len())];
                let ip = packet.net.as_ref().unwrap();
                if let Some(ip) = ip.ipv4_ref() {
                    assert_eq!(ip.header().identification(), 0xffff_u16.wrapping_add(first as u16));
                    assert_eq!(ip.header().header_checksum(), ip.header().to_header().calc_header_checksum());
                }
                match packet.transport.as_ref().unwrap() {
                    TransportSlice::Tcp(tcp) => {
                        assert_eq!(tcp.payload(), payload);
                        assert_eq!(tcp.sequence_number(), 0xffff_ff00_u32.wrapping_add((first * MSS) as u32));
                        let last = first + count == 5;
                        assert_eq!((tcp.psh(), tcp.fin(), tcp.cwr()), (last, last, first == 0));
                        let checksum = match (ip.ipv4_ref(), ip.ipv6_ref()) {
                            (Some(ip), _) => tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination()),
                            (_, Some(ip)) => tcp.calc_checksum_ipv6(ip.header().source(), ip.header().destination()),
                            _ => unreachable!(),
                        };
                        assert_eq!(tcp.checksum(), checksum.unwrap());
                    }
                    TransportSlice::Udp(udp) => {
                        assert_eq!(udp.payload(), payload);
                        assert_eq!(usize::from(udp.length()), payload.len() + 8);
                        let header = udp.to_header();
                        let checksum = match (ip.ipv4_ref(), ip.ipv6_ref()) {
                            (Some(ip), _) => header.calc_checksum_ipv4(&ip.header().to_header(), payload),
                            (_, Some(ip)) => header.calc_checksum_ipv6(&ip.header().to_header(), payload),
                            _ => unreachable!(),
                        };
                        assert_eq!(udp.checksum(), checksum.unwrap());
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    #[test]
    fn a_tag_put_back_moves_the_offsets_behind_it() {
        for (ipv6, tcp) in [(false, true), (true, false)] {
            let mut untagged = super_segment(ipv6, tcp, false, 3_000);
            insert_vlan(&mut untagged, 0x8100, 5);
            assert_eq!(untagged, super_segment(ipv6, tcp, true, 3_000));
        }
        let mut plain = vec![0; VNET_LEN + 60];
        insert_vlan(&mut plain, 0x8100, 5);
        assert_eq!(plain[..VNET_LEN], [0; VNET_LEN]);
    }

    #[test]
    fn single_frames_are_counted_as_they_are() {
        let mut frame = vec![0; VNET_LEN + 60];
        assert_eq!(Shape::of(&frame), Ok(Shape::Single(60)));
        frame.truncate(VNET_LEN + 13);
        assert_eq!(Shape::of(&frame), Err(Malformed));
    }

    #[test]
    fn no_prefix_or_flipped_header_byte_panics() {
        for (ipv6, tcp) in [(false, true), (true, true), (false, false), (true, false)] {
            let frame = super_segment(ipv6, tcp, true, 2_500);
            for len in 0..frame.len() {
                exercise(&frame[..len]);
            }
            for at in 0..100 {
                for value in 0..=255 {
                    let mut changed = frame.clone();
                    changed[at] = value;
                    exercise(&changed);
                }
            }
        }
    }

    fn exercise(frame: &[u8]) {
        if let Ok(Shape::Super(shape)) = Shape::of(frame) {
            assert_eq!(shape.wire_lens().count(), shape.segments());
            for first in 0..shape.segments().min(4) {
                shape.cut(frame, first, 1);
            }
            shape.cut(frame, 0, shape.segments());
        }
    }
}
