//! Reliable streams to the peer over datagrams: wire format, acks, loss, retransmission, repair symbols, credit,
//! liveness.
//!
//! One [`Channel`] speaks to one peer. It does no I/O: datagrams, time and a seed go in; datagrams, events and the
//! next deadline come out. After every input drain [`Channel::poll_event`] and [`Channel::poll_transmit`].

mod admission;
mod chunk;
mod drain;
mod keyring;
mod layout;
mod log;
mod parity;
mod pmtu;
mod ranges;
mod received;
mod recovery;
mod recv_stream;
mod repair;
mod ring;
mod route;
mod send_stream;
mod sent;
mod session;
mod stats;
mod streams;
mod tail;
mod turns;
mod wire;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use self::admission::{Admission, Doorkeeper};
use self::keyring::{Continuity, Keyring};
use self::parity::ParitySender;
use self::pmtu::MtuSearch;
use self::repair::RepairSender;
use self::route::{Move, Route};
use self::session::Session;
pub use self::stats::ChannelStats;
use self::tail::TailCopies;
use self::wire::{Datagram, InitiationDatagram};
use crate::crypto::{PrivateKey, TAG_LEN};
use crate::rate::RateMode;
use crate::units::{BitRate, ByteCount, Instant, Weight};

/// One bidirectional stream of a session: two byte streams, one each way.
///
/// Even numbers are opened by the appliance with the smaller public key, odd ones by the other. Never reused in a
/// session.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StreamId(pub u32);

/// What the operator fixes for one channel.
#[derive(Clone, Debug)]
pub struct ChannelConfig {
    /// Our static private key (X25519).
    pub private_key: [u8; 32],
    /// The peer's static public key, pinned.
    pub peer_public_key: [u8; 32],
    /// The key the peer is about to change to: accepted as well.
    pub peer_next_public_key: Option<[u8; 32]>,
    /// Optional pre-shared key mixed into the handshake.
    pub preshared_key: Option<[u8; 32]>,
    /// Where the peer listens; `None`: wait until it speaks first.
    pub peer_address: Option<SocketAddr>,
    /// Largest IP packet that carries a datagram.
    pub path_mtu: PathMtu,
    /// Whether the end of a burst may be sent twice where the path is long and lossy.
    pub tail_copies: bool,
    /// Whether repair symbols may follow it there, if the peer knows them, and whether the peer may send some. Without,
    /// this end is to the peer as one that does not know of them.
    pub repair_symbols: bool,
    /// Who says how fast to send.
    pub rate: RateMode,
}

/// How long the channel's datagrams may be, as IP packets in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PathMtu {
    /// The operator knows: never longer, and never tried.
    Fixed(usize),
    /// Found by probing (RFC 8899), and followed when it changes.
    Discover {
        /// No longer than this: what our own interface takes.
        max: usize,
    },
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
    /// There are new bytes, or the end, to [`Channel::peek`].
    Readable(StreamId),
    /// There is room to [`Channel::write`] again after it took less than offered, or the peer has consumed what
    /// [`Channel::wake_when_consumed`] asked for.
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

/// Where a datagram came from, and when it reached this machine.
///
/// The moment is at or before that at which it is handed over: the kernel's stamp where there is one. RTT, ack delay and
/// delivery rate are measured to it, so that a late wake-up of our own is in none of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arrival {
    /// Who sent it.
    pub from: SocketAddr,
    /// When it arrived.
    pub at: Instant,
}

/// What a read found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadState {
    /// More may come.
    Open,
    /// The peer finished this direction and every byte has been consumed.
    Finished,
}

