//! The peer's direction of a stream: reassembly and the credit we grant.

use std::ops::Range;

use super::chunk::ChunkPool;
use super::ranges::RangeSet;
use super::ring::ByteRing;

/// Credit a stream begins with.
pub(super) const INITIAL_WINDOW: u64 = 16 << 20;
/// Credit that the first answer grants: a start that doubles every RTT is not to wait for it on any path to 1 Gbps over
/// 300 ms. What arrives is read at once, so that it takes no memory.
const FIRST_WINDOW: u64 = 128 << 20;
/// Credit a stream grows to at most: more than the BDP of 10 Gbps over 300 ms.
pub(super) const WINDOW_MAX: u64 = 512 << 20;

/// Bytes on their way to us.
#[derive(Debug)]
pub(super) struct RecvStream {
    ring: ByteRing,
    /// Everything below was read; the ring may keep some of it.
    consumed: u64,
    /// Bytes that were read and are kept, for repair symbols to be applied to.
    keep: u64,
    received: RangeSet,
    /// One past the last byte, once known.
    end: Option<u64>,
    /// Everything below is here.
    contiguous: u64,
    window: u64,
    /// The peer was told to send below this offset.
    limit: u64,
    /// Consumed offset last told.
    told: u64,
}

/// The peer sent beyond its credit or contradicts itself about the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Violation;

impl RecvStream {
    pub(super) fn new() -> Self {
        RecvStream {
            ring: ByteRing::default(),
            consumed: 0,
            keep: 0,
            received: RangeSet::default(),
            end: None,
            contiguous: 0,
            window: FIRST_WINDOW,
            limit: INITIAL_WINDOW,
            told: 0,
        }
    }

    /// The offset that a truncated offset in a frame is nearest to.
    pub(super) fn expected(&self) -> u64 {
        self.contiguous
    }

    /// Takes bytes in any order; true when there is more to read than before (the end counts).
    pub(super) fn insert(
        &mut self,
        pool: &mut ChunkPool,
        offset: u64,
        bytes: &[u8],
        fin: bool,
    ) -> Result<bool, Violation> {
        let frame_end = offset.checked_add(bytes.len() as u64).ok_or(Violation)?;
        if frame_end > self.limit || self.end.is_some_and(|end| frame_end > end || (fin && frame_end != end)) {
            return Err(Violation);
        }
        if fin && frame_end < self.ring.end() {
            return Err(Violation);
        }
        let ended_before = self.is_whole();
        if fin {
            self.end = Some(frame_end);
        }
        let before = self.contiguous;
        if frame_end > before {
            let skip = before.saturating_sub(offset) as usize;
            self.ring.write(pool, offset + skip as u64, &bytes[skip..]);
            if offset <= before && self.received.is_empty() {
                self.contiguous = frame_end;
            } else {
                self.received.insert(offset.max(before)..frame_end);
                if let Some(first) = self.received.first()
                    && first.start <= before
                {
                    self.contiguous = first.end;
                    self.received.pop_first();
                }
            }
        }
        Ok(self.contiguous > before || (!ended_before && self.is_whole()))
    }

    /// Whether the end and everything before it is here.
    pub(super) fn is_whole(&self) -> bool {
        self.end == Some(self.contiguous)
    }

    pub(super) fn readable(&self) -> usize {
        (self.contiguous - self.consumed) as usize
    }

    pub(super) fn peek(&self, out: &mut [u8]) -> usize {
        let len = out.len().min(self.readable());
        self.ring.copy(self.consumed, &mut out[..len]);
        len
    }

    /// The next bytes where they lie.
    pub(super) fn peek_slices(&self, len: usize) -> (&[u8], &[u8]) {
        self.ring.slices(self.consumed, len.min(self.readable()))
    }

    /// Consumes bytes; at most what is readable.
    pub(super) fn consume(&mut self, pool: &mut ChunkPool, len: usize) {
        self.consumed += len.min(self.readable()) as u64;
        self.forget(pool);
    }

    /// Whether the end has been reached and everything consumed.
    pub(super) fn is_finished(&self) -> bool {
        self.end == Some(self.consumed)
    }

    /// Whether the peer should hear of what was consumed: it sizes its backlog by it.
    pub(super) fn has_news(&self) -> bool {
        self.consumed > self.told
    }

