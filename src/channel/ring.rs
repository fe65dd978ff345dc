//! A window onto a byte stream: bytes between two absolute offsets, kept in a ring that grows with what it holds.

/// Capacity below which nothing is given back to the allocator.
const KEEP: usize = 64 * 1024;

/// Stream bytes from `base` on, at most the ring's capacity.
#[derive(Clone, Debug, Default)]
pub(super) struct ByteRing {
    storage: Vec<u8>,
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

    fn place(&self, offset: u64) -> usize {
        // The capacity is a power of two.
        (offset & (self.storage.len() as u64 - 1)) as usize
    }

    fn grow(&mut self, span: usize) {
        if span <= self.storage.len() {
            return;
        }
        let storage = vec![0; span.next_power_of_two().max(4096)];
        let mut bigger = ByteRing { storage, base: self.base, end: self.end, touched: self.touched };
        let mut offset = self.base;
        while offset < self.end {
            let chunk = self.chunk(offset, (self.end - offset) as usize).len();
            let place = bigger.place(offset);
            let fits = chunk.min(bigger.storage.len() - place);
            let (from, to) = (self.chunk(offset, fits), &mut bigger.storage[place..place + fits]);
            to.copy_from_slice(from);
            offset += fits as u64;
        }
        *self = bigger;
    }

    fn chunk(&self, offset: u64, len: usize) -> &[u8] {
        let place = self.place(offset);
        &self.storage[place..(place + len).min(self.storage.len())]
    }

    /// Writes bytes at an absolute offset at or above [`ByteRing::base`]; there may be a hole before them.
    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        debug_assert!(offset >= self.base);
        if bytes.is_empty() {
            return;
        }
        self.touched = true;
        let end = offset + bytes.len() as u64;
        self.grow((end.max(self.end) - self.base) as usize);
        let place = self.place(offset);
        let first = bytes.len().min(self.storage.len() - place);
        self.storage[place..place + first].copy_from_slice(&bytes[..first]);
        self.storage[..bytes.len() - first].copy_from_slice(&bytes[first..]);
        self.end = self.end.max(end);
    }

    /// Copies bytes from an absolute offset into `out`.
    pub(super) fn copy(&self, offset: u64, out: &mut [u8]) {
        debug_assert!(offset >= self.base && offset + out.len() as u64 <= self.end);
        if out.is_empty() {
            return;
        }
        let first = self.chunk(offset, out.len());
        let split = first.len();
        out[..split].copy_from_slice(first);
        let rest = out.len() - split;
        out[split..].copy_from_slice(&self.storage[..rest]);
    }

    /// Bytes from an absolute offset where they lie, in two pieces where they cross the end of the ring.
    pub(super) fn slices(&self, offset: u64, len: usize) -> (&[u8], &[u8]) {
        debug_assert!(offset >= self.base && offset + len as u64 <= self.end);
        if len == 0 {
            return (&[], &[]);
        }
        let first = self.chunk(offset, len);
        (first, &self.storage[..len - first.len()])
    }

    /// Appends bytes from an absolute offset to `out`.
    pub(super) fn append_to(&self, offset: u64, len: usize, out: &mut Vec<u8>) {
        debug_assert!(offset >= self.base && offset + len as u64 <= self.end);
        if len == 0 {
            return;
        }
        let first = self.chunk(offset, len);
        out.extend_from_slice(first);
        out.extend_from_slice(&self.storage[..len - first.len()]);
    }

    /// Forgets everything below `base`.
    pub(super) fn advance(&mut self, base: u64) {
        debug_assert!(base >= self.base);
        self.base = base;
        self.end = self.end.max(base);
    }

    /// Gives the memory of an empty ring back if nothing was written since the last call. A ring in use runs empty after
    /// every loss is repaired: to give its memory back then would cost more page faults than copying.
    pub(super) fn release_idle(&mut self) {
        if !std::mem::take(&mut self.touched) && self.base == self.end && self.storage.len() > KEEP {
            self.storage = Vec::new();
        }
    }

    /// Bytes of memory it holds.
    pub(super) fn capacity(&self) -> usize {
        self.storage.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn gives_back_what_was_written_across_wraps_and_growth(steps in proptest::collection::vec((1_usize..9000, 0_usize..9000), 1..40)) {
            let mut ring = ByteRing::default();
            let (mut written, mut read) = (0_u64, 0_u64);
            for (write, consume) in steps {
                let bytes: Vec<u8> = (written..written + write as u64).map(|at| (at % 251) as u8).collect();
                ring.write(written, &bytes);
                written += write as u64;
                let take = consume.min((written - read) as usize);
                let mut out = vec![0; take];
                ring.copy(read, &mut out);
                let mut appended = Vec::new();
                ring.append_to(read, take, &mut appended);
                let expected: Vec<u8> = (read..read + take as u64).map(|at| (at % 251) as u8).collect();
                prop_assert_eq!(&out, &expected);
                prop_assert_eq!(&appended, &expected);
                let (head, tail) = ring.slices(read, take);
                prop_assert_eq!(&[head, tail].concat(), &expected);
                read += take as u64;
                ring.advance(read);
                prop_assert_eq!((ring.base(), ring.end()), (read, written));
            }
        }
    }

    #[test]
    fn memory_stays_while_the_ring_is_in_use_and_goes_when_it_rests_empty() {
        let mut ring = ByteRing::default();
        ring.write(0, &[7; 4 * KEEP]);
        ring.advance(4 * KEEP as u64);
        ring.release_idle();
        assert_eq!(ring.capacity(), 4 * KEEP);
        ring.write(4 * KEEP as u64, b"x");
        ring.release_idle();
        ring.release_idle();
        assert_eq!(ring.capacity(), 4 * KEEP, "not empty");
        ring.advance(4 * KEEP as u64 + 1);
        ring.release_idle();
        assert_eq!(ring.capacity(), 0);
        ring.write(4 * KEEP as u64 + 1, b"y");
        assert_eq!((ring.base(), ring.end()), (4 * KEEP as u64 + 1, 4 * KEEP as u64 + 2));
    }

    #[test]
    fn holes_are_filled_later() {
        let mut ring = ByteRing::default();
        ring.write(5000, b"later");
        ring.write(0, &[7; 5000]);
        let mut out = vec![0; 5005];
        ring.copy(0, &mut out);
        assert_eq!(&out[4999..], b"\x07later");
    }
}
