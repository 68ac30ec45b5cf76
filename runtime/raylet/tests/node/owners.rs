//! Owners on other nodes whose connections break: a head and raylets in one process, and owners made of bare frames.

use std::time::{Duration, Instant};

use sparkray_common::{ErrorCode, LeaseId, NodeId, VERSION, WorkerId};
use sparkray_proto::{ClientKind, FrameKind, RegisterClient, RegisterClientReply, RequestWorkerLeaseReply};

use crate::support::{Cluster, Driver, Node, PATIENCE, STAND_IN, alone, is_alive};

/// A process of another node.
struct Owner {
    worker: WorkerId,
    node: NodeId,
    registration: u64,
}

impl Owner {
    fn on(node: &Node) -> Self {
        Self::of(WorkerId::random(), node)
    }

    fn of(worker: WorkerId, node: &Node) -> Self {
        Self {
            worker,
            node: node.id,
            registration: 0,
        }
    }

    /// Registers over a new connection.
    async fn call(&mut self, cluster: &Cluster, node: &Node, held: &[LeaseId]) -> Driver {
        self.registration += 1;
        let (connection, reply) = self.try_call(cluster, node, held).await;
        assert_eq!(reply.failure, None);
        connection
    }

    async fn try_call(
        &self,
        cluster: &Cluster,
        node: &Node,
        held: &[LeaseId],
    ) -> (Driver, RegisterClientReply) {
        let mut connection = Driver::dial_remote(cluster, node).await;
        let register = RegisterClient {
            worker_id: self.worker.to_vec().into(),
            node_id: self.node.to_vec().into(),
            kind: ClientKind::Remote.into(),
            pid: std::process::id(),
            sparkray_version: VERSION.to_owned(),
            lease_ids: held.iter().map(|lease| lease.to_vec().into()).collect(),
            registration: self.registration,
            ..RegisterClient::default()
        };
        let correlation = connection.send(FrameKind::RegisterClient, &register);
        let reply = connection
            .reply(FrameKind::RegisterClientReply, correlation)
            .await;
        (connection, reply.decode().unwrap())
    }
}

async fn lease(owner: &mut Driver) -> (LeaseId, RequestWorkerLeaseReply) {
    let (lease, correlation) = owner.request_lease(1.0);
    let reply = owner.lease_reply(correlation).await;
    assert_eq!(reply.failure, None);
    (lease, reply)
}

/// Breaks a connection, and waits until its raylet has seen that.
async fn break_connection(connection: Driver) {
    let Driver {
        sender, mut receiver, ..
    } = connection;
    drop(sender);
    let ended = async { while matches!(receiver.next().await, Ok(Some(_))) {} };
    tokio::time::timeout(PATIENCE, ended).await.unwrap();
}

