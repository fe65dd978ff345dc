//! The memory of flows that have ended: their late segments must neither pass nor wake anything.
//!
//! It takes the place of TIME-WAIT (RFC 9293 section 3.3.2), without buffers: when a flow is over, everything that it
//! carried has been acknowledged, or it was reset. So a late segment is answered from its own numbers alone. A new SYN
//! is a new connection and ends the memory; hosts keep their own TIME-WAIT.

use std::time::Duration;

use crate::frame::{FlowKey, L2Header, Port, TcpSegment, bare_ack, bare_rst};
use crate::units::Instant;

use super::lru::{Lru, SeededState};
use super::output::Output;

/// Ended flows remembered; the oldest is forgotten first. Its late segments would be forwarded as of an unknown flow.
const CLOSED_MAX: usize = 8192;

/// How long: two times the maximum segment lifetime as Linux and smoltcp shorten it. Longer than a host repeats a FIN
/// often, and longer than a frame lives in a LAN by far.
const CLOSED_TIME: Duration = Duration::from_secs(30);

/// How a flow ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum How {
    InOrder,
    Reset,
}

/// A flow that has ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Closed {
    how: How,
    at: Instant,
    l2: L2Header,
}

impl Closed {
    /// Both directions ended and were acknowledged. `l2` reaches the host.
    pub(super) const fn in_order(at: Instant, l2: L2Header) -> Self {
        Closed { how: How::InOrder, at, l2 }
    }

    /// It was reset, by whomever.
    pub(super) const fn reset(at: Instant, l2: L2Header) -> Self {
        Closed { how: How::Reset, at, l2 }
    }
}

/// Ended flows by the key of the host's segments.
#[derive(Debug)]
pub(super) struct ClosedFlows {
    flows: Lru<FlowKey, Closed>,
}

impl ClosedFlows {
    pub(super) fn new(state: SeededState) -> Self {
        ClosedFlows { flows: Lru::new(CLOSED_MAX, state) }
    }

    pub(super) fn remember(&mut self, host_key: FlowKey, closed: Closed) {
        self.flows.insert(host_key, closed);
    }

    pub(super) fn forget(&mut self, host_key: &FlowKey) {
        self.flows.remove(host_key);
    }

    /// A segment that is no SYN. True when it was a late one of an ended flow, and has been dealt with.
    pub(super) fn handle_segment(&mut self, now: Instant, segment: &TcpSegment<'_>, output: &mut Output) -> bool {
        let Some(closed) = self.flows.peek(&segment.key) else { return false };
        if now.saturating_since(closed.at) > CLOSED_TIME {
            self.flows.remove(&segment.key);
            return false;
        }
        let (flags, key, l2) = (segment.flags, segment.key.reversed(), closed.l2);
        if flags.rst() || !flags.ack() || !segment.verify_checksums() {
            return true;
        }
        match closed.how {
            // Our last ACK was lost, and the host repeats its FIN. All it sent has been taken, so all of it is acknowledged.
            How::InOrder if flags.fin() => {
                let ack = segment.seq.wrapping_add(segment.seq_len());
                output.build(Port::Lan, |frame| bare_ack(frame, &l2, &key, segment.ack, ack));
            }
            How::InOrder => {}
            // Our RST was lost, or crossed this (RFC 9293 section 3.10.7.1).
            How::Reset => output.build(Port::Lan, |frame| bare_rst(frame, &l2, &key, segment.ack, None)),
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::FrameBuf;
    use crate::frame::{Classified, TcpFlags, VlanIds, classify};

    fn key() -> FlowKey {
        FlowKey { vlans: VlanIds::default(), src: ([10, 0, 0, 1], 40000).into(), dst: ([10, 0, 0, 2], 8000).into() }
    }

    /// What the memory does with a segment of the host.
    fn answer(closed: &mut ClosedFlows, now: Instant, flags: TcpFlags) -> (bool, Option<(TcpFlags, u32, u32)>) {
        let mut frame = FrameBuf::with_headroom();
        bare_ack(&mut frame, &L2Header::default(), &key(), 1000, 7000);
        // The pseudo-header's sum stays right: the flags are not part of it, and the kernel's part is left open.
        let at = frame.len() - 20 + 13;
        frame[at] = flags.0;
        let Classified::Tcp(segment) = classify(&frame) else { panic!("a segment was built") };
        let mut output = Output::default();
        let taken = closed.handle_segment(now, &segment, &mut output);
        let answer = output.pop().map(|(port, frame)| {
            assert_eq!(port, Port::Lan);
            let Classified::Tcp(segment) = classify(&frame) else { panic!("an answer is a segment") };
            assert_eq!(segment.key, key().reversed());
            (segment.flags, segment.seq, segment.ack)
        });
        (taken, answer)
    }

    const FIN_ACK: TcpFlags = TcpFlags::FIN.union(TcpFlags::ACK);

    #[test]
    fn a_repeated_fin_is_acknowledged_again() {
        let mut closed = ClosedFlows::new(SeededState::new([1, 2]));
        closed.remember(key(), Closed::in_order(Instant::ZERO, L2Header::default()));
        assert_eq!(answer(&mut closed, Instant::ZERO, FIN_ACK), (true, Some((TcpFlags::ACK, 7000, 1001))));
        assert_eq!(answer(&mut closed, Instant::ZERO, TcpFlags::ACK), (true, None));
    }

    #[test]
    fn after_a_reset_late_segments_are_reset_again() {
        let mut closed = ClosedFlows::new(SeededState::new([1, 2]));
        closed.remember(key(), Closed::reset(Instant::ZERO, L2Header::default()));
        assert_eq!(answer(&mut closed, Instant::ZERO, TcpFlags::ACK), (true, Some((TcpFlags::RST, 7000, 0))));
        assert_eq!(answer(&mut closed, Instant::ZERO, TcpFlags::RST), (true, None));
    }

    #[test]
    fn the_memory_ends() {
        let mut closed = ClosedFlows::new(SeededState::new([1, 2]));
        closed.remember(key(), Closed::in_order(Instant::ZERO, L2Header::default()));
        let late = Instant::ZERO + CLOSED_TIME + Duration::from_nanos(1);
        assert_eq!(answer(&mut closed, late, FIN_ACK), (false, None));
        closed.remember(key(), Closed::in_order(Instant::ZERO, L2Header::default()));
        closed.forget(&key());
        assert_eq!(answer(&mut closed, Instant::ZERO, FIN_ACK), (false, None));
    }
}
