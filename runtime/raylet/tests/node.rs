//! A head and two raylets in this process, real sockets, and a stand-in zygote that forks real processes.
//!
//! One test: a raylet reaps and finally kills all children of its process.

#![allow(clippy::unwrap_used, reason = "a test says by it what it expects")]

mod support;

use std::path::PathBuf;
use std::time::Instant;

use sparkray_common::{ActorId, ErrorCode, LeaseId, NodeId, ObjectId, TaskId, WorkerAddress, WorkerId};
use sparkray_object_store::{BlockingStoreClient, GetEntry};
use sparkray_proto::{
    ActorSpec, ActorState, ActorUpdate, FrameKind, GetObjectEntry, GetObjects, LeaseBroken, LogBatch,
    ObjectReady, RegisterActor, WatchActor, WorkerDied, head_request, location_of,
};
use sparkray_rpc::Frame;

use support::{Cluster, Driver, Node, PATIENCE, STAND_IN, cpus};

fn is_alive(pid: u32) -> bool {
    PathBuf::from(format!("/proc/{pid}")).exists()
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[tokio::test]
async fn a_node_leases_workers_runs_actors_moves_objects_and_leaves_nothing() {
    let cluster = Cluster::start().await;
    let first = cluster.raylet(1.0, Some(STAND_IN), None).await;
    let mut driver = Driver::connect(&cluster, &first).await;
    driver.register_job(&first).await;

    another_version_is_refused(&cluster, &first).await;
    another_python_gets_no_worker(&mut driver).await;
    leases_are_granted_in_turn(&mut driver).await;
    a_broken_lease_names_the_reason(&mut driver).await;
    an_actor_lives_in_its_own_worker(&mut driver, &first).await;
    worker_output_reaches_the_driver(&mut driver).await;
    a_request_may_have_more_answers_than_a_queue_has_places(&mut driver, &first).await;
    a_range_is_not_used_again_while_its_process_lives(&cluster, &first).await;

    let second = cluster.raylet(4.0, None, Some(&first.ready.address)).await;
    a_request_that_fits_only_elsewhere_is_passed_on(&mut driver, &second).await;
    objects_are_pulled_from_where_they_are(&cluster, &first, &second).await;

    second.cancel.cancel();
    second.task.await.unwrap();
    let died = driver.until(|frame| frame.kind == FrameKind::NodeDied).await;
    let died: sparkray_proto::NodeDied = died.decode().unwrap();
    assert_eq!(died.node_id[..], second.id.as_bytes()[..]);

    first.cancel.cancel();
    first.task.await.unwrap();
    a_worker_outlives_a_zygote_that_dies_before_it_told_of_it(&cluster).await;
    a_python_that_cannot_start_is_named(&cluster).await;
    for thread in std::fs::read_dir("/proc/self/task").unwrap() {
        let children = std::fs::read_to_string(thread.unwrap().path().join("children")).unwrap();
        assert_eq!(children.trim(), "");
    }
    let left = std::fs::read_dir(cluster.directory.path()).unwrap();
    let left: Vec<String> = left
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(!left.iter().any(|name| name.starts_with("spill")), "{left:?}");
}

async fn another_version_is_refused(cluster: &Cluster, node: &Node) {
    let mut stranger = Driver::dial(cluster, node).await;
    let failure = stranger.register("0.0.1").await.failure.unwrap();
    assert_eq!(failure.error_code(), ErrorCode::VersionMismatch);
    assert!(failure.message.contains("0.0.1"), "{}", failure.message);
    assert!(stranger.receiver.next().await.unwrap().is_none());
}

async fn another_python_gets_no_worker(driver: &mut Driver) {
    let correlation = driver.repeat_lease(LeaseId::random(), 1.0, "3.7");
    let failure = driver.lease_reply(correlation).await.failure.unwrap();
    assert_eq!(failure.error_code(), ErrorCode::VersionMismatch);
    assert!(
        failure.message.contains("3.7") && failure.message.contains("3.11"),
        "{}",
        failure.message
    );
}

async fn leases_are_granted_in_turn(driver: &mut Driver) {
    let (one, correlation) = driver.request_lease(1.0);
    let granted = driver.lease_reply(correlation).await;
    let worker = granted.worker.clone().unwrap();
    assert!(is_alive(granted.worker_pid));

    let again = driver.repeat_lease(one, 1.0, "3.11");
    assert_eq!(driver.lease_reply(again).await.worker, Some(worker.clone()));

    let (two, waiting) = driver.request_lease(1.0);
    let repeated = driver.repeat_lease(two, 1.0, "3.11");
    driver.give_back(one);
    // The worker is of this job and idle: it is used again.
    assert_eq!(driver.lease_reply(waiting).await.worker, Some(worker.clone()));
    assert_eq!(driver.lease_reply(repeated).await.worker, Some(worker));
    driver.give_back(two);
}

async fn a_broken_lease_names_the_reason(driver: &mut Driver) {
    let (lease, correlation) = driver.request_lease(1.0);
    let granted = driver.lease_reply(correlation).await;
    kill(granted.worker_pid);
    let broken: LeaseBroken = driver
        .until(|frame| frame.kind == FrameKind::LeaseBroken)
        .await
        .decode()
        .unwrap();
    assert_eq!(broken.lease_id[..], lease.as_bytes()[..]);
    assert!(broken.cause.contains("SIGKILL"), "{}", broken.cause);
    let died: WorkerDied = driver
        .until(|frame| frame.kind == FrameKind::WorkerDied)
        .await
        .decode()
        .unwrap();
    assert_eq!(died.worker_id, granted.worker.unwrap().worker_id);
}

async fn create_actor(driver: &mut Driver, node: &Node) -> ActorUpdate {
    let actor = ActorId::random();
    let owner = WorkerAddress {
        node_id: node.id,
        worker_id: driver.worker_id,
        node_address: node.ready.address.clone(),
    };
    let spec = ActorSpec {
        actor_id: actor.to_vec().into(),
        job_id: driver.job.to_vec().into(),
        owner: Some((&owner).into()),
        class_name: "Counter".to_owned(),
        placement_resources: Some((&cpus(1.0)).into()),
        python_version: "3.11".to_owned(),
        ..ActorSpec::default()
    };
    let request = head_request::Request::RegisterActor(RegisterActor {
        spec: Some(spec),
        ..Default::default()
    });
    assert_eq!(driver.ask_head(request).await.failure, None);
    driver.send(
        FrameKind::WatchActor,
        &WatchActor {
            actor_id: actor.to_vec().into(),
        },
    );
    let alive = wait_for_state(driver, ActorState::Alive).await;
    assert!(is_alive(alive.pid));
    alive
}

async fn an_actor_lives_in_its_own_worker(driver: &mut Driver, node: &Node) {
    let alive = create_actor(driver, node).await;
    // It gave its placement CPU back.
    let (lease, correlation) = driver.request_lease(1.0);
    let granted = driver.lease_reply(correlation).await;
    assert_ne!(granted.worker_pid, alive.pid);
    driver.give_back(lease);
    kill(alive.pid);
    let dead = wait_for_state(driver, ActorState::Dead).await;
    assert!(dead.cause.contains("SIGKILL"), "{}", dead.cause);
}

async fn a_worker_outlives_a_zygote_that_dies_before_it_told_of_it(cluster: &Cluster) {
    std::fs::write(cluster.directory.path().join("zygote-dies"), "").unwrap();
    let node = cluster.raylet(1.0, Some(STAND_IN), None).await;
    let mut driver = Driver::connect(cluster, &node).await;
    driver.register_job(&node).await;
    let alive = create_actor(&mut driver, &node).await;
    // The next worker comes from the next zygote, so the end of the first one is known.
    let (lease, correlation) = driver.request_lease(1.0);
    let granted = driver.lease_reply(correlation).await;
    assert_ne!(granted.worker_pid, alive.pid);
    driver.give_back(lease);
    assert!(is_alive(alive.pid));
    kill(alive.pid);
    let dead = wait_for_state(&mut driver, ActorState::Dead).await;
    assert!(dead.cause.contains("SIGKILL"), "{}", dead.cause);
    node.cancel.cancel();
    node.task.await.unwrap();
}

async fn wait_for_state(driver: &mut Driver, state: ActorState) -> ActorUpdate {
    let wanted = move |frame: &Frame| {
        frame.kind == FrameKind::ActorUpdate && frame.decode::<ActorUpdate>().unwrap().state() == state
    };
    driver.until(wanted).await.decode().unwrap()
}

async fn worker_output_reaches_the_driver(driver: &mut Driver) {
    let batch: LogBatch = driver
        .until(|frame| frame.kind == FrameKind::LogBatch)
        .await
        .decode()
        .unwrap();
    assert_eq!(batch.lines[0].text, "hello from a worker");
    assert_eq!(batch.lines[0].ip, "127.0.0.1");
}

async fn a_request_may_have_more_answers_than_a_queue_has_places(driver: &mut Driver, node: &Node) {
    let count = 70_000;
    let here = location_of(node.id, &node.ready.address);
    let entry = |_| GetObjectEntry {
        object_id: ObjectId::for_result(TaskId::next(), 0).to_vec().into(),
        locations: vec![here.clone()],
    };
    let objects = (0..count).map(entry).collect();
    let correlation = driver.send(FrameKind::GetObjects, &GetObjects { objects });
    for _ in 0..count {
        let answer = driver.reply(FrameKind::ObjectReady, correlation).await;
        let answer: ObjectReady = answer.decode().unwrap();
        assert_eq!(answer.failure.unwrap().error_code(), ErrorCode::ObjectLost);
    }
}

/// The drivers are this process, so they go on when their connections end.
async fn a_range_is_not_used_again_while_its_process_lives(cluster: &Cluster, node: &Node) {
    let mut first = Driver::connect(cluster, node).await;
    let mut second = Driver::connect(cluster, node).await;
    let range = first.create_object(node, 4096).await;
    let gone = first.worker_id;
    drop(first);
    let is_the_end = |frame: &Frame| {
        frame.kind == FrameKind::WorkerDied
            && frame.decode::<WorkerDied>().unwrap().worker_id == gone.as_bytes()[..]
    };
    second.until(is_the_end).await;
    let other = second.create_object(node, 4096).await;
    assert_ne!((range.segment_id, range.offset), (other.segment_id, other.offset));
}

async fn a_request_that_fits_only_elsewhere_is_passed_on(driver: &mut Driver, other: &Node) {
    let (_, correlation) = driver.request_lease(3.0);
    let spillback = driver.lease_reply(correlation).await.spillback.unwrap();
    assert_eq!(spillback.node_id[..], other.id.as_bytes()[..]);
    assert_eq!(spillback.node_address, other.ready.address);
}

async fn a_python_that_cannot_start_is_named(cluster: &Cluster) {
    let node = cluster.raylet(1.0, Some("/nonexistent"), None).await;
    let mut driver = Driver::connect(cluster, &node).await;
    let (_, correlation) = driver.request_lease(1.0);
    let failure = driver.lease_reply(correlation).await.failure.unwrap();
    assert_eq!(failure.error_code(), ErrorCode::Unavailable);
    assert!(
        failure.message.contains("No module named 'sparkray'"),
        "{}",
        failure.message
    );
    node.cancel.cancel();
    node.task.await.unwrap();
}

async fn objects_are_pulled_from_where_they_are(cluster: &Cluster, first: &Node, second: &Node) {
    let client_of = |node: &Node| {
        let (identity, socket, id) = (cluster.identity.clone(), node.ready.socket_name.clone(), node.id);
        tokio::task::spawn_blocking(move || {
            BlockingStoreClient::connect(&identity, &socket, id, WorkerId::random(), PATIENCE).unwrap()
        })
    };
    let writer = client_of(second).await.unwrap();
    let reader = client_of(first).await.unwrap();
    let owner = WorkerAddress {
        node_id: second.id,
        worker_id: WorkerId::random(),
        node_address: second.ready.address.clone(),
    };
    let location = location_of(second.id, &second.ready.address);
    let sizes = [0_usize, 1, (1 << 20) - 1, 1 << 20, (5 << 20) + 17];
    let moved = tokio::task::spawn_blocking(move || {
        let deadline = Instant::now() + PATIENCE;
        let mut entries = Vec::new();
        for size in sizes {
            let object = ObjectId::for_result(TaskId::next(), 0);
            let mut value = writer
                .create(object, size as u64, &owner, None, deadline)
                .unwrap()
                .unwrap();
            for (index, byte) in value.as_mut_slice().iter_mut().enumerate() {
                *byte = (index * 7 % 251) as u8;
            }
            value.seal().unwrap();
            // The first asks in vain at a node that is not there.
            let nowhere = location_of(NodeId::random(), "127.0.0.1:1");
            entries.push(GetEntry {
                object,
                locations: vec![nowhere, location.clone()],
            });
        }
        for (object, size) in reader.get(&entries, deadline).into_iter().zip(sizes) {
            let object = object.unwrap();
            assert_eq!(object.as_slice().len(), size);
            assert!(
                object
                    .as_slice()
                    .iter()
                    .enumerate()
                    .all(|(index, byte)| *byte == (index * 7 % 251) as u8)
            );
        }
        let unknown = ObjectId::for_result(TaskId::next(), 0);
        let lost = reader
            .get(
                &[GetEntry {
                    object: unknown,
                    locations: vec![location],
                }],
                deadline,
            )
            .remove(0);
        let error = lost.unwrap_err();
        assert_eq!(error.code(), ErrorCode::ObjectLost);
        error.to_string()
    });
    let message = moved.await.unwrap();
    assert!(message.contains(&second.ready.address), "{message}");
}
