//! The channel alone: two channels joined by a WAN, and greedy incompressible streams from A to B.
//!
//! No host, no TCP: what this rig shows is the channel's and the rate controller's own doing.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use longhaul::channel::{Arrival, Channel, ChannelStats, Event, PathMtu, ReadState, StreamId};
use longhaul::rate::RateMode;
use longhaul::units::{BitRate, ByteCount, Instant, Weight};
use longhaul::wan::{Link, LinkStats, Outage};

use crate::agenda::Agenda;
use crate::bins::{BIN, bin, first_window};
use crate::bursts::Bursts;
use crate::identity::End;
use crate::machine::{Load, Machine};
use crate::path::{DATAGRAM_OVERHEAD, PathSpec};
use crate::pattern::{Content, Pattern};
use crate::progress::Progress;
use crate::standing::Standing;

/// Bytes written and read at a time.
const CHUNK: usize = 64 * 1024;
/// Bytes that a stream carries before its bulk.
pub const GREETING: u64 = 60;

/// What to run.
#[derive(Clone, Debug)]
pub struct ChannelRun {
    /// The path.
    pub path: PathSpec,
    /// Everything random depends on it.
    pub seed: u64,
    /// Greedy streams from A to B.
    pub streams: usize,
    /// Their weights, in order; those beyond have the usual one.
    pub weights: Vec<Weight>,
    /// Greedy streams from B to A.
    pub streams_back: usize,
    /// Streams open no earlier than this: until then the channel idles.
    pub opens_at: Duration,
    /// B's streams open no earlier than this.
    pub back_opens_at: Duration,
    /// For this long a stream carries only [`GREETING`] bytes, as while the appliances agree on a flow.
    pub greeting: Duration,
    /// Bytes of each stream; `None`: until the time is over.
    pub bytes: Option<u64>,
    /// Streams from A are not written at once, but so.
    pub bursts: Option<Bursts>,
    /// Length of the run.
    pub duration: Duration,
    /// Goodput is measured from here on (start-up is reported apart).
    pub settle: Duration,
    /// Who says how fast to send.
    pub rate: RateMode,
    /// Whether the end of a burst may be sent twice.
    pub tail_copies: bool,
    /// Whether repair symbols may follow it, and each end knows of them.
    pub repair_symbols: [bool; 2],
    /// How long both ends' datagrams may be.
    pub path_mtu: PathMtu,
    /// At these times the largest IP packet that the path carries (both directions) becomes another.
    pub mtu_changes: Vec<(Duration, u32)>,
    /// At these times the line rate (both directions) becomes another.
    pub rate_changes: Vec<(Duration, BitRate)>,
    /// The path is dead, both ways, in these times.
    pub outages: Vec<(Duration, Duration)>,
    /// How busy the machines of the appliances and of the path's emulator are.
    pub load: Load,
    /// Bytes may rest this long while the path is alive; beyond, the run fails as stalled.
    pub patience: Duration,
    /// Print a line of gauges this often.
    pub trace: Option<Duration>,
}

impl ChannelRun {
    /// One greedy stream over `path` for 10 s, measured from second 5.
    pub fn new(path: PathSpec, seed: u64) -> Self {
        ChannelRun {
            path,
            seed,
            streams: 1,
            weights: Vec::new(),
            streams_back: 0,
            opens_at: Duration::ZERO,
            back_opens_at: Duration::ZERO,
            greeting: Duration::ZERO,
            bytes: None,
            bursts: None,
            duration: Duration::from_secs(10),
            settle: Duration::from_secs(5),
            rate: RateMode::default(),
            tail_copies: true,
            repair_symbols: [true; 2],
            path_mtu: PathMtu::Fixed(1500),
            mtu_changes: Vec::new(),
            rate_changes: Vec::new(),
            outages: Vec::new(),
            load: Load::None,
            patience: Duration::from_secs(5),
            trace: None,
        }
    }
}

