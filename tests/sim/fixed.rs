//! The operator's rate over paths that lose, delay, die, or carry less than it.

use std::time::Duration;

use longhaul::rate::RateMode;
use longhaul::units::{BitRate, ByteCount};

use crate::channel::{ChannelRun, run};
use crate::path::PathSpec;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const PACE: BitRate = BitRate::from_mbps(100);
/// Carries the pace: the line counts Ethernet headers too.
const LINE: BitRate = BitRate::from_mbps(102);

fn fixed(path: PathSpec, rate: BitRate) -> ChannelRun {
    let mut spec = ChannelRun::new(path, 1);
    spec.rate = RateMode::Fixed { rate };
    spec
}

fn share(part: BitRate, whole: BitRate) -> f64 {
    part.as_bps() as f64 / whole.as_bps() as f64
}

#[test]
fn neither_loss_nor_delay_slows_the_pace() {
    let paths = [
        PathSpec::new(LINE, 20 * MS, 1.0).loss(5.0, 1.0),
        PathSpec::new(LINE, 20 * MS, 1.0).loss(5.0, 8.0),
        PathSpec::new(LINE, 150 * MS, 1.0).loss(5.0, 1.0),
    ];
    for path in paths {
        let spec = fixed(path, PACE);
        let outcome = run(&spec);
        let name = &spec.path.name;
        let up = outcome.handshake.expect("up");
        let sent = BitRate::from_transfer(outcome.stats.bytes_sent, spec.duration - up);
        assert!((0.97..1.005).contains(&share(sent, PACE)), "{name}: {sent}");
        assert_eq!(outcome.stats.pacing_rate, PACE);
        let arrives = PACE.percent(96).as_bps() as f64 * (1.0 - spec.path.loss_share());
        let arrived = outcome.goodput.as_bps() as f64 / arrives;
        assert!(arrived > 0.97, "{name}: {} is {arrived:.3} of what the path leaves", outcome.goodput);
        let ready = outcome.time_to_90.expect("90 %");
        assert!(ready <= 10 * spec.path.rtt + 100 * MS, "{name}: {ready:?}");
        assert!(outcome.queue_mean < 3 * MS, "{name}: nothing is probed, yet a queue of {:?}", outcome.queue_mean);
    }
}

#[test]
fn a_rate_above_the_line_s_neither_runs_away_nor_stalls() {
    // A buffer of one BDP, which drops, and one of four seconds, which only delays.
    for buffer_bdps in [1.0, 200.0] {
        let mut spec = fixed(PathSpec::new(PACE, 20 * MS, buffer_bdps), PACE * 2);
        (spec.bytes, spec.duration) = (Some(30_000_000), 10 * SECOND);
        let outcome = run(&spec);
        let took = outcome.finished.expect("finished");
        assert!(took < 4 * SECOND, "{buffer_bdps}: {took:?} for 2.6 s of line time");
        assert_eq!(outcome.line.queue_full > 0, buffer_bdps == 1.0, "{:?}", outcome.line);
        // Two RTTs, each longer by the queue, but by no more than half a second.
        let queue = (20 * MS).mul_f64(buffer_bdps).min(500 * MS);
        let bound = (PACE * 2).bytes_in(2 * (spec.path.rtt + queue) + 20 * MS) + ByteCount::new(100_000);
        assert!(outcome.in_flight_max < bound, "{buffer_bdps}: {} in flight, {bound} allowed", outcome.in_flight_max);
        (spec.bytes, spec.duration) = (None, 5 * SECOND);
        let outcome = run(&spec);
        let believed = share(outcome.stats.delivery_rate, PACE);
        assert!((0.85..1.15).contains(&believed), "{buffer_bdps}: {believed} of the line's rate are believed in");
        assert!(outcome.queue_max < 3 * SECOND, "{buffer_bdps}: a queue of {:?}", outcome.queue_max);
    }
}

#[test]
fn an_outage_of_ten_seconds_stops_the_pace_and_ends_with_the_path_s_return() {
    let (dies, back) = (3 * SECOND, 13 * SECOND);
    let mut spec = fixed(PathSpec::new(LINE, 20 * MS, 1.0), PACE);
    (spec.outages, spec.duration) = (vec![(dies, back)], back + 3 * SECOND);
    let outcome = run(&spec);
    let resumed = back + 2 * spec.path.rtt + 200 * MS;
    let after = outcome.goodput_between(resumed, resumed + SECOND);
    assert!(share(after, outcome.ceiling) > 0.95, "{after} in the second after the outage");
    // What two RTTs hold was sent into the dead path, and then only pings.
    let alive = PACE.bytes_in(spec.duration - (back - dies));
    let wasted = outcome.stats.bytes_sent.saturating_sub(alive);
    assert!(wasted < PACE.bytes_in(100 * MS), "{wasted} sent while the path was dead");
}
