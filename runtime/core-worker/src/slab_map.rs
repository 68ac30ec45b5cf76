//! A table of many large entries. The entries lie side by side, and only their places are hashed: a hash table that holds
//! them itself leaves up to half of its room empty, and touches all of it.

use std::hash::Hash;

use slab::Slab;

use crate::hash::IdMap;

/// A table keyed by ids. `H` is what is looked at most often of an entry: it lies beside its place.
#[derive(Debug)]
pub(crate) struct SlabMap<K, V, H = ()> {
    index: IdMap<K, (u32, H)>,
    entries: Slab<V>,
}

impl<K, V, H> Default for SlabMap<K, V, H> {
    fn default() -> Self {
        Self {
            index: IdMap::default(),
            entries: Slab::new(),
        }
    }
}

impl<K: Copy + Eq + Hash, V> SlabMap<K, V> {
    /// Adds an entry, in place of an earlier one.
    pub(crate) fn insert(&mut self, key: K, value: V) {
        self.insert_with(key, value, ());
    }
}

impl<K: Copy + Eq + Hash, V, H> SlabMap<K, V, H> {
    /// Adds an entry and what lies beside its place, in place of an earlier one.
    pub(crate) fn insert_with(&mut self, key: K, value: V, hot: H) {
        let place = self.entries.insert(value) as u32;
        if let Some((earlier, _)) = self.index.insert(key, (place, hot)) {
            self.entries.remove(earlier as usize);
        }
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(self.index.get(key)?.0 as usize)
    }

    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.entries.get_mut(self.index.get(key)?.0 as usize)
    }

    /// What lies beside the place of an entry.
    pub(crate) fn hot(&self, key: &K) -> Option<&H> {
        Some(&self.index.get(key)?.1)
    }

    /// What lies beside the place of an entry, to be changed.
    pub(crate) fn hot_mut(&mut self, key: &K) -> Option<&mut H> {
        Some(&mut self.index.get_mut(key)?.1)
    }

    pub(crate) fn contains_key(&self, key: &K) -> bool {
        self.index.contains_key(key)
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let (place, _) = self.index.remove(key)?;
        self.entries.try_remove(place as usize)
    }

    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.index.keys()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        let entries = &self.entries;
        self.index
            .iter()
            .filter_map(move |(key, (place, _))| Some((key, entries.get(*place as usize)?)))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.index.is_empty() && self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    proptest! {
        #[test]
        fn is_a_map(steps in prop::collection::vec((0..3_u8, 0..12_u64, any::<u32>()), 0..200)) {
            let mut map = SlabMap::default();
            let mut model = HashMap::new();
            for (step, key, value) in steps {
                match step {
                    0 => {
                        map.insert_with(key, value, u64::from(value) + 1);
                        model.insert(key, value);
                    }
                    1 => prop_assert_eq!(map.remove(&key), model.remove(&key)),
                    _ => {
                        if let Some(entry) = map.get_mut(&key) {
                            *entry = value;
                        }
                        if let Some(hot) = map.hot_mut(&key) {
                            *hot = u64::from(value) + 1;
                        }
                        model.entry(key).and_modify(|entry| *entry = value);
                    }
                }
                prop_assert_eq!(map.get(&key), model.get(&key));
                prop_assert_eq!(map.hot(&key).copied(), model.get(&key).map(|value| u64::from(*value) + 1));
                prop_assert_eq!(map.contains_key(&key), model.contains_key(&key));
                prop_assert_eq!(map.len(), model.len());
                let all: HashMap<u64, u32> = map.iter().map(|(key, value)| (*key, *value)).collect();
                prop_assert_eq!(&all, &model);
                prop_assert_eq!(map.keys().count(), model.len());
                prop_assert_eq!(map.is_empty(), model.is_empty());
            }
        }
    }
}
