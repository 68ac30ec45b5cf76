//! The parts together, without a socket, a process or a task.

mod bundles;
mod idle_workers;
mod infeasible;
mod metrics;
mod participants;
mod worker_keys;

use sparkray_common::{ActorId, JobId, LeaseId, MomentClock, NodeId, NodeLease, ResourceSet, VERSION};
use sparkray_object_store::StoreConfig;
use sparkray_proto::actor_report::Outcome;
use sparkray_proto::{
    ActorSpec, ClientKind, CreateActor, CreateActorReply, FrameKind, HeadLost, HeadReply, HeadRequest,
    JobFinished, LeaseBroken, LogBatch, NodeMessage, NodeView, PlaceActor, RegisterClient,
    RegisterClientReply, RegisterJob, RegisterJobReply, RequestWorkerLease, RequestWorkerLeaseReply,
    ReturnWorkerLease, head_message, head_reply, head_request, node_message,
};
use sparkray_rpc::Frame;
use tokio::sync::mpsc;

use super::*;
use crate::head::{Lease, Outgoing};
use crate::input::{ChildEnd, ZygoteEvent};
use crate::outbox::{Birth, HeadEffect};
use crate::test_support::{node_info, resources};

const JOB: JobId = JobId::from_array([1; 4]);

/// A raylet whose outside is the test.
struct Bench {
    router: Router,
    to_head: mpsc::Receiver<NodeMessage>,
    now: Instant,
    effects: Vec<Effect>,
    correlation: u64,
    pid: u32,
}

impl Bench {
    /// A node with so many CPUs, whose zygote is ready.
    fn new(cpus: f64) -> Self {
        Self::beside(cpus, &[])
    }

    /// One that joins these nodes, of which the first is the head's.
    fn beside(cpus: f64, others: &[NodeView]) -> Self {
        let now = Instant::now();
        let node = Arc::new(node_info(NodeId::random()));
        let (outgoing, to_head) = mpsc::channel(64);
        let lease = Lease::new(
            MomentClock::Monotonic,
            NodeLease::new(Duration::ZERO, Duration::from_secs(10)),
        );
        let total: ResourceSet = resources(&[("CPU", cpus)]);
        let store = StoreConfig::new(node.cluster_id, node.node_id, 1 << 20, false);
        let parts = Parts {
            clients: Clients::default(),
            leases: Leases::new(Arc::clone(&node), total, true),
            workers: Workers::new(Arc::clone(&node), 0, cpus as usize, true),
            actors: Actors::new(Arc::clone(&node), Ids::random()),
            objects: Objects::new(Arc::clone(&node), store, now),
            head: Head::new(
                Arc::clone(&node),
                "head".to_owned(),
                others.first().map(|head| head.address.clone()),
                Outgoing::new(outgoing),
                lease,
                now,
            ),
        };
        let mut view = ClusterView::new(node.node_id);
        view.apply(&sparkray_proto::ClusterView {
            nodes: others.to_vec(),
        })
        .unwrap();
        let mut bench = Self {
            router: Router::new(node, parts, view, Ids::random()),
            to_head,
            now,
            effects: Vec::new(),
            correlation: 0,
            pid: 100,
        };
        bench.put(Input::Zygote {
            zygote: 0,
            event: ZygoteEvent::Ready {
                pid: 1,
                python_version: "3.11".to_owned(),
                sparkray_version: VERSION.to_owned(),
            },
        });
        bench
    }

    fn put(&mut self, input: Input) {
        self.router.handle(input, self.now);
        self.router.schedule(self.now);
        self.effects
            .extend(std::iter::from_fn(|| self.router.next_effect()));
    }

    fn say<M: prost::Message>(&mut self, connection: u64, kind: FrameKind, message: &M) -> u64 {
        self.correlation += 1;
        self.answer(connection, kind, self.correlation, message);
        self.correlation
    }

    fn answer<M: prost::Message>(&mut self, connection: u64, kind: FrameKind, correlation: u64, message: &M) {
        let frame = Frame::new(kind, correlation, message);
        self.put(Input::Frame { connection, frame });
    }

    /// A driver whose job has begun.
    fn driver(&mut self) -> u64 {
        let connection = self.driver_without_job();
        self.begin_job(connection);
        self.answer_job(connection, 1);
        self.sent::<HeadReply>(connection, FrameKind::HeadReply);
        connection
    }

    /// A driver asks the head for a job.
    fn begin_job(&mut self, driver: u64) -> u64 {
        let request = HeadRequest {
            request: Some(head_request::Request::RegisterJob(RegisterJob::default())),
        };
        self.say(driver, FrameKind::HeadRequest, &request)
    }