/// What a run showed. Directions: what A sent to B, unless said otherwise.
#[derive(Clone, Debug)]
pub struct ChannelOutcome {
    /// What headers and loss leave of the line rate.
    pub ceiling: BitRate,
    /// Stream bytes delivered from `settle` on, per second.
    pub goodput: BitRate,
    /// The same from B to A.
    pub goodput_back: BitRate,
    /// From the first write until a window of 50 ms or one RTT first carried 90 % of the ceiling.
    pub time_to_90: Option<Duration>,
    /// From the start until both ends were up.
    pub handshake: Option<Duration>,
    /// When the last byte of bounded streams was consumed.
    pub finished: Option<Duration>,
    /// Stream bytes sent again, as a share of those delivered.
    pub retransmitted: f64,
    /// Datagrams declared lost that were not, as a share of those sent.
    pub spurious: f64,
    /// Datagrams declared lost, as a share of those sent.
    pub declared_lost: f64,
    /// Wire time waiting in the line's queue, met by A's datagrams after `settle`.
    pub queue_mean: Duration,
    /// The largest of these.
    pub queue_max: Duration,
    /// The largest that stood: the least of a window of one RTT (50 ms at least), the most of all windows.
    pub queue_standing: Duration,
    /// Most memory that either channel held.
    pub memory_max: ByteCount,
    /// Largest backlog gauge of A.
    pub backlog_max: ByteCount,
    /// Largest in-flight gauge of A.
    pub in_flight_max: ByteCount,
    /// Delivered by each stream from A (fairness).
    pub per_stream: Vec<u64>,
    /// Delivered bytes of both directions by bins of 10 ms (A to B).
    pub bins: Vec<u64>,
    /// When how much of a stream had been read at B, where it came in bursts.
    pub reads: Vec<(Duration, u64)>,
    /// The longest wait that A's datagrams met, by the same bins.
    pub queue_bins: Vec<Duration>,
    /// The line from A to B.
    pub line: LinkStats,
    /// A's own counters at the end.
    pub stats: ChannelStats,
    /// Those of B.
    pub stats_b: ChannelStats,
    /// Steps of the simulation.
    pub steps: u64,
}

impl ChannelOutcome {
    /// Goodput in `from..until`, from the bins.
    pub fn goodput_between(&self, from: Duration, until: Duration) -> BitRate {
        let range = bin(from).min(self.bins.len())..bin(until).min(self.bins.len());
        BitRate::from_transfer(ByteCount::new(self.bins[range].iter().sum()), until - from)
    }

    /// For how long in `from..until` the queue was longer than `limit`.
    pub fn queue_above(&self, limit: Duration, from: Duration, until: Duration) -> Duration {
        BIN * self.queue_bins[bin(from)..bin(until)].iter().filter(|wait| **wait > limit).count() as u32
    }
}

#[derive(Debug)]
struct Outgoing {
    pattern: Pattern,
    written: u64,
    finished: bool,
}

#[derive(Debug)]
struct Incoming {
    pattern: Pattern,
    consumed: u64,
    finished: bool,
}

/// One end: its channel, the line it sends into, the streams it writes and reads.
struct Side {
    end: End,
    channel: Channel,
    line: Link,
    machine: Machine,
    /// What the socket holds until the appliance is awake.
    socket: Vec<(Instant, Vec<u8>)>,
    /// When the appliance wants to be woken.
    deadline: Option<Instant>,
    /// When it gets the core, once that is decided.
    wakes_at: Option<Instant>,
    outgoing: BTreeMap<StreamId, Outgoing>,
    incoming: BTreeMap<StreamId, Incoming>,
    to_open: usize,
    delivered: u64,
    backlog_max: ByteCount,
    in_flight_max: ByteCount,
    memory_max: ByteCount,
}

/// What the path does next.
enum Delivery {
    /// The emulator takes a datagram that this end sent.
    Offered(End, Vec<u8>),
    /// A datagram for this end has crossed the path: the emulator should hand it over.
    Due(End, Vec<u8>),
    /// A datagram reaches the socket of this end.
    Arrived(End, Vec<u8>),
}

