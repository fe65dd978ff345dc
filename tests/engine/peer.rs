//! A peer that does not keep to the protocol: its host's connection gets an error, never a clean end or a silence.

use std::time::Duration;

use longhaul::channel::{Arrival, Channel, Event, StreamId};
use longhaul::engine::{Engine, EngineConfig, Limits};
use longhaul::frame::{Classified, Port, TcpFlags, classify};
use longhaul::units::Instant;

use crate::segments::{key, l2, segment, syn};
use crate::world::{address, channel_config, mirrored_rules};

/// An engine, and in place of its peer a bare channel.
struct Pair {
    now: Instant,
    engine: Engine,
    peer: Channel,
    events: Vec<Event>,
    /// Flags, sequence and acknowledgement numbers and payload lengths of what the engine's host got.
    to_host: Vec<(TcpFlags, u32, u32, usize)>,
}

impl Pair {
    fn new() -> Self {
        let now = Instant::from_millis(1);
        let engine = EngineConfig {
            rules: mirrored_rules(),
            channel: Some(channel_config(0)),
            lan_mtu: 1500,
            limits: Limits::default(),
        };
        let mut pair = Pair {
            now,
            engine: Engine::new(engine, now, [7; 32]),
            peer: Channel::new(channel_config(1), now, [8; 32]),
            events: Vec::new(),
            to_host: Vec::new(),
        };
        pair.run(3_000);
        assert!(pair.peer.is_up());
        pair
    }

    fn run(&mut self, millis: u64) {
        let end = self.now + Duration::from_millis(millis);
        let mut out = Vec::new();
        while self.now < end {
            self.engine.handle_timeout(self.now);
            self.peer.handle_timeout(self.now);
            while let Some((port, frame)) = self.engine.poll_frame() {
                if let (Port::Lan, Classified::Tcp(segment)) = (port, classify(&frame)) {
                    self.to_host.push((segment.flags, segment.seq, segment.ack, segment.payload.len()));
                }
            }
            out.clear();
            while let Some(transmit) = self.engine.poll_transmit(self.now, &mut out) {
                for datagram in out.chunks_mut(transmit.segment_size) {
                    self.peer.handle_datagram(self.now, Arrival { from: address(0), at: self.now }, datagram);
                }
                out.clear();
            }
            while let Some(transmit) = self.peer.poll_transmit(self.now, &mut out) {
                for datagram in out.chunks_mut(transmit.segment_size) {
                    self.engine.handle_datagram(self.now, Arrival { from: address(1), at: self.now }, datagram);
                }
                out.clear();
            }
            self.events.extend(std::iter::from_fn(|| self.peer.poll_event()));
            self.now += Duration::from_millis(1);
        }
    }

    fn say_as_host(&mut self, flags: TcpFlags, seq: u32, ack: u32) {
        let frame = segment(&l2(), &key(40_000), flags, (seq, ack), &[], &[]);
        self.engine.handle_frame(self.now, Port::Lan, &frame);
    }

    /// The host connects and the peer accepts; the stream, and the engine's next sequence number.
    fn open(&mut self) -> (StreamId, u32) {
        self.engine.handle_frame(self.now, Port::Lan, &syn(40_000, 1000, &[]));
        self.run(5);
        let opened = self.events.iter().find_map(|event| match event {
            Event::Opened(stream) => Some(*stream),
            _ => None,
        });
        let stream = opened.expect("the engine asks its peer");
        // Trying; opened: MSS and the header that reaches the host.
        let mut answer = vec![2, 0, 0, 3, 0, 0, 5, 0xb4];
        l2().encode(&mut answer);
        answer[5] = (answer.len() - 6) as u8;
        assert_eq!(self.peer.write(stream, &answer), answer.len());
        self.run(5);
        let (flags, isn, ack, _) = self.to_host.pop().expect("a SYN-ACK");
        assert!(flags.syn() && flags.ack() && ack == 1001);
        self.say_as_host(TcpFlags::ACK, 1001, isn.wrapping_add(1));
        (stream, isn.wrapping_add(1))
    }

    fn host_was_reset(&self) -> bool {
        self.to_host.iter().any(|(flags, ..)| flags.rst())
    }

    fn host_saw_the_end(&self) -> bool {
        self.to_host.iter().any(|(flags, ..)| flags.fin())
    }
}

/// A stored block of 4 bytes.
const BLOCK: [u8; 8] = [1, 0, 0, 4, b'a', b'b', b'c', b'd'];

#[test]
fn a_stream_that_ends_inside_a_block_or_without_a_mark_resets_the_host() {
    for cut in [1, 3, 4, 7, 8] {
        let mut pair = Pair::new();
        let (stream, _) = pair.open();
        pair.peer.write(stream, &BLOCK[..cut]);
        pair.run(50);
        assert!(!pair.host_was_reset(), "more may come");
        pair.peer.finish(stream);
        pair.run(50);
        assert!(pair.host_was_reset() && !pair.host_saw_the_end(), "cut at {cut}");
        assert_eq!(pair.engine.counters().peer_faults, 1);
        assert!(pair.events.iter().any(|event| matches!(event, Event::Reset(..))));
        assert_eq!(pair.engine.status(0).flows.len(), 0);
    }
}

#[test]
fn a_block_that_is_none_resets_the_host() {
    for block in [&[9u8, 0, 0, 1, 0][..], &[1, 0, 0, 0], &[1, 0xff, 0xff, 0xff], &[2, 0, 0, 5, 0xff, 0xff, 0xff, 0, 0]]
    {
        let mut pair = Pair::new();
        let (stream, _) = pair.open();
        pair.peer.write(stream, block);
        pair.run(50);
        assert!(pair.host_was_reset(), "{block:?}");
        assert_eq!(pair.engine.counters().peer_faults, 1);
    }
}

#[test]
fn the_stream_is_finished_only_when_the_host_has_acknowledged_the_end() {
    let mut pair = Pair::new();
    let (stream, next) = pair.open();
    pair.peer.write(stream, &BLOCK);
    pair.peer.write(stream, &[0]);
    pair.say_as_host(TcpFlags::FIN.union(TcpFlags::ACK), 1001, next);
    pair.run(50);
    pair.say_as_host(TcpFlags::ACK, 1002, next.wrapping_add(4));
    pair.run(50);
    assert!(pair.host_saw_the_end() && !pair.host_was_reset());
    let mut sent = [0xff; 400];
    let len = pair.peer.peek(stream, &mut sent);
    assert_eq!(sent[len - 1], 0, "the mark of the host's end");
    assert!(!pair.peer.is_ended(stream), "the host has not acknowledged our FIN");
    pair.say_as_host(TcpFlags::ACK, 1002, next.wrapping_add(5));
    pair.run(50);
    assert!(pair.peer.is_ended(stream));
    assert_eq!(pair.engine.status(0).flows.len(), 0);
    assert_eq!(pair.engine.counters().flows_finished, 1);
}
