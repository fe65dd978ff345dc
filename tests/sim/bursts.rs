//! How long bursts take on long and lossy paths: without protection of their ends, with copies, with repair symbols.
//!
//! A session carries a bulk, rests, carries a burst, rests, and so on, as a migration's rounds do. The share that
//! protection may cost is of all bytes; the time is that of the burst alone, from its writing until all of it was read.
//!
//! The table `bursts.snap.md` is a bar: a cell fails when it gets slower than recorded by more than the slack below.
//! `SIM_SNAPSHOT=write cargo test --test sim bursts` records anew. `cargo test --release --test sim -- --ignored --nocapture
//! bursts_table` prints it over more bursts (`SIM_BURSTS`, 100).

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use longhaul::units::BitRate;

use crate::channel::{ChannelOutcome, ChannelRun, run};
use crate::identity::End;
use crate::path::PathSpec;

const MS: Duration = Duration::from_millis(1);

/// When how much is written.
#[derive(Clone, Copy, Debug)]
pub struct Bursts {
    /// Bytes before each burst, a rest earlier.
    pub bulk: u64,
    /// Bytes of each burst.
    pub burst: u64,
    /// From each to the next.
    pub rest: Duration,
    /// How many of both.
    pub cycles: u32,
}

impl Bursts {
    /// When something is to be written.
    pub fn times(self) -> impl Iterator<Item = Duration> {
        (1..=2 * self.cycles).map(move |step| self.rest * step)
    }

    /// Bytes to be written by this time.
    pub fn written_by(self, at: Duration) -> u64 {
        let steps = (at.as_nanos() / self.rest.as_nanos()) as u64;
        let steps = steps.min(2 * u64::from(self.cycles));
        steps.div_ceil(2) * self.bulk + steps / 2 * self.burst
    }

    fn bytes(self) -> u64 {
        u64::from(self.cycles) * (self.bulk + self.burst)
    }

