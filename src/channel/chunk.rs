//! Memory for stream bytes: chunks that all streams of a session share, so that it is as much as their bytes need.

use crate::buffer::FreeList;

/// Bytes of a whole chunk. Larger than a block of the codec with its header, so that a block lies in two chunks at most;
/// small enough that the first and the last chunk of a stream, which are not full, cost little.
pub(super) const CHUNK: usize = 128 * 1024;
/// Bytes of the shortest: what a stream with little to say needs.
const SHORT_MIN: usize = 4096;

/// Where chunks come from and go to.
///
/// A busy session takes and gives back hundreds per second: these are kept. Chunks that nobody has needed since
/// [`ChunkPool::release_idle`] was last called go back to the allocator with the next call.
#[derive(Debug, Default)]
pub(super) struct ChunkPool {
    free: FreeList<Box<[u8]>>,
    /// Bytes of all chunks, free or in use.
    held: usize,
}

impl ChunkPool {
    fn take(&mut self) -> Box<[u8]> {
        self.free.take().unwrap_or_else(|| {
            self.held += CHUNK;
            vec![0; CHUNK].into_boxed_slice()
        })
    }

    /// Makes `chunk`, which may be empty, `len` bytes long or more; what it holds stays at its front. What is new may
    /// hold bytes of another stream. `alone`: it is all its stream has, and need not be whole.
    pub(super) fn extend(&mut self, chunk: &mut Box<[u8]>, len: usize, alone: bool) {
        debug_assert!(len <= CHUNK && chunk.len() < len);
        let short = if alone { len.next_power_of_two().max(SHORT_MIN) } else { CHUNK };
        let mut longer = if short < CHUNK {
            self.held += short;
            vec![0; short].into_boxed_slice()
        } else {
            self.take()
        };
        longer[..chunk.len()].copy_from_slice(chunk);
        self.put(std::mem::replace(chunk, longer));
    }

    /// Takes a chunk back.
    pub(super) fn put(&mut self, chunk: Box<[u8]>) {
        if chunk.len() == CHUNK {
            self.free.put(chunk);
        } else {
            self.held -= chunk.len();
        }
    }

    /// Gives the allocator back what was not needed since the last call.
    pub(super) fn release_idle(&mut self) {
        self.held -= self.free.release_idle() * CHUNK;
    }

    /// Whether [`ChunkPool::release_idle`] has nothing to give back, now or with the next call.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.free.is_empty()
    }

    /// Bytes of all chunks.
    pub(super) fn held(&self) -> usize {
        self.held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_grows_in_steps_and_keeps_its_bytes() {
        let mut pool = ChunkPool::default();
        let mut chunk = Box::default();
        pool.extend(&mut chunk, 1, true);
        assert_eq!((chunk.len(), pool.held()), (SHORT_MIN, SHORT_MIN));
        chunk[..4].copy_from_slice(b"kept");
        pool.extend(&mut chunk, 9000, true);
        assert_eq!((chunk.len(), pool.held(), &chunk[..4]), (16_384, 16_384, &b"kept"[..]));
        pool.extend(&mut chunk, 16_385, false);
        assert_eq!((chunk.len(), pool.held(), &chunk[..4]), (CHUNK, CHUNK, &b"kept"[..]));
        pool.put(chunk);
        assert_eq!(pool.held(), CHUNK, "kept for the next");
    }

    #[test]
    fn only_what_nobody_needed_for_a_while_is_given_back() {
        let mut pool = ChunkPool::default();
        let take = |pool: &mut ChunkPool, count: usize| -> Vec<_> { (0..count).map(|_| pool.take()).collect() };
        let used = take(&mut pool, 10);
        used.into_iter().for_each(|chunk| pool.put(chunk));
        pool.release_idle();
        assert_eq!(pool.held(), 10 * CHUNK, "they were in use a moment ago");
        let used = take(&mut pool, 4);
        used.into_iter().for_each(|chunk| pool.put(chunk));
        pool.release_idle();
        assert_eq!(pool.held(), 4 * CHUNK);
        pool.release_idle();
        assert_eq!((pool.held(), pool.is_empty()), (0, true));
    }
}
