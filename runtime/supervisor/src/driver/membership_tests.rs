use super::*;
use sparkray_common::{ClusterToken, VERSION};

fn hello(executor: &str) -> ManagerHello {
    ManagerHello {
        executor_id: executor.to_owned(),
        host: format!("host-{executor}"),
        sparkray_version: VERSION.to_owned(),
        java_version: "17.0.1".to_owned(),
        ..ManagerHello::default()
    }
}

fn request(expected: u32) -> InitRequest {
    InitRequest {
        deadline_seconds: 5.0,
        node_cpus: 2.0,
        ..InitRequest::of_nodes(expected)
    }
}

fn names() -> ClusterNames {
    ClusterNames {
        id: ClusterId::random(),
        token: ClusterToken::random(),
        head_epoch: 1,
    }
}

fn head_started(names: &ClusterNames) -> HeadStarted {
    HeadStarted {
        cluster_id: bytes(names.id),
        socket_name: "head".to_owned(),
        ..HeadStarted::default()
    }
}

fn raylet_started(names: &ClusterNames, node: u8) -> RayletStarted {
    RayletStarted {
        cluster_id: bytes(names.id),
        node_id: vec![node; 16].into(),
        address: format!("host:{node}"),
        start_count: 1,
        ..RayletStarted::default()
    }
}

/// "head 1", "raylet 2 at host:1", "driver", "stop 1": what effects ask for.
fn words(effects: &[Effect]) -> Vec<String> {
    let word = |effect: &Effect| match effect {
        Effect::StartDriverRaylet(plan) => format!("driver at {}", plan.head_address),
        Effect::TellDriverRaylet(cause) => format!("tell driver: {cause}"),
        Effect::Send(key, command) => match command.command.as_ref() {
            Some(Command::StartHead(_)) => format!("head {key}"),
            Some(Command::StartRaylet(start)) => format!("raylet {key} at {}", start.head_address),
            Some(Command::StopCluster(_)) => format!("stop {key}"),
            Some(Command::ClusterLost(lost)) => format!("tell {key}: {}", lost.cause),
            other => format!("{other:?}"),
        },
    };
    effects.iter().map(word).collect()
}

/// Two executors, a cluster on both, everything up.
fn running() -> (Membership, ClusterNames) {
    let mut membership = Membership::default();
    membership.join(hello("1"));
    membership.join(hello("2"));
    let names = names();
    membership.begin(names.clone(), request(2)).unwrap();
    membership.head_started(1, head_started(&names));
    membership.raylet_started(1, raylet_started(&names, 1));
    membership.raylet_started(2, raylet_started(&names, 2));
    membership.driver_raylet_started(names.id, Ok(raylet_started(&names, 9)));
    assert!(matches!(membership.progress(names.id), Progress::Ready(_)));
    (membership, names)
}

fn failure(membership: &mut Membership, names: &ClusterNames) -> String {
    match membership.progress(names.id) {
        Progress::Failed(error) => error.to_string(),
        other => panic!("not failed: {other:?}"),
    }
}

#[test]
fn the_first_that_joined_gets_the_head_then_its_raylet_then_all_others() {
    let mut membership = Membership::default();
    membership.join(hello("7"));
    membership.join(hello("3"));
    let names = names();
    assert_eq!(
        words(&membership.begin(names.clone(), request(2)).unwrap()),
        ["head 1"]
    );
    assert_eq!(
        words(&membership.head_started(1, head_started(&names))),
        ["raylet 1 at "]
    );
    let effects = membership.raylet_started(1, raylet_started(&names, 1));
    assert_eq!(words(&effects), ["raylet 2 at host:1", "driver at host:1"]);
    assert!(words(&membership.raylet_started(2, raylet_started(&names, 2))).is_empty());
    assert!(matches!(membership.progress(names.id), Progress::Waiting(_)));
    membership.driver_raylet_started(names.id, Ok(raylet_started(&names, 9)));
    let Progress::Ready(result) = membership.progress(names.id) else {
        panic!("everything is up");
    };
    assert_eq!(result.head_executor_id, "7");
    assert_eq!(result.head_address, "host:1");
    assert_eq!(result.nodes.len(), 2);
    assert_eq!(result.driver_node.unwrap().executor_id, "driver");
}

#[test]
fn an_executor_that_joins_later_gets_a_raylet_too() {
    let (mut membership, names) = running();
    let (key, effects) = membership.join(hello("5"));
    assert_eq!(words(&effects), ["raylet 3 at host:1"]);
    membership.raylet_started(key, raylet_started(&names, 5));
    assert_eq!(membership.status().nodes.len(), 3);
    assert_eq!(membership.status().state, "running");
}

#[test]
fn in_local_mode_the_executor_is_the_driver() {
    let mut membership = Membership::default();
    membership.join(hello("driver"));
    let names = names();
    let local = InitRequest {
        local: true,
        ..request(1)
    };
    membership.begin(names.clone(), local).unwrap();
    membership.head_started(1, head_started(&names));
    assert!(membership.raylet_started(1, raylet_started(&names, 1)).is_empty());
    let Progress::Ready(result) = membership.progress(names.id) else {
        panic!("the only node is up");
    };
    assert_eq!(result.driver_node.as_ref(), result.nodes.first());
}

