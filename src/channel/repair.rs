//! Repair symbols over a burst's end, where a retransmission would cost a round trip.
//!
//! What a short burst loses anywhere, and a long one within its last round trip, arrives a round trip late: there is
//! nothing left to send meanwhile. Where the path is long and lossy, a few symbols follow the last bytes when the send
//! queue has run empty. With them the far end computes what was lost, wherever in the protected stretch it was. How many
//! there are follows from the loss measured; their bytes come out of the share that copies of the end have as well
//! ([`TailCopies`]).
//!
//! A stream whose writer was refused room is in the middle of something, however empty the queue: it gets none.

use std::collections::VecDeque;
use std::time::Duration;

use smallvec::SmallVec;

use super::StreamId;
use super::layout::Layout;
use super::tail::TailCopies;
use super::wire::{self, RepairFrame, SYMBOL_HEAD_LEN};
use crate::fec::{BLOCKS_MAX, SYMBOLS_MAX, encode};
use crate::units::Instant;

/// Bytes at the end of a burst that are protected: what the far end keeps for it.
pub(super) const PROTECTED_MAX: u64 = 256 * 1024;
/// Streams whose ends are protected at once.
const GROUPS_MAX: usize = 4;
/// What a datagram with nothing but a REPAIR frame costs beyond the frame, about.
const ALONE: usize = 64;
/// Symbols fail to repair a tail this often: one in so many. To be surer costs more of the share than it saves time: at
/// 3 % of loss, one in a thousand left nothing for the next burst.
const UNREPAIRED_ONE_IN: f64 = 50.0;
/// Where the share does not allow that many, those that it allows must do more often than not.
const WORTHWHILE: f64 = 0.5;
/// Loss beyond this share is no path's own.
const LOSS_MAX: f64 = 0.25;

/// The newest bytes of a stream, as they were cut.
#[derive(Debug)]
struct Group {
    stream: StreamId,
    start: u64,
    lens: VecDeque<u16>,
    bytes: u64,
    /// The last of them are the stream's.
    fin: bool,
}

impl Group {
    fn end(&self) -> u64 {
        self.start + self.bytes
    }

    fn clear(&mut self) {
        (self.bytes, self.fin) = (0, false);
        self.lens.clear();
    }

    fn pop_front(&mut self) {
        let len = u64::from(self.lens.pop_front().unwrap_or(0));
        self.start += len;
        self.bytes -= len;
    }

    /// Drops what has arrived, and then the oldest until the rest can be described.
    fn layout(&mut self, unacked: u64) -> Layout {
        while self.start < unacked && !self.lens.is_empty() {
            self.pop_front();
        }
        // The same blocks backwards are as many, in as many runs.
        let mut backwards = Layout::default();
        let describable = self.lens.iter().rev().take_while(|len| backwards.push(1, **len)).count();
        while self.lens.len() > describable {
            self.pop_front();
        }
        let mut layout = Layout::default();
        for len in &self.lens {
            layout.push(1, *len);
        }
        layout
    }
}

/// A stream's bytes, as they lie in its buffer.
pub(super) trait Source {
    /// Everything below has arrived, and not all above; `None` where the stream is gone, or wants to go on.
    fn rests_unacked_from(&self, stream: StreamId) -> Option<u64>;
    /// Bytes sent before and not below that.
    fn copy_sent(&self, stream: StreamId, range: std::ops::Range<u64>) -> Vec<u8>;
    /// What lies below this offset may arrive by symbols.
    fn on_covered(&mut self, stream: StreamId, end: u64);
}

/// The frames of a datagram.
#[derive(Debug)]
struct Pending {
    frames: Vec<u8>,
    symbol: bool,
}

/// What was sent last, and the symbols that wait to leave.
#[derive(Debug)]
pub(super) struct RepairSender {
    /// The operator wants them: also those of the peer.
    wanted: bool,
    /// The peer knows them, too.
    enabled: bool,
    groups: SmallVec<[Group; GROUPS_MAX]>,
    /// When the last new bytes left.
    sent_at: Instant,
    /// The number of the next group of symbols.
    next: u16,
    pending: VecDeque<Pending>,
    symbols: u64,
    bytes: u64,
}

impl RepairSender {
    /// `wanted`: by the operator; `peer_takes`: the peer knows them.
    pub(super) fn new(now: Instant, wanted: bool, peer_takes: bool) -> Self {
        let (groups, pending) = (SmallVec::new(), VecDeque::new());
        RepairSender {
            wanted,
            enabled: wanted && peer_takes,
            groups,
            sent_at: now,
            next: 0,
            pending,
            symbols: 0,
            bytes: 0,
        }
    }

