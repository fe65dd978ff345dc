//! Two endpoints against each other: streams, ends of streams, resets, windows, losses, hostile segments.

use std::time::Duration;

use proptest::prelude::*;

use super::lan::{ACCEPTING, CONNECTING, Lan, Wire, config};
use super::{Endpoint, EndpointState};
use crate::buffer::FramePool;
use crate::frame::{TcpFlags, TcpSegment};
use crate::units::{ByteCount, Instant};

/// Byte `at` of the stream that the end sends.
fn byte(end: usize, at: usize) -> u8 {
    ((at * 31) ^ (at >> 8) ^ (at >> 16) ^ (end * 0x55)) as u8
}

/// What a test drives through one end.
#[derive(Default)]
struct Stream {
    sent: usize,
    received: usize,
    finished: bool,
}

/// Sends `goal` bytes each way with FINs behind them and checks what arrives.
fn exchange(lan: &mut Lan, goal: [usize; 2]) {
    let mut streams = [Stream::default(), Stream::default()];
    let mut block = Vec::new();
    lan.run_until(|lan| {
        for end in [CONNECTING, ACCEPTING] {
            let Some(endpoint) = lan.ends[end].as_mut() else { continue };
            let stream = &mut streams[end];
            let take = endpoint.writable().min(goal[end] - stream.sent).min(300_000);
            block.clear();
            block.extend((stream.sent..stream.sent + take).map(|at| byte(end, at)));
            assert_eq!(endpoint.send(&block), take);
            stream.sent += take;
            if stream.sent == goal[end] && !stream.finished && endpoint.state() == EndpointState::Open {
                endpoint.finish();
                stream.finished = true;
            }
            while let Some(()) = endpoint.recv(|bytes| {
                for (at, &found) in bytes.iter().enumerate() {
                    assert_eq!(found, byte(1 - end, stream.received + at), "byte {}", stream.received + at);
                }
                stream.received += bytes.len();
                (bytes.len(), ())
            }) {}
        }
        lan.ends.iter().all(|end| end.as_ref().is_some_and(|end| end.state() == EndpointState::Closed))
    });
    for end in [CONNECTING, ACCEPTING] {
        assert_eq!(streams[end].received, goal[1 - end]);
        assert!(lan.end(end).is_recv_finished());
        assert_eq!(lan.end(end).stats().panics, 0);
    }
}

#[test]
fn ten_megabytes_cross_both_ways_in_super_segments_of_whole_mss() {
    for (mut lan, mss) in [(Lan::v4(), 1460), (Lan::v6(), 1440)] {
        exchange(&mut lan, [10_000_000, 10_000_000]);
        assert_eq!(lan.largest_payload, mss);
        assert!(lan.super_segments > 2 * 10_000_000 / 65_536, "{} super-segments", lan.super_segments);
        assert_eq!((lan.end(0).stats().retransmissions, lan.end(1).stats().retransmissions), (0, 0));
    }
}

#[test]
fn merged_super_segments_are_taken_whole() {
    for mut lan in [Lan::v4(), Lan::v6()] {
        lan.merges = true;
        exchange(&mut lan, [5_000_000, 5_000_000]);
    }
}

#[test]
fn the_smaller_mss_of_both_sides_holds_and_each_syn_announces_its_own() {
    for (base, jumbo, small) in [(Lan::v4(), 8960, 1000), (Lan::v6(), 8940, 1220)] {
        let (mut connecting, mut accepting) = (base.config[CONNECTING], base.config[ACCEPTING]);
        (connecting.mss, accepting.mss) = (jumbo, small);
        let mut lan = Lan::new(connecting, accepting);
        exchange(&mut lan, [1_000_000, 1_000_000]);
        assert_eq!(lan.largest_payload, usize::from(small));
        assert_eq!((lan.end(CONNECTING).mss(), lan.end(ACCEPTING).mss()), (small, small));
        let announced: Vec<_> = lan.syns.iter().map(|syn| syn.view().options.mss).collect();
        assert_eq!(announced, [Some(jumbo), Some(small)]);
        let syn_ack = lan.syns[1].view();
        assert!(syn_ack.flags.ack() && syn_ack.options.sack_permitted && syn_ack.hop_limit == 64);
        assert_eq!(syn_ack.options.window_scale, Some(7), "4 MiB >> 7 fits 16 bits");
    }
}

