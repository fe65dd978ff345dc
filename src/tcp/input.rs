//! What smoltcp is fed: each segment of the host checked and, where need be, rewritten; evidence of loss made up.

use super::device::{Card, Egress, super_segment_len};
use super::endpoint::{Endpoint, Stack, stack_time};
use super::host_packet::Fields;
use super::recovery::sacked_above;
use super::sequence::at_or_after;
use crate::buffer::FramePool;
use crate::frame::{TCP_HEADER_LEN, TcpFlags, TcpSegment};
use crate::units::Instant;
use smoltcp::socket::tcp::State;

/// Smallest MSS believed (Linux's `TCP_MIN_SND_MSS`, and smoltcp's).
pub(super) const MSS_MIN: u16 = 48;

impl Endpoint {
    /// Hands one packet to smoltcp.
    pub(super) fn feed(&mut self, now: Instant, packet: &[u8]) {
        self.run(now, |stack, egress| feed(stack, egress, now, packet));
    }

    /// Hands `count` copies of a made-up packet to smoltcp.
    pub(super) fn feed_made(&mut self, now: Instant, fields: Fields, options: &[u8], count: usize) {
        let mut packets = std::mem::take(&mut self.host_packets);
        let packet = packets.write(fields, options);
        for _ in 0..count {
            self.feed(now, packet);
        }
        self.host_packets = packets;
    }

    /// The host's SYN or SYN-ACK.
    pub(super) fn on_syn(&mut self, now: Instant, segment: &TcpSegment<'_>) {
        let ip_header_len = self.host_packets.ip_header_len();
        // RFC 9293 section 3.7.1: 536 and 1220 where nothing is announced. Zero counts as nothing.
        let default = if ip_header_len == 20 { 536 } else { 1220 };
        let announced = segment.options.mss.filter(|&mss| mss != 0).unwrap_or(default);
        let mss = announced.min(self.egress.mss_announced).max(MSS_MIN);
        let [high, low] = super_segment_len(mss, ip_header_len).to_be_bytes();
        let mut options = vec![2, 4, high, low];
        if let Some(shift) = segment.options.window_scale {
            // RFC 7323 section 2.3: a shift above 14 counts as 14.
            options.extend_from_slice(&[1, 3, 3, shift.min(14)]);
        }
        if segment.options.sack_permitted {
            options.extend_from_slice(&[1, 1, 4, 2]);
        }
        let flags = TcpFlags(segment.flags.0 & TcpFlags::SYN.union(TcpFlags::ACK).0);
        let fields = Fields { flags, seq: segment.seq, ack: segment.ack, window: segment.window };
        let before = self.socket_state;
        self.feed_made(now, fields, &options, 1);
        if self.stack.as_ref().is_some_and(|stack| stack.socket().state() != before) {
            self.egress.mss = mss;
            self.egress.sequence.on_host_syn(segment.seq, segment.options.window_scale.is_some());
            self.on_ack(now, segment, 0);
        }
    }

    /// A segment after the SYNs.
    pub(super) fn on_synchronized(&mut self, now: Instant, segment: &TcpSegment<'_>) {
        let Some(rcv_nxt) = self.rcv_nxt() else { return };
        let sequence = self.egress.sequence;
        let len = segment.payload.len() as u32;
        if segment.flags.rst() {
            // RFC 5961 section 3.2. A reset may carry a text, which is not part of the stream.
            if segment.seq == rcv_nxt {
                let fields = Fields { flags: segment.flags, seq: segment.seq, ack: segment.ack, window: 0 };
                self.feed_made(now, fields, &[], 1);
            } else if at_or_after(segment.seq, rcv_nxt) && !at_or_after(segment.seq, sequence.rcv_edge) {
                self.challenge(now, rcv_nxt);
            }
            return;
        }
        let acks_unsent = segment.flags.ack()
            && !sequence.is_acceptable_ack(segment.ack)
            && at_or_after(segment.ack, sequence.snd_una)
            && self.socket_state != State::SynReceived;
        if segment.flags.syn() || acks_unsent {
            return self.challenge(now, rcv_nxt);
        }
        let end = segment.seq.wrapping_add(len);
        if self.fin_received && len > 0 && end != rcv_nxt && at_or_after(end, rcv_nxt) {
            // Bytes behind the host's own FIN. (In its place: a keep-alive with a byte, which wants its answer.)
            return;
        }
        let Some(stack) = self.stack.as_ref() else { return };
        let queued = stack.socket().send_queue();
        if len == 0
            && !segment.flags.fin()
            && queued == 0
            && segment.ack == sequence.snd_una
            && sequence.is_in_flight()
            && segment.window == self.host_window
        {
            // Three of these while only our FIN is in flight stop smoltcp's timer, and the FIN is never sent again.
            return;
        }
        let is_beyond = !at_or_after(sequence.rcv_edge, end);
        if is_beyond && sequence.edge_is_of_syn {
            // More than the window of our SYN: no TCP does that, and smoltcp would take it for stored.
            return;
        }
        if segment.flags.fin() && is_beyond {
            let mut packet = segment.ip_packet.to_vec();
            packet[segment.tcp_offset + 13] &= !TcpFlags::FIN.0;
            self.feed(now, &packet);
        } else {
            self.feed(now, segment.ip_packet);
        }
        self.on_ack(now, segment, queued);
    }