    /// The head gives a driver its job.
    fn answer_job(&mut self, connection: u64, correlation: u64) {
        let reply = RegisterJobReply {
            job_id: JOB.to_vec().into(),
            driver: None,
        };
        let reply = Box::new(HeadReply {
            failure: None,
            reply: Some(head_reply::Reply::Job(reply)),
        });
        self.put(Input::Head(HeadEvent::JobAnswered {
            connection,
            correlation,
            reply,
        }));
    }

    /// Lines that the head passes on for the job's driver; the connections that get them.
    fn log_from_head(&mut self) -> Vec<u64> {
        let batch = LogBatch {
            job_id: JOB.to_vec().into(),
            lines: Vec::new(),
        };
        let message = head_message::Message::Log(batch);
        self.put(Input::Head(HeadEvent::Message(Box::new(message))));
        self.take_effects(|effect| match effect {
            Effect::SendLog { connection, .. } => Some(*connection),
            _ => None,
        })
    }

    /// A registered driver's connection.
    fn driver_without_job(&mut self) -> u64 {
        let connection = self.router.clients.connected(true, None, self.now);
        let register = RegisterClient {
            worker_id: WorkerId::random().to_vec().into(),
            kind: ClientKind::Driver.into(),
            pid: 7,
            log_to_driver: true,
            sparkray_version: VERSION.to_owned(),
            ..RegisterClient::default()
        };
        self.say(connection, FrameKind::RegisterClient, &register);
        connection
    }

    /// The workers that were asked for since the last look.
    fn births(&mut self) -> Vec<Birth> {
        let forks = self.take_effects(|effect| match effect {
            Effect::Fork { births } => Some(births.clone()),
            _ => None,
        });
        forks.into_iter().flatten().collect()
    }

    /// A worker that was forked registers; its pid.
    fn register(&mut self, birth: &Birth) -> u32 {
        self.pid += 1;
        let register = RegisterClient {
            worker_id: birth.worker.to_vec().into(),
            kind: ClientKind::Worker.into(),
            pid: self.pid,
            sparkray_version: VERSION.to_owned(),
            ..RegisterClient::default()
        };
        self.say(birth.connection, FrameKind::RegisterClient, &register);
        self.pid
    }

    /// The workers that were asked for are forked and register.
    fn bear(&mut self) -> Vec<(Birth, u32)> {
        let births = self.births().into_iter();
        births
            .map(|birth| {
                let pid = self.register(&birth);
                (birth, pid)
            })
            .collect()
    }

    /// A worker's process ends, and its connection with it.
    fn die(&mut self, birth: Birth, pid: u32) {
        self.put(Input::ChildrenEnded(vec![(pid, ChildEnd::Killed(9))]));
        self.put(Input::Closed {
            connection: birth.connection,
            cause: "its process ended".to_owned(),
        });
    }

    /// Takes out the effects of which `read` finds something.
    fn take_effects<T>(&mut self, read: impl Fn(&Effect) -> Option<T>) -> Vec<T> {
        let mut taken = Vec::new();
        self.effects.retain(|effect| match read(effect) {
            Some(found) => {
                taken.push(found);
                false
            }
            None => true,
        });
        taken
    }

    /// Frames of one kind that were sent over a connection.
    fn sent<M: prost::Message + Default>(&mut self, to: u64, kind: FrameKind) -> Vec<(u64, M)> {
        self.take_effects(|effect| match effect {
            Effect::Send { connection, frame } if *connection == to && frame.kind == kind => {
                Some((frame.correlation, frame.decode().unwrap()))
            }
            _ => None,
        })
    }

    fn ask_for_lease(&mut self, driver: u64) -> (LeaseId, u64) {
        let lease = LeaseId::random();
        let request = RequestWorkerLease {
            lease_id: lease.to_vec().into(),
            job_id: JOB.to_vec().into(),
            resources: Some((&resources(&[("CPU", 1.0)])).into()),
            ..RequestWorkerLease::default()
        };
        (lease, self.say(driver, FrameKind::RequestWorkerLease, &request))
    }

    fn granted(&mut self, driver: u64) -> Vec<(u64, RequestWorkerLeaseReply)> {
        self.sent(driver, FrameKind::RequestWorkerLeaseReply)
    }

    /// What the head was told of an actor.
    fn outcomes(&mut self) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        while let Ok(message) = self.to_head.try_recv() {
            if let Some(node_message::Message::Actor(report)) = message.message {
                outcomes.extend(report.outcome);
            }
        }
        outcomes
    }

    fn place_actor(&mut self, id: ActorId) {
        let spec = ActorSpec {
            actor_id: id.to_vec().into(),
            job_id: JOB.to_vec().into(),
            ..ActorSpec::default()
        };
        let message = head_message::Message::PlaceActor(PlaceActor {
            spec: Some(spec),
            incarnation: 1,
        });
        self.put(Input::Head(HeadEvent::Message(Box::new(message))));
    }
}

