//! How a stretch of a stream is cut into the blocks that repair symbols are made over.

use std::ops::Range;

use smallvec::SmallVec;

use crate::fec::BLOCKS_MAX;

/// Runs of blocks of one length at most.
pub(super) const RUNS_MAX: usize = 8;
/// Blocks are no longer than a datagram.
const BLOCK_LEN_MAX: u16 = 16 * 1024;
/// Bytes of all blocks at most, each filled up to a symbol's length: so many are gone through to compute symbols or
/// blocks, and nothing else is done meanwhile. A long block among many short ones would come to much more than they are.
const FILLED_MAX: usize = 512 * 1024;

fn symbol_len(block_len: u16) -> usize {
    usize::from(block_len).next_multiple_of(2)
}

/// Blocks one after the other: runs of equal length.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Layout {
    /// How many, and of how many bytes each.
    runs: SmallVec<[(u16, u16); RUNS_MAX]>,
}

impl Layout {
    /// No symbol is longer.
    pub(super) const SYMBOL_LEN_MAX: usize = BLOCK_LEN_MAX as usize;

    /// Adds blocks; false, and nothing is changed, where that is more than a layout takes.
    pub(super) fn push(&mut self, count: u16, len: u16) -> bool {
        let blocks = self.blocks() + usize::from(count);
        let symbol_len = self.symbol_len().max(symbol_len(len));
        let refused = count == 0 || len == 0 || len > BLOCK_LEN_MAX;
        if refused || blocks > BLOCKS_MAX || blocks * symbol_len > FILLED_MAX {
            return false;
        }
        let is_full = self.runs.len() == RUNS_MAX;
        match self.runs.last_mut() {
            Some((before, same)) if *same == len => *before += count,
            _ if is_full => return false,
            _ => self.runs.push((count, len)),
        }
        true
    }

    pub(super) fn runs(&self) -> &[(u16, u16)] {
        &self.runs
    }

    /// How many blocks there are.
    pub(super) fn blocks(&self) -> usize {
        self.runs.iter().map(|(count, _)| usize::from(*count)).sum()
    }

    /// Bytes of all blocks.
    pub(super) fn bytes(&self) -> u64 {
        self.runs.iter().map(|&(count, len)| u64::from(count) * u64::from(len)).sum()
    }

    /// Bytes of a symbol over them: as many as the longest has, or one more to be even.
    pub(super) fn symbol_len(&self) -> usize {
        self.runs.iter().map(|(_, len)| symbol_len(*len)).max().unwrap_or(0)
    }

    /// The stretches of the stream that the blocks are, where the first begins at `offset`.
    pub(super) fn ranges(&self, mut offset: u64) -> impl Iterator<Item = Range<u64>> + '_ {
        let lens = self.runs.iter().flat_map(|&(count, len)| std::iter::repeat_n(u64::from(len), usize::from(count)));
        lens.map(move |len| {
            let range = offset..offset + len;
            offset = range.end;
            range
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_blocks_make_one_run_and_follow_each_other() {
        let mut layout = Layout::default();
        assert!(layout.push(1, 1000) && layout.push(1, 1000) && layout.push(1, 7) && layout.push(1, 1001));
        let mut long = layout.clone();
        assert!(!long.push(1, BLOCK_LEN_MAX + 1) && (0..5).all(|odd| long.push(1, 9 + odd)), "of eight lengths");
        assert_eq!(layout.runs(), [(2, 1000), (1, 7), (1, 1001)]);
        assert_eq!((layout.blocks(), layout.bytes(), layout.symbol_len()), (4, 3008, 1002));
        let ranges: Vec<_> = layout.ranges(5).collect();
        assert_eq!(ranges, [5..1005, 1005..2005, 2005..2012, 2012..3013]);
        assert!(!long.push(1, 5), "too many runs");
        assert!(!layout.push(BLOCKS_MAX as u16, 1001), "too many blocks");
        assert_eq!(layout.blocks(), 4);
    }

    #[test]
    fn short_blocks_beside_a_long_one_count_as_long_as_it_is() {
        let mut layout = Layout::default();
        let most = (FILLED_MAX / usize::from(BLOCK_LEN_MAX)) as u16;
        assert!(layout.push(most - 1, 1) && layout.push(1, BLOCK_LEN_MAX));
        assert!(!layout.push(1, 1), "one too many");
        let mut short = Layout::default();
        assert!(short.push(BLOCKS_MAX as u16 - 1, 100) && !short.push(1, 1400), "too long for so many");
    }
}
