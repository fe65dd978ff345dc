//! One TCP connection to a host: smoltcp's socket, guarded on both sides.

use std::fmt;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{self, State};
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, IpEndpoint, IpListenEndpoint};

use super::device::{Card, Egress, FRAMES_MAX};
use super::host_packet::HostPackets;
use super::input::MSS_MIN;
use super::recovery::Recovery;
use super::sequence::Sequence;
use super::{EndpointConfig, EndpointState, EndpointStats};
use crate::buffer::{FrameBuf, FramePool};
use crate::frame::{FlowKey, L2Header, TcpSegment, VlanIds, bare_rst};
use crate::units::Instant;

/// Largest buffer: smoltcp refuses more than 1 GiB, window scaling ends there (RFC 7323 section 2.3).
const BUFFER_MAX: usize = (1 << 30) - 1;

/// A host that answers no SYN for this long is not there (RFC 9293 section 3.8.3 asks for at least 3 minutes for a
/// user's SYN; the user's own stack keeps that time here, since its SYN is held).
const OPEN_TIMEOUT: Duration = Duration::from_secs(75);

/// A host that acknowledges nothing for this long is gone (RFC 9293 section 3.8.3, R2: at least 100 s).
const SILENCE_LIMIT: Duration = Duration::from_secs(100);

/// When smoltcp still says "now" right after a poll, it is asked again after this.
const IDLE_RETRY: Duration = Duration::from_millis(10);

/// One TCP connection to a host, ours end to end.
pub struct Endpoint {
    /// Direction host to us.
    pub(super) key: FlowKey,
    /// `None` after a panic, or when the connection could not be built.
    pub(super) stack: Option<Stack>,
    /// smoltcp's state after the last call.
    pub(super) socket_state: State,
    pub(super) egress: Egress,
    pub(super) host_packets: HostPackets,
    pub(super) recovery: Recovery,
    /// How the connection ended.
    pub(super) ended: Option<EndpointState>,
    /// Bytes read, modulo 2^32.
    read: u32,
    pub(super) fin_received: bool,
    finish_requested: bool,
    /// Window field of the last segment taken.
    pub(super) host_window: u16,
    /// Something happened since the last poll.
    is_due: bool,
    opened_at: Instant,
    polled_at: Instant,
    heard_at: Instant,
    /// Since when the host owes us an answer.
    awaiting_since: Option<Instant>,
    silence_limit: Option<Duration>,
    keeps_alive: bool,
    panics: u64,
}

pub(super) struct Stack {
    pub(super) interface: Interface,
    pub(super) sockets: SocketSet<'static>,
    handle: SocketHandle,
}

impl Stack {
    pub(super) fn socket(&self) -> &tcp::Socket<'static> {
        self.sockets.get(self.handle)
    }

    fn socket_mut(&mut self) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(self.handle)
    }
}

impl Endpoint {
    /// Whether an endpoint can be built for a flow with this key; what is not suitable ends in
    /// [`EndpointState::Reset`] at once.
    pub fn is_suitable(key: &FlowKey) -> bool {
        key.is_terminable()
    }

    /// The near side: `syn` is the IP packet of the host's SYN; the SYN-ACK leaves with the next poll.
    pub fn accept(config: EndpointConfig, now: Instant, syn: &[u8]) -> Self {
        let mut endpoint = Endpoint::build(config, now);
        let local = IpListenEndpoint::from(config.local);
        // Fails for port 0 only, which is not suitable; then there is no stack.
        endpoint.run(now, |stack, _| stack.socket_mut().listen(local).is_ok());
        endpoint.socket_state = State::Listen;
        endpoint.handle_segment(now, syn);
        endpoint
    }

    /// The far side: connects to `config.remote` as `config.local`. The SYN leaves with the next poll.
    pub fn connect(config: EndpointConfig, now: Instant) -> Self {
        let mut endpoint = Endpoint::build(config, now);
        let (local, remote) = (IpEndpoint::from(config.local), IpEndpoint::from(config.remote));
        endpoint.run(now, |stack, _| {
            let Stack { interface, sockets, handle } = stack;
            sockets.get_mut::<tcp::Socket>(*handle).connect(interface.context(), remote, local).is_ok()
        });
        endpoint.socket_state = State::SynSent;
        endpoint.settle();
        endpoint
    }

