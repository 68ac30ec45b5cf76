//! Objects: their values, and the references of this process and of others.
//!
//! Invariants:
//! 1. A value, once resolved, never changes, but for a loss; every waiter of it is told exactly once.
//! 2. An owned object stays while a local reference, a borrower, or a value that contains it does.
//! 3. A reference in a message stays pinned by its sender until the receiver has registered as a borrower.
//!
//! Here are the table and its entries; `references` counts, `resolving` makes values known, `borrowing` and `borrowers` are
//! the two sides of a reference to another process's object, `return_pins` keeps what is in results, `owners` asks and
//! answers other processes for values, `reading` asks the node's store, `waits` tells threads and futures, and
//! `unhandled` errors that nobody asked for.

mod borrowers;
mod borrowing;
mod held_bytes;
mod metrics;
mod owners;
mod reading;
mod references;
mod resolving;
mod return_pins;
mod unhandled;
mod value;
mod waits;

use std::sync::{Arc, Weak};

use bytes::Bytes;
use sparkray_common::{Metrics, NodeId, ObjectId, TaskId, WorkerAddress, WorkerId};
use sparkray_proto as proto;

use super::events::Dependent;
use super::links::{ConnId, Links};
use crate::error::CoreError;
use crate::hash::{IdMap, IdSet};
use crate::slab_map::SlabMap;
use crate::store::StoredValue;

use borrowers::Borrower;
use borrowing::Borrowing;
use held_bytes::HeldBytes;
use metrics::ObjectMetrics;
pub(crate) use reading::StoreAnswer;
use return_pins::ReturnPins;
use unhandled::Unhandled;
pub use unhandled::UnhandledErrors;
pub(crate) use value::{Locations, Value};
pub(super) use value::{describe_locations, read_locations};
use waits::Waits;
pub(crate) use waits::{Begun, FetchedResult, WaitId, unknown_object};

/// Who waits for an object inside this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waiter {
    /// A part above this one.
    Dependent(Dependent),
    /// A wait for its existence.
    Exists(WaitId),
    /// A wait for its value, which goes to this place.
    Value(WaitId, u32),
}

#[derive(Debug)]
struct Object {
    value: Value,
    /// Somebody asked for it: `get`, `wait`, a call that it is an argument of, another process.
    was_looked_at: bool,
    /// `None`: this process.
    owner: Option<Arc<WorkerAddress>>,
    /// The owner was asked for the value.
    asked: bool,
    /// The local store was asked for it.
    reading: bool,
    /// The owner was asked again where it is, because the store could not get it.
    refetching_locations: bool,
    /// Bytes that count as inline in this process: those of a put value.
    put_bytes: u32,
    /// How often the store could not give it.
    failed_reads: u8,
    waiters: Vec<Waiter>,
    /// The mapped value, while somebody uses it.
    mapped: Weak<StoredValue>,
    /// What few objects have.
    ties: Option<Box<Ties>>,
}

/// What is counted of an object.
#[derive(Debug, Clone, Copy)]
struct References {
    /// References in this process: of the user, of submitted tasks, of values that contain it.
    count: u32,
    /// Only known as an argument of a task that runs; another process owns it, and the task's caller keeps it.
    is_argument: bool,
}

impl References {
    const ONE: Self = Self {
        count: 1,
        is_argument: false,
    };
}

/// How an object hangs together with others.
#[derive(Debug, Default)]
struct Ties {
    /// Processes that hold references.
    borrowers: IdSet<WorkerId>,
    /// Objects that this one's value refers to; each holds a reference.
    contained: Vec<ObjectId>,
    /// GetObject requests of other processes.
    remote_waiters: Vec<(ConnId, u64)>,
}

impl Object {
    fn new(owner: Option<Arc<WorkerAddress>>, value: Value) -> Self {
        Self {
            value,
            was_looked_at: false,
            owner,
            asked: false,
            reading: false,
            refetching_locations: false,
            put_bytes: 0,
            failed_reads: 0,
            waiters: Vec::new(),
            mapped: Weak::new(),
            ties: None,
        }
    }

    fn is_resolved(&self) -> bool {
        self.value.is_resolved()
    }

    fn ties(&mut self) -> &mut Ties {
        self.ties.get_or_insert_default()
    }

    fn has_waiters(&self) -> bool {
        let remote = self.ties.as_ref();
        !self.waiters.is_empty() || remote.is_some_and(|ties| !ties.remote_waiters.is_empty())
    }

    fn is_borrowed(&self) -> bool {
        self.ties.as_ref().is_some_and(|ties| !ties.borrowers.is_empty())
    }
}