#[test]
fn a_host_that_announces_no_mss_gets_the_default() {
    for (lan, default) in [(Lan::v4(), 536), (Lan::v6(), 1220)] {
        let syn = lan.packet_to(ACCEPTING, TcpFlags::SYN, 99, 0);
        let endpoint = Endpoint::accept(lan.config[ACCEPTING], lan.now, &syn);
        assert_eq!((endpoint.mss(), endpoint.state()), (default, EndpointState::Opening));
    }
}

#[test]
fn a_direction_that_ended_leaves_the_other_running_for_hours() {
    let mut lan = Lan::v4();
    lan.open();
    lan.end(CONNECTING).send(b"question");
    lan.end(CONNECTING).finish();
    lan.run_until(|lan| lan.end(ACCEPTING).readable() == 8);
    assert!(!lan.end(ACCEPTING).is_recv_finished(), "not before it is read");
    lan.end(ACCEPTING).recv(|bytes| (bytes.len(), ()));
    lan.run_until(|lan| lan.end(ACCEPTING).is_recv_finished());
    assert_eq!(lan.end(CONNECTING).writable(), 0);
    lan.run_for(Duration::from_secs(4 * 3600));
    assert_eq!((lan.end(0).state(), lan.end(1).state()), (EndpointState::Open, EndpointState::Open));
    assert_eq!(lan.end(ACCEPTING).send(b"answer"), 6);
    lan.end(ACCEPTING).finish();
    lan.run_until(|lan| lan.end(ACCEPTING).state() == EndpointState::Closed);
    assert_eq!(lan.end(CONNECTING).state(), EndpointState::Open, "the answer is not read yet");
    let answer = lan.end(CONNECTING).recv(|bytes| (bytes.len(), bytes.to_vec()));
    assert_eq!(answer.as_deref(), Some(&b"answer"[..]));
    assert_eq!(lan.end(CONNECTING).state(), EndpointState::Closed);
}

#[test]
fn the_last_bytes_wait_for_their_reader_longer_than_time_wait() {
    let mut lan = Lan::v4();
    lan.open();
    lan.end(ACCEPTING).finish();
    lan.run_until(|lan| lan.end(CONNECTING).is_recv_finished());
    assert_eq!(lan.end(CONNECTING).send(&[7; 5000]), 5000);
    lan.end(CONNECTING).finish();
    lan.run_until(|lan| lan.end(CONNECTING).state() == EndpointState::Closed);
    let steps = lan.steps;
    lan.run_for(Duration::from_secs(3600));
    assert!(lan.steps < steps + 10, "waiting for a reader is no work");
    assert_eq!((lan.end(ACCEPTING).state(), lan.end(ACCEPTING).readable()), (EndpointState::Open, 5000));
    assert!(!lan.end(ACCEPTING).is_recv_finished());
    assert_eq!(lan.end(ACCEPTING).recv(|bytes| (bytes.len(), bytes == [7; 5000])), Some(true));
    assert!(lan.end(ACCEPTING).is_recv_finished());
    assert_eq!(lan.end(ACCEPTING).state(), EndpointState::Closed);
}

#[test]
fn an_abort_resets_the_other_end_with_the_next_poll() {
    for end in [CONNECTING, ACCEPTING] {
        for mut lan in [Lan::v4(), Lan::v6()] {
            lan.open();
            lan.end(end).abort();
            assert_eq!(lan.end(end).state(), EndpointState::Reset);
            lan.watches = true;
            lan.poll(end);
            assert!(matches!(lan.seen[..], [(_, flags, 0)] if flags.rst()), "{:?}", lan.seen);
            lan.run_until(|lan| lan.end(1 - end).state() == EndpointState::Reset);
            assert_eq!(lan.end(1 - end).writable(), 0);
        }
    }
}

