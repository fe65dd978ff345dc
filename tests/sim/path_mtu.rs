//! The channel on paths whose MTU it does not know, or that changes under it.

use std::time::Duration;

use longhaul::channel::PathMtu;
use longhaul::units::BitRate;
use longhaul::wan::Jitter;

use crate::channel::{ChannelOutcome, ChannelRun, run};
use crate::path::PathSpec;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// A link takes as much more than its MTU says, for VLAN tags that ours do not have.
const SLACK: usize = 8;

fn path(mtu: u32) -> PathSpec {
    let mut path = PathSpec::new(BitRate::from_mbps(100), 40 * MS, 1.0);
    path.link.mtu = mtu;
    path
}

fn searching(path: PathSpec, max: usize) -> ChannelRun {
    let mut spec = ChannelRun::new(path, 1);
    spec.path_mtu = PathMtu::Discover { max };
    spec
}

fn short(mut spec: ChannelRun) -> ChannelRun {
    (spec.duration, spec.settle) = (4 * SECOND, 2 * SECOND);
    spec
}

/// Goodput as a share of the line rate.
fn efficiency(outcome: &ChannelOutcome, spec: &ChannelRun) -> f64 {
    outcome.goodput.as_bps() as f64 / spec.path.rate().as_bps() as f64
}

#[test]
fn a_jumbo_path_is_found_and_carries_more() {
    let jumbo = short(searching(path(9000), 9000));
    let outcome = run(&jumbo);
    assert_eq!(outcome.stats.path_mtu, 9000);
    assert!(outcome.stats.path_mtu_probes <= 8, "{} probes", outcome.stats.path_mtu_probes);
    let ordinary = short(searching(path(1500), 1500));
    let gain = efficiency(&outcome, &jumbo) - efficiency(&run(&ordinary), &ordinary);
    assert!(gain > 0.03, "jumbo datagrams gain {:.2} % of the line", gain * 100.0);
}

#[test]
fn what_the_path_carries_is_found_and_nothing_is_lost_for_it() {
    for (mtu, max) in [(1500, 9000), (1492, 1500), (1420, 1500), (1280, 9000), (4470, 9000), (1200, 1500)] {
        let outcome = run(&short(searching(path(mtu), max)));
        let (found, most) = (outcome.stats.path_mtu, mtu as usize + SLACK);
        assert!(found <= most && most - found <= most / 90 + SLACK, "{found} of {mtu}");
        assert!(outcome.stats.path_mtu_probes <= 40, "{} probes for {mtu}", outcome.stats.path_mtu_probes);
        assert_eq!(outcome.stats.path_mtu_black_holes, 0, "{mtu}");
        // Probes that did not fit are all that was ever lost.
        assert_eq!(outcome.stats.datagrams_lost, outcome.line.queue_full, "{mtu}");
    }
}

#[test]
fn random_loss_and_jitter_hide_nothing_and_feign_no_black_hole() {
    for (loss, burst) in [(1.0, 1.0), (5.0, 1.0), (5.0, 8.0)] {
        let mut spec = searching(path(1500).loss(loss, burst).jitter(Jitter::reordering(3 * MS)), 9000);
        (spec.duration, spec.settle) = (8 * SECOND, 2 * SECOND);
        let outcome = run(&spec);
        let found = outcome.stats.path_mtu;
        assert!((1480..=1508).contains(&found), "{found} at {loss} % loss in bursts of {burst}");
        assert_eq!(outcome.stats.path_mtu_black_holes, 0, "at {loss} % loss in bursts of {burst}");
    }
}

#[test]
fn a_path_that_shrinks_in_mid_transfer_is_followed_without_a_stall_or_a_lost_byte() {
    for (before, after) in [(1500, 1400), (9000, 1500), (1500, 1280)] {
        let mut spec = searching(path(before), before as usize);
        spec.mtu_changes = vec![(3 * SECOND, after)];
        spec.duration = 8 * SECOND;
        let outcome = run(&spec);
        let (found, most) = (outcome.stats.path_mtu, after as usize + SLACK);
        assert!(found <= most && most - found <= most / 90 + SLACK, "{found} of {after}");
        assert_eq!(outcome.stats.path_mtu_black_holes, 1);
        // What was in flight is gone for good; the stall is the time until that is known.
        let longest = longest_silence(&outcome, 3 * SECOND, 4 * SECOND);
        assert!(longest <= 4 * spec.path.rtt, "{longest:?} without a byte when {before} became {after}");
        let later = outcome.goodput_between(4 * SECOND, 5 * SECOND);
        assert!(later > spec.path.rate().percent(80), "{later} a second after {before} became {after}");
    }
}

#[test]
fn bounded_streams_survive_a_shrinking_path_whole() {
    let mut spec = searching(path(9000).loss(1.0, 3.0), 9000);
    (spec.streams, spec.streams_back, spec.bytes) = (3, 2, Some(6_000_000));
    spec.mtu_changes = vec![(400 * MS, 1500), (900 * MS, 1300)];
    let outcome = run(&spec);
    assert!(outcome.finished.expect("finished") < 6 * SECOND, "{:?}", outcome.finished);
}

#[test]
fn a_path_that_grows_is_used_when_the_search_begins_anew() {
    let mut spec = searching(path(1400), 1500);
    spec.mtu_changes = vec![(5 * SECOND, 1500)];
    (spec.streams, spec.duration) = (0, 602 * SECOND);
    assert_eq!(run(&spec).stats.path_mtu, 1500);
}

#[test]
fn an_outage_is_no_black_hole() {
    let mut spec = searching(path(9000), 9000);
    (spec.outages, spec.duration) = (vec![(3 * SECOND, 5 * SECOND)], 8 * SECOND);
    let outcome = run(&spec);
    assert_eq!((outcome.stats.path_mtu, outcome.stats.path_mtu_black_holes), (9000, 0));
}

/// Longest time in `from..until` in which nothing was delivered.
fn longest_silence(outcome: &ChannelOutcome, from: Duration, until: Duration) -> Duration {
    let mut longest = Duration::ZERO;
    let mut began = from;
    let mut at = from;
    while at < until {
        let next = at + 10 * MS;
        if outcome.goodput_between(at, next).as_bps() > 0 {
            longest = longest.max(at - began);
            began = next;
        }
        at = next;
    }
    longest.max(until - began)
}
