//! Tests of the streams, the queues and who dies of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use sparkray_common::{JobId, NodeId, VERSION};
use sparkray_proto::head_message::Message;
use sparkray_proto::{
    ActorSpec, HeadRequest, LogBatch, NodeMessage, RegisterActor, RegisterJob, RegisterNode, Resources,
    WatchActorOnNode, WorkerAddress, WorkerDeath, head_reply, head_request, node_message,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::SharedHead;
use super::session::{Attached, Batch, LOG_RESERVE, Outgoing, QUEUE};
use crate::journal::{Journal, MemoryJournal};
use crate::state::HeadState;
use crate::tables::Tables;

pub(super) fn register(id: NodeId) -> RegisterNode {
    RegisterNode {
        node_id: id.to_vec().into(),
        sparkray_version: VERSION.to_owned(),
        head_epoch: 1,
        ..RegisterNode::default()
    }
}

pub(super) fn head() -> Arc<SharedHead> {
    head_with(Box::new(MemoryJournal::default()))
}

pub(super) fn head_with(journal: Box<dyn Journal>) -> Arc<SharedHead> {
    let state = HeadState::new(Instant::now(), 1, 1, Tables::default());
    SharedHead::new(state, journal, CancellationToken::new())
}

/// Attaches and confirms the stream.
pub(super) async fn join(head: &SharedHead, node: NodeId, outgoing: Outgoing) -> Attached {
    let attached = head.attach(register(node), outgoing).await.unwrap();
    assert!(head.take_message(&attached, heartbeat(0)));
    attached
}

pub(super) fn heartbeat(received: u64) -> NodeMessage {
    NodeMessage {
        message: Some(node_message::Message::Heartbeat(sparkray_proto::Heartbeat {
            sent_nanos: 7,
        })),
        sequence: 0,
        received,
    }
}

pub(super) fn death(number: u8, sequence: u64) -> NodeMessage {
    let death = WorkerDeath {
        worker_id: vec![number; 16].into(),
        ..WorkerDeath::default()
    };
    NodeMessage {
        message: Some(node_message::Message::WorkerDeath(death)),
        sequence,
        received: 0,
    }
}

/// Numbers of the workers whose death was told, in order.
fn deaths(receiver: &mut mpsc::Receiver<Batch>) -> Vec<u8> {
    let told = received(receiver).into_iter();
    told.filter_map(|message| match message {
        Message::WorkerDeath(notice) => Some(notice.worker_id[0]),
        _ => None,
    })
    .collect()
}

#[tokio::test]
async fn a_stream_that_breaks_loses_nothing_and_repeats_nothing() {
    let head = head();
    let (node, other) = (NodeId::random(), NodeId::random());
    let (outgoing, mut other_reads) = mpsc::channel(QUEUE);
    join(&head, other, outgoing).await;
    let (outgoing, mut first_reads) = mpsc::channel(QUEUE);
    let first = join(&head, node, outgoing).await;
    assert!(head.take_message(&first, death(1, 1)));
    assert!(head.take_message(&first, death(2, 2)));
    assert_eq!(deaths(&mut first_reads), [1, 2]);

    // The node opens another stream; until it confirms it, the first one goes on.
    let (outgoing, mut second_reads) = mpsc::channel(QUEUE);
    let second = head.attach(register(node), outgoing).await.unwrap();
    let told = received(&mut second_reads);
    let [Message::Registered(registered)] = &told[..] else {
        panic!("{told:?}")
    };
    assert_eq!((registered.received, &registered.failure), (2, &None));
    assert!(head.take_message(&first, death(3, 3)));
    assert_eq!(deaths(&mut first_reads), [3]);

    // It has the first two deaths; what came by the first stream is not taken twice.
    assert!(head.take_message(&second, heartbeat(2)));
    assert!(first.cancel.is_cancelled());
    assert!(
        !head.take_message(&first, death(9, 4)),
        "an old stream is not heard"
    );
    assert!(head.take_message(&second, death(3, 3)));
    assert!(head.take_message(&second, death(4, 4)));
    assert_eq!(deaths(&mut second_reads), [3, 4]);
    assert_eq!(deaths(&mut other_reads), [1, 2, 3, 4]);
    assert!(!head.take_message(&second, death(7, 7)), "5 and 6 are missing");
}

#[tokio::test]
async fn only_the_end_of_the_confirmed_stream_is_the_end_of_a_node() {
    let head = head();
    let node = NodeId::random();
    let stream = || mpsc::channel(QUEUE).0;
    let given_up = head.attach(register(node), stream()).await.unwrap();
    let first = join(&head, node, stream()).await;
    let unconfirmed = head.attach(register(node), stream()).await.unwrap();
    for attached in [&given_up, &unconfirmed] {
        head.raylet_ended(attached);
        assert!(head.lock().state().tables().nodes.is_alive(node));
    }
    let second = join(&head, node, stream()).await;
    head.raylet_ended(&first);
    assert!(head.lock().state().tables().nodes.is_alive(node));
    head.raylet_ended(&second);
    assert!(!head.lock().state().tables().nodes.is_alive(node));
    assert!(
        head.attach(register(node), stream()).await.is_none(),
        "the dead stay dead"
    );
    assert!(!head.take_message(&second, heartbeat(0)));
}

#[tokio::test]
async fn heartbeats_are_answered_and_keep_a_node_alive() {
    let head = head();
    let (outgoing, mut reads) = mpsc::channel(QUEUE);
    let attached = join(&head, NodeId::random(), outgoing).await;
    received(&mut reads);
    assert!(head.take_message(&attached, death(1, 1)));
    assert!(head.take_message(&attached, heartbeat(0)));
    let Ok(Ok(batch)) = reads.try_recv() else { panic!() };
    assert!(matches!(batch[0].message, Some(Message::WorkerDeath(_))));
    let Ok(Ok(batch)) = reads.try_recv() else { panic!() };
    assert_eq!(batch[0].received, 1);
    assert!(matches!(&batch[0].message, Some(Message::HeartbeatReply(reply)) if reply.sent_nanos == 7));
}

fn received(receiver: &mut mpsc::Receiver<Batch>) -> Vec<Message> {
    let mut messages = Vec::new();
    while let Ok(Ok(batch)) = receiver.try_recv() {
        messages.extend(batch.into_iter().filter_map(|message| message.message));
    }
    messages
}

fn say(head: &SharedHead, node: NodeId, message: node_message::Message) {
    let message = NodeMessage {
        message: Some(message),
        ..NodeMessage::default()
    };
    head.lock()
        .change(|state, now| state.node_message(now, node, message))
        .0
        .unwrap();
}

#[tokio::test]
async fn a_node_that_does_not_read_dies_and_the_others_are_told() {
    let head = head();
    let (reader, idler) = (NodeId::random(), NodeId::random());
    let (to_reader, mut reads) = mpsc::channel(QUEUE);
    let (to_idler, mut idle) = mpsc::channel(3);
    join(&head, reader, to_reader).await;
    let idler_stream = join(&head, idler, to_idler).await;
    for number in 0..2 {
        let death = WorkerDeath {
            worker_id: vec![number; 16].into(),
            ..WorkerDeath::default()
        };
        say(&head, reader, node_message::Message::WorkerDeath(death));
    }
    assert!(idler_stream.cancel.is_cancelled());
    drop(idler_stream);
    let told = received(&mut reads);
    let is_death =
        |message: &Message| matches!(message, Message::NodeDeath(notice) if notice.node_id == idler.to_vec());
    assert!(told.iter().any(is_death), "{told:?}");
    let heard = received(&mut idle);
    let deaths = heard
        .iter()
        .filter(|message| matches!(message, Message::WorkerDeath(_)));
    assert_eq!(deaths.count(), 1, "{heard:?}");
    let end = idle.try_recv();
    assert!(
        matches!(end, Err(mpsc::error::TryRecvError::Disconnected)),
        "its stream ends: {end:?}"
    );
}

#[tokio::test]
async fn any_number_of_messages_that_one_event_makes_costs_no_node_its_life() {
    let head = head();
    let (first, second) = (NodeId::random(), NodeId::random());
    let places = 8;
    let (to_first, mut reads) = mpsc::channel(places);
    let (to_second, _idle) = mpsc::channel(QUEUE);
    join(&head, first, to_first).await;
    join(&head, second, to_second).await;
    received(&mut reads);
    let count = 10 * places;
    let job = RegisterJob {
        driver: Some(WorkerAddress {
            node_id: second.to_vec().into(),
            worker_id: vec![1; 16].into(),
            node_address: String::new(),
        }),
        ..RegisterJob::default()
    };
    let job_id = begin_job(&head, job.clone());
    for number in 0..count {
        let mut actor_id = vec![0; 16];
        actor_id[..8].copy_from_slice(&(number as u64).to_le_bytes());
        let spec = ActorSpec {
            actor_id: actor_id.clone().into(),
            job_id: job_id.to_vec().into(),
            owner: job.driver.clone(),
            resources: Some(Resources {
                units: HashMap::from([("CPU".to_owned(), 1.0)]),
            }),
            ..ActorSpec::default()
        };
        ask(
            &head,
            head_request::Request::RegisterActor(RegisterActor {
                spec: Some(spec),
                ..Default::default()
            }),
        );
        let watch = WatchActorOnNode {
            actor_id: actor_id.into(),
        };
        say(&head, first, node_message::Message::WatchActor(watch));
        received(&mut reads);
    }
    // The end of the driver's node is the end of all actors.
    head.lock().change(|state, now| state.detach(now, second, "test"));
    let told = received(&mut reads);
    assert!(told.len() > count, "{} messages", told.len());
    assert!(head.lock().has_session(first));
}

fn ask(head: &SharedHead, request: head_request::Request) -> Option<head_reply::Reply> {
    let request = HeadRequest {
        request: Some(request),
    };
    let (reply, _) = head.lock().change(|state, now| state.request(now, request));
    assert_eq!(reply.failure, None);
    reply.reply
}

/// The id of the new job.
fn begin_job(head: &SharedHead, job: RegisterJob) -> JobId {
    match ask(head, head_request::Request::RegisterJob(job)) {
        Some(head_reply::Reply::Job(reply)) => JobId::from_slice(&reply.job_id).unwrap(),
        other => panic!("no job but {other:?}"),
    }
}

#[tokio::test]
async fn output_of_workers_gives_way_to_everything_else() {
    let head = head();
    let node = NodeId::random();
    let (outgoing, mut incoming) = mpsc::channel(QUEUE);
    join(&head, node, outgoing).await;
    let driver = WorkerAddress {
        node_id: node.to_vec().into(),
        worker_id: vec![1; 16].into(),
        node_address: String::new(),
    };
    let job = RegisterJob {
        driver: Some(driver),
        ..RegisterJob::default()
    };
    let job_id = begin_job(&head, job);
    for _ in 0..QUEUE {
        let batch = LogBatch {
            job_id: job_id.to_vec().into(),
            lines: Vec::new(),
        };
        say(&head, node, node_message::Message::Log(batch));
    }
    let death = WorkerDeath {
        worker_id: vec![9; 16].into(),
        ..WorkerDeath::default()
    };
    say(&head, node, node_message::Message::WorkerDeath(death));
    let told = received(&mut incoming);
    assert!(told.len() < QUEUE - LOG_RESERVE + 4, "{} messages", told.len());
    assert!(matches!(told.last(), Some(Message::WorkerDeath(_))));
}

#[tokio::test]
async fn the_head_tells_what_it_has_counted() {
    let head = head();
    let (outgoing, _receiver) = mpsc::channel(QUEUE);
    let node = NodeId::random();
    let attached = join(&head, node, outgoing).await;
    assert!(head.take_message(&attached, death(1, 1)));
    let request = HeadRequest {
        request: Some(head_request::Request::ListNodes(sparkray_proto::ListNodes {})),
    };
    head.request(|state, now| state.request(now, request))
        .await
        .unwrap();
    let text = head.render_metrics();
    // The joining and the death.
    for line in [
        "ray_gcs_nodes{State=\"Alive\"} 1",
        "ray_gcs_streams 1",
        "ray_gcs_requests_total 1",
        "ray_gcs_journal_events_total 2",
        "ray_gcs_journal_records_total 2",
        "ray_gcs_journal_waiting_records 0",
    ] {
        assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
    }
}
