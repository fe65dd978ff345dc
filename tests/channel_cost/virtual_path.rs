//! Two channels in one thread, no sockets and no kernel.
//!
//! The path is virtual (1 Gbps and 10 Gbps, batches arrive whole, as GRO hands them over), so that figures depend on
//! the code alone; each side's seconds are those of the thread's CPU clock around its calls, less what reading the
//! clock costs.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use longhaul::channel::{Arrival, Channel, ChannelState, Event, PathMtu, ReadState, StreamId};
use longhaul::rate::RateMode;
use longhaul::units::{BitRate, ByteCount, Instant};
use rand::{Rng as _, SeedableRng as _};
use rand_pcg::Pcg64;

use crate::{cpu_nanos, ends};

/// What the relay writes and reads at a time.
const BLOCK: usize = 64 * 1024;

/// IP and UDP headers.
const HEADERS: u64 = 28;

/// What one pair of clock readings costs.
fn clock_cost() -> u64 {
    const TIMES: u64 = 100_000;
    let began = cpu_nanos();
    (0..TIMES).for_each(|_| {
        std::hint::black_box(cpu_nanos());
    });
    (cpu_nanos() - began) / TIMES
}

/// CPU time of one kind of work.
#[derive(Clone, Copy, Default)]
struct Meter {
    nanos: u64,
    calls: u64,
}

impl Meter {
    fn time<R>(&mut self, work: impl FnOnce() -> R) -> R {
        let began = cpu_nanos();
        let result = work();
        self.nanos += cpu_nanos() - began;
        self.calls += 1;
        result
    }

    fn seconds_per_gb(&self, bytes: u64, clock: u64) -> f64 {
        self.nanos.saturating_sub(self.calls * clock) as f64 / bytes as f64
    }
}

#[derive(Clone, Copy, Default)]
struct Meters {
    write: Meter,
    transmit: Meter,
    receive: Meter,
    read: Meter,
    timers: Meter,
}

