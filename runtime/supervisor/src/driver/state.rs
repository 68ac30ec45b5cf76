//! The state that JVM threads and the manager's thread share, and the carrying out of effects.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use sparkray_common::ClusterId;
use sparkray_common::sync::{Condvar, Mutex, MutexGuard};
use sparkray_proto::{ManagerEvent, ManagerHello, manager_event::Event};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::DriverConfig;
use super::local_raylet::{LocalRaylet, start};
use super::membership::{Effect, MemberKey, Membership};
use super::outboxes::{Outbox, Outboxes};
use crate::SupervisorError;
use crate::children::{ChildStarter, EngineChild};
use crate::container::remove_leftovers;
use crate::request::{ClusterNames, InitRequest};

/// What the lock holds.
#[derive(Default)]
pub(super) struct State {
    pub(super) membership: Membership,
    outboxes: Outboxes,
    /// Addresses of this machine at which executors have reached it.
    reached_at: BTreeMap<MemberKey, IpAddr>,
    local: Local,
}

/// The driver's own raylet.
#[derive(Default)]
enum Local {
    #[default]
    None,
    /// Its start is under way, and may be cancelled.
    Starting(ClusterId, CancellationToken),
    Running(EngineChild),
}

/// What came of the order to end a cluster.
pub(super) enum Ending {
    /// Another cluster is the current one, or none.
    Other,
    /// It is on its way; this is the driver's own raylet.
    Begun(Option<EngineChild>),
}

impl State {
    /// Nothing of an ended cluster is left, as far as is known.
    pub(super) fn is_quiet(&self) -> bool {
        let local = match &self.local {
            Local::Starting(_, cancel) => !cancel.is_cancelled(),
            Local::None | Local::Running(_) => true,
        };
        local && !self.membership.is_stopping()
    }

    /// Those that keep it from being quiet.
    pub(super) fn unanswered(&self) -> Vec<String> {
        let mut names = self.membership.stopping_names();
        if matches!(&self.local, Local::Starting(_, cancel) if cancel.is_cancelled()) {
            names.push("the driver's own raylet".to_owned());
        }
        names
    }
}

