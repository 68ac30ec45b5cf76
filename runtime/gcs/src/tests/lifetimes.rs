//! Restarts, and who ends with whom.

use std::time::Duration;

use sparkray_common::{ErrorCode, NodeId};
use sparkray_proto::actor_report::Outcome;
use sparkray_proto::head_message::Message;
use sparkray_proto::head_request::Request;
use sparkray_proto::{ActorSpec, ActorState, FinishJob};

use super::{Cluster, actor_id, affinity, code, kills, node_id, updates, worker};

#[test]
fn a_participant_joins_the_job_that_began_last_and_its_end_ends_no_job() {
    let mut cluster = Cluster::with_nodes(&[4.0]);
    let node = node_id(1);
    let (first, second, participant) = (worker(node, 50), worker(node, 51), worker(node, 60));
    let older = cluster.register_job(&first).unwrap();
    let newer = cluster.register_job(&second).unwrap();
    assert_eq!(cluster.join_job(&participant).unwrap(), (newer, second.clone()));
    cluster.worker_dies(&second);
    assert_eq!(cluster.join_job(&participant).unwrap(), (older, first.clone()));

    let mut spec = cluster.spec(1, 1.0);
    spec.job_id = older.to_vec().into();
    spec.owner = Some((&participant).into());
    cluster.register(spec).unwrap();
    cluster.worker_dies(&participant);
    assert_eq!(cluster.actor_state(1), ActorState::Dead, "it goes with its owner");
    assert_eq!(code(cluster.join_job(&participant)), ErrorCode::Stale);
    let another = worker(node, 61);
    assert_eq!(cluster.join_job(&another).unwrap(), (older, first.clone()));
    cluster.worker_dies(&first);
    // That of the cluster's own driver is left.
    let rest = cluster.join_job(&another).unwrap().0;
    assert!(rest != older && rest != newer);
    cluster
        .request(Request::FinishJob(FinishJob {
            job_id: rest.to_vec().into(),
        }))
        .unwrap();
    assert_eq!(code(cluster.join_job(&another)), ErrorCode::NotRunning);
}

fn restartable(cluster: &Cluster, number: u8, max_restarts: i32) -> ActorSpec {
    ActorSpec {
        max_restarts,
        ..cluster.spec(number, 1.0)
    }
}

fn died() -> Outcome {
    Outcome::WorkerDied("signal 9".to_owned())
}

fn alive_on(node: NodeId, number: u8) -> Outcome {
    Outcome::Alive((&worker(node, number)).into())
}

#[test]
fn an_actor_is_restarted_as_often_as_it_may_and_then_dead() {
    let mut cluster = Cluster::with_nodes(&[1.0]);
    let node = cluster.alive(restartable(&cluster, 1, 2), 5);
    cluster.watch(cluster.driver_node, 1);
    cluster.inboxes.clear();
    for incarnation in 0..2 {
        cluster.tell(node, 1, incarnation, died());
        let update = updates(&cluster.inbox(cluster.driver_node)).pop().unwrap();
        assert_eq!(
            (update.state(), update.incarnation),
            (ActorState::Restarting, incarnation + 1)
        );
        assert_eq!(cluster.placement(1), Some((node, incarnation + 1)));
        cluster.tell(node, 1, incarnation + 1, alive_on(node, 10 + incarnation as u8));
        cluster.inboxes.clear();
    }
    cluster.tell(node, 1, 2, died());
    let update = cluster.update(1);
    assert_eq!(update.state(), ActorState::Dead);
    assert!(
        update.cause.contains("signal 9") && update.cause.contains("2 times"),
        "{}",
        update.cause
    );
}

#[test]
fn without_limit_it_is_restarted_again_and_again_and_without_restarts_never() {
    let mut cluster = Cluster::with_nodes(&[4.0]);
    let node = cluster.alive(restartable(&cluster, 1, -1), 5);
    for incarnation in 0..50 {
        cluster.tell(node, 1, incarnation, died());
        assert_eq!(cluster.actor_state(1), ActorState::Restarting);
    }
    let node = cluster.alive(cluster.spec(2, 1.0), 6);
    cluster.tell(node, 2, 0, died());
    assert_eq!(cluster.actor_state(2), ActorState::Dead);
    assert!(cluster.update(2).cause.contains("its worker died: signal 9"));
}

