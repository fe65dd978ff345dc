//! What follows an outage: how soon the path is full again once it is back, and what was sent meanwhile.

use std::time::Duration;

use longhaul::units::BitRate;

use crate::bins::{BIN, bin, first_window};
use crate::channel::{ChannelOutcome, ChannelRun, run};
use crate::path::PathSpec;
use crate::settings;

const MS: Duration = Duration::from_millis(1);
/// The path dies about then.
const DIES: Duration = Duration::from_secs(2);
/// A rate is reached when so much time together carried it.
const WINDOW: Duration = Duration::from_millis(50);

/// A path that is dead for `lasts`, and for a while afterwards alive. `shift` moves the outage against the timers.
fn spec(mbps: u64, rtt_ms: u32, lasts: Duration, shift: Duration) -> ChannelRun {
    let path = PathSpec::new(BitRate::from_mbps(mbps), MS * rtt_ms, 1.0);
    let mut spec = ChannelRun::new(path, settings::value("SIM_SEED", 1));
    let back = DIES + shift + lasts;
    (spec.outages, spec.duration) = (vec![(DIES + shift, back)], back + Duration::from_secs(1));
    spec
}

/// From the path's return until the end of the first window that carried 90 % of the ceiling.
fn recovery(run: &ChannelRun, outcome: &ChannelOutcome) -> Option<Duration> {
    let back = run.outages[0].1;
    let width = bin(WINDOW);
    let wanted = outcome.ceiling.percent(90).bytes_in(WINDOW).as_u64();
    let first = back.as_nanos().div_ceil(BIN.as_nanos()) as usize;
    let at = first_window(&outcome.bins[first..], width, wanted)?;
    Some(BIN * (first + at + width) as u32 - back)
}

#[test]
fn an_outage_ends_with_the_path_s_return_however_long_it_was() {
    for rtt_ms in [12, 100] {
        let mut gone = Vec::new();
        for (place, seconds) in [1, 10, 30, 60, 90].into_iter().enumerate() {
            let spec = spec(100, rtt_ms, Duration::from_secs(seconds), MS * 37 * place as u32);
            let outcome = run(&spec);
            let goal = 2 * spec.path.rtt + 200 * MS;
            let after = recovery(&spec, &outcome);
            assert!(after.is_some_and(|after| after <= goal), "{rtt_ms} ms, {seconds} s: {after:?}");
            gone.push(outcome.line.outage);
        }
        // What was under way when the path died is the same; the rest asks whether it is back.
        let [.., minute, longer] = gone[..] else { unreachable!("five outages") };
        let per_second = longer.saturating_sub(minute) / 30;
        assert!((2..=50).contains(&per_second), "{rtt_ms} ms: {per_second} datagrams per second into a dead path");
    }
}

#[test]
#[ignore = "prints a table for the engineer: SIM_RATE, SIM_RTT, SIM_OUTAGE (s), SIM_SHIFTS"]
fn outages_table() {
    let shifts: u32 = settings::value("SIM_SHIFTS", 5);
    println!("\n| path | outage s | back at 90 % after ms | goal ms | gone in the outage |\n|---|---:|---:|---:|---:|");
    for mbps in settings::list("SIM_RATE", &[100u64, 1000]) {
        for rtt_ms in settings::list("SIM_RTT", &[12u32, 100]) {
            for seconds in settings::list("SIM_OUTAGE", &[1u64, 10, 30, 60, 90]) {
                let runs: Vec<(Option<Duration>, u64)> = (0..shifts)
                    .map(|shift| spec(mbps, rtt_ms, Duration::from_secs(seconds), MS * 37 * shift))
                    .map(|spec| {
                        let outcome = run(&spec);
                        (recovery(&spec, &outcome), outcome.line.outage)
                    })
                    .collect();
                let ms =
                    |after: &Option<Duration>| after.map_or("never".to_owned(), |time| time.as_millis().to_string());
                let after: Vec<String> = runs.iter().map(|(after, _)| ms(after)).collect();
                let gone = runs.iter().map(|(_, gone)| gone).max().unwrap_or(&0);
                let goal = 2 * rtt_ms + 200;
                println!("| {mbps} Mbps, {rtt_ms} ms | {seconds} | {} | {goal} | {gone} |", after.join(" "));
            }
        }
    }
}
