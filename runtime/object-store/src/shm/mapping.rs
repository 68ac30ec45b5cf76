//! Mappings of one object's range.

use std::ffi::c_void;
use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

use rustix::mm::{Advice, MapFlags, ProtFlags};

use super::{HUGE_PAGE_SIZE, PAGE_SIZE};

/// What a descriptor or a mapping allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Access {
    /// Reading.
    ReadOnly,
    /// Reading and writing.
    Writable,
}

/// An object's bytes in this process's memory; unmapped on drop.
pub struct MappedRange {
    start: NonNull<u8>,
    len: usize,
    mapped_len: usize,
    access: Access,
}

// SAFETY: the mapping belongs to this value alone and is not tied to a thread; writing needs `&mut self`.
unsafe impl Send for MappedRange {}
// SAFETY: `&self` gives only reads and `madvise`, which keeps the bytes.
unsafe impl Sync for MappedRange {}

impl MappedRange {
    /// Maps `len` bytes from the page-aligned `offset` of a segment that has `segment_size` bytes.
    pub(crate) fn new(
        descriptor: BorrowedFd<'_>,
        segment_size: u64,
        offset: u64,
        len: usize,
        access: Access,
    ) -> io::Result<Self> {
        let refuse = |reason: String| Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        if !offset.is_multiple_of(PAGE_SIZE) {
            return refuse(format!("offset {offset} is not a multiple of {PAGE_SIZE}"));
        }
        let mapped_len = (len.max(1) as u64).next_multiple_of(PAGE_SIZE);
        if offset
            .checked_add(mapped_len)
            .is_none_or(|end| end > segment_size)
        {
            return refuse(format!(
                "{len} bytes from {offset} do not lie in a segment of {segment_size} bytes"
            ));
        }
        let mapped_len = mapped_len as usize;
        let protection = match access {
            Access::ReadOnly => ProtFlags::READ,
            Access::Writable => ProtFlags::READ | ProtFlags::WRITE,
        };
        let start = if (mapped_len as u64) < HUGE_PAGE_SIZE {
            // SAFETY: a new mapping at an address that the kernel chooses replaces nothing.
            unsafe {
                rustix::mm::mmap(
                    std::ptr::null_mut(),
                    mapped_len,
                    protection,
                    MapFlags::SHARED,
                    descriptor,
                    offset,
                )?
            }
        } else {
            map_for_huge_pages(descriptor, offset, mapped_len, protection)?
        };
        let Some(start) = NonNull::new(start.cast()) else {
            return Err(io::Error::other("the kernel mapped the range at address 0"));
        };
        Ok(Self {
            start,
            len,
            mapped_len,
            access,
        })
    }

    /// Bytes in the object.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the object has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What the mapping allows.
    pub fn access(&self) -> Access {
        self.access
    }

