//! Connections that both appliances have lost at once: nobody is left who remembers them, but their numbers give them away.
//!
//! A split connection has other sequence numbers on either side. When both appliances start anew at the same time, its
//! segments pass as of a connection older than the appliances, and neither host can make sense of what the other sends:
//! both hang until their own timers give up, minutes or hours later. Such a connection contradicts itself: what one host
//! acknowledges is nowhere near what the other sends. In one that was never split each acknowledgement lies within a
//! window of the other direction's numbers, always.
//!
//! So for a minute after the start, connections that could have been ours and began before are watched in both
//! directions. The first pair of segments that fits clears a connection for good; one whose pairs contradict again and
//! again, with segments of both hosts, is reset at both.

use std::time::Duration;

use crate::frame::{FlowKey, L2Header, Port, TcpSegment};
use crate::units::Instant;

use super::lru::{Lru, SeededState};

/// How long after the start connections are watched: retransmissions of a host come within it several times.
const WATCH_TIME: Duration = Duration::from_secs(60);

/// Connections watched; the longest silent one is let go.
const WATCHED_MAX: usize = 4096;

/// An acknowledgement this far from the other direction's numbers cannot be of the same connection: four times what
/// 10 Gbps have under way over 50 ms. Numbers of two connections are at random to each other and come this near by
/// chance once in eight times for one direction, once in 64 for both: then the connection is left alone.
const FITS_MAX: u32 = 1 << 28;

/// Contradicting segments of each host before a connection is given up.
const EACH_MIN: u32 = 3;

/// Since the first of them: stray copies of a connection's former life are over by then.
const TIME_MIN: Duration = Duration::from_millis(300);

/// What a host last said.
#[derive(Clone, Copy, Debug)]
struct Said {
    /// The number behind its segment.
    next: u32,
    ack: u32,
}

/// One connection.
#[derive(Clone, Copy, Debug, Default)]
struct Watched {
    /// Of the host on the LAN side, and of the other.
    said: [Option<Said>; 2],
    contradicted: [u32; 2],
    since: Option<Instant>,
    is_cleared: bool,
}

/// A connection to reset at both hosts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Contradiction {
    /// What the host on the LAN side expects next.
    pub(super) lan_expects: u32,
    /// What the other one does.
    pub(super) wan_expects: u32,
    /// The header with which the host on the LAN side reaches the other.
    pub(super) l2: L2Header,
}

/// Connections older than this start of the appliance.
#[derive(Debug)]
pub(super) struct Contradictions {
    until: Instant,
    /// By the key of the LAN host's segments.
    watched: Lru<FlowKey, (Watched, L2Header)>,
}

impl Contradictions {
    pub(super) fn new(now: Instant, state: SeededState) -> Self {
        Contradictions { until: now + WATCH_TIME, watched: Lru::new(WATCHED_MAX, state) }
    }

    /// Whether there is anything to watch for at all.
    pub(super) fn is_watching(&self, now: Instant) -> bool {
        now < self.until
    }

    /// A SYN of the host on the LAN side (`host_key`) or to it: whatever was seen is of a former life.
    pub(super) fn forget(&mut self, host_key: &FlowKey) {
        self.watched.remove(host_key);
    }

    /// A segment of a connection that passes. Those by the LAN port begin to be watched; `segment.key` is of the host that
    /// sent it.
    pub(super) fn handle_segment(
        &mut self,
        now: Instant,
        port: Port,
        segment: &TcpSegment<'_>,
    ) -> Option<Contradiction> {
        let (own, other, key) = match port {
            Port::Lan => (0, 1, segment.key),
            Port::Wan => (1, 0, segment.key.reversed()),
        };
        if segment.flags.syn() {
            self.forget(&key);
        }
        // A reset carries any numbers, a segment without ACK says nothing of the other direction.
        if segment.flags.syn() || segment.flags.rst() || !segment.flags.ack() {
            return None;
        }
        if port == Port::Lan && self.watched.peek(&key).is_none() {
            self.watched.insert(key, (Watched::default(), segment.l2));
        }
        let (watched, l2) = self.watched.touch(&key)?;
        if watched.is_cleared || !segment.verify_checksums() {
            return None;
        }
        if port == Port::Lan {
            *l2 = segment.l2;
        }
        let said = Said { next: segment.seq.wrapping_add(segment.seq_len()), ack: segment.ack };
        watched.said[own] = Some(said);
        let heard = watched.said[other]?;
        if fits(said.ack, heard.next) && fits(heard.ack, said.next) {
            watched.is_cleared = true;
            return None;
        }
        watched.contradicted[own] += 1;
        let since = *watched.since.get_or_insert(now);
        if watched.contradicted.iter().any(|&count| count < EACH_MIN) || now.saturating_since(since) < TIME_MIN {
            return None;
        }
        let [Some(lan), Some(wan)] = watched.said else { return None };
        let contradiction = Contradiction { lan_expects: lan.ack, wan_expects: wan.ack, l2: *l2 };
        self.watched.remove(&key);
        Some(contradiction)
    }
}