    /// Whether those of the peer are taken.
    pub(super) fn takes(&self) -> bool {
        self.wanted
    }

    /// Symbols sent, and their bytes.
    pub(super) fn sent(&self) -> (u64, u64) {
        (self.symbols, self.bytes)
    }

    /// Whether the end of a burst is worth symbols now.
    pub(super) fn pays(&self, tail: &TailCopies, srtt: Duration) -> bool {
        self.enabled && tail.pays_symbols(srtt)
    }

    /// Stream bytes left for the first time. `covers`: it pays now, and a symbol as long as these fits a datagram.
    pub(super) fn on_sent(
        &mut self,
        now: Instant,
        covers: bool,
        (stream, offset): (StreamId, u64),
        (len, fin): (u16, bool),
    ) {
        self.pending.clear();
        self.sent_at = now;
        if !covers || usize::from(len) > Layout::SYMBOL_LEN_MAX {
            // Its list stays: where the path loses about as much as pays, it comes and goes.
            self.groups.iter_mut().filter(|group| group.stream == stream).for_each(Group::clear);
            return;
        }
        let known = self.groups.iter().position(|group| group.stream == stream);
        let place = known.unwrap_or_else(|| {
            if self.groups.len() == GROUPS_MAX {
                self.groups.remove(0);
            }
            self.groups.push(Group { stream, start: offset, lens: VecDeque::new(), bytes: 0, fin: false });
            self.groups.len() - 1
        });
        let group = &mut self.groups[place];
        if group.end() != offset {
            group.clear();
            group.start = offset;
        }
        group.fin = fin;
        if len > 0 {
            group.lens.push_back(len);
            group.bytes += u64::from(len);
        }
        while group.lens.len() > BLOCKS_MAX || group.bytes > PROTECTED_MAX {
            group.pop_front();
        }
    }

    /// When symbols are to be made, if the queue is and stays empty.
    pub(super) fn poll_timeout(&self, tail: &TailCopies, srtt: Duration, source: &impl Source) -> Option<Instant> {
        let rests = |group: &Group| !group.lens.is_empty() && source.rests_unacked_from(group.stream).is_some();
        (self.pays(tail, srtt) && self.groups.iter().any(rests)).then(|| self.sent_at + tail.delay(srtt))
    }

    /// Makes the symbols that are due, as far as the share allows; to be called with an empty queue only. Whether there
    /// are any.
    pub(super) fn poll(
        &mut self,
        now: Instant,
        (srtt, longest): (Duration, usize),
        tail: &mut TailCopies,
        source: &mut impl Source,
    ) -> bool {
        if self.poll_timeout(tail, srtt, source).is_none_or(|at| at > now) {
            return false;
        }
        for mut group in std::mem::take(&mut self.groups) {
            if source.rests_unacked_from(group.stream).is_some() {
                self.protect(&mut group, longest, tail, source);
            } else {
                self.groups.push(group);
            }
        }
        !self.pending.is_empty()
    }

    fn protect(&mut self, group: &mut Group, longest: usize, tail: &mut TailCopies, source: &mut impl Source) {
        let Some(unacked) = source.rests_unacked_from(group.stream) else { return };
        let (layout, stream) = (group.layout(unacked), group.stream);
        if layout.blocks() == 0 {
            return;
        }
        let offset_low = group.start as u32;
        let mut repair = RepairFrame { group: self.next, stream, offset_low, fin: group.fin, symbols: 0, layout };
        let mut frame = Vec::new();
        wire::put_repair(&repair, &mut frame);
        let symbol_len = repair.layout.symbol_len() + SYMBOL_HEAD_LEN;
        // In each of the symbols' datagrams, or alone before and after them.
        let together = frame.len() + symbol_len <= longest;
        let (once, each) =
            if together { (0, frame.len() + symbol_len) } else { (2 * (frame.len() + ALONE), symbol_len) };
        let affordable = tail.affordable().saturating_sub(once as u64) / each as u64;
        let affordable = usize::try_from(affordable).unwrap_or(usize::MAX).min(SYMBOLS_MAX);
        let blocks = repair.layout.blocks();
        let Some(symbols) = symbols_for(blocks, tail.loss_share(), affordable, UNREPAIRED_ONE_IN) else { return };
        let blocks: Vec<Vec<u8>> =
            repair.layout.ranges(group.start).map(|range| source.copy_sent(stream, range)).collect();
        repair.symbols = symbols as u8;
        let Some(made) = encode(repair.shape(), blocks.iter().map(Vec::as_slice)) else { return };
        tail.spend((once + each * symbols) as u64);
        source.on_covered(stream, group.end());
        self.next = self.next.wrapping_add(1);
        frame.clear();
        wire::put_repair(&repair, &mut frame);
        let alone = || Pending { frames: frame.clone(), symbol: false };
        if !together {
            self.pending.push_back(alone());
        }
        for (index, symbol) in made.iter().enumerate() {
            let mut frames = Vec::with_capacity(each);
            if together {
                frames.extend_from_slice(&frame);
            }
            wire::put_symbol(repair.group, index as u8, symbol, &mut frames);
            self.pending.push_back(Pending { frames, symbol: true });
        }
        if !together {
            self.pending.push_back(alone());
        }
    }