#[test]
fn a_returned_worker_serves_the_next_request_and_a_dead_one_breaks_its_lease() {
    let mut bench = Bench::new(1.0);
    let driver = bench.driver();
    let (first, correlation) = bench.ask_for_lease(driver);
    let (birth, pid) = bench.bear().remove(0);
    let (answered, reply) = bench.granted(driver).remove(0);
    assert_eq!((answered, reply.worker_pid), (correlation, pid));

    let (second, correlation) = bench.ask_for_lease(driver);
    assert!(bench.granted(driver).is_empty(), "there is one CPU");
    let returned = ReturnWorkerLease {
        lease_id: first.to_vec().into(),
        worker_failed: false,
    };
    bench.say(driver, FrameKind::ReturnWorkerLease, &returned);
    let (answered, reply) = bench.granted(driver).remove(0);
    assert_eq!((answered, reply.worker_pid), (correlation, pid));

    bench.die(birth, pid);
    let (_, broken) = bench
        .sent::<LeaseBroken>(driver, FrameKind::LeaseBroken)
        .remove(0);
    assert_eq!(broken.lease_id[..], second.as_bytes()[..]);
    assert!(broken.cause.contains("SIGKILL"), "{}", broken.cause);
}

#[test]
fn the_end_of_a_driver_kills_the_workers_of_its_leases() {
    let mut bench = Bench::new(1.0);
    let driver = bench.driver();
    bench.ask_for_lease(driver);
    let (_, pid) = bench.bear().remove(0);
    bench.put(Input::Closed {
        connection: driver,
        cause: "its connection closed".to_owned(),
    });
    let mut killed = bench.take_effects(|effect| match effect {
        Effect::Kill { pid } => Some(*pid),
        _ => None,
    });
    // For its lease and for its job.
    killed.dedup();
    assert_eq!(killed, vec![pid]);
}

#[test]
fn the_raylet_knows_a_job_before_its_driver_does() {
    let mut bench = Bench::new(1.0);
    let driver = bench.driver_without_job();
    let correlation = bench.begin_job(driver);
    let asked = bench.take_effects(|effect| match effect {
        Effect::Head(HeadEffect::AskForJob {
            connection,
            correlation,
            ..
        }) => Some((*connection, *correlation)),
        _ => None,
    });
    assert_eq!(asked, vec![(driver, correlation)]);
    assert!(bench.log_from_head().is_empty(), "nobody has this job yet");
    bench.answer_job(driver, correlation);
    let (answered, reply) = bench.sent::<HeadReply>(driver, FrameKind::HeadReply).remove(0);
    assert_eq!(answered, correlation);
    assert!(matches!(reply.reply, Some(head_reply::Reply::Job(_))));
    assert_eq!(bench.log_from_head(), vec![driver]);
}

#[test]
fn a_driver_that_ends_before_its_job_has_begun_leaves_nothing() {
    let mut bench = Bench::new(1.0);
    let driver = bench.driver_without_job();
    let correlation = bench.begin_job(driver);
    bench.put(Input::Closed {
        connection: driver,
        cause: "its connection closed".to_owned(),
    });
    let mut told = std::iter::from_fn(|| bench.to_head.try_recv().ok());
    let is_told = told.any(|told| matches!(told.message, Some(node_message::Message::WorkerDeath(_))));
    assert!(is_told, "the head ends the job, whether it has begun it or not");
    bench.answer_job(driver, correlation);
    let job_over = head_message::Message::JobFinished(JobFinished {
        job_id: JOB.to_vec().into(),
    });
    bench.put(Input::Head(HeadEvent::Message(Box::new(job_over))));
    assert!(bench.log_from_head().is_empty());
    assert!(bench.router.clients.driver_of(JOB).is_none());
    assert!(!bench.router.clients.is_known(driver));
}

#[test]
fn an_actor_gets_a_worker_and_ends_with_it() {
    let mut bench = Bench::new(1.0);
    bench.place_actor(ActorId::random());
    let (birth, pid) = bench.bear().remove(0);
    let (creation, _) = bench
        .sent::<CreateActor>(birth.connection, FrameKind::CreateActor)
        .remove(0);
    let reply = CreateActorReply::default();
    bench.answer(birth.connection, FrameKind::CreateActorReply, creation, &reply);
    assert!(matches!(bench.outcomes()[..], [Outcome::Alive(_)]));
    bench.die(birth, pid);
    assert!(matches!(bench.outcomes()[..], [Outcome::WorkerDied(_)]));
}

