//! The whole: host A, LAN, appliance A, WAN, appliance B, LAN, host B, on one virtual clock.
//!
//! The WAN carries the channel's datagrams and the frames that the appliances forward, in one queue each way. Frames of
//! the LANs have a virtio-net header and may be super-segments; on the WAN there are only packets of its MTU.

use std::fmt::Write as _;
use std::time::Duration;

use longhaul::channel::Arrival;
use longhaul::engine::{Engine, Fate};
use longhaul::frame::{Port, VNET_HEADER_LEN};
use longhaul::units::{BitRate, ByteCount, Instant};
use longhaul::wan::{Link, LinkConfig, Outage};

use crate::agenda::Agenda;
use crate::host::{Host, HostSpec};
use crate::identity::End;
use crate::offload;
use crate::path::{DATAGRAM_OVERHEAD, PathSpec};
use crate::progress::Progress;
use crate::script::{Connection, Seen};

/// Propagation of a LAN, one way.
const LAN_DELAY: Duration = Duration::from_micros(20);
/// Gauges are checked against their limits this often.
const GAUGE_EVERY: Duration = Duration::from_millis(1);
/// Slack over the named bound of the channel's backlog: what one write may overshoot, and small paths' floors.
const BACKLOG_SLACK: u64 = 1024 * 1024;

/// Builds an appliance: which end, and how many were there before it.
pub type MakeEngine = Box<dyn Fn(End, u64, Instant) -> Engine>;

/// What joins LAN and WAN at both ends.
pub enum Wiring {
    /// A cable.
    Wire,
    /// An engine, made by this.
    Engines(MakeEngine),
}

/// What befalls the network in a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Incident {
    /// The WAN is dead for this long.
    Outage(Duration),
    /// The appliance of this end is replaced by a new one that knows nothing.
    Restart(End),
    /// The appliance of this end is gone: nothing passes it any more.
    Death(End),
    /// The line rate changes, both ways.
    Rate(BitRate),
}

/// What to run.
pub struct NetworkSpec {
    /// The WAN.
    pub path: PathSpec,
    /// The two hosts.
    pub hosts: [HostSpec; 2],
    /// Rate of the LANs.
    pub lan_rate: BitRate,
    /// What lies between LAN and WAN.
    pub wiring: Wiring,
    /// What the applications do.
    pub script: Vec<Connection>,
    /// What happens to the network, and when.
    pub incidents: Vec<(Duration, Incident)>,
    /// Everything random depends on it.
    pub seed: u64,
    /// Bytes may rest this long while they should move; beyond, the run fails as stalled.
    pub patience: Duration,
    /// A run that is not over by then fails, unless it is meant to be cut.
    pub limit: Duration,
}

impl NetworkSpec {
    /// Hosts at their defaults behind `wiring`, over `path`.
    pub fn new(path: PathSpec, wiring: Wiring, seed: u64) -> Self {
        NetworkSpec {
            path,
            hosts: [HostSpec::default(), HostSpec::default()],
            lan_rate: BitRate::from_mbps(10_000),
            wiring,
            script: Vec::new(),
            incidents: Vec::new(),
            seed,
            patience: Duration::from_secs(5),
            limit: Duration::from_secs(120),
        }
    }

    /// With one more connection.
    pub fn with(mut self, connection: Connection) -> Self {
        self.script.push(connection);
        self
    }

    /// With one more incident.
    pub fn incident(mut self, at: Duration, incident: Incident) -> Self {
        self.incidents.push((at, incident));
        self
    }
}

/// Where a frame is going.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Host(End),
    Appliance(End, Port),
}

#[derive(Debug)]
enum Event {
    Frame(Place, Vec<u8>),
    Datagram(End, Vec<u8>),
    Incident(Incident),
}

enum Appliance {
    Wire,
    Engine { engine: Box<Engine>, deadline: Option<Instant> },
    Dead,
}