/// All objects that this process knows.
#[derive(Debug, Default)]
pub(crate) struct Objects {
    table: SlabMap<ObjectId, Object, References>,
    bytes: HeldBytes,
    /// Objects that the store is to be asked for.
    reads: Vec<ObjectId>,
    /// What the store answered, in the order of its frames.
    store_answers: Vec<StoreAnswer>,
    /// Objects that the store is to free.
    frees: Vec<proto::FreeEntry>,
    waits: Waits,
    borrowing: Borrowing,
    /// Processes that hold references to objects of this one.
    borrowers: IdMap<WorkerId, Borrower>,
    return_pins: IdMap<TaskId, ReturnPins>,
    unhandled: Unhandled,
    metrics: ObjectMetrics,
}

impl Objects {
    // ---- looking -------------------------------------------------------------------------------------------

    /// Whether others may ask this process for something, or it keeps something for them.
    pub(in crate::state) fn are_needed(&self) -> bool {
        let mut objects = self.table.iter().map(|(_, object)| object);
        !self.return_pins.is_empty() || objects.any(|object| object.owner.is_none())
    }

    pub(crate) fn contains(&self, id: &ObjectId) -> bool {
        self.table.contains_key(id)
    }

    /// The value of an object, as far as it is known here.
    pub(crate) fn value(&self, id: &ObjectId) -> Option<&Value> {
        self.table.get(id).map(|object| &object.value)
    }

    /// The owner of an object, when it is another process.
    pub(crate) fn owner(&self, id: &ObjectId) -> Option<&Arc<WorkerAddress>> {
        self.table.get(id)?.owner.as_ref()
    }

    /// The first of these objects of whose value nothing can be made.
    pub(crate) fn first_failure(&self, ids: impl IntoIterator<Item = ObjectId>) -> Option<Value> {
        ids.into_iter().find_map(|id| match self.value(&id) {
            // Callers hold references of all: it has never been an object of this process.
            None => Some(Value::failed(unknown_object(id))),
            Some(value) => value.is_failure().then(|| value.clone()),
        })
    }

    /// The node that holds the most bytes of stored objects, when it is not this one.
    pub(super) fn node_of_most(
        &self,
        here: NodeId,
        ids: impl IntoIterator<Item = ObjectId>,
    ) -> Option<(NodeId, String)> {
        let mut weights: Vec<(u64, &(NodeId, String))> = Vec::new();
        for id in ids {
            let Some(Value::Stored { size, locations }) = self.value(&id) else {
                continue;
            };
            for location in locations {
                match weights.iter_mut().find(|(_, known)| known.0 == location.0) {
                    Some((weight, _)) => *weight += size,
                    None => weights.push((*size, location)),
                }
            }
        }
        let (_, best) = weights.into_iter().max_by_key(|(weight, _)| *weight)?;
        (best.0 != here).then(|| best.clone())
    }

    /// How arguments that are references travel: inline values, or where they are stored.
    pub(super) fn describe_arguments(
        &self,
        me: &WorkerAddress,
        slots: &[(u32, ObjectId)],
    ) -> (Vec<proto::TaskArgument>, Vec<Bytes>) {
        let mut arguments = Vec::with_capacity(slots.len());
        let mut inline = Vec::new();
        for (slot, id) in slots {
            let mut argument = proto::TaskArgument {
                slot: *slot,
                ..Default::default()
            };
            if let Some(object) = self.table.get(id) {
                let owner = object.owner.as_deref().unwrap_or(me);
                argument.reference = Some(proto::ObjectReference::new(*id, owner));
                match &object.value {
                    Value::Inline(bytes) | Value::Raised(bytes) => {
                        argument.inline_length = Some(bytes.len() as u64);
                        inline.push(bytes.clone());
                    }
                    Value::Stored { locations, .. } => argument.locations = describe_locations(locations),
                    Value::Pending | Value::Failed(_) => {}
                }
            }
            arguments.push(argument);
        }
        (arguments, inline)
    }

    // ---- ties to other processes ---------------------------------------------------------------------------

    /// Whether this process keeps something for another one, or has something from it.
    pub(super) fn has_ties(&self, worker: WorkerId) -> bool {
        self.borrowing.borrows_from(worker) || self.keeps_for(worker)
    }

    fn keeps_for(&self, worker: WorkerId) -> bool {
        self.borrowers.contains_key(&worker) || self.return_pins.values().any(|pins| pins.caller == worker)
    }

