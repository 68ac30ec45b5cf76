//! Values in the node's store: asking for them, and handing them to those who wait.
//!
//! Invariant: the descriptor of a segment is handed on in the order of frames, whatever its frame answers and whether
//! anybody waits for that still. The store sends each one once, and later answers of any kind rely on it.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use sparkray_common::{ErrorCode, ObjectId};
use sparkray_object_store::SegmentId;
use sparkray_proto::{self as proto, FrameKind};
use sparkray_rpc::Frame;

use super::{Objects, Value, describe_locations};
use crate::error::CoreError;
use crate::hash::IdSet;
use crate::state::links::{ConnId, Links, Pending, RAYLET_CONN, SlotResult, id_bytes, lost_connection};
use crate::store::StoredValue;
use crate::values::Fetched;

/// The owner is asked where else a value is, this often, before it counts as lost.
const MAX_FAILED_READS: u8 = 3;

/// What came with an answer of the store and must be taken in where frames are read, in their order.
#[derive(Debug)]
pub(crate) enum StoreAnswer {
    /// The descriptor of a segment in memory, beside the room for an object that this process makes.
    Segment {
        object: ObjectId,
        range: proto::ObjectRange,
        descriptor: OwnedFd,
    },
    /// An object to be mapped.
    Read(ReadyRead),
}

/// An object that the store has made ready: it is to be mapped, and then passed to [`Objects::mapped`].
#[derive(Debug)]
pub(crate) struct ReadyRead {
    pub(crate) object: ObjectId,
    pub(crate) range: proto::ObjectRange,
    pub(crate) descriptor: Option<OwnedFd>,
}

impl Objects {
    /// Begins to bring a value to this process.
    pub(super) fn want_value(&mut self, links: &mut Links, id: ObjectId) {
        self.want(links, id);
        let Some(object) = self.table.get_mut(&id) else {
            return;
        };
        if matches!(object.value, Value::Stored { .. }) && !object.reading {
            object.reading = true;
            self.reads.push(id);
        }
    }

    /// Asks the store for what was wanted since the last time.
    pub(super) fn flush_reads(&mut self, links: &mut Links) {
        if self.reads.is_empty() {
            return;
        }
        let mut entries = Vec::with_capacity(self.reads.len());
        let mut asked = IdSet::default();
        for id in std::mem::take(&mut self.reads) {
            let Some(object) = self.table.get_mut(&id) else {
                continue;
            };
            let Value::Stored { locations, .. } = &object.value else {
                if let Value::Failed(cause) = &object.value {
                    // Lost since it was wanted.
                    object.reading = false;
                    let cause = CoreError::clone(cause);
                    self.tell_waiters(links, id, Some(&Err(cause)));
                }
                continue;
            };
            asked.insert(id);
            entries.push(proto::GetObjectEntry {
                object_id: id_bytes(id.as_bytes()),
                locations: describe_locations(locations),
            });
        }
        if entries.is_empty() {
            return;
        }
        self.metrics.store_asked(entries.len());
        let objects: Vec<ObjectId> = asked.iter().copied().collect();
        let message = proto::GetObjects { objects: entries };
        let sent = links.request(RAYLET_CONN, Pending::Read(asked), FrameKind::GetObjects, &message);
        if sent.is_err() {
            self.reads_failed(links, objects, &lost_connection("the connection is closed"));
        }
    }

    pub(in crate::state) fn on_object_ready(
        &mut self,
        links: &mut Links,
        conn: ConnId,
        mut frame: Frame,
    ) -> Result<(), CoreError> {
        let reply: proto::ObjectReady = frame.decode()?;
        let id = ObjectId::from_slice(&reply.object_id)?;
        links.read_answered(conn, frame.correlation, &id);
        match (&reply.failure, reply.range) {
            (Some(failure), _) => self.read_failed(links, id, &failure.into()),
            (None, Some(range)) => self.store_answers.push(StoreAnswer::Read(ReadyRead {
                object: id,
                range,
                descriptor: frame.descriptor.take(),
            })),
            (None, None) => {
                let message = format!("the store gave object {id} without its range");
                self.read_failed(links, id, &CoreError::new(ErrorCode::Internal, message));
            }
        }
        Ok(())
    }

