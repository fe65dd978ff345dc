//! Reliable streams to the peer over datagrams: wire format, acks, loss, retransmission, credit, liveness.
//!
//! One [`Channel`] speaks to one peer. It does no I/O: datagrams, time and a seed go in; datagrams, events and the
//! next deadline come out. After every input drain [`Channel::poll_event`] and [`Channel::poll_transmit`].

use std::net::SocketAddr;
use std::time::Duration;

use crate::units::{BitRate, ByteCount, Instant};

/// One bidirectional stream of a session: two byte streams, one each way.
///
/// Even numbers were opened by the handshake's initiator, odd ones by its responder. Never reused in a session.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StreamId(pub u32);

/// What the operator fixes for one channel.
#[derive(Clone, Debug)]
pub struct ChannelConfig {
    /// Our static private key (X25519).
    pub private_key: [u8; 32],
    /// The peer's static public key, pinned.
    pub peer_public_key: [u8; 32],
    /// Optional pre-shared key mixed into the handshake.
    pub preshared_key: Option<[u8; 32]>,
    /// Where the peer listens; `None`: wait until it speaks first.
    pub peer_address: Option<SocketAddr>,
    /// Largest IP packet the WAN carries, as the operator knows it (1500 unless said).
    pub path_mtu: usize,
    /// The operator's cap on what we send, wire bytes; `None`: the rate controller alone decides.
    pub rate: Option<BitRate>,
}

/// Why a stream ended early, as its ends tell each other (application error code of RESET).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ResetCode(pub u16);

/// Why the session went down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DownReason {
    /// Nothing authentic heard for the dead-peer time; streams are kept and resume if it answers again.
    Silent,
    /// The peer started anew (its instance changed): every stream is gone.
    PeerRestarted,
    /// The peer said goodbye: every stream is gone.
    PeerClosed,
}

/// What the engine has to know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// The session is up (first, again after [`DownReason::Silent`], or new after a restart).
    Up,
    /// The session is down. With [`DownReason::Silent`] streams survive; otherwise they are all gone, without further events.
    Down(DownReason),
    /// The peer opened this stream.
    Opened(StreamId),
    /// There are new bytes, or the end, to [`Channel::read`].
    Readable(StreamId),
    /// There is room to [`Channel::write`] again after it took less than offered.
    Writable(StreamId),
    /// The peer reset the stream; it is gone.
    Reset(StreamId, ResetCode),
}

/// The state of the channel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChannelState {
    /// No session yet; handshakes are sent if the peer's address is known.
    Connecting,
    /// Keys agreed, and the peer heard within the dead-peer time.
    Up,
    /// A session exists, but the peer is silent.
    Silent,
}

/// Counters and gauges of one channel.
#[derive(Clone, Debug)]
pub struct ChannelStats {
    /// Its state.
    pub state: ChannelState,
    /// Where the peer was last heard.
    pub peer_address: Option<SocketAddr>,
    /// Smoothed RTT (RFC 9002 section 5.3).
    pub srtt: Option<Duration>,
    /// Smallest RTT of the current window: propagation delay.
    pub min_rtt: Option<Duration>,
    /// What the path delivers, wire bytes.
    pub delivery_rate: BitRate,
    /// What we pace at.
    pub pacing_rate: BitRate,
    /// Sent and not yet acknowledged or lost.
    pub bytes_in_flight: ByteCount,
    /// Datagrams sent, all kinds.
    pub datagrams_sent: u64,
    /// Authentic datagrams received.
    pub datagrams_received: u64,
    /// Wire bytes sent (UDP payload + IP + UDP headers).
    pub bytes_sent: ByteCount,
    /// Wire bytes received.
    pub bytes_received: ByteCount,
    /// Datagrams declared lost.
    pub datagrams_lost: u64,
    /// Of those, acknowledged later after all (spurious).
    pub datagrams_lost_spuriously: u64,
    /// Stream bytes sent a second time or more.
    pub bytes_retransmitted: ByteCount,
    /// Datagrams dropped because they were malformed, forged, replayed or of another version.
    pub datagrams_refused: u64,
    /// Undelivered stream bytes: written, and not yet consumed by the far appliance.
    pub backlog: ByteCount,
}

