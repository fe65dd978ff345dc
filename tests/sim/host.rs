//! A host: an ordinary TCP/IP stack (smoltcp) behind an Ethernet device, and applications that follow a script.

use std::collections::VecDeque;
use std::net::IpAddr;

use longhaul::units::{ByteCount, Instant};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{RecvError, Socket, SocketBuffer, State};
use smoltcp::time::Instant as StackInstant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr, IpEndpoint, IpListenEndpoint};

use crate::identity::End;
use crate::kernel;
use crate::offload::{self, TcpLayout};
use crate::pattern::Pattern;
use crate::script::{Connection, Seen};

/// The first client port; connection `i` of a script uses this + `i`, which is how a server knows it.
const FIRST_CLIENT_PORT: u16 = 40_000;
/// No receive window in the simulator is smaller when a connection begins.
const WINDOW_MIN: u64 = 60_000;
/// What a reader of limited speed takes at once.
const READ_LEN: usize = 64 * 1024;
/// Bytes of an Ethernet header.
const ETHERNET_HEADER_LEN: usize = 14;

/// How a host is built.
#[derive(Clone, Debug)]
pub struct HostSpec {
    /// Largest IP packet of its device.
    pub mtu: usize,
    /// Socket buffer, each way (ESX 4.x: about 0.5 MB).
    pub buffer: usize,
    /// Its frames carry this VLAN tag (TCI).
    pub vlan: Option<u16>,
    /// Its device segments and completes checksums, so that super-segments appear on the TAP.
    pub offload: bool,
    /// IPv6 instead of IPv4.
    pub v6: bool,
    /// Segments to these ports vanish, as behind a firewall.
    pub filtered_ports: Vec<u16>,
}

impl Default for HostSpec {
    fn default() -> Self {
        HostSpec { mtu: 1500, buffer: 512 * 1024, vlan: None, offload: true, v6: false, filtered_ports: Vec::new() }
    }
}

/// The network device: plain frames in, plain frames out.
#[derive(Debug)]
struct Nic {
    incoming: VecDeque<Vec<u8>>,
    outgoing: Vec<Vec<u8>>,
    spare: Vec<Vec<u8>>,
    capabilities: DeviceCapabilities,
}

struct Received<'a>(Vec<u8>, &'a mut Vec<Vec<u8>>);

impl RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        let result = f(&self.0);
        self.1.push(self.0);
        result
    }
}

struct Sending<'a>(Vec<u8>, &'a mut Vec<Vec<u8>>);

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(mut self, len: usize, f: F) -> R {
        self.0.clear();
        self.0.resize(len, 0);
        let result = f(&mut self.0);
        self.1.push(self.0);
        result
    }
}

impl Device for Nic {
    type RxToken<'a> = Received<'a>;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _now: StackInstant) -> Option<(Received<'_>, Sending<'_>)> {
        let frame = self.incoming.pop_front()?;
        let answer = self.spare.pop().unwrap_or_default();
        Some((Received(frame, &mut self.spare), Sending(answer, &mut self.outgoing)))
    }

    fn transmit(&mut self, _now: StackInstant) -> Option<Sending<'_>> {
        let frame = self.spare.pop().unwrap_or_default();
        Some(Sending(frame, &mut self.outgoing))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        self.capabilities.clone()
    }
}

/// One end of one connection of the script.
#[derive(Debug)]
struct Talk {
    plan: Connection,
    index: u16,
    socket: Option<SocketHandle>,
    outgoing: Pattern,
    incoming: Pattern,
    resting_until: Option<Instant>,
    rests_taken: usize,
    /// A bare acknowledgement with the numbers last sent.
    last_ack: Vec<u8>,
    seen: Seen,
}

/// The host.
pub struct Host {
    end: End,
    spec: HostSpec,
    interface: Interface,
    sockets: SocketSet<'static>,
    nic: Nic,
    talks: Vec<Talk>,
    scratch: Vec<u8>,
}

impl Host {
    /// The host of `end`, with its share of the script.
    pub fn new(end: End, spec: HostSpec, script: &[Connection], seed: u64) -> Self {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = spec.mtu + ETHERNET_HEADER_LEN;
        capabilities.checksum = ChecksumCapabilities::default();
        if spec.offload {
            capabilities.checksum.tcp = Checksum::Rx;
        }
        let mut nic = Nic { incoming: VecDeque::new(), outgoing: Vec::new(), spare: Vec::new(), capabilities };
        let mut config = Config::new(HardwareAddress::Ethernet(mac(end)));
        config.random_seed = seed.wrapping_mul(2) + end.index() as u64;
        let mut interface = Interface::new(config, &mut nic, StackInstant::ZERO);
        interface.update_ip_addrs(|addresses| {
            let prefix = if spec.v6 { 64 } else { 24 };
            addresses.push(IpCidr::new(address(end, spec.v6).into(), prefix)).expect("a first address fits");
        });
        let mut host = Host {
            end,
            interface,
            sockets: SocketSet::new(Vec::new()),
            nic,
            talks: Vec::new(),
            scratch: Vec::new(),
            spec,
        };
        for (index, plan) in script.iter().enumerate() {
            host.add(index as u16, plan.clone(), seed);
        }
        host
    }