struct Rig<'a> {
    run: &'a ChannelRun,
    now: Instant,
    sides: [Side; 2],
    agenda: Agenda<Delivery>,
    emulator: Machine,
    spare: Vec<Vec<u8>>,
    transmit: Vec<u8>,
    chunk: Vec<u8>,
    bins: Vec<u64>,
    reads: Vec<(Duration, u64)>,
    queue_bins: Vec<Duration>,
    back_after_settle: u64,
    after_settle: u64,
    up_at: Option<Instant>,
    /// When the application acts next, the last first.
    wakes: Vec<Instant>,
    queue_sum: Duration,
    queue_samples: u32,
    queue_max: Duration,
    standing: Standing,
}

/// Runs it.
///
/// # Panics
/// When an invariant is violated: wrong or missing bytes, a stall, a busy loop, something delivered after the end.
pub fn run(run: &ChannelRun) -> ChannelOutcome {
    let end_at = Instant::ZERO + run.duration;
    let mut rig = Rig::new(run);
    let mut progress = Progress::new(Instant::ZERO, run.patience);
    let mut changes = run.rate_changes.clone();
    changes.sort_by_key(|(at, _)| *at);
    changes.reverse();
    let mut mtu_changes = run.mtu_changes.clone();
    mtu_changes.sort_by_key(|&(at, _)| std::cmp::Reverse(at));
    let mut next_trace = run.trace.map(|every| Instant::ZERO + every);
    let mut steps = 0;
    let mut finished = None;
    rig.pump(End::A);
    rig.pump(End::B);
    loop {
        let deadlines = rig.sides.iter().filter_map(|side| side.wakes_at.or(side.deadline));
        let Some(next) = deadlines.chain(rig.agenda.next_at()).chain(rig.wakes.last().copied()).min() else { break };
        let next = next.max(rig.now);
        if next >= end_at {
            break;
        }
        while let Some(&(at, rate)) = changes.last()
            && Instant::ZERO + at <= next
        {
            for side in &mut rig.sides {
                side.line.set_rate(rate).expect("a rate above zero");
            }
            changes.pop();
        }
        while let Some(&(at, mtu)) = mtu_changes.last()
            && Instant::ZERO + at <= next
        {
            for side in &mut rig.sides {
                side.line.set_mtu(mtu);
            }
            mtu_changes.pop();
        }
        while let Some(at) = next_trace
            && at <= next
        {
            rig.print_trace(at);
            next_trace = run.trace.map(|every| at + every);
        }
        rig.now = next;
        steps += 1;
        if let Err(cause) = progress.step(next) {
            panic!("{cause}: {}", rig.describe());
        }
        rig.step();
        let idle = rig.is_idle();
        let delivered = rig.sides[0].delivered + rig.sides[1].delivered;
        if let Err(cause) = progress.bytes(next, delivered, idle) {
            panic!("{cause}: {}", rig.describe());
        }
        if run.bytes.is_some() && rig.is_complete() {
            finished = Some(rig.now - Instant::ZERO);
            break;
        }
    }
    if run.bytes.is_some() {
        assert!(finished.is_some(), "not complete after {:?}: {}", run.duration, rig.describe());
    }
    rig.outcome(finished, steps)
}

