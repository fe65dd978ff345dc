//! Appliances that accelerate nothing are a wire.

use std::io::{BufRead, BufReader, Read};
use std::net::UdpSocket;
use std::process::Stdio;
use std::time::Duration;

use super::bench::{Lab, Side};
use super::hosts::Host;
use super::pattern;
use super::programs::{Iperf, Nginx, Sshd, curl};
use crate::support::netns::{Daemon, run};

/// Enough for anything here on a busy machine.
const LONG: Duration = Duration::from_secs(20);

/// What people do between two hosts; the same on the wire and behind appliances that accelerate nothing.
fn use_ordinary_programs(lab: &Lab) {
    let (a, b) = (&lab.a, &lab.b);
    let [v4, v6] = b.addresses;
    // Payloads up to the MTU with DF, and one that the host itself refuses to send.
    for (address, headers) in [(v4, 28), (v6, 48)] {
        for size in [0, 1, 56, 1000, 1500 - headers] {
            a.succeed(LONG, &format!("ping -n -q -c 3 -i 0.05 -W 3 -M do -s {size} {address}"));
        }
        assert!(!a.run(LONG, &format!("ping -n -q -c 1 -W 1 -M do -s {} {address}", 1501 - headers)).status.success());
        // In fragments.
        a.succeed(LONG, &format!("ping -n -q -c 3 -i 0.05 -W 3 -s 4000 {address}"));
    }
    hosts_resolve_each_other(lab);
    datagrams_pass(a, b);

    let iperf = Iperf::start(b, 5201);
    for options in ["-t 1", "-t 1 -R", "-t 1 -P 4", "-u -b 20M -t 1"] {
        let bytes = iperf.run(a, options);
        assert!(bytes > 1_000_000, "iperf3 {options}: only {bytes} bytes");
    }
    let nginx = Nginx::start(b, &lab.files, 8000);
    pattern::write_file(&nginx.root.join("page"), 1, 3_000_000);
    let fetched = lab.files.join("fetched");
    for address in [b.v4(8000), b.v6(8000)] {
        curl(a, LONG, address, "page", &fetched);
        assert!(std::fs::read(&fetched).unwrap() == pattern::bytes(1, 0, 3_000_000), "curl from {address}");
    }
    let sshd = Sshd::start(b, &lab.files, 2222);
    assert_eq!(sshd.ssh(a, LONG, v4, "echo over there"), "over there\n");
    let copied = lab.files.join("copied");
    for address in b.addresses {
        sshd.scp(a, LONG, &fetched, address, &copied);
        assert!(std::fs::read(&copied).unwrap() == std::fs::read(&fetched).unwrap(), "scp to {address}");
        std::fs::remove_file(&copied).unwrap();
    }
}

/// ARP and ND find the other host itself: nobody answers in its place.
fn hosts_resolve_each_other(lab: &Lab) {
    lab.ip("a", "neigh flush dev eth0");
    let link = run(std::process::Command::new("ip").args(["-n", &lab.namespace("b"), "-o", "link", "show", "eth0"]));
    let mac = link.split_whitespace().skip_while(|&word| word != "link/ether").nth(1).expect("eth0 has an address");
    for address in lab.b.addresses {
        lab.a.succeed(LONG, &format!("ping -n -q -c 1 -W 3 {address}"));
        let neighbour = lab.a.succeed(LONG, &format!("ip neigh show {address}"));
        assert!(neighbour.contains(mac), "{address} is at {neighbour}, not at {mac}");
    }
}

fn datagrams_pass(a: &Host, b: &Host) {
    for (ours, theirs) in [(a.v4(0), b.v4(902)), (a.v6(0), b.v6(902))] {
        let server = b.enter(|| UdpSocket::bind(theirs)).unwrap();
        let client = a.enter(|| UdpSocket::bind(ours)).unwrap();
        for socket in [&server, &client] {
            socket.set_read_timeout(Some(LONG)).unwrap();
        }
        let mut buffer = [0; 9000];
        // Up to the MTU, and above, in fragments.
        for len in [0, 1, 1400, 1452, 1472, 5000, 8000] {
            let said = pattern::bytes(2, 0, len);
            client.send_to(&said, theirs).unwrap();
            let (count, from) = server.recv_from(&mut buffer).unwrap();
            assert!(buffer[..count] == said[..], "a datagram of {len} bytes to {theirs}");
            server.send_to(&said, from).unwrap();
            assert_eq!(client.recv(&mut buffer).unwrap(), len);
        }
    }
}

