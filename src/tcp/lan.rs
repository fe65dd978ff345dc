//! A LAN in memory for the tests of this room: two endpoints, and a kernel between them that completes checksums and
//! cuts super-segments.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Endpoint, EndpointConfig};
use crate::buffer::FramePool;
use crate::frame::{
    Classified, FlowKey, L2Header, MacAddr, TcpFlags, TcpSegment, VNET_HEADER_LEN, VlanStack, VlanTag, VnetHeader,
    classify,
};
use crate::units::{ByteCount, Instant};

/// Steps after which a test has got stuck or spins.
const STEPS_MAX: usize = 2_000_000;

/// The end that connects.
pub(super) const CONNECTING: usize = 0;
/// The end that accepts.
pub(super) const ACCEPTING: usize = 1;

/// A segment as it crosses the wire.
#[derive(Clone, Debug)]
pub(super) struct Wire {
    pub(super) to: usize,
    pub(super) packet: Vec<u8>,
}

impl Wire {
    pub(super) fn view(&self) -> TcpSegment<'_> {
        TcpSegment::parse(&self.packet).expect("invariant: checked when it was sent")
    }
}

pub(super) struct Lan {
    pub(super) now: Instant,
    pub(super) ends: [Option<Endpoint>; 2],
    pub(super) config: [EndpointConfig; 2],
    /// One-way delay.
    delay: Duration,
    /// Super-segments arrive whole, as behind GRO.
    pub(super) merges: bool,
    /// What is lost.
    pub(super) loses: Box<dyn FnMut(&Wire) -> bool>,
    /// Called with each wire segment.
    pub(super) seen: Vec<(usize, TcpFlags, usize)>,
    /// Whether [`Lan::seen`] is kept.
    pub(super) watches: bool,
    pub(super) largest_payload: usize,
    pub(super) super_segments: usize,
    pub(super) syns: Vec<Wire>,
    wire: BTreeMap<(Instant, u64), Wire>,
    sent: u64,
    pool: FramePool,
    pub(super) steps: usize,
}

pub(super) fn config(local: &str, remote: &str) -> EndpointConfig {
    EndpointConfig {
        local: local.parse().unwrap(),
        remote: remote.parse().unwrap(),
        mss: if local.contains('[') { 1440 } else { 1460 },
        l2: L2Header {
            dst: MacAddr([2, 0, 0, 0, 0, 1]),
            src: MacAddr([2, 0, 0, 0, 0, 2]),
            vlans: VlanStack { tags: [Some(VlanTag { tpid: 0x8100, tci: 0x0007 }), None] },
        },
        receive_buffer: ByteCount::from_mib(4),
        send_buffer: ByteCount::from_mib(4),
        seed: 42,
    }
}

impl Lan {
    /// The connecting end has its SYN ready; the accepting one comes into being with it.
    pub(super) fn new(connecting: EndpointConfig, accepting: EndpointConfig) -> Lan {
        let now = Instant::from_millis(10);
        Lan {
            now,
            ends: [Some(Endpoint::connect(connecting, now)), None],
            config: [connecting, accepting],
            delay: Duration::from_micros(50),
            merges: false,
            loses: Box::new(|_| false),
            seen: Vec::new(),
            watches: false,
            largest_payload: 0,
            super_segments: 0,
            syns: Vec::new(),
            wire: BTreeMap::new(),
            sent: 0,
            pool: FramePool::default(),
            steps: 0,
        }
    }

    pub(super) fn v4() -> Lan {
        Lan::new(config("10.0.0.1:40000", "10.0.0.2:8000"), config("10.0.0.2:8000", "10.0.0.1:40000"))
    }

    pub(super) fn v6() -> Lan {
        Lan::new(config("[fd00::1]:40000", "[fd00::2]:8000"), config("[fd00::2]:8000", "[fd00::1]:40000"))
    }

    pub(super) fn end(&mut self, end: usize) -> &mut Endpoint {
        self.ends[end].as_mut().expect("invariant: the SYN has arrived")
    }

    /// Polls an end and puts what it sends on the wire.
    pub(super) fn poll(&mut self, end: usize) {
        let mut frames = Vec::new();
        if let Some(endpoint) = self.ends[end].as_mut() {
            endpoint.poll(self.now, &mut self.pool, &mut |frame| frames.push(frame));
        }
        for frame in frames {
            self.transmit(end, &frame);
            self.pool.put(frame);
        }
    }

