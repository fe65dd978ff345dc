//! What the loop asks of the engine. The loop's own tests put something simpler in its place.

use crate::buffer::FrameBuf;
use crate::channel::{Arrival, Transmit};
use crate::engine::{Engine, EngineStatus, Fate};
use crate::frame::Port;
use crate::units::Instant;

/// Decides without I/O: see [`Engine`], whose methods these are.
#[expect(missing_docs, reason = "documented at Engine")]
pub trait Driven {
    fn handle_frame(&mut self, now: Instant, port: Port, frame: &[u8]) -> Fate;
    fn handle_datagram(&mut self, now: Instant, arrival: Arrival, datagram: &mut [u8]);
    fn handle_timeout(&mut self, now: Instant);
    fn poll_timeout(&self) -> Option<Instant>;
    fn poll_frame(&mut self) -> Option<(Port, FrameBuf)>;
    fn poll_transmit(&mut self, now: Instant, out: &mut Vec<u8>) -> Option<Transmit>;
    fn recycle(&mut self, frame: FrameBuf);
    fn shutdown(&mut self, now: Instant);
    /// What the status document tells; at most `bypassed_max` bypassed connections.
    fn status(&self, bypassed_max: usize) -> Option<EngineStatus>;
}

impl Driven for Engine {
    fn handle_frame(&mut self, now: Instant, port: Port, frame: &[u8]) -> Fate {
        Engine::handle_frame(self, now, port, frame)
    }

    fn handle_datagram(&mut self, now: Instant, arrival: Arrival, datagram: &mut [u8]) {
        Engine::handle_datagram(self, now, arrival, datagram);
    }

    fn handle_timeout(&mut self, now: Instant) {
        Engine::handle_timeout(self, now);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        Engine::poll_timeout(self)
    }

    fn poll_frame(&mut self) -> Option<(Port, FrameBuf)> {
        Engine::poll_frame(self)
    }

    fn poll_transmit(&mut self, now: Instant, out: &mut Vec<u8>) -> Option<Transmit> {
        Engine::poll_transmit(self, now, out)
    }

    fn recycle(&mut self, frame: FrameBuf) {
        Engine::recycle(self, frame);
    }

    fn shutdown(&mut self, now: Instant) {
        Engine::shutdown(self, now);
    }

    fn status(&self, bypassed_max: usize) -> Option<EngineStatus> {
        Some(Engine::status(self, bypassed_max))
    }
}
