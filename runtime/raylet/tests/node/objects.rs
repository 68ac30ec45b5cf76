//! Objects, as clients of one and of several nodes see them.

use std::time::Instant;

use sparkray_common::{ErrorCode, NodeId, ObjectId, TaskId, WorkerAddress, WorkerId};
use sparkray_object_store::{BlockingStoreClient, GetEntry};
use sparkray_proto::{FrameKind, GetObjectEntry, GetObjects, ObjectReady, WorkerDied, location_of};
use sparkray_rpc::Frame;

use crate::support::{Cluster, Driver, Node, PATIENCE, alone};

#[test]
fn a_request_may_have_more_answers_than_a_queue_has_places() {
    alone(
        "objects::a_request_may_have_more_answers_than_a_queue_has_places",
        async {
            let cluster = Cluster::start().await;
            let node = cluster.raylet(0.0, None, None).await;
            let mut driver = Driver::connect(&cluster, &node).await;
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
            node.stop().await;
        },
    );
}

/// The drivers are this process, so they go on when their connections end.
#[test]
fn a_range_is_not_used_again_while_its_process_lives() {
    alone(
        "objects::a_range_is_not_used_again_while_its_process_lives",
        async {
            let cluster = Cluster::start().await;
            let node = cluster.raylet(0.0, None, None).await;
            let mut first = Driver::connect(&cluster, &node).await;
            let mut second = Driver::connect(&cluster, &node).await;
            let range = first.create_object(&node, 4096).await;
            let gone = first.worker_id;
            drop(first);
            let is_the_end = |frame: &Frame| {
                frame.kind == FrameKind::WorkerDied
                    && frame.decode::<WorkerDied>().unwrap().worker_id == gone.as_bytes()[..]
            };
            second.until(is_the_end).await;
            let other = second.create_object(&node, 4096).await;
            assert_ne!((range.segment_id, range.offset), (other.segment_id, other.offset));
            node.stop().await;
        },
    );
}

#[test]
fn they_are_pulled_from_where_they_are() {
    alone("objects::they_are_pulled_from_where_they_are", async {
        let cluster = Cluster::start().await;
        let first = cluster.raylet(0.0, None, None).await;
        let second = cluster.raylet(0.0, None, Some(&first.ready.address)).await;
        let client_of = |node: &Node| {
            let (identity, socket, id) = (cluster.identity.clone(), node.ready.socket_name.clone(), node.id);
            tokio::task::spawn_blocking(move || {
                BlockingStoreClient::connect(&identity, &socket, id, WorkerId::random(), PATIENCE).unwrap()
            })
        };
        let writer = client_of(&second).await.unwrap();
        let reader = client_of(&first).await.unwrap();
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
        second.stop().await;
        first.stop().await;
    });
}