impl<'a> Rig<'a> {
    fn new(run: &'a ChannelRun) -> Self {
        let lines = run.path.links(run.seed);
        let side = |end: End| {
            let mut config = end.channel_config(run.path_mtu);
            config.rate = run.rate;
            (config.tail_copies, config.repair_symbols) = (run.tail_copies, run.repair_symbols[end.index()]);
            let mut line = lines[end.index()].clone();
            for (from, until) in &run.outages {
                line.add_outage(Outage { from: Instant::ZERO + *from, until: Instant::ZERO + *until });
            }
            Side {
                end,
                channel: Channel::new(config, Instant::ZERO, end.seed(run.seed, 0)),
                line,
                machine: Machine::new(run.load, run.seed, end.index() as u64),
                socket: Vec::new(),
                deadline: None,
                wakes_at: None,
                outgoing: BTreeMap::new(),
                incoming: BTreeMap::new(),
                to_open: if end == End::A { run.streams } else { run.streams_back },
                delivered: 0,
                backlog_max: ByteCount::ZERO,
                in_flight_max: ByteCount::ZERO,
                memory_max: ByteCount::ZERO,
            }
        };
        let mut wakes =
            [run.opens_at, run.opens_at + run.greeting, run.back_opens_at].map(|at| Instant::ZERO + at).to_vec();
        wakes.extend(run.bursts.iter().flat_map(|bursts| bursts.times()).map(|at| Instant::ZERO + at));
        wakes.sort_by_key(|&at| std::cmp::Reverse(at));
        let bins = bin(run.duration) + 1;
        Rig {
            run,
            now: Instant::ZERO,
            sides: [side(End::A), side(End::B)],
            agenda: Agenda::default(),
            emulator: Machine::new(run.load, run.seed, 2),
            spare: Vec::new(),
            transmit: Vec::new(),
            chunk: vec![0; CHUNK],
            bins: vec![0; bins],
            reads: Vec::new(),
            queue_bins: vec![Duration::ZERO; bins],
            back_after_settle: 0,
            after_settle: 0,
            up_at: None,
            wakes,
            queue_sum: Duration::ZERO,
            queue_samples: 0,
            queue_max: Duration::ZERO,
            standing: Standing::new(run.path.rtt),
        }
    }

    /// Handles what is due now, then lets the ends that were touched answer.
    fn step(&mut self) {
        let mut touched = [false; 2];
        while let Some(delivery) = self.agenda.pop_due(self.now) {
            match delivery {
                Delivery::Offered(from, datagram) => self.offer(from, datagram),
                Delivery::Due(to, datagram) => match self.emulator.wakes(self.now) {
                    at if at > self.now => self.agenda.push(at, Delivery::Arrived(to, datagram)),
                    _ => self.arrive(to, datagram),
                },
                Delivery::Arrived(to, datagram) => self.arrive(to, datagram),
            }
        }
        if self.wakes.last().is_some_and(|at| *at <= self.now) {
            self.wakes.pop();
            for end in End::BOTH {
                if self.sides[end.index()].channel.is_up() {
                    self.open_streams(end);
                    touched[end.index()] = true;
                }
            }
        }
        for end in End::BOTH {
            let side = &mut self.sides[end.index()];
            if side.wakes_at.is_none() && side.deadline.is_some_and(|at| at <= self.now) {
                side.wakes_at = Some(side.machine.wakes(self.now));
            }
            if side.wakes_at.is_some_and(|at| at <= self.now) {
                side.wakes_at = None;
                for (at, mut datagram) in side.socket.drain(..) {
                    let arrival = Arrival { from: end.other().address(), at };
                    side.channel.handle_datagram(self.now, arrival, &mut datagram);
                    self.spare.push(datagram);
                }
                if side.channel.poll_timeout().is_some_and(|at| at <= self.now) {
                    side.channel.handle_timeout(self.now);
                }
                touched[end.index()] = true;
            }
            if touched[end.index()] {
                self.pump(end);
            }
        }
    }

    /// The path takes a datagram.
    fn offer(&mut self, from: End, datagram: Vec<u8>) {
        let side = &mut self.sides[from.index()];
        let at = self.now - Instant::ZERO;
        if from == End::A {
            let wait = side.line.queue_delay(self.now);
            let bin = &mut self.queue_bins[bin(at)];
            *bin = wait.max(*bin);
            if at >= self.run.settle {
                self.queue_sum += wait;
                self.queue_samples += 1;
                self.queue_max = self.queue_max.max(wait);
                self.standing.on_wait(self.now, wait);
            }
        }
        match side.line.offer(self.now, (datagram.len() + DATAGRAM_OVERHEAD) as u32).delivery() {
            Some(at) => self.agenda.push(at, Delivery::Due(from.other(), datagram)),
            None => self.spare.push(datagram),
        }
    }

