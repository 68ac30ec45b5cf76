//! Demand that no node can meet: what waits in vain, and when its driver was told of it last.
//!
//! Whatever waits for a node comes here the same way, as [`Waiting`]. All that asks the same of a node is one [`Shape`]. A
//! job's driver is told of each shape soon after it began to wait and then from time to time, until it waits no more or a
//! node has joined that can meet it.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use sparkray_common::{JobId, LabelSelector, NODE_ID_LABEL, ResourceSet, SchedulingStrategy};
use sparkray_proto::{InfeasibleDemand, InfeasibleShape, InfeasibleWaiters, Resources};

use crate::placement::Candidate;

/// Time between two looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Nodes may still be joining: a shape is told after this time.
const PATIENCE: Duration = Duration::from_secs(1);
/// A shape that still waits is told again after this time.
const AGAIN_AFTER: Duration = Duration::from_secs(30);
/// Shapes of a job of which something is told within [`AGAIN_AFTER`]; others are counted.
const MAX_SHAPES: usize = 10;
/// Names that are told of one shape; what waits under others is counted.
const MAX_NAMES: usize = 8;
/// Labels of nodes that are told.
const MAX_LABELS: usize = 32;
/// Resources that only one node has, to choose it by: `node:10.0.0.1`.
const OF_ONE_NODE: &str = "node:";

/// What a node would have to have, and to be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Shape {
    pub(crate) needs: ResourceSet,
    pub(crate) strategy: SchedulingStrategy,
    /// Why the nodes cannot meet it, in words; empty: no node does, as can be seen of each.
    pub(crate) cause: String,
}

/// What waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Task,
    Actor,
    PlacementGroup,
}

/// So many of one name that wait for a node.
#[derive(Debug, Clone)]
pub(crate) struct Waiting {
    pub(crate) job: JobId,
    pub(crate) shape: Shape,
    pub(crate) kind: Kind,
    /// Of the function or of the class.
    pub(crate) name: String,
    pub(crate) count: u32,
}

/// What was told to the drivers.
#[derive(Debug, Default)]
pub(crate) struct Infeasible {
    last_look: Option<Instant>,
    jobs: BTreeMap<JobId, OfJob>,
}

/// Of the shapes that wait in vain in a job.
#[derive(Debug)]
struct OfJob {
    shapes: BTreeMap<Shape, Told>,
    /// [`MAX_SHAPES`] counts from here.
    window: Instant,
    told_in_window: usize,
}

#[derive(Debug, Clone, Copy)]
struct Told {
    since: Instant,
    last: Option<Instant>,
}

/// Who waits for the same.
type Waiters = BTreeMap<(Kind, String), u32>;

impl Shape {
    fn is_met_by(&self, candidate: &Candidate) -> bool {
        self.cause.is_empty()
            && candidate.total.covers(&self.needs)
            && self.strategy.allows(candidate.node, &candidate.labels)
    }

    /// What a node's labels must be. What may only be on one node by its id does not wait in vain: it fails.
    fn label_selector(&self) -> Option<&LabelSelector> {
        match &self.strategy {
            SchedulingStrategy::NodeLabels { hard, .. } => Some(hard),
            SchedulingStrategy::Default
            | SchedulingStrategy::Spread
            | SchedulingStrategy::NodeAffinity { .. }
            | SchedulingStrategy::Bundle(_) => None,
        }
    }
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Task => "task",
            Self::Actor => "actor",
            Self::PlacementGroup => "placement group",
        }
    }
}

impl Infeasible {
    /// Whether [`Self::look`] is due.
    pub(crate) fn is_look_due(&self, now: Instant) -> bool {
        self.last_look
            .is_none_or(|last| now.saturating_duration_since(last) >= LOOK_INTERVAL)
    }

    /// What is to be told now: for each job at most one message. `view`: the living nodes.
    pub(crate) fn look(
        &mut self,
        now: Instant,
        waiting: impl IntoIterator<Item = Waiting>,
        view: &[Candidate],
    ) -> Vec<(JobId, InfeasibleDemand)> {
        self.last_look = Some(now);
        let mut in_vain = in_vain(waiting, view);
        self.jobs.retain(|job, of_job| {
            in_vain.contains_key(job) || now.saturating_duration_since(of_job.window) < AGAIN_AFTER
        });
        let mut told = Vec::new();
        // Jobs in which nothing waits any more are followed too: their shapes are forgotten.
        for job in self.jobs.keys().copied().collect::<Vec<_>>() {
            in_vain.entry(job).or_default();
        }
        for (job, shapes) in in_vain {
            let of_job = self.jobs.entry(job).or_insert_with(|| OfJob::new(now));
            let (due, left_out) = of_job.due(now, &shapes);
            if !due.is_empty() {
                told.push((job, message(job, &due, left_out, &shapes, view)));
            }
        }
        told
    }
}