#[test]
fn a_constructor_that_raises_gives_room_and_worker_back() {
    let mut bench = Bench::new(1.0);
    bench.place_actor(ActorId::random());
    let (birth, _) = bench.bear().remove(0);
    let (creation, _) = bench
        .sent::<CreateActor>(birth.connection, FrameKind::CreateActor)
        .remove(0);
    let reply = CreateActorReply {
        error: vec![1].into(),
        ..CreateActorReply::default()
    };
    bench.answer(birth.connection, FrameKind::CreateActorReply, creation, &reply);
    assert!(matches!(bench.outcomes()[..], [Outcome::ConstructorError(_)]));
    let ended = bench.take_effects(|effect| match effect {
        Effect::KillLater { worker, .. } => Some(*worker),
        _ => None,
    });
    assert_eq!(ended, vec![birth.worker]);
    assert_eq!(bench.router.leases.available(), &resources(&[("CPU", 1.0)]));
}

#[test]
fn workers_that_cannot_be_prepared_fail_once_however_many_were_asked_for() {
    let mut bench = Bench::new(4.0);
    let driver = bench.driver();
    for _ in 0..3 {
        bench.ask_for_lease(driver);
    }
    let forks = bench.take_effects(|effect| match effect {
        Effect::Fork { births } => Some(births.clone()),
        _ => None,
    });
    let births: Vec<Birth> = forks.into_iter().flatten().collect();
    assert_eq!(births.len(), 3);
    let connections: Vec<u64> = births.iter().map(|birth| birth.connection).collect();
    let error = Some("no descriptors".to_owned());
    bench.put(Input::NotForked { births, error });
    let released = bench.take_effects(|effect| match effect {
        Effect::Release { connection } => Some(*connection),
        _ => None,
    });
    assert_eq!(released, connections);
    assert_eq!(bench.router.workers.len(), 0);
    assert!(bench.granted(driver).is_empty(), "they wait for the next try");
    bench.now += Duration::from_secs(1);
    let (clock, head_stall) = (Duration::ZERO, None);
    bench.put(Input::Tick { clock, head_stall });
    assert_eq!(bench.bear().len(), 3);
    assert_eq!(bench.granted(driver).len(), 3);
}

#[test]
fn a_node_that_the_head_does_not_acknowledge_tells_its_clients_and_ends() {
    let mut bench = Bench::new(1.0);
    let driver = bench.driver();
    let (clock, head_stall) = (Duration::from_mins(1), None);
    bench.put(Input::Tick { clock, head_stall });
    let told = bench.sent::<HeadLost>(driver, FrameKind::HeadLost);
    assert_eq!(told.len(), 1);
    let failure = bench.router.take_failure();
    assert!(matches!(failure, Some(RayletError::CutOff { .. })), "{failure:?}");
}

#[test]
fn who_comes_when_the_head_is_gone_hears_that_unless_it_is_of_another_node() {
    let mut bench = Bench::new(1.0);
    let cause = "it was killed".to_owned();
    bench.put(Input::Head(HeadEvent::Lost { cause }));
    let driver = bench.driver_without_job();
    let told = |bench: &mut Bench, connection| bench.sent::<HeadLost>(connection, FrameKind::HeadLost).len();
    assert_eq!(told(&mut bench, driver), 1);
    let raylet = bench.router.clients.connected(false, None, bench.now);
    let register = RegisterClient {
        kind: ClientKind::Remote.into(),
        sparkray_version: VERSION.to_owned(),
        node_id: NodeId::random().to_vec().into(),
        ..RegisterClient::default()
    };
    bench.say(raylet, FrameKind::RegisterClient, &register);
    let replies = bench.sent::<RegisterClientReply>(raylet, FrameKind::RegisterClientReply);
    assert_eq!((replies.len(), told(&mut bench, raylet)), (1, 0));
}

#[test]
fn a_head_that_falls_silent_right_after_the_joining_is_asked_about_on_its_node() {
    let head = NodeView {
        node_id: NodeId::random().to_vec().into(),
        address: "head:1".to_owned(),
        alive: true,
        ..NodeView::default()
    };
    let mut bench = Bench::beside(1.0, std::slice::from_ref(&head));
    bench.put(Input::Tick {
        clock: Duration::from_secs(5),
        head_stall: None,
    });
    let asked = bench.take_effects(|effect| match effect {
        Effect::Head(HeadEffect::AskStall { node, address, .. }) => Some((*node, address.clone())),
        _ => None,
    });
    let node = NodeId::from_slice(&head.node_id).unwrap();
    assert_eq!(asked, [(node, "head:1".to_owned())]);
}
