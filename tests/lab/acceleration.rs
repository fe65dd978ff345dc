//! Ordinary programs whose connections are split: they get what was sent, and do not notice.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::bench::{Lab, Side};
use super::hosts::Host;
use super::pattern;
use super::programs::{Iperf, Nginx, Sshd, curl};

/// Enough for anything here on a busy machine.
const LONG: Duration = Duration::from_secs(30);

/// The link on which acceleration matters most: 1 Gbps, 12 ms, 0.1 % loss.
const METRO: &str = "--ports 1-65535 --link metro";

fn fetch(client: &Host, server: SocketAddr, path: &str, fetched: &Path, expected: &[u8]) {
    curl(client, LONG, server, path, fetched);
    assert!(std::fs::read(fetched).unwrap() == expected, "{path} from {server}");
}

/// Waits until the appliances have no flow any more: nothing leaks.
fn wait_until_no_flow_is_left(lab: &Lab) {
    for side in [Side::A, Side::B] {
        lab.wait_for("the flow table is empty", Duration::from_secs(15), || lab.counter(side, "flows") == 0);
        assert_eq!(lab.counter(side, "memory_bytes"), 0, "of appliance {}", side.name());
    }
}

#[test]
fn web_transfers_arrive_intact_from_either_site_over_either_ip() {
    const LARGE: usize = 100_000_000;
    let lab = Lab::up("accelerate", METRO);
    let (a, b) = (&lab.a, &lab.b);
    let nginx = Nginx::start(b, &lab.files, 8000);
    let large = pattern::bytes(1, 0, LARGE);
    std::fs::write(nginx.root.join("large"), &large).unwrap();
    pattern::write_file(&nginx.root.join("small"), 2, 1000);
    std::fs::write(nginx.root.join("empty"), "").unwrap();
    let fetched = lab.files.join("fetched");
    for server in [b.v4(8000), b.v6(8000)] {
        fetch(a, server, "empty", &fetched, b"");
        fetch(a, server, "small", &fetched, &pattern::bytes(2, 0, 1000));
    }
    fetch(a, b.v4(8000), "large", &fetched, &large);
    fetch(a, b.v6(8000), "large", &fetched, &large);
    let relayed = lab.counter(Side::B, "relayed_source_bytes");
    assert!(relayed >= 2 * LARGE as u64, "only {relayed} bytes went through the channel");
    let encoded = lab.counter(Side::B, "relayed_encoded_bytes");
    assert!(encoded < relayed * 3 / 4, "half of it compresses well, but {relayed} became {encoded}");
    assert_eq!(lab.counter(Side::A, "flows_opened"), 6);
    assert_eq!(lab.counter(Side::B, "flows_opened"), 6);

    // And the other way round.
    let _other = Nginx::start(a, &lab.files, 8000);
    fetch(b, a.v4(8000), "small", &fetched, &pattern::bytes(2, 0, 1000));
    fetch(b, a.v6(8000), "large", &fetched, &large);
    let relayed = lab.counter(Side::A, "relayed_source_bytes");
    assert!(relayed >= LARGE as u64, "only {relayed} bytes went through the channel");
    wait_until_no_flow_is_left(&lab);
    lab.assert_in_order();
}

#[test]
fn transfers_arrive_intact_over_a_channel_between_ipv6_addresses() {
    const LENGTH: usize = 30_000_000;
    for (layout, peer) in [("", "[fd77::12]:47000"), ("--routed", "[fd77:2::12]:47000")] {
        let lab = Lab::up("accelerate", &format!("{METRO} --channel-over ipv6 {layout}"));
        let (a, b) = (&lab.a, &lab.b);
        let nginx = Nginx::start(b, &lab.files, 8000);
        let content = pattern::bytes(4, 0, LENGTH);
        std::fs::write(nginx.root.join("page"), &content).unwrap();
        let fetched = lab.files.join("fetched");
        for server in [b.v4(8000), b.v6(8000)] {
            fetch(a, server, "page", &fetched, &content);
        }
        let relayed = lab.counter(Side::B, "relayed_source_bytes");
        assert!(relayed >= 2 * LENGTH as u64, "only {relayed} bytes went through the channel");
        let channel = lab.status(Side::A).channel.expect("a channel");
        assert_eq!(channel.peer_address, Some(peer.parse().unwrap()));
        wait_until_no_flow_is_left(&lab);
        lab.assert_in_order();
    }
}