    fn add(&mut self, index: u16, plan: Connection, seed: u64) {
        let pattern =
            |writer: End| Pattern::new(seed ^ (u64::from(index) << 40) ^ ((writer.index() as u64) << 60), plan.content);
        let (outgoing, incoming) = (pattern(self.end), pattern(self.end.other()));
        self.talks.push(Talk {
            plan,
            index,
            socket: None,
            outgoing,
            incoming,
            resting_until: None,
            rests_taken: 0,
            last_ack: Vec::new(),
            seen: Seen::default(),
        });
    }

    /// What this end of connection `index` has seen.
    pub fn seen(&self, index: usize) -> &Seen {
        &self.talks[index].seen
    }

    /// Bytes that both ends of all connections have received here.
    pub fn received(&self) -> u64 {
        self.talks.iter().map(|talk| talk.seen.received).sum()
    }

    /// Whether some reader rests at `now`.
    pub fn is_resting(&self, now: Instant) -> bool {
        self.talks.iter().any(|talk| !talk.seen.is_over() && talk.resting_until.is_some_and(|until| now < until))
    }

    /// Takes a frame from the LAN.
    pub fn handle_frame(&mut self, frame: &[u8]) {
        let mut opening = None;
        let Host { end, nic, scratch, spec, .. } = self;
        offload::to_wire(frame, scratch, |ethernet| {
            let mut plain = nic.spare.pop().unwrap_or_default();
            plain.clear();
            plain.extend_from_slice(ethernet);
            if spec.vlan.is_some_and(|tci| !offload::untag(&mut plain, tci & 0xfff)) || spec.filters(&plain) {
                nic.spare.push(plain);
                return;
            }
            let (mac, address) = (mac(*end), address(*end, spec.v6));
            let answer = kernel::arp_probe_reply(&plain, mac, address);
            if let Some(answer) = answer.or_else(|| kernel::address_detection_reply(&plain, mac, address)) {
                nic.outgoing.push(answer);
            }
            opening = TcpLayout::of(&plain).filter(|tcp| tcp.is_syn(&plain)).map(|tcp| tcp.ports(&plain));
            nic.incoming.push_back(plain);
        });
        if let Some((src_port, dst_port)) = opening {
            self.on_syn(src_port, dst_port);
        }
    }

    /// Lets stack and applications act, and hands the frames that leave (as on a TAP) to `emit`.
    pub fn poll(&mut self, now: Instant, emit: &mut dyn FnMut(&[u8])) {
        let stack_now = StackInstant::from_micros(now.as_micros() as i64);
        // Applications can only act on what the stack has done, and the other way round.
        loop {
            self.interface.poll(stack_now, &mut self.nic, &mut self.sockets);
            if !self.run_applications(now) {
                break;
            }
        }
        self.emit_frames(emit);
    }

    /// When [`Host::poll`] has work next, if nothing arrives before.
    pub fn poll_timeout(&mut self, now: Instant) -> Option<Instant> {
        let stack_now = StackInstant::from_micros(now.as_micros() as i64);
        let stack = self.interface.poll_at(stack_now, &self.sockets);
        // The stack's clock has microseconds: what is due "now" is due at its next tick.
        let stack = stack.map(|at| Instant::from_micros(at.total_micros().max(stack_now.total_micros() + 1) as u64));
        let openings = self.talks.iter().filter(|talk| talk.plan.client == self.end && talk.socket.is_none());
        let openings = openings.filter(|talk| !talk.seen.is_over()).map(|talk| Instant::ZERO + talk.plan.opens_at);
        let rests = self.talks.iter().filter(|talk| !talk.seen.is_over()).filter_map(|talk| talk.resting_until);
        stack.into_iter().chain(openings).chain(rests).min()
    }