    /// What the kernel does with a frame: checks what it was told, cuts, completes checksums.
    fn transmit(&mut self, from: usize, frame: &[u8]) {
        assert!(frame.len() - VNET_HEADER_LEN < 65_536, "the kernel would segment in software");
        let vnet = VnetHeader::parse(frame).unwrap();
        let Classified::Tcp(segment) = classify(frame) else { panic!("an endpoint sent {frame:02x?}") };
        assert!(segment.verify_checksums(), "IPv4 header checksum");
        assert_eq!(vnet.flags, VnetHeader::NEEDS_CSUM);
        assert_eq!(segment.l2, self.config[from].l2);
        let header_len = segment.ip_packet.len() - segment.payload.len();
        let cut =
            if vnet.gso_type == VnetHeader::GSO_NONE { segment.payload.len() } else { usize::from(vnet.gso_size) };
        let payloads: Vec<&[u8]> = if cut == 0 { vec![segment.payload] } else { segment.payload.chunks(cut).collect() };
        self.super_segments += usize::from(payloads.len() > 1);
        if segment.flags.syn() {
            self.syns.push(Wire { to: 1 - from, packet: segment.ip_packet.to_vec() });
        }
        if self.merges {
            self.largest_payload = self.largest_payload.max(cut);
            return self.put(Wire { to: 1 - from, packet: segment.ip_packet.to_vec() });
        }
        let mut seq = segment.seq;
        for (at, payload) in payloads.iter().enumerate() {
            let mut packet = segment.ip_packet[..header_len].to_vec();
            packet.extend_from_slice(payload);
            let counted = (if segment.key.src.is_ipv4() { packet.len() } else { packet.len() - 40 }) as u16;
            let length_at = if segment.key.src.is_ipv4() { 2 } else { 4 };
            packet[length_at..length_at + 2].copy_from_slice(&counted.to_be_bytes());
            packet[segment.tcp_offset + 4..segment.tcp_offset + 8].copy_from_slice(&seq.to_be_bytes());
            if at + 1 < payloads.len() {
                packet[segment.tcp_offset + 13] &= !(TcpFlags::FIN.0 | TcpFlags::PSH.0);
            }
            seq = seq.wrapping_add(payload.len() as u32);
            self.put(Wire { to: 1 - from, packet });
        }
    }

    fn put(&mut self, wire: Wire) {
        let view = wire.view();
        if !self.merges {
            self.largest_payload = self.largest_payload.max(view.payload.len());
        }
        if self.watches {
            self.seen.push((wire.to, view.flags, view.payload.len()));
        }
        if !(self.loses)(&wire) {
            self.sent += 1;
            self.wire.insert((self.now + self.delay, self.sent), wire);
        }
    }

    /// Puts a forged packet in front of an end.
    pub(super) fn inject(&mut self, to: usize, packet: &[u8]) {
        let now = self.now;
        self.end(to).handle_segment(now, packet);
    }

    fn deliver(&mut self, wire: &Wire) {
        let (now, config) = (self.now, self.config[wire.to]);
        match self.ends[wire.to].as_mut() {
            Some(endpoint) => endpoint.handle_segment(now, &wire.packet),
            None => self.ends[wire.to] = Some(Endpoint::accept(config, now, &wire.packet)),
        }
    }

    /// Moves the clock to what is due next and lets it happen. False when nothing is due any more.
    pub(super) fn step(&mut self) -> bool {
        self.steps += 1;
        assert!(self.steps < STEPS_MAX, "stuck: {:?}", self.ends);
        let now = self.now;
        let timers = self.ends.iter_mut().flatten().filter_map(|endpoint| endpoint.poll_timeout(now));
        let Some(next) = timers.chain(self.wire.keys().next().map(|key| key.0)).min() else { return false };
        self.now = next.max(now);
        while let Some(entry) = self.wire.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let wire = entry.remove();
            self.deliver(&wire);
        }
        self.poll(CONNECTING);
        self.poll(ACCEPTING);
        true
    }

    /// Steps until `done`; panics when nothing more would happen.
    pub(super) fn run_until(&mut self, mut done: impl FnMut(&mut Lan) -> bool) {
        while !done(self) {
            let is_asleep = !self.step();
            assert!(!is_asleep || done(self), "asleep: {:?}", self.ends);
        }
    }

    /// Steps until `span` has passed.
    pub(super) fn run_for(&mut self, span: Duration) {
        let end = self.now + span;
        while self.now < end && self.step() {}
        self.now = self.now.max(end);
    }

    /// Both ends up.
    pub(super) fn open(&mut self) {
        self.run_until(|lan| {
            lan.ends.iter().all(|end| end.as_ref().is_some_and(|end| end.state() == super::EndpointState::Open))
        });
    }

    /// A bare packet as the other end of `to` would send it.
    pub(super) fn packet_to(&self, to: usize, flags: TcpFlags, seq: u32, ack: u32) -> Vec<u8> {
        let config = self.config[to];
        let key = FlowKey { vlans: Default::default(), src: config.remote, dst: config.local };
        let fields = super::host_packet::Fields { flags, seq, ack, window: 1000 };
        super::host_packet::HostPackets::new(&key).write(fields, &[]).to_vec()
    }
}
