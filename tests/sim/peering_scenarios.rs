//! What a session survives, and what strangers can do to it.

use std::net::SocketAddr;
use std::time::Duration;

use longhaul::channel::{ChannelState, DownReason, Event};
use longhaul::crypto::{Initiation, MAC_LEN, Mac1Key, PROLOGUE, PrivateKey, PublicKey};
use longhaul::units::BitRate;

use crate::identity::End;
use crate::path::PathSpec;
use crate::peering::Peering;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const RATE: BitRate = BitRate::from_mbps(20);
const RTT: Duration = Duration::from_millis(40);

fn path() -> PathSpec {
    PathSpec::new(RATE, RTT, 1.0)
}

fn peering() -> Peering {
    Peering::new(&path(), |_, _| {})
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("a literal address")
}

/// An initiation that is B's to answer by its macs, from somebody B does not know.
fn strangers_initiation(version: u8, seed: u8) -> Vec<u8> {
    let stranger = PrivateKey([seed | 1; 32]);
    let responder = PublicKey(End::B.public_key());
    let (_, noise) = Initiation::new(&stranger, &responder, None, [seed; 32], PROLOGUE, &[0; 20]);
    let mut bytes = vec![1, version];
    bytes.extend_from_slice(&noise);
    let mac1 = Mac1Key::new(&responder).tag(&bytes);
    bytes.extend_from_slice(&mac1);
    bytes.extend_from_slice(&[0; MAC_LEN]);
    bytes
}

// --- addresses ---

#[test]
fn a_nat_that_gives_the_sender_another_port_costs_nothing() {
    let mut peering = peering();
    peering.run(3 * SECOND);
    peering.move_to(End::A, address("192.0.2.1:51234"));
    peering.run(3 * SECOND);
    assert!(peering.goodput(3 * SECOND, 4 * SECOND) > RATE.percent(88));
    assert_eq!(peering.channel(End::B).stats().peer_moves, 0);
    assert_eq!(peering.channel(End::B).stats().peer_address, Some(address("192.0.2.1:51234")));
}

#[test]
fn a_sender_or_a_receiver_that_moves_to_another_address_is_followed() {
    for end in End::BOTH {
        let mut peering = peering();
        peering.run(3 * SECOND);
        peering.move_to(end, address("203.0.113.9:4600"));
        peering.run(3 * SECOND);
        let stats = peering.channel(end.other()).stats();
        assert_eq!((stats.peer_moves, stats.peer_address), (1, Some(address("203.0.113.9:4600"))), "{end:?}");
        assert!(stats.path_mtu >= 1500, "{end:?}: searched for again, {}", stats.path_mtu);
        // A receiver's acks go astray for an RTT, or a sender has to find the rate anew.
        let silence = peering.longest_silence(3 * SECOND, 5 * SECOND);
        assert!(silence <= 700 * MS, "{end:?}: {silence:?} without a byte");
        let after = peering.goodput(5 * SECOND, 6 * SECOND);
        assert!(after > RATE.percent(85), "{end:?}: {after} two seconds later");
        assert_eq!(peering.downs(End::A, DownReason::PeerRestarted) + peering.downs(End::B, DownReason::Silent), 0);
    }
}

#[test]
fn a_false_address_gets_next_to_nothing_and_is_left_again() {
    let mut peering = peering();
    peering.run(3 * SECOND);
    let victim = address("203.0.113.66:4600");
    // Somebody on the path sends B's newest datagrams on from the victim's address, ahead of the originals.
    for _ in 0..200 {
        let copy = peering.last_sent[End::B.index()].clone();
        peering.inject(End::A, victim, &copy);
        peering.run(5 * MS);
    }
    let stats = peering.channel(End::A).stats();
    assert_eq!((stats.peer_address, stats.peer_moves), (Some(End::B.address()), 0));
    let (sent, got) = (200 * 60, peering.stray.get(&victim).copied().unwrap_or(0));
    assert!(got <= 3 * sent + 1500 * 200 / 10, "{got} bytes for about {sent}");
    peering.run(2 * SECOND);
    // The copies came sooner than the path is long, so that for a while it seems to have a queue.
    assert!(peering.goodput(5 * SECOND, 6 * SECOND) > RATE.percent(75));
}

