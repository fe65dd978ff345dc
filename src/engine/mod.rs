//! The whole appliance without I/O: flow table, learning, bypass, relay tcp <-> codec <-> channel, limits.
//!
//! # How to drive it
//! After every input (`handle_frame`, `handle_datagram`, `handle_timeout`) drain [`Engine::poll_frame`] and
//! [`Engine::poll_transmit`], then wait for the next input or until [`Engine::poll_timeout`].

use std::net::SocketAddr;

use crate::buffer::FrameBuf;
use crate::channel::{ChannelConfig, ChannelStats, Transmit};
use crate::frame::Port;
use crate::rules::Rules;
use crate::units::{ByteCount, Instant};

/// Named limits of one appliance.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Accelerated flows at most; beyond, new flows pass through.
    pub flows: usize,
    /// Bytes of all flow buffers together; beyond, new flows pass through.
    pub memory: ByteCount,
}

/// Everything the engine is built from.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Which flows to accelerate.
    pub rules: Rules,
    /// The peer; `None`: a plain bridge.
    pub channel: Option<ChannelConfig>,
    /// Largest IP packet on the LAN side.
    pub lan_mtu: usize,
    /// Limits.
    pub limits: Limits,
}

/// What the shell does with the frame it just handed in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// Write the same bytes, virtio-net header included, to the other port.
    Forward,
    /// The engine took it (or dropped and counted it).
    Taken,
}

/// The appliance.
#[derive(Debug)]
pub struct Engine {}

#[expect(unused_variables, reason = "bodies follow in the engine's own commits")]
impl Engine {
    /// An engine at rest; `seed` from the OS, fixed in the simulator.
    pub fn new(config: EngineConfig, now: Instant, seed: [u8; 32]) -> Self {
        todo!()
    }

    /// Takes one frame as read from a TAP: virtio-net header, then Ethernet.
    pub fn handle_frame(&mut self, now: Instant, port: Port, frame: &[u8]) -> Fate {
        todo!()
    }

    /// Takes one datagram of the channel's socket; it is opened in place.
    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, datagram: &mut [u8]) {
        todo!()
    }

    /// Does what was due at or before `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        todo!()
    }

    /// The next deadline.
    pub fn poll_timeout(&self) -> Option<Instant> {
        todo!()
    }

    /// The next frame to write, and to which port. Give it back with [`Engine::recycle`].
    pub fn poll_frame(&mut self) -> Option<(Port, FrameBuf)> {
        todo!()
    }

    /// Appends the next datagrams that may leave now to `out`.
    pub fn poll_transmit(&mut self, now: Instant, out: &mut Vec<u8>) -> Option<Transmit> {
        todo!()
    }

    /// Takes a written frame back for reuse.
    pub fn recycle(&mut self, frame: FrameBuf) {
        todo!()
    }

    /// Ends every accelerated flow with a reset on this side and says goodbye to the peer.
    pub fn shutdown(&mut self, now: Instant) {
        todo!()
    }

    /// The channel's counters; `None` for a plain bridge.
    pub fn channel_stats(&self) -> Option<ChannelStats> {
        todo!()
    }
}
