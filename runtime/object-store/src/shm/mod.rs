//! Shared memory: segments and mappings of ranges of them. The only unsafe code of this crate.
//!
//! Invariants:
//! 1. A segment never changes its size: it is sealed (memory) or unlinked and allocated (disk), and whoever
//!    maps a range has checked that it lies inside. So no access to a mapping raises SIGBUS.
//! 2. A mapping covers exactly the pages of one object's range and lives as long as its [`MappedRange`].
//! 3. Bytes of a range are written by one process, its creator, before the object is sealed, and by nobody
//!    after. The store gives a range to another object only when no client holds a use of it. Readers hold
//!    read-only mappings of descriptors that were opened read-only.
//! 4. Clients are trusted not to touch a range after they released it: the store cannot take a mapping away.
#![allow(unsafe_code)]

mod mapping;
mod segment;

pub use mapping::{Access, MappedRange};
pub use segment::{Segment, SegmentId};

/// Ranges begin and end at multiples of this, which is a multiple of the kernel's page: that has 4 KiB on x86-64, and
/// up to 64 KiB elsewhere, as the kernel was built.
pub const PAGE_SIZE: u64 = if cfg!(target_arch = "x86_64") {
    4 << 10
} else {
    64 << 10
};

/// Ranges of at least this size begin at a multiple of it, so that huge pages can back them.
pub(crate) const HUGE_PAGE_SIZE: u64 = 2 << 20;
