//! Actors as this process knows them: `handles` counts them, `creation` has the head create actors, `lives` follows what the
//! head says of them, and `calls` sends calls in order, over broken connections too.
//!
//! Invariants:
//! 1. Calls of one caller to one incarnation of an actor start in the order of their sequence numbers, once each.
//! 2. A call whose place is `ActorQueue` is in the queue of its actor or waits beside it for arguments; one whose place is
//!    `Sent` is among those that its actor has not answered.
//! 3. An actor is known here while there are handles of it, or calls.

mod calls;
mod cancelling;
mod creation;
mod handles;
mod lives;
mod metrics;

use sparkray_common::{ActorId, ErrorCode, Metrics, ObjectId, WorkerAddress};
use sparkray_proto::ActorState;

use super::links::ConnId;
use super::objects::Value;
use crate::error::CoreError;
use crate::hash::IdMap;

use calls::Calls;
pub(crate) use creation::Creation;
use metrics::ActorMetrics;

/// Where calls of an actor go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    /// Connects with the next call.
    Idle,
    Connected(ConnId),
    /// The connection broke: a timer connects again.
    Broken,
}

/// What a caller knows of an actor.
#[derive(Debug)]
struct ActorClient {
    state: ActorState,
    incarnation: u64,
    address: Option<WorkerAddress>,
    route: Route,
    calls: Calls,
    /// What its calls end with, once it is dead.
    death: Option<Value>,
    /// Handles in this process, weak ones too.
    handles: u32,
    /// Those that do not keep the actor alive.
    weak_handles: u32,
    /// It runs several calls at a time: those that wait for arguments do not hold up others.
    out_of_order: bool,
    /// A handle left this process, or the actor is detached or of another creator: it does not end with the handles.
    escaped: bool,
    /// References that its creation needs, for restarts.
    pins: Vec<ObjectId>,
    /// The head was told that nobody can call it any more.
    kill_sent: bool,
    /// The head knows it: it may be asked about it.
    registered: bool,
    /// Its creation waits for arguments.
    creation: Option<Box<Creation>>,
}

impl ActorClient {
    fn new(created: bool) -> Self {
        Self {
            state: ActorState::Pending,
            incarnation: 0,
            address: None,
            route: Route::Idle,
            calls: Calls::default(),
            death: None,
            handles: 0,
            weak_handles: 0,
            out_of_order: false,
            escaped: !created,
            pins: Vec::new(),
            kill_sent: false,
            registered: !created,
            creation: None,
        }
    }

    /// Begins anew with another incarnation.
    fn reset(&mut self, incarnation: u64, address: Option<WorkerAddress>) {
        self.incarnation = incarnation;
        self.address = address;
        self.route = Route::Idle;
        self.calls.restart();
    }
}

/// All actors that this process knows.
#[derive(Debug, Default)]
pub(super) struct Actors {
    clients: IdMap<ActorId, ActorClient>,
    /// This process has created one, which may end with it.
    has_created: bool,
    metrics: ActorMetrics,
}

impl Actors {
    /// Whether actors may end with this process.
    pub(super) fn are_needed(&self) -> bool {
        self.has_created
    }

    /// Lists the actors that this process knows, and what was counted.
    pub(super) fn list_metrics(&self, into: &mut Metrics) {
        into.gauge(
            "ray_core_worker_known_actors",
            "Actors that this process has handles or calls of",
            self.clients.len() as u64,
        );
        self.metrics.list(into);
    }

    /// Panics where an invariant does not hold.
    pub(super) fn check(&self, tasks: &super::tasks::Tasks) {
        use super::tasks::{CallKind, Place};
        for client in self.clients.values() {
            client.calls.check(tasks);
        }
        for (id, task) in tasks.places() {
            let CallKind::Actor { actor_id, .. } = task.kind() else {
                assert!(
                    !matches!(task.place(), Place::ActorQueue | Place::Sent { .. }),
                    "task {id}: {task:?}"
                );
                continue;
            };
            let client = &self.clients[actor_id];
            assert!(
                client.calls.knows(id, task.place()),
                "actor {actor_id} does not know {id}: {task:?}"
            );
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }
}

/// The error of calls of an actor that only the head could find.
fn head_error(actor_id: ActorId, cause: &str) -> Value {
    let error = CoreError::new(
        ErrorCode::ActorUnavailable,
        format!(
            "actor {actor_id} cannot be reached: the head of the cluster is gone ({cause}); start the cluster again"
        ),
    );
    Value::failed(error.of_actor(actor_id))
}