/// A network in operation.
pub struct Network {
    spec: NetworkSpec,
    now: Instant,
    agenda: Agenda<Event>,
    hosts: [Host; 2],
    host_deadlines: [Option<Instant>; 2],
    appliances: [Appliance; 2],
    restarts: [u64; 2],
    /// From the host to the appliance, and back.
    lans: [[Link; 2]; 2],
    /// From A, from B.
    wans: [Link; 2],
    dead_until: Instant,
    spare: Vec<Vec<u8>>,
    transmit: Vec<u8>,
    scratch: Vec<u8>,
    progress: Progress,
    next_gauge: Instant,
    steps: u64,
    /// The largest backlog gauge of either channel.
    pub backlog_max: ByteCount,
    /// Frames that the appliances forwarded untouched.
    pub forwarded: u64,
}

impl Network {
    /// A network at rest at time zero.
    pub fn new(spec: NetworkSpec) -> Self {
        let lan = || {
            let mut config = LinkConfig::new(spec.lan_rate, LAN_DELAY);
            config.mtu = 65_535;
            // A switch port and a TAP queue: what bursts beyond is lost, as there.
            config.queue = ByteCount::from_mib(4);
            Link::new(config, spec.seed).expect("a LAN can be")
        };
        let now = Instant::ZERO;
        let mut network = Network {
            now,
            agenda: Agenda::default(),
            hosts: End::BOTH.map(|end| Host::new(end, spec.hosts[end.index()].clone(), &spec.script, spec.seed)),
            host_deadlines: [Some(now); 2],
            appliances: [Appliance::Wire, Appliance::Wire],
            restarts: [0; 2],
            lans: [[lan(), lan()], [lan(), lan()]],
            wans: spec.path.links(spec.seed),
            dead_until: now,
            spare: Vec::new(),
            transmit: Vec::new(),
            scratch: Vec::new(),
            progress: Progress::new(now, spec.patience),
            next_gauge: now,
            steps: 0,
            backlog_max: ByteCount::ZERO,
            forwarded: 0,
            spec,
        };
        for (at, incident) in network.spec.incidents.clone() {
            network.agenda.push(now + at, Event::Incident(incident));
        }
        End::BOTH.into_iter().for_each(|end| network.install(end));
        network
    }

    /// The clock.
    pub fn now(&self) -> Duration {
        self.now - Instant::ZERO
    }

    /// What an end of connection `index` has seen.
    pub fn seen(&self, end: End, index: usize) -> Seen {
        *self.hosts[end.index()].seen(index)
    }

    /// Bytes received by a host over all its connections.
    pub fn received(&self, end: End) -> u64 {
        self.hosts[end.index()].received()
    }

    /// The WAN link that `end` sends into.
    pub fn wan(&self, end: End) -> &Link {
        &self.wans[end.index()]
    }

    /// The LAN link towards the host of `end`.
    pub fn lan_to(&self, end: End) -> &Link {
        &self.lans[end.index()][1]
    }

    /// The engine of `end`, if it has one.
    pub fn engine(&self, end: End) -> Option<&Engine> {
        match &self.appliances[end.index()] {
            Appliance::Engine { engine, .. } => Some(engine),
            Appliance::Wire | Appliance::Dead => None,
        }
    }

    /// Runs until every connection of the script is over at both ends.
    ///
    /// # Panics
    /// When an invariant is violated, or the time limit passes.
    pub fn run(&mut self) {
        self.run_until(|network| network.is_over());
        assert!(self.is_over(), "not over after {:?}: {}", self.spec.limit, self.describe());
        self.check_ends();
    }

    /// Runs until the clock shows `until`.
    ///
    /// # Panics
    /// When an invariant is violated.
    pub fn run_to(&mut self, until: Duration) {
        // An incident of no effect makes the clock stop there exactly.
        self.run_until(|network| network.next_at().is_none_or(|at| at > Instant::ZERO + until));
        self.now = self.now.max(Instant::ZERO + until);
    }

