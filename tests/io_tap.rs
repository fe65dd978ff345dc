//! TAPs and the channel's socket against the real kernel, each test in a network namespace of its own.
//!
//! Needs root.

mod netns;

use std::io;
use std::os::fd::AsFd;
use std::process::Command;
use std::thread;
use std::time::Duration;

use longhaul::frame::VNET_HEADER_LEN;
use longhaul::io::{FRAME_LEN_MAX, TXQUEUELEN, Tap, TapFault, UdpChannelSocket};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;

use netns::{in_namespace, ip};

/// Two TAPs as ports of one kernel bridge, without IPv6 and its unasked-for frames.
fn bridged_pair() -> (Tap, Tap) {
    std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").ok();
    let pair = (Tap::open("lh-a").unwrap(), Tap::open("lh-b").unwrap());
    ip("link add lh-br type bridge mcast_snooping 0 forward_delay 0");
    for tap in ["lh-a", "lh-b"] {
        ip(&format!("link set {tap} mtu 9000 master lh-br"));
    }
    ip("link set lh-br up");
    pair
}

/// Reads until a frame with our source address comes (the kernel may speak too), or half a second passes.
fn read_ours(tap: &Tap) -> Option<Vec<u8>> {
    let mut buffer = vec![0; FRAME_LEN_MAX];
    loop {
        match tap.try_read(&mut buffer) {
            Ok(len) if buffer[VNET_HEADER_LEN + 6..VNET_HEADER_LEN + 12] == SOURCE => {
                return Some(buffer[..len].to_vec());
            }
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                let timeout = Timespec { tv_sec: 0, tv_nsec: 500_000_000 };
                let mut fds = [PollFd::from_borrowed_fd(tap.as_fd(), PollFlags::IN)];
                if poll(&mut fds, Some(&timeout)).unwrap() == 0 {
                    return None;
                }
            }
        }
    }
}

const SOURCE: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// A zero virtio-net header and an Ethernet header to a station nobody has heard of.
fn frame(ether_type: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; VNET_HEADER_LEN];
    frame.extend([2, 0, 0, 0, 0, 2]);
    frame.extend(SOURCE);
    frame.extend(ether_type.to_be_bytes());
    frame.extend(payload);
    frame
}

fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low))).sum()
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

