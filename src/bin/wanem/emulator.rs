//! The loop: read, hold, release, sleep; one thread for both directions.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use longhaul::units::Instant;
use longhaul::wan::Path;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::awake::Awake;
use crate::change::{self, Changes};
use crate::end::{End, Sent};
use crate::lane::Lane;
use crate::report::{LaneReport, Report, describe};
use crate::sys;
use crate::trace::Trace;
use crate::values::Values;

/// Frames written per round, so that a backlog in one direction does not hold up the other.
const WRITE_LIMIT: usize = 64;

/// Pause between reads at most. Where arrivals carry their own moments, a pause shorter than the path's delay costs no
/// accuracy, and it saves a wake-up for each single frame.
const READ_PAUSE_MAX: Duration = Duration::from_millis(1);

/// A full send buffer is tried again after this.
const SEND_PAUSE: Duration = Duration::from_micros(50);

/// What an emulator does besides carrying frames.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Where reports go, besides standard output.
    pub stats_file: Option<PathBuf>,
    /// What is read at a SIGUSR2.
    pub changes_file: Option<PathBuf>,
    /// Length of a bin in which the queues are recorded.
    pub trace: Option<Duration>,
    /// For the report only; the path has drawn from it.
    pub seed: u64,
}

/// Two interfaces and the path between them.
#[derive(Debug)]
pub struct Emulator {
    /// Ends a and b.
    ends: [End; 2],
    /// From a, and from b.
    lanes: [Lane; 2],
    batches: [Vec<Vec<u8>>; 2],
    read_pause: Duration,
    last_wait: Duration,
    awake: Awake,
    signals: OwnedFd,
    settings: Settings,
    changes: Changes,
    started: Instant,
    wakeups: u64,
}

impl Emulator {
    /// An emulator at rest; `path`'s clock is that of [`sys::now`].
    pub fn new(ends: [End; 2], path: Path, signals: OwnedFd, settings: Settings) -> Self {
        let started = sys::now();
        let mut lanes = path.into_links().map(Lane::new);
        for lane in &mut lanes {
            lane.trace = settings.trace.map(|bin| Trace::new(bin, started));
        }
        Emulator {
            read_pause: read_pause(&ends, &lanes),
            ends,
            lanes,
            batches: Default::default(),
            last_wait: Duration::MAX,
            awake: Awake::new(sys::now()),
            signals,
            settings,
            changes: Changes::default(),
            started,
            wakeups: 0,
        }
    }

    /// Carries frames until SIGTERM or SIGINT; reports then, on SIGUSR1, and when SIGUSR2 has changed the path.
    ///
    /// # Errors
    /// When an interface is gone or the statistics file cannot be written.
    pub fn run(&mut self) -> io::Result<()> {
        loop {
            for from in [0, 1] {
                self.read(from)?;
            }
            let mut blocked = false;
            for from in [0, 1] {
                blocked |= self.release(from);
            }
            if self.sleep(blocked)? && !self.handle_signals()? {
                return Ok(());
            }
        }
    }

    fn read(&mut self, from: usize) -> io::Result<()> {
        let lane = &mut self.lanes[from];
        let received = self.ends[from].receive(|arrival, frame| lane.accept(arrival, frame))?;
        lane.drops.malformed += received.too_long;
        Ok(())
    }

    /// Writes what is due; whether the interface wants a pause.
    fn release(&mut self, from: usize) -> bool {
        let lane = &mut self.lanes[from];
        let batch = &mut self.batches[from];
        let now = sys::now();
        while batch.len() < WRITE_LIMIT
            && let Some((due, frame)) = lane.poll_due(now)
        {
            lane.lateness.record(now.saturating_since(due).as_nanos() as u64);
            batch.push(frame);
        }
        if batch.is_empty() {
            return false;
        }
        let Sent { taken, refused } = self.ends[1 - from].send(batch);
        batch.drain(..taken);
        lane.frames.sent += taken as u64 - refused;
        lane.drops.send_refused += refused;
        !batch.is_empty()
    }