    fn run_until(&mut self, mut done: impl FnMut(&Network) -> bool) {
        let limit = Instant::ZERO + self.spec.limit;
        while !done(self) {
            let Some(next) = self.next_at() else { return };
            if next > limit {
                return;
            }
            self.now = self.now.max(next);
            self.step();
        }
    }

    fn is_over(&self) -> bool {
        let over = |index: usize| {
            let seen = End::BOTH.map(|end| self.seen(end, index));
            // A connection that was refused never reached the application at the other end.
            let client = self.spec.script[index].client;
            let refused =
                seen[client.index()].reset_at.is_some() && seen[client.other().index()].connected_at.is_none();
            refused || seen.iter().all(Seen::is_over)
        };
        (0..self.spec.script.len()).all(over)
    }

    fn next_at(&self) -> Option<Instant> {
        let appliances = self.appliances.iter().filter_map(|appliance| match appliance {
            Appliance::Engine { deadline, .. } => *deadline,
            Appliance::Wire | Appliance::Dead => None,
        });
        self.host_deadlines.iter().flatten().copied().chain(appliances).chain(self.agenda.next_at()).min()
    }

    /// Handles what is due now, then lets everybody it concerned act.
    fn step(&mut self) {
        let now = self.now;
        self.steps += 1;
        if let Err(cause) = self.progress.step(now) {
            panic!("{cause}: {}", self.describe());
        }
        let mut hosts_touched = [false; 2];
        let mut appliances_touched = [false; 2];
        while let Some(event) = self.agenda.pop_due(now) {
            match event {
                Event::Frame(Place::Host(end), frame) => {
                    self.hosts[end.index()].handle_frame(&frame);
                    self.spare.push(frame);
                    hosts_touched[end.index()] = true;
                }
                Event::Frame(Place::Appliance(end, port), frame) => {
                    appliances_touched[end.index()] = true;
                    self.handle_frame(end, port, frame);
                }
                Event::Datagram(end, mut datagram) => {
                    if let Appliance::Engine { engine, .. } = &mut self.appliances[end.index()] {
                        engine.handle_datagram(now, Arrival { from: end.other().address(), at: now }, &mut datagram);
                        appliances_touched[end.index()] = true;
                    }
                    self.spare.push(datagram);
                }
                Event::Incident(incident) => self.handle_incident(incident),
            }
        }
        for end in End::BOTH {
            if hosts_touched[end.index()] || self.host_deadlines[end.index()].is_some_and(|at| at <= now) {
                self.poll_host(end);
            }
            if let Appliance::Engine { engine, deadline } = &mut self.appliances[end.index()]
                && deadline.is_some_and(|at| at <= now)
            {
                engine.handle_timeout(now);
                appliances_touched[end.index()] = true;
            }
            if appliances_touched[end.index()] {
                self.poll_engine(end);
            }
        }
        if now >= self.next_gauge {
            self.next_gauge = now + GAUGE_EVERY;
            self.check_gauges();
        }
    }

    /// A frame reaches a port of the appliance.
    fn handle_frame(&mut self, end: End, port: Port, frame: Vec<u8>) {
        let fate = match &mut self.appliances[end.index()] {
            Appliance::Wire => Fate::Forward,
            Appliance::Engine { engine, .. } => engine.handle_frame(self.now, port, &frame),
            Appliance::Dead => Fate::Taken,
        };
        if fate == Fate::Forward {
            self.forwarded += 1;
            self.send(end, port.other(), &frame);
        }
        self.spare.push(frame);
    }

    /// A frame leaves a port of the appliance.
    fn send(&mut self, end: End, port: Port, frame: &[u8]) {
        let now = self.now;
        let Network { agenda, spare, scratch, lans, wans, .. } = self;
        match port {
            Port::Lan => {
                let place = Place::Host(end);
                send_over_lan(&mut lans[end.index()][1], agenda, spare, now, place, frame);
            }
            Port::Wan => offload::to_wire(frame, scratch, |ethernet| {
                if let Some(at) = wans[end.index()].offer(now, ethernet.len() as u32).delivery() {
                    let mut copy = spare.pop().unwrap_or_default();
                    offload::as_complete(ethernet, &mut copy);
                    agenda.push(at, Event::Frame(Place::Appliance(end.other(), Port::Wan), copy));
                }
            }),
        }
    }

