//! Blocks and symbols that have arrived, and the blocks that they give back.

use std::collections::VecDeque;

use super::BLOCKS_MAX;
use crate::channel::recv_stream::Violation;
use crate::fec::{Shape, recover};

/// Groups that are kept at once; the oldest makes room.
const GROUPS_MAX: usize = 16;
/// Bytes kept at once; the oldest group makes room.
const HELD_MAX: usize = 1024 * 1024;
/// Groups that are over and remembered, so that what comes late of them is not kept.
const OVER_MAX: usize = 32;

#[derive(Debug)]
struct Group {
    number: u16,
    /// What has arrived, with its place.
    blocks: Vec<(u8, Box<[u8]>)>,
    symbols: Vec<(u8, Box<[u8]>)>,
    /// Known with the first symbol.
    shape: Option<Shape>,
}

impl Group {
    fn bytes(&self) -> usize {
        self.blocks.iter().chain(&self.symbols).map(|(_, bytes)| bytes.len()).sum()
    }

    fn fits(&self, shape: &Shape) -> bool {
        self.blocks.iter().all(|(place, block)| usize::from(*place) < shape.blocks && block.len() <= shape.len)
    }
}

/// Groups of the peer.
#[derive(Debug, Default)]
pub(in crate::channel) struct ParityReceiver {
    groups: VecDeque<Group>,
    over: VecDeque<u16>,
    bytes: usize,
}

impl ParityReceiver {
    /// The place of the group of this number, a new one where there was none; `None` where it is over.
    fn place(&mut self, number: u16) -> Option<usize> {
        if let Some(known) = self.groups.iter().rposition(|group| group.number == number) {
            return Some(known);
        }
        if self.over.contains(&number) {
            return None;
        }
        if self.groups.len() == GROUPS_MAX {
            self.end(0);
        }
        self.groups.push_back(Group { number, blocks: Vec::new(), symbols: Vec::new(), shape: None });
        Some(self.groups.len() - 1)
    }

    fn end(&mut self, place: usize) {
        let Some(group) = self.groups.remove(place) else { return };
        self.bytes -= group.bytes();
        if self.over.len() == OVER_MAX {
            self.over.pop_front();
        }
        self.over.push_back(group.number);
    }

    /// Takes a block. Gives blocks that were lost, if that makes them known.
    pub(in crate::channel) fn on_block(
        &mut self,
        (number, index): (u16, u8),
        block: &[u8],
    ) -> Result<Vec<Vec<u8>>, Violation> {
        let Some(place) = self.place(number) else { return Ok(Vec::new()) };
        let group = &mut self.groups[place];
        if usize::from(index) >= BLOCKS_MAX || block.is_empty() {
            return Err(Violation);
        }
        if group.blocks.iter().all(|(known, _)| *known != index) {
            group.blocks.push((index, block.into()));
            self.bytes += block.len();
        }
        self.recover(place)
    }

    /// Takes a symbol. Gives blocks that were lost, if that makes them known.
    pub(in crate::channel) fn on_symbol(
        &mut self,
        (number, index): (u16, u8),
        (shape, symbol): (Shape, &[u8]),
    ) -> Result<Vec<Vec<u8>>, Violation> {
        let Some(place) = self.place(number) else { return Ok(Vec::new()) };
        let group = &mut self.groups[place];
        if *group.shape.get_or_insert(shape) != shape {
            return Err(Violation);
        }
        if group.symbols.iter().all(|(known, _)| *known != index) {
            group.symbols.push((index, symbol.into()));
            self.bytes += symbol.len();
        }
        self.recover(place)
    }

    fn recover(&mut self, place: usize) -> Result<Vec<Vec<u8>>, Violation> {
        let mut given = Vec::new();
        let group = &self.groups[place];
        if let Some(shape) = group.shape {
            if !group.fits(&shape) {
                self.end(place);
                return Err(Violation);
            }
            let missing = shape.blocks - group.blocks.len();
            if missing <= group.symbols.len() {
                if missing > 0 {
                    let blocks = group.blocks.iter().map(|(place, block)| (usize::from(*place), &block[..]));
                    let symbols = group.symbols.iter().map(|(index, symbol)| (usize::from(*index), &symbol[..]));
                    let found = recover(shape, blocks, symbols);
                    given = found.into_iter().flatten().map(|(_, block)| block).collect();
                }
                self.end(place);
            }
        }
        while self.bytes > HELD_MAX {
            self.end(0);
        }
        Ok(given)
    }

