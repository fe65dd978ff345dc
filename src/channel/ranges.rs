//! Sets of `u64` ranges: acknowledged packets, received packets, received and lost stream bytes.

use std::collections::BTreeMap;
use std::ops::Range;

/// Disjoint, non-adjacent half-open ranges in ascending order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RangeSet {
    /// start -> end
    ranges: BTreeMap<u64, u64>,
}

impl RangeSet {
    /// Adds a range and calls `on_new` for each part of it that was not in the set, in ascending order.
    pub(super) fn insert_with(&mut self, range: Range<u64>, mut on_new: impl FnMut(Range<u64>)) {
        if range.is_empty() {
            return;
        }
        // Most ranges continue the last one, or follow it: no search, no insertion.
        if let Some(mut last) = self.ranges.last_entry()
            && range.start >= *last.key()
        {
            let end = *last.get();
            if range.start > end {
                on_new(range.clone());
                self.ranges.insert(range.start, range.end);
            } else if range.end > end {
                *last.get_mut() = range.end;
                on_new(end..range.end);
            }
            return;
        }
        let (mut start, mut end) = (range.start, range.end);
        let mut cursor = range.start;
        // The range that begins at or before ours and touches it becomes part of ours.
        if let Some((&before_start, &before_end)) = self.ranges.range(..=range.start).next_back()
            && before_end >= range.start
        {
            if before_end >= range.end {
                return;
            }
            start = before_start;
            cursor = before_end;
            self.ranges.remove(&before_start);
        }
        while let Some((&next_start, &next_end)) = self.ranges.range(range.start..=range.end).next() {
            if cursor < next_start {
                on_new(cursor..next_start);
            }
            cursor = cursor.max(next_end);
            end = end.max(next_end);
            self.ranges.remove(&next_start);
        }
        if cursor < range.end {
            on_new(cursor..range.end);
        }
        self.ranges.insert(start, end);
    }

    /// Adds a range.
    pub(super) fn insert(&mut self, range: Range<u64>) {
        self.insert_with(range, |_| {});
    }

    /// Takes a range out.
    pub(super) fn remove(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        if let Some((&before_start, &before_end)) = self.ranges.range(..range.start).next_back()
            && before_end > range.start
        {
            self.ranges.insert(before_start, range.start);
            if before_end > range.end {
                self.ranges.insert(range.end, before_end);
                return;
            }
        }
        while let Some((&start, &end)) = self.ranges.range(range.start..range.end).next() {
            self.ranges.remove(&start);
            if end > range.end {
                self.ranges.insert(range.end, end);
            }
        }
    }

    /// Takes everything below `limit` out.
    pub(super) fn remove_below(&mut self, limit: u64) {
        if self.ranges.first_key_value().is_some_and(|(&start, _)| start < limit) {
            self.remove(0..limit);
        }
    }

    /// Whether `value` is in the set.
    pub(super) fn contains(&self, value: u64) -> bool {
        self.ranges.range(..=value).next_back().is_some_and(|(_, &end)| end > value)
    }

    /// Whether all of `range` is in the set.
    pub(super) fn covers(&self, range: &Range<u64>) -> bool {
        range.is_empty() || self.ranges.range(..=range.start).next_back().is_some_and(|(_, &end)| end >= range.end)
    }

    /// The lowest range.
    pub(super) fn first(&self) -> Option<Range<u64>> {
        self.ranges.first_key_value().map(|(&start, &end)| start..end)
    }

    /// The ranges that share something with `range`, ascending, whole.
    pub(super) fn overlapping(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let before = self.ranges.range(..range.start).next_back().filter(|(_, end)| **end > range.start);
        let start = before.map_or(range.start, |(&start, _)| start);
        self.ranges.range(start..range.end.max(start)).map(|(&start, &end)| start..end)
    }

    /// Drops the lowest range.
    pub(super) fn pop_first(&mut self) {
        self.ranges.pop_first();
    }

    /// How many ranges there are.
    pub(super) fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Whether there is nothing in it.
    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The ranges from the highest down.
    pub(super) fn iter_descending(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.ranges.iter().rev().map(|(&start, &end)| start..end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn expanded(set: &RangeSet) -> BTreeSet<u64> {
        set.iter_descending().flatten().collect()
    }

    proptest! {
        #[test]
        fn behaves_as_a_set_of_numbers(ops in proptest::collection::vec((any::<bool>(), 0_u64..64, 0_u64..16), 1..60)) {
            let mut set = RangeSet::default();
            let mut model = BTreeSet::new();
            for (insert, start, len) in ops {
                let range = start..start + len;
                if insert {
                    let mut fresh = Vec::new();
                    set.insert_with(range.clone(), |new| fresh.extend(new));
                    let expected: Vec<u64> = range.clone().filter(|value| !model.contains(value)).collect();
                    prop_assert_eq!(fresh, expected);
                    model.extend(range);
                } else {
                    set.remove(range.clone());
                    model.retain(|value| !range.contains(value));
                }
                prop_assert_eq!(&expanded(&set), &model);
                for value in 0..80 {
                    prop_assert_eq!(set.contains(value), model.contains(&value));
                }
                let ranges: Vec<_> = set.iter_descending().collect();
                prop_assert!(ranges.windows(2).all(|pair| pair[1].end < pair[0].start), "merged: {:?}", ranges);
            }
        }
    }
}
