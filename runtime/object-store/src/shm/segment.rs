//! Segments: the files in memory, or in a full store's need on disk, that hold objects.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FallocateFlags, MemfdFlags, Mode, OFlags, SealFlags};

use super::{Access, MappedRange};
use crate::nameless_file::nameless_file;

/// Names a segment of one store; never used again for another segment.
///
/// The descriptor of a segment on disk is sent with every range of it and is not kept by clients; the
/// descriptor of a segment in memory is sent once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SegmentId(pub u64);

impl SegmentId {
    const ON_DISK: u64 = 1 << 63;

    pub(crate) fn memory(number: u64) -> Self {
        Self(number & !Self::ON_DISK)
    }

    pub(crate) fn disk(number: u64) -> Self {
        Self(number | Self::ON_DISK)
    }

    /// Whether the segment is a file on disk.
    pub fn is_on_disk(self) -> bool {
        self.0 & Self::ON_DISK != 0
    }
}

/// A memfd, or a file without a name, of a fixed size.
#[derive(Debug)]
pub struct Segment {
    id: SegmentId,
    size: u64,
    writable: OwnedFd,
    read_only: OwnedFd,
}

impl Segment {
    /// A memfd of `size` bytes that can neither grow nor shrink. Its pages come into being when they are
    /// first touched, so a large segment costs nothing by itself.
    pub(crate) fn in_memory(id: SegmentId, name: &str, size: u64) -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let writable = match rustix::fs::memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
            // Kernels before 6.3 do not know that flag; newer ones may insist on it.
            Err(rustix::io::Errno::INVAL) => rustix::fs::memfd_create(name, flags)?,
            created => created?,
        };
        rustix::fs::ftruncate(&writable, size)?;
        rustix::fs::fcntl_add_seals(&writable, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW)?;
        let read_only = reopen_read_only(&writable)?;
        Ok(Self {
            id,
            size,
            writable,
            read_only,
        })
    }

    /// A file without a name in `directory` whose blocks are all allocated, so that writing to its mapping cannot
    /// meet a full disk.
    pub(crate) fn on_disk(id: SegmentId, directory: &Path, size: u64) -> io::Result<Self> {
        let file = nameless_file(directory)?;
        allocate_blocks(&file, size)?;
        let writable = OwnedFd::from(file);
        let read_only = reopen_read_only(&writable)?;
        Ok(Self {
            id,
            size,
            writable,
            read_only,
        })
    }

    /// A file that exists, up to `size`, for reading. It may grow beyond that, and never shrinks.
    pub(crate) fn of_file(id: SegmentId, file: &File, size: u64) -> io::Result<Self> {
        let writable = OwnedFd::from(file.try_clone()?);
        let read_only = reopen_read_only(&writable)?;
        Ok(Self {
            id,
            size,
            writable,
            read_only,
        })
    }

    /// Its name.
    pub fn id(&self) -> SegmentId {
        self.id
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// A new descriptor of it, for a client.
    pub fn descriptor(&self, access: Access) -> io::Result<OwnedFd> {
        match access {
            Access::ReadOnly => self.read_only.try_clone(),
            Access::Writable => self.writable.try_clone(),
        }
    }

    /// Maps a range of it into this process.
    pub fn map(&self, offset: u64, len: usize, access: Access) -> io::Result<MappedRange> {
        let descriptor = match access {
            Access::ReadOnly => self.read_only.as_fd(),
            Access::Writable => self.writable.as_fd(),
        };
        MappedRange::new(descriptor, self.size, offset, len, access)
    }

    /// Gives the pages of a range back to the kernel, whoever holds the segment's descriptor.
    pub(crate) fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        rustix::fs::fallocate(
            &self.writable,
            FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            offset,
            len,
        )?;
        Ok(())
    }

    /// The descriptor, for reading and writing without a mapping.
    pub(crate) fn as_writable(&self) -> BorrowedFd<'_> {
        self.writable.as_fd()
    }
}

