//! Which bytes of which segment belong to whom. Pure bookkeeping.
//!
//! Segments in memory are sparse: their offsets cost nothing, only pages that were touched cost memory. So the
//! allocator keeps two things apart: *space*, of which there is plenty, and *committed* bytes, which the caller
//! limits. Committed are allocated ranges, free ranges that were allocated before (*warm*: their pages are
//! still there), and ranges that are *busy* while they are discarded or populated. Because space is cheap,
//! fragmentation does not keep an object out: any warm range elsewhere can be discarded in exchange.
//!
//! Invariants (checked by the property test):
//! 1. Allocated, busy and free ranges do not overlap and together cover every segment.
//! 2. Warm ranges are free. Neighbouring free ranges are one.

use std::collections::{BTreeMap, BTreeSet};

use crate::shm::{HUGE_PAGE_SIZE, PAGE_SIZE, SegmentId};

/// A page-aligned part of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Range {
    pub(crate) segment: SegmentId,
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

impl Range {
    fn end(&self) -> u64 {
        self.offset + self.len
    }
}

/// Why there is no range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoRoom {
    /// No free space of that length: add a segment.
    Space,
    /// It would commit this many bytes too many.
    Memory { excess: u64 },
}

/// Bytes that an object of `size` takes.
pub(crate) fn pages_for(size: u64) -> u64 {
    size.max(1).next_multiple_of(PAGE_SIZE)
}

fn alignment_for(len: u64) -> u64 {
    if len >= HUGE_PAGE_SIZE {
        HUGE_PAGE_SIZE
    } else {
        PAGE_SIZE
    }
}

/// Disjoint ranges; neighbours are joined.
#[derive(Debug, Default)]
struct RangeSet {
    by_place: BTreeMap<(SegmentId, u64), u64>,
    by_len: BTreeSet<(u64, SegmentId, u64)>,
    bytes: u64,
}

impl RangeSet {
    fn put(&mut self, range: Range) {
        self.by_place.insert((range.segment, range.offset), range.len);
        self.by_len.insert((range.len, range.segment, range.offset));
        self.bytes += range.len;
    }

    fn take(&mut self, range: Range) {
        self.by_place.remove(&(range.segment, range.offset));
        self.by_len.remove(&(range.len, range.segment, range.offset));
        self.bytes -= range.len;
    }

    /// The range that begins at or before `offset`.
    fn at_or_before(&self, segment: SegmentId, offset: u64) -> Option<Range> {
        let (place, len) = self
            .by_place
            .range((segment, 0)..=(segment, offset))
            .next_back()?;
        Some(Range {
            segment,
            offset: place.1,
            len: *len,
        })
    }

    fn insert(&mut self, mut range: Range) {
        if let Some(before) = self.at_or_before(range.segment, range.offset) {
            if before.end() == range.offset {
                self.take(before);
                range = Range {
                    offset: before.offset,
                    len: before.len + range.len,
                    ..range
                };
            }
        }
        if let Some(len) = self.by_place.get(&(range.segment, range.end())).copied() {
            self.take(Range {
                offset: range.end(),
                len,
                ..range
            });
            range.len += len;
        }
        self.put(range);
    }

    /// Parts of this set that lie in `range`.
    fn parts_in(&self, range: Range) -> Vec<Range> {
        let mut parts = Vec::new();
        let first = self
            .at_or_before(range.segment, range.offset)
            .map_or(range.offset, |before| before.offset);
        for (place, len) in self
            .by_place
            .range((range.segment, first)..(range.segment, range.end()))
        {
            let offset = place.1.max(range.offset);
            let end = (place.1 + len).min(range.end());
            if offset < end {
                parts.push(Range {
                    segment: range.segment,
                    offset,
                    len: end - offset,
                });
            }
        }
        parts
    }

    /// Takes `part`, which lies inside one range of the set.
    fn remove(&mut self, part: Range) {
        let whole = self
            .at_or_before(part.segment, part.offset)
            .filter(|whole| whole.end() >= part.end())
            .expect("a removed part lies inside one range of the set");
        self.take(whole);
        if whole.offset < part.offset {
            self.put(Range {
                len: part.offset - whole.offset,
                ..whole
            });
        }
        if part.end() < whole.end() {
            self.put(Range {
                segment: whole.segment,
                offset: part.end(),
                len: whole.end() - part.end(),
            });
        }
    }

    /// The start of the smallest range that holds `len` bytes at this alignment.
    fn best_fit(&self, len: u64, alignment: u64) -> Option<Range> {
        for (whole, segment, offset) in self.by_len.range((len, SegmentId(0), 0)..) {
            let aligned = offset.next_multiple_of(alignment);
            if aligned + len <= offset + whole {
                return Some(Range {
                    segment: *segment,
                    offset: aligned,
                    len,
                });
            }
        }
        None
    }
}

