//! Durations, counted by size.

use std::time::Duration;

/// Upper bounds of the buckets, in microseconds: from what a short task takes to what nobody waits for.
const BOUNDS_MICROS: [u64; 14] = [
    100,
    300,
    1_000,
    3_000,
    10_000,
    30_000,
    100_000,
    300_000,
    1_000_000,
    3_000_000,
    10_000_000,
    30_000_000,
    100_000_000,
    300_000_000,
];

const MICROS_PER_SECOND: f64 = 1_000_000.0;

/// How often something took how long. Always the same buckets, so that figures of several processes can be added.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DurationHistogram {
    /// One more than there are bounds: the last one is for what is above all of them.
    counts: [u64; BOUNDS_MICROS.len() + 1],
    sum_micros: u64,
}

impl DurationHistogram {
    /// Something took so long.
    pub fn observe(&mut self, duration: Duration) {
        self.observe_micros(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
    }

    /// As [`Self::observe`], for whoever counts microseconds.
    pub fn observe_micros(&mut self, micros: u64) {
        let bucket = BOUNDS_MICROS.partition_point(|bound| *bound < micros);
        self.counts[bucket] += 1;
        self.sum_micros = self.sum_micros.saturating_add(micros);
    }

    /// How often.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// How long, all in all.
    pub fn sum_seconds(&self) -> f64 {
        self.sum_micros as f64 / MICROS_PER_SECOND
    }

    /// Each bucket's upper bound in seconds, and how often it was that one.
    pub(super) fn buckets(&self) -> Vec<(f64, u64)> {
        let bounds = BOUNDS_MICROS
            .iter()
            .map(|bound| *bound as f64 / MICROS_PER_SECOND);
        bounds
            .chain([f64::INFINITY])
            .zip(self.counts.iter().copied())
            .collect()
    }
}
