//! The driver's own raylet: it lets the driver program join; tasks run there only when it was given CPUs.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use sparkray_common::{NodeId, RayletConfig};
use sparkray_proto::RayletStarted;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::DriverConfig;
use super::membership::LocalRayletPlan;
use crate::SupervisorError;
use crate::child_host::{Child, ChildEnd};
use crate::children::ChildStarter;
use crate::container::NodeDirs;

/// The address at which all others reach the driver's raylet: `spark.driver.host`, unless that is this machine's loopback
/// here, while executors have reached the manager at another address: then that one. `resolved` is what the name is here.
/// The raylet listens where the manager does, so it can be reached there too.
fn advertised_host(host: &str, resolved: &[IpAddr], reached_at: &[IpAddr]) -> String {
    let by_network = reached_at.iter().find(|ip| !ip.is_loopback());
    match by_network {
        Some(ip) if resolved.iter().any(IpAddr::is_loopback) => ip.to_string(),
        _ => host.to_owned(),
    }
}

/// It serves.
pub(super) struct LocalRaylet {
    pub(super) child: Child,
    pub(super) started: RayletStarted,
    pub(super) exit: oneshot::Receiver<ChildEnd>,
    /// What it may have left there when it was killed is to be removed after its end.
    pub(super) spill_dirs: Vec<PathBuf>,
}

pub(super) async fn start(
    plan: LocalRayletPlan,
    config: &DriverConfig,
    reached_at: &[IpAddr],
    starter: &ChildStarter,
    cancel: &CancellationToken,
) -> Result<LocalRaylet, SupervisorError> {
    let resolved = tokio::net::lookup_host((config.host.as_str(), 0)).await;
    let resolved: Vec<IpAddr> =
        resolved.map_or_else(|_| Vec::new(), |found| found.map(|found| found.ip()).collect());
    let host = advertised_host(&config.host, &resolved, reached_at);
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
        bind_host: (host != config.bind_address).then(|| config.bind_address.clone()),
        host,
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
        is_drivers_own: true,
        encryption: request.encryption,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_loopback_on_the_driver_is_not_advertised_to_other_hosts() {
        let ips =
            |texts: &[&str]| -> Vec<IpAddr> { texts.iter().map(|text| text.parse().unwrap()).collect() };
        let host =
            |resolved: &[&str], reached: &[&str]| advertised_host("driver", &ips(resolved), &ips(reached));
        assert_eq!(host(&["10.0.0.7"], &["10.0.0.7"]), "driver");
        assert_eq!(
            host(&["10.0.0.7"], &["10.1.0.7"]),
            "driver",
            "what Spark says, as long as it can be true"
        );
        assert_eq!(host(&["127.0.0.1"], &["10.0.0.7"]), "10.0.0.7");
        assert_eq!(
            host(&["127.0.1.1", "10.0.0.7"], &["127.0.0.1", "10.0.0.7"]),
            "10.0.0.7"
        );
        assert_eq!(host(&["::1"], &["fd00::7"]), "fd00::7");
        assert_eq!(
            host(&["127.0.0.1"], &["127.0.0.1"]),
            "driver",
            "all on one machine"
        );
        assert_eq!(host(&[], &["10.0.0.7"]), "driver");
        assert_eq!(host(&["127.0.0.1"], &[]), "driver");
    }
}
