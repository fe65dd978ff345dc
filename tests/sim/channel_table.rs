//! The channel alone, as tables: the five links of the report, and the matrix rate x RTT x loss x jitter.
//!
//! `cargo test --release --test sim -- --ignored channel_table --nocapture`, with
//! `SIM_TABLE` = `links` (default), `matrix` or `links,matrix`; `SIM_LINK` = names of links;
//! `SIM_RATE` (Mbps), `SIM_RTT` (ms), `SIM_LOSS` (per cent), `SIM_JITTER` (ms, or per cent of the RTT as `30%`; with `r` behind it, packets overtake) = the
//! values of the matrix, comma-separated; `SIM_BURST` = mean length of a loss burst; `SIM_QUEUE` = queue in BDP;
//! `SIM_SECONDS`, `SIM_SETTLE`, `SIM_STREAMS`, `SIM_BACK` (streams from B to A), `SIM_SEED`;
//! `SIM_OPENS_AT` = milliseconds that the channel idles first, `SIM_GREETING` = that it then
//! carries a few bytes only, as while a flow is opened; `SIM_OPERATOR_RATE` (Mbps) = the operator's cap, or with
//! `SIM_RATE_MODE=fixed` the pace; `SIM_CHANGE` = `seconds:Mbps` of changes of the line's rate;
//! `SIM_LOAD` = `none`, `light` or `heavy`: how busy the machines are; `SIM_TRACE` = a line of gauges every so many milliseconds;
//! `SIM_JSON=1` = each cell as a line of JSON instead (times in seconds, sizes in bytes, shares of one), which is what
//! `scripts/bench matrix` reads.

use std::time::{Duration, Instant as WallInstant};

use longhaul::rate::RateMode;
use longhaul::units::{BitRate, ByteCount};
use longhaul::wan::Jitter;
use serde_json::json;

use crate::channel::{ChannelOutcome, ChannelRun, run};
use crate::machine::Load;
use crate::path::PathSpec;
use crate::settings;

#[test]
#[ignore = "prints tables for the engineer; the snapshot tests assert"]
fn channel_table() {
    let tables: Vec<String> = settings::list("SIM_TABLE", &["links".to_owned()]);
    if tables.iter().any(|name| name == "links") {
        let names: Vec<String> = settings::list("SIM_LINK", &[]);
        let wanted = |path: &PathSpec| names.is_empty() || names.contains(&path.name);
        print_table("the five links of the report", PathSpec::report().into_iter().filter(wanted));
    }
    if tables.iter().any(|name| name == "matrix") {
        print_table("rate x RTT x loss x jitter", matrix().into_iter());
    }
}

/// The cells the environment asks for.
fn matrix() -> Vec<PathSpec> {
    let rates = settings::list("SIM_RATE", &[100u64, 1000]);
    let rtts = settings::list("SIM_RTT", &[1.0f64, 5.0, 12.0, 25.0, 50.0, 100.0, 150.0, 300.0]);
    let losses = settings::list("SIM_LOSS", &[0.0f64, 0.001, 0.01, 0.1, 1.0, 3.0, 5.0]);
    let jitters: Vec<String> = settings::list("SIM_JITTER", &["0".to_owned(), "3".to_owned(), "30%".to_owned()]);
    let queue = settings::value("SIM_QUEUE", 1.0f64);
    let burst = settings::value("SIM_BURST", 1.0f64);
    let mut cells = Vec::new();
    for rate in &rates {
        for rtt in &rtts {
            for jitter in &jitters {
                let (amount, shape) = match jitter.strip_suffix('r') {
                    Some(amount) => (amount, Jitter::reordering as fn(Duration) -> Jitter),
                    None => (jitter.as_str(), Jitter::ordered as fn(Duration) -> Jitter),
                };
                let jitter_ms = match amount.strip_suffix('%') {
                    Some(share) => rtt * share.parse::<f64>().expect("SIM_JITTER: a number before %") / 100.0,
                    None => amount.parse().expect("SIM_JITTER: milliseconds"),
                };
                for loss in &losses {
                    let name = format!("{rate} Mbps {rtt} ms {loss} % jitter {jitter}");
                    let ms = |ms: f64| Duration::from_secs_f64(ms / 1e3);
                    let path = PathSpec::new(BitRate::from_mbps(*rate), ms(*rtt), queue);
                    cells.push(path.loss(*loss, burst).jitter(shape(ms(jitter_ms))).named(&name));
                }
            }
        }
    }
    cells
}

fn print_table(title: &str, cells: impl Iterator<Item = PathSpec>) {
    println!("\n{title}\n");
    let columns = [
        "goodput",
        "% line",
        "% ceiling",
        "back",
        "up ms",
        "to 90 % ms",
        "% of bar",
        "resent %",
        "excess %",
        "declared lost %",
        "spurious %",
        "queue mean ms",
        "standing ms",
        "queue max ms",
        "dropped",
        "backlog",
        "in flight",
        "memory % of bar",
        "steps",
        "wall s",
    ];
    let as_json = settings::value("SIM_JSON", 0) == 1;
    if !as_json {
        println!("| {:<36} | {} |", "path", columns.join(" | "));
        println!("|{:-<38}|{}", "", "---:|".repeat(columns.len()));
    }
    for path in cells {
        let run_spec = configured(path);
        let started = WallInstant::now();
        let outcome = run(&run_spec);
        match as_json {
            true => println!("{}", json_row(&run_spec, &outcome, started.elapsed())),
            false => print_row(&run_spec, &outcome, started.elapsed()),
        }
    }
}

