//! Whose new bytes leave next: streams take turns by weight.
//!
//! Start-time fair queueing (Goyal, Vin, Cheng, SIGCOMM 1996, section 2): a stretch of bytes begins at a virtual time, and
//! its stream's next one later by length / weight; the earliest is served. So two streams that both have something to send
//! are never further apart than by one stretch of each. Who had nothing to send begins at the present: it has neither fallen
//! behind nor saved anything up, so a few bytes now and then leave at once.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::StreamId;
use crate::units::Weight;

/// Virtual time of one byte at weight 1: fine enough to divide by the largest weight, coarse enough for 2^56 bytes.
const BYTE: u64 = 256;

/// A stream's part.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Share {
    /// Counts from its next turn on.
    pub(super) weight: Weight,
    /// Virtual time at which its next stretch begins.
    start: u64,
}

impl Share {
    /// So many bytes of it have left.
    pub(super) fn on_sent(&mut self, bytes: usize) {
        self.start += bytes as u64 * BYTE / u64::from(self.weight);
    }
}

/// The streams that wait for their turn.
#[derive(Debug, Default)]
pub(super) struct Turns {
    waiting: BinaryHeap<Reverse<(u64, StreamId)>>,
    /// When the stretch began that was served last.
    now: u64,
}

impl Turns {
    /// Whether nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// A stream that did not wait does so from now on.
    pub(super) fn join(&mut self, id: StreamId, share: &mut Share) {
        share.start = share.start.max(self.now);
        self.waiting.push(Reverse((share.start, id)));
    }

    /// The stream whose turn it is; it waits no more.
    pub(super) fn next(&mut self) -> Option<StreamId> {
        let Reverse((start, id)) = self.waiting.pop()?;
        self.now = start;
        Some(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STRETCH_MAX: usize = 1400;
    const TURNS: usize = 2000;

    /// Streams with these weights, all of them with something to send.
    fn line(weights: &[u8]) -> (Turns, Vec<Share>) {
        let mut turns = Turns::default();
        let mut shares = Vec::new();
        for (id, &weight) in weights.iter().enumerate() {
            shares.push(Share { weight: Weight::new(weight).unwrap(), start: 0 });
            turns.join(StreamId(id as u32), &mut shares[id]);
        }
        (turns, shares)
    }

    /// Whose turn it is, to send `len` bytes and wait again.
    fn turn(turns: &mut Turns, shares: &mut [Share], len: usize) -> usize {
        let id = turns.next().unwrap();
        let share = &mut shares[id.0 as usize];
        share.on_sent(len);
        turns.join(id, share);
        id.0 as usize
    }

    #[test]
    fn three_to_one_is_three_to_one() {
        let (mut turns, mut shares) = line(&[30, 10]);
        let mut sent = [0; 2];
        for _ in 0..1000 {
            sent[turn(&mut turns, &mut shares, STRETCH_MAX)] += 1;
        }
        assert_eq!(sent, [750, 250]);
    }

    #[test]
    fn who_comes_back_is_served_next_and_owes_nothing() {
        let (mut turns, mut shares) = line(&[100, 1]);
        for _ in 0..1000 {
            turn(&mut turns, &mut shares, STRETCH_MAX);
        }
        // One with a few bytes now and then: never more than one stretch in front of it.
        shares.push(Share::default());
        for _ in 0..50 {
            turns.join(StreamId(2), &mut shares[2]);
            let waited = (0..).find(|_| {
                let id = turns.next().unwrap().0 as usize;
                shares[id].on_sent(if id == 2 { 100 } else { STRETCH_MAX });
                if id != 2 {
                    turns.join(StreamId(id as u32), &mut shares[id]);
                }
                id == 2
            });
            assert!(waited.unwrap() <= 1, "{waited:?}");
            for _ in 0..20 {
                turn(&mut turns, &mut shares, STRETCH_MAX);
            }
        }
    }

    proptest! {
        /// The theorem of the paper, and what follows from it: nobody starves.
        #[test]
        fn no_two_are_further_apart_than_a_stretch_of_each_and_nobody_starves(
            weights in prop::collection::vec(1u8..=100, 2..10),
            lengths in prop::collection::vec(1usize..=STRETCH_MAX, 50..400),
        ) {
            let (mut turns, mut shares) = line(&weights);
            let mut sent = vec![0_u64; weights.len()];
            let mut since = vec![0_u64; weights.len()];
            for len in lengths.iter().cycle().take(TURNS) {
                let id = turn(&mut turns, &mut shares, *len);
                sent[id] += *len as u64;
                since.iter_mut().for_each(|since| *since += *len as u64);
                since[id] = 0;
                for (one, &weight) in weights.iter().enumerate() {
                    let weight = u64::from(weight);
                    // What leaves between two turns of one: of each other one its part of a stretch, and a stretch.
                    let others: u64 = weights.iter().map(|&other| u64::from(other) / weight + 2).sum();
                    prop_assert!(since[one] <= others * STRETCH_MAX as u64, "{one} starves");
                    for (other, &others) in weights.iter().enumerate().take(one) {
                        let served = |id: usize, weight: f64| sent[id] as f64 / weight;
                        let apart = (served(one, weight as f64) - served(other, f64::from(others))).abs();
                        let bound = STRETCH_MAX as f64 * (1.0 / weight as f64 + 1.0 / f64::from(others));
                        // Virtual time is whole: each turn may round away up to 1 / 256 of a byte at weight 1.
                        prop_assert!(apart <= bound + TURNS as f64 / BYTE as f64, "{one} and {other} are {apart} apart");
                    }
                }
            }
        }
    }
}
