//! Leases, as a driver sees them.

use sparkray_common::{ErrorCode, LeaseId};
use sparkray_proto::{FrameKind, LeaseBroken, WorkerDied};

use crate::support::{Cluster, Driver, STAND_IN, alone, is_alive, kill};

#[test]
fn a_job_of_another_python_gets_no_worker() {
    alone("leases::a_job_of_another_python_gets_no_worker", async {
        let cluster = Cluster::start().await;
        let node = cluster.raylet(1.0, Some(STAND_IN), None).await;
        let mut driver = Driver::connect(&cluster, &node).await;
        driver.register_job(&node).await;
        let correlation = driver.repeat_lease(LeaseId::random(), 1.0, "3.7");
        let failure = driver.lease_reply(correlation).await.failure.unwrap();
        assert_eq!(failure.error_code(), ErrorCode::VersionMismatch);
        assert!(
            failure.message.contains("3.7") && failure.message.contains("3.11"),
            "{}",
            failure.message
        );
        node.stop().await;
    });
}

#[test]
fn they_are_granted_in_turn() {
    alone("leases::they_are_granted_in_turn", async {
        let cluster = Cluster::start().await;
        let node = cluster.raylet(1.0, Some(STAND_IN), None).await;
        let mut driver = Driver::connect(&cluster, &node).await;
        driver.register_job(&node).await;
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
        node.stop().await;
    });
}

#[test]
fn a_broken_one_names_the_reason() {
    alone("leases::a_broken_one_names_the_reason", async {
        let cluster = Cluster::start().await;
        let node = cluster.raylet(1.0, Some(STAND_IN), None).await;
        let mut driver = Driver::connect(&cluster, &node).await;
        driver.register_job(&node).await;
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
        node.stop().await;
    });
}

#[test]
fn a_request_that_fits_only_elsewhere_is_passed_on() {
    alone("leases::a_request_that_fits_only_elsewhere_is_passed_on", async {
        let cluster = Cluster::start().await;
        let node = cluster.raylet(1.0, Some(STAND_IN), None).await;
        let mut driver = Driver::connect(&cluster, &node).await;
        driver.register_job(&node).await;
        let second = cluster.raylet(4.0, None, Some(&node.ready.address)).await;
        let (_, correlation) = driver.request_lease(3.0);
        let spillback = driver.lease_reply(correlation).await.spillback.unwrap();
        assert_eq!(spillback.node_id[..], second.id.as_bytes()[..]);
        assert_eq!(spillback.node_address, second.ready.address);
        second.stop().await;
        node.stop().await;
    });
}

#[test]
fn a_python_that_cannot_start_is_named() {
    alone("leases::a_python_that_cannot_start_is_named", async {
        let cluster = Cluster::start().await;
        let node = cluster.raylet(1.0, Some("/nonexistent"), None).await;
        let mut driver = Driver::connect(&cluster, &node).await;
        let (_, correlation) = driver.request_lease(1.0);
        let failure = driver.lease_reply(correlation).await.failure.unwrap();
        assert_eq!(failure.error_code(), ErrorCode::Unavailable);
        assert!(
            failure.message.contains("No module named 'sparkray'"),
            "{}",
            failure.message
        );
        node.stop().await;
    });
}
