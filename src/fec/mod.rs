//! Blocks to repair symbols and back.
//!
//! A block is what RFC 6363 section 2 calls a source symbol; its name here is another because it may be shorter than a
//! symbol. All blocks that symbols are made over are that section's source block.
//!
//! The code is systematic and, with enough symbols, perfect: any `k` of `k` blocks and their symbols give all blocks. One
//! symbol alone is the blocks' exclusive or; several are of the Reed-Solomon code over GF(2^16) of the crate
//! reed-solomon-simd, made for exactly that number of blocks and symbols. A block shorter than a symbol counts as filled
//! up with zeros.
//!
//! Of the crate's engines this is the one that needs no tables of 8 MiB and 20 ms to make them: that would be as much
//! memory as a session may have beyond its BDP, and a stall. 11 symbols over 180 blocks of 1446 bytes take 0.5 to 0.9 ms to
//! make, and 7 lost blocks 3 to 9 ms to compute (with SIMD .05 and .4 to 1), which is little where it saves a round trip.

use reed_solomon_simd::engine::Naive;
use reed_solomon_simd::rate::{DefaultRateDecoder, DefaultRateEncoder, RateDecoder, RateEncoder};

/// Blocks that symbols are made over at most.
pub const BLOCKS_MAX: usize = 1024;
/// Symbols made over the same blocks at most.
pub const SYMBOLS_MAX: usize = 64;

/// How many blocks and symbols there are, and how long a symbol is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Blocks, at most [`BLOCKS_MAX`].
    pub blocks: usize,
    /// Repair symbols, at most [`SYMBOLS_MAX`].
    pub symbols: usize,
    /// Bytes of a symbol: even, and no block is longer.
    pub len: usize,
}

impl Shape {
    /// Whether there is such a code.
    pub fn is_valid(&self) -> bool {
        (1..=BLOCKS_MAX).contains(&self.blocks)
            && (1..=SYMBOLS_MAX).contains(&self.symbols)
            && self.len > 0
            && self.len.is_multiple_of(2)
    }
}

fn add(sum: &mut [u8], block: &[u8]) {
    sum.iter_mut().zip(block).for_each(|(sum, byte)| *sum ^= byte);
}

/// Makes the symbols over `blocks`, in their order. `None` where `shape` is not theirs.
pub fn encode<'a>(shape: Shape, blocks: impl IntoIterator<Item = &'a [u8]>) -> Option<Vec<Vec<u8>>> {
    if !shape.is_valid() {
        return None;
    }
    let mut blocks = blocks.into_iter();
    let taken = blocks.by_ref().take(shape.blocks);
    if shape.symbols == 1 {
        let mut sum = vec![0; shape.len];
        let mut count = 0;
        for block in taken {
            if block.len() > shape.len {
                return None;
            }
            add(&mut sum, block);
            count += 1;
        }
        return (count == shape.blocks && blocks.next().is_none()).then(|| vec![sum]);
    }
    let mut encoder = DefaultRateEncoder::new(shape.blocks, shape.symbols, shape.len, Naive::new(), None).ok()?;
    let mut filled = vec![0; shape.len];
    for block in taken {
        filled.get_mut(..block.len())?.copy_from_slice(block);
        filled[block.len()..].fill(0);
        encoder.add_original_shard(&filled).ok()?;
    }
    if blocks.next().is_some() {
        return None;
    }
    let symbols = encoder.encode().ok()?;
    Some(symbols.recovery_iter().map(<[u8]>::to_vec).collect())
}

