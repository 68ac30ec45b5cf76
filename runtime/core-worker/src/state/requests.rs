//! What the code around the state asks of it, in the name of the user's threads: each passes on to one part.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use sparkray_common::{ActorId, FunctionId, ObjectId, TaskId, WorkerAddress};
use sparkray_proto::{self as proto, FrameKind};

use super::limits::MAX_UNFINISHED_TASKS;
use super::links::id_bytes;
use super::{
    Base, Begun, CallKind, CreateActorWork, Creation, FetchedResult, IncomingTask, Locations, NewTask,
    Notice, Objects, Pending, SlotResult, State, StoreAnswer, UnhandledErrors, Value, WaitId, Work,
};
use crate::dropped::HandleKind;
use crate::error::CoreError;
use crate::store::StoredValue;

impl State {
    // ---- the raylet and the head ---------------------------------------------------------------------------

    pub(crate) fn tell_raylet<M: Message>(&mut self, kind: FrameKind, message: &M, urgent: bool) {
        self.base.links.tell_raylet(kind, message, urgent);
    }

    /// A request to the local raylet for which a thread waits: its answer will be in the slot.
    pub(crate) fn ask_raylet<M: Message>(
        &mut self,
        pending: impl FnOnce(u64) -> Pending,
        kind: FrameKind,
        message: &M,
    ) -> u64 {
        self.base.links.ask_raylet(pending, kind, message)
    }

    /// As [`State::ask_raylet`], to another process.
    pub(crate) fn ask_worker<M: Message>(
        &mut self,
        address: &WorkerAddress,
        pending: impl FnOnce(u64) -> Pending,
        kind: FrameKind,
        message: &M,
    ) -> u64 {
        let conn = self.base.links.conn_to_worker(address);
        self.base.links.ask(conn, pending, kind, message)
    }

    /// The answer in a slot, once it is there; the slot is gone with it.
    pub(crate) fn take_slot(&mut self, slot: u64) -> Option<SlotResult> {
        self.base.links.take_slot(slot)
    }

    /// Nobody waits for the answer any more.
    pub(crate) fn forget_slot(&mut self, slot: u64) {
        self.base.links.forget_slot(slot);
    }

    pub(crate) fn notify(&mut self, notice: Notice) {
        self.base.links.out.notify(notice);
    }

    // ---- objects -------------------------------------------------------------------------------------------

    pub(crate) fn objects(&self) -> &Objects {
        &self.base.objects
    }

    /// The owner of an object that this process knows.
    pub(crate) fn owner_of(&self, id: ObjectId) -> Option<Arc<WorkerAddress>> {
        let objects = &self.base.objects;
        let owner = objects
            .contains(&id)
            .then(|| objects.owner(&id).unwrap_or(self.me()));
        owner.cloned()
    }

    /// Whether an object is this process's own.
    pub(crate) fn is_owned(&self, id: ObjectId) -> bool {
        let objects = &self.base.objects;
        objects.contains(&id) && objects.owner(&id).is_none()
    }

    pub(crate) fn add_owned(&mut self, id: ObjectId, value: Value, contained: Vec<ObjectId>) {
        self.base.objects.add_owned(id, value, contained);
    }

    pub(crate) fn add_put(&mut self, id: ObjectId, value: Value, contained: Vec<ObjectId>) {
        self.base.objects.add_put(id, value, contained);
    }

    #[cfg(test)]
    pub(crate) fn resolve(&mut self, id: ObjectId, value: Value) {
        self.base.objects.resolve(&mut self.base.links, id, value);
    }

    pub(crate) fn add_ref(&mut self, id: ObjectId) {
        self.base.objects.add_ref(id);
    }

    pub(crate) fn drop_ref(&mut self, id: ObjectId) {
        self.base.drop_ref(id);
    }

    pub(crate) fn add_foreign_ref(&mut self, id: ObjectId, owner: &WorkerAddress) -> bool {
        self.base.objects.add_foreign_ref(&self.base.links, id, owner)
    }

    pub(crate) fn keep_until_borrowed(&mut self, object: ObjectId, read: &[ObjectId]) {
        self.base.objects.keep_until_borrowed(object, read);
    }

    pub(crate) fn hold_argument(&mut self, id: ObjectId, locations: Locations) {
        self.base.objects.hold_argument(id, locations);
    }

