//! One bottleneck for several senders: sessions of our own, and CUBIC senders beside them.
//!
//! `cargo test --release --test sim -- --ignored sharing_table --nocapture` prints the whole table; `SIM_APART` =
//! milliseconds from one session's beginning to the next one's, `SIM_CUBICS` = how many CUBIC senders are beside them,
//! `SIM_CUBIC_AT` = when the first of them begins, in milliseconds, `SIM_LOAD` = how busy the machines are, `SIM_SECONDS`
//! = how long it lasts.

use std::time::Duration;

use longhaul::channel::{Arrival, Channel, Event, PathMtu, StreamId};
use longhaul::units::{BitRate, ByteCount, Instant};
use longhaul::wan::Link;

use crate::agenda::Agenda;
use crate::cubic::{Cubic, PACKET};
use crate::identity::End;
use crate::machine::{Load, Machine};
use crate::path::{DATAGRAM_OVERHEAD, PathSpec};
use crate::settings;

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);
/// Wire bytes of a bare acknowledgement.
const ACK: u32 = 66;
/// Bytes written and read at a time.
const CHUNK: usize = 64 * 1024;

/// Who shares what, and from when on.
#[derive(Clone, Debug)]
struct Sharing {
    path: PathSpec,
    seed: u64,
    /// When each session begins.
    sessions: Vec<Duration>,
    /// When each CUBIC sender begins.
    cubics: Vec<Duration>,
    /// How busy the machines of all of them are, and the emulator's.
    load: Load,
    /// Measured from here on.
    settle: Duration,
    duration: Duration,
    /// Print a line of gauges this often.
    trace: Option<Duration>,
}

/// What each had of the line while it was measured, wire bytes per second.
#[derive(Debug)]
struct Parts {
    sessions: Vec<BitRate>,
    cubics: Vec<BitRate>,
    queue_mean: Duration,
}

impl Parts {
    fn all(&self) -> impl Iterator<Item = f64> {
        self.sessions.iter().chain(&self.cubics).map(|rate| rate.as_bps() as f64)
    }

    /// Jain's index: 1 where all have the same.
    fn jain(&self) -> f64 {
        let (sum, squares): (f64, f64) = (self.all().sum(), self.all().map(|part| part * part).sum());
        sum * sum / (self.all().count() as f64 * squares)
    }
}

/// One session: both of its channels.
struct Session {
    begins: Duration,
    channels: [Channel; 2],
    machines: [Machine; 2],
    /// What has arrived and waits for the machine.
    sockets: [Vec<(Instant, Vec<u8>)>; 2],
    /// When there is something to do, and when the machine gets to it.
    deadlines: [Option<Instant>; 2],
    wakes: [Option<Instant>; 2],
    stream: Option<StreamId>,
    delivered: u64,
    before: u64,
}

/// Whose it is, and what.
enum Crossing {
    Datagram(usize, End, Vec<u8>),
    Packet(usize, u64),
    Ack(usize, u64),
}

/// How far it has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The emulator has the core, and puts it on the line.
    Offered,
    /// The line has delivered it, and it waits for the emulator again.
    Delivered,
    /// Is there, and waits for the host.
    Arrived,
    /// The host has the core to handle it.
    Handled,
}

/// A CUBIC sender and the machine it runs on.
struct Neighbour {
    begins: Duration,
    cubic: Cubic,
    machine: Machine,
}

struct Rig {
    now: Instant,
    lines: [Link; 2],
    sessions: Vec<Session>,
    cubics: Vec<Neighbour>,
    emulator: Machine,
    agenda: Agenda<(Stage, Crossing)>,
    chunk: Vec<u8>,
    transmit: Vec<u8>,
}

