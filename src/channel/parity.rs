//! Repair symbols over what is sent again.
//!
//! A long path of a high rate has thousands of datagrams under way, and loses some of them, their retransmissions and
//! those of these. Whatever follows waits at the far end for the last of them: each further time that one byte is lost
//! costs a round trip of memory there, and where that has a bound, of goodput. So the datagrams that bring
//! retransmissions are numbered in groups, and a few symbols follow each group. With them the far end computes what is
//! lost for the second time. A tenth of what is sent again is enough for that where 64 datagrams make a group, which is
//! half a percent of all where 5 % are lost; to send all of it twice would cost ten times as much. Where the far end has
//! room, what is lost twice is copied alone ([`super::send_stream`]), which costs less.
//!
//! Retransmissions of what was lost together would leave together, and be lost together again: the blocks of a group keep
//! a distance, filled with what is new.
//!
//! A block is all that a datagram carries after its BLOCK frame: STREAM frames, each with its length. What comes out of
//! the symbols is read like a datagram, so nobody has to be told what the blocks were.

mod receiver;

use std::collections::VecDeque;
use std::time::Duration;

use smallvec::SmallVec;

pub(super) use self::receiver::ParityReceiver;
use super::StreamId;
use super::repair::symbols_for;
use super::wire;
use crate::fec::{Shape, encode};
use crate::units::Instant;

/// Blocks of a group at most.
pub(super) const BLOCKS_MAX: usize = 64;
/// Below this RTT a retransmission is quick enough.
const RTT_MIN: Duration = Duration::from_millis(5);
/// A group ends this part of an RTT after it began.
const AGE_DIVISOR: u32 = 4;
/// Symbols are worth their bytes where that many of the datagrams under way, in hundredths, are lost twice.
const LOST_TWICE_HUNDREDTHS: f64 = 20.0;
/// Symbols fail to repair a group this often: one in so many.
const UNREPAIRED_ONE_IN: f64 = 300.0;
/// Symbols take this share of the stream bytes sent at most, in permille …
const SHARE_PERMILLE: u64 = 10;
/// … and no more than one in so many of those that are lost.
const LOST_DIVISOR: u64 = 3;
/// Bytes of that share that are saved up at most, in thousandths.
const SAVED_MAX: u64 = 64 * 1024 * 1000;
/// So many datagrams lie between two blocks of a group, and between two of its symbols: few bursts of losses take more
/// than one of them.
const APART: u64 = 10;
/// Unless retransmissions have been waiting for this part of an RTT.
const APART_DIVISOR: u32 = 16;
/// The loss measurement forgets half of itself each time it has seen this many datagrams.
const LOSS_WINDOW: u64 = 8192;
/// Losses that make a share credible.
const LOSSES_MIN: u64 = 8;

/// What is lost, and in how many pieces.
#[derive(Debug, Default)]
struct Losses {
    settled: u64,
    lost: u64,
    bursts: u64,
    last: u64,
}

/// Symbols of a group that wait to leave.
#[derive(Debug)]
struct Waiting {
    /// Not before the datagram of this number, unless there is nothing else to send.
    after: u64,
    frame: Vec<u8>,
}

/// The group that is being filled, and symbols that wait to leave.
#[derive(Debug)]
pub(super) struct ParitySender {
    enabled: bool,
    losses: Losses,
    /// Bytes that symbols may take, in thousandths.
    budget: u64,
    /// The number of the group that is being filled.
    group: u16,
    bytes_of_blocks: Vec<u8>,
    /// Where each of its blocks ends.
    ends: Vec<usize>,
    began: Instant,
    /// How far the blocks reach in their streams.
    reach: SmallVec<[(StreamId, u64); 2]>,
    waiting: VecDeque<Waiting>,
    /// The next block is not to leave before the datagram of this number …
    next_block: u64,
    /// … unless retransmissions have been waiting for long.
    losing_since: Option<Instant>,
    symbols: u64,
    bytes: u64,
}

impl ParitySender {
    /// `enabled`: the operator wants symbols, and the peer takes these.
    pub(super) fn new(now: Instant, enabled: bool) -> Self {
        ParitySender {
            enabled,
            losses: Losses::default(),
            budget: 0,
            group: 0,
            bytes_of_blocks: Vec::new(),
            ends: Vec::new(),
            began: now,
            reach: SmallVec::new(),
            waiting: VecDeque::new(),
            next_block: 0,
            losing_since: None,
            symbols: 0,
            bytes: 0,
        }
    }