#[test]
fn a_replayed_datagram_moves_nobody() {
    let mut peering = peering();
    peering.run(2 * SECOND);
    let old = peering.last_sent[End::A.index()].clone();
    peering.run(SECOND);
    let refused = peering.channel(End::B).stats().datagrams_refused;
    for _ in 0..100 {
        peering.inject(End::B, address("203.0.113.66:4600"), &old);
    }
    let stats = peering.channel(End::B).stats();
    assert_eq!(stats.datagrams_refused, refused + 100);
    assert_eq!(stats.peer_address, Some(End::A.address()));
    assert!(peering.stray.is_empty());
}

// --- restarts and keys ---

#[test]
fn a_peer_that_starts_anew_is_noticed_within_a_second() {
    for end in End::BOTH {
        let mut peering = peering();
        peering.run(3 * SECOND);
        peering.restart(end, |_| {});
        peering.run(2 * SECOND);
        let other = end.other();
        assert_eq!(peering.downs(other, DownReason::PeerRestarted), 1, "{end:?}");
        let (at, ..) = peering
            .lifecycle
            .iter()
            .find(|(_, who, event)| *who == other && *event == Event::Down(DownReason::PeerRestarted))
            .expect("noticed");
        assert!(*at < 4 * SECOND, "{end:?} noticed at {at:?}");
        peering.run(SECOND);
        assert!(peering.goodput(5 * SECOND, 6 * SECOND) > RATE.percent(85), "{end:?}");
    }
}

#[test]
fn a_peer_that_starts_anew_and_waits_to_be_called_is_called() {
    // B has no idea where A is; A calls B when B has fallen silent.
    let mut peering = Peering::new(&path(), |end, config| {
        if end == End::B {
            config.peer_address = None;
        }
    });
    peering.run(3 * SECOND);
    peering.restart(End::B, |_| {});
    peering.run(2 * SECOND);
    assert_eq!(peering.downs(End::A, DownReason::PeerRestarted), 1);
    assert!(peering.goodput(5 * SECOND, 6 * SECOND) == BitRate::ZERO);
    peering.run(SECOND);
    assert!(peering.goodput(5 * SECOND, 6 * SECOND) > RATE.percent(80));
}

#[test]
fn new_keys_in_mid_transfer_leave_no_dip() {
    let mut peering = peering();
    peering.run(126 * SECOND);
    let usual = peering.goodput(110 * SECOND, 119 * SECOND);
    for second in 119..126_u32 {
        let during = peering.goodput(second * SECOND, (second + 1) * SECOND);
        let share = during.as_bps() as f64 / usual.as_bps() as f64;
        assert!(share > 0.98, "{during} in second {second}, {usual} before the keys changed");
    }
    let stats = peering.channel(End::B).stats();
    assert!(stats.initiations >= 2, "the keys did change: {} initiations", stats.initiations);
    assert_eq!(stats.datagrams_refused, 0);
}

#[test]
fn a_static_key_is_changed_one_site_at_a_time() {
    let next = PrivateKey([0x51; 32]);
    let mut peering = peering();
    peering.run(SECOND);
    peering.restart(End::B, |config| config.peer_next_public_key = Some(next.public_key().0));
    peering.run(2 * SECOND);
    assert_eq!(peering.channel(End::A).state(), ChannelState::Up, "A's old key still holds");
    peering.restart(End::A, |config| config.private_key = next.0);
    peering.run(2 * SECOND);
    assert_eq!(peering.channel(End::A).state(), ChannelState::Up, "and so does its new one");
    peering.restart(End::B, |config| {
        config.peer_public_key = next.public_key().0;
        config.peer_next_public_key = None;
    });
    peering.run(2 * SECOND);
    assert_eq!(peering.channel(End::B).state(), ChannelState::Up);
    assert!(peering.goodput(6 * SECOND, 7 * SECOND) > RATE.percent(80));
}

#[test]
fn a_peer_that_waits_is_reached_with_either_key() {
    // A calls, and B answers with the key that A knows as the next one.
    let next = PrivateKey([0x52; 32]);
    let mut peering = Peering::new(&path(), |end, config| match end {
        End::A => config.peer_next_public_key = Some(next.public_key().0),
        End::B => (config.private_key, config.peer_address) = (next.0, None),
    });
    peering.run(3 * SECOND);
    assert_eq!(peering.channel(End::A).state(), ChannelState::Up);
    assert!(peering.goodput(2 * SECOND, 3 * SECOND) > RATE.percent(70));
}

