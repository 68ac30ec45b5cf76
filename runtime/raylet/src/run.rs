//! The raylet's beginning and end.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit, setrlimit};
use sparkray_common::{NodeLease, ParentNotice, RayletConfig, RayletReady};
use sparkray_object_store::{IoExecutor, StoreConfig};
use sparkray_rpc::{Protection, RpcError};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::actors::Actors;
use crate::cluster_view::ClusterView;
use crate::error::RayletError;
use crate::gateway::{Clients, Connections, Doors, Peers, Routes};
use crate::head::{self, Attachment, Head, HeadSide, Lease, Outgoing};
use crate::ids::Ids;
use crate::io::Io;
use crate::leases::Leases;
use crate::node_info::NodeInfo;
use crate::objects::{Objects, Transfers};
use crate::raylet::{Raylet, Sources};
use crate::router::{Parts, Router};
use crate::settings::{
    Settings, ip_of, labels_of, registration, with_own_resources, worker_config, zygote_spec,
};
use crate::tasks::Tasks;
use crate::workers::{Births, Workers, Zygotes, kill_all};

/// Inputs that may wait for the loop; whoever brings more waits.
const INPUTS: usize = 4096;
const TICK: Duration = Duration::from_millis(100);
/// Turns of the connections' tasks, after the last word to clients.
const FAREWELL_TURNS: usize = 16;
/// All descendants are dead this long after the order to end.
const KILL_DEADLINE: Duration = Duration::from_millis(1500);

/// Runs the raylet until `cancel`. `ready` is called once, when the head has taken the node in and clients can
/// connect. Must run on the main thread: the parent-death signal of the zygote follows the thread that spawns it.
///
/// At its end every process below this one is dead, no task of it runs, and nothing of it is on disk but the logs.
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
    let tasks = Tasks::new(CancellationToken::new());
    let routes = Arc::new(Routes::new(settings.node_id, config.head_socket_name.is_some()));
    let outcome = tokio::select! {
        outcome = serve(&config, &settings, &routes, ready, notices, &tasks) => outcome,
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
    tasks.end().await;
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

async fn serve(
    config: &RayletConfig,
    settings: &Settings,
    routes: &Arc<Routes>,
    ready: impl FnOnce(RayletReady),
    notices: mpsc::Receiver<ParentNotice>,
    tasks: &Tasks,
) -> Result<(), RayletError> {
    std::fs::create_dir_all(&config.log_dir)
        .map_err(|error| RayletError::os(format!("make the log directory {}", config.log_dir), error))?;
    let (inputs, inbox) = mpsc::channel(INPUTS);
    let children = signal(SignalKind::child())
        .map_err(|error| RayletError::os("watch for the end of children", error))?;
    // First, because importing takes longest.
    let python = config.python.as_ref();
    let zygotes =
        python.map(|python| Zygotes::start(zygote_spec(config, python), inputs.clone(), tasks.clone()));

    let socket_name = format!("sparkray-{}-{}", &config.cluster_id[..8], &config.node_id[..12]);
    let identity = &settings.identity;
    let doors = Doors {
        host: config.bind_host.as_ref().unwrap_or(&config.host),
        port: config.port,
        protection: if config.encryption {
            Protection::Sealed
        } else {
            Protection::Checked
        },
        socket_name: &socket_name,
    };
    let port = doors.open(identity, routes, &inputs, tasks).await?;
    let address = format!("{}:{port}", config.host);
    let host = ip_of(&config.host).await;
    let resources = with_own_resources(&settings.resources, config, &host)?;
    let node = Arc::new(NodeInfo {
        node_id: settings.node_id,
        cluster_id: identity.cluster_id,
        head_epoch: config.head_epoch,
        address: address.clone(),
        host,
        log_dir: config.log_dir.clone(),
        labels: labels_of(config),
    });

    let attachment = Attachment {
        identity: identity.clone(),
        head: settings.head.clone(),
        register: registration(config, settings, &node, &resources),
        clock: settings.clock,
    };
    let attached = head::attach_first(&attachment).await?;
    let mut view = ClusterView::new(settings.node_id);
    view.apply(&attached.view)
        .map_err(|error| RpcError::BadFrame(format!("the head's list of nodes: {error}")))?;
    let granted = NodeLease::new(attached.sent, settings.silence);
    let gateway = if config.head_socket_name.is_some() {
        Some(head::open_gateway(identity, &settings.head, inputs.clone(), tasks).await?)
    } else {
        None
    };
    let lease = Lease::new(settings.clock, granted);
    let peers = Peers::new(settings.node_id, identity.clone());
    let (channels, channel) = watch::channel(attached.channel.clone());
    let head_side = HeadSide::new(
        channel,
        gateway,
        lease.workers_end_at(),
        peers.clone(),
        inputs.clone(),
        tasks.clone(),
    )
    .map_err(|error| RayletError::os("share the node's lease with its workers", error))?;
    let (outgoing, to_head) = mpsc::channel(head::OUTGOING);
    tasks.spawn(head::run_head_link(
        attachment,
        attached,
        channels,
        to_head,
        inputs.clone(),
    ));

    let spill_dirs: Vec<PathBuf> = config.spill_dirs.iter().map(PathBuf::from).collect();
    let store_config = StoreConfig::new(
        identity.cluster_id,
        settings.node_id,
        config.object_store_bytes,
        !spill_dirs.is_empty(),
    );
    let (executor, store_io) = IoExecutor::new(spill_dirs)
        .map_err(|error| RayletError::os("prepare the spill directories", error))?;
    let now = Instant::now();
    let parts = Parts {
        clients: Clients::default(),
        leases: Leases::new(Arc::clone(&node), resources, zygotes.is_some()),
        workers: Workers::new(
            Arc::clone(&node),
            config.prestart_workers as usize,
            settings.cores,
            zygotes.is_some(),
        ),
        actors: Actors::new(Arc::clone(&node), Ids::random()),
        objects: Objects::new(Arc::clone(&node), store_config, now),
        head: Head::new(
            Arc::clone(&node),
            settings.head.to_string(),
            config.head_address.clone(),
            Outgoing::new(outgoing),
            lease,
            now,
        ),
    };
    let io = Io {
        connections: Connections::new(inputs.clone(), tasks.clone()),
        routes: Arc::clone(routes),
        peers: peers.clone(),
        births: Births::new(
            zygotes,
            worker_config(config, &node, &socket_name),
            inputs.clone(),
            tasks.clone(),
        ),
        transfers: Transfers::new(
            Arc::clone(&node),
            identity.clone(),
            peers,
            executor,
            inputs,
            tasks.clone(),
        ),
        head: head_side,
        node: Arc::clone(&node),
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
    let sources = Sources {
        inputs: inbox,
        store_io,
        children,
        ticks,
        notices,
    };
    Raylet::new(Router::new(node, parts, view, Ids::random()), io)
        .run(sources)
        .await
}
