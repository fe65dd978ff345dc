//! The channel alone in all weathers: cells of the matrix rate x RTT x loss x jitter, kept as a table and held to it.
//!
//! The table `weather.snap.md` is a bar, not a fingerprint: a cell fails when it gets worse than recorded by more than
//! the slack below. `SIM_SNAPSHOT=write cargo test --test sim weather` records anew. Other cells, up to the whole
//! matrix: `channel_table` with `SIM_TABLE=matrix`, and `scripts/bench matrix`.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use longhaul::units::BitRate;
use longhaul::wan::Jitter;

use crate::channel::{ChannelOutcome, ChannelRun, run};
use crate::path::PathSpec;

const SNAPSHOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sim/weather.snap.md");
/// Mean length of a burst of losses, where they come in bursts.
const BURST: f64 = 4.0;

/// A part of the matrix: all combinations of these.
struct Block {
    mbps: u64,
    rtts_ms: &'static [u64],
    /// Per cent; negative: in bursts.
    losses: &'static [f64],
    jitters: &'static [Wander],
    /// Goodput is measured from here on, in seconds, and until there.
    settle: f64,
    duration: f64,
    /// Where chance decides more than the law, the figures are means over so many runs.
    runs: u64,
}

/// How the delay varies.
#[derive(Clone, Copy)]
enum Wander {
    None,
    Ms(u64),
    PercentOfRtt(u64),
}

const CALM: &[Wander] = &[Wander::None];
const JITTER: &[Wander] = &[Wander::Ms(3), Wander::PercentOfRtt(30)];

/// What every run of the tests measures: 100 Mbps mostly, since a second there costs a tenth. The faster cells settle
/// sooner.
const BLOCKS: &[Block] = &[
    Block {
        mbps: 100,
        rtts_ms: &[1, 12, 50],
        losses: &[0.0, 1.0, -1.0],
        jitters: CALM,
        settle: 5.0,
        duration: 9.0,
        runs: 1,
    },
    Block {
        mbps: 100,
        rtts_ms: &[12, 100],
        losses: &[0.0, 1.0],
        jitters: JITTER,
        settle: 5.0,
        duration: 10.0,
        runs: 3,
    },
    Block {
        mbps: 100,
        rtts_ms: &[300],
        losses: &[0.0, 5.0, -5.0],
        jitters: CALM,
        settle: 5.0,
        duration: 11.0,
        runs: 3,
    },
    Block { mbps: 1_000, rtts_ms: &[5, 100], losses: &[0.1], jitters: CALM, settle: 2.0, duration: 3.5, runs: 1 },
    Block { mbps: 10_000, rtts_ms: &[12], losses: &[0.01], jitters: CALM, settle: 0.3, duration: 0.5, runs: 1 },
];

impl Block {
    fn rows(&self) -> impl Iterator<Item = (String, Figures)> {
        self.rtts_ms.iter().flat_map(move |&rtt| {
            self.jitters
                .iter()
                .flat_map(move |&jitter| self.losses.iter().map(move |&loss| self.row(rtt, loss, jitter)))
        })
    }

    fn row(&self, rtt_ms: u64, loss: f64, wander: Wander) -> (String, Figures) {
        let cells: Vec<ChannelRun> = (1..=self.runs).map(|seed| self.cell(seed, rtt_ms, loss, wander)).collect();
        let measure = |cell: &ChannelRun| {
            let outcome = run(cell);
            let repair = outcome.repair_share();
            let loss = cell.path.loss_share();
            let mistaken = if matches!(wander, Wander::None) { 0.0 } else { REPAIR_MISTAKEN_MAX };
            assert!(repair <= REPAIR_MAX.min(loss / 2.0 + mistaken), "{}: {repair} for repair", cell.path.name);
            Figures::of(cell, &outcome)
        };
        let figures: Vec<Figures> = cells.iter().map(measure).collect();
        (cells[0].path.name.clone(), Figures::mean(&figures))
    }