    /// Processes of a node to which there are ties.
    pub(super) fn tied_workers_on(&self, node: NodeId) -> IdSet<WorkerId> {
        let borrowers = self.borrowers.iter().map(|(worker, entry)| (*worker, entry.node));
        let callers = self.return_pins.values().map(|pins| (pins.caller, pins.node));
        borrowers
            .chain(callers)
            .chain(self.borrowing.owners())
            .filter(|(_, at)| *at == node)
            .map(|(worker, _)| worker)
            .collect()
    }

    /// A process is dead, and all that it has sent was read: nothing is kept for it any more.
    pub(super) fn worker_gone(&mut self, links: &mut Links, worker: WorkerId) {
        self.forget_borrower(links, worker);
        self.drop_return_pins_of(links, worker);
        self.owner_died(links, worker);
    }

    // ---- the end of an input -------------------------------------------------------------------------------

    /// Whether frames are still to be made of what was gathered.
    pub(super) fn has_output(&self) -> bool {
        !(self.reads.is_empty() && self.frees.is_empty() && self.borrowing.is_told())
    }

    /// Makes frames of what was gathered.
    pub(super) fn flush(&mut self, links: &mut Links) {
        self.flush_reads(links);
        self.flush_borrows(links);
        self.flush_frees(links);
    }

    /// This process tells its user of these errors that nobody asked for.
    pub(super) fn report_unhandled(&mut self, told: UnhandledErrors) {
        self.unhandled.told = told;
    }

    /// Lists the objects that there are, and what was counted.
    pub(super) fn list_metrics(&self, into: &mut Metrics) {
        into.gauge(
            "ray_core_worker_objects",
            "Objects that this process has references to, or keeps for others",
            self.table.len() as u64,
        );
        into.gauge(
            "ray_core_worker_borrowers",
            "Processes that hold references to objects of this one",
            self.borrowers.len() as u64,
        );
        self.metrics.list(into);
    }

    // ---- checking ------------------------------------------------------------------------------------------

    /// Panics where an invariant does not hold.
    pub(super) fn check(&self) {
        let mut put = 0;
        for (id, object) in self.table.iter() {
            let references = self.table.hot(id).map_or(0, |hot| hot.count);
            assert!(
                references > 0 || object.is_borrowed(),
                "object {id} is kept by nobody: {object:?}"
            );
            put += object.put_bytes as usize;
            if object.is_resolved() {
                assert!(
                    object
                        .ties
                        .as_ref()
                        .is_none_or(|ties| ties.remote_waiters.is_empty()),
                    "processes wait for object {id}, which is there"
                );
                let waits = object
                    .waiters
                    .iter()
                    .any(|waiter| !matches!(waiter, Waiter::Value(..)));
                assert!(
                    !waits,
                    "somebody waits for object {id}, which is there: {object:?}"
                );
            }
            if let (Some(ties), None) = (&object.ties, &object.owner) {
                for worker in &ties.borrowers {
                    let holds = self.borrowers.get(worker).is_some_and(|entry| entry.holds(id));
                    assert!(holds, "{worker} is no borrower of {id}");
                }
            }
        }
        assert_eq!(put, self.bytes.put, "bytes of put values");
        self.borrowing.check(&self.table);
        self.waits.check();
    }

    pub(super) fn check_empty(&self, who: &str) {
        assert!(self.table.is_empty(), "{who}: objects {:?}", self.table);
        assert!(self.bytes.is_zero(), "{who}: {:?}", self.bytes);
        assert!(self.waits.is_empty(), "{who}: waits {:?}", self.waits);
        assert!(
            self.return_pins.is_empty(),
            "{who}: return pins {:?}",
            self.return_pins
        );
        assert!(self.borrowing.is_empty(), "{who}: borrowing {:?}", self.borrowing);
        assert!(self.borrowers.is_empty(), "{who}: borrowers {:?}", self.borrowers);
    }

    /// All objects that this process knows.
    pub(super) fn ids(&self) -> impl Iterator<Item = &ObjectId> {
        self.table.keys()
    }

    #[cfg(test)]
    pub(super) fn refs(&self, id: &ObjectId) -> u32 {
        self.table.hot(id).unwrap().count
    }

    #[cfg(test)]
    pub(super) fn borrowers_of(&self, id: &ObjectId) -> usize {
        self.table
            .get(id)
            .unwrap()
            .ties
            .as_ref()
            .map_or(0, |ties| ties.borrowers.len())
    }

    #[cfg(test)]
    pub(super) fn borrower_count(&self) -> usize {
        self.borrowers.len()
    }
}

/// The error of an object that is lost, as its value.
fn lost(code: sparkray_common::ErrorCode, message: String) -> Value {
    Value::failed(CoreError::new(code, message))
}