#[test]
fn a_constructor_that_raised_and_an_exit_are_final() {
    let mut cluster = Cluster::with_nodes(&[4.0]);
    cluster.register(restartable(&cluster, 1, -1)).unwrap();
    cluster.tell(node_id(1), 1, 0, Outcome::ConstructorError("pickled".into()));
    let update = cluster.update(1);
    assert_eq!(
        (update.state(), &update.constructor_error[..]),
        (ActorState::Dead, &b"pickled"[..])
    );

    let node = cluster.alive(restartable(&cluster, 2, -1), 5);
    cluster.tell(node, 2, 0, Outcome::Exited("it called exit_actor()".to_owned()));
    assert_eq!(cluster.actor_state(2), ActorState::Dead);
    // The end of its process, told afterwards, does not bring it back.
    cluster.worker_dies(&worker(node, 5));
    assert_eq!(cluster.actor_state(2), ActorState::Dead);
}

#[test]
fn a_report_of_an_old_incarnation_is_ignored_and_its_worker_killed() {
    let mut cluster = Cluster::with_nodes(&[1.0]);
    let node = cluster.alive(restartable(&cluster, 1, 5), 5);
    cluster.tell(node, 1, 0, died());
    cluster.inboxes.clear();
    cluster.tell(node, 1, 0, alive_on(node, 6));
    assert_eq!(kills(&cluster.inbox(node)), [(actor_id(1), 0)]);
    cluster.tell(node, 1, 0, died());
    cluster.tell(node, 1, 0, Outcome::Exited(String::new()));
    let update = cluster.update(1);
    assert_eq!((update.state(), update.incarnation), (ActorState::Restarting, 1));
    // So is the report of another node, and of an actor that was never heard of.
    cluster.attach(node_id(2), 0.0).unwrap();
    cluster.inboxes.clear();
    cluster.tell(node_id(2), 1, 1, alive_on(node_id(2), 7));
    cluster.tell(node_id(2), 99, 0, alive_on(node_id(2), 8));
    assert_eq!(
        kills(&cluster.inbox(node_id(2))),
        [(actor_id(1), 1), (actor_id(99), 0)]
    );
}

#[test]
fn the_end_of_the_process_alone_restarts_its_actor() {
    let mut cluster = Cluster::with_nodes(&[1.0]);
    let node = cluster.alive(restartable(&cluster, 1, 1), 5);
    cluster.worker_dies(&worker(node, 5));
    assert_eq!(cluster.placement(1), Some((node, 1)));
    // The node's own report of it comes too late to count twice.
    cluster.tell(node, 1, 0, died());
    assert_eq!(cluster.actor_state(1), ActorState::Restarting);
}

#[test]
fn a_nodes_death_restarts_its_actors_elsewhere() {
    let mut cluster = Cluster::with_nodes(&[4.0, 1.0]);
    let node = cluster.alive(restartable(&cluster, 1, 1), 5);
    assert_eq!(node, node_id(1));
    cluster.register(cluster.spec(2, 1.0)).unwrap();
    assert_eq!(cluster.placement(2), Some((node_id(1), 0)));
    cluster.state.detach(cluster.now, node_id(1), "connection broke");
    cluster.collect();
    assert_eq!(cluster.placement(1), Some((node_id(2), 1)));
    let update = cluster.update(2);
    assert_eq!(
        update.state(),
        ActorState::Dead,
        "it may not be restarted, and may have run"
    );
    assert!(update.cause.contains("connection broke"), "{}", update.cause);
    cluster.state.detach(cluster.now, node_id(1), "again");
    assert!(cluster.state.take_effects().is_empty());
}

