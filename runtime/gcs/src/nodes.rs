//! The table of nodes: membership, what each reported, what was promised to actors on each.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use sparkray_common::{ActorId, ErrorCode, LONGEST_SILENCE, NODE_SILENCE, NodeId, ResourceSet, VERSION};
use sparkray_proto::{Failure, MessageError, NodeView, RegisterNode, ResourceReport, Resources, StoreStats};

use crate::placement::Candidate;

/// A report that arrives this long after a placement shows what the placement took.
const RESERVATION_AGE: Duration = Duration::from_millis(300);
/// Dead nodes that are still listed; older ones are forgotten.
const KEPT_DEAD_NODES: usize = 256;

/// One node, alive or dead.
#[derive(Debug)]
struct Node {
    id: NodeId,
    address: String,
    hostname: String,
    pid: u32,
    labels: HashMap<String, String>,
    total: ResourceSet,
    /// As last reported.
    available: ResourceSet,
    queued_leases: u32,
    store: Option<StoreStats>,
    alive: bool,
    last_heard: Instant,
    /// It is dead when it says nothing for this long.
    silence: Duration,
    /// Reports so far: a refusal is forgotten when the next one comes.
    reports: u64,
    /// Differs from what the other nodes were told.
    changed: bool,
    reservations: BTreeMap<ActorId, Reservation>,
    /// Actors that are here or on their way.
    hosted: BTreeSet<ActorId>,
}

/// What a registration was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Registration {
    /// The node is new.
    New(NodeId),
    /// The node is alive, and attaches over another stream.
    Again(NodeId),
}

/// Resources promised to an actor that a report may not show yet.
#[derive(Debug)]
struct Reservation {
    resources: ResourceSet,
    made_at: Instant,
    /// The node has answered: its next report shows the truth.
    answered: bool,
}

/// All nodes.
#[derive(Debug, Default)]
pub(crate) struct NodeTable {
    nodes: BTreeMap<NodeId, Node>,
    /// Dead ones, oldest first.
    dead: VecDeque<NodeId>,
}

impl NodeTable {
    /// Admits a node, or says why not. One that is alive attaches again when its stream broke: nothing about it changes.
    /// One that was declared dead begins anew with another id.
    pub(crate) fn register(
        &mut self,
        now: Instant,
        head_epoch: u64,
        request: RegisterNode,
    ) -> Result<Registration, Failure> {
        let malformed = |error: MessageError| Failure::new(ErrorCode::InvalidArgument, error.to_string());
        let id = NodeId::from_slice(&request.node_id).map_err(|error| malformed(error.into()))?;
        if request.sparkray_version != VERSION {
            return Err(Failure::new(
                ErrorCode::VersionMismatch,
                format!(
                    "node {id} on {} runs sparkray {}, the cluster's head runs {VERSION}: install the same version on \
                     all nodes",
                    request.hostname, request.sparkray_version
                ),
            ));
        }
        if request.head_epoch != head_epoch {
            return Err(Failure::new(
                ErrorCode::Stale,
                format!(
                    "node {id} wants to join head epoch {}, this head has epoch {head_epoch}: start the raylet anew with \
                     the present epoch",
                    request.head_epoch
                ),
            ));
        }
        if let Some(known) = self.nodes.get_mut(&id) {
            if !known.alive {
                return Err(Failure::new(
                    ErrorCode::Stale,
                    format!(
                        "node {id} was declared dead and its id is used up: start the raylet anew with another node id"
                    ),
                ));
            }
            known.last_heard = now;
            return Ok(Registration::Again(id));
        }
        let total = read_amounts(request.total.as_ref()).map_err(malformed)?;
        let node = Node {
            id,
            address: request.address,
            hostname: request.hostname,
            pid: request.pid,
            labels: request.labels,
            available: total.clone(),
            total,
            queued_leases: 0,
            store: None,
            alive: true,
            last_heard: now,
            silence: silence_of(request.silence_seconds),
            reports: 0,
            changed: true,
            reservations: BTreeMap::new(),
            hosted: BTreeSet::new(),
        };
        self.nodes.insert(id, node);
        Ok(Registration::New(id))
    }

    /// Whether the node is attached.
    pub(crate) fn is_alive(&self, id: NodeId) -> bool {
        self.nodes.get(&id).is_some_and(|node| node.alive)
    }

    /// Notes that the node said something; `false` when it is not attached and is to be ignored.
    pub(crate) fn heard(&mut self, now: Instant, id: NodeId) -> bool {
        let Some(node) = self.living(id) else { return false };
        node.last_heard = now;
        true
    }

    /// Takes over what the node reports.
    pub(crate) fn report(
        &mut self,
        now: Instant,
        id: NodeId,
        report: ResourceReport,
    ) -> Result<(), MessageError> {
        let available = read_amounts(report.available.as_ref())?;
        let Some(node) = self.living(id) else {
            return Ok(());
        };
        node.reports += 1;
        node.reservations.retain(|_, reservation| {
            !reservation.answered && now.saturating_duration_since(reservation.made_at) < RESERVATION_AGE
        });
        let differs = node.available != available
            || node.queued_leases != report.queued_leases
            || (report.store.is_some() && node.store != report.store);
        if differs {
            node.available = available;
            node.queued_leases = report.queued_leases;
            node.store = report.store.or_else(|| node.store.take());
            node.changed = true;
        }
        Ok(())
    }

