//! A session's bursts and their ends: copies and repair symbols while the send queue is empty.

use super::super::StreamId;
use super::super::sent::SentFrame;
use super::{Instant, Session, wire};

impl Session {
    /// Whether what is lost now is lost by the path itself: a queue that drops for want of room shows in the RTT of the
    /// datagrams around it. The rate law's own measure is of little use here, it comes late where there is a pause after
    /// every burst.
    pub(super) fn shows_own_loss(&mut self, now: Instant) -> bool {
        if self.rtt.min_rtt().is_some_and(|min_rtt| self.rtt.latest() > min_rtt + min_rtt / 4) {
            self.queued_at = Some(now);
        }
        // A loss is known a round trip after it.
        self.queued_at.is_none_or(|at| now - at > self.rtt.srtt() * 2)
    }

    /// Share of datagrams that the path loses by itself, in permille.
    pub(super) fn own_loss_permille(&self) -> u64 {
        // Where the RTT does not vary by itself, what is lost beside a queue is not taken for the path's.
        let beside_no_queue = (self.tail.loss_share() * 1000.0) as u64;
        match self.law.phase() {
            Some(_) if self.law.varying_rtt().is_some() => self.law.own_loss_permille(),
            Some(_) => self.law.own_loss_permille().min(beside_no_queue),
            // An operator's pace has no model of its path.
            None => beside_no_queue,
        }
    }

    /// When the end of a burst is to be protected.
    pub(super) fn tail_at(&self) -> Option<Instant> {
        let idle = !self.streams.has_ready() && !self.restricted && self.window_open();
        let srtt = self.rtt.srtt();
        let at = self.tail.poll_timeout(srtt).into_iter();
        let at = at.chain(self.repair.poll_timeout(&self.tail, srtt, &self.streams)).min();
        at.filter(|_| idle && !self.repair.has_pending())
    }

    /// Makes repair symbols over the end of a burst, or puts it into line once more, when that is due and nothing else
    /// waits.
    pub(super) fn protect_tail(&mut self, now: Instant) {
        if self.streams.has_ready() {
            return;
        }
        self.copying = false;
        if self.restricted || !self.window_open() || self.repair.has_pending() {
            return;
        }
        let srtt = self.rtt.srtt();
        if self.repair.poll(now, (srtt, self.payload_max), &mut self.tail, &mut self.streams) {
            self.tail.forget_once();
            return;
        }
        let streams = &mut self.streams;
        self.tail.poll(now, srtt, |frame| {
            if let SentFrame::Stream { stream, offset, len, fin } = frame {
                streams.on_stream_lost(stream, offset, u64::from(len), fin);
            }
        });
        self.copying = self.streams.has_ready();
    }

    /// Stream bytes left for the first time.
    pub(super) fn note_new(&mut self, now: Instant, from: (StreamId, u64), len: usize, fin: bool) {
        // A symbol may be a byte longer than the longest block, and its head is no longer than that of a segment.
        let covers = len + wire::SYMBOL_HEAD_LEN < self.payload_max && self.repair.pays(&self.tail, self.rtt.srtt());
        self.repair.on_sent(now, covers, from, (len as u16, fin));
        let loss = self.resent_loss_permille();
        self.parity.on_new(len as u64, loss);
    }
}
