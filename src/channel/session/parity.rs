//! Repair symbols over retransmissions: when a session makes them, and what it does with the peer's.

use std::time::Duration;

use super::super::repair::Source;
use super::super::sent::SentFrame;
use super::super::wire::{self, Cursor, Frame, Malformed};
use super::{Instant, Session};

/// Loss that is taken for the path's own while its RTT varies and its own loss is not known yet, in permille, at most.
const PRESUMED_LOSS_MAX: u64 = 60;

/// For so long after there was no room at the far end retransmissions are protected.
const CROWDED: Duration = Duration::from_secs(30);

/// What the STREAM frames of a datagram bring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Carrying {
    /// What is lost, then what is new.
    Any,
    /// What was never sent.
    New,
    /// As `Any`, in a block: each frame with its length.
    Block,
}

impl Session {
    /// The share of what is sent again that is expected to be lost again, in permille.
    pub(super) fn resent_loss_permille(&self) -> u64 {
        let own = self.own_loss_permille();
        // It takes seconds to be known where the RTT varies by itself.
        let unknown = self.law.varying_rtt().is_some() && !self.law.knows_own_loss();
        let presumed = if unknown { PRESUMED_LOSS_MAX } else { 0 };
        own.max(self.parity.loss_permille().min(presumed))
    }

    /// Whether retransmissions are to be protected: where what follows them has had to wait for want of room.
    pub(super) fn protects_resent(&self, now: Instant) -> bool {
        if self.crowded_at.is_none_or(|at| now - at > CROWDED) {
            return false;
        }
        let held = self.sent.in_flight() / (self.payload_max as u64 + self.wire_overhead);
        self.parity.pays(self.resent_loss_permille(), self.rtt.srtt(), held)
    }

    /// Makes the symbols that are due.
    pub(super) fn protect_resent(&mut self, now: Instant) {
        let srtt = self.rtt.srtt();
        if self.parity.is_over(now, srtt) {
            let at = (now, self.sent.next_number());
            let loss = self.resent_loss_permille();
            self.parity.poll(at, (loss, srtt), |stream, end| self.streams.on_covered(stream, end));
        }
    }

    /// Appends STREAM frames up to `limit`, as a block where they bring retransmissions that are to be protected.
    pub(super) fn put_data(&mut self, now: Instant, limit: usize, out: &mut Vec<u8>) -> bool {
        let start = out.len();
        // A symbol that is as long, and even, has to fit a datagram as well.
        let longest = (self.payload_max - wire::PARITY_HEAD_LEN) & !1;
        if !self.streams.has_losing() {
            self.parity.on_none_losing();
            return self.put_streams(now, limit, Carrying::Any, out);
        }
        if !self.protects_resent(now) {
            return self.put_streams(now, limit, Carrying::Any, out);
        }
        let at = (now, self.sent.next_number());
        let too_soon = self.parity.is_too_soon(at, self.rtt.srtt()) && self.streams.has_new();
        if too_soon && self.put_streams(now, limit, Carrying::New, out) {
            return true;
        }
        wire::put_block(self.parity.next_place(), out);
        let block = out.len();
        if !self.put_streams(now, limit.min(block + longest), Carrying::Block, out) {
            out.truncate(start);
            return false;
        }
        let reach = self.sent.carried().filter_map(|frame| match frame {
            SentFrame::Stream { stream, offset, len, .. } => Some((stream, offset + u64::from(len))),
            _ => None,
        });
        self.parity.on_block(at, &out[block..], reach);
        true
    }

    /// Takes blocks that symbols gave back, as if their datagrams had arrived.
    pub(super) fn take_given(&mut self, given: Vec<Vec<u8>>) -> Result<(), Malformed> {
        self.groups_quiet = false;
        for block in given {
            let mut cursor = Cursor::new(&block);
            while let Some(frame) = cursor.next_frame()? {
                let Frame::Stream { stream, offset_low, fin, bytes } = frame else { return Err(Malformed) };
                self.counters.bytes_recovered += bytes.len() as u64;
                self.streams.on_stream(stream, offset_low, bytes, fin).map_err(|_| Malformed)?;
            }
        }
        Ok(())
    }
}
