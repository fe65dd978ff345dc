//! Two engines back to back on virtual time: a host at each LAN port, and a WAN that takes frames and datagrams.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use longhaul::buffer::FrameBuf;
use longhaul::channel::{ChannelConfig, PathMtu};
use longhaul::engine::{BypassReason, Engine, EngineConfig, Fate, Limits};
use longhaul::frame::{MacAddr, Port};
use longhaul::rate::RateMode;
use longhaul::rules::{Action, Compression, Hosts, PortRange, Rule, Rules, Subnet};
use longhaul::units::{BitRate, ByteCount, Instant, Weight};

use crate::ends;
use crate::host::Host;

pub const A: usize = 0;
pub const B: usize = 1;
pub const MAC_A: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xa]);
pub const MAC_B: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xb]);
pub const IP_A: [u8; 4] = [10, 0, 0, 1];
pub const IP_B: [u8; 4] = [10, 0, 0, 2];

/// One way of the WAN.
const DELAY: Duration = Duration::from_millis(5);
const RATE: BitRate = BitRate::from_mbps(1000);
/// Bytes wait for the wire this long at most.
const QUEUE: Duration = Duration::from_millis(20);
/// One way of a LAN.
const LAN_DELAY: Duration = Duration::from_micros(50);

pub fn server() -> SocketAddr {
    (IP_B, 8000).into()
}

/// Accelerate port 8000 in both directions, between the two networks of the tests.
pub fn mirrored_rules() -> Rules {
    let any = || vec![Subnet::ANY_IPV4, Subnet::ANY_IPV6];
    Rules::new(vec![Rule {
        name: "vmotion".to_owned(),
        hosts: Hosts::Between([any(), any()]),
        ports: vec![PortRange::single(8000).unwrap()],
        vlan: None,
        action: Action::Accelerate { compression: Compression::Auto, weight: Weight::default() },
    }])
}

enum Arrival {
    FromHost(usize, Vec<u8>),
    ToHost(usize, Vec<u8>),
    WanFrame(usize, Vec<u8>),
    Datagram(usize, Vec<u8>),
}

pub struct World {
    pub now: Instant,
    pub engines: [Engine; 2],
    pub hosts: [Host; 2],
    configs: [EngineConfig; 2],
    arrivals: BTreeMap<(Instant, u64), Arrival>,
    next: u64,
    wire_free: [Instant; 2],
    /// The channel's datagrams are lost.
    pub is_cut: bool,
    /// Frames that left the WAN port of each engine.
    pub wan_frames: [Vec<Vec<u8>>; 2],
    starts: u8,
    steps_at_once: u32,
}

/// Where the appliance of a side stands.
pub fn address(side: usize) -> SocketAddr {
    ([192, 0, 2, side as u8 + 1], 4500).into()
}

/// The channel of the appliance of a side.
pub fn channel_config(side: usize) -> ChannelConfig {
    ends::channel_config(side, address(1 - side), PathMtu::Fixed(1500), RateMode::default())
}

impl World {
    pub fn new() -> Self {
        World::with_rules([mirrored_rules(), mirrored_rules()])
    }

    pub fn with_rules(rules: [Rules; 2]) -> Self {
        let mut world = World::unconnected(rules, Limits::default());
        world.connect();
        world
    }

    /// Engines that have not exchanged a datagram.
    pub fn unconnected(rules: [Rules; 2], limits: Limits) -> Self {
        let mut sides = rules.into_iter().enumerate().map(|(side, rules)| EngineConfig {
            rules,
            channel: Some(channel_config(side)),
            lan_mtu: 1500,
            limits,
        });
        let configs = [sides.next().unwrap(), sides.next().unwrap()];
        let now = Instant::from_millis(1);
        let engine = |side: usize| Engine::new(configs[side].clone(), now, [side as u8 + 7; 32]);
        World {
            now,
            engines: [engine(A), engine(B)],
            hosts: [Host::new(IP_A.into(), MAC_A, MAC_B), Host::new(IP_B.into(), MAC_B, MAC_A)],
            configs,
            arrivals: BTreeMap::new(),
            next: 0,
            wire_free: [now; 2],
            is_cut: false,
            wan_frames: [Vec::new(), Vec::new()],
            starts: 20,
            steps_at_once: 0,
        }
    }

    /// Lets the hosts announce themselves and the channel come up.
    pub fn connect(&mut self) {
        self.hosts[A].announce();
        self.hosts[B].announce();
        self.bring_up();
    }

    /// Lets the channel come up.
    pub fn bring_up(&mut self) {
        let is_up = |world: &World| {
            let up = |side: usize| {
                let stats = world.engines[side].channel_stats();
                stats.is_some_and(|stats| stats.state == longhaul::channel::ChannelState::Up)
            };
            up(A) && up(B)
        };
        assert!(self.run_until(5_000, is_up), "the channel comes up");
        self.run_for(50);
    }

    /// The appliance of this side starts anew, without a word to anybody.
    pub fn restart(&mut self, side: usize) {
        self.starts += 1;
        self.engines[side] = Engine::new(self.configs[side].clone(), self.now, [self.starts; 32]);
    }

    fn schedule(&mut self, at: Instant, arrival: Arrival) {
        self.next += 1;
        self.arrivals.insert((at, self.next), arrival);
    }

    /// Over the WAN: serialised, delayed, dropped where the queue is full.
    fn send_wan(&mut self, from: usize, len: usize, arrival: Arrival) {
        let start = self.wire_free[from].max(self.now);
        if start - self.now > QUEUE {
            return;
        }
        self.wire_free[from] = start + RATE.time_for(ByteCount::from(len + 38));
        self.schedule(self.wire_free[from] + DELAY, arrival);
    }