impl OfJob {
    fn new(now: Instant) -> Self {
        Self {
            shapes: BTreeMap::new(),
            window: now,
            told_in_window: 0,
        }
    }

    /// The shapes to be told now, and how many others there would be. Forgets those that wait no more.
    fn due(&mut self, now: Instant, waiting: &BTreeMap<Shape, Waiters>) -> (Vec<Shape>, usize) {
        self.shapes.retain(|shape, _| waiting.contains_key(shape));
        let mut due = Vec::new();
        for shape in waiting.keys() {
            let told = *self.shapes.entry(shape.clone()).or_insert(Told {
                since: now,
                last: None,
            });
            let is_due = match told.last {
                None => now.saturating_duration_since(told.since) >= PATIENCE,
                Some(last) => now.saturating_duration_since(last) >= AGAIN_AFTER,
            };
            if is_due {
                due.push((told.last, shape.clone()));
            }
        }
        if now.saturating_duration_since(self.window) >= AGAIN_AFTER {
            self.window = now;
            self.told_in_window = 0;
        }
        // What was never told comes first, then what was told longest ago.
        due.sort();
        let told_now = due.len().min(MAX_SHAPES - self.told_in_window);
        let left_out = due.len() - told_now;
        due.truncate(told_now);
        self.told_in_window += told_now;
        let due: Vec<Shape> = due.into_iter().map(|(_, shape)| shape).collect();
        for shape in &due {
            if let Some(told) = self.shapes.get_mut(shape) {
                told.last = Some(now);
            }
        }
        (due, left_out)
    }
}

/// What waits and is met by no node, by jobs and shapes.
fn in_vain(
    waiting: impl IntoIterator<Item = Waiting>,
    view: &[Candidate],
) -> BTreeMap<JobId, BTreeMap<Shape, Waiters>> {
    let mut jobs: BTreeMap<JobId, BTreeMap<Shape, Waiters>> = BTreeMap::new();
    for waiting in waiting {
        let shapes = jobs.entry(waiting.job).or_default();
        let waiters = shapes.entry(waiting.shape).or_default();
        *waiters.entry((waiting.kind, waiting.name)).or_insert(0) += waiting.count;
    }
    for shapes in jobs.values_mut() {
        shapes.retain(|shape, _| !view.iter().any(|candidate| shape.is_met_by(candidate)));
    }
    jobs.retain(|_, shapes| !shapes.is_empty());
    jobs
}

fn message(
    job: JobId,
    due: &[Shape],
    left_out: usize,
    waiting: &BTreeMap<Shape, Waiters>,
    view: &[Candidate],
) -> InfeasibleDemand {
    let shapes = due.iter().filter_map(|shape| {
        let waiters = waiting.get(shape)?;
        Some(shape_message(shape, waiters))
    });
    let (total, largest) = amounts(view);
    InfeasibleDemand {
        job_id: job.to_vec().into(),
        shapes: shapes.collect(),
        left_out: left_out as u32,
        total: Some(total),
        largest: Some(largest),
        labels: if due.iter().any(|shape| shape.label_selector().is_some()) {
            labels(view)
        } else {
            Vec::new()
        },
    }
}

fn shape_message(shape: &Shape, waiters: &Waiters) -> InfeasibleShape {
    let named = waiters
        .iter()
        .take(MAX_NAMES)
        .map(|((kind, name), count)| InfeasibleWaiters {
            name: name.clone(),
            kind: kind.word().to_owned(),
            count: *count,
        });
    InfeasibleShape {
        resources: Some((&shape.needs).into()),
        label_selector: shape
            .label_selector()
            .map(ToString::to_string)
            .unwrap_or_default(),
        waiters: named.collect(),
        others: waiters.values().skip(MAX_NAMES).sum(),
        cause: shape.cause.clone(),
    }
}

/// What all nodes have together, and the most that one of them has, of each resource.
fn amounts(view: &[Candidate]) -> (Resources, Resources) {
    let mut total: HashMap<String, f64> = HashMap::new();
    let mut largest: HashMap<String, f64> = HashMap::new();
    for candidate in view {
        for (name, amount) in candidate.total.to_units() {
            if name.starts_with(OF_ONE_NODE) {
                continue;
            }
            let most = largest.entry(name.clone()).or_insert(amount);
            *most = most.max(amount);
            *total.entry(name).or_insert(0.0) += amount;
        }
    }
    (Resources { units: total }, Resources { units: largest })
}

/// What nodes have beside their ids: `name=value`.
fn labels(view: &[Candidate]) -> Vec<String> {
    let of_nodes = view.iter().flat_map(|candidate| candidate.labels.iter());
    let common = of_nodes.filter(|(name, _)| *name != NODE_ID_LABEL);
    let distinct: BTreeSet<String> = common.map(|(name, value)| format!("{name}={value}")).collect();
    distinct.into_iter().take(MAX_LABELS).collect()
}
