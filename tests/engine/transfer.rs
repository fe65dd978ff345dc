//! Bytes: that they arrive, in both directions, through ends, resets, slow readers and outages.

use longhaul::engine::{BypassReason, FlowStage, Limits, Role};
use longhaul::tcp::EndpointState;
use longhaul::units::ByteCount;

use crate::host::OnSyn;
use crate::world::{A, B, World, mirrored_rules, payload};

#[test]
fn bytes_cross_in_both_directions_and_both_flows_end() {
    let mut world = World::new();
    let (request, answer) = (payload(1, 3_000_000), payload(2, 1_000_000));
    world.hosts[B].greeting = answer.clone();
    world.open(40_000, request.clone());
    let is_done = |world: &World| {
        let received = |side: usize, len: usize| {
            world.hosts[side].connections.first().is_some_and(|connection| connection.inbox.len() >= len)
        };
        received(A, answer.len()) && received(B, request.len())
    };
    assert!(world.run_until(5_000, is_done), "everything arrives");
    assert_eq!((world.flows(A), world.flows(B)), (1, 1));
    world.run_for(500);
    assert!(world.hosts[A].connections[0].inbox == answer);
    assert!(world.hosts[B].connections[0].inbox == request);
    for side in [A, B] {
        assert_eq!(world.hosts[side].connections[0].state(), EndpointState::Closed);
        assert!(world.hosts[side].connections[0].received_all());
        assert_eq!(world.flows(side), 0, "the flow is forgotten");
        let counters = world.engines[side].counters();
        assert_eq!((counters.flows_opened, counters.flows_finished, counters.flows_reset), (1, 1, 0));
        assert_eq!((counters.bad_checksum, counters.stray_segments, counters.peer_faults), (0, 0, 0));
        assert_eq!(world.engines[side].status(0).memory, ByteCount::ZERO);
    }
}

#[test]
fn the_hosts_see_each_others_addresses_and_nothing_of_the_flow_crosses_as_frames() {
    let mut world = World::new();
    world.open(40_000, payload(1, 100_000));
    assert!(
        world.run_until(2_000, |world| world.hosts[B].connections.first().is_some_and(|c| c.inbox.len() == 100_000))
    );
    let key = world.hosts[B].connections[0].key;
    assert_eq!(key.dst, ([10, 0, 0, 1], 40_000).into());
    for side in [A, B] {
        let arp_frames = 1;
        assert_eq!(world.wan_frames[side].len(), arp_frames);
        let (own, other) = (world.hosts[side].mac, world.hosts[1 - side].mac);
        for frame in &world.hosts[side].log[1..] {
            assert_eq!((&frame[10..16], &frame[16..22]), (&own.0[..], &other.0[..]));
        }
    }
}

#[test]
fn status_shows_the_flow_from_both_ends() {
    let mut world = World::new();
    world.hosts[B].pauses_accepted = true;
    let at = world.open(40_000, payload(1, 300_000));
    world.hosts[A].connections[at].finish = false;
    world.hosts[A].connections[at].finish_after_peer = false;
    world.run_for(1_000);
    let (near, far) = (world.engines[A].status(9), world.engines[B].status(9));
    assert_eq!((near.flows[0].role, far.flows[0].role), (Role::Near, Role::Far));
    assert_eq!((near.flows[0].stage, far.flows[0].stage), (FlowStage::Relaying, FlowStage::Relaying));
    assert_eq!((near.flows[0].rule, far.flows[0].rule), (Some(0), Some(0)));
    assert_eq!(near.flows[0].key, far.flows[0].key);
    assert_eq!(near.flows[0].from_host, ByteCount::new(300_000));
    assert_eq!(near.flows[0].from_host, far.flows[0].to_host);
    let codec = near.flows[0].codec;
    assert!(codec.source == ByteCount::new(300_000) && codec.encoded.as_u64() * 10 < codec.source.as_u64() * 7);
    assert_eq!(far.flows[0].from_peer_encoded, codec.encoded);
}

#[test]
fn one_direction_may_end_long_before_the_other() {
    let mut world = World::new();
    world.open(40_000, payload(1, 1_000));
    assert!(world.run_until(2_000, |world| world.hosts[B].connections.first().is_some_and(|c| c.received_all())));
    assert_eq!(world.hosts[A].connections[0].state(), EndpointState::Open);
    // B keeps its direction, and speaks an hour later.
    let mut world = World::new();
    let at = world.open(40_001, payload(1, 1_000));
    assert!(world.run_until(2_000, |world| !world.hosts[B].connections.is_empty()));
    world.hosts[B].connections[0].finish_after_peer = false;
    world.run_for(3_600_000);
    assert_eq!((world.flows(A), world.flows(B)), (1, 1));
    assert!(world.hosts[B].connections[0].received_all());
    world.hosts[B].connections[0].outbox = payload(2, 200_000);
    world.hosts[B].connections[0].finish = true;
    assert!(world.run_until(3_000, |world| world.hosts[A].connections[at].inbox.len() == 200_000));
    world.run_for(500);
    assert!(world.hosts[A].connections[at].inbox == payload(2, 200_000));
    assert_eq!((world.flows(A), world.flows(B)), (0, 0));
}

