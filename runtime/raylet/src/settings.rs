//! The configuration, checked, and what follows from it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sparkray_common::{
    ClusterId, ClusterToken, DRIVER_NODE_SILENCE, Labels, MomentClock, NODE_ID_LABEL, NODE_SILENCE, NodeId,
    RayletConfig, ResourceSet, VERSION,
};
use sparkray_proto::RegisterNode;
use sparkray_rpc::{Endpoint, Identity};
use tracing::debug;

use crate::error::RayletError;
use crate::head::clock_beside;
use crate::node_info::NodeInfo;
use crate::workers::{OWN_ZYGOTE, UNSET_THREAD_VARIABLES, WorkerConfig, ZygoteSpec};

/// The configuration, checked.
pub(crate) struct Settings {
    pub(crate) node_id: NodeId,
    pub(crate) identity: Identity,
    pub(crate) resources: ResourceSet,
    pub(crate) cores: usize,
    pub(crate) head: Endpoint,
    /// Silence after which the head may give this node up.
    pub(crate) silence: Duration,
    /// By which this node measures its own.
    pub(crate) clock: MomentClock,
    /// Spill directories that did not exist before.
    made_directories: Vec<PathBuf>,
}

impl Settings {
    pub(crate) fn read(config: &RayletConfig) -> Result<Self, RayletError> {
        let cluster_id = ClusterId::from_hex(&config.cluster_id)?;
        let token = ClusterToken::from_hex(&config.token)
            .ok_or_else(|| RayletError::Config("token must be 64 hexadecimal digits".to_owned()))?;
        let resources = ResourceSet::from_units(config.resources.clone())?;
        let head = match (&config.head_socket_name, &config.head_address) {
            (Some(name), _) => Endpoint::Abstract(name.clone()),
            (None, Some(address)) => Endpoint::Tcp(address.clone()),
            (None, None) => {
                return Err(RayletError::Config(
                    "one of head_socket_name and head_address must be given".to_owned(),
                ));
            }
        };
        if !Path::new(&config.working_dir).is_dir() {
            let problem = format!("working_dir {} is not a directory", config.working_dir);
            return Err(RayletError::Config(problem));
        }
        Ok(Self {
            node_id: NodeId::from_hex(&config.node_id)?,
            identity: Identity {
                cluster_id,
                token,
                head_epoch: config.head_epoch,
            },
            cores: resources.get("CPU").ceil() as usize,
            resources,
            silence: if config.is_drivers_own {
                DRIVER_NODE_SILENCE
            } else {
                NODE_SILENCE
            },
            clock: clock_beside(is_on_this_machine(&head, &config.host)),
            head,
            made_directories: config
                .spill_dirs
                .iter()
                .map(PathBuf::from)
                .filter(|path| !path.exists())
                .collect(),
        })
    }

    /// Spilled objects have no names; what is left are the directories.
    pub(crate) fn remove_made_directories(&self) {
        for directory in &self.made_directories {
            if let Err(error) = std::fs::remove_dir(directory) {
                debug!(directory = %directory.display(), %error, "cannot remove a spill directory");
            }
        }
    }
}

/// Whether the head is certainly on this machine. An address of its own is one machine's.
fn is_on_this_machine(head: &Endpoint, own_host: &str) -> bool {
    match head {
        Endpoint::Abstract(_) => true,
        Endpoint::Tcp(address) => address.rsplit_once(':').is_some_and(|(host, _)| host == own_host),
    }
}

/// What the head is told of this node.
pub(crate) fn registration(
    config: &RayletConfig,
    settings: &Settings,
    node: &NodeInfo,
    resources: &ResourceSet,
) -> RegisterNode {
    RegisterNode {
        node_id: node.node_id.to_vec().into(),
        address: node.address.clone(),
        total: Some(resources.into()),
        labels: node.labels.clone(),
        hostname: config
            .labels
            .get("hostname")
            .cloned()
            .unwrap_or_else(|| machine_name(&config.host)),
        sparkray_version: VERSION.to_owned(),
        pid: std::process::id(),
        head_epoch: config.head_epoch,
        silence_seconds: settings.silence.as_secs() as u32,
    }
}

