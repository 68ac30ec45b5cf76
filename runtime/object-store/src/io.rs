//! Runs the store's disk work and its slow memory work on blocking threads.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::allocator::Range;
use crate::shm::{Access, Segment, SegmentId};
use crate::spill::{SpillDirectories, SpillFile};

/// Disk jobs that run at once.
const DISK_JOBS: usize = 2;
/// Jobs on memory that run at once.
const MEMORY_JOBS: usize = 1;
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
        segment: Arc<Segment>,
        offset: u64,
        size: u64,
    },
    /// Read it back.
    Restore {
        slot: u64,
        segment: Arc<Segment>,
        offset: u64,
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
    fn is_disk_work(&self) -> bool {
        matches!(
            self,
            Self::Spill { .. } | Self::Restore { .. } | Self::Fallback { .. }
        )
    }

    /// Does the work. Blocks.
    pub(crate) fn run(self, directories: &SpillDirectories) -> Option<Outcome> {
        match self {
            Self::Spill {
                slot,
                segment,
                offset,
                size,
            } => Some(Outcome::Spilled {
                slot,
                result: directories.spill(&segment, offset, size),
            }),
            Self::Restore {
                slot,
                segment,
                offset,
                file,
            } => Some(Outcome::Restored {
                slot,
                result: file.restore(&segment, offset),
            }),
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
            outcomes,
            running: JoinSet::new(),
        };
        Ok((executor, receiver))
    }

    /// Starts a job; its outcome arrives on the channel. Call it inside a tokio runtime.
    pub fn start(&mut self, job: IoJob) {
        while self.running.try_join_next().is_some() {}
        let directories = Arc::clone(&self.directories);
        let permits = if job.0.is_disk_work() {
            &self.disk_permits
        } else {
            &self.memory_permits
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

    /// Drops the jobs that have not begun. Those that run end by themselves; nobody hears of their outcome.
    pub async fn shutdown(mut self) {
        self.disk_permits.close();
        self.memory_permits.close();
        self.running.shutdown().await;
    }
}
