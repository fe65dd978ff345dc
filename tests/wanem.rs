//! The WAN emulator against the real kernel: what it says of a link must be what hosts find.
//!
//! Needs root. Tests run one at a time, since each one measures time.

#[expect(dead_code, reason = "shared with other tests, which use other parts")]
mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use quinn_udp::{Transmit, UdpSocketState};
use rustix::process::Signal;
use serde_json::Value;
use support::netns::{Daemon, Netns};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// IPv4, UDP and Ethernet headers: what the emulated line carries beside a datagram's payload.
const UDP_HEADERS: usize = 20 + 8 + 14;

/// Hosts a and b with the emulator between them.
struct Lab {
    wanem: Option<Emulator>,
    a: Netns,
    b: Netns,
    _wan: Netns,
}

impl Lab {
    fn new(link: &str, congestion_control: &str) -> Self {
        let (a, b, wan) = (Netns::new("a"), Netns::new("b"), Netns::new("wan"));
        wan.silence_ipv6();
        wan.cable("wan-a", &a, "eth0");
        wan.cable("wan-b", &b, "eth0");
        a.address("eth0", 1, congestion_control);
        b.address("eth0", 2, congestion_control);
        let wanem = Some(Emulator::start(&wan, &format!("--a wan-a --b wan-b {link}")));
        let lab = Lab { wanem, a, b, _wan: wan };
        lab.resolve();
        lab
    }

    /// Has the hosts find each other's Ethernet address, so that no test starts with a wait for that. Tried again, since
    /// links may lose it.
    fn resolve(&self) {
        let echo = self.b.enter(|| UdpSocket::bind("0.0.0.0:7").unwrap());
        let probe = self.a.enter(|| UdpSocket::bind("0.0.0.0:0").unwrap());
        for socket in [&echo, &probe] {
            socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        }
        for _ in 0..10 {
            probe.send_to(&[0], "10.77.0.2:7").unwrap();
            if let Ok((_, from)) = echo.recv_from(&mut [0; 8]) {
                echo.send_to(&[0], from).unwrap();
                if probe.recv(&mut [0; 8]).is_ok() {
                    return;
                }
            }
        }
        panic!("host b does not answer host a");
    }

    /// A socket on a that sends to one on b.
    fn udp_pair(&self) -> (UdpSocket, UdpSocket) {
        let receiver = self.b.enter(|| UdpSocket::bind("10.77.0.2:5000").unwrap());
        // However busy the machine, no datagram is to be lost at the host.
        rustix::net::sockopt::set_socket_recv_buffer_size_force(&receiver, 64 << 20).unwrap();
        receiver.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        let sender = self.a.enter(|| UdpSocket::bind("10.77.0.1:0").unwrap());
        sender.connect("10.77.0.2:5000").unwrap();
        (sender, receiver)
    }

    /// A connection from a to `address` (of b).
    fn tcp_pair(&self, address: &str) -> (TcpStream, TcpStream) {
        let listener = self.b.enter(|| TcpListener::bind(address).unwrap());
        let sender = self.a.enter(|| TcpStream::connect(address).unwrap());
        (sender, listener.accept().unwrap().0)
    }

    /// Ends the emulator; its last report.
    fn report(&mut self) -> Value {
        self.wanem.take().expect("not ended before").stop()
    }
}

struct Emulator(Daemon);

impl Emulator {
    /// Starts it in `wan` and waits until it is ready.
    fn start(wan: &Netns, arguments: &str) -> Self {
        let mut command = wan.command(env!("CARGO_BIN_EXE_wanem"));
        command.args(arguments.split_whitespace()).arg("--realtime").stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut daemon = Daemon::start(&mut command);
        let mut said = BufReader::new(daemon.child().stderr.take().unwrap());
        let mut line = String::new();
        while !line.starts_with("wanem: ready") {
            line.clear();
            assert!(said.read_line(&mut line).unwrap() > 0, "wanem ended before it was ready");
            assert!(!line.contains("error"), "{line}");
        }
        // Somebody has to read on, or it would stop at a full pipe.
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        Emulator(daemon)
    }