#[test]
fn a_refused_connection_is_reset_at_once() {
    let mut lan = Lan::v4();
    lan.poll(CONNECTING);
    let syn = lan.syns[0].view().seq;
    let wrong = lan.packet_to(CONNECTING, TcpFlags::RST.union(TcpFlags::ACK), 0, syn);
    lan.inject(CONNECTING, &wrong);
    assert_eq!(lan.end(CONNECTING).state(), EndpointState::Opening, "acknowledges no SYN of ours");
    let refusal = lan.packet_to(CONNECTING, TcpFlags::RST.union(TcpFlags::ACK), 0, syn.wrapping_add(1));
    lan.inject(CONNECTING, &refusal);
    assert_eq!(lan.end(CONNECTING).state(), EndpointState::Reset);
}

#[test]
fn an_absent_host_times_out() {
    let mut lan = Lan::v4();
    lan.loses = Box::new(|_| true);
    let start = lan.now;
    lan.run_until(|lan| lan.end(CONNECTING).state() != EndpointState::Opening);
    assert_eq!(lan.end(CONNECTING).state(), EndpointState::TimedOut);
    assert_eq!(lan.now - start, Duration::from_secs(75));
    assert!(lan.syns.len() >= 6, "{} SYNs", lan.syns.len());
    let now = lan.now;
    lan.poll(CONNECTING);
    assert_eq!(lan.end(CONNECTING).poll_timeout(now), None);
}

#[test]
fn a_host_that_falls_silent_with_data_outstanding_times_out() {
    let mut lan = Lan::v4();
    lan.open();
    lan.loses = Box::new(|_| true);
    let start = lan.now;
    lan.end(CONNECTING).send(b"anybody there?");
    lan.run_until(|lan| lan.end(CONNECTING).state() == EndpointState::TimedOut);
    assert!((lan.now - start).as_secs_f64() - 100.0 < 0.1);
    assert_eq!(lan.end(ACCEPTING).state(), EndpointState::Open, "it owes nothing and waits for nothing");
}

#[test]
fn keep_alives_find_a_host_that_is_gone_and_keep_one_that_is_not() {
    let mut lan = Lan::v4();
    lan.open();
    lan.end(CONNECTING).set_keep_alive(Some(Duration::from_secs(10)));
    lan.end(CONNECTING).set_silence_limit(Some(Duration::from_secs(35)));
    lan.run_for(Duration::from_secs(600));
    assert_eq!(lan.end(CONNECTING).state(), EndpointState::Open);
    lan.loses = Box::new(|_| true);
    lan.run_for(Duration::from_secs(50));
    assert_eq!(lan.end(CONNECTING).state(), EndpointState::TimedOut);
    assert_eq!(lan.end(CONNECTING).stats().retransmissions, 0);
}

#[test]
fn a_closed_window_stops_the_sender_and_reopens_even_if_the_update_is_lost() {
    for loses_update in [false, true] {
        let mut lan = Lan::v4();
        lan.config[ACCEPTING].receive_buffer = ByteCount::new(100_000);
        lan.open();
        let block = vec![7; 300_000];
        lan.end(CONNECTING).send(&block);
        lan.run_for(Duration::from_secs(30));
        let held = lan.end(ACCEPTING).readable();
        assert!((99_000..=100_000).contains(&held), "{held}");
        assert_eq!(lan.end(CONNECTING).send_queue(), 300_000 - held);
        let mut total = lan.end(ACCEPTING).recv(|bytes| (bytes.len(), bytes.len())).unwrap_or(0);
        if loses_update {
            lan.loses = Box::new(|_| true);
            lan.poll(ACCEPTING);
            lan.loses = Box::new(|_| false);
        }
        lan.run_until(|lan| {
            while let Some(len) = lan.end(ACCEPTING).recv(|bytes| (bytes.len(), bytes.len())) {
                total += len;
            }
            total == 300_000
        });
        assert_eq!(lan.end(CONNECTING).stats().panics + lan.end(ACCEPTING).stats().panics, 0);
    }
}

