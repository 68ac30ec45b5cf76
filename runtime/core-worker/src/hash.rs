//! Hashing of ids. They are random or counted by this cluster's own processes, so a table keyed by them needs no
//! defence against chosen keys, and the default hasher would cost more than the rest of a look-up.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

/// A table keyed by ids.
pub type IdMap<K, V> = HashMap<K, V, BuildHasherDefault<IdHasher>>;
/// A set of ids.
pub(crate) type IdSet<K> = HashSet<K, BuildHasherDefault<IdHasher>>;

const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// Multiplies and rotates, eight bytes at a time.
#[derive(Debug, Default, Clone, Copy)]
pub struct IdHasher(u64);

impl IdHasher {
    fn add(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(23) ^ word).wrapping_mul(FACTOR);
    }
}

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            let mut word = [0; 8];
            word.copy_from_slice(chunk);
            self.add(u64::from_le_bytes(word));
        }
        let rest = chunks.remainder();
        if !rest.is_empty() {
            let mut word = [0; 8];
            word[..rest.len()].copy_from_slice(rest);
            self.add(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.add(u64::from(value));
    }

    fn write_u32(&mut self, value: u32) {
        self.add(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        self.add(value);
    }

    fn write_usize(&mut self, value: usize) {
        self.add(value as u64);
    }

    fn finish(&self) -> u64 {
        // The table takes its low bits for the bucket, and a multiplication mixes upwards.
        self.0 ^ (self.0 >> 32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sparkray_common::{ObjectId, TaskId};
    use std::hash::BuildHasher;

    #[test]
    fn ids_that_differ_in_their_counter_spread_over_the_buckets() {
        let hasher = BuildHasherDefault::<IdHasher>::default();
        let mut buckets = vec![0_u32; 1 << 12];
        for _ in 0..1 << 14 {
            let id = ObjectId::for_result(TaskId::next(), 0);
            buckets[hasher.hash_one(id) as usize & 0xfff] += 1;
        }
        let fullest = buckets.iter().max().copied().unwrap_or(0);
        assert!(fullest < 24, "one of 4096 buckets has {fullest} of 16384 ids");
    }
}
