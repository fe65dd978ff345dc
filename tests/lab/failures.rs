//! Appliances that die or are stopped in the middle of transfers: hosts learn of it, and everything works again.

use std::io::{self, ErrorKind};
use std::net::{Shutdown, TcpStream};
use std::process::Stdio;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::bench::{Lab, Side};
use super::pattern;
use super::programs::{Nginx, curl};
use crate::support::netns::Daemon;

const LONG: Duration = Duration::from_secs(30);

/// Within this both hosts must have an error, counted from the appliance's end.
const ERROR_TIME_MAX: Duration = Duration::from_secs(10);

/// How one end of a connection ended, and when.
struct End {
    who: &'static str,
    bytes: u64,
    error: Option<io::Error>,
    at: Instant,
}

fn ending(who: &'static str, work: impl FnOnce() -> (u64, Option<io::Error>) + Send + 'static) -> JoinHandle<End> {
    thread::spawn(move || {
        let (bytes, error) = work();
        End { who, bytes, error, at: Instant::now() }
    })
}

/// Connections in every state that an appliance's end can meet, with threads at all ends: one in full transfer from a to
/// b, one from b to a, one at rest.
fn connections_at_work(lab: &Lab) -> Vec<JoinHandle<End>> {
    let relayed = || [Side::A, Side::B].map(|side| lab.counter(side, "relayed_source_bytes"));
    let before = relayed();
    let mut ends = Vec::new();
    let connect = |port| {
        let (near, far) = lab.a.connection(&lab.b, lab.b.v4(port));
        lab.assert_accelerated(near.local_addr().unwrap(), lab.b.v4(port));
        (near, far)
    };
    let (mut near, mut far) = connect(8001);
    ends.push(ending("sender at a", move || pattern::send(&mut near, 1, u64::MAX)));
    ends.push(ending("receiver at b", move || pattern::receive(&mut far, 1, 0)));
    let (mut near, mut far) = connect(8002);
    ends.push(ending("receiver at a", move || pattern::receive(&mut near, 2, 0)));
    ends.push(ending("sender at b", move || pattern::send(&mut far, 2, u64::MAX)));
    let (mut near, mut far) = connect(8003);
    let rest = |stream: &mut TcpStream| pattern::receive(stream, 3, 0);
    ends.push(ending("resting at a", move || rest(&mut near)));
    ends.push(ending("resting at b", move || rest(&mut far)));
    // Until they run at speed.
    lab.wait_for("both transfers run", LONG, || {
        relayed().into_iter().zip(before).all(|(now, before)| now > before + 10_000_000)
    });
    ends
}

/// Asserts that every end sees an error in time, and none an orderly end.
fn assert_reset(ends: Vec<JoinHandle<End>>, since: Instant) {
    let ends: Vec<_> = ends.into_iter().map(|end| end.join().unwrap()).collect();
    let told: Vec<_> = ends
        .iter()
        .map(|end| {
            let after = end.at.saturating_duration_since(since).as_millis();
            format!("{} after {after} ms and {} bytes: {:?}", end.who, end.bytes, end.error)
        })
        .collect();
    eprintln!("{}", told.join("\n"));
    for (end, told) in ends.iter().zip(&told) {
        let kind = end.error.as_ref().map(io::Error::kind);
        assert!(matches!(kind, Some(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)), "{told}");
        assert!(end.at <= since + ERROR_TIME_MAX, "{told}");
    }
}

/// Asserts that new connections work at once, and are soon accelerated.
fn assert_recovered(lab: &Lab) {
    let fetched = lab.files.join("fetched");
    curl(&lab.a, LONG, lab.b.v4(8000), "page", &fetched);
    assert!(std::fs::read(&fetched).unwrap() == pattern::bytes(4, 0, 3_000_000));
    lab.wait_for_channel();
    for address in [lab.b.v4(8010), lab.b.v6(8010)] {
        let (near, _far) = lab.a.connection(&lab.b, address);
        lab.assert_accelerated(near.local_addr().unwrap(), address);
    }
    curl(&lab.a, LONG, lab.b.v6(8000), "page", &fetched);
    assert!(std::fs::read(&fetched).unwrap() == pattern::bytes(4, 0, 3_000_000));
}

