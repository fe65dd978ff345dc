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

    /// Notes one step of the run at `now`.
    ///
    /// # Errors
    /// When time has not moved for too many steps.
    pub fn step(&mut self, now: Instant) -> Result<(), String> {
        assert!(now >= self.now, "time went backwards: {now:?} after {:?}", self.now);
        if now > self.now {
            (self.now, self.steps) = (now, 0);
        }
        self.steps += 1;
        if self.steps > STEPS_AT_ONE_MOMENT_MAX { Err(format!("busy loop at {now:?}")) } else { Ok(()) }
    }

    /// Notes the bytes delivered so far; `idle` when none are to be expected (path down, nothing to send, done).
    ///
    /// # Errors
    /// When bytes were to be expected and none came for the guard's patience.
    pub fn bytes(&mut self, now: Instant, bytes: u64, idle: bool) -> Result<(), String> {
        if bytes != self.bytes || idle {
            (self.bytes, self.since) = (bytes, now);
        }
        let stalled = now - self.since;
        if stalled > self.patience {
            return Err(format!("no byte for {stalled:?} at {now:?} ({bytes} so far)"));
        }
        Ok(())
    }
}

#[test]
fn a_deadline_that_stays_in_the_past_is_a_busy_loop() {
    let mut progress = Progress::new(Instant::ZERO, Duration::from_secs(1));
    let steps = (0..STEPS_AT_ONE_MOMENT_MAX + 1).map(|_| progress.step(Instant::from_millis(1)));
    assert!(steps.last().expect("some").is_err());
    assert!(progress.step(Instant::from_millis(2)).is_ok());
}

#[test]
fn bytes_that_rest_too_long_are_a_stall_but_an_idle_run_is_not() {
    let mut progress = Progress::new(Instant::ZERO, Duration::from_secs(1));
    for millis in 0..5_000 {
        assert!(progress.bytes(Instant::from_millis(millis), 5, millis < 3_000).is_ok() == (millis < 4_000));
    }
}