    /// Reports so far from this node.
    pub(crate) fn report_count(&self, id: NodeId) -> u64 {
        self.nodes.get(&id).map_or(0, |node| node.reports)
    }

    /// Declares a node dead; the actors that it hosted, or `None` when it was not alive.
    pub(crate) fn mark_dead(&mut self, id: NodeId) -> Option<BTreeSet<ActorId>> {
        let node = self.living(id)?;
        node.alive = false;
        node.changed = true;
        node.available = ResourceSet::default();
        node.queued_leases = 0;
        node.reservations.clear();
        let hosted = std::mem::take(&mut node.hosted);
        self.dead.push_back(id);
        if self.dead.len() > KEPT_DEAD_NODES {
            if let Some(forgotten) = self.dead.pop_front() {
                self.nodes.remove(&forgotten);
            }
        }
        Some(hosted)
    }

    /// The attached nodes.
    pub(crate) fn alive_ids(&self) -> Vec<NodeId> {
        self.nodes
            .values()
            .filter(|node| node.alive)
            .map(|node| node.id)
            .collect()
    }

    /// Attached nodes that have been silent for too long, and how long that is.
    pub(crate) fn silent(&self, now: Instant) -> Vec<(NodeId, Duration)> {
        let is_silent =
            |node: &&Node| node.alive && now.saturating_duration_since(node.last_heard) >= node.silence;
        self.nodes
            .values()
            .filter(is_silent)
            .map(|node| (node.id, node.silence))
            .collect()
    }

    /// The head itself did not run for this long: what nodes said meanwhile is still in the sockets.
    pub(crate) fn excuse(&mut self, now: Instant, stall: Duration) {
        for node in self.nodes.values_mut() {
            node.last_heard = now.min(node.last_heard + stall);
        }
    }

    /// Notes that an actor is being placed on a node, and takes its resources from the view.
    pub(crate) fn reserve(&mut self, now: Instant, id: NodeId, actor: ActorId, resources: &ResourceSet) {
        let Some(node) = self.living(id) else { return };
        node.hosted.insert(actor);
        let reservation = Reservation {
            resources: resources.clone(),
            made_at: now,
            answered: false,
        };
        node.reservations.insert(actor, reservation);
    }

    /// The node has said what became of the placement: its next report counts.
    pub(crate) fn answered(&mut self, id: NodeId, actor: ActorId) {
        if let Some(reservation) = self.living(id).and_then(|node| node.reservations.get_mut(&actor)) {
            reservation.answered = true;
        }
    }

    /// The actor is not on this node any more.
    pub(crate) fn release(&mut self, id: NodeId, actor: ActorId) {
        if let Some(node) = self.living(id) {
            node.hosted.remove(&actor);
            node.reservations.remove(&actor);
        }
    }

    /// The attached nodes as placement sees them.
    pub(crate) fn candidates(&self) -> Vec<Candidate> {
        self.nodes
            .values()
            .filter(|node| node.alive)
            .map(Node::candidate)
            .collect()
    }

    /// Nodes that changed since the last call.
    pub(crate) fn take_changed(&mut self) -> Vec<NodeView> {
        let mut views = Vec::new();
        for node in self.nodes.values_mut().filter(|node| node.changed) {
            node.changed = false;
            views.push(node.view());
        }
        views
    }

    /// All nodes, dead ones too.
    pub(crate) fn views(&self) -> Vec<NodeView> {
        self.nodes.values().map(Node::view).collect()
    }

    /// The actors that a node hosts, for the tests of invariants.
    #[cfg(test)]
    pub(crate) fn hosted(&self, id: NodeId) -> BTreeSet<ActorId> {
        self.nodes
            .get(&id)
            .map(|node| node.hosted.clone())
            .unwrap_or_default()
    }

    fn living(&mut self, id: NodeId) -> Option<&mut Node> {
        self.nodes.get_mut(&id).filter(|node| node.alive)
    }
}

impl Node {
    fn candidate(&self) -> Candidate {
        let mut available = self.available.clone();
        for reservation in self.reservations.values() {
            available.subtract(&reservation.resources);
        }
        Candidate {
            node: self.id,
            total: self.total.clone(),
            available,
            queued_leases: self.queued_leases,
            actors: self.hosted.len(),
        }
    }

    fn view(&self) -> NodeView {
        NodeView {
            node_id: self.id.to_vec().into(),
            address: self.address.clone(),
            alive: self.alive,
            total: Some((&self.total).into()),
            available: Some((&self.available).into()),
            queued_leases: self.queued_leases,
            labels: self.labels.clone(),
            hostname: self.hostname.clone(),
            store: self.store,
            pid: self.pid,
            report_count: self.reports,
        }
    }
}

/// The silence that a node asks for, in seconds; 0: it asks for none.
fn silence_of(asked: u32) -> Duration {
    match asked {
        0 => NODE_SILENCE,
        seconds => Duration::from_secs(u64::from(seconds)).clamp(NODE_SILENCE, LONGEST_SILENCE),
    }
}

/// Amounts from a message; those below 0, of a node whose blocked workers run again, count as 0.
fn read_amounts(message: Option<&Resources>) -> Result<ResourceSet, MessageError> {
    let Some(message) = message else {
        return Ok(ResourceSet::default());
    };
    let units = message
        .units
        .iter()
        .map(|(name, amount)| (name.clone(), amount.max(0.0)));
    Ok(ResourceSet::from_units(units)?)
}