/// Datagrams to one destination, back to back in the caller's buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transmit {
    /// Where to.
    pub destination: SocketAddr,
    /// All datagrams have this length, except that the last may be shorter (UDP GSO).
    pub segment_size: usize,
    /// Total bytes.
    pub len: usize,
}

/// What a read found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadState {
    /// More may come.
    Open,
    /// The peer finished this direction and every byte has been consumed.
    Finished,
}

/// Reliable streams to one peer.
#[derive(Debug)]
pub struct Channel {}

#[expect(unused_variables, reason = "bodies follow in the channel's own commits")]
impl Channel {
    /// A channel that begins to connect at once. `seed` feeds key generation, packet numbers and jitter: from the OS
    /// in the appliance, fixed in the simulator. `instance` tells this start of the appliance from every other.
    pub fn new(config: ChannelConfig, now: Instant, seed: [u8; 32]) -> Self {
        todo!()
    }

    /// Takes one datagram as received; the bytes are opened in place. Never fails: what is not authentic is counted.
    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, datagram: &mut [u8]) {
        todo!()
    }

    /// Does what was due at or before `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        todo!()
    }

    /// When [`Channel::handle_timeout`] or [`Channel::poll_transmit`] has work next, if nothing arrives before.
    pub fn poll_timeout(&self) -> Option<Instant> {
        todo!()
    }

    /// Appends the next datagrams that may leave at `now` to `out`; `None` when nothing may.
    pub fn poll_transmit(&mut self, now: Instant, out: &mut Vec<u8>) -> Option<Transmit> {
        todo!()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        todo!()
    }

    /// Whether new streams can be opened (the session is up and the stream table has room).
    pub fn is_up(&self) -> bool {
        todo!()
    }

    /// Opens a stream; the peer learns of it with its first bytes. `None` when not up or at the limit.
    pub fn open(&mut self) -> Option<StreamId> {
        todo!()
    }

    /// How many bytes [`Channel::write`] would take now: bounded by the backlog limit (2 x BDP or 150 ms of the
    /// delivery rate, shared by the active streams) and the peer's credit. Zero for a stream that is gone.
    pub fn writable(&self, id: StreamId) -> usize {
        todo!()
    }

    /// Queues bytes and returns how many were taken. If fewer than offered, a [`Event::Writable`] follows.
    pub fn write(&mut self, now: Instant, id: StreamId, bytes: &[u8]) -> usize {
        todo!()
    }

    /// No more bytes will be written in our direction.
    pub fn finish(&mut self, id: StreamId) {
        todo!()
    }

    /// Ends both directions at once and forgets the stream.
    pub fn reset(&mut self, id: StreamId, code: ResetCode) {
        todo!()
    }

    /// Copies the next in-order bytes that have arrived into `out` without consuming them (up to `out.len()`).
    pub fn peek(&self, id: StreamId, out: &mut [u8]) -> usize {
        todo!()
    }

    /// In-order bytes that wait to be consumed.
    pub fn readable(&self, id: StreamId) -> usize {
        todo!()
    }

    /// Consumes `len` in-order bytes, which returns their credit to the peer, and says whether the direction ended.
    pub fn consume(&mut self, id: StreamId, len: usize) -> ReadState {
        todo!()
    }

    /// Tells the peer goodbye (best effort, a few copies) and ends the session.
    pub fn close(&mut self, now: Instant) {
        todo!()
    }

    /// The rate the relay should size its blocks by: what the path is delivering to us or taking from us now.
    pub fn pacing_rate(&self) -> BitRate {
        todo!()
    }

    /// Counters and gauges.
    pub fn stats(&self) -> ChannelStats {
        todo!()
    }
}
