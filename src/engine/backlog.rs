//! How much of a host's data may be under way: the stun trap, counted in the host's own bytes.
//!
//! A host that moves a running machine takes for delivered what its socket has drained; what is not stands still with the
//! machine at switch-over. The channel bounds what it holds, but in compressed bytes: at 7:1 a bound of 150 ms of the
//! path is a second of what the far host reads. So the relay remembers what each stretch of the stream was before
//! compression, learns how fast the far end takes it, and lets no more be under way than that rate drains soon. By
//! Little's law the bound finds its level by itself: a far end that is faster empties it sooner, shows a higher rate,
//! and raises it.

use std::collections::VecDeque;
use std::time::Duration;

use crate::units::{BitRate, ByteCount, Instant};

/// What the measured rate may have under way beyond the round trip. The receive buffer here and the send buffer at the
/// far end, tens of milliseconds each, come on top; all of it has to stay within "RTT + 200 ms".
const TARGET: Duration = Duration::from_millis(64);

/// Bytes may wait behind a lost one for a retransmission of its retransmission: never less than this many round trips.
const ROUND_TRIPS: u32 = 3;

/// Before the rate is known: this much of the path's rate, as if nothing could be compressed.
const UNKNOWN_TIME: Duration = Duration::from_millis(100);
/// See [`UNKNOWN_TIME`], on long paths.
const UNKNOWN_ROUND_TRIPS: u32 = 4;

/// Least that may be under way.
const LIMIT_MIN: u64 = 512 * 1024;

/// A measurement is not shorter than this.
const WINDOW_MIN: Duration = Duration::from_millis(50);

/// Consecutive blocks are remembered as one up to this many source bytes, so that a talkative flow of small blocks does
/// not make a long list.
const STRETCH_LEN: u64 = 16 * 1024;

/// How fast something drains, measured only while it is what holds the writer back.
#[derive(Debug, Default)]
pub(super) struct DrainRate {
    since: Instant,
    total: u64,
    is_limited: bool,
    /// The last measurements; the largest counts, for drains come in bursts.
    rates: [Option<BitRate>; 3],
}

impl DrainRate {
    /// Takes what has drained so far, and whether the writer is held back. A measurement takes `window` or longer.
    pub(super) fn observe(&mut self, now: Instant, window: Duration, total: u64, is_limited: bool) {
        if !is_limited || !self.is_limited {
            (self.since, self.total, self.is_limited) = (now, total, is_limited);
            return;
        }
        let elapsed = now.saturating_since(self.since);
        if elapsed >= window {
            self.rates.rotate_left(1);
            self.rates[2] = Some(BitRate::from_transfer(ByteCount::new(total - self.total), elapsed));
            (self.since, self.total) = (now, total);
        }
    }

    /// The rate, with room to show that it can be higher; `None` before it has been measured.
    pub(super) fn rate(&self) -> Option<BitRate> {
        self.rates.iter().flatten().max().map(|rate| rate.percent(125))
    }
}

/// Part of a stream.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    /// Its end in the stream.
    end: u64,
    /// Host bytes it is made of.
    source: u64,
}

/// The host bytes of one flow that the far end has not taken.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    stretches: VecDeque<Stretch>,
    under_way: u64,
    delivered: u64,
    drain: DrainRate,
}

impl Backlog {
    /// A block of `source` host bytes stands in the stream up to `end`.
    pub(super) fn on_block(&mut self, end: u64, source: usize) {
        let source = source as u64;
        self.under_way += source;
        match self.stretches.back_mut() {
            Some(last) if last.source + source <= STRETCH_LEN => {
                (last.end, last.source) = (end, last.source + source);
            }
            _ => self.stretches.push_back(Stretch { end, source }),
        }
    }

    /// The far end has taken the stream up to `offset`.
    pub(super) fn on_consumed(&mut self, now: Instant, path: BitRate, srtt: Duration, offset: u64) {
        let is_limited = self.under_way * 4 >= self.limit(path, srtt) * 3;
        while let Some(first) = self.stretches.front().copied()
            && first.end <= offset
        {
            self.stretches.pop_front();
            self.under_way -= first.source;
            self.delivered += first.source;
        }
        self.drain.observe(now, WINDOW_MIN.max(srtt), self.delivered, is_limited);
    }

    /// Host bytes that may be under way.
    fn limit(&self, path: BitRate, srtt: Duration) -> u64 {
        let bytes = match self.drain.rate() {
            Some(rate) => rate.bytes_in((srtt * ROUND_TRIPS).max(srtt + TARGET)),
            None => path.bytes_in((srtt * UNKNOWN_ROUND_TRIPS).max(UNKNOWN_TIME)),
        };
        bytes.as_u64().max(LIMIT_MIN)
    }

