//! The driver's own raylet: it lets the driver program join; tasks run there only when it was given CPUs.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use sparkray_common::NodeId;
use sparkray_proto::RayletStarted;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::DriverConfig;
use super::membership::LocalRayletPlan;
use crate::SupervisorError;
use crate::child_host::ChildEnd;
use crate::children::{ChildStarter, EngineChild};
use crate::container::NodeDirs;
use crate::engine::{HeadPlace, NodePlan};

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
    pub(super) child: EngineChild,
    pub(super) started: RayletStarted,
    pub(super) exit: oneshot::Receiver<ChildEnd>,
    /// What it may have left there when it was killed is to be removed after its end.
    pub(super) leftovers: Vec<PathBuf>,
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
    let log_path = dirs.logs.join("sparkray-raylet-driver.log");
    let request = plan.request;
    let labels = [
        ("executor_id", "driver".to_owned()),
        ("hostname", crate::container::hostname()),
        ("container_id", dirs.container_id.clone()),
    ];
    let runs_tasks = request.driver_cpus > 0.0;
    let id = plan.names.id;
    let node = NodePlan {
        names: plan.names,
        node_id: NodeId::random(),
        head: HeadPlace::Beyond(plan.head_address),
        bind_host: (host != config.bind_address).then(|| config.bind_address.clone()),
        host,
        former_address: None,
        resources: BTreeMap::from([("CPU".to_owned(), request.driver_cpus)]),
        labels: labels
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
        object_store_bytes: plan.object_store_bytes,
        dirs,
        python: runs_tasks.then(|| PathBuf::from(&request.driver_python)),
        worker_env: request.worker_env,
        prestart_workers: 0,
        is_drivers_own: true,
        encryption: request.encryption,
    };
    let running = starter.node(&node, log_path, cancel).await?;
    let started = RayletStarted {
        cluster_id: id.to_vec().into(),
        failure: None,
        node_id: running.ready.node_id.to_vec().into(),
        address: running.ready.address,
        pid: running.ready.pid,
        start_count: 1,
        socket_name: running.ready.socket_name,
    };
    Ok(LocalRaylet {
        child: running.child,
        started,
        exit: running.exit,
        leftovers: starter.engine.leftovers(&node),
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