    /// The credit to tell: consumed offset and limit.
    pub(super) fn credit(&mut self) -> (u64, u64) {
        let consumed = self.consumed;
        self.told = consumed;
        self.limit = self.limit.max(consumed + self.window);
        (consumed, self.limit)
    }

    /// The reader keeps up with at least a quarter of a window per RTT: the window may soon be what limits the peer.
    pub(super) fn widen(&mut self, consumed_per_rtt: u64) {
        if consumed_per_rtt * 4 >= self.window {
            self.window = (self.window * 2).min(WINDOW_MAX);
        }
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

    /// Bytes consumed since the stream began.
    pub(super) fn consumed(&self) -> u64 {
        self.consumed
    }

    /// Forgets what was read and need not be kept.
    fn forget(&mut self, pool: &mut ChunkPool) {
        let kept_from = self.consumed.saturating_sub(self.keep);
        if kept_from > self.ring.base() {
            self.ring.advance(pool, kept_from);
        }
    }

    /// Whether bytes that were read are kept.
    pub(super) fn keeps(&self) -> bool {
        self.keep > 0
    }

    /// Keeps this many bytes that were read from now on.
    pub(super) fn set_keep(&mut self, pool: &mut ChunkPool, keep: u64) {
        self.keep = keep;
        self.forget(pool);
    }

    /// Whether nothing has arrived since memory was last given back.
    pub(super) fn is_quiet(&self) -> bool {
        !self.ring.is_touched()
    }

    /// One past the last byte that may arrive.
    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// Bytes below, if they have arrived, are not here any more.
    pub(super) fn kept_from(&self) -> u64 {
        self.ring.base()
    }

    /// Whether all these bytes have arrived.
    pub(super) fn has(&self, range: &Range<u64>) -> bool {
        range.end <= self.contiguous || self.received.covers(&(range.start.max(self.contiguous)..range.end))
    }

    /// Bytes that are here.
    pub(super) fn copy(&self, range: Range<u64>) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.ring.append_to(range.start, (range.end - range.start) as usize, &mut bytes);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_in_any_order_become_a_stream() {
        let mut stream = RecvStream::new();
        assert_eq!(stream.insert(&mut ChunkPool::default(), 3, b"def", true), Ok(false));
        assert_eq!(stream.readable(), 0);
        assert_eq!(stream.insert(&mut ChunkPool::default(), 0, b"abcd", false), Ok(true));
        let mut out = [0; 10];
        assert_eq!(stream.peek(&mut out), 6);
        assert_eq!(&out[..6], b"abcdef");
        stream.consume(&mut ChunkPool::default(), 6);
        assert!(stream.is_finished());
        assert_eq!(
            stream.insert(&mut ChunkPool::default(), 0, b"abcd", false),
            Ok(false),
            "an old copy changes nothing"
        );
    }

    #[test]
    fn a_late_end_is_news() {
        let mut stream = RecvStream::new();
        assert_eq!(stream.insert(&mut ChunkPool::default(), 0, b"ab", false), Ok(true));
        stream.consume(&mut ChunkPool::default(), 2);
        assert!(!stream.is_finished());
        assert_eq!(stream.insert(&mut ChunkPool::default(), 2, b"", true), Ok(true));
        assert!(stream.is_finished());
    }

    #[test]
    fn a_peer_beyond_its_credit_or_past_its_end_is_refused() {
        let mut stream = RecvStream::new();
        assert_eq!(stream.insert(&mut ChunkPool::default(), INITIAL_WINDOW, b"x", false), Err(Violation));
        assert_eq!(stream.insert(&mut ChunkPool::default(), u64::MAX, b"xx", false), Err(Violation));
        stream.insert(&mut ChunkPool::default(), 0, b"abc", true).unwrap();
        assert_eq!(stream.insert(&mut ChunkPool::default(), 3, b"d", false), Err(Violation));
        assert_eq!(stream.insert(&mut ChunkPool::default(), 0, b"ab", true), Err(Violation));
    }

    #[test]
    fn consuming_returns_credit() {
        let mut stream = RecvStream::new();
        stream.insert(&mut ChunkPool::default(), 0, &[0; 1000], false).unwrap();
        stream.consume(&mut ChunkPool::default(), 1000);
        assert!(stream.has_news());
        assert_eq!(stream.credit(), (1000, FIRST_WINDOW + 1000));
        assert!(!stream.has_news());
    }
}
