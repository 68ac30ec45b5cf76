//! The head's state: all tables, and every event that changes them.
//!
//! Invariants:
//! 1. No I/O, no clock: time comes in as an argument, what is to be done leaves as [`Effect`]s in order.
//! 2. An actor has a process on at most one node: it is placed again only when the node of its last process has
//!    said that it is gone, or is dead. A report of another node or incarnation kills the process it speaks of.
//! 3. An actor's incarnation never falls; a dead actor stays dead.
//! 4. A name within a namespace belongs to at most one living actor, and to none when its holder is dead.
//! 5. A living actor is pending, or on a node that is alive; a pending one is placed as soon as a node shows room.
//! 6. A non-detached actor does not outlive its owner, its owner's node or its job, in whatever order these
//!    ends and its registration arrive.
//! 7. A node that was declared dead stays dead: it attaches no more, and what arrives from it is ignored. A stream that
//!    broke declares nobody dead: the node attaches again, with all that it had, until its silence has lasted too long.
//! 8. Tables of the dead are bounded.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use sparkray_common::{ActorId, ErrorCode, HEAD_STALL, JobId, NodeId, WorkerAddress, WorkerId};
use sparkray_proto::head_message::Message;
use sparkray_proto::head_reply::Reply;
use sparkray_proto::head_request::Request;
use sparkray_proto::node_message::Message as FromNode;
use sparkray_proto::{
    ActorList, ActorSpec, ClusterView, Empty, Failure, HeadReply, HeadRequest, JobFinished, LogBatch,
    LogLine, MessageError, NodeDeathNotice, NodeList, NodeMessage, RegisterJob, RegisterNode, WorkerDeath,
    WorkerDeathNotice,
};
use tracing::{info, warn};

use crate::actors::{ActorTable, Context};
use crate::effects::{Effect, Effects};
use crate::jobs::JobTable;
use crate::kv::KvTable;
use crate::nodes::{NodeTable, Registration};

/// The time between two ticks, and between two views of the cluster.
pub(crate) const TICK: Duration = Duration::from_millis(100);
/// A head that did not run for so long is worth a warning; on a busy machine a second or two is nothing.
const LONG_HEAD_STALL: Duration = Duration::from_secs(5);
/// Ended processes that are remembered, so that a request that they made before is refused.
const KEPT_DEAD_WORKERS: usize = 65_536;

/// Everything the head knows.
#[derive(Debug)]
pub(crate) struct HeadState {
    head_epoch: u64,
    /// The head's process, for lines that it adds to a driver's log.
    pid: u32,
    pub(crate) nodes: NodeTable,
    pub(crate) actors: ActorTable,
    jobs: JobTable,
    kv: KvTable,
    dead_workers: HashSet<WorkerId>,
    /// Oldest first.
    dead_worker_order: VecDeque<WorkerId>,
    last_tick: Option<Instant>,
    effects: Effects,
}

impl HeadState {
    /// A head without nodes.
    pub(crate) fn new(head_epoch: u64, pid: u32) -> Self {
        Self {
            head_epoch,
            pid,
            nodes: NodeTable::default(),
            actors: ActorTable::default(),
            jobs: JobTable::default(),
            kv: KvTable::default(),
            dead_workers: HashSet::new(),
            dead_worker_order: VecDeque::new(),
            last_tick: None,
            effects: Effects::default(),
        }
    }

    /// What is to be done since the last call.
    pub(crate) fn take_effects(&mut self) -> Vec<Effect> {
        self.effects.take()
    }

    /// The epoch that nodes must know.
    pub(crate) fn head_epoch(&self) -> u64 {
        self.head_epoch
    }

    /// A node wants to join, or to go on over another stream. A new one is told the whole view.
    pub(crate) fn attach(&mut self, now: Instant, request: RegisterNode) -> Result<NodeId, Failure> {
        // A stall before the first tick is one, too.
        self.last_tick.get_or_insert(now);
        let (address, hostname) = (request.address.clone(), request.hostname.clone());
        let node = match self.nodes.register(now, self.head_epoch, request)? {
            Registration::New(node) => node,
            Registration::Again(node) => {
                info!(node_id = %node, address, hostname, "node attaches again");
                return Ok(node);
            }
        };
        info!(node_id = %node, address, hostname, "node joined");
        self.effects.send(
            node,
            Message::View(ClusterView {
                nodes: self.nodes.views(),
            }),
        );
        let (actors, mut context) = self.actors_in(now);
        actors.place_pending(&mut context);
        Ok(node)
    }

    /// A node shows that it is alive.
    pub(crate) fn heard(&mut self, now: Instant, node: NodeId) {
        self.nodes.heard(now, node);
    }

