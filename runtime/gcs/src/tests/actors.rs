//! Registration, names, placement, watching.

use std::time::Duration;

use prost::Message as _;
use prost::bytes::Bytes;
use sparkray_common::ErrorCode;
use sparkray_proto::actor_report::Outcome;
use sparkray_proto::head_message::Message;
use sparkray_proto::head_reply::Reply;
use sparkray_proto::head_request::Request;
use sparkray_proto::node_message::Message as FromNode;
use sparkray_proto::{ActorSpec, ActorState, FinishJob, GetActor, ListActors, RegisterActor};

use super::{Cluster, actor_id, affinity, code, cpus, kills, node_id, updates, worker};

const TICK: Duration = Duration::from_millis(100);

#[test]
fn an_actor_is_placed_comes_alive_and_its_watchers_are_told() {
    let mut cluster = Cluster::with_nodes(&[1.0]);
    cluster.register(cluster.spec(1, 1.0)).unwrap();
    cluster.watch(cluster.driver_node, 1);
    let first = updates(&cluster.inbox(cluster.driver_node));
    assert_eq!(first.len(), 1, "the present state comes at once");
    assert_eq!((first[0].state(), first[0].incarnation), (ActorState::Pending, 0));
    assert_eq!(first[0].class_name, "Counter");

    assert_eq!(cluster.placement(1), Some((node_id(1), 0)));
    let address = worker(node_id(1), 5);
    cluster.tell(node_id(1), 1, 0, Outcome::Alive((&address).into()));
    let alive = updates(&cluster.inbox(cluster.driver_node));
    assert_eq!(alive.len(), 1);
    assert_eq!(alive[0].state(), ActorState::Alive);
    assert_eq!(alive[0].address, Some((&address).into()));
    assert_eq!(alive[0].pid, 42);
    assert_eq!(cluster.record(1).handle_metadata, "metadata");

    cluster.say(
        cluster.driver_node,
        FromNode::UnwatchActor(actor_id(1).to_vec().into()),
    );
    cluster.kill(1, true).unwrap();
    assert!(updates(&cluster.inbox(cluster.driver_node)).is_empty());
}

#[test]
fn a_dead_actor_does_not_keep_the_message_that_registered_it() {
    let mut cluster = Cluster::with_nodes(&[4.0]);
    let mut spec = cluster.spec(1, 1.0);
    spec.class_blob = vec![7; 1 << 20].into();
    let message = RegisterActor {
        spec: Some(spec),
        ..Default::default()
    };
    let buffer = Bytes::from(message.encode_to_vec());
    let message = RegisterActor::decode(buffer.clone()).unwrap();
    cluster.request(Request::RegisterActor(message)).unwrap();
    assert!(cluster.placement(1).is_some());
    assert!(!buffer.is_unique());
    cluster.kill(1, true).unwrap();
    cluster.inboxes.clear();
    // That of this test; the head's own keeps nothing.
    cluster.journal.clear();
    assert!(buffer.is_unique());
    assert_eq!(cluster.record(1).handle_metadata, "metadata");
}

#[test]
fn registering_twice_changes_nothing() {
    let mut cluster = Cluster::with_nodes(&[4.0]);
    cluster.register(cluster.spec(1, 1.0)).unwrap();
    assert!(cluster.placement(1).is_some());
    cluster.register(cluster.spec(1, 1.0)).unwrap();
    assert!(cluster.placement(1).is_none());
    let Ok(Reply::Actors(list)) = cluster.request(Request::ListActors(ListActors {})) else {
        panic!("no list")
    };
    assert_eq!(list.actors.len(), 1);
}