    fn poll_host(&mut self, end: End) {
        let now = self.now;
        let Network { agenda, spare, lans, hosts, .. } = self;
        let place = Place::Appliance(end, Port::Lan);
        let lan = &mut lans[end.index()][0];
        let host = &mut hosts[end.index()];
        host.poll(now, &mut |frame| send_over_lan(lan, agenda, spare, now, place, frame));
        self.host_deadlines[end.index()] = host.poll_timeout(now);
    }

    /// Drains the engine of `end`.
    fn poll_engine(&mut self, end: End) {
        let now = self.now;
        loop {
            let mut any = false;
            while let Appliance::Engine { engine, .. } = &mut self.appliances[end.index()]
                && let Some((port, frame)) = engine.poll_frame()
            {
                any = true;
                self.send(end, port, &frame);
                if let Appliance::Engine { engine, .. } = &mut self.appliances[end.index()] {
                    engine.recycle(frame);
                }
            }
            let Network { agenda, spare, transmit, wans, appliances, .. } = self;
            let Appliance::Engine { engine, deadline } = &mut appliances[end.index()] else { return };
            loop {
                transmit.clear();
                let Some(batch) = engine.poll_transmit(now, transmit) else { break };
                any = true;
                assert_eq!(batch.destination, end.other().address(), "the channel speaks to its peer only");
                for datagram in transmit[..batch.len].chunks(batch.segment_size) {
                    let wire_len = (datagram.len() + DATAGRAM_OVERHEAD) as u32;
                    if let Some(at) = wans[end.index()].offer(now, wire_len).delivery() {
                        let mut copy = spare.pop().unwrap_or_default();
                        copy.clear();
                        copy.extend_from_slice(datagram);
                        agenda.push(at, Event::Datagram(end.other(), copy));
                    }
                }
            }
            if !any {
                *deadline = engine.poll_timeout();
                return;
            }
        }
    }

    /// Puts a new appliance in its place.
    fn install(&mut self, end: End) {
        let instance = self.restarts[end.index()];
        self.appliances[end.index()] = match &self.spec.wiring {
            Wiring::Wire => Appliance::Wire,
            Wiring::Engines(make) => {
                let engine = Box::new(make(end, instance, self.now));
                Appliance::Engine { engine, deadline: None }
            }
        };
        self.poll_engine(end);
    }

    fn handle_incident(&mut self, incident: Incident) {
        match incident {
            Incident::Outage(lasts) => {
                let outage = Outage { from: self.now, until: self.now + lasts };
                self.wans.iter_mut().for_each(|wan| wan.add_outage(outage));
                self.dead_until = self.dead_until.max(outage.until);
            }
            Incident::Restart(end) => {
                self.restarts[end.index()] += 1;
                self.install(end);
            }
            Incident::Death(end) => self.appliances[end.index()] = Appliance::Dead,
            Incident::Rate(rate) => {
                for wan in &mut self.wans {
                    wan.set_rate(rate).expect("a rate above zero");
                }
            }
        }
    }

    /// Memory bounds and the watch over stalls.
    fn check_gauges(&mut self) {
        let bound = self.backlog_bound();
        for end in End::BOTH {
            let Some(stats) = self.engine(end).and_then(Engine::channel_stats) else { continue };
            self.backlog_max = self.backlog_max.max(stats.backlog);
            assert!(stats.backlog <= bound, "{end:?}: backlog {} > {bound}: {}", stats.backlog, self.describe());
        }
        let bytes = self.received(End::A) + self.received(End::B);
        let idle = self.now < self.dead_until
            || self.is_over()
            || self.hosts.iter().any(|host| host.is_resting(self.now))
            || self.appliances.iter().any(|appliance| matches!(appliance, Appliance::Dead))
            || !self.is_transferring();
        if let Err(cause) = self.progress.bytes(self.now, bytes, idle) {
            panic!("{cause}: {}", self.describe());
        }
    }

