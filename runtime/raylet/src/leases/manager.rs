//! The lease manager: who may use this node's resources. Pure: it decides, others act.
//!
//! Invariants:
//! 1. `available` = `total` - what bundles reserve - resources of leases that are not queued + what blocked workers lend;
//!    `total` includes what committed bundles offer.
//! 2. A request is queued, waits for its worker, is granted, or was answered and is forgotten; never two of these.
//! 3. A request repeated with the same id changes nothing.
//! 4. Within a class (owner and resources) requests are served in order; between owners the one that
//!    holds the fewest leases comes first.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use sparkray_common::{
    BundleId, JobId, LeaseId, NodeId, PlacementGroupId, ResourceSet, WorkerId, WorkerKey, is_group_named_in,
};

use super::bundles::Bundles;
use super::placement::{FirstLook, Own, missing};
use crate::cluster_view::ClusterView;
use crate::shape::Shape;

/// A request that does not fit has room kept for it after this wait, for this long, once in this time.
const KEEP_AFTER: Duration = Duration::from_millis(500);
const KEEP_FOR: Duration = Duration::from_secs(5);
const KEEP_EVERY: Duration = Duration::from_secs(30);

/// Who asked: a process that runs tasks, or the head for actors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum LeaseOwner {
    /// A driver or worker, of any node.
    Worker(WorkerId),
    /// The head, which placed an actor here.
    Head,
}

/// A request for a worker.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LeaseRequest {
    /// Chosen by the requester.
    pub(crate) lease_id: LeaseId,
    /// The worker will belong to this job.
    pub(crate) job_id: JobId,
    /// Who asked.
    pub(crate) owner: LeaseOwner,
    /// What it asks of a node.
    pub(crate) shape: Shape,
    /// Came from another node: it queues before it is passed on again.
    pub(crate) spilled: bool,
    /// Python of the job, empty when it does not matter.
    pub(crate) python_version: String,
    /// Which workers can serve it.
    pub(crate) worker: WorkerKey,
    /// Of the task that asks, for messages; empty for actors.
    pub(crate) task_name: String,
}

/// How far a lease is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeaseState {
    /// Waits for resources.
    Queued,
    /// Holds resources and waits for a worker.
    Starting,
    /// Its worker runs.
    Granted(WorkerId),
}

#[derive(Debug)]
struct Lease {
    request: LeaseRequest,
    state: LeaseState,
    /// What its blocked worker lends.
    lent: Option<ResourceSet>,
    /// The owner was asked to give it back.
    wanted: bool,
    /// Looked at since it came in.
    seen: bool,
    /// Times that it was found to be for one node only that cannot meet it.
    looks_in_vain: u32,
    sequence: u64,
    since: Instant,
}

/// What is to be done now.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum LeaseDecision {
    /// The resources are reserved: find a worker and call [`LeaseManager::assign_worker`].
    NeedsWorker(LeaseId),
    /// Answer that the owner is to ask this node; the request is forgotten here.
    Spill(LeaseRequest, NodeId),
    /// Tell the owner that others wait.
    Wanted(LeaseId, LeaseOwner),
}

/// A lease that ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct EndedLease {
    /// What was asked for.
    pub(crate) request: LeaseRequest,
    /// How far it had come.
    pub(crate) state: LeaseState,
}

type Class = (LeaseOwner, Shape);

/// The resources of this node and everyone who wants them.
#[derive(Debug)]
pub(crate) struct LeaseManager {
    own: Own,
    available: ResourceSet,
    bundles: Bundles,
    leases: HashMap<LeaseId, Lease>,
    queues: BTreeMap<Class, VecDeque<LeaseId>>,
    held: HashMap<LeaseOwner, usize>,
    by_worker: HashMap<WorkerId, LeaseId>,
    next_sequence: u64,
    first_look: FirstLook,
    /// Some lease was asked for while requests waited.
    any_wanted: bool,
}

impl LeaseManager {
    /// All that the node has is free.
    pub(crate) fn new(own: Own) -> Self {
        Self {
            available: own.total().clone(),
            own,
            bundles: Bundles::default(),
            leases: HashMap::new(),
            queues: BTreeMap::new(),
            held: HashMap::new(),
            by_worker: HashMap::new(),
            next_sequence: 0,
            first_look: FirstLook::default(),
            any_wanted: false,
        }
    }

    /// What this node has, with what its bundles offer.
    pub(crate) fn total(&self) -> &ResourceSet {
        self.own.total()
    }

    /// What is free; below zero while a worker that lent its CPUs runs again.
    pub(crate) fn available(&self) -> &ResourceSet {
        &self.available
    }

