//! The streams of a session: table, what leaves next, backlog.

use std::collections::{BTreeMap, VecDeque};

use super::chunk::ChunkPool;
use super::ranges::RangeSet;
use super::recovery::Recovery;
use super::recv_stream::{self, RecvStream, Violation};
use super::send_stream::{Segment, SendStream};
use super::turns::{Share, Turns};
use super::{Event, ReadState, ResetCode, StreamId};
use crate::units::Weight;

/// Streams open at once; beyond, none is opened, and the peer's are refused.
pub(super) const STREAMS_MAX: usize = 16_384;
/// Backlog every stream of the usual weight may have, however many there are; of another weight, in proportion.
const BACKLOG_SHARE_MIN: u64 = 64 * 1024;
/// Room worth an event: less would wake the writer for crumbs.
const WRITABLE_MIN: u64 = 16 * 1024;
/// Backlog every stream may have, however light.
const BACKLOG_LEAST: u64 = 2 * WRITABLE_MIN;
/// Writers told per ack at most; the others follow with the next.
const WAKE_MAX: usize = 16;

/// A stream was refused because the table is full.
pub(super) const RESET_TABLE_FULL: ResetCode = ResetCode(1);

#[derive(Debug)]
struct Stream {
    send: SendStream,
    recv: RecvStream,
    /// Waits for its turn to send new bytes.
    ready: bool,
    /// Stands in the queue of streams with lost bytes.
    losing: bool,
    share: Share,
    /// Stands in the queue of streams whose peer should hear of credit.
    credit: bool,
    /// Its credit was told of late, and may have to be told again.
    told: bool,
    /// A write took less than offered.
    blocked: bool,
    /// The writer wants to know when the peer has consumed up to here.
    awaited: Option<u64>,
    /// A readable event waits to be polled.
    notified: bool,
    /// Stands in the list of streams whose windows and memory are looked at.
    restless: bool,
    /// Consumed offset when the window was last judged.
    judged: u64,
}

impl Stream {
    /// Its weight while it has backlog.
    fn active(&self) -> u64 {
        if self.send.backlog() > 0 { self.share.weight.into() } else { 0 }
    }
}

/// The bound on what waits at the far end is near where that much of it, in percent, is taken up.
const REASSEMBLY_FULL: u64 = 95;

/// All streams of one session.
#[derive(Debug)]
pub(super) struct Streams {
    /// We open even numbers.
    even: bool,
    opened: u32,
    /// Numbers / 2 the peer has used.
    seen: RangeSet,
    table: BTreeMap<StreamId, Stream>,
    pool: ChunkPool,
    recovery: Recovery,
    /// How long bytes that were read are still kept, in releases of idle memory.
    keeping_time: u8,
    /// Streams that keep some.
    keeping: usize,
    /// Bytes that repair symbols gave back.
    recovered: u64,
    /// Streams with lost bytes: these go before all new ones.
    losing: VecDeque<StreamId>,
    turns: Turns,
    credits: VecDeque<StreamId>,
    told: Vec<StreamId>,
    resets: VecDeque<(StreamId, ResetCode)>,
    blocked: VecDeque<StreamId>,
    /// Streams with something to judge once per RTT: thousands of others rest.
    restless: Vec<StreamId>,
    events: VecDeque<Event>,
    backlog: u64,
    /// Written and not known to have arrived, all streams.
    unacked: u64,
    /// Written and not yet sent once, all streams.
    unsent: u64,
    /// Kept of what was written, all streams.
    kept: u64,
    /// Bytes the peer has consumed, all streams there ever were.
    consumed: u64,
    /// Weights of the streams with backlog.
    active: u64,
    limit: u64,
    reassembly_limit: u64,
    kept_limit: u64,
    /// The share of datagrams that the path loses by itself, in permille.
    own_loss: u64,
}

impl Streams {
    pub(super) fn new(even: bool) -> Self {
        Streams {
            even,
            opened: 0,
            seen: RangeSet::default(),
            table: BTreeMap::new(),
            pool: ChunkPool::default(),
            recovery: Recovery::default(),
            keeping_time: 0,
            keeping: 0,
            recovered: 0,
            losing: VecDeque::new(),
            turns: Turns::default(),
            credits: VecDeque::new(),
            told: Vec::new(),
            resets: VecDeque::new(),
            blocked: VecDeque::new(),
            restless: Vec::new(),
            events: VecDeque::new(),
            backlog: 0,
            unacked: 0,
            unsent: 0,
            kept: 0,
            consumed: 0,
            active: 0,
            limit: 4 * BACKLOG_SHARE_MIN,
            reassembly_limit: 8 * BACKLOG_SHARE_MIN,
            kept_limit: 8 * BACKLOG_SHARE_MIN,
            own_loss: 0,
        }
    }

