//! The head's state: the tables, the present, and every event that changes them.
//!
//! Invariants:
//! 1. No I/O, no clock: time comes in as an argument. What an event changed leaves as [`Record`]s, what is to be done
//!    leaves as [`Effect`]s in order; nothing of it is done, and no answer given, before the records are durable.
//! 2. An actor has a process on at most one node: it is placed again only when the node of its last process has
//!    said that it is gone, or is dead. A report of another node or incarnation kills the process it speaks of.
//! 3. An actor's incarnation never falls; a dead actor stays dead.
//! 4. A name within a namespace belongs to at most one living actor, and to none when its holder is dead.
//! 5. A living actor is pending, or on a node that is alive; a pending one is placed as soon as a node shows room.
//! 6. A non-detached actor does not outlive its owner, its owner's node or its job, in whatever order these
//!    ends and its registration arrive.
//! 7. A node that was declared dead stays dead: it attaches no more, and what arrives from it is ignored. A stream that
//!    broke declares nobody dead: the node attaches again, with all that it had, until its silence has lasted too long.
//! 8. A placement group's bundles are committed on living nodes only, and when all that had no node are reserved. What a node was
//!    asked to reserve is committed, or returned, or the node is dead.

use std::time::{Duration, Instant};

use sparkray_common::{ActorId, ErrorCode, JobId, Metrics, NodeId, PlacementGroupId};
use sparkray_proto::head_reply::Reply;
use sparkray_proto::head_request::Request;
use sparkray_proto::node_message::Message as FromNode;
use sparkray_proto::{
    ClusterView, Empty, Failure, HeadReply, HeadRequest, MessageError, NodeMessage, RegisterJobReply,
    RegisterNode,
};
use tracing::warn;

use crate::change::Change;
use crate::commands::{
    actor_report, attach_node, jobs, kill_actor, kv, log, malformed, node_death, place_groups,
    placement_groups, queries, register_actor, resource_report, tick, watch_actor, worker_death,
};
use crate::effects::{Effect, Effects};
use crate::live::Live;
use crate::record::Record;
use crate::tables::Tables;

/// The time between two ticks, and between two views of the cluster.
pub(crate) const TICK: Duration = Duration::from_millis(100);

/// Everything the head knows.
#[derive(Debug)]
pub(crate) struct HeadState {
    head_epoch: u64,
    /// The head's process, for lines that it adds to a driver's log.
    pid: u32,
    tables: Tables,
    live: Live,
    records: Vec<Record>,
    effects: Effects,
}

impl HeadState {
    /// A head that goes on with these tables.
    pub(crate) fn new(now: Instant, head_epoch: u64, pid: u32, tables: Tables) -> Self {
        Self {
            head_epoch,
            pid,
            live: Live::rebuild(now, &tables),
            tables,
            records: Vec::new(),
            effects: Effects::default(),
        }
    }

    /// What has changed since the last call: for the journal, before the effects are carried out.
    #[must_use]
    pub(crate) fn take_records(&mut self) -> Vec<Record> {
        std::mem::take(&mut self.records)
    }

    /// What is to be done since the last call.
    #[must_use]
    pub(crate) fn take_effects(&mut self) -> Vec<Effect> {
        self.effects.take()
    }

    /// The epoch that nodes must know.
    pub(crate) fn head_epoch(&self) -> u64 {
        self.head_epoch
    }

    /// A node wants to join, or to go on over another stream.
    pub(crate) fn attach(&mut self, now: Instant, request: RegisterNode) -> Result<NodeId, Failure> {
        let head_epoch = self.head_epoch;
        attach_node::attach(&mut self.change(now), head_epoch, request)
    }

    /// All nodes, for one that attaches.
    pub(crate) fn view(&self) -> ClusterView {
        ClusterView {
            nodes: self.live.nodes.views(&self.tables.nodes),
        }
    }

    /// A node shows that it is alive; `false` when it is not part of the cluster and must not hear otherwise.
    pub(crate) fn heard(&mut self, now: Instant, node: NodeId) -> bool {
        let is_alive = self.tables.nodes.is_alive(node);
        if is_alive {
            self.live.nodes.heard(now, node);
        }
        is_alive
    }

