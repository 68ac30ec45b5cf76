//! Tells processes of this executor's tasks how to reach its raylet: Python workers of Spark are not below the raylet, and
//! nobody else could tell them.
//!
//! The answer holds the cluster's token. It is never on a disk, in an environment or in what Spark carries: it goes over an
//! abstract Unix socket, to processes of this user that this JVM started, at whatever remove. They find the socket by the pid of this JVM in its name, and know by
//! the kernel's word on the listener's pid that it is no other process's. The rest of the name is random, so that nobody
//! can take it in advance.

use std::time::{Duration, Instant};

use sparkray_common::NodeId;
use sparkray_proto::bridge::{self, RayletAccess};
use sparkray_rpc::{Listener, answer_callers};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::ancestors::is_below_this_process;
use super::current_raylet::{RayletHandle, current_raylet, wait_for_expected_raylet};
use crate::manager_thread::blocking;

/// Callers that are served at a time. One that waits for a raylet holds one of the manager's few helper threads.
const MAX_CALLERS: usize = 4;
/// A raylet that died is back in a second or two.
const RESTART_PATIENCE: Duration = Duration::from_secs(10);
/// An executor that came late has its first raylet by then, when a cluster runs: Spark gives it tasks before.
const START_PATIENCE: Duration = Duration::from_secs(10);

/// Answers callers until `cancel`.
pub(super) async fn serve(cancel: CancellationToken) {
    // An id of anything: it is only random.
    let random = NodeId::random();
    let name = format!("sparkray-tasks-{}-{random}", std::process::id());
    let listener = match Listener::bind_abstract(&name) {
        Ok(listener) => listener,
        Err(error) => {
            warn!(%error, "processes of Spark's tasks cannot join the raylet of this executor");
            return;
        }
    };
    let expected_until = Instant::now() + START_PATIENCE;
    let answer = move || answer(expected_until);
    answer_callers(listener, MAX_CALLERS, cancel, is_below_this_process, answer).await;
}

async fn answer(expected_until: Instant) -> Vec<u8> {
    let found = match current_raylet() {
        Some(raylet) => Ok(Some(raylet)),
        None => blocking(move || wait_for_expected_raylet(expected_until, RESTART_PATIENCE)).await,
    };
    let access = match found {
        Ok(Some(raylet)) => access_to(&raylet),
        Ok(None) => failure("no Ray cluster runs on this executor"),
        Err(error) => failure(&error.to_string()),
    };
    bridge::encode(&access)
}

fn access_to(raylet: &RayletHandle) -> RayletAccess {
    RayletAccess {
        failure: None,
        cluster_id: raylet.identity.cluster_id.to_string(),
        token: raylet.identity.token.expose_hex(),
        head_epoch: raylet.identity.head_epoch,
        node_id: raylet.node_id.to_string(),
        socket_name: raylet.socket_name.clone(),
    }
}

fn failure(text: &str) -> RayletAccess {
    RayletAccess {
        failure: Some(text.to_owned()),
        ..RayletAccess::default()
    }
}
