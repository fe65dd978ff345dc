//! What split connections do as unsplit ones: refusals, silence, ends of all kinds, slow readers, single bytes.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::bench::{Lab, Side};
use super::hosts::{Host, accept};
use super::pattern;

const SECOND: Duration = Duration::from_secs(1);

/// Connects from `client`, waiting for at most `limit`: the error, and when it came.
fn fail_to_connect(client: &Host, address: SocketAddr, limit: Duration) -> (io::Error, Duration) {
    let started = Instant::now();
    match client.enter(|| TcpStream::connect_timeout(&address, limit)) {
        Ok(_) => panic!("{address} accepted, although nobody is there"),
        Err(error) => (error, started.elapsed()),
    }
}

#[test]
fn connections_that_cannot_be_fail_as_on_the_wire() {
    for wiring in ["wire", "accelerate"] {
        let lab = Lab::up(wiring, "--ports 1-65535 --rate 1Gbps --rtt 20ms");
        let (a, b) = (&lab.a, &lab.b);
        // Nobody listens. The first look-up of the neighbour may take its time.
        for address in [b.v4(8000), b.v6(8000), b.v4(1)] {
            let (error, took) = fail_to_connect(a, address, 5 * SECOND);
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{wiring}: {address}: {error}");
            assert!(took < SECOND, "{wiring}: refused after {took:?} only");
        }
        // A host that says nothing: behind b's Ethernet address there is no 10.77.0.99.
        let link = b.succeed(SECOND, "ip -o link show eth0");
        let mac = link.split_whitespace().skip_while(|&word| word != "link/ether").nth(1).expect("eth0 has an address");
        lab.ip("a", &format!("neigh add 10.77.0.99 lladdr {mac} dev eth0"));
        let silent = "10.77.0.99:8000".parse().unwrap();
        let (error, took) = fail_to_connect(a, silent, 3 * SECOND);
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{wiring}: {error}");
        assert!(took >= 3 * SECOND, "{wiring}: {took:?}");
        if wiring == "accelerate" {
            for side in [Side::A, Side::B] {
                assert!(lab.counter(side, "flows_opened") >= 4, "not tried by appliance {}", side.name());
            }
            assert_eq!(lab.counter(Side::B, "opens_refused"), 3);
            lab.assert_in_order();
        }
    }
}

#[test]
fn a_host_that_is_absent_behind_a_router_is_unreachable_as_on_the_wire() {
    for wiring in ["wire", "accelerate"] {
        let lab = Lab::up(wiring, "--ports 1-65535 --rate 1Gbps --rtt 20ms --routed");
        // Routers answer for the far side's hosts, and need some seconds to find out that nobody is there.
        for absent in ["10.77.2.99:8000", "[fd77:2::99]:8000"] {
            let (error, took) = fail_to_connect(&lab.a, absent.parse().unwrap(), 12 * SECOND);
            assert_eq!(error.kind(), ErrorKind::HostUnreachable, "{wiring}: {absent} after {took:?}: {error}");
        }
        for address in [lab.b.v4(8000), lab.b.v6(8000)] {
            let (error, took) = fail_to_connect(&lab.a, address, 5 * SECOND);
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{wiring}: {address}: {error}");
            assert!(took < 2 * SECOND, "{wiring}: refused after {took:?} only");
        }
        if wiring == "accelerate" {
            assert!(lab.reason(Side::A, "no_l2_address") >= 2);
            assert_eq!(lab.counter(Side::B, "opens_refused"), 2);
            for address in [lab.b.v4(8000), lab.b.v6(8000)] {
                let (mut near, mut far) = lab.a.connection(&lab.b, address);
                lab.assert_accelerated(near.local_addr().unwrap(), address);
                let sender =
                    thread::spawn(move || (pattern::send(&mut near, 5, 3_000_000), near.shutdown(Shutdown::Write)));
                assert!(matches!(pattern::receive(&mut far, 5, 0), (3_000_000, None)));
                assert!(matches!(sender.join().unwrap(), ((3_000_000, None), Ok(()))));
            }
            lab.assert_in_order();
        }
    }
}

#[test]
fn a_client_that_has_said_everything_still_hears_the_answer() {
    let lab = Lab::up("accelerate", "--ports 1-65535 --link metro");
    for address in [lab.b.v4(8000), lab.b.v6(8000)] {
        let (mut client, mut server) = lab.a.connection(&lab.b, address);
        let local = client.local_addr().unwrap();
        let server = thread::spawn(move || {
            let asked = pattern::receive(&mut server, 1, 0);
            // The connection rests, open in one direction only.
            thread::sleep(2 * SECOND);
            (asked, pattern::send(&mut server, 2, 3_000_000))
        });
        assert!(matches!(pattern::send(&mut client, 1, 1_000_000), (1_000_000, None)));
        client.shutdown(Shutdown::Write).unwrap();
        thread::sleep(SECOND);
        lab.assert_accelerated(local, address);
        let heard = pattern::receive(&mut client, 2, 0);
        assert!(matches!(heard, (3_000_000, None)), "{heard:?}");
        let (asked, answered) = server.join().unwrap();
        assert!(matches!(asked, (1_000_000, None)), "{asked:?}");
        assert!(matches!(answered, (3_000_000, None)), "{answered:?}");
    }
    lab.assert_in_order();
}