/// Nothing authentic heard for this long: the peer counts as silent. Keep-alives leave every half second.
pub const SILENCE_MAX: Duration = Duration::from_millis(2500);
/// An initiation that is not answered is repeated after this long, plus up to as much jitter / 2.
const INITIATION_RETRY: Duration = Duration::from_millis(500);
/// Datagrams handed out as one batch at most: what UDP GSO takes.
const BATCH_MAX: usize = 44;
/// Nothing authentic heard for this long, in which two keep-alives were due: the peer may have started anew, which a
/// handshake would show.
const DOUBT_AFTER: Duration = Duration::from_millis(1200);
/// Handshake datagrams waiting to leave at most.
const HANDSHAKES_QUEUED_MAX: usize = 4;
/// Copies of a goodbye.
const CLOSE_COPIES: u32 = 3;

/// Reliable streams to one peer.
#[derive(Debug)]
pub struct Channel {
    config: ChannelConfig,
    keyring: Keyring,
    doorkeeper: Doorkeeper,
    route: Route,
    session: Option<Session>,
    heard: Instant,
    silent: bool,
    initiate_at: Option<Instant>,
    initiated: Option<Instant>,
    attempts: usize,
    handshakes: VecDeque<(SocketAddr, Vec<u8>)>,
    events: VecDeque<Event>,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Counters {
    datagrams_sent: u64,
    datagrams_received: u64,
    bytes_sent: u64,
    bytes_received: u64,
    datagrams_refused: u64,
    ended: session::SessionCounters,
    mtu_ended: pmtu::MtuCounters,
}

impl Channel {
    /// A channel that begins to connect at once. `seed` feeds key generation and jitter, and tells this start of the
    /// appliance from every other: from the OS in the appliance, fixed in the simulator.
    pub fn new(config: ChannelConfig, now: Instant, seed: [u8; 32]) -> Self {
        // A stream of its own, so that what an attacker learns of one use of the seed says nothing of the other.
        let mut secrets = ChaCha20Rng::from_seed(seed);
        secrets.set_stream(1);
        let mut cookie_seed = [0; 32];
        secrets.fill_bytes(&mut cookie_seed);
        Channel {
            keyring: Keyring::new(&config, seed),
            doorkeeper: Doorkeeper::new(now, &PrivateKey(config.private_key).public_key(), cookie_seed),
            route: Route::new(config.peer_address),
            session: None,
            heard: now,
            silent: false,
            initiate_at: config.peer_address.map(|_| now),
            initiated: None,
            attempts: 0,
            handshakes: VecDeque::new(),
            events: VecDeque::new(),
            counters: Counters::default(),
            config,
        }
    }

    fn is_ipv6(&self) -> bool {
        self.route.address().is_some_and(|address| address.is_ipv6())
    }

    /// Bytes of IP and UDP headers in front of a datagram.
    fn header_bytes(&self) -> usize {
        if self.is_ipv6() { 48 } else { 28 }
    }

    /// Bytes a datagram costs on the wire beyond its payload.
    fn wire_overhead(&self) -> u64 {
        (self.header_bytes() + wire::SEALED_HEADER_LEN + TAG_LEN) as u64
    }

    fn expected_number(&self) -> u64 {
        self.session.as_ref().map_or(0, Session::expected_number)
    }

    // --- what arrives ---

    /// Takes one datagram as received; the bytes are opened in place. Never fails: what is not authentic is counted.
    pub fn handle_datagram(&mut self, now: Instant, arrival: Arrival, datagram: &mut [u8]) {
        let from = arrival.from;
        let len = datagram.len();
        let accepted = match wire::parse_datagram(datagram) {
            Some(Datagram::Sealed { receiver, number, header, body }) => {
                self.on_sealed(now, (arrival, len), (receiver, number, header), body)
            }
            Some(Datagram::Initiation(initiation)) => self.on_initiation(now, from, &initiation),
            Some(Datagram::Response { version, receiver, noise, covered, mac1 }) => {
                self.on_response(now, from, (version, receiver), (noise, covered, mac1))
            }
            Some(Datagram::Cookie { masked, covered, mac }) => {
                match self.keyring.on_cookie(now, masked, covered, mac) {
                    Some(at_once) => {
                        if at_once {
                            self.initiate_at = Some(now);
                        }
                        true
                    }
                    None => false,
                }
            }
            None => false,
        };
        if accepted {
            self.counters.datagrams_received += 1;
            self.counters.bytes_received += (len + self.header_bytes()) as u64;
        } else {
            self.counters.datagrams_refused += 1;
        }
    }

