//! Connections that are not accelerated work as without appliances, and the reason is told.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::bench::{Lab, Side};
use super::pattern;

const ACCELERATE: &str = "
  - name: lab
    source: any
    destination: any
    ports: [1-65535]
    action: accelerate
";

/// Exchanges `len` bytes in each direction, one after the other.
fn exchange(near: &mut TcpStream, far: &mut TcpStream, seed: u64, len: usize) {
    let said = pattern::bytes(seed, 0, len);
    convey(near, far, &said);
    convey(far, near, &said);
}

fn convey(from: &mut TcpStream, to: &mut TcpStream, said: &[u8]) {
    let mut heard = vec![0; said.len()];
    std::thread::scope(|scope| {
        scope.spawn(|| from.write_all(said).unwrap());
        to.read_exact(&mut heard).unwrap();
    });
    assert!(heard == said);
}

#[test]
fn rules_of_both_appliances_are_obeyed() {
    let lab = Lab::up("accelerate", "--ports 8000,9000-9100 --link sonet");
    let (a, b) = (&lab.a, &lab.b);
    for (address, is_accelerated) in [
        (b.v4(8000), true),
        (b.v6(8000), true),
        (b.v4(9000), true),
        (b.v6(9100), true),
        (b.v4(7999), false),
        (b.v6(8001), false),
        (b.v4(9101), false),
    ] {
        let (mut near, mut far) = a.connection(b, address);
        exchange(&mut near, &mut far, 1, 500_000);
        let local = near.local_addr().unwrap();
        if is_accelerated {
            lab.assert_accelerated(local, address);
        } else {
            lab.assert_bypassed(Side::A, local, address, "rule");
            lab.assert_bypassed(Side::B, address, local, "wan_initiated");
        }
    }

    // Rules that are not mirrored: b's has none any more.
    lab.appliance(Side::B, "stop");
    lab.set_rules(Side::B, " []");
    lab.appliance(Side::B, "start");
    lab.wait_for_channel();
    let relayed = lab.counter(Side::A, "relayed_source_bytes");
    let (mut near, mut far) = a.connection(b, b.v4(8000));
    exchange(&mut near, &mut far, 2, 500_000);
    lab.assert_bypassed(Side::A, near.local_addr().unwrap(), b.v4(8000), "refused_by_policy");
    assert_eq!(lab.counter(Side::A, "relayed_source_bytes"), relayed);
    lab.assert_in_order();
}

#[test]
fn connections_older_than_the_appliances_live_on() {
    let lab = Lab::up("bridge", "--link sonet");
    let (a, b) = (&lab.a, &lab.b);
    let (mut near, mut far) = a.connection(b, b.v4(8000));
    let (mut near6, mut far6) = a.connection(b, b.v6(8000));
    exchange(&mut near, &mut far, 1, 500_000);
    for side in [Side::A, Side::B] {
        lab.appliance(side, "kill");
        lab.set_rules(side, ACCELERATE);
        lab.appliance(side, "start");
    }
    lab.wait_for_channel();
    exchange(&mut near, &mut far, 2, 500_000);
    exchange(&mut near6, &mut far6, 2, 500_000);
    lab.assert_bypassed(Side::A, near.local_addr().unwrap(), b.v4(8000), "mid_stream");
    lab.assert_bypassed(Side::B, b.v6(8000), near6.local_addr().unwrap(), "mid_stream");
    let (mut young, mut old) = a.connection(b, b.v4(8001));
    exchange(&mut young, &mut old, 3, 500_000);
    lab.assert_accelerated(young.local_addr().unwrap(), b.v4(8001));
    lab.assert_in_order();
}

#[test]
fn while_the_channel_is_cut_new_connections_pass_and_accelerated_ones_wait() {
    let lab = Lab::up("accelerate", "--ports 1-65535 --link sonet");
    let (a, b) = (&lab.a, &lab.b);
    let (mut near, mut far) = a.connection(b, b.v4(8000));
    exchange(&mut near, &mut far, 1, 500_000);
    lab.assert_accelerated(near.local_addr().unwrap(), b.v4(8000));

    // Only the appliances lose each other; b's goes on forwarding.
    lab.ip("appb", "addr del 10.77.0.12/24 dev br-wan");
    lab.wait_for("the loss of the peer is noticed", Duration::from_secs(6), || {
        [Side::A, Side::B].into_iter().all(|side| lab.channel_state(side) != "up")
    });
    let (mut passing, mut other) = a.connection(b, b.v4(8001));
    exchange(&mut passing, &mut other, 2, 500_000);
    lab.assert_bypassed(Side::A, passing.local_addr().unwrap(), b.v4(8001), "peer_down");
    // Said into the outage.
    let said = pattern::bytes(3, 0, 100_000);
    near.write_all(&said).unwrap();

    lab.ip("appb", "addr add 10.77.0.12/24 dev br-wan");
    lab.wait_for_channel();
    let mut heard = vec![0; said.len()];
    far.read_exact(&mut heard).unwrap();
    assert!(heard == said);
    exchange(&mut near, &mut far, 4, 500_000);
    lab.assert_accelerated(near.local_addr().unwrap(), b.v4(8000));
    // What began without the channel goes on without it.
    exchange(&mut passing, &mut other, 5, 500_000);
    lab.assert_bypassed(Side::A, passing.local_addr().unwrap(), b.v4(8001), "peer_down");
    let (mut young, mut old) = a.connection(b, b.v6(8002));
    exchange(&mut young, &mut old, 6, 500_000);
    lab.assert_accelerated(young.local_addr().unwrap(), b.v6(8002));
    lab.assert_in_order();
}
