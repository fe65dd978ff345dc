//! What the emulator says of itself: one JSON object, and a line for people.

use std::io;
use std::path::Path;

use longhaul::wan::{Jitter, LinkConfig, Loss};
use serde::Serialize;

use crate::change::Changes;
use crate::lane::{FrameCounters, Lane, LocalDrops};
use crate::lateness::LatenessSummary;
use crate::trace::{QueueTrace, Trace};

/// Everything, both directions.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The start, seconds of CLOCK_MONOTONIC, which all namespaces of a machine share.
    pub started_monotonic_s: f64,
    /// Seconds since the start.
    pub elapsed_s: f64,
    /// CPU seconds used.
    pub cpu_s: f64,
    /// Share of one core, 0 to 1.
    pub cpu_share: f64,
    /// Sleeps that ended.
    pub wakeups: u64,
    /// The seed of all random draws.
    pub seed: u64,
    /// Changes to the path since the start.
    pub changes: Changes,
    /// From end a to end b.
    pub a_to_b: LaneReport,
    /// From end b to end a.
    pub b_to_a: LaneReport,
}

/// One direction.
#[derive(Debug, Serialize)]
pub struct LaneReport {
    /// The emulated link.
    pub link: LinkReport,
    /// Segments of MTU size, by outcome.
    pub segments: SegmentReport,
    /// Frames, a super-segment counting once.
    pub frames: FrameCounters,
    /// Losses of the emulator itself.
    pub local_drops: LocalDrops,
    /// Timer error.
    pub lateness: LatenessSummary,
    /// The queue in the course of time, where asked.
    pub trace: Option<QueueTrace>,
}

/// The emulated link's settings.
#[derive(Debug, Serialize)]
pub struct LinkReport {
    rate_bps: u64,
    delay_us: u64,
    jitter_us: u64,
    jitter_reorders: bool,
    loss_ppb: u32,
    mean_burst: f64,
    reorder_ppb: u32,
    queue_bytes: u64,
    mtu: u32,
}

/// Segments by outcome: see [`longhaul::wan::LinkStats`].
#[derive(Debug, Serialize)]
pub struct SegmentReport {
    offered: u64,
    offered_bytes: u64,
    delivered: u64,
    delivered_bytes: u64,
    lost: u64,
    queue_full: u64,
    outage: u64,
    oversize: u64,
    held_back: u64,
    queue_max_bytes: u64,
}

impl LaneReport {
    /// As of now.
    pub fn of(lane: &Lane) -> Self {
        let config = lane.link.config();
        let Jitter { amplitude, reorders } = config.jitter;
        let (loss_ppb, mean_burst) = match config.loss {
            Loss::None => (0, 1.0),
            Loss::Random(probability) => (probability.as_ppb(), 1.0),
            Loss::Bursts { average, mean_burst_milli } => (average.as_ppb(), f64::from(mean_burst_milli) / 1e3),
        };
        let stats = lane.link.stats();
        LaneReport {
            link: LinkReport {
                rate_bps: config.rate.as_bps(),
                delay_us: config.delay.as_micros() as u64,
                jitter_us: amplitude.as_micros() as u64,
                jitter_reorders: reorders,
                loss_ppb,
                mean_burst,
                reorder_ppb: config.reorder.probability.as_ppb(),
                queue_bytes: config.queue.as_u64(),
                mtu: config.mtu,
            },
            segments: SegmentReport {
                offered: stats.offered,
                offered_bytes: stats.offered_bytes.as_u64(),
                delivered: stats.delivered,
                delivered_bytes: stats.delivered_bytes.as_u64(),
                lost: stats.lost,
                queue_full: stats.queue_full,
                outage: stats.outage,
                oversize: stats.oversize,
                held_back: stats.held_back,
                queue_max_bytes: stats.queue_max.as_u64(),
            },
            frames: lane.frames,
            local_drops: lane.drops,
            lateness: lane.lateness.summary(),
            trace: lane.trace.as_ref().map(Trace::record).cloned(),
        }
    }

    fn line(&self, arrow: &str) -> String {
        let (s, l) = (&self.segments, &self.lateness);
        format!(
            "{arrow}: {} segments delivered, {} lost, {} queue full, {} outage, {} local drops; \
             late {:.0} us mean, {:.0} p50, {:.0} p99, {:.0} max",
            s.delivered,
            s.lost,
            s.queue_full,
            s.outage,
            self.local_drops.total(),
            l.mean_us,
            l.p50_us,
            l.p99_us,
            l.max_us
        )
    }
}

impl Report {
    /// Writes the JSON object to standard output and, where asked, to a file (in one step: readers see the old one or the
    /// new one), and the lines for people to standard error.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn publish(&self, file: Option<&Path>) -> io::Result<()> {
        let json = serde_json::to_string(self).expect("invariant: numbers and booleans only");
        println!("{json}");
        eprintln!("wanem: {:.1} s, {:.1} % of a core", self.elapsed_s, self.cpu_share * 100.0);
        eprintln!("wanem: {}", self.a_to_b.line("a to b"));
        eprintln!("wanem: {}", self.b_to_a.line("b to a"));
        if let Some(path) = file {
            let fresh = path.with_extension("new");
            std::fs::write(&fresh, json + "\n")?;
            std::fs::rename(&fresh, path)?;
        }
        Ok(())
    }
}

/// A link in words.
pub fn describe(link: &LinkConfig) -> String {
    format!("{}, {:?}, jitter {:?}, queue {}", link.rate, link.delay, link.jitter.amplitude, link.queue)
}