#[test]
fn killing_with_restart_waits_for_the_end_of_the_old_process() {
    let mut cluster = Cluster::with_nodes(&[1.0, 1.0]);
    let node = cluster.alive(restartable(&cluster, 1, 1), 5);
    cluster.watch(cluster.driver_node, 1);
    cluster.inboxes.clear();
    cluster.kill(1, false).unwrap();
    assert_eq!(kills(&cluster.inbox(node)), [(actor_id(1), 0)]);
    let update = updates(&cluster.inbox(cluster.driver_node)).pop().unwrap();
    assert_eq!((update.state(), update.incarnation), (ActorState::Restarting, 1));
    cluster.pass_alive(Duration::from_millis(500), &[node_id(1), node_id(2)]);
    assert_eq!(cluster.placement(1), None, "the old process may still run");
    cluster.kill(1, false).unwrap();
    assert_eq!(
        cluster.update(1).incarnation,
        1,
        "the second kill changes nothing"
    );
    cluster.tell(node, 1, 0, died());
    assert_eq!(cluster.placement(1).unwrap().1, 1);
    cluster.kill(1, false).unwrap();
    assert_eq!(cluster.actor_state(1), ActorState::Dead, "no restart is left");
}

#[test]
fn a_kill_that_nobody_confirms_is_repeated_and_never_believed() {
    let mut cluster = Cluster::with_nodes(&[1.0]);
    let node = cluster.alive(restartable(&cluster, 1, 1), 5);
    cluster.kill(1, false).unwrap();
    cluster.inboxes.clear();
    cluster.pass_alive(Duration::from_millis(5100), &[node]);
    assert_eq!(kills(&cluster.inbox(node)), [(actor_id(1), 0)]);
    cluster.pass_alive(Duration::from_millis(5100), &[node]);
    let inbox = cluster.inbox(node);
    assert_eq!(kills(&inbox), [(actor_id(1), 0)]);
    let placed = |message: &Message| matches!(message, Message::PlaceActor(_));
    assert!(!inbox.iter().any(placed), "its process may live");
    cluster.tell(node, 1, 0, died());
    assert_eq!(cluster.placement(1), Some((node, 1)));
}

#[test]
fn an_actor_that_comes_alive_while_it_is_killed_is_killed_again() {
    let mut cluster = Cluster::with_nodes(&[1.0]);
    cluster.register(restartable(&cluster, 1, 1)).unwrap();
    cluster.kill(1, false).unwrap();
    cluster.inboxes.clear();
    cluster.tell(node_id(1), 1, 0, alive_on(node_id(1), 5));
    assert_eq!(kills(&cluster.inbox(node_id(1))), [(actor_id(1), 0)]);
    cluster.tell(node_id(1), 1, 0, died());
    assert_eq!(cluster.placement(1), Some((node_id(1), 1)));
}

#[test]
fn killing_an_actor_that_waits_ends_it() {
    let mut cluster = Cluster::new();
    cluster.register(cluster.spec(1, 1.0)).unwrap();
    cluster.register(restartable(&cluster, 2, 1)).unwrap();
    cluster.kill(1, false).unwrap();
    assert_eq!(cluster.actor_state(1), ActorState::Dead);
    cluster.kill(2, true).unwrap();
    assert_eq!(cluster.actor_state(2), ActorState::Dead);
    cluster.attach(node_id(1), 4.0).unwrap();
    assert_eq!(cluster.placement(1), None);
}

#[test]
fn the_death_of_an_owner_ends_its_actors_but_detached_ones() {
    let mut cluster = Cluster::with_nodes(&[4.0]);
    let parent = cluster.alive(cluster.spec(1, 1.0), 5);
    let owner = worker(parent, 5);
    for (number, detached) in [(2, false), (3, true)] {
        let mut spec = restartable(&cluster, number, -1);
        spec.owner = Some((&owner).into());
        spec.detached = detached;
        cluster.alive(spec, 10 + number);
    }
    cluster.worker_dies(&owner);
    assert_eq!(cluster.actor_state(2), ActorState::Dead);
    assert!(kills(&cluster.inbox(parent)).contains(&(actor_id(2), 0)));
    assert!(cluster.update(2).cause.contains("its owner"));
    assert_eq!(cluster.actor_state(3), ActorState::Alive);
    // A registration that was under way when its owner died comes too late.
    let mut spec = cluster.spec(4, 1.0);
    spec.owner = Some((&owner).into());
    assert_eq!(code(cluster.register(spec)), ErrorCode::Stale);
}