#[test]
fn missing_executors_are_counted_and_those_that_joined_are_named() {
    let mut membership = Membership::default();
    membership.join(hello("1"));
    let names = names();
    membership.begin(names.clone(), request(3)).unwrap();
    membership.head_started(1, head_started(&names));
    let Progress::Waiting(missing) = membership.progress(names.id) else {
        panic!("two executors are missing");
    };
    assert!(
        missing.contains("1 of 3 executors have joined (executor 1 on host-1)"),
        "{missing}"
    );
    assert!(
        missing.contains("the raylet of executor 1 on host-1 has not registered"),
        "{missing}"
    );
}

#[test]
fn a_raylet_that_cannot_start_fails_the_start_but_not_a_running_cluster() {
    let (mut membership, names) = running();
    let (key, _) = membership.join(hello("5"));
    let failed = RayletStarted {
        cluster_id: bytes(names.id),
        failure: Some(Failure::new(ErrorCode::VersionMismatch, "Python is 3.9")),
        ..RayletStarted::default()
    };
    membership.raylet_started(key, failed.clone());
    assert!(membership.failure().is_none());
    assert_eq!(membership.status().nodes[2].state, "down");

    let mut membership = Membership::default();
    membership.join(hello("1"));
    membership.begin(names.clone(), request(1)).unwrap();
    membership.head_started(1, head_started(&names));
    membership.raylet_started(1, failed);
    assert_eq!(
        failure(&mut membership, &names),
        "executor 1 on host-1: Python is 3.9"
    );
}

#[test]
fn a_store_larger_than_the_budget_is_refused_before_anything_starts() {
    let mut membership = Membership::default();
    membership.join(ManagerHello {
        memory_budget_bytes: 1 << 30,
        ..hello("1")
    });
    let names = names();
    let large = InitRequest {
        object_store_bytes: 2 << 30,
        ..request(1)
    };
    assert!(membership.begin(names.clone(), large).unwrap().is_empty());
    let message = failure(&mut membership, &names);
    assert!(
        message.contains("2.0 GiB") && message.contains("1.0 GiB") && message.contains("host-1"),
        "{message}"
    );
}

#[test]
fn other_versions_and_old_javas_are_refused_by_name() {
    let check = |hello: ManagerHello| {
        let mut membership = Membership::default();
        membership.join(hello);
        let names = names();
        membership.begin(names.clone(), request(1)).unwrap();
        failure(&mut membership, &names)
    };
    assert!(
        check(ManagerHello {
            sparkray_version: "0.0.1".to_owned(),
            ..hello("4")
        })
        .contains("0.0.1")
    );
    let message = check(ManagerHello {
        java_version: "1.7.0_80".to_owned(),
        ..hello("4")
    });
    assert!(
        message.contains("executor 4 on host-4 runs Java 1.7.0_80"),
        "{message}"
    );
}

#[test]
fn the_death_of_the_head_or_its_executor_is_said_for_ever() {
    let (mut membership, names) = running();
    membership.leave(1);
    let message = failure(&mut membership, &names);
    assert!(
        message.contains("executor 1 on host-1, which ran its head, is gone"),
        "{message}"
    );
    assert_eq!(
        membership
            .begin(names.clone(), request(1))
            .unwrap_err()
            .to_string(),
        message
    );
    // A later death does not hide the first.
    membership.driver_raylet_ended(names.id, "was killed");
    assert_eq!(failure(&mut membership, &names), message);
    assert_eq!(membership.status().state, "failed");
    assert!(membership.end().is_some());
    assert!(membership.begin(names, request(1)).is_ok());

    let (mut membership, names) = running();
    let ended = ChildEnded {
        cluster_id: bytes(names.id),
        role: "head".to_owned(),
        cause: "was killed".to_owned(),
        ..ChildEnded::default()
    };
    membership.child_ended(1, ended);
    assert!(failure(&mut membership, &names).contains("its head on executor 1 on host-1 ended"));
}

#[test]
fn everybody_who_may_wait_for_the_head_hears_of_its_end() {
    let told = |effects: &[Effect], who: &[&str]| {
        let words = words(effects);
        assert_eq!(words.len(), who.len(), "{words:?}");
        for (word, who) in words.iter().zip(who) {
            assert!(
                word.starts_with(&format!("tell {who}: the cluster is lost: ")),
                "{word}"
            );
        }
    };
    let (mut membership, _) = running();
    told(&membership.leave(1), &["2", "driver"]);
    assert!(membership.leave(2).is_empty(), "one verdict is enough");

    let (mut membership, names) = running();
    let ended = ChildEnded {
        cluster_id: bytes(names.id),
        role: "head".to_owned(),
        ..ChildEnded::default()
    };
    told(&membership.child_ended(1, ended), &["1", "2", "driver"]);

    // Its executor joins again before its old connection was noticed to be dead.
    let (mut membership, _) = running();
    let (key, effects) = membership.join(hello("1"));
    assert_eq!(key, 3);
    told(&effects, &["2", "driver"]);
}

