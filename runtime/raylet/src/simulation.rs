//! For the simulator (`tests/simulation`), which stands for sockets, processes and clock: the parts that decide, behind their
//! router, with a real store in memory. Not part of the crate's interface. It is compiled always, because a cargo feature
//! would have tests and product compile this crate twice.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sparkray_common::{ClusterId, Labels, MomentClock, NodeId, NodeLease, ResourceSet, WorkerId};
use sparkray_object_store::{IoExecutor, IoJob, IoOutcome, StoreConfig};
use sparkray_proto::{ClusterView as ViewMessage, MessageError, NodeMessage, StoreStats};
use tokio::sync::mpsc;

use crate::actors::Actors;
use crate::cluster_view::ClusterView;
pub use crate::error::RayletError;
use crate::gateway::Clients;
pub use crate::head::Conversation;
use crate::head::{Head, Lease, OUTGOING, Outgoing};
use crate::ids::Ids;
pub use crate::input::{ChildEnd, HeadEvent, Input, ZygoteEvent};
use crate::leases::Leases;
use crate::node_info::NodeInfo;
use crate::objects::Objects;
pub use crate::outbox::{Birth, Effect, HeadEffect, ObjectEffect};
use crate::router::{Parts, Router};
use crate::workers::Workers;

/// A node that is to begin.
#[derive(Debug)]
pub struct NodeSetup {
    /// Who it is.
    pub node_id: NodeId,
    /// Its cluster.
    pub cluster_id: ClusterId,
    /// The head that it follows.
    pub head_epoch: u64,
    /// `host:port`.
    pub address: String,
    /// Address of the raylet of the head's node, when that is another one.
    pub head_address: Option<String>,
    /// What it has.
    pub resources: ResourceSet,
    /// Bytes of its store.
    pub store_bytes: u64,
    /// Where its store may spill to.
    pub spill_dirs: Vec<PathBuf>,
    /// When the registration was sent that the head has accepted, by the lease's clock.
    pub attached: Duration,
    /// What the head grants.
    pub silence: Duration,
    /// Ids follow from this number.
    pub ids: u64,
}

/// A raylet without I/O.
pub struct Raylet {
    router: Router,
    total: ResourceSet,
    to_head: mpsc::Receiver<NodeMessage>,
    store_io: IoExecutor,
}

impl Raylet {
    /// A raylet that the head has taken in. `view`: the nodes, as the head told them.
    pub fn new(setup: NodeSetup, view: &ViewMessage, now: Instant) -> Result<Self, MessageError> {
        let host = setup.address.split(':').next().unwrap_or_default().to_owned();
        let cores = setup.resources.get("CPU").ceil() as usize;
        let node = Arc::new(NodeInfo {
            node_id: setup.node_id,
            cluster_id: setup.cluster_id,
            head_epoch: setup.head_epoch,
            address: setup.address,
            host,
            log_dir: String::new(),
            labels: Labels::new(),
        });
        let mut nodes = ClusterView::new(setup.node_id);
        nodes.apply(view)?;
        let (outgoing, to_head) = mpsc::channel(OUTGOING);
        let can_spill = !setup.spill_dirs.is_empty();
        let store = StoreConfig::new(setup.cluster_id, setup.node_id, setup.store_bytes, can_spill);
        let (store_io, _) = IoExecutor::new(setup.spill_dirs).expect("spill directories can be made");
        let lease = Lease::new(
            MomentClock::Monotonic,
            NodeLease::new(setup.attached, setup.silence),
        );
        let parts = Parts {
            clients: Clients::default(),
            leases: Leases::new(Arc::clone(&node), setup.resources.clone(), true),
            workers: Workers::new(Arc::clone(&node), 0, cores, true),
            actors: Actors::new(Arc::clone(&node), Ids::numbered(setup.ids | 1 << 63)),
            objects: Objects::new(Arc::clone(&node), store, now),
            head: Head::new(
                Arc::clone(&node),
                "head".to_owned(),
                setup.head_address,
                Outgoing::new(outgoing),
                lease,
                now,
            ),
        };
        Ok(Self {
            router: Router::new(node, parts, nodes, Ids::numbered(setup.ids)),
            total: setup.resources,
            to_head,
            store_io,
        })
    }

    /// Handles one input; gives what is to be done.
    pub fn handle(&mut self, input: Input, now: Instant) -> Vec<Effect> {
        self.router.handle(input, now);
        self.router.schedule(now);
        let mut effects: Vec<Effect> = std::iter::from_fn(|| self.router.next_effect()).collect();
        while self.router.collect_store_events() {
            effects.extend(std::iter::from_fn(|| self.router.next_effect()));
        }
        self.router.send_store_replies();
        effects.extend(std::iter::from_fn(|| self.router.next_effect()));
        effects
    }

    /// The next message for the head.
    pub fn next_to_head(&mut self) -> Option<NodeMessage> {
        self.to_head.try_recv().ok()
    }

    /// Why it cannot go on.
    pub fn take_failure(&mut self) -> Option<RayletError> {
        self.router.take_failure()
    }

    /// Does the store's work on disk or memory.
    pub fn work(&self, job: IoJob) -> Option<IoOutcome> {
        self.store_io.run_here(job)
    }

    /// The connection of a process of this node.
    pub fn connection_of(&self, worker: WorkerId) -> Option<u64> {
        self.router.connection_of(worker)
    }

    /// What the store holds.
    pub fn store(&self) -> StoreStats {
        self.router.store()
    }

    /// What is held by leases, or waits for one, in words; empty when that is nothing.
    pub fn leases_left(&self) -> String {
        let (available, queued) = self.router.free();
        if *available == self.total && queued == 0 {
            return String::new();
        }
        let (free, all) = (available.to_units(), self.total.to_units());
        format!("{queued} requests wait, {free:?} of {all:?} are free")
    }
}
