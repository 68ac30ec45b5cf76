//! Spilled objects on disk.
//!
//! Objects are written one after the other into *volumes*: files of up to 1 GiB that have no name, so that
//! nothing of them is left however the raylet ends, and one descriptor serves many objects. The blocks of a freed
//! object are given back at once by punching a hole, those of a volume when its last object goes.
//! What is read back is checked, block by block: bytes that changed are an error, never a value.

use sparkray_common::sync::Mutex;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use rustix::fs::FallocateFlags;

use crate::allocator::pages_for;
use crate::checksum::checksum;
use crate::nameless_file::nameless_file;
use crate::shm::{Segment, SegmentId};

/// Bytes that one checksum covers, and the unit of reading and writing.
const BLOCK: usize = 1 << 20;
const VOLUME_SIZE: u64 = 1 << 30;

#[derive(Debug)]
struct Volume {
    file: File,
    directory: PathBuf,
    end: AtomicU64,
}

#[derive(Debug)]
struct Extent {
    volume: Arc<Volume>,
    offset: u64,
    len: u64,
}

impl Drop for Extent {
    fn drop(&mut self) {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if let Err(error) = rustix::fs::fallocate(&self.volume.file, flags, self.offset, pages_for(self.len))
        {
            // The blocks go with the volume.
            tracing::debug!(%error, directory = %self.volume.directory.display(), "no hole in a spill volume");
        }
    }
}

/// The bytes of one spilled object. Its disk space is freed when the last clone is dropped, which blocks.
#[derive(Debug, Clone)]
pub struct SpillFile {
    extent: Arc<Extent>,
    checksums: Arc<[u64]>,
}

impl SpillFile {
    /// Bytes in the object.
    pub fn size(&self) -> u64 {
        self.extent.len
    }

    fn read_block(&self, index: usize) -> io::Result<Vec<u8>> {
        let start = (index * BLOCK) as u64;
        let mut block = vec![0; (self.size() - start).min(BLOCK as u64) as usize];
        self.extent
            .volume
            .file
            .read_exact_at(&mut block, self.extent.offset + start)?;
        if checksum(&block) != self.checksums[index] {
            let directory = self.extent.volume.directory.display();
            let reason = format!("bytes of a spilled object in {directory} have changed on disk");
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        Ok(block)
    }

    /// Reads and checks the bytes from `offset`, at most `len` of them and at most to the end of a block of
    /// 1 MiB; none only at the object's end. Blocks.
    pub fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        if offset >= self.size() {
            return Ok(Bytes::new());
        }
        let index = (offset / BLOCK as u64) as usize;
        let start = (offset % BLOCK as u64) as usize;
        let block = Bytes::from(self.read_block(index)?);
        let end = start.saturating_add(len).min(block.len());
        Ok(block.slice(start..end))
    }

    /// Where the object begins in its file.
    pub(crate) fn offset(&self) -> u64 {
        self.extent.offset
    }

    /// Checks the object, and gives its file as a segment in which it can be read without a copy. Blocks.
    pub(crate) fn open(&self, id: SegmentId) -> io::Result<Segment> {
        for index in 0..self.checksums.len() {
            self.read_block(index)?;
        }
        let end = self.extent.offset + pages_for(self.extent.len);
        Segment::of_file(id, &self.extent.volume.file, end)
    }

    /// Copies the object back into memory, checked. Blocks.
    pub(crate) fn restore(&self, segment: &Segment, offset: u64) -> io::Result<()> {
        for index in 0..self.checksums.len() {
            let block = self.read_block(index)?;
            write_all_at(segment, &block, offset + (index * BLOCK) as u64)?;
        }
        Ok(())
    }
}

fn write_all_at(segment: &Segment, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = retry(|| rustix::io::pwrite(segment.as_writable(), bytes, offset))?;
        bytes = &bytes[written..];
        offset += written as u64;
    }
    Ok(())
}

fn read_exact_at(segment: &Segment, mut bytes: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let read = match rustix::io::pread(segment.as_writable(), &mut *bytes, offset) {
            Ok(read) => read,
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes = &mut bytes[read..];
        offset += read as u64;
    }
    Ok(())
}

