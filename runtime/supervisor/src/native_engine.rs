//! The native runtime: `sparkrayd head` and `sparkrayd raylet`. Only this file knows their subcommands, configurations,
//! ready lines, notices and exit statuses.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sparkray_common::{
    CUT_OFF_STATUS, ErrorCode, HeadConfig, HeadReady, NodeId, ParentNotice, RayletConfig, RayletReady,
};

use crate::SupervisorError;
use crate::child_host::{Child, ChildHost, ChildSpec, Launch};
use crate::engine::{Engine, HeadPlace, HeadPlan, NodeExit, NodePlan, Role, ServingHead, ServingNode};

/// A start on a loaded machine takes a second at most.
const READY_DEADLINE: Duration = Duration::from_secs(20);
/// Time for a raylet to end its workers before it is killed, with its guardian's patience in it. A busy machine needs some.
const STOP_GRACE: Duration = Duration::from_secs(4);
/// `sparkrayd` does not know the subcommand or an option: another version lies in its place.
const USAGE_STATUS: i32 = 2;

/// The runtime in `sparkrayd`.
pub(crate) struct NativeEngine {
    binary: PathBuf,
}

impl NativeEngine {
    /// `binary`: the path of `sparkrayd`.
    pub(crate) fn new(binary: PathBuf) -> Self {
        Self { binary }
    }
}

impl Engine for NativeEngine {
    fn launch_head(&self, plan: &HeadPlan) -> Result<Launch, SupervisorError> {
        let config = HeadConfig {
            cluster_id: plan.names.id.to_string(),
            token: plan.names.token.expose_hex(),
            head_epoch: plan.names.head_epoch,
            parent_pid: std::process::id(),
            log_dir: plan.log_dir.display().to_string(),
        };
        Ok(launch(&self.binary, Role::Head, json(Role::Head, &config)?))
    }

    fn launch_node(&self, plan: &NodePlan) -> Result<Launch, SupervisorError> {
        let (head_socket_name, head_address) = match &plan.head {
            HeadPlace::Here(socket_name) => (Some(socket_name.clone()), None),
            HeadPlace::Beyond(address) => (None, Some(address.clone())),
        };
        let spill_dirs = self.leftovers(plan);
        let config = RayletConfig {
            cluster_id: plan.names.id.to_string(),
            token: plan.names.token.expose_hex(),
            node_id: plan.node_id.to_string(),
            head_epoch: plan.names.head_epoch,
            parent_pid: std::process::id(),
            host: plan.host.clone(),
            bind_host: plan.bind_host.clone(),
            port: plan.former_address.as_deref().map_or(0, port_of),
            head_socket_name,
            head_address,
            resources: plan.resources.clone(),
            labels: plan.labels.clone(),
            object_store_bytes: plan.object_store_bytes,
            spill_dirs: spill_dirs.iter().map(|path| path.display().to_string()).collect(),
            log_dir: plan.dirs.logs.display().to_string(),
            python: plan.python.as_ref().map(|path| path.display().to_string()),
            working_dir: plan.dirs.working.display().to_string(),
            worker_env: plan.worker_env.clone(),
            prestart_workers: plan.prestart_workers,
            is_drivers_own: plan.is_drivers_own,
            encryption: plan.encryption,
        };
        Ok(launch(&self.binary, Role::Node, json(Role::Node, &config)?))
    }

    fn read_head(&self, ready_line: &str) -> Result<ServingHead, String> {
        let ready: HeadReady = serde_json::from_str(ready_line).map_err(|error| error.to_string())?;
        Ok(ServingHead {
            address: ready.socket_name,
            pid: ready.pid,
        })
    }

    fn read_node(&self, ready_line: &str) -> Result<ServingNode, String> {
        let ready: RayletReady = serde_json::from_str(ready_line).map_err(|error| error.to_string())?;
        Ok(ServingNode {
            node_id: NodeId::from_hex(&ready.node_id).map_err(|error| error.to_string())?,
            address: ready.address,
            socket_name: ready.socket_name,
            pid: ready.pid,
        })
    }

    fn stop_grace(&self, _role: Role) -> Duration {
        STOP_GRACE
    }

    fn node_exit(&self, status: Option<i32>) -> NodeExit {
        match status {
            Some(status) if status == i32::from(CUT_OFF_STATUS) => NodeExit::CutOff,
            Some(USAGE_STATUS) => NodeExit::Broken,
            _ => NodeExit::Died,
        }
    }

    fn head_lost_notice(&self, cause: &str) -> String {
        let notice = ParentNotice::HeadLost {
            cause: cause.to_owned(),
        };
        serde_json::to_string(&notice).expect("text in an enum has a form in JSON")
    }

    /// A raylet that was killed leaves its spilled objects.
    fn leftovers(&self, plan: &NodePlan) -> Vec<PathBuf> {
        plan.dirs.spill_dirs(&plan.node_id.to_string())
    }
}