/// A TCP/IPv4 super-segment of `payload_len` bytes whose checksum the kernel is to complete, in segments of `mss`.
fn super_segment(payload_len: usize, mss: u16) -> Vec<u8> {
    let total = 40 + payload_len;
    let mut ip = vec![0x45, 0];
    ip.extend((total as u16).to_be_bytes());
    ip.extend([0, 1, 0x40, 0, 64, 6, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
    let checksum = !fold(sum(&ip));
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    let pseudo = fold(sum(&ip[12..20]) + 6 + (20 + payload_len as u32));
    ip.extend([0x1f, 0x40, 0x1f, 0x41, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff]);
    ip.extend(pseudo.to_be_bytes());
    ip.extend([0, 0]);
    ip.extend((0..payload_len).map(|at| at as u8));
    let mut frame = frame(0x0800, &ip);
    let header = &mut frame[..VNET_HEADER_LEN];
    (header[0], header[1]) = (1, 1); // VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV4
    header[2..4].copy_from_slice(&54_u16.to_le_bytes());
    header[4..6].copy_from_slice(&mss.to_le_bytes());
    header[6..8].copy_from_slice(&34_u16.to_le_bytes());
    header[8..10].copy_from_slice(&16_u16.to_le_bytes());
    frame
}

#[test]
fn frames_of_any_kind_cross_a_bridge_unchanged() {
    in_namespace(|| {
        let (a, b) = bridged_pair();
        for (ether_type, len) in [(0x0806, 46), (0x88b5, 1500), (0x88cc, 60), (0x1234, 9000)] {
            let sent = frame(ether_type, &vec![0x5a; len]);
            a.try_write(&sent).unwrap();
            assert_eq!(read_ours(&b).as_ref(), Some(&sent), "EtherType {ether_type:#06x}");
        }
    });
}

#[test]
fn super_segments_stay_whole_between_taps_with_offloads() {
    in_namespace(|| {
        let (a, b) = bridged_pair();
        assert!(a.offloads().has_tso() && b.offloads().has_tso());
        let sent = super_segment(60_000, 1448);
        a.try_write(&sent).unwrap();
        let received = read_ours(&b).expect("the super-segment");
        assert_eq!(received.len(), sent.len());
        assert_eq!(received[VNET_HEADER_LEN..], sent[VNET_HEADER_LEN..]);
        assert_eq!((received[0], received[1]), (1, 1));
        assert_eq!(received[4..10], sent[4..10], "segment size and checksum place");
    });
}

/// A child process that another test is just starting holds copies of our descriptors until it executes its program.
fn attach_again(name: &str) -> Tap {
    for _ in 0..100 {
        match Tap::attach(name) {
            Err(error) if error.source().raw_os_error() == Some(libc::EBUSY) => {
                thread::sleep(Duration::from_millis(5));
            }
            attached => return attached.unwrap(),
        }
    }
    panic!("{name} stays busy");
}

/// What the previous opener of a persistent TAP left switched off does not stay off.
#[test]
fn offloads_are_set_again_at_every_open_of_a_persistent_tap() {
    in_namespace(|| {
        ip("tuntap add dev lh-p mode tap vnet_hdr");
        ip("link set lh-p up");
        for _ in 0..2 {
            let tap = attach_again("lh-p");
            assert!(!tap.is_created());
            assert!(tap.offloads().has_tso());
            let features = Command::new("ethtool").args(["-k", "lh-p"]).output();
            if let Ok(features) = features {
                let features = String::from_utf8_lossy(&features.stdout).into_owned();
                assert!(features.contains("tx-tcp-segmentation: on"), "{features}");
            }
            // SAFETY: takes its argument by value; zero switches every offload off.
            let result =
                unsafe { libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&tap), libc::TUNSETOFFLOAD, 0 as libc::c_ulong) };
            assert_eq!(result, 0);
        }
        let second = attach_again("lh-p");
        let error = Tap::attach("lh-p").unwrap_err();
        assert!(error.to_string().contains("another process has it open"), "{error}");
        drop(second);
    });
}

#[test]
fn a_tap_we_created_is_up_with_a_long_queue_and_goes_with_us() {
    in_namespace(|| {
        let tap = Tap::open("lh-c").unwrap();
        assert!(tap.is_created());
        let shown = ip("-o link show lh-c");
        assert!(shown.contains(&format!("qlen {TXQUEUELEN}")) && shown.contains(",UP"), "{shown}");
        drop(tap);
        let gone = (0..100).any(|_| {
            thread::sleep(Duration::from_millis(5));
            Tap::attach("lh-c").is_err_and(|error| error.source().raw_os_error() == Some(libc::ENODEV))
        });
        assert!(gone);
    });
}

#[test]
fn a_tap_that_is_down_refused_or_gone_says_which() {
    in_namespace(|| {
        ip("tuntap add dev lh-p mode tap vnet_hdr");
        let tap = Tap::open("lh-p").unwrap();
        let sent = frame(0x0806, &[0; 46]);
        assert_eq!(TapFault::of(&tap.try_write(&sent).unwrap_err()), TapFault::Down);
        ip("link set lh-p up");
        tap.try_write(&sent).unwrap();
        assert_eq!(TapFault::of(&tap.try_write(&sent[..VNET_HEADER_LEN + 4]).unwrap_err()), TapFault::Refused);
        let mut bad_gso = super_segment(3000, 1448);
        bad_gso[1] = 0x60; // no such GSO type
        assert_eq!(TapFault::of(&tap.try_write(&bad_gso).unwrap_err()), TapFault::Refused);
        ip("link del lh-p");
        assert_eq!(TapFault::of(&tap.try_write(&sent).unwrap_err()), TapFault::Gone);
        assert_eq!(TapFault::of(&tap.try_read(&mut [0; 100]).unwrap_err()), TapFault::Gone);
    });
}

