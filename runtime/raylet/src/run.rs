//! The raylet's beginning and end.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit, setrlimit};
use sparkray_common::{ClusterId, ClusterToken, NodeId, RayletConfig, RayletReady, ResourceSet, VERSION};
use sparkray_object_store::{IoExecutor, ObjectStore, StoreConfig};
use sparkray_proto::RegisterNode;
use sparkray_rpc::{Endpoint, FrameSender, Identity, Target, dial, frame_connection, tonic_channel};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::clients::Clients;
use crate::cluster_view::ClusterView;
use crate::descendants::kill_all;
use crate::error::RayletError;
use crate::gateway::{self, Routes};
use crate::head_link::{self, Attachment};
use crate::head_service::HeadSide;
use crate::leases::LeaseManager;
use crate::peers::Peers;
use crate::raylet::{Inputs, Look, NodeInfo, Raylet};
use crate::store_service::StoreSide;
use crate::worker_pool::WorkerPool;
use crate::workers::Workers;
use crate::zygote::{self, WorkerConfig, ZygoteSpec};

/// Events that may wait for the loop; whoever brings more waits.
const EVENTS: usize = 4096;
/// Requests that may wait for the zygote.
const FORK_REQUESTS: usize = 1024;
const TICK: Duration = Duration::from_millis(100);
const GATEWAY_DEADLINE: Duration = Duration::from_secs(10);
/// All descendants are dead this long after the order to end.
const KILL_DEADLINE: Duration = Duration::from_millis(1500);

/// Runs the raylet until `cancel`. `ready` is called once, when the head has taken the node in and clients can
/// connect. Must run on the main thread: the parent-death signal of the zygote follows the thread that spawns it.
///
/// At its end every process below this one is dead and nothing of it is on disk but the logs.
pub async fn run(
    config: RayletConfig,
    ready: impl FnOnce(RayletReady),
    cancel: CancellationToken,
) -> Result<(), RayletError> {
    let settings = Settings::read(&config)?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|error| RayletError::os("become the subreaper of the workers", error))?;
    raise_descriptor_limit();
    // Ends every task, also when a part fails.
    let stop = cancel.child_token();
    let routes = Arc::new(Routes::new(settings.node_id, config.head_socket_name.is_some()));
    let outcome = tokio::select! {
        outcome = serve(&config, &settings, &routes, ready, &stop) => outcome,
        () = cancel.cancelled() => Ok(()),
    };
    routes.close();
    stop.cancel();
    info!("raylet stops");
    settings.remove_made_directories();
    if !kill_all(KILL_DEADLINE) {
        warn!("some processes of this node could not be killed in time");
    }
    outcome
}

/// Each worker takes three descriptors here, each connection one.
fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        debug!(%error, "cannot raise the limit of open descriptors");
    }
}

/// The configuration, checked.
struct Settings {
    node_id: NodeId,
    identity: Identity,
    resources: ResourceSet,
    cores: usize,
    head: Endpoint,
    /// Spill directories that did not exist before.
    made_directories: Vec<PathBuf>,
}

