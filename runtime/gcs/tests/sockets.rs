//! The head over real sockets: one node on the head's own Unix socket, one through a gateway's TCP port.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sparkray_common::{
    ActorId, ClusterId, ClusterToken, ErrorCode, HeadConfig, HeadReady, NodeId, VERSION, WorkerAddress,
    WorkerId,
};
use sparkray_gcs::HeadError;
use sparkray_proto::actor_report::Outcome;
use sparkray_proto::head_client::HeadClient;
use sparkray_proto::head_message::Message;
use sparkray_proto::head_reply::Reply;
use sparkray_proto::head_request::Request;
use sparkray_proto::node_message::Message as FromNode;
use sparkray_proto::{
    ActorReport, ActorSpec, ActorState, FrameKind, HeadMessage, HeadRequest, Heartbeat, IncomingConnection,
    KvGet, KvPut, NodeMessage, RegisterActor, RegisterJob, RegisterNode, Resources, WatchActorOnNode,
};
use sparkray_rpc::{
    Endpoint, Frame, Identity, Listener, Protection, Refusal, RpcError, Target, accept_loop, dial,
    frame_connection, tonic_channel,
};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use tonic::transport::Channel;

const DEADLINE: Duration = Duration::from_secs(10);

async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, work)
        .await
        .expect("within the deadline")
}

struct RunningHead {
    identity: Identity,
    endpoint: Endpoint,
    cancel: CancellationToken,
    ended: JoinHandle<Result<(), HeadError>>,
}

fn config(identity: &Identity) -> HeadConfig {
    HeadConfig {
        cluster_id: identity.cluster_id.to_string(),
        token: identity.token.expose_hex(),
        head_epoch: identity.head_epoch,
        parent_pid: 0,
        log_dir: String::new(),
    }
}

async fn start_head() -> RunningHead {
    let identity = Identity {
        cluster_id: ClusterId::random(),
        token: ClusterToken::random(),
        head_epoch: 2,
    };
    let cancel = CancellationToken::new();
    let (announce, announced) = oneshot::channel::<HeadReady>();
    let ready = move |ready| announce.send(ready).unwrap();
    let ended = tokio::spawn(sparkray_gcs::run(config(&identity), ready, cancel.clone()));
    let ready = in_time(announced).await.unwrap();
    assert_eq!(
        ready.socket_name,
        format!("sparkray-{}-head-2", &identity.cluster_id.to_string()[..8])
    );
    assert_eq!(ready.pid, std::process::id());
    RunningHead {
        identity,
        endpoint: Endpoint::Abstract(ready.socket_name),
        cancel,
        ended,
    }
}

/// A raylet as the head sees it.
struct FakeNode {
    id: NodeId,
    client: HeadClient<Channel>,
    say: mpsc::Sender<NodeMessage>,
    hear: Streaming<HeadMessage>,
    /// Numbers of its messages.
    said: AtomicU64,
}

fn cpus(amount: f64) -> Resources {
    Resources {
        units: HashMap::from([("CPU".to_owned(), amount)]),
    }
}

impl FakeNode {
    async fn attach(identity: &Identity, endpoint: &Endpoint, cpu: f64, version: &str) -> Self {
        let channel = tonic_channel(identity.clone(), endpoint.clone(), Target::Head);
        let mut client = HeadClient::new(channel).max_decoding_message_size(1 << 30);
        let (say, said) = mpsc::channel(16);
        let id = NodeId::random();
        let register = RegisterNode {
            node_id: id.to_vec().into(),
            address: "127.0.0.1:1".to_owned(),
            total: Some(cpus(cpu)),
            sparkray_version: version.to_owned(),
            head_epoch: identity.head_epoch,
            ..RegisterNode::default()
        };
        say.send(NodeMessage {
            message: Some(FromNode::Register(register)),
            ..NodeMessage::default()
        })
        .await
        .unwrap();
        let hear = in_time(client.attach_node(ReceiverStream::new(said)))
            .await
            .unwrap()
            .into_inner();
        Self {
            id,
            client,
            say,
            hear,
            said: AtomicU64::new(0),
        }
    }

    /// The next message; `None` at the stream's end.
    async fn next(&mut self) -> Option<Message> {
        in_time(self.hear.message())
            .await
            .unwrap_or(None)
            .map(|message| message.message.unwrap())
    }

