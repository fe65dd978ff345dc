//! Hosts over a cable: what the simulated hosts and the WAN do without any appliance, which the rest is compared with.

use std::time::Duration;

use longhaul::units::{BitRate, ByteCount};

use crate::host::HostSpec;
use crate::identity::End;
use crate::network::{Network, NetworkSpec, Wiring};
use crate::path::PathSpec;
use crate::script::Connection;

const MS: Duration = Duration::from_millis(1);

fn short_path() -> PathSpec {
    PathSpec::new(BitRate::from_mbps(1000), 2 * MS, 4.0)
}

#[test]
fn a_transfer_over_a_clean_cable_runs_at_the_window_s_rate() {
    let path = PathSpec::new(BitRate::from_mbps(1000), 10 * MS, 2.0);
    let bytes = 20_000_000;
    let mut network = Network::new(NetworkSpec::new(path, Wiring::Wire, 1).with(Connection::transfer(bytes)));
    network.run();
    let seen = network.seen(End::B, 0);
    let took = seen.last_received_at.expect("received") - seen.connected_at.expect("connected");
    // 512 KiB per round trip of a bit more than 10 ms.
    let goodput = BitRate::from_transfer(ByteCount::new(bytes), took);
    assert!((380..430).contains(&(goodput.as_bps() / 1_000_000)), "{goodput}");
}

#[test]
fn hosts_of_every_kind_understand_each_other() {
    for v6 in [false, true] {
        for vlan in [None, Some(0x6064)] {
            for offload in [false, true] {
                for mtu in [1500, 1400] {
                    let host = HostSpec { v6, vlan, offload, mtu, ..HostSpec::default() };
                    let mut spec = NetworkSpec::new(short_path(), Wiring::Wire, 1);
                    spec.hosts = [host.clone(), host];
                    let mut network = Network::new(spec.with(Connection::both_ways(3_000_000, 2_000_000)));
                    network.run();
                    assert_eq!(network.received(End::B), 3_000_000);
                    assert_eq!(network.received(End::A), 2_000_000);
                }
            }
        }
    }
}

#[test]
fn a_closed_port_on_the_cable_refuses_within_a_round_trip() {
    let mut connection = Connection::transfer(1000);
    connection.listening = false;
    let mut network = Network::new(NetworkSpec::new(short_path(), Wiring::Wire, 1).with(connection));
    network.run();
    let refused = network.seen(End::A, 0).reset_at.expect("refused");
    // ARP and SYN take a round trip each.
    assert!(refused < 5 * MS, "{refused:?}");
}

#[test]
fn a_filtered_port_on_the_cable_never_answers() {
    let mut spec = NetworkSpec::new(short_path(), Wiring::Wire, 1).with(Connection::transfer(1000));
    spec.hosts[1].filtered_ports = vec![8000];
    let mut network = Network::new(spec);
    network.run_to(Duration::from_secs(30));
    let seen = network.seen(End::A, 0);
    assert!(seen.connected_at.is_none() && seen.reset_at.is_none(), "{seen:?}");
}

#[test]
fn a_run_is_a_function_of_its_seed() {
    let trace = |seed: u64| {
        let path = short_path().loss(0.1, 1.0);
        let mut spec = NetworkSpec::new(path, Wiring::Wire, seed).with(Connection::transfer(2_000_000));
        spec.limit = Duration::from_secs(600);
        let mut network = Network::new(spec);
        network.run();
        (network.now(), network.wan(End::A).stats())
    };
    assert_eq!(trace(7), trace(7));
    assert_ne!(trace(7), trace(8));
}