    /// A frame enters the appliance of `side`; says what became of it.
    pub fn inject(&mut self, side: usize, port: Port, frame: &[u8]) -> Fate {
        let fate = self.engines[side].handle_frame(self.now, port, frame);
        if fate == Fate::Forward {
            self.leave(side, port.other(), frame.to_vec());
        }
        self.drain(side);
        fate
    }

    fn leave(&mut self, side: usize, port: Port, frame: Vec<u8>) {
        match port {
            Port::Lan => self.schedule(self.now + LAN_DELAY, Arrival::ToHost(side, frame)),
            Port::Wan => {
                self.wan_frames[side].push(frame.clone());
                self.send_wan(side, frame.len(), Arrival::WanFrame(1 - side, frame));
            }
        }
    }

    pub fn drain(&mut self, side: usize) {
        while let Some((port, frame)) = self.engines[side].poll_frame() {
            self.leave(side, port, frame.to_vec());
            self.engines[side].recycle(frame);
        }
        let mut out = Vec::new();
        loop {
            out.clear();
            let Some(transmit) = self.engines[side].poll_transmit(self.now, &mut out) else { break };
            for datagram in out.chunks(transmit.segment_size.max(1)) {
                if !self.is_cut && transmit.destination == address(1 - side) {
                    self.send_wan(side, datagram.len() + 28, Arrival::Datagram(1 - side, datagram.to_vec()));
                }
            }
        }
    }

    /// A forged datagram, or a real one with some bits turned, reaches the channel of `side`.
    pub fn attack_channel(&mut self, side: usize, datagram: &mut Vec<u8>, flips: &[(usize, u8)]) {
        let mut real = self.arrivals.values().filter_map(|arrival| match arrival {
            Arrival::Datagram(to, datagram) if *to == side => Some(datagram.clone()),
            _ => None,
        });
        if let Some(real) = real.next()
            && !flips.is_empty()
        {
            *datagram = real;
            for &(at, mask) in flips {
                if let Some(byte) = datagram.get_mut(at) {
                    *byte ^= mask;
                }
            }
        }
        let origin = longhaul::channel::Arrival { from: address(1 - side), at: self.now };
        self.engines[side].handle_datagram(self.now, origin, datagram);
        self.drain(side);
    }

    fn next_event(&mut self) -> Option<Instant> {
        let now = self.now;
        let arrival = self.arrivals.first_key_value().map(|(&(at, _), _)| at);
        let engines = [self.engines[A].poll_timeout(), self.engines[B].poll_timeout()];
        let hosts = [self.hosts[A].poll_timeout(now), self.hosts[B].poll_timeout(now)];
        [arrival].into_iter().chain(engines).chain(hosts).flatten().min()
    }

    /// One step of the world; false when nothing happens before `until`.
    fn step(&mut self, until: Instant) -> bool {
        let next = self.next_event();
        let Some(next) = next.filter(|&next| next <= until) else {
            self.now = until;
            return false;
        };
        if next > self.now {
            self.now = next;
            self.steps_at_once = 0;
        }
        self.steps_at_once += 1;
        assert!(self.steps_at_once < 5_000, "busy loop at {:?}", self.now);
        while let Some(entry) = self.arrivals.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            match entry.remove() {
                Arrival::FromHost(side, frame) => drop(self.inject(side, Port::Lan, &frame)),
                Arrival::WanFrame(side, frame) => drop(self.inject(side, Port::Wan, &frame)),
                Arrival::ToHost(side, frame) => self.hosts[side].handle_frame(self.now, &frame),
                Arrival::Datagram(side, mut datagram) => {
                    let origin = longhaul::channel::Arrival { from: address(1 - side), at: self.now };
                    self.engines[side].handle_datagram(self.now, origin, &mut datagram);
                    self.drain(side);
                }
            }
        }
        for side in [A, B] {
            if self.engines[side].poll_timeout().is_some_and(|at| at <= self.now) {
                self.engines[side].handle_timeout(self.now);
                self.drain(side);
            }
            for frame in self.hosts[side].tick(self.now) {
                self.schedule(self.now + LAN_DELAY, Arrival::FromHost(side, frame.to_vec()));
            }
        }
        true
    }

    /// Runs until `is_done`, for `millis` at most; says whether it is done.
    pub fn run_until(&mut self, millis: u64, mut is_done: impl FnMut(&World) -> bool) -> bool {
        let until = self.now + Duration::from_millis(millis);
        while !is_done(self) {
            if !self.step(until) {
                return is_done(self);
            }
        }
        true
    }

    pub fn run_for(&mut self, millis: u64) {
        self.run_until(millis, |_| false);
    }

    /// Host A connects to host B's port 8000 and sends `outbox`.
    pub fn open(&mut self, port: u16, outbox: Vec<u8>) -> usize {
        let now = self.now;
        self.hosts[A].connect(now, port, server(), outbox)
    }

    pub fn flows(&self, side: usize) -> usize {
        self.engines[side].status(0).flows.len()
    }

    pub fn bypassed(&self, side: usize, reason: BypassReason) -> u64 {
        let status = self.engines[side].status(0);
        status.bypass_counters.iter().find(|(listed, _)| *listed == reason).unwrap().1
    }

    /// Lets host `side` send a frame of its own making.
    pub fn send_from_host(&mut self, side: usize, frame: &FrameBuf) -> Fate {
        self.inject(side, Port::Lan, frame)
    }
}

/// Bytes that compress to about half, different for each seed.
pub fn payload(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 16);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_be_bytes());
        bytes.extend_from_slice(b"longhaul");
    }
    bytes.truncate(len);
    bytes
}
