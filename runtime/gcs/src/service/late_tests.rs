//! With a journal that is durable late: nothing is told before.

use std::pin::{Pin, pin};
use std::sync::Arc;

use proptest::prelude::*;
use sparkray_common::NodeId;
use sparkray_proto::head_message::Message;
use sparkray_proto::head_reply::Reply;
use sparkray_proto::{
    HeadMessage, HeadReply, HeadRequest, KvGet, KvPut, LogBatch, NodeMessage, WatchActorOnNode, head_request,
    node_message,
};
use tokio::sync::{mpsc, watch};

use super::SharedHead;
use super::locked::BEHIND;
use super::session::{Attached, Batch, QUEUE};
use super::tests::{death, head, head_with, heartbeat, join, register};
use crate::journal::Journal;
use crate::record::{Record, RecordNumber};

/// Takes records, and makes them durable when it is told to.
#[derive(Debug, Clone)]
struct LateJournal {
    appended: watch::Sender<RecordNumber>,
    durable: watch::Sender<RecordNumber>,
}

impl LateJournal {
    fn new() -> Self {
        Self {
            appended: watch::Sender::new(0),
            durable: watch::Sender::new(0),
        }
    }

    fn sync(&self) {
        self.durable.send_replace(*self.appended.borrow());
    }
}

impl Journal for LateJournal {
    fn append(&mut self, records: Vec<Record>) -> RecordNumber {
        self.appended
            .send_modify(|last| *last += records.len() as RecordNumber);
        *self.appended.borrow()
    }

    fn durable(&self) -> watch::Receiver<RecordNumber> {
        self.durable.subscribe()
    }
}

fn late_head() -> (Arc<SharedHead>, LateJournal) {
    let journal = LateJournal::new();
    (head_with(Box::new(journal.clone())), journal)
}

/// Lets a future run until it waits; `None` when it does.
async fn run<F: Future>(mut future: Pin<&mut F>) -> Option<F::Output> {
    tokio::select! {
        biased;
        output = &mut future => Some(output),
        () = std::future::ready(()) => None,
    }
}

/// Attaches and confirms the stream.
async fn join_late(
    head: &SharedHead,
    journal: &LateJournal,
    node: NodeId,
) -> (Attached, mpsc::Receiver<Batch>) {
    let (outgoing, reads) = mpsc::channel(QUEUE);
    let mut joining = pin!(join(head, node, outgoing));
    assert!(run(joining.as_mut()).await.is_none());
    journal.sync();
    (joining.await, reads)
}

fn received(reads: &mut mpsc::Receiver<Batch>) -> Vec<HeadMessage> {
    let mut messages = Vec::new();
    while let Ok(Ok(batch)) = reads.try_recv() {
        messages.extend(batch);
    }
    messages
}

fn kv_put(value: &'static str) -> HeadRequest {
    let put = KvPut {
        key: "k".into(),
        value: value.into(),
        namespace: "n".to_owned(),
        overwrite: true,
    };
    HeadRequest {
        request: Some(head_request::Request::KvPut(put)),
    }
}

fn kv_get() -> HeadRequest {
    let get = KvGet {
        key: "k".into(),
        namespace: "n".to_owned(),
    };
    HeadRequest {
        request: Some(head_request::Request::KvGet(get)),
    }
}

async fn ask(head: &SharedHead, request: HeadRequest) -> HeadReply {
    let reply = head.request(|state, now| state.request(now, request)).await;
    reply.unwrap()
}

#[tokio::test]
async fn a_node_hears_that_it_joined_when_that_is_durable() {
    let (head, journal) = late_head();
    let (outgoing, mut reads) = mpsc::channel(QUEUE);
    let mut attaching = pin!(head.attach(register(NodeId::random()), outgoing));
    assert!(run(attaching.as_mut()).await.is_none());
    assert!(received(&mut reads).is_empty());
    journal.sync();
    assert!(attaching.await.is_some());
    let told = received(&mut reads);
    assert!(
        matches!(told[0].message, Some(Message::Registered(_))),
        "{told:?}"
    );
}