    fn build(config: EndpointConfig, now: Instant) -> Self {
        let key = FlowKey { vlans: VlanIds::default(), src: config.remote, dst: config.local };
        let mut egress = Egress {
            l2: config.l2,
            mss_announced: config.mss,
            mss: config.mss.max(MSS_MIN),
            frames: Vec::new(),
            sequence: Sequence::default(),
        };
        let stack = Endpoint::is_suitable(&key).then(|| build_stack(&config, now, &mut egress));
        Endpoint {
            key,
            ended: stack.is_none().then_some(EndpointState::Reset),
            stack,
            socket_state: State::Closed,
            egress,
            host_packets: HostPackets::new(&key),
            recovery: Recovery::default(),
            read: 0,
            fin_received: false,
            finish_requested: false,
            host_window: 0,
            is_due: true,
            opened_at: now,
            polled_at: Instant::ZERO,
            heard_at: now,
            awaiting_since: None,
            silence_limit: Some(SILENCE_LIMIT),
            keeps_alive: false,
            panics: 0,
        }
    }

    /// Calls `f` on the stack. A panic inside ends the connection with a reset.
    pub(super) fn run<R>(&mut self, now: Instant, f: impl FnOnce(&mut Stack, &mut Egress) -> R) -> Option<R> {
        let (stack, egress) = (self.stack.as_mut()?, &mut self.egress);
        if let Ok(result) = catch_unwind(AssertUnwindSafe(|| f(stack, egress))) {
            return Some(result);
        }
        self.panics += 1;
        self.stack = None;
        self.ended = Some(EndpointState::Reset);
        self.heard_at = now;
        self.is_due = true;
        if let Some(seq) = self.egress.sequence.snd_max {
            let mut rst = FrameBuf::with_headroom();
            let ack = self.egress.sequence.irs.map(|_| self.egress.sequence.acked);
            bare_rst(&mut rst, &self.egress.l2, &self.key.reversed(), seq, ack);
            self.egress.frames.push(rst);
        }
        None
    }

    /// The next sequence number we expect of the host; `None` before its SYN.
    pub(super) fn rcv_nxt(&self) -> Option<u32> {
        let behind_syn = self.egress.sequence.irs?.wrapping_add(1).wrapping_add(self.read);
        Some(behind_syn.wrapping_add(self.readable() as u32).wrapping_add(u32::from(self.fin_received)))
    }

    /// Takes one TCP segment (an IP packet, up to a super-segment) whose checksum is known to be good.
    /// Frames that are due leave with the next [`Endpoint::poll`]. Packets of other flows are ignored.
    pub fn handle_segment(&mut self, now: Instant, ip_packet: &[u8]) {
        let Ok(segment) = TcpSegment::parse(ip_packet) else { return self.settle() };
        if (segment.key.src, segment.key.dst) == (self.key.src, self.key.dst) {
            self.heard_at = now;
            self.is_due = true;
            match self.socket_state {
                State::Listen if segment.flags.opens() => self.on_syn(now, &segment),
                State::SynSent if segment.flags.syn() => self.on_syn(now, &segment),
                // A duplicate of the SYN that we are answering.
                State::SynReceived if segment.flags.opens() => {}
                // Our SYN-ACK has not left yet: nothing can acknowledge it.
                State::SynReceived if self.egress.sequence.snd_max.is_none() && !segment.flags.rst() => {}
                State::Listen | State::SynSent | State::Closed => self.feed(now, segment.ip_packet),
                _ => self.on_synchronized(now, &segment),
            }
        }
        self.settle();
    }

    /// Draws the conclusions from what smoltcp has just done.
    fn settle(&mut self) {
        let Some(stack) = self.stack.as_mut() else { return };
        let socket = stack.socket_mut();
        let state = socket.state();
        if matches!(state, State::CloseWait | State::LastAck | State::Closing | State::TimeWait) {
            self.fin_received = true;
        }
        // smoltcp's close() before the handshake is complete would forget the SYN-ACK or the SYN. And in LAST-ACK it
        // counts no duplicate ACKs, so that a loss would cost a timeout: our FIN waits until the data has arrived.
        let may_close = state == State::Established || (state == State::CloseWait && socket.send_queue() == 0);
        if self.finish_requested && may_close {
            socket.close();
            self.is_due = true;
        }
        if matches!(state, State::Closed | State::Listen) && self.ended.is_none() {
            let in_order = matches!(self.socket_state, State::TimeWait)
                || (self.socket_state == State::LastAck && !self.egress.sequence.is_in_flight());
            self.ended = Some(if in_order { EndpointState::Closed } else { EndpointState::Reset });
        }
        self.socket_state = socket.state();
    }

