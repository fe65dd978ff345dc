//! Two channels whose addresses change, that start anew, and between whom strangers speak.
//!
//! A writes one endless stream, B reads it. Unlike [`crate::channel`] this rig knows addresses: a datagram to where nobody
//! is counts as stray, and anybody can put a datagram on a line.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use longhaul::channel::{Arrival, Channel, ChannelConfig, DownReason, Event, ReadState, StreamId};
use longhaul::units::{BitRate, ByteCount, Instant};
use longhaul::wan::Link;

use crate::agenda::Agenda;
use crate::identity::End;
use crate::path::{DATAGRAM_OVERHEAD, PathSpec};
use crate::pattern::{Content, Pattern};

/// Width of the bins in which delivered bytes are counted.
const BIN: Duration = Duration::from_millis(10);
const CHUNK: usize = 64 * 1024;
/// Bytes of a question, and of its answer.
pub const EXCHANGE: usize = 100;
/// Steps without time passing that mean a busy loop.
const STEPS_AT_ONE_MOMENT_MAX: u32 = 100_000;

/// A datagram under way.
#[derive(Clone, Debug)]
struct Delivery {
    to: End,
    from: SocketAddr,
    bytes: Vec<u8>,
}

/// Both ends, the lines between them, and what is under way.
pub struct Peering {
    /// Virtual time.
    pub now: Instant,
    channels: [Channel; 2],
    configs: [ChannelConfig; 2],
    starts: [u64; 2],
    addresses: [SocketAddr; 2],
    lines: [Link; 2],
    agenda: Agenda<Delivery>,
    writing: Option<(StreamId, u64)>,
    reading: BTreeMap<StreamId, u64>,
    /// Events of both ends that say that a session began or ended.
    pub lifecycle: Vec<(Duration, End, Event)>,
    /// Bytes sent to where nobody is.
    pub stray: BTreeMap<SocketAddr, u64>,
    bins: Vec<u64>,
    chunk: Vec<u8>,
    /// Whether A writes.
    pub writes: bool,
    /// A asks [`EXCHANGE`] bytes of B, again this long after each answer.
    pub asks_every: Option<Duration>,
    asked: Option<(StreamId, Option<Instant>, usize)>,
    asks_at: Instant,
    /// How long B's answers took.
    pub answers: Vec<Duration>,
    /// The last datagram each end sent, as it was on the line.
    pub last_sent: [Vec<u8>; 2],
}

impl Peering {
    /// Two ends that begin to connect. `change` adapts an end's configuration.
    pub fn new(path: &PathSpec, change: impl Fn(End, &mut ChannelConfig)) -> Self {
        let config = |end: End| {
            let mut config = end.channel_config(longhaul::channel::PathMtu::Discover { max: 1500 });
            change(end, &mut config);
            config
        };
        let configs = End::BOTH.map(config);
        let channel = |end: End| Channel::new(configs[end.index()].clone(), Instant::ZERO, end.seed(1, 0));
        let channels = End::BOTH.map(channel);
        Peering {
            now: Instant::ZERO,
            channels,
            configs,
            starts: [0, 0],
            addresses: End::BOTH.map(End::address),
            lines: path.links(1),
            agenda: Agenda::default(),
            writing: None,
            reading: BTreeMap::new(),
            lifecycle: Vec::new(),
            stray: BTreeMap::new(),
            bins: Vec::new(),
            chunk: vec![0; CHUNK],
            writes: true,
            asks_every: None,
            asked: None,
            asks_at: Instant::ZERO,
            answers: Vec::new(),
            last_sent: [Vec::new(), Vec::new()],
        }
    }

    /// An end's channel.
    pub fn channel(&self, end: End) -> &Channel {
        &self.channels[end.index()]
    }

    /// From now on an end is behind this address; what is under way to the old one is lost.
    pub fn move_to(&mut self, end: End, address: SocketAddr) {
        self.addresses[end.index()] = address;
    }

