use sparkray_common::TaskId;
use sparkray_object_store::{ClientId, ObjectStore, StoreConfig, StoreEvent};
use sparkray_proto::{GetObjectEntry, GetObjects, location_of};
use sparkray_rpc::Protection;

use super::*;
use crate::test_support::{OtherNode, PATIENCE};

/// Tickets of so many fetches, as a store hands them out.
fn fetches(count: u32, node: NodeId, address: &str) -> Vec<(PullTicket, ObjectId, Vec<ObjectLocation>)> {
    let config = StoreConfig::new(
        sparkray_common::ClusterId::random(),
        NodeId::random(),
        1 << 20,
        false,
    );
    let mut store = ObjectStore::new(config, std::time::Instant::now());
    let entry = |index| GetObjectEntry {
        object_id: ObjectId::for_result(TaskId::next(), index).to_vec().into(),
        locations: vec![location_of(node, address)],
    };
    let objects = (0..count).map(entry).collect();
    store.get(ClientId(1), 1, &GetObjects { objects }).unwrap();
    let started = store.drain_events().into_iter().filter_map(|event| match event {
        StoreEvent::StartPull {
            ticket,
            object,
            locations,
        } => Some((ticket, object, locations)),
        _ => None,
    });
    started.collect()
}

/// Begins all of these fetches.
fn begin_all(
    fetches: Vec<(PullTicket, ObjectId, Vec<ObjectLocation>)>,
    peers: &Peers,
    inputs: &mpsc::Sender<Input>,
) {
    for (ticket, object, locations) in fetches {
        let cancel = CancellationToken::new();
        tokio::spawn(pull(
            peers.clone(),
            ticket,
            object,
            locations,
            inputs.clone(),
            cancel,
        ));
    }
}

#[tokio::test]
async fn fetches_from_a_node_that_dies_end_however_many_there_are() {
    let mut other = OtherNode::start().await;
    let peers = Peers::new(NodeId::random(), other.identity.clone());
    let (inputs, mut news) = mpsc::channel(64);
    let fetches = fetches(20, other.id, &other.address);
    let count = fetches.len();
    assert_eq!(count, 20);
    begin_all(fetches, &peers, &inputs);
    let mut asked = Vec::new();
    while asked.len() < 8 {
        let (sender, mut receiver) = other.callers.recv().await.unwrap();
        assert_eq!(
            receiver.next().await.unwrap().unwrap().kind,
            FrameKind::PullObject
        );
        asked.push((sender, receiver));
    }
    // While all places are taken by fetches, messages go through.
    let tell = peers.tell(
        other.id,
        &other.address,
        Frame::new(FrameKind::FreeObjects, 0, &sparkray_proto::FreeObjects::default()),
    );
    tokio::time::timeout(PATIENCE, tell).await.unwrap().unwrap();
    drop((asked, other));
    for _ in 0..count {
        let event = tokio::time::timeout(PATIENCE, news.recv())
            .await
            .expect("each fetch ends");
        let Some(Input::PullEnded { outcome, .. }) = event else {
            panic!("{event:?}");
        };
        assert_eq!(outcome.unwrap_err().error_code(), ErrorCode::ObjectLost);
    }
}

