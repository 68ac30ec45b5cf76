//! Calls of actors that are cancelled before they are sent, or after.

use sparkray_common::{ActorId, TaskId};
use sparkray_proto::{self as proto, FrameKind};

use super::{ActorClient, Actors, Route};
use crate::state::base::Base;
use crate::state::links::{Links, id_bytes};
use crate::state::tasks::{Place, Task, cancelled};

impl Actors {
    /// Ends a call that is not sent.
    pub(in crate::state) fn cancel_queued(&mut self, base: &mut Base, actor_id: ActorId, task_id: TaskId) {
        base.finish_task(task_id, &cancelled(task_id));
        let Some(client) = self.clients.get_mut(&actor_id) else {
            return;
        };
        client.calls.one_ended(&base.tasks, task_id);
        // Others may have waited behind it, or the actor for its last call.
        self.push_calls(base, actor_id);
        self.end_if_unreachable(&mut base.links, actor_id);
    }

    /// Tells an actor of a call that it was sent and that is to end. Its answer says what became of the call. An actor that
    /// cannot be reached now is told when it can be.
    pub(in crate::state) fn tell_of_cancellation(
        &mut self,
        base: &mut Base,
        actor_id: ActorId,
        task_id: TaskId,
    ) {
        if let (Some(client), Some(task)) = (self.clients.get_mut(&actor_id), base.tasks.get(task_id)) {
            client.tell_of_cancellation(&mut base.links, task_id, task);
        }
    }
}

impl ActorClient {
    pub(super) fn tell_of_cancellation(&self, links: &mut Links, task_id: TaskId, task: &Task) {
        let (Some(cancellation), Route::Connected(conn)) = (task.cancellation(), self.route) else {
            return;
        };
        let Place::Sent { sequence, .. } = task.place() else {
            return;
        };
        let message = proto::CancelTask {
            task_id: id_bytes(task_id.as_bytes()),
            sequence: Some(sequence),
            force: false,
            recursive: cancellation.recursive,
        };
        links.send(conn, FrameKind::CancelTask, 0, &message, &[], true);
    }
}
