//! The line's rate halves, and doubles, in the middle of a transfer.
//!
//! `cargo test --test sim -- --nocapture rate_changes` prints what was measured.

use std::time::Duration;

use longhaul::units::BitRate;

use crate::channel::{ChannelOutcome, ChannelRun, run};
use crate::path::PathSpec;

const MS: Duration = Duration::from_millis(1);
const HALVED_AT: Duration = Duration::from_secs(3);
const DOUBLED_AT: Duration = Duration::from_secs(6);
const END: Duration = Duration::from_secs(9);
const FULL: BitRate = BitRate::from_mbps(100);
const HALF: BitRate = BitRate::from_mbps(50);

/// What followed a change.
#[derive(Debug)]
struct Answer {
    /// Until the first window of two RTTs, 50 ms at least, that carried 90 % of the new rate.
    to_90: Duration,
    /// For how long the queue was longer than one RTT, which is 1 BDP of the new rate.
    queue_above: Duration,
    /// Share of the new rate's ceiling that was delivered, from 10 RTT after the change on.
    held: f64,
}

fn changed(rtt: Duration, loss: f64) -> ChannelOutcome {
    let mut spec = ChannelRun::new(PathSpec::new(FULL, rtt, 1.0).loss(loss, 1.0), 1);
    spec.rate_changes = vec![(HALVED_AT, HALF), (DOUBLED_AT, FULL)];
    spec.duration = END;
    run(&spec)
}

fn answer(outcome: &ChannelOutcome, rtt: Duration, at: Duration, until: Duration, share: f64) -> Answer {
    let ceiling = outcome.ceiling.as_bps() as f64 * share;
    let part = |from: Duration, until: Duration| outcome.goodput_between(from, until).as_bps() as f64 / ceiling;
    let width = (2 * rtt).max(50 * MS);
    let to_90 = (0..)
        .map(|bin| 10 * MS * bin)
        .find(|after| at + *after + width > until || part(at + *after, at + *after + width) >= 0.9);
    Answer {
        to_90: to_90.expect("ends at the latest with the time"),
        queue_above: outcome.queue_above(rtt, at, until),
        held: part(at + 10 * rtt, until),
    }
}

/// Both changes over this path, held to bounds in RTTs: 90 % of a doubled rate, and a queue above 1 BDP after halving.
#[track_caller]
fn check(rtt: Duration, loss: f64, doubled_rtts: f64, queue_rtts: f64) {
    let outcome = changed(rtt, loss);
    let halved = answer(&outcome, rtt, HALVED_AT, DOUBLED_AT, 0.5);
    let doubled = answer(&outcome, rtt, DOUBLED_AT, END, 1.0);
    println!("{rtt:?}, {loss} %: halved {halved:?}\n  doubled {doubled:?}");
    let rtts = |time: Duration| time.as_secs_f64() / rtt.as_secs_f64();
    for answer in [&halved, &doubled] {
        assert!(rtts(answer.to_90) <= doubled_rtts, "90 % after {:.1} RTT", rtts(answer.to_90));
        assert!(rtts(answer.queue_above) <= queue_rtts, "queue above 1 BDP for {:.1} RTT", rtts(answer.queue_above));
        assert!(answer.held >= 0.9, "{:.1} % from 10 RTT on", answer.held * 100.0);
    }
}

// The goals are 10 RTT, and a queue above 1 BDP for 5 at most; the bounds are what is reached so far. A round lasts the longer the
// deeper the queue, and on short paths a third one has to tell a slower path from a machine that pauses.

#[test]
fn rate_changes_over_12_ms_are_followed_within_13_rtt_and_the_queue_is_gone_after_13() {
    check(12 * MS, 0.0, 10.0, 13.0);
    check(12 * MS, 1.0, 13.0, 13.0);
}

#[test]
fn rate_changes_over_25_ms_are_followed_within_10_rtt_and_the_queue_is_gone_after_8() {
    check(25 * MS, 0.0, 10.0, 8.0);
    check(25 * MS, 1.0, 10.0, 8.0);
}

#[test]
fn rate_changes_over_100_ms_are_followed_within_10_rtt_and_the_queue_is_gone_after_8() {
    check(100 * MS, 0.0, 10.0, 8.0);
    check(100 * MS, 1.0, 10.0, 8.0);
}