    /// An end dies and starts anew, perhaps with another configuration.
    pub fn restart(&mut self, end: End, change: impl FnOnce(&mut ChannelConfig)) {
        let at = end.index();
        self.starts[at] += 1;
        change(&mut self.configs[at]);
        self.channels[at] = Channel::new(self.configs[at].clone(), self.now, end.seed(1, self.starts[at]));
        if end == End::A {
            self.writing = None;
        } else {
            self.reading.clear();
        }
        self.pump(end);
    }

    /// A stranger's datagram reaches an end now.
    pub fn inject(&mut self, to: End, from: SocketAddr, bytes: &[u8]) {
        let mut bytes = bytes.to_vec();
        self.channels[to.index()].handle_datagram(self.now, Arrival { from, at: self.now }, &mut bytes);
        self.pump(to);
    }

    /// Runs for a while.
    pub fn run(&mut self, time: Duration) {
        let until = self.now + time;
        self.pump(End::A);
        self.pump(End::B);
        let mut steps = 0;
        loop {
            let deadlines = self.channels.iter().filter_map(Channel::poll_timeout);
            let asks = self.asks_every.filter(|_| self.is_asking_due()).map(|_| self.asks_at);
            let Some(next) = deadlines.chain(self.agenda.next_at()).chain(asks).min() else { break };
            let next = next.max(self.now);
            if next > until {
                break;
            }
            steps = if next == self.now { steps + 1 } else { 0 };
            assert!(steps < STEPS_AT_ONE_MOMENT_MAX, "a busy loop at {next:?}");
            self.now = next;
            while let Some(mut delivery) = self.agenda.pop_due(self.now) {
                let arrival = Arrival { from: delivery.from, at: self.now };
                self.channels[delivery.to.index()].handle_datagram(self.now, arrival, &mut delivery.bytes);
            }
            for end in End::BOTH {
                let channel = &mut self.channels[end.index()];
                if channel.poll_timeout().is_some_and(|at| at <= self.now) {
                    channel.handle_timeout(self.now);
                }
                self.pump(end);
            }
        }
        self.now = until;
    }

    /// Goodput from A to B in `from..until` since the start.
    pub fn goodput(&self, from: Duration, until: Duration) -> BitRate {
        let bin = |at: Duration| (at.as_nanos() / BIN.as_nanos()) as usize;
        let range = bin(from).min(self.bins.len())..bin(until).min(self.bins.len());
        BitRate::from_transfer(ByteCount::new(self.bins[range].iter().sum()), until - from)
    }

    /// Longest time in `from..until` without a byte for B.
    pub fn longest_silence(&self, from: Duration, until: Duration) -> Duration {
        let bin = |at: Duration| (at.as_nanos() / BIN.as_nanos()) as usize;
        let (mut longest, mut run) = (0, 0);
        for at in bin(from)..bin(until) {
            run = if self.bins.get(at).copied().unwrap_or(0) == 0 { run + 1 } else { 0 };
            longest = longest.max(run);
        }
        BIN * longest
    }

    /// Times that an end's session ended for this reason.
    pub fn downs(&self, end: End, reason: DownReason) -> usize {
        self.lifecycle.iter().filter(|(_, at, event)| *at == end && *event == Event::Down(reason)).count()
    }

    fn pump(&mut self, end: End) {
        self.events(end);
        if end == End::A && self.writes {
            self.write();
        }
        if end == End::A {
            self.ask();
        }
        self.transmit(end);
    }

    fn events(&mut self, end: End) {
        while let Some(event) = self.channels[end.index()].poll_event() {
            match event {
                Event::Up | Event::Down(_) => {
                    self.lifecycle.push((self.now - Instant::ZERO, end, event));
                    if !matches!(event, Event::Up | Event::Down(DownReason::Silent)) {
                        self.writing = self.writing.filter(|_| end == End::B);
                        if end == End::B {
                            self.reading.clear();
                        }
                    }
                }
                Event::Opened(id) => {
                    self.reading.insert(id, 0);
                }
                Event::Readable(id) => self.read(end, id),
                Event::Writable(_) | Event::Reset(..) => {}
            }
        }
    }