    /// Symbols sent, and their bytes.
    pub(super) fn sent(&self) -> (u64, u64) {
        (self.symbols, self.bytes)
    }

    /// Datagrams have arrived.
    pub(super) fn on_arrived(&mut self) {
        self.losses.settled += 1;
    }

    /// The datagram of this number is lost.
    pub(super) fn on_lost(&mut self, number: u64) {
        let losses = &mut self.losses;
        losses.settled += 1;
        losses.lost += 1;
        losses.bursts += u64::from(number != losses.last + 1);
        losses.last = number;
        if losses.settled >= LOSS_WINDOW {
            (losses.settled, losses.lost, losses.bursts) = (losses.settled / 2, losses.lost / 2, losses.bursts / 2);
        }
    }

    /// The path is another: what it loses is not known.
    pub(super) fn on_new_path(&mut self) {
        self.losses = Losses::default();
    }

    /// The share of datagrams that are lost, for whatever reason, in permille.
    pub(super) fn loss_permille(&self) -> u64 {
        if self.losses.lost < LOSSES_MIN { 0 } else { self.losses.lost * 1000 / self.losses.settled.max(1) }
    }

    /// Whether symbols are worth their bytes where the path loses this share and holds so many datagrams.
    pub(super) fn pays(&self, loss_permille: u64, srtt: Duration, held: u64) -> bool {
        let lost = loss_permille as f64 / 1000.0;
        self.enabled && srtt >= RTT_MIN && held as f64 * lost * lost * 100.0 >= LOST_TWICE_HUNDREDTHS
    }

    /// Stream bytes left for the first time.
    pub(super) fn on_new(&mut self, bytes: u64, loss_permille: u64) {
        let share = SHARE_PERMILLE.min(loss_permille / LOST_DIVISOR);
        self.budget = (self.budget + bytes * share).min(SAVED_MAX);
    }

    /// The group of the next block, and its place there.
    pub(super) fn next_place(&self) -> (u16, u8) {
        (self.group, self.ends.len() as u8)
    }

    /// Nothing is to be sent again.
    pub(super) fn on_none_losing(&mut self) {
        self.losing_since = None;
    }

    /// Whether a block would leave too soon after another if it did with the datagram of this number.
    pub(super) fn is_too_soon(&mut self, (now, number): (Instant, u64), srtt: Duration) -> bool {
        let since = *self.losing_since.get_or_insert(now);
        number < self.next_block && now - since < srtt / APART_DIVISOR
    }

    /// What the datagram of this number carries leaves, as a block.
    pub(super) fn on_block(
        &mut self,
        (now, number): (Instant, u64),
        block: &[u8],
        reach: impl Iterator<Item = (StreamId, u64)>,
    ) {
        self.next_block = number + APART;
        if self.ends.is_empty() {
            self.began = now;
        }
        self.bytes_of_blocks.extend_from_slice(block);
        self.ends.push(self.bytes_of_blocks.len());
        for (stream, end) in reach {
            match self.reach.iter_mut().find(|(known, _)| *known == stream) {
                Some((_, known)) => *known = end.max(*known),
                None => self.reach.push((stream, end)),
            }
        }
    }

    /// When the group is to end.
    pub(super) fn deadline(&self, srtt: Duration) -> Option<Instant> {
        (!self.ends.is_empty()).then(|| self.began + srtt / AGE_DIVISOR)
    }

    /// Whether the group is full, or old.
    pub(super) fn is_over(&self, now: Instant, srtt: Duration) -> bool {
        self.ends.len() == BLOCKS_MAX || self.deadline(srtt).is_some_and(|at| at <= now)
    }

    /// Ends the group if it is full or old, and makes its symbols as far as the share allows. `covered` is told how far
    /// they reach.
    pub(super) fn poll(
        &mut self,
        (now, next_number): (Instant, u64),
        (loss_permille, srtt): (u64, Duration),
        mut covered: impl FnMut(StreamId, u64),
    ) {
        if !self.is_over(now, srtt) {
            return;
        }
        let reach = std::mem::take(&mut self.reach);
        if let Some(made) = self.make(next_number, loss_permille) {
            self.budget = self.budget.saturating_sub(made * 1000);
            reach.into_iter().for_each(|(stream, end)| covered(stream, end));
        }
        self.group = self.group.wrapping_add(1);
        self.bytes_of_blocks.clear();
        self.ends.clear();
    }