fn run(spec: &Sharing) -> Parts {
    let session = |(number, begins): (usize, &Duration)| {
        let at = Instant::ZERO + *begins;
        let channel =
            |end: End| Channel::new(end.channel_config(PathMtu::Fixed(1500)), at, end.seed(spec.seed, number as u64));
        Session {
            begins: *begins,
            channels: End::BOTH.map(channel),
            machines: End::BOTH
                .map(|end| Machine::new(spec.load, spec.seed, 1 + 2 * number as u64 + end.index() as u64)),
            sockets: [Vec::new(), Vec::new()],
            deadlines: [Some(at); 2],
            wakes: [None; 2],
            stream: None,
            delivered: 0,
            before: 0,
        }
    };
    let mut rig = Rig {
        now: Instant::ZERO,
        lines: spec.path.links(spec.seed),
        sessions: spec.sessions.iter().enumerate().map(session).collect(),
        cubics: spec
            .cubics
            .iter()
            .zip(0..)
            .map(|(begins, number)| Neighbour {
                begins: *begins,
                cubic: Cubic::new(Instant::ZERO + *begins),
                machine: Machine::new(spec.load, spec.seed, 100 + number),
            })
            .collect(),
        emulator: Machine::new(spec.load, spec.seed, 0),
        agenda: Agenda::default(),
        chunk: vec![0; CHUNK],
        transmit: Vec::new(),
    };
    while rig.now < Instant::ZERO + spec.settle {
        rig.run_to(rig.now + spec.trace.unwrap_or(spec.settle));
        if spec.trace.is_some() {
            rig.print_trace();
        }
    }
    let before: Vec<u64> = rig.cubics.iter().map(|neighbour| neighbour.cubic.delivered).collect();
    rig.sessions.iter_mut().for_each(|session| session.before = session.delivered);
    let (mut queue, mut samples) = (Duration::ZERO, 0);
    let mut next_trace = spec.trace.map(|every| rig.now + every);
    while rig.now < Instant::ZERO + spec.duration {
        rig.run_to(rig.now + MS);
        if next_trace.is_some_and(|at| at <= rig.now) {
            rig.print_trace();
            next_trace = spec.trace.map(|every| rig.now + every);
        }
        queue += rig.lines[0].queue_delay(rig.now);
        samples += 1;
    }
    let lasts = spec.duration - spec.settle;
    let rate = |bytes: u64| BitRate::from_transfer(ByteCount::new(bytes), lasts);
    Parts {
        sessions: rig.sessions.iter().map(|session| rate((session.delivered - session.before) * 1514 / 1440)).collect(),
        cubics: rig
            .cubics
            .iter()
            .zip(before)
            .map(|(neighbour, then)| rate((neighbour.cubic.delivered - then) * u64::from(PACKET)))
            .collect(),
        queue_mean: queue / samples,
    }
}

impl Neighbour {
    /// When it begins, or when silence means something.
    fn due(&self) -> Instant {
        self.cubic.poll_timeout().unwrap_or(Instant::ZERO + self.begins)
    }
}

impl Rig {
    fn run_to(&mut self, until: Instant) {
        loop {
            let own = self
                .sessions
                .iter()
                .flat_map(|session| End::BOTH.map(|end| session.wakes[end.index()].or(session.deadlines[end.index()])));
            let cubics = self.cubics.iter().map(Neighbour::due);
            let next =
                own.flatten().chain(cubics).chain(self.agenda.next_at()).min().map_or(until, |at| at.max(self.now));
            if next >= until {
                self.now = until;
                return;
            }
            self.now = next;
            self.step();
        }
    }

    fn print_trace(&self) {
        print!("{:>7.3} s, queue {:>6.2?}:", self.now.as_micros() as f64 / 1e6, self.lines[0].queue_delay(self.now));
        for session in &self.sessions {
            let stats = session.channels[0].stats();
            let phase = stats.phase.map_or_else(String::new, |phase| format!("{phase:?}"));
            let (rate, sees) = (stats.delivery_rate.as_bps() as f64 / 1e6, stats.queue.as_secs_f64() * 1e3);
            let (min, own) = (stats.min_rtt.unwrap_or_default(), stats.own_loss_permille);
            print!(
                " | {rate:>5.1} x{:.2} {phase:.5} min {:.1} sees {sees:.1} own {own}",
                stats.pacing_rate.as_bps() as f64 / 1e6 / rate,
                min.as_secs_f64() * 1e3
            );
        }
        for neighbour in &self.cubics {
            print!(" | CUBIC {:.0}", neighbour.cubic.window());
        }
        println!();
    }

    fn step(&mut self) {
        let now = self.now;
        while let Some((stage, crossing)) = self.agenda.pop_due(now) {
            self.cross(stage, crossing);
        }
        for at in 0..self.sessions.len() {
            for end in End::BOTH {
                self.wake(at, end);
            }
        }
        for at in 0..self.cubics.len() {
            if self.cubics[at].due() <= now {
                self.cubics[at].cubic.on_timeout(now);
                self.send_cubic(at);
            }
        }
    }

    /// Takes one thing from one stage to the next. What waits for the same machine stays in order.
    fn cross(&mut self, stage: Stage, crossing: Crossing) {
        let now = self.now;
        match (stage, crossing) {
            (Stage::Offered, crossing) => self.offer(crossing),
            (Stage::Delivered, crossing) => self.agenda.push(self.emulator.wakes(now), (Stage::Arrived, crossing)),
            (_, Crossing::Datagram(at, to, datagram)) => {
                self.sessions[at].sockets[to.index()].push((now, datagram));
                self.sessions[at].deadlines[to.index()] = Some(now);
            }
            (_, Crossing::Packet(at, number)) => self.send(Crossing::Ack(at, number)),
            (Stage::Arrived, Crossing::Ack(at, number)) => {
                self.agenda.push(self.cubics[at].machine.wakes(now), (Stage::Handled, Crossing::Ack(at, number)));
            }
            (Stage::Handled, Crossing::Ack(at, number)) => {
                self.cubics[at].cubic.on_ack(now, number);
                self.send_cubic(at);
            }
        }
    }

