//! End TCP: one endpoint per flow side, byte streams (smoltcp underneath).

use std::net::SocketAddr;

use crate::buffer::{FrameBuf, FramePool};
use crate::frame::L2Header;
use crate::units::{ByteCount, Instant};

/// How an endpoint is built.
#[derive(Clone, Copy, Debug)]
pub struct EndpointConfig {
    /// The address the endpoint impersonates.
    pub local: SocketAddr,
    /// The real host.
    pub remote: SocketAddr,
    /// Largest segment both ends may use: our port's MTU and what the host's SYN announced.
    pub mss: u16,
    /// How its frames leave.
    pub l2: L2Header,
    /// Receive buffer: what the host may have acknowledged before we read it.
    pub receive_buffer: ByteCount,
    /// Send buffer: what the host has not acknowledged yet.
    pub send_buffer: ByteCount,
    /// Chooses the ISN (RFC 6528: not predictable).
    pub seed: u64,
}

/// What the endpoint is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EndpointState {
    /// The three-way handshake is under way.
    Opening,
    /// Bytes may flow (one direction may have ended).
    Open,
    /// Both directions ended in order and were acknowledged.
    Closed,
    /// The host refused or reset the connection.
    Reset,
    /// The host did not answer in time.
    TimedOut,
}

/// One TCP connection to a host, ours end to end.
#[derive(Debug)]
pub struct Endpoint {}

#[expect(unused_variables, reason = "bodies follow in the room's own commits")]
impl Endpoint {
    /// The near side: `syn` is the IP packet of the host's SYN; the SYN-ACK leaves with the next poll.
    pub fn accept(config: EndpointConfig, now: Instant, syn: &[u8]) -> Self {
        todo!()
    }

    /// The far side: connects to `config.remote` as `config.local`.
    pub fn connect(config: EndpointConfig, now: Instant) -> Self {
        todo!()
    }

    /// Takes one TCP segment (an IP packet, up to a super-segment) whose checksum is known to be good.
    /// Frames that are due leave with the next [`Endpoint::poll`].
    pub fn handle_segment(&mut self, now: Instant, ip_packet: &[u8]) {
        todo!()
    }

    /// Lets everything leave that is due: hands complete frames (virtio-net header, Ethernet, VLANs, IP) to `emit`.
    pub fn poll(&mut self, now: Instant, pool: &mut FramePool, emit: &mut dyn FnMut(FrameBuf)) {
        todo!()
    }

    /// When [`Endpoint::poll`] has work next if nothing happens before.
    pub fn poll_timeout(&mut self, now: Instant) -> Option<Instant> {
        todo!()
    }

    /// Its state.
    pub fn state(&self) -> EndpointState {
        todo!()
    }

    /// Received bytes not read yet.
    pub fn readable(&self) -> usize {
        todo!()
    }

    /// Calls `read` with contiguous received bytes (maybe fewer than [`Endpoint::readable`]); it says how many it took.
    pub fn recv<R>(&mut self, read: impl FnOnce(&[u8]) -> (usize, R)) -> Option<R> {
        todo!()
    }

    /// Whether the host has finished its direction and every byte of it has been read.
    pub fn is_recv_finished(&self) -> bool {
        todo!()
    }

    /// Room in the send buffer.
    pub fn writable(&self) -> usize {
        todo!()
    }

    /// Bytes the host has not acknowledged yet.
    pub fn send_queue(&self) -> usize {
        todo!()
    }

    /// Queues bytes for the host; returns how many were taken.
    pub fn send(&mut self, bytes: &[u8]) -> usize {
        todo!()
    }

    /// FIN after everything queued.
    pub fn finish(&mut self) {
        todo!()
    }

    /// RST to the host with the next poll.
    pub fn abort(&mut self) {
        todo!()
    }

    /// From now on frames leave with this header (the last one seen from the host, reversed).
    pub fn set_l2(&mut self, l2: L2Header) {
        todo!()
    }
}