    /// Reads until a message that `wanted` accepts.
    async fn wait_for<T>(&mut self, wanted: impl Fn(Message) -> Option<T>) -> T {
        loop {
            let message = self.next().await.expect("the stream goes on");
            if let Some(found) = wanted(message) {
                return found;
            }
        }
    }

    async fn registered(&mut self) {
        let registered = |message| match message {
            Message::Registered(registered) => Some(registered),
            _ => None,
        };
        let answer = self.wait_for(registered).await;
        assert_eq!(answer.failure, None);
        let view = answer.view.expect("the answer has the nodes");
        assert!(view.nodes.iter().any(|node| node.node_id == self.id.to_vec()));
        let confirm = NodeMessage {
            message: Some(FromNode::Heartbeat(Heartbeat { sent_nanos: 1 })),
            ..NodeMessage::default()
        };
        self.say.send(confirm).await.unwrap();
    }

    async fn tell(&self, message: FromNode) {
        self.say
            .send(NodeMessage {
                message: Some(message),
                sequence: 1 + self.said.fetch_add(1, Ordering::Relaxed),
                received: 0,
            })
            .await
            .unwrap();
    }

    async fn call(&mut self, request: Request) -> Reply {
        let reply = in_time(self.client.call(HeadRequest {
            request: Some(request),
        }))
        .await
        .unwrap()
        .into_inner();
        assert_eq!(reply.failure, None);
        reply.reply.unwrap()
    }

    fn worker(&self) -> WorkerAddress {
        WorkerAddress {
            node_id: self.id,
            worker_id: WorkerId::random(),
            node_address: "127.0.0.1:1".to_owned(),
        }
    }
}

/// Listens on TCP and passes connections for the head on, as the raylet of the head's node does.
async fn start_gateway(head: &RunningHead) -> Endpoint {
    let listener = Listener::bind_tcp("127.0.0.1", 0, Protection::Sealed)
        .await
        .unwrap();
    let endpoint = Endpoint::Tcp(format!("127.0.0.1:{}", listener.local_port()));
    let gateway = dial(&head.identity, &head.endpoint, Target::HeadGateway, DEADLINE)
        .await
        .unwrap();
    let (sender, mut receiver) = frame_connection(gateway).unwrap();
    let (to_gateway, mut accepted) = mpsc::channel(4);
    let admit = |target| {
        if target == Target::Head {
            Ok(())
        } else {
            Err(Refusal::NoSuchTarget)
        }
    };
    tokio::spawn(accept_loop(
        listener,
        head.identity.clone(),
        head.cancel.clone(),
        admit,
        to_gateway,
    ));
    tokio::spawn(async move {
        while let Some(connection) = accepted.recv().await {
            let incoming = IncomingConnection {
                agreement: connection.agreement.encode().into(),
            };
            let frame = Frame::new(FrameKind::IncomingConnection, 0, &incoming);
            sender
                .send(frame.with_descriptor(connection.socket.socket))
                .unwrap();
        }
        drop(sender);
        let _ = receiver.next().await;
    });
    endpoint
}

fn actor_update(message: Message) -> Option<sparkray_proto::ActorUpdate> {
    match message {
        Message::Actor(update) => Some(update),
        _ => None,
    }
}