    fn cell(&self, seed: u64, rtt_ms: u64, loss: f64, wander: Wander) -> ChannelRun {
        let rtt = Duration::from_millis(rtt_ms);
        let (amplitude, jitter) = match wander {
            Wander::None => (Duration::ZERO, String::new()),
            Wander::Ms(ms) => (Duration::from_millis(ms), format!(", jitter {ms} ms")),
            Wander::PercentOfRtt(percent) => (rtt * percent as u32 / 100, format!(", jitter {percent} %")),
        };
        let (burst, bursts) = if loss < 0.0 { (BURST, " in bursts") } else { (1.0, "") };
        let name = format!("{} Mbps, {rtt_ms} ms, {} %{bursts}{jitter}", self.mbps, loss.abs());
        let path = PathSpec::new(BitRate::from_mbps(self.mbps), rtt, 1.0).loss(loss.abs(), burst);
        let mut run = ChannelRun::new(path.jitter(Jitter::ordered(amplitude)).named(&name), seed);
        run.settle = Duration::from_secs_f64(self.settle);
        run.duration = Duration::from_secs_f64(self.duration);
        run
    }
}

/// The figures of a cell, in the order of the table's columns.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Figures([f64; COLUMNS]);

const COLUMNS: usize = 6;
const HEADS: [&str; COLUMNS] = [
    "goodput, % of ceiling",
    "to 90 %, % of bar",
    "excess resent %",
    "spurious %",
    "standing queue ms",
    "memory, % of bar",
];

/// How much worse than recorded a figure may be: so many per cent of it, and this.
const SLACK: [(f64, f64); COLUMNS] = [(0.0, 1.0), (20.0, 10.0), (20.0, 0.3), (20.0, 0.02), (20.0, 1.0), (15.0, 5.0)];

/// Repair symbols take no more of a stream that goes on, and never more than half of what is lost; so nothing of one that
/// loses nothing.
const REPAIR_MAX: f64 = 0.0105;
/// But for what its queue loses before the jitter and the path's own loss are known.
const REPAIR_MISTAKEN_MAX: f64 = 0.0002;

/// The column that has reached its goal in every cell, and the goal: whatever is recorded, it is no more.
const MEMORY: (usize, f64) = (5, 100.0);

impl Figures {
    fn of(run: &ChannelRun, outcome: &ChannelOutcome) -> Figures {
        let path = &run.path;
        Figures([
            100.0 * outcome.goodput.as_bps() as f64 / outcome.ceiling.as_bps() as f64,
            100.0 * outcome.time_to_90.unwrap_or(run.duration).as_secs_f64() / path.time_bar().as_secs_f64(),
            100.0 * (outcome.retransmitted + outcome.repair_share() - path.loss_share()),
            100.0 * outcome.spurious,
            outcome.queue_standing.as_secs_f64() * 1e3,
            100.0 * outcome.memory_max.as_u64() as f64 / path.memory_bar().as_u64() as f64,
        ])
    }

    fn mean(runs: &[Figures]) -> Figures {
        Figures(std::array::from_fn(|column| {
            runs.iter().map(|figures| figures.0[column]).sum::<f64>() / runs.len() as f64
        }))
    }

    /// The columns that are worse than `recorded` allows. Goodput is better when larger, all others when smaller.
    fn worse_than(&self, recorded: &Figures) -> Vec<String> {
        let mut worse = Vec::new();
        for (column, (percent, more)) in SLACK.into_iter().enumerate() {
            let (now, then) = (self.0[column], recorded.0[column]);
            let slack = then.abs() * percent / 100.0 + more;
            let most = if column == MEMORY.0 { MEMORY.1.min(then + slack) } else { then + slack };
            if if column == 0 { now < then - slack } else { now > most } {
                worse.push(format!("{} {now:.2}, recorded {then:.2}", HEADS[column]));
            }
        }
        worse
    }