/// Sends the frames of `frames.py` from one host and compares what the other one gets.
fn odd_frames_arrive_as_they_were_sent(lab: &Lab, from: &Host, to: &Host, largest: usize) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/frames.py");
    let mut command = to.command("python3");
    command.args([script, "receive", "eth0", &largest.to_string(), "8"]).stdout(Stdio::piped());
    let mut receiver = Daemon::start(&mut command);
    let mut output = BufReader::new(receiver.child().stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    let sent = from.succeed(LONG, &format!("python3 {script} send eth0 {largest}"));
    let mut received = String::new();
    output.read_to_string(&mut received).unwrap();
    for (number, (sent, received)) in sent.lines().zip(received.lines()).enumerate() {
        assert_eq!(received, sent, "frame {number} of {}", lab.namespace(""));
    }
    assert_eq!(received.lines().count(), sent.lines().count(), "the last ones are missing");
}

#[test]
fn ordinary_programs_work_on_the_wire() {
    // Else the next test would say nothing.
    let lab = Lab::up("wire", "--link sonet --loss 0");
    use_ordinary_programs(&lab);
    odd_frames_arrive_as_they_were_sent(&lab, &lab.a, &lab.b, 1514);
}

#[test]
fn ordinary_programs_notice_nothing_of_appliances_that_accelerate_nothing() {
    let lab = Lab::up("bridge", "--link sonet --loss 0");
    use_ordinary_programs(&lab);
    for side in [Side::A, Side::B] {
        for name in ["flows_opened", "frames_taken", "relayed_source_bytes"] {
            assert_eq!(lab.counter(side, name), 0, "{name} of appliance {}", side.name());
        }
    }
    // a's appliance saw the connections begin, and no rule was for them; b's left the verdict to it.
    assert!(lab.reason(Side::A, "rule") > 5);
    assert!(lab.reason(Side::B, "wan_initiated") > 5);
    odd_frames_arrive_as_they_were_sent(&lab, &lab.a, &lab.b, 1514);
    odd_frames_arrive_as_they_were_sent(&lab, &lab.b, &lab.a, 1514);
    lab.assert_in_order();
}

#[test]
fn odd_frames_pass_while_everything_is_accelerated_that_can_be() {
    let lab = Lab::up("accelerate", "--ports 1-65535 --link sonet --loss 0");
    odd_frames_arrive_as_they_were_sent(&lab, &lab.a, &lab.b, 1514);
    odd_frames_arrive_as_they_were_sent(&lab, &lab.b, &lab.a, 1514);
    for side in [Side::A, Side::B] {
        assert_eq!(lab.counter(side, "flows_opened"), 0);
        for name in ["mid_stream", "tcp_option", "fragment", "ip_options", "malformed", "vlan_depth", "address"] {
            assert!(lab.reason(side, name) > 0, "{name} was not counted by appliance {}", side.name());
        }
    }
}

#[test]
fn jumbo_frames_pass_where_the_whole_path_takes_them() {
    let lab = Lab::up("bridge", "--lan-mtu 9000 --mtu 9000 --link sonet --loss 0");
    for (address, headers) in [(lab.b.addresses[0], 28), (lab.b.addresses[1], 48)] {
        lab.a.succeed(LONG, &format!("ping -n -q -c 3 -i 0.05 -W 3 -M do -s {} {address}", 9000 - headers));
    }
    odd_frames_arrive_as_they_were_sent(&lab, &lab.a, &lab.b, 9014);
    odd_frames_arrive_as_they_were_sent(&lab, &lab.b, &lab.a, 9014);
    let iperf = Iperf::start(&lab.b, 5201);
    assert!(iperf.run(&lab.a, "-t 1") > 1_000_000);
    lab.assert_in_order();
}