    /// Whether the next block has to wait, and if so, until the far end has taken the stream up to which offset.
    pub(super) fn waits_for(&self, path: BitRate, srtt: Duration) -> Option<u64> {
        let first = self.stretches.front()?;
        (self.under_way >= self.limit(path, srtt)).then_some(first.end)
    }

    /// Host bytes taken in here and not by the far end.
    pub(super) fn under_way(&self) -> ByteCount {
        ByteCount::new(self.under_way)
    }

    /// At what rate the far end takes them; `None` while that is not what limits.
    pub(super) fn drain_rate(&self) -> Option<BitRate> {
        self.drain.rate()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SRTT: Duration = Duration::from_millis(10);
    const PATH: BitRate = BitRate::from_mbps(1000);

    /// A writer that always has a block of 64 KiB, shrunk sixteen times, and a far end that takes `rate`, a round trip
    /// later known here. Returns the most that was under way in the second half of `millis`.
    fn run(backlog: &mut Backlog, rate: BitRate, millis: u64) -> u64 {
        let (mut written, mut news, mut most) = (0, VecDeque::new(), 0);
        let mut taken = 0;
        for at in 0..millis {
            let now = Instant::from_millis(1_000_000 + at);
            let start = backlog.delivered;
            if at == 0 {
                (written, taken) = (0, start);
                backlog.stretches.clear();
                backlog.under_way = 0;
            }
            taken = (taken + rate.bytes_in(Duration::from_millis(1)).as_u64()).min(start + backlog.under_way);
            news.push_back(taken);
            if news.len() > 10 {
                let known = news.pop_front().unwrap();
                let offset = known.saturating_sub(backlog.delivered) / 16 + written - backlog.under_way / 16;
                backlog.on_consumed(now, PATH, SRTT, offset);
            }
            while backlog.waits_for(PATH, SRTT).is_none() {
                written += 4096;
                backlog.on_block(written, 65_536);
            }
            if at > millis / 2 {
                most = most.max(backlog.under_way);
            }
        }
        most
    }

    #[test]
    fn what_is_under_way_is_bounded_in_time_whatever_the_far_ends_rate() {
        for mbps in [50, 200, 1000, 4000] {
            let rate = BitRate::from_mbps(mbps);
            let most = run(&mut Backlog::default(), rate, 8000);
            let time = rate.time_for(ByteCount::new(most));
            let floor = rate.time_for(ByteCount::new(LIMIT_MIN + 65_536));
            assert!(time <= Duration::from_millis(110).max(floor), "{mbps} Mbps: {time:?}");
            assert!(time >= SRTT, "{mbps} Mbps: {time:?} is less than a round trip");
        }
    }

    #[test]
    fn without_a_measurement_it_is_what_the_path_carries_uncompressed() {
        let mut backlog = Backlog::default();
        while backlog.waits_for(PATH, SRTT).is_none() {
            backlog.on_block(backlog.under_way / 16 + 4096, 65_536);
        }
        assert_eq!(backlog.under_way.div_ceil(65_536), 12_500_000_u64.div_ceil(65_536));
        assert_eq!(backlog.waits_for(PATH, SRTT), Some(4096));
        backlog.on_consumed(Instant::ZERO, PATH, SRTT, 4096);
        assert_eq!(backlog.waits_for(PATH, SRTT), None);
        assert_eq!(backlog.drain_rate(), None);
    }

    #[test]
    fn small_blocks_share_an_entry() {
        let mut backlog = Backlog::default();
        for block in 1..=16_384_u64 {
            backlog.on_block(block * 20, 10);
        }
        assert!(backlog.stretches.len() <= 11, "{}", backlog.stretches.len());
        backlog.on_consumed(Instant::ZERO, PATH, SRTT, 16_384 * 20);
        assert_eq!((backlog.under_way, backlog.delivered), (0, 163_840));
    }

    #[test]
    fn a_rate_is_learned_only_while_it_limits() {
        let mut rate = DrainRate::default();
        let mut observe = |from: u64, limited: bool| {
            for at in from..from + 20 {
                rate.observe(Instant::from_millis(at * 10), WINDOW_MIN, at * 12_500, limited);
            }
            rate.rate()
        };
        assert_eq!(observe(0, false), None);
        assert_eq!(observe(20, true), Some(BitRate::from_kbps(12_500)));
        assert_eq!(observe(1000, false), Some(BitRate::from_kbps(12_500)), "and is not forgotten");
    }
}