    /// Whether this node can never meet a request.
    pub(crate) fn is_infeasible(&self, shape: &Shape) -> bool {
        !self.own.is_feasible(shape)
    }

    /// Whether a request that cannot be granted here now is passed on.
    pub(crate) fn may_go_on(&self, shape: &Shape, view: &ClusterView) -> bool {
        self.own.pass_on_to(view, shape).is_some()
    }

    /// How far a lease is, when it is known.
    pub(crate) fn state(&self, lease_id: LeaseId) -> Option<LeaseState> {
        self.leases.get(&lease_id).map(|lease| lease.state)
    }

    /// What was asked for, when the lease is known.
    pub(crate) fn request_of(&self, lease_id: LeaseId) -> Option<&LeaseRequest> {
        self.leases.get(&lease_id).map(|lease| &lease.request)
    }

    /// When a lease was asked for, when it is known.
    pub(crate) fn asked_at(&self, lease_id: LeaseId) -> Option<Instant> {
        self.leases.get(&lease_id).map(|lease| lease.since)
    }

    /// Leases that a worker serves.
    pub(crate) fn granted_count(&self) -> usize {
        self.by_worker.len()
    }

    /// The lease that a worker serves.
    pub(crate) fn lease_of_worker(&self, worker: WorkerId) -> Option<LeaseId> {
        self.by_worker.get(&worker).copied()
    }

    /// Queues a request; [`LeaseManager::schedule`] decides. A known id changes nothing, and its
    /// state is returned.
    pub(crate) fn request(&mut self, request: LeaseRequest, now: Instant) -> Option<LeaseState> {
        if let Some(lease) = self.leases.get(&request.lease_id) {
            return Some(lease.state);
        }
        let lease_id = request.lease_id;
        self.queues
            .entry((request.owner, request.shape.clone()))
            .or_default()
            .push_back(lease_id);
        let lease = Lease {
            request,
            state: LeaseState::Queued,
            lent: None,
            wanted: false,
            seen: false,
            looks_in_vain: 0,
            sequence: self.next_sequence,
            since: now,
        };
        self.next_sequence += 1;
        self.leases.insert(lease_id, lease);
        None
    }

    /// Grants what fits, passes on what fits elsewhere and asks for idle leases when requests still wait.
    /// `view_changed`: requests that were looked at before may be passed on too.
    pub(crate) fn schedule(
        &mut self,
        view: &mut ClusterView,
        view_changed: bool,
        now: Instant,
    ) -> Vec<LeaseDecision> {
        let mut decisions = Vec::new();
        self.send_where_wanted(view, now, &mut decisions);
        self.grant_what_fits(now, &mut decisions);
        self.pass_on(view, view_changed, now, &mut decisions);
        self.ask_for_leases(&mut decisions);
        decisions
    }

    /// Requests that want to be elsewhere leave before this node may grant them. Those that were passed on stay.
    fn send_where_wanted(
        &mut self,
        view: &mut ClusterView,
        now: Instant,
        decisions: &mut Vec<LeaseDecision>,
    ) {
        if self.queues.keys().all(|(_, shape)| shape.is_default()) {
            return;
        }
        let mut leaving = Vec::new();
        let mut available = self.available.clone();
        for ((_, shape), queue) in self.queues.iter().filter(|((_, shape), _)| !shape.is_default()) {
            let unseen = |lease_id: &&LeaseId| {
                let lease = self.leases.get(lease_id);
                lease.is_some_and(|lease| !lease.seen && !lease.request.spilled)
            };
            for lease_id in queue.iter().filter(unseen) {
                match self.first_look.target(&self.own, &available, view, shape) {
                    Some(node) => {
                        view.note_sent(node, &shape.resources, now);
                        leaving.push((*lease_id, node));
                    }
                    None => available.subtract(&shape.resources),
                }
            }
        }
        self.spill(leaving, decisions);
    }

    fn spill(&mut self, leaving: Vec<(LeaseId, NodeId)>, decisions: &mut Vec<LeaseDecision>) {
        for (lease_id, node) in leaving {
            if let Some(ended) = self.end(lease_id) {
                decisions.push(LeaseDecision::Spill(ended.request, node));
            }
        }
    }

