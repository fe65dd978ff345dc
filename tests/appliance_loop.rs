//! The event loop around a stand-in for the engine, with real TAPs and sockets in a namespace of its own.
//!
//! ```text
//! lh-x ── lh-br-l ── lh-l ── event loop ── lh-w ── lh-br-w ── lh-y        channel socket: 127.0.0.1
//! ```
//!
//! Needs root.

mod netns;

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read as _};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Barrier, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use longhaul::appliance::{Driven, Error, ShellConfig, drive};
use longhaul::buffer::FrameBuf;
use longhaul::channel::{Arrival, Transmit};
use longhaul::engine::{EngineStatus, Fate};
use longhaul::frame::{Port, VNET_HEADER_LEN};
use longhaul::io::{Clock, FRAME_LEN_MAX, Tap};
use longhaul::units::Instant;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;
use tokio::sync::oneshot;

use netns::{in_namespace, ip};

const CHANNEL: &str = "127.0.0.1:4510";

/// Takes frames of this EtherType and sends them back out of the port they came from, doubled.
const MIRRORED: u16 = 0x88b6;
/// Everything else is forwarded.
const FORWARDED: u16 = 0x88b5;

/// Answered with 20 MB: more than the socket's send buffer holds.
const FLOOD: &[u8] = b"flood";
const FLOOD_BATCHES: usize = 300;
const FLOOD_DATAGRAMS: usize = 50;
const FLOOD_DATAGRAM: usize = 1300;

/// Followed by the moment at which it was sent; takes long to handle.
const STAMPED: &[u8] = b"stamped";
const STAMPED_TIME: Duration = Duration::from_millis(1);

/// A stand-in: forwards, mirrors, echoes datagrams in pairs, and wants to be called every `period`.
#[derive(Default)]
struct StandIn {
    frames: VecDeque<(Port, FrameBuf)>,
    echoes: VecDeque<(SocketAddr, Vec<u8>)>,
    period: Option<Duration>,
    deadline: Option<Instant>,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    timeouts: Vec<(Instant, Instant)>,
    /// Stamped datagrams, and how many of them were said to have come before they were sent.
    stamped: (u32, u32),
    recycled: usize,
    was_shut_down: bool,
}

impl Driven for StandIn {
    fn handle_frame(&mut self, _: Instant, port: Port, frame: &[u8]) -> Fate {
        if frame[VNET_HEADER_LEN + 12..VNET_HEADER_LEN + 14] != MIRRORED.to_be_bytes() {
            return Fate::Forward;
        }
        for _ in 0..2 {
            self.frames.push_back((port, FrameBuf::from_bytes(frame)));
        }
        Fate::Taken
    }

    fn handle_datagram(&mut self, now: Instant, arrival: Arrival, datagram: &mut [u8]) {
        let from = arrival.from;
        if let Some(stamp) = datagram.strip_prefix(STAMPED) {
            let sent = Instant::from_nanos(u64::from_be_bytes(stamp.try_into().unwrap()));
            let stamped = &mut self.seen.lock().unwrap().stamped;
            *stamped = (stamped.0 + 1, stamped.1 + u32::from(now < sent));
            thread::sleep(STAMPED_TIME);
            return;
        }
        if datagram == FLOOD {
            self.echoes.extend((0..FLOOD_BATCHES).map(|_| (from, vec![0; FLOOD_DATAGRAM * FLOOD_DATAGRAMS])));
            return;
        }
        self.echoes.push_back((from, datagram.repeat(2)));
    }