fn launch(binary: &std::path::Path, role: Role, configuration: String) -> Launch {
    Launch {
        program: binary.to_owned(),
        arguments: vec![role.name().to_owned()],
        environment: BTreeMap::new(),
        configuration,
        ready_deadline: READY_DEADLINE,
    }
}

fn json(role: Role, config: &impl Serialize) -> Result<String, SupervisorError> {
    serde_json::to_string(config)
        .map_err(|error| SupervisorError::refused(ErrorCode::Internal, format!("{role}: {error}")))
}

fn port_of(address: &str) -> u16 {
    address
        .rsplit(':')
        .next()
        .and_then(|port| port.parse().ok())
        .unwrap_or(0)
}

/// The part of a ready line that all roles have.
#[derive(Deserialize)]
struct ReadyPid {
    pid: u32,
}

/// Starts `sparkrayd` for `sparkray.init()` without Spark, whose Python writes the configuration and reads the ready line
/// itself. Returns the process and the pid that its ready line names.
pub fn start_local(
    host: &ChildHost,
    role: Role,
    binary: PathBuf,
    config_json: String,
    log_path: PathBuf,
) -> Result<(Child, u32), SupervisorError> {
    let child = host.spawn(ChildSpec {
        role: role.name().to_owned(),
        launch: launch(&binary, role, config_json),
        log_path,
        on_exit: None,
    })?;
    let pid = serde_json::from_str::<ReadyPid>(child.ready_line()).map_or(child.pid(), |ready| ready.pid);
    Ok((child, pid))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::container::NodeDirs;
    use crate::request::ClusterNames;
    use sparkray_common::ClusterId;

    fn engine() -> NativeEngine {
        NativeEngine::new(PathBuf::from("/jar/sparkrayd"))
    }

    fn plan(head: HeadPlace, former_address: Option<&str>) -> NodePlan {
        NodePlan {
            names: ClusterNames::mint(ClusterId::random()),
            node_id: NodeId::random(),
            head,
            host: "host".to_owned(),
            bind_host: None,
            former_address: former_address.map(str::to_owned),
            resources: BTreeMap::new(),
            labels: BTreeMap::new(),
            object_store_bytes: 1,
            dirs: NodeDirs::find(|_| None, Path::new("/cwd"), Path::new("/work")),
            python: None,
            worker_env: BTreeMap::new(),
            prestart_workers: 0,
            is_drivers_own: false,
            encryption: true,
        }
    }

    fn config(plan: &NodePlan) -> RayletConfig {
        let launch = engine().launch_node(plan).unwrap();
        assert_eq!(launch.arguments, ["raylet"]);
        assert!(!launch.configuration.contains('\n'), "one line");
        serde_json::from_str(&launch.configuration).unwrap()
    }

    #[test]
    fn the_port_is_the_address_last_part() {
        assert_eq!(port_of("host:4711"), 4711);
        assert_eq!(port_of("[::1]:80"), 80);
        assert_eq!(port_of("nonsense"), 0);
    }

    #[test]
    fn a_raylet_hears_of_the_head_in_one_way_and_takes_the_former_port() {
        let beside = config(&plan(HeadPlace::Here("head-socket".to_owned()), None));
        assert_eq!(beside.head_socket_name.as_deref(), Some("head-socket"));
        assert_eq!((beside.head_address, beside.port), (None, 0));
        let other = config(&plan(HeadPlace::Beyond("host-a:1".to_owned()), Some("host:4711")));
        assert_eq!(other.head_address.as_deref(), Some("host-a:1"));
        assert_eq!((other.head_socket_name, other.port), (None, 4711));
    }

    #[test]
    fn what_a_raylet_may_leave_is_where_it_was_told_to_spill() {
        let plan = plan(HeadPlace::Beyond("host-a:1".to_owned()), None);
        let left: Vec<String> = engine()
            .leftovers(&plan)
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        assert_eq!(config(&plan).spill_dirs, left);
        assert!(left[0].contains(&plan.node_id.to_string()));
    }

    #[test]
    fn a_status_tells_why_a_raylet_ended() {
        assert_eq!(engine().node_exit(Some(75)), NodeExit::CutOff);
        assert_eq!(engine().node_exit(Some(2)), NodeExit::Broken);
        assert_eq!(engine().node_exit(Some(1)), NodeExit::Died);
        assert_eq!(engine().node_exit(None), NodeExit::Died, "SIGKILL");
    }

    #[test]
    fn a_ready_line_of_another_program_is_refused() {
        assert!(engine().read_head("Ray runtime started.").is_err());
        let bad = r#"{"node_id": "xyz", "address": "a:1", "socket_name": "s", "pid": 1}"#;
        assert!(engine().read_node(bad).is_err());
    }
}
