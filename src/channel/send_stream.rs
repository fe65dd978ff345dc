//! Our direction of a stream: bytes written, sent, lost, acknowledged, consumed.

use std::collections::VecDeque;
use std::ops::Range;

use super::chunk::ChunkPool;
use super::ranges::RangeSet;
use super::repair::PROTECTED_MAX;
use super::ring::ByteRing;

/// So many new bytes lie between a retransmission and its copy: no burst of losses is expected to reach over them.
const COPY_AFTER: u64 = 48 * 1024;
/// Copies of what is lost twice. At 5 % of loss, a path that holds 25,000 datagrams loses 60 of them twice per round trip;
/// with one copy one of these is lost for the third time every six.
const COPIES: u8 = 2;
/// Copies take at most so many times the bytes that the path's own loss is expected to take twice.
const COPIES_SHARE: u64 = 3;
/// Where the path seems to lose more than this, in permille, that may as well be a queue that others keep full.
const COPIES_LOSS_MAX: u64 = 50;
/// Bytes of that share that are saved up at most, in millionths.
const COPYABLE_MAX: u64 = 64 * 1024 * 1_000_000;

/// What is to be sent once more.
#[derive(Debug)]
struct Copy {
    /// The offset of new bytes from which on it is due.
    due: u64,
    range: Range<u64>,
    /// How often.
    left: u8,
}

/// A stretch of a stream to put into a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) offset: u64,
    pub(super) len: usize,
    pub(super) fin: bool,
    pub(super) retransmission: bool,
}

/// Bytes on their way to the peer.
#[derive(Debug, Default)]
pub(super) struct SendStream {
    ring: ByteRing,
    /// Everything below was sent once.
    next: u64,
    /// Sent, lost (or presumed so by a probe) and not yet sent again.
    lost: RangeSet,
    /// Sent again, and not acknowledged.
    resent: RangeSet,
    /// What is lost for the second time is sent once more, and again: each further round trip would keep all that follows
    /// from the peer's end, and in memory. The first to be due comes first.
    copies: VecDeque<Copy>,
    /// Bytes that copies may take, in millionths. What a queue lost would only be lost again.
    copyable: u64,
    /// Acknowledged above the ring's base.
    acked: RangeSet,
    /// Written and not acknowledged.
    unacked: u64,
    /// Bytes the peer's end has taken out of the stream.
    consumed: u64,
    /// Repair symbols were sent over bytes below this offset.
    covered: u64,
    /// The peer takes bytes below this offset.
    limit: u64,
    finished: bool,
    fin_sent: bool,
    fin_lost: bool,
    fin_acked: bool,
}

impl SendStream {
    pub(super) fn new(limit: u64) -> Self {
        SendStream { limit, ..SendStream::default() }
    }

    /// Written and not yet consumed by the peer's end.
    pub(super) fn backlog(&self) -> u64 {
        self.ring.end() - self.consumed
    }

    /// Written and not yet known to have arrived.
    pub(super) fn unacked(&self) -> u64 {
        self.unacked
    }

    /// Bytes that are kept for it.
    pub(super) fn kept(&self) -> u64 {
        self.ring.kept()
    }

    /// Written and not yet sent once.
    pub(super) fn unsent(&self) -> u64 {
        self.ring.end() - self.next
    }

    /// Bytes the peer's end has taken out.
    pub(super) fn consumed(&self) -> u64 {
        self.consumed
    }

    /// Everything below is known to have arrived.
    pub(super) fn unacked_from(&self) -> u64 {
        self.ring.base()
    }

    /// Bytes sent before and not below [`SendStream::unacked_from`].
    pub(super) fn copy_sent(&self, range: Range<u64>) -> Vec<u8> {
        let mut bytes = Vec::new();
        if range.start >= self.ring.base() && range.end <= self.next {
            self.ring.append_to(range.start, (range.end - range.start) as usize, &mut bytes);
        }
        bytes
    }

    /// Repair symbols leave over bytes below `end`.
    pub(super) fn on_covered(&mut self, end: u64) {
        self.covered = self.covered.max(end);
    }

    /// Bytes that may still be written under the peer's credit.
    pub(super) fn credit(&self) -> u64 {
        if self.finished { 0 } else { self.limit.saturating_sub(self.ring.end()) }
    }

    pub(super) fn write(&mut self, pool: &mut ChunkPool, bytes: &[u8]) {
        self.ring.write(pool, self.ring.end(), bytes);
        self.unacked += bytes.len() as u64;
    }

    pub(super) fn finish(&mut self) {
        self.finished = true;
    }