#[tokio::test]
async fn a_fetch_puts_every_chunk_in_its_place_also_after_an_attempt_that_broke_off() {
    let mut other = OtherNode::start().await;
    let bytes: Vec<u8> = (0..2 * PREPARED + 12_345)
        .map(|index| (index % 251) as u8)
        .collect();
    let config = StoreConfig::new(
        sparkray_common::ClusterId::random(),
        NodeId::random(),
        64 << 20,
        false,
    );
    let mut store = ObjectStore::new(config, Instant::now());
    let object = ObjectId::for_result(TaskId::next(), 0);
    // Named twice: it breaks off the first time.
    let location = location_of(other.id, &other.address);
    let entry = GetObjectEntry {
        object_id: object.to_vec().into(),
        locations: vec![location.clone()],
    };
    store
        .get(ClientId(1), 1, &GetObjects { objects: vec![entry] })
        .unwrap();
    let ticket = store.drain_events().into_iter().find_map(|event| match event {
        StoreEvent::StartPull { ticket, .. } => Some(ticket),
        _ => None,
    });
    let ticket = ticket.unwrap();
    let (inputs, mut news) = mpsc::channel(64);
    let peers = Peers::new(NodeId::random(), other.identity.clone());
    let locations = vec![location.clone(), location];
    tokio::spawn(pull(
        peers,
        ticket,
        object,
        locations,
        inputs,
        CancellationToken::new(),
    ));
    let owner = WorkerAddress {
        worker_id: sparkray_common::WorkerId::random(),
        node_id: other.id,
        node_address: other.address.clone(),
    };
    let sent = bytes.clone();
    let sending = tokio::spawn(async move {
        // A connection that refused is used again.
        let (sender, mut receiver) = other.callers.recv().await.unwrap();
        for whole in [false, true] {
            let request = receiver.next().await.unwrap().unwrap();
            for (number, part) in sent.chunks(CHUNK).enumerate() {
                if !whole && number == 5 {
                    let failure = Failure::new(ErrorCode::ObjectLost, "it is gone");
                    sender
                        .send(pull_refused(request.correlation, object, failure))
                        .unwrap();
                    break;
                }
                let chunk = ObjectChunk {
                    object_id: object.to_vec().into(),
                    failure: None,
                    size: sent.len() as u64,
                    offset: (number * CHUNK) as u64,
                    owner: Some((&owner).into()),
                };
                let frame = Frame::new(FrameKind::ObjectChunk, request.correlation, &chunk);
                let payload = if whole { part.to_vec() } else { vec![9; part.len()] };
                sender
                    .send_wait(frame.with_payload(payload.into()))
                    .await
                    .unwrap();
            }
        }
        // Open until the other side has read all of it.
        receiver.next().await
    });
    let range = loop {
        let event = tokio::time::timeout(PATIENCE, news.recv()).await;
        match event.expect("the fetch goes on") {
            Some(Input::PullNeedsRoom {
                size, owner, room, ..
            }) => {
                store.pull_room(ticket, size, owner);
                let target = store.drain_events().into_iter().find_map(|event| match event {
                    StoreEvent::PullRoom { room, .. } => Some(room),
                    _ => None,
                });
                room.send(target.unwrap()).unwrap();
            }
            Some(Input::PullEnded { outcome, .. }) => break outcome.unwrap(),
            event => panic!("{event:?}"),
        }
    };
    assert!(range.as_slice() == bytes);
    sending.abort();
}

