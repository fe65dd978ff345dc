//! A window onto a byte stream: bytes between two absolute offsets, in chunks that come and go with them.

use std::collections::VecDeque;
use std::ops::Range;

use super::chunk::{CHUNK, ChunkPool};

/// Stream bytes from `base` on.
///
/// Whenever it runs empty it begins anew at the front of the chunk it has: a stream whose bytes never wait long stays in
/// one place, which a CPU has in its cache.
#[derive(Debug, Default)]
pub(super) struct ByteRing {
    /// The first begins at `origin`; all but the last are whole, or empty where nothing was written yet or nothing is needed
    /// any more.
    chunks: VecDeque<Box<[u8]>>,
    /// Bytes between both ends that are not needed any more.
    forgotten: u64,
    origin: u64,
    base: u64,
    end: u64,
    /// Something was written since [`ByteRing::release_idle`] was last asked.
    touched: bool,
}

impl ByteRing {
    /// The offset of the first byte kept.
    pub(super) fn base(&self) -> u64 {
        self.base
    }

    /// One past the highest byte ever written.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Bytes between both ends, but for those that were forgotten.
    pub(super) fn kept(&self) -> u64 {
        self.end - self.base - self.forgotten
    }

    /// The whole chunk that a byte is in.
    pub(super) fn chunk_of(&self, offset: u64) -> Range<u64> {
        let start = offset - (offset - self.origin) % CHUNK as u64;
        start..start + CHUNK as u64
    }

    /// Gives a whole chunk back that has others on both sides: nobody reads its bytes again.
    pub(super) fn forget(&mut self, pool: &mut ChunkPool, chunk: &Range<u64>) {
        debug_assert!(chunk.start >= self.base && chunk.end < self.end);
        let (index, _) = self.place(chunk.start);
        if self.chunks[index].len() == CHUNK {
            pool.put(std::mem::take(&mut self.chunks[index]));
            self.forgotten += CHUNK as u64;
        }
    }

    /// Which chunk a byte is in, and where in it.
    fn place(&self, offset: u64) -> (usize, usize) {
        let at = (offset - self.origin) as usize;
        (at / CHUNK, at % CHUNK)
    }

    /// Writes bytes at an absolute offset at or above [`ByteRing::base`]; there may be a hole before them.
    pub(super) fn write(&mut self, pool: &mut ChunkPool, mut offset: u64, mut bytes: &[u8]) {
        debug_assert!(offset >= self.base);
        if bytes.is_empty() {
            return;
        }
        self.touched = true;
        while !bytes.is_empty() {
            let (index, at) = self.place(offset);
            let (piece, rest) = bytes.split_at(bytes.len().min(CHUNK - at));
            while self.chunks.len() <= index {
                self.chunks.push_back(Box::default());
            }
            let alone = self.chunks.len() == 1;
            let chunk = &mut self.chunks[index];
            if chunk.len() < at + piece.len() {
                pool.extend(chunk, at + piece.len(), alone);
            }
            chunk[at..at + piece.len()].copy_from_slice(piece);
            offset += piece.len() as u64;
            bytes = rest;
        }
        self.end = self.end.max(offset);
    }

    /// The bytes of a stretch where they lie, piece by piece.
    fn pieces(&self, offset: u64, len: usize) -> impl Iterator<Item = &[u8]> {
        debug_assert!(offset >= self.base && offset + len as u64 <= self.end);
        let (mut index, mut at) = self.place(offset);
        let mut left = len;
        std::iter::from_fn(move || {
            let piece = &self.chunks[index][at..(at + left).min(CHUNK)];
            (index, at, left) = (index + 1, 0, left - piece.len());
            Some(piece)
        })
        .take(if len == 0 { 0 } else { (at + len).div_ceil(CHUNK) })
    }

    /// Copies bytes from an absolute offset into `out`.
    pub(super) fn copy(&self, offset: u64, out: &mut [u8]) {
        let mut filled = 0;
        for piece in self.pieces(offset, out.len()) {
            out[filled..filled + piece.len()].copy_from_slice(piece);
            filled += piece.len();
        }
    }

    /// Bytes from an absolute offset where they lie, in two pieces where they cross from one chunk to the next; no more
    /// than a chunk is long.
    pub(super) fn slices(&self, offset: u64, len: usize) -> (&[u8], &[u8]) {
        let mut pieces = self.pieces(offset, len.min(CHUNK));
        (pieces.next().unwrap_or_default(), pieces.next().unwrap_or_default())
    }

    /// Appends bytes from an absolute offset to `out`.
    pub(super) fn append_to(&self, offset: u64, len: usize, out: &mut Vec<u8>) {
        self.pieces(offset, len).for_each(|piece| out.extend_from_slice(piece));
    }

    /// Forgets everything below `base`.
    pub(super) fn advance(&mut self, pool: &mut ChunkPool, base: u64) {
        debug_assert!(base >= self.base);
        self.base = base;
        self.end = self.end.max(base);
        let is_empty = self.base == self.end;
        while self.chunks.len() > usize::from(is_empty) && (is_empty || self.base - self.origin >= CHUNK as u64) {
            let Some(chunk) = self.chunks.pop_front() else { break };
            if chunk.is_empty() {
                // Or it was a hole: then nothing was forgotten.
                self.forgotten = self.forgotten.saturating_sub(CHUNK as u64);
            }
            pool.put(chunk);
            self.origin += CHUNK as u64;
        }
        if is_empty {
            self.origin = self.base;
        }
    }