    fn on_sealed(
        &mut self,
        now: Instant,
        (arrival, len): (Arrival, usize),
        (receiver, number, header): (u32, u32, [u8; wire::SEALED_HEADER_LEN]),
        body: &mut [u8],
    ) -> bool {
        let expected = self.expected_number();
        let Some((number, plaintext, continuity)) = self.keyring.open(receiver, number, header, body) else {
            return false;
        };
        if continuity == Continuity::New {
            self.route.settle(arrival.from);
            self.begin_session(now, None);
        }
        self.on_heard(now);
        let Some(session) = &mut self.session else { return false };
        let outcome = session.on_payload((now, arrival.at), number, plaintext);
        self.follow_peer(now, (arrival.from, len), number >= expected);
        match outcome {
            Ok(None) => true,
            Ok(Some(session::Closed)) => {
                self.end_session(DownReason::PeerClosed);
                self.keyring.forget();
                self.initiate_at = self.config.peer_address.map(|_| now + INITIATION_RETRY);
                true
            }
            Err(wire::Malformed) => false,
        }
    }

    /// Follows the peer to where its newest datagram came from.
    fn follow_peer(&mut self, now: Instant, (from, len): (SocketAddr, usize), newest: bool) {
        let Some(session) = &mut self.session else { return };
        let moved = self.route.on_datagram(now, from, len, newest, (session.next_number(), session.pto()));
        if moved == Move::Probation {
            session.ping();
        }
        if let Some(since) = self.route.on_acked(session.largest_acked()) {
            self.on_new_path(now, now - since);
        }
        self.restrict_session();
    }

    /// The peer is at another IP address: what was learned of the way there is void. `rtt`: a first idea of the new.
    fn on_new_path(&mut self, now: Instant, rtt: Duration) {
        let mtu = MtuSearch::new(now, self.config.path_mtu, self.is_ipv6());
        let overhead = self.wire_overhead();
        if let Some(session) = &mut self.session {
            session.on_new_path(now, (mtu, overhead), self.config.rate, rtt);
        }
    }

    fn restrict_session(&mut self) {
        if let Some(session) = &mut self.session {
            session.set_restricted(self.route.is_on_probation());
        }
    }

    fn on_initiation(&mut self, now: Instant, from: SocketAddr, initiation: &InitiationDatagram<'_>) -> bool {
        let known = self.route.knows(from);
        if self.doorkeeper.judge(now, from, known, initiation) == Admission::Refuse
            || self.handshakes.len() >= HANDSHAKES_QUEUED_MAX
        {
            return false;
        }
        let mut response = Vec::new();
        let expected = self.expected_number();
        if !self.keyring.on_initiation(now, initiation, expected, &mut response) {
            return false;
        }
        self.handshakes.push_back((from, response));
        true
    }

    fn on_response(&mut self, now: Instant, from: SocketAddr, index: (u8, u32), parts: (&[u8], &[u8], &[u8])) -> bool {
        let expected = self.expected_number();
        let Some(continuity) = self.keyring.on_response(now, index, parts, expected) else { return false };
        let rtt = self.initiated.take().map(|at| now - at);
        (self.initiate_at, self.attempts) = (None, 0);
        let moved = self.route.settle(from);
        if continuity == Continuity::New {
            self.begin_session(now, rtt);
        } else if moved {
            self.on_new_path(now, rtt.unwrap_or(SILENCE_MAX));
        }
        self.restrict_session();
        // The responder seals with the new epoch only after it has opened something with it.
        if let Some(session) = &mut self.session {
            session.ping();
        }
        self.on_heard(now);
        true
    }