#[test]
fn ssh_scp_and_iperf3_work_accelerated() {
    let lab = Lab::up("accelerate", METRO);
    let (a, b) = (&lab.a, &lab.b);
    let sshd = Sshd::start(b, &lab.files, 2222);
    assert_eq!(sshd.ssh(a, LONG, b.addresses[0], "echo over there"), "over there\n");
    let (file, copied) = (lab.files.join("file"), lab.files.join("copied"));
    pattern::write_file(&file, 1, 20_000_000);
    for address in b.addresses {
        sshd.scp(a, LONG, &file, address, &copied);
        assert!(std::fs::read(&copied).unwrap() == std::fs::read(&file).unwrap(), "scp to {address}");
        std::fs::remove_file(&copied).unwrap();
    }
    assert_eq!(lab.counter(Side::A, "flows_opened"), 3);
    assert!(lab.counter(Side::A, "relayed_source_bytes") > 40_000_000);

    let iperf = Iperf::start(b, 5201);
    for (options, sender) in [
        ("-t 2", Side::A),
        ("-t 2 -P 8", Side::A),
        ("-t 2 -R", Side::B),
        ("-t 2 -P 8 -R", Side::B),
        ("-t 2 --bidir", Side::A),
    ] {
        let before = lab.counter(sender, "relayed_source_bytes");
        let bytes = iperf.run(a, options);
        let relayed = lab.counter(sender, "relayed_source_bytes") - before;
        // Kernel CUBIC gets 37 Mbps here, which would be 9 MB.
        assert!(bytes > 20_000_000, "iperf3 {options}: only {bytes} bytes");
        assert!(relayed >= bytes, "iperf3 {options}: {bytes} bytes, of which {relayed} through the channel");
    }
    wait_until_no_flow_is_left(&lab);
    lab.assert_in_order();
}

#[test]
fn many_short_connections_all_get_their_answer() {
    let lab = Lab::up("accelerate", METRO);
    let (a, b) = (&lab.a, &lab.b);
    let nginx = Nginx::start(b, &lab.files, 8000);
    pattern::write_file(&nginx.root.join("page"), 3, 5000);
    let script = lab.files.join("fetch");
    let line = format!(
        "seq \"$1\" | xargs -P \"$2\" -I N curl -sS --fail -o {}/N http://{}/page\n",
        lab.files.display(),
        b.v4(8000)
    );
    std::fs::write(&script, line).unwrap();
    for (count, parallel) in [(50, 1), (200, 10)] {
        a.succeed(LONG, &format!("sh {} {count} {parallel}", script.display()));
        for number in 1..=count {
            let path = lab.files.join(number.to_string());
            assert!(std::fs::read(&path).unwrap() == pattern::bytes(3, 0, 5000), "connection {number} of {count}");
            std::fs::remove_file(&path).unwrap();
        }
    }
    wait_until_no_flow_is_left(&lab);
    for side in [Side::A, Side::B] {
        assert_eq!(lab.counter(side, "flows_opened"), 250);
        assert_eq!(lab.counter(side, "flows_finished"), 250);
        assert_eq!(lab.counter(side, "flows_reset"), 0);
    }
    lab.assert_in_order();
}

#[test]
fn each_leg_has_an_mtu_of_its_own() {
    // Hosts with jumbo frames over an ordinary WAN, and ordinary hosts over a narrow one.
    for (options, mss_min) in [("--lan-mtu 9000", 8900), ("--mtu 1280", 1400)] {
        let lab = Lab::up("accelerate", &format!("{METRO} {options}"));
        let (a, b) = (&lab.a, &lab.b);
        let nginx = Nginx::start(b, &lab.files, 8000);
        pattern::write_file(&nginx.root.join("page"), 4, 20_000_000);
        let expected = pattern::bytes(4, 0, 20_000_000);
        let fetched = lab.files.join("fetched");
        for server in [b.v4(8000), b.v6(8000)] {
            fetch(a, server, "page", &fetched, &expected);
        }
        for (server, headers) in [(b.v4(902), 40), (b.v6(902), 60)] {
            let (near, _far) = a.connection(b, server);
            lab.assert_accelerated(near.local_addr().unwrap(), server);
            let mss = socket2::SockRef::from(&near).tcp_mss().unwrap();
            assert!(mss >= mss_min, "{options}: the near leg to {server} has an MSS of {mss}");
            assert!(mss <= 9000 - headers);
        }
        assert!(lab.counter(Side::B, "relayed_source_bytes") >= 40_000_000);
        lab.assert_in_order();
    }
}