    /// Address of the first byte, valid while this value lives; page-aligned.
    pub fn as_ptr(&self) -> *const u8 {
        self.start.as_ptr()
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: the mapping covers `len` bytes inside the segment (checked by `new`) and lives as long as
        // `self`. Nobody writes to a sealed object; before that its creator alone does, through `&mut self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// The bytes of an object that is not sealed yet.
    ///
    /// # Panics
    /// When the range is mapped read-only.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        assert!(self.access == Access::Writable, "the object is mapped read-only");
        // SAFETY: as in `as_slice`; the mapping is writable and `&mut self` excludes other views of it in this
        // process. The store gives the range of an unsealed object to no other process.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }

    /// Brings pages in ahead of writes, in one call instead of a fault for each page: huge ones where the
    /// kernel can make them. Does nothing to the bytes of an object that is being written only from here on;
    /// call it before the first write. Best effort.
    pub fn prepare_for_writing(&mut self) {
        self.prepare_part_for_writing(0, self.mapped_len);
    }

    /// As [`Self::prepare_for_writing`], for up to `len` bytes from `offset`; both are multiples of the huge page, for
    /// the sake of speed.
    ///
    /// # Panics
    /// When `offset` is no multiple of the page.
    pub fn prepare_part_for_writing(&mut self, offset: usize, len: usize) {
        assert!(
            (offset as u64).is_multiple_of(PAGE_SIZE),
            "{offset} is inside a page"
        );
        let end = offset.saturating_add(len).min(self.mapped_len);
        if self.access != Access::Writable || offset >= end {
            return;
        }
        let huge_page = HUGE_PAGE_SIZE as usize;
        let huge_len = (end - offset) / huge_page * huge_page;
        let mut rest = offset;
        if huge_len > 0 && self.make_huge_pages(offset, huge_len) {
            rest += huge_len;
        }
        if rest < end {
            // Kernels before 5.14 do not know the advice: the pages come by faults then.
            // SAFETY: [rest, end) lies in this mapping; populating keeps every byte.
            let _best_effort = unsafe {
                let start = self.start.as_ptr().add(rest).cast::<c_void>();
                rustix::mm::madvise(start, end - rest, Advice::LinuxPopulateWrite)
            };
        }
    }

    /// Touches one page of each huge page and lets the kernel replace what is there by huge pages, which is
    /// several times as fast as bringing in small ones. [offset, offset + len) lies in the mapping, and begins at a huge
    /// page of the segment, or nothing is done.
    fn make_huge_pages(&mut self, offset: usize, len: usize) -> bool {
        // SAFETY: the caller's range lies in this mapping.
        let start = unsafe { self.start.as_ptr().add(offset) };
        if !start.addr().is_multiple_of(HUGE_PAGE_SIZE as usize) {
            return false;
        }
        for offset in (0..len).step_by(HUGE_PAGE_SIZE as usize) {
            // SAFETY: `offset` lies in this writable mapping, which nobody else writes; volatile, so that the
            // page is touched although the value does not change.
            unsafe {
                let byte = start.add(offset);
                byte.write_volatile(byte.read_volatile());
            }
        }
        // SAFETY: the range lies in this mapping; collapsing keeps every byte.
        unsafe { libc::madvise(start.cast(), len, libc::MADV_COLLAPSE) == 0 }
    }

    /// Takes the range out of this process's resident memory. The bytes stay: the next access faults them in.
    pub fn give_back(&self) {
        // SAFETY: the mapping is shared and file-backed, so dropping its pages from the page table keeps every
        // byte in the segment.
        let _best_effort = unsafe {
            rustix::mm::madvise(self.start.as_ptr().cast(), self.mapped_len, Advice::LinuxDontNeed)
        };
    }
}

impl Drop for MappedRange {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new`, and no slice of it outlives `self`.
        let unmapped = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.mapped_len) };
        debug_assert!(unmapped.is_ok(), "munmap of an own mapping failed: {unmapped:?}");
    }
}

impl AsRef<[u8]> for MappedRange {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl fmt::Debug for MappedRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("MappedRange")
            .field("len", &self.len)
            .field("access", &self.access)
            .finish_non_exhaustive()
    }
}

/// Maps at an address that is congruent to the offset modulo the huge page size: only then can the kernel
/// use one entry for a whole huge page.
fn map_for_huge_pages(
    descriptor: BorrowedFd<'_>,
    offset: u64,
    len: usize,
    protection: ProtFlags,
) -> io::Result<*mut c_void> {
    let huge_page = HUGE_PAGE_SIZE as usize;
    let reserved_len = len + huge_page;
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
    // SAFETY: a new reservation at an address that the kernel chooses replaces nothing.
    let reserved =
        unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), reserved_len, ProtFlags::empty(), flags)? };
    let wanted = (offset % HUGE_PAGE_SIZE) as usize;
    let skip = (wanted + huge_page - reserved.addr() % huge_page) % huge_page;
    // SAFETY: [reserved + skip, + len) lies inside the reservation just made, which belongs to this function;
    // the parts before and after it are given up. On failure the whole reservation is given up.
    unsafe {
        let start = reserved.byte_add(skip);
        let mapped = rustix::mm::mmap(
            start,
            len,
            protection,
            MapFlags::SHARED | MapFlags::FIXED,
            descriptor,
            offset,
        );
        if let Err(error) = mapped {
            rustix::mm::munmap(reserved, reserved_len)?;
            return Err(error.into());
        }
        if skip > 0 {
            rustix::mm::munmap(reserved, skip)?;
        }
        if skip < huge_page {
            rustix::mm::munmap(start.byte_add(len), huge_page - skip)?;
        }
        Ok(start)
    }
}