    /// Whether everything, the end included, has arrived.
    pub(super) fn is_acked(&self) -> bool {
        self.fin_acked && self.ring.base() == self.ring.end()
    }

    pub(super) fn has_lost(&self) -> bool {
        !self.lost.is_empty() || self.fin_lost || self.is_copy_due()
    }

    fn is_copy_due(&self) -> bool {
        self.copies.front().is_some_and(|copy| self.next >= copy.due || !self.has_new())
    }

    /// Whether there is something that was never sent: bytes, or the end.
    pub(super) fn has_new(&self) -> bool {
        self.next < self.ring.end() || (self.finished && !self.fin_sent)
    }

    /// The next stretch of at most `room` bytes: lost bytes first, then new ones. `own_loss`: the share of datagrams that the
    /// path loses by itself, in permille.
    pub(super) fn next_segment(&mut self, room: usize, own_loss: u64) -> Option<Segment> {
        self.next_lost(room).or_else(|| self.next_new(room, own_loss))
    }

    /// The next stretch that is lost, or a copy that is due.
    fn next_lost(&mut self, room: usize) -> Option<Segment> {
        let end = self.ring.end();
        if let Some(lost) = self.lost.first() {
            let len = ((lost.end - lost.start) as usize).min(room);
            if len == 0 {
                return None;
            }
            let range = lost.start..lost.start + len as u64;
            self.lost.remove(range.clone());
            if self.resent.overlapping(range.clone()).next().is_some() {
                self.copies.push_back(Copy { due: self.next + COPY_AFTER, range: range.clone(), left: COPIES });
            }
            self.resent.insert(range.clone());
            let fin = self.finished && range.end == end && (self.fin_lost || !self.fin_sent);
            self.note_fin(fin);
            return Some(Segment { offset: range.start, len, fin, retransmission: true });
        }
        while self.is_copy_due()
            && let Some(Copy { range, left, .. }) = self.copies.pop_front()
        {
            // What was acknowledged since is not sent; a part of it may have been.
            let Some(needed) = self.missing(&range) else { continue };
            let len = ((needed.end - needed.start) as usize).min(room);
            let sent = needed.start..needed.start + len as u64;
            let cost = len as u64 * 1_000_000;
            if cost > self.copyable {
                continue;
            }
            let rest = sent.end..range.end;
            if !rest.is_empty() {
                self.copies.push_front(Copy { due: 0, range: rest, left });
            }
            if len == 0 {
                return None;
            }
            self.copyable -= cost;
            if left > 1 {
                self.copies.push_back(Copy { due: self.next + COPY_AFTER, range: sent, left: left - 1 });
            }
            return Some(Segment { offset: needed.start, len, fin: false, retransmission: true });
        }
        None
    }

    /// The next stretch that was never sent.
    pub(super) fn next_new(&mut self, room: usize, own_loss: u64) -> Option<Segment> {
        let end = self.ring.end();
        let len = ((end - self.next) as usize).min(room);
        let at_end = self.next + len as u64 == end;
        let fin = self.finished && at_end && (!self.fin_sent || self.fin_lost);
        if len == 0 && !fin {
            return None;
        }
        let offset = self.next;
        self.next += len as u64;
        let lost_twice = len as u64 * own_loss.min(COPIES_LOSS_MAX).pow(2);
        self.copyable = (self.copyable + lost_twice * COPIES_SHARE).min(COPYABLE_MAX);
        self.note_fin(fin);
        Some(Segment { offset, len, fin, retransmission: false })
    }

    /// Of these bytes, the first stretch that has not arrived.
    fn missing(&self, range: &Range<u64>) -> Option<Range<u64>> {
        let mut missing = range.start.max(self.ring.base())..range.end;
        for acked in self.acked.overlapping(range.clone()) {
            if acked.start > missing.start {
                missing.end = acked.start;
                break;
            }
            missing.start = missing.start.max(acked.end);
        }
        (missing.start < missing.end).then_some(missing)
    }

    fn note_fin(&mut self, fin: bool) {
        if fin {
            self.fin_sent = true;
            self.fin_lost = false;
        }
    }

    pub(super) fn append_to(&self, segment: &Segment, out: &mut Vec<u8>) {
        self.ring.append_to(segment.offset, segment.len, out);
    }

