//! Two appliances between the hosts: what a user relies on, one sentence each.

use std::time::Duration;

use longhaul::units::{BitRate, ByteCount};
use longhaul::wan::{Jitter, Reorder};

use crate::appliance::{ACCELERATED_PORT, ApplianceSpec};
use crate::host::HostSpec;
use crate::identity::End;
use crate::network::{Incident, Network, NetworkSpec};
use crate::path::PathSpec;
use crate::pattern::Content;
use crate::script::{Connection, Pause, Seen};

const MS: Duration = Duration::from_millis(1);
const MB: u64 = 1_000_000;

/// The same with a queue for a whole host window: a host's own TCP, past the appliances, recovers poorly.
fn roomy_path() -> PathSpec {
    PathSpec::new(BitRate::from_mbps(100), 20 * MS, 6.0)
}

/// Connections open once the appliances know each other; before, flows pass through.
const READY: Duration = Duration::from_millis(1500);

fn network(path: PathSpec) -> NetworkSpec {
    NetworkSpec::new(path, ApplianceSpec::default().wiring(1), 1)
}

/// 100 Mbps, 20 ms: slow enough for cheap runs, long enough for everything to matter.
fn mid_path() -> PathSpec {
    PathSpec::new(BitRate::from_mbps(100), 20 * MS, 1.0)
}

fn transfer(bytes: u64) -> Connection {
    Connection::transfer(bytes).opens_at(READY)
}

fn goodput(seen: &Seen) -> BitRate {
    let took = seen.last_received_at.expect("received") - seen.connected_at.expect("connected");
    BitRate::from_transfer(ByteCount::new(seen.received), took)
}

/// Wire bytes that crossed the WAN from A.
fn wan_bytes(network: &Network) -> u64 {
    network.wan(End::A).stats().offered_bytes.as_u64()
}

fn assert_accelerated(network: &Network) {
    let stats = network.engine(End::A).and_then(|engine| engine.channel_stats()).expect("an appliance with a channel");
    let received = network.received(End::A) + network.received(End::B);
    assert!(stats.datagrams_sent > 0 && stats.datagrams_received > 0, "{}", network.describe());
    // ARP and the connections' openings are forwarded; a transfer that was would be thousands of frames.
    assert!(network.forwarded < 100 + received / 100_000, "{} frames forwarded", network.forwarded);
}

#[test]
fn both_directions_at_once_arrive_whole() {
    let connection = Connection { opens_at: READY, ..Connection::both_ways(8 * MB, 6 * MB) };
    let mut network = Network::new(network(mid_path()).with(connection));
    network.run();
    assert_accelerated(&network);
    assert!(goodput(&network.seen(End::B, 0)) > BitRate::from_mbps(70), "{}", network.describe());
}

#[test]
fn eight_flows_arrive_whole_and_share_the_line() {
    let mut spec = network(mid_path());
    for _ in 0..8 {
        spec = spec.with(transfer(2 * MB));
    }
    let mut network = Network::new(spec);
    network.run();
    assert_accelerated(&network);
    let finished: Vec<Duration> =
        (0..8).map(|index| network.seen(End::B, index).last_received_at.expect("received")).collect();
    let (first, last) = (finished.iter().min().expect("eight"), finished.iter().max().expect("eight"));
    // Equal flows that share equally end together: nobody is a third faster than another.
    assert!((*last - READY).as_secs_f64() < 1.5 * (*first - READY).as_secs_f64(), "{finished:?}");
    let rate = BitRate::from_transfer(ByteCount::new(16 * MB), *last - READY);
    assert!(rate > BitRate::from_mbps(75), "{rate}");
}

#[test]
fn a_server_may_answer_long_after_the_client_has_ended_its_direction() {
    let mut connection = Connection::both_ways(MB, 3 * MB).opens_at(READY);
    connection.reply_after_end = true;
    let mut network = Network::new(network(mid_path()).with(connection));
    network.run();
    assert_accelerated(&network);
    assert!(network.seen(End::B, 0).ended_at < network.seen(End::A, 0).ended_at);
}

#[test]
fn a_receiver_that_closes_its_own_direction_first_still_receives_everything() {
    let mut connection = transfer(3 * MB);
    connection.closes_early = true;
    let mut network = Network::new(network(mid_path()).with(connection));
    network.run();
    assert_accelerated(&network);
    assert!(network.seen(End::A, 0).ended_at < network.seen(End::B, 0).ended_at);
}

