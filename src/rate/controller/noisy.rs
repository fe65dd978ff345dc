//! Paths whose RTT varies by itself: a round or two prove nothing there, neither by what they deliver nor by their RTT.
//!
//! As in BBR the estimate is the best of the last rounds, each time the mean of a few, and the window bounds what that
//! overestimates.

use super::giving_way::EXCESS_LOSS_MIN;
use super::probe::NOISY_UP_ROUNDS;
use super::{Controller, LOSS_KNOWN};
use crate::rate::queue::NOISY_ROUNDS;
use crate::rate::rounds::Span;
use crate::units::Instant;

/// Rounds whose mean is taken.
pub(super) const TOGETHER: usize = 3;
/// The path is the limit where it delivers less than this share, in percent, of what it was offered and did not lose.
const BEHIND: u64 = 90;
/// By so much the own loss may be wrong that the first datagrams have shown; by less the more have been seen.
const UNCERTAIN_LOSS_PERMILLE: u64 = 40;
/// The estimate falls to this share of itself at most, in percent, with each round.
const FALL: u64 = 97;

impl Controller {
    /// Lowers the estimate to the best of the last rounds where the path was the limit in them.
    pub(super) fn lower_noisy(&mut self, held: bool) {
        let (Some(best), Some(mean)) = (self.rounds.best_shown(TOGETHER, NOISY_ROUNDS), self.rounds.last(NOISY_ROUNDS))
        else {
            return;
        };
        let behind = mean.delivered < mean.kept(self.possible_loss_noisy()).percent(BEHIND);
        let filled = self.queue.queue() > 2 * self.queue.jitter() && mean.delivered <= self.offered(&mean);
        let queued = self.queue.is_standing() && (held || filled);
        if behind || queued || self.is_lossy_noisy(&mean) {
            self.fall_to(best, FALL);
        }
    }

    /// The path's own loss is no more than this, as far as the datagrams seen can tell.
    fn possible_loss_noisy(&self) -> u64 {
        let seen = (self.low_acked + self.low_lost).max(LOSS_KNOWN);
        let uncertain = UNCERTAIN_LOSS_PERMILLE as f64 * (LOSS_KNOWN as f64 / seen as f64).sqrt();
        self.possible_loss_permille() * 9 / 8 + 5 + uncertain as u64
    }

    /// More is lost than that.
    pub(super) fn is_lossy_noisy(&self, span: &Span) -> bool {
        span.lost_permille > self.possible_loss_noisy() && self.is_lossy(span, EXCESS_LOSS_MIN)
    }

    /// A probe was answered with more: had the path no more, the excess would have queued, and the average of
    /// a few rounds would have risen by about twice one round's share of it. Then probe on, harder.
    pub(super) fn follow_noisy(&mut self, now: Instant) -> bool {
        self.probed = false;
        let Some(span) = self.rounds.last(NOISY_UP_ROUNDS as usize) else { return false };
        let offered = self.offered(&span);
        let more = (offered.as_bps() as f64 / self.rate.as_bps().max(1) as f64 - 1.0).max(0.0);
        let expected = (span.lasted / NOISY_UP_ROUNDS).mul_f64(more * 2.0);
        let rise = self.queue.recent(NOISY_UP_ROUNDS as usize).saturating_sub(self.before_probe);
        let arrived = span.delivered.as_bps() as f64 / self.rate.as_bps().max(1) as f64 - 1.0;
        if more < 0.05 || arrived < more / 3.0 || rise > expected / 2 || self.is_lossy_noisy(&span) {
            self.answered = 0;
            return false;
        }
        self.rate = self.rate.max(offered.percent(97));
        if !self.has_room() {
            self.answered = 0;
            return false;
        }
        self.answered += 1;
        self.probed = true;
        self.before_probe = self.queue.recent(NOISY_UP_ROUNDS as usize);
        self.probe(now);
        true
    }
}
