//! A raylet for tests of whole core workers, on real sockets: it registers clients, grants their requests to the one
//! worker that it knows, passes connections on, and keeps what else it hears.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sparkray_common::sync::{Condvar, Mutex};
use sparkray_common::{ClusterId, ClusterToken, JobId, NodeId, WorkerId};
use sparkray_proto::{self as proto, ClientKind, FrameKind};
use sparkray_rpc::{
    Agreement, CLIENT_PROOF_LEN, Frame, FrameDecoder, HELLO_LEN, Identity, Protection, ServerHandshake,
    Target, send_with_descriptor,
};

use crate::io::{ConnectOptions, CoreWorker};
use crate::state::{Notice, UnhandledErrors};

/// Nothing that is waited for takes so long.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// The job of every driver.
pub(crate) const GIVEN_JOB: JobId = JobId::from_array([0, 0, 0, 1]);

struct Client {
    worker_id: WorkerId,
    stream: UnixStream,
}

/// The raylet.
pub(crate) struct TestRaylet {
    pub(crate) identity: Identity,
    node_id: NodeId,
    socket_name: String,
    clients: Mutex<Vec<Client>>,
    /// Frames that it has nothing to say to.
    heard: Mutex<Vec<FrameKind>>,
    heard_more: Condvar,
}

fn encode(frame: &Frame) -> Vec<u8> {
    let mut bytes = frame.header().encode().to_vec();
    bytes.extend_from_slice(&frame.meta);
    bytes.extend_from_slice(&frame.payload);
    bytes
}

/// Writes a frame, with its descriptor beside the first byte.
pub(crate) fn write_frame(stream: &UnixStream, frame: &Frame) {
    let bytes = encode(frame);
    let descriptor = frame.descriptor.as_ref().map(AsFd::as_fd);
    let written = send_with_descriptor(stream.as_fd(), &[std::io::IoSlice::new(&bytes)], descriptor).unwrap();
    let mut stream = stream;
    stream.write_all(&bytes[written..]).unwrap();
}

/// Reads frames until the end.
pub(crate) fn read_frames(mut stream: UnixStream, mut take: impl FnMut(Frame)) {
    let mut decoder = FrameDecoder::default();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = stream.read(&mut buffer).unwrap_or(0);
        if read == 0 {
            return;
        }
        decoder.push(&buffer[..read]);
        while let Some(frame) = decoder.next_frame().unwrap() {
            take(frame);
        }
    }
}

/// What the head says to every request.
fn answer_of_head(request: &proto::HeadRequest) -> proto::head_reply::Reply {
    match request.request {
        Some(proto::head_request::Request::RegisterJob(_) | proto::head_request::Request::JoinJob(_)) => {
            proto::head_reply::Reply::Job(proto::RegisterJobReply {
                job_id: GIVEN_JOB.to_vec().into(),
                driver: None,
            })
        }
        _ => proto::head_reply::Reply::Done(proto::Empty {}),
    }
}

