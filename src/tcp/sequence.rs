//! Where both directions of a connection stand, as their segments say: what smoltcp does not tell.

use crate::frame::TcpSegment;

/// `a` is at or after `b` in sequence space (RFC 9293 section 3.4).
pub(super) const fn at_or_after(a: u32, b: u32) -> bool {
    a.wrapping_sub(b) < 1 << 31
}

/// Sequence numbers of one connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sequence {
    /// Oldest number the host has not acknowledged.
    pub(super) snd_una: u32,
    /// Behind the highest number sent; `None` before our SYN.
    pub(super) snd_max: Option<u32>,
    /// Behind the highest number the host may send, by the last window it was told.
    pub(super) rcv_edge: u32,
    /// The window of our SYN, which is never scaled.
    syn_window: u16,
    /// [`Sequence::rcv_edge`] stems from that window. smoltcp scales it all the same, beyond its own buffer.
    pub(super) edge_is_of_syn: bool,
    /// The host's ISN.
    pub(super) irs: Option<u32>,
    /// Last acknowledgement number sent.
    pub(super) acked: u32,
    /// Shift of the windows we announce.
    shift: u8,
    /// Shift we announced in our SYN.
    shift_offered: u8,
    /// Segments with payload sent again, by timeout or fast retransmission.
    pub(super) retransmissions: u64,
}

impl Sequence {
    /// Notes a segment of ours that is about to leave.
    pub(super) fn on_sent(&mut self, segment: &TcpSegment<'_>) {
        if segment.flags.rst() {
            return;
        }
        let end = segment.seq.wrapping_add(segment.seq_len());
        match self.snd_max {
            None => {
                self.snd_una = segment.seq;
                self.snd_max = Some(end);
            }
            Some(max) if at_or_after(end, max) => self.snd_max = Some(end),
            // Keep-alives and zero-window probes carry one byte.
            Some(_) => self.retransmissions += u64::from(segment.payload.len() > 1),
        }
        if segment.flags.syn() {
            self.shift_offered = segment.options.window_scale.unwrap_or(0);
            self.settle_shift(segment.flags.ack());
            self.syn_window = segment.window;
        }
        if segment.flags.ack() {
            let shift = if segment.flags.syn() { 0 } else { self.shift };
            self.acked = segment.ack;
            self.edge_is_of_syn = segment.flags.syn();
            self.rcv_edge = segment.ack.wrapping_add(u32::from(segment.window) << shift);
        }
    }

    /// Notes the host's ISN, and whether it scales windows.
    pub(super) fn on_host_syn(&mut self, isn: u32, scales: bool) {
        self.irs = Some(isn);
        self.acked = isn;
        // Our SYN has left: this is the answer to it. Otherwise our SYN-ACK will settle the rest.
        if self.snd_max.is_some() {
            self.settle_shift(scales);
            self.edge_is_of_syn = true;
            self.rcv_edge = isn.wrapping_add(1).wrapping_add(u32::from(self.syn_window));
        }
    }

    /// Notes whether the host scales windows, once both SYNs are known: only then do we (RFC 7323 section 2.2). Our
    /// SYN-ACK carries the option exactly in that case.
    fn settle_shift(&mut self, both_scale: bool) {
        self.shift = if both_scale { self.shift_offered } else { 0 };
    }

    /// Whether an acknowledgement number is one that a host may send now (RFC 9293 section 3.4).
    pub(super) fn is_acceptable_ack(&self, ack: u32) -> bool {
        self.snd_max.is_some_and(|max| ack.wrapping_sub(self.snd_una) <= max.wrapping_sub(self.snd_una))
    }

    /// Whether something is sent and not acknowledged.
    pub(super) fn is_in_flight(&self) -> bool {
        self.snd_max.is_some_and(|max| max != self.snd_una)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparison_wraps() {
        assert!(at_or_after(5, 5) && at_or_after(6, 5) && !at_or_after(4, 5));
        assert!(at_or_after(3, u32::MAX - 3) && !at_or_after(u32::MAX - 3, 3));
    }

    #[test]
    fn only_what_was_sent_can_be_acknowledged() {
        let sequence = Sequence { snd_una: u32::MAX - 1, snd_max: Some(3), ..Sequence::default() };
        for (ack, acceptable) in [(u32::MAX - 2, false), (u32::MAX - 1, true), (u32::MAX, true), (3, true), (4, false)]
        {
            assert_eq!(sequence.is_acceptable_ack(ack), acceptable, "{ack}");
        }
        assert!(!Sequence::default().is_acceptable_ack(0));
    }
}
