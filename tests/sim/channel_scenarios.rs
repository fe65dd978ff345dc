//! The channel alone, held to what the whole relies on.

use std::time::Duration;

use longhaul::rate::RateMode;
use longhaul::units::BitRate;
use longhaul::wan::Jitter;

use crate::channel::{ChannelRun, run};
use crate::path::PathSpec;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn mid_path() -> PathSpec {
    PathSpec::new(BitRate::from_mbps(100), 20 * MS, 1.0)
}

fn share(part: BitRate, whole: BitRate) -> f64 {
    part.as_bps() as f64 / whole.as_bps() as f64
}

#[test]
fn bounded_streams_of_both_ends_arrive_whole() {
    let mut spec = ChannelRun::new(mid_path().loss(1.0, 4.0), 1);
    (spec.streams, spec.streams_back, spec.bytes) = (3, 2, Some(2_000_000));
    let outcome = run(&spec);
    assert_eq!(outcome.per_stream, vec![2_000_000; 3]);
    assert!(outcome.finished.expect("finished") < 3 * SECOND, "{:?}", outcome.finished);
}

#[test]
fn streams_share_the_channel_equally() {
    let mut spec = ChannelRun::new(mid_path(), 1);
    (spec.streams, spec.duration, spec.settle) = (8, 4 * SECOND, SECOND);
    let outcome = run(&spec);
    let sum: u64 = outcome.per_stream.iter().sum();
    let squares: f64 = outcome.per_stream.iter().map(|&bytes| (bytes as f64).powi(2)).sum();
    let jain = (sum as f64).powi(2) / (8.0 * squares);
    assert!(jain > 0.98, "Jain {jain}: {:?}", outcome.per_stream);
}

#[test]
fn a_direction_that_has_carried_only_acks_and_credit_comes_up_at_once() {
    let mut spec = ChannelRun::new(PathSpec::new(BitRate::from_mbps(1000), 12 * MS, 1.0).loss(0.1, 1.0), 1);
    (spec.streams_back, spec.back_opens_at) = (1, 3 * SECOND);
    (spec.duration, spec.settle) = (4 * SECOND, 3 * SECOND + 500 * MS);
    let outcome = run(&spec);
    assert!(
        share(outcome.goodput_back, outcome.ceiling) > 0.5,
        "{} in the second half of a second",
        outcome.goodput_back
    );
}

#[test]
fn the_operator_s_rate_is_never_exceeded() {
    let mut spec = ChannelRun::new(mid_path(), 1);
    spec.rate = RateMode::Fair { cap: Some(BitRate::from_mbps(40)) };
    (spec.duration, spec.settle) = (4 * SECOND, SECOND);
    let outcome = run(&spec);
    let sent = BitRate::from_transfer(outcome.stats.bytes_sent, 4 * SECOND);
    assert!(sent <= BitRate::from_mbps(41), "{sent}");
    assert!(share(outcome.goodput, BitRate::from_mbps(40)) > 0.88, "{}", outcome.goodput);
}

#[test]
fn reordering_within_three_milliseconds_is_no_loss() {
    let mut spec = ChannelRun::new(mid_path().jitter(Jitter::reordering(3 * MS)), 1);
    (spec.duration, spec.settle) = (6 * SECOND, 2 * SECOND);
    let outcome = run(&spec);
    assert!(outcome.spurious < 0.001, "{:.3} % spurious", outcome.spurious * 100.0);
    assert!(share(outcome.goodput, outcome.ceiling) > 0.9, "{}", outcome.goodput);
}

#[test]
fn a_halved_and_a_doubled_rate_are_followed() {
    let mut spec = ChannelRun::new(mid_path(), 1);
    spec.rate_changes = vec![(3 * SECOND, BitRate::from_mbps(50)), (6 * SECOND, BitRate::from_mbps(100))];
    let outcome = run(&spec);
    let halved = outcome.goodput_between(4 * SECOND, 6 * SECOND);
    let doubled = outcome.goodput_between(7 * SECOND, 10 * SECOND);
    assert!(share(halved, outcome.ceiling) > 0.42, "{halved} of 50 Mbps");
    assert!(share(doubled, outcome.ceiling) > 0.85, "{doubled} of 100 Mbps");
}

#[test]
fn a_clean_line_sees_no_retransmission_to_speak_of_and_no_full_queue() {
    let mut spec = ChannelRun::new(mid_path(), 1);
    (spec.duration, spec.settle) = (6 * SECOND, 2 * SECOND);
    let outcome = run(&spec);
    assert!(outcome.retransmitted < 0.02, "{:.2} % sent again", outcome.retransmitted * 100.0);
    assert!(outcome.queue_mean < spec.path.rtt / 2, "standing queue {:?}", outcome.queue_mean);
}

#[test]
fn a_session_that_idled_starts_as_fast_as_a_new_one() {
    // MPLS of the report: its jitter makes single pings' samples look like anything.
    let path = || PathSpec::new(BitRate::from_mbps(100), 25 * MS, 1.0).loss(0.05, 1.0).jitter(Jitter::ordered(3 * MS));
    for idle in [SECOND, 10 * SECOND, 60 * SECOND] {
        let mut spec = ChannelRun::new(path(), 1);
        (spec.opens_at, spec.duration) = (idle, idle + 3 * SECOND);
        let outcome = run(&spec);
        let first = outcome.goodput_between(idle + 500 * MS, idle + SECOND);
        assert!(share(first, outcome.ceiling) > 0.7, "{first} half a second after {idle:?} of idling");
    }
}