    fn write(&mut self) {
        let channel = &mut self.channels[End::A.index()];
        if self.writing.is_none() {
            self.writing = channel.open().map(|id| (id, 0));
        }
        let Some((id, written)) = &mut self.writing else { return };
        loop {
            let offered = channel.writable(*id).clamp(1, CHUNK);
            pattern(*id).fill(*written, &mut self.chunk[..offered]);
            let taken = channel.write(*id, &self.chunk[..offered]);
            *written += taken as u64;
            if taken < offered || taken == 1 {
                return;
            }
        }
    }

    fn is_asking_due(&self) -> bool {
        self.asked.is_none_or(|(_, since, _)| since.is_none()) && self.channels[End::A.index()].is_up()
    }

    /// A's question, on a stream of its own.
    fn ask(&mut self) {
        if self.asks_every.is_none() || self.asks_at > self.now || !self.is_asking_due() {
            return;
        }
        let channel = &mut self.channels[End::A.index()];
        let Some(id) = self.asked.map(|(id, ..)| id).or_else(|| channel.open()) else { return };
        assert_eq!(channel.write(id, &[7; EXCHANGE]), EXCHANGE);
        self.asked = Some((id, Some(self.now), 0));
    }

    /// B's side of it: every question is answered with as many bytes; and A's: the answer is here.
    fn exchange(&mut self, end: End, id: StreamId) -> bool {
        let Some((asked, since, got)) = &mut self.asked else { return false };
        if *asked != id {
            return false;
        }
        let channel = &mut self.channels[end.index()];
        let len = channel.peek(id, &mut self.chunk);
        channel.consume(id, len);
        if end == End::B {
            assert_eq!(channel.write(id, &self.chunk[..len]), len);
            return true;
        }
        *got += len;
        if *got == EXCHANGE
            && let Some(since) = since.take()
        {
            self.answers.push(self.now - since);
            self.asks_at = self.now + self.asks_every.unwrap_or_default();
        }
        true
    }

    fn read(&mut self, end: End, id: StreamId) {
        if self.exchange(end, id) {
            return;
        }
        let channel = &mut self.channels[end.index()];
        let Some(consumed) = self.reading.get_mut(&id) else { return };
        loop {
            let len = channel.peek(id, &mut self.chunk);
            assert_eq!(pattern(id).first_difference(*consumed, &self.chunk[..len]), None, "a wrong byte");
            *consumed += len as u64;
            let bin = ((self.now - Instant::ZERO).as_nanos() / BIN.as_nanos()) as usize;
            if self.bins.len() <= bin {
                self.bins.resize(bin + 1, 0);
            }
            self.bins[bin] += len as u64;
            assert_eq!(channel.consume(id, len), ReadState::Open);
            if len < self.chunk.len() {
                return;
            }
        }
    }

    fn transmit(&mut self, end: End) {
        let mut out = Vec::new();
        loop {
            out.clear();
            let Some(batch) = self.channels[end.index()].poll_transmit(self.now, &mut out) else { return };
            for datagram in out.chunks(batch.segment_size) {
                self.last_sent[end.index()].clear();
                self.last_sent[end.index()].extend_from_slice(datagram);
                let wire_len = (datagram.len() + DATAGRAM_OVERHEAD) as u32;
                let delivery = self.lines[end.index()].offer(self.now, wire_len).delivery();
                if batch.destination != self.addresses[end.other().index()] {
                    *self.stray.entry(batch.destination).or_default() += datagram.len() as u64;
                } else if let Some(at) = delivery {
                    let from = self.addresses[end.index()];
                    self.agenda.push(at, Delivery { to: end.other(), from, bytes: datagram.to_vec() });
                }
            }
        }
    }
}

fn pattern(id: StreamId) -> Pattern {
    Pattern::new(u64::from(id.0), Content::Random)
}
