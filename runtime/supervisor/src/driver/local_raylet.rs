//! The driver's own raylet: it lets the driver program join; tasks run there only when it was given CPUs.

use std::collections::BTreeMap;
use std::path::PathBuf;

use sparkray_common::{NodeId, RayletConfig};
use sparkray_proto::RayletStarted;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::DriverConfig;
use super::membership::LocalRayletPlan;
use crate::SupervisorError;
use crate::child_host::Child;
use crate::children::ChildStarter;
use crate::container::NodeDirs;

/// It serves.
pub(super) struct LocalRaylet {
    pub(super) child: Child,
    pub(super) started: RayletStarted,
    pub(super) exit: oneshot::Receiver<String>,
    /// What it may have left there when it was killed is to be removed after its end.
    pub(super) spill_dirs: Vec<PathBuf>,
}

pub(super) async fn start(
    plan: LocalRayletPlan,
    config: &DriverConfig,
    starter: &ChildStarter,
    cancel: &CancellationToken,
) -> Result<LocalRaylet, SupervisorError> {
    let dirs = NodeDirs::of_this_process(&config.work_dir);
    let node_id = NodeId::random();
    let request = plan.request;
    let spill_dirs = dirs.spill_dirs(&node_id.to_string());
    let runs_tasks = request.driver_cpus > 0.0;
    let mut labels = BTreeMap::from([("executor_id".to_owned(), "driver".to_owned())]);
    labels.insert("hostname".to_owned(), crate::container::hostname());
    labels.insert("container_id".to_owned(), dirs.container_id.clone());
    let raylet = RayletConfig {
        cluster_id: plan.names.id.to_string(),
        token: plan.names.token.expose_hex(),
        node_id: node_id.to_string(),
        head_epoch: plan.names.head_epoch,
        parent_pid: std::process::id(),
        host: config.host.clone(),
        port: 0,
        head_socket_name: None,
        head_address: Some(plan.head_address),
        resources: BTreeMap::from([("CPU".to_owned(), request.driver_cpus)]),
        labels,
        object_store_bytes: plan.object_store_bytes,
        spill_dirs: spill_dirs.iter().map(|path| path.display().to_string()).collect(),
        log_dir: dirs.logs.display().to_string(),
        python: runs_tasks.then(|| request.driver_python.clone()),
        working_dir: dirs.working.display().to_string(),
        worker_env: request.worker_env,
        prestart_workers: 0,
    };
    let log_path = dirs.logs.join("sparkray-raylet-driver.log");
    let running = starter.raylet(&raylet, log_path, cancel).await?;
    let started = RayletStarted {
        cluster_id: plan.names.id.to_vec().into(),
        failure: None,
        node_id: node_id.to_vec().into(),
        address: running.ready.address,
        pid: running.child.pid(),
        start_count: 1,
        socket_name: running.ready.socket_name,
    };
    Ok(LocalRaylet {
        child: running.child,
        started,
        exit: running.exit,
        spill_dirs,
    })
}
