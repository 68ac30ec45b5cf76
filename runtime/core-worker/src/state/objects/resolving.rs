//! Values that become known, and those that are lost.

use sparkray_common::{ErrorCode, NodeId, ObjectId};
use sparkray_proto as proto;

use super::{FetchedResult, Objects, Value, Waiter, lost};
use crate::error::CoreError;
use crate::state::events::{Dependent, Event};
use crate::state::links::Links;

impl Objects {
    /// Makes a task or actor wait for an object; `false`: nothing is to be waited for.
    pub(in crate::state) fn depend(&mut self, links: &mut Links, id: ObjectId, dependent: Dependent) -> bool {
        self.want(links, id);
        // The owner may be known to be dead.
        match self.table.get_mut(&id) {
            Some(object) => {
                object.was_looked_at = true;
                if object.is_resolved() {
                    return false;
                }
                object.waiters.push(Waiter::Dependent(dependent));
                true
            }
            None => false,
        }
    }

    /// The value of an object is known. Later values of the same object are ignored.
    pub(in crate::state) fn resolve(&mut self, links: &mut Links, id: ObjectId, value: Value) {
        let Some(object) = self.table.get_mut(&id) else {
            // Nobody refers to it any more.
            if let Value::Stored { locations, .. } = value {
                self.free_stored(id, &locations);
            }
            return;
        };
        if object.is_resolved() {
            return;
        }
        object.value = value;
        if !object.has_waiters() {
            return;
        }
        let remote = object
            .ties
            .as_mut()
            .map(|ties| std::mem::take(&mut ties.remote_waiters))
            .unwrap_or_default();
        for (conn, correlation) in remote {
            self.reply_value(links, conn, correlation, id);
        }
        self.tell_waiters(links, id, None);
    }

    /// The result of a task is known.
    pub(in crate::state) fn resolve_result(&mut self, links: &mut Links, id: ObjectId, value: Value) {
        self.note_error(links, id, &value);
        self.resolve(links, id, value);
    }

    /// Tells everybody in this process who waits for an object. `value` goes to those who wait for it; `None`: they get
    /// what is known, or the store is asked for it.
    pub(super) fn tell_waiters(&mut self, links: &mut Links, id: ObjectId, value: Option<&FetchedResult>) {
        let Some(object) = self.table.get_mut(&id) else {
            return;
        };
        for waiter in std::mem::take(&mut object.waiters) {
            match (waiter, value) {
                (Waiter::Dependent(dependent), _) => links.out.event(Event::DependencyResolved(dependent)),
                (Waiter::Exists(wait), _) => self.waits.met(links, wait),
                (Waiter::Value(wait, place), Some(value)) => self.fill(links, wait, place, value.clone()),
                (Waiter::Value(wait, place), None) => self.deliver(links, id, wait, place),
            }
        }
    }

    /// Ends what waits for objects that will never be resolved.
    pub(in crate::state) fn fail_unresolved(&mut self, links: &mut Links, error: &CoreError) {
        let unresolved = self.table.iter().filter(|(_, object)| !object.is_resolved());
        let unresolved: Vec<ObjectId> = unresolved.map(|(id, _)| *id).collect();
        let failed = Value::failed(error.clone());
        for id in unresolved {
            self.resolve(links, id, failed.clone());
        }
    }

    // ---- losses --------------------------------------------------------------------------------------------

    pub(in crate::state) fn on_location_lost(
        &mut self,
        here: (NodeId, &str),
        message: &proto::LocationLost,
    ) -> Result<(), CoreError> {
        let id = ObjectId::from_slice(&message.object_id)?;
        let node = NodeId::from_slice(&message.node_id)?;
        self.remove_location(here, id, node, "its store does not have it any more");
        Ok(())
    }

    /// A node is dead, and its store with it.
    pub(in crate::state) fn node_lost(&mut self, here: (NodeId, &str), node: NodeId, cause: &str) {
        let is_there = |value: &Value| match value {
            Value::Stored { locations, .. } => locations.iter().any(|(at, _)| *at == node),
            _ => false,
        };
        let there = self.table.iter().filter(|(_, object)| is_there(&object.value));
        let there: Vec<ObjectId> = there.map(|(id, _)| *id).collect();
        for id in there {
            self.remove_location(here, id, node, cause);
        }
    }

    fn remove_location(&mut self, here: (NodeId, &str), id: ObjectId, node: NodeId, cause: &str) {
        let Some(object) = self.table.get_mut(&id) else {
            return;
        };
        let Value::Stored { locations, .. } = &mut object.value else {
            return;
        };
        locations.retain(|(at, _)| *at != node);
        if !locations.is_empty() {
            return;
        }
        if object.mapped.strong_count() > 0 && node != here.0 {
            // This node has a copy as long as this process uses it, and perhaps longer.
            locations.push((here.0, here.1.to_owned()));
            return;
        }
        self.metrics.lost();
        object.value = lost(
            ErrorCode::ObjectLost,
            format!("object {id} was lost with node {node}: {cause}"),
        );
    }
}
