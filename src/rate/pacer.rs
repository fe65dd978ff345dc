//! The pacer: a token bucket that turns a rate into moments at which datagrams may leave.
//!
//! Who wakes late catches up: a little at once, the rest by pacing faster for a while, and what would be too much for
//! the queue of the path is given up. Without it a machine that is late for a tenth of its time sends a tenth less than
//! it means to.

use std::time::Duration;

use crate::units::{BitRate, ByteCount, Instant};

/// Lateness that may be caught up at once at most: a longer burst would sit in the bottleneck's queue.
const CATCH_UP_MAX: Duration = Duration::from_millis(4);
/// Lateness that may always be caught up: below this an ordinary kernel's wake-up latency would cost rate.
const CATCH_UP_MIN: Duration = Duration::from_millis(1);
/// Lateness beyond that is kept as arrears, up to half an RTT and this much; what is beyond is lost.
const ARREARS_MAX: Duration = Duration::from_millis(8);
/// Arrears are made good by pacing this much faster, in parts of the rate.
const ARREARS_SHARE: i128 = 4;
/// One wake-up should send this much time's worth: fewer, larger batches for segmentation offload.
const QUANTUM: Duration = Duration::from_micros(500);
/// A quantum is never more than one segmentation-offload batch.
const QUANTUM_BYTES_MAX: u64 = 64_000;

/// Credit in bytes that grows with time at the pacing rate.
#[derive(Clone, Debug)]
pub struct Pacer {
    rate: BitRate,
    /// Bytes x 8e9 (bit-nanoseconds per second): exact at any rate, so that long runs do not drift.
    credit: i128,
    credited_at: Instant,
    /// Most credit.
    limit: i128,
    /// What one wake-up should send, in bytes.
    quantum: u64,
    /// Credit that came too late to be used at once, in the same unit, and how much time's worth of it is kept.
    arrears: i128,
    arrears_max: Duration,
    /// Credit lost because nobody came for it while there was something to send, in bytes.
    unused: u64,
}

const SCALE: i128 = 8_000_000_000;

impl Pacer {
    /// A pacer that begins with one quantum of credit.
    pub fn new(now: Instant, rate: BitRate) -> Self {
        let mut pacer = Pacer {
            rate,
            credit: 0,
            credited_at: now,
            limit: 0,
            quantum: 0,
            arrears: 0,
            arrears_max: Duration::ZERO,
            unused: 0,
        };
        pacer.set_bounds(Duration::ZERO);
        pacer.credit = i128::from(pacer.quantum) * SCALE;
        pacer
    }

    /// Changes the rate; `min_rtt` bounds how long a burst after a late wake-up may be.
    pub fn set_rate(&mut self, now: Instant, rate: BitRate, min_rtt: Duration) {
        self.accrue(now, true);
        self.rate = rate;
        self.set_bounds(min_rtt);
    }

    fn set_bounds(&mut self, min_rtt: Duration) {
        let bytes = |time| self.rate.bytes_in(time).as_u64();
        self.quantum = bytes(QUANTUM).clamp(1, QUANTUM_BYTES_MAX);
        self.limit = i128::from(bytes((min_rtt / 4).clamp(CATCH_UP_MIN, CATCH_UP_MAX)).max(self.quantum)) * SCALE;
        self.arrears_max = (min_rtt / 2).min(ARREARS_MAX);
    }

    fn accrue(&mut self, now: Instant, busy: bool) {
        let elapsed = now - self.credited_at;
        if elapsed.is_zero() && self.credit <= self.limit {
            return; // the same batch
        }
        self.credited_at = self.credited_at.max(now);
        let earned = i128::from(self.rate.as_bps()) * elapsed.as_nanos() as i128;
        let made_good = self.arrears.min(earned / ARREARS_SHARE);
        self.arrears -= made_good;
        self.credit += earned + made_good;
        if self.credit > self.limit {
            if busy {
                self.arrears += self.credit - self.limit;
                let most = i128::from(self.rate.bytes_in(self.arrears_max).as_u64()) * SCALE;
                if self.arrears > most {
                    self.unused += u64::try_from((self.arrears - most) / SCALE).unwrap_or(0);
                    self.arrears = most;
                }
            }
            self.credit = self.limit;
        }
    }