    fn print(&self) -> String {
        let [goodput, to_90, excess, spurious, queue, memory] = self.0;
        format!("{goodput:.1} | {to_90:.0} | {excess:.2} | {spurious:.3} | {queue:.1} | {memory:.0}")
    }

    fn parse(row: &str) -> Option<(String, Figures)> {
        let mut columns = row.strip_prefix('|')?.split('|').map(str::trim);
        let name = columns.next()?.to_owned();
        let figures: Vec<f64> = columns.take(COLUMNS).map(|text| text.parse().ok()).collect::<Option<_>>()?;
        Some((name, Figures(figures.try_into().ok()?)))
    }
}

#[test]
fn no_weather_is_worse_than_recorded() {
    let rows: Vec<(String, Figures)> = BLOCKS.iter().flat_map(Block::rows).collect();
    let table = print(&rows);
    println!("{table}");
    let path = Path::new(SNAPSHOT);
    if std::env::var("SIM_SNAPSHOT").is_ok_and(|value| value == "write") {
        std::fs::write(path, &table).expect("the table can be written");
        return;
    }
    let text = std::fs::read_to_string(path).expect("a table; SIM_SNAPSHOT=write makes it");
    let recorded: Vec<(String, Figures)> = text.lines().filter_map(Figures::parse).collect();
    let names = |rows: &[(String, Figures)]| rows.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&recorded), names(&rows), "other cells; SIM_SNAPSHOT=write records them");
    let worse: Vec<String> = rows
        .iter()
        .zip(&recorded)
        .flat_map(|((name, now), (_, then))| {
            now.worse_than(then).into_iter().map(move |what| format!("{name}: {what}"))
        })
        .collect();
    assert!(worse.is_empty(), "worse than recorded:\n{}", worse.join("\n"));
}

fn print(rows: &[(String, Figures)]) -> String {
    let mut table = format!(
        "The channel alone, one greedy stream, on virtual time; queue of 1 BDP, bursts of {BURST} on average; with jitter and at 300 ms\n\
         the mean of three runs.\n\
         Goodput from the fifth second (1 Gbps: from the second, 10 Gbps: from .3 s). Time to 90 %: its bar is 10 RTT + 100 ms.\n\
         Memory: stream buffers and records, their bar is 3 BDP + 8 MiB. Goals: 98, 100, 2, .1, -, 100.\n\
         Written by `SIM_SNAPSHOT=write cargo test --test sim weather`.\n\n| path | {} |\n|---|{}\n",
        HEADS.join(" | "),
        "---:|".repeat(COLUMNS),
    );
    for (name, figures) in rows {
        let _ = writeln!(table, "| {name} | {} |", figures.print());
    }
    table
}

#[test]
fn a_worse_figure_is_found_and_a_better_one_is_none() {
    let recorded = Figures([98.0, 80.0, 0.5, 0.0, 2.0, 60.0]);
    assert_eq!(Figures([98.5, 40.0, -0.1, 0.0, 0.0, 10.0]).worse_than(&recorded), Vec::<String>::new());
    assert_eq!(Figures([97.2, 100.0, 0.8, 0.01, 3.0, 70.0]).worse_than(&recorded), Vec::<String>::new());
    assert_eq!(Figures([96.9, 120.0, 1.0, 0.03, 4.0, 80.0]).worse_than(&recorded).len(), COLUMNS);
    let near = Figures([98.0, 80.0, 0.5, 0.0, 2.0, 99.0]);
    assert_eq!(near.worse_than(&near), Vec::<String>::new());
    assert_eq!(Figures([98.0, 80.0, 0.5, 0.0, 2.0, 101.0]).worse_than(&near).len(), 1, "beyond the goal");
}

#[test]
fn the_table_is_read_as_it_is_written() {
    let rows = vec![("100 Mbps, 1 ms, 0 %".to_owned(), Figures([98.1, 82.0, 0.25, 0.0, 2.5, 60.0]))];
    let read: Vec<_> = print(&rows).lines().filter_map(Figures::parse).collect();
    assert_eq!(read, rows);
}
