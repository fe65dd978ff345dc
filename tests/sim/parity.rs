//! Repair symbols over retransmissions: what is lost twice waits no further round trip.

use std::time::Duration;

use longhaul::units::BitRate;

use crate::channel::{ChannelOutcome, ChannelRun, run};
use crate::path::PathSpec;

/// A transfer for which the far end has little room for what waits behind something lost; `takes`: who knows symbols.
fn transfer(loss: f64, burst: f64, takes: [bool; 2]) -> ChannelOutcome {
    let path = PathSpec::new(BitRate::from_mbps(1000), Duration::from_millis(100), 1.0).loss(loss, burst);
    let mut spec = ChannelRun::new(path, 1);
    spec.repair_symbols = takes;
    (spec.settle, spec.duration) = (Duration::from_secs(2), Duration::from_secs(4));
    run(&spec)
}

#[test]
fn what_is_lost_twice_comes_back_by_symbols() {
    for burst in [1.0, 5.0] {
        let outcome = transfer(3.0, burst, [true; 2]);
        let (made, back) = (outcome.stats.repair_symbols, outcome.stats_b.bytes_recovered.as_u64());
        // Of 3 % of 200 MB, 3 % are lost again.
        assert!(made > 500 && back > 100_000, "bursts of {burst}: {made} symbols, {back} bytes");
        assert!(outcome.repair_share() < 0.0105, "bursts of {burst}: {}", outcome.repair_share());
        assert_eq!(outcome.stats_b.datagrams_refused, 0);
    }
}

#[test]
fn whoever_does_not_know_them_is_sent_none() {
    for takes in [[true, false], [false, true]] {
        let outcome = transfer(3.0, 1.0, takes);
        for stats in [&outcome.stats, &outcome.stats_b] {
            let seen = (stats.datagrams_refused, stats.repair_symbols, stats.bytes_recovered.as_u64());
            assert_eq!(seen, (0, 0, 0), "{takes:?}");
        }
    }
}
