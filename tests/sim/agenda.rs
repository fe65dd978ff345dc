//! What happens next: events in order of time, and of insertion where times are equal.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use longhaul::units::Instant;

/// Events yet to come. Equal times keep their order of insertion, so a run is a function of its seed alone.
#[derive(Debug)]
pub struct Agenda<E> {
    heap: BinaryHeap<Entry<E>>,
    sequence: u64,
}

#[derive(Debug)]
struct Entry<E> {
    at: Instant,
    sequence: u64,
    event: E,
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<E> Eq for Entry<E> {}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Entry<E> {
    /// Reversed: the heap's greatest entry is the earliest event.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.sequence).cmp(&(self.at, self.sequence))
    }
}

impl<E> Default for Agenda<E> {
    fn default() -> Self {
        Agenda { heap: BinaryHeap::new(), sequence: 0 }
    }
}

impl<E> Agenda<E> {
    /// Adds an event.
    pub fn push(&mut self, at: Instant, event: E) {
        self.heap.push(Entry { at, sequence: self.sequence, event });
        self.sequence += 1;
    }

    /// When the earliest event is due.
    pub fn next_at(&self) -> Option<Instant> {
        self.heap.peek().map(|entry| entry.at)
    }

    /// The earliest event, if it is due at `now`.
    pub fn pop_due(&mut self, now: Instant) -> Option<E> {
        if self.next_at()? <= now { self.heap.pop().map(|entry| entry.event) } else { None }
    }
}

#[test]
fn events_come_in_order_of_time_and_then_of_insertion() {
    let mut agenda = Agenda::default();
    for (at, name) in [(20, "c"), (10, "a"), (20, "d"), (10, "b"), (30, "e")] {
        agenda.push(Instant::from_millis(at), name);
    }
    let mut seen = String::new();
    while let Some(name) = agenda.pop_due(Instant::from_millis(20)) {
        seen.push_str(name);
    }
    assert_eq!(seen, "abcd");
    assert_eq!(agenda.next_at(), Some(Instant::from_millis(30)));
}