    pub(crate) fn existing(&mut self, ids: &[ObjectId], wanted: usize) -> Vec<usize> {
        self.base.objects.existing(ids, wanted)
    }

    pub(crate) fn wait_for_existence(&mut self, ids: &[ObjectId], missing: usize) -> WaitId {
        let Base { links, objects, .. } = &mut self.base;
        objects.wait_for_existence(links, ids, missing)
    }

    pub(crate) fn end_wait(&mut self, wait: WaitId) {
        self.base.objects.end_wait(wait);
    }

    pub(crate) fn fetch(&mut self, ids: &[ObjectId], until_failure: bool) -> Begun<Vec<FetchedResult>> {
        let Base { links, objects, .. } = &mut self.base;
        objects.fetch(links, ids, until_failure)
    }

    pub(crate) fn fetch_for(&mut self, id: ObjectId, notify: u64) -> Begun<Vec<FetchedResult>> {
        let Base { links, objects, .. } = &mut self.base;
        objects.fetch_for(links, id, notify)
    }

    pub(crate) fn take_values(&mut self, wait: WaitId) -> Option<Vec<FetchedResult>> {
        self.base.objects.take_values(wait)
    }

    pub(crate) fn take_store_answers(&mut self) -> Vec<StoreAnswer> {
        self.base.objects.take_store_answers()
    }

    pub(crate) fn mapped(&mut self, id: ObjectId, value: &Arc<StoredValue>) {
        self.base.objects.mapped(&mut self.base.links, id, value);
    }

    pub(crate) fn read_failed(&mut self, id: ObjectId, error: &CoreError) {
        self.base.objects.read_failed(&mut self.base.links, id, error);
    }

    pub(crate) fn release_mapped(&mut self, ids: &[ObjectId]) {
        Objects::release_mapped(&mut self.base.links, ids);
    }

    /// Frees an object that this process has written to its node's store.
    pub(crate) fn free_here(&mut self, id: ObjectId) {
        let me = &self.base.links.process.me;
        let here = vec![(me.node_id, me.node_address.clone())];
        self.base.objects.free_stored(id, &here);
    }

    /// This process tells its user of these errors that nobody asked for.
    pub(crate) fn report_unhandled(&mut self, told: UnhandledErrors) {
        self.base.objects.report_unhandled(told);
    }

    // ---- calls ---------------------------------------------------------------------------------------------

    /// Whether another call may be submitted: its arguments, and the call itself, may be held. Once this process has left
    /// the cluster, too: then it fails.
    pub(crate) fn has_room(&self) -> bool {
        let is_broken = self.broken().is_some();
        is_broken || (self.base.tasks.len() < MAX_UNFINISHED_TASKS && self.base.objects.has_room())
    }

    /// A value that was put is a long argument of the call that is submitted next.
    pub(crate) fn note_argument(&mut self, id: ObjectId) {
        self.base.objects.note_argument(id);
    }

    /// Submits a call; gives the ids of its results, each with one reference.
    pub(crate) fn submit(&mut self, call: NewTask) -> Vec<ObjectId> {
        let actor = match &call.kind {
            CallKind::Actor { actor_id, .. } => Some(*actor_id),
            CallKind::Function(_) => None,
        };
        let Base {
            links,
            objects,
            tasks,
        } = &mut self.base;
        let (task, results, waits) = tasks.submit(objects, links, call);
        match actor {
            Some(actor) => self.actors.enqueue(&mut self.base, actor, task),
            None if !waits => self.leases.enqueue(&mut self.base, task),
            None => {}
        }
        results
    }

    /// Tasks that were submitted and are not finished.
    pub(crate) fn unfinished_tasks(&self) -> usize {
        self.base.tasks.len()
    }

    // ---- actors --------------------------------------------------------------------------------------------

    pub(crate) fn add_actor_handle(&mut self, actor: ActorId, created: bool) {
        self.actors.add_handle(&mut self.base.links, actor, created);
    }

    pub(crate) fn add_weak_actor_handle(&mut self, actor: ActorId) {
        self.actors.add_weak_handle(&mut self.base.links, actor);
    }

    pub(crate) fn drop_actor_handle(&mut self, actor: ActorId, kind: HandleKind) {
        self.actors.drop_handle(&mut self.base.links, actor, kind);
    }

