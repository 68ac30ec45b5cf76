//! Heads and nodes as children: what their engine makes of a plan, their ready line out, cancellable in between.

use std::path::PathBuf;
use std::sync::Arc;

use sparkray_common::ErrorCode;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::SupervisorError;
use crate::child_host::{Child, ChildEnd, ChildHost, ChildSpec, Launch};
use crate::engine::{Engine, HeadPlan, NodePlan, Role, ServingHead, ServingNode};
use crate::manager_thread::blocking;

/// A child that serves, what it said, and how to hear of its end.
pub(crate) struct Running<R> {
    pub(crate) child: EngineChild,
    pub(crate) ready: R,
    pub(crate) exit: oneshot::Receiver<ChildEnd>,
}

/// A child and the engine that knows how to treat it.
pub(crate) struct EngineChild {
    child: Child,
    role: Role,
    engine: Arc<dyn Engine>,
}

impl EngineChild {
    /// Tells it that the head is lost.
    pub(crate) fn tell_head_lost(&self, cause: &str) {
        self.child.tell(&self.engine.head_lost_notice(cause));
    }

    /// Ends it; returns when it is gone.
    pub(crate) fn stop_and_wait(self) {
        self.child.stop(self.engine.stop_grace(self.role));
    }

    /// Ends it off this thread.
    pub(crate) async fn stop(self) {
        if let Err(error) = blocking(move || self.stop_and_wait()).await {
            tracing::error!(%error, "cannot stop a child process");
        }
    }
}

/// Starts children of one engine.
#[derive(Clone)]
pub(crate) struct ChildStarter {
    pub(crate) host: ChildHost,
    pub(crate) engine: Arc<dyn Engine>,
}

impl ChildStarter {
    pub(crate) async fn head(
        &self,
        plan: &HeadPlan,
        log_path: PathBuf,
        cancel: &CancellationToken,
    ) -> Result<Running<ServingHead>, SupervisorError> {
        let launch = self.engine.launch_head(plan)?;
        let read = |line: &str| self.engine.read_head(line);
        self.start(Role::Head, launch, log_path, read, cancel).await
    }

    pub(crate) async fn node(
        &self,
        plan: &NodePlan,
        log_path: PathBuf,
        cancel: &CancellationToken,
    ) -> Result<Running<ServingNode>, SupervisorError> {
        let launch = self.engine.launch_node(plan)?;
        let read = |line: &str| self.engine.read_node(line);
        self.start(Role::Node, launch, log_path, read, cancel).await
    }

    async fn start<R>(
        &self,
        role: Role,
        launch: Launch,
        log_path: PathBuf,
        read: impl Fn(&str) -> Result<R, String>,
        cancel: &CancellationToken,
    ) -> Result<Running<R>, SupervisorError> {
        let (exit_sender, exit) = oneshot::channel();
        let spec = ChildSpec {
            role: role.name().to_owned(),
            launch,
            log_path,
            on_exit: Some(Box::new(move |end| {
                // Nobody listens when the child was stopped meanwhile.
                let _ = exit_sender.send(end);
            })),
        };
        let host = self.host.clone();
        let starting = blocking(move || host.begin(spec)).await??;
        let killer = starting.killer();
        let mut waiting = tokio::task::spawn_blocking(move || starting.wait());
        let outcome = tokio::select! {
            outcome = &mut waiting => outcome,
            () = cancel.cancelled() => {
                killer.kill();
                waiting.await
            }
        };
        let child = outcome.map_err(|error| internal(role, &error))??;
        let line = child.ready_line().to_owned();
        let child = EngineChild {
            child,
            role,
            engine: Arc::clone(&self.engine),
        };
        match read(&line) {
            Ok(ready) => Ok(Running { child, ready, exit }),
            Err(error) => {
                child.stop().await;
                Err(internal(
                    role,
                    &format!("its ready line {line:?} is not understood: {error}"),
                ))
            }
        }
    }
}

fn internal(role: Role, cause: &dyn std::fmt::Display) -> SupervisorError {
    SupervisorError::refused(ErrorCode::Internal, format!("{role}: {cause}"))
}