    /// Forgets everything: nothing has moved for a while.
    pub(in crate::channel) fn clear(&mut self) {
        while !self.groups.is_empty() {
            self.end(0);
        }
    }

    /// Bytes kept.
    pub(in crate::channel) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fec::encode;

    /// A group's blocks, of different lengths, its symbols and their shape.
    fn group(count: usize, symbols: usize) -> (Vec<Vec<u8>>, Vec<Vec<u8>>, Shape) {
        let blocks: Vec<Vec<u8>> =
            (0..count).map(|block| (0..700 + block % 3).map(|at| (block * 37 + at * at) as u8 | 1).collect()).collect();
        let shape = Shape { blocks: count, symbols, len: 702 };
        let made = encode(shape, blocks.iter().map(Vec::as_slice)).unwrap();
        (blocks, made, shape)
    }

    proptest! {
        #[test]
        fn as_many_blocks_as_there_are_symbols_come_back_in_any_order(
            count in 1_usize..=BLOCKS_MAX,
            symbols in 1_usize..12,
            order in any::<prop::sample::Index>(),
            lost in proptest::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let (blocks, made, shape) = group(count, symbols);
            let mut missing: Vec<usize> = lost.iter().map(|index| index.index(count)).collect();
            missing.sort_unstable();
            missing.dedup();
            let mut receiver = ParityReceiver::default();
            let mut given = Vec::new();
            let turn = order.index(count + symbols);
            for at in (0..count + symbols).map(|at| (at + turn) % (count + symbols)) {
                let came = if at >= count {
                    let index = at - count;
                    receiver.on_symbol((9, index as u8), (shape, &made[index]))
                } else if missing.contains(&at) {
                    continue;
                } else {
                    receiver.on_block((9, at as u8), &blocks[at])
                };
                given.extend(came.unwrap());
            }
            if missing.len() > symbols {
                prop_assert!(given.is_empty() && receiver.bytes() > 0);
                receiver.clear();
            } else {
                // What is missing when there are enough symbols may only be late.
                prop_assert!(missing.iter().all(|&block| given.iter().any(|given| given.starts_with(&blocks[block]))));
                let made_up = |given: &Vec<u8>| !blocks.iter().any(|block| given.starts_with(block));
                prop_assert!(!given.iter().any(made_up));
            }
            prop_assert_eq!(receiver.bytes(), 0);
            prop_assert!(receiver.on_block((9, 0), &blocks[0]).unwrap().is_empty() && receiver.bytes() == 0, "over");
        }

        #[test]
        fn whatever_a_peer_sends_stays_within_bounds(
            frames in proptest::collection::vec(
                (0_u16..40, any::<u8>(), 1_usize..80, 1_usize..70, 1_usize..9000, any::<bool>()), 0..400,
            ),
        ) {
            let mut receiver = ParityReceiver::default();
            for (number, index, blocks, symbols, len, is_block) in frames {
                let bytes = vec![index; len];
                let shape = Shape { blocks: blocks.min(BLOCKS_MAX), symbols: symbols.min(64), len: len & !1 };
                if is_block {
                    let _ = receiver.on_block((number, index), &bytes);
                } else if shape.is_valid() && usize::from(index) < shape.symbols {
                    let _ = receiver.on_symbol((number, index), (shape, &bytes[..shape.len]));
                }
                prop_assert!(receiver.bytes() <= HELD_MAX && receiver.groups.len() <= GROUPS_MAX);
                prop_assert_eq!(receiver.bytes(), receiver.groups.iter().map(Group::bytes).sum::<usize>());
            }
        }
    }

    #[test]
    fn what_contradicts_a_group_is_refused() {
        let (blocks, made, shape) = group(4, 2);
        let mut receiver = ParityReceiver::default();
        assert!(receiver.on_block((1, BLOCKS_MAX as u8), &blocks[0]).is_err(), "no such place");
        receiver.on_symbol((1, 0), (shape, &made[0])).unwrap();
        let other = Shape { symbols: 3, ..shape };
        assert!(receiver.on_symbol((1, 1), (other, &made[1])).is_err(), "another shape");
        assert!(receiver.on_block((1, 4), &blocks[0]).is_err(), "a fifth of four");
        assert_eq!(receiver.bytes(), 0);
        receiver.on_symbol((2, 0), (shape, &made[0])).unwrap();
        assert!(receiver.on_block((2, 0), &[1; 703]).is_err(), "longer than a symbol");
    }
}
