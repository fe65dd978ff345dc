//! Frame buffers with headroom, and what keeps steady traffic free of allocation: lists of memory for reuse.

use std::ops::{Deref, DerefMut};

/// Bytes kept free in front of an IP packet: virtio-net header (10), Ethernet header (14), two VLAN tags (8),
/// rounded up.
pub const HEADROOM: usize = 64;

/// One frame as a TAP takes it (virtio-net header, then Ethernet), or the part of it built so far.
///
/// Headers are put in front of a payload that is already in place, so an IP packet is written once.
#[derive(Clone, Debug, Default)]
pub struct FrameBuf {
    /// As long as the longest frame it has held.
    storage: Vec<u8>,
    start: usize,
    end: usize,
}

impl FrameBuf {
    /// An empty frame with [`HEADROOM`] bytes free in front.
    pub fn with_headroom() -> Self {
        FrameBuf { storage: vec![0; HEADROOM], start: HEADROOM, end: HEADROOM }
    }

    /// A frame with these bytes and no headroom.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut frame = FrameBuf::with_headroom();
        frame.resize_for_overwrite(bytes.len()).copy_from_slice(bytes);
        frame
    }

    /// Makes the payload `len` bytes long (new bytes are zero) and returns it.
    pub fn resize(&mut self, len: usize) -> &mut [u8] {
        let before = self.end - self.start;
        let payload = self.resize_for_overwrite(len);
        if len > before {
            payload[before..].fill(0);
        }
        payload
    }

    /// Makes the payload `len` bytes long and returns it. New bytes are what an earlier frame left there: for a caller
    /// who writes every one of them, and wants no 64 KiB cleared before.
    pub fn resize_for_overwrite(&mut self, len: usize) -> &mut [u8] {
        self.end = self.start + len;
        if self.storage.len() < self.end {
            self.storage.resize(self.end, 0);
        }
        &mut self.storage[self.start..self.end]
    }

    /// Takes `len` bytes of headroom into the frame and returns them.
    ///
    /// # Panics
    /// When the headroom is used up: the caller's headers are longer than [`HEADROOM`], a bug.
    pub fn prepend(&mut self, len: usize) -> &mut [u8] {
        let start = self.start.checked_sub(len).expect("invariant: headers fit in HEADROOM");
        self.start = start;
        &mut self.storage[start..start + len]
    }

    /// Empties the frame and restores its headroom; keeps the allocation.
    pub fn clear(&mut self) {
        if self.storage.len() < HEADROOM {
            self.storage.resize(HEADROOM, 0);
        }
        (self.start, self.end) = (HEADROOM, HEADROOM);
    }
}

impl PartialEq for FrameBuf {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for FrameBuf {}

impl Deref for FrameBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.storage[self.start..self.end]
    }
}

impl DerefMut for FrameBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.storage[self.start..self.end]
    }
}

/// Memory for reuse, given out last in, first out. How much there may be is for its owner to say.
#[derive(Debug)]
pub struct FreeList<T> {
    free: Vec<T>,
    /// The fewest that were free since idle ones were last released.
    idle: usize,
}

impl<T> FreeList<T> {
    /// The piece given back last; `None` when none is free.
    pub fn take(&mut self) -> Option<T> {
        let piece = self.free.pop();
        self.idle = self.idle.min(self.free.len());
        piece
    }

    /// Gives a piece back.
    pub fn put(&mut self, piece: T) {
        self.free.push(piece);
    }

    /// How many are free.
    pub fn len(&self) -> usize {
        self.free.len()
    }

    /// Whether none is free.
    pub fn is_empty(&self) -> bool {
        self.free.is_empty()
    }

    /// Drops the pieces that nobody has needed since the last call, and says how many: what a burst has left behind.
    pub fn release_idle(&mut self) -> usize {
        let released = self.idle;
        self.free.truncate(self.free.len() - released);
        self.idle = self.free.len();
        released
    }
}

impl<T> Default for FreeList<T> {
    fn default() -> Self {
        FreeList { free: Vec::new(), idle: 0 }
    }
}

/// Empty frames for reuse.
#[derive(Debug, Default)]
pub struct FramePool {
    free: FreeList<FrameBuf>,
}

impl FramePool {
    /// Frames kept at most; what comes back beyond is freed. 64 super-segments are 4 MiB.
    pub const LIMIT: usize = 64;

    /// An empty frame, reused where one is free.
    pub fn take(&mut self) -> FrameBuf {
        self.free.take().unwrap_or_else(FrameBuf::with_headroom)
    }

    /// Gives a frame back.
    pub fn put(&mut self, mut frame: FrameBuf) {
        if self.free.len() < Self::LIMIT {
            frame.clear();
            self.free.put(frame);
        }
    }

    /// Frees the frames that nobody has needed since the last call, as [`FreeList::release_idle`].
    pub fn release_idle(&mut self) {
        self.free.release_idle();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_go_in_front_of_a_payload_in_place() {
        let mut frame = FrameBuf::with_headroom();
        frame.resize(3).copy_from_slice(b"xyz");
        frame.prepend(2).copy_from_slice(b"ab");
        assert_eq!(&*frame, b"abxyz");
        frame.clear();
        assert!(frame.is_empty());
        frame.prepend(HEADROOM);
        assert_eq!(frame.len(), HEADROOM);
    }

    #[test]
    fn a_frame_used_again_shows_nothing_of_the_last_one() {
        let mut frame = FrameBuf::from_bytes(&[7; 100]);
        frame.clear();
        assert!(frame.is_empty());
        assert_eq!(frame.resize(40), [0; 40]);
        frame.copy_from_slice(&[1; 40]);
        assert_eq!(frame.resize(20).len(), 20);
        assert_eq!(frame.resize(60)[20..], [0; 40], "cut off, then grown");
        assert_eq!(frame.resize(300)[60..], [0; 240], "beyond what it ever held");
        assert_eq!(frame, FrameBuf::from_bytes(&frame));
    }

    #[test]
    fn a_pool_keeps_no_more_than_its_limit_and_hands_out_empty_frames() {
        let mut pool = FramePool::default();
        for _ in 0..FramePool::LIMIT + 5 {
            pool.put(FrameBuf::from_bytes(b"old"));
        }
        assert_eq!(pool.free.len(), FramePool::LIMIT);
        assert!(pool.take().is_empty());
    }

    #[test]
    fn a_pool_gives_back_what_nobody_needed_for_a_while() {
        let mut pool = FramePool::default();
        (0..9).for_each(|_| pool.put(FrameBuf::from_bytes(b"burst")));
        pool.release_idle();
        assert_eq!(pool.free.len(), 9, "they were in use a moment ago");
        let used = [pool.take(), pool.take()];
        used.into_iter().for_each(|frame| pool.put(frame));
        pool.release_idle();
        assert_eq!(pool.free.len(), 2);
        pool.release_idle();
        assert_eq!(pool.free.len(), 0);
    }
}