    pub(super) fn on_acked(&mut self, pool: &mut ChunkPool, range: Range<u64>, fin: bool) {
        self.fin_acked |= fin;
        if fin {
            self.fin_lost = false;
        }
        self.lost.remove(range.clone());
        self.resent.remove(range.clone());
        if range.end <= self.ring.base() {
            return;
        }
        let start = range.start.max(self.ring.base());
        if start == self.ring.base() && self.acked.is_empty() {
            self.unacked -= range.end - start;
            self.ring.advance(pool, range.end);
            return;
        }
        let unacked = &mut self.unacked;
        self.acked.insert_with(start..range.end, |new| *unacked -= new.end - new.start);
        if let Some(first) = self.acked.first()
            && first.start <= self.ring.base()
        {
            self.acked.pop_first();
            self.ring.advance(pool, first.end);
            return;
        }
        self.forget(pool, start);
        self.forget(pool, range.end - 1);
    }

    /// What has arrived is not sent again, though it waits behind something lost: gives back the chunk that `offset` is in,
    /// if all of it has. Repair symbols are still to be made over the newest bytes.
    fn forget(&mut self, pool: &mut ChunkPool, offset: u64) {
        let chunk = self.ring.chunk_of(offset);
        if chunk.start >= self.ring.base() && chunk.end + PROTECTED_MAX < self.next && self.acked.covers(&chunk) {
            self.ring.forget(pool, &chunk);
        }
    }

    /// The datagram with these bytes is lost, or a probe wants them sent again.
    pub(super) fn on_lost(&mut self, range: Range<u64>, fin: bool) {
        if fin && !self.fin_acked {
            self.fin_lost = true;
        }
        let mut from = range.start.max(self.ring.base());
        // A part may have been acknowledged by a copy of it.
        for acked in self.acked.overlapping(range.clone()) {
            self.lost.insert(from..acked.start.max(from));
            from = from.max(acked.end);
        }
        self.lost.insert(from..range.end.max(from));
    }

    /// The peer's credit; false where it contradicts what was written.
    ///
    /// What was consumed has arrived, whatever became of the datagrams that carried it: repair symbols gave it back. Where
    /// there were none, acks say so in time.
    pub(super) fn on_credit(&mut self, pool: &mut ChunkPool, consumed: u64, limit: u64) -> bool {
        if consumed > self.ring.end() {
            return false;
        }
        let arrived = consumed.min(self.covered);
        if arrived > self.ring.base() {
            self.on_acked(pool, self.ring.base()..arrived, false);
        }
        self.consumed = self.consumed.max(consumed);
        self.limit = self.limit.max(limit);
        true
    }

    /// Whether nothing was written of late, and there is no memory to give back.
    pub(super) fn is_resting(&self) -> bool {
        self.ring.is_resting()
    }

    /// Gives memory back that has not been used for a while.
    pub(super) fn release_idle(&mut self, pool: &mut ChunkPool) {
        self.ring.release_idle(pool);
    }