#[test]
fn the_death_of_another_executor_leaves_the_cluster_running() {
    let (mut membership, _) = running();
    membership.leave(2);
    assert!(membership.failure().is_none());
    assert_eq!(membership.status().nodes.len(), 1);
}

#[test]
fn a_dead_raylet_is_shown_until_it_is_back() {
    let (mut membership, names) = running();
    let ended = |will_restart| ChildEnded {
        cluster_id: bytes(names.id),
        role: "raylet".to_owned(),
        cause: "was killed by SIGKILL".to_owned(),
        will_restart,
    };
    membership.child_ended(2, ended(true));
    assert_eq!(membership.status().nodes[1].state, "restarting");
    membership.raylet_started(
        2,
        RayletStarted {
            start_count: 2,
            ..raylet_started(&names, 6)
        },
    );
    let node = membership.status().nodes[1].clone();
    assert_eq!((node.state.as_str(), node.start_count), ("up", 2));
    membership.child_ended(2, ended(false));
    let node = membership.status().nodes[1].clone();
    assert_eq!(node.state, "down");
    assert!(node.message.contains("SIGKILL"));
}

#[test]
fn reports_about_an_earlier_cluster_are_not_heard() {
    let (mut membership, old) = running();
    let (id, effects) = membership.end().unwrap();
    assert_eq!(id, old.id);
    assert_eq!(words(&effects), ["stop 1", "stop 2"]);
    assert!(membership.is_stopping());
    membership.stopped(1);
    membership.leave(2);
    assert!(!membership.is_stopping());
    let new = names();
    membership.begin(new.clone(), request(1)).unwrap();
    assert!(membership.head_started(1, head_started(&old)).is_empty());
    membership.leave(1);
    assert!(
        matches!(membership.progress(old.id), Progress::Failed(error) if error.code() == ErrorCode::Cancelled)
    );
}

#[test]
fn an_executor_that_joins_again_replaces_itself() {
    let (mut membership, names) = running();
    let (key, effects) = membership.join(hello("2"));
    assert_eq!(words(&effects), ["raylet 3 at host:1"]);
    membership.raylet_started(key, raylet_started(&names, 4));
    assert_eq!(membership.status().nodes.len(), 2);
    // The end of its earlier connection comes late.
    membership.leave(2);
    assert_eq!(membership.status().nodes.len(), 2);
    membership.join(hello("1"));
    assert!(
        membership.failure().is_some(),
        "the head ended with the connection"
    );
}

#[test]
fn an_executor_that_cannot_run_a_manager_is_named_without_waiting() {
    let mut membership = Membership::default();
    membership.join(hello("1"));
    let names = names();
    membership.begin(names.clone(), request(2)).unwrap();
    assert!(matches!(membership.progress(names.id), Progress::Waiting(_)));
    membership.executor_failed("2".to_owned(), "no directory allows to run programs".to_owned());
    let message = failure(&mut membership, &names);
    assert!(
        message.contains("executor 2 cannot: no directory allows"),
        "{message}"
    );
    membership.join(hello("2"));
    assert!(matches!(membership.progress(names.id), Progress::Waiting(_)));
}

#[test]
fn a_dead_executors_inability_is_forgotten() {
    let mut membership = Membership::default();
    membership.join(hello("1"));
    membership.executor_added("2".to_owned(), "host-2".to_owned());
    membership.executor_failed("2".to_owned(), "no directory allows to run programs".to_owned());
    membership.executor_removed("2");
    let names = names();
    membership.begin(names.clone(), request(2)).unwrap();
    assert!(matches!(membership.progress(names.id), Progress::Waiting(_)));
}

#[test]
fn the_missing_ones_are_named_and_those_that_spark_has_not_started_are_counted() {
    let mut membership = Membership::default();
    for id in ["1", "2", "3"] {
        membership.executor_added(id.to_owned(), format!("host-{id}"));
    }
    membership.join(hello("1"));
    membership.executor_removed("3");
    let names = names();
    membership.begin(names.clone(), request(4)).unwrap();
    let Progress::Waiting(missing) = membership.progress(names.id) else {
        panic!("three executors are missing");
    };
    assert!(
        missing
            .contains("1 of 4 executors have joined (executor 1 on host-1); missing: executor 2 on host-2;"),
        "{missing}"
    );
    assert!(
        missing.contains("2 not started by the cluster manager"),
        "{missing}"
    );
    assert!(!missing.contains("executor 3"), "{missing}");
}

#[test]
fn a_new_address_of_the_head_is_told_to_those_that_run() {
    let (mut membership, names) = running();
    assert!(membership.raylet_started(1, raylet_started(&names, 1)).is_empty());
    let moved = RayletStarted {
        address: "host:8".to_owned(),
        ..raylet_started(&names, 7)
    };
    assert_eq!(
        words(&membership.raylet_started(1, moved)),
        ["raylet 2 at host:8"]
    );
    assert_eq!(membership.status().nodes[1].state, "up");
}