    /// Gives the memory of an empty ring back if nothing was written since the last call. A ring in use runs empty after
    /// every loss is repaired.
    pub(super) fn release_idle(&mut self, pool: &mut ChunkPool) {
        if !std::mem::take(&mut self.touched) && self.base == self.end {
            self.release(pool);
        }
    }

    /// Gives all memory back; the bytes are gone.
    pub(super) fn release(&mut self, pool: &mut ChunkPool) {
        self.base = self.end;
        self.origin = self.end;
        self.forgotten = 0;
        self.chunks.drain(..).for_each(|chunk| pool.put(chunk));
        self.chunks.shrink_to_fit();
    }

    /// Whether something was written since [`ByteRing::release_idle`] was last asked.
    pub(super) fn is_touched(&self) -> bool {
        self.touched
    }

    /// Whether it holds no memory that could be given back.
    pub(super) fn is_resting(&self) -> bool {
        !self.touched && self.chunks.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pattern(range: std::ops::Range<u64>) -> Vec<u8> {
        range.map(|at| (at % 251) as u8).collect()
    }

    proptest! {
        #[test]
        fn gives_back_what_was_written_across_chunks(
            steps in proptest::collection::vec((1_usize..90_000, 0_usize..90_000, 0_usize..200_000), 1..40),
        ) {
            let (mut ring, mut pool) = (ByteRing::default(), ChunkPool::default());
            let (mut written, mut read) = (0_u64, 0_u64);
            for (write, consume, ahead) in steps {
                // The end first, as when the beginning was lost.
                let hole = (ahead % write) as u64;
                let bytes = pattern(written..written + write as u64);
                ring.write(&mut pool, written + hole, &bytes[hole as usize..]);
                ring.write(&mut pool, written, &bytes[..hole as usize]);
                written += write as u64;
                let take = consume.min((written - read) as usize);
                let mut out = vec![0; take];
                ring.copy(read, &mut out);
                let mut appended = Vec::new();
                ring.append_to(read, take, &mut appended);
                let expected = pattern(read..read + take as u64);
                prop_assert_eq!(&out, &expected);
                prop_assert_eq!(&appended, &expected);
                let (head, tail) = ring.slices(read, take);
                prop_assert_eq!(&[head, tail].concat(), &expected);
                read += take as u64;
                ring.advance(&mut pool, read);
                prop_assert_eq!((ring.base(), ring.end()), (read, written));
                let in_use: usize = ring.chunks.iter().map(|chunk| chunk.len()).sum();
                prop_assert!(in_use <= (written - read) as usize + 2 * CHUNK, "{} bytes in {}", written - read, in_use);
            }
            ring.release(&mut pool);
            pool.release_idle();
            pool.release_idle();
            prop_assert_eq!(pool.held(), 0);
        }
    }

    #[test]
    fn memory_stays_while_the_ring_is_in_use_and_goes_when_it_rests_empty() {
        let (mut ring, mut pool) = (ByteRing::default(), ChunkPool::default());
        let len = 4 * CHUNK as u64;
        ring.write(&mut pool, 0, &vec![7; len as usize]);
        ring.advance(&mut pool, len);
        ring.release_idle(&mut pool);
        assert_eq!((ring.chunks.len(), pool.held()), (1, 4 * CHUNK));
        ring.write(&mut pool, len, b"x");
        ring.release_idle(&mut pool);
        ring.release_idle(&mut pool);
        assert!(!ring.is_resting(), "not empty");
        ring.advance(&mut pool, len + 1);
        ring.release_idle(&mut pool);
        assert!(ring.is_resting());
        pool.release_idle();
        pool.release_idle();
        assert_eq!(pool.held(), 0);
        ring.write(&mut pool, len + 1, b"y");
        assert_eq!((ring.base(), ring.end()), (len + 1, len + 2));
    }

    #[test]
    fn a_stream_with_little_to_say_holds_little_however_far_it_gets() {
        let (mut ring, mut pool) = (ByteRing::default(), ChunkPool::default());
        for at in 0..100_000_u64 {
            ring.write(&mut pool, at * 100, &[1; 100]);
            ring.advance(&mut pool, at * 100 + 100);
        }
        assert_eq!(pool.held(), 4096);
    }

    #[test]
    fn what_lies_far_ahead_costs_no_memory_for_the_hole_before_it() {
        let (mut ring, mut pool) = (ByteRing::default(), ChunkPool::default());
        ring.write(&mut pool, 40 * CHUNK as u64, b"later");
        assert_eq!(pool.held(), CHUNK);
        ring.write(&mut pool, 0, &vec![7; 40 * CHUNK]);
        let mut out = vec![0; 5];
        ring.copy(40 * CHUNK as u64 - 1, &mut out);
        assert_eq!(&out, b"\x07late");
    }
}