    fn stream() -> Stream {
        Stream {
            send: SendStream::new(recv_stream::INITIAL_WINDOW),
            recv: RecvStream::new(),
            ready: false,
            losing: false,
            share: Share::default(),
            credit: false,
            told: false,
            blocked: false,
            awaited: None,
            notified: false,
            restless: false,
            judged: 0,
        }
    }

    pub(super) fn open(&mut self) -> Option<StreamId> {
        if self.table.len() >= STREAMS_MAX || self.opened > u32::MAX / 2 - 1 {
            return None;
        }
        let id = StreamId(self.opened * 2 + u32::from(!self.even));
        self.opened += 1;
        self.table.insert(id, Self::stream());
        Some(id)
    }

    /// Changes how much of the line a stream gets while others want it too.
    pub(super) fn set_weight(&mut self, id: StreamId, weight: Weight) {
        if let Some(stream) = self.table.get_mut(&id) {
            let before = stream.active();
            stream.share.weight = weight;
            self.active = self.active - before + stream.active();
        }
    }

    fn is_local(&self, id: StreamId) -> bool {
        id.0.is_multiple_of(2) == self.even
    }

    /// Bytes written and not consumed by the peer, all streams.
    pub(super) fn backlog(&self) -> u64 {
        self.backlog
    }

    /// Bytes written and not yet sent once, all streams.
    pub(super) fn unsent(&self) -> u64 {
        self.unsent
    }

    /// Bytes of a stream that the peer has consumed.
    pub(super) fn consumed_of(&self, id: StreamId) -> u64 {
        self.table.get(&id).map_or(0, |stream| stream.send.consumed())
    }

    /// Has a writable event follow when the peer has consumed up to `offset`.
    pub(super) fn wake_when_consumed(&mut self, id: StreamId, offset: u64) {
        if let Some(stream) = self.table.get_mut(&id) {
            if stream.send.consumed() >= offset {
                self.events.push_back(Event::Writable(id));
            } else {
                stream.awaited = Some(offset);
            }
        }
    }

    /// Bytes the peer has consumed so far.
    pub(super) fn consumed(&self) -> u64 {
        self.consumed
    }

    /// How much of its bound the backlog takes up, in percent.
    pub(super) fn filled_percent(&self) -> u64 {
        let percent = |bytes: u64, limit: u64| bytes * 100 / limit;
        percent(self.backlog, self.reassembly_limit)
            .max(percent(self.unacked, self.limit))
            .max(percent(self.kept, self.kept_limit))
    }

    /// Whether all that may be under way is under way: the bound on it is what holds the writers back, and not the pace, which
    /// would leave bytes to be sent.
    pub(super) fn is_flight_bound(&self) -> bool {
        self.unacked * 4 >= self.limit * 3 && self.unsent * 10 <= self.unacked
    }

    /// Changes the bound on what all streams together have written and not yet brought to the peer, the wider one on what
    /// the peer has not consumed, which includes bytes that have arrived and wait behind a lost one, and that on what is
    /// kept here of it.
    pub(super) fn set_backlog_limits(&mut self, limit: u64, reassembly_limit: u64, kept_limit: u64) {
        self.limit = limit.max(4 * BACKLOG_SHARE_MIN);
        self.reassembly_limit = reassembly_limit.max(self.limit);
        self.kept_limit = kept_limit.max(self.limit);
    }

    /// How much of what is sent the path loses, whatever its queue does: so far copies of it may go.
    pub(super) fn set_own_loss(&mut self, permille: u64) {
        self.own_loss = permille;
    }

    pub(super) fn writable(&self, id: StreamId) -> u64 {
        let Some(stream) = self.table.get(&id) else { return 0 };
        let weight = u64::from(stream.share.weight);
        let sharers = self.active - stream.active() + weight;
        let least = (BACKLOG_SHARE_MIN * weight / u64::from(Weight::default())).max(BACKLOG_LEAST);
        let room = |limit: u64, own: u64, all: u64| {
            let share = (limit * weight / sharers).max(least).saturating_sub(own);
            share.min(limit.saturating_sub(all).max(least.saturating_sub(own)))
        };
        room(self.limit, stream.send.unacked(), self.unacked)
            .min(room(self.reassembly_limit, stream.send.backlog(), self.backlog))
            .min(room(self.kept_limit, stream.send.kept(), self.kept))
            .min(stream.send.credit())
    }

