//! Frames that wait to be written, and the pool they come from.

use std::collections::VecDeque;

use crate::buffer::{FrameBuf, FramePool};
use crate::frame::Port;
use crate::tcp::Endpoint;
use crate::units::Instant;

/// Bytes of waiting frames beyond which flows get no turn: the shell has not drained, or is about to. What one turn of a
/// flow adds on top is at most its send buffer.
const WAITING_MAX: usize = 8 * 1024 * 1024;

/// Frames to write, in order.
#[derive(Debug, Default)]
pub(super) struct Output {
    frames: VecDeque<(Port, FrameBuf)>,
    bytes: usize,
    pub(super) pool: FramePool,
}

impl Output {
    /// Queues a frame.
    pub(super) fn push(&mut self, port: Port, frame: FrameBuf) {
        self.bytes += frame.len();
        self.frames.push_back((port, frame));
    }

    /// Queues a frame that `build` writes.
    pub(super) fn build(&mut self, port: Port, build: impl FnOnce(&mut FrameBuf)) {
        let mut frame = self.pool.take();
        build(&mut frame);
        self.push(port, frame);
    }

    /// The next frame.
    pub(super) fn pop(&mut self) -> Option<(Port, FrameBuf)> {
        let (port, frame) = self.frames.pop_front()?;
        self.bytes -= frame.len();
        Some((port, frame))
    }

    /// Whether more should wait until some have left.
    pub(super) fn is_full(&self) -> bool {
        self.bytes >= WAITING_MAX
    }

    /// Lets a flow's endpoint emit what is due towards its host.
    pub(super) fn poll_endpoint(&mut self, now: Instant, endpoint: &mut Endpoint) {
        let Output { frames, bytes, pool } = self;
        endpoint.poll(now, pool, &mut |frame: FrameBuf| {
            *bytes += frame.len();
            frames.push_back((Port::Lan, frame));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_leave_in_order_and_fullness_follows_their_bytes() {
        let mut output = Output::default();
        output.build(Port::Wan, |frame| {
            frame.resize(WAITING_MAX - 1);
        });
        assert!(!output.is_full());
        output.push(Port::Lan, FrameBuf::from_bytes(b"x"));
        assert!(output.is_full());
        assert_eq!(output.pop().unwrap().0, Port::Wan);
        assert!(!output.is_full());
        assert_eq!(output.pop(), Some((Port::Lan, FrameBuf::from_bytes(b"x"))));
        assert_eq!(output.pop(), None);
    }
}