    fn grant_what_fits(&mut self, now: Instant, decisions: &mut Vec<LeaseDecision>) {
        // Shapes that do not fit now, and shapes for which room is being kept.
        let mut full: HashSet<ResourceSet> = HashSet::new();
        let mut kept: Vec<ResourceSet> = Vec::new();
        loop {
            let candidates = self.queues.iter().filter(|((_, shape), _)| {
                !full.contains(&shape.resources)
                    && self.own.allows(shape)
                    && !kept.iter().any(|other| overlap(other, &shape.resources))
            });
            let next = candidates.min_by_key(|((owner, _), queue)| {
                let lease = queue.front().and_then(|lease| self.leases.get(lease));
                (self.held_by(*owner), lease.map_or(0, |lease| lease.sequence))
            });
            let Some((class, queue)) = next else { return };
            let class = class.clone();
            let resources = &class.1.resources;
            if !self.own.runs_workers() || !self.available.covers(resources) {
                let waited = queue
                    .front()
                    .and_then(|lease| self.leases.get(lease))
                    .map(|lease| lease.since);
                if waited.is_some_and(|since| self.keeps_room(now.duration_since(since), &class.1)) {
                    kept.push(resources.clone());
                }
                full.insert(class.1.resources);
                continue;
            }
            let Some(lease_id) = self.pop_queued(&class) else {
                continue;
            };
            if let Some(lease) = self.leases.get_mut(&lease_id) {
                lease.state = LeaseState::Starting;
                self.available.subtract(&class.1.resources);
                *self.held.entry(class.0).or_insert(0) += 1;
                decisions.push(LeaseDecision::NeedsWorker(lease_id));
            }
        }
    }

    /// A large request would wait for ever while small ones take every piece of room. So what comes free is kept for
    /// one that has waited, from time to time and not for long: whoever holds the room may itself wait for a
    /// small request. Actors and bundles keep their room, so a request that does not fit beside them has no claim.
    fn keeps_room(&self, waited: Duration, shape: &Shape) -> bool {
        let phase = Duration::from_millis((waited.as_millis() % KEEP_EVERY.as_millis()) as u64);
        if phase < KEEP_AFTER || phase >= KEEP_AFTER + KEEP_FOR {
            return false;
        }
        let mut reachable = self.own.total().clone();
        reachable.subtract(&self.bundles.reserved());
        for lease in self.leases.values() {
            if lease.request.owner == LeaseOwner::Head && lease.state != LeaseState::Queued {
                reachable.subtract(&lease.request.shape.resources);
            }
        }
        self.own.runs_workers() && reachable.covers(&shape.resources)
    }

    /// Leases that count against an owner. Actors come first: they are placed once and stay.
    fn held_by(&self, owner: LeaseOwner) -> usize {
        match owner {
            LeaseOwner::Head => 0,
            LeaseOwner::Worker(_) => self.held.get(&owner).copied().unwrap_or(0),
        }
    }

    fn pop_queued(&mut self, class: &Class) -> Option<LeaseId> {
        let queue = self.queues.get_mut(class)?;
        let lease_id = queue.pop_front();
        if queue.is_empty() {
            self.queues.remove(class);
        }
        lease_id
    }

    fn pass_on(
        &mut self,
        view: &mut ClusterView,
        view_changed: bool,
        now: Instant,
        decisions: &mut Vec<LeaseDecision>,
    ) {
        let mut leaving = Vec::new();
        for ((_, shape), queue) in &self.queues {
            for lease_id in queue {
                let Some(lease) = self.leases.get_mut(lease_id) else {
                    continue;
                };
                let first_look = !lease.seen;
                lease.seen = true;
                if !(view_changed || (first_look && !lease.request.spilled)) {
                    continue;
                }
                let Some(node) = self.own.pass_on_to(view, shape) else {
                    continue;
                };
                view.note_sent(node, &shape.resources, now);
                leaving.push((*lease_id, node));
            }
        }
        self.spill(leaving, decisions);
    }

    /// Requests wait: every held lease of another class is asked for once, until no request waits.
    fn ask_for_leases(&mut self, decisions: &mut Vec<LeaseDecision>) {
        let mut waiting = self.queues.keys().filter(|(_, shape)| !self.is_infeasible(shape));
        let Some(first) = waiting.next().cloned() else {
            if std::mem::take(&mut self.any_wanted) {
                for lease in self.leases.values_mut() {
                    lease.wanted = false;
                }
            }
            return;
        };
        let several = waiting.next().is_some();
        for (lease_id, lease) in &mut self.leases {
            let same_class = lease.request.owner == first.0 && lease.request.shape == first.1;
            let is_task = matches!(lease.request.owner, LeaseOwner::Worker(_));
            let granted = matches!(lease.state, LeaseState::Granted(_));
            if is_task && granted && !lease.wanted && (several || !same_class) {
                lease.wanted = true;
                self.any_wanted = true;
                decisions.push(LeaseDecision::Wanted(*lease_id, lease.request.owner));
            }
        }
    }