    /// Applies a change to a stream's send side and keeps the totals right.
    fn account<R>(&mut self, id: StreamId, change: impl FnOnce(&mut Stream, &mut ChunkPool) -> R) -> Option<R> {
        let stream = self.table.get_mut(&id)?;
        let (before, unacked_before) = (stream.send.backlog(), stream.send.unacked());
        let (unsent_before, kept_before) = (stream.send.unsent(), stream.send.kept());
        let active_before = stream.active();
        let result = change(stream, &mut self.pool);
        let after = stream.send.backlog();
        self.unsent = self.unsent - unsent_before + stream.send.unsent();
        self.kept = self.kept - kept_before + stream.send.kept();
        self.unacked = self.unacked - unacked_before + stream.send.unacked();
        self.backlog = self.backlog - before + after;
        self.active = self.active - active_before + stream.active();
        Some(result)
    }

    pub(super) fn write(&mut self, id: StreamId, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(self.writable(id) as usize);
        let Some(newly_blocked) = self.account(id, |stream, pool| {
            stream.send.write(pool, &bytes[..taken]);
            let newly = taken < bytes.len() && !stream.blocked;
            stream.blocked |= newly;
            newly
        }) else {
            return 0;
        };
        if newly_blocked {
            self.blocked.push_back(id);
        }
        self.note_restless(id);
        self.enqueue_ready(id);
        taken
    }

    pub(super) fn finish(&mut self, id: StreamId) {
        if let Some(stream) = self.table.get_mut(&id) {
            stream.send.finish();
            self.enqueue_ready(id);
        }
    }

    pub(super) fn reset(&mut self, id: StreamId, code: ResetCode) {
        if self.remove(id) {
            self.resets.push_back((id, code));
        }
    }

    fn remove(&mut self, id: StreamId) -> bool {
        let Some(stream) = self.table.remove(&id) else { return false };
        let backlog = stream.send.backlog();
        self.backlog -= backlog;
        self.unacked -= stream.send.unacked();
        self.unsent -= stream.send.unsent();
        self.kept -= stream.send.kept();
        self.active -= stream.active();
        self.keeping -= usize::from(stream.recv.keeps());
        self.recovery.forget(id);
        stream.send.release(&mut self.pool);
        stream.recv.release(&mut self.pool);
        true
    }

    fn enqueue_ready(&mut self, id: StreamId) {
        let Some(stream) = self.table.get_mut(&id) else { return };
        if stream.send.has_lost() && !std::mem::replace(&mut stream.losing, true) {
            self.losing.push_back(id);
        }
        if stream.send.has_new() && !std::mem::replace(&mut stream.ready, true) {
            self.turns.join(id, &mut stream.share);
        }
    }

    fn note_restless(&mut self, id: StreamId) {
        if let Some(stream) = self.table.get_mut(&id)
            && !std::mem::replace(&mut stream.restless, true)
        {
            self.restless.push(id);
        }
    }

    fn enqueue_credit(&mut self, id: StreamId) {
        if let Some(stream) = self.table.get_mut(&id)
            && !stream.credit
        {
            stream.credit = true;
            self.credits.push_back(id);
        }
    }

    /// Removes the stream if both directions are over.
    fn retire(&mut self, id: StreamId) {
        if self.table.get(&id).is_some_and(|stream| stream.send.is_acked() && stream.recv.is_finished()) {
            self.remove(id);
        }
    }

    // --- what leaves ---

    /// Whether what waits for something lost, at the far end, is what holds the writers back.
    pub(super) fn is_reassembly_bound(&self) -> bool {
        self.backlog * 100 >= self.reassembly_limit * REASSEMBLY_FULL
    }

    /// Whether something is to be sent again.
    pub(super) fn has_losing(&self) -> bool {
        !self.losing.is_empty()
    }

    /// Whether something waits that was never sent.
    pub(super) fn has_new(&self) -> bool {
        !self.turns.is_empty()
    }

    pub(super) fn has_ready(&self) -> bool {
        !(self.losing.is_empty() && self.turns.is_empty())
    }

    /// The next stretch to send, at most `room(stream)` bytes long, and its stream. Lost bytes go first, one stream after
    /// the other, and are not charged: streams lose in proportion to what they send.
    pub(super) fn next_segment(&mut self, room: impl Fn(StreamId) -> usize) -> Option<(StreamId, Segment)> {
        while let Some(id) = self.losing.pop_front() {
            let Some(stream) = self.table.get_mut(&id) else { continue };
            stream.losing = false;
            // What was lost may have been acknowledged since.
            if stream.send.has_lost()
                && let Some(segment) = stream.send.next_segment(room(id), self.own_loss)
            {
                if !segment.retransmission {
                    // A copy was due of what was acknowledged since.
                    self.unsent -= segment.len as u64;
                    stream.share.on_sent(segment.len);
                }
                self.enqueue_ready(id);
                return Some((id, segment));
            }
        }
        self.next_new_segment(room)
    }