async fn wait_for_end(pid: u32) {
    let deadline = Instant::now() + 3 * PATIENCE;
    while is_alive(pid) {
        assert!(Instant::now() < deadline, "worker {pid} lives on");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A node without workers, and one with a CPU.
async fn start_two() -> (Cluster, Node, Node) {
    let cluster = Cluster::start().await;
    let first = cluster.raylet(0.0, None, None).await;
    let second = cluster
        .raylet(1.0, Some(STAND_IN), Some(&first.ready.address))
        .await;
    (cluster, first, second)
}

#[test]
fn one_that_returns_goes_on() {
    alone("owners::one_that_returns_goes_on", async {
        let (cluster, first, second) = start_two().await;
        let mut owner = Owner::on(&first);
        let mut connection = owner.call(&cluster, &second, &[]).await;
        let (held, granted) = lease(&mut connection).await;
        // It waits, and goes with the connection.
        connection.request_lease(1.0);
        break_connection(connection).await;
        assert!(is_alive(granted.worker_pid));
        let mut connection = owner.call(&cluster, &second, &[held]).await;
        let again = connection.repeat_lease(held, 1.0, "3.11");
        assert_eq!(connection.lease_reply(again).await.worker, granted.worker);
        // Whoever returns before the raylet has noticed the break loses nothing either.
        let mut returned = owner.call(&cluster, &second, &[held]).await;
        assert!(matches!(connection.receiver.next().await, Ok(None) | Err(_)));
        let again = returned.repeat_lease(held, 1.0, "3.11");
        assert_eq!(returned.lease_reply(again).await.worker, granted.worker);
        returned.give_back(held);
        let (next, _) = lease(&mut returned).await;
        returned.give_back(next);
        second.stop().await;
        first.stop().await;
    });
}

#[test]
fn what_one_does_not_know_of_is_ended() {
    alone("owners::what_one_does_not_know_of_is_ended", async {
        let (cluster, first, second) = start_two().await;
        let mut owner = Owner::on(&first);
        let mut connection = owner.call(&cluster, &second, &[]).await;
        let (_, granted) = lease(&mut connection).await;
        break_connection(connection).await;
        let mut connection = owner.call(&cluster, &second, &[LeaseId::random()]).await;
        wait_for_end(granted.worker_pid).await;
        let (next, _) = lease(&mut connection).await;
        connection.give_back(next);
        second.stop().await;
        first.stop().await;
    });
}

#[test]
fn an_older_registration_is_refused() {
    alone("owners::an_older_registration_is_refused", async {
        let (cluster, first, second) = start_two().await;
        let mut owner = Owner::on(&first);
        let mut connection = owner.call(&cluster, &second, &[]).await;
        let (held, granted) = lease(&mut connection).await;
        let (_refused, reply) = owner.try_call(&cluster, &second, &[]).await;
        assert_eq!(reply.failure.unwrap().error_code(), ErrorCode::Stale);
        let again = connection.repeat_lease(held, 1.0, "3.11");
        assert_eq!(connection.lease_reply(again).await.worker, granted.worker);
        connection.give_back(held);
        second.stop().await;
        first.stop().await;
    });
}

#[test]
fn the_death_of_an_absent_one_ends_its_leases() {
    alone("owners::the_death_of_an_absent_one_ends_its_leases", async {
        let (cluster, first, second) = start_two().await;
        let driver = Driver::connect(&cluster, &first).await;
        let mut owner = Owner::of(driver.worker_id, &first);
        let mut connection = owner.call(&cluster, &second, &[]).await;
        let (held, granted) = lease(&mut connection).await;
        break_connection(connection).await;
        // The other one waits for its room.
        let mut waiting = Owner::on(&first).call(&cluster, &second, &[]).await;
        let (next, correlation) = waiting.request_lease(1.0);
        assert!(is_alive(granted.worker_pid));
        drop(driver);
        wait_for_end(granted.worker_pid).await;
        assert_eq!(waiting.lease_reply(correlation).await.failure, None);
        waiting.give_back(next);
        owner.registration += 1;
        let (_late, reply) = owner.try_call(&cluster, &second, &[held]).await;
        assert_eq!(reply.failure.unwrap().error_code(), ErrorCode::Stale);
        second.stop().await;
        first.stop().await;
    });
}

#[test]
fn the_death_of_its_node_ends_its_leases() {
    alone("owners::the_death_of_its_node_ends_its_leases", async {
        let (cluster, first, second) = start_two().await;
        let third = cluster.raylet(0.0, None, Some(&first.ready.address)).await;
        let mut connections = Vec::new();
        for breaks in [true, false] {
            let mut connection = Owner::on(&third).call(&cluster, &second, &[]).await;
            if breaks {
                let (_, granted) = lease(&mut connection).await;
                break_connection(connection).await;
                connections.push((None, granted));
            } else {
                connection.request_lease(1.0);
                connections.push((Some(connection), RequestWorkerLeaseReply::default()));
            }
        }
        // It falls silent.
        third.task.abort();
        wait_for_end(connections[0].1.worker_pid).await;
        // The other one was closed by the raylet.
        let mut connection = connections.remove(1).0.unwrap();
        let ended = async { while matches!(connection.receiver.next().await, Ok(Some(_))) {} };
        tokio::time::timeout(PATIENCE, ended).await.unwrap();
        second.stop().await;
        first.stop().await;
    });
}

#[test]
fn without_a_head_nothing_waits_for_a_verdict_or_a_node() {
    alone(
        "owners::without_a_head_nothing_waits_for_a_verdict_or_a_node",
        async {
            let (cluster, first, second) = start_two().await;
            let mut connection = Owner::on(&first).call(&cluster, &second, &[]).await;
            let (_, absent) = lease(&mut connection).await;
            break_connection(connection).await;
            let mut driver = Driver::connect(&cluster, &first).await;
            let (_, waiting) = driver.request_lease(64.0);
            assert!(is_alive(absent.worker_pid));
            cluster.head.cancel();
            wait_for_end(absent.worker_pid).await;
            let failure = driver.lease_reply(waiting).await.failure.unwrap();
            assert_eq!(failure.error_code(), ErrorCode::Unavailable);
            assert!(
                failure.message.contains("CPU: 64") && failure.message.contains("head"),
                "{}",
                failure.message
            );
            let (_, later) = driver.request_lease(64.0);
            let failure = driver.lease_reply(later).await.failure.unwrap();
            assert_eq!(failure.error_code(), ErrorCode::Unavailable);

            let mut connection = Owner::on(&first).call(&cluster, &second, &[]).await;
            let (_, granted) = lease(&mut connection).await;
            break_connection(connection).await;
            wait_for_end(granted.worker_pid).await;
            second.stop().await;
            first.stop().await;
        },
    );
}