impl Meters {
    fn all(&self) -> [(&'static str, Meter); 5] {
        [
            ("write", self.write),
            ("transmit", self.transmit),
            ("receive", self.receive),
            ("read", self.read),
            ("timers", self.timers),
        ]
    }
}

/// Datagrams on their way in one direction, in batches.
#[derive(Default)]
struct Pipe {
    batches: VecDeque<(Instant, usize, Vec<u8>)>,
    free: Vec<Vec<u8>>,
    busy_until: Instant,
}

struct Side {
    channel: Channel,
    address: SocketAddr,
    meters: Meters,
    out: Pipe,
}

/// The path and the load.
#[derive(Clone, Copy)]
struct Run {
    rate: BitRate,
    rtt: Duration,
    /// Of this many datagrams one is lost; zero: none.
    one_lost_in: u64,
    streams: usize,
    path_mtu: usize,
}

fn sides(run: &Run) -> [Side; 2] {
    let addresses: [SocketAddr; 2] = [([10, 0, 0, 1], 47000).into(), ([10, 0, 0, 2], 47000).into()];
    std::array::from_fn(|side| {
        let mode = RateMode::Fair { cap: Some(run.rate) };
        let config = ends::channel_config(side, addresses[1 - side], PathMtu::Fixed(run.path_mtu), mode);
        Side {
            channel: Channel::new(config, Instant::ZERO, [side as u8 + 1; 32]),
            address: addresses[side],
            meters: Meters::default(),
            out: Pipe::default(),
        }
    })
}

/// Lets everything leave that may leave now.
fn transmit(side: &mut Side, now: Instant, run: &Run) {
    loop {
        let mut bytes = side.out.free.pop().unwrap_or_default();
        bytes.clear();
        let (channel, meter) = (&mut side.channel, &mut side.meters.transmit);
        let Some(transmit) = meter.time(|| channel.poll_transmit(now, &mut bytes)) else {
            side.out.free.push(bytes);
            return;
        };
        let datagrams = transmit.len.div_ceil(transmit.segment_size) as u64;
        let wire = ByteCount::new(transmit.len as u64 + datagrams * HEADERS);
        side.out.busy_until = side.out.busy_until.max(now) + run.rate.time_for(wire);
        side.out.batches.push_back((side.out.busy_until + run.rtt / 2, transmit.segment_size, bytes));
    }
}

/// Moves `total` bytes from the first side to the second and prints what each side needed.
fn measure(what: &str, run: Run, total: u64) {
    let [mut a, mut b] = sides(&run);
    let mut rng = Pcg64::seed_from_u64(7);
    let mut block = vec![0; BLOCK];
    rng.fill_bytes(&mut block);
    let mut scratch = vec![0; BLOCK];
    let (mut now, mut streams, mut written, mut read) = (Instant::ZERO, Vec::<StreamId>::new(), 0_u64, 0_u64);
    // Start-up, with its allocations, is not what a gigabyte costs.
    let warm = total / 10;
    let (mut warmed, mut from) = (false, 0);
    let mut datagrams = 0_u64;
    let clock = clock_cost();
    while read < total {
        if !warmed && read >= warm {
            (warmed, from) = (true, read);
            (a.meters, b.meters) = (Meters::default(), Meters::default());
        }
        for forward in [true, false] {
            let (sender, receiver) = if forward { (&mut a, &mut b) } else { (&mut b, &mut a) };
            while sender.out.batches.front().is_some_and(|(at, ..)| *at <= now) {
                let Some((_, segment_size, mut bytes)) = sender.out.batches.pop_front() else { break };
                let (channel, meters) = (&mut receiver.channel, &mut receiver.meters);
                let lost: Vec<bool> = bytes
                    .chunks(segment_size)
                    .map(|_| {
                        datagrams += 1;
                        run.one_lost_in > 0 && rng.next_u64() % run.one_lost_in == 0
                    })
                    .collect();
                let arrival = Arrival { from: sender.address, at: now };
                let mut readable = Vec::new();
                meters.receive.time(|| {
                    for (datagram, lost) in bytes.chunks_mut(segment_size).zip(lost) {
                        if !lost {
                            channel.handle_datagram(now, arrival, datagram);
                            while let Some(event) = channel.poll_event() {
                                if let Event::Readable(id) = event
                                    && !readable.contains(&id)
                                {
                                    readable.push(id);
                                }
                            }
                        }
                    }
                });
                sender.out.free.push(bytes);
                for id in readable {
                    meters.read.time(|| {
                        while channel.readable(id) > 0 {
                            let len = std::hint::black_box(channel.peek(id, std::hint::black_box(&mut scratch)));
                            read += len as u64;
                            if channel.consume(id, len) == ReadState::Finished {
                                break;
                            }
                        }
                    });
                }
            }
        }
        for side in [&mut a, &mut b] {
            let (channel, meters) = (&mut side.channel, &mut side.meters);
            meters.timers.time(|| {
                if channel.poll_timeout().is_some_and(|at| at <= now) {
                    channel.handle_timeout(now);
                }
                while channel.poll_event().is_some() {}
            });
        }
        if streams.is_empty() && a.channel.state() == ChannelState::Up {
            streams.extend((0..run.streams).map_while(|_| a.channel.open()));
        }
        let (channel, meters) = (&mut a.channel, &mut a.meters);
        for &id in &streams {
            meters.write.time(|| {
                loop {
                    let taken = channel.write(id, &block);
                    written += taken as u64;
                    if taken < block.len() {
                        break;
                    }
                }
            });
        }
        transmit(&mut a, now, &run);
        transmit(&mut b, now, &run);
        let arrivals = [&a, &b].map(|side| side.out.batches.front().map(|(at, ..)| *at));
        let timeouts = [&a, &b].map(|side| side.channel.poll_timeout());
        let next = arrivals.into_iter().chain(timeouts).flatten().min().expect("something is always due");
        now = next.max(now + Duration::from_micros(1));
        assert!(now < Instant::from_millis(600_000), "it stalled: {read} of {total} bytes read, {written} written");
    }
    let bytes = read - from;
    println!(
        "{what}: {:.0} MB in {:.2} s of virtual time, {datagrams} datagrams",
        read as f64 / 1e6,
        (now - Instant::ZERO).as_secs_f64()
    );
    for (name, side) in [("send", &a), ("receive", &b)] {
        let parts = side.meters.all().map(|(part, meter)| (part, meter.seconds_per_gb(bytes, clock)));
        let sum: f64 = parts.iter().map(|(_, seconds)| seconds).sum();
        let detail: Vec<String> = parts.iter().map(|(part, seconds)| format!("{part} {seconds:.3}")).collect();
        println!("  {name:8} {sum:.3} s/GB  ({})", detail.join(", "));
    }
}

/// Each kind of path once.
pub fn run(total: u64) {
    let clean = Run {
        rate: BitRate::from_mbps(1000),
        rtt: Duration::from_millis(10),
        one_lost_in: 0,
        streams: 1,
        path_mtu: 1500,
    };
    measure("1 Gbps, 10 ms", clean, total);
    measure("1 Gbps, 10 ms, 8 streams", Run { streams: 8, ..clean }, total);
    measure("1 Gbps, 10 ms, 0.1 % loss", Run { one_lost_in: 1000, ..clean }, total);
    measure("1 Gbps, 10 ms, 1 % loss", Run { one_lost_in: 100, ..clean }, total);
    measure("1 Gbps, 100 ms, 1 % loss", Run { one_lost_in: 100, rtt: Duration::from_millis(100), ..clean }, total);
    measure("10 Gbps, 10 ms", Run { rate: BitRate::from_mbps(10_000), ..clean }, total);
    measure("1 Gbps, 10 ms, jumbo", Run { path_mtu: 9000, ..clean }, total);
}