    /// The next stretch that was never sent, and its stream.
    pub(super) fn next_new_segment(&mut self, room: impl Fn(StreamId) -> usize) -> Option<(StreamId, Segment)> {
        while let Some(id) = self.turns.next() {
            let Some(stream) = self.table.get_mut(&id) else { continue };
            stream.ready = false;
            if let Some(segment) = stream.send.next_new(room(id), self.own_loss) {
                self.unsent -= segment.len as u64;
                stream.share.on_sent(segment.len);
                self.enqueue_ready(id);
                return Some((id, segment));
            }
        }
        None
    }

    pub(super) fn append_to(&self, id: StreamId, segment: &Segment, out: &mut Vec<u8>) {
        if let Some(stream) = self.table.get(&id) {
            stream.send.append_to(segment, out);
        }
    }

    pub(super) fn has_credits(&self) -> bool {
        !self.credits.is_empty()
    }

    /// The next credit to tell: stream, consumed offset, limit.
    pub(super) fn next_credit(&mut self) -> Option<(StreamId, u64, u64)> {
        while let Some(id) = self.credits.pop_front() {
            if let Some(stream) = self.table.get_mut(&id) {
                stream.credit = false;
                if !std::mem::replace(&mut stream.told, true) {
                    self.told.push(id);
                }
                let (consumed, limit) = stream.recv.credit();
                return Some((id, consumed, limit));
            }
        }
        None
    }

    /// Forgets which credits were told; `again`: each is to be told once more.
    pub(super) fn settle_credits(&mut self, again: bool) {
        let mut told = std::mem::take(&mut self.told);
        for id in told.drain(..) {
            if let Some(stream) = self.table.get_mut(&id) {
                stream.told = false;
            }
            if again {
                self.enqueue_credit(id);
            }
        }
        self.told = told;
    }

    pub(super) fn has_resets(&self) -> bool {
        !self.resets.is_empty()
    }

    pub(super) fn next_reset(&mut self) -> Option<(StreamId, ResetCode)> {
        self.resets.pop_front()
    }

    // --- what became of it ---

    pub(super) fn on_stream_acked(&mut self, id: StreamId, offset: u64, len: u64, fin: bool) {
        self.account(id, |stream, pool| stream.send.on_acked(pool, offset..offset + len, fin));
        self.retire(id);
    }

    pub(super) fn on_stream_lost(&mut self, id: StreamId, offset: u64, len: u64, fin: bool) {
        if let Some(stream) = self.table.get_mut(&id) {
            stream.send.on_lost(offset..offset + len, fin);
            self.enqueue_ready(id);
        }
    }

    pub(super) fn on_credit_lost(&mut self, id: StreamId) {
        self.enqueue_credit(id);
    }

    pub(super) fn on_reset_lost(&mut self, id: StreamId, code: ResetCode) {
        self.resets.push_back((id, code));
    }

    // --- what arrives ---

    /// Makes sure a stream named by the peer exists; false when it is gone or refused.
    fn admit(&mut self, id: StreamId) -> bool {
        if self.table.contains_key(&id) {
            return true;
        }
        if self.is_local(id) || self.seen.contains(u64::from(id.0 / 2)) {
            return false;
        }
        self.seen.insert(u64::from(id.0 / 2)..u64::from(id.0 / 2) + 1);
        if self.table.len() >= STREAMS_MAX {
            self.resets.push_back((id, RESET_TABLE_FULL));
            return false;
        }
        self.table.insert(id, Self::stream());
        self.events.push_back(Event::Opened(id));
        true
    }

    pub(super) fn on_stream(
        &mut self,
        id: StreamId,
        offset_low: u32,
        bytes: &[u8],
        fin: bool,
    ) -> Result<(), Violation> {
        if !self.admit(id) {
            return Ok(());
        }
        let Some(stream) = self.table.get(&id) else { return Ok(()) };
        let offset = super::wire::expand(offset_low, stream.recv.expected());
        self.insert(id, offset, bytes, fin)?;
        self.note_restless(id);
        self.keep(id);
        if self.recovery.has(id) {
            self.recover(id)?;
        }
        Ok(())
    }

    /// Takes bytes of a stream, however they came, and says so where that makes it readable.
    fn insert(&mut self, id: StreamId, offset: u64, bytes: &[u8], fin: bool) -> Result<(), Violation> {
        let Some(stream) = self.table.get_mut(&id) else { return Ok(()) };
        if stream.recv.insert(&mut self.pool, offset, bytes, fin)? && !stream.notified {
            stream.notified = true;
            self.events.push_back(Event::Readable(id));
        }
        Ok(())
    }

