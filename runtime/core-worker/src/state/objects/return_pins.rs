//! References in the results of tasks that this process ran. They are kept until the caller has registered with their
//! owners.

use sparkray_common::{NodeId, ObjectId, TaskId, WorkerAddress, WorkerId};
use sparkray_proto::{self as proto, FrameKind};

use super::Objects;
use crate::error::CoreError;
use crate::state::events::Event;
use crate::state::links::{ConnId, Links, id_bytes};

/// References in the results of one task, until its caller has taken them over.
#[derive(Debug)]
pub(super) struct ReturnPins {
    pub(super) caller: WorkerId,
    pub(super) node: NodeId,
    objects: Vec<ObjectId>,
}

impl Objects {
    /// Keeps references in a task's results until its caller has registered. `conn`: where the answer goes.
    pub(in crate::state) fn pin_returned(
        &mut self,
        links: &mut Links,
        task: TaskId,
        caller: &WorkerAddress,
        conn: ConnId,
        objects: Vec<ObjectId>,
    ) {
        if objects.is_empty() {
            return;
        }
        if links.deaths.is_dead(caller) {
            self.drop_refs(links, objects);
            return;
        }
        let pins = ReturnPins {
            caller: caller.worker_id,
            node: caller.node_id,
            objects,
        };
        if let Some(earlier) = self.return_pins.insert(task, pins) {
            self.drop_refs(links, earlier.objects);
        }
        if !links.is_open(conn) {
            links.out.event(Event::PeerLost(caller.clone()));
        }
    }

    pub(in crate::state) fn on_release_return_pins(
        &mut self,
        links: &mut Links,
        message: &proto::ReleaseReturnPins,
    ) -> Result<(), CoreError> {
        let task = TaskId::from_slice(&message.task_id)?;
        self.drop_return_pins(links, task);
        Ok(())
    }

    /// Reminds a caller, which is there again, of the results that wait for it.
    pub(in crate::state) fn remind(&mut self, links: &mut Links, caller: WorkerId, conn: ConnId) {
        if !self.keeps_for(caller) {
            return;
        }
        let tasks = self.return_pins_of(caller);
        let message = proto::RegisterAgain {
            task_ids: tasks.iter().map(|task| id_bytes(task.as_bytes())).collect(),
        };
        links.send(conn, FrameKind::RegisterAgain, 0, &message, &[], true);
    }

    /// Tasks whose results wait for this caller to register.
    fn return_pins_of(&self, caller: WorkerId) -> Vec<TaskId> {
        let theirs = self.return_pins.iter().filter(|(_, pins)| pins.caller == caller);
        theirs.map(|(task, _)| *task).collect()
    }

    pub(super) fn drop_return_pins_of(&mut self, links: &mut Links, caller: WorkerId) {
        for task in self.return_pins_of(caller) {
            self.drop_return_pins(links, task);
        }
    }

    fn drop_return_pins(&mut self, links: &mut Links, task: TaskId) {
        if let Some(pins) = self.return_pins.remove(&task) {
            self.drop_refs(links, pins.objects);
        }
    }

    pub(in crate::state) fn drop_refs(&mut self, links: &mut Links, ids: Vec<ObjectId>) {
        for id in ids {
            self.drop_ref(links, id);
        }
    }
}
