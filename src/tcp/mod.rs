//! End TCP: one endpoint per flow side, byte streams (smoltcp underneath).
//!
//! # One Interface and one socket per endpoint
//! A shared socket set costs O(flows) per packet. Here each [`Endpoint`] owns a smoltcp `Interface` (`Medium::Ip`, the
//! impersonated address as its only one, no routes needed) and a set of one socket.
//!
//! # Super-segments
//! smoltcp is told an MTU of 65,513 bytes, and the MSS option of the host's SYN is replaced by the largest multiple of
//! the real MSS that fits, so that it emits super-segments of whole segments for IPv4 and IPv6 alike. The SYN that
//! leaves carries the real MSS, and so does each frame's virtio-net header, by which the kernel cuts it.
//!
//! # When the SYN is answered
//! Only after the far appliance has connected: the engine holds the host's SYN until then, and only then calls
//! [`Endpoint::accept`]. smoltcp's `socket-tcp-pause-synack` would do the same later and worse: a SYN that is still
//! held can pass through byte-identical when the far side cannot be reached, one retransmitted with another ISN needs
//! no special case, and a paused socket reports "poll me now" for as long as it is paused.
//!
//! # What smoltcp is not fed
//! It sees every segment that the host sent, except that
//! - SYNs are rewritten: MSS as above, window scale and SACK-permitted kept, every other option and SYN data dropped
//!   (the host sends data again that the SYN-ACK did not acknowledge; timestamps, Fast Open and Multipath TCP are
//!   thereby declined);
//! - resets count only at the exact next sequence number; others in the window, SYNs, and acknowledgements of data
//!   never sent get a challenge ACK, once a second at most (RFC 5961 sections 3 to 5);
//! - a FIN beyond the window is held back until what precedes it has been taken (smoltcp would skip the missing bytes);
//! - data beyond the window of our SYN is dropped (smoltcp scales that window too, beyond its own buffer);
//! - losses that SACK blocks prove, and lost retransmissions, are announced by the duplicate ACKs it knows: see
//!   `recovery`.
//!
//! # Known weaknesses of the stack
//! A FIN that is lost alone waits for smoltcp's timeout of at least one second, a lost segment is sent again together
//! with up to 64 KiB that follow it, and there is no congestion control (the LAN side is one hop of Ethernet): never
//! overflow the TAP's queue. LAN retransmissions are counted: [`EndpointStats::retransmissions`]. No PMTU discovery,
//! timestamps, ECN, or urgent data (delivered in line). smoltcp's arithmetic panics on states it deems impossible; a
//! panic is caught and ends this one flow with a reset.

// What is said above of panics holds only where they unwind.
#[cfg(panic = "abort")]
compile_error!("a panic of the TCP stack must end one flow, not the appliance: build with panic = \"unwind\"");

mod device;
mod endpoint;
mod host_packet;
mod input;
#[cfg(test)]
mod lan;
mod recovery;
mod sequence;
#[cfg(test)]
mod tests;

pub use endpoint::Endpoint;

use std::net::SocketAddr;

use crate::frame::L2Header;
use crate::units::ByteCount;

/// How an endpoint is built.
#[derive(Clone, Copy, Debug)]
pub struct EndpointConfig {
    /// The address the endpoint impersonates.
    pub local: SocketAddr,
    /// The real host.
    pub remote: SocketAddr,
    /// Largest segment our port can take: what our SYN announces. Segments to the host are also bounded by what its
    /// SYN announces.
    pub mss: u16,
    /// How its frames leave.
    pub l2: L2Header,
    /// Receive buffer: what the host may have acknowledged before we read it. At most 1 GiB - 1.
    pub receive_buffer: ByteCount,
    /// Send buffer: what the host has not acknowledged yet. At most 1 GiB - 1.
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
    /// Both directions ended in order and were acknowledged, and every byte has been read.
    Closed,
    /// The host refused or reset the connection, or we aborted it.
    Reset,
    /// The host did not answer in time.
    TimedOut,
}

/// Counters of one endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct EndpointStats {
    /// Segments with payload sent to the host again. On a LAN each one is an event.
    pub retransmissions: u64,
    /// Panics of the stack that were caught (each ends its flow).
    pub panics: u64,
}
