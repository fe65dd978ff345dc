//! How much may wait: here, and at the far end behind what was lost.

use std::time::Duration;

use super::{Instant, Session};
use crate::rate::Phase;
use crate::units::BitRate;

/// The backlog bound: this much of the path's rate, or [`BACKLOG_BDPS`], whichever is larger. A host that moves a
/// running machine judges by what its socket has drained: what is beyond this bound would be a stall at switch-over.
const BACKLOG_TIME: Duration = Duration::from_millis(150);
/// See [`BACKLOG_TIME`].
const BACKLOG_BDPS: u64 = 2;
/// The backlog is this many times what was ever delivered at most: the estimate that a session begins with is a guess,
/// unless the operator has set the rate.
const BACKLOG_PROVEN: u64 = 3;
/// Bytes that have arrived may wait behind a lost one for a retransmission of its retransmission: what the far end has
/// not consumed may come to this much. They cost a switch-over no line time, so they stand outside the bound above,
/// which measured at 100 ms and 1 % of loss left a quarter of the line unused.
const REASSEMBLY_BDPS: u64 = 5;
/// All memory of a session, the TCP buffers of its flow and the frames under way with it included, is bounded to this many
/// BDP (without a queue)…
const MEMORY_BDPS: u64 = 3;
/// … and this much. Both bounds above give way to it.
const MEMORY_BASE: u64 = 8 << 20;
/// Of that, what is not the channel's: a TCP buffer of the flow holds so much of the path's rate,
const TCP_TIME: Duration = Duration::from_millis(40);
/// or this at most,
const TCP_MAX: u64 = 4 << 20;
/// and frames, datagrams and the ends of chunks take this.
const LOOSE: u64 = 512 << 10;

impl Session {
    /// Bounds what may wait here and at the far end by the path as it is known now.
    pub(super) fn bound_backlog(&mut self, now: Instant, min_rtt: Duration) {
        let srtt = self.rtt.srtt().max(min_rtt);
        self.drain.observe(now, srtt, self.streams.consumed(), self.streams.filled_percent());
        let path = self.law.delivery_rate();
        let rate = self.drain.rate().map_or(path, |drained| drained.min(path));
        let bdp = rate.bytes_in(srtt).as_u64();
        let mut limit = (bdp * BACKLOG_BDPS).max(rate.bytes_in(BACKLOG_TIME).as_u64());
        if self.law.phase() == Some(Phase::Accelerate) {
            // The estimate is still to grow, several times per round.
            limit = limit.max(self.law.window().as_u64() * 2);
        }
        if self.law.phase().is_some() {
            limit = limit.min(BACKLOG_PROVEN * self.delivery.delivered());
        }
        let own_loss = self.own_loss_permille();
        let memory = self.memory_limit(path, min_rtt);
        // What is on its way there has not arrived, nor has word of what was consumed meanwhile.
        let there = memory + path.bytes_in(min_rtt).as_u64() / 2;
        let reassembly = limit.max(bdp * REASSEMBLY_BDPS).min(there);
        self.streams.set_backlog_limits(limit.min(memory), reassembly, memory);
        if self.streams.is_reassembly_bound() {
            self.crowded_at = Some(now);
        }
        // What symbols protect needs no copies.
        self.streams.set_own_loss(if self.protects_resent(now) { 0 } else { own_loss });
    }

    /// How many bytes may wait, here or at the far end, before a session over such a path has all the memory it may have.
    fn memory_limit(&self, rate: BitRate, min_rtt: Duration) -> u64 {
        // The smallest RTT is not what a path holds whose RTT varies.
        let bdp = rate.bytes_in(self.law.varying_rtt().map_or(min_rtt, |rtt| rtt.max(min_rtt)));
        let all = bdp.as_u64() * MEMORY_BDPS + MEMORY_BASE;
        let elsewhere = rate.bytes_in(TCP_TIME).as_u64().min(TCP_MAX) + LOOSE;
        all.saturating_sub(elsewhere + self.sent.memory() as u64)
    }
}
