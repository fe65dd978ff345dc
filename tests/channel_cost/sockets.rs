//! Two threads with a UDP socket each on loopback, the kernel's share included: the channel, and beside it sealed
//! datagrams without any protocol, which is what nothing that seals can be cheaper than.
//!
//! Both send 1452-byte datagrams at 1 Gbps in segmented batches, and receive what has gathered once per millisecond. The
//! kernel hands a datagram on loopback over within the sender's call, so that way is the sender's cost, as on a veth.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use longhaul::channel::{Arrival, Channel, Event, PathMtu, StreamId};
use longhaul::io::{Clock, UdpChannelSocket};
use longhaul::rate::RateMode;
use longhaul::units::{BitRate, ByteCount, Instant};
use rand::{Rng as _, SeedableRng as _};
use rand_pcg::Pcg64;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use crate::{cpu_nanos, ends};

/// What one wake-up brings at most once per.
const PAUSE: Duration = Duration::from_millis(1);
/// Datagrams of one batch, and their length.
const BATCH: usize = 44;
const DATAGRAM: usize = 1452;
const TAG: usize = 16;
/// IP and UDP headers.
const HEADERS: usize = 28;
/// What the relay writes and reads at a time.
const BLOCK: usize = 64 * 1024;
/// A run that takes longer has stalled.
const LIMIT: Duration = Duration::from_secs(120);

fn rate() -> BitRate {
    BitRate::from_mbps(1000)
}

/// How far a run is, for both of its threads.
#[derive(Default)]
struct Progress {
    received: AtomicU64,
    done: AtomicBool,
}

impl Progress {
    fn add(&self, bytes: usize, total: u64) {
        let received = self.received.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
        if received >= total {
            self.done.store(true, Ordering::Relaxed);
        }
    }

    fn is_done(&self) -> bool {
        self.done.load(Ordering::Relaxed)
    }
}

/// CPU time from the tenth part on: start-up, with its allocations, is not what a gigabyte costs.
#[derive(Default)]
struct Meter {
    from: Option<(u64, u64)>,
}

impl Meter {
    fn observe(&mut self, progress: &Progress, total: u64) {
        let received = progress.received.load(Ordering::Relaxed);
        if self.from.is_none() && received >= total / 10 {
            self.from = Some((cpu_nanos(), received));
        }
    }

    fn seconds_per_gb(&self, progress: &Progress) -> f64 {
        let (nanos, bytes) = self.from.expect("the run was long enough");
        (cpu_nanos() - nanos) as f64 / (progress.received.load(Ordering::Relaxed) - bytes) as f64
    }
}

/// What both sides needed, in seconds per GB.
#[derive(Clone, Copy)]
struct Cost {
    send: f64,
    receive: f64,
}

fn sockets() -> [(UdpChannelSocket, SocketAddr); 2] {
    std::array::from_fn(|_| {
        let socket = UdpChannelSocket::bind(([127, 0, 0, 1], 0).into()).expect("loopback");
        let address = socket.local_addr().expect("bound");
        (socket, address)
    })
}

fn noise() -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    Pcg64::seed_from_u64(7).fill_bytes(&mut block);
    block
}

fn key() -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32]).expect("32 bytes"))
}

fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

/// Sealed datagrams and nothing else.
fn without_protocol(total: u64) -> Cost {
    let progress = &Progress::default();
    let [(mut sender, _), (mut receiver, to)] = sockets();
    thread::scope(|scope| {
        let send = scope.spawn(move || {
            let (key, block, mut meter, mut out) = (key(), noise(), Meter::default(), Vec::new());
            let began = Clock.now();
            let mut due = began;
            while !progress.is_done() {
                out.clear();
                for at in 0..BATCH {
                    let start = out.len();
                    out.extend_from_slice(&block[at * 64..][..DATAGRAM - TAG]);
                    let tag = key.seal_in_place_separate_tag(nonce(), Aad::empty(), &mut out[start..]).expect("short");
                    out.extend_from_slice(tag.as_ref());
                }
                sender.try_send(to, DATAGRAM, &out).expect("room");
                meter.observe(progress, total);
                due += rate().time_for(ByteCount::from(BATCH * (DATAGRAM + HEADERS)));
                Clock.sleep_until(due);
                assert!(Clock.now() - began < LIMIT, "it stalled");
            }
            meter.seconds_per_gb(progress)
        });
        let receive = scope.spawn(move || {
            let (key, mut meter) = (key(), Meter::default());
            while !progress.is_done() {
                while receiver
                    .try_recv(|_, _, datagram| {
                        let opened = key.open_in_place(nonce(), Aad::empty(), datagram).expect("authentic");
                        progress.add(opened.len(), total);
                    })
                    .is_ok()
                {}
                meter.observe(progress, total);
                Clock.sleep_until(Clock.now() + PAUSE);
            }
            meter.seconds_per_gb(progress)
        });
        Cost { send: send.join().expect("sender"), receive: receive.join().expect("receiver") }
    })
}