    fn arrive(&mut self, to: End, datagram: Vec<u8>) {
        let side = &mut self.sides[to.index()];
        side.socket.push((self.now, datagram));
        if side.wakes_at.is_none() {
            side.wakes_at = Some(side.machine.wakes(self.now));
        }
    }

    /// Drains one end: events, the application's reads and writes, datagrams.
    fn pump(&mut self, end: End) {
        loop {
            self.handle_events(end);
            self.write(end);
            if !self.transmit(end) {
                break;
            }
        }
        let side = &mut self.sides[end.index()];
        side.deadline = side.channel.poll_timeout();
    }

    fn handle_events(&mut self, end: End) {
        while let Some(event) = self.sides[end.index()].channel.poll_event() {
            match event {
                Event::Up => {
                    if self.sides.iter().all(|side| side.channel.is_up()) {
                        self.up_at.get_or_insert(self.now);
                    }
                    self.open_streams(end);
                }
                Event::Opened(id) => {
                    let pattern = pattern_of(self.run.seed, end.other(), id);
                    let fresh = Incoming { pattern, consumed: 0, finished: false };
                    let known = self.sides[end.index()].incoming.insert(id, fresh);
                    assert!(known.is_none(), "{end:?}: stream {id:?} opened twice");
                }
                Event::Readable(id) => self.read(end, id),
                Event::Writable(_) | Event::Down(longhaul::channel::DownReason::Silent) => {}
                Event::Down(reason) => panic!("{end:?}: session lost at {:?}: {reason:?}", self.now),
                Event::Reset(id, code) => panic!("{end:?}: stream {id:?} was reset with {code:?} by nobody"),
            }
        }
    }

    fn open_streams(&mut self, end: End) {
        let opens_at = if end == End::A { self.run.opens_at } else { self.run.opens_at.max(self.run.back_opens_at) };
        if self.now < Instant::ZERO + opens_at {
            return;
        }
        let seed = self.run.seed;
        let side = &mut self.sides[end.index()];
        while side.to_open > 0 {
            let id = side.channel.open().expect("an up channel with a free table opens streams");
            if let Some(weight) = self.run.weights.get(side.outgoing.len()).filter(|_| end == End::A) {
                side.channel.set_weight(id, *weight);
            }
            let pattern = pattern_of(seed, end, id);
            side.outgoing.insert(id, Outgoing { pattern, written: 0, finished: false });
            side.to_open -= 1;
        }
    }

    fn write(&mut self, end: End) {
        let side = &mut self.sides[end.index()];
        for (id, stream) in &mut side.outgoing {
            loop {
                let greeting = self.now < Instant::ZERO + self.run.opens_at + self.run.greeting;
                let limit = self.run.bytes.unwrap_or(u64::MAX).min(if greeting { GREETING } else { u64::MAX });
                let due = self.run.bursts.map_or(u64::MAX, |bursts| bursts.written_by(self.now - Instant::ZERO));
                let left = limit.min(due).saturating_sub(stream.written);
                if left == 0 {
                    if !stream.finished && !greeting && limit <= due {
                        side.channel.finish(*id);
                        stream.finished = true;
                    }
                    break;
                }
                let room = side.channel.writable(*id).min(CHUNK).min(usize::try_from(left).unwrap_or(CHUNK));
                // Offered although there is no room: the channel then owes us a Writable.
                let offered = room.max(1);
                stream.pattern.fill(stream.written, &mut self.chunk[..offered]);
                let taken = side.channel.write(*id, &self.chunk[..offered]);
                assert!(taken <= offered, "took more than offered");
                stream.written += taken as u64;
                if taken < offered || room == 0 {
                    break;
                }
            }
        }
        let stats = side.channel.stats();
        side.memory_max = side.memory_max.max(stats.memory);
        side.backlog_max = side.backlog_max.max(stats.backlog);
        side.in_flight_max = side.in_flight_max.max(stats.bytes_in_flight);
    }