    /// A worker was found for a lease that waits for one. False: the lease is not there any more.
    pub(crate) fn assign_worker(&mut self, lease_id: LeaseId, worker: WorkerId) -> bool {
        match self.leases.get_mut(&lease_id) {
            Some(lease) if lease.state == LeaseState::Starting => {
                lease.state = LeaseState::Granted(worker);
                self.by_worker.insert(worker, lease_id);
                true
            }
            _ => false,
        }
    }

    /// The lease ends: returned, cancelled, or its worker died. Its resources are free again.
    pub(crate) fn end(&mut self, lease_id: LeaseId) -> Option<EndedLease> {
        let lease = self.leases.remove(&lease_id)?;
        let class = (lease.request.owner, lease.request.shape.clone());
        if lease.state == LeaseState::Queued {
            if let Some(queue) = self.queues.get_mut(&class) {
                queue.retain(|queued| *queued != lease_id);
                if queue.is_empty() {
                    self.queues.remove(&class);
                }
            }
        } else {
            self.available.add(&class.1.resources);
            if let Some(lent) = &lease.lent {
                self.available.subtract(lent);
            }
            if let Some(held) = self.held.get_mut(&class.0) {
                *held -= 1;
                if *held == 0 {
                    self.held.remove(&class.0);
                }
            }
        }
        if let LeaseState::Granted(worker) = lease.state {
            self.by_worker.remove(&worker);
        }
        Some(EndedLease {
            request: lease.request,
            state: lease.state,
        })
    }

    /// Ends the leases and requests of an owner, but those that `stays` names.
    pub(crate) fn end_of_owner(
        &mut self,
        owner: LeaseOwner,
        stays: impl Fn(LeaseId, LeaseState) -> bool,
    ) -> Vec<EndedLease> {
        let of_owner = self
            .leases
            .iter()
            .filter(|(lease_id, lease)| lease.request.owner == owner && !stays(**lease_id, lease.state));
        let ids: Vec<LeaseId> = of_owner.map(|(lease_id, _)| *lease_id).collect();
        ids.into_iter()
            .filter_map(|lease_id| self.end(lease_id))
            .collect()
    }

    /// Reserves all of these bundles of a group or none. True: they are reserved, now or since before.
    pub(crate) fn prepare_bundles(&mut self, bundles: &[(BundleId, ResourceSet)]) -> bool {
        let new: Vec<_> = bundles
            .iter()
            .filter(|(id, _)| !self.bundles.holds(*id))
            .collect();
        let mut together = ResourceSet::default();
        for (_, amounts) in &new {
            together.add(amounts);
        }
        if !self.own.runs_workers() || !self.available.covers(&together) {
            return false;
        }
        self.available.subtract(&together);
        for (id, amounts) in new {
            self.bundles.prepare(*id, amounts.clone());
        }
        true
    }

    /// What was reserved becomes resources that requests can name.
    pub(crate) fn commit_bundle(&mut self, id: BundleId) {
        if let Some(offered) = self.bundles.commit(id) {
            self.own.add(&offered);
            self.available.add(&offered);
        }
    }

    /// The bundle is here no more, and what it reserved is free again. What is in it ends.
    pub(crate) fn return_bundle(&mut self, id: BundleId) -> Vec<EndedLease> {
        let Some(bundle) = self.bundles.take(id) else {
            return Vec::new();
        };
        let mut ended = Vec::new();
        if let Some(offered) = bundle.offered() {
            let is_last = !self.bundles.holds_any(id.group);
            ended = self.end_where(|resources| {
                id.is_named_in(resources) || (is_last && is_group_named_in(id.group, resources))
            });
            self.own.remove(&offered);
            self.available.remove(&offered);
        }
        self.available.add(bundle.amounts());
        ended
    }

    /// The group is no more: what is in its bundles, or waits for them, ends.
    pub(crate) fn remove_group(&mut self, group: PlacementGroupId) -> Vec<EndedLease> {
        let ended = self.end_where(|resources| is_group_named_in(group, resources));
        for id in self.bundles.of_group(group) {
            let more = self.return_bundle(id);
            debug_assert!(more.is_empty(), "what is in a bundle names its group");
        }
        ended
    }

