//! Objects: put, get, wait, references, and blocks of DataFrames.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sparkray_common::{ErrorCode, FeedId, NodeId, ObjectId, ValueFormat, WorkerAddress};
use sparkray_proto::{self as proto, FrameKind, location_of};

use super::check_running;
use crate::error::{CoreError, WaitError};
use crate::io::CoreWorker;
use crate::io::Patience;
use crate::state::{Begun, Locations, Notice, Pending, SlotResult, State, Value, unknown_object};
use crate::values::{Fetched, NewValue, inline_limit};

/// Objects from this size on have their pages brought in ahead of the copy.
const LARGE_OBJECT: usize = 1 << 20;
/// The nodes of a feed have answered by then, or do not answer.
const ADOPT_DEADLINE: Duration = Duration::from_mins(1);

/// A block that a Spark task sealed for this process.
#[derive(Debug)]
pub struct FedBlock {
    /// The object.
    pub object_id: ObjectId,
    /// Bytes of the value.
    pub size: u64,
    /// The node that holds it.
    pub node_id: NodeId,
    /// `host:port` of its raylet.
    pub node_address: String,
}

/// Where an object is.
#[derive(Debug)]
pub struct ObjectLocations {
    /// Bytes of the value.
    pub size: u64,
    /// Nodes and the addresses of their raylets; empty when it is not in a store.
    pub nodes: Vec<(NodeId, String)>,
    /// It is the error of the task that should have made it.
    pub is_error: bool,
}

impl CoreWorker {
    // ---- putting -------------------------------------------------------------------------------------------

    /// Puts a value; the caller holds one reference of the object.
    pub fn put<E>(
        &self,
        value: NewValue<'_>,
        interrupt: &dyn Fn() -> Result<(), E>,
    ) -> Result<ObjectId, WaitError<E>> {
        let (task, limit) = {
            let mut state = self.state.lock();
            (state.next_task_id(), inline_limit(state.objects().inline_bytes()))
        };
        let id = ObjectId::for_result(task, 0);
        let total = value.total_len();
        let stored = if value.is_stored(total, limit) {
            let me = self.address();
            self.write_stored(id, &me, total, interrupt, |target| value.write(target))?;
            Value::Stored {
                size: total as u64,
                locations: vec![(me.node_id, me.node_address)],
            }
        } else if value.format == ValueFormat::Error {
            Value::Raised(value.to_bytes())
        } else {
            Value::Inline(value.to_bytes())
        };
        self.with_state(|state| {
            check_running(state)?;
            state.add_put(id, stored, value.contained);
            Ok::<(), CoreError>(())
        })?;
        Ok(id)
    }

    /// Puts a long argument of the call that is submitted next, which goes with it.
    pub fn put_argument<E>(
        &self,
        value: NewValue<'_>,
        interrupt: &dyn Fn() -> Result<(), E>,
    ) -> Result<ObjectId, WaitError<E>> {
        let id = self.put(value, interrupt)?;
        self.with_state(|state| state.note_argument(id));
        Ok(id)
    }

