//! What is known of nodes at present: when each was heard, what it reported, what was promised to actors on it since.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sparkray_common::{ActorId, Labels, NodeId, ResourceSet};
use sparkray_proto::{NodeView, StoreStats};

use super::infeasible::Waiting;
use crate::placement::Candidate;
use crate::record::NodeDescription;
use crate::tables::{Node, NodeTable, Tables};

/// A report that arrives this long after a placement shows what the placement took.
const RESERVATION_AGE: Duration = Duration::from_millis(300);

/// All nodes of the table, dead ones too.
#[derive(Debug, Default)]
pub(crate) struct LiveNodes {
    nodes: BTreeMap<NodeId, LiveNode>,
    /// An actor is on its way to one node at most.
    reservations: BTreeMap<ActorId, Reservation>,
}

#[derive(Debug)]
struct LiveNode {
    last_heard: Instant,
    /// As last reported: more than it joined with while it holds bundles.
    total: ResourceSet,
    /// As last reported.
    available: ResourceSet,
    queued_leases: u32,
    store: Option<StoreStats>,
    /// Of its queued leases those that no node can meet.
    infeasible: Vec<Waiting>,
    /// Reports so far: a refusal is forgotten when the next one comes.
    reports: u64,
    /// Differs from what the other nodes were told.
    changed: bool,
}

/// Resources promised to an actor that a report may not show yet.
#[derive(Debug)]
struct Reservation {
    node: NodeId,
    resources: ResourceSet,
    made_at: Instant,
    /// The node has answered: its next report shows the truth.
    answered: bool,
}

/// What a node reports of itself, checked.
#[derive(Debug)]
pub(crate) struct Report {
    /// `None`: as before.
    pub(crate) total: Option<ResourceSet>,
    pub(crate) available: ResourceSet,
    pub(crate) queued_leases: u32,
    pub(crate) store: Option<StoreStats>,
    pub(crate) infeasible: Vec<Waiting>,
}

