//! Opens: accepted, refused, unanswered, let go; and what never becomes one.

use longhaul::engine::{BypassReason, Fate, Limits};
use longhaul::frame::{Classified, FlowKey, L2Header, Port, TcpFlags, VlanStack, VlanTag, classify};
use longhaul::rules::Rules;
use longhaul::tcp::EndpointState;
use longhaul::units::ByteCount;

use crate::host::OnSyn;
use crate::segments::{key, l2, segment, syn};
use crate::world::{A, B, MAC_B, World, mirrored_rules, payload};

fn syns(frames: &[Vec<u8>]) -> usize {
    let is_syn = |frame: &&Vec<u8>| matches!(classify(frame), Classified::Tcp(segment) if segment.flags.opens());
    frames.iter().filter(is_syn).count()
}

#[test]
fn a_closed_port_is_refused_at_once_and_as_without_us() {
    let mut world = World::new();
    world.hosts[B].on_syn = OnSyn::Refuse;
    let at = world.open(40_000, Vec::new());
    assert!(world.run_until(100, |world| world.hosts[A].connections[at].state() == EndpointState::Reset));
    assert_eq!((world.flows(A), world.flows(B)), (0, 0));
    assert_eq!((world.engines[A].counters().opens_refused, world.engines[B].counters().opens_refused), (1, 1));
    assert_eq!((syns(&world.wan_frames[A]), syns(&world.hosts[B].log)), (0, 1));
}

#[test]
fn a_silent_host_stays_silent_and_everything_is_freed() {
    let mut world = World::new();
    world.hosts[B].on_syn = OnSyn::Ignore;
    let at = world.open(40_000, Vec::new());
    world.run_for(60_000);
    assert_eq!(world.hosts[A].connections[at].state(), EndpointState::Opening);
    assert_eq!((world.flows(A), world.flows(B)), (1, 1));
    world.run_for(20_000);
    assert_eq!(world.hosts[A].connections[at].state(), EndpointState::TimedOut);
    assert!(!world.hosts[A].log.iter().any(|frame| matches!(classify(frame), Classified::Tcp(_))), "nothing came");
    world.run_for(80_000);
    assert_eq!((world.flows(A), world.flows(B)), (0, 0));
    assert_eq!(world.engines[A].status(0).memory, ByteCount::ZERO);
}

#[test]
fn the_opener_gets_its_answer_only_after_the_far_host_has_accepted() {
    let mut world = World::new();
    world.hosts[B].on_syn = OnSyn::Ignore;
    let at = world.open(40_000, payload(1, 1_000));
    world.run_for(2_500);
    assert_eq!(world.hosts[A].connections[at].state(), EndpointState::Opening);
    world.hosts[B].on_syn = OnSyn::Accept;
    assert!(world.run_until(10_000, |world| world.hosts[A].connections[at].state() == EndpointState::Open));
    world.run_for(500);
    assert!(world.hosts[B].connections[0].inbox == payload(1, 1_000));
    assert_eq!((syns(&world.wan_frames[A]), world.engines[A].counters().flows_finished), (0, 1));
}

#[test]
fn a_repeated_syn_with_another_isn_is_the_one_that_is_answered() {
    let mut world = World::new();
    world.hosts[B].on_syn = OnSyn::Ignore;
    world.send_from_host(A, &syn(40_000, 100, &[]));
    world.run_for(300);
    assert_eq!(world.send_from_host(A, &syn(40_000, 5_000, &[])), Fate::Taken);
    world.hosts[B].on_syn = OnSyn::Accept;
    world.run_for(3_000);
    let acks: Vec<u32> = world.hosts[A]
        .log
        .iter()
        .filter_map(|frame| match classify(frame) {
            Classified::Tcp(segment) if segment.flags.syn() => Some(segment.ack),
            _ => None,
        })
        .collect();
    assert_eq!(acks.first(), Some(&5_001));
    assert!(!acks.contains(&101));
}

#[test]
fn a_reset_of_the_opener_withdraws_the_open() {
    let mut world = World::new();
    world.hosts[B].on_syn = OnSyn::Ignore;
    world.send_from_host(A, &syn(40_000, 100, &[]));
    world.run_for(300);
    assert_eq!((world.flows(A), world.flows(B)), (1, 1));
    world.send_from_host(A, &segment(&l2(), &key(40_000), TcpFlags::RST, (101, 0), &[], &[]));
    world.run_for(300);
    assert_eq!((world.flows(A), world.flows(B)), (0, 0));
    assert_eq!(world.wan_frames[A].len(), 1, "only the announcement crossed");
}