/// Ranges of several segments.
#[derive(Debug, Default)]
pub(crate) struct Allocator {
    segments: BTreeMap<SegmentId, u64>,
    free: RangeSet,
    warm: RangeSet,
    allocated: u64,
    busy: u64,
}

impl Allocator {
    pub(crate) fn add_segment(&mut self, segment: SegmentId, size: u64) {
        let len = size / PAGE_SIZE * PAGE_SIZE;
        self.segments.insert(segment, len);
        self.free.insert(Range {
            segment,
            offset: 0,
            len,
        });
    }

    /// Forgets a segment of which nothing is allocated or busy; false when something is.
    pub(crate) fn remove_empty_segment(&mut self, segment: SegmentId) -> bool {
        let Some(size) = self.segments.get(&segment).copied() else {
            return false;
        };
        let whole = Range {
            segment,
            offset: 0,
            len: size,
        };
        if self.free.by_place.get(&(segment, 0)) != Some(&size) {
            return false;
        }
        for part in self.warm.parts_in(whole) {
            self.warm.remove(part);
        }
        self.free.remove(whole);
        self.segments.remove(&segment);
        true
    }

    /// Bytes that belong to objects.
    pub(crate) fn allocated(&self) -> u64 {
        self.allocated
    }

    /// Free bytes whose pages are there.
    pub(crate) fn warm(&self) -> u64 {
        self.warm.bytes
    }

    /// Bytes that are being discarded or populated.
    pub(crate) fn busy(&self) -> u64 {
        self.busy
    }

    /// Bytes that cost memory.
    pub(crate) fn committed(&self) -> u64 {
        self.allocated + self.warm.bytes + self.busy
    }

    /// A range of `len` bytes (a multiple of the page size) that commits at most `limit` bytes in all.
    /// Prefers warm ranges.
    pub(crate) fn allocate(&mut self, len: u64, limit: u64) -> Result<Range, NoRoom> {
        let alignment = alignment_for(len);
        let range = match self.warm.best_fit(len, alignment) {
            Some(range) => range,
            None => self.free.best_fit(len, alignment).ok_or(NoRoom::Space)?,
        };
        let warm_parts = self.warm.parts_in(range);
        let cold = len - warm_parts.iter().map(|part| part.len).sum::<u64>();
        let excess = (self.committed() + cold).saturating_sub(limit);
        if excess > 0 && cold > 0 {
            return Err(NoRoom::Memory { excess });
        }
        for part in warm_parts {
            self.warm.remove(part);
        }
        self.free.remove(range);
        self.allocated += len;
        Ok(range)
    }

    /// Gives an allocated range back; it is warm then.
    pub(crate) fn free(&mut self, range: Range) {
        self.allocated -= range.len;
        self.free.insert(range);
        self.warm.insert(range);
    }

    /// Makes the smallest warm range, or `limit` bytes of it, busy so that it can be discarded.
    pub(crate) fn begin_discard(&mut self, limit: u64) -> Option<Range> {
        let (len, segment, offset) = *self.warm.by_len.first()?;
        let mut range = Range { segment, offset, len };
        if len > limit {
            // From its end, so that what stays begins where it is aligned.
            range.len = pages_for(limit);
            range.offset = offset + len - range.len;
        }
        self.warm.remove(range);
        self.free.remove(range);
        self.busy += range.len;
        Some(range)
    }

    /// The range's pages are gone.
    pub(crate) fn end_discard(&mut self, range: Range) {
        self.busy -= range.len;
        self.free.insert(range);
    }

    /// Makes a cold range of `len` bytes busy so that it can be populated, if nothing above `limit` is committed.
    pub(crate) fn begin_populate(&mut self, len: u64, limit: u64) -> Option<Range> {
        if self.committed() + len > limit {
            return None;
        }
        let range = self.free.best_fit(len, alignment_for(len))?;
        if !self.warm.parts_in(range).is_empty() {
            return None;
        }
        self.free.remove(range);
        self.busy += len;
        Some(range)
    }