    /// Ends the leases and requests that ask for such resources, in the order of their ids.
    fn end_where(&mut self, is_meant: impl Fn(&ResourceSet) -> bool) -> Vec<EndedLease> {
        let meant = self.leases.iter().filter(|(_, lease)| {
            let shape = &lease.request.shape;
            is_meant(&shape.resources)
        });
        let mut ids: Vec<LeaseId> = meant.map(|(lease_id, _)| *lease_id).collect();
        ids.sort_unstable();
        ids.into_iter()
            .filter_map(|lease_id| self.end(lease_id))
            .collect()
    }

    /// Whether an owner has leases that are not queued.
    pub(crate) fn holds_any(&self, owner: LeaseOwner) -> bool {
        self.held.contains_key(&owner)
    }

    /// What was asked of an owner may not have reached it.
    pub(crate) fn ask_again(&mut self, owner: LeaseOwner) {
        for lease in self.leases.values_mut() {
            if lease.request.owner == owner {
                lease.wanted = false;
            }
        }
    }

    /// Whether a worker serves a process that asked for it; no verdict has ended that process yet.
    pub(crate) fn serves_an_owner(&self, worker: WorkerId) -> bool {
        self.lease_of_worker(worker)
            .and_then(|lease_id| self.request_of(lease_id))
            .is_some_and(|request| matches!(request.owner, LeaseOwner::Worker(_)))
    }

    /// The worker of a lease waits in `get` and lends its CPUs, or runs again and takes them back at once,
    /// even when that leaves less than nothing. Tasks lend, actors keep what they were given, as in Ray.
    pub(crate) fn set_blocked(&mut self, worker: WorkerId, blocked: bool) {
        let Some(lease) = self
            .by_worker
            .get(&worker)
            .and_then(|lease_id| self.leases.get_mut(lease_id))
        else {
            return;
        };
        if lease.request.owner == LeaseOwner::Head {
            return;
        }
        if blocked && lease.lent.is_none() {
            let lent = lease.request.shape.resources.cpu_only();
            self.available.add(&lent);
            lease.lent = Some(lent);
        } else if !blocked && let Some(lent) = lease.lent.take() {
            self.available.subtract(&lent);
        }
    }

    /// Requests that wait for resources.
    pub(crate) fn queued_count(&self) -> usize {
        self.queues.values().map(VecDeque::len).sum()
    }

    /// Leases that hold resources and wait for a worker, oldest first.
    pub(crate) fn starting(&self) -> Vec<LeaseId> {
        let mut starting: Vec<(u64, LeaseId)> = self
            .leases
            .iter()
            .filter(|(_, lease)| lease.state == LeaseState::Starting)
            .map(|(lease_id, lease)| (lease.sequence, *lease_id))
            .collect();
        starting.sort_unstable();
        starting.into_iter().map(|(_, lease_id)| lease_id).collect()
    }

    /// Requests that no node can ever meet, as far as the view tells.
    pub(crate) fn infeasible(&self, view: &ClusterView) -> Vec<&LeaseRequest> {
        let mut found = Vec::new();
        for ((_, shape), queue) in &self.queues {
            if self.is_infeasible(shape) && view.feasible_node(shape).is_none() {
                found.extend(queue.iter().filter_map(|lease_id| self.request_of(*lease_id)));
            }
        }
        found
    }

    /// A sentence about what no node has of an infeasible request.
    pub(crate) fn missing(&self, view: &ClusterView, shape: &Shape) -> String {
        missing(&self.own, view, shape)
    }

    /// Requests for one node only that cannot meet them, or is not there, when that has been so for two looks.
    pub(crate) fn pinned_in_vain(&mut self, view: &ClusterView) -> Vec<LeaseRequest> {
        const LOOKS: u32 = 2;
        let mut found = Vec::new();
        for ((_, shape), queue) in &self.queues {
            let is_pinned = shape.only_node().is_some();
            if !is_pinned || self.own.is_feasible(shape) || view.feasible_node(shape).is_some() {
                continue;
            }
            for lease_id in queue {
                let Some(lease) = self.leases.get_mut(lease_id) else {
                    continue;
                };
                lease.looks_in_vain = lease.looks_in_vain.saturating_add(1);
                if lease.looks_in_vain == LOOKS {
                    found.push(lease.request.clone());
                }
            }
        }
        found
    }
}

fn overlap(left: &ResourceSet, right: &ResourceSet) -> bool {
    left.to_units()
        .iter()
        .any(|(name, amount)| *amount > 0.0 && right.get(name) > 0.0)
}

#[cfg(test)]
#[path = "bundles_tests.rs"]
mod bundles_tests;
#[cfg(test)]
#[path = "manager_tests.rs"]
mod tests;