/// By which libraries know how many threads they may use.
const THREAD_VARIABLES: [&str; 4] = [
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
];

pub(crate) fn zygote_spec(config: &RayletConfig, python: &str) -> ZygoteSpec {
    // Workers share the node: each begins with one thread, and changes what nobody has set when it gets more CPUs.
    let unset: Vec<&str> = THREAD_VARIABLES
        .into_iter()
        .filter(|name| std::env::var_os(name).is_none() && !config.worker_env.contains_key(*name))
        .collect();
    let mut environment: Vec<(String, String)> = unset
        .iter()
        .map(|name| ((*name).to_owned(), "1".to_owned()))
        .collect();
    environment.push((UNSET_THREAD_VARIABLES.to_owned(), unset.join(",")));
    environment.push(("SPARKRAY_CLUSTER_ID".to_owned(), config.cluster_id.clone()));
    environment.push(("SPARKRAY_NODE_ID".to_owned(), config.node_id.clone()));
    environment.extend(config.worker_env.clone());
    let working_dir =
        std::path::absolute(&config.working_dir).unwrap_or_else(|_| config.working_dir.clone().into());
    // A bare name is looked up in PATH; a path is relative to where the workers start.
    let python = if python.contains('/') {
        working_dir.join(python).display().to_string()
    } else {
        python.to_owned()
    };
    ZygoteSpec {
        number: OWN_ZYGOTE,
        python,
        working_dir,
        log: PathBuf::from(&config.log_dir).join("zygote.log"),
        environment,
    }
}

/// With what each node has in Ray: `object_store_memory`, `node:<ip>` for tasks that are to run on this machine, and
/// `node:__internal_head__` for those that are to run beside the head.
pub(crate) fn with_own_resources(
    given: &ResourceSet,
    config: &RayletConfig,
    host: &str,
) -> Result<ResourceSet, RayletError> {
    let mut units = given.to_units();
    units.entry(format!("node:{host}")).or_insert(1.0);
    units
        .entry("object_store_memory".to_owned())
        .or_insert(config.object_store_bytes as f64);
    if config.head_socket_name.is_some() {
        units.entry("node:__internal_head__".to_owned()).or_insert(1.0);
    }
    Ok(ResourceSet::from_units(units)?)
}

/// With the label by which each node has its id in Ray.
pub(crate) fn labels_of(config: &RayletConfig) -> Labels {
    let mut labels: Labels = config.labels.clone().into_iter().collect();
    labels
        .entry(NODE_ID_LABEL.to_owned())
        .or_insert_with(|| config.node_id.clone());
    labels
}

/// The name of this machine, for a node that is known by an address of this machine only; else that by which it is known.
fn machine_name(host: &str) -> String {
    let is_local = host == "localhost" || host.starts_with("127.") || host == "::1";
    if is_local {
        rustix::system::uname().nodename().to_string_lossy().into_owned()
    } else {
        host.to_owned()
    }
}

/// Ray's programs expect the address of a node as an IP. The name itself when it has none.
pub(crate) async fn ip_of(host: &str) -> String {
    let Ok(found) = tokio::net::lookup_host((host, 0)).await else {
        return host.to_owned();
    };
    let mut addresses: Vec<_> = found.map(|address| address.ip()).collect();
    addresses.sort_by_key(std::net::IpAddr::is_ipv6);
    addresses
        .first()
        .map_or_else(|| host.to_owned(), ToString::to_string)
}

pub(crate) fn worker_config(config: &RayletConfig, node: &NodeInfo, socket_name: &str) -> WorkerConfig {
    WorkerConfig {
        worker_id: String::new(),
        node_id: config.node_id.clone(),
        cluster_id: config.cluster_id.clone(),
        token: config.token.clone(),
        head_epoch: config.head_epoch,
        raylet_pid: std::process::id(),
        node_ip: node.host.clone(),
        node_address: node.address.clone(),
        socket_name: socket_name.to_owned(),
        log_dir: config.log_dir.clone(),
    }
}
