//! Values from their owners: asking other processes, over broken connections too, and answering them.

use sparkray_common::{ErrorCode, ObjectId, WorkerAddress, WorkerId};
use sparkray_proto::{self as proto, FrameKind};

use super::objects::{Value, describe_locations, read_locations};
use super::{Pending, State};
use crate::error::CoreError;
use crate::reactor::ConnId;

impl State {
    // ---- asking owners -------------------------------------------------------------------------------------

    /// Begins to find out the value of an object.
    pub(crate) fn want(&mut self, id: ObjectId) {
        let Some(object) = self.objects.get_mut(&id) else {
            return;
        };
        if object.is_resolved() || object.asked {
            return;
        }
        // Own objects are resolved by their tasks.
        let Some(address) = object.owner.clone() else {
            return;
        };
        object.asked = true;
        let Some(owner) = self.borrowing.owners.get(&address.worker_id) else {
            return;
        };
        if owner.dead {
            self.lose_to_dead_owner(id);
        } else if !self.is_unreachable(address.worker_id) {
            self.ask_owner(id, &address);
        }
    }

    pub(super) fn ask_owner(&mut self, id: ObjectId, owner: &WorkerAddress) {
        let conn = self.conn_to_worker(owner);
        let message = proto::GetObject {
            object_id: Self::id_bytes(id.as_bytes()),
        };
        self.request(conn, Pending::Fetch(id), FrameKind::GetObject, &message);
    }

    pub(super) fn on_get_object_reply(
        &mut self,
        conn: ConnId,
        frame: &sparkray_rpc::Frame,
    ) -> Result<(), CoreError> {
        let Some(Pending::Fetch(id)) = self.take_pending(conn, frame.correlation) else {
            return Ok(());
        };
        let reply: proto::GetObjectReply = frame.decode()?;
        let value = if let Some(failure) = &reply.failure {
            Value::failed(failure.into())
        } else if reply.inline {
            Value::read_inline(frame.payload.clone())
        } else {
            Value::Stored {
                size: reply.stored_length,
                locations: read_locations(&reply.locations)?,
            }
        };
        if self.objects.get(&id).is_some_and(|object| object.relocating) {
            self.relocated(id, value);
        } else {
            self.resolve(id, value, reply.is_error);
        }
        Ok(())
    }

    /// Asks the owner of a resolved object again where it is.
    pub(super) fn ask_where(&mut self, id: ObjectId, address: &WorkerAddress) {
        match self.borrowing.owners.get(&address.worker_id) {
            Some(owner) if owner.dead => self.lose_to_dead_owner(id),
            _ if self.is_unreachable(address.worker_id) => {}
            _ => self.ask_owner(id, address),
        }
    }

    /// The connection broke before the owner answered: it is asked again once it is reached.
    pub(super) fn fetch_lost(&mut self, id: ObjectId) {
        let owner = self.objects.get(&id).and_then(|object| object.owner.clone());
        let Some(entry) = owner.and_then(|owner| self.borrowing.owners.get(&owner.worker_id)) else {
            return;
        };
        if entry.dead {
            self.lose_to_dead_owner(id);
        }
    }

    /// An owner is dead: what it alone knew is lost.
    pub(super) fn owner_died(&mut self, worker: WorkerId) {
        let Some(owner) = self.borrowing.owners.get_mut(&worker) else {
            return;
        };
        owner.dead = true;
        let untold = std::mem::take(&mut owner.untold);
        let objects: Vec<ObjectId> = owner.objects.iter().copied().collect();
        self.borrows_acknowledged(&untold);
        for id in objects {
            self.lose_to_dead_owner(id);
        }
        self.borrowing.forget_unused(worker);
    }

    pub(super) fn lose_to_dead_owner(&mut self, id: ObjectId) {
        let Some(object) = self.objects.get(&id) else {
            return;
        };
        let Some(owner) = &object.owner else { return };
        let message = format!(
            "the owner of object {id}, worker {} on node {}, died: its value cannot be found",
            owner.worker_id, owner.node_id
        );
        let lost = Value::failed(CoreError::new(ErrorCode::OwnerDied, message));
        if object.relocating {
            self.relocated(id, lost);
        } else {
            self.resolve(id, lost, false);
        }
    }

    // ---- answering -----------------------------------------------------------------------------------------

    pub(super) fn on_get_object(
        &mut self,
        conn: ConnId,
        correlation: u64,
        message: &proto::GetObject,
    ) -> Result<(), CoreError> {
        let id = ObjectId::from_slice(&message.object_id)?;
        match self.objects.get_mut(&id) {
            Some(object) if !object.is_resolved() => {
                object.wait_remotely(conn, correlation);
                // This process may itself be a borrower that was asked by mistake; then it asks on.
                self.want(id);
            }
            _ => self.reply_value(conn, correlation, id),
        }
        Ok(())
    }

    pub(super) fn reply_value(&mut self, conn: ConnId, correlation: u64, id: ObjectId) {
        let mut reply = proto::GetObjectReply::default();
        let mut payload = bytes::Bytes::new();
        match self.objects.get_mut(&id) {
            None => {
                reply.failure = Some(proto::Failure::new(
                    ErrorCode::ObjectLost,
                    format!("object {id} was freed by its owner"),
                ));
            }
            Some(object) => {
                object.was_looked_at = true;
                reply.is_error = object.is_error;
                match &object.value {
                    Value::Pending => return,
                    Value::Inline(bytes) => {
                        reply.inline = true;
                        payload = bytes.clone();
                    }
                    Value::Stored { size, locations } => {
                        reply.stored_length = *size;
                        reply.locations = describe_locations(locations);
                    }
                    Value::Failed(error) => reply.failure = Some(super::failure_of(error)),
                }
            }
        }
        self.send(
            conn,
            FrameKind::GetObjectReply,
            correlation,
            &reply,
            &[&payload],
            true,
        );
    }
}
