//! A queue of small records in blocks of one size: it takes as much memory as it has records, and gives it back.

use std::collections::VecDeque;
use std::ops::{Index, IndexMut};

/// Records of a block.
const BLOCK: usize = 256;
/// Blocks kept for reuse.
const SPARE_MAX: usize = 4;

/// Records that come at the back and go at the front.
#[derive(Debug)]
pub(super) struct Log<T> {
    /// All but the last are full.
    blocks: VecDeque<Vec<T>>,
    spare: Vec<Vec<T>>,
    /// Records of the first block that are gone.
    gone: usize,
}

impl<T> Default for Log<T> {
    fn default() -> Self {
        Log { blocks: VecDeque::new(), spare: Vec::new(), gone: 0 }
    }
}

impl<T: Copy> Log<T> {
    /// How many records there are.
    pub(super) fn len(&self) -> usize {
        self.blocks.back().map_or(0, |last| (self.blocks.len() - 1) * BLOCK + last.len() - self.gone)
    }

    /// Adds one at the back.
    pub(super) fn push_back(&mut self, record: T) {
        match self.blocks.back_mut() {
            Some(last) if last.len() < BLOCK => last.push(record),
            _ => {
                let mut block = self.spare.pop().unwrap_or_else(|| Vec::with_capacity(BLOCK));
                block.push(record);
                self.blocks.push_back(block);
            }
        }
    }

    /// The first.
    pub(super) fn front(&self) -> Option<&T> {
        self.blocks.front()?.get(self.gone)
    }

    /// Drops the first `count`.
    pub(super) fn drop_front(&mut self, count: usize) {
        debug_assert!(count <= self.len());
        self.gone += count;
        while let Some(first) = self.blocks.front()
            && self.gone >= first.len()
        {
            self.gone -= first.len();
            if let Some(mut block) = self.blocks.pop_front()
                && self.spare.len() < SPARE_MAX
            {
                block.clear();
                self.spare.push(block);
            }
        }
    }

    /// Those from index `from` on.
    pub(super) fn range(&self, from: usize) -> impl Iterator<Item = &T> {
        let at = self.gone + from;
        let blocks = self.blocks.range((at / BLOCK).min(self.blocks.len())..);
        blocks.flatten().skip(at % BLOCK)
    }

    /// Gives spare blocks back.
    pub(super) fn release_idle(&mut self) {
        self.spare = Vec::new();
    }

    /// Bytes of memory it holds.
    pub(super) fn memory(&self) -> usize {
        (self.blocks.len() + self.spare.len()) * BLOCK * size_of::<T>()
    }
}

impl<T: Copy> Index<usize> for Log<T> {
    type Output = T;
    fn index(&self, index: usize) -> &T {
        let at = self.gone + index;
        &self.blocks[at / BLOCK][at % BLOCK]
    }
}

impl<T: Copy> IndexMut<usize> for Log<T> {
    fn index_mut(&mut self, index: usize) -> &mut T {
        let at = self.gone + index;
        &mut self.blocks[at / BLOCK][at % BLOCK]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn behaves_as_a_queue(steps in proptest::collection::vec((0_usize..700, 0_usize..700), 1..30)) {
            let (mut log, mut model, mut next) = (Log::default(), VecDeque::new(), 0_u32);
            for (push, drop) in steps {
                for _ in 0..push {
                    log.push_back(next);
                    model.push_back(next);
                    next += 1;
                }
                let drop = drop.min(model.len());
                log.drop_front(drop);
                model.drain(..drop);
                prop_assert_eq!((log.len(), log.front()), (model.len(), model.front()));
                for (index, expected) in model.iter().enumerate() {
                    prop_assert_eq!(log[index], *expected);
                }
                let from = model.len() / 2;
                prop_assert!(log.range(from).eq(model.range(from..)));
                prop_assert!(log.blocks.len() <= model.len() / BLOCK + 2);
            }
        }
    }

    #[test]
    fn memory_follows_what_is_kept() {
        let mut log = Log::default();
        (0..100 * BLOCK as u64).for_each(|record| log.push_back(record));
        assert_eq!(log.memory(), 100 * BLOCK * 8);
        log.drop_front(100 * BLOCK);
        log.release_idle();
        assert_eq!((log.len(), log.memory()), (0, 0));
    }
}