#[test]
fn a_connection_may_be_opened_from_either_side() {
    let connection = Connection { client: End::B, ..transfer(2 * MB) };
    let mut network = Network::new(network(mid_path()).with(connection));
    network.run();
    assert_accelerated(&network);
}

#[test]
fn a_closed_port_is_refused_at_once() {
    let mut connection = transfer(1000);
    connection.listening = false;
    let mut network = Network::new(network(mid_path()).with(connection));
    network.run();
    let refused = network.seen(End::A, 0).reset_at.expect("refused") - READY;
    // ARP on the wire, then one round trip of the channel; nothing is accepted on the way.
    assert!(refused < 4 * mid_path().rtt, "{refused:?}");
    assert!(network.seen(End::A, 0).connected_at.is_none(), "accepted before the server was asked");
}

#[test]
fn a_silent_server_stays_silent_as_on_the_wire() {
    let mut spec = network(mid_path()).with(transfer(1000));
    spec.hosts[1].filtered_ports = vec![ACCELERATED_PORT];
    let mut network = Network::new(spec);
    network.run_to(Duration::from_secs(25));
    let seen = network.seen(End::A, 0);
    assert!(seen.connected_at.is_none() && seen.reset_at.is_none(), "{seen:?}");
}

#[test]
fn other_ports_pass_untouched() {
    let connection = Connection { port: 9000, ..transfer(2 * MB) };
    let mut network = Network::new(network(roomy_path()).with(connection));
    network.run();
    assert!(network.forwarded > 2 * 2 * MB / 1500, "{} frames forwarded", network.forwarded);
}

#[test]
fn appliances_that_accelerate_nothing_are_a_wire() {
    let run = |wiring| {
        let spec = NetworkSpec::new(roomy_path(), wiring, 1).with(Connection::both_ways(3 * MB, MB));
        let mut network = Network::new(spec);
        network.run();
        (network.now(), network.wan(End::A).stats(), network.wan(End::B).stats())
    };
    let bridge = ApplianceSpec { accelerate: false, ..ApplianceSpec::default() };
    assert_eq!(run(bridge.wiring(1)), run(crate::network::Wiring::Wire));
}

#[test]
fn a_reset_in_mid_transfer_reaches_the_other_host() {
    for who in End::BOTH {
        let mut connection = Connection::both_ways(50 * MB, 50 * MB).opens_at(READY);
        connection.abort = Some((who, MB));
        let mut network = Network::new(network(mid_path()).with(connection));
        network.run();
        let (reset, heard) = (network.seen(who, 0).reset_at, network.seen(who.other(), 0).reset_at);
        let late = heard.expect("heard") - reset.expect("reset");
        assert!(late < 500 * MS, "{who:?}: {late:?}");
    }
}

#[test]
fn a_receiver_that_rests_blocks_the_sender_and_then_gets_the_rest() {
    let mut connection = transfer(30 * MB);
    connection.pauses = vec![Pause { end: End::B, after: 2 * MB, lasts: Duration::from_secs(8) }];
    let mut network = Network::new(network(mid_path()).with(connection));
    network.run_to(Duration::from_secs(6));
    let blocked_at = network.seen(End::A, 0).sent;
    let received = network.seen(End::B, 0).received;
    network.run_to(Duration::from_secs(9));
    assert_eq!(network.seen(End::A, 0).sent, blocked_at, "the sender was not blocked");
    // Two host buffers, two of the appliances each, and the channel's backlog: nothing else may hold bytes.
    let held = blocked_at - received;
    assert!(held < 8 * MB, "{held} bytes under way to a host that does not read");
    network.run();
    assert_accelerated(&network);
}

#[test]
fn a_restarted_appliance_resets_both_hosts_and_serves_new_connections() {
    for who in End::BOTH {
        let spec = network(mid_path())
            .with(transfer(100 * MB))
            .with(transfer(MB).opens_at(Duration::from_secs(9)))
            .incident(Duration::from_secs(3), Incident::Restart(who));
        let mut network = Network::new(spec);
        network.run();
        for end in End::BOTH {
            let reset = network.seen(end, 0).reset_at.expect("an error at both hosts");
            assert!(reset < Duration::from_secs(8), "{who:?} restarted, {end:?} learned it at {reset:?}");
        }
        assert_eq!(network.seen(End::B, 1).received, MB, "{who:?}");
    }
}