/// Gives the missing blocks with their places, ascending, each filled up to a symbol's length. `blocks` are those that
/// are here with their places, `symbols` some symbols with theirs. `None` where that is too little, or not of `shape`.
pub fn recover<'a>(
    shape: Shape,
    blocks: impl IntoIterator<Item = (usize, &'a [u8])>,
    symbols: impl IntoIterator<Item = (usize, &'a [u8])>,
) -> Option<Vec<(usize, Vec<u8>)>> {
    if !shape.is_valid() {
        return None;
    }
    let mut here = vec![false; shape.blocks];
    if shape.symbols == 1 {
        let (index, symbol) = symbols.into_iter().next()?;
        let mut sum = symbol.to_vec();
        if index != 0 || sum.len() != shape.len {
            return None;
        }
        for (place, block) in blocks {
            if block.len() > shape.len || std::mem::replace(here.get_mut(place)?, true) {
                return None;
            }
            add(&mut sum, block);
        }
        let mut missing = here.iter().enumerate().filter(|(_, here)| !**here).map(|(place, _)| place);
        let place = missing.next()?;
        return missing.next().is_none().then(|| vec![(place, sum)]);
    }
    let mut decoder = DefaultRateDecoder::new(shape.blocks, shape.symbols, shape.len, Naive::new(), None).ok()?;
    let mut filled = vec![0; shape.len];
    for (place, block) in blocks {
        filled.get_mut(..block.len())?.copy_from_slice(block);
        filled[block.len()..].fill(0);
        decoder.add_original_shard(place, &filled).ok()?;
        *here.get_mut(place)? = true;
    }
    for (index, symbol) in symbols {
        decoder.add_recovery_shard(index, symbol).ok()?;
    }
    let decoded = decoder.decode().ok()?;
    let mut missing: Vec<_> = decoded.restored_original_iter().map(|(place, block)| (place, block.to_vec())).collect();
    missing.sort_by_key(|(place, _)| *place);
    Some(missing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn blocks(shape: Shape, seed: u8) -> Vec<Vec<u8>> {
        let byte = |block: usize, at: usize| (block * 31 + at * 7 + usize::from(seed) + at * at / 5) as u8;
        // Some are shorter than a symbol.
        let len = |block: usize| shape.len - if block % 5 == 4 { shape.len / 3 } else { 0 };
        (0..shape.blocks).map(|block| (0..len(block)).map(|at| byte(block, at)).collect()).collect()
    }

    fn slices(blocks: &[Vec<u8>]) -> impl Iterator<Item = &[u8]> {
        blocks.iter().map(Vec::as_slice)
    }

    proptest! {
        #[test]
        fn what_is_missing_comes_back_when_there_are_as_many_symbols_and_never_otherwise(
            count in 1_usize..80,
            symbols in 1_usize..12,
            half in 1_usize..100,
            seed in any::<u8>(),
            fates in proptest::collection::vec(any::<u8>(), 100),
        ) {
            let shape = Shape { blocks: count, symbols, len: half * 2 };
            let source = blocks(shape, seed);
            let repair = encode(shape, slices(&source)).unwrap();
            prop_assert_eq!(repair.len(), symbols);
            let lost = |at: usize| fates[at].is_multiple_of(16);
            let here = source.iter().enumerate().filter(|(at, _)| !lost(*at)).map(|(at, block)| (at, &block[..]));
            let held = repair.iter().enumerate().filter(|(at, _)| !lost(80 + at)).map(|(at, symbol)| (at, &symbol[..]));
            let (missing, held_count) = (count - here.clone().count(), held.clone().count());
            let recovered = recover(shape, here, held);
            if missing > held_count {
                prop_assert_eq!(recovered, None);
            } else if missing > 0 {
                let recovered = recovered.unwrap();
                prop_assert_eq!(recovered.len(), missing);
                for (place, bytes) in recovered {
                    prop_assert!(lost(place));
                    let (head, filling) = bytes.split_at(source[place].len());
                    prop_assert_eq!(head, &source[place][..]);
                    prop_assert!(filling.iter().all(|byte| *byte == 0));
                }
            }
        }

        #[test]
        fn nothing_that_contradicts_itself_is_decoded_or_panics(
            shape in (0_usize..9, 0_usize..5, 0_usize..9),
            blocks in proptest::collection::vec((0_usize..12, proptest::collection::vec(any::<u8>(), 0..9)), 0..12),
            symbols in proptest::collection::vec((0_usize..9, proptest::collection::vec(any::<u8>(), 0..9)), 0..9),
        ) {
            let shape = Shape { blocks: shape.0, symbols: shape.1, len: shape.2 };
            let _ = encode(shape, blocks.iter().map(|(_, block)| &block[..]));
            let recovered = recover(
                shape,
                blocks.iter().map(|(at, block)| (*at, &block[..])),
                symbols.iter().map(|(at, symbol)| (*at, &symbol[..])),
            );
            prop_assert!(recovered.is_none_or(|recovered| recovered.len() <= shape.blocks));
        }
    }

    #[test]
    fn limits_and_odd_lengths_are_refused() {
        let shape = |blocks, symbols, len| Shape { blocks, symbols, len };
        for bad in
            [shape(0, 1, 2), shape(1, 0, 2), shape(BLOCKS_MAX + 1, 1, 2), shape(1, SYMBOLS_MAX + 1, 2), shape(1, 1, 3)]
        {
            assert!(!bad.is_valid() && encode(bad, []).is_none(), "{bad:?}");
        }
        assert_eq!(encode(shape(2, 1, 2), [&[1, 2][..]]), None, "a block is wanting");
        assert_eq!(encode(shape(1, 1, 2), [&[1, 2, 3][..]]), None, "longer than a symbol");
        assert_eq!(encode(shape(1, 2, 2), [&[1][..], &[2]]), None, "one too many");
    }
}