// --- company ---

#[test]
fn small_exchanges_stay_quick_beside_a_bulk_transfer() {
    for loss in [0.0, 0.1] {
        let rtt = 20 * MS;
        let path = PathSpec::new(BitRate::from_mbps(100), rtt, 1.0).loss(loss, 1.0);
        let mut peering = Peering::new(&path, |_, _| {});
        peering.run(2 * SECOND);
        peering.asks_every = Some(10 * MS);
        peering.run(6 * SECOND);
        let bulk = peering.goodput(3 * SECOND, 8 * SECOND);
        assert!(bulk > BitRate::from_mbps(88), "{bulk} beside the exchanges at {loss} %");
        let mut answers = peering.answers.clone();
        answers.sort();
        let (median, late) = (answers[answers.len() / 2], answers[answers.len() * 95 / 100]);
        assert!(answers.len() > 100, "{} exchanges", answers.len());
        assert!(median <= rtt + 6 * MS && late <= rtt + 12 * MS, "median {median:?}, 95 % {late:?} at {loss} %");
    }
}

// --- strangers ---

#[test]
fn a_flood_of_initiations_keeps_nobody_out_and_is_not_amplified() {
    let mut peering = Peering::new(&path(), |_, _| {});
    peering.writes = false;
    let (mut sent, mut answered) = (0, 0);
    // 10,000 initiations per second with right macs, from as many addresses, before and while the peer connects.
    for round in 0..3000_u32 {
        let forged = strangers_initiation(1, (round % 200) as u8);
        for stranger in 0..10_u8 {
            sent += forged.len() as u64;
            peering.inject(
                End::B,
                SocketAddr::from(([203, 0, 113, stranger], 1024 + (round % 60_000) as u16)),
                &forged,
            );
        }
        peering.run(MS);
        if round == 1500 {
            // It starts in the middle of the flood.
            peering.restart(End::A, |_| {});
        }
    }
    answered += peering.stray.values().sum::<u64>();
    assert!(answered > 0 && answered < sent / 4, "{answered} bytes for {sent}");
    let mut restarted =
        peering.lifecycle.iter().filter(|(at, end, event)| *end == End::A && *event == Event::Up && *at > 1500 * MS);
    let (at, ..) = restarted.next_back().expect("connected in the flood");
    assert!(*at < 1500 * MS + 4 * RTT + 100 * MS, "connected at {at:?}");
    assert_eq!(peering.channel(End::B).state(), ChannelState::Up);
    let stats = peering.channel(End::B).stats();
    assert!(stats.cookies_sent > 1000 && stats.initiations > 29_000, "{stats:?}");
}

#[test]
fn strangers_without_the_public_key_hear_nothing() {
    let mut peering = peering();
    peering.run(SECOND);
    let mut forged = strangers_initiation(1, 3);
    forged[10] ^= 1;
    for kind in 0..=255_u8 {
        let mut bytes = forged.clone();
        bytes[0] = kind;
        for len in [0, 1, 8, 24, 34, 40, 150, bytes.len()] {
            peering.inject(End::B, address("203.0.113.5:9"), &bytes[..len.min(bytes.len())]);
        }
    }
    peering.run(100 * MS);
    assert!(peering.stray.is_empty(), "{:?}", peering.stray);
    let stats = peering.channel(End::B).stats();
    assert_eq!((stats.cookies_sent, stats.other_version), (0, 0));
}

#[test]
fn another_version_of_the_protocol_is_reported_and_not_answered() {
    let mut peering = Peering::new(&path(), |_, _| {});
    peering.writes = false;
    for _ in 0..20 {
        peering.inject(End::B, address("203.0.113.5:9"), &strangers_initiation(7, 3));
    }
    let stats = peering.channel(End::B).stats();
    assert_eq!((stats.other_version, stats.peer_version), (20, Some(7)));
    assert!(peering.stray.is_empty());
    peering.run(SECOND);
    assert_eq!(peering.channel(End::B).stats().peer_version, None, "a session is up: nothing to do");
}
