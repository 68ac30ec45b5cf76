//! What a core worker knows and decides: a state machine without sockets, clocks or threads. It takes what happened and
//! leaves frames and [`Effect`]s behind; `io::worker` carries them out under the same lock, so that frames leave in the
//! order of the decisions.
//!
//! It is made of parts with fields of their own, which call downwards only:
//!
//! ```text
//!            router (mod, frames, ends, requests, cancelling)
//!       leases        actors        execution
//!              \        |        /
//!            tasks      |       /
//!                \      |      /
//!                  objects
//!                     |
//!         links (with deaths, timers, outbox)
//! ```
//!
//! What concerns a part above becomes an [`events::Event`]. The router feeds one input to the parts, hands their events on
//! until there are none, and only then lets the effects leave: no handler runs in the middle of another's change.

mod actors;
mod base;
mod cancelling;
mod deaths;
mod ends;
mod events;
mod execution;
mod frames;
mod ids;
mod leases;
mod limits;
mod links;
mod metrics;
mod objects;
mod outbox;
mod process;
mod requests;
mod tasks;

#[cfg(test)]
mod tests;

use std::os::fd::OwnedFd;
use std::sync::Arc;

use sparkray_common::{JobId, NodeId, ObjectId, TaskId, WorkerAddress};
use sparkray_proto as proto;

use crate::dropped::Dropped;
use crate::error::CoreError;

use actors::Actors;
pub(crate) use actors::Creation;
use base::Base;
use events::{Dependent, Event};
use execution::Execution;
pub(crate) use execution::{ArgumentValue, Work, stored_argument};
pub use execution::{CreateActorWork, IncomingTask};
pub(crate) use ids::IdSource;
pub(crate) use ids::{ConnId, RAYLET_CONN};
use leases::Leases;
pub use links::CloseCause;
use links::{Links, Timer};
pub(crate) use links::{Pending, SlotResult};
pub use objects::UnhandledErrors;
pub(crate) use objects::{
    Begun, FetchedResult, Locations, Objects, StoreAnswer, Value, WaitId, unknown_object,
};
pub(crate) use outbox::Effect;
pub use outbox::Notice;
use process::Process;
pub use tasks::Cancellation;
use tasks::Tasks;
pub use tasks::{ActorMethod, TaskTemplate};
pub(crate) use tasks::{CallKind, NewTask};

/// The parts, and what no part needs to know.
pub(crate) struct State {
    base: Base,
    leases: Leases,
    actors: Actors,
    execution: Execution,
    /// What the raylet said when this process registered.
    registered: Option<Result<proto::RegisterClientReply, CoreError>>,
    /// A worker's: where its node's lease is to be read.
    node_lease: Option<OwnedFd>,
    /// There was no room for another call when an input was last settled.
    was_full: bool,
}

impl State {
    pub(crate) fn new(
        me: WorkerAddress,
        job_id: JobId,
        python_version: String,
        raylet_socket: String,
        ids: IdSource,
    ) -> Self {
        let process = Process::new(me, job_id, python_version, ids);
        Self {
            base: Base {
                links: Links::new(process, raylet_socket),
                objects: Objects::default(),
                tasks: Tasks::default(),
            },
            leases: Leases::default(),
            actors: Actors::default(),
            execution: Execution::default(),
            registered: None,
            node_lease: None,
            was_full: false,
        }
    }

    // ---- this process --------------------------------------------------------------------------------------

    /// Where this process is, once the raylet has told it.
    pub(crate) fn set_address(&mut self, node_id: NodeId, node_address: String) {
        self.process_mut().set_address(node_id, node_address);
    }

    pub(crate) fn me(&self) -> &Arc<WorkerAddress> {
        &self.process().me
    }

    pub(crate) fn me_message(&self) -> &proto::WorkerAddress {
        &self.process().me_message
    }

    pub(crate) fn job_id(&self) -> JobId {
        self.process().job_id
    }

    pub(crate) fn set_job_id(&mut self, job_id: JobId) {
        self.process_mut().job_id = job_id;
    }

    pub(crate) fn python_version(&self) -> &str {
        &self.process().python_version
    }

    pub(crate) fn next_task_id(&mut self) -> TaskId {
        self.process_mut().ids.next_task()
    }

    /// Why nothing works any more.
    pub(crate) fn broken(&self) -> Option<&CoreError> {
        self.process().broken.as_ref()
    }

    /// Why nothing that needs the head works.
    pub(crate) fn head_lost(&self) -> Option<&str> {
        self.process().head_lost.as_deref()
    }

    /// What the raylet said when this process registered; once.
    pub(crate) fn take_registration(&mut self) -> Option<Result<proto::RegisterClientReply, CoreError>> {
        self.registered.take()
    }

    /// Where a worker's node's lease is to be read; once.
    pub(crate) fn take_node_lease(&mut self) -> Option<OwnedFd> {
        self.node_lease.take()
    }

    fn process(&self) -> &Process {
        &self.base.links.process
    }

    fn process_mut(&mut self) -> &mut Process {
        &mut self.base.links.process
    }

    // ---- events --------------------------------------------------------------------------------------------

