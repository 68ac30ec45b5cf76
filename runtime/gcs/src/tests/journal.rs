//! Records tell all that changes, and a head goes on with what they say.

use std::time::Duration;

use proptest::prelude::*;
use sparkray_common::{ErrorCode, JobId};
use sparkray_proto::actor_report::Outcome;
use sparkray_proto::head_request::Request;
use sparkray_proto::node_message::Message as FromNode;
use sparkray_proto::{
    ActorState, FinishJob, KvDelete, KvPut, RegisterActor, ResourceReport, WatchActorOnNode,
};

use super::{Cluster, actor_id, code, cpus, kills, node_id, register_node, worker};

#[test]
fn what_is_refused_makes_no_record() {
    let mut cluster = Cluster::with_nodes(&[1.0]);
    let mut named = cluster.spec(1, 1.0);
    named.name = "name".to_owned();
    cluster.register(named.clone()).unwrap();
    cluster.worker_dies(&worker(node_id(1), 9));
    let records = cluster.journal.len();

    let mut other_version = register_node(node_id(2), 1.0);
    other_version.sparkray_version = "0.0.1".to_owned();
    let outcome = cluster.state.attach(cluster.now, other_version);
    cluster.collect();
    assert_eq!(code(outcome), ErrorCode::VersionMismatch);
    let of_the_dead = cluster.register_job(&worker(node_id(1), 9));
    assert_eq!(code(of_the_dead), ErrorCode::Stale);
    named.actor_id = actor_id(2).to_vec().into();
    assert_eq!(code(cluster.register(named)), ErrorCode::AlreadyExists);
    let mut impossible = cluster.spec(3, 1.0);
    impossible.max_restarts = -2;
    assert_eq!(code(cluster.register(impossible)), ErrorCode::InvalidArgument);
    assert_eq!(code(cluster.kill(77, true)), ErrorCode::NotFound);
    cluster.tell(node_id(1), 1, 5, Outcome::WorkerDied("an old process".to_owned()));

    assert_eq!(cluster.journal.len(), records);
}

#[test]
fn what_is_said_again_and_what_is_only_true_now_makes_no_record() {
    let mut cluster = Cluster::with_nodes(&[1.0]);
    cluster.alive(cluster.spec(1, 1.0), 5);
    cluster.watch(node_id(1), 1);
    cluster.worker_dies(&worker(node_id(1), 9));
    let records = cluster.journal.len();

    cluster.attach(node_id(1), 1.0).unwrap();
    cluster.register_job(&cluster.driver.clone()).unwrap();
    cluster.register(cluster.spec(1, 1.0)).unwrap();
    cluster.watch(node_id(1), 1);
    cluster.worker_dies(&worker(node_id(1), 9));
    cluster.report_resources(node_id(1), 0.5);
    cluster.pass_alive(Duration::from_secs(1), &[node_id(1)]);

    assert_eq!(cluster.journal.len(), records);
}

#[test]
fn a_head_that_starts_gives_every_node_its_whole_silence() {
    let mut cluster = Cluster::with_nodes(&[1.0]);
    cluster.alive(cluster.spec(1, 1.0), 5);
    cluster.pass_alive(Duration::from_secs(9), &[]);
    cluster.restart_head();
    cluster.pass_alive(Duration::from_secs(9), &[]);
    assert!(cluster.detached.is_empty());
    assert_eq!(cluster.actor_state(1), ActorState::Alive);
    cluster.pass_alive(Duration::from_secs(2), &[]);
    assert_eq!(cluster.detached, [node_id(1)]);
    assert_eq!(cluster.actor_state(1), ActorState::Dead);
}

#[test]
fn a_head_that_starts_asks_again_for_the_end_of_a_process_and_places_what_waits() {
    let mut cluster = Cluster::with_nodes(&[1.0]);
    let mut spec = cluster.spec(1, 1.0);
    spec.max_restarts = 1;
    cluster.alive(spec, 5);
    cluster.kill(1, false).unwrap();
    cluster.register(cluster.spec(2, 4.0)).unwrap();
    cluster.inboxes.clear();
    cluster.restart_head();
    cluster.pass_alive(Duration::from_secs(6), &[node_id(1)]);
    assert_eq!(kills(&cluster.inbox(node_id(1))), [(actor_id(1), 0)]);
    cluster.tell(node_id(1), 1, 0, Outcome::WorkerDied("killed".to_owned()));
    assert_eq!(cluster.placement(1), Some((node_id(1), 1)));
    cluster.attach(node_id(2), 4.0).unwrap();
    assert_eq!(cluster.placement(2), Some((node_id(2), 0)));
}

#[derive(Debug, Clone)]
enum Step {
    Attach(u8),
    Detach(u8),
    BeginJob(u8, u8),
    FinishJob(u8),
    Register {
        actor: u8,
        job: u8,
        name: u8,
        cpu: u8,
        arguments_follow: bool,
    },
    Report {
        node: u8,
        actor: u8,
        incarnation: u64,
        outcome: u8,
    },
    Kill(u8, bool),
    Watch(u8, u8, bool),
    WorkerDies(u8, u8),
    Put(u8, u8, bool),
    Delete(u8),
    Resources(u8, u8),
    Pass(u16),
    HeadRestarts,
}