#[test]
fn an_actor_whose_arguments_follow_is_known_and_placed_when_they_come() {
    let mut cluster = Cluster::with_nodes(&[4.0]);
    let announced = |cluster: &Cluster, number: u8| RegisterActor {
        spec: Some(ActorSpec {
            arguments_value: Bytes::new(),
            name: format!("server {number}"),
            ..cluster.spec(number, 1.0)
        }),
        arguments_follow: true,
    };
    let whole = |cluster: &Cluster, number: u8| ActorSpec {
        name: format!("server {number}"),
        ..cluster.spec(number, 1.0)
    };
    cluster
        .request(Request::RegisterActor(announced(&cluster, 1)))
        .unwrap();
    assert!(cluster.placement(1).is_none());
    assert_eq!(cluster.record(1).state.unwrap().state(), ActorState::Pending);
    cluster.register(whole(&cluster, 1)).unwrap();
    assert!(cluster.placement(1).is_some());

    // They may come in the other order, and once is enough.
    cluster.register(whole(&cluster, 2)).unwrap();
    assert!(cluster.placement(2).is_some());
    cluster
        .request(Request::RegisterActor(announced(&cluster, 2)))
        .unwrap();
    assert!(cluster.placement(2).is_none());

    // It may end before they come, and with its owner.
    cluster
        .request(Request::RegisterActor(announced(&cluster, 3)))
        .unwrap();
    cluster.kill(3, false).unwrap();
    assert_eq!(cluster.record(3).state.unwrap().state(), ActorState::Dead);
    cluster.register(whole(&cluster, 3)).unwrap();
    assert!(cluster.placement(3).is_none());

    // A detached one whose owner is gone would wait for ever.
    let mut detached = announced(&cluster, 4);
    detached.spec.as_mut().unwrap().detached = true;
    cluster.request(Request::RegisterActor(detached)).unwrap();
    let job = FinishJob {
        job_id: cluster.job.to_vec().into(),
    };
    cluster.request(Request::FinishJob(job)).unwrap();
    assert_eq!(cluster.record(4).state.unwrap().state(), ActorState::Dead);
}

#[test]
fn a_name_is_unique_in_its_namespace_and_free_again_after_death() {
    let mut cluster = Cluster::with_nodes(&[4.0]);
    let named = |cluster: &Cluster, number: u8, namespace: &str| {
        let mut spec = cluster.spec(number, 0.0);
        spec.name = "server".to_owned();
        spec.namespace = namespace.to_owned();
        spec
    };
    cluster.register(named(&cluster, 1, "")).unwrap();
    let failure = cluster.register(named(&cluster, 2, "space")).unwrap_err();
    assert_eq!(failure.error_code(), ErrorCode::AlreadyExists);
    assert!(
        failure.message.contains("'server'") && failure.message.contains("'space'"),
        "{}",
        failure.message
    );
    cluster.register(named(&cluster, 3, "elsewhere")).unwrap();

    let by_name = |namespace: &str| {
        let request = GetActor {
            name: "server".to_owned(),
            namespace: namespace.to_owned(),
            ..GetActor::default()
        };
        Request::GetActor(request)
    };
    let Ok(Reply::Actor(record)) = cluster.request(by_name("space")) else {
        panic!("not found")
    };
    assert_eq!(record.state.unwrap().actor_id, actor_id(1).to_vec());
    assert_eq!(
        (record.name.as_str(), record.namespace.as_str()),
        ("server", "space")
    );

    cluster.kill(1, true).unwrap();
    assert_eq!(code(cluster.request(by_name("space"))), ErrorCode::NotFound);
    cluster.register(named(&cluster, 4, "space")).unwrap();
    // The end of the first does not take the name from its successor.
    cluster.kill(1, true).unwrap();
    assert!(cluster.request(by_name("space")).is_ok());
}

#[test]
fn bad_specifications_are_refused_with_nothing_left_behind() {
    let mut cluster = Cluster::with_nodes(&[4.0]);
    let mut spec = cluster.spec(1, 1.0);
    spec.max_restarts = -2;
    spec.name = "n".to_owned();
    assert_eq!(code(cluster.register(spec)), ErrorCode::InvalidArgument);
    let mut spec = cluster.spec(1, -1.0);
    spec.name = "n".to_owned();
    assert_eq!(code(cluster.register(spec)), ErrorCode::InvalidArgument);
    let mut spec = cluster.spec(1, 1.0);
    spec.owner = None;
    assert_eq!(code(cluster.register(spec)), ErrorCode::InvalidArgument);
    let mut spec = cluster.spec(1, 1.0);
    spec.job_id = vec![9; 4].into();
    assert_eq!(code(cluster.register(spec)), ErrorCode::NotRunning);
    let mut spec = cluster.spec(1, 1.0);
    spec.name = "n".to_owned();
    cluster.register(spec).unwrap();
    assert_eq!(
        code(cluster.request(Request::GetActor(GetActor::default()))),
        ErrorCode::NotFound
    );
    assert_eq!(code(cluster.kill(77, true)), ErrorCode::NotFound);
}