    /// Hands events on to the parts that they concern, until there are none. What that resolves in turn is not told by a
    /// call in this call: an error goes through a chain of calls of any length.
    fn drain_events(&mut self) {
        while let Some(event) = self.base.links.out.next_event() {
            match event {
                Event::DependencyResolved(Dependent::Task(task)) => self.task_dependency_resolved(task),
                Event::DependencyResolved(Dependent::Actor(actor)) => {
                    self.actors.dependency_resolved(&mut self.base, actor);
                }
                Event::PushLost(task) => self.leases.push_lost(&mut self.base, task),
                Event::LeaseRequestLost(lease) => self.leases.request_lost(&mut self.base, lease),
                Event::CreationLost(actor) => {
                    let error = links::lost_connection("the connection is closed");
                    self.actors.refused(&mut self.base, actor, error, true);
                }
                Event::PeerLost(address) => self.peer_lost(&address),
            }
        }
    }

    fn task_dependency_resolved(&mut self, task: TaskId) {
        match self.base.tasks.dependency_resolved(task) {
            None => {}
            Some(CallKind::Function(_)) => self.leases.enqueue(&mut self.base, task),
            Some(CallKind::Actor { actor_id, .. }) => {
                let actor_id = *actor_id;
                self.actors.call_ready(&mut self.base, actor_id, task);
            }
        }
    }

    // ---- time ----------------------------------------------------------------------------------------------

    /// The time, in microseconds since the worker began, for what happens next.
    pub(crate) fn set_now(&mut self, now: u64) {
        self.process_mut().now = now;
    }

    /// The time passes; `now` in microseconds.
    pub(crate) fn on_tick(&mut self, now: u64) {
        self.set_now(now);
        while let Some(timer) = self.base.links.timers.take_due(now) {
            self.on_timer(timer);
            self.drain_events();
        }
        self.execution.give_back_if_slow(&mut self.base.links);
    }

    fn on_timer(&mut self, timer: Timer) {
        let base = &mut self.base;
        match timer {
            Timer::IdleLease(lease) => self.leases.may_be_idle(base, lease),
            Timer::LeaseRequests(class) => self.leases.ask_again(base, class),
            Timer::ReconnectActor(actor) => self.actors.reconnect(base, actor),
            Timer::CallAgain(worker) => self.call_again(worker),
            Timer::CallRaylet(node) => self.leases.call_raylet_again(base, node),
            Timer::AcknowledgeReplies(actor) => self.actors.acknowledge(&mut base.links, actor),
            Timer::KeptError(id) => base.objects.error_was_kept(&mut base.links, id),
            Timer::Unanswered(conn) => self.give_up_unanswered(conn),
            Timer::CloseConnection(conn) => self.close_dead(conn),
        }
    }

    /// When [`State::on_tick`] has something to do next, in microseconds from now.
    pub(crate) fn next_tick(&self) -> Option<u64> {
        let timer = self.base.links.timers.next();
        let at = [timer, self.execution.slow_at()].into_iter().flatten().min()?;
        Some(at.saturating_sub(self.process().now))
    }

    // ---- the end of an input -------------------------------------------------------------------------------

    /// Takes over what finalizers left.
    pub(crate) fn take_dropped(&mut self, dropped: &mut Dropped) {
        let Base { links, objects, .. } = &mut self.base;
        for id in dropped.references.drain(..) {
            objects.drop_ref(links, id);
        }
        for (id, kind) in dropped.actor_handles.drain(..) {
            self.actors.drop_handle(links, id, kind);
        }
        if !dropped.mappings.is_empty() {
            Objects::release_mapped(links, &dropped.mappings);
            dropped.mappings.clear();
        }
    }

    /// Whether something waits to be carried out.
    pub(crate) fn has_output(&self) -> bool {
        let links = &self.base.links;
        !links.out.is_empty() || links.has_outgoing() || self.base.objects.has_output()
    }

    /// Makes frames of what was gathered, and tells whether something happened for which a thread may wait. To be
    /// called before frames and effects are taken.
    pub(crate) fn settle(&mut self) -> bool {
        self.drain_events();
        self.base.objects.flush(&mut self.base.links);
        self.drain_events();
        let is_full = !self.has_room();
        let out = &mut self.base.links.out;
        if std::mem::replace(&mut self.was_full, is_full) && !is_full {
            out.news();
        }
        if self.execution.is_to_be_announced() {
            out.notify(Notice::Work);
        }
        out.take_news()
    }

    pub(crate) fn take_effects(&mut self) -> Vec<Effect> {
        self.base.links.out.take_effects()
    }

    /// Hands every queued frame to `take`: connection, bytes, and whether they should leave at once.
    pub(crate) fn take_outgoing(&mut self, take: impl FnMut(ConnId, &mut Vec<u8>, bool)) {
        self.base.links.take_outgoing(take);
    }

    // ---- checking ------------------------------------------------------------------------------------------

    /// Panics where an invariant of a part does not hold, between inputs.
    pub(crate) fn check(&self) {
        self.base.links.check();
        self.base.objects.check();
        self.leases.check(&self.base.tasks);
        self.actors.check(&self.base.tasks);
    }

    /// All objects that this process knows.
    pub(crate) fn known_objects(&self) -> impl Iterator<Item = &ObjectId> {
        self.base.objects.ids()
    }

    /// Nothing is left of anything; panics with what is.
    pub(crate) fn check_empty(&self, who: &str) {
        self.base.tasks.check_empty(who);
        self.base.objects.check_empty(who);
        self.leases.check_empty(who);
        self.base.links.check_empty(who);
    }
}