    fn handle_timeout(&mut self, now: Instant) {
        if let (Some(deadline), Some(period)) = (self.deadline, self.period) {
            self.seen.lock().unwrap().timeouts.push((deadline, now));
            self.deadline = Some(now + period);
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        // As a paced engine's: what it has to send was due long ago.
        if self.echoes.is_empty() { self.deadline } else { Some(Instant::ZERO) }
    }

    fn poll_frame(&mut self) -> Option<(Port, FrameBuf)> {
        self.frames.pop_front()
    }

    fn poll_transmit(&mut self, _: Instant, out: &mut Vec<u8>) -> Option<Transmit> {
        let (destination, bytes) = self.echoes.pop_front()?;
        out.extend_from_slice(&bytes);
        let segment_size = if bytes.len() > 2 * FLOOD_DATAGRAM { FLOOD_DATAGRAM } else { bytes.len() / 2 };
        Some(Transmit { destination, segment_size, len: bytes.len() })
    }

    fn recycle(&mut self, _: FrameBuf) {
        self.seen.lock().unwrap().recycled += 1;
    }

    fn shutdown(&mut self, _: Instant) {
        self.seen.lock().unwrap().was_shut_down = true;
        self.frames.push_back((Port::Lan, FrameBuf::from_bytes(&frame(FORWARDED, u32::MAX, 60))));
    }

    fn status(&self, _: usize) -> Option<EngineStatus> {
        None
    }
}

/// The loop on its own thread, between two bridges.
struct Running {
    x: Tap,
    y: Tap,
    status_socket: PathBuf,
    seen: Arc<Mutex<Seen>>,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<Result<(), Error>>,
}

impl Running {
    fn start(test: &str, stand_in: StandIn) -> Running {
        std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").ok();
        let status_socket = std::env::temp_dir().join(format!("longhaul-loop-{test}-{}", std::process::id()));
        let shell = ShellConfig {
            lan_tap: "lh-l".into(),
            wan_tap: "lh-w".into(),
            listen: Some(CHANNEL.parse().unwrap()),
            status_socket: Some(status_socket.clone()),
            name: test.into(),
            rules: Vec::new(),
        };
        let seen = Arc::clone(&stand_in.seen);
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn(move || drive(shell, stand_in, async { drop(stopped.await) }));
        let (x, y) = (Tap::open("lh-x").unwrap(), Tap::open("lh-y").unwrap());
        for bridge in ["lh-br-l", "lh-br-w"] {
            ip(&format!("link add {bridge} type bridge mcast_snooping 0 forward_delay 0"));
            ip(&format!("link set {bridge} up"));
        }
        let mut waited = 0;
        while !status_socket.exists() {
            thread::sleep(Duration::from_millis(5));
            waited += 1;
            assert!(waited < 1000 && !thread.is_finished(), "the loop does not start");
        }
        for (tap, bridge) in [("lh-x", "lh-br-l"), ("lh-l", "lh-br-l"), ("lh-w", "lh-br-w"), ("lh-y", "lh-br-w")] {
            ip(&format!("link set {tap} master {bridge}"));
        }
        Running { x, y, status_socket, seen, stop, thread }
    }

    fn status(&self) -> (serde_json::Value, BTreeMap<String, u64>) {
        let mut document = String::new();
        UnixStream::connect(&self.status_socket).unwrap().read_to_string(&mut document).unwrap();
        assert!(document.ends_with('\n'));
        let value: serde_json::Value = serde_json::from_str(&document).unwrap();
        let counters = serde_json::from_value(value["counters"].clone()).unwrap();
        (value, counters)
    }

    fn stop(self) -> Arc<Mutex<Seen>> {
        self.stop.send(()).unwrap();
        self.thread.join().unwrap().unwrap();
        assert!(!self.status_socket.exists());
        self.seen
    }
}

fn frame(ether_type: u16, number: u32, len: usize) -> Vec<u8> {
    let mut frame = vec![0; VNET_HEADER_LEN];
    frame.extend([2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1]);
    frame.extend(ether_type.to_be_bytes());
    frame.extend(number.to_be_bytes());
    frame.resize(VNET_HEADER_LEN + len, number as u8);
    frame
}

/// The next test frame, within two seconds.
fn read_frame(tap: &Tap) -> Option<Vec<u8>> {
    let mut buffer = vec![0; FRAME_LEN_MAX];
    loop {
        match tap.try_read(&mut buffer) {
            Ok(len) if buffer[VNET_HEADER_LEN + 12] == 0x88 => return Some(buffer[..len].to_vec()),
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                let mut fds = [PollFd::from_borrowed_fd(tap.as_fd(), PollFlags::IN)];
                if poll(&mut fds, Some(&Timespec { tv_sec: 2, tv_nsec: 0 })).unwrap() == 0 {
                    return None;
                }
            }
        }
    }
}

#[test]
fn forwarded_frames_leave_the_other_port_unchanged_and_in_order_both_ways() {
    in_namespace(|| {
        let running = Running::start("forward", StandIn::default());
        for number in 0..5000_u32 {
            let len = 60 + (number as usize * 37) % 1400;
            let (from, to) = if number % 2 == 0 { (&running.x, &running.y) } else { (&running.y, &running.x) };
            from.try_write(&frame(FORWARDED, number, len)).unwrap();
            // The queues in between are long, but not endless.
            if number % 500 >= 498 {
                for back in (0..250).rev() {
                    let number = number - 2 * back;
                    let len = 60 + (number as usize * 37) % 1400;
                    assert_eq!(read_frame(to), Some(frame(FORWARDED, number, len)), "frame {number}");
                }
            }
        }
        let (_, counters) = running.status();
        assert!(counters["lan_frames_read"] >= 2500 && counters["lan_frames_written"] >= 2500);
        for fault in ["busy", "down", "refused"] {
            assert_eq!(counters[&format!("lan_dropped_{fault}")] + counters[&format!("wan_dropped_{fault}")], 0);
        }
        running.stop();
    });
}