/// State, and what is needed to act on it.
pub(super) struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    config: DriverConfig,
    starter: ChildStarter,
    runtime: Handle,
    cancel: CancellationToken,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Shared")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn new(
        config: DriverConfig,
        starter: ChildStarter,
        runtime: Handle,
        cancel: CancellationToken,
    ) -> Self {
        Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            config,
            starter,
            runtime,
            cancel,
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Waits until `done` has an answer; `None` at the deadline.
    pub(super) fn wait_until<T>(
        &self,
        deadline: Instant,
        mut done: impl FnMut(&mut State) -> Option<T>,
    ) -> Option<T> {
        let mut state = self.state.lock();
        loop {
            if let Some(answer) = done(&mut state) {
                return Some(answer);
            }
            let timed_out;
            (state, timed_out) = self.changed.wait_until(state, deadline);
            if timed_out {
                return done(&mut state);
            }
        }
    }

    pub(super) fn begin(
        self: &Arc<Self>,
        names: ClusterNames,
        request: InitRequest,
    ) -> Result<(), SupervisorError> {
        let mut state = self.state.lock();
        let effects = state.membership.begin(names, request)?;
        self.carry_out(&mut state, effects);
        Ok(())
    }

    /// Tells every executor to stop. The driver's own raylet, if there is one, is for the caller to stop.
    pub(super) fn end(self: &Arc<Self>, only: Option<ClusterId>) -> Ending {
        let mut state = self.state.lock();
        if only.is_some_and(|id| !state.membership.is_current(id)) {
            return Ending::Other;
        }
        if let Some((_, effects)) = state.membership.end() {
            self.carry_out(&mut state, effects);
        }
        self.changed.notify_all();
        match std::mem::take(&mut state.local) {
            Local::None => Ending::Begun(None),
            Local::Running(child) => Ending::Begun(Some(child)),
            Local::Starting(id, cancel) => {
                cancel.cancel();
                // Stays until its task has seen the end of the child.
                state.local = Local::Starting(id, cancel);
                Ending::Begun(None)
            }
        }
    }

    pub(super) fn join(
        self: &Arc<Self>,
        hello: ManagerHello,
        outbox: Outbox,
        reached_at: Option<IpAddr>,
    ) -> MemberKey {
        info!(
            executor_id = hello.executor_id,
            host = hello.host,
            container_id = hello.container_id,
            "executor joined"
        );
        let mut state = self.state.lock();
        let (key, effects) = state.membership.join(hello);
        state.outboxes.add(key, outbox);
        state.reached_at.extend(reached_at.map(|ip| (key, ip)));
        self.carry_out(&mut state, effects);
        self.changed.notify_all();
        key
    }

    pub(super) fn executor_failed(&self, executor_id: String, reason: String) {
        warn!(executor_id, reason, "an executor cannot run a manager");
        self.state.lock().membership.executor_failed(executor_id, reason);
        self.changed.notify_all();
    }

    pub(super) fn leave(self: &Arc<Self>, key: MemberKey) {
        let mut state = self.state.lock();
        state.outboxes.remove(key);
        state.reached_at.remove(&key);
        let effects = state.membership.leave(key);
        self.carry_out(&mut state, effects);
        self.changed.notify_all();
    }

    pub(super) fn event(self: &Arc<Self>, key: MemberKey, event: ManagerEvent) {
        let mut state = self.state.lock();
        let effects = match event.event {
            Some(Event::HeadStarted(message)) => state.membership.head_started(key, message),
            Some(Event::RayletStarted(message)) => state.membership.raylet_started(key, message),
            Some(Event::ChildEnded(message)) => {
                warn!(
                    role = message.role,
                    cause = message.cause,
                    message.will_restart,
                    "a process of an executor ended"
                );
                state.membership.child_ended(key, message)
            }
            Some(Event::Stopped(_)) => {
                state.membership.stopped(key);
                Vec::new()
            }
            Some(Event::Hello(_)) | None => Vec::new(),
        };
        self.carry_out(&mut state, effects);
        self.changed.notify_all();
    }

    fn carry_out(self: &Arc<Self>, state: &mut State, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send(key, command) => state.outboxes.send(key, *command),
                Effect::TellDriverRaylet(cause) => {
                    if let Local::Running(child) = &state.local {
                        child.tell_head_lost(&cause);
                    }
                }
                Effect::StartDriverRaylet(plan) => {
                    let cancel = self.cancel.child_token();
                    state.local = Local::Starting(plan.names.id, cancel.clone());
                    let shared = Arc::clone(self);
                    let reached_at: Vec<IpAddr> = state.reached_at.values().copied().collect();
                    self.runtime.spawn(async move {
                        let id = plan.names.id;
                        let outcome =
                            start(*plan, &shared.config, &reached_at, &shared.starter, &cancel).await;
                        shared.local_started(id, outcome, &cancel).await;
                    });
                }
            }
        }
    }

    /// Keeps the driver's raylet, or stops it when its cluster was ended meanwhile; then hears of its end.
    async fn local_started(
        self: &Arc<Self>,
        id: ClusterId,
        outcome: Result<LocalRaylet, SupervisorError>,
        cancel: &CancellationToken,
    ) {
        let raylet = match outcome {
            Ok(raylet) => raylet,
            Err(error) => return self.local_ended(id, Some(error)),
        };
        let LocalRaylet {
            child,
            started,
            exit,
            leftovers,
        } = raylet;
        let unwanted = {
            let mut state = self.state.lock();
            if cancel.is_cancelled() {
                Some(child)
            } else {
                state.local = Local::Running(child);
                state.membership.driver_raylet_started(id, Ok(started));
                self.changed.notify_all();
                None
            }
        };
        if let Some(child) = unwanted {
            child.stop().await;
            return self.local_ended(id, None);
        }
        if let Ok(end) = exit.await {
            let mut state = self.state.lock();
            state.membership.driver_raylet_ended(id, &end.cause);
            self.changed.notify_all();
        }
        remove_leftovers(leftovers).await;
    }

    /// A start of the driver's raylet came to nothing.
    fn local_ended(&self, id: ClusterId, error: Option<SupervisorError>) {
        let mut state = self.state.lock();
        // A later cluster may have begun meanwhile.
        if matches!(&state.local, Local::Starting(starting, _) if *starting == id) {
            state.local = Local::None;
        }
        if let Some(error) = error {
            state.membership.driver_raylet_started(id, Err(error));
        }
        self.changed.notify_all();
    }
}
