//! Which packet counters of an epoch were seen: the sliding bitmap of RFC 6479.

/// Bits of the bitmap. One word of it is always in transition, so the window is a word shorter.
const BITS: u64 = 16 * 1024;
const WORD_BITS: u64 = u64::BITS as u64;
const WORDS: usize = (BITS / WORD_BITS) as usize;

/// Remembers the counters of the latest [`ReplayWindow::LEN`] packets, 2 KiB.
#[derive(Clone, Debug)]
pub struct ReplayWindow {
    words: Box<[u64; WORDS]>,
    /// One above the highest counter seen; zero before the first.
    next: u64,
}

impl Default for ReplayWindow {
    fn default() -> Self {
        ReplayWindow { words: Box::new([0; WORDS]), next: 0 }
    }
}

impl ReplayWindow {
    /// How far behind the highest counter a packet may come and still be taken: more than 160 ms of full-size
    /// datagrams at 1 Gbps, so that reordering on the path loses nothing.
    pub const LEN: u64 = BITS - WORD_BITS;

    /// A window that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether `counter` is neither seen nor too old. Cheap enough to ask before the datagram is opened, which saves
    /// the work on duplicates; only [`ReplayWindow::check_and_set`] after it decides.
    pub fn is_new(&self, counter: u64) -> bool {
        if counter == u64::MAX {
            return false; // `next` could not stand above it; a sender rekeys long before
        }
        if counter >= self.next {
            return true;
        }
        if self.next - counter > Self::LEN {
            return false;
        }
        let (word, bit) = place(counter);
        self.words[word] & bit == 0
    }

    /// Marks `counter` as seen. False if it was already, or is too old: the packet is to be dropped.
    ///
    /// Call it for authentic packets only: a forged high counter would push the real ones out.
    pub fn check_and_set(&mut self, counter: u64) -> bool {
        if !self.is_new(counter) {
            return false;
        }
        if counter >= self.next {
            self.advance(counter);
        }
        let (word, bit) = place(counter);
        self.words[word] |= bit;
        true
    }

    /// Moves the window up to `counter` and clears the words that enter it.
    fn advance(&mut self, counter: u64) {
        let target = counter / WORD_BITS;
        // The word of the highest counter seen stays; before the first packet everything is clear anyway.
        let current = self.next.saturating_sub(1) / WORD_BITS;
        for word in 1..=(target - current).min(WORDS as u64) {
            self.words[((current + word) % WORDS as u64) as usize] = 0;
        }
        self.next = counter + 1;
    }
}

fn place(counter: u64) -> (usize, u64) {
    ((counter / WORD_BITS % WORDS as u64) as usize, 1 << (counter % WORD_BITS))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// The sequences of interest: counter, and whether it must be taken.
    #[test]
    fn each_counter_is_taken_once_while_it_is_inside_the_window() {
        const LEN: u64 = ReplayWindow::LEN;
        let mut window = ReplayWindow::new();
        for (step, (counter, taken)) in [
            (0, true),
            (0, false),
            (1, true),
            (1, false),
            (9, true),
            (8, true),
            (7, true),
            (7, false),
            (LEN, true),
            (LEN - 1, true),
            (LEN - 1, false),
            (1, false),
            (2, true),
            (2, false),
            (LEN + 16, true),
            (3, false),
            (LEN + 16, false),
            (LEN * 4, true),
            (LEN * 4 - (LEN - 1), true),
            (10, false),
            (LEN * 4 - LEN, false),
            (LEN * 4 - (LEN + 1), false),
            (LEN * 4 - (LEN - 1), false),
            (LEN * 4 + 1, true),
            (0, false),
            (u64::MAX - 1, true),
            (u64::MAX - 1, false),
            (u64::MAX - 2, true),
            (u64::MAX, false),
            (LEN * 4 + 2, false),
        ]
        .into_iter()
        .enumerate()
        {
            assert_eq!(window.is_new(counter), taken, "step {step}: {counter}");
            assert_eq!(window.check_and_set(counter), taken, "step {step}: {counter}");
        }
    }

    #[test]
    fn a_run_in_reverse_order_is_taken_whole() {
        let mut window = ReplayWindow::new();
        for counter in (0..ReplayWindow::LEN).rev() {
            assert!(window.check_and_set(counter));
        }
        for counter in 0..ReplayWindow::LEN {
            assert!(!window.check_and_set(counter));
        }
    }

    proptest! {
        /// Against a set that remembers everything.
        #[test]
        fn the_window_agrees_with_a_set(steps in proptest::collection::vec(0_u64..40_000, 1..2000)) {
            let mut window = ReplayWindow::new();
            let mut seen = BTreeSet::new();
            for counter in steps {
                let highest = seen.last().copied().unwrap_or(0);
                let expected = counter + ReplayWindow::LEN > highest && seen.insert(counter);
                prop_assert_eq!(window.check_and_set(counter), expected, "{} after {}", counter, highest);
            }
        }
    }
}