#[test]
fn an_open_that_the_far_rules_do_not_mirror_passes_byte_identical_and_connects() {
    let mut world = World::with_rules([mirrored_rules(), Rules::default()]);
    let frame = syn(40_000, 100, &[2, 4, 5, 0xb4]);
    assert_eq!(world.send_from_host(A, &frame), Fate::Taken);
    world.run_for(50);
    assert!(world.wan_frames[A].iter().any(|sent| sent[..] == frame[..]));
    assert_eq!(world.bypassed(A, BypassReason::RefusedByPolicy), 1);
    assert_eq!(world.send_from_host(A, &frame), Fate::Forward, "and so does its repetition");

    let at = world.open(40_001, payload(1, 10_000));
    assert!(world.run_until(2_000, |world| world.hosts[B].connections.last().is_some_and(|c| c.inbox.len() == 10_000)));
    assert_ne!(world.hosts[A].connections[at].state(), EndpointState::Reset);
    let status = world.engines[A].status(9);
    assert_eq!((status.flows.len(), status.bypassed[0].flow.reason), (0, BypassReason::RefusedByPolicy));
    assert!(status.bypassed[0].flow.bytes > 10_000);
    assert_eq!(world.engines[B].counters().opens_declined, 2);
}

#[test]
fn an_unknown_far_host_is_probed_and_then_accelerated() {
    let mut world = World::unconnected([mirrored_rules(), mirrored_rules()], Limits::default());
    world.bring_up();
    world.open(40_000, payload(1, 10_000));
    world.run_for(1_000);
    assert!(world.hosts[B].connections[0].inbox == payload(1, 10_000));
    assert_eq!((world.engines[B].counters().probes_sent, world.engines[B].counters().flows_finished), (1, 1));
    assert!(world.wan_frames[B].is_empty(), "the answer to the probe stays here");
}

#[test]
fn a_far_host_without_an_address_is_left_to_the_network() {
    let mut world = World::unconnected([mirrored_rules(), mirrored_rules()], Limits::default());
    world.hosts[B].answers_arp = false;
    world.bring_up();
    let frame = syn(40_000, 100, &[]);
    world.send_from_host(A, &frame);
    assert!(world.run_until(1_500, |world| world.bypassed(A, BypassReason::NoL2Address) == 1));
    assert_eq!(world.wan_frames[A], [frame.to_vec()]);
    assert_eq!((world.flows(A), world.flows(B), world.engines[B].counters().probes_sent), (0, 0, 3));
}

#[test]
fn without_a_channel_connections_pass() {
    let mut world = World::unconnected([mirrored_rules(), mirrored_rules()], Limits::default());
    world.is_cut = true;
    world.open(40_000, payload(1, 10_000));
    world.run_for(1_000);
    assert!(world.hosts[B].connections[0].inbox == payload(1, 10_000));
    assert_eq!(world.bypassed(A, BypassReason::PeerDown), 1);
}

#[test]
fn an_open_that_nobody_answers_passes_within_seconds() {
    let mut world = World::new();
    world.is_cut = true;
    world.open(40_000, payload(1, 10_000));
    world.run_for(10);
    assert_eq!(world.flows(A), 1);
    assert!(world.run_until(3_500, |world| world.flows(A) == 0));
    world.run_for(3_000);
    assert!(world.hosts[B].connections[0].inbox == payload(1, 10_000));
    assert_eq!(world.bypassed(A, BypassReason::PeerDown) + world.bypassed(A, BypassReason::Unanswered), 1);
}

#[test]
fn an_outage_during_an_open_withdraws_it_on_both_sides() {
    let mut world = World::new();
    world.hosts[B].on_syn = OnSyn::Ignore;
    world.open(40_000, payload(1, 10_000));
    world.run_for(100);
    assert_eq!((world.flows(A), world.flows(B)), (1, 1));
    world.is_cut = true;
    world.run_for(3_500);
    assert_eq!((world.flows(A), world.flows(B)), (0, 0));
    world.hosts[B].on_syn = OnSyn::Accept;
    world.run_for(15_000);
    assert!(world.hosts[B].connections[0].inbox == payload(1, 10_000));
}

#[test]
fn a_syn_let_go_reaches_a_host_that_we_have_just_connected_to() {
    let mut world = World::new();
    let at = world.open(40_000, Vec::new());
    world.hosts[A].connections[at].finish = false;
    // The far host accepts while the answer to the opener's appliance is lost for good.
    assert!(world.run_until(100, |world| world.hosts[B].connections.len() == 1));
    world.is_cut = true;
    world.hosts[A].connections[at].outbox = payload(1, 10_000);
    let is_done = |world: &World| world.hosts[B].connections.iter().any(|c| c.inbox.len() == 10_000);
    assert!(world.run_until(20_000, is_done));
    assert_eq!((world.flows(A), world.flows(B)), (0, 0));
}