#[test]
fn an_outage_of_one_and_of_ten_seconds_is_ridden_out() {
    for outage in [1, 10] {
        let lasts = Duration::from_secs(outage);
        let begins = Duration::from_secs(3);
        let spec = network(mid_path()).with(transfer(40 * MB)).incident(begins, Incident::Outage(lasts));
        let mut network = Network::new(spec);
        network.run_to(begins + lasts);
        let before = network.received(End::B);
        network.run_to(begins + lasts + 2 * mid_path().rtt + 200 * MS);
        let resumed = network.received(End::B) - before;
        assert!(resumed > 0, "nothing moved after {outage} s of outage");
        network.run();
        assert_accelerated(&network);
    }
}

#[test]
fn a_new_connection_passes_while_the_peer_is_unreachable() {
    let connection = transfer(MB);
    let spec = network(mid_path()).with(connection).incident(Duration::ZERO, Incident::Death(End::B));
    let mut network = Network::new(spec);
    network.run_to(Duration::from_secs(5));
    // Behind a dead appliance nothing answers, but the SYN has to have been tried on the WAN.
    assert!(network.seen(End::A, 0).connected_at.is_none());
    assert!(network.forwarded > 0, "the SYN was withheld");
}

#[test]
fn jitter_with_reordering_costs_next_to_nothing() {
    let path = mid_path().jitter(Jitter::reordering(3 * MS));
    let mut network = Network::new(network(path).with(transfer(30 * MB)));
    network.run();
    let goodput = goodput(&network.seen(End::B, 0));
    assert!(goodput > BitRate::from_mbps(80), "{goodput}");
    let overhead = wan_bytes(&network) as f64 / (30 * MB) as f64;
    assert!(overhead < 1.08, "{overhead} wire bytes per byte");
}

#[test]
fn packets_held_back_are_not_sent_again() {
    let mut path = mid_path();
    path.link.reorder = Reorder { probability: longhaul::wan::Probability::from_ppm(10_000), hold: 2 * MS };
    let mut network = Network::new(network(path).with(transfer(30 * MB)));
    network.run();
    let overhead = wan_bytes(&network) as f64 / (30 * MB) as f64;
    assert!(overhead < 1.08, "{overhead} wire bytes per byte");
    assert!(goodput(&network.seen(End::B, 0)) > BitRate::from_mbps(80));
}

#[test]
fn losses_in_bursts_cost_what_is_lost_and_little_more() {
    let path = mid_path().loss(1.0, 8.0);
    let mut network = Network::new(network(path).with(transfer(30 * MB)));
    network.run();
    let goodput = goodput(&network.seen(End::B, 0));
    assert!(goodput > BitRate::from_mbps(75), "{goodput}");
}

#[test]
fn jumbo_frames_on_the_lan_cross_a_wan_of_1500() {
    let spec = ApplianceSpec { lan_mtu: 9000, ..ApplianceSpec::default() };
    let mut spec = NetworkSpec::new(mid_path(), spec.wiring(1), 1).with(transfer(10 * MB));
    spec.hosts = [HostSpec { mtu: 9000, ..HostSpec::default() }, HostSpec { mtu: 9000, ..HostSpec::default() }];
    let mut network = Network::new(spec);
    network.run();
    assert_accelerated(&network);
    assert_eq!(network.wan(End::A).stats().oversize, 0);
    assert!(goodput(&network.seen(End::B, 0)) > BitRate::from_mbps(75));
}

#[test]
fn a_jumbo_host_and_an_ordinary_one_understand_each_other() {
    let spec = ApplianceSpec { lan_mtu: 9000, ..ApplianceSpec::default() };
    let mut spec = NetworkSpec::new(mid_path(), spec.wiring(1), 1)
        .with(Connection { opens_at: READY, ..Connection::both_ways(4 * MB, 4 * MB) });
    spec.hosts[0].mtu = 9000;
    let mut network = Network::new(spec);
    network.run();
    assert_accelerated(&network);
}

#[test]
fn near_empty_pages_move_faster_than_the_line() {
    let mut network = Network::new(network(mid_path()).with(transfer(60 * MB).content(Content::ZeroPages)));
    network.run();
    assert_accelerated(&network);
    let goodput = goodput(&network.seen(End::B, 0));
    assert!(goodput > BitRate::from_mbps(300), "{goodput}");
}