    /// Lets everything leave that is due: hands complete frames (virtio-net header, Ethernet, VLANs, IP) to `emit`.
    pub fn poll(&mut self, now: Instant, pool: &mut FramePool, emit: &mut dyn FnMut(FrameBuf)) {
        self.expire(now);
        if self.retry_at().is_some_and(|at| at <= now) {
            let covers = self.retransmission_len();
            self.recovery.on_retry(self.egress.sequence.snd_una, covers);
            self.announce_loss(now);
        }
        let clock = self.stack_clock(now);
        let is_due = self.run(now, |stack, egress| {
            let Stack { interface, sockets, .. } = stack;
            let mut card = Card { received: None, egress, pool };
            for _ in 0..=FRAMES_MAX {
                if interface.poll_egress(stack_time(clock), &mut card, sockets) == PollResult::None {
                    break;
                }
            }
            card.egress.frames.len() >= FRAMES_MAX
        });
        self.is_due = is_due.unwrap_or(false);
        self.polled_at = now;
        self.settle();
        self.keep_probing_zero_window(now);
        if let Some(sent_to) = self.egress.sequence.snd_max.filter(|_| self.egress.sequence.is_in_flight()) {
            self.recovery.on_in_flight(now, sent_to);
        }
        let awaits = self.keeps_alive || self.egress.sequence.is_in_flight() || self.send_queue() > 0;
        self.awaiting_since = if awaits { self.awaiting_since.or(Some(now)) } else { None };
        self.egress.frames.drain(..).for_each(emit);
    }

    /// Ends what the host has left unanswered for too long.
    fn expire(&mut self, now: Instant) {
        if self.ended.is_none() && self.deadline().is_some_and(|at| at <= now) {
            self.ended = Some(EndpointState::TimedOut);
            self.run(now, |stack, _| stack.socket_mut().abort());
        }
    }

    /// When the host's patience with us, or ours with it, ends.
    fn deadline(&self) -> Option<Instant> {
        if self.ended.is_some() {
            return None;
        }
        match self.socket_state {
            State::Listen | State::SynSent | State::SynReceived => Some(self.opened_at + OPEN_TIMEOUT),
            State::TimeWait | State::Closed => None,
            _ => self.awaiting_since.zip(self.silence_limit).map(|(since, limit)| since.max(self.heard_at) + limit),
        }
    }

    /// When [`Endpoint::poll`] has work next if nothing happens before.
    pub fn poll_timeout(&mut self, now: Instant) -> Option<Instant> {
        if self.is_due || !self.egress.frames.is_empty() {
            return Some(now);
        }
        if self.holds_last_bytes() {
            return None;
        }
        let stack_at = self.run(now, |stack, _| {
            stack
                .interface
                .poll_at(stack_time(now), &stack.sockets)
                .map(|at| Instant::from_micros(at.total_micros() as u64))
        });
        // Right after a poll "now" means that smoltcp waits for something else.
        let stack_at = stack_at.flatten().map(|at| if at <= self.polled_at { self.polled_at + IDLE_RETRY } else { at });
        [stack_at, self.deadline(), self.retry_at()].into_iter().flatten().min()
    }

    /// Its state.
    pub fn state(&self) -> EndpointState {
        let closed_when_read = |closed: bool| {
            if closed && self.readable() == 0 { EndpointState::Closed } else { EndpointState::Open }
        };
        match (self.ended, self.socket_state) {
            (Some(EndpointState::Closed), _) => closed_when_read(true),
            (Some(ended), _) => ended,
            (None, State::Listen | State::SynSent | State::SynReceived) => EndpointState::Opening,
            // In TIME-WAIT only the acknowledgement of the host's FIN may still have to leave.
            (None, State::TimeWait) => closed_when_read(self.rcv_nxt() == Some(self.egress.sequence.acked)),
            (None, _) => EndpointState::Open,
        }
    }