    /// Makes the group's symbols; gives their bytes.
    fn make(&mut self, next_number: u64, loss_permille: u64) -> Option<u64> {
        let count = self.ends.len();
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        let ranges = starts.zip(&self.ends).map(|(start, end)| start..*end);
        let longest = ranges.clone().map(|range| range.len()).max()?;
        let len = longest.next_multiple_of(2);
        let each = (len + wire::PARITY_HEAD_LEN) as u64;
        // So many of a group are lost at once.
        let burst = (self.losses.lost / self.losses.bursts.max(1)).max(1).div_ceil(APART) as usize;
        let affordable = usize::try_from(self.budget / 1000 / each).unwrap_or(usize::MAX).min(BLOCKS_MAX / 2);
        let lost = loss_permille as f64 / 1000.0;
        let bursts = symbols_for(count.div_ceil(burst), lost, affordable / burst, UNREPAIRED_ONE_IN)?;
        let shape = Shape { blocks: count, symbols: bursts * burst, len };
        let made = encode(shape, ranges.map(|range| &self.bytes_of_blocks[range]))?;
        let first = self.waiting.back().map_or(next_number, |last| last.after.max(next_number));
        for (index, symbol) in made.iter().enumerate() {
            let mut frame = Vec::with_capacity(each as usize);
            wire::put_parity((self.group, index as u8), &shape, symbol, &mut frame);
            self.waiting.push_back(Waiting { after: first + (index as u64 + 1) * APART, frame });
        }
        Some(each * made.len() as u64)
    }

    /// Whether symbols wait to leave.
    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether the next symbol is to leave with the datagram of this number. `idle`: nothing else waits.
    pub(super) fn is_due(&self, number: u64, idle: bool) -> bool {
        self.waiting.front().is_some_and(|first| idle || number >= first.after)
    }

    /// Appends the next symbol if it fits in `room` bytes; those longer than `longest` are dropped. It ends the datagram.
    pub(super) fn put_symbol(&mut self, room: usize, longest: usize, out: &mut Vec<u8>) -> bool {
        // The path may have become narrower meanwhile.
        self.waiting.retain(|waiting| waiting.frame.len() <= longest);
        if self.waiting.front().is_none_or(|waiting| waiting.frame.len() > room) {
            return false;
        }
        let Some(waiting) = self.waiting.pop_front() else { return false };
        self.symbols += 1;
        self.bytes += waiting.frame.len() as u64;
        out.extend_from_slice(&waiting.frame);
        true
    }

