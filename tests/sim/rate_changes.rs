//! The line's rate halves, and doubles, in the middle of a transfer.
//!
//! `cargo test --test sim -- --nocapture rate_changes` prints what was measured, `cargo test --release --test sim --
//! --ignored rate_changes_table --nocapture` the same for changes at several moments (`SIM_RATE` in Mbps, `SIM_RTT`,
//! `SIM_LOSS`, `SIM_TIMES`), and on busy machines (`SIM_LOAD`).

use std::time::Duration;

use longhaul::units::BitRate;

use crate::bins::{BIN, bin};
use crate::channel::{ChannelOutcome, ChannelRun, run};
use crate::machine::Load;
use crate::path::PathSpec;
use crate::settings;

const MS: Duration = Duration::from_millis(1);
const HALVED_AT: Duration = Duration::from_secs(3);
const DOUBLED_AT: Duration = Duration::from_secs(6);
const END: Duration = Duration::from_secs(9);
/// Mbps, unless asked otherwise.
const FULL: u64 = 100;

/// What followed a change.
#[derive(Debug)]
struct Answer {
    /// Until the first window of two RTTs, 50 ms at least, that carried 90 % of the new rate.
    to_90: Duration,
    /// For how long the queue was longer than one RTT, which is 1 BDP of the new rate.
    queue_above: Duration,
    /// Of that, the most at a stretch.
    stretch: Duration,
    /// Share of the new rate's ceiling that was delivered, from 10 RTT after the change on.
    held: f64,
}

fn changed(rtt: Duration, loss: f64, later: Duration) -> ChannelOutcome {
    let full = BitRate::from_mbps(settings::value("SIM_RATE", FULL));
    let mut spec = ChannelRun::new(PathSpec::new(full, rtt, 1.0).loss(loss, 1.0), 1);
    spec.rate_changes = vec![(HALVED_AT + later, full.percent(50)), (DOUBLED_AT + later, full)];
    spec.load = Load::named(&settings::value("SIM_LOAD", "none".to_owned()));
    spec.duration = END + later;
    spec.trace = settings::list("SIM_TRACE", &[]).first().map(|&millis: &u32| MS * millis);
    run(&spec)
}

/// What followed the halving and the doubling, each `later` than usual.
fn answers(rtt: Duration, loss: f64, later: Duration) -> [Answer; 2] {
    let outcome = changed(rtt, loss, later);
    [(HALVED_AT, DOUBLED_AT, 0.5), (DOUBLED_AT, END, 1.0)]
        .map(|(at, until, share)| answer(&outcome, rtt, at + later, until + later, share))
}

fn answer(outcome: &ChannelOutcome, rtt: Duration, at: Duration, until: Duration, share: f64) -> Answer {
    let ceiling = outcome.ceiling.as_bps() as f64 * share;
    let part = |from: Duration, until: Duration| outcome.goodput_between(from, until).as_bps() as f64 / ceiling;
    let width = (2 * rtt).max(50 * MS);
    let to_90 = (0..)
        .map(|bin| 10 * MS * bin)
        .find(|after| at + *after + width > until || part(at + *after, at + *after + width) >= 0.9);
    let stretches = outcome.queue_bins[bin(at)..bin(until)].split(|wait| *wait <= rtt);
    Answer {
        to_90: to_90.expect("ends at the latest with the time"),
        queue_above: outcome.queue_above(rtt, at, until),
        stretch: BIN * stretches.map(<[Duration]>::len).max().unwrap_or(0) as u32,
        held: part(at + 10 * rtt, until),
    }
}

/// Both changes over this path: 90 % of the new rate within 10 RTT, and a queue above 1 BDP for no more than 5.
#[track_caller]
fn check(rtt: Duration, loss: f64) {
    let [halved, doubled] = answers(rtt, loss, Duration::ZERO);
    println!("{rtt:?}, {loss} %: halved {halved:?}\n  doubled {doubled:?}");
    let rtts = |time: Duration| time.as_secs_f64() / rtt.as_secs_f64();
    for answer in [&halved, &doubled] {
        assert!(rtts(answer.to_90) <= 10.0, "90 % after {:.1} RTT", rtts(answer.to_90));
        assert!(rtts(answer.queue_above) <= 5.0, "queue above 1 BDP for {:.1} RTT", rtts(answer.queue_above));
        assert!(answer.held >= 0.95, "{:.1} % from 10 RTT on", answer.held * 100.0);
    }
}

#[test]
fn rate_changes_over_12_ms_are_followed_within_10_rtt_and_the_queue_is_gone_after_5() {
    check(12 * MS, 0.0);
    check(12 * MS, 1.0);
}

#[test]
fn rate_changes_over_25_ms_are_followed_within_10_rtt_and_the_queue_is_gone_after_5() {
    check(25 * MS, 0.0);
    check(25 * MS, 1.0);
}

#[test]
fn rate_changes_over_100_ms_are_followed_within_10_rtt_and_the_queue_is_gone_after_5() {
    check(100 * MS, 0.0);
    check(100 * MS, 1.0);
}

#[test]
#[ignore = "prints a table for the engineer"]
fn rate_changes_table() {
    println!(
        "| RTT | loss % | later ms | halved: to 90 %, queue above, at a stretch, RTT | held % | doubled: the same | held % |"
    );
    for rtt in settings::list("SIM_RTT", &[12, 25, 100]) {
        for loss in settings::list("SIM_LOSS", &[0.0, 1.0]) {
            for later in 0..settings::value("SIM_TIMES", 8) {
                let later = later * 83;
                let cells = answers(MS * rtt, loss, MS * later).map(|answer| {
                    let rtts = |time: Duration| time.as_secs_f64() * 1e3 / f64::from(rtt);
                    let [to_90, above, stretch] = [answer.to_90, answer.queue_above, answer.stretch].map(rtts);
                    format!("{to_90:.1} {above:.1} {stretch:.1} | {:.1}", answer.held * 100.0)
                });
                println!("| {rtt} | {loss} | {later} | {} | {} |", cells[0], cells[1]);
            }
        }
    }
}