    /// Received bytes not read yet.
    pub fn readable(&self) -> usize {
        self.stack.as_ref().map_or(0, |stack| stack.socket().recv_queue())
    }

    /// Calls `read` with contiguous received bytes (maybe fewer than [`Endpoint::readable`]); it says how many it took.
    /// `None`, without a call, when there are none.
    pub fn recv<R>(&mut self, read: impl FnOnce(&[u8]) -> (usize, R)) -> Option<R> {
        if self.readable() == 0 {
            return None;
        }
        let socket = self.stack.as_mut()?.socket_mut();
        let (taken, result) = socket
            .recv(|bytes| {
                let (taken, result) = read(bytes);
                let taken = taken.min(bytes.len());
                (taken, (taken, result))
            })
            .ok()?;
        self.read = self.read.wrapping_add(taken as u32);
        self.is_due = true;
        Some(result)
    }

    /// Whether the host has finished its direction and every byte of it has been read. Never after a panic of the stack,
    /// which took unread bytes with it.
    pub fn is_recv_finished(&self) -> bool {
        self.fin_received && self.stack.is_some() && self.readable() == 0
    }

    /// The time the stack sees when it is asked for what is due. In TIME-WAIT all that time does is to end it, and to
    /// discard what has not been read: until that has been, it stands still at the host's last segment.
    fn stack_clock(&self, now: Instant) -> Instant {
        if self.holds_last_bytes() { self.heard_at } else { now }
    }

    /// Whether both directions have ended in order and the host's last bytes have not been read.
    fn holds_last_bytes(&self) -> bool {
        self.socket_state == State::TimeWait && self.readable() > 0
    }

    /// Room in the send buffer; zero while [`EndpointState::Opening`] and after [`Endpoint::finish`].
    pub fn writable(&self) -> usize {
        let Some(stack) = self.stack.as_ref() else { return 0 };
        let socket = stack.socket();
        if socket.may_send() && !self.finish_requested { socket.send_capacity() - socket.send_queue() } else { 0 }
    }

    /// Bytes the host has not acknowledged yet.
    pub fn send_queue(&self) -> usize {
        self.stack.as_ref().map_or(0, |stack| stack.socket().send_queue())
    }

    /// Queues bytes for the host; returns how many were taken.
    pub fn send(&mut self, bytes: &[u8]) -> usize {
        let Some(stack) = self.stack.as_mut().filter(|_| !self.finish_requested) else { return 0 };
        let taken = stack.socket_mut().send_slice(bytes).unwrap_or(0);
        self.is_due |= taken > 0;
        taken
    }

