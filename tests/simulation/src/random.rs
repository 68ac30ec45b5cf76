//! Random numbers of a seed, and what would be random without it.

use std::cell::Cell;

/// Small, fast and seeded (SplitMix64).
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `bound`, which is not 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// From `low` up to but without `high`.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low)
    }

    /// True in so many of a hundred cases.
    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of them.
    pub(crate) fn choose<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        (!of.is_empty()).then(|| &of[self.below(of.len() as u64) as usize])
    }
}

thread_local! {
    /// Where this thread's random bytes come from; `None`: nobody has seeded it.
    static BYTES: Cell<Option<u64>> = const { Cell::new(None) };
}

/// From here on this thread's hash tables are the same for the same seed. It has made none before.
pub(crate) fn seed_hash_tables(seed: u64) {
    BYTES.set(Some(seed));
}

/// What the standard library seeds hash tables with, in place of the C library's: the order in which parts go through their
/// tables, and so the order of their effects, follows from the seed.
#[allow(
    unsafe_code,
    reason = "takes the place of a function of the C library, by its name"
)]
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut u8, length: usize, _flags: u32) -> isize {
    // SAFETY: the caller of getrandom gives a buffer of this length.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer, length) };
    let seed = BYTES.try_with(Cell::get).ok().flatten();
    match seed {
        Some(seed) => {
            let mut random = Random::new(seed);
            for chunk in bytes.chunks_mut(8) {
                chunk.copy_from_slice(&random.next().to_le_bytes()[..chunk.len()]);
            }
            let _ = BYTES.try_with(|cell| cell.set(Some(random.next())));
        }
        // Threads of the test harness: any bytes will do.
        None => bytes.fill(7),
    }
    length as isize
}