    /// Sleeps until a frame is due or something arrives; whether there is a signal to handle.
    fn sleep(&mut self, blocked: bool) -> io::Result<bool> {
        let now = sys::now();
        let due = self.lanes.iter().filter_map(Lane::next_due).min();
        let until_due = if blocked { Some(SEND_PAUSE) } else { due.map(|due| due.saturating_since(now)) };
        if until_due == Some(Duration::ZERO) {
            return Ok(false);
        }
        // Where frames come thick, first a pause in which they may gather.
        let pause = if self.last_wait < self.read_pause { self.read_pause } else { Duration::ZERO };
        let pause = until_due.map_or(pause, |until| until.min(pause));
        let mut timeout = (pause > Duration::ZERO).then_some(pause).or(until_due);
        if let Some(until_due) = until_due.filter(|&until| timeout == Some(until))
            && let Some(lead) = self.awake.lead(now)
        {
            if until_due <= lead {
                self.awake.wait_until(now + until_due);
                return Ok(false);
            }
            timeout = Some(until_due - lead);
        }
        let signalled = self.wait(timeout, pause == Duration::ZERO)?;
        self.last_wait = sys::now().saturating_since(now);
        if let Some(late) = timeout.and_then(|timeout| self.last_wait.checked_sub(timeout)) {
            self.awake.on_woken(late);
        }
        Ok(signalled)
    }

    /// Waits for a signal, and for frames where asked; whether there is a signal.
    fn wait(&mut self, timeout: Option<Duration>, for_frames: bool) -> io::Result<bool> {
        let timeout = timeout
            .map(|timeout| Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: i64::from(timeout.subsec_nanos()) });
        let [a, b] = &self.ends;
        let mut fds =
            [self.signals.as_fd(), a.as_fd(), b.as_fd()].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        let watched = if for_frames { &mut fds[..] } else { &mut fds[..1] };
        match poll(watched, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        self.wakeups += 1;
        Ok(fds[0].revents().contains(PollFlags::IN))
    }

    /// Whether to go on.
    fn handle_signals(&mut self) -> io::Result<bool> {
        while let Some(signal) = sys::next_signal(self.signals.as_fd()) {
            if signal == libc::SIGUSR2 {
                self.change();
            }
            self.report().publish(self.settings.stats_file.as_deref())?;
            if ![libc::SIGUSR1, libc::SIGUSR2].contains(&signal) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Does what the file of changes says, and tells what became of it.
    fn change(&mut self) {
        let path = self.settings.changes_file.as_deref();
        let wanted = path.ok_or_else(|| "started without --changes FILE".to_owned()).and_then(change::read);
        match wanted.and_then(|values| self.apply(&values)) {
            Ok(()) => {
                let at = sys::now().saturating_since(self.started).as_secs_f64();
                self.changes.applied += 1;
                self.changes.last_s = Some(at);
                self.changes.refusal = None;
                let [ab, ba] = self.lanes.each_ref().map(|lane| describe(lane.link.config()));
                eprintln!("wanem: changed at {at:.3} s; a to b {ab}; b to a {ba}");
            }
            Err(refusal) => {
                eprintln!("wanem: change refused: {refusal}");
                self.changes.refused += 1;
                self.changes.refusal = Some(refusal);
            }
        }
    }

    fn apply(&mut self, values: &Values) -> Result<(), String> {
        let [ab, ba] = values.directed();
        let configs = [ab.applied_to(self.lanes[0].link.config()), ba.applied_to(self.lanes[1].link.config())];
        // Both or none.
        for config in &configs {
            config.check().map_err(|error| error.to_string())?;
        }
        for (lane, config) in self.lanes.iter_mut().zip(configs) {
            lane.link.reconfigure(config).map_err(|error| error.to_string())?;
        }
        self.read_pause = read_pause(&self.ends, &self.lanes);
        Ok(())
    }

    fn report(&mut self) -> Report {
        for from in [0, 1] {
            self.lanes[from].drops.kernel_receive = self.ends[from].kernel_drops();
        }
        let elapsed_s = sys::now().saturating_since(self.started).as_secs_f64();
        let cpu_s = sys::cpu_seconds();
        Report {
            started_monotonic_s: self.started.saturating_since(Instant::ZERO).as_secs_f64(),
            elapsed_s,
            cpu_s,
            cpu_share: cpu_s / elapsed_s.max(1e-9),
            wakeups: self.wakeups,
            seed: self.settings.seed,
            changes: self.changes.clone(),
            a_to_b: LaneReport::of(&self.lanes[0]),
            b_to_a: LaneReport::of(&self.lanes[1]),
        }
    }
}

/// A quarter of the shortest way: that leaves the schedule untouched even when the pause ends late.
fn read_pause(ends: &[End; 2], lanes: &[Lane; 2]) -> Duration {
    let shortest = lanes.iter().map(|lane| {
        let config = lane.link.config();
        config.delay.saturating_sub(config.jitter.amplitude)
    });
    let stamped = ends.iter().all(End::stamps_arrivals);
    shortest.min().filter(|_| stamped).map_or(Duration::ZERO, |delay| (delay / 4).min(READ_PAUSE_MAX))
}
