//! The blocking client against a store that a small raylet serves over a real socket.
#![allow(clippy::unwrap_used)] // In tests, also outside of test functions.

use std::collections::HashMap;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sparkray_common::{
    ClusterId, ClusterToken, ErrorCode, NodeId, ObjectId, TaskId, VERSION, WorkerAddress, WorkerId,
};
use sparkray_object_store::{
    BlockingStoreClient, ClientId, GetEntry, IoExecutor, ObjectStore, StoreConfig, StoreEvent,
};
use sparkray_proto::{CreateObject, FrameKind, RegisterClient, RegisterClientReply, StoreStats};
use sparkray_rpc::{
    BlockingConnection, Endpoint, Frame, FrameSender, Identity, Listener, Target, accept_loop,
    frame_connection,
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// What a connection's task tells the loop.
enum Input {
    Frame(ClientId, Frame),
    Gone(ClientId),
    Stats(oneshot::Sender<StoreStats>),
}

struct SmallRaylet {
    identity: Identity,
    node: NodeId,
    socket_name: String,
    inputs: mpsc::Sender<Input>,
    cancel: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl SmallRaylet {
    fn start(capacity: u64, spill: &tempfile::TempDir) -> Self {
        let identity = Identity {
            cluster_id: ClusterId::random(),
            token: ClusterToken::random(),
            head_epoch: 1,
        };
        let node = NodeId::random();
        let socket_name = format!("sparkray-test-{node}");
        let (inputs, receiver) = mpsc::channel(1024);
        let cancel = CancellationToken::new();
        let (listening, is_listening) = std::sync::mpsc::channel();
        let thread = {
            let (identity, socket_name, inputs, cancel) = (
                identity.clone(),
                socket_name.clone(),
                inputs.clone(),
                cancel.clone(),
            );
            let spill_dir = spill.path().to_owned();
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                runtime.block_on(async move {
                    let listener = Listener::bind_abstract(&socket_name).unwrap();
                    let (accepted, new_connections) = mpsc::channel(16);
                    tokio::spawn(accept_loop(
                        listener,
                        identity.clone(),
                        cancel.clone(),
                        |_| Ok(()),
                        accepted,
                    ));
                    listening.send(()).unwrap();
                    let mut config = StoreConfig::new(identity.cluster_id, node, capacity, true);
                    config.stall = Duration::from_millis(300);
                    let store = ObjectStore::new(config, Instant::now());
                    serve(store, spill_dir, new_connections, receiver, inputs, cancel).await;
                });
            })
        };
        is_listening.recv_timeout(Duration::from_secs(10)).unwrap();
        Self {
            identity,
            node,
            socket_name,
            inputs,
            cancel,
            thread: Some(thread),
        }
    }

    fn connect(&self) -> BlockingStoreClient {
        let patience = Duration::from_secs(10);
        BlockingStoreClient::connect(
            &self.identity,
            &self.socket_name,
            self.node,
            WorkerId::random(),
            patience,
        )
        .unwrap()
    }

    fn dial(&self) -> BlockingConnection {
        let endpoint = Endpoint::Abstract(self.socket_name.clone());
        BlockingConnection::dial(
            &self.identity,
            &endpoint,
            Target::Raylet(self.node),
            Duration::from_secs(10),
        )
        .unwrap()
    }

    fn owner(&self) -> WorkerAddress {
        WorkerAddress {
            node_id: self.node,
            worker_id: WorkerId::from_array([1; 16]),
            node_address: "h:1".to_owned(),
        }
    }

    fn stats(&self) -> StoreStats {
        let (sender, receiver) = oneshot::channel();
        self.inputs.blocking_send(Input::Stats(sender)).unwrap();
        receiver.blocking_recv().unwrap()
    }

    fn wait_for(&self, what: &str, condition: impl Fn(StoreStats) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !condition(self.stats()) {
            assert!(Instant::now() < deadline, "{what}: {:?}", self.stats());
            std::thread::yield_now();
        }
    }

    fn stop(&mut self) {
        self.cancel.cancel();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for SmallRaylet {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn serve(
    mut store: ObjectStore,
    spill_dir: std::path::PathBuf,
    mut new_connections: mpsc::Receiver<sparkray_rpc::Accepted>,
    mut inputs: mpsc::Receiver<Input>,
    sender: mpsc::Sender<Input>,
    cancel: CancellationToken,
) {
    let (mut executor, mut outcomes) = IoExecutor::new(vec![spill_dir]).unwrap();
    let mut senders: HashMap<ClientId, FrameSender> = HashMap::new();
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    loop {
        tokio::select! {
            () = cancel.cancelled() => break,
            _ = ticks.tick() => store.tick(Instant::now()),
            Some(outcome) = outcomes.recv() => store.io_done(outcome),
            Some(accepted) = new_connections.recv() => {
                let client = ClientId(senders.len() as u64 + 1);
                let (frames, mut receiver) = frame_connection(accepted.socket).unwrap();
                senders.insert(client, frames);
                let inputs = sender.clone();
                tokio::spawn(async move {
                    while let Ok(Some(frame)) = receiver.next().await {
                        if inputs.send(Input::Frame(client, frame)).await.is_err() {
                            return;
                        }
                    }
                    let _ = inputs.send(Input::Gone(client)).await;
                });
            }
            Some(input) = inputs.recv() => match input {
                Input::Frame(client, frame) => handle(&mut store, &senders[&client], client, &frame),
                Input::Gone(client) => store.client_gone(client),
                Input::Stats(reply) => reply.send(store.stats()).unwrap(),
            },
        }
        for event in store.drain_events() {
            let (client, mut frame, descriptor) = match event {
                StoreEvent::Io(job) => {
                    executor.start(job);
                    continue;
                }
                StoreEvent::Created {
                    client,
                    correlation,
                    reply,
                    descriptor,
                } => (
                    client,
                    Frame::new(FrameKind::CreateObjectReply, correlation, &reply),
                    descriptor,
                ),
                StoreEvent::Ready {
                    client,
                    correlation,
                    reply,
                    descriptor,
                } => (
                    client,
                    Frame::new(FrameKind::ObjectReady, correlation, &reply),
                    descriptor,
                ),
                other => panic!("not expected here: {other:?}"),
            };
            frame.descriptor = descriptor;
            let _ = senders[&client].send(frame);
        }
    }
    executor.shutdown().await;
}

fn handle(store: &mut ObjectStore, sender: &FrameSender, client: ClientId, frame: &Frame) {
    match frame.kind {
        FrameKind::RegisterClient => {
            let message: RegisterClient = frame.decode().unwrap();
            assert_eq!(message.sparkray_version, VERSION);
            let reply = RegisterClientReply {
                node_address: "h:1".to_owned(),
                ..RegisterClientReply::default()
            };
            sender
                .send(Frame::new(
                    FrameKind::RegisterClientReply,
                    frame.correlation,
                    &reply,
                ))
                .unwrap();
        }
        FrameKind::CreateObject => store
            .create(client, frame.correlation, &frame.decode().unwrap())
            .unwrap(),
        FrameKind::SealObject => store.seal(client, &frame.decode().unwrap()).unwrap(),
        FrameKind::AbortObject => store.abort(client, &frame.decode().unwrap()).unwrap(),
        FrameKind::GetObjects => store
            .get(client, frame.correlation, &frame.decode().unwrap())
            .unwrap(),
        FrameKind::ReleaseObjects => store.release(client, &frame.decode().unwrap()).unwrap(),
        FrameKind::FreeObjects => store.free(&frame.decode().unwrap()).unwrap(),
        other => panic!("not expected here: {other:?}"),
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn new_object() -> ObjectId {
    ObjectId::for_result(TaskId::next(), 0)
}

fn here(object: ObjectId) -> GetEntry {
    GetEntry {
        object,
        locations: Vec::new(),
    }
}

fn put(client: &BlockingStoreClient, owner: &WorkerAddress, object: ObjectId, bytes: &[u8]) {
    let mut writable = client
        .create(object, bytes.len() as u64, owner, None, soon())
        .unwrap()
        .unwrap();
    writable.as_mut_slice().copy_from_slice(bytes);
    writable.seal().unwrap();
}

#[test]
fn objects_go_from_one_client_to_another_and_are_released() {
    let spill = tempfile::tempdir().unwrap();
    let raylet = SmallRaylet::start(64 << 20, &spill);
    let (writer, reader) = (raylet.connect(), raylet.connect());
    let (first, second, absent) = (new_object(), new_object(), new_object());
    put(&writer, &raylet.owner(), first, b"first");
    put(&writer, &raylet.owner(), second, &vec![2; 5 << 20]);
    let only_here = GetEntry {
        object: absent,
        locations: vec![sparkray_proto::location_of(raylet.node, "h:1")],
    };
    let got = reader.get(&[here(second), here(first), only_here, here(first)], soon());
    assert_eq!(got[0].as_ref().unwrap().as_slice(), vec![2; 5 << 20]);
    assert_eq!(got[1].as_ref().unwrap().as_slice(), b"first");
    assert_eq!(got[2].as_ref().unwrap_err().code(), ErrorCode::ObjectLost);
    assert_eq!(got[3].as_ref().unwrap().as_slice(), b"first");
    // What is freed stays readable until it is released.
    writer.free(&[here(first), here(second)]).unwrap();
    raylet.wait_for("freed", |stats| stats.object_count == 0);
    assert_eq!(got[1].as_ref().unwrap().as_slice(), b"first");
    assert!(raylet.stats().used_bytes > 5 << 20);
    drop(got);
    raylet.wait_for("released", |stats| stats.used_bytes == 0);
}

#[test]
fn an_object_given_up_or_left_by_a_dead_client_goes() {
    let spill = tempfile::tempdir().unwrap();
    let raylet = SmallRaylet::start(1 << 20, &spill);
    let writer = raylet.connect();
    let object = new_object();
    let writable = writer.create(object, 100, &raylet.owner(), None, soon()).unwrap();
    drop(writable);
    raylet.wait_for("aborted", |stats| stats.used_bytes == 0);
    put(&writer, &raylet.owner(), object, b"again");
    assert!(
        writer
            .create(object, 5, &raylet.owner(), None, soon())
            .unwrap()
            .is_none()
    );
    writer.free(&[here(object)]).unwrap();
    raylet.wait_for("freed", |stats| stats.used_bytes == 0);
    // A process that is killed says nothing: its socket closes.
    let mut killed = raylet.dial();
    let message = CreateObject {
        object_id: object.to_vec().into(),
        size: 100,
        owner: Some((&raylet.owner()).into()),
        ..CreateObject::default()
    };
    killed
        .send(&Frame::new(FrameKind::CreateObject, 5, &message))
        .unwrap();
    let reply = killed.receive(soon()).unwrap().unwrap();
    assert!(reply.correlation == 5 && reply.descriptor.is_some());
    assert_eq!(raylet.stats().used_bytes, 4096);
    drop(killed);
    raylet.wait_for("reclaimed", |stats| stats.used_bytes == 0);
}

#[test]
fn waits_end_at_their_deadline_and_late_answers_give_back_what_they_grant() {
    let spill = tempfile::tempdir().unwrap();
    let raylet = SmallRaylet::start(1 << 20, &spill);
    let (writer, reader) = (raylet.connect(), raylet.connect());
    let object = new_object();
    let short = Instant::now() + Duration::from_millis(30);
    let got = reader.get(&[here(object)], short);
    assert_eq!(got[0].as_ref().unwrap_err().code(), ErrorCode::DeadlineExceeded);
    put(&writer, &raylet.owner(), object, b"late");
    writer.free(&[here(object)]).unwrap();
    // The late answer arrives with this one.
    let other = new_object();
    put(&writer, &raylet.owner(), other, b"other");
    assert_eq!(
        reader.get(&[here(other)], soon())[0].as_ref().unwrap().as_slice(),
        b"other"
    );
    raylet.wait_for("late use released", |stats| stats.used_bytes == 4096);
}

#[test]
fn an_interrupted_thread_waits_no_longer() {
    let spill = tempfile::tempdir().unwrap();
    let raylet = SmallRaylet::start(1 << 20, &spill);
    let client = BlockingStoreClient::connect_interruptible(
        &raylet.identity,
        &raylet.socket_name,
        raylet.node,
        WorkerId::random(),
        Duration::from_secs(10),
        || true,
    )
    .unwrap();
    let got = client.get(&[here(new_object())], Instant::now() + Duration::from_mins(10));
    assert_eq!(got[0].as_ref().unwrap_err().code(), ErrorCode::DeadlineExceeded);
}

#[test]
fn many_threads_share_a_client_of_a_store_that_is_too_small() {
    const THREADS: u8 = 4;
    const ROUNDS: usize = 40;
    let spill = tempfile::tempdir().unwrap();
    let raylet = SmallRaylet::start(4 << 20, &spill);
    let client = raylet.connect();
    let owner = raylet.owner();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (client, owner) = (client.clone(), owner.clone());
            scope.spawn(move || {
                let mut objects = Vec::new();
                for round in 0..ROUNDS {
                    let object = new_object();
                    put(
                        &client,
                        &owner,
                        object,
                        &vec![thread ^ round as u8; 300_000 + round],
                    );
                    objects.push(object);
                    let earlier = round / 2;
                    let got = client.get(&[here(objects[earlier]), here(object)], soon());
                    for (index, expected) in [(0, earlier), (1, round)] {
                        let bytes = got[index].as_ref().unwrap().as_slice();
                        assert_eq!(bytes.len(), 300_000 + expected);
                        assert!(bytes.iter().all(|byte| *byte == thread ^ expected as u8));
                    }
                }
                client
                    .free(&objects.into_iter().map(here).collect::<Vec<_>>())
                    .unwrap();
            });
        }
    });
    raylet.wait_for("all freed", |stats| {
        stats.object_count == 0 && stats.used_bytes == 0
    });
    let stats = raylet.stats();
    assert!(stats.spilled_bytes > 0 && stats.restored_bytes > 0, "{stats:?}");
}

#[test]
fn all_threads_hear_of_the_end_of_the_raylet() {
    let spill = tempfile::tempdir().unwrap();
    let mut raylet = SmallRaylet::start(1 << 20, &spill);
    let (client, idle) = (raylet.connect(), raylet.connect());
    assert!(idle.failure().is_none());
    let threads: Vec<_> = (0..3)
        .map(|_| {
            let client = client.clone();
            std::thread::spawn(move || {
                let got = client.get(&[here(new_object())], soon());
                got.into_iter().next().unwrap().unwrap_err().code()
            })
        })
        .collect();
    raylet.stop();
    for thread in threads {
        assert_eq!(thread.join().unwrap(), ErrorCode::Unavailable);
    }
    assert!(client.failure().is_some() && idle.failure().is_some());
    assert!(
        client
            .create(new_object(), 1, &raylet.owner(), None, soon())
            .is_err()
    );
}
