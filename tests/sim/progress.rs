//! Guards of a run: time must move on, and so must bytes.

use std::time::Duration;

use longhaul::units::Instant;

/// Steps at one moment after which a run counts as a busy loop: far more than any batch of a 10 Gbps link.
const STEPS_AT_ONE_MOMENT_MAX: u32 = 20_000;

/// Fails a run that loops without progress of time, or of bytes while the path is alive.
#[derive(Debug)]
pub struct Progress {
    now: Instant,
    steps: u32,
    bytes: u64,
    since: Instant,
    patience: Duration,
}

impl Progress {
    /// A guard that lets bytes rest for `patience` at most.
    pub fn new(now: Instant, patience: Duration) -> Self {
        Progress { now, steps: 0, bytes: 0, since: now, patience }
    }

    /// Notes one step of the run at `now`; `what` names its causes where it fails.
    ///
    /// # Panics
    /// When time has not moved for too many steps.
    pub fn on_step(&mut self, now: Instant, what: impl FnOnce() -> String) {
        assert!(now >= self.now, "time went backwards: {now:?} after {:?}", self.now);
        if now > self.now {
            (self.now, self.steps) = (now, 0);
        }
        self.steps += 1;
        assert!(self.steps <= STEPS_AT_ONE_MOMENT_MAX, "busy loop at {now:?}: {}", what());
    }

    /// Notes the bytes delivered so far; `idle` when none are to be expected (path down, nothing to send, done).
    ///
    /// # Panics
    /// When bytes were to be expected and none came for the guard's patience.
    pub fn on_bytes(&mut self, now: Instant, bytes: u64, idle: bool, what: impl FnOnce() -> String) {
        if bytes != self.bytes || idle {
            (self.bytes, self.since) = (bytes, now);
        }
        let stalled = now - self.since;
        assert!(stalled <= self.patience, "no byte for {stalled:?} at {now:?} ({bytes} so far): {}", what());
    }
}

#[test]
#[should_panic(expected = "busy loop")]
fn a_deadline_that_stays_in_the_past_is_a_busy_loop() {
    let mut progress = Progress::new(Instant::ZERO, Duration::from_secs(1));
    loop {
        progress.on_step(Instant::from_millis(1), String::new);
    }
}

#[test]
#[should_panic(expected = "no byte for")]
fn bytes_that_rest_too_long_are_a_stall() {
    let mut progress = Progress::new(Instant::ZERO, Duration::from_secs(1));
    for millis in 0..2_000 {
        progress.on_bytes(Instant::from_millis(millis), 5, false, String::new);
    }
}

#[test]
fn an_idle_run_does_not_stall() {
    let mut progress = Progress::new(Instant::ZERO, Duration::from_secs(1));
    for millis in 0..5_000 {
        progress.on_bytes(Instant::from_millis(millis), 5, millis < 4_500, String::new);
    }
}