    /// Bytes of blocks and symbols.
    pub(super) fn memory(&self) -> usize {
        self.bytes_of_blocks.capacity() + self.waiting.iter().map(|waiting| waiting.frame.len()).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SRTT: Duration = Duration::from_millis(100);
    const LOSS: u64 = 50;

    fn sender() -> ParitySender {
        let mut sender = ParitySender::new(Instant::ZERO, true);
        sender.on_new(16 << 20, LOSS);
        sender
    }

    /// A group of so many blocks, all of which left at once; the symbols that it makes after `age`.
    fn symbols(sender: &mut ParitySender, blocks: usize, age: Duration) -> usize {
        for _ in 0..blocks {
            sender.on_block((Instant::ZERO, 0), &[7; 1400], [(StreamId(2), 5000)].into_iter());
        }
        let before = sender.waiting.len();
        sender.poll((Instant::ZERO + age, 100), (LOSS, SRTT), |stream, end| {
            assert_eq!((stream, end), (StreamId(2), 5000));
        });
        sender.waiting.len() - before
    }

    #[test]
    fn a_group_ends_when_it_is_full_or_old_and_gets_what_its_loss_asks_for() {
        let mut sender = sender();
        assert_eq!(symbols(&mut sender, 63, Duration::ZERO), 0, "neither");
        assert_eq!(sender.deadline(SRTT), Some(Instant::ZERO + SRTT / 4));
        let full = symbols(&mut sender, 1, Duration::ZERO);
        assert!((8..=11).contains(&full), "{full}");
        assert_eq!((sender.next_place(), sender.deadline(SRTT)), ((1, 0), None));
        let old = symbols(&mut sender, 20, SRTT / 4);
        assert!((4..=6).contains(&old), "{old}");
        assert_eq!(sender.next_place(), (2, 0));
    }

    #[test]
    fn losses_that_come_together_take_as_many_of_a_group_as_lie_in_their_reach() {
        let mut sender = sender();
        (0..40).for_each(|burst| (0..5).for_each(|at| sender.on_lost(burst * 100 + at)));
        let short = symbols(&mut sender, 64, Duration::ZERO);
        assert!((8..=11).contains(&short), "{short}");
        (0..400).for_each(|burst| (0..15).for_each(|at| sender.on_lost(burst * 100 + at)));
        let long = symbols(&mut sender, 64, Duration::ZERO);
        assert!(long > short && long.is_multiple_of(2), "{long}");
    }

    #[test]
    fn blocks_keep_their_distance_unless_much_waits() {
        let mut sender = sender();
        assert!(!sender.is_too_soon((Instant::ZERO, 0), SRTT), "the first");
        symbols(&mut sender, 1, Duration::ZERO);
        assert!(sender.is_too_soon((Instant::ZERO, APART - 1), SRTT));
        assert!(!sender.is_too_soon((Instant::ZERO, APART), SRTT), "far enough");
        let late = Instant::ZERO + SRTT / APART_DIVISOR;
        assert!(!sender.is_too_soon((late, 1), SRTT), "some have been waiting since");
        sender.on_none_losing();
        assert!(sender.is_too_soon((late, 1), SRTT), "they left");
    }

    #[test]
    fn symbols_take_their_share_and_no_more() {
        let mut sender = ParitySender::new(Instant::ZERO, true);
        assert_eq!(symbols(&mut sender, 64, Duration::ZERO), 0, "nothing saved up");
        let (mut new, mut made) = (0, 0);
        for _ in 0..100 {
            sender.on_new(400_000, LOSS);
            new += 400_000;
            made += symbols(&mut sender, 64, Duration::ZERO) as u64 * 1406;
        }
        assert!(made > 0 && made * 1000 <= new * SHARE_PERMILLE, "{made} of {new}");
        let mut sparing = ParitySender::new(Instant::ZERO, true);
        sparing.on_new(new, 0);
        assert_eq!(sparing.budget, 0, "what loses nothing saves nothing up");
    }

    #[test]
    fn they_leave_apart_unless_nothing_else_waits() {
        let mut sender = sender();
        symbols(&mut sender, 64, Duration::ZERO);
        assert!(!sender.is_due(100, false) && sender.is_due(100, true));
        let mut out = Vec::new();
        assert!(sender.is_due(100 + APART, false) && !sender.put_symbol(1405, 1406, &mut out), "no room now");
        assert!(sender.put_symbol(1406, 1406, &mut out) && !sender.is_due(100 + APART, false));
        assert!(sender.is_due(100 + 2 * APART, false) && out.len() == 1406);
        assert!(!sender.put_symbol(1406, 1200, &mut out) && !sender.has_waiting(), "the path is narrower now");
    }

    #[test]
    fn they_pay_where_much_is_lost_twice() {
        let sender = sender();
        let pays = |loss, rtt_ms, held| sender.pays(loss, Duration::from_millis(rtt_ms), held);
        assert!(pays(50, 150, 13_000) && pays(10, 100, 9_000));
        assert!(!pays(1, 100, 9_000) && !pays(50, 25, 60) && !pays(50, 1, 13_000) && !pays(0, 300, 100_000));
        assert!(!ParitySender::new(Instant::ZERO, false).pays(50, SRTT, 13_000), "the peer does not know them");
    }

    #[test]
    fn loss_is_known_after_some_and_forgotten_with_the_path() {
        let mut sender = sender();
        (0..7).for_each(|number| sender.on_lost(number * 2));
        assert_eq!(sender.loss_permille(), 0, "a few");
        (7..10).for_each(|number| sender.on_lost(number * 2));
        (0..990).for_each(|_| sender.on_arrived());
        assert_eq!(sender.loss_permille(), 10);
        sender.on_new_path();
        assert_eq!(sender.loss_permille(), 0);
    }
}