/// Few of each, so that they meet.
fn steps() -> impl Strategy<Value = Step> {
    let few = || 1..5_u8;
    prop_oneof![
        3 => few().prop_map(Step::Attach),
        1 => few().prop_map(Step::Detach),
        2 => (few(), few()).prop_map(|(node, driver)| Step::BeginJob(node, driver)),
        1 => few().prop_map(Step::FinishJob),
        4 => (few(), few(), 0..3_u8, 0..3_u8, any::<bool>()).prop_map(|(actor, job, name, cpu, arguments_follow)| {
            Step::Register { actor, job, name, cpu, arguments_follow }
        }),
        6 => (few(), few(), 0..3_u64, 0..5_u8)
            .prop_map(|(node, actor, incarnation, outcome)| Step::Report { node, actor, incarnation, outcome }),
        2 => (few(), any::<bool>()).prop_map(|(actor, no_restart)| Step::Kill(actor, no_restart)),
        2 => (few(), few(), any::<bool>()).prop_map(|(node, actor, watches)| Step::Watch(node, actor, watches)),
        1 => (few(), few()).prop_map(|(node, number)| Step::WorkerDies(node, number)),
        1 => (few(), few(), any::<bool>()).prop_map(|(key, value, overwrite)| Step::Put(key, value, overwrite)),
        1 => few().prop_map(Step::Delete),
        2 => (few(), 0..3_u8).prop_map(|(node, cpu)| Step::Resources(node, cpu)),
        2 => (0..7000_u16).prop_map(Step::Pass),
        1 => Just(Step::HeadRestarts),
    ]
}

/// Does one step; what the head refuses is part of it.
fn take(cluster: &mut Cluster, step: Step) {
    let job_id = |number: u8| JobId::from_array(u32::from(number).to_be_bytes());
    match step {
        Step::Attach(node) => drop(cluster.attach(node_id(node), 2.0)),
        Step::Detach(node) => {
            cluster.state.detach(cluster.now, node_id(node), "gone");
            cluster.collect();
        }
        Step::BeginJob(node, driver) => drop(cluster.register_job(&worker(node_id(node), driver))),
        Step::FinishJob(job) => {
            let job_id = job_id(job).to_vec().into();
            drop(cluster.request(Request::FinishJob(FinishJob { job_id })));
        }
        Step::Register {
            actor,
            job,
            name,
            cpu,
            arguments_follow,
        } => {
            let mut spec = cluster.spec(actor, f64::from(cpu));
            spec.job_id = job_id(job).to_vec().into();
            spec.max_restarts = i32::from(name) - 1;
            spec.detached = cpu == 1;
            if name > 0 {
                spec.name = format!("name{name}");
            }
            let spec = Some(spec);
            drop(cluster.request(Request::RegisterActor(RegisterActor {
                spec,
                arguments_follow,
            })));
        }
        Step::Report {
            node,
            actor,
            incarnation,
            outcome,
        } => {
            let outcome = match outcome {
                0 => Outcome::WorkerDied("died".to_owned()),
                1 => Outcome::Exited("exited".to_owned()),
                2 => Outcome::Rejected("full".to_owned()),
                3 => Outcome::ConstructorError("error".into()),
                _ => Outcome::Alive((&worker(node_id(node), actor)).into()),
            };
            cluster.tell(node_id(node), actor, incarnation, outcome);
        }
        Step::Kill(actor, no_restart) => drop(cluster.kill(actor, no_restart)),
        Step::Watch(node, actor, true) => {
            let actor_id = actor_id(actor).to_vec().into();
            cluster.say(node_id(node), FromNode::WatchActor(WatchActorOnNode { actor_id }));
        }
        Step::Watch(node, actor, false) => {
            cluster.say(
                node_id(node),
                FromNode::UnwatchActor(actor_id(actor).to_vec().into()),
            );
        }
        Step::WorkerDies(node, number) => cluster.worker_dies(&worker(node_id(node), number)),
        Step::Put(key, value, overwrite) => {
            let put = KvPut {
                key: vec![key].into(),
                value: vec![value].into(),
                namespace: format!("{}", key % 2),
                overwrite,
            };
            drop(cluster.request(Request::KvPut(put)));
        }
        Step::Delete(key) => {
            let delete = KvDelete {
                key: vec![key].into(),
                namespace: format!("{}", key % 2),
            };
            drop(cluster.request(Request::KvDelete(delete)));
        }
        Step::Resources(node, cpu) => cluster.say(
            node_id(node),
            FromNode::Report(ResourceReport {
                available: Some(cpus(f64::from(cpu))),
                ..ResourceReport::default()
            }),
        ),
        Step::Pass(millis) => cluster.pass(Duration::from_millis(u64::from(millis))),
        Step::HeadRestarts => cluster.restart_head(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn after_every_step_the_journal_makes_the_tables(steps in prop::collection::vec(steps(), 0..120)) {
        let mut cluster = Cluster::new();
        for step in steps {
            take(&mut cluster, step);
            cluster.compare_with_replica();
        }
        cluster.restart_head();
    }
}
