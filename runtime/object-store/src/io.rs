//! Runs the store's disk work and its slow memory work on blocking threads.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use sparkray_common::ObjectId;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tracing::debug_span;

use crate::allocator::Range;
use crate::shm::{Access, Segment, SegmentId};
use crate::spill::{SpillDirectories, SpillFile};

/// Disk jobs that run at once.
const DISK_JOBS: usize = 2;
/// Jobs on memory that run at once.
const MEMORY_JOBS: usize = 1;
/// Removals that run at once. A file system may take long over them, and neither spills nor memory wait for that.
const REMOVALS: usize = 2;
const OUTCOMES: usize = 1024;

/// Work that the store asks for; give it to [`IoExecutor::start`].
#[derive(Debug)]
pub struct IoJob(pub(crate) Job);

/// What became of an [`IoJob`]; give it to [`crate::ObjectStore::io_done`].
#[derive(Debug)]
pub struct IoOutcome(pub(crate) Outcome);

#[derive(Debug)]
pub(crate) enum Job {
    /// Write an object to disk.
    Spill {
        slot: u64,
        /// For spans.
        object: ObjectId,
        segment: Arc<Segment>,
        offset: u64,
        size: u64,
    },
    /// Read it back.
    Restore {
        slot: u64,
        /// For spans.
        object: ObjectId,
        segment: Arc<Segment>,
        offset: u64,
        file: SpillFile,
    },
    /// Check it, and make it readable where it lies.
    Open {
        slot: u64,
        /// For spans.
        object: ObjectId,
        segment: SegmentId,
        file: SpillFile,
    },
    /// Free disk space. Has no outcome.
    Delete { file: SpillFile },
    /// Give free memory back to the kernel.
    Discard { segment: Arc<Segment>, range: Range },
    /// Bring the pages of a free range in.
    Populate { segment: Arc<Segment>, range: Range },
    /// Make a segment on disk.
    Fallback { segment: SegmentId, size: u64 },
    /// Close a segment on disk, which frees its blocks. Has no outcome.
    Close { segment: Arc<Segment> },
}

#[derive(Debug)]
pub(crate) enum Outcome {
    Spilled {
        slot: u64,
        result: io::Result<SpillFile>,
    },
    Restored {
        slot: u64,
        result: io::Result<()>,
    },
    Opened {
        slot: u64,
        segment: SegmentId,
        result: io::Result<Segment>,
    },
    Discarded {
        range: Range,
        result: io::Result<()>,
    },
    Populated {
        range: Range,
    },
    Fallback {
        segment: SegmentId,
        result: io::Result<Segment>,
    },
}

impl Job {
    /// Does the work. Blocks.
    pub(crate) fn run(self, directories: &SpillDirectories) -> Option<Outcome> {
        match self {
            Self::Spill {
                slot,
                object,
                segment,
                offset,
                size,
            } => {
                let _span = debug_span!("spill", object_id = %object, size).entered();
                Some(Outcome::Spilled {
                    slot,
                    result: directories.spill(&segment, offset, size),
                })
            }
            Self::Restore {
                slot,
                object,
                segment,
                offset,
                file,
            } => {
                let _span = debug_span!("restore", object_id = %object, size = file.size()).entered();
                Some(Outcome::Restored {
                    slot,
                    result: file.restore(&segment, offset),
                })
            }
            Self::Open {
                slot,
                object,
                segment,
                file,
            } => {
                let _span = debug_span!("open_spilled", object_id = %object, size = file.size()).entered();
                Some(Outcome::Opened {
                    slot,
                    segment,
                    result: file.open(segment),
                })
            }
            Self::Delete { file } => {
                drop(file);
                None
            }
            Self::Discard { segment, range } => Some(Outcome::Discarded {
                range,
                result: segment.discard(range.offset, range.len),
            }),
            Self::Populate { segment, range } => {
                match segment.map(range.offset, range.len as usize, Access::Writable) {
                    Ok(mut mapping) => mapping.prepare_for_writing(),
                    Err(error) => tracing::debug!(%error, "cannot populate memory ahead"),
                }
                Some(Outcome::Populated { range })
            }
            Self::Fallback { segment, size } => Some(Outcome::Fallback {
                segment,
                result: directories.fallback_segment(segment, size),
            }),
            Self::Close { segment } => {
                drop(segment);
                None
            }
        }
    }
}

