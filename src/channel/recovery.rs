//! Repair symbols that have arrived, and the bytes that they give back.
//!
//! A group's symbols are kept until all of its blocks are here, or as many of them as it takes to compute the rest. The
//! blocks themselves lie in the stream's buffer, which for that keeps some of what has been read already. Symbols and
//! what describes them arrive in any order.

use std::collections::VecDeque;

use super::StreamId;
use super::recv_stream::RecvStream;
use super::wire::RepairFrame;
use crate::fec::recover;

/// Groups whose symbols are kept at once; the oldest makes room.
const GROUPS_MAX: usize = 8;
/// Bytes of symbols kept at once; the oldest group makes room.
pub(super) const HELD_MAX: usize = 256 * 1024;
/// Groups that are over and remembered, so that what comes late of them is not kept.
const OVER_MAX: usize = 16;

/// Symbols over the same blocks.
#[derive(Debug)]
struct Group {
    number: u16,
    /// What they are made over, and the whole offset of that; `None` until it has arrived.
    made_over: Option<(RepairFrame, u64)>,
    /// Those that are here, with their numbers.
    held: Vec<(u8, Box<[u8]>)>,
}

/// What has become of a group.
enum Progress {
    Waiting,
    /// All is here, or cannot be computed any more.
    Over,
    Recovered(Vec<(u64, Vec<u8>)>),
}

fn fits(repair: &RepairFrame, index: u8, symbol: &[u8]) -> bool {
    index < repair.symbols && symbol.len() == repair.layout.symbol_len()
}

impl Group {
    fn bytes(&self) -> usize {
        self.held.iter().map(|(_, symbol)| symbol.len()).sum()
    }

    fn stream(&self) -> Option<StreamId> {
        self.made_over.as_ref().map(|(repair, _)| repair.stream)
    }

    fn progress(&self, recv: &RecvStream) -> Progress {
        let Some((repair, offset)) = &self.made_over else { return Progress::Waiting };
        let mut missing = 0;
        for range in repair.layout.ranges(*offset) {
            if !recv.has(&range) {
                missing += 1;
            } else if range.start < recv.kept_from() {
                return Progress::Over;
            }
        }
        if missing == 0 {
            return Progress::Over;
        }
        if missing > self.held.len() {
            return Progress::Waiting;
        }
        let here: Vec<(usize, Vec<u8>)> = repair
            .layout
            .ranges(*offset)
            .enumerate()
            .filter(|(_, range)| recv.has(range))
            .map(|(place, range)| (place, recv.copy(range)))
            .collect();
        let blocks = here.iter().map(|(place, block)| (*place, block.as_slice()));
        let symbols = self.held.iter().map(|(index, symbol)| (usize::from(*index), &symbol[..]));
        let Some(recovered) = recover(repair.shape(), blocks, symbols) else { return Progress::Over };
        let mut recovered = recovered.into_iter().peekable();
        let mut bytes = Vec::new();
        for (place, range) in repair.layout.ranges(*offset).enumerate() {
            if let Some((_, mut block)) = recovered.next_if(|(missing, _)| *missing == place) {
                block.truncate((range.end - range.start) as usize);
                bytes.push((range.start, block));
            }
        }
        Progress::Recovered(bytes)
    }
}

/// Symbols of all streams.
#[derive(Debug, Default)]
pub(super) struct Recovery {
    groups: VecDeque<Group>,
    over: VecDeque<u16>,
}

impl Recovery {
    /// The group of this number, a new one where there was none; `None` where it is over.
    fn group(&mut self, number: u16) -> Option<&mut Group> {
        let known = self.groups.iter().position(|group| group.number == number);
        if known.is_none() && self.over.contains(&number) {
            return None;
        }
        let place = known.unwrap_or_else(|| {
            if self.groups.len() == GROUPS_MAX {
                self.end(0);
            }
            self.groups.push_back(Group { number, made_over: None, held: Vec::new() });
            self.groups.len() - 1
        });
        self.groups.get_mut(place)
    }