impl Settings {
    fn read(config: &RayletConfig) -> Result<Self, RayletError> {
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
    fn remove_made_directories(&self) {
        for directory in &self.made_directories {
            if let Err(error) = std::fs::remove_dir(directory) {
                debug!(directory = %directory.display(), %error, "cannot remove a spill directory");
            }
        }
    }
}

async fn serve(
    config: &RayletConfig,
    settings: &Settings,
    routes: &Arc<Routes>,
    ready: impl FnOnce(RayletReady),
    stop: &CancellationToken,
) -> Result<(), RayletError> {
    std::fs::create_dir_all(&config.log_dir)
        .map_err(|error| RayletError::os(format!("make the log directory {}", config.log_dir), error))?;
    let (events, inbox) = mpsc::channel(EVENTS);
    let children = signal(SignalKind::child())
        .map_err(|error| RayletError::os("watch for the end of children", error))?;
    // First, because importing takes longest.
    let fork_requests = config.python.as_ref().map(|python| {
        let (requests, receiver) = mpsc::channel(FORK_REQUESTS);
        let spec = zygote_spec(config, python);
        tokio::spawn(zygote::run_zygote(spec, receiver, events.clone(), stop.clone()));
        requests
    });

    let socket_name = format!("sparkray-{}-{}", &config.cluster_id[..8], &config.node_id[..12]);
    let identity = &settings.identity;
    let port = gateway::open(
        &config.host,
        config.port,
        &socket_name,
        identity,
        routes,
        &events,
        stop,
    )
    .await?;
    let address = format!("{}:{port}", config.host);
    let host = ip_of(&config.host).await;
    let resources = with_own_resources(&settings.resources, config.object_store_bytes, &host)?;

    let channel = tonic_channel(identity.clone(), settings.head.clone(), Target::Head);
    let register = RegisterNode {
        node_id: settings.node_id.to_vec().into(),
        address: address.clone(),
        total: Some((&resources).into()),
        labels: config.labels.clone().into_iter().collect(),
        hostname: config
            .labels
            .get("hostname")
            .cloned()
            .unwrap_or_else(|| config.host.clone()),
        sparkray_version: VERSION.to_owned(),
        pid: std::process::id(),
        head_epoch: config.head_epoch,
    };
    let attachment = Attachment {
        channel: channel.clone(),
        head: settings.head.to_string(),
        register,
    };
    let attached = head_link::attach_first(&attachment).await?;
    let gateway = open_head_gateway(config, settings, stop).await?;
    let (outgoing, to_head) = mpsc::channel(head_link::OUTGOING);
    tokio::spawn(head_link::run_head_link(
        attachment,
        attached,
        to_head,
        events.clone(),
        stop.clone(),
    ));

    let spill_dirs: Vec<PathBuf> = config.spill_dirs.iter().map(PathBuf::from).collect();
    let can_spill = !spill_dirs.is_empty();
    let (executor, store_io) = IoExecutor::new(spill_dirs)
        .map_err(|error| RayletError::os("prepare the spill directories", error))?;
    let store_config = StoreConfig::new(
        identity.cluster_id,
        settings.node_id,
        config.object_store_bytes,
        can_spill,
    );
    let node = NodeInfo {
        node_id: settings.node_id,
        cluster_id: identity.cluster_id,
        head_epoch: config.head_epoch,
        address: address.clone(),
        host,
        log_dir: config.log_dir.clone(),
    };
    let worker_config = worker_config(config, &node, &socket_name);
    let pool = WorkerPool::new(config.prestart_workers as usize, settings.cores);
    let mut raylet = Raylet {
        events,
        cancel: stop.clone(),
        routes: Arc::clone(routes),
        clients: Clients::default(),
        leases: LeaseManager::new(resources, config.python.is_some()),
        lease_replies: HashMap::new(),
        view: ClusterView::new(settings.node_id),
        workers: Workers::new(pool, fork_requests, worker_config),
        actors: crate::actors::Actors::default(),
        head: HeadSide::new(channel, outgoing, gateway),
        store: ObjectStore::new(store_config, Instant::now()),
        executor,
        store_side: StoreSide::default(),
        peers: Peers::new(settings.node_id, identity.clone()),
        identity: identity.clone(),
        look: Look::Again,
        failure: None,
        node,
    };
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);

    info!(node_id = %settings.node_id, address, socket_name, "raylet is ready");
    ready(RayletReady {
        node_id: config.node_id.clone(),
        address,
        socket_name,
        pid: std::process::id(),
    });
    raylet
        .run(Inputs {
            events: inbox,
            store_io,
            children,
            ticks,
        })
        .await
}

fn zygote_spec(config: &RayletConfig, python: &str) -> ZygoteSpec {
    let mut environment: Vec<(String, String)> = [
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "NUMEXPR_NUM_THREADS",
    ]
    .into_iter()
    .map(|name| (name.to_owned(), "1".to_owned()))
    .collect();
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
        python,
        working_dir,
        log_dir: PathBuf::from(&config.log_dir),
        environment,
    }
}

/// With what each node has in Ray: `object_store_memory`, and `node:<ip>` for tasks that are to run on this machine.
fn with_own_resources(
    given: &ResourceSet,
    object_store_bytes: u64,
    host: &str,
) -> Result<ResourceSet, RayletError> {
    let mut units = given.to_units();
    units.entry(format!("node:{host}")).or_insert(1.0);
    units
        .entry("object_store_memory".to_owned())
        .or_insert(object_store_bytes as f64);
    Ok(ResourceSet::from_units(units)?)
}

/// Ray's programs expect the address of a node as an IP. The name itself when it has none.
async fn ip_of(host: &str) -> String {
    let Ok(found) = tokio::net::lookup_host((host, 0)).await else {
        return host.to_owned();
    };
    let mut addresses: Vec<_> = found.map(|address| address.ip()).collect();
    addresses.sort_by_key(std::net::IpAddr::is_ipv6);
    addresses
        .first()
        .map_or_else(|| host.to_owned(), ToString::to_string)
}

fn worker_config(config: &RayletConfig, node: &NodeInfo, socket_name: &str) -> WorkerConfig {
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

/// When the head runs on this node: the connection over which it gets the sockets of others.
async fn open_head_gateway(
    config: &RayletConfig,
    settings: &Settings,
    stop: &CancellationToken,
) -> Result<Option<FrameSender>, RayletError> {
    if config.head_socket_name.is_none() {
        return Ok(None);
    }
    let socket = dial(
        &settings.identity,
        &settings.head,
        Target::HeadGateway,
        GATEWAY_DEADLINE,
    )
    .await?;
    let (sender, mut receiver) =
        frame_connection(socket).map_err(|error| RayletError::os("use the connection to the head", error))?;
    let stop = stop.clone();
    tokio::spawn(async move {
        // The head says nothing here; reading only shows its end, which the stream to it shows too.
        tokio::select! {
            () = stop.cancelled() => {}
            _ = receiver.next() => debug!("the head closed its gateway"),
        }
    });
    Ok(Some(sender))
}
