//! How often the channel asks the allocator for memory: never per datagram once it is warm; and what it holds at rest.
//!
//! A binary of its own, because its allocator counts. Two channels in one process, as in `channel_cost`, over a path of
//! virtual time.

#[path = "support/ends.rs"]
mod ends;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use longhaul::channel::{Arrival, Channel, Event, PathMtu, StreamId};
use longhaul::fec::{self, Shape};
use longhaul::rate::RateMode;
use longhaul::units::{BitRate, ByteCount, Instant};

thread_local! {
    /// Allocations of this thread, and bytes it holds and has held at most.
    static COUNT: Cell<u64> = const { Cell::new(0) };
    static HELD: Cell<i64> = const { Cell::new(0) };
}

/// The system's allocator, and a count per thread.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn note(count: u64, bytes: i64) {
    // A thread that ends has no counters any more.
    let _ = COUNT.try_with(|cell| cell.set(cell.get() + count));
    let _ = HELD.try_with(|cell| cell.set(cell.get() + bytes));
}

// SAFETY: every call is handed to the system's allocator as it came; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(1, layout.size() as i64);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(1, layout.size() as i64);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(1, size as i64 - layout.size() as i64);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(at, layout, size) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        note(0, -(layout.size() as i64));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

/// Resident memory of the process in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn held() -> i64 {
    HELD.with(Cell::get)
}

/// Runs `work` and adds the allocations it made to `to`.
fn counting<R>(to: &mut u64, work: impl FnOnce() -> R) -> R {
    let before = COUNT.with(Cell::get);
    let result = work();
    *to += COUNT.with(Cell::get) - before;
    result
}

const ADDRESSES: [([u8; 4], u16); 2] = [([10, 0, 0, 1], 47000), ([10, 0, 0, 2], 47000)];
static BLOCK: [u8; 65_536] = [7; 65_536];

/// Batches on their way in one direction: when they arrive, the length of their datagrams, and they.
type Pipe = VecDeque<(Instant, usize, Vec<u8>)>;

/// Two channels, and greedy streams from the first to the second.
struct World {
    now: Instant,
    channels: [Channel; 2],
    pipes: [Pipe; 2],
    busy_until: [Instant; 2],
    free: Vec<Vec<u8>>,
    rate: BitRate,
    rtt: Duration,
    /// Of so many datagrams one is lost; zero: none.
    one_lost_in: u64,
    streams: Vec<StreamId>,
    /// Whether they are written.
    writes: bool,
    readable: Vec<StreamId>,
    datagrams: u64,
    read: u64,
    /// Allocations within the channels.
    allocations: u64,
}

impl World {
    fn new(mbps: u64, rtt_ms: u64, one_lost_in: u64) -> World {
        let rate = BitRate::from_mbps(mbps);
        let channel = |side: usize| {
            let peer = SocketAddr::from(ADDRESSES[1 - side]);
            let mode = RateMode::Fair { cap: Some(rate) };
            let config = ends::channel_config(side, peer, PathMtu::Fixed(1500), mode);
            Channel::new(config, Instant::ZERO, [side as u8 + 1; 32])
        };
        World {
            now: Instant::ZERO,
            channels: [channel(0), channel(1)],
            pipes: [Pipe::new(), Pipe::new()],
            busy_until: [Instant::ZERO; 2],
            free: Vec::new(),
            rate,
            rtt: Duration::from_millis(rtt_ms),
            one_lost_in,
            streams: Vec::new(),
            writes: true,
            readable: Vec::new(),
            datagrams: 0,
            read: 0,
            allocations: 0,
        }
    }

    /// Opens streams as soon as both ends are up.
    fn open(&mut self, count: usize) {
        while !self.channels.iter().all(Channel::is_up) {
            self.step();
        }
        self.streams.extend((0..count).map_while(|_| self.channels[0].open()));
        assert_eq!(self.streams.len(), count);
    }

    fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.step();
        }
    }

    fn step(&mut self) {
        for to in 0..2 {
            self.deliver(to);
            let (channel, now) = (&mut self.channels[to], self.now);
            counting(&mut self.allocations, || {
                if channel.poll_timeout().is_some_and(|at| at <= now) {
                    channel.handle_timeout(now);
                }
                while channel.poll_event().is_some() {}
            });
        }
        let channel = &mut self.channels[0];
        for &id in self.streams.iter().filter(|_| self.writes) {
            while counting(&mut self.allocations, || channel.write(id, &BLOCK)) == BLOCK.len() {}
        }
        self.transmit(0);
        self.transmit(1);
        let arrivals = self.pipes.each_ref().map(|pipe| pipe.front().map(|(at, ..)| *at));
        let timeouts = self.channels.each_ref().map(Channel::poll_timeout);
        let next = arrivals.into_iter().chain(timeouts).flatten().min().expect("something is always due");
        self.now = next.max(self.now + Duration::from_micros(1));
    }

    fn deliver(&mut self, to: usize) {
        let (channel, now) = (&mut self.channels[to], self.now);
        let from = SocketAddr::from(ADDRESSES[1 - to]);
        while self.pipes[1 - to].front().is_some_and(|(at, ..)| *at <= now) {
            let Some((_, segment_size, mut bytes)) = self.pipes[1 - to].pop_front() else { return };
            for datagram in bytes.chunks_mut(segment_size) {
                self.datagrams += 1;
                // Every so manyth, but not the same of every batch.
                if self.one_lost_in > 0 && self.datagrams.is_multiple_of(self.one_lost_in) {
                    continue;
                }
                counting(&mut self.allocations, || channel.handle_datagram(now, Arrival { from, at: now }, datagram));
                while let Some(event) = counting(&mut self.allocations, || channel.poll_event()) {
                    if let Event::Readable(id) = event {
                        self.readable.push(id);
                    }
                }
            }
            self.free.push(bytes);
            for id in self.readable.drain(..) {
                let len = channel.readable(id);
                self.read += len as u64;
                counting(&mut self.allocations, || channel.consume(id, len));
            }
        }
    }

    fn transmit(&mut self, from: usize) {
        loop {
            let mut bytes = self.free.pop().unwrap_or_default();
            bytes.clear();
            // So that it is not the caller's buffer whose growth is counted.
            bytes.reserve(70_000);
            let (channel, now) = (&mut self.channels[from], self.now);
            let sent = counting(&mut self.allocations, || channel.poll_transmit(now, &mut bytes));
            let Some(sent) = sent else { return self.free.push(bytes) };
            let left = &mut self.busy_until[from];
            *left = (*left).max(now) + self.rate.time_for(ByteCount::new(sent.len as u64));
            self.pipes[from].push_back((*left + self.rtt / 2, sent.segment_size, bytes));
        }
    }

    /// Allocations per 1000 datagrams in the time that follows.
    fn allocations_per_1000(&mut self, time: Duration) -> f64 {
        let (datagrams, allocations) = (self.datagrams, self.allocations);
        self.run(time);
        (self.allocations - allocations) as f64 * 1000.0 / (self.datagrams - datagrams) as f64
    }

    /// Bytes that both channels have of the allocator, if `before` were held before the world was made.
    fn given(&self, before: i64) -> u64 {
        let batches = self.pipes.iter().flatten().map(|(_, _, bytes)| bytes);
        let outside: usize = self.free.iter().chain(batches).map(Vec::capacity).sum();
        let queues: usize =
            self.pipes.iter().map(|pipe| pipe.capacity() * size_of::<(Instant, usize, Vec<u8>)>()).sum();
        (held() - before) as u64 - (outside + queues) as u64
    }

    fn memory(&self) -> [u64; 2] {
        self.channels.each_ref().map(|channel| channel.stats().memory.as_u64())
    }
}

/// Has the tables made that repair symbols take once in a process, whichever session needs them first.
fn make_repair_tables() {
    let shape = Shape { blocks: 2, symbols: 2, len: 64 };
    let block = [1; 64];
    let symbols = fec::encode(shape, [&block[..], &block]).expect("a code");
    let symbols = symbols.iter().enumerate().map(|(index, symbol)| (index, &symbol[..]));
    assert!(fec::recover(shape, [], symbols).is_some());
}

#[test]
fn a_warm_channel_allocates_nothing_per_datagram() {
    for (streams, one_lost_in, most) in [(1, 0, 1.0), (8, 0, 1.0), (1, 1000, 2.0), (1, 100, 5.0)] {
        let mut world = World::new(200, 20, one_lost_in);
        world.open(streams);
        world.run(Duration::from_secs(3));
        let allocations = world.allocations_per_1000(Duration::from_secs(2));
        println!("{streams} streams, one lost in {one_lost_in}: {allocations:.2} allocations per 1000 datagrams");
        assert!(allocations <= most, "{streams} streams, one lost in {one_lost_in}: {allocations:.2}");
    }
}

#[test]
fn what_the_gauge_says_is_what_the_allocator_gave() {
    let before = held();
    let mut world = World::new(200, 40, 500);
    world.open(4);
    for _ in 0..10 {
        world.run(Duration::from_millis(200));
        let (told, given) = (world.memory().iter().sum::<u64>(), world.given(before));
        println!("{told} bytes told, {given} given");
        assert!(given < told + 256 * 1024 && told < given + 64 * 1024, "{told} bytes told, {given} given");
    }
}

#[test]
fn a_session_at_rest_holds_little_and_a_burst_is_given_back() {
    let tables = held();
    make_repair_tables();
    let before = held();
    assert!(before - tables < 768 * 1024, "{} bytes of tables for repair symbols", before - tables);
    let mut world = World::new(500, 100, 100);
    world.open(1);
    let started = world.given(before) / 2;
    world.run(Duration::from_secs(2));
    let (busy, resident) = (world.memory(), resident());
    world.writes = false;
    world.run(Duration::from_secs(5));
    let rest = world.memory();
    println!(
        "a session begins with {started} bytes, holds {busy:?} busy and {rest:?} at rest; resident {resident} and {} KiB",
        self::resident()
    );
    assert!(started < 128 * 1024, "{started}");
    assert!(busy.iter().all(|held| *held > 4 << 20), "{busy:?}");
    assert!(rest.iter().all(|held| *held < 64 * 1024), "{rest:?}");
    assert!(world.given(before) < 512 * 1024, "{}", world.given(before));
    assert!(world.read > 20_000_000);
}