    /// Whether some connection is open at both ends and has bytes to move.
    fn is_transferring(&self) -> bool {
        (0..self.spec.script.len()).any(|index| {
            let seen = End::BOTH.map(|end| self.seen(end, index));
            let bytes = self.spec.script[index].bytes;
            seen.iter().all(|seen| seen.connected_at.is_some() && seen.reset_at.is_none())
                && (seen[1].received < bytes[0] || seen[0].received < bytes[1])
        })
    }

    /// Memory for each channel: 4 BDP (what waits behind a lost byte included) or 150 ms, of twice the line rate. The
    /// channel bounds its backlog by its own estimate of the rate, which stands above the line's while it accelerates,
    /// and on paths so short that a round is mostly noise.
    fn backlog_bound(&self) -> ByteCount {
        let path = &self.spec.path;
        let rate = self.wans[0].config().rate.max(path.rate()) * 2;
        let floor = rate.bytes_in(Duration::from_millis(150));
        let bdp = rate.bytes_in(path.rtt * 4);
        floor.max(bdp) + ByteCount::new(BACKLOG_SLACK)
    }

    /// Nothing that a host was told was received has vanished without an error to somebody who still listens.
    fn check_ends(&self) {
        for (index, plan) in self.spec.script.iter().enumerate() {
            for end in End::BOTH {
                let (sender, receiver) = (self.seen(end, index), self.seen(end.other(), index));
                let complete = receiver.received == plan.bytes[end.index()] && receiver.ended_at.is_some();
                let told = receiver.reset_at.is_some() || receiver.connected_at.is_none();
                assert!(
                    complete || told,
                    "connection {index}: {end:?} sent {}, acknowledged at {:?}, but the other end has {} and no error",
                    sender.sent,
                    sender.acked_at,
                    receiver.received
                );
            }
        }
    }

    /// Everything a failure should tell.
    pub fn describe(&self) -> String {
        let spec = &self.spec;
        let mut text = format!(
            "path {}, seed {}, {} connections, {} steps, now {:?}",
            spec.path.name,
            spec.seed,
            spec.script.len(),
            self.steps,
            self.now()
        );
        for end in End::BOTH {
            let deadline = match &self.appliances[end.index()] {
                Appliance::Engine { deadline, .. } => *deadline,
                Appliance::Wire | Appliance::Dead => None,
            };
            let _ = write!(
                text,
                "\n  {end:?}: host deadline {:?}, engine deadline {deadline:?}, {:?}\n  wan {:?}\n  lan {:?}",
                self.host_deadlines[end.index()],
                self.engine(end).map(Engine::channel_stats),
                self.wan(end).stats(),
                self.lan_to(end).stats(),
            );
            for index in 0..spec.script.len().min(8) {
                let _ = write!(text, "\n    connection {index}: {:?}", self.seen(end, index));
            }
        }
        text
    }
}

/// Puts a frame on a LAN; its segments use line time one after the other and arrive together.
fn send_over_lan(
    lan: &mut Link,
    agenda: &mut Agenda<Event>,
    spare: &mut Vec<Vec<u8>>,
    now: Instant,
    place: Place,
    frame: &[u8],
) {
    let (bytes, _) = offload::wire_len(frame);
    debug_assert!(frame.len() > VNET_HEADER_LEN);
    // A super-segment of 64 KiB is somewhat longer on the wire than the LAN's longest frame: charge it in two parts.
    let first = bytes.min(60_000);
    let mut arrival = lan.offer(now, first as u32).delivery();
    if arrival.is_some() && bytes > first {
        arrival = lan.offer(now, (bytes - first) as u32).delivery();
    }
    if let Some(at) = arrival {
        let mut copy = spare.pop().unwrap_or_default();
        copy.clear();
        copy.extend_from_slice(frame);
        agenda.push(at, Event::Frame(place, copy));
    }
}