#[test]
fn a_window_that_closes_over_data_in_flight_is_probed_again() {
    let mut lan = Lan::v4();
    lan.open();
    let una = lan.syns[0].view().seq.wrapping_add(1);
    let rcv = lan.syns[1].view().seq.wrapping_add(1);
    // Everything is lost, and the host takes its window back without acknowledging anything.
    lan.loses = Box::new(|_| true);
    lan.end(CONNECTING).send(&[1; 5000]);
    lan.poll(CONNECTING);
    let mut closed = lan.packet_to(CONNECTING, TcpFlags::ACK, rcv, una);
    closed[34..36].fill(0);
    lan.inject(CONNECTING, &closed);
    lan.run_for(Duration::from_secs(20));
    lan.watches = true;
    lan.run_for(Duration::from_secs(40));
    assert!(lan.seen.iter().any(|&(_, _, len)| len == 1), "no probe: {:?}", lan.seen);
}

#[test]
fn losses_cost_milliseconds_rather_than_timeouts() {
    for (merges, mut lan) in [(false, Lan::v4()), (false, Lan::v6()), (true, Lan::v4())] {
        lan.merges = merges;
        let mut state = 1u64;
        let one_in = if merges { 20 } else { 500 };
        lan.loses = Box::new(move |wire: &Wire| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            !wire.view().payload.is_empty() && (state >> 33).is_multiple_of(one_in)
        });
        let start = lan.now;
        exchange(&mut lan, [20_000_000, 0]);
        let took = lan.now - start;
        let retransmissions = lan.end(CONNECTING).stats().retransmissions;
        assert!(retransmissions > 10, "{retransmissions} retransmissions");
        // 13,700 segments, more than 27 of them lost: a timeout each would take 27 s.
        assert!(took < Duration::from_millis(500), "{took:?}, {retransmissions} retransmissions, merges {merges}");
    }
}

#[test]
fn a_lost_tail_and_a_lost_fin_arrive_after_all() {
    for lost in [1, 2, 3] {
        let mut lan = Lan::v4();
        lan.open();
        let mut left = lost;
        lan.loses = Box::new(move |wire| {
            let counts = wire.to == ACCEPTING && (!wire.view().payload.is_empty() || wire.view().flags.fin());
            let is_lost = counts && left > 0;
            left -= usize::from(is_lost);
            is_lost
        });
        let start = lan.now;
        exchange(&mut lan, [2000, 0]);
        assert!(lan.now - start < Duration::from_secs(8), "{:?}", lan.now - start);
    }
}

/// `cargo test --release endpoint_throughput -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn endpoint_throughput() {
    const LEN: usize = 4 << 30;
    for mut lan in [Lan::v4(), Lan::v6()] {
        lan.merges = true;
        lan.open();
        let block = vec![0x5a; 1 << 20];
        let (mut sent, mut received) = (0, 0);
        let start = std::time::Instant::now();
        lan.run_until(|lan| {
            sent += lan.end(CONNECTING).send(&block[..block.len().min(LEN - sent)]);
            while let Some(len) = lan.end(ACCEPTING).recv(|bytes| (bytes.len(), bytes.len())) {
                received += len;
            }
            received == LEN
        });
        let seconds = start.elapsed().as_secs_f64();
        println!("{:.2} GB/s, {} super-segments", LEN as f64 / 1e9 / seconds, lan.super_segments);
    }
}

#[test]
fn reordered_and_repeated_segments_change_nothing() {
    let mut lan = Lan::v4();
    lan.open();
    let start = lan.syns[0].view().seq.wrapping_add(1);
    let ack = lan.syns[1].view().seq.wrapping_add(1);
    let mut packets: Vec<Vec<u8>> = (0..8u32)
        .map(|at| {
            let mut packet = lan.packet_to(ACCEPTING, TcpFlags::ACK, start.wrapping_add(at * 3), ack);
            packet.extend_from_slice(&[at as u8; 3]);
            packet[2..4].copy_from_slice(&43u16.to_be_bytes());
            packet
        })
        .collect();
    packets.reverse();
    for packet in packets.iter().chain(&packets) {
        lan.inject(ACCEPTING, packet);
    }
    let expected: Vec<u8> = (0..8).flat_map(|at| [at; 3]).collect();
    assert_eq!(lan.end(ACCEPTING).recv(|bytes| (bytes.len(), bytes.to_vec())), Some(expected));
}