    fn begin_session(&mut self, now: Instant, handshake_rtt: Option<Duration>) {
        if self.session.is_some() {
            self.end_session(DownReason::PeerRestarted);
        }
        let mtu = MtuSearch::new(now, self.config.path_mtu, self.is_ipv6());
        let even = self.keyring.opens_even();
        let tail = TailCopies::new(now, self.config.tail_copies);
        let repair = RepairSender::new(now, self.config.repair_symbols, self.keyring.peer_takes_repair());
        let parity = ParitySender::new(now, self.config.repair_symbols && self.keyring.peer_takes_parity());
        let path = (mtu, self.wire_overhead());
        self.session = Some(Session::new(now, even, path, self.config.rate, handshake_rtt, (tail, repair, parity)));
        self.heard = now;
        self.silent = false;
        self.initiate_at = None;
        self.events.push_back(Event::Up);
    }

    fn end_session(&mut self, reason: DownReason) {
        if let Some(session) = self.session.take() {
            self.counters.ended += session.counters();
            let mtu = session.path_mtu().1;
            self.counters.mtu_ended.probes += mtu.probes;
            self.counters.mtu_ended.black_holes += mtu.black_holes;
            self.events.push_back(Event::Down(reason));
        }
        self.silent = false;
    }

    fn on_heard(&mut self, now: Instant) {
        if now - self.heard >= DOUBT_AFTER && self.keyring.rekey_at().is_none_or(|at| at > now) {
            self.initiate_at = None;
        }
        self.heard = now;
        if std::mem::take(&mut self.silent) {
            self.initiate_at = None;
            self.events.push_back(Event::Up);
        }
    }

    // --- time ---