#[test]
fn a_segmented_batch_crosses_in_one_piece() {
    in_namespace(|| {
        let mut sender = UdpChannelSocket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let mut receiver = UdpChannelSocket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        assert!(sender.is_segmenting(), "this kernel has UDP GSO");
        let bytes: Vec<u8> = (0..40 * 1400 + 3).map(|at| (at % 251) as u8).collect();
        sender.try_send(receiver.local_addr().unwrap(), 1400, &bytes).unwrap();
        let mut received = Vec::new();
        let first = receiver.try_recv(|_, _, datagram| received.push(datagram.len())).unwrap();
        assert_eq!(first, 41, "one buffer held them all");
        assert_eq!(received[..40], [1400; 40]);
        assert_eq!(received[40], 3);
        let (send, receive) = receiver.buffer_sizes().unwrap();
        assert!(send >= 8 << 20 && receive >= 8 << 20, "root is not bound by the system's limit: {send} {receive}");
    });
}

#[test]
fn oversized_datagrams_are_counted_and_do_not_cost_us_segmentation() {
    in_namespace(|| {
        ip("link set lo mtu 1500");
        let mut sender = UdpChannelSocket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let mut receiver = UdpChannelSocket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let to = receiver.local_addr().unwrap();
        assert_eq!(sender.try_send(to, 1473, &[0; 1473 * 5]).unwrap(), 1473 * 5);
        let counters = sender.counters();
        assert_eq!((counters.send_oversized, counters.datagrams_sent), (5, 0));
        // Older kernels blame the segmentation first (EINVAL instead of EMSGSIZE).
        let blamed = counters.gso_failed;
        assert!(blamed <= 1);
        assert!(sender.is_segmenting());
        sender.try_send(to, 1472, &[0; 1472 * 5]).unwrap();
        assert_eq!(receiver.try_recv(|_, _, _| {}).unwrap(), 5);
        assert_eq!(sender.counters().gso_failed, blamed);
    });
}

/// On a full link the send buffer fills, and what it did not take is taken later: nothing is lost on this machine.
#[test]
fn a_full_socket_takes_a_part_and_the_rest_later() {
    in_namespace(|| {
        ip("link add lh-v0 type veth peer name lh-v1");
        ip("addr add 192.0.2.1/24 dev lh-v0");
        ip("link set lh-v0 up");
        ip("link set lh-v1 up");
        // The neighbour is known, but the queue lets nothing out for a while.
        ip("neigh add 192.0.2.2 lladdr 02:00:00:00:00:09 dev lh-v0");
        let limited = Command::new("tc")
            .args("qdisc add dev lh-v0 root tbf rate 8mbit burst 3000 limit 100000000".split(' '))
            .status();
        if !limited.is_ok_and(|status| status.success()) {
            eprintln!("skipped: no tc with tbf here");
            return;
        }
        let mut sender = UdpChannelSocket::bind("192.0.2.1:0".parse().unwrap()).unwrap();
        rustix::net::sockopt::set_socket_send_buffer_size(&sender, 64 * 1024).unwrap();
        let to = "192.0.2.2:9".parse().unwrap();
        let bytes = vec![0; 1400 * 200];
        let mut done = sender.try_send(to, 1400, &bytes).unwrap();
        assert!(done < bytes.len() && done.is_multiple_of(1400), "{done}");
        assert!(sender.counters().send_blocked > 0);
        while done < bytes.len() {
            match sender.try_send(to, 1400, &bytes[done..]) {
                Ok(more) => done += more,
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    thread::sleep(Duration::from_millis(2));
                }
            }
        }
        assert_eq!(sender.counters().datagrams_sent, 200);
        assert_eq!(sender.counters().send_refused, 0);
    });
}
