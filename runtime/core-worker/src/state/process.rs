//! This process, and what it knows of its cluster.

use std::sync::Arc;

use sparkray_common::{JobId, NodeId, WorkerAddress};
use sparkray_proto as proto;

use super::ids::IdSource;
use crate::error::CoreError;

/// This process.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) me: Arc<WorkerAddress>,
    pub(super) me_message: proto::WorkerAddress,
    pub(super) job_id: JobId,
    pub(super) python_version: String,
    pub(super) ids: IdSource,
    /// Microseconds since the worker began.
    pub(super) now: u64,
    /// Why nothing works any more: the local raylet is gone, or this process has left.
    pub(super) broken: Option<CoreError>,
    /// Why nothing that needs the head works.
    pub(super) head_lost: Option<String>,
}

impl Process {
    pub(super) fn new(me: WorkerAddress, job_id: JobId, python_version: String, ids: IdSource) -> Self {
        let me_message = (&me).into();
        Self {
            me: Arc::new(me),
            me_message,
            job_id,
            python_version,
            ids,
            now: 0,
            broken: None,
            head_lost: None,
        }
    }

    /// Where this process is, once the raylet has told it.
    pub(super) fn set_address(&mut self, node_id: NodeId, node_address: String) {
        self.me = Arc::new(WorkerAddress {
            node_id,
            worker_id: self.me.worker_id,
            node_address,
        });
        self.me_message = (&*self.me).into();
    }

    /// Whether nobody will give verdicts on other processes and nodes any more.
    pub(super) fn is_without_verdicts(&self) -> bool {
        self.broken.is_some() || self.head_lost.is_some()
    }
}