#[test]
fn ipv6_vlans_and_hosts_without_offloads_are_served_alike() {
    for (v6, vlan, offload) in [(true, None, true), (false, Some(0x6064), true), (true, Some(100), false)] {
        let host = HostSpec { v6, vlan, offload, ..HostSpec::default() };
        let mut spec = network(mid_path()).with(Connection { opens_at: READY, ..Connection::both_ways(2 * MB, MB) });
        spec.hosts = [host.clone(), host];
        let mut network = Network::new(spec);
        network.run();
        assert_accelerated(&network);
    }
}

#[test]
fn a_line_that_halves_and_doubles_its_rate_is_followed() {
    let spec = network(mid_path())
        .with(transfer(40 * MB))
        .incident(Duration::from_secs(3), Incident::Rate(BitRate::from_mbps(50)))
        .incident(Duration::from_secs(6), Incident::Rate(BitRate::from_mbps(100)));
    let mut network = Network::new(spec);
    let received_in = |network: &mut Network, from: Duration, until: Duration| {
        network.run_to(from);
        let before = network.received(End::B);
        network.run_to(until);
        BitRate::from_transfer(ByteCount::new(network.received(End::B) - before), until - from)
    };
    let halved = received_in(&mut network, Duration::from_secs(4), Duration::from_secs(6));
    assert!(halved > BitRate::from_mbps(40), "{halved} on the halved line");
    network.run();
    let rate = goodput(&network.seen(End::B, 0));
    assert!(rate > BitRate::from_mbps(55), "{rate}");
}

/// Runs `connection` twice: once undisturbed, to learn when B's host is done with it, and once with the appliance of A
/// starting anew 2 ms after that, while the channel still carries what A's host has not got.
fn restart_behind_a_host_that_is_done(connection: Connection) -> Network {
    let mut quiet = Network::new(network(mid_path()).with(connection.clone()));
    quiet.run();
    let seen = quiet.seen(End::B, 0);
    let done = seen.ended_at.max(seen.acked_at).expect("done");
    assert!(quiet.seen(End::A, 0).ended_at.expect("ended") > done + 2 * MS, "nothing was under way");
    let mut spec = network(mid_path()).with(connection).incident(done + 2 * MS, Incident::Restart(End::A));
    spec.limit = Duration::from_secs(30);
    let mut network = Network::new(spec);
    network.run();
    network
}

#[test]
fn a_restart_while_the_last_bytes_are_under_way_is_told_to_the_host_that_misses_them() {
    for bytes in [4 * MB, 100_000, 5_000] {
        let connection = Connection { reply_after_end: true, ..Connection::both_ways(1000, bytes) };
        let network = restart_behind_a_host_that_is_done(connection.opens_at(READY));
        assert!(network.seen(End::A, 0).reset_at.is_some(), "{bytes} bytes");
    }
}

#[test]
fn a_restart_while_the_last_end_is_under_way_is_told_to_the_host_that_waits_for_it() {
    let network = restart_behind_a_host_that_is_done(transfer(MB));
    assert!(network.seen(End::A, 0).reset_at.is_some());
}

#[test]
fn a_restart_behind_a_resting_receiver_is_told_to_it_however_long_ago_the_sender_was_done() {
    let mut connection = transfer(1_500_000);
    connection.closes_early = true;
    connection.pauses = vec![Pause { end: End::B, after: 1, lasts: Duration::from_secs(200) }];
    let mut spec = network(mid_path()).with(connection).incident(Duration::from_secs(150), Incident::Restart(End::B));
    spec.limit = Duration::from_secs(300);
    let mut network = Network::new(spec);
    network.run_to(Duration::from_secs(149));
    let (sender, receiver) = (network.seen(End::A, 0), network.seen(End::B, 0));
    assert!(sender.is_over() && sender.reset_at.is_none(), "{sender:?}");
    assert!(receiver.received < 1_500_000);
    network.run();
    let told = network.seen(End::B, 0).reset_at.expect("an error");
    assert!(told < Duration::from_secs(153), "{told:?}");
}

#[test]
fn a_receiver_that_rests_longer_than_time_wait_still_gets_the_last_bytes() {
    // Sizes around what all buffers on the way hold: the sender is done, and its appliance still has some of it.
    for bytes in (20..36).map(|step| step * 100_000) {
        let mut connection = transfer(bytes);
        connection.closes_early = true;
        connection.pauses = vec![Pause { end: End::B, after: 1, lasts: Duration::from_secs(25) }];
        let mut network = Network::new(network(mid_path()).with(connection));
        network.run();
    }
}