/// A way to `address` on which one bit of each answer is changed, far behind handshake and keys.
fn damaged_way_to(address: String) -> String {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let way = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for near in listener.incoming() {
            let mut near = near.unwrap();
            let mut far = std::net::TcpStream::connect(&address).unwrap();
            let (mut from, mut to) = (near.try_clone().unwrap(), far.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut from, &mut to));
            std::thread::spawn(move || {
                let mut buffer = vec![0; 64 * 1024];
                let mut passed = 0;
                while let Ok(read @ 1..) = far.read(&mut buffer) {
                    if (passed..passed + read).contains(&100_000) {
                        buffer[100_000 - passed] ^= 4;
                    }
                    passed += read;
                    if near.write_all(&buffer[..read]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    way
}

#[tokio::test]
async fn a_fetch_whose_bytes_are_changed_on_the_way_is_lost_with_the_reason() {
    for protection in [Protection::Sealed, Protection::Checked] {
        let mut other = OtherNode::start_with(protection).await;
        let peers = Peers::new(NodeId::random(), other.identity.clone());
        let (inputs, mut news) = mpsc::channel(64);
        let way = damaged_way_to(other.address.clone());
        let (ticket, object, locations) = fetches(1, other.id, &way).remove(0);
        let cancel = CancellationToken::new();
        tokio::spawn(pull(peers, ticket, object, locations, inputs, cancel));
        let (sender, mut receiver) = other.callers.recv().await.unwrap();
        let request = receiver.next().await.unwrap().unwrap();
        assert_eq!(request.kind, FrameKind::PullObject);
        let chunk = ObjectChunk {
            object_id: object.to_vec().into(),
            size: CHUNK as u64,
            ..ObjectChunk::default()
        };
        let frame = Frame::new(FrameKind::ObjectChunk, request.correlation, &chunk);
        sender.send(frame.with_payload(vec![7; CHUNK].into())).unwrap();
        let event = tokio::time::timeout(PATIENCE, news.recv())
            .await
            .expect("the fetch ends");
        let Some(Input::PullEnded { outcome, .. }) = event else {
            panic!("a changed chunk was taken: {event:?}");
        };
        let failure = outcome.unwrap_err();
        assert_eq!(failure.error_code(), ErrorCode::ObjectLost);
        assert!(failure.message.contains("changed"), "{}", failure.message);
    }
}

#[tokio::test]
async fn fetches_under_way_end_when_their_node_is_declared_dead() {
    let mut other = OtherNode::start().await;
    let peers = Peers::new(NodeId::random(), other.identity.clone());
    let (inputs, mut news) = mpsc::channel(64);
    begin_all(fetches(3, other.id, &other.address), &peers, &inputs);
    // The node is asked, and says nothing more; its connections stay open.
    let mut asked = Vec::new();
    for _ in 0..3 {
        let (sender, mut receiver) = other.callers.recv().await.unwrap();
        receiver.next().await.unwrap().unwrap();
        asked.push((sender, receiver));
    }
    peers.forget(other.id);
    for _ in 0..3 {
        let event = tokio::time::timeout(CHUNK_DEADLINE / 2, news.recv()).await;
        let Ok(Some(Input::PullEnded { outcome, .. })) = event else {
            panic!("a fetch waits for a node that is dead: {event:?}");
        };
        assert_eq!(outcome.unwrap_err().error_code(), ErrorCode::ObjectLost);
    }
}

/// A fetch of one object from `node` at `address`, and what it reports.
fn fetch_of_one(
    node: NodeId,
    address: &str,
    identity: &sparkray_rpc::Identity,
) -> (Peers, mpsc::Receiver<Input>) {
    let peers = Peers::new(NodeId::random(), identity.clone());
    let (inputs, news) = mpsc::channel(64);
    begin_all(fetches(1, node, address), &peers, &inputs);
    (peers, news)
}

async fn code_of_end(news: &mut mpsc::Receiver<Input>) -> ErrorCode {
    let event = tokio::time::timeout(PATIENCE, news.recv()).await;
    let Ok(Some(Input::PullEnded { outcome, .. })) = event else {
        panic!("the fetch has not ended: {event:?}");
    };
    outcome.unwrap_err().error_code()
}

#[tokio::test]
async fn a_fetch_outlasts_connections_that_break() {
    let mut other = OtherNode::start().await;
    // On the way: breaks the first two connections, and lets the others through.
    let between = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = between.local_addr().unwrap().to_string();
    let target = other.address.clone();
    tokio::spawn(async move {
        for count in 0.. {
            let (mut near, _) = between.accept().await.unwrap();
            if count >= 2 {
                let mut far = tokio::net::TcpStream::connect(&target).await.unwrap();
                tokio::spawn(async move { tokio::io::copy_bidirectional(&mut near, &mut far).await });
            }
        }
    });
    let (_peers, _news) = fetch_of_one(other.id, &address, &other.identity);
    let (_sender, mut receiver) = tokio::time::timeout(PATIENCE, other.callers.recv())
        .await
        .expect("the fetch goes on")
        .unwrap();
    assert_eq!(
        receiver.next().await.unwrap().unwrap().kind,
        FrameKind::PullObject
    );
}

#[tokio::test]
async fn what_cannot_be_reached_is_not_lost_unless_its_node_is_dead() {
    let other = OtherNode::start().await;
    // Connections are made, and nobody answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let started = Instant::now();
    let (_peers, mut news) = fetch_of_one(other.id, &address, &other.identity);
    assert_eq!(code_of_end(&mut news).await, ErrorCode::FetchTimedOut);
    assert!(started.elapsed() >= UNREACHABLE_PATIENCE);

    let (peers, mut news) = fetch_of_one(other.id, &address, &other.identity);
    peers.forget(other.id);
    assert_eq!(code_of_end(&mut news).await, ErrorCode::ObjectLost);
    drop(silent);
    // Its raylet is gone from where it listened.
    let (_peers, mut news) = fetch_of_one(other.id, &address, &other.identity);
    assert_eq!(code_of_end(&mut news).await, ErrorCode::ObjectLost);
}

#[tokio::test]
async fn who_waits_for_a_place_hears_of_the_death_of_the_node() {
    let other = OtherNode::start().await;
    let peers = Peers::new(NodeId::random(), other.identity.clone());
    let mut held = Vec::new();
    for _ in 0..8 {
        held.push(
            peers
                .connect(other.id, &other.address, Lane::Fetches)
                .await
                .unwrap(),
        );
    }
    let waiting = peers.connect(other.id, &other.address, Lane::Fetches);
    let mut waiting = Box::pin(waiting);
    assert!(futures_poll(waiting.as_mut()).is_none());
    peers.forget(other.id);
    let outcome = tokio::time::timeout(PATIENCE, waiting).await.unwrap();
    assert!(matches!(outcome, Err(RpcError::Closed)));
    let later = peers.connect(other.id, &other.address, Lane::Fetches).await;
    assert!(matches!(later, Err(RpcError::Closed)));
}

fn futures_poll<T>(future: std::pin::Pin<&mut impl Future<Output = T>>) -> Option<T> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.poll(&mut context) {
        std::task::Poll::Ready(value) => Some(value),
        std::task::Poll::Pending => None,
    }
}
