//! Delivery rate: what the path hands over per unit of time, sampled at every ack
//! (draft-cheng-iccrg-delivery-rate-estimation).

use std::time::Duration;

use crate::units::{BitRate, ByteCount, Instant};

/// What a datagram remembers from the moment it was sent.
#[derive(Clone, Copy, Debug)]
pub struct SendSnapshot {
    /// When it left.
    pub sent: Instant,
    /// Bytes delivered at that moment.
    pub delivered: u64,
    /// Bytes sent before it.
    pub sent_before: u64,
    delivered_at: Instant,
    first_sent: Instant,
    /// The sender had nothing more to send, so the sample says little about the path.
    pub app_limited: bool,
}

/// One sample of the delivery rate.
#[derive(Clone, Copy, Debug)]
pub struct RateSample {
    /// Bytes delivered over the sample's interval, per time.
    pub rate: BitRate,
    /// Bytes delivered when the newest acknowledged datagram was sent: ends a round when it passes the round's start.
    pub prior_delivered: u64,
    /// The sample may be too low.
    pub app_limited: bool,
    /// When the newest datagram acknowledged was sent.
    pub sent_at: Instant,
    /// Bytes sent before it.
    pub sent_before: u64,
}

/// The connection's counters.
#[derive(Clone, Debug)]
pub struct DeliveryEstimator {
    delivered: u64,
    sent: u64,
    delivered_at: Instant,
    first_sent: Instant,
    /// Delivered count at which the last bubble of idle time has drained; zero: not app-limited.
    app_limited_until: u64,
}

impl DeliveryEstimator {
    /// Counters at rest.
    pub fn new(now: Instant) -> Self {
        DeliveryEstimator { delivered: 0, sent: 0, delivered_at: now, first_sent: now, app_limited_until: 0 }
    }

    /// Notes a datagram of `bytes` that leaves while `in_flight` bytes are outstanding.
    pub fn on_sent(&mut self, now: Instant, in_flight: ByteCount, bytes: u64) -> SendSnapshot {
        if in_flight == ByteCount::ZERO {
            self.first_sent = now;
            self.delivered_at = now;
        }
        let sent_before = self.sent;
        self.sent += bytes;
        SendSnapshot {
            sent: now,
            sent_before,
            delivered: self.delivered,
            delivered_at: self.delivered_at,
            first_sent: self.first_sent,
            app_limited: self.app_limited_until > 0,
        }
    }

    /// The sender ran out of data with room in the window: samples of what is in flight are app-limited.
    pub fn on_app_limited(&mut self, in_flight: ByteCount) {
        self.app_limited_until = (self.delivered + in_flight.as_u64()).max(1);
    }

    /// Notes the delivery of `bytes`, called once per acknowledged datagram before [`DeliveryEstimator::sample`].
    pub fn on_delivered(&mut self, now: Instant, bytes: u64) {
        self.delivered += bytes;
        self.delivered_at = now;
        if self.app_limited_until > 0 && self.delivered > self.app_limited_until {
            self.app_limited_until = 0;
        }
    }

    /// The sample of an ack whose most recently sent datagram is `newest`. `None` where the interval is shorter than
    /// `min_rtt`: acks arrived compressed and the sample would be too high (draft section 3.3).
    pub fn sample(&mut self, newest: &SendSnapshot, min_rtt: Duration) -> Option<RateSample> {
        self.first_sent = newest.sent;
        let send_elapsed = newest.sent - newest.first_sent;
        let ack_elapsed = self.delivered_at - newest.delivered_at;
        let interval = send_elapsed.max(ack_elapsed);
        if interval < min_rtt || interval.is_zero() {
            return None;
        }
        Some(RateSample {
            rate: BitRate::from_transfer(ByteCount::new(self.delivered - newest.delivered), interval),
            prior_delivered: newest.delivered,
            app_limited: newest.app_limited,
            sent_at: newest.sent,
            sent_before: newest.sent_before,
        })
    }

    /// Bytes delivered so far.
    pub fn delivered(&self) -> u64 {
        self.delivered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_path_gives_its_rate() {
        let mut estimator = DeliveryEstimator::new(Instant::ZERO);
        // 1000 bytes every millisecond = 8 Mbps, RTT 10 ms.
        let mut snapshots = Vec::new();
        let mut last = None;
        for tick in 0..100_u64 {
            let now = Instant::from_millis(tick);
            if tick >= 10 {
                let snapshot: SendSnapshot = snapshots[usize::try_from(tick - 10).unwrap()];
                estimator.on_delivered(now, 1000);
                last = estimator.sample(&snapshot, Duration::from_millis(10));
            }
            let in_flight = ByteCount::new(tick.min(10) * 1000);
            snapshots.push(estimator.on_sent(now, in_flight, 1000));
        }
        let rate = last.unwrap().rate;
        assert!(rate.as_bps().abs_diff(8_000_000) < 100_000, "{rate}");
    }

    #[test]
    fn compressed_acks_give_no_sample() {
        let mut estimator = DeliveryEstimator::new(Instant::ZERO);
        let snapshot = estimator.on_sent(Instant::ZERO, ByteCount::ZERO, 1000);
        estimator.on_delivered(Instant::from_millis(1), 1000);
        assert!(estimator.sample(&snapshot, Duration::from_millis(10)).is_none());
    }

    #[test]
    fn idle_time_marks_samples_until_it_has_drained() {
        let mut estimator = DeliveryEstimator::new(Instant::ZERO);
        estimator.on_app_limited(ByteCount::new(1000));
        assert!(estimator.on_sent(Instant::ZERO, ByteCount::ZERO, 1000).app_limited);
        estimator.on_delivered(Instant::from_millis(1), 1001);
        assert!(!estimator.on_sent(Instant::from_millis(1), ByteCount::ZERO, 1000).app_limited);
    }
}
