//! The raylet's beginning and end.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit, setrlimit};
use sparkray_common::{
    ClusterId, ClusterToken, DRIVER_NODE_SILENCE, MomentClock, NODE_SILENCE, NodeId, NodeLease, ParentNotice,
    RayletConfig, RayletReady, ResourceSet, VERSION,
};
use sparkray_object_store::{IoExecutor, ObjectStore, StoreConfig};
use sparkray_proto::{FrameKind, RegisterNode};
use sparkray_rpc::{
    Endpoint, FrameSender, Identity, MomentReader, Protection, RpcError, Target, dial, frame_connection,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::error::RayletError;
use crate::gateway::clients::Clients;
use crate::gateway::doors::{self, Routes};
use crate::gateway::peers::{Peers, next_frame};
use crate::head::lease::{self, Lease};
use crate::head::link::{self, Attachment};
use crate::head::service::HeadSide;
use crate::input::{Event, HeadEvent};
use crate::leases::cluster_view::ClusterView;
use crate::leases::manager::LeaseManager;
use crate::leases::owners::Owners;
use crate::objects::service::StoreSide;
use crate::raylet::{Inputs, Look, NodeInfo, Raylet};
use crate::workers::descendants::kill_all;
use crate::workers::pool::WorkerPool;
use crate::workers::table::Workers;
use crate::workers::zygote::{self, WorkerConfig, ZygoteSpec};

/// Events that may wait for the loop; whoever brings more waits.
const EVENTS: usize = 4096;
/// Requests that may wait for the zygote.
const FORK_REQUESTS: usize = 1024;
const TICK: Duration = Duration::from_millis(100);
const GATEWAY_DEADLINE: Duration = Duration::from_secs(10);
/// Turns of the connections' tasks, after the last word to clients.
const FAREWELL_TURNS: usize = 16;
/// All descendants are dead this long after the order to end.
const KILL_DEADLINE: Duration = Duration::from_millis(1500);

/// Runs the raylet until `cancel`. `ready` is called once, when the head has taken the node in and clients can
/// connect. Must run on the main thread: the parent-death signal of the zygote follows the thread that spawns it.
///
/// At its end every process below this one is dead and nothing of it is on disk but the logs.
pub async fn run(
    config: RayletConfig,
    ready: impl FnOnce(RayletReady),
    notices: mpsc::Receiver<ParentNotice>,
    cancel: CancellationToken,
) -> Result<(), RayletError> {
    let settings = Settings::read(&config)?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|error| RayletError::os("become the subreaper of the workers", error))?;
    raise_descriptor_limit();
    // Ends every task, when the workers have ended.
    let stop = CancellationToken::new();
    let routes = Arc::new(Routes::new(settings.node_id, config.head_socket_name.is_some()));
    let outcome = tokio::select! {
        outcome = serve(&config, &settings, &routes, ready, notices, &stop) => outcome,
        () = cancel.cancelled() => Ok(()),
    };
    routes.close();
    info!("raylet stops");
    if outcome.is_err() {
        // What was said last leaves before the thread is busy.
        for _ in 0..FAREWELL_TURNS {
            tokio::task::yield_now().await;
        }
    }
    // Before the connections to the head end: their end is the word that nothing runs here any more.
    if !kill_all(KILL_DEADLINE) {
        warn!("some processes of this node could not be killed in time");
    }
    stop.cancel();
    settings.remove_made_directories();
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
    /// Silence after which the head may give this node up.
    silence: Duration,
    /// By which this node measures its own.
    clock: MomentClock,
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
            silence: if config.is_drivers_own {
                DRIVER_NODE_SILENCE
            } else {
                NODE_SILENCE
            },
            clock: lease::clock_beside(is_on_this_machine(&head, &config.host)),
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

/// Whether the head is certainly on this machine. An address of its own is one machine's.
fn is_on_this_machine(head: &Endpoint, own_host: &str) -> bool {
    match head {
        Endpoint::Abstract(_) => true,
        Endpoint::Tcp(address) => address.rsplit_once(':').is_some_and(|(host, _)| host == own_host),
    }
}

async fn serve(
    config: &RayletConfig,
    settings: &Settings,
    routes: &Arc<Routes>,
    ready: impl FnOnce(RayletReady),
    notices: mpsc::Receiver<ParentNotice>,
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
    let port = doors::open(
        config.bind_host.as_ref().unwrap_or(&config.host),
        config.port,
        if config.encryption {
            Protection::Sealed
        } else {
            Protection::Checked
        },
        &socket_name,
        identity,
        routes,
        &events,
        stop,
    )
    .await?;
    let address = format!("{}:{port}", config.host);
    let host = ip_of(&config.host).await;
    let resources = with_own_resources(&settings.resources, config, &host)?;

    let register = RegisterNode {
        node_id: settings.node_id.to_vec().into(),
        address: address.clone(),
        total: Some((&resources).into()),
        labels: with_own_label(config),
        hostname: config
            .labels
            .get("hostname")
            .cloned()
            .unwrap_or_else(|| machine_name(&config.host)),
        sparkray_version: VERSION.to_owned(),
        pid: std::process::id(),
        head_epoch: config.head_epoch,
        silence_seconds: settings.silence.as_secs() as u32,
    };
    let attachment = Attachment {
        identity: identity.clone(),
        head: settings.head.clone(),
        register,
        clock: settings.clock,
    };
    let attached = link::attach_first(&attachment).await?;
    let granted = NodeLease::new(attached.sent, settings.silence);
    let (gateway, head_clock) = open_head_gateway(config, settings, &events, stop).await?.unzip();
    let lease = Lease::new(settings.clock, granted, head_clock, config.head_address.clone())
        .map_err(|error| RayletError::os("share the node's lease with its workers", error))?;
    let (outgoing, to_head) = mpsc::channel(link::OUTGOING);
    let (channels, channel) = watch::channel(attached.channel.clone());
    tokio::spawn(link::run_head_link(
        attachment,
        attached,
        channels,
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
        owners: Owners::default(),
        view: ClusterView::new(settings.node_id),
        workers: Workers::new(pool, fork_requests, worker_config),
        actors: crate::actors::Actors::default(),
        head: HeadSide::new(settings.head.to_string(), channel, outgoing, gateway, lease),
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
            notices,
        })
        .await
}

/// By which libraries know how many threads they may use.
const THREAD_VARIABLES: [&str; 4] = [
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
];

fn zygote_spec(config: &RayletConfig, python: &str) -> ZygoteSpec {
    // Workers share the node: each begins with one thread, and changes what nobody has set when it gets more CPUs.
    let unset: Vec<&str> = THREAD_VARIABLES
        .into_iter()
        .filter(|name| std::env::var_os(name).is_none() && !config.worker_env.contains_key(*name))
        .collect();
    let mut environment: Vec<(String, String)> = unset
        .iter()
        .map(|name| ((*name).to_owned(), "1".to_owned()))
        .collect();
    environment.push(("SPARKRAY_THREAD_VARIABLES".to_owned(), unset.join(",")));
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

/// With what each node has in Ray: `object_store_memory`, `node:<ip>` for tasks that are to run on this machine, and
/// `node:__internal_head__` for those that are to run beside the head.
fn with_own_resources(
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
fn with_own_label(config: &RayletConfig) -> HashMap<String, String> {
    let mut labels: HashMap<String, String> = config.labels.clone().into_iter().collect();
    labels
        .entry("ray.io/node-id".to_owned())
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

/// When the head runs on this node: the connection over which it gets the sockets of others, and the head's clock. The
/// end of that connection is the end of the head.
async fn open_head_gateway(
    config: &RayletConfig,
    settings: &Settings,
    events: &mpsc::Sender<Event>,
    stop: &CancellationToken,
) -> Result<Option<(FrameSender, MomentReader)>, RayletError> {
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
    let first = next_frame(&mut receiver, GATEWAY_DEADLINE, &settings.head.to_string()).await?;
    let clock = Some(first)
        .filter(|frame| frame.kind == FrameKind::HeadClock)
        .and_then(|frame| frame.descriptor)
        .ok_or_else(|| RpcError::BadFrame("the head did not share its clock".to_owned()))?;
    let (events, stop) = (events.clone(), stop.clone());
    let head = settings.head.to_string();
    tokio::spawn(async move {
        // The head says nothing more here.
        tokio::select! {
            () = stop.cancelled() => {}
            _ = receiver.next() => {
                let cause = format!("the head at {head} has ended");
                // The receiver is gone only when the raylet ends.
                let _ = events.send(Event::Head(HeadEvent::Lost { cause })).await;
            }
        }
    });
    Ok(Some((sender, MomentReader::new(clock))))
}