    /// Bytes that may leave now. `busy`: there was something to send since the last call, so credit beyond the bucket
    /// counts as unused.
    pub fn available(&mut self, now: Instant, busy: bool) -> u64 {
        self.accrue(now, busy);
        // 64 bits hold the credit of any rate below 2 Tbps, and divide several times faster.
        match u64::try_from(self.credit) {
            Ok(credit) => credit / SCALE as u64,
            Err(_) => u64::try_from(self.credit / SCALE).unwrap_or(0),
        }
    }

    /// Takes what has left; the bucket may go negative by one datagram or a probe.
    pub fn on_sent(&mut self, bytes: u64) {
        self.credit -= i128::from(bytes) * SCALE;
    }

    /// When there is credit for the smaller of `wanted` bytes and one quantum.
    pub fn ready_at(&self, wanted: u64) -> Instant {
        let need = i128::from(wanted.min(self.quantum)) * SCALE - self.credit;
        if need <= 0 {
            return self.credited_at;
        }
        let rate = self.rate.as_bps().max(1);
        let nanos = match u64::try_from(need) {
            Ok(need) => need.div_ceil(rate),
            Err(_) => u64::try_from(need / i128::from(rate) + 1).unwrap_or(u64::MAX),
        };
        self.credited_at + Duration::from_nanos(nanos)
    }

    /// Credit lost to late wake-ups so far, in bytes.
    pub fn unused(&self) -> ByteCount {
        ByteCount::new(self.unused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_of_pacing_lets_a_second_of_rate_through() {
        let rate = BitRate::from_mbps(100);
        let mut pacer = Pacer::new(Instant::ZERO, rate);
        let mut now = Instant::ZERO;
        let mut sent = 0_u64;
        while now < Instant::from_millis(1000) {
            while pacer.available(now, true) >= 1500 {
                pacer.on_sent(1500);
                sent += 1500;
            }
            now = pacer.ready_at(1500).max(now + Duration::from_nanos(1));
        }
        let expected = rate.bytes_in(Duration::from_secs(1)).as_u64();
        assert!(sent.abs_diff(expected) < 10_000, "{sent} of {expected}");
        assert_eq!(pacer.unused(), ByteCount::ZERO);
    }

    #[test]
    fn a_late_wake_up_is_caught_up_to_the_limit_and_the_rest_is_counted() {
        let rate = BitRate::from_mbps(1000);
        let mut pacer = Pacer::new(Instant::ZERO, rate);
        pacer.set_rate(Instant::ZERO, rate, Duration::from_millis(100));
        let at_once = rate.bytes_in(CATCH_UP_MAX).as_u64();
        assert_eq!(pacer.available(Instant::from_millis(20), true), at_once);
        assert!(pacer.unused().as_u64() > 900_000);
        pacer.on_sent(at_once);
        let next = rate.bytes_in(Duration::from_millis(1)).as_u64();
        assert_eq!(pacer.available(Instant::from_millis(21), true), next * 5 / 4, "arrears are made good");
    }

    #[test]
    fn arrears_are_made_good_once() {
        let rate = BitRate::from_mbps(1000);
        let mut pacer = Pacer::new(Instant::ZERO, rate);
        pacer.set_rate(Instant::ZERO, rate, Duration::from_millis(100));
        let mut sent = pacer.available(Instant::from_millis(10), true);
        pacer.on_sent(sent);
        for millis in 11..100 {
            let bytes = pacer.available(Instant::from_millis(millis), true);
            pacer.on_sent(bytes);
            sent += bytes;
        }
        assert!(sent.abs_diff(rate.bytes_in(Duration::from_millis(99)).as_u64()) < 100_000, "{sent}");
    }

    #[test]
    fn ready_at_is_the_moment_credit_is_there() {
        let mut pacer = Pacer::new(Instant::ZERO, BitRate::from_mbps(8));
        let first = pacer.available(Instant::ZERO, true);
        pacer.on_sent(first + 1000);
        let ready = pacer.ready_at(400);
        assert!(pacer.available(ready - Duration::from_micros(2), true) < 400);
        assert!(pacer.available(ready, true) >= 400);
    }
}