    /// Hands one thing to the emulator.
    fn send(&mut self, crossing: Crossing) {
        self.agenda.push(self.emulator.wakes(self.now), (Stage::Offered, crossing));
    }

    /// Puts one thing on the line.
    fn offer(&mut self, crossing: Crossing) {
        let (from, len) = match &crossing {
            Crossing::Datagram(_, to, datagram) => (to.other(), (datagram.len() + DATAGRAM_OVERHEAD) as u32),
            Crossing::Packet(..) => (End::A, PACKET),
            Crossing::Ack(..) => (End::B, ACK),
        };
        if let Some(due) = self.lines[from.index()].offer(self.now, len).delivery() {
            self.agenda.push(due, (Stage::Delivered, crossing));
        }
    }

    /// Lets one end of a session handle what has arrived or is due, when its machine gets to it.
    fn wake(&mut self, at: usize, end: End) {
        let (now, index) = (self.now, end.index());
        let session = &mut self.sessions[at];
        if session.wakes[index].is_none() && session.deadlines[index].is_some_and(|due| due <= now) {
            session.wakes[index] = Some(session.machines[index].wakes(now));
        }
        if session.wakes[index].is_some_and(|due| due <= now) {
            session.wakes[index] = None;
            for (arrived, mut datagram) in std::mem::take(&mut session.sockets[index]) {
                let arrival = Arrival { from: end.other().address(), at: arrived };
                session.channels[index].handle_datagram(now, arrival, &mut datagram);
            }
            if session.channels[index].poll_timeout().is_some_and(|due| due <= now) {
                session.channels[index].handle_timeout(now);
            }
            self.pump(at, end);
        }
    }

    fn send_cubic(&mut self, at: usize) {
        while let Some(number) = self.cubics[at].cubic.poll(self.now) {
            self.send(Crossing::Packet(at, number));
        }
    }

    /// Events, reads, writes and datagrams of one end, until it has nothing more to say.
    fn pump(&mut self, at: usize, end: End) {
        let now = self.now;
        loop {
            let session = &mut self.sessions[at];
            let channel = &mut session.channels[end.index()];
            while let Some(event) = channel.poll_event() {
                match event {
                    Event::Up if end == End::A => session.stream = channel.open(),
                    Event::Readable(id) => loop {
                        let len = channel.peek(id, &mut self.chunk);
                        channel.consume(id, len);
                        session.delivered += len as u64;
                        if len < CHUNK {
                            break;
                        }
                    },
                    Event::Down(reason) => panic!("session {at} lost at {now:?}: {reason:?}"),
                    _ => {}
                }
            }
            if let Some(id) = session.stream.filter(|_| end == End::A) {
                while channel.write(id, &self.chunk[..channel.writable(id).clamp(1, CHUNK)]) > 1 {}
            }
            let mut any = false;
            loop {
                self.transmit.clear();
                let Some(batch) = self.sessions[at].channels[end.index()].poll_transmit(now, &mut self.transmit) else {
                    break;
                };
                any = true;
                let sent = std::mem::take(&mut self.transmit);
                for datagram in sent.chunks(batch.segment_size) {
                    self.send(Crossing::Datagram(at, end.other(), datagram.to_vec()));
                }
                self.transmit = sent;
            }
            if !any {
                break;
            }
        }
        let session = &mut self.sessions[at];
        let channel = &session.channels[end.index()];
        session.deadlines[end.index()] = channel.poll_timeout().map(|due| due.max(Instant::ZERO + session.begins));
    }
}

/// `sessions` that begin within the first second, over `path` for 30 s, measured over the last 20.
fn sharing(path: PathSpec, sessions: u32) -> Sharing {
    let sessions = (0..sessions).map(|number| 170 * MS * number).collect();
    Sharing {
        path,
        seed: 1,
        sessions,
        cubics: Vec::new(),
        load: Load::None,
        settle: 10 * SECOND,
        duration: 30 * SECOND,
        trace: None,
    }
}

fn path(mbps: u64, rtt_ms: u32, queue_bdp: f64) -> PathSpec {
    PathSpec::new(BitRate::from_mbps(mbps), rtt_ms * MS, queue_bdp)
}