    /// Lets `write` fill exactly `len` bytes at the end of the send buffer; an error of its leaves the buffer as it was.
    /// `None`, without a call, when so many do not fit there in one piece: then try [`Endpoint::send`].
    pub fn send_with<E>(
        &mut self,
        len: usize,
        write: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Option<Result<(), E>> {
        let stack = self.stack.as_mut().filter(|_| !self.finish_requested)?;
        let sent = stack.socket_mut().send(|room| match room.get_mut(..len) {
            None => (0, None),
            Some(room) => match write(room) {
                Ok(()) => (len, Some(Ok(()))),
                Err(error) => (0, Some(Err(error))),
            },
        });
        let result = sent.ok().flatten();
        self.is_due |= matches!(result, Some(Ok(())));
        result
    }

    /// FIN after everything queued. While [`EndpointState::Opening`] it waits for the handshake.
    pub fn finish(&mut self) {
        self.finish_requested = true;
        self.is_due = true;
        self.settle();
    }

    /// RST to the host with the next poll; [`EndpointState::Reset`] from now on. Nothing happens after the end.
    pub fn abort(&mut self) {
        if self.ended.is_some() || self.socket_state == State::TimeWait {
            return;
        }
        self.ended = Some(EndpointState::Reset);
        self.is_due = true;
        if let Some(stack) = self.stack.as_mut() {
            stack.socket_mut().abort();
            self.socket_state = State::Closed;
        }
    }

    /// From now on frames leave with this header (the last one seen from the host, reversed).
    pub fn set_l2(&mut self, l2: L2Header) {
        self.egress.l2 = l2;
    }

    /// Probes an idle host this often (RFC 9293 section 3.8.4), so that one that is gone is noticed after the silence
    /// limit; `None` (the default): never.
    pub fn set_keep_alive(&mut self, interval: Option<Duration>) {
        self.keeps_alive = interval.is_some();
        self.is_due = true;
        if let Some(stack) = self.stack.as_mut() {
            let interval = interval.map(|interval| smoltcp::time::Duration::from_micros(interval.as_micros() as u64));
            stack.socket_mut().set_keep_alive(interval);
        }
    }

    /// How long a host that owes us an answer (an acknowledgement, or one to a keep-alive) may stay silent before the
    /// connection is reset as [`EndpointState::TimedOut`]; `None`: forever. 100 s unless set.
    pub fn set_silence_limit(&mut self, limit: Option<Duration>) {
        self.silence_limit = limit;
    }

    /// Payload of one segment to the host.
    pub fn mss(&self) -> u16 {
        self.egress.mss
    }

    /// Counters.
    pub fn stats(&self) -> EndpointStats {
        EndpointStats { retransmissions: self.egress.sequence.retransmissions, panics: self.panics }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("key", &self.key.to_string())
            .field("state", &self.state())
            .field("readable", &self.readable())
            .field("send_queue", &self.send_queue())
            .finish_non_exhaustive()
    }
}

fn build_stack(config: &EndpointConfig, now: Instant, egress: &mut Egress) -> Stack {
    let mut interface_config = Config::new(HardwareAddress::Ip);
    interface_config.random_seed = config.seed;
    let mut card = Card { received: None, egress, pool: &mut FramePool::default() };
    let mut interface = Interface::new(interface_config, &mut card, stack_time(now));
    let address = IpAddress::from(config.local.ip());
    // Without a link layer smoltcp looks up no route: its own address alone is enough, on no subnet (whose broadcast
    // address it would refuse as the host's).
    let prefix_len = if matches!(config.local.ip(), IpAddr::V4(_)) { 32 } else { 128 };
    interface.update_ip_addrs(|addresses| {
        let _ = addresses.push(IpCidr::new(address, prefix_len));
    });
    // Zeroed allocations: untouched pages cost nothing.
    let buffer = |len: crate::units::ByteCount| tcp::SocketBuffer::new(vec![0; len.as_usize().clamp(1, BUFFER_MAX)]);
    let mut socket = tcp::Socket::new(buffer(config.receive_buffer), buffer(config.send_buffer));
    socket.set_ack_delay(None);
    socket.set_nagle_enabled(false);
    socket.set_congestion_control(tcp::CongestionControl::None);
    socket.set_hop_limit(Some(64));
    let mut sockets = SocketSet::new(Vec::with_capacity(1));
    let handle = sockets.add(socket);
    Stack { interface, sockets, handle }
}

pub(super) fn stack_time(now: Instant) -> smoltcp::time::Instant {
    smoltcp::time::Instant::from_micros(i64::try_from(now.as_micros()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Classified, classify};
    use crate::tcp::lan::{CONNECTING, Lan};

    #[test]
    fn a_panic_of_the_stack_ends_one_flow_with_a_reset() {
        let mut lan = Lan::v4();
        lan.open();
        let now = lan.now;
        let next = lan.syns[0].view().seq.wrapping_add(1);
        let endpoint = lan.end(CONNECTING);
        endpoint.fin_received = true;
        endpoint.run(now, |_, _| panic!("a test of the guard"));
        assert_eq!((endpoint.state(), endpoint.stats().panics), (EndpointState::Reset, 1));
        let mut frames = Vec::new();
        endpoint.poll(now, &mut FramePool::default(), &mut |frame| frames.push(frame));
        assert!(!endpoint.is_recv_finished());
        let Classified::Tcp(rst) = classify(&frames[0]) else { panic!("{frames:?}") };
        assert!(rst.flags.rst() && rst.seq == next);
        assert_eq!((endpoint.readable(), endpoint.writable(), endpoint.send(b"x")), (0, 0, 0));
        assert_eq!(endpoint.poll_timeout(now), None);
    }
}