    /// Makes an object in the local store. Waits while the store makes room.
    pub(super) fn write_stored<E>(
        &self,
        id: ObjectId,
        owner: &WorkerAddress,
        size: usize,
        interrupt: &dyn Fn() -> Result<(), E>,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<(), WaitError<E>> {
        let message = proto::CreateObject {
            object_id: id.to_vec().into(),
            size: size as u64,
            owner: Some(owner.into()),
            feed_id: Bytes::new(),
        };
        let slot = self.with_state(|state| {
            check_running(state)?;
            let pending = |slot| Pending::Create { slot, object: id };
            Ok::<u64, CoreError>(state.ask_raylet(pending, FrameKind::CreateObject, &message))
        })?;
        let abort = || {
            let abort = proto::AbortObject {
                object_id: id.to_vec().into(),
            };
            self.with_state(|state| state.tell_raylet(FrameKind::AbortObject, &abort, true));
        };
        let (reply, descriptor) = match self.wait_slot(slot, None, interrupt) {
            Ok(SlotResult::Created(reply, descriptor)) => (reply, descriptor),
            Ok(SlotResult::Failed(error)) => return Err(error.into()),
            Ok(_) => return Err(CoreError::new(ErrorCode::Internal, "the store gave another answer").into()),
            Err(error) => {
                abort();
                return Err(error);
            }
        };
        if let Some(failure) = &reply.failure {
            return Err(CoreError::from(failure).into());
        }
        if reply.already_sealed {
            return Ok(());
        }
        let mapped = reply
            .range
            .ok_or_else(|| {
                CoreError::new(
                    ErrorCode::Internal,
                    "the store granted an object without its range",
                )
            })
            .and_then(|range| self.attach_writable(id, &range, descriptor));
        let mut mapped = match mapped {
            Ok(mapped) => mapped,
            Err(error) => {
                abort();
                return Err(error.into());
            }
        };
        if size >= LARGE_OBJECT {
            // One call for all pages, huge ones where the kernel can, instead of a fault for each.
            mapped.prepare_for_writing();
        }
        fill(mapped.as_mut_slice());
        drop(mapped);
        let seal = proto::SealObject {
            object_id: id.to_vec().into(),
        };
        self.with_state(|state| state.tell_raylet(FrameKind::SealObject, &seal, true));
        Ok(())
    }

    /// Waits for the answer of a request.
    pub(super) fn wait_slot<E>(
        &self,
        slot: u64,
        deadline: Option<Instant>,
        interrupt: &dyn Fn() -> Result<(), E>,
    ) -> Result<SlotResult, WaitError<E>> {
        let outcome = self.wait_until(Patience::until(deadline), interrupt, |state| {
            state.take_slot(slot)
        });
        if outcome.is_err() {
            self.with_state(|state| state.forget_slot(slot));
        }
        outcome
    }

    // ---- getting -------------------------------------------------------------------------------------------

    /// The values of objects, in order. The first failure that is known ends the wait: the values are then those that
    /// are there, in order, and one of them is an error.
    pub fn get<E>(
        &self,
        ids: &[ObjectId],
        deadline: Option<Instant>,
        interrupt: &dyn Fn() -> Result<(), E>,
    ) -> Result<Vec<Result<Fetched, CoreError>>, WaitError<E>> {
        self.fetch(ids, true, deadline, interrupt)
    }

    /// The values of objects, in order. An object without a value is an error in its place.
    pub(super) fn get_all<E>(
        &self,
        ids: &[ObjectId],
        interrupt: &dyn Fn() -> Result<(), E>,
    ) -> Result<Vec<Result<Fetched, CoreError>>, WaitError<E>> {
        self.fetch(ids, false, None, interrupt)
    }

    fn fetch<E>(
        &self,
        ids: &[ObjectId],
        until_failure: bool,
        deadline: Option<Instant>,
        interrupt: &dyn Fn() -> Result<(), E>,
    ) -> Result<Vec<Result<Fetched, CoreError>>, WaitError<E>> {
        let wait = match self.with_state(|state| state.fetch(ids, until_failure)) {
            Begun::Done(values) => return Ok(values),
            Begun::Waiting(wait) => wait,
        };
        let patience = Patience::until(deadline).lending();
        let outcome = self.wait_until(patience, interrupt, |state| state.take_values(wait));
        if outcome.is_err() {
            self.with_state(|state| state.end_wait(wait));
        }
        outcome
    }

    /// Tells the value of an object by [`Notice::Fetched`] with this key, once it is here.
    pub fn fetch_later(&self, id: ObjectId, key: u64) {
        self.with_state(|state| {
            if let Begun::Done(values) = state.fetch_for(id, key) {
                for value in values {
                    state.notify(Notice::Fetched(key, value));
                }
            }
        });
    }

    /// The objects that exist, at most `wanted` of them, as indices into `ids`; fewer at the deadline.
    pub fn wait<E>(
        &self,
        ids: &[ObjectId],
        wanted: usize,
        deadline: Option<Instant>,
        interrupt: &dyn Fn() -> Result<(), E>,
    ) -> Result<Vec<usize>, WaitError<E>> {
        let wanted = wanted.min(ids.len());
        let wait = self.with_state(|state| {
            let existing = state.existing(ids, wanted);
            if existing.len() == wanted {
                return Begun::Done(existing);
            }
            Begun::Waiting(state.wait_for_existence(ids, wanted - existing.len()))
        });
        let wait = match wait {
            Begun::Done(existing) => return Ok(existing),
            Begun::Waiting(wait) => wait,
        };
        let patience = Patience::until(deadline).lending();
        let outcome = self.wait_until(patience, interrupt, |state| {
            state.objects().is_wait_over(wait).then_some(())
        });
        let existing = self.with_state(|state| {
            state.end_wait(wait);
            // Objects fail when this process leaves the cluster, which does not make them ready.
            check_running(state).map(|()| state.existing(ids, wanted))
        });
        match outcome {
            Ok(()) | Err(WaitError::Deadline) => Ok(existing?),
            Err(other) => Err(other),
        }
    }

    /// Whether an object exists.
    pub fn exists(&self, id: ObjectId) -> bool {
        self.with_state(|state| !state.existing(&[id], 1).is_empty())
    }

    // ---- references ----------------------------------------------------------------------------------------

    /// One more reference of an object that this process knows.
    pub fn add_reference(&self, id: ObjectId) {
        self.state.lock().add_ref(id);
    }

    /// A reference that came out of a value. Its owner is told a little later. True: it does not know this process yet,
    /// and what the reference came from must be kept until it does, by [`CoreWorker::keep_until_borrowed`] or
    /// [`CoreWorker::wait_for_borrows`].
    pub fn add_foreign_reference(&self, id: ObjectId, owner: &WorkerAddress) -> bool {
        // Finalizers may have to wait: this is called once for each of many references.
        let mut state = self.state.lock();
        let is_unknown = state.add_foreign_ref(id, owner);
        let told = state.objects().has_told_owners();
        drop(state);
        if !told {
            self.reactor.kick().later();
        }
        is_unknown
    }

    /// Keeps an object until the owners of `read`, references that came out of its value, know this process.
    pub fn keep_until_borrowed(&self, object: ObjectId, read: &[ObjectId]) {
        self.with_state(|state| state.keep_until_borrowed(object, read));
    }

    /// Waits until the owners of `read`, references that came out of a value, know this process or are dead. The caller
    /// keeps that value.
    pub fn wait_for_borrows<E>(
        &self,
        read: &[ObjectId],
        interrupt: &dyn Fn() -> Result<(), E>,
    ) -> Result<(), WaitError<E>> {
        self.wait_until(Patience::until(None), interrupt, |state| {
            state.objects().are_borrowed(read).then_some(())
        })
    }

    /// One reference less. May be called anywhere, finalizers included.
    pub fn drop_reference(&self, id: ObjectId) {
        self.dropped.add(|dropped| dropped.references.push(id));
    }

    /// The owner of an object that this process knows.
    pub fn owner_of(&self, id: ObjectId) -> Option<Arc<WorkerAddress>> {
        self.state.lock().owner_of(id)
    }

    // ---- DataFrames ----------------------------------------------------------------------------------------

    /// Where objects are, once they exist.
    pub fn locations<E>(
        &self,
        ids: &[ObjectId],
        deadline: Option<Instant>,
        interrupt: &dyn Fn() -> Result<(), E>,
    ) -> Result<Vec<Result<ObjectLocations, CoreError>>, WaitError<E>> {
        self.wait(ids, ids.len(), deadline, interrupt)?;
        let describe = |state: &State, id: &ObjectId| {
            let value = state.objects().value(id).ok_or_else(|| unknown_object(*id))?;
            let (size, nodes) = match value {
                Value::Stored { size, locations } => (*size, Locations::clone(locations)),
                Value::Inline(bytes) | Value::Raised(bytes) => (bytes.len() as u64, Vec::new()),
                Value::Failed(error) => return Err(CoreError::clone(error)),
                Value::Pending => {
                    return Err(CoreError::new(
                        ErrorCode::DeadlineExceeded,
                        format!("object {id} did not exist before the deadline"),
                    ));
                }
            };
            Ok(ObjectLocations {
                size,
                nodes,
                is_error: matches!(value, Value::Raised(_)),
            })
        };
        Ok(self.with_state(|state| ids.iter().map(|id| describe(state, id)).collect()))
    }

    /// Becomes the owner of blocks that Spark's tasks sealed, and drops the feed's others, on their nodes and on `others`.
    pub fn adopt_blocks<E>(
        &self,
        feed: FeedId,
        blocks: &[FedBlock],
        others: &[(NodeId, String)],
        interrupt: &dyn Fn() -> Result<(), E>,
    ) -> Result<(), WaitError<E>> {
        let mut nodes: Vec<proto::ObjectLocation> = Vec::new();
        let holders = blocks
            .iter()
            .map(|block| (block.node_id, block.node_address.as_str()));
        for (node, address) in holders.chain(others.iter().map(|(node, address)| (*node, address.as_str()))) {
            let location = location_of(node, address);
            if !nodes.contains(&location) {
                nodes.push(location);
            }
        }
        let message = proto::AdoptFeed {
            feed_id: feed.to_vec().into(),
            winners: blocks
                .iter()
                .map(|block| block.object_id.to_vec().into())
                .collect(),
            nodes,
        };
        let slot = self.with_state(|state| {
            check_running(state)?;
            // Before the request: what frames say meanwhile of their nodes finds them.
            for block in blocks {
                let locations = vec![(block.node_id, block.node_address.clone())];
                let value = Value::Stored {
                    size: block.size,
                    locations,
                };
                state.add_owned(block.object_id, value, Vec::new());
            }
            Ok::<u64, CoreError>(state.ask_raylet(Pending::Done, FrameKind::AdoptFeed, &message))
        })?;
        let outcome = match self.wait_slot(slot, Some(Instant::now() + ADOPT_DEADLINE), interrupt) {
            Ok(SlotResult::Failed(error)) => Err(error.into()),
            Ok(_) => Ok(()),
            Err(WaitError::Deadline) => {
                let message = format!(
                    "the nodes did not hand over the blocks of a DataFrame within {} s",
                    ADOPT_DEADLINE.as_secs()
                );
                Err(CoreError::new(ErrorCode::DeadlineExceeded, message).into())
            }
            Err(other) => Err(other),
        };
        if outcome.is_err() {
            // A block may have left its feed already: then only its owner frees it.
            self.with_state(|state| {
                for block in blocks {
                    state.drop_ref(block.object_id);
                }
            });
        }
        outcome
    }
}
