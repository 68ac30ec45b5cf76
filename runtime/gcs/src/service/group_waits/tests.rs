use std::sync::Arc;

use sparkray_common::NodeId;
use sparkray_proto::{
    CreatePlacementGroup, RegisterJob, RemovePlacementGroup, Resources, WorkerAddress, head_reply,
};
use tokio::sync::mpsc;

use super::super::tests::{head, join};
use super::*;

const GROUP: [u8; 16] = [3; 16];

async fn ask(head: &SharedHead, request: head_request::Request) -> HeadReply {
    let request = HeadRequest {
        request: Some(request),
    };
    head.request(|state, now| state.request(now, request))
        .await
        .unwrap()
}

async fn head_with_group() -> Arc<SharedHead> {
    let head = head();
    let node = NodeId::random();
    join(&head, node, mpsc::channel(super::super::session::QUEUE).0).await;
    let register = RegisterJob {
        driver: Some(WorkerAddress {
            node_id: node.to_vec().into(),
            worker_id: vec![1; 16].into(),
            ..WorkerAddress::default()
        }),
        ..RegisterJob::default()
    };
    let reply = ask(&head, head_request::Request::RegisterJob(register)).await;
    let Some(head_reply::Reply::Job(job)) = reply.reply else {
        panic!("{reply:?}")
    };
    let create = CreatePlacementGroup {
        placement_group_id: GROUP.to_vec().into(),
        job_id: job.job_id,
        bundles: vec![Resources {
            units: [("CPU".to_owned(), 1.0)].into(),
        }],
        ..CreatePlacementGroup::default()
    };
    let reply = ask(&head, head_request::Request::CreatePlacementGroup(create)).await;
    assert!(reply.failure.is_none(), "{reply:?}");
    head
}

fn question(wait_millis: u32) -> GetPlacementGroup {
    GetPlacementGroup {
        placement_group_id: GROUP.to_vec().into(),
        wait_millis,
        ..GetPlacementGroup::default()
    }
}

fn state_of(reply: Option<HeadReply>) -> PlacementGroupState {
    match reply.and_then(|reply| reply.reply) {
        Some(Reply::PlacementGroup(record)) => record.state(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn who_waits_hears_of_the_removal_at_once_and_of_nothing_at_the_deadline() {
    let head = head_with_group().await;
    assert_eq!(
        state_of(head.await_group(question(1)).await),
        PlacementGroupState::Pending
    );
    let waiting = tokio::spawn({
        let head = Arc::clone(&head);
        async move { head.await_group(question(60_000)).await }
    });
    // So that it waits before the group is removed.
    tokio::task::yield_now().await;
    let remove = RemovePlacementGroup {
        placement_group_id: GROUP.to_vec().into(),
    };
    ask(&head, head_request::Request::RemovePlacementGroup(remove)).await;
    let heard = tokio::time::timeout(LONGEST_WAIT / 2, waiting).await;
    assert_eq!(state_of(heard.unwrap().unwrap()), PlacementGroupState::Removed);
}

#[tokio::test]
async fn who_waits_for_an_unknown_group_does_not_wait() {
    let reply = head().await_group(question(60_000)).await.unwrap();
    assert!(reply.failure.is_some());
}

#[tokio::test]
async fn the_end_of_the_head_ends_the_waits() {
    let head = head_with_group().await;
    let mut waiting = std::pin::pin!(head.await_group(question(60_000)));
    tokio::select! {
        biased;
        reply = &mut waiting => panic!("{reply:?}"),
        () = std::future::ready(()) => {}
    }
    head.cancel.cancel();
    assert!(waiting.await.is_none());
}