#[test]
fn blind_resets_and_syns_get_a_challenge_and_exact_resets_count() {
    let mut lan = Lan::v4();
    lan.open();
    lan.run_for(Duration::from_secs(2));
    let next = lan.syns[0].view().seq.wrapping_add(1);
    let ack = lan.syns[1].view().seq.wrapping_add(1);
    for (flags, seq) in [(TcpFlags::RST, next.wrapping_add(500)), (TcpFlags::SYN, next.wrapping_add(77))] {
        lan.watches = true;
        let packet = lan.packet_to(ACCEPTING, flags, seq, 0);
        lan.inject(ACCEPTING, &packet);
        lan.poll(ACCEPTING);
        assert_eq!(lan.end(ACCEPTING).state(), EndpointState::Open);
        assert!(matches!(lan.seen[..], [(CONNECTING, TcpFlags::ACK, 0)]), "{flags:?}: {:?}", lan.seen);
        lan.seen.clear();
        lan.run_for(Duration::from_secs(2));
        lan.seen.clear();
    }
    for (flags, seq) in [(TcpFlags::RST, next.wrapping_sub(1)), (TcpFlags::RST, next.wrapping_add(1 << 30))] {
        let packet = lan.packet_to(ACCEPTING, flags, seq, 0);
        lan.inject(ACCEPTING, &packet);
        lan.poll(ACCEPTING);
        assert_eq!((lan.end(ACCEPTING).state(), lan.seen.len()), (EndpointState::Open, 0), "outside the window");
    }
    let unsent = lan.packet_to(ACCEPTING, TcpFlags::ACK, next, ack.wrapping_add(9));
    lan.inject(ACCEPTING, &unsent);
    assert_eq!(lan.end(ACCEPTING).state(), EndpointState::Open);
    let exact = lan.packet_to(ACCEPTING, TcpFlags::RST, next, 0);
    lan.inject(ACCEPTING, &exact);
    assert_eq!(lan.end(ACCEPTING).state(), EndpointState::Reset);
}

#[test]
fn a_fin_beyond_the_window_loses_no_bytes() {
    let mut lan = Lan::v4();
    lan.config[ACCEPTING].receive_buffer = ByteCount::new(1000);
    lan.open();
    lan.end(CONNECTING).send(b"x");
    lan.run_for(Duration::from_millis(1));
    assert_eq!(lan.end(ACCEPTING).recv(|bytes| (bytes.len(), bytes.len())), Some(1));
    let next = lan.syns[0].view().seq.wrapping_add(2);
    let ack = lan.syns[1].view().seq.wrapping_add(1);
    let packet = data_to_acceptor(&lan, TcpFlags::FIN, next, ack, 1400);
    lan.inject(ACCEPTING, &packet);
    assert_eq!(lan.end(ACCEPTING).recv(|bytes| (bytes.len(), bytes.len())), Some(999));
    assert!(!lan.end(ACCEPTING).is_recv_finished(), "401 bytes are missing");
    lan.poll(ACCEPTING);
    lan.inject(ACCEPTING, &packet);
    assert_eq!(lan.end(ACCEPTING).recv(|bytes| (bytes.len(), bytes.len())), Some(401));
    assert!(lan.end(ACCEPTING).is_recv_finished());
}

/// A segment of `len` bytes to the accepting end.
fn data_to_acceptor(lan: &Lan, flags: TcpFlags, seq: u32, ack: u32, len: u16) -> Vec<u8> {
    let mut packet = lan.packet_to(ACCEPTING, TcpFlags::ACK.union(flags), seq, ack);
    packet.resize(packet.len() + usize::from(len), 9);
    packet[2..4].copy_from_slice(&(40 + len).to_be_bytes());
    packet
}

#[test]
fn data_beyond_the_unscaled_window_of_our_syn_is_not_taken() {
    let mut lan = Lan::v4();
    lan.config[ACCEPTING].receive_buffer = ByteCount::from_mib(1);
    lan.open();
    let next = lan.syns[0].view().seq.wrapping_add(1);
    let ack = lan.syns[1].view().seq.wrapping_add(1);
    // Behind the buffer, but before 65,535 << 5.
    let packet = data_to_acceptor(&lan, TcpFlags::PSH, next.wrapping_add(3 << 19), ack, 1400);
    lan.inject(ACCEPTING, &packet);
    assert_eq!((lan.end(ACCEPTING).stats().panics, lan.end(ACCEPTING).state()), (0, EndpointState::Open));
}