    /// Does what was due at or before `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let Some(session) = &mut self.session {
            session.on_timeout(now);
            if !self.silent && now - self.heard >= SILENCE_MAX {
                self.silent = true;
                self.events.push_back(Event::Down(DownReason::Silent));
            }
        }
        if self.route.on_timeout(now) {
            self.restrict_session();
        }
        // Silence of the peer: it may have started anew without our noticing.
        if self.doubt_at().is_some_and(|at| at <= now) {
            self.initiate_at = self.route.address().map(|_| now);
        }
        let rekey = !self.silent && self.keyring.rekey_at().is_some_and(|at| at <= now);
        if rekey && self.initiate_at.is_none() {
            self.initiate_at = Some(now);
        }
        if self.initiate_at.is_some_and(|at| at <= now) {
            self.initiate(now);
        }
    }

    fn initiate(&mut self, now: Instant) {
        let Some(address) = self.route.initiation_address(self.attempts) else {
            self.initiate_at = None;
            return;
        };
        self.attempts = self.attempts.wrapping_add(1);
        let jitter = self.keyring.rng().next_u64() % (INITIATION_RETRY.as_nanos() as u64 / 2);
        self.initiate_at = Some(now + INITIATION_RETRY + Duration::from_nanos(jitter));
        self.initiated = Some(now);
        self.handshakes.retain(|(_, datagram)| datagram.first() != Some(&1));
        let mut datagram = Vec::new();
        self.keyring.initiate(now, &mut datagram);
        self.handshakes.push_back((address, datagram));
    }

    /// When the peer's silence begins to mean something.
    fn doubt_at(&self) -> Option<Instant> {
        (self.session.is_some() && self.initiate_at.is_none()).then(|| self.heard + DOUBT_AFTER)
    }

    /// When [`Channel::handle_timeout`] or [`Channel::poll_transmit`] has work next, if nothing arrives before. A
    /// moment in the past means: now.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let handshake = (!self.handshakes.is_empty() || self.doorkeeper.has_cookies()).then_some(Instant::ZERO);
        let silence = (self.session.is_some() && !self.silent).then(|| self.heard + SILENCE_MAX);
        let rekey = if self.silent || self.initiate_at.is_some() { None } else { self.keyring.rekey_at() };
        let session = self.session.as_ref().filter(|_| self.route.may_send()).and_then(Session::poll_timeout);
        let route = self.route.poll_timeout();
        [handshake, silence, rekey, session, route, self.doubt_at(), self.initiate_at].into_iter().flatten().min()
    }

    // --- what leaves ---

    /// Appends the next datagrams that may leave at `now` to `out`; `None` when nothing may.
    pub fn poll_transmit(&mut self, now: Instant, out: &mut Vec<u8>) -> Option<Transmit> {
        if let Some((destination, datagram)) = self.handshakes.pop_front().or_else(|| self.doorkeeper.poll_cookie()) {
            out.extend_from_slice(&datagram);
            self.note_sent(1, datagram.len());
            return Some(Transmit { destination, segment_size: datagram.len(), len: datagram.len() });
        }
        let destination = self.route.address()?;
        if !self.keyring.can_seal() || !self.route.may_send() {
            return None;
        }
        let session = self.session.as_mut()?;
        let start = out.len();
        out.resize(start + wire::SEALED_HEADER_LEN, 0);
        if let Some(payload) = session.poll_mtu_payload(now, out) {
            out.resize(out.len() + TAG_LEN, 0);
            self.keyring.seal(payload.number, &mut out[start..]);
            let len = out.len() - start;
            self.note_sent(1, len);
            self.route.on_sent(len);
            return Some(Transmit { destination, segment_size: len, len });
        }
        out.truncate(start);
        let mut segment_size = 0;
        let mut count = 0;
        while count < BATCH_MAX {
            let datagram_start = out.len();
            out.resize(datagram_start + wire::SEALED_HEADER_LEN, 0);
            let Some(payload) = session.poll_payload(now, count == 0, out) else {
                out.truncate(datagram_start);
                break;
            };
            out.resize(out.len() + TAG_LEN, 0);
            self.keyring.seal(payload.number, &mut out[datagram_start..]);
            count += 1;
            let len = out.len() - datagram_start;
            if count == 1 {
                segment_size = len;
            }
            // Segmentation offload wants equal lengths; a shorter one ends the batch. A longer one cannot follow a
            // short one, because the first short one ends it too.
            if len < segment_size || !session.fills(len) {
                break;
            }
        }
        if count == 0 {
            return None;
        }
        let len = out.len() - start;
        self.note_sent(count, len);
        self.route.on_sent(len);
        Some(Transmit { destination, segment_size, len })
    }

    fn note_sent(&mut self, count: usize, len: usize) {
        self.counters.datagrams_sent += count as u64;
        self.counters.bytes_sent += (len + count * self.header_bytes()) as u64;
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        if let Some(event) = self.events.pop_front() {
            return Some(event);
        }
        self.session.as_mut()?.streams.poll_event()
    }

    // --- streams ---

    /// Whether new streams can be opened: there is a session, and the peer is not silent.
    pub fn is_up(&self) -> bool {
        self.session.is_some() && !self.silent
    }

    /// Opens a stream; the peer learns of it with its first bytes. `None` when not up or at the limit.
    pub fn open(&mut self) -> Option<StreamId> {
        if !self.is_up() {
            return None;
        }
        self.session.as_mut()?.streams.open()
    }

    /// How much of the line our direction of a stream gets while others want it too; each begins with the default weight.
    pub fn set_weight(&mut self, id: StreamId, weight: Weight) {
        if let Some(session) = &mut self.session {
            session.streams.set_weight(id, weight);
        }
    }

    /// How many bytes [`Channel::write`] would take now: bounded by the backlog limit (2 x BDP or 150 ms of the
    /// delivery rate, but no more than leaves the session within 3 BDP + 8 MiB of memory; shared by the active streams by
    /// weight) and the peer's credit. Zero for a stream that is gone.
    pub fn writable(&self, id: StreamId) -> usize {
        self.session.as_ref().map_or(0, |session| session.streams.writable(id) as usize)
    }

    /// Queues bytes and returns how many were taken. If fewer than offered, an [`Event::Writable`] follows.
    pub fn write(&mut self, id: StreamId, bytes: &[u8]) -> usize {
        self.session.as_mut().map_or(0, |session| session.streams.write(id, bytes))
    }

    /// Bytes of our direction that the far end has consumed, as far as is known here.
    pub fn consumed(&self, id: StreamId) -> u64 {
        self.session.as_ref().map_or(0, |session| session.streams.consumed_of(id))
    }

    /// An [`Event::Writable`] follows as soon as [`Channel::consumed`] is at least `offset`.
    pub fn wake_when_consumed(&mut self, id: StreamId, offset: u64) {
        if let Some(session) = &mut self.session {
            session.streams.wake_when_consumed(id, offset);
        }
    }

    /// Bytes of all streams that wait to be sent a first time.
    pub fn unsent(&self) -> ByteCount {
        ByteCount::new(self.session.as_ref().map_or(0, |session| session.streams.unsent()))
    }

    /// No more bytes will be written in our direction.
    pub fn finish(&mut self, id: StreamId) {
        if let Some(session) = &mut self.session {
            session.streams.finish(id);
        }
    }

    /// Ends both directions at once and forgets the stream.
    pub fn reset(&mut self, id: StreamId, code: ResetCode) {
        if let Some(session) = &mut self.session {
            session.streams.reset(id, code);
        }
    }

    /// Copies the next in-order bytes that have arrived into `out` without consuming them (up to `out.len()`).
    pub fn peek(&self, id: StreamId, out: &mut [u8]) -> usize {
        self.session.as_ref().map_or(0, |session| session.streams.peek(id, out))
    }

    /// The next `len` in-order bytes where they lie, in at most two pieces; fewer if fewer have arrived, or if it is more
    /// than 128 KiB.
    pub fn peek_slices(&self, id: StreamId, len: usize) -> (&[u8], &[u8]) {
        self.session.as_ref().map_or((&[], &[]), |session| session.streams.peek_slices(id, len))
    }

    /// In-order bytes that wait to be consumed.
    pub fn readable(&self, id: StreamId) -> usize {
        self.session.as_ref().map_or(0, |session| session.streams.readable(id))
    }

    /// Whether nothing will follow the bytes that wait to be consumed: the peer has finished this direction and all of it
    /// is here, or the stream is gone.
    pub fn is_ended(&self, id: StreamId) -> bool {
        self.session.as_ref().is_none_or(|session| session.streams.is_ended(id))
    }

    /// Consumes `len` in-order bytes, which returns their credit to the peer, and says whether the direction ended.
    pub fn consume(&mut self, id: StreamId, len: usize) -> ReadState {
        match &mut self.session {
            Some(session) => session.streams.consume(id, len),
            None => ReadState::Finished,
        }
    }

    /// Tells the peer goodbye (best effort, a few copies leave with the next [`Channel::poll_transmit`]s).
    pub fn close(&mut self) {
        if let Some(session) = &mut self.session {
            session.close(CLOSE_COPIES);
        }
    }

    // --- gauges ---

    /// The rate the relay should size its blocks by: what we pace at.
    pub fn pacing_rate(&self) -> BitRate {
        self.session.as_ref().map_or(BitRate::ZERO, |session| session.law().pacing_rate())
    }

    /// What the path is believed to deliver: without the gains by which the pacing rate looks for more or makes room.
    pub fn delivery_rate(&self) -> BitRate {
        self.session.as_ref().map_or(BitRate::ZERO, |session| session.law().delivery_rate())
    }

    /// Smoothed RTT, or what it is taken for before the first measurement; zero without a session.
    pub fn srtt(&self) -> Duration {
        self.session.as_ref().map_or(Duration::ZERO, |session| session.rtt().srtt())
    }

    /// The state of the channel.
    pub fn state(&self) -> ChannelState {
        match (&self.session, self.silent) {
            (None, _) => ChannelState::Connecting,
            (Some(_), false) => ChannelState::Up,
            (Some(_), true) => ChannelState::Silent,
        }
    }
}