    /// How long each burst took, ascending.
    fn completions(self, outcome: &ChannelOutcome) -> Vec<Duration> {
        let completion = |cycle: u32| {
            let begin = self.rest * (2 * cycle + 2);
            let bytes = (u64::from(cycle) + 1) * (self.bulk + self.burst);
            let read = outcome.reads.partition_point(|(_, consumed)| *consumed < bytes);
            outcome.reads[read].0 - begin
        };
        // The first ones still find out what the path loses.
        let mut all: Vec<Duration> = (self.cycles / 10..self.cycles).map(completion).collect();
        all.sort();
        all
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protection {
    None,
    Copies,
    Symbols,
}

/// In the order of the table's columns.
const PROTECTIONS: [Protection; 3] = [Protection::None, Protection::Copies, Protection::Symbols];

fn bursts(path: &PathSpec, bursts: Bursts, protection: Protection, seed: u64) -> ChannelOutcome {
    let mut spec = ChannelRun::new(path.clone(), seed);
    spec.tail_copies = protection != Protection::None;
    spec.repair_symbols = [protection == Protection::Symbols; 2];
    run(&of_bursts(spec, bursts))
}

fn of_bursts(mut spec: ChannelRun, bursts: Bursts) -> ChannelRun {
    (spec.bursts, spec.bytes) = (Some(bursts), Some(bursts.bytes()));
    (spec.duration, spec.patience) = (bursts.rest * (2 * bursts.cycles + 10), bursts.rest * 10);
    spec
}

fn quantile(times: &[Duration], percent: usize) -> Duration {
    times[((times.len() * percent).div_ceil(100)).clamp(1, times.len()) - 1]
}

fn path(rtt_ms: u32, loss: f64) -> PathSpec {
    PathSpec::new(BitRate::from_mbps(100), rtt_ms * MS, 1.0).loss(loss, 1.0)
}

fn with(burst: u64, cycles: u32) -> Bursts {
    Bursts { bulk: 1 << 20, burst, rest: 2000 * MS, cycles }
}

/// Symbols and copies, as a share of all stream bytes and symbols that left, in per cent.
fn extra(outcome: &ChannelOutcome, bursts: Bursts) -> f64 {
    let stats = &outcome.stats;
    let [symbols, copies, again] =
        [stats.bytes_repair, stats.bytes_copied, stats.bytes_retransmitted].map(|bytes| bytes.as_u64());
    (symbols + copies) as f64 * 100.0 / (bursts.bytes() + again + symbols) as f64
}

const SNAPSHOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sim/bursts.snap.md");
/// How much longer than recorded a burst may take: so many per cent, and this.
const SLACK: (f64, f64) = (15.0, 3.0);
/// Of all bytes, in per cent.
const EXTRA_MAX: f64 = 2.0;
/// Bursts of a cell in the tests; where nothing is lost, fewer.
const CYCLES: u32 = 12;
const CYCLES_CLEAN: u32 = 3;

/// One protection in one cell: p50, p90 and p99 in ms, and what it costs in per cent.
type Figures = [f64; 4];

/// A row: a cell with all protections.
#[derive(PartialEq, Debug)]
struct Row {
    name: String,
    of: [Figures; PROTECTIONS.len()],
}

impl Row {
    fn measure(burst_kib: u64, rtt_ms: u32, loss: f64, cycles: u32) -> Row {
        let spec = with(burst_kib << 10, cycles);
        let name = format!("{burst_kib} KiB, {rtt_ms} ms, {loss} %");
        let of = PROTECTIONS.map(|protection| {
            let outcome = bursts(&path(rtt_ms, loss), spec, protection, 1);
            let times = spec.completions(&outcome);
            let [p50, p90, p99] = [50, 90, 99].map(|percent| quantile(&times, percent).as_secs_f64() * 1e3);
            if loss == 0.0 {
                assert_eq!(outcome.stats.repair_symbols, 0, "{name}: nothing is lost");
            }
            let extra = extra(&outcome, spec);
            assert!(extra <= EXTRA_MAX, "{name}: {protection:?} cost {extra:.2} %");
            [p50, p90, p99, extra]
        });
        Row { name, of }
    }

    fn print(&self) -> String {
        let mut row = format!("| {}", self.name);
        for [p50, p90, p99, extra] in &self.of {
            let _ = write!(row, " | {p50:.0} | {p90:.0} | {p99:.0} | {extra:.2}");
        }
        row + " |"
    }

    fn parse(row: &str) -> Option<Row> {
        let mut columns = row.strip_prefix('|')?.split('|').map(str::trim);
        let name = columns.next()?.to_owned();
        let mut next = || columns.next()?.parse().ok();
        let mut figures = || Some([next()?, next()?, next()?, next()?]);
        Some(Row { name, of: [figures()?, figures()?, figures()?] })
    }

    /// What is slower with symbols than recorded. So few bursts of a cell do not tell symbols from copies: all cells do.
    fn worse_than(&self, recorded: &Row) -> Vec<String> {
        let [.., symbols] = &self.of;
        let [.., before] = &recorded.of;
        let mut worse = Vec::new();
        for (at, name) in ["p50", "p90", "p99"].into_iter().enumerate() {
            let most = |than: f64| than * (1.0 + SLACK.0 / 100.0) + SLACK.1;
            if symbols[at] > most(before[at]) {
                worse.push(format!("{}: {name} {:.0} ms, recorded {:.0}", self.name, symbols[at], before[at]));
            }
        }
        worse
    }
}

fn table(rtts_ms: &[u32], losses: &[f64], cycles: impl Fn(f64) -> u32) -> (Vec<Row>, String) {
    let mut text = "Bursts after a rest of 2 s, 1 MiB of bulk another 2 s before each; 100 Mbps, on virtual time. How long a burst took in \
                    ms (p50, p90, p99) and what protection cost in % of all bytes: without, with copies of its end, and with \
                    repair symbols and copies. Written by `SIM_SNAPSHOT=write cargo test --test sim bursts`.\n\n\
                    | burst, RTT, loss | none p50 | p90 | p99 | % | copies p50 | p90 | p99 | % | symbols p50 | p90 | p99 | % |\n\
                    |---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n"
        .to_owned();
    let mut rows = Vec::new();
    for burst_kib in [16, 64, 256] {
        for &rtt_ms in rtts_ms {
            for &loss in losses {
                rows.push(Row::measure(burst_kib, rtt_ms, loss, cycles(loss)));
                rows.iter().last().into_iter().for_each(|row| text += &(row.print() + "\n"));
            }
        }
    }
    (rows, text)
}

#[test]
fn no_burst_is_slower_than_recorded_and_protection_costs_two_per_cent_at_most() {
    let (rows, text) = table(&[25, 100, 300], &[0.0, 1.0, 3.0], |loss| if loss > 0.0 { CYCLES } else { CYCLES_CLEAN });
    println!("{text}");
    for at in 0..3 {
        let all = |protection: usize| rows.iter().map(|row| row.of[protection][at]).sum::<f64>();
        let [none, copies, symbols] = [0, 1, 2].map(all);
        assert!(symbols < copies && symbols < none, "column {at}: {none:.0}, {copies:.0}, {symbols:.0} ms in all");
    }
    let path = Path::new(SNAPSHOT);
    if std::env::var("SIM_SNAPSHOT").is_ok_and(|value| value == "write") {
        std::fs::write(path, &text).expect("the table can be written");
        return;
    }
    let recorded = std::fs::read_to_string(path).expect("a table; SIM_SNAPSHOT=write makes it");
    let recorded: Vec<Row> = recorded.lines().filter_map(Row::parse).collect();
    let names = |rows: &[Row]| rows.iter().map(|row| row.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&recorded), names(&rows), "other cells; SIM_SNAPSHOT=write records them");
    let worse: Vec<String> = rows.iter().zip(&recorded).flat_map(|(now, then)| now.worse_than(then)).collect();
    assert!(worse.is_empty(), "slower:\n{}", worse.join("\n"));
}

#[test]
fn a_slower_burst_is_found_and_the_table_is_read_as_it_is_written() {
    let row = |p90| Row {
        name: "64 KiB, 100 ms, 1 %".to_owned(),
        of: [[58.0, 157.0, 168.0, 0.0], [58.0, 158.0, 170.0, 1.41], [58.0, p90, 158.0, 2.0]],
    };
    assert_eq!(Row::parse(&row(65.0).print()), Some(row(65.0)));
    assert_eq!(row(75.0).worse_than(&row(65.0)), Vec::<String>::new());
    assert_eq!(row(80.0).worse_than(&row(65.0)).len(), 1, "than recorded");
}

#[test]
fn repair_symbols_save_a_round_trip_where_copies_do_not() {
    let (path, spec) = (path(100, 1.0), with(256 << 10, 20));
    let [plain, copied, repaired] = PROTECTIONS.map(|protection| bursts(&path, spec, protection, 1));
    let median = |outcome: &ChannelOutcome| quantile(&spec.completions(outcome), 50);
    assert!(median(&repaired) + 60 * MS < median(&copied), "{:?}, {:?}", median(&repaired), median(&copied));
    assert!(median(&repaired) + 60 * MS < median(&plain), "{:?}, {:?}", median(&repaired), median(&plain));
    assert!(repaired.stats.repair_symbols > 0 && repaired.stats_b.bytes_recovered.as_u64() > 0);
    assert_eq!((copied.stats.repair_symbols, copied.stats_b.bytes_recovered.as_u64()), (0, 0));
}

#[test]
fn a_clean_path_and_a_short_one_see_no_symbols() {
    for (rtt_ms, loss) in [(100, 0.0), (200, 0.0), (100, 0.01), (10, 1.0)] {
        let outcome = bursts(&path(rtt_ms, loss), with(64 << 10, 10), Protection::Symbols, 1);
        assert_eq!(
            (outcome.stats.repair_symbols, outcome.stats.bytes_copied.as_u64()),
            (0, 0),
            "{rtt_ms} ms, {loss} %"
        );
    }
}

#[test]
fn a_peer_that_does_not_know_of_symbols_is_sent_none_and_sends_none() {
    for of_before in End::BOTH {
        let spec = with(64 << 10, 10);
        let mut run_spec = of_bursts(ChannelRun::new(path(100, 2.0), 1), spec);
        run_spec.repair_symbols[of_before.index()] = false;
        let outcome = run(&run_spec);
        assert_eq!(outcome.per_stream, [spec.bytes()], "{of_before:?} is of before");
        for stats in [&outcome.stats, &outcome.stats_b] {
            let refused = (stats.datagrams_refused, stats.repair_symbols, stats.bytes_recovered.as_u64());
            assert_eq!(refused, (0, 0, 0), "{of_before:?} is of before");
        }
        assert!(outcome.stats.bytes_copied.as_u64() > 0, "copies need nothing of the peer");
    }
}

#[test]
#[ignore = "a table for people"]
fn bursts_table() {
    let cycles = std::env::var("SIM_BURSTS").ok().and_then(|text| text.parse().ok()).unwrap_or(100);
    println!("{}", table(&[25, 100, 300], &[0.0, 0.1, 1.0, 3.0], |_| cycles).1);
}