#[tokio::test]
async fn a_refusal_that_follows_from_a_record_waits_for_it() {
    let (head, journal) = late_head();
    let node = NodeId::random();
    let (_, _reads) = join_late(&head, &journal, node).await;
    head.lock().change(|state, now| state.detach(now, node, "test"));
    let (outgoing, mut reads) = mpsc::channel(QUEUE);
    let mut attaching = pin!(head.attach(register(node), outgoing));
    assert!(run(attaching.as_mut()).await.is_none());
    assert!(received(&mut reads).is_empty());
    journal.sync();
    assert!(attaching.await.is_none());
    let told = received(&mut reads);
    let Some(Message::Registered(answer)) = &told[0].message else {
        panic!("{told:?}")
    };
    assert!(answer.failure.is_some());
}

#[tokio::test]
async fn a_request_is_answered_when_what_it_changed_or_saw_is_durable() {
    let (head, journal) = late_head();
    let mut before = pin!(ask(&head, kv_get()));
    assert!(run(before.as_mut()).await.is_some(), "nothing was changed yet");
    let mut first = pin!(ask(&head, kv_put("one")));
    let mut reader = pin!(ask(&head, kv_get()));
    assert!(run(first.as_mut()).await.is_none());
    assert!(run(reader.as_mut()).await.is_none(), "it has seen the value");
    journal.sync();
    assert!(run(first.as_mut()).await.is_some());
    let Some(Reply::Value(value)) = reader.await.reply else {
        panic!("no value")
    };
    assert_eq!(value.value, "one");

    let mut second = pin!(ask(&head, kv_put("two")));
    assert!(run(second.as_mut()).await.is_none());
    head.cancel.cancel();
    let third = head
        .request(|state, now| state.request(now, kv_put("three")))
        .await;
    assert!(third.is_none(), "the head ends: nobody knows whether it happened");
}

#[tokio::test]
async fn notices_and_acknowledgements_leave_when_their_event_is_durable() {
    let (head, journal) = late_head();
    let (node, other) = (NodeId::random(), NodeId::random());
    let (attached, mut reads) = join_late(&head, &journal, node).await;
    let (_, mut other_reads) = join_late(&head, &journal, other).await;
    let releasing = tokio::spawn({
        let head = Arc::clone(&head);
        async move { head.release_notices().await }
    });
    received(&mut reads);
    received(&mut other_reads);

    assert!(head.take_message(&attached, death(1, 1)));
    assert!(head.take_message(&attached, heartbeat(0)));
    assert!(received(&mut other_reads).is_empty());
    let told = received(&mut reads);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(matches!(told[0].message, Some(Message::HeartbeatReply(_))));
    assert_eq!(told[0].received, 0, "the node must keep the message");

    journal.sync();
    let Some(Ok(batch)) = other_reads.recv().await else {
        panic!("the stream ended")
    };
    assert!(matches!(batch[0].message, Some(Message::WorkerDeath(_))));
    let told = received(&mut reads);
    assert!(matches!(told[0].message, Some(Message::WorkerDeath(_))));
    assert_eq!(told[0].received, 1);
    head.cancel.cancel();
    releasing.await.unwrap();
}

#[tokio::test]
async fn a_dead_node_is_not_answered_and_loses_its_stream_when_its_death_is_durable() {
    let (head, journal) = late_head();
    let node = NodeId::random();
    let (attached, mut reads) = join_late(&head, &journal, node).await;
    received(&mut reads);
    head.lock().change(|state, now| state.detach(now, node, "test"));
    assert!(head.take_message(&attached, heartbeat(0)));
    assert!(received(&mut reads).is_empty(), "it would think that it lives");
    assert!(!attached.cancel.is_cancelled());
    journal.sync();
    head.tick();
    assert!(attached.cancel.is_cancelled());
    assert!(!head.take_message(&attached, heartbeat(0)));
}

