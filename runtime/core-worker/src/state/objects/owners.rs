//! Values from their owners: asking other processes, over broken connections too, and answering them.

use bytes::Bytes;
use sparkray_common::{ErrorCode, ObjectId};
use sparkray_proto::{self as proto, Failure, FrameKind};
use sparkray_rpc::Frame;

use super::borrowing::owner_died;
use super::{Objects, Value, describe_locations, read_locations};
use crate::error::CoreError;
use crate::state::links::{ConnId, Links, Pending, id_bytes};

impl Objects {
    // ---- asking owners -------------------------------------------------------------------------------------

    /// Begins to find out the value of an object.
    pub(in crate::state) fn want(&mut self, links: &mut Links, id: ObjectId) {
        let Some(object) = self.table.get_mut(&id) else {
            return;
        };
        if object.is_resolved() || object.asked {
            return;
        }
        // Own objects are resolved by their tasks.
        let Some(owner) = object.owner.as_ref().map(|owner| owner.worker_id) else {
            return;
        };
        object.asked = true;
        match self.borrowing.is_owner_dead(owner) {
            None => {}
            Some(true) => self.lose_to_dead_owner(links, id),
            Some(false) if links.is_unreachable(owner) => {}
            Some(false) => self.ask_owner(links, id),
        }
    }

    /// Asks the owner of a resolved object again where it is.
    pub(super) fn ask_where(&mut self, links: &mut Links, id: ObjectId) {
        let Some(owner) = self.owner(&id).map(|owner| owner.worker_id) else {
            return;
        };
        match self.borrowing.is_owner_dead(owner) {
            Some(true) => self.lose_to_dead_owner(links, id),
            _ if links.is_unreachable(owner) => {}
            _ => self.ask_owner(links, id),
        }
    }

    pub(super) fn ask_owner(&mut self, links: &mut Links, id: ObjectId) {
        let Some(owner) = self.owner(&id) else { return };
        let conn = links.conn_to_worker(owner);
        self.metrics.owner_asked();
        let message = proto::GetObject {
            object_id: id_bytes(id.as_bytes()),
        };
        if links
            .request(conn, Pending::Fetch(id), FrameKind::GetObject, &message)
            .is_err()
        {
            self.fetch_lost(links, id);
        }
    }

    /// The owner of an object, which was asked for it, has answered.
    pub(in crate::state) fn take_from_owner(
        &mut self,
        links: &mut Links,
        id: ObjectId,
        frame: &Frame,
    ) -> Result<(), CoreError> {
        let reply: proto::GetObjectReply = frame.decode()?;
        let value = if let Some(failure) = &reply.failure {
            Value::failed(failure.into())
        } else if reply.inline {
            Value::read_inline(frame.payload.clone(), reply.is_error)
        } else {
            Value::Stored {
                size: reply.stored_length,
                locations: read_locations(&reply.locations)?,
            }
        };
        if self
            .table
            .get(&id)
            .is_some_and(|object| object.refetching_locations)
        {
            self.locations_refetched(links, id, value);
        } else {
            self.resolve(links, id, value);
        }
        Ok(())
    }

    /// The connection broke before the owner answered: it is asked again once it is reached.
    pub(in crate::state) fn fetch_lost(&mut self, links: &mut Links, id: ObjectId) {
        let owner = self.owner(&id).map(|owner| owner.worker_id);
        if owner.and_then(|owner| self.borrowing.is_owner_dead(owner)) == Some(true) {
            self.lose_to_dead_owner(links, id);
        }
    }

    pub(super) fn lose_to_dead_owner(&mut self, links: &mut Links, id: ObjectId) {
        let Some(object) = self.table.get(&id) else {
            return;
        };
        let Some(owner) = &object.owner else { return };
        let lost = owner_died(id, owner);
        if object.refetching_locations {
            self.locations_refetched(links, id, lost);
        } else {
            self.resolve(links, id, lost);
        }
    }

    // ---- answering -----------------------------------------------------------------------------------------

    pub(in crate::state) fn on_get_object(
        &mut self,
        links: &mut Links,
        conn: ConnId,
        correlation: u64,
        message: &proto::GetObject,
    ) -> Result<(), CoreError> {
        let id = ObjectId::from_slice(&message.object_id)?;
        match self.table.get_mut(&id) {
            Some(object) if !object.is_resolved() => {
                object.ties().remote_waiters.push((conn, correlation));
                // This process may itself be a borrower that was asked by mistake; then it asks on.
                self.want(links, id);
            }
            _ => self.reply_value(links, conn, correlation, id),
        }
        Ok(())
    }

    pub(super) fn reply_value(&mut self, links: &mut Links, conn: ConnId, correlation: u64, id: ObjectId) {
        let mut reply = proto::GetObjectReply::default();
        let mut payload = Bytes::new();
        match self.table.get_mut(&id) {
            None => {
                let message = format!("object {id} was freed by its owner");
                reply.failure = Some(Failure::new(ErrorCode::ObjectLost, message));
            }
            Some(object) => {
                object.was_looked_at = true;
                match &object.value {
                    Value::Pending => return,
                    Value::Inline(bytes) | Value::Raised(bytes) => {
                        reply.inline = true;
                        reply.is_error = matches!(object.value, Value::Raised(_));
                        payload = bytes.clone();
                    }
                    Value::Stored { size, locations } => {
                        reply.stored_length = *size;
                        reply.locations = describe_locations(locations);
                    }
                    Value::Failed(error) => reply.failure = Some(error.to_failure()),
                }
            }
        }
        links.send(
            conn,
            FrameKind::GetObjectReply,
            correlation,
            &reply,
            &[&payload],
            true,
        );
    }
}