    /// Ends it; what it reports.
    fn stop(mut self) -> Value {
        let mut out = self.0.child().stdout.take().unwrap();
        self.0.stop();
        let mut text = String::new();
        out.read_to_string(&mut text).unwrap();
        let report: Value = serde_json::from_str(text.lines().last().expect("a report")).unwrap();
        for lane in ["a_to_b", "b_to_a"] {
            let drops = report[lane]["local_drops"].as_object().unwrap();
            assert!(drops.values().all(|count| *count == 0), "{lane} lost frames of its own: {drops:?}");
        }
        let late = &report["a_to_b"]["lateness"];
        println!("wanem: {:.0} % of a core, late {late}", report["cpu_share"].as_f64().unwrap() * 100.0);
        report
    }
}

/// A file of changes, which goes with the test.
struct Changes(std::path::PathBuf);

impl Changes {
    fn new(name: &str) -> Self {
        let file = format!("changes-{}-{name}", std::process::id());
        Changes(std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(file))
    }

    /// Has the emulator do what `text` says.
    fn make(&self, emulator: &Emulator, text: &str) {
        std::fs::write(&self.0, text).unwrap();
        emulator.0.signal(Signal::USR2);
        std::thread::sleep(Duration::from_millis(100));
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn count(report: &Value, lane: &str, group: &str, counter: &str) -> u64 {
    report[lane][group][counter].as_u64().unwrap_or_else(|| panic!("{lane} {group} {counter}"))
}

/// Sends `payload_len`-byte datagrams, numbered from 0, at `bps` on the line for `time`; how many.
fn send_paced(sender: &UdpSocket, payload_len: usize, bps: u64, time: Duration) -> u64 {
    let start = Instant::now();
    let mut datagram = vec![0; payload_len];
    let mut sent = 0;
    while start.elapsed() < time {
        let due = (start.elapsed().as_nanos() as u64) / 1000 * bps / 8_000_000 / (payload_len + UDP_HEADERS) as u64;
        while sent < due {
            datagram[..8].copy_from_slice(&sent.to_be_bytes());
            sender.send(&datagram).unwrap();
            sent += 1;
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    sent
}

/// Numbers and moments of all datagrams, until none comes for half a second.
fn receive_all(receiver: &UdpSocket) -> Vec<(u64, Instant)> {
    let mut arrivals = Vec::new();
    let mut datagram = [0; 65_536];
    while let Ok(len) = receiver.recv(&mut datagram) {
        assert!(len >= 8);
        arrivals.push((u64::from_be_bytes(datagram[..8].try_into().unwrap()), Instant::now()));
    }
    arrivals
}

#[test]
fn an_overfilled_link_delivers_its_line_rate_within_two_percent() {
    let _guard = alone();
    let mut lab = Lab::new("--rate 100mbit --rtt 10ms --queue 4MB", "cubic");
    let (sender, receiver) = lab.udp_pair();
    let arrivals = std::thread::scope(|scope| {
        let receiving = scope.spawn(|| receive_all(&receiver));
        send_paced(&sender, 1400, 150_000_000, Duration::from_secs(3));
        receiving.join().unwrap()
    });
    // The ends apart: the queue has to fill first, and drains last.
    let middle = &arrivals[arrivals.len() / 10..arrivals.len() * 9 / 10];
    let seconds = (middle[middle.len() - 1].1 - middle[0].1).as_secs_f64();
    let mbps = ((middle.len() - 1) * (1400 + UDP_HEADERS) * 8) as f64 / seconds / 1e6;
    println!("100 Mbps asked, {mbps:.2} Mbps delivered");
    assert!((mbps / 100.0 - 1.0).abs() < 0.02, "{mbps} Mbps");
    let report = lab.report();
    assert!(count(&report, "a_to_b", "segments", "queue_full") > 1_000);
    let delivered = count(&report, "a_to_b", "segments", "delivered");
    assert!(delivered.abs_diff(arrivals.len() as u64) <= 20, "{delivered} delivered, {} arrived", arrivals.len());
}

#[test]
fn delay_is_that_of_each_direction_within_a_fifth_of_a_millisecond_at_the_median() {
    let _guard = alone();
    let mut lab = Lab::new("--rate 100mbit --ab-delay 10ms --ba-delay 3ms", "cubic");
    let (probe, echo) = lab.udp_pair();
    probe.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let (mut there, mut back) = (Vec::new(), Vec::new());
    std::thread::scope(|scope| {
        let answering = scope.spawn(|| {
            let mut moments = Vec::new();
            let mut datagram = [0; 100];
            while let Ok((_, from)) = echo.recv_from(&mut datagram) {
                let arrived = Instant::now();
                moments.push((arrived, Instant::now()));
                echo.send_to(&datagram, from).unwrap();
            }
            moments
        });
        let probes: Vec<_> = (0..150)
            .map(|_| {
                let sent = Instant::now();
                probe.send(&[0; 100]).unwrap();
                probe.recv(&mut [0; 100]).unwrap();
                (sent, Instant::now())
            })
            .collect();
        for ((sent, received), (arrived, answered)) in probes.into_iter().zip(answering.join().unwrap()) {
            there.push(arrived - sent);
            back.push(received - answered);
        }
    });
    let line_time = Duration::from_nanos((100 + UDP_HEADERS as u64) * 80);
    for (seen, delay_ms) in [(&mut there, 10), (&mut back, 3)] {
        seen.sort();
        let (median, expected) = (seen[seen.len() / 2], Duration::from_millis(delay_ms) + line_time);
        println!("{expected:?} asked, median {median:?}, fastest {:?}, slowest {:?}", seen[0], seen[seen.len() - 1]);
        // Waking the thread that receives takes a busy machine a few hundred microseconds, which is not the emulator's.
        assert!(median.abs_diff(expected) < Duration::from_micros(1_000), "{median:?} for {expected:?}");
        assert!(seen[0] >= expected, "a frame arrived {:?} early", expected - seen[0]);
    }
    // ping takes the kernel's receive stamps, and counts both ways: 56 bytes, ICMP, IPv4 and Ethernet headers on each.
    let said = support::netns::run(lab.a.command("ping").args(["-c", "200", "-i", "0.005", "10.77.0.2"]));
    let mut rtts: Vec<f64> =
        said.lines().filter_map(|line| line.split_once("time=")?.1.split(' ').next()?.parse().ok()).collect();
    rtts.sort_by(f64::total_cmp);
    let expected = 13.0 + 2.0 * (56 + 8 + 20 + 14) as f64 * 80e-6;
    let median = rtts[rtts.len() / 2];
    println!("{expected:.3} ms asked both ways, median {median:.3} ms of {} pings", rtts.len());
    assert!(rtts.len() > 190, "{said}");
    assert!((median - expected).abs() < 0.2, "{median} ms for {expected} ms");
    lab.report();
}

#[test]
fn rate_delay_and_loss_change_while_frames_flow_and_a_faulty_change_changes_nothing() {
    let _guard = alone();
    let changes = Changes::new("flow");
    let file = changes.0.display();
    let mut lab = Lab::new(&format!("--rate 80mbit --rtt 10ms --queue 400kB --changes {file} --trace 5ms"), "cubic");
    let (sender, receiver) = lab.udp_pair();
    let (begun, arrivals) = std::thread::scope(|scope| {
        let receiving = scope.spawn(|| receive_all(&receiver));
        let begun = Instant::now();
        let emulator = lab.wanem.as_ref().unwrap();
        scope.spawn(move || {
            let until = |ms| std::thread::sleep(Duration::from_millis(ms).saturating_sub(begun.elapsed()));
            until(1_000);
            changes.make(emulator, "ab-rate 40 Mbps\n");
            until(2_000);
            changes.make(emulator, "ab-rate 10 Mbps\nmtu 9000\n");
            changes.make(emulator, "ab-rate 0 Mbps\n");
            until(3_000);
            changes.make(emulator, "rate 80 Mbps\nloss 50%\ndelay 30ms");
        });
        send_paced(&sender, 1400, 110_000_000, Duration::from_secs(4));
        (begun, receiving.join().unwrap())
    });
    let mbps = |from_ms: u64, to_ms: u64| {
        let window = begun + Duration::from_millis(from_ms)..begun + Duration::from_millis(to_ms);
        let bytes = arrivals.iter().filter(|(_, at)| window.contains(at)).count() * (1400 + UDP_HEADERS);
        bytes as f64 * 8.0 / (to_ms - from_ms) as f64 / 1e3
    };
    let seen = [mbps(200, 1_000), mbps(1_200, 2_000), mbps(2_300, 3_000), mbps(3_200, 4_000)];
    println!("80, 40, 40 and half of 80 Mbps asked: {seen:.1?}");
    for (seen, asked) in seen.into_iter().zip([80.0, 40.0, 40.0, 40.0]) {
        assert!((seen / asked - 1.0).abs() < 0.08, "{seen} Mbps instead of {asked}");
    }
    let pings =
        support::netns::run(lab.a.command("ping").args(["-c", "40", "-i", "0.01", "10.77.0.2"]).env("LC_ALL", "C"));
    let least = pings.lines().filter_map(|line| line.split_once("time=")?.1.split(' ').next()?.parse().ok());
    let least = least.fold(f64::MAX, f64::min);
    assert!((60.0..62.0).contains(&least), "30 ms each way, and a ping took {least} ms");
    let report = lab.report();
    assert_eq!((&report["changes"]["applied"], &report["changes"]["refused"]), (&2.into(), &2.into()), "{report}");
    assert_eq!(report["b_to_a"]["link"]["loss_ppb"], 500_000_000);
    // Overfilled all the time, so the queue's least is near its most once it has filled.
    let least = report["a_to_b"]["trace"]["queue_min_bytes"].as_array().unwrap();
    let full = least[100..700].iter().filter(|bytes| bytes.as_u64().unwrap() > 250_000).count();
    assert!(full > 500, "{full} of 600 bins say that the queue was filled");
}

#[test]
fn loss_stays_within_its_statistical_bounds_and_default_jitter_keeps_order() {
    let _guard = alone();
    let mut lab = Lab::new("--rate 100mbit --rtt 10ms --jitter 3ms --loss 2% --seed 11", "cubic");
    let (sender, receiver) = lab.udp_pair();
    let (sent, arrivals) = std::thread::scope(|scope| {
        let receiving = scope.spawn(|| receive_all(&receiver));
        let sent = send_paced(&sender, 200, 20_000_000, Duration::from_secs(2));
        (sent, receiving.join().unwrap())
    });
    let lost = sent - arrivals.len() as u64;
    let expected = sent as f64 * 0.02;
    let sigma = (expected * 0.98).sqrt();
    println!("{lost} of {sent} lost, {expected:.0} ± {sigma:.0} expected");
    assert!(sent > 15_000, "{sent}");
    assert!((lost as f64 - expected).abs() < 4.0 * sigma);
    assert!(arrivals.windows(2).all(|pair| pair[0].0 < pair[1].0), "order was not kept");
    let report = lab.report();
    let counted = count(&report, "a_to_b", "segments", "lost");
    assert!(counted.abs_diff(lost) <= 3, "{counted} counted, {lost} missing");
}

#[test]
fn burst_loss_has_the_asked_average_and_mean_length() {
    let _guard = alone();
    let mut lab = Lab::new("--rate 100mbit --rtt 4ms --loss 5% --burst 4 --seed 3", "cubic");
    let (sender, receiver) = lab.udp_pair();
    let (sent, arrivals) = std::thread::scope(|scope| {
        let receiving = scope.spawn(|| receive_all(&receiver));
        let sent = send_paced(&sender, 200, 20_000_000, Duration::from_secs(2));
        (sent, receiving.join().unwrap())
    });
    let gaps: Vec<_> = arrivals.windows(2).map(|pair| pair[1].0 - pair[0].0 - 1).filter(|&gap| gap > 0).collect();
    let lost = gaps.iter().sum::<u64>() as f64;
    let (average, length) = (lost / sent as f64, lost / gaps.len() as f64);
    println!("{:.2} % lost, bursts of {length:.2}", average * 100.0);
    // About 250 bursts of geometric length: relative sigma of the average sqrt(2 * 4 / 1000) or 9 %, of the length 6 %.
    assert!((average - 0.05).abs() < 0.015, "{average}");
    assert!((length - 4.0).abs() < 0.9, "{length}");
    lab.report();
}

/// M. Mathis et al., "The macroscopic behavior of the TCP congestion avoidance algorithm" (1997): rate = MSS / RTT x C / sqrt(p),
/// C = sqrt(3/2). Linux's CUBIC falls back to this Reno-like rate on links of short RTT and much loss (RFC 9438 section
/// 4.3), and counts acknowledged segments rather than acknowledgements, so delayed ones do not lower C.
#[test]
fn kernel_cubic_gets_what_mathis_predicts_within_a_quarter() {
    let _guard = alone();
    const FLOWS: usize = 8;
    const RTT_S: f64 = 0.020;
    let mut lab = Lab::new("--rate 1gbit --rtt 20ms --loss 0.5% --ba-loss 0 --seed 5", "cubic");
    // Slow start, which the formula leaves out, is over long before the count begins.
    let (settle, measure) = (Duration::from_secs(1), Duration::from_secs(8));
    let pairs: Vec<_> = (0..FLOWS).map(|i| lab.tcp_pair(&format!("10.77.0.2:{}", 8000 + i))).collect();
    let bytes: u64 = std::thread::scope(|scope| {
        let counts: Vec<_> = pairs
            .into_iter()
            .map(|(mut sender, mut receiver)| {
                scope.spawn(move || while sender.write_all(&[0; 65_536]).is_ok() {});
                scope.spawn(move || {
                    let (start, mut counted, mut buffer) = (Instant::now(), 0, vec![0; 1 << 20]);
                    while start.elapsed() < settle + measure {
                        let len = receiver.read(&mut buffer).unwrap() as u64;
                        counted += if start.elapsed() > settle { len } else { 0 };
                    }
                    counted
                })
            })
            .collect();
        counts.into_iter().map(|count| count.join().unwrap()).sum()
    });
    let report = lab.report();
    let [lost, offered] = ["lost", "offered"].map(|counter| count(&report, "a_to_b", "segments", counter) as f64);
    assert_eq!(count(&report, "a_to_b", "segments", "queue_full"), 0, "the formula is for random loss");
    assert!(lost > 150.0, "only {lost} losses");
    let seen = bytes as f64 * 8.0 / measure.as_secs_f64() / FLOWS as f64 / 1e6;
    let predicted = 1448.0 * 8.0 / RTT_S * (1.5 / (lost / offered)).sqrt() / 1e6;
    println!("CUBIC: {seen:.2} Mbps per flow, Mathis: {predicted:.2} Mbps at {:.3} % loss", lost / offered * 100.0);
    assert!((seen / predicted - 1.0).abs() < 0.25, "{seen} Mbps, {predicted} predicted");
}

#[test]
fn super_segments_stay_whole_where_nothing_is_lost_and_a_gigabit_leaves_cpu_to_spare() {
    let _guard = alone();
    let mut lab = Lab::new("--rate 1gbit --rtt 2ms --queue 16MB", "cubic");
    let (mut sender, mut receiver) = lab.tcp_pair("10.77.0.2:8000");
    let (bytes, seconds) = std::thread::scope(|scope| {
        scope.spawn(move || {
            let start = Instant::now();
            while start.elapsed() < Duration::from_secs(4) && sender.write_all(&[0; 1 << 18]).is_ok() {}
        });
        let (start, mut buffer, mut bytes) = (Instant::now(), vec![0; 1 << 20], 0);
        while let Ok(len @ 1..) = receiver.read(&mut buffer) {
            bytes += len;
        }
        (bytes, start.elapsed().as_secs_f64())
    });
    let report = lab.report();
    let [segments, frames, whole, split] =
        [("segments", "offered"), ("frames", "received"), ("frames", "super_segments"), ("frames", "split")]
            .map(|(group, counter)| count(&report, "a_to_b", group, counter));
    println!("{:.0} Mbps; {segments} segments in {frames} frames", bytes as f64 * 8.0 / seconds / 1e6);
    assert_eq!(split, 0);
    assert!(
        whole > 100 && segments > 10 * frames,
        "{segments} segments in {frames} frames, {whole} of them super-segments"
    );
    // 1448 of 1514 bytes at best.
    assert!(bytes as f64 * 8.0 / seconds > 0.75e9, "{bytes} bytes in {seconds} s");
    assert!(report["cpu_share"].as_f64().unwrap() < 0.75, "no CPU to spare: {}", report["cpu_share"]);
}

#[test]
fn streams_survive_super_segments_that_lose_some_of_their_segments() {
    let _guard = alone();
    let mut lab = Lab::new("--rate 1gbit --rtt 1ms --loss 1% --reorder 0.5% --jitter 100us --seed 9", "cubic");
    for (address, len) in [("10.77.0.2:8000", 40_000_000_usize), ("[fd77::2]:8000", 40_000_000)] {
        let (mut sender, mut receiver) = lab.tcp_pair(address);
        let pattern = |at: usize| ((at / 8) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[at % 8];
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let bytes: Vec<u8> = (0..len).map(pattern).collect();
                sender.write_all(&bytes).unwrap();
            });
            let mut bytes = Vec::with_capacity(len);
            receiver.read_to_end(&mut bytes).unwrap();
            assert_eq!(bytes.len(), len);
            assert!(bytes.iter().enumerate().all(|(at, &byte)| byte == pattern(at)), "{address}: bytes were changed");
        });
    }
    let report = lab.report();
    assert!(count(&report, "a_to_b", "frames", "split") > 100, "too few were cut to prove anything");
}

#[test]
fn datagrams_of_a_gso_send_are_lost_one_by_one_and_arrive_unchanged() {
    const SEGMENT: usize = 1200;
    const SEGMENTS: usize = 40;
    const BATCHES: usize = 100;
    let _guard = alone();
    let mut lab = Lab::new("--rate 1gbit --rtt 2ms --loss 5% --seed 21", "cubic");
    let (sender, receiver) = lab.udp_pair();
    let state = UdpSocketState::new((&sender).into()).unwrap();
    let arrivals = std::thread::scope(|scope| {
        let receiving = scope.spawn(|| {
            let (mut numbers, mut datagram) = (Vec::new(), [0; 65_536]);
            while let Ok(len) = receiver.recv(&mut datagram) {
                let number = u32::from_be_bytes(datagram[..4].try_into().unwrap());
                assert_eq!(len, SEGMENT);
                assert!(datagram[4..len].iter().all(|&byte| byte == number as u8), "datagram {number} was changed");
                numbers.push(number);
            }
            numbers
        });
        for batch in 0..BATCHES {
            let mut contents = Vec::new();
            for number in (batch * SEGMENTS) as u32..((batch + 1) * SEGMENTS) as u32 {
                contents.extend_from_slice(&number.to_be_bytes());
                contents.resize(contents.len() + SEGMENT - 4, number as u8);
            }
            let transmit = Transmit {
                destination: "10.77.0.2:5000".parse().unwrap(),
                ecn: None,
                contents: &contents,
                segment_size: Some(SEGMENT),
                src_ip: None,
            };
            state.try_send((&sender).into(), &transmit).unwrap();
            std::thread::sleep(Duration::from_millis(2));
        }
        receiving.join().unwrap()
    });
    assert!(arrivals.is_sorted(), "order was not kept");
    let report = lab.report();
    assert!(
        count(&report, "a_to_b", "frames", "super_segments") >= BATCHES as u64,
        "the kernel sent no super-datagrams"
    );
    let sent = (SEGMENTS * BATCHES) as f64;
    let lost = sent - arrivals.len() as f64;
    println!("{lost} of {sent} lost");
    assert!((lost - sent * 0.05).abs() < 4.0 * (sent * 0.05 * 0.95).sqrt(), "{lost} of {sent} lost");
}

#[test]
fn tagged_and_unknown_frames_pass_byte_for_byte_between_packet_sockets_and_taps() {
    let _guard = alone();
    let wan = Netns::new("wan");
    wan.silence_ipv6();
    let open = |name: &'static str| {
        let mut config = tun::Configuration::default();
        config.tun_name(name).layer(tun::Layer::L2).up();
        let device = wan.enter(|| tun::create(&config).unwrap());
        device.set_nonblock().unwrap();
        device
    };
    // One end hears a TAP through a packet socket; the other one is another TAP of ours, joined to wanem's own by a bridge.
    let (mut near, mut far) = (open("near"), open("far"));
    let emulator = Emulator::start(&wan, "--a near --tap-b inner --rate 1gbit --rtt 2ms");
    wan.ip("link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0");
    for port in ["far", "inner"] {
        wan.ip(&format!("link set {port} master br0"));
        wan.ip(&format!("link set {port} up"));
    }
    wan.ip("link set br0 up");
    let tag = |tpid: u16, tci: u16| [tpid.to_be_bytes(), tci.to_be_bytes()].concat();
    let headers = [
        vec![0x08, 0x06],
        [tag(0x8100, 0x6005), vec![0x08, 0x00]].concat(),
        [tag(0x88a8, 0x0007), tag(0x8100, 0xe123), vec![0x86, 0xdd]].concat(),
        vec![0x88, 0xb5],
        vec![0x00, 0x2e],
    ];
    for (i, header) in headers.iter().enumerate() {
        for len in [46, 1_496] {
            let mut frame = [[2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 0, 8]].concat();
            frame.extend_from_slice(header);
            frame.resize(14 + len, i as u8 + 1);
            near.write_all(&frame).unwrap();
            assert_eq!(next_frame(&mut far), frame, "header {i}, {len} bytes, from the packet socket to the TAP");
            frame[..12].rotate_left(6);
            far.write_all(&frame).unwrap();
            assert_eq!(next_frame(&mut near), frame, "header {i}, {len} bytes, from the TAP to the packet socket");
        }
    }
    let report = emulator.stop();
    assert_eq!(count(&report, "a_to_b", "segments", "delivered"), 2 * headers.len() as u64);
}

#[track_caller]
fn next_frame(device: &mut tun::Device) -> Vec<u8> {
    let mut frame = vec![0; 2_000];
    let deadline = Instant::now() + Duration::from_secs(2);
    loop {
        match device.read(&mut frame) {
            Ok(len) => {
                frame.truncate(len);
                return frame;
            }
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
        }
        assert!(Instant::now() < deadline, "no frame came");
        std::thread::sleep(Duration::from_micros(200));
    }
}