    pub(super) fn on_credit(&mut self, id: StreamId, consumed: u64, limit: u64) -> Result<(), Violation> {
        let before = self.backlog;
        let plausible = self.account(id, |stream, pool| stream.send.on_credit(pool, consumed, limit));
        self.consumed += before - self.backlog;
        if let Some(stream) = self.table.get_mut(&id)
            && stream.awaited.is_some_and(|offset| offset <= consumed)
        {
            stream.awaited = None;
            self.events.push_back(Event::Writable(id));
        }
        // What symbols gave back is not acknowledged any more.
        self.retire(id);
        match plausible {
            Some(false) => Err(Violation),
            _ => Ok(()),
        }
    }

    pub(super) fn on_reset(&mut self, id: StreamId, code: ResetCode) {
        if self.remove(id) {
            self.events.push_back(Event::Reset(id, code));
        } else if !self.is_local(id) {
            // The reset may overtake the stream's first bytes, which must not open it then.
            self.seen.insert(u64::from(id.0 / 2)..u64::from(id.0 / 2) + 1);
        }
    }

    /// Tells writers that were refused room that there is some again.
    pub(super) fn wake_writers(&mut self) {
        for _ in 0..self.blocked.len().min(WAKE_MAX) {
            let Some(id) = self.blocked.pop_front() else { return };
            let room = self.writable(id);
            let Some(stream) = self.table.get_mut(&id) else { continue };
            if room >= WRITABLE_MIN {
                stream.blocked = false;
                self.events.push_back(Event::Writable(id));
            } else {
                self.blocked.push_back(id);
            }
        }
    }

    pub(super) fn poll_event(&mut self) -> Option<Event> {
        let event = self.events.pop_front()?;
        if let Event::Readable(id) = event
            && let Some(stream) = self.table.get_mut(&id)
        {
            stream.notified = false;
        }
        Some(event)
    }

    // --- reading ---

    pub(super) fn readable(&self, id: StreamId) -> usize {
        self.table.get(&id).map_or(0, |stream| stream.recv.readable())
    }

    pub(super) fn peek(&self, id: StreamId, out: &mut [u8]) -> usize {
        self.table.get(&id).map_or(0, |stream| stream.recv.peek(out))
    }

    pub(super) fn peek_slices(&self, id: StreamId, len: usize) -> (&[u8], &[u8]) {
        self.table.get(&id).map_or((&[], &[]), |stream| stream.recv.peek_slices(len))
    }

    pub(super) fn is_ended(&self, id: StreamId) -> bool {
        self.table.get(&id).is_none_or(|stream| stream.recv.is_whole())
    }

    pub(super) fn consume(&mut self, id: StreamId, len: usize) -> ReadState {
        let Some(stream) = self.table.get_mut(&id) else { return ReadState::Finished };
        stream.recv.consume(&mut self.pool, len);
        let finished = stream.recv.is_finished();
        if stream.recv.has_news() {
            self.enqueue_credit(id);
        }
        self.retire(id);
        if finished { ReadState::Finished } else { ReadState::Open }
    }

    /// Takes memory back from streams that have rested since the last call.
    pub(super) fn release_idle(&mut self) {
        self.release_kept();
        for id in &self.restless {
            if let Some(stream) = self.table.get_mut(id) {
                stream.send.release_idle(&mut self.pool);
                stream.recv.release_idle(&mut self.pool);
            }
        }
        self.pool.release_idle();
    }

    /// Once per RTT: widens the windows of streams whose readers keep up. Streams at rest are not looked at again before
    /// they move.
    pub(super) fn widen_windows(&mut self) {
        let table = &mut self.table;
        self.restless.retain(|id| {
            let Some(stream) = table.get_mut(id) else { return false };
            let consumed = stream.recv.consumed();
            stream.recv.widen(consumed - stream.judged);
            // What waits to be consumed will be judged when it has been.
            stream.restless = consumed != stream.judged
                || stream.recv.readable() > 0
                || !(stream.send.is_resting() && stream.recv.is_resting());
            stream.judged = consumed;
            stream.restless
        });
    }

    /// Bytes of memory all streams hold.
    pub(super) fn memory(&self) -> usize {
        self.pool.held() + self.recovery.bytes() + self.table.len() * size_of::<(StreamId, Stream)>()
    }

    /// How many streams there are.
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }
}

mod repair;

#[cfg(test)]
mod tests;
