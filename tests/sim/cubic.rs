//! A CUBIC sender as a neighbour: the window law of RFC 9438 with HyStart's delay test, on packets and without a kernel.
//!
//! It shows what our own law does beside one, not what Linux does: that is measured in the lab. Its receiver
//! acknowledges every packet, losses are found by three later ones, and a window of losses counts once.

use std::collections::VecDeque;
use std::time::Duration;

use longhaul::units::Instant;

/// Wire bytes of a full packet.
pub const PACKET: u32 = 1514;
/// Multiplicative decrease and growth (RFC 9438 section 4.6 and 5).
const BETA: f64 = 0.7;
const C: f64 = 0.4;
/// Packets behind which a missing one is lost.
const DUP_ACKS: u64 = 3;
/// Silence after which all is lost (Linux: 200 ms at least).
const RTO_MIN: Duration = Duration::from_millis(200);

/// One greedy sender.
#[derive(Debug)]
pub struct Cubic {
    window: f64,
    threshold: f64,
    window_max: f64,
    /// What the last reduction left.
    start: f64,
    epoch: Option<Instant>,
    /// Sent and not accounted for: number, when sent.
    under_way: VecDeque<(u64, Instant)>,
    next: u64,
    /// Losses of what was sent before this number have been answered.
    recovery_until: u64,
    min_rtt: Duration,
    srtt: Duration,
    heard_at: Instant,
    /// Packets that arrived.
    pub delivered: u64,
}

impl Cubic {
    /// Begins at `now`.
    pub fn new(now: Instant) -> Self {
        Cubic {
            window: 10.0,
            threshold: f64::MAX,
            window_max: 0.0,
            start: 0.0,
            epoch: None,
            under_way: VecDeque::new(),
            next: 0,
            recovery_until: 0,
            min_rtt: Duration::MAX,
            srtt: Duration::from_millis(100),
            heard_at: now,
            delivered: 0,
        }
    }

    /// The number of a packet that may leave now.
    pub fn poll(&mut self, now: Instant) -> Option<u64> {
        if self.under_way.len() as f64 >= self.window {
            return None;
        }
        if self.under_way.is_empty() {
            self.heard_at = now;
        }
        self.under_way.push_back((self.next, now));
        self.next += 1;
        Some(self.next - 1)
    }

    /// Packets that may be under way.
    pub fn window(&self) -> f64 {
        self.window
    }

    /// When silence means that all is lost.
    pub fn poll_timeout(&self) -> Option<Instant> {
        (!self.under_way.is_empty()).then(|| self.heard_at + (2 * self.srtt).max(RTO_MIN))
    }

    /// Takes the silence.
    pub fn on_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_some_and(|at| at <= now) {
            self.under_way.clear();
            self.threshold = (self.window * BETA).max(2.0);
            self.window = 1.0;
            self.epoch = None;
        }
    }

    /// Takes the acknowledgement of one packet.
    pub fn on_ack(&mut self, now: Instant, number: u64) {
        self.heard_at = now;
        let Ok(at) = self.under_way.binary_search_by_key(&number, |(number, _)| *number) else { return };
        let (_, sent) = self.under_way.remove(at).expect("invariant: just found");
        self.delivered += 1;
        let rtt = now - sent;
        self.min_rtt = self.min_rtt.min(rtt);
        self.srtt = (self.srtt * 7 + rtt) / 8;
        let mut lost = false;
        while self.under_way.front().is_some_and(|(first, _)| first + DUP_ACKS <= number) {
            let (first, _) = self.under_way.pop_front().expect("invariant: just seen");
            lost |= first >= self.recovery_until;
        }
        if lost {
            self.recovery_until = self.next;
            self.window_max =
                if self.window < self.window_max { self.window * (1.0 + BETA) / 2.0 } else { self.window };
            self.window = (self.window * BETA).max(2.0);
            self.threshold = self.window;
            self.start = self.window;
            self.epoch = Some(now);
        } else if self.window < self.threshold {
            self.window += 1.0;
            let rise = (self.min_rtt / 8).clamp(Duration::from_millis(4), Duration::from_millis(16));
            if rtt > self.min_rtt + rise && self.window > 16.0 {
                self.threshold = self.window;
                self.window_max = self.window;
                self.start = self.window;
            }
        } else {
            self.grow(now);
        }
    }

    fn grow(&mut self, now: Instant) {
        let epoch = *self.epoch.get_or_insert(now);
        let (rtt, since) = (self.srtt.as_secs_f64(), (now - epoch).as_secs_f64());
        let k = ((self.window_max - self.start).max(0.0) / C).cbrt();
        let target = (C * (since + rtt - k).powi(3) + self.window_max).clamp(self.window, 1.5 * self.window);
        // What Reno would have by now (RFC 9438 section 4.3).
        let reno = self.start + 3.0 * (1.0 - BETA) / (1.0 + BETA) * since / rtt;
        self.window += ((target - self.window) / self.window).max(if reno > self.window {
            1.0 / self.window
        } else {
            0.01 / self.window
        });
    }
}