    fn read(&mut self, end: End, id: StreamId) {
        let now = self.now;
        let side = &mut self.sides[end.index()];
        let stream = side.incoming.get_mut(&id).expect("a stream is opened before it is readable");
        loop {
            let len = side.channel.peek(id, &mut self.chunk);
            if let Some(at) = stream.pattern.first_difference(stream.consumed, &self.chunk[..len]) {
                panic!("{end:?}: wrong byte at {at} of {id:?}, {now:?}");
            }
            assert!(len == 0 || !stream.finished, "{end:?}: bytes after the end of {id:?}");
            stream.consumed += len as u64;
            side.delivered += len as u64;
            if end == End::B {
                self.bins[bin(now - Instant::ZERO)] += len as u64;
                if self.run.bursts.is_some() {
                    self.reads.push((now - Instant::ZERO, stream.consumed));
                }
            }
            if now - Instant::ZERO >= self.run.settle {
                *(if end == End::B { &mut self.after_settle } else { &mut self.back_after_settle }) += len as u64;
            }
            let state = side.channel.consume(id, len);
            if state == ReadState::Finished && !stream.finished {
                stream.finished = true;
                let bytes = self.run.bytes.expect("an endless stream does not finish");
                assert_eq!(stream.consumed, bytes, "{end:?}: {id:?} ended at another length than it was written");
            }
            if len < self.chunk.len() {
                break;
            }
        }
    }

    /// Puts the datagrams that may leave now on the line; whether there were any.
    fn transmit(&mut self, end: End) -> bool {
        let now = self.now;
        let mut any = false;
        loop {
            self.transmit.clear();
            let side = &mut self.sides[end.index()];
            let Some(batch) = side.channel.poll_transmit(now, &mut self.transmit) else { return any };
            any = true;
            assert_eq!(batch.destination, end.other().address());
            assert_eq!(batch.len, self.transmit.len(), "a batch is as long as what it appended");
            let sent = std::mem::take(&mut self.transmit);
            for datagram in sent.chunks(batch.segment_size) {
                let mut copy = self.spare.pop().unwrap_or_default();
                copy.clear();
                copy.extend_from_slice(datagram);
                match self.emulator.wakes(now) {
                    at if at > now => self.agenda.push(at, Delivery::Offered(end, copy)),
                    _ => self.offer(end, copy),
                }
            }
            self.transmit = sent;
        }
    }

    /// Nothing is to be expected: the path is or was just down, or everything written has been read.
    fn is_idle(&self) -> bool {
        let at = self.now - Instant::ZERO;
        let down = self.run.outages.iter().any(|(from, until)| (*from..*until).contains(&at));
        let bounded = self.run.bytes.is_some() && self.is_complete();
        down || bounded
            || at < self.run.opens_at + self.run.greeting
            || (self.run.streams == 0 && self.run.streams_back == 0)
    }

    fn is_complete(&self) -> bool {
        self.sides.iter().all(|side| {
            let wanted = if side.end == End::A { self.run.streams_back } else { self.run.streams };
            side.to_open == 0 && side.incoming.values().filter(|stream| stream.finished).count() == wanted
        })
    }

    fn describe(&self) -> String {
        let mut text = format!("path {}, seed {}", self.run.path.name, self.run.seed);
        for side in &self.sides {
            let stats = side.channel.stats();
            let written: u64 = side.outgoing.values().map(|stream| stream.written).sum();
            let _ = write!(
                text,
                "\n  {:?}: deadline {:?}, written {written}, delivered {}, {:?}, {stats:?}",
                side.end,
                side.deadline,
                side.delivered,
                side.line.stats()
            );
        }
        text
    }

