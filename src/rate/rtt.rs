//! Round-trip time: smoothed value and variance (RFC 9002 section 5), windowed minimum.

use std::collections::VecDeque;
use std::time::Duration;

use crate::units::Instant;

/// How long a minimum counts. Longer than any sensible probing cycle, short enough to notice a longer route.
const MIN_RTT_WINDOW: Duration = Duration::from_secs(10);

/// The window slides in steps of this length.
const MIN_RTT_STEP: Duration = Duration::from_secs(1);

/// Before the first sample (RFC 9002 section 6.2.2 says 333 ms).
const INITIAL_RTT: Duration = Duration::from_millis(333);

/// Timers never run finer than this (RFC 9002 section 6.1.2, kGranularity).
const GRANULARITY: Duration = Duration::from_millis(1);

/// RTT statistics of one path.
#[derive(Clone, Debug)]
pub struct RttEstimator {
    latest: Duration,
    smoothed: Option<Duration>,
    variance: Duration,
    /// Minimum of each step of the window, oldest first: (start of the step, minimum in it).
    minima: VecDeque<(Instant, Duration)>,
}

impl Default for RttEstimator {
    fn default() -> Self {
        RttEstimator { latest: INITIAL_RTT, smoothed: None, variance: INITIAL_RTT / 2, minima: VecDeque::new() }
    }
}

impl RttEstimator {
    /// Takes a sample: `raw` is from send to the ack's arrival, of which the peer says it held the ack `ack_delay`.
    pub fn on_sample(&mut self, now: Instant, raw: Duration, ack_delay: Duration) {
        // RFC 9002 section 5.3: the ack delay is subtracted only where the result stays plausible.
        let floor = self.min_rtt().unwrap_or(Duration::ZERO);
        let adjusted = if raw >= floor + ack_delay { raw - ack_delay } else { raw.min(floor.max(raw / 2)) };
        self.latest = adjusted;
        match self.minima.back_mut() {
            Some((start, minimum)) if now - *start < MIN_RTT_STEP => *minimum = (*minimum).min(adjusted),
            _ => self.minima.push_back((now, adjusted)),
        }
        while self.minima.len() > 1 && now - self.minima[0].0 > MIN_RTT_WINDOW {
            self.minima.pop_front();
        }
        match self.smoothed {
            None => {
                self.smoothed = Some(adjusted);
                self.variance = adjusted / 2;
            }
            Some(smoothed) => {
                let deviation = smoothed.abs_diff(adjusted);
                self.variance = (self.variance * 3 + deviation) / 4;
                self.smoothed = Some((smoothed * 7 + adjusted) / 8);
            }
        }
    }

    /// The last sample, or the initial value.
    pub fn latest(&self) -> Duration {
        self.latest
    }

    /// Smoothed RTT, or the initial value before the first sample.
    pub fn srtt(&self) -> Duration {
        self.smoothed.unwrap_or(INITIAL_RTT)
    }

    /// Whether there has been a sample.
    pub fn is_measured(&self) -> bool {
        self.smoothed.is_some()
    }

    /// Mean deviation.
    pub fn rttvar(&self) -> Duration {
        self.variance
    }

    /// Smallest sample within the window: propagation delay.
    pub fn min_rtt(&self) -> Option<Duration> {
        self.minima.iter().map(|(_, minimum)| *minimum).min()
    }

    /// Forgets minima older than the current step: after a change of route or an outage.
    pub fn restart_min_rtt(&mut self) {
        let keep = self.minima.pop_back();
        self.minima.clear();
        self.minima.extend(keep);
    }

    /// Probe time-out without back-off (RFC 9002 section 6.2.1): silence that means the tail was lost.
    pub fn pto(&self, ack_delay_max: Duration) -> Duration {
        self.srtt() + (self.variance * 4).max(GRANULARITY) + ack_delay_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn first_sample_sets_everything() {
        let mut rtt = RttEstimator::default();
        assert!(!rtt.is_measured());
        rtt.on_sample(Instant::ZERO, ms(40), ms(0));
        assert_eq!((rtt.srtt(), rtt.rttvar(), rtt.min_rtt()), (ms(40), ms(20), Some(ms(40))));
    }

    #[test]
    fn ack_delay_never_takes_a_sample_below_the_minimum() {
        let mut rtt = RttEstimator::default();
        rtt.on_sample(Instant::ZERO, ms(40), ms(0));
        rtt.on_sample(Instant::ZERO, ms(50), ms(5));
        assert_eq!(rtt.latest(), ms(45));
        rtt.on_sample(Instant::ZERO, ms(41), ms(30));
        assert!(rtt.latest() >= ms(40));
    }

    #[test]
    fn minimum_is_forgotten_after_its_window() {
        let mut rtt = RttEstimator::default();
        rtt.on_sample(Instant::ZERO, ms(10), ms(0));
        for second in 1..12 {
            rtt.on_sample(Instant::from_millis(second * 1000), ms(30), ms(0));
        }
        assert_eq!(rtt.min_rtt(), Some(ms(30)));
    }
}