fn reopen_read_only(descriptor: &OwnedFd) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", descriptor.as_raw_fd());
    Ok(rustix::fs::open(
        path,
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

/// Allocates all blocks of a file: at once where the file system can, else by writing zeros.
fn allocate_blocks(file: &File, size: u64) -> io::Result<()> {
    use std::os::unix::fs::FileExt;

    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, size) {
        Ok(()) => return Ok(()),
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {}
        Err(error) => return Err(error.into()),
    }
    let zeros = vec![0; 1 << 20];
    let mut offset = 0;
    while offset < size {
        let step = (size - offset).min(zeros.len() as u64);
        file.write_all_at(&zeros[..step as usize], offset)?;
        offset += step;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_cannot_change_its_size_and_its_reader_cannot_write() {
        let segment = Segment::in_memory(SegmentId::memory(1), "sparkray-test", 1 << 20).unwrap();
        assert!(rustix::fs::ftruncate(&segment.writable, 0).is_err());
        assert!(rustix::fs::ftruncate(&segment.writable, 2 << 20).is_err());
        let reader = segment.descriptor(Access::ReadOnly).unwrap();
        assert!(rustix::io::write(&reader, b"x").is_err());
        assert!(MappedRange::new(reader.as_fd(), 1 << 20, 0, 4096, Access::Writable).is_err());
    }

    #[test]
    fn what_one_mapping_writes_another_one_reads_until_it_is_discarded() {
        let segment = Segment::in_memory(SegmentId::memory(1), "sparkray-test", 8 << 20).unwrap();
        let mut writer = segment.map(2 << 20, (4 << 20) + 5, Access::Writable).unwrap();
        writer.prepare_for_writing();
        writer.as_mut_slice().fill(7);
        let reader = segment.map(2 << 20, (4 << 20) + 5, Access::ReadOnly).unwrap();
        assert_eq!(reader.len(), (4 << 20) + 5);
        assert!(reader.as_slice().iter().all(|byte| *byte == 7));
        reader.give_back();
        assert!(reader.as_slice().iter().all(|byte| *byte == 7));
        segment.discard(2 << 20, 4 << 20).unwrap();
        assert!(reader.as_slice()[..4 << 20].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn parts_that_are_prepared_keep_what_was_written_before() {
        let segment = Segment::in_memory(SegmentId::memory(1), "sparkray-test", 8 << 20).unwrap();
        let mut writer = segment.map(4096, (5 << 20) + 5, Access::Writable).unwrap();
        for part in [0, 2 << 20, 4 << 20, 6 << 20] {
            writer.as_mut_slice()[part.min(5 << 20)..].fill((part >> 20) as u8);
            writer.prepare_part_for_writing(part, 2 << 20);
            writer.prepare_part_for_writing(0, usize::MAX);
        }
        let reader = segment.map(4096, (5 << 20) + 5, Access::ReadOnly).unwrap();
        for (begin, end, byte) in [
            (0, 2 << 20, 0),
            (2 << 20, 4 << 20, 2),
            (4 << 20, 5 << 20, 4),
            (5 << 20, (5 << 20) + 5, 6),
        ] {
            assert!(reader.as_slice()[begin..end].iter().all(|found| *found == byte));
        }
    }

    #[test]
    fn a_segment_on_disk_leaves_no_name() {
        let directory = tempfile::tempdir().unwrap();
        let segment = Segment::on_disk(SegmentId::disk(3), directory.path(), 1 << 20).unwrap();
        assert!(segment.id().is_on_disk());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        segment
            .map(4096, 100, Access::Writable)
            .unwrap()
            .as_mut_slice()
            .fill(9);
        assert_eq!(
            segment.map(4096, 100, Access::ReadOnly).unwrap().as_slice(),
            [9; 100]
        );
    }

    #[test]
    fn ranges_outside_the_segment_or_off_a_page_are_refused() {
        let segment = Segment::in_memory(SegmentId::memory(1), "sparkray-test", 1 << 20).unwrap();
        assert!(segment.map(1 << 20, 1, Access::ReadOnly).is_err());
        assert!(segment.map(4096, 1 << 20, Access::ReadOnly).is_err());
        assert!(segment.map(100, 10, Access::ReadOnly).is_err());
        assert!(segment.map(u64::MAX - 4095, 10, Access::ReadOnly).is_err());
    }
}