/// Runs [`IoJob`]s on tokio's blocking threads. Dropping it, or [`IoExecutor::shutdown`], leaves nothing on disk.
#[derive(Debug)]
pub struct IoExecutor {
    directories: Arc<SpillDirectories>,
    disk_permits: Arc<Semaphore>,
    memory_permits: Arc<Semaphore>,
    removal_permits: Arc<Semaphore>,
    outcomes: mpsc::Sender<IoOutcome>,
    running: JoinSet<()>,
}

impl IoExecutor {
    /// An executor that spills to these directories in turn, and the channel on which outcomes arrive.
    /// Makes the directories.
    pub fn new(spill_dirs: Vec<PathBuf>) -> io::Result<(Self, mpsc::Receiver<IoOutcome>)> {
        let (outcomes, receiver) = mpsc::channel(OUTCOMES);
        let executor = Self {
            directories: Arc::new(SpillDirectories::new(spill_dirs)?),
            disk_permits: Arc::new(Semaphore::new(DISK_JOBS)),
            memory_permits: Arc::new(Semaphore::new(MEMORY_JOBS)),
            removal_permits: Arc::new(Semaphore::new(REMOVALS)),
            outcomes,
            running: JoinSet::new(),
        };
        Ok((executor, receiver))
    }

    /// Starts a job; its outcome arrives on the channel. Call it inside a tokio runtime.
    pub fn start(&mut self, job: IoJob) {
        while self.running.try_join_next().is_some() {}
        let directories = Arc::clone(&self.directories);
        let permits = match &job.0 {
            Job::Spill { .. } | Job::Restore { .. } | Job::Open { .. } | Job::Fallback { .. } => {
                &self.disk_permits
            }
            Job::Discard { .. } | Job::Populate { .. } => &self.memory_permits,
            Job::Delete { .. } | Job::Close { .. } => &self.removal_permits,
        };
        let permits = Arc::clone(permits);
        let outcomes = self.outcomes.clone();
        self.running.spawn(async move {
            let Ok(permit) = permits.acquire_owned().await else {
                return;
            };
            let work = tokio::task::spawn_blocking(move || {
                let outcome = job.0.run(&directories);
                drop(permit);
                outcome
            });
            match work.await {
                Ok(Some(outcome)) => {
                    // The receiver is gone only when the raylet ends.
                    outcomes.send(IoOutcome(outcome)).await.ok();
                }
                Ok(None) => {}
                Err(error) => tracing::error!(%error, "disk work of the object store panicked"),
            }
        });
    }

    /// Does a job here and now, for the simulation, which has no threads. `None`: it has no outcome.
    #[doc(hidden)]
    pub fn run_here(&self, job: IoJob) -> Option<IoOutcome> {
        job.0.run(&self.directories).map(IoOutcome)
    }

    /// Drops the jobs that have not begun. Those that run end by themselves; nobody hears of their outcome.
    pub async fn shutdown(mut self) {
        self.disk_permits.close();
        self.memory_permits.close();
        self.removal_permits.close();
        self.running.shutdown().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shm::PAGE_SIZE;

    #[tokio::test]
    async fn removals_that_hang_hold_up_no_work_on_memory() {
        let directory = tempfile::tempdir().unwrap();
        let (mut executor, mut outcomes) = IoExecutor::new(vec![directory.path().to_owned()]).unwrap();
        let id = SegmentId::memory(1);
        let segment = Arc::new(Segment::in_memory(id, "sparkray-test", 1 << 21).unwrap());
        let range = Range {
            segment: id,
            offset: 0,
            len: PAGE_SIZE,
        };
        let hung = Arc::clone(&executor.removal_permits)
            .acquire_many_owned(REMOVALS as u32)
            .await
            .unwrap();
        for _ in 0..4 {
            let segment = Arc::clone(&segment);
            executor.start(IoJob(Job::Close { segment }));
        }
        executor.start(IoJob(Job::Discard { segment, range }));
        let outcome = tokio::time::timeout(std::time::Duration::from_secs(20), outcomes.recv()).await;
        assert!(matches!(
            outcome.unwrap(),
            Some(IoOutcome(Outcome::Discarded { .. }))
        ));
        drop(hung);
        executor.shutdown().await;
    }
}