#[test]
fn a_reset_of_either_host_reaches_the_other_in_the_middle_of_a_transfer() {
    let lab = Lab::up("accelerate", "--ports 1-65535 --link metro");
    for reset_by_sender in [false, true] {
        let (mut sender, mut receiver) = lab.a.connection(&lab.b, lab.b.v4(8000));
        let local = sender.local_addr().unwrap();
        let reset = |stream: TcpStream| SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        if reset_by_sender {
            // All of it may lie in buffers when the reset comes, and is then void; but no end may be pretended.
            let reader = thread::spawn(move || pattern::receive(&mut receiver, 3, 0));
            assert!(matches!(pattern::send(&mut sender, 3, 20_000_000), (20_000_000, None)));
            lab.assert_accelerated(local, lab.b.v4(8000));
            reset(sender);
            let (received, error) = reader.join().unwrap();
            assert!(received > 0);
            assert_eq!(error.map(|error| error.kind()), Some(ErrorKind::ConnectionReset), "after {received} bytes");
        } else {
            let writer = thread::spawn(move || pattern::send(&mut sender, 3, u64::MAX));
            let mut first = vec![0; 5_000_000];
            receiver.read_exact(&mut first).unwrap();
            assert!(first == pattern::bytes(3, 0, 5_000_000));
            lab.assert_accelerated(local, lab.b.v4(8000));
            let since = Instant::now();
            reset(receiver);
            let (sent, error) = writer.join().unwrap();
            let error = error.expect("it never ends by itself");
            assert!(
                matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
                "after {sent} bytes: {error}"
            );
            assert!(since.elapsed() < 5 * SECOND, "the sender heard of it after {:?}", since.elapsed());
        }
    }
    lab.assert_in_order();
}

/// How much a receiver that rests may leave on the way, in time of the line: what `engine::limits` and the channel say.
const BACKLOG_TIME_MAX: Duration = Duration::from_millis(300);

#[test]
fn a_receiver_that_rests_stops_the_sender_and_loses_nothing() {
    const TOTAL: u64 = 60_000_000;
    const LINE_BYTES_PER_SECOND: u64 = 200_000_000 / 8;
    const SOCKET_BUFFER: usize = 128 * 1024;
    let lab = Lab::up("accelerate", "--ports 1-65535 --rate 200Mbps --rtt 10ms --compression off");
    let listener = lab.b.listen(lab.b.v4(8000));
    // Small and fixed, so that what the appliances hold is the most of it.
    SockRef::from(&listener).set_recv_buffer_size(SOCKET_BUFFER).unwrap();
    let mut sender = lab.a.connect(lab.b.v4(8000)).unwrap();
    SockRef::from(&sender).set_send_buffer_size(SOCKET_BUFFER).unwrap();
    let local = sender.local_addr().unwrap();
    let mut receiver = accept(&listener);
    let sent = AtomicU64::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut at = 0;
            while at < TOTAL {
                let piece = pattern::bytes(4, at, 20_000);
                sender.write_all(&piece).unwrap();
                at += piece.len() as u64;
                sent.store(at, Ordering::Relaxed);
            }
            sender.shutdown(Shutdown::Write).unwrap();
        });
        // Read a while, so that the path is known to be fast, then rest.
        let mut first = vec![0; 20_000_000];
        receiver.read_exact(&mut first).unwrap();
        assert!(first == pattern::bytes(4, 0, first.len()));
        thread::sleep(2 * SECOND);
        let early = sent.load(Ordering::Relaxed);
        thread::sleep(SECOND);
        let late = sent.load(Ordering::Relaxed);
        assert_eq!(early, late, "the sender is not stopped");
        let waiting = late - first.len() as u64;
        eprintln!("{waiting} bytes wait for the receiver");
        // The kernel doubles what it is asked for.
        let hosts = 2 * 2 * SOCKET_BUFFER as u64;
        let bound = LINE_BYTES_PER_SECOND * BACKLOG_TIME_MAX.as_millis() as u64 / 1000 + hosts;
        assert!(waiting <= bound, "{waiting} bytes wait for the receiver, of which {hosts} with the hosts' kernels");
        lab.assert_accelerated(local, lab.b.v4(8000));
        let rest = pattern::receive(&mut receiver, 4, first.len() as u64);
        assert_eq!(rest.0, TOTAL - first.len() as u64, "{rest:?}");
        assert!(rest.1.is_none(), "{rest:?}");
    });
    lab.assert_in_order();
}

#[test]
fn single_bytes_do_not_wait() {
    const RTT: Duration = Duration::from_millis(10);
    let lab = Lab::up("accelerate", "--ports 1-65535 --rate 1Gbps --rtt 10ms");
    let (mut near, mut far) = lab.a.connection(&lab.b, lab.b.v4(8000));
    let echo = thread::spawn(move || -> io::Result<()> {
        let mut byte = [0];
        while far.read(&mut byte)? > 0 {
            far.write_all(&byte)?;
        }
        Ok(())
    });
    let mut rounds = Vec::new();
    for number in 0..200u8 {
        let started = Instant::now();
        near.write_all(&[number]).unwrap();
        let mut byte = [0];
        near.read_exact(&mut byte).unwrap();
        assert_eq!(byte, [number]);
        rounds.push(started.elapsed());
    }
    lab.assert_accelerated(near.local_addr().unwrap(), lab.b.v4(8000));
    drop(near);
    echo.join().unwrap().unwrap();
    rounds.sort();
    let median = rounds[rounds.len() / 2];
    eprintln!("rounds of one byte over {RTT:?}: median {median:?}, longest {:?}", rounds[rounds.len() - 1]);
    assert!(median >= RTT, "{median:?} is faster than the line");
    // A timer or a coalescer in the way would cost 10 ms and more each way; a busy machine does not, at the median.
    assert!(median < 2 * RTT, "{median:?} for a round of {RTT:?}");
    lab.assert_in_order();
}