#[test]
fn a_reset_crosses_in_either_direction() {
    for from in [A, B] {
        let mut world = World::new();
        let at = world.open(40_000, payload(1, 10_000));
        world.hosts[A].connections[at].finish = false;
        assert!(world.run_until(2_000, |world| world.flows(B) == 1 && world.hosts[B].connections.len() == 1));
        world.run_for(100);
        world.hosts[from].connections[0].endpoint.abort();
        world.run_for(100);
        assert_eq!(world.hosts[1 - from].connections[0].state(), EndpointState::Reset, "from {from}");
        assert_eq!((world.flows(A), world.flows(B)), (0, 0));
        assert_eq!(world.engines[1 - from].counters().flows_reset, 1);
    }
}

#[test]
fn a_slow_reader_closes_the_senders_window_and_memory_stays_bounded() {
    const TOTAL: usize = 64 << 20;
    let mut world = World::new();
    world.hosts[B].pauses_accepted = true;
    let outbox = payload(1, TOTAL);
    let at = world.open(40_000, outbox.clone());
    world.run_for(10_000);
    let accepted = world.hosts[A].connections[at].sent;
    // Buffers of two hosts and two endpoints, and what the channel and its credit hold.
    assert!(accepted < 40 << 20, "{accepted} bytes were taken from a host whose peer reads nothing");
    world.run_for(20_000);
    assert_eq!(world.hosts[A].connections[at].sent, accepted, "and then nothing more");
    world.hosts[B].connections[0].is_paused = false;
    assert!(world.run_until(20_000, |world| world.hosts[B].connections[0].inbox.len() == TOTAL));
    assert!(world.hosts[B].connections[0].inbox == outbox);
}

#[test]
fn an_outage_of_a_minute_is_ridden_out() {
    let mut world = World::new();
    let outbox = payload(1, 20 << 20);
    world.open(40_000, outbox.clone());
    world.run_for(100);
    assert_eq!(world.flows(B), 1);
    world.is_cut = true;
    world.run_for(60_000);
    assert!(world.hosts[B].connections[0].inbox.len() < outbox.len());
    assert_eq!((world.flows(A), world.flows(B)), (1, 1));
    world.is_cut = false;
    let arrives = world.run_until(10_000, |world| world.hosts[B].connections[0].inbox.len() == outbox.len());
    assert!(arrives, "{} bytes came", world.hosts[B].connections[0].inbox.len());
    assert!(world.hosts[B].connections[0].inbox == outbox);
}

#[test]
fn after_an_outage_of_ninety_seconds_both_hosts_get_an_error() {
    let mut world = World::new();
    world.open(40_000, payload(1, 20 << 20));
    world.run_for(100);
    world.is_cut = true;
    world.run_for(80_000);
    assert_eq!(world.hosts[A].connections[0].state(), EndpointState::Open);
    world.run_for(15_000);
    for side in [A, B] {
        assert_eq!(world.hosts[side].connections[0].state(), EndpointState::Reset);
        assert_eq!(world.flows(side), 0);
    }
}

#[test]
fn a_vanished_host_is_noticed_and_the_other_one_hears_of_it() {
    let mut world = World::new();
    let at = world.open(40_000, payload(1, 1_000));
    world.hosts[A].connections[at].finish = false;
    world.run_for(1_000);
    world.hosts[B].is_dead = true;
    world.run_for(180_000);
    assert_eq!(world.hosts[A].connections[at].state(), EndpointState::Reset);
    assert_eq!((world.flows(A), world.flows(B)), (0, 0));
}

#[test]
fn a_restarted_appliance_resets_both_hosts_within_a_second_of_coming_back() {
    for restarted in [A, B] {
        let mut world = World::new();
        let at = world.open(40_000, payload(1, 50_000));
        world.hosts[A].connections[at].finish = false;
        world.run_for(1_000);
        world.restart(restarted);
        let is_reset = |world: &World| {
            let state = |side: usize| world.hosts[side].connections[0].state();
            state(A) == EndpointState::Reset && state(B) == EndpointState::Reset
        };
        assert!(world.run_until(2_000, is_reset), "restart of {restarted}");
        assert_eq!(world.engines[restarted].counters().orphans_reset, 1);
        world.run_for(3_000);
        assert_eq!(world.engines[restarted].status(0).orphans, 0);
        // And new connections are accelerated.
        world.open(40_001, payload(3, 1_000));
        world.run_for(1_000);
        assert!(world.hosts[B].connections.last().unwrap().inbox == payload(3, 1_000));
        assert_eq!(world.engines[A].counters().flows_finished, 1);
    }
}

#[test]
fn an_end_that_a_restart_has_swallowed_becomes_an_error() {
    let mut world = World::new();
    let at = world.open(40_000, payload(1, 50_000));
    assert!(world.run_until(1_000, |world| world.flows(B) == 1));
    assert!(world.run_until(1_000, |world| world.flows(B) == 0));
    assert_eq!(world.flows(A), 1, "the far host's FIN is still on its way");
    world.restart(A);
    assert!(world.run_until(2_000, |world| world.hosts[A].connections[at].state() == EndpointState::Reset));
    assert!(world.hosts[B].connections[0].inbox == payload(1, 50_000));
}

