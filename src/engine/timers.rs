//! One ordered set of deadlines for everything in the engine that waits, so that no input costs O(flows).

use std::collections::BTreeSet;

use crate::units::Instant;

use super::flow::FlowId;

/// What is due at a deadline.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Timer {
    /// A flow: its endpoint, or the stage it is in.
    Flow(FlowId),
    /// The next question to, or the end of, an orphaned connection.
    Orphan(u64),
    /// The peer has been silent for longer than flows can be held.
    Outage,
}

/// Deadlines in order. Each timer has at most one; its owner remembers it.
#[derive(Debug, Default)]
pub(super) struct Timers {
    due: BTreeSet<(Instant, Timer)>,
}

impl Timers {
    /// Moves `timer` from the deadline remembered in `slot` to `at`.
    pub(super) fn set(&mut self, timer: Timer, slot: &mut Option<Instant>, at: Option<Instant>) {
        if *slot == at {
            return;
        }
        if let Some(old) = slot.take() {
            self.due.remove(&(old, timer));
        }
        if let Some(new) = at {
            self.due.insert((new, timer));
        }
        *slot = at;
    }

    /// The first deadline.
    pub(super) fn first(&self) -> Option<Instant> {
        self.due.first().map(|&(at, _)| at)
    }

    /// Takes the first timer that is due at `now`. Its owner's slot has to be cleared.
    pub(super) fn pop(&mut self, now: Instant) -> Option<Timer> {
        let &(at, timer) = self.due.first()?;
        if at > now {
            return None;
        }
        self.due.pop_first();
        Some(timer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_fire_in_order_and_only_when_due() {
        let mut timers = Timers::default();
        let (mut first, mut second) = (None, None);
        timers.set(Timer::Flow(FlowId(2)), &mut second, Some(Instant::from_millis(20)));
        timers.set(Timer::Flow(FlowId(1)), &mut first, Some(Instant::from_millis(10)));
        assert_eq!(timers.first(), Some(Instant::from_millis(10)));
        assert_eq!(timers.pop(Instant::from_millis(9)), None);
        assert_eq!(timers.pop(Instant::from_millis(20)), Some(Timer::Flow(FlowId(1))));
        assert_eq!(timers.pop(Instant::from_millis(20)), Some(Timer::Flow(FlowId(2))));
        assert_eq!(timers.pop(Instant::from_millis(20)), None);
    }

    #[test]
    fn a_moved_timer_fires_once_at_its_new_deadline() {
        let mut timers = Timers::default();
        let mut slot = None;
        timers.set(Timer::Outage, &mut slot, Some(Instant::from_millis(10)));
        timers.set(Timer::Outage, &mut slot, Some(Instant::from_millis(30)));
        assert_eq!(timers.pop(Instant::from_millis(10)), None);
        assert_eq!(timers.pop(Instant::from_millis(30)), Some(Timer::Outage));
        timers.set(Timer::Outage, &mut slot, None);
        assert_eq!(timers.first(), None);
    }
}
