//! Calls as they are sent to workers.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use sparkray_common::{JobId, TaskId};
use sparkray_proto::{self as proto, FrameKind};

use super::Task;
use crate::state::links::{ConnId, IsClosed, Links, Pending, id_bytes};
use crate::state::objects::Objects;

/// The fields of a push that are the same for all calls of one kind to one worker, encoded.
#[derive(Debug)]
pub(in crate::state) struct PushPrefix<K> {
    kind: Arc<K>,
    job_id: JobId,
    num_returns: u32,
    bytes: Vec<u8>,
}

impl<K> PushPrefix<K> {
    pub(in crate::state) fn new(
        kind: &Arc<K>,
        job_id: JobId,
        num_returns: u32,
        message: proto::PushTask,
    ) -> Self {
        let message = proto::PushTask {
            job_id: job_id.to_vec().into(),
            num_returns,
            ..message
        };
        Self {
            kind: Arc::clone(kind),
            job_id,
            num_returns,
            bytes: message.encode_to_vec(),
        }
    }

    pub(in crate::state) fn fits(&self, kind: &Arc<K>, job_id: JobId, num_returns: u32) -> bool {
        Arc::ptr_eq(&self.kind, kind) && self.job_id == job_id && self.num_returns == num_returns
    }

    pub(in crate::state) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl Task {
    /// Sends the call to a worker; gives the bytes that travel beside its message. `prefix`: the encoded fields that all
    /// calls of its kind share; `message` has the others; `function_blob`: the code, when the worker does not have it.
    pub(in crate::state) fn push(
        &self,
        objects: &Objects,
        links: &mut Links,
        (conn, task_id): (ConnId, TaskId),
        prefix: &[u8],
        function_blob: Option<&Bytes>,
        mut message: proto::PushTask,
    ) -> Result<u32, IsClosed> {
        message.task_id = id_bytes(task_id.as_bytes());
        message.arguments_length = self.arguments.len() as u64;
        message.attempt = self.attempt;
        self.keyword_names().clone_into(&mut message.keyword_names);
        let inline;
        (message.arguments, inline) = objects.describe_arguments(&links.process.me, self.slots());
        let mut parts: Vec<&[u8]> = Vec::with_capacity(2 + inline.len());
        if let Some(blob) = function_blob {
            message.function_length = blob.len() as u64;
            parts.push(blob);
        }
        parts.push(&self.arguments);
        parts.extend(inline.iter().map(|part| &part[..]));
        let pending = Pending::Push(task_id);
        links.request_with(conn, pending, FrameKind::PushTask, prefix, &message, &parts)?;
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        Ok(u32::try_from(bytes).unwrap_or(u32::MAX))
    }
}