    /// Whether symbols wait to leave.
    pub(super) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Appends the next symbol, or what describes them, if it fits in `room` bytes; those longer than `longest` are
    /// dropped. It ends the datagram.
    pub(super) fn put_symbol(&mut self, room: usize, longest: usize, out: &mut Vec<u8>) -> bool {
        // The path may have become narrower meanwhile.
        self.pending.retain(|pending| pending.frames.len() <= longest);
        if self.pending.front().is_none_or(|pending| pending.frames.len() > room) {
            return false;
        }
        let Some(pending) = self.pending.pop_front() else { return false };
        self.symbols += u64::from(pending.symbol);
        self.bytes += pending.frames.len() as u64;
        out.extend_from_slice(&pending.frames);
        true
    }
}

/// How many symbols repair so many blocks where this share of all datagrams is lost, but for one time in `fail_one_in`, or
/// as many of them as are affordable; `None` where so few as are affordable would not help.
pub(super) fn symbols_for(blocks: usize, loss: f64, affordable: usize, fail_one_in: f64) -> Option<usize> {
    let fails = |symbols: usize| more_lost_than(symbols, blocks + symbols, loss.min(LOSS_MAX));
    if affordable == 0 {
        return None;
    }
    let enough = (1..affordable).find(|symbols| fails(*symbols) * fail_one_in < 1.0);
    enough.or_else(|| (fails(affordable) < WORTHWHILE).then_some(affordable))
}

/// How probable it is that more than `symbols` of `all` datagrams are lost, each on its own.
fn more_lost_than(symbols: usize, all: usize, loss: f64) -> f64 {
    let kept = 1.0 - loss;
    let mut exactly = kept.powi(all as i32);
    let mut at_most = exactly;
    for lost in 0..symbols.min(all) {
        exactly *= (all - lost) as f64 / (lost + 1) as f64 * (loss / kept);
        at_most += exactly;
    }
    1.0 - at_most
}

#[cfg(test)]
mod tests {
    use super::super::layout::RUNS_MAX;
    use super::*;

    #[test]
    fn there_are_as_many_symbols_as_the_loss_asks_for() {
        assert_eq!(symbols_for(12, 0.01, 64, UNREPAIRED_ONE_IN), Some(1));
        assert_eq!(symbols_for(46, 0.01, 64, UNREPAIRED_ONE_IN), Some(2));
        assert_eq!(symbols_for(46, 0.03, 64, UNREPAIRED_ONE_IN), Some(4));
        assert_eq!(symbols_for(180, 0.03, 64, UNREPAIRED_ONE_IN), Some(11));
        assert_eq!(symbols_for(180, 0.03, 8, UNREPAIRED_ONE_IN), Some(8), "more often than not");
        assert_eq!(symbols_for(180, 0.03, 4, UNREPAIRED_ONE_IN), None, "saved for a shorter burst");
        assert_eq!(symbols_for(1, 0.01, 0, UNREPAIRED_ONE_IN), None);
    }

    #[test]
    fn the_chance_of_a_failure_is_that_of_the_binomial_distribution() {
        let close = |value: f64, expected: f64| assert!((value - expected).abs() < 1e-9, "{value}, not {expected}");
        close(more_lost_than(0, 1, 0.25), 0.25);
        close(more_lost_than(1, 3, 0.5), 0.5);
        close(more_lost_than(2, 2, 0.5), 0.0);
    }

    #[test]
    fn what_has_arrived_and_what_cannot_be_described_is_not_covered() {
        let lens = [8, 9, 9, 5, 6, 5, 6, 5, 7, 7, 7, 3].into();
        let mut group = Group { stream: StreamId(0), start: 100, lens, bytes: 77, fin: false };
        assert_eq!((group.layout(0).runs().len(), group.start), (RUNS_MAX, 108), "not the first");
        assert_eq!((group.layout(154).runs(), group.start, group.end()), (&[(2, 7), (1, 3)][..], 160, 177));
        assert_eq!(group.layout(177).blocks(), 0);
    }
}
