//! Heads and raylets as children: their configuration in, their ready line out, cancellable in between.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use sparkray_common::{ErrorCode, HeadConfig, HeadReady, RayletConfig, RayletReady};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::SupervisorError;
use crate::child_host::{Child, ChildEnd, ChildHost, ChildSpec};

/// A start on a loaded machine takes a second at most.
const READY_DEADLINE: Duration = Duration::from_secs(20);
/// Time for a raylet to end its workers before it is killed, with its guardian's patience in it. A busy machine needs some.
pub(crate) const STOP_GRACE: Duration = Duration::from_secs(4);

/// A child that serves, what it said, and how to hear of its end.
pub(crate) struct Running<R> {
    pub(crate) child: Child,
    pub(crate) ready: R,
    pub(crate) exit: oneshot::Receiver<ChildEnd>,
}

/// Starts children of one binary.
#[derive(Clone)]
pub(crate) struct ChildStarter {
    pub(crate) host: ChildHost,
    pub(crate) binary: PathBuf,
}

impl ChildStarter {
    pub(crate) async fn head(
        &self,
        config: &HeadConfig,
        log_path: PathBuf,
        cancel: &CancellationToken,
    ) -> Result<Running<HeadReady>, SupervisorError> {
        self.start("head", config, log_path, cancel).await
    }

    pub(crate) async fn raylet(
        &self,
        config: &RayletConfig,
        log_path: PathBuf,
        cancel: &CancellationToken,
    ) -> Result<Running<RayletReady>, SupervisorError> {
        self.start("raylet", config, log_path, cancel).await
    }

    async fn start<C: Serialize, R: DeserializeOwned>(
        &self,
        role: &str,
        config: &C,
        log_path: PathBuf,
        cancel: &CancellationToken,
    ) -> Result<Running<R>, SupervisorError> {
        let config_json = serde_json::to_string(config).map_err(|error| internal(role, &error))?;
        let (exit_sender, exit) = oneshot::channel();
        let spec = ChildSpec {
            binary: self.binary.clone(),
            role: role.to_owned(),
            config_json,
            log_path,
            ready_deadline: READY_DEADLINE,
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
        let ready = serde_json::from_str(child.ready_line());
        match ready {
            Ok(ready) => Ok(Running { child, ready, exit }),
            Err(error) => {
                let line = child.ready_line().to_owned();
                stop(child).await;
                Err(internal(
                    role,
                    &format!("its ready line {line:?} is not understood: {error}"),
                ))
            }
        }
    }
}

/// Stops a child off this thread.
pub(crate) async fn stop(child: Child) {
    if let Err(error) = blocking(move || child.stop(STOP_GRACE)).await {
        tracing::error!(%error, "cannot stop a child process");
    }
}

/// Runs what blocks off this thread.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, SupervisorError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| internal("a helper thread", &error))
}

fn internal(role: &str, cause: &dyn std::fmt::Display) -> SupervisorError {
    SupervisorError::refused(ErrorCode::Internal, format!("{role}: {cause}"))
}