    fn emit_frames(&mut self, emit: &mut dyn FnMut(&[u8])) {
        let Host { end, nic, spec, scratch, talks, .. } = self;
        scratch.clear();
        for mut ethernet in nic.outgoing.drain(..) {
            if let Some(tcp) = TcpLayout::of(&ethernet) {
                let (src, dst) = tcp.ports(&ethernet);
                let index = |port: u16| usize::from(port.wrapping_sub(FIRST_CLIENT_PORT));
                let mut candidates = [(index(src), true), (index(dst), false)].into_iter();
                let ours = candidates
                    .find(|(at, opens)| talks.get(*at).is_some_and(|talk| (talk.plan.client == *end) == *opens));
                if let Some((at, _)) = ours {
                    tcp.keep_ack(&ethernet, &mut talks[at].last_ack);
                }
            }
            if let Some(tci) = spec.vlan {
                offload::tag(&mut ethernet, tci);
            }
            if !(spec.offload && !scratch.is_empty() && offload::merge(scratch, &ethernet)) {
                if !scratch.is_empty() {
                    emit(scratch);
                }
                let as_frame = if spec.offload { offload::as_partial } else { offload::as_complete };
                as_frame(&ethernet, scratch);
            }
            nic.spare.push(ethernet);
        }
        if !scratch.is_empty() {
            emit(scratch);
        }
    }

    /// One turn of every application; whether any did something the stack has to know.
    fn run_applications(&mut self, now: Instant) -> bool {
        let mut acted = false;
        let (end, v6) = (self.end, self.spec.v6);
        for at in 0..self.talks.len() {
            let talk = &self.talks[at];
            if talk.seen.is_over() {
                continue;
            }
            if talk.socket.is_none() && talk.plan.client == end && now >= Instant::ZERO + talk.plan.opens_at {
                let remote = IpEndpoint::new(address(end.other(), v6).into(), talk.plan.port);
                let local_port = FIRST_CLIENT_PORT + talk.index;
                let mut socket = new_socket(self.spec.buffer);
                socket.connect(self.interface.context(), remote, local_port).expect("a new socket can connect");
                self.talks[at].socket = Some(self.sockets.add(socket));
                acted = true;
            }
            let talk = &mut self.talks[at];
            if let Some(handle) = talk.socket {
                acted |= talk.run(end, now, self.sockets.get_mut::<Socket>(handle));
            }
        }
        acted
    }

    /// A connection is being opened: whoever is to serve it begins to listen, for this one SYN.
    ///
    /// A listening socket would take any SYN to its port, also the repetition of one that another socket has answered.
    fn on_syn(&mut self, src_port: u16, dst_port: u16) {
        let end = self.end;
        if let Some(talk) = dst_port.checked_sub(FIRST_CLIENT_PORT).and_then(|at| self.talks.get(usize::from(at)))
            && talk.plan.client == end
        {
            // To a connection of our own: a challenge ACK (RFC 5961 section 4.2).
            if talk.seen.connected_at.is_some() && talk.seen.reset_at.is_none() {
                self.nic.outgoing.push(talk.last_ack.clone());
            }
            return;
        }
        let (client_port, server_port) = (src_port, dst_port);
        let index = usize::from(client_port.wrapping_sub(FIRST_CLIENT_PORT));
        let Some(talk) = self.talks.get_mut(index) else { return };
        if talk.plan.client == end || talk.plan.port != server_port || !talk.plan.listening {
            return;
        }
        if let Some(handle) = talk.socket {
            match self.sockets.get::<Socket>(handle).state() {
                State::Closed if talk.seen.received == 0 => {}
                State::Closed | State::Listen | State::SynReceived => return,
                // A challenge ACK, as above.
                _ => return self.nic.outgoing.push(talk.last_ack.clone()),
            }
            // Reset before it was used, and opened again: another life of the same addresses.
            self.sockets.remove(handle);
            talk.seen = Seen::default();
        }
        let mut socket = new_socket(self.spec.buffer);
        socket.listen(IpListenEndpoint { addr: None, port: server_port }).expect("a new socket can listen");
        talk.socket = Some(self.sockets.add(socket));
    }
}

fn new_socket(buffer: usize) -> Socket<'static> {
    let ring = || SocketBuffer::new(vec![0; buffer]);
    Socket::new(ring(), ring())
}

impl HostSpec {
    fn filters(&self, ethernet: &[u8]) -> bool {
        !self.filtered_ports.is_empty()
            && TcpLayout::of(ethernet).is_some_and(|layout| self.filtered_ports.contains(&layout.ports(ethernet).1))
    }
}

impl Talk {
    /// One turn; whether it did something the stack has to know.
    fn run(&mut self, end: End, now: Instant, socket: &mut Socket<'_>) -> bool {
        let at = now - Instant::ZERO;
        let state = socket.state();
        let to_send = self.plan.bytes[end.index()];
        let mut acted = false;
        if state == State::Listen {
            // Its SYN was reset before the handshake was over (or was damaged): nobody listens on.
            socket.abort();
            self.seen.reset_at = Some(at);
            return false;
        }
        if self.seen.connected_at.is_none() && !matches!(state, State::SynSent | State::SynReceived | State::Closed) {
            self.seen.connected_at = Some(at);
        }
        acted |= self.read(end, now, socket);
        if self.seen.connected_at.is_some() && state != State::Closed {
            acted |= self.write(end, now, socket);
        }
        if self.seen.acked_at.is_none() && self.seen.sent == to_send && self.seen.closed && socket.send_queue() == 0 {
            self.seen.acked_at = Some(at);
        }
        if socket.state() == State::Closed && !self.seen.is_over() {
            self.seen.reset_at = Some(at);
        }
        acted
    }

