//! The descriptors that a client has got from its store.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::OFlags;
use sparkray_common::ObjectId;
use sparkray_proto::ObjectRange;

use crate::error::StoreError;
use crate::shm::{Access, MappedRange, SegmentId};

#[derive(Debug)]
struct KnownSegment {
    descriptor: OwnedFd,
    access: Access,
    size: u64,
}

/// The descriptors of segments that this client has got. Every reply with a descriptor must pass through
/// [`SegmentTable::attach`] or [`SegmentTable::learn`], in the order of arrival: the store sends each one once.
#[derive(Debug, Default)]
pub struct SegmentTable {
    segments: HashMap<SegmentId, KnownSegment>,
}

impl SegmentTable {
    /// An empty table, for a new connection.
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps the descriptor that came with a reply whose range is not mapped.
    pub fn learn(
        &mut self,
        object: ObjectId,
        range: &ObjectRange,
        descriptor: OwnedFd,
    ) -> Result<(), StoreError> {
        let segment = SegmentId(range.segment_id);
        if segment.is_on_disk() {
            return Ok(());
        }
        let known = check(object, range, descriptor)?;
        match self.segments.get(&segment) {
            Some(earlier) if earlier.access >= known.access => {}
            Some(_) | None => {
                self.segments.insert(segment, known);
            }
        }
        Ok(())
    }

    /// Maps the range that a reply names; `descriptor` is the one that came with it, if one did.
    pub fn attach(
        &mut self,
        object: ObjectId,
        range: &ObjectRange,
        descriptor: Option<OwnedFd>,
        access: Access,
    ) -> Result<MappedRange, StoreError> {
        let segment = SegmentId(range.segment_id);
        if segment.is_on_disk() {
            let descriptor = descriptor
                .ok_or_else(|| bad_range(object, "its segment on disk came without a descriptor"))?;
            return map(object, range, &check(object, range, descriptor)?, access);
        }
        if let Some(descriptor) = descriptor {
            self.learn(object, range, descriptor)?;
        }
        let known = self
            .segments
            .get(&segment)
            .ok_or_else(|| bad_range(object, "the descriptor of its segment has not been received"))?;
        map(object, range, known, access)
    }
}

fn bad_range(object: ObjectId, reason: impl Into<String>) -> StoreError {
    StoreError::BadRange {
        object,
        reason: reason.into(),
    }
}

/// A descriptor must be of a file with the size that the range names: then no access to a mapping of it fails. Files of
/// spilled objects grow while others are written behind them.
fn check(object: ObjectId, range: &ObjectRange, descriptor: OwnedFd) -> Result<KnownSegment, StoreError> {
    let status =
        rustix::fs::fstat(&descriptor).map_err(|error| StoreError::os("inspect a segment", error))?;
    let size = u64::try_from(status.st_size).unwrap_or(0);
    let fits = if SegmentId(range.segment_id).is_on_disk() {
        size >= range.segment_size
    } else {
        size == range.segment_size
    };
    if !fits {
        return Err(bad_range(
            object,
            format!("its segment has {size} bytes, not {}", range.segment_size),
        ));
    }
    let flags =
        rustix::fs::fcntl_getfl(&descriptor).map_err(|error| StoreError::os("inspect a segment", error))?;
    let access = if flags & OFlags::RWMODE == OFlags::RDWR {
        Access::Writable
    } else {
        Access::ReadOnly
    };
    Ok(KnownSegment {
        descriptor,
        access,
        size: range.segment_size,
    })
}

fn map(
    object: ObjectId,
    range: &ObjectRange,
    known: &KnownSegment,
    access: Access,
) -> Result<MappedRange, StoreError> {
    if access > known.access {
        return Err(bad_range(object, "its segment was received for reading only"));
    }
    let len =
        usize::try_from(range.size).map_err(|_| bad_range(object, "it is larger than the address space"))?;
    MappedRange::new(known.descriptor.as_fd(), known.size, range.offset, len, access)
        .map_err(|error| StoreError::os(format!("map {len} bytes of object {object}"), error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shm::Segment;
    use sparkray_common::TaskId;

    #[test]
    fn a_segment_is_received_once_and_again_for_writing() {
        let object = ObjectId::for_result(TaskId::next(), 0);
        let segment = Segment::in_memory(SegmentId::memory(1), "sparkray-test", 1 << 20).unwrap();
        let range = ObjectRange {
            segment_id: 1,
            segment_size: 1 << 20,
            offset: 4096,
            size: 10,
        };
        let mut table = SegmentTable::new();
        assert!(table.attach(object, &range, None, Access::ReadOnly).is_err());
        let reader = segment.descriptor(Access::ReadOnly).unwrap();
        table
            .attach(object, &range, Some(reader), Access::ReadOnly)
            .unwrap();
        assert!(table.attach(object, &range, None, Access::Writable).is_err());
        let writer = segment.descriptor(Access::Writable).unwrap();
        let mut mapped = table
            .attach(object, &range, Some(writer), Access::Writable)
            .unwrap();
        mapped.as_mut_slice().copy_from_slice(b"0123456789");
        assert_eq!(
            table
                .attach(object, &range, None, Access::ReadOnly)
                .unwrap()
                .as_slice(),
            b"0123456789"
        );
    }

    #[test]
    fn a_range_that_does_not_fit_the_descriptor_is_refused() {
        let object = ObjectId::for_result(TaskId::next(), 0);
        let segment = Segment::in_memory(SegmentId::memory(1), "sparkray-test", 1 << 20).unwrap();
        let mut table = SegmentTable::new();
        let range = ObjectRange {
            segment_id: 1,
            segment_size: 2 << 20,
            offset: 0,
            size: 10,
        };
        let reader = segment.descriptor(Access::ReadOnly).unwrap();
        assert!(
            table
                .attach(object, &range, Some(reader), Access::ReadOnly)
                .is_err()
        );
    }
}