#[test]
fn two_placements_in_a_row_do_not_pick_the_same_node_blindly() {
    let mut cluster = Cluster::with_nodes(&[2.0, 2.0]);
    let mut nodes = Vec::new();
    for number in 1..=4 {
        cluster.register(cluster.spec(number, 1.0)).unwrap();
        nodes.push(cluster.placement(number).unwrap().0);
    }
    assert_eq!(nodes, [node_id(1), node_id(2), node_id(1), node_id(2)]);

    // A report from before the placements does not undo them; a later one does.
    cluster.report_resources(node_id(1), 2.0);
    assert_eq!(cluster.candidates()[0].available.get("CPU"), 0.0);
    cluster.now += Duration::from_millis(350);
    cluster.report_resources(node_id(1), 1.0);
    assert_eq!(cluster.candidates()[0].available.get("CPU"), 1.0);
    cluster.tell(node_id(2), 2, 0, Outcome::Alive((&worker(node_id(2), 5)).into()));
    cluster.tell(node_id(2), 4, 0, Outcome::Alive((&worker(node_id(2), 6)).into()));
    cluster.report_resources(node_id(2), 2.0);
    assert_eq!(
        cluster.candidates()[1].available.get("CPU"),
        2.0,
        "they gave their resources back"
    );
}

#[test]
fn what_only_the_placement_needs_must_be_there_but_not_free() {
    let mut cluster = Cluster::with_nodes(&[1.0, 4.0]);
    let mut spec = cluster.spec(1, 0.0);
    spec.placement_resources = Some(cpus(2.0));
    cluster.report_resources(node_id(2), 0.0);
    cluster.register(spec).unwrap();
    assert_eq!(cluster.placement(1), Some((node_id(2), 0)));
    let mut spec = cluster.spec(3, 0.0);
    spec.placement_resources = Some(cpus(5.0));
    cluster.register(spec).unwrap();
    assert_eq!(cluster.placement(3), None, "no node is large enough");
    let mut spec = cluster.spec(2, 0.5);
    spec.strategy = Some(affinity(node_id(1), true));
    cluster.register(spec).unwrap();
    assert_eq!(cluster.placement(2), Some((node_id(1), 0)));
}

#[test]
fn an_actor_for_one_node_only_dies_with_the_hope_for_it() {
    let mut cluster = Cluster::with_nodes(&[4.0, 2.0]);
    let mut spec = cluster.spec(1, 1.0);
    spec.max_restarts = -1;
    spec.strategy = Some(affinity(node_id(2), false));
    assert_eq!(cluster.alive(spec, 5), node_id(2));
    cluster.state.detach(cluster.now, node_id(2), "gone");
    cluster.pass(Duration::from_millis(100));
    assert_eq!(
        cluster.actor_state(1),
        ActorState::Dead,
        "its node does not come again"
    );
    let mut spec = cluster.spec(2, 1.0);
    spec.strategy = Some(affinity(node_id(2), false));
    cluster.register(spec).unwrap();
    let dead = cluster.state.tables().actors.get(actor_id(2)).unwrap().update();
    assert!(
        dead.unschedulable && dead.cause.contains(&node_id(2).to_string()),
        "{}",
        dead.cause
    );
}

#[test]
fn a_refused_actor_is_placed_elsewhere_at_once_and_does_not_spin() {
    let mut cluster = Cluster::with_nodes(&[4.0, 2.0]);
    cluster.register(cluster.spec(1, 1.0)).unwrap();
    assert_eq!(cluster.placement(1), Some((node_id(1), 0)));
    cluster.tell(node_id(1), 1, 0, Outcome::Rejected("full".to_owned()));
    assert_eq!(
        cluster.placement(1),
        Some((node_id(2), 0)),
        "the other one has room"
    );
    cluster.tell(node_id(2), 1, 0, Outcome::Rejected("full".to_owned()));
    assert_eq!(cluster.placement(1), None, "both have just refused");
    assert_eq!(cluster.actor_state(1), ActorState::Pending);

    // A report of one of them is a reason to ask again.
    cluster.report_resources(node_id(2), 1.0);
    assert_eq!(cluster.placement(1), Some((node_id(2), 0)));
    cluster.tell(node_id(2), 1, 0, Outcome::Rejected("full".to_owned()));
    cluster.now += Duration::from_millis(50);
    assert_eq!(cluster.placement(1), None);
    // So is time.
    cluster.pass(Duration::from_millis(50));
    assert!(cluster.placement(1).is_some());
}

