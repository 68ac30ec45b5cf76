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

use super::objects::{Value, Waiter, describe_locations};
use super::{Pending, SlotResult, State};
use crate::api::Fetched;
use crate::error::CoreError;
use crate::hash::IdSet;
use crate::reactor::{ConnId, RAYLET_CONN};
use crate::store::StoredValue;

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

/// An object that the store has made ready: it is to be mapped, and then passed to [`State::mapped`].
#[derive(Debug)]
pub(crate) struct ReadyRead {
    pub(crate) object: ObjectId,
    pub(crate) range: proto::ObjectRange,
    pub(crate) descriptor: Option<OwnedFd>,
}

impl State {
    /// Begins to bring a value to this process.
    pub(super) fn want_value(&mut self, id: ObjectId) {
        self.want(id);
        let Some(object) = self.objects.get_mut(&id) else {
            return;
        };
        if matches!(object.value, Value::Stored { .. }) && !object.reading {
            object.reading = true;
            self.reads.push(id);
        }
    }

    /// Asks the store for what was wanted since the last time.
    pub(super) fn flush_reads(&mut self) {
        if self.reads.is_empty() {
            return;
        }
        let mut entries = Vec::with_capacity(self.reads.len());
        let mut asked = IdSet::default();
        for id in std::mem::take(&mut self.reads) {
            let Some(object) = self.objects.get_mut(&id) else {
                continue;
            };
            let Value::Stored { locations, .. } = &object.value else {
                if let Value::Failed(cause) = &object.value {
                    // Lost since it was wanted.
                    object.reading = false;
                    let cause = CoreError::clone(cause);
                    self.hand_out(id, &Err(cause));
                }
                continue;
            };
            asked.insert(id);
            entries.push(proto::GetObjectEntry {
                object_id: Self::id_bytes(id.as_bytes()),
                locations: describe_locations(locations),
            });
        }
        if !entries.is_empty() {
            let message = proto::GetObjects { objects: entries };
            self.request(RAYLET_CONN, Pending::Read(asked), FrameKind::GetObjects, &message);
        }
    }

    pub(super) fn on_object_ready(&mut self, conn: ConnId, mut frame: Frame) -> Result<(), CoreError> {
        let reply: proto::ObjectReady = frame.decode()?;
        let id = ObjectId::from_slice(&reply.object_id)?;
        if let Some(state) = self.conns.get_mut(&conn) {
            if let Some(Pending::Read(waiting)) = state.pending.get_mut(&frame.correlation) {
                waiting.remove(&id);
                if waiting.is_empty() {
                    state.pending.remove(&frame.correlation);
                }
            }
        }
        match (&reply.failure, reply.range) {
            (Some(failure), _) => self.read_failed(id, &failure.into()),
            (None, Some(range)) => self.store_answers.push(StoreAnswer::Read(ReadyRead {
                object: id,
                range,
                descriptor: frame.descriptor.take(),
            })),
            (None, None) => self.read_failed(
                id,
                &CoreError::new(
                    ErrorCode::Internal,
                    format!("the store gave object {id} without its range"),
                ),
            ),
        }
        Ok(())
    }

    /// The store has made room for an object of this process.
    pub(super) fn on_created(&mut self, conn: ConnId, mut frame: Frame) -> Result<(), CoreError> {
        let reply: proto::CreateObjectReply = frame.decode()?;
        let mut descriptor = frame.descriptor.take();
        // A thread that gave up has removed its slot, but its request is answered all the same.
        let (slot, object) = match self.take_pending(conn, frame.correlation) {
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
            self.fill_slot(slot, SlotResult::Created(reply, descriptor));
        }
        Ok(())
    }

    pub(crate) fn take_store_answers(&mut self) -> Vec<StoreAnswer> {
        std::mem::take(&mut self.store_answers)
    }

    /// A value is mapped into this process.
    pub(crate) fn mapped(&mut self, id: ObjectId, value: &Arc<StoredValue>) {
        let Some(object) = self.objects.get_mut(&id) else {
            return;
        };
        object.reading = false;
        object.failed_reads = 0;
        object.mapped = Arc::downgrade(value);
        self.hand_out(id, &Ok(Fetched::Mapped(Arc::clone(value))));
    }

    /// The store cannot give a value. Its owner may know of another copy.
    pub(crate) fn read_failed(&mut self, id: ObjectId, error: &CoreError) {
        let broken = self.broken.is_some();
        let Some(object) = self.objects.get_mut(&id) else {
            return;
        };
        object.reading = false;
        object.failed_reads = object.failed_reads.saturating_add(1);
        if let Value::Failed(cause) = &object.value {
            // Its node died while it was read.
            let cause = CoreError::clone(cause);
            self.hand_out(id, &Err(cause));
            return;
        }
        let ask_again =
            error.code == ErrorCode::ObjectLost && object.failed_reads < MAX_FAILED_READS && !broken;
        match object.owner.clone() {
            Some(owner) if ask_again => {
                object.relocating = true;
                self.ask_where(id, &owner);
            }
            _ => {
                object.failed_reads = 0;
                self.hand_out(id, &Err(error.clone()));
            }
        }
    }

    /// The owner has said again where a value is that the store could not get.
    pub(super) fn relocated(&mut self, id: ObjectId, value: Value) {
        let Some(object) = self.objects.get_mut(&id) else {
            return;
        };
        object.relocating = false;
        object.value = value;
        for waiter in std::mem::take(&mut object.waiters) {
            match waiter {
                Waiter::Value(wait, place) => self.deliver(id, wait, place),
                Waiter::Exists(wait) => self.wait_met(wait),
                Waiter::Task(_) | Waiter::Actor(_) => self.dependents.push_back(waiter),
            }
        }
        self.tell_dependents();
    }

    /// Gives a value to those who wait for it.
    pub(super) fn hand_out(&mut self, id: ObjectId, value: &Result<Fetched, CoreError>) {
        let Some(object) = self.objects.get_mut(&id) else {
            return;
        };
        for waiter in std::mem::take(&mut object.waiters) {
            match waiter {
                Waiter::Value(wait, place) => self.fill(wait, place, value.clone()),
                Waiter::Exists(wait) => self.wait_met(wait),
                Waiter::Task(_) | Waiter::Actor(_) => self.dependents.push_back(waiter),
            }
        }
        self.tell_dependents();
    }
}