#[test]
fn shutdown_resets_both_hosts_at_once() {
    let mut world = World::new();
    let at = world.open(40_000, payload(1, 50_000));
    world.hosts[A].connections[at].finish = false;
    world.run_for(1_000);
    let now = world.now;
    world.engines[A].shutdown(now);
    world.drain(A);
    world.run_for(100);
    for side in [A, B] {
        assert_eq!(world.hosts[side].connections[0].state(), EndpointState::Reset, "side {side}");
    }
}

#[test]
fn the_same_ports_serve_again_and_again() {
    let mut world = World::new();
    for round in 0..20 {
        world.open(40_000, payload(round, 5_000));
        world.run_for(200);
        assert!(world.hosts[B].connections.last().unwrap().inbox == payload(round, 5_000), "round {round}");
    }
    assert_eq!(world.engines[B].counters().flows_finished, 20);
    assert_eq!(world.bypassed(A, BypassReason::MidStream), 0);
}

#[test]
fn many_flows_at_once_all_arrive() {
    let mut world = World::new();
    world.hosts[B].on_syn = OnSyn::Accept;
    for port in 0..200 {
        world.open(40_000 + port, payload(u64::from(port), 50_000));
    }
    assert!(world.run_until(20_000, |world| {
        world.hosts[B].connections.len() == 200 && world.hosts[B].connections.iter().all(|c| c.inbox.len() == 50_000)
    }));
    for connection in &world.hosts[B].connections {
        assert!(connection.inbox == payload(u64::from(connection.key.dst.port() - 40_000), 50_000));
    }
}

#[test]
fn a_restart_under_more_flows_than_one_write_can_list_resets_them_all() {
    const FLOWS: u16 = 1_300;
    let limits = Limits { memory: ByteCount::from_mib(8 * 1024), ..Limits::default() };
    let mut world = World::unconnected([mirrored_rules(), mirrored_rules()], limits);
    world.connect();
    for port in 0..FLOWS {
        let at = world.open(20_000 + port, Vec::new());
        world.hosts[A].connections[at].finish = false;
        world.hosts[A].connections[at].finish_after_peer = false;
        if port % 100 == 99 {
            world.run_for(50);
        }
    }
    world.run_for(500);
    assert_eq!((world.flows(A), world.flows(B)), (usize::from(FLOWS), usize::from(FLOWS)));
    world.restart(B);
    let is_reset = |world: &World| {
        let all = world.hosts.iter().flat_map(|host| &host.connections);
        all.filter(|connection| connection.state() != EndpointState::Reset).count() == 0
    };
    assert!(world.run_until(3_000, is_reset));
    assert_eq!(world.engines[B].counters().orphans_reset, u64::from(FLOWS));
}

#[test]
fn when_both_appliances_start_anew_what_they_have_forgotten_is_reset_at_both_hosts() {
    let mut world = World::new();
    let at = world.open(40_000, payload(1, 5_000_000));
    world.hosts[A].connections[at].finish = false;
    assert!(
        world.run_until(2_000, |world| world.hosts[B].connections.first().is_some_and(|c| c.inbox.len() > 200_000))
    );
    world.restart(A);
    world.restart(B);
    let is_reset = |world: &World| {
        let state = |side: usize| world.hosts[side].connections[0].state();
        state(A) == EndpointState::Reset && state(B) == EndpointState::Reset
    };
    assert!(world.run_until(20_000, is_reset));
    let reset = [A, B].map(|side| world.engines[side].counters().orphans_reset);
    assert!(reset.iter().sum::<u64>() >= 1, "{reset:?}");
    world.run_for(3_000);
    world.open(40_001, payload(3, 1_000));
    world.run_for(1_000);
    assert!(world.hosts[B].connections.last().unwrap().inbox == payload(3, 1_000));
}

#[test]
fn a_connection_older_than_both_appliances_is_left_alone() {
    let rules = [mirrored_rules(), mirrored_rules()];
    let mut world = World::unconnected(rules, Limits::default());
    world.hosts[A].announce();
    world.hosts[B].announce();
    // No channel: the connection passes through.
    world.is_cut = true;
    world.run_for(10);
    let at = world.open(40_000, payload(1, 3_000_000));
    world.hosts[A].connections[at].finish = false;
    assert!(
        world.run_until(5_000, |world| world.hosts[B].connections.first().is_some_and(|c| c.inbox.len() > 200_000))
    );
    world.restart(A);
    world.restart(B);
    world.is_cut = false;
    let everything = |world: &World| world.hosts[B].connections[0].inbox.len() == 3_000_000;
    assert!(world.run_until(30_000, everything));
    for side in [A, B] {
        assert_eq!(world.hosts[side].connections[0].state(), EndpointState::Open);
        assert_eq!(world.engines[side].counters().orphans_reset, 0);
        assert_eq!(world.bypassed(side, BypassReason::MidStream), 1);
    }
}