#[test]
fn frames_and_datagrams_of_the_engine_leave_and_its_buffers_come_back() {
    in_namespace(|| {
        let running = Running::start("engine", StandIn::default());
        for number in 0..300 {
            running.x.try_write(&frame(MIRRORED, number, 100)).unwrap();
        }
        for number in 0..300 {
            for _ in 0..2 {
                assert_eq!(read_frame(&running.x), Some(frame(MIRRORED, number, 100)));
            }
        }
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        for number in 0..500_u32 {
            client.send_to(&number.to_be_bytes(), CHANNEL).unwrap();
            for _ in 0..2 {
                let mut answer = [0; 8];
                let (len, from) = client.recv_from(&mut answer).unwrap();
                assert_eq!((&answer[..len], from), (&number.to_be_bytes()[..], CHANNEL.parse().unwrap()));
            }
        }
        let (_, counters) = running.status();
        assert_eq!((counters["udp_datagrams_received"], counters["udp_datagrams_sent"]), (500, 1000));
        assert_eq!(running.stop().lock().unwrap().recycled, 601);
    });
}

#[test]
fn no_datagram_is_said_to_have_come_before_it_was_sent() {
    in_namespace(|| {
        let running = Running::start("stamps", StandIn::default());
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        // Faster than they are handled, so that some come while others are.
        for _ in 0..300 {
            let stamp = Clock.now().as_nanos().to_be_bytes();
            client.send_to(&[STAMPED, &stamp].concat(), CHANNEL).unwrap();
            thread::sleep(STAMPED_TIME / 3);
        }
        thread::sleep(300 * STAMPED_TIME);
        assert_eq!(running.stop().lock().unwrap().stamped, (300, 0));
    });
}

#[test]
fn a_full_socket_is_waited_for_without_loss_without_spinning_and_without_stopping_the_bridge() {
    in_namespace(|| {
        let limited = Command::new("tc")
            .args("qdisc add dev lo root tbf rate 160mbit burst 100000 limit 100000000".split(' '))
            .status()
            .expect("iproute2 is installed");
        assert!(limited.success());
        let running = Running::start("full", StandIn::default());
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.send_to(FLOOD, CHANNEL).unwrap();
        let mut number = 0;
        let mut counters = running.status().1;
        let rounds = counters["loop_rounds"];
        while counters["udp_datagrams_sent"] < (FLOOD_BATCHES * FLOOD_DATAGRAMS) as u64 {
            assert!(number < 200, "the flood never ends: {counters:?}");
            running.x.try_write(&frame(FORWARDED, number, 100)).unwrap();
            assert_eq!(read_frame(&running.y), Some(frame(FORWARDED, number, 100)));
            number += 1;
            thread::sleep(Duration::from_millis(20));
            counters = running.status().1;
        }
        assert!(counters["udp_send_blocked"] > 0, "the test meant to fill the socket");
        assert_eq!(counters["udp_send_refused"], 0);
        let rounds = counters["loop_rounds"] - rounds;
        assert!(rounds < 2000, "{rounds} rounds");
        running.stop();
    });
}

#[test]
fn deadlines_are_met_to_the_fraction_of_a_millisecond_and_an_idle_loop_sleeps() {
    in_namespace(|| {
        let period = Duration::from_micros(2500);
        let stand_in = StandIn { period: Some(period), deadline: Some(Clock.now()), ..Default::default() };
        let running = Running::start("timer", stand_in);
        let (_, before) = running.status();
        thread::sleep(Duration::from_millis(500));
        let (_, after) = running.status();
        let rounds = after["loop_rounds"] - before["loop_rounds"];
        assert!((20..1000).contains(&rounds), "{rounds} rounds for about 200 deadlines");
        let seen = running.stop();
        let seen = seen.lock().unwrap();
        let mut late: Vec<Duration> = seen.timeouts.iter().map(|(deadline, now)| *now - *deadline).collect();
        late.sort();
        assert!(late.len() >= 20, "{} timeouts", late.len());
        assert!(seen.timeouts.iter().all(|(deadline, now)| now >= deadline), "never early");
        // The machine may be busy, so not the worst counts; but a timer of milliseconds would be late by half of one.
        let quartile = late[late.len() / 4];
        assert!(quartile < Duration::from_micros(250), "a quarter is later than {quartile:?}");
    });
}

