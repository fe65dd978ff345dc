//! The one-flow network card under smoltcp: one packet in, finished frames out.

use smoltcp::phy::{ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

use super::sequence::Sequence;
use crate::buffer::{FrameBuf, FramePool};
use crate::frame::{ChecksumField, L2Header, TCP_HEADER_LEN, TcpSegment, encapsulate_tcp, rewrite_mss};

/// Largest IP packet of a super-segment: with an Ethernet header and two VLAN tags (22 bytes) the frame stays below
/// 65,536 bytes; from there on the kernel segments in software, at half the rate.
pub(super) const IP_PACKET_MAX: usize = 65_535 - 22;

/// Frames that may wait for the next poll. A poll of an open flow stops there and asks to be polled again; answers to
/// segments beyond are dropped, as they repeat what the waiting ones say.
pub(super) const FRAMES_MAX: usize = 256;

/// Where frames go, and what is written into all of them.
#[derive(Debug)]
pub(super) struct Egress {
    /// The header frames leave with.
    pub(super) l2: L2Header,
    /// What our SYN announces.
    pub(super) mss_announced: u16,
    /// Payload of one segment on the wire: ours and the host's limit.
    pub(super) mss: u16,
    /// Frames for the next poll.
    pub(super) frames: Vec<FrameBuf>,
    /// What was said to the host so far.
    pub(super) sequence: Sequence,
}

impl Egress {
    /// Takes the IP packet that smoltcp has written into `frame`.
    fn on_packet(&mut self, mut frame: FrameBuf, pool: &mut FramePool) {
        if self.frames.len() >= FRAMES_MAX {
            return pool.put(frame);
        }
        let Ok(segment) = TcpSegment::parse(&frame) else { return pool.put(frame) };
        let is_syn = segment.flags.syn();
        self.sequence.on_sent(&segment);
        if is_syn {
            rewrite_mss(&mut frame, self.mss_announced, ChecksumField::Partial);
        }
        match encapsulate_tcp(&mut frame, &self.l2, self.mss) {
            Ok(()) => self.frames.push(frame),
            Err(_) => pool.put(frame),
        }
    }
}

/// The device for the length of one call.
pub(super) struct Card<'a> {
    /// The packet to take in.
    pub(super) received: Option<&'a [u8]>,
    pub(super) egress: &'a mut Egress,
    pub(super) pool: &'a mut FramePool,
}

pub(super) struct Received<'a>(&'a [u8]);

impl RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

pub(super) struct Departing<'a> {
    egress: &'a mut Egress,
    pool: &'a mut FramePool,
}

impl TxToken for Departing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = self.pool.take();
        // smoltcp writes every byte of the packet.
        let result = f(frame.resize_for_overwrite(len));
        self.egress.on_packet(frame, self.pool);
        result
    }
}

impl Device for Card<'_> {
    type RxToken<'b>
        = Received<'b>
    where
        Self: 'b;
    type TxToken<'b>
        = Departing<'b>
    where
        Self: 'b;

    fn receive(&mut self, _now: Instant) -> Option<(Received<'_>, Departing<'_>)> {
        let packet = self.received.take()?;
        Some((Received(packet), Departing { egress: self.egress, pool: self.pool }))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Departing<'_>> {
        (self.egress.frames.len() < FRAMES_MAX).then_some(Departing { egress: self.egress, pool: self.pool })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        // smoltcp's `segmentation-offload` drops IPv6 packets above the MTU (0.14). So the MTU is that of a
        // super-segment, and what bounds a segment is the MSS that smoltcp believes the host to have announced.
        capabilities.max_transmission_unit = IP_PACKET_MAX;
        // In: the caller vouches. Out: the frame room writes the IPv4 checksum and leaves TCP's to the kernel.
        capabilities.checksum = ChecksumCapabilities::ignored();
        capabilities
    }
}

/// Payload of the largest super-segment that is a whole number of segments of `mss`.
pub(super) fn super_segment_len(mss: u16, ip_header_len: usize) -> u16 {
    let room = (IP_PACKET_MAX - ip_header_len - TCP_HEADER_LEN) as u16;
    room - room % mss.clamp(1, room)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_super_segment_is_a_whole_number_of_segments() {
        for (mss, ip_header_len, expected) in
            [(1460, 20, 44 * 1460), (1440, 40, 45 * 1440), (8960, 20, 7 * 8960), (48, 20, 1364 * 48)]
        {
            assert_eq!(super_segment_len(mss, ip_header_len), expected);
            assert!(usize::from(expected) + ip_header_len + 20 <= IP_PACKET_MAX);
        }
        assert_eq!(super_segment_len(0, 20), 65_473);
        assert_eq!(super_segment_len(u16::MAX, 20), 65_473);
    }
}