    fn print_trace(&self, at: Instant) {
        let side = &self.sides[0];
        let stats = side.channel.stats();
        let every = self.run.trace.unwrap_or(BIN).max(BIN);
        let bins = bin(every);
        let until = bin(at - Instant::ZERO);
        let delivered = self.bins[until.saturating_sub(bins)..until.min(self.bins.len())].iter().sum();
        println!(
            "  {:>7.3} s  goodput {:>12}  pacing {:>12}  delivery {:>12}  flight {:>9}  queue {:>9.3?}  srtt {:>9.3?}  \
             min {:>9.3?}  lost {:>6}  spurious {:>5}  dropped {:>6}  backlog {:>9}  {:?}, sees queue {:?}, own {}",
            at.as_micros() as f64 / 1e6,
            BitRate::from_transfer(ByteCount::new(delivered), every).to_string(),
            stats.pacing_rate.to_string(),
            stats.delivery_rate.to_string(),
            stats.bytes_in_flight.to_string(),
            side.line.queue_delay(at),
            stats.srtt.unwrap_or_default(),
            stats.min_rtt.unwrap_or_default(),
            stats.datagrams_lost,
            stats.datagrams_lost_spuriously,
            side.line.stats().queue_full,
            stats.backlog.to_string(),
            stats.phase,
            stats.queue,
            stats.own_loss_permille,
        );
    }

    fn outcome(self, finished: Option<Duration>, steps: u64) -> ChannelOutcome {
        let run = self.run;
        let measured = finished.unwrap_or(run.duration).saturating_sub(run.settle);
        let [a, b] = self.sides;
        let stats = a.channel.stats();
        let share = |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
        let up_at = self.up_at.map(|at| at - Instant::ZERO);
        ChannelOutcome {
            ceiling: run.path.ceiling(),
            goodput: BitRate::from_transfer(ByteCount::new(self.after_settle), measured),
            goodput_back: BitRate::from_transfer(ByteCount::new(self.back_after_settle), measured),
            time_to_90: time_to_90(&self.bins, run, up_at.unwrap_or_default().max(run.opens_at + run.greeting)),
            handshake: up_at,
            finished,
            retransmitted: share(stats.bytes_retransmitted.as_u64(), b.delivered),
            spurious: share(stats.datagrams_lost_spuriously, stats.datagrams_sent),
            declared_lost: share(stats.datagrams_lost, stats.datagrams_sent),
            queue_mean: self.queue_sum.checked_div(self.queue_samples).unwrap_or_default(),
            queue_max: self.queue_max,
            queue_standing: self.standing.worst,
            memory_max: a.memory_max.max(b.memory_max),
            backlog_max: a.backlog_max,
            in_flight_max: a.in_flight_max,
            per_stream: b.incoming.values().map(|stream| stream.consumed).collect(),
            bins: self.bins,
            reads: self.reads,
            queue_bins: self.queue_bins,
            line: a.line.stats(),
            stats,
            stats_b: b.channel.stats(),
            steps,
        }
    }
}

impl ChannelOutcome {
    /// Repair symbols, as a share of all bytes sent.
    pub fn repair_share(&self) -> f64 {
        self.stats.bytes_repair.as_u64() as f64 / self.stats.bytes_sent.as_u64().max(1) as f64
    }
}

/// The contents of a stream: of either direction their own.
fn pattern_of(seed: u64, writer: End, id: StreamId) -> Pattern {
    let key = seed ^ (u64::from(id.0) << 32) ^ ((writer.index() as u64) << 63);
    Pattern::new(key, Content::Random)
}

/// From `up_at` until a window of 50 ms, or one RTT if longer, first carried 90 % of the ceiling (its first bin counts).
fn time_to_90(bins: &[u64], run: &ChannelRun, up_at: Duration) -> Option<Duration> {
    let width = run.path.rtt.max(Duration::from_millis(50)).as_nanos().div_ceil(BIN.as_nanos()) as usize;
    let wanted = run.path.ceiling().percent(90).bytes_in(BIN * width as u32).as_u64();
    let first = first_window(bins, width, wanted)?;
    Some((BIN * first as u32).saturating_sub(up_at))
}