#[test]
#[ignore = "prints a table for the engineer"]
fn sharing_table() {
    let mbps = settings::value("SIM_RATE", 100);
    let rtts: Vec<u32> = settings::list("SIM_RTT", &[12, 50]);
    let counts: Vec<u32> = settings::list("SIM_SESSIONS", &[2, 4, 8]);
    let queues: Vec<f64> = settings::list("SIM_QUEUE", &[0.5, 1.0, 2.0]);
    let cubics: u32 = settings::value("SIM_CUBICS", 0);
    let late: Vec<u32> = settings::list("SIM_LATE", &[]);
    println!("| RTT ms | buffer BDP | sessions | Jain | least / fair | CUBIC / fair | line % | queue ms | parts |");
    println!("|{}", "---:|".repeat(9));
    for &rtt in &rtts {
        for &queue in &queues {
            for &count in &counts {
                let mut spec = sharing(path(mbps, rtt, queue), count);
                let first = MS * settings::value("SIM_CUBIC_AT", 1_000);
                spec.cubics = (0..cubics).map(|number| first + SECOND * number).collect();
                spec.load = Load::named(&settings::value("SIM_LOAD", "none".to_owned()));
                spec.duration = SECOND * settings::value("SIM_SECONDS", 30);
                spec.trace = settings::list("SIM_TRACE", &[]).first().map(|&millis: &u32| MS * millis);
                spec.seed = settings::value("SIM_SEED", 1);
                let apart = MS * settings::value("SIM_APART", 170);
                spec.sessions.iter_mut().zip(0..).for_each(|(begins, number)| *begins = apart * number);
                if let Some(seconds) = late.first() {
                    *spec.sessions.last_mut().expect("some") = SECOND * *seconds;
                    spec.settle = SECOND * (*seconds + 10);
                    spec.duration = spec.settle + 20 * SECOND;
                }
                let parts = run(&spec);
                let line: f64 = parts.all().sum();
                let fair = spec.path.rate().as_bps() as f64 / parts.all().count() as f64;
                let least = parts.sessions.iter().map(|rate| rate.as_bps()).min().unwrap_or_default() as f64;
                let cubic = parts.cubics.iter().map(|rate| rate.as_bps()).min().map(|bps| bps as f64 / fair);
                println!(
                    "| {rtt} | {queue} | {count} | {:.3} | {:.2} | {} | {:.1} | {:.1} | {} |",
                    parts.jain(),
                    least / fair,
                    cubic.map_or("-".to_owned(), |share| format!("{share:.2}")),
                    100.0 * line / spec.path.rate().as_bps() as f64,
                    parts.queue_mean.as_secs_f64() * 1e3,
                    parts.all().map(|part| format!("{:.1}", part / 1e6)).collect::<Vec<_>>().join(" "),
                );
            }
        }
    }
}

#[test]
fn two_sessions_share_a_line_evenly_and_keep_its_queue_short() {
    let (rates, rtt_ms) = ([50, 100], 12);
    let mut queues = Duration::ZERO;
    for mbps in rates {
        let parts = run(&sharing(path(mbps, rtt_ms, 1.0), 2));
        assert!(parts.jain() >= 0.95, "Jain {:.3}: {:?}", parts.jain(), parts.sessions);
        queues += parts.queue_mean;
    }
    let mean = queues / rates.len() as u32;
    assert!(mean <= MS * rtt_ms * 3 / 4, "a queue of {mean:?}");
}

#[test]
fn four_and_eight_sessions_each_get_a_fair_part() {
    for (rtt_ms, sessions, least) in [(12, 4, 0.95), (12, 8, 0.9), (50, 4, 0.9)] {
        let parts = run(&sharing(path(100, rtt_ms, 1.0), sessions));
        let jain = parts.jain();
        assert!(jain >= least, "Jain {jain:.3} of {sessions} at {rtt_ms} ms: {:?}", parts.sessions);
    }
}

#[test]
fn beside_a_cubic_sender_each_has_at_least_half_of_its_part() {
    for (rtt_ms, queue_bdp) in [(12, 1.0), (50, 0.5), (50, 2.0)] {
        let mut spec = sharing(path(100, rtt_ms, queue_bdp), 1);
        spec.cubics = vec![SECOND];
        let parts = run(&spec);
        let fair = spec.path.rate().as_bps() / 2;
        for part in parts.sessions.iter().chain(&parts.cubics) {
            assert!(part.as_bps() * 2 >= fair, "{part} of {fair} at {rtt_ms} ms, {queue_bdp} BDP: {parts:?}");
        }
    }
}

#[test]
fn beside_a_cubic_sender_on_machines_that_pause_each_has_at_least_half_of_its_part() {
    let mut spec = sharing(path(1000, 12, 1.0), 1);
    spec.sessions = vec![SECOND / 2];
    spec.cubics = vec![Duration::ZERO];
    spec.load = Load::Light;
    spec.duration = 25 * SECOND;
    let parts = run(&spec);
    let fair = spec.path.rate().as_bps() / 2;
    for part in parts.sessions.iter().chain(&parts.cubics) {
        assert!(part.as_bps() * 2 >= fair, "{part} of {fair}: {parts:?}");
    }
}
