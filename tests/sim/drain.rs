//! How long the rest takes after a host's last byte: what a running machine that moves would stand still for.
//!
//! CPU costs nothing on virtual time, so compressed bytes would pour through a path as fast as a real relay never could:
//! the far host's own speed is what the stun trap is made of.

use std::time::Duration;

use longhaul::units::BitRate;

use crate::appliance::ApplianceSpec;
use crate::identity::End;
use crate::network::{Network, NetworkSpec};
use crate::path::PathSpec;
use crate::pattern::Content;
use crate::script::Connection;

/// Runs a transfer of two seconds to a host that reads at `reads_mbps`, and returns what it took after the sender was
/// told that everything had arrived, less the round trip.
fn drain(path: &PathSpec, content: Content, reads_mbps: u64) -> Duration {
    let rate = BitRate::from_mbps(reads_mbps);
    let bytes = rate.bytes_in(Duration::from_secs(2)).as_u64();
    let mut connection = Connection::transfer(bytes).opens_at(Duration::from_millis(1500)).content(content);
    connection.reads_at = Some((End::B, rate));
    let mut network =
        Network::new(NetworkSpec::new(path.clone(), ApplianceSpec::default().wiring(1), 1).with(connection));
    network.run();
    let acked = network.seen(End::A, 0).acked_at.expect("acknowledged");
    let last = network.seen(End::B, 0).last_received_at.expect("received");
    let took = last - Duration::from_millis(1500);
    // The bound must not cost the transfer its speed: the reader is the slowest on the way.
    assert!(took < Duration::from_millis(2600), "{content:?} at {reads_mbps} Mbps over {}: {took:?}", path.name);
    last.saturating_sub(acked).saturating_sub(path.rtt)
}

/// HyperIP's successor must not make ESX believe in pages that are still under way.
const BAR: Duration = Duration::from_millis(200);

#[test]
fn compressed_pages_for_a_host_slower_than_the_path_are_not_piled_up_at_1_gbps() {
    let path = PathSpec::new(BitRate::from_mbps(1000), Duration::from_millis(5), 1.0);
    for (content, reads_mbps) in [(Content::ZeroPages, 200), (Content::ZeroPages, 900), (Content::Mixed, 400)] {
        let drain = drain(&path, content, reads_mbps);
        assert!(drain <= BAR, "{content:?} at {reads_mbps} Mbps: {drain:?}");
    }
}

#[test]
fn compressed_pages_for_a_host_slower_than_they_come_are_not_piled_up_at_100_mbps() {
    let path = PathSpec::new(BitRate::from_mbps(100), Duration::from_millis(25), 1.0);
    for (content, reads_mbps) in [(Content::ZeroPages, 60), (Content::ZeroPages, 600), (Content::Mixed, 80)] {
        let drain = drain(&path, content, reads_mbps);
        assert!(drain <= BAR, "{content:?} at {reads_mbps} Mbps: {drain:?}");
    }
}
