//! Actors, as a driver sees them.

use sparkray_common::{ActorId, WorkerAddress};
use sparkray_proto::{
    ActorSpec, ActorState, ActorUpdate, FrameKind, LogBatch, RegisterActor, WatchActor, head_request,
};
use sparkray_rpc::Frame;

use crate::support::{Cluster, Driver, Node, STAND_IN, alone, cpus, is_alive, kill};

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

async fn wait_for_state(driver: &mut Driver, state: ActorState) -> ActorUpdate {
    let wanted = move |frame: &Frame| {
        frame.kind == FrameKind::ActorUpdate && frame.decode::<ActorUpdate>().unwrap().state() == state
    };
    driver.until(wanted).await.decode().unwrap()
}

#[test]
fn one_lives_in_its_own_worker() {
    alone("actors::one_lives_in_its_own_worker", async {
        let cluster = Cluster::start().await;
        let node = cluster.raylet(1.0, Some(STAND_IN), None).await;
        let mut driver = Driver::connect(&cluster, &node).await;
        driver.register_job(&node).await;
        let alive = create_actor(&mut driver, &node).await;
        // It gave its placement CPU back.
        let (lease, correlation) = driver.request_lease(1.0);
        let granted = driver.lease_reply(correlation).await;
        assert_ne!(granted.worker_pid, alive.pid);
        driver.give_back(lease);
        kill(alive.pid);
        let dead = wait_for_state(&mut driver, ActorState::Dead).await;
        assert!(dead.cause.contains("SIGKILL"), "{}", dead.cause);
        node.stop().await;
    });
}

#[test]
fn its_output_reaches_the_driver() {
    alone("actors::its_output_reaches_the_driver", async {
        let cluster = Cluster::start().await;
        let node = cluster.raylet(1.0, Some(STAND_IN), None).await;
        let mut driver = Driver::connect(&cluster, &node).await;
        driver.register_job(&node).await;
        create_actor(&mut driver, &node).await;
        let batch: LogBatch = driver
            .until(|frame| frame.kind == FrameKind::LogBatch)
            .await
            .decode()
            .unwrap();
        assert_eq!(batch.lines[0].text, "hello from an actor");
        assert_eq!(batch.lines[0].ip, "127.0.0.1");
        node.stop().await;
    });
}

#[test]
fn one_outlives_a_zygote_that_dies_before_it_told_of_its_worker() {
    alone(
        "actors::one_outlives_a_zygote_that_dies_before_it_told_of_its_worker",
        async {
            let cluster = Cluster::start().await;
            std::fs::write(cluster.directory.path().join("zygote-dies"), "").unwrap();
            let node = cluster.raylet(1.0, Some(STAND_IN), None).await;
            let mut driver = Driver::connect(&cluster, &node).await;
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
            node.stop().await;
        },
    );
}
