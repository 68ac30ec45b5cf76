//! A moment that processes of one machine share: a few bytes of nameless memory behind a descriptor.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::thread::clock_nanosleep_absolute;
use rustix::time::{ClockId, Timespec, clock_gettime};
use sparkray_common::{MOMENT_LEN, MomentClock, SharedMoment};

/// Readings that may hit a writing before the moment counts as unknown.
const READINGS: u32 = 1000;

fn id_of(clock: MomentClock) -> ClockId {
    match clock {
        MomentClock::Monotonic => ClockId::Monotonic,
        MomentClock::Boottime => ClockId::Boottime,
    }
}

/// The time of a clock of this machine, from its zero.
pub fn clock_now(clock: MomentClock) -> Duration {
    Duration::try_from(clock_gettime(id_of(clock))).unwrap_or_default()
}

/// Blocks until `moment`. A machine that was suspended beyond it wakes up at once, with the clock that counts that.
pub fn sleep_until(moment: SharedMoment) {
    let Ok(until) = Timespec::try_from(moment.at) else {
        return;
    };
    // Interrupted: the caller looks at the clock again anyway.
    let _ = clock_nanosleep_absolute(id_of(moment.clock), &until);
}

/// Writes the moment; one process does.
#[derive(Debug)]
pub struct MomentWriter {
    file: OwnedFd,
}

impl MomentWriter {
    /// Memory without a moment in it.
    pub fn new(name: &str) -> std::io::Result<Self> {
        let file = memfd_create(name, MemfdFlags::CLOEXEC)?;
        rustix::fs::ftruncate(&file, MOMENT_LEN as u64)?;
        Ok(Self { file })
    }

    /// Replaces the moment.
    pub fn write(&self, moment: SharedMoment) {
        if let Err(error) = rustix::io::pwrite(&self.file, &moment.encode(), 0) {
            tracing::error!(%error, "cannot write to shared memory");
        }
    }

    /// For a reader in another process.
    pub fn share(&self) -> std::io::Result<OwnedFd> {
        self.file.try_clone()
    }
}

/// Reads what the writer wrote last.
#[derive(Debug)]
pub struct MomentReader {
    file: OwnedFd,
}

impl MomentReader {
    /// Over a descriptor from [`MomentWriter::share`].
    pub fn new(file: OwnedFd) -> Self {
        Self { file }
    }

    /// `None` when there is none yet.
    pub fn read(&self) -> Option<SharedMoment> {
        let file: BorrowedFd<'_> = self.file.as_fd();
        (0..READINGS).find_map(|_| {
            let mut bytes = [0; MOMENT_LEN];
            match rustix::io::pread(file, &mut bytes, 0) {
                Ok(MOMENT_LEN) => SharedMoment::decode(&bytes),
                _ => None,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_see_whole_moments_while_they_are_written() {
        let writer = MomentWriter::new("test").unwrap();
        let reader = MomentReader::new(writer.share().unwrap());
        assert_eq!(reader.read(), None);
        let moment = |millis: u64| SharedMoment {
            clock: MomentClock::Monotonic,
            at: Duration::from_millis(millis),
        };
        writer.write(moment(1));
        let writing = std::thread::spawn(move || {
            for millis in 1..20_000 {
                writer.write(moment(millis));
            }
        });
        let mut last = Duration::ZERO;
        while !writing.is_finished() {
            let read = reader.read().unwrap();
            assert!(read.at >= last && read.clock == MomentClock::Monotonic);
            last = read.at;
        }
        writing.join().unwrap();
    }

    #[test]
    fn a_moment_that_has_passed_is_not_waited_for() {
        let clock = MomentClock::Boottime;
        let now = clock_now(clock);
        sleep_until(SharedMoment { clock, at: now });
        sleep_until(SharedMoment {
            clock,
            at: now + Duration::from_millis(30),
        });
        assert!(clock_now(clock) >= now + Duration::from_millis(30));
    }
}