impl LiveNodes {
    /// The node said something.
    pub(crate) fn heard(&mut self, now: Instant, id: NodeId) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.last_heard = now;
        }
    }

    /// Takes over what a living node reports.
    pub(crate) fn report(&mut self, now: Instant, id: NodeId, report: Report) {
        let Some(node) = self.nodes.get_mut(&id) else {
            return;
        };
        node.reports += 1;
        node.infeasible = report.infeasible;
        self.reservations.retain(|_, reservation| {
            reservation.node != id
                || (!reservation.answered
                    && now.saturating_duration_since(reservation.made_at) < RESERVATION_AGE)
        });
        let total = report.total.unwrap_or_else(|| node.total.clone());
        let differs = node.total != total
            || node.available != report.available
            || node.queued_leases != report.queued_leases
            || (report.store.is_some() && node.store != report.store);
        if differs {
            node.total = total;
            node.available = report.available;
            node.queued_leases = report.queued_leases;
            node.store = report.store.or_else(|| node.store.take());
            node.changed = true;
        }
    }

    /// Reports so far from this node.
    pub(crate) fn report_count(&self, id: NodeId) -> u64 {
        self.nodes.get(&id).map_or(0, |node| node.reports)
    }

    /// The node has said what became of the placement: its next report counts.
    pub(crate) fn answered(&mut self, actor: ActorId) {
        if let Some(reservation) = self.reservations.get_mut(&actor) {
            reservation.answered = true;
        }
    }

    /// Living nodes that have been silent for too long, and how long that is.
    pub(crate) fn silent(&self, now: Instant, table: &NodeTable) -> Vec<(NodeId, Duration)> {
        let mut silent = Vec::new();
        for node in table.living() {
            let is_silent = |live: &LiveNode| now.saturating_duration_since(live.last_heard) >= node.silence;
            if self.nodes.get(&node.id).is_some_and(is_silent) {
                silent.push((node.id, node.silence));
            }
        }
        silent
    }

    /// The living nodes as placement sees them.
    pub(crate) fn candidates(&self, tables: &Tables) -> Vec<Candidate> {
        let mut reserved: HashMap<NodeId, Vec<&ResourceSet>> = HashMap::new();
        for reservation in self.reservations.values() {
            let of_node = reserved.entry(reservation.node).or_default();
            of_node.push(&reservation.resources);
        }
        for group in tables.groups.living() {
            for (index, node) in group.asked().into_iter().flatten() {
                let of_node = reserved.entry(*node).or_default();
                of_node.push(&group.description.bundles[*index as usize]);
            }
        }
        let mut candidates = Vec::new();
        for description in tables.nodes.living() {
            let Some(live) = self.nodes.get(&description.id) else {
                continue;
            };
            let mut available = live.available.clone();
            for resources in reserved.get(&description.id).into_iter().flatten() {
                available.subtract(resources);
            }
            candidates.push(Candidate {
                node: description.id,
                labels: Arc::clone(&description.labels),
                total: live.total.clone(),
                available,
                queued_leases: live.queued_leases,
                actors: tables.actors.hosted_count(description.id),
            });
        }
        candidates
    }

    /// Leases that wait on nodes and that no node can meet, as far as their raylets know.
    pub(crate) fn infeasible_leases(&self) -> impl Iterator<Item = &Waiting> {
        self.nodes.values().flat_map(|node| &node.infeasible)
    }

    /// Nodes that changed since the last call.
    pub(crate) fn take_changed(&mut self, table: &NodeTable) -> Vec<NodeView> {
        let mut views = Vec::new();
        for (id, live) in self.nodes.iter_mut().filter(|(_, live)| live.changed) {
            live.changed = false;
            if let Some(node) = table.get(*id) {
                views.push(view(node, live));
            }
        }
        views
    }

    /// All nodes, dead ones too.
    pub(crate) fn views(&self, table: &NodeTable) -> Vec<NodeView> {
        let mut views = Vec::new();
        for node in table.all() {
            if let Some(live) = self.nodes.get(&node.description.id) {
                views.push(view(node, live));
            }
        }
        views
    }

    pub(super) fn join(&mut self, now: Instant, description: &NodeDescription) {
        let live = LiveNode {
            last_heard: now,
            total: description.total.clone(),
            available: description.total.clone(),
            queued_leases: 0,
            store: None,
            infeasible: Vec::new(),
            reports: 0,
            changed: true,
        };
        self.nodes.insert(description.id, live);
    }

    pub(super) fn die(&mut self, id: NodeId) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.changed = true;
            node.available = ResourceSet::default();
            node.queued_leases = 0;
            node.infeasible.clear();
        }
        self.reservations.retain(|_, reservation| reservation.node != id);
    }

    pub(super) fn forget_all_but(&mut self, is_known: impl Fn(NodeId) -> bool) {
        self.nodes.retain(|id, _| is_known(*id));
    }

    /// An actor is being placed on a node: takes its resources from the view.
    pub(super) fn reserve(&mut self, now: Instant, node: NodeId, actor: ActorId, resources: ResourceSet) {
        let reservation = Reservation {
            node,
            resources,
            made_at: now,
            answered: false,
        };
        self.reservations.insert(actor, reservation);
    }

    /// The actor is on its way nowhere.
    pub(super) fn release(&mut self, actor: ActorId) {
        self.reservations.remove(&actor);
    }

    /// The head itself did not run for this long.
    pub(super) fn excuse(&mut self, now: Instant, stall: Duration) {
        for node in self.nodes.values_mut() {
            node.last_heard = now.min(node.last_heard + stall);
        }
    }
}

fn view(node: &Node, live: &LiveNode) -> NodeView {
    let description = &node.description;
    NodeView {
        node_id: description.id.to_vec().into(),
        address: description.address.clone(),
        alive: node.alive,
        total: Some((&live.total).into()),
        available: Some((&live.available).into()),
        queued_leases: live.queued_leases,
        labels: Labels::clone(&description.labels),
        hostname: description.hostname.clone(),
        store: live.store,
        pid: description.pid,
        report_count: live.reports,
    }
}