#[test]
fn connections_that_cannot_be_terminated_pass_with_their_reason() {
    let mut world = World::new();
    let mut md5 = vec![19, 18];
    md5.resize(20, 1);
    let cases: [(u16, &[u8], BypassReason); 3] = [
        (1, &md5, BypassReason::TcpOption),
        (2, &[29, 4, 1, 1], BypassReason::TcpOption),
        (3, &[30, 4, 0, 1], BypassReason::TcpOption),
    ];
    for (port, options, reason) in cases {
        let before = world.bypassed(A, reason);
        assert_eq!(world.send_from_host(A, &syn(port, 1, options)), Fate::Forward);
        assert_eq!(world.bypassed(A, reason), before + 1);
    }
    let mut fragment = syn(4, 1, &[]).to_vec();
    fragment[10 + 14 + 6] |= 0x20;
    assert_eq!(world.inject(A, Port::Lan, &fragment), Fate::Forward);
    assert_eq!(world.bypassed(A, BypassReason::Fragment), 1);
    let mut corrupt = syn(5, 1, &[]).to_vec();
    corrupt[0] = 0;
    assert_eq!(world.inject(A, Port::Lan, &corrupt), Fate::Forward);
    assert_eq!(world.bypassed(A, BypassReason::Malformed), 1);
    let data = segment(&l2(), &key(6), TcpFlags::ACK, (1, 1), &[], b"older than we");
    assert_eq!(world.send_from_host(A, &data), Fate::Forward);
    assert_eq!(world.bypassed(A, BypassReason::MidStream), 1);
    let mut other = key(7);
    other.dst.set_port(22);
    assert_eq!(world.send_from_host(A, &segment(&l2(), &other, TcpFlags::SYN, (1, 0), &[], &[])), Fate::Forward);
    assert_eq!(world.bypassed(A, BypassReason::Rule), 1);
    let local = L2Header { src: MAC_B, dst: world.hosts[A].mac, vlans: VlanStack::default() };
    assert_eq!(world.send_from_host(A, &segment(&local, &key(9), TcpFlags::SYN, (1, 0), &[], &[])), Fate::Forward);
    assert_eq!(world.bypassed(A, BypassReason::LanLocal), 1);
    assert_eq!(world.inject(A, Port::Wan, &syn(8, 1, &[])), Fate::Forward);
    assert_eq!(world.bypassed(A, BypassReason::WanInitiated), 1);
    assert_eq!(world.flows(A), 0);
}

#[test]
fn the_same_addresses_on_two_vlans_are_two_flows() {
    let mut world = World::new();
    for vid in [10, 20] {
        let tags = [Some(VlanTag { tpid: 0x8100, tci: vid }), None];
        let l2 = L2Header { vlans: VlanStack { tags }, ..l2() };
        assert_eq!(world.send_from_host(A, &segment(&l2, &key(1), TcpFlags::SYN, (1, 0), &[], &[])), Fate::Taken);
    }
    assert_eq!(world.flows(A), 2);
}

#[test]
fn a_full_table_and_a_full_memory_let_new_connections_pass_and_keep_the_old() {
    // What a flow takes depends on the rate that the channel believes in.
    let mut world = World::new();
    world.open(40_000, payload(1, 1_000));
    world.run_for(1);
    let memory_of_one = world.engines[A].status(0).memory.as_u64();
    for (limits, reason) in [
        (Limits { flows: 2, ..Limits::default() }, BypassReason::TableFull),
        (Limits { flows: 99, memory: ByteCount::new(memory_of_one * 5 / 2) }, BypassReason::Memory),
    ] {
        let mut world = World::unconnected([mirrored_rules(), mirrored_rules()], limits);
        world.connect();
        for port in 1..=3 {
            let at = world.open(40_000 + port, payload(1, 1_000));
            world.hosts[A].connections[at].finish = false;
            world.run_for(100);
        }
        assert_eq!((world.flows(A), world.flows(B), world.bypassed(A, reason)), (2, 2, 1), "{reason}");
        assert!(world.engines[A].status(0).memory <= limits.memory);
        assert_eq!(world.hosts[B].connections.len(), 3);
        assert!(world.hosts[B].connections.iter().all(|connection| connection.inbox == payload(1, 1_000)));
    }
}