impl TestRaylet {
    pub(crate) fn start() -> Arc<Self> {
        let identity = Identity {
            cluster_id: ClusterId::random(),
            token: ClusterToken::random(),
            head_epoch: 1,
        };
        let socket_name = format!("sparkray-test-{}", identity.cluster_id);
        let address = SocketAddr::from_abstract_name(&socket_name).unwrap();
        let listener = UnixListener::bind_addr(&address).unwrap();
        let raylet = Arc::new(Self {
            identity,
            node_id: NodeId::random(),
            socket_name,
            clients: Mutex::new(Vec::new()),
            heard: Mutex::new(Vec::new()),
            heard_more: Condvar::new(),
        });
        let for_thread = Arc::clone(&raylet);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                for_thread.pass_on(stream.unwrap());
            }
        });
        raylet
    }

    /// Goes through the handshake and passes the socket to its target.
    fn pass_on(&self, mut stream: UnixStream) {
        let mut hello = [0; HELLO_LEN];
        stream.read_exact(&mut hello).unwrap();
        let handshake = ServerHandshake::new(&self.identity, hello, Protection::Plain).unwrap();
        stream.write_all(&handshake.proof()).unwrap();
        let mut proof = [0; CLIENT_PROOF_LEN];
        stream.read_exact(&mut proof).unwrap();
        let target = handshake.finish(&proof).unwrap();
        let Target::Worker(_, worker) = target else {
            panic!("a core worker called {target:?}");
        };
        let clients = self.clients.lock();
        let client = clients.iter().find(|client| client.worker_id == worker);
        let outcome = client.map(|_| ()).ok_or(sparkray_rpc::Refusal::NoSuchTarget);
        stream.write_all(&[ServerHandshake::verdict(outcome)]).unwrap();
        if let Some(client) = client {
            let incoming = proto::IncomingConnection {
                agreement: Agreement::plain().encode().into(),
            };
            let frame = Frame::new(FrameKind::IncomingConnection, 0, &incoming)
                .with_descriptor(OwnedFd::from(stream));
            write_frame(&client.stream, &frame);
        }
    }

    /// A core worker on this node.
    pub(crate) fn connect(self: &Arc<Self>, kind: ClientKind) -> Arc<CoreWorker> {
        self.connect_with(kind, Box::new(|_| {}))
    }

    pub(crate) fn connect_with(
        self: &Arc<Self>,
        kind: ClientKind,
        on_notice: Box<dyn Fn(Notice) + Send + Sync>,
    ) -> Arc<CoreWorker> {
        let (near, far) = UnixStream::pair().unwrap();
        let worker_id = WorkerId::random();
        self.clients.lock().push(Client {
            worker_id,
            stream: far.try_clone().unwrap(),
        });
        let raylet = Arc::clone(self);
        std::thread::spawn(move || {
            let stream = far.try_clone().unwrap();
            read_frames(far, |frame| raylet.answer(&stream, &frame));
        });
        CoreWorker::connect(ConnectOptions {
            identity: self.identity.clone(),
            raylet_socket: self.socket_name.clone(),
            node_id: self.node_id,
            inherited: Some(OwnedFd::from(near)),
            worker_id,
            kind,
            python_version: String::new(),
            namespace: String::new(),
            log_to_driver: false,
            report_unhandled_errors: UnhandledErrors::None,
            on_notice,
        })
        .unwrap()
    }

    /// A client whose socket the test itself reads and writes.
    pub(crate) fn add_raw_client(&self) -> (WorkerId, UnixStream) {
        let (near, far) = UnixStream::pair().unwrap();
        let worker_id = WorkerId::random();
        self.clients.lock().push(Client {
            worker_id,
            stream: far,
        });
        (worker_id, near)
    }

    fn answer(&self, stream: &UnixStream, frame: &Frame) {
        let correlation = frame.correlation;
        match frame.kind {
            FrameKind::RegisterClient => {
                let reply = proto::RegisterClientReply {
                    node_id: self.node_id.to_vec().into(),
                    node_address: "127.0.0.1:1".to_owned(),
                    ..Default::default()
                };
                write_frame(
                    stream,
                    &Frame::new(FrameKind::RegisterClientReply, correlation, &reply),
                );
            }
            FrameKind::HeadRequest => {
                let reply = proto::HeadReply {
                    failure: None,
                    reply: Some(answer_of_head(&frame.decode().unwrap())),
                };
                write_frame(stream, &Frame::new(FrameKind::HeadReply, correlation, &reply));
            }
            FrameKind::RequestWorkerLease => {
                let reply = match self.clients.lock().get(1) {
                    Some(worker) => proto::RequestWorkerLeaseReply {
                        worker: Some(self.address_of(worker.worker_id)),
                        ..Default::default()
                    },
                    None => return,
                };
                write_frame(
                    stream,
                    &Frame::new(FrameKind::RequestWorkerLeaseReply, correlation, &reply),
                );
            }
            other => {
                self.heard.lock().push(other);
                self.heard_more.notify_all();
            }
        }
    }

    pub(crate) fn address_of(&self, worker_id: WorkerId) -> proto::WorkerAddress {
        proto::WorkerAddress {
            node_id: self.node_id.to_vec().into(),
            worker_id: worker_id.to_vec().into(),
            node_address: "127.0.0.1:1".to_owned(),
        }
    }

    /// Sends to the `index`-th client.
    pub(crate) fn send(&self, index: usize, frame: &Frame) {
        write_frame(&self.clients.lock()[index].stream, frame);
    }

    /// The raylet's end.
    pub(crate) fn hang_up(&self) {
        for client in self.clients.lock().iter() {
            client.stream.shutdown(std::net::Shutdown::Both).unwrap();
        }
    }

    /// Waits until it has heard this.
    pub(crate) fn wait_to_hear(&self, kind: FrameKind) {
        let until = Instant::now() + DEADLINE;
        let mut heard = self.heard.lock();
        while !heard.contains(&kind) {
            let timed_out;
            (heard, timed_out) = self.heard_more.wait_until(heard, until);
            assert!(!timed_out, "{kind:?} was not heard, but {heard:?}");
        }
    }
}