    /// The store has made room for an object of this process.
    pub(in crate::state) fn on_created(
        &mut self,
        links: &mut Links,
        conn: ConnId,
        mut frame: Frame,
    ) -> Result<(), CoreError> {
        let reply: proto::CreateObjectReply = frame.decode()?;
        let mut descriptor = frame.descriptor.take();
        // A thread that gave up has removed its slot, but its request is answered all the same.
        let (slot, object) = match links.take_pending(conn, frame.correlation) {
            Some(Pending::Create { slot, object }) => (Some(slot), object),
            _ => (None, ObjectId::NIL),
        };
        if let Some(range) = reply
            .range
            .filter(|range| !SegmentId(range.segment_id).is_on_disk())
        {
            if let Some(descriptor) = descriptor.take() {
                self.store_answers.push(StoreAnswer::Segment {
                    object,
                    range,
                    descriptor,
                });
            }
        }
        if let Some(slot) = slot {
            // A segment on disk belongs to this object alone: its descriptor stays with the answer.
            links.fill_slot(slot, SlotResult::Created(reply, descriptor));
        }
        Ok(())
    }

    pub(crate) fn take_store_answers(&mut self) -> Vec<StoreAnswer> {
        std::mem::take(&mut self.store_answers)
    }

    /// A value is mapped into this process.
    pub(in crate::state) fn mapped(&mut self, links: &mut Links, id: ObjectId, value: &Arc<StoredValue>) {
        let Some(object) = self.table.get_mut(&id) else {
            return;
        };
        object.reading = false;
        object.failed_reads = 0;
        object.mapped = Arc::downgrade(value);
        self.tell_waiters(links, id, Some(&Ok(Fetched::Mapped(Arc::clone(value)))));
    }

    pub(in crate::state) fn reads_failed(
        &mut self,
        links: &mut Links,
        objects: impl IntoIterator<Item = ObjectId>,
        error: &CoreError,
    ) {
        for id in objects {
            self.read_failed(links, id, error);
        }
    }

    /// The store cannot give a value. Its owner may know of another copy.
    pub(in crate::state) fn read_failed(&mut self, links: &mut Links, id: ObjectId, error: &CoreError) {
        let Some(object) = self.table.get_mut(&id) else {
            return;
        };
        self.metrics.store_failed();
        object.reading = false;
        object.failed_reads = object.failed_reads.saturating_add(1);
        if let Value::Failed(cause) = &object.value {
            // Its node died while it was read.
            let cause = CoreError::clone(cause);
            self.tell_waiters(links, id, Some(&Err(cause)));
            return;
        }
        let ask_again = error.code == ErrorCode::ObjectLost
            && object.failed_reads < MAX_FAILED_READS
            && links.process.broken.is_none();
        if ask_again && object.owner.is_some() {
            object.refetching_locations = true;
            self.ask_where(links, id);
        } else {
            object.failed_reads = 0;
            self.tell_waiters(links, id, Some(&Err(error.clone())));
        }
    }

    /// The owner has said again where a value is that the store could not get.
    pub(super) fn locations_refetched(&mut self, links: &mut Links, id: ObjectId, value: Value) {
        if let Some(object) = self.table.get_mut(&id) {
            object.refetching_locations = false;
            object.value = value;
            self.tell_waiters(links, id, None);
        }
    }

    /// The store's ranges of values that nobody here uses any more.
    pub(in crate::state) fn release_mapped(links: &mut Links, ids: &[ObjectId]) {
        let object_ids = ids.iter().map(|id| id_bytes(id.as_bytes())).collect();
        links.tell_raylet(
            FrameKind::ReleaseObjects,
            &proto::ReleaseObjects { object_ids },
            false,
        );
    }
}
