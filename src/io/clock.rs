//! Monotonic time as the engine's [`Instant`], and a timer that keeps deadlines to the nanosecond.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::thread::clock_nanosleep_absolute;
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime, timerfd_create,
    timerfd_settime,
};

use crate::units::Instant;

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// The machine's monotonic clock (CLOCK_MONOTONIC): never set back, stands still while the machine is suspended.
///
/// An [`Instant`] of it counts from the clock's own start, so that a [`Timer`] takes it as an absolute deadline.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock;

impl Clock {
    /// The present moment.
    pub fn now(self) -> Instant {
        let now = clock_gettime(ClockId::Monotonic);
        // The monotonic clock starts at boot and is never negative.
        Instant::from_nanos(now.tv_sec as u64 * NANOS_PER_SECOND + now.tv_nsec as u64)
    }

    /// Blocks the thread until `deadline`, or until a signal comes.
    pub fn sleep_until(self, deadline: Instant) {
        // An early end by a signal is as good: the caller looks again.
        let _ = clock_nanosleep_absolute(ClockId::Monotonic, &timespec(deadline));
    }
}

fn timespec(at: Instant) -> Timespec {
    let nanos = at.as_nanos();
    Timespec {
        tv_sec: i64::try_from(nanos / NANOS_PER_SECOND).unwrap_or(i64::MAX),
        tv_nsec: (nanos % NANOS_PER_SECOND) as _,
    }
}

/// A timer descriptor (`timerfd`), readable once its deadline has passed.
///
/// The event loop's own timers count in milliseconds; pacing a datagram at 1 Gbps needs 12 microseconds.
#[derive(Debug)]
pub struct Timer {
    fd: OwnedFd,
    armed: Option<Instant>,
}

impl Timer {
    /// A timer at rest.
    ///
    /// # Errors
    /// When the system has no descriptor left.
    pub fn new() -> io::Result<Self> {
        let fd = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        Ok(Timer { fd, armed: None })
    }

    /// Fires at `deadline` (at once if it has passed), or never. Costs a system call only when the deadline changed.
    ///
    /// # Errors
    /// None are known for a valid descriptor.
    pub fn set(&mut self, deadline: Option<Instant>) -> io::Result<()> {
        if self.armed == deadline {
            return Ok(());
        }
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        // Zero would disarm it.
        let it_value = deadline.map_or(zero, |deadline| timespec(deadline.max(Instant::from_nanos(1))));
        timerfd_settime(&self.fd, TimerfdTimerFlags::ABSTIME, &Itimerspec { it_interval: zero, it_value })?;
        self.armed = deadline;
        Ok(())
    }

    /// The deadline it is set to.
    pub fn armed(&self) -> Option<Instant> {
        self.armed
    }

    /// Takes the expiry note of the descriptor, so that it is readable again only after the next deadline. Returns
    /// the deadline that passed.
    ///
    /// # Errors
    /// `WouldBlock` when it has not fired since.
    pub fn acknowledge(&mut self) -> io::Result<Option<Instant>> {
        let mut expirations = [0; 8];
        rustix::io::read(&self.fd, &mut expirations)?;
        Ok(self.armed.take())
    }
}

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::time::Duration;

    use rustix::event::{PollFd, PollFlags, poll};

    use super::*;

    fn wait(timer: &Timer, timeout: Duration) -> bool {
        let mut fds = [PollFd::new(timer, PollFlags::IN)];
        let timeout = Timespec { tv_sec: 0, tv_nsec: timeout.as_nanos() as _ };
        poll(&mut fds, Some(&timeout)).unwrap() == 1
    }

    #[test]
    fn a_timer_fires_once_and_not_before_its_deadline() {
        let mut timer = Timer::new().unwrap();
        let deadline = Clock.now() + Duration::from_micros(300);
        timer.set(Some(deadline)).unwrap();
        assert!(wait(&timer, Duration::from_millis(900)));
        assert!(Clock.now() >= deadline);
        assert_eq!(timer.acknowledge().unwrap(), Some(deadline));
        assert_eq!(timer.acknowledge().unwrap_err().kind(), ErrorKind::WouldBlock);
        assert_eq!(timer.armed(), None);
    }

    #[test]
    fn a_deadline_in_the_past_fires_at_once_and_no_deadline_never() {
        let mut timer = Timer::new().unwrap();
        timer.set(Some(Instant::ZERO)).unwrap();
        assert!(wait(&timer, Duration::from_millis(900)));
        timer.acknowledge().unwrap();
        timer.set(Some(Clock.now() + Duration::from_millis(1))).unwrap();
        timer.set(None).unwrap();
        assert!(!wait(&timer, Duration::from_millis(10)));
        timer.set(Some(Instant::from_nanos(u64::MAX))).unwrap();
        assert!(!wait(&timer, Duration::from_millis(1)));
    }

    #[test]
    fn the_clock_does_not_run_backwards() {
        let times: Vec<Instant> = (0..1000).map(|_| Clock.now()).collect();
        assert!(times.is_sorted());
        assert!(times[0] > Instant::ZERO);
    }
}
