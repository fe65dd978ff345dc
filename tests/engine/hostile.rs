//! Bytes from networks that mean no good: nothing panics, and what is live goes on.

use longhaul::engine::Limits;
use longhaul::frame::{Port, TcpFlags};
use proptest::prelude::*;

use crate::segments::{key, l2, segment};
use crate::world::{A, B, World, mirrored_rules, payload};

/// A frame of a live connection, of a new one, or of noise, and where bits of it are turned.
#[derive(Clone, Debug)]
struct Attack {
    side: usize,
    port: Port,
    kind: u8,
    tcp_port: u16,
    flags: u8,
    numbers: (u32, u32),
    options: Vec<u8>,
    payload: Vec<u8>,
    flips: Vec<(usize, u8)>,
}

fn attack() -> impl Strategy<Value = Attack> {
    let bytes = |max| proptest::collection::vec(any::<u8>(), 0..max);
    let place = (0usize..2, any::<bool>(), 0u8..5, prop_oneof![Just(40_000u16), 40_001u16..40_004]);
    let head = (any::<u8>(), any::<(u32, u32)>(), bytes(10));
    let rest = (bytes(120), proptest::collection::vec((0usize..120, any::<u8>()), 0..4));
    (place, head, rest).prop_map(|((side, lan, kind, tcp_port), (flags, numbers, words), (payload, flips))| Attack {
        side,
        port: if lan { Port::Lan } else { Port::Wan },
        kind,
        tcp_port,
        flags,
        numbers,
        options: words.into_iter().flat_map(|word| [1, 1, 1, word]).collect(),
        payload,
        flips,
    })
}

fn launch(world: &mut World, attack: &Attack) {
    let key = key(attack.tcp_port);
    let mut frame = match attack.kind {
        0 => attack.payload.clone(),
        1 => segment(&l2(), &key, TcpFlags::SYN, attack.numbers, &attack.options, &attack.payload).to_vec(),
        2 => {
            let flags = TcpFlags(attack.flags);
            segment(&l2().reversed(), &key.reversed(), flags, attack.numbers, &attack.options, &attack.payload).to_vec()
        }
        3 => {
            let mut datagram = attack.payload.clone();
            world.attack_channel(attack.side, &mut datagram, &attack.flips);
            return;
        }
        _ => {
            let flags = TcpFlags(attack.flags);
            segment(&l2(), &key, flags, attack.numbers, &attack.options, &attack.payload).to_vec()
        }
    };
    for &(at, mask) in &attack.flips {
        if let Some(byte) = frame.get_mut(at) {
            *byte ^= mask;
        }
    }
    world.inject(attack.side, attack.port, &frame);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn no_frame_and_no_datagram_panics_or_leaks(attacks in proptest::collection::vec(attack(), 1..60)) {
        let mut world = World::unconnected([mirrored_rules(), mirrored_rules()], Limits::default());
        world.connect();
        world.open(40_000, payload(1, 200_000));
        for attack in &attacks {
            launch(&mut world, attack);
            world.run_for(2);
        }
        // Connections of the attack may live as long as a silent host is waited for, or an idle one is probed.
        world.run_for(400_000);
        prop_assert_eq!((world.flows(A), world.flows(B)), (0, 0));
        world.open(41_000, payload(2, 1_000));
        world.run_for(4_000);
        prop_assert!(world.hosts[B].connections.last().unwrap().inbox == payload(2, 1_000));
        prop_assert_eq!(world.engines[A].counters().panics + world.engines[B].counters().panics, 0);
    }
}

#[test]
fn a_connection_survives_forged_segments_of_its_addresses() {
    let mut world = World::new();
    let outbox = payload(1, 30_000_000);
    world.open(40_000, outbox.clone());
    assert!(world.run_until(200, |world| world.hosts[B].connections.first().is_some_and(|c| !c.inbox.is_empty())));
    for round in 0..100u32 {
        let numbers = (round.wrapping_mul(0x0fed_cba9), round.wrapping_mul(0x1234_5679));
        for flags in [TcpFlags::RST, TcpFlags::SYN, TcpFlags::ACK, TcpFlags::FIN.union(TcpFlags::ACK)] {
            for (side, port) in [(A, Port::Wan), (B, Port::Wan)] {
                world.inject(side, port, &segment(&l2(), &key(40_000), flags, numbers, &[], b"forged"));
                let answer = segment(&l2().reversed(), &key(40_000).reversed(), flags, numbers, &[], b"forged");
                world.inject(side, port, &answer);
            }
        }
        world.run_for(3);
    }
    assert!(world.run_until(5_000, |world| world.hosts[B].connections[0].inbox.len() == outbox.len()));
    assert!(world.hosts[B].connections[0].inbox == outbox);
}