#[tokio::test]
async fn two_nodes_attach_and_an_actor_lives_and_dies_with_the_second() {
    let head = start_head().await;
    let gateway = start_gateway(&head).await;
    let mut first = FakeNode::attach(&head.identity, &head.endpoint, 0.0, VERSION).await;
    first.registered().await;
    let mut second = FakeNode::attach(&head.identity, &gateway, 2.0, VERSION).await;
    second.registered().await;

    // The first hears of the second with the next view.
    let second_id = second.id.to_vec();
    first
        .wait_for(|message| match message {
            Message::View(view) => view
                .nodes
                .into_iter()
                .find(|node| node.node_id == second_id && node.alive),
            _ => None,
        })
        .await;

    let (actor_id, driver) = (ActorId::random(), first.worker());
    let job = RegisterJob {
        driver: Some((&driver).into()),
        namespace: "n".to_owned(),
        python_version: "3.12".to_owned(),
    };
    let Reply::Job(job) = first.call(Request::RegisterJob(job)).await else {
        panic!("the head gave no job");
    };
    let spec = ActorSpec {
        actor_id: actor_id.to_vec().into(),
        job_id: job.job_id,
        owner: Some((&driver).into()),
        class_name: "Counter".to_owned(),
        // Larger than tonic's default limit.
        class_blob: vec![7; 6 << 20].into(),
        resources: Some(cpus(1.0)),
        ..ActorSpec::default()
    };
    first
        .call(Request::RegisterActor(RegisterActor {
            spec: Some(spec),
            ..Default::default()
        }))
        .await;
    first
        .tell(FromNode::WatchActor(WatchActorOnNode {
            actor_id: actor_id.to_vec().into(),
        }))
        .await;
    assert_eq!(first.wait_for(actor_update).await.state(), ActorState::Pending);

    let place = second
        .wait_for(|message| match message {
            Message::PlaceActor(place) => Some(place),
            _ => None,
        })
        .await;
    assert_eq!(place.spec.unwrap().class_blob.len(), 6 << 20);
    let worker = second.worker();
    let report = ActorReport {
        actor_id: actor_id.to_vec().into(),
        incarnation: place.incarnation,
        outcome: Some(Outcome::Alive((&worker).into())),
        pid: 9,
    };
    second.tell(FromNode::Actor(report)).await;
    let update = first.wait_for(actor_update).await;
    assert_eq!(
        (update.state(), update.address),
        (ActorState::Alive, Some((&worker).into()))
    );

    drop(second);
    let cause = first
        .wait_for(|message| match message {
            Message::NodeDeath(notice) => Some(notice.cause),
            _ => None,
        })
        .await;
    assert!(cause.contains("raylet"), "{cause}");
    assert_eq!(first.wait_for(actor_update).await.state(), ActorState::Dead);

    // The order to end reaches a node that is attached as the end of its stream.
    head.cancel.cancel();
    while first.next().await.is_some() {}
    in_time(head.ended).await.unwrap().unwrap();
}

#[tokio::test]
async fn strangers_other_versions_and_other_targets_are_refused() {
    let head = start_head().await;
    let stranger = Identity {
        token: ClusterToken::random(),
        ..head.identity.clone()
    };
    let outcome = dial(&stranger, &head.endpoint, Target::Head, DEADLINE).await;
    assert_eq!(outcome.unwrap_err().code(), ErrorCode::Unauthenticated);
    let outcome = dial(&head.identity, &head.endpoint, Target::Manager, DEADLINE).await;
    assert!(
        matches!(
            outcome,
            Err(RpcError::Refused {
                refusal: Refusal::NoSuchTarget,
                ..
            })
        ),
        "{outcome:?}"
    );

    let mut old = FakeNode::attach(&head.identity, &head.endpoint, 1.0, "0.0.1").await;
    let Some(Message::Registered(answer)) = old.next().await else {
        panic!("no answer")
    };
    assert_eq!(answer.failure.unwrap().error_code(), ErrorCode::VersionMismatch);
    assert!(old.next().await.is_none(), "the stream of a refused node ends");
    head.cancel.cancel();
    in_time(head.ended).await.unwrap().unwrap();
}

#[tokio::test]
async fn key_value_pairs_are_kept_and_a_second_head_of_the_epoch_is_refused() {
    let head = start_head().await;
    let mut node = FakeNode::attach(&head.identity, &head.endpoint, 1.0, VERSION).await;
    node.registered().await;
    let put = KvPut {
        key: "k".into(),
        value: "v".into(),
        namespace: "n".to_owned(),
        overwrite: true,
    };
    node.call(Request::KvPut(put)).await;
    let Reply::Value(value) = node
        .call(Request::KvGet(KvGet {
            key: "k".into(),
            namespace: "n".to_owned(),
        }))
        .await
    else {
        panic!("not a value")
    };
    assert_eq!((value.found, &value.value[..]), (true, &b"v"[..]));

    let second = sparkray_gcs::run(
        config(&head.identity),
        |_| panic!("it is not ready"),
        CancellationToken::new(),
    );
    let error = in_time(second).await.unwrap_err();
    assert!(matches!(error, HeadError::Listen { .. }), "{error}");
    let broken = HeadConfig {
        token: "short".to_owned(),
        ..config(&head.identity)
    };
    let error = in_time(sparkray_gcs::run(broken, |_| {}, CancellationToken::new()))
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "the head's configuration has no usable token: it must be 64 hexadecimal digits"
    );
    head.cancel.cancel();
    in_time(head.ended).await.unwrap().unwrap();
}
