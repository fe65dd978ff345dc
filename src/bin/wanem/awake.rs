//! Waiting awake for the last microseconds before a deadline: sleeps end late, by how much depends on the machine.

use std::time::Duration;

use longhaul::units::Instant;

use crate::sys;

/// An idle virtual machine takes 100 us and more to wake; a busy one wakes within a few.
const LEAD_MIN: Duration = Duration::from_micros(10);

/// More is not worth it.
const LEAD_MAX: Duration = Duration::from_micros(250);

/// Waiting awake takes this part of the time at most …
const SHARE: u32 = 20;

/// … over this much saved up, after a time without any.
const SAVED_MAX: Duration = Duration::from_millis(3);

/// How long before a deadline to wake, and how much time may still be spent so.
#[derive(Clone, Copy, Debug)]
pub struct Awake {
    left: Duration,
    earned_until: Instant,
    /// By how much sleeps end late, smoothed.
    overshoot: Duration,
}

impl Awake {
    /// With everything saved up at `now`.
    pub fn new(now: Instant) -> Self {
        Awake { left: SAVED_MAX, earned_until: now, overshoot: Duration::ZERO }
    }

    /// How long before its deadline a sleep should end; `None` when the time for that is used up.
    pub fn lead(&mut self, now: Instant) -> Option<Duration> {
        let earned = now.saturating_since(self.earned_until) / SHARE;
        // Less than a nanosecond is not lost: it is earned with the rest next time.
        if earned > Duration::ZERO {
            self.left = (self.left + earned).min(SAVED_MAX);
            self.earned_until = now;
        }
        let lead = (self.overshoot * 2).clamp(LEAD_MIN, LEAD_MAX);
        (self.left >= lead).then_some(lead)
    }

    /// A sleep ended `late`.
    pub fn on_woken(&mut self, late: Duration) {
        self.overshoot = (self.overshoot * 7 + late.min(LEAD_MAX)) / 8;
    }

    /// Waits awake until `moment`.
    pub fn wait_until(&mut self, moment: Instant) {
        let begin = sys::now();
        let mut now = begin;
        while now < moment {
            std::hint::spin_loop();
            now = sys::now();
        }
        self.spend(now.saturating_since(begin));
    }

    fn spend(&mut self, time: Duration) {
        self.left = self.left.saturating_sub(time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_awake_is_bounded_to_a_share_of_the_time() {
        let mut awake = Awake::new(Instant::ZERO);
        let mut spent = Duration::ZERO;
        for micros in 0..1_000_000 {
            if let Some(lead) = awake.lead(Instant::from_micros(micros)) {
                awake.spend(lead);
                spent += lead;
            }
        }
        assert!(spent <= Duration::from_secs(1) / SHARE + SAVED_MAX, "{spent:?}");
        assert!(spent >= Duration::from_millis(49), "{spent:?}");
    }

    #[test]
    fn the_lead_follows_the_machine_within_its_bounds() {
        let mut awake = Awake::new(Instant::ZERO);
        assert_eq!(awake.lead(Instant::ZERO), Some(LEAD_MIN));
        for _ in 0..50 {
            awake.on_woken(Duration::from_micros(80));
        }
        let lead = awake.lead(Instant::ZERO).unwrap();
        assert!((Duration::from_micros(150)..=Duration::from_micros(160)).contains(&lead), "{lead:?}");
        awake.on_woken(Duration::from_secs(1));
        for _ in 0..50 {
            awake.on_woken(Duration::from_millis(1));
        }
        assert_eq!(awake.lead(Instant::ZERO), Some(LEAD_MAX));
    }
}