    /// Gives all memory back: the stream is over.
    pub(super) fn release(mut self, pool: &mut ChunkPool) {
        self.ring.release(pool);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stream(bytes: &[u8]) -> SendStream {
        let mut stream = SendStream::new(1 << 20);
        stream.write(&mut ChunkPool::default(), bytes);
        stream
    }

    /// In permille.
    const OWN_LOSS: u64 = 50;

    proptest! {
        #[test]
        fn what_is_sent_again_is_what_was_written_however_it_is_acknowledged(
            fates in proptest::collection::vec((0_u8..4, 1_usize..60_000), 1..400),
        ) {
            let (mut pool, len) = (ChunkPool::default(), 6 << 20);
            let mut stream = SendStream::new(u64::MAX);
            let written: Vec<u8> = (0..len).map(|at: u32| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
            stream.write(&mut pool, &written);
            let mut under_way: VecDeque<Segment> = VecDeque::new();
            for (fate, room) in fates.into_iter().cycle().take(3000) {
                if let Some(segment) = stream.next_segment(room, OWN_LOSS) {
                    let (mut bytes, at) = (Vec::new(), segment.offset as usize);
                    stream.append_to(&segment, &mut bytes);
                    prop_assert_eq!(&bytes[..], &written[at..at + segment.len]);
                    under_way.push_back(segment);
                }
                if fate == 0 || under_way.len() > 20 {
                    let Some(segment) = under_way.pop_front() else { continue };
                    let range = segment.offset..segment.offset + segment.len as u64;
                    if fate < 2 { stream.on_lost(range, false) } else { stream.on_acked(&mut pool, range, false) }
                }
                prop_assert!(stream.kept() <= len as u64 - stream.unacked_from());
                prop_assert!(stream.kept() >= stream.unacked());
            }
            stream.release(&mut pool);
            pool.release_idle();
            pool.release_idle();
            prop_assert_eq!(pool.held(), 0);
        }
    }

    #[test]
    fn lost_bytes_go_before_new_ones_and_are_cut_to_the_room() {
        let mut stream = stream(&[0; 100]);
        stream.next_segment(60, OWN_LOSS);
        stream.on_lost(10..40, false);
        let mut order = Vec::new();
        while let Some(segment) = stream.next_segment(20, OWN_LOSS) {
            order.push((segment.offset, segment.len, segment.retransmission));
        }
        assert_eq!(order, [(10, 20, true), (30, 10, true), (60, 20, false), (80, 20, false)]);
    }

    #[test]
    fn what_is_lost_twice_is_sent_again_apart_from_each_other() {
        let mut stream = stream(&vec![0; 200 * 1024]);
        stream.next_segment(1000, OWN_LOSS);
        for _ in 0..2 {
            stream.on_lost(100..200, false);
            let again = stream.next_segment(1000, OWN_LOSS).unwrap();
            assert_eq!((again.offset, again.len, again.retransmission), (100, 100, true));
        }
        assert!(!stream.has_lost());
        let mut new = 0;
        let copy = loop {
            let segment = stream.next_segment(1000, OWN_LOSS).unwrap();
            if segment.retransmission {
                break segment;
            }
            new += segment.len as u64;
        };
        assert_eq!((copy.offset, copy.len), (100, 100));
        assert!((COPY_AFTER..COPY_AFTER + 1000).contains(&new), "after {new} bytes");
        stream.on_lost(100..200, false);
        stream.on_acked(&mut ChunkPool::default(), 0..1000, false);
        assert!(!stream.has_lost(), "one of the copies arrived");
        stream.on_lost(2000..2100, false);
        assert_eq!(stream.next_segment(1000, OWN_LOSS).unwrap().offset, 2000);
        assert!(!stream.has_lost(), "lost once");
    }

    #[test]
    fn bytes_acknowledged_by_a_copy_are_not_lost_again() {
        let mut stream = stream(&[0; 100]);
        stream.next_segment(100, OWN_LOSS);
        stream.on_acked(&mut ChunkPool::default(), 20..50, false);
        stream.on_lost(10..60, false);
        assert_eq!(
            (stream.next_segment(100, OWN_LOSS).unwrap().offset, stream.next_segment(100, OWN_LOSS).unwrap().offset),
            (10, 50)
        );
        assert_eq!(stream.next_segment(100, OWN_LOSS), None);
    }

    #[test]
    fn the_end_travels_alone_when_it_comes_late_and_again_when_lost() {
        let mut stream = stream(b"abc");
        assert!(!stream.next_segment(10, OWN_LOSS).unwrap().fin);
        stream.finish();
        let fin = Segment { offset: 3, len: 0, fin: true, retransmission: false };
        assert_eq!(stream.next_segment(10, OWN_LOSS), Some(fin));
        assert_eq!(stream.next_segment(10, OWN_LOSS), None);
        stream.on_lost(3..3, true);
        assert!(stream.has_lost() && !stream.has_new());
        assert_eq!(stream.next_segment(10, OWN_LOSS), Some(fin));
        stream.on_acked(&mut ChunkPool::default(), 3..3, true);
        assert!(!stream.is_acked());
        stream.on_acked(&mut ChunkPool::default(), 0..3, false);
        assert!(stream.is_acked());
    }

    #[test]
    fn what_the_peer_has_consumed_is_not_sent_again_where_symbols_covered_it() {
        let mut stream = stream(&[0; 100]);
        stream.next_segment(100, OWN_LOSS);
        stream.on_lost(10..60, false);
        assert!(stream.on_credit(&mut ChunkPool::default(), 40, 1000));
        assert_eq!(stream.unacked(), 100, "an ack will say so");
        stream.on_covered(70);
        assert!(stream.on_credit(&mut ChunkPool::default(), 50, 1000));
        stream.on_lost(0..20, false);
        let again = stream.next_segment(100, OWN_LOSS).unwrap();
        assert_eq!((again.offset, again.len, stream.unacked()), (50, 10, 50));
        assert_eq!(stream.next_segment(100, OWN_LOSS), None);
    }

    #[test]
    fn credit_beyond_what_was_written_is_refused() {
        let mut stream = stream(b"abc");
        let mut pool = ChunkPool::default();
        assert!(!stream.on_credit(&mut pool, 4, 100));
        assert!(stream.on_credit(&mut pool, 3, 100));
        assert_eq!((stream.backlog(), stream.credit()), (0, (1 << 20) - 3));
    }
}