    pub(crate) fn call_out_of_order(&mut self, actor: ActorId) {
        self.actors.call_out_of_order(actor);
    }

    pub(crate) fn actor_escapes(&mut self, actor: ActorId) {
        self.actors.escapes(actor);
    }

    pub(crate) fn is_registering(&self, actor: ActorId) -> bool {
        self.actors.is_registering(actor)
    }

    pub(crate) fn pin_for_actor(&mut self, actor: ActorId, objects: Vec<ObjectId>) {
        self.actors.pin(&mut self.base, actor, objects);
    }

    /// What the head is to be told of an actor by a thread that waits for its answer, and whether its arguments are there.
    pub(crate) fn registration(&mut self, creation: &Creation) -> (proto::HeadRequest, bool) {
        let ready = creation.has_arguments(&mut self.base);
        (creation.registration(&self.base, ready), ready)
    }

    pub(crate) fn register_actor(&mut self, actor: ActorId, creation: Creation) {
        self.actors.register(&mut self.base, actor, creation);
    }

    pub(crate) fn create_actor_later(&mut self, actor: ActorId, creation: Creation) {
        self.actors.create_later(&mut self.base, actor, creation);
    }

    pub(crate) fn actor_registered(&mut self, actor: ActorId) {
        self.actors.on_registered(&mut self.base, actor);
    }

    pub(crate) fn actor_refused(&mut self, actor: ActorId, error: CoreError, unsure: bool) {
        self.actors.refused(&mut self.base, actor, error, unsure);
    }

    pub(crate) fn actor_killed(&mut self, actor: ActorId) {
        self.actors.killed(&mut self.base, actor);
    }

    // ---- running calls -------------------------------------------------------------------------------------

    /// Whether a call that runs here is to end.
    pub(crate) fn is_cancelled(&self, task_id: TaskId) -> bool {
        self.execution.is_cancelled(task_id)
    }

    pub(crate) fn is_ending(&self) -> bool {
        self.execution.is_ending()
    }

    pub(crate) fn announce_work(&mut self) {
        self.execution.announce_work();
    }

    pub(crate) fn current_actor(&self) -> Option<(ActorId, u64)> {
        self.execution.actor()
    }

    pub(crate) fn function_blob(&self, function: FunctionId) -> Option<Bytes> {
        self.execution.function_blob(function)
    }

    pub(crate) fn function_loaded(&mut self, function: FunctionId) {
        self.execution.function_loaded(function);
    }

    /// Whether there is a call to run.
    pub(crate) fn has_work(&self) -> bool {
        self.execution.has_work()
    }

    pub(crate) fn take_work(&mut self) -> Option<Work> {
        self.execution.take_work(&mut self.base)
    }

    pub(crate) fn finish_work(
        &mut self,
        task: &IncomingTask,
        returns: Vec<proto::ReturnValue>,
        payload: &[&[u8]],
        pins: Vec<ObjectId>,
        more: bool,
    ) {
        self.execution
            .finish_work(&mut self.base, task, returns, payload, pins, more);
    }

    pub(crate) fn fail_work(&mut self, task: &IncomingTask, error: &CoreError) {
        self.execution.fail_work(&mut self.base, task, error);
    }

    pub(crate) fn finish_create_actor(
        &mut self,
        work: &CreateActorWork,
        error: Option<Bytes>,
        failure: Option<CoreError>,
    ) -> Result<(), CoreError> {
        self.execution
            .finish_create_actor(&mut self.base.links, work, error, failure)
    }

    pub(crate) fn set_blocked(&mut self, blocked: bool) {
        self.execution.set_blocked(&mut self.base.links, blocked);
    }

    /// The code of this actor wants it to end, for good.
    pub(crate) fn announce_exit(&mut self) {
        self.tell_raylet(FrameKind::ActorExits, &proto::ActorExits {}, true);
    }

    /// Labels this worker's output with the name of what it runs.
    pub(crate) fn set_label(&mut self, name: &str) {
        let label = proto::WorkerLabel {
            name: name.to_owned(),
            job_id: id_bytes(self.job_id().as_bytes()),
        };
        self.tell_raylet(FrameKind::WorkerLabel, &label, true);
    }
}