fn lab_with_a_page() -> (Lab, Nginx) {
    let lab = Lab::up("accelerate", "--ports 1-65535 --link sonet");
    let nginx = Nginx::start(&lab.b, &lab.files, 8000);
    pattern::write_file(&nginx.root.join("page"), 4, 3_000_000);
    (lab, nginx)
}

#[test]
fn when_an_appliance_is_killed_both_hosts_get_errors_and_new_connections_work() {
    let (lab, _nginx) = lab_with_a_page();
    for side in [Side::A, Side::B] {
        let ends = connections_at_work(&lab);
        let since = Instant::now();
        lab.appliance(side, "kill");
        thread::sleep(Duration::from_secs(1));
        lab.appliance(side, "start");
        assert_reset(ends, since);
        assert_recovered(&lab);
        lab.assert_in_order();
    }
}

#[test]
fn when_both_appliances_are_killed_transfers_get_errors_and_new_connections_work() {
    let (lab, _nginx) = lab_with_a_page();
    let mut streams = Vec::new();
    let mut flows = Vec::new();
    for port in [8001, 8002, 8003] {
        let (mut near, mut far) = lab.a.connection(&lab.b, lab.b.v4(port));
        streams.extend([near.try_clone().unwrap(), far.try_clone().unwrap()]);
        flows.push([
            ending("sender", move || pattern::send(&mut near, 1, u64::MAX)),
            ending("receiver", move || pattern::receive(&mut far, 1, 0)),
        ]);
    }
    lab.wait_for("the transfers run", LONG, || lab.counter(Side::A, "relayed_source_bytes") > 30_000_000);
    for what in ["kill", "start"] {
        lab.appliance(Side::A, what);
        lab.appliance(Side::B, what);
    }
    assert_recovered(&lab);
    // Nobody is left who remembers the old connections, but what their hosts say to each other gives them away; except
    // where numbers at random happen to fit, once in 64 times: then nothing false arrives, and no end is pretended.
    let is_over = |flow: &[JoinHandle<End>; 2]| flow.iter().all(JoinHandle::is_finished);
    let over = || flows.iter().filter(|flow| is_over(flow)).count();
    lab.wait_for("two of three transfers have errors", LONG, || over() >= 2);
    thread::sleep(Duration::from_secs(1));
    let is_over: Vec<bool> = flows.iter().map(is_over).collect();
    for stream in streams {
        let _ = stream.shutdown(Shutdown::Both);
    }
    for (flow, was_over) in flows.into_iter().zip(is_over) {
        let [sender, receiver] = flow.map(|end| end.join().unwrap());
        assert!(receiver.bytes <= sender.bytes);
        for end in [sender, receiver].iter().filter(|_| was_over) {
            let kind = end.error.as_ref().map(io::Error::kind);
            let is_reset = matches!(kind, Some(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe));
            assert!(is_reset, "{}: {:?}", end.who, end.error);
        }
    }
    lab.assert_in_order();
}

#[test]
fn an_appliance_that_is_stopped_resets_its_connections_and_ends_in_order() {
    let (lab, _nginx) = lab_with_a_page();
    for side in [Side::A, Side::B] {
        // Ours to wait for, unlike one that the lab has started.
        lab.appliance(side, "stop");
        let mut command = std::process::Command::new("ip");
        command.args(["netns", "exec", &lab.namespace(&format!("app{}", side.name())), env!("CARGO_BIN_EXE_longhaul")]);
        command.arg("run").arg("--config").arg(lab.config_path(side)).stdout(Stdio::null()).stderr(Stdio::null());
        let mut appliance = Daemon::start(&mut command);
        lab.wait_for_channel();
        let ends = connections_at_work(&lab);
        let since = Instant::now();
        appliance.signal(rustix::process::Signal::TERM);
        let status = appliance.child().wait().unwrap();
        assert!(since.elapsed() < Duration::from_secs(5), "it ended after {:?}", since.elapsed());
        assert_eq!(status.code(), Some(0), "{status}");
        lab.appliance(side, "start");
        assert_reset(ends, since);
        assert_recovered(&lab);
    }
    lab.assert_in_order();
}