#[test]
fn options_that_were_not_asked_for_and_data_in_a_syn_are_declined() {
    let lan = Lan::v4();
    let mut syn = lan.packet_to(ACCEPTING, TcpFlags::SYN, 1000, 0);
    // MSS, Fast Open with a cookie, timestamps, and three bytes of data.
    syn.extend_from_slice(&[2, 4, 5, 0xb4, 34, 6, 1, 2, 3, 4, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0]);
    syn.extend_from_slice(b"get");
    let total = syn.len() as u16;
    syn[2..4].copy_from_slice(&total.to_be_bytes());
    syn[32] = 10 << 4;
    assert!(TcpSegment::parse(&syn).unwrap().options.fast_open);
    let mut endpoint = Endpoint::accept(lan.config[ACCEPTING], lan.now, &syn);
    let mut frames = Vec::new();
    endpoint.poll(lan.now, &mut FramePool::default(), &mut |frame| frames.push(frame));
    let crate::frame::Classified::Tcp(syn_ack) = crate::frame::classify(&frames[0]) else { panic!() };
    assert_eq!((syn_ack.ack, syn_ack.window), (1001, 65_535));
    assert!(!syn_ack.options.timestamps && !syn_ack.options.fast_open);
    assert_eq!(syn_ack.options.window_scale, None, "the host does not scale");
    assert_eq!(endpoint.readable(), 0);
}

#[test]
fn keys_that_no_connection_can_have_end_in_reset() {
    for (local, remote) in [
        ("10.0.0.2:8000", "10.0.0.1:0"),
        ("10.0.0.2:0", "10.0.0.1:1"),
        ("224.0.0.1:8000", "10.0.0.1:1"),
        ("255.255.255.255:8000", "10.0.0.1:1"),
        ("0.0.0.0:8000", "10.0.0.1:1"),
        ("10.0.0.2:8000", "[fd00::1]:1"),
        ("[ff02::1]:8000", "[fd00::1]:1"),
    ] {
        let config = config(local, remote);
        let mut endpoint = Endpoint::connect(config, Instant::ZERO);
        assert_eq!(endpoint.state(), EndpointState::Reset, "{local} {remote}");
        endpoint.poll(Instant::ZERO, &mut FramePool::default(), &mut |frame| panic!("{frame:?}"));
        assert_eq!(endpoint.poll_timeout(Instant::ZERO), None);
        assert_eq!((endpoint.writable(), endpoint.readable(), endpoint.send(b"x")), (0, 0, 0));
        let endpoint = Endpoint::accept(config, Instant::ZERO, &[0x45; 60]);
        assert_eq!(endpoint.state(), EndpointState::Reset);
    }
}

#[test]
fn what_is_no_syn_accepts_nothing() {
    let lan = Lan::v4();
    for packet in [lan.packet_to(ACCEPTING, TcpFlags::ACK, 1, 1), vec![], vec![0x45; 10]] {
        let endpoint = Endpoint::accept(lan.config[ACCEPTING], lan.now, &packet);
        assert_eq!(endpoint.state(), EndpointState::Reset);
    }
}

#[test]
fn an_idle_endpoint_has_no_timer_and_an_untouched_buffer_no_pages() {
    let resident = || {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    };
    let (mut near, mut far) = (config("10.0.0.2:8000", "10.0.0.1:1"), config("10.0.0.1:1", "10.0.0.2:8000"));
    for config in [&mut near, &mut far] {
        (config.receive_buffer, config.send_buffer) = (ByteCount::from_mib(512), ByteCount::from_mib(512));
    }
    let before = resident();
    let mut lan = Lan::new(far, near);
    lan.open();
    lan.run_for(Duration::from_secs(5));
    let now = lan.now;
    assert_eq!((lan.end(0).poll_timeout(now), lan.end(1).poll_timeout(now)), (None, None));
    let grown = resident().saturating_sub(before);
    assert!(grown < 256 << 20, "{grown} bytes resident of 2 GiB");
    assert!(size_of::<Endpoint>() < 2048, "{} bytes", size_of::<Endpoint>());
}