fn retry(mut call: impl FnMut() -> rustix::io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => return Ok(count),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The directories to spill to, taken in turn. Those that it made are removed on drop.
#[derive(Debug)]
pub(crate) struct SpillDirectories {
    directories: Vec<SpillDirectory>,
    next: AtomicUsize,
}

#[derive(Debug)]
struct SpillDirectory {
    path: PathBuf,
    made_here: bool,
    /// The volume that is being filled.
    current: Mutex<Option<Arc<Volume>>>,
}

impl Drop for SpillDirectory {
    fn drop(&mut self) {
        if self.made_here
            && let Err(error) = std::fs::remove_dir(&self.path)
        {
            tracing::debug!(%error, directory = %self.path.display(), "cannot remove a spill directory");
        }
    }
}

impl SpillDirectories {
    /// Makes the directories that do not exist.
    pub(crate) fn new(paths: Vec<PathBuf>) -> io::Result<Self> {
        let mut directories = Vec::with_capacity(paths.len());
        for path in paths {
            let made_here = !path.exists();
            std::fs::create_dir_all(&path).map_err(|error| {
                let reason = format!("spill directory {} cannot be made: {error}", path.display());
                io::Error::new(error.kind(), reason)
            })?;
            directories.push(SpillDirectory {
                path,
                made_here,
                current: Mutex::new(None),
            });
        }
        Ok(Self {
            directories,
            next: AtomicUsize::new(0),
        })
    }

    /// Runs `action` on the directories in turn until it succeeds. The error names each one's reason.
    fn in_turn<T>(&self, action: impl Fn(usize) -> io::Result<T>) -> io::Result<T> {
        let count = self.directories.len();
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let mut reasons = Vec::new();
        let mut kind = io::ErrorKind::StorageFull;
        for step in 0..count {
            let index = first.wrapping_add(step) % count;
            match action(index) {
                Ok(done) => return Ok(done),
                Err(error) => {
                    kind = error.kind();
                    reasons.push(format!("{}: {error}", self.directories[index].path.display()));
                }
            }
        }
        if reasons.is_empty() {
            reasons.push("there is no directory to spill to".to_owned());
        }
        Err(io::Error::new(kind, reasons.join("; ")))
    }

    /// Writes an object to the next directory that has room. Blocks.
    pub(crate) fn spill(&self, segment: &Segment, offset: u64, size: u64) -> io::Result<SpillFile> {
        self.in_turn(|index| {
            let extent = self.reserve(index, size)?;
            let mut checksums = Vec::with_capacity(size.div_ceil(BLOCK as u64) as usize);
            let mut block = vec![0; size.min(BLOCK as u64) as usize];
            let mut done = 0;
            while done < size {
                let len = (size - done).min(BLOCK as u64) as usize;
                read_exact_at(segment, &mut block[..len], offset + done)?;
                extent
                    .volume
                    .file
                    .write_all_at(&block[..len], extent.offset + done)?;
                checksums.push(checksum(&block[..len]));
                done += len as u64;
            }
            // Mappings are of whole pages, all of which must be in the file.
            let padding = vec![0; (pages_for(size) - size) as usize];
            extent.volume.file.write_all_at(&padding, extent.offset + size)?;
            Ok(SpillFile {
                extent: Arc::new(extent),
                checksums: checksums.into(),
            })
        })
    }

    /// A segment on disk, in the next directory that has room. Blocks.
    pub(crate) fn fallback_segment(&self, id: SegmentId, size: u64) -> io::Result<Segment> {
        self.in_turn(|index| Segment::on_disk(id, &self.directories[index].path, size))
    }

    fn reserve(&self, index: usize, len: u64) -> io::Result<Extent> {
        let SpillDirectory { path, current, .. } = &self.directories[index];
        let mut current = current.lock();
        if let Some(volume) = current.as_ref() {
            // Nothing but the store's own reference: every object of it is gone.
            if Arc::strong_count(volume) == 1 || volume.end.load(Ordering::Relaxed) >= VOLUME_SIZE {
                *current = None;
            }
        }
        let volume = match current.as_ref() {
            Some(volume) => Arc::clone(volume),
            None => Arc::clone(current.insert(Arc::new(Volume {
                file: nameless_file(path)?,
                directory: path.clone(),
                end: AtomicU64::new(0),
            }))),
        };
        let offset = volume.end.fetch_add(pages_for(len), Ordering::Relaxed);
        Ok(Extent { volume, offset, len })
    }
}

#[cfg(test)]
impl SpillFile {
    /// Damages one byte, as a failing disk would.
    pub(crate) fn damage(&self) {
        let file = &self.extent.volume.file;
        let mut byte = [0];
        file.read_exact_at(&mut byte, self.extent.offset).unwrap();
        file.write_all_at(&[byte[0] ^ 1], self.extent.offset).unwrap();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shm::Access;

    fn filled_segment(size: u64) -> Segment {
        let segment = Segment::in_memory(SegmentId::memory(1), "sparkray-test", size).unwrap();
        let mut range = segment.map(0, size as usize, Access::Writable).unwrap();
        for (index, byte) in range.as_mut_slice().iter_mut().enumerate() {
            *byte = (index * 31 % 251) as u8;
        }
        segment
    }

    #[test]
    fn a_spilled_object_is_restored_and_read_in_parts() {
        let directory = tempfile::tempdir().unwrap();
        let directories = SpillDirectories::new(vec![directory.path().join("a")]).unwrap();
        let size = (3 << 20) + 77;
        let segment = filled_segment(4 << 20);
        let file = directories.spill(&segment, 0, size).unwrap();
        assert_eq!(file.size(), size);
        assert_eq!(std::fs::read_dir(directory.path().join("a")).unwrap().count(), 0);
        let target = Segment::in_memory(SegmentId::memory(2), "sparkray-test", 8 << 20).unwrap();
        file.restore(&target, 4096).unwrap();
        let original = segment.map(0, size as usize, Access::ReadOnly).unwrap();
        let restored = target.map(4096, size as usize, Access::ReadOnly).unwrap();
        assert_eq!(original.as_slice(), restored.as_slice());
        let mut read = Vec::new();
        while read.len() < size as usize {
            read.extend_from_slice(&file.read_at(read.len() as u64, 700_000).unwrap());
        }
        assert_eq!(original.as_slice(), read);
        assert!(file.read_at(size, 1).unwrap().is_empty());
        let second = directories.spill(&segment, 0, size).unwrap();
        let opened = second.open(SegmentId::disk(3)).unwrap();
        let in_place = opened
            .map(second.offset(), size as usize, Access::ReadOnly)
            .unwrap();
        assert_eq!(original.as_slice(), in_place.as_slice());
        assert!(rustix::io::write(opened.descriptor(Access::ReadOnly).unwrap(), b"x").is_err());
    }

    #[test]
    fn changed_bytes_are_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let directories = SpillDirectories::new(vec![directory.path().to_owned()]).unwrap();
        let segment = filled_segment(1 << 20);
        let file = directories.spill(&segment, 0, 5000).unwrap();
        file.damage();
        assert_eq!(
            file.read_at(0, 10).unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
        assert!(file.restore(&segment, 0).is_err());
        assert!(file.open(SegmentId::disk(3)).is_err());
    }

    #[test]
    fn a_directory_that_fails_is_passed_over() {
        let directory = tempfile::tempdir().unwrap();
        let bad = directory.path().join("bad");
        let good = directory.path().join("good");
        let directories = SpillDirectories::new(vec![bad.clone(), good]).unwrap();
        std::fs::remove_dir(&bad).unwrap();
        let segment = filled_segment(1 << 20);
        for _ in 0..4 {
            directories.spill(&segment, 0, 1 << 20).unwrap();
        }
        let none = SpillDirectories::new(Vec::new()).unwrap();
        assert!(
            none.spill(&segment, 0, 100)
                .unwrap_err()
                .to_string()
                .contains("no directory")
        );
    }

    #[test]
    fn freed_objects_give_their_blocks_back() {
        let directory = tempfile::tempdir().unwrap();
        let directories = SpillDirectories::new(vec![directory.path().to_owned()]).unwrap();
        let segment = filled_segment(4 << 20);
        let first = directories.spill(&segment, 0, 4 << 20).unwrap();
        let second = directories.spill(&segment, 0, 4096).unwrap();
        assert!(Arc::ptr_eq(&first.extent.volume, &second.extent.volume));
        let volume = Arc::clone(&first.extent.volume);
        let blocks = || {
            rustix::fs::fstat(std::os::fd::AsFd::as_fd(&volume.file))
                .unwrap()
                .st_blocks
        };
        let before = blocks();
        drop(first);
        assert!(blocks() < before / 2);
    }
}