#[test]
fn the_death_of_the_owners_node_ends_its_actors_on_other_nodes() {
    let mut cluster = Cluster::with_nodes(&[1.0, 4.0]);
    let mut spec = restartable(&cluster, 1, -1);
    spec.owner = Some((&worker(node_id(1), 9)).into());
    spec.strategy = Some(affinity(node_id(2), true));
    assert_eq!(cluster.alive(spec, 5), node_id(2));
    cluster.state.detach(cluster.now, node_id(1), "gone");
    assert_eq!(cluster.actor_state(1), ActorState::Dead);
    let mut spec = cluster.spec(2, 1.0);
    spec.owner = Some((&worker(node_id(1), 9)).into());
    assert_eq!(code(cluster.register(spec)), ErrorCode::Stale);
}

#[test]
fn a_job_ends_with_its_driver_or_when_it_says_so_and_takes_its_actors_along() {
    let ends: [fn(&mut Cluster); 3] = [
        |cluster| cluster.worker_dies(&cluster.driver.clone()),
        |cluster| {
            let finish = FinishJob {
                job_id: cluster.job.to_vec().into(),
            };
            cluster.request(Request::FinishJob(finish)).unwrap();
        },
        |cluster| {
            cluster.state.detach(cluster.now, cluster.driver_node, "gone");
            cluster.collect();
        },
    ];
    for end in ends {
        let mut cluster = Cluster::with_nodes(&[4.0]);
        let node = cluster.alive(restartable(&cluster, 1, -1), 5);
        let mut spec = cluster.spec(2, 1.0);
        spec.detached = true;
        cluster.alive(spec, 6);
        cluster.inboxes.clear();
        end(&mut cluster);
        let inbox = cluster.inbox(node);
        assert_eq!(kills(&inbox), [(actor_id(1), 0)]);
        let finished = |message: &&Message| matches!(message, Message::JobFinished(job) if job.job_id == cluster.job.to_vec());
        assert_eq!(inbox.iter().filter(finished).count(), 1);
        assert_eq!(cluster.actor_state(1), ActorState::Dead);
        assert_eq!(cluster.actor_state(2), ActorState::Alive);
        assert_eq!(
            code(cluster.register(cluster.spec(3, 1.0))),
            ErrorCode::NotRunning
        );
    }
}

#[test]
fn a_job_is_registered_once_and_only_by_a_driver_that_lives() {
    let mut cluster = Cluster::with_nodes(&[1.0]);
    let driver = cluster.driver.clone();
    assert_eq!(cluster.register_job(&driver), Ok(cluster.job));
    let of_no_node = cluster.register_job(&worker(node_id(9), 9));
    assert_eq!(code(of_no_node), ErrorCode::Stale);
    cluster.worker_dies(&worker(node_id(1), 9));
    let of_the_dead = cluster.register_job(&worker(node_id(1), 9));
    assert_eq!(code(of_the_dead), ErrorCode::Stale);
    for _ in 0..2 {
        let job_id = cluster.job.to_vec().into();
        cluster.request(Request::FinishJob(FinishJob { job_id })).unwrap();
    }
    assert_ne!(cluster.register_job(&driver), Ok(cluster.job));
}

#[test]
fn every_driver_gets_a_job_id_of_its_own_and_the_same_when_it_asks_again() {
    let mut cluster = Cluster::with_nodes(&[1.0]);
    let mut ask = |number| cluster.register_job(&worker(node_id(1), number)).unwrap();
    let (first, second) = (ask(1), ask(2));
    assert_ne!(first, second);
    assert_eq!((ask(1), ask(2)), (first, second));
    cluster.worker_dies(&worker(node_id(1), 1));
    let third = cluster.register_job(&worker(node_id(1), 3)).unwrap();
    assert!(third != first && third != second, "{third}");
}