/// A forged segment: which fields are taken from the truth, and how far off the others are.
#[derive(Clone, Debug)]
struct Forged {
    to: usize,
    flags: u8,
    seq_off: i64,
    ack_off: i64,
    window: u16,
    payload: usize,
    options: Vec<u8>,
}

fn forged() -> impl Strategy<Value = Forged> {
    let offset = || {
        prop_oneof![
            4 => -3i64..4,
            3 => -70_000i64..70_000,
            1 => prop_oneof![Just(1i64 << 31), Just((1 << 31) - 1), Just(-(1i64 << 31)), Just(1 << 30)],
            1 => 0i64..1 << 32,
        ]
    };
    let options = prop_oneof![
        Just(vec![]),
        (any::<u32>(), any::<u32>())
            .prop_map(|(left, right)| { [&[1, 1, 5, 10][..], &left.to_be_bytes(), &right.to_be_bytes()].concat() }),
        Just(vec![2, 4, 0, 0]),
        Just(vec![3, 3, 255, 0]),
    ];
    (0usize..2, any::<u8>(), offset(), offset(), any::<u16>(), 0usize..3000, options).prop_map(
        |(to, flags, seq_off, ack_off, window, payload, options)| {
            let flags = if flags & 0x80 != 0 { TcpFlags::ACK.0 | (flags & 0x28) } else { flags & 0x3f };
            Forged { to, flags, seq_off, ack_off, window, payload, options }
        },
    )
}

impl Forged {
    /// The packet, its numbers relative to what the wire last showed.
    fn packet(&self, lan: &Lan, next: [u32; 2]) -> Vec<u8> {
        let config = lan.config[self.to];
        let key = crate::frame::FlowKey { vlans: Default::default(), src: config.remote, dst: config.local };
        let fields = super::host_packet::Fields {
            flags: TcpFlags(self.flags),
            seq: next[1 - self.to].wrapping_add(self.seq_off as u32),
            ack: next[self.to].wrapping_add(self.ack_off as u32),
            window: self.window,
        };
        let mut packet = super::host_packet::HostPackets::new(&key).write(fields, &self.options).to_vec();
        packet.resize(packet.len() + self.payload, 0xcc);
        let is_v4 = config.local.is_ipv4();
        let counted = (if is_v4 { packet.len() } else { packet.len() - 40 }) as u16;
        let at = if is_v4 { 2 } else { 4 };
        packet[at..at + 2].copy_from_slice(&counted.to_be_bytes());
        packet
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever arrives, at whatever moment: no panic comes out, nothing spins, and an endpoint stays usable.
    #[test]
    fn forged_segments_never_panic_or_spin(
        v6 in any::<bool>(),
        warm_up in 0usize..12,
        acts in proptest::collection::vec((forged(), 0u8..8), 1..40),
    ) {
        let mut lan = if v6 { Lan::v6() } else { Lan::v4() };
        for _ in 0..warm_up {
            if lan.ends[CONNECTING].as_ref().is_some_and(|end| end.writable() > 0) {
                lan.end(CONNECTING).send(&[1; 70_000]);
            }
            lan.step();
        }
        for (forged, act) in acts {
            let next = [0, 1].map(|end| {
                lan.syns.iter().rev().find(|syn| syn.to != end).map_or(0, |syn| syn.view().seq.wrapping_add(1))
            });
            if lan.ends[forged.to].is_some() {
                let packet = forged.packet(&lan, next);
                lan.inject(forged.to, &packet);
            }
            for endpoint in lan.ends.iter_mut().flatten() {
                match act {
                    0 => assert!(endpoint.send(&[2; 5000]) <= 5000),
                    1 => endpoint.finish(),
                    2 => assert!(endpoint.recv(|bytes| (bytes.len() / 2, bytes.len())) != Some(0)),
                    _ => {}
                }
            }
            if act == 7 {
                lan.run_for(Duration::from_millis(700));
            } else {
                lan.step();
            }
        }
        let steps = lan.steps;
        lan.run_for(Duration::from_secs(30));
        prop_assert!(lan.steps - steps < 20_000, "{} steps in 30 s: {:?}", lan.steps - steps, lan.ends);
        for endpoint in lan.ends.iter().flatten() {
            prop_assert!(endpoint.stats().panics <= 1);
        }
    }
}
