//! The size of the channel's packets on real interfaces: found, and followed when it shrinks under a transfer.

use std::thread;
use std::time::Duration;

use super::bench::{Lab, Side};
use super::pattern;
use super::programs::{Nginx, curl};

/// Enough for anything here on a busy machine.
const LONG: Duration = Duration::from_secs(60);
const LENGTH: usize = 40_000_000;
/// Bytes through the channel by which the transfer is in its middle.
const UNDER_WAY: u64 = 4_000_000;

fn path_mtu(lab: &Lab, side: Side) -> u64 {
    lab.status(side).channel.map_or(0, |channel| channel.path_mtu)
}

#[test]
fn the_path_mtu_is_found_beyond_1500_and_below() {
    for (over, mtu, slack) in [("ipv4", 4000, 0), ("ipv4", 1380, 8), ("ipv6", 1380, 8)] {
        let lab = Lab::up("accelerate", &format!("--link mpls --mtu {mtu} --channel-over {over}"));
        for side in [Side::A, Side::B] {
            lab.wait_for("the path MTU is found", Duration::from_secs(15), || {
                (mtu - 14..=mtu + slack).contains(&path_mtu(&lab, side))
            });
        }
        lab.assert_in_order();
    }
}

#[test]
fn an_interface_that_shrinks_in_mid_transfer_costs_no_byte() {
    for over in ["ipv4", "ipv6"] {
        let lab =
            Lab::up("accelerate", &format!("--ports 1-65535 --link mpls --compression off --channel-over {over}"));
        let (a, b) = (&lab.a, &lab.b);
        let nginx = Nginx::start(b, &lab.files, 8000);
        pattern::write_file(&nginx.root.join("page"), 4, LENGTH);
        let fetched = lab.files.join("fetched");
        lab.wait_for("the path MTU is found", Duration::from_secs(15), || path_mtu(&lab, Side::B) >= 1500);
        thread::scope(|scope| {
            let transfer = scope.spawn(|| curl(a, LONG, b.v4(8000), "page", &fetched));
            lab.wait_for("the transfer is under way", LONG, || {
                lab.counter(Side::B, "relayed_source_bytes") >= UNDER_WAY
            });
            lab.ip("appb", "link set br-wan mtu 1300");
            transfer.join().expect("the transfer ended well");
        });
        assert!(std::fs::read(&fetched).unwrap() == pattern::bytes(4, 0, LENGTH), "what arrived is not what was sent");
        let channel = lab.status(Side::B).channel.expect("a channel");
        assert!((1280..=1300).contains(&channel.path_mtu), "{} bytes", channel.path_mtu);
        assert_eq!(channel.path_mtu_black_holes, 1);
        lab.assert_in_order();
    }
}