#[test]
fn a_tap_that_goes_down_or_vanishes_is_ridden_out() {
    in_namespace(|| {
        let running = Running::start("outage", StandIn::default());
        let crosses = |number| {
            running.x.try_write(&frame(FORWARDED, number, 100)).unwrap();
            read_frame(&running.y) == Some(frame(FORWARDED, number, 100))
        };
        assert!(crosses(1));
        ip("link set lh-w down");
        running.x.try_write(&frame(FORWARDED, 2, 100)).unwrap();
        thread::sleep(Duration::from_millis(50));
        ip("link set lh-w up");
        assert!(crosses(3));
        let (_, counters) = running.status();
        assert_eq!((counters["wan_dropped_down"], counters["wan_outages"]), (1, 1));

        ip("link del lh-w");
        thread::sleep(Duration::from_millis(400));
        ip("link set lh-w master lh-br-w");
        assert!(crosses(4), "made again, and in use");
        let (_, counters) = running.status();
        assert_eq!(counters["wan_outages"], 2);
        assert!(counters["loop_rounds"] < 1000, "{} rounds: no spinning on a dead descriptor", counters["loop_rounds"]);
        running.stop();
    });
}

#[test]
fn stopping_says_goodbye_first_and_status_names_the_appliance() {
    in_namespace(|| {
        let running = Running::start("stop", StandIn::default());
        let (status, counters) = running.status();
        assert_eq!((status["name"].as_str(), status["channel"].is_null()), (Some("stop"), true));
        assert_eq!(counters["status_served"], 0);
        assert_eq!(running.status().1["status_served"], 1);
        let Running { x, status_socket, seen, stop, thread, .. } = running;
        stop.send(()).unwrap();
        thread.join().unwrap().unwrap();
        assert!(seen.lock().unwrap().was_shut_down);
        assert_eq!(read_frame(&x), Some(frame(FORWARDED, u32::MAX, 60)), "what shutdown queued has left");
        assert!(!status_socket.exists());
    });
}

#[test]
fn what_cannot_be_opened_is_named() {
    in_namespace(|| {
        let shell = |lan: &str, listen: &str| ShellConfig {
            lan_tap: lan.into(),
            wan_tap: "lh-w".into(),
            listen: Some(listen.parse().unwrap()),
            status_socket: None,
            name: "error".into(),
            rules: Vec::new(),
        };
        let start = |shell| drive(shell, StandIn::default(), std::future::pending()).unwrap_err().to_string();
        assert!(start(shell("lo", CHANNEL)).starts_with("TAP lo: "));
        assert!(start(shell("lh-l", "192.0.2.1:4510")).starts_with("channel address 192.0.2.1:4510: "));
    });
}

/// How much TCP a host gets through the loop when everything is forwarded, and at what cost.
/// `cargo test --release --test appliance_loop -- --ignored --nocapture`; needs iperf3.
#[test]
#[ignore = "a measurement"]
fn forwarding_throughput() {
    in_namespace(|| {
        let running = Running::start("throughput", StandIn::default());
        let (addressed, in_place) = (Arc::new(Barrier::new(3)), Arc::new(Barrier::new(3)));
        let hosts: Vec<_> = [("10.9.0.1", "-s -1"), ("10.9.0.2", "-c 10.9.0.1 -t 5 -f m")]
            .into_iter()
            .enumerate()
            .map(|(number, (address, arguments))| {
                let (addressed, in_place) = (Arc::clone(&addressed), Arc::clone(&in_place));
                let (tell, told) = std::sync::mpsc::channel();
                let host = thread::spawn(move || {
                    in_namespace(move || {
                        let thread = std::fs::read_link("/proc/thread-self").unwrap();
                        tell.send(thread.file_name().unwrap().to_str().unwrap().to_owned()).unwrap();
                        addressed.wait();
                        let link = format!("lh-h{number}");
                        ip(&format!("addr add {address}/24 dev {link}"));
                        ip(&format!("link set {link} up"));
                        in_place.wait();
                        thread::sleep(Duration::from_millis(300 * number as u64));
                        let output = Command::new("iperf3").args(arguments.split(' ')).output().expect("iperf3");
                        println!("{}", String::from_utf8_lossy(&output.stdout));
                    });
                });
                let pid = told.recv().unwrap();
                ip(&format!("link add lh-v{number} type veth peer name lh-h{number} netns {pid}"));
                ip(&format!("link set lh-v{number} up master {}", ["lh-br-l", "lh-br-w"][number]));
                host
            })
            .collect();
        addressed.wait();
        in_place.wait();
        for host in hosts {
            host.join().unwrap();
        }
        println!("{:#?}", running.status().1);
        running.stop();
    });
}