/// Every figure of a cell.
fn json_row(spec: &ChannelRun, outcome: &ChannelOutcome, wall: Duration) -> serde_json::Value {
    let (path, stats) = (&spec.path, &outcome.stats);
    let half_way = (spec.settle + spec.duration) / 2;
    json!({
        "path": path.name,
        "goodput_bps": outcome.goodput.as_bps(),
        "goodput_second_half_bps": outcome.goodput_between(half_way, spec.duration).as_bps(),
        "ceiling_bps": outcome.ceiling.as_bps(),
        "goodput_back_bps": outcome.goodput_back.as_bps(),
        "up_s": outcome.handshake.map(|time| time.as_secs_f64()),
        "to_90_s": outcome.time_to_90.map(|time| time.as_secs_f64()),
        "to_90_bar_s": path.time_bar().as_secs_f64(),
        "loss": path.loss_share(),
        "retransmitted": outcome.retransmitted,
        "repair_bytes": stats.bytes_repair.as_u64(),
        "sent_bytes": stats.bytes_sent.as_u64(),
        "declared_lost": outcome.declared_lost,
        "spurious": outcome.spurious,
        "queue_mean_s": outcome.queue_mean.as_secs_f64(),
        "queue_standing_s": outcome.queue_standing.as_secs_f64(),
        "queue_max_s": outcome.queue_max.as_secs_f64(),
        "queue_dropped": outcome.line.queue_full,
        "backlog_max_bytes": outcome.backlog_max.as_u64(),
        "in_flight_max_bytes": outcome.in_flight_max.as_u64(),
        "memory_max_bytes": outcome.memory_max.as_u64(),
        "memory_bar_bytes": path.memory_bar().as_u64(),
        "steps": outcome.steps,
        "wall_s": wall.as_secs_f64(),
    })
}

fn configured(path: PathSpec) -> ChannelRun {
    let mut spec = ChannelRun::new(path, settings::value("SIM_SEED", 1));
    spec.duration = Duration::from_secs_f64(settings::value("SIM_SECONDS", 10.0));
    spec.settle = Duration::from_secs_f64(settings::value("SIM_SETTLE", 5.0));
    spec.streams = settings::value("SIM_STREAMS", 1);
    spec.streams_back = settings::value("SIM_BACK", 0);
    spec.opens_at = Duration::from_millis(settings::value("SIM_OPENS_AT", 0));
    spec.greeting = Duration::from_millis(settings::value("SIM_GREETING", 0));
    let operator_rate: Vec<u64> = settings::list("SIM_OPERATOR_RATE", &[]);
    let operator_rate = operator_rate.first().copied().map(BitRate::from_mbps);
    spec.rate = match settings::value("SIM_RATE_MODE", "fair".to_owned()).as_str() {
        "fixed" => RateMode::Fixed { rate: operator_rate.expect("SIM_OPERATOR_RATE") },
        _ => RateMode::Fair { cap: operator_rate },
    };
    spec.rate_changes = settings::list::<String>("SIM_CHANGE", &[])
        .iter()
        .map(|change| {
            let (at, mbps) = change.split_once(':').expect("SIM_CHANGE: seconds:Mbps");
            let at = Duration::from_secs_f64(at.parse().expect("SIM_CHANGE: seconds"));
            (at, BitRate::from_mbps(mbps.parse().expect("SIM_CHANGE: Mbps")))
        })
        .collect();
    spec.load = Load::named(&settings::value("SIM_LOAD", "none".to_owned()));
    let trace: Vec<u64> = settings::list("SIM_TRACE", &[]);
    spec.trace = trace.first().copied().map(Duration::from_millis);
    spec
}

fn print_row(spec: &ChannelRun, outcome: &ChannelOutcome, wall: Duration) {
    let path = &spec.path;
    let of = |part: BitRate, whole: BitRate| 100.0 * part.as_bps() as f64 / whole.as_bps() as f64;
    let of_bytes = |part: ByteCount, whole: ByteCount| 100.0 * part.as_u64() as f64 / whole.as_u64() as f64;
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let optional = |time: Option<Duration>| time.map_or("never".to_owned(), |time| format!("{:.0}", ms(time)));
    let cells = [
        outcome.goodput.to_string(),
        format!("{:.1}", of(outcome.goodput, path.rate())),
        format!("{:.1}", of(outcome.goodput, outcome.ceiling)),
        outcome.goodput_back.to_string(),
        optional(outcome.handshake),
        optional(outcome.time_to_90),
        outcome
            .time_to_90
            .map_or("-".to_owned(), |time| format!("{:.0}", 100.0 * time.div_duration_f64(path.time_bar()))),
        format!("{:.3}", outcome.retransmitted * 100.0),
        format!("{:.3}", (outcome.retransmitted - path.loss_share()) * 100.0),
        format!("{:.3}", outcome.declared_lost * 100.0),
        format!("{:.4}", outcome.spurious * 100.0),
        format!("{:.2}", ms(outcome.queue_mean)),
        format!("{:.2}", ms(outcome.queue_standing)),
        format!("{:.2}", ms(outcome.queue_max)),
        outcome.line.queue_full.to_string(),
        outcome.backlog_max.to_string(),
        outcome.in_flight_max.to_string(),
        format!("{:.0}", of_bytes(outcome.memory_max, path.memory_bar())),
        outcome.steps.to_string(),
        format!("{:.1}", wall.as_secs_f64()),
    ];
    println!("| {:<36} | {} |", path.name, cells.join(" | "));
}