    /// A node says something.
    pub(crate) fn node_message(
        &mut self,
        now: Instant,
        node: NodeId,
        message: NodeMessage,
    ) -> Result<(), MessageError> {
        if !self.nodes.heard(now, node) {
            return Ok(());
        }
        match message.message.ok_or(MessageError::Missing("message"))? {
            FromNode::Register(_) => warn!(node_id = %node, "ignored a second registration on one stream"),
            FromNode::Heartbeat(_) => {}
            FromNode::Report(report) => {
                self.nodes.report(now, node, report)?;
                let (actors, mut context) = self.actors_in(now);
                actors.place_pending(&mut context);
            }
            FromNode::WorkerDeath(death) => self.worker_died(now, node, &death)?,
            FromNode::Actor(report) => {
                let (actors, mut context) = self.actors_in(now);
                actors.report(&mut context, node, report)?;
            }
            FromNode::Log(batch) => self.forward_log(batch)?,
            FromNode::WatchActor(watch) => {
                let id = ActorId::from_slice(&watch.actor_id)?;
                self.actors.watch(node, id, &mut self.effects);
            }
            FromNode::UnwatchActor(id) => self.actors.unwatch(node, ActorId::from_slice(&id)?),
        }
        Ok(())
    }

    /// A node's raylet has ended, or it was silent for so long that it has ended its workers: it is dead, with all its
    /// processes.
    pub(crate) fn detach(&mut self, now: Instant, node: NodeId, cause: &str) {
        let Some(hosted) = self.nodes.mark_dead(node) else {
            return;
        };
        info!(node_id = %node, cause, "node died");
        self.effects.detach(node);
        let notice = NodeDeathNotice {
            node_id: node.to_vec().into(),
            cause: cause.to_owned(),
        };
        self.effects
            .send_all(&self.nodes.alive_ids(), &Message::NodeDeath(notice));
        for job in self.jobs.with_driver_on(node) {
            self.finish_job(now, job);
        }
        let (actors, mut context) = self.actors_in(now);
        actors.node_died(&mut context, node, hosted, cause);
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

    /// Time passes. Called every [`TICK`].
    pub(crate) fn tick(&mut self, now: Instant) {
        let since_last = self
            .last_tick
            .map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        self.last_tick = Some(now);
        if since_last > HEAD_STALL {
            let seconds = since_last.as_secs_f64();
            // A busy machine does that for a second or two.
            if since_last > LONG_HEAD_STALL {
                warn!(seconds, "the head did not run for a while");
            } else {
                info!(seconds, "the head did not run for a while");
            }
            self.nodes.excuse(now, since_last);
        }
        for (node, silence) in self.nodes.silent(now) {
            self.detach(now, node, &format!("it was silent for {} s", silence.as_secs()));
        }
        let (actors, mut context) = self.actors_in(now);
        for waiting in actors.tick(&mut context) {
            self.tell_driver(waiting.job, waiting.text);
        }
        let changed = self.nodes.take_changed();
        if !changed.is_empty() {
            self.effects.send_all(
                &self.nodes.alive_ids(),
                &Message::View(ClusterView { nodes: changed }),
            );
        }
    }

    fn answer(&mut self, now: Instant, request: HeadRequest) -> Result<Reply, Failure> {
        let request = request
            .request
            .ok_or_else(|| malformed(MessageError::Missing("request")))?;
        match request {
            Request::RegisterJob(request) => self.register_job(request)?,
            Request::FinishJob(request) => {
                let job = JobId::from_slice(&request.job_id).map_err(|error| malformed(error.into()))?;
                self.finish_job(now, job);
            }
            Request::RegisterActor(request) => {
                let spec = request
                    .spec
                    .ok_or_else(|| malformed(MessageError::Missing("spec")))?;
                self.register_actor(now, spec, request.arguments_follow)?;
            }
            Request::GetActor(request) => return self.actors.get(&request).map(Reply::Actor),
            Request::KillActor(request) => {
                let (actors, mut context) = self.actors_in(now);
                actors.kill(&mut context, &request)?;
            }
            Request::ListNodes(_) => {
                return Ok(Reply::Nodes(NodeList {
                    nodes: self.nodes.views(),
                }));
            }
            Request::ListActors(_) => {
                return Ok(Reply::Actors(ActorList {
                    actors: self.actors.records(),
                }));
            }
            Request::KvPut(request) => return Ok(Reply::Value(self.kv.put(request))),
            Request::KvGet(request) => return Ok(Reply::Value(self.kv.get(&request))),
            Request::KvDelete(request) => return Ok(Reply::Value(self.kv.delete(&request))),
            Request::KvKeys(request) => return Ok(Reply::Keys(self.kv.keys(&request))),
        }
        Ok(Reply::Done(Empty {}))
    }

    fn register_job(&mut self, request: RegisterJob) -> Result<(), Failure> {
        let driver = request
            .driver
            .as_ref()
            .ok_or_else(|| malformed(MessageError::Missing("driver")))?;
        let driver = WorkerAddress::try_from(driver).map_err(malformed)?;
        self.check_lives(&driver, "driver")?;
        self.jobs.register(request)
    }

    fn register_actor(
        &mut self,
        now: Instant,
        spec: ActorSpec,
        arguments_follow: bool,
    ) -> Result<(), Failure> {
        let job = JobId::from_slice(&spec.job_id).map_err(|error| malformed(error.into()))?;
        let namespace = self.jobs.running(job)?.to_owned();
        let owner = spec
            .owner
            .as_ref()
            .ok_or_else(|| malformed(MessageError::Missing("owner")))?;
        let owner = WorkerAddress::try_from(owner).map_err(malformed)?;
        self.check_lives(&owner, "owner")?;
        let (actors, mut context) = self.actors_in(now);
        actors.register(&mut context, spec, &namespace, arguments_follow)
    }

    /// A request and the news of its sender's death come by different ways, in any order.
    fn check_lives(&self, process: &WorkerAddress, role: &str) -> Result<(), Failure> {
        let WorkerAddress {
            worker_id, node_id, ..
        } = process;
        let dead = if self.dead_workers.contains(worker_id) {
            format!("{role} {worker_id} is dead")
        } else if !self.nodes.is_alive(*node_id) {
            format!(
                "node {node_id} of {role} {worker_id} is not part of the cluster: it died or has not joined"
            )
        } else {
            return Ok(());
        };
        Err(Failure::new(
            ErrorCode::Stale,
            format!("{dead}; connect again from a new process"),
        ))
    }

    fn worker_died(&mut self, now: Instant, node: NodeId, death: &WorkerDeath) -> Result<(), MessageError> {
        let worker = WorkerId::from_slice(&death.worker_id)?;
        if !self.dead_workers.insert(worker) {
            return Ok(());
        }
        self.dead_worker_order.push_back(worker);
        if self.dead_worker_order.len() > KEPT_DEAD_WORKERS {
            if let Some(forgotten) = self.dead_worker_order.pop_front() {
                self.dead_workers.remove(&forgotten);
            }
        }
        let notice = WorkerDeathNotice {
            worker_id: death.worker_id.clone(),
            node_id: node.to_vec().into(),
            cause: death.cause.clone(),
        };
        self.effects
            .send_all(&self.nodes.alive_ids(), &Message::WorkerDeath(notice));
        // The job of a driver, also when the raylet does not know which one it was.
        for job in self.jobs.with_driver(worker) {
            self.finish_job(now, job);
        }
        let (actors, mut context) = self.actors_in(now);
        actors.worker_died(&mut context, worker, &death.cause);
        Ok(())
    }

    fn finish_job(&mut self, now: Instant, job: JobId) {
        if !self.jobs.finish(job) {
            return;
        }
        info!(job_id = %job, "job is over");
        let (actors, mut context) = self.actors_in(now);
        actors.job_finished(&mut context, job);
        let message = Message::JobFinished(JobFinished {
            job_id: job.to_vec().into(),
        });
        self.effects.send_all(&self.nodes.alive_ids(), &message);
    }

    fn forward_log(&mut self, batch: LogBatch) -> Result<(), MessageError> {
        let job = JobId::from_slice(&batch.job_id)?;
        if let Some(node) = self.jobs.driver_node(job) {
            self.effects.send(node, Message::Log(batch));
        }
        Ok(())
    }

    /// Adds a line to what the job's driver prints.
    fn tell_driver(&mut self, job: JobId, text: String) {
        let Some(node) = self.jobs.driver_node(job) else {
            return;
        };
        let line = LogLine {
            name: "head".to_owned(),
            pid: self.pid,
            ip: String::new(),
            text,
            is_stderr: true,
        };
        self.effects.send(
            node,
            Message::Log(LogBatch {
                job_id: job.to_vec().into(),
                lines: vec![line],
            }),
        );
    }

    fn actors_in(&mut self, now: Instant) -> (&mut ActorTable, Context<'_>) {
        (
            &mut self.actors,
            Context {
                now,
                nodes: &mut self.nodes,
                effects: &mut self.effects,
            },
        )
    }
}

fn malformed(error: MessageError) -> Failure {
    Failure::new(ErrorCode::InvalidArgument, error.to_string())
}