#[tokio::test]
async fn a_head_whose_journal_falls_behind_stands_still() {
    let (head, journal) = late_head();
    for _ in 0..=BEHIND {
        head.lock()
            .change(|state, now| state.request(now, kv_put("many")));
    }
    let last = head.lock().last();
    let mut asking = pin!(ask(&head, kv_put("one more")));
    assert!(run(asking.as_mut()).await.is_none());
    assert_eq!(head.lock().last(), last, "it has changed nothing");
    assert!(!head.tick());
    journal.sync();
    assert!(head.tick());
    assert!(run(asking.as_mut()).await.is_none());
    assert_eq!(head.lock().last(), last + 1);
    journal.sync();
    assert!(run(asking.as_mut()).await.is_some());
}

#[tokio::test]
async fn effects_that_wait_are_limited_too() {
    let (head, journal) = late_head();
    let (attached, mut reads) = join_late(&head, &journal, NodeId::random()).await;
    received(&mut reads);
    for sequence in 1..=BEHIND as u64 {
        let watch = said(&Event::Watch(1), sequence).unwrap();
        assert!(head.take_message(&attached, watch));
    }
    assert!(!head.tick());
    let mut asking = pin!(ask(&head, kv_get()));
    assert!(run(asking.as_mut()).await.is_none());
    journal.sync();
    assert!(run(asking.as_mut()).await.is_some());
    assert!(head.tick());
    assert!(received(&mut reads).len() >= BEHIND, "the node reads it all");
    assert!(!attached.cancel.is_cancelled());
}

#[derive(Debug, Clone)]
enum Event {
    Death(u8),
    Watch(u8),
    Log,
    Tick,
    Sync,
}

fn events() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => any::<u8>().prop_map(Event::Death),
        2 => (0..4_u8).prop_map(Event::Watch),
        1 => Just(Event::Log),
        1 => Just(Event::Tick),
        2 => Just(Event::Sync),
    ]
}

fn said(event: &Event, sequence: u64) -> Option<NodeMessage> {
    let message = match event {
        Event::Death(number) => return Some(death(*number, sequence)),
        Event::Watch(number) => node_message::Message::WatchActor(WatchActorOnNode {
            actor_id: vec![*number; 16].into(),
        }),
        Event::Log => node_message::Message::Log(LogBatch {
            job_id: vec![1; 4].into(),
            lines: Vec::new(),
        }),
        Event::Tick | Event::Sync => return None,
    };
    Some(NodeMessage {
        message: Some(message),
        sequence,
        received: 0,
    })
}

fn messages(told: Vec<HeadMessage>) -> Vec<Option<Message>> {
    told.into_iter().map(|message| message.message).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Nothing while a record is not durable, the same in the same order when all are.
    #[test]
    fn a_late_head_tells_what_a_prompt_one_tells_later(events in prop::collection::vec(events(), 0..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let node = NodeId::from_array([7; 16]);
            let prompt = head();
            let (outgoing, mut prompt_reads) = mpsc::channel(QUEUE);
            let prompt_stream = join(&prompt, node, outgoing).await;
            let (late, journal) = late_head();
            let (late_stream, mut late_reads) = join_late(&late, &journal, node).await;
            let (mut should_be_told, mut told) = (Vec::new(), Vec::new());
            let mut sequence = 0;
            assert_eq!(messages(received(&mut late_reads)), messages(received(&mut prompt_reads)));
            for event in events.iter().chain([&Event::Sync]) {
                if let Some(message) = said(event, sequence + 1) {
                    sequence += 1;
                    assert!(prompt.take_message(&prompt_stream, message.clone()));
                    assert!(late.take_message(&late_stream, message));
                }
                match event {
                    Event::Tick => assert!(prompt.tick() && late.tick()),
                    Event::Sync => {
                        journal.sync();
                        late.lock().carry_out(std::time::Instant::now());
                    }
                    Event::Death(_) | Event::Watch(_) | Event::Log => {}
                }
                let news = messages(received(&mut late_reads));
                if *journal.appended.borrow() > *journal.durable.borrow() {
                    assert!(news.is_empty(), "{news:?} came too early");
                }
                told.extend(news);
                should_be_told.extend(messages(received(&mut prompt_reads)));
                assert!(should_be_told.starts_with(&told));
                if *journal.appended.borrow() == *journal.durable.borrow() {
                    assert_eq!(told, should_be_told);
                }
            }
        });
    }
}