#[test]
fn a_syn_flood_fills_the_gate_and_no_more() {
    let limits = Limits { memory: ByteCount::from_mib(64 * 1024), ..Limits::default() };
    let mut world = World::unconnected([mirrored_rules(), mirrored_rules()], limits);
    world.connect();
    world.hosts[B].on_syn = OnSyn::Ignore;
    world.hosts[B].is_dead = true;
    for port in 1..=3_000 {
        world.send_from_host(A, &syn(port, 1, &[]));
    }
    assert_eq!(world.flows(A), 1_024);
    assert_eq!(world.bypassed(A, BypassReason::GateFull), 3_000 - 1_024);
    world.run_for(160_000);
    assert_eq!((world.flows(A), world.flows(B)), (0, 0));
}

#[test]
fn two_hosts_that_open_the_same_connection_at_once_are_left_alone() {
    let mut world = World::new();
    let now = world.now;
    let (a, b) = ((world.hosts[A].ip, 8000).into(), (world.hosts[B].ip, 8000).into());
    world.hosts[A].connect(now, 8000, b, Vec::new());
    world.hosts[B].connect(now, 8000, a, Vec::new());
    world.run_for(500);
    assert_eq!((world.bypassed(A, BypassReason::Conflict), world.bypassed(B, BypassReason::Conflict)), (1, 1));
    assert!(syns(&world.wan_frames[A]) >= 1 && syns(&world.wan_frames[B]) >= 1);
    assert_eq!((world.flows(A), world.flows(B)), (0, 0));
}

#[test]
fn strays_of_a_live_flow_are_dropped_and_counted_and_harm_nothing() {
    let mut world = World::new();
    let at = world.open(40_000, payload(1, 1_000));
    world.hosts[A].connections[at].finish = false;
    world.run_for(200);
    let data = segment(&l2(), &key(40_000), TcpFlags::ACK, (77, 88), &[], b"duplicate");
    let answer = segment(&l2().reversed(), &key(40_000).reversed(), TcpFlags::RST, (77, 0), &[], &[]);
    assert_eq!(world.inject(A, Port::Wan, &data), Fate::Taken);
    assert_eq!(world.inject(A, Port::Wan, &answer), Fate::Taken);
    assert_eq!(world.inject(A, Port::Lan, &answer), Fate::Taken);
    assert_eq!(world.inject(B, Port::Wan, &syn(40_000, 9, &[])), Fate::Taken, "a SYN ends no flow in use");
    assert_eq!(world.engines[A].counters().stray_segments, 3);
    // A blind reset of the right connection, and a damaged segment.
    let blind = segment(&l2(), &key(40_000), TcpFlags::RST, (77, 0), &[], &[]);
    assert_eq!(world.inject(A, Port::Lan, &blind), Fate::Taken);
    let mut damaged = data.to_vec();
    damaged[0] = 0;
    assert_eq!(world.inject(A, Port::Lan, &damaged), Fate::Taken);
    assert_eq!(world.engines[A].counters().bad_checksum, 1);
    world.run_for(200);
    world.hosts[A].connections[at].outbox.extend(payload(2, 500));
    world.hosts[A].connections[at].finish = true;
    world.run_for(200);
    assert!(world.hosts[B].connections[0].inbox == [payload(1, 1_000), payload(2, 500)].concat());
}

#[test]
#[ignore = "a measurement"]
fn forwarding_cost() {
    const ROUNDS: u32 = 200_000;
    let mut world = World::new();
    world.open(40_000, payload(1, 1_000));
    world.run_for(100);
    // Eight connections that no rule accelerates, data one way and acknowledgements the other.
    let connections: Vec<_> = (0..8u16)
        .map(|at| {
            let key = FlowKey {
                src: (crate::world::IP_A, 50_000 + at).into(),
                dst: ([10, 0, 0, 2], 9000 + at).into(),
                ..key(1)
            };
            let data = segment(&l2(), &key, TcpFlags::ACK, (1, 1), &[], &[0; 1000]);
            let ack = segment(&l2().reversed(), &key.reversed(), TcpFlags::ACK, (1, 1), &[], &[]);
            (data, ack)
        })
        .collect();
    let began = std::time::Instant::now();
    for round in 0..ROUNDS as usize {
        let (data, ack) = &connections[round / 4 % 8];
        assert_eq!(world.engines[A].handle_frame(world.now, Port::Lan, data), Fate::Forward);
        assert_eq!(world.engines[A].handle_frame(world.now, Port::Wan, ack), Fate::Forward);
    }
    println!("{:?} per forwarded frame", began.elapsed() / (2 * ROUNDS));
}