    /// Has smoltcp answer with a challenge ACK (RFC 5961 section 7: rate-limited, by smoltcp, to one a second): to it,
    /// a segment one below the window is a keep-alive.
    pub(super) fn challenge(&mut self, now: Instant, rcv_nxt: u32) {
        let seq = rcv_nxt.wrapping_sub(1);
        self.feed_made(now, self.pure_ack(seq), &[], 1);
    }

    pub(super) fn pure_ack(&self, seq: u32) -> Fields {
        Fields { flags: TcpFlags::ACK, seq, ack: self.egress.sequence.snd_una, window: self.host_window }
    }

    /// Follows the acknowledgement of a segment that smoltcp was fed while `queued` bytes were in its send buffer.
    pub(super) fn on_ack(&mut self, now: Instant, segment: &TcpSegment<'_>, queued: usize) {
        let Some(stack) = self.stack.as_ref() else { return };
        let (state, left) = (stack.socket().state(), stack.socket().send_queue());
        let ack = segment.ack;
        let advances = ack != self.egress.sequence.snd_una;
        let was_taken = !advances || left != queued || state != self.socket_state;
        if !segment.flags.ack() || !was_taken || !self.egress.sequence.is_acceptable_ack(ack) {
            return;
        }
        // The window of a SYN is not scaled (RFC 7323 section 2.2), those of made-up segments are.
        let shift = segment.options.window_scale.filter(|_| segment.flags.syn()).map_or(0, |shift| shift.min(14));
        self.host_window = segment.window >> shift;
        self.egress.sequence.snd_una = ack;
        let sequence = self.egress.sequence;
        if advances {
            self.recovery.on_progress(now, ack, sequence.is_in_flight());
        }
        let Some(sent_to) = sequence.snd_max.filter(|_| left > 0) else { return };
        let header_end = segment.ip_packet.len() - segment.payload.len();
        let options = &segment.ip_packet[segment.tcp_offset + TCP_HEADER_LEN..header_end];
        let sacked = if options.is_empty() { 0 } else { sacked_above(options, ack) };
        let covers = self.retransmission_len();
        if self.recovery.on_ack(ack, sacked, sent_to, self.egress.mss, covers) {
            self.announce_loss(now);
        }
    }

    /// When the oldest segment is to be sent again although no acknowledgement asks for it.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        // smoltcp does not retransmit a bare FIN this way: that is left to its timeout.
        let can_retry = self.ended.is_none() && self.send_queue() > 0 && self.host_window > 0;
        self.recovery.retry_at().filter(|_| can_retry && self.egress.sequence.is_in_flight())
    }

    /// Bytes that smoltcp sends again at once.
    pub(super) fn retransmission_len(&self) -> u32 {
        u32::from(super_segment_len(self.egress.mss, self.host_packets.ip_header_len()))
    }

    /// Makes smoltcp send the oldest segment again: three duplicate ACKs, counted anew since the window changed before.
    pub(super) fn announce_loss(&mut self, now: Instant) {
        let Some(rcv_nxt) = self.rcv_nxt().filter(|_| self.host_window > 0) else { return };
        let ack = self.pure_ack(rcv_nxt);
        self.feed_made(now, Fields { window: ack.window - 1, ..ack }, &[], 1);
        self.feed_made(now, ack, &[], 4);
    }

    /// smoltcp starts to probe a zero window when an acknowledgement or new data finds its timer idle. A retransmission
    /// timeout that meets a window closed since leaves it idle with data to send: then the last acknowledgement is
    /// repeated.
    pub(super) fn keep_probing_zero_window(&mut self, now: Instant) {
        if self.host_window > 0 || self.ended.is_some() || self.send_queue() == 0 {
            return;
        }
        let poll_at = self.run(now, |stack, _| stack.interface.poll_at(stack_time(now), &stack.sockets)).flatten();
        if let Some(rcv_nxt) = self.rcv_nxt().filter(|_| poll_at.is_none()) {
            self.feed_made(now, self.pure_ack(rcv_nxt), &[], 1);
        }
    }
}

fn feed(stack: &mut Stack, egress: &mut Egress, now: Instant, packet: &[u8]) {
    let Stack { interface, sockets, .. } = stack;
    // Answers to a segment are bare ACKs and resets: no pool is needed.
    let mut card = Card { received: Some(packet), egress, pool: &mut FramePool::default() };
    interface.poll_ingress_single(stack_time(now), &mut card, sockets);
}