    /// The range's pages are there.
    pub(crate) fn end_populate(&mut self, range: Range) {
        self.busy -= range.len;
        self.free.insert(range);
        self.warm.insert(range);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    const SEGMENT: u64 = 8 << 20;
    const LIMIT: u64 = 6 << 20;

    #[derive(Debug, Clone)]
    enum Step {
        Allocate(u64),
        Free(usize),
        BeginDiscard(u64),
        BeginPopulate(u64),
        EndBusy(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (1_u64..3 << 20).prop_map(Step::Allocate),
            4 => (1_u64..40_000).prop_map(Step::Allocate),
            5 => any::<usize>().prop_map(Step::Free),
            2 => (1_u64..2 << 20).prop_map(Step::BeginDiscard),
            1 => (1_u64..2 << 20).prop_map(Step::BeginPopulate),
            3 => any::<usize>().prop_map(Step::EndBusy),
        ];
        prop::collection::vec(step, 1..200)
    }

    fn check(allocator: &Allocator, allocated: &[Range], busy: &[(Range, bool)]) {
        let mut all: Vec<Range> = allocated.to_vec();
        all.extend(busy.iter().map(|(range, _)| *range));
        let free = allocator.free.by_place.iter().map(|(place, len)| Range {
            segment: place.0,
            offset: place.1,
            len: *len,
        });
        all.extend(free);
        all.sort_unstable();
        let mut covered: HashMap<SegmentId, u64> = HashMap::new();
        for range in &all {
            let end = covered.entry(range.segment).or_default();
            assert_eq!(
                range.offset, *end,
                "ranges follow each other without gap or overlap: {all:?}"
            );
            assert_eq!(range.offset % PAGE_SIZE, 0);
            *end = range.end();
        }
        for (segment, size) in &allocator.segments {
            assert_eq!(covered.get(segment), Some(size));
        }
        for (place, len) in &allocator.warm.by_place {
            let range = Range {
                segment: place.0,
                offset: place.1,
                len: *len,
            };
            let parts = allocator.free.parts_in(range);
            assert_eq!(
                parts.iter().map(|part| part.len).sum::<u64>(),
                *len,
                "warm ranges are free"
            );
        }
        assert_eq!(
            allocator.allocated,
            allocated.iter().map(|range| range.len).sum::<u64>()
        );
        assert_eq!(
            allocator.busy,
            busy.iter().map(|(range, _)| range.len).sum::<u64>()
        );
        assert!(allocator.committed() <= LIMIT);
    }

    proptest! {
        #[test]
        fn ranges_never_overlap_and_all_come_back(steps in steps()) {
            let mut allocator = Allocator::default();
            let mut segments = 0;
            let mut allocated: Vec<Range> = Vec::new();
            let mut busy: Vec<(Range, bool)> = Vec::new();
            for step in steps {
                match step {
                    Step::Allocate(size) => {
                        let len = pages_for(size);
                        match allocator.allocate(len, LIMIT) {
                            Ok(range) => {
                                prop_assert_eq!(range.len, len);
                                prop_assert_eq!(range.offset % alignment_for(len), 0);
                                allocated.push(range);
                            }
                            Err(NoRoom::Space) => {
                                allocator.add_segment(SegmentId::memory(segments), SEGMENT);
                                segments += 1;
                            }
                            Err(NoRoom::Memory { .. }) => {}
                        }
                    }
                    Step::Free(index) if !allocated.is_empty() => {
                        let range = allocated.swap_remove(index % allocated.len());
                        allocator.free(range);
                    }
                    Step::BeginDiscard(limit) => {
                        busy.extend(allocator.begin_discard(limit).map(|range| (range, true)));
                    }
                    Step::BeginPopulate(size) => {
                        busy.extend(allocator.begin_populate(pages_for(size), LIMIT).map(|range| (range, false)));
                    }
                    Step::EndBusy(index) if !busy.is_empty() => {
                        let (range, discard) = busy.swap_remove(index % busy.len());
                        if discard { allocator.end_discard(range) } else { allocator.end_populate(range) }
                    }
                    Step::Free(_) | Step::EndBusy(_) => {}
                }
                check(&allocator, &allocated, &busy);
            }
            for range in allocated.drain(..) {
                allocator.free(range);
            }
            for (range, discard) in busy.drain(..) {
                if discard { allocator.end_discard(range) } else { allocator.end_populate(range) }
            }
            check(&allocator, &[], &[]);
            prop_assert_eq!(allocator.allocated(), 0);
            // Whatever happened, discarding makes room for an object as large as the limit.
            while let Some(range) = allocator.begin_discard(u64::MAX) {
                allocator.end_discard(range);
            }
            prop_assert_eq!(allocator.committed(), 0);
            for segment in 0..segments {
                prop_assert!(allocator.remove_empty_segment(SegmentId::memory(segment)));
            }
            prop_assert_eq!(allocator.free.bytes, 0);
        }
    }

    #[test]
    fn a_freed_range_is_used_again_before_cold_space() {
        let mut allocator = Allocator::default();
        allocator.add_segment(SegmentId::memory(1), SEGMENT);
        let first = allocator.allocate(PAGE_SIZE, LIMIT).unwrap();
        let second = allocator.allocate(PAGE_SIZE, LIMIT).unwrap();
        allocator.free(first);
        assert_eq!(allocator.allocate(PAGE_SIZE, LIMIT).unwrap(), first);
        allocator.free(second);
        assert_eq!(allocator.warm(), PAGE_SIZE);
        assert_eq!(allocator.allocate(SEGMENT, u64::MAX), Err(NoRoom::Space));
    }
}