    fn end(&mut self, place: usize) {
        if let Some(group) = self.groups.remove(place) {
            self.note_over(group.number);
        }
    }

    fn note_over(&mut self, number: u16) {
        if self.over.len() == OVER_MAX {
            self.over.pop_front();
        }
        self.over.push_back(number);
    }

    /// Takes what a group is made over, `offset` being that of its first block, whole. `None` where it contradicts what
    /// the peer has sent before.
    pub(super) fn on_repair(&mut self, repair: RepairFrame, offset: u64) -> Option<()> {
        let Some(group) = self.group(repair.group) else { return Some(()) };
        if let Some((known, at)) = &group.made_over {
            return (*known == repair && *at == offset).then_some(());
        }
        let before = group.held.len();
        group.held.retain(|(index, symbol)| fits(&repair, *index, symbol));
        let all_fit = group.held.len() == before;
        group.made_over = Some((repair, offset));
        all_fit.then_some(())
    }

    /// Takes a symbol; gives the stream it is of, if that is known. `None` where it does not fit its group.
    pub(super) fn on_symbol(&mut self, number: u16, index: u8, symbol: &[u8]) -> Option<Option<StreamId>> {
        let Some(group) = self.group(number) else { return Some(None) };
        if group.made_over.as_ref().is_some_and(|(repair, _)| !fits(repair, index, symbol)) {
            return None;
        }
        if group.held.iter().all(|(known, _)| *known != index) {
            group.held.push((index, symbol.into()));
        }
        let stream = group.stream();
        while self.bytes() > HELD_MAX {
            self.end(0);
        }
        Some(stream)
    }

    /// Bytes of all symbols.
    pub(super) fn bytes(&self) -> usize {
        self.groups.iter().map(Group::bytes).sum()
    }

    /// Whether there are symbols for this stream.
    pub(super) fn has(&self, stream: StreamId) -> bool {
        self.groups.iter().any(|group| group.stream() == Some(stream))
    }

    /// Forgets a stream that is gone.
    pub(super) fn forget(&mut self, stream: StreamId) {
        while let Some(place) = self.groups.iter().position(|group| group.stream() == Some(stream)) {
            self.end(place);
        }
    }

    /// Forgets a group that is of no use.
    pub(super) fn drop_group(&mut self, number: u16) {
        if let Some(place) = self.groups.iter().position(|group| group.number == number) {
            self.end(place);
        } else if !self.over.contains(&number) {
            self.note_over(number);
        }
    }

    /// Forgets all symbols: nothing has moved for a while.
    pub(super) fn clear(&mut self) {
        while !self.groups.is_empty() {
            self.end(0);
        }
    }

    /// Bytes that the symbols held give back, with their offsets; `None` where they give none now.
    pub(super) fn recover(&mut self, stream: StreamId, recv: &RecvStream) -> Option<Vec<(u64, Vec<u8>)>> {
        let mut place = 0;
        while let Some(group) = self.groups.get(place) {
            if group.stream() != Some(stream) {
                place += 1;
                continue;
            }
            match group.progress(recv) {
                Progress::Waiting => place += 1,
                Progress::Over => self.end(place),
                Progress::Recovered(bytes) => {
                    self.end(place);
                    return Some(bytes);
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_of_no_use_takes_no_other_s_place_and_nothing_late_of_it_is_kept() {
        let mut recovery = Recovery::default();
        for number in 0..GROUPS_MAX as u16 {
            assert_eq!(recovery.on_symbol(number, 0, &[1; 100]), Some(None));
        }
        recovery.drop_group(100);
        assert_eq!(recovery.on_symbol(100, 0, &[1; 100]), Some(None));
        assert_eq!(recovery.bytes(), GROUPS_MAX * 100);
        recovery.drop_group(0);
        assert_eq!(recovery.bytes(), (GROUPS_MAX - 1) * 100);
    }
}