/// Whether an acknowledgement can be of the numbers that the other direction is at.
fn fits(ack: u32, next: u32) -> bool {
    let ahead = ack.wrapping_sub(next);
    ahead.min(ahead.wrapping_neg()) <= FITS_MAX
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::buffer::FrameBuf;
    use crate::frame::{Classified, VlanIds, bare_ack, bare_rst, classify};

    fn key() -> FlowKey {
        FlowKey { vlans: VlanIds::default(), src: ([10, 0, 0, 1], 40000).into(), dst: ([10, 0, 0, 2], 8000).into() }
    }

    fn watch() -> Contradictions {
        Contradictions::new(Instant::ZERO, SeededState::new([1, 2]))
    }

    fn say(watch: &mut Contradictions, ms: u64, port: Port, seq: u32, ack: u32) -> Option<Contradiction> {
        let mut frame = FrameBuf::with_headroom();
        let key = if port == Port::Lan { key() } else { key().reversed() };
        bare_ack(&mut frame, &L2Header::default(), &key, seq, ack);
        let Classified::Tcp(segment) = classify(&frame) else { panic!("a segment was built") };
        watch.handle_segment(Instant::from_millis(ms), port, &segment)
    }

    #[test]
    fn hosts_that_talk_past_each_other_are_found_out_with_the_numbers_they_expect() {
        let mut watch = watch();
        for round in 0..2 {
            assert_eq!(say(&mut watch, round * 200, Port::Lan, 1000, 3_000_000_000), None);
            assert_eq!(say(&mut watch, round * 200 + 1, Port::Wan, 1_500_000_000, 2_200_000_000), None);
        }
        assert_eq!(say(&mut watch, 600, Port::Lan, 1000, 3_000_000_000), None);
        let found = say(&mut watch, 601, Port::Wan, 1_500_000_000, 2_200_000_000);
        // The first segment had nothing to contradict.
        assert_eq!(found, None);
        let found = say(&mut watch, 1000, Port::Lan, 1000, 3_000_000_000).unwrap();
        assert_eq!((found.lan_expects, found.wan_expects), (3_000_000_000, 2_200_000_000));
        assert_eq!(say(&mut watch, 1001, Port::Lan, 1000, 3_000_000_000), None, "told once");
    }

    #[test]
    fn one_pair_that_fits_clears_a_connection_for_good() {
        let mut watch = watch();
        say(&mut watch, 0, Port::Lan, 1000, 5000);
        say(&mut watch, 1, Port::Wan, 5000, 1000);
        for at in 0..100 {
            assert_eq!(say(&mut watch, at * 100, Port::Lan, 1000, 3_000_000_000), None);
            assert_eq!(say(&mut watch, at * 100, Port::Wan, 1_500_000_000, 2_200_000_000), None);
        }
    }

    #[test]
    fn one_host_alone_or_a_short_time_proves_nothing() {
        let mut watch = watch();
        say(&mut watch, 0, Port::Wan, 1_500_000_000, 2_200_000_000);
        for at in 0..100 {
            assert_eq!(say(&mut watch, at * 100, Port::Lan, 1000, 3_000_000_000), None, "never heard the other");
        }
        let mut watch = self::watch();
        for at in 0..290 {
            assert_eq!(say(&mut watch, at, Port::Lan, 1000, 3_000_000_000), None);
            assert_eq!(say(&mut watch, at, Port::Wan, 1_500_000_000, 2_200_000_000), None);
        }
    }

    #[test]
    fn resets_and_new_connections_do_not_count() {
        let mut watch = watch();
        say(&mut watch, 0, Port::Lan, 1000, 3_000_000_000);
        for at in 0..10 {
            let mut frame = FrameBuf::with_headroom();
            bare_rst(&mut frame, &L2Header::default(), &key().reversed(), 77, Some(77));
            let Classified::Tcp(segment) = classify(&frame) else { panic!("a segment was built") };
            assert_eq!(watch.handle_segment(Instant::from_millis(at * 100), Port::Wan, &segment), None);
            assert_eq!(say(&mut watch, at * 100, Port::Lan, 1000, 3_000_000_000), None);
        }
        assert!(watch.is_watching(Instant::from_millis(59_999)) && !watch.is_watching(Instant::from_millis(60_000)));
    }

    proptest! {
        /// Whatever order a healthy connection's segments are seen in, however much is under way, and wherever in the
        /// sequence space it is: it is never touched.
        #[test]
        fn a_healthy_connection_is_never_touched(
            start in any::<[u32; 2]>(),
            steps in proptest::collection::vec((any::<bool>(), 0_u32..100_000_000, 0_u64..1000), 1..200),
        ) {
            let mut watch = watch();
            // What each has sent, and what the other has acknowledged of it: at most 100 MB behind.
            let (mut sent, mut acked, mut ms) = (start, start, 0);
            for (lan, bytes, wait) in steps {
                ms += wait;
                let (own, other) = if lan { (0, 1) } else { (1, 0) };
                sent[own] = acked[own].wrapping_add(bytes);
                acked[other] = sent[other].wrapping_sub(sent[other].wrapping_sub(acked[other]) / 2);
                let port = if lan { Port::Lan } else { Port::Wan };
                prop_assert_eq!(say(&mut watch, ms, port, sent[own], acked[other]), None);
            }
        }
    }
}
