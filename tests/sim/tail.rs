//! How long short transfers take on long and lossy paths, with and without copies of their ends.
//!
//! `cargo test --test sim -- --ignored --nocapture tail_table` prints the table.

use std::time::Duration;

use longhaul::units::BitRate;

use crate::channel::{ChannelOutcome, ChannelRun, run};
use crate::path::PathSpec;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const BYTES: u64 = 1_000_000;

fn transfer(path: &PathSpec, seed: u64, tail_copies: bool) -> ChannelOutcome {
    let mut spec = ChannelRun::new(path.clone(), seed);
    (spec.bytes, spec.opens_at, spec.tail_copies) = (Some(BYTES), SECOND, tail_copies);
    run(&spec)
}

/// Completion times in ascending order, and the share of stream bytes that was copied.
fn transfers(path: &PathSpec, seeds: u64, tail_copies: bool) -> (Vec<Duration>, f64) {
    let outcomes: Vec<ChannelOutcome> = (1..=seeds).map(|seed| transfer(path, seed, tail_copies)).collect();
    let mut times: Vec<Duration> =
        outcomes.iter().map(|outcome| outcome.finished.expect("finished") - SECOND).collect();
    times.sort();
    let copied: u64 = outcomes.iter().map(|outcome| outcome.stats.bytes_copied.as_u64()).sum();
    (times, copied as f64 / (seeds * BYTES) as f64)
}

fn quantile(times: &[Duration], percent: usize) -> Duration {
    times[((times.len() * percent).div_ceil(100)).clamp(1, times.len()) - 1]
}

fn mean(times: &[Duration]) -> Duration {
    times.iter().sum::<Duration>() / times.len() as u32
}

fn path(mbps: u64, rtt_ms: u32, loss: f64, burst: f64) -> PathSpec {
    PathSpec::new(BitRate::from_mbps(mbps), rtt_ms * MS, 1.0).loss(loss, burst)
}

#[test]
fn copies_of_the_end_help_on_a_long_lossy_path_and_stay_within_their_share() {
    let lossy = path(100, 100, 2.0, 1.0);
    let (without, none) = transfers(&lossy, 40, false);
    let (with, share) = transfers(&lossy, 40, true);
    assert!(none == 0.0 && share > 0.001 && share <= 0.0205, "{:.2} % of the bytes were copies", share * 100.0);
    assert!(mean(&with) < mean(&without), "{:?} with copies, {:?} without", mean(&with), mean(&without));
    assert!(quantile(&with, 50) <= quantile(&without, 50) + 2 * MS);
}

#[test]
fn a_clean_path_and_a_short_one_see_no_copies() {
    for path in [path(100, 100, 0.0, 1.0), path(100, 100, 0.01, 1.0), path(100, 10, 2.0, 1.0)] {
        assert_eq!(transfers(&path, 5, true).1, 0.0, "{}", path.name);
    }
}

#[test]
#[ignore = "a table for people"]
fn tail_table() {
    println!("{BYTES} bytes: completion without / with copies of the end");
    println!("| Mbps | RTT ms | loss % | burst | mean ms | median ms | p90 ms | p99 ms | copied % |");
    println!("|---|---|---|---|---|---|---|---|---|");
    for mbps in [20, 100] {
        for (loss, burst) in [(0.1, 1.0), (1.0, 1.0), (2.0, 1.0), (5.0, 1.0), (2.0, 4.0)] {
            let path = path(mbps, 100, loss, burst);
            let (without, _) = transfers(&path, 200, false);
            let (with, share) = transfers(&path, 200, true);
            let pair = |of: &dyn Fn(&[Duration]) -> Duration| {
                format!("{} / {}", of(&without).as_millis(), of(&with).as_millis())
            };
            println!(
                "| {mbps} | 100 | {loss} | {burst} | {} | {} | {} | {} | {:.2} |",
                pair(&mean),
                pair(&|times| quantile(times, 50)),
                pair(&|times| quantile(times, 90)),
                pair(&|times| quantile(times, 99)),
                share * 100.0
            );
        }
    }
}
