//! Blocks that stay readable until their task ends, and what of the node's store they may occupy.
//!
//! Spark 4 reads the batches of a scan after it has asked for later ones (columns that go beside a Python UDF), so a
//! task holds every block that it has read. Blocks in the store cannot be evicted or spilled while they are held, and
//! one task may read more than the store has. So:
//!
//! 1. The blocks that the tasks of this process hold in the store have at most [`BlockDescription::hold_bytes`] together.
//! 2. A block beyond that is copied into a file without a name in Spark's own local directory, which is mapped instead:
//!    its pages are the kernel's to write back. The store has its own copy back at once.
//! 3. When there is no room on that disk either, the block is held in the store after all: then others wait, or go to
//!    the store's disk, but nobody reads wrong bytes.
//!
//! [`BlockDescription::hold_bytes`]: crate::table

use std::io::Write;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow_buffer::Buffer;
use memmap2::Mmap;
use sparkray_common::ErrorCode;
use sparkray_object_store::ReadableObject;

use crate::error::NativeError;

/// Bytes of blocks that tasks of this process hold in the store.
static HELD_BYTES: AtomicU64 = AtomicU64::new(0);

/// A share of [`HELD_BYTES`], given back on drop.
struct Share(u64);

impl Share {
    fn take(bytes: u64, most: u64) -> Option<Self> {
        HELD_BYTES
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
                held.checked_add(bytes).filter(|after| *after <= most)
            })
            .ok()
            .map(|_| Self(bytes))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        HELD_BYTES.fetch_sub(self.0, Ordering::Relaxed);
    }
}

/// Keeps a mapping for as long as a buffer points into it.
trait Mapping: std::ops::Deref<Target = [u8]> + Send + Sync + std::panic::RefUnwindSafe + 'static {}

struct InStore {
    object: ReadableObject,
    _share: Option<Share>,
}

// A panic cannot leave a read-only mapping half changed.
impl std::panic::RefUnwindSafe for InStore {}

impl std::ops::Deref for InStore {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.object.as_slice()
    }
}

impl Mapping for InStore {}
impl Mapping for Mmap {}

/// The bytes of an object that is read for a short while, in place.
pub(crate) fn in_place(object: ReadableObject) -> Result<Buffer, NativeError> {
    buffer_over(InStore { object, _share: None })
}

/// The bytes of an object that is held until a task ends: in place where `most` bytes of such objects are not reached,
/// else in a file in `directory`.
pub(crate) fn until_task_ends(
    object: ReadableObject,
    most: u64,
    directory: &Path,
) -> Result<Buffer, NativeError> {
    if let Some(share) = Share::take(object.as_slice().len() as u64, most) {
        return buffer_over(InStore {
            object,
            _share: Some(share),
        });
    }
    match copy_to_file(object.as_slice(), directory) {
        Ok(copy) => buffer_over(copy),
        Err(error) => {
            tracing::warn!(%error, directory = %directory.display(), "a block stays in the object store until its task ends");
            in_place(object)
        }
    }
}

fn copy_to_file(bytes: &[u8], directory: &Path) -> std::io::Result<Mmap> {
    let mut file = tempfile::tempfile_in(directory)?;
    file.write_all(bytes)?;
    // SAFETY: the file has no name and no other descriptor, so nobody changes it while it is mapped.
    unsafe { Mmap::map(&file) }
}

fn buffer_over(mapping: impl Mapping) -> Result<Buffer, NativeError> {
    let (start, len) = (mapping.as_ptr(), mapping.len());
    let start = NonNull::new(start.cast_mut())
        .ok_or_else(|| NativeError::refused(ErrorCode::Internal, "an object is mapped at address 0"))?;
    // SAFETY: the bytes are mapped, initialised and never change while the mapping, which the buffer owns, lives.
    Ok(unsafe { Buffer::from_custom_allocation(start, len, Arc::new(mapping)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_bounded_and_given_back() {
        let first = Share::take(60, 100).unwrap();
        assert!(Share::take(41, 100).is_none());
        let second = Share::take(40, 100).unwrap();
        assert!(Share::take(1, 100).is_none());
        drop((first, second));
        assert!(Share::take(100, 100).is_some());
        assert!(Share::take(u64::MAX, u64::MAX).is_some());
    }

    #[test]
    fn a_copy_on_disk_has_the_same_bytes_and_no_name() {
        let directory = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..100_000_u32).map(|number| number as u8).collect();
        let copy = copy_to_file(&bytes, directory.path()).unwrap();
        assert_eq!(&copy[..], &bytes[..]);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