    fn read(&mut self, end: End, now: Instant, socket: &mut Socket<'_>) -> bool {
        let at = now - Instant::ZERO;
        let expected = self.plan.bytes[end.other().index()];
        let mut acted = false;
        loop {
            if self.resting_until.is_some_and(|until| now >= until) {
                self.resting_until = None;
            }
            let mut pauses = self.plan.pauses.iter().filter(|pause| pause.end == end).skip(self.rests_taken);
            if let Some(pause) = pauses.next()
                && self.seen.received >= pause.after
            {
                self.resting_until = Some(now + pause.lasts);
                self.rests_taken += 1;
            }
            if self.resting_until.is_some() {
                return acted;
            }
            let (pattern, position) = (self.incoming, self.seen.received);
            let rate = self.plan.reads_at.filter(|(who, _)| *who == end).map(|(_, rate)| rate);
            let taken = socket.recv(|bytes| {
                let bytes = if rate.is_some() { &bytes[..bytes.len().min(READ_LEN)] } else { bytes };
                if let Some(wrong) = pattern.first_difference(position, bytes) {
                    panic!("{end:?} at {at:?}: wrong byte at {wrong} of connection from {position}");
                }
                (bytes.len(), bytes.len())
            });
            match taken {
                Ok(0) => return acted,
                Ok(len) => {
                    acted = true;
                    assert!(self.seen.ended_at.is_none(), "{end:?}: bytes after the end");
                    self.seen.received += len as u64;
                    assert!(self.seen.received <= expected, "{end:?}: more bytes than were sent");
                    self.seen.last_received_at = Some(at);
                    self.resting_until = rate.map(|rate| now + rate.time_for(ByteCount::from(len)));
                }
                Err(RecvError::Finished) => {
                    if self.seen.ended_at.is_none() {
                        let received = self.seen.received;
                        assert_eq!(
                            received, expected,
                            "{end:?} at {at:?}: a clean end of connection {} before the last byte",
                            self.index
                        );
                        self.seen.ended_at = Some(at);
                    }
                    return acted;
                }
                Err(RecvError::InvalidState) => return acted,
            }
        }
    }

    fn write(&mut self, end: End, now: Instant, socket: &mut Socket<'_>) -> bool {
        if end != self.plan.client && self.plan.reply_after_end && self.seen.ended_at.is_none() {
            return false;
        }
        let abort_at = self.plan.abort.filter(|(who, _)| *who == end).map(|(_, after)| after);
        let to_send = self.plan.bytes[end.index()];
        let mut acted = false;
        while self.seen.sent < to_send && socket.can_send() {
            let (pattern, position) = (self.outgoing, self.seen.sent);
            let limit = usize::try_from(to_send - position).unwrap_or(usize::MAX);
            let taken = socket.send(|room| {
                let len = room.len().min(limit);
                pattern.fill(position, &mut room[..len]);
                (len, len)
            });
            self.seen.sent += taken.expect("a socket that can send") as u64;
            acted = true;
            if abort_at.is_some_and(|after| self.seen.sent >= after) {
                socket.abort();
                self.seen.reset_at = Some(now - Instant::ZERO);
                return true;
            }
        }
        // Who has nothing to say listens to the end first, unless both or the script say otherwise.
        let is_asked = end == self.plan.client && self.plan.reply_after_end;
        let speaks_later = self.plan.bytes[end.other().index()] > 0;
        let listens = to_send == 0 && speaks_later && !self.plan.closes_early && !is_asked;
        let ready = self.seen.sent == to_send && (!listens || self.seen.ended_at.is_some());
        // smoltcp lets a FIN go although the window is full and then repeats it only after a timeout; kernels wait for
        // room. Small transfers fit any window, so their FIN may ride on their last segment.
        let ready = ready && (to_send <= WINDOW_MIN || socket.send_queue() == 0);
        if ready && !self.seen.closed && socket.may_send() {
            socket.close();
            self.seen.closed = true;
            acted = true;
        }
        acted
    }
}

fn mac(end: End) -> EthernetAddress {
    EthernetAddress([2, 0, 0, 0, 0, end.index() as u8 + 1])
}

/// The address of a host.
pub fn address(end: End, v6: bool) -> IpAddr {
    let last = end.index() as u8 + 1;
    if v6 { IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(last)]) } else { IpAddr::from([10, 0, 0, last]) }
}
