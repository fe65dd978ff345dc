//! A bounded table that forgets what was not used for longest; its order is deterministic, its hash keyed.

use std::collections::HashMap;
use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher};

/// Builds hashers keyed by the engine's seed: hosts cannot aim at one bucket, and a simulation repeats exactly.
#[derive(Clone, Copy, Debug)]
pub(super) struct SeededState([u64; 2]);

impl SeededState {
    /// Keyed by `key`.
    pub(super) const fn new(key: [u64; 2]) -> Self {
        SeededState(key)
    }
}

impl BuildHasher for SeededState {
    type Hasher = DefaultHasher;

    fn build_hasher(&self) -> DefaultHasher {
        // SipHash with the secret as a prefix: the state after it is as unknown as a key would be.
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.0[0]);
        hasher.write_u64(self.0[1]);
        hasher
    }
}

const NIL: usize = usize::MAX;

#[derive(Debug)]
struct Entry<K, V> {
    key: K,
    value: V,
    newer: usize,
    older: usize,
}

/// At most `limit` entries; the least recently used one makes room.
#[derive(Debug)]
pub(super) struct Lru<K, V> {
    index: HashMap<K, usize, SeededState>,
    entries: Vec<Entry<K, V>>,
    newest: usize,
    oldest: usize,
    limit: usize,
}

impl<K: Copy + Eq + Hash, V> Lru<K, V> {
    /// An empty table for `limit` entries (at least one).
    pub(super) fn new(limit: usize, state: SeededState) -> Self {
        Lru { index: HashMap::with_hasher(state), entries: Vec::new(), newest: NIL, oldest: NIL, limit: limit.max(1) }
    }

    /// Entries in it.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The value under `key`, without counting as use.
    pub(super) fn peek(&self, key: &K) -> Option<&V> {
        self.index.get(key).map(|&slot| &self.entries[slot].value)
    }

    /// The value under `key`, which becomes the newest.
    pub(super) fn touch(&mut self, key: &K) -> Option<&mut V> {
        let slot = *self.index.get(key)?;
        if self.newest != slot {
            self.unlink(slot);
            self.link_newest(slot);
        }
        Some(&mut self.entries[slot].value)
    }

    /// The newest entry: what was touched or inserted last.
    pub(super) fn newest_mut(&mut self) -> Option<&mut V> {
        self.entries.get_mut(self.newest).map(|entry| &mut entry.value)
    }

    /// Puts `value` under `key` as the newest; the oldest entry goes if the table is full.
    pub(super) fn insert(&mut self, key: K, value: V) {
        if let Some(present) = self.touch(&key) {
            *present = value;
            return;
        }
        if self.entries.len() >= self.limit {
            let oldest = self.entries[self.oldest].key;
            self.remove(&oldest);
        }
        let slot = self.entries.len();
        self.entries.push(Entry { key, value, newer: NIL, older: NIL });
        self.link_newest(slot);
        self.index.insert(key, slot);
    }

    /// Takes the entry under `key` out.
    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        let slot = self.index.remove(key)?;
        self.unlink(slot);
        let last = self.entries.len() - 1;
        if slot != last {
            // The last entry moves into the gap; whoever points at it has to follow.
            let (newer, older) = (self.entries[last].newer, self.entries[last].older);
            match newer {
                NIL => self.newest = slot,
                newer => self.entries[newer].older = slot,
            }
            match older {
                NIL => self.oldest = slot,
                older => self.entries[older].newer = slot,
            }
            self.index.insert(self.entries[last].key, slot);
        }
        Some(self.entries.swap_remove(slot).value)
    }

    /// Entries, newest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        let mut at = self.newest;
        std::iter::from_fn(move || {
            let entry = self.entries.get(at)?;
            at = entry.older;
            Some((&entry.key, &entry.value))
        })
    }

    fn unlink(&mut self, slot: usize) {
        let (newer, older) = (self.entries[slot].newer, self.entries[slot].older);
        match newer {
            NIL => self.newest = older,
            newer => self.entries[newer].older = older,
        }
        match older {
            NIL => self.oldest = newer,
            older => self.entries[older].newer = newer,
        }
    }

    fn link_newest(&mut self, slot: usize) {
        self.entries[slot].newer = NIL;
        self.entries[slot].older = self.newest;
        match self.newest {
            NIL => self.oldest = slot,
            newest => self.entries[newest].newer = slot,
        }
        self.newest = slot;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn table(limit: usize) -> Lru<u8, u32> {
        Lru::new(limit, SeededState::new([1, 2]))
    }

    #[test]
    fn the_least_recently_used_entry_makes_room() {
        let mut lru = table(2);
        lru.insert(1, 10);
        lru.insert(2, 20);
        assert_eq!(lru.touch(&1).copied(), Some(10));
        lru.insert(3, 30);
        assert_eq!(lru.peek(&2), None);
        assert_eq!(lru.iter().map(|(k, v)| (*k, *v)).collect::<Vec<_>>(), [(3, 30), (1, 10)]);
    }

    proptest! {
        #[test]
        fn it_behaves_like_a_list_in_order_of_use(steps in proptest::collection::vec((0u8..4, 0u8..8), 0..200)) {
            let mut lru = table(4);
            let mut model: Vec<(u8, u32)> = Vec::new(); // newest last
            for (round, (what, key)) in steps.into_iter().enumerate() {
                let at = model.iter().position(|&(k, _)| k == key);
                match what {
                    0 | 1 => {
                        lru.insert(key, round as u32);
                        match at {
                            Some(at) => { model.remove(at); }
                            None if model.len() == 4 => { model.remove(0); }
                            None => {}
                        }
                        model.push((key, round as u32));
                    }
                    2 => {
                        let found = lru.touch(&key).copied();
                        prop_assert_eq!(found, at.map(|at| model[at].1));
                        if let Some(at) = at { let entry = model.remove(at); model.push(entry); }
                    }
                    _ => {
                        prop_assert_eq!(lru.remove(&key), at.map(|at| model.remove(at).1));
                    }
                }
                prop_assert_eq!(lru.len(), model.len());
                let order: Vec<_> = lru.iter().map(|(k, v)| (*k, *v)).collect();
                prop_assert_eq!(order, model.iter().rev().copied().collect::<Vec<_>>());
            }
        }
    }
}