#[test]
fn a_busy_cluster_gets_a_few_actors_to_ask_for_idle_leases_and_the_rest_wait() {
    let mut cluster = Cluster::with_nodes(&[1.0]);
    cluster.report_resources(node_id(1), 0.0);
    for number in 1..=20 {
        cluster.register(cluster.spec(number, 1.0)).unwrap();
    }
    let sent = cluster
        .inbox(node_id(1))
        .into_iter()
        .filter(|message| matches!(message, Message::PlaceActor(_)));
    assert_eq!(sent.count(), 8);
    for number in 1..=8 {
        cluster.tell(node_id(1), number, 0, Outcome::Rejected("full".to_owned()));
    }
    assert_eq!(
        cluster.inbox(node_id(1)).len(),
        8,
        "others take the places of those that were refused"
    );
    cluster.now += Duration::from_secs(1);
    cluster.report_resources(node_id(1), 1.0);
    assert_eq!(cluster.inbox(node_id(1)).len(), 1, "there is room for one");
}

#[test]
fn an_infeasible_actor_is_reported_to_its_driver_and_placed_when_a_node_joins() {
    let mut cluster = Cluster::with_nodes(&[2.0]);
    cluster.register(cluster.spec(1, 8.0)).unwrap();
    cluster.pass_alive(Duration::from_millis(900), &[node_id(1)]);
    assert!(cluster.infeasible_demand().is_empty());
    cluster.pass_alive(Duration::from_secs(3), &[node_id(1)]);
    let told = cluster.infeasible_demand();
    assert_eq!(told.len(), 1, "once");
    let waiters = &told[0].shapes[0].waiters[0];
    assert_eq!(
        (waiters.kind.as_str(), waiters.name.as_str(), waiters.count),
        ("actor", "Counter", 1)
    );
    assert_eq!(told[0].largest.as_ref().unwrap().units["CPU"], 2.0);
    cluster.attach(node_id(2), 8.0).unwrap();
    assert_eq!(cluster.placement(1), Some((node_id(2), 0)));
}

#[test]
fn an_actor_that_waits_long_for_room_is_reported() {
    let mut cluster = Cluster::with_nodes(&[1.0]);
    cluster.alive(cluster.spec(1, 1.0), 5);
    cluster.report_resources(node_id(1), 0.0);
    cluster.register(cluster.spec(2, 1.0)).unwrap();
    for _ in 0..120 {
        cluster.pass_alive(TICK, &[node_id(1)]);
        if cluster.placement(2).is_some() {
            cluster.tell(node_id(1), 2, 0, Outcome::Rejected("full".to_owned()));
        }
        if format!("{:?}", cluster.inbox(cluster.driver_node)).contains("all nodes are busy") {
            return;
        }
        // `placement` forgot the message: ask the table.
        if cluster
            .state
            .live()
            .waits
            .unreported(cluster.now, actor_id(2))
            .is_none()
        {
            return;
        }
    }
    panic!("not reported");
}

#[test]
fn watching_an_unknown_actor_says_dead_and_a_late_registration_is_told() {
    let mut cluster = Cluster::with_nodes(&[1.0]);
    cluster.watch(node_id(1), 1);
    let update = updates(&cluster.inbox(node_id(1))).remove(0);
    assert_eq!(update.state(), ActorState::Dead);
    assert!(update.cause.contains("not known"), "{}", update.cause);
    cluster.register(cluster.spec(1, 1.0)).unwrap();
    assert_eq!(
        updates(&cluster.inbox(node_id(1)))[0].state(),
        ActorState::Pending
    );
    cluster.say(node_id(1), FromNode::UnwatchActor(actor_id(9).to_vec().into()));
}

#[test]
fn a_dead_actor_keeps_its_cause_but_not_its_class() {
    let mut cluster = Cluster::with_nodes(&[1.0]);
    let node = cluster.alive(cluster.spec(1, 1.0), 5);
    cluster.kill(1, true).unwrap();
    assert_eq!(kills(&cluster.inbox(node)), [(actor_id(1), 0)]);
    assert!(cluster.update(1).cause.contains("kill()"));
    assert!(
        cluster
            .state
            .tables()
            .actors
            .get(actor_id(1))
            .unwrap()
            .spec
            .class_blob
            .is_empty()
    );
    cluster.kill(1, true).unwrap();
    assert!(cluster.inbox(node).is_empty(), "once");
}