    /// A node says something.
    pub(crate) fn node_message(
        &mut self,
        now: Instant,
        node: NodeId,
        message: NodeMessage,
    ) -> Result<(), MessageError> {
        if !self.heard(now, node) {
            return Ok(());
        }
        let change = &mut self.change(now);
        match message.message.ok_or(MessageError::Missing("message"))? {
            FromNode::Register(_) => warn!(node_id = %node, "ignored a second registration on one stream"),
            FromNode::Heartbeat(_) => {}
            FromNode::Report(report) => resource_report::report(change, node, report)?,
            FromNode::WorkerDeath(death) => worker_death::worker_died(change, node, &death)?,
            FromNode::Actor(report) => actor_report::report(change, node, report)?,
            FromNode::BundlesPrepared(answer) => place_groups::answered(change, node, &answer)?,
            FromNode::Log(batch) => log::forward(change, batch)?,
            FromNode::WatchActor(watch) => {
                watch_actor::watch(change, node, ActorId::from_slice(&watch.actor_id)?);
            }
            FromNode::UnwatchActor(id) => watch_actor::unwatch(change, node, ActorId::from_slice(&id)?),
        }
        Ok(())
    }

    /// A node is dead, with all its processes.
    pub(crate) fn detach(&mut self, now: Instant, node: NodeId, cause: &str) {
        node_death::detach(&mut self.change(now), node, cause);
    }

    /// Answers a client's request.
    pub(crate) fn request(&mut self, now: Instant, request: HeadRequest) -> HeadReply {
        match self.answer(now, request) {
            Ok(reply) => HeadReply {
                failure: None,
                reply: Some(reply),
            },
            Err(failure) => HeadReply {
                failure: Some(failure),
                reply: None,
            },
        }
    }

    /// Lists what there is, and what was counted.
    pub(crate) fn list_metrics(&self, into: &mut Metrics) {
        self.live.list_metrics(&self.tables, into);
    }

    /// Time passes. Called every [`TICK`].
    pub(crate) fn tick(&mut self, now: Instant) {
        let pid = self.pid;
        tick::tick(&mut self.change(now), pid);
    }

    fn answer(&mut self, now: Instant, request: HeadRequest) -> Result<Reply, Failure> {
        let request = request
            .request
            .ok_or_else(|| malformed(MessageError::Missing("request")))?;
        let change = &mut self.change(now);
        match request {
            Request::RegisterJob(request) => {
                let job = jobs::register(change, request)?;
                return Ok(Reply::Job(RegisterJobReply {
                    job_id: job.to_vec().into(),
                    driver: None,
                }));
            }
            Request::JoinJob(request) => return jobs::join(change.tables(), &request).map(Reply::Job),
            Request::FinishJob(request) => {
                jobs::finish(change, JobId::from_slice(&request.job_id).map_err(malformed)?);
            }
            Request::RegisterActor(request) => register_actor::register(change, request)?,
            Request::KillActor(request) => kill_actor::kill(change, &request)?,
            Request::KvPut(request) => return Ok(Reply::Value(kv::put(change, request))),
            Request::KvDelete(request) => return Ok(Reply::Value(kv::delete(change, request))),
            Request::KvGet(request) => return Ok(Reply::Value(kv::get(&self.tables.kv, &request))),
            Request::KvKeys(request) => return Ok(Reply::Keys(kv::keys(&self.tables.kv, &request))),
            Request::GetActor(request) => {
                return queries::get_actor(&self.tables, &request).map(Reply::Actor);
            }
            Request::ListNodes(_) => {
                return Ok(Reply::Nodes(queries::list_nodes(&self.tables, &self.live)));
            }
            Request::GetMetrics(_) => {
                // It asks about the process, which knows more than this state.
                let text = "what the head has counted is not in its tables: ask its service";
                return Err(Failure::new(ErrorCode::InvalidArgument, text));
            }
            Request::CreatePlacementGroup(request) => placement_groups::create(change, request)?,
            Request::RemovePlacementGroup(request) => {
                let id = PlacementGroupId::from_slice(&request.placement_group_id).map_err(malformed)?;
                placement_groups::remove(change, id);
            }
            Request::GetPlacementGroup(request) => {
                let found = placement_groups::get(&self.tables, &self.live, &request);
                return found.map(Reply::PlacementGroup);
            }
            Request::ListPlacementGroups(_) => {
                let groups = placement_groups::list(&self.tables, &self.live);
                return Ok(Reply::PlacementGroups(groups));
            }
            Request::ListActors(_) => return Ok(Reply::Actors(queries::list_actors(&self.tables))),
        }
        Ok(Reply::Done(Empty {}))
    }

    fn change(&mut self, now: Instant) -> Change<'_> {
        Change::new(
            now,
            &mut self.tables,
            &mut self.records,
            &mut self.live,
            &mut self.effects,
        )
    }

    /// The tables, for tests that look at what no message tells.
    #[cfg(test)]
    pub(crate) fn tables(&self) -> &Tables {
        &self.tables
    }

    /// The present, for tests that look at what no message tells.
    #[cfg(test)]
    pub(crate) fn live(&self) -> &Live {
        &self.live
    }
}