/// One end of a channel with its socket.
struct End {
    channel: Channel,
    socket: UdpChannelSocket,
    stream: Option<StreamId>,
    block: Vec<u8>,
    out: Vec<u8>,
}

impl End {
    fn new(side: usize, socket: UdpChannelSocket, peer: SocketAddr, now: Instant) -> Self {
        let mode = RateMode::Fair { cap: Some(rate()) };
        let config = ends::channel_config(side, peer, PathMtu::Fixed(DATAGRAM + HEADERS), mode);
        let channel = Channel::new(config, now, [side as u8 + 1; 32]);
        End { channel, socket, stream: None, block: noise(), out: Vec::new() }
    }

    /// Takes what has arrived; returns the bytes of the stream in it.
    fn receive(&mut self) -> usize {
        let End { channel, socket, block, .. } = self;
        while socket
            .try_recv(|from, at, datagram| channel.handle_datagram(Clock.now(), Arrival { from, at }, datagram))
            .is_ok()
        {}
        let mut bytes = 0;
        while let Some(event) = channel.poll_event() {
            if let Event::Readable(id) = event {
                while channel.readable(id) > 0 {
                    let len = channel.peek(id, block);
                    channel.consume(id, len);
                    bytes += len;
                }
            }
        }
        bytes
    }

    /// Writes what the channel takes, and lets everything leave that may.
    fn send(&mut self, writes: bool) {
        let now = Clock.now();
        if self.channel.poll_timeout().is_some_and(|at| at <= now) {
            self.channel.handle_timeout(now);
        }
        if writes {
            self.stream = self.stream.or_else(|| self.channel.open());
            if let Some(id) = self.stream {
                while self.channel.write(id, &self.block) == self.block.len() {}
            }
        }
        self.out.clear();
        while let Some(transmit) = self.channel.poll_transmit(Clock.now(), &mut self.out) {
            self.socket.try_send(transmit.destination, transmit.segment_size, &self.out).expect("room");
            self.out.clear();
        }
    }

    fn sleep(&self) {
        let pause = Clock.now() + PAUSE;
        Clock.sleep_until(self.channel.poll_timeout().map_or(pause, |at| at.min(pause)));
    }
}

/// The same through a channel.
fn with_channel(total: u64) -> Cost {
    let progress = &Progress::default();
    let [(socket_a, address_a), (socket_b, address_b)] = sockets();
    let began = Clock.now();
    thread::scope(|scope| {
        let send = scope.spawn(move || {
            let (mut end, mut meter) = (End::new(0, socket_a, address_b, began), Meter::default());
            while !progress.is_done() {
                end.receive();
                end.send(true);
                meter.observe(progress, total);
                end.sleep();
                assert!(Clock.now() - began < LIMIT, "it stalled");
            }
            meter.seconds_per_gb(progress)
        });
        let receive = scope.spawn(move || {
            let (mut end, mut meter) = (End::new(1, socket_b, address_a, began), Meter::default());
            while !progress.is_done() {
                progress.add(end.receive(), total);
                end.send(false);
                meter.observe(progress, total);
                end.sleep();
            }
            meter.seconds_per_gb(progress)
        });
        Cost { send: send.join().expect("sender"), receive: receive.join().expect("receiver") }
    })
}

/// Three of each, in turn, and their medians: a machine is faster at one time than at another.
pub fn run(total: u64) {
    let runs: Vec<[Cost; 2]> = (0..3).map(|_| [without_protocol(total), with_channel(total)]).collect();
    let median = |of: &dyn Fn(&[Cost; 2]) -> f64| {
        let mut values: Vec<f64> = runs.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    println!("1 Gbps on loopback, kernel included, s/GB, medians of {}", runs.len());
    for (what, at) in [("no protocol", 0), ("channel", 1)] {
        let (send, receive) = (median(&|costs| costs[at].send), median(&|costs| costs[at].receive));
        println!("  {what:12} send {send:.3}  receive {receive:.3}");
    }
    let (send, receive) =
        (median(&|costs| costs[1].send / costs[0].send), median(&|costs| costs[1].receive / costs[0].receive));
    println!("  {:12} send {send:.2}x  receive {receive:.2}x", "ratio");
}
