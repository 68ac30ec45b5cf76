//! Calls and answers that cannot be read fail alone: their connection and what else it carries go on. A peer of raw
//! frames sends them to a real core worker.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use sparkray_common::{
    ActorId, ErrorCode, FunctionId, JobId, ResourceSet, SchedulingStrategy, TaskId, ValueFormat, ValueHeader,
    WorkerKey,
};
use sparkray_proto::{self as proto, ClientKind, FrameKind, TaskStatus};
use sparkray_rpc::{Frame, FrameDecoder, receive_with_descriptors};

use crate::api::{CallArguments, WorkItem};
use crate::io::{CoreWorker, never_interrupted};
use crate::state::TaskTemplate;
use crate::test_raylet::{DEADLINE, TestRaylet, write_frame};

/// A process that speaks frames by hand.
struct Peer {
    stream: UnixStream,
    decoder: FrameDecoder,
}

impl Peer {
    fn new(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        Self {
            stream,
            decoder: FrameDecoder::default(),
        }
    }

    /// Connected to the worker that is the raylet's client of this index.
    fn of_worker(raylet: &TestRaylet, index: usize) -> Self {
        let (near, far) = UnixStream::pair().unwrap();
        let incoming = proto::IncomingConnection {
            agreement: sparkray_rpc::Agreement::plain().encode().into(),
        };
        let incoming =
            Frame::new(FrameKind::IncomingConnection, 0, &incoming).with_descriptor(OwnedFd::from(far));
        raylet.send(index, &incoming);
        let peer = Self::new(near);
        let hello = proto::WorkerHello {
            address: Some(raylet.address_of(sparkray_common::WorkerId::random())),
            job_id: JobId::random().to_vec().into(),
        };
        peer.send(&Frame::new(FrameKind::WorkerHello, 0, &hello));
        peer
    }

    fn send(&self, frame: &Frame) {
        write_frame(&self.stream, frame);
    }

    /// A push whose message is no message.
    fn send_garbage(&self, kind: FrameKind, correlation: u64) {
        let mut frame = Frame::new(kind, correlation, &proto::Empty {});
        frame.meta = Bytes::from_static(&[0xff; 11]);
        self.send(&frame);
    }

    fn receive(&mut self) -> Frame {
        let mut bytes = [0; 4096];
        loop {
            if let Some(frame) = self.decoder.next_frame().unwrap() {
                return frame;
            }
            let decoder = &mut self.decoder;
            let read = receive_with_descriptors(self.stream.as_fd(), &mut bytes, |fd| {
                decoder.push_descriptor(fd);
            })
            .unwrap();
            assert!(read > 0, "the connection was closed");
            self.decoder.push(&bytes[..read]);
        }
    }

    /// The next answer: correlation, status, and why it was refused.
    fn answer(&mut self) -> (u64, TaskStatus, String) {
        loop {
            let frame = self.receive();
            if frame.kind == FrameKind::PushTaskReply {
                let reply: proto::PushTaskReply = frame.decode().unwrap();
                let why = reply.failure.clone().unwrap_or_default().message;
                return (frame.correlation, reply.status(), why);
            }
        }
    }

    fn refused(&mut self, correlation: u64) {
        let (answered, status, why) = self.answer();
        assert_eq!((answered, status), (correlation, TaskStatus::Refused), "{why}");
        assert!(why.contains("cannot read this call"), "{why}");
    }

    fn done(&mut self, correlation: u64) {
        let (answered, status, why) = self.answer();
        assert_eq!((answered, status), (correlation, TaskStatus::Done), "{why}");
    }
}

fn push(worker: &CoreWorker) -> proto::PushTask {
    proto::PushTask {
        worker_id: worker.address().worker_id.to_vec().into(),
        task_id: TaskId::next().to_vec().into(),
        job_id: JobId::random().to_vec().into(),
        function_id: FunctionId::from_array([7; 16]).to_vec().into(),
        num_returns: 1,
        ..Default::default()
    }
}

/// What a caller of another version, or with a fault, may send.
fn unreadable(worker: &CoreWorker) -> Vec<proto::PushTask> {
    let good = || push(worker);
    vec![
        proto::PushTask {
            arguments_length: 1 << 40,
            ..good()
        },
        proto::PushTask {
            function_length: 5,
            ..good()
        },
        proto::PushTask {
            task_id: Bytes::from_static(b"short"),
            ..good()
        },
        proto::PushTask {
            job_id: Bytes::new(),
            ..good()
        },
        proto::PushTask {
            arguments: vec![proto::TaskArgument::default()],
            ..good()
        },
    ]
}

fn run_worker(core: &CoreWorker) {
    while let Some(work) = core.next_work(&never_interrupted).unwrap() {
        match work {
            WorkItem::Task(task) => {
                let value = ValueHeader::encode(ValueFormat::Raw, b"done");
                let result = proto::ReturnValue {
                    inline_length: Some(value.len() as u64),
                    ..Default::default()
                };
                core.finish_task(&task, vec![(result, value.into())], Vec::new(), false);
            }
            WorkItem::CreateActor(work) => core.finish_create_actor(&work, None, None).unwrap(),
        }
    }
}

fn start_worker(raylet: &Arc<TestRaylet>) -> (Arc<CoreWorker>, std::thread::JoinHandle<()>) {
    let worker = raylet.connect(ClientKind::Worker);
    let running = Arc::clone(&worker);
    (worker, std::thread::spawn(move || run_worker(&running)))
}

#[test]
fn a_function_call_that_cannot_be_read_fails_alone() {
    let raylet = TestRaylet::start();
    let (worker, runner) = start_worker(&raylet);
    let mut peer = Peer::of_worker(&raylet, 0);
    peer.send_garbage(FrameKind::PushTask, 1);
    peer.refused(1);
    for (correlation, call) in (2..).zip(unreadable(&worker)) {
        peer.send(&Frame::new(FrameKind::PushTask, correlation, &call));
        peer.refused(correlation);
    }
    peer.send(&Frame::new(FrameKind::PushTask, 99, &push(&worker)));
    peer.done(99);
    raylet.hang_up();
    runner.join().unwrap();
}

#[test]
fn an_actor_call_that_cannot_be_read_fails_alone_and_in_its_turn() {
    let raylet = TestRaylet::start();
    let (worker, runner) = start_worker(&raylet);
    let actor_id = ActorId::random();
    let create = proto::CreateActor {
        spec: Some(proto::ActorSpec {
            actor_id: actor_id.to_vec().into(),
            ..Default::default()
        }),
        incarnation: 0,
    };
    raylet.send(0, &Frame::new(FrameKind::CreateActor, 1, &create));
    raylet.wait_to_hear(FrameKind::CreateActorReply);
    let mut peer = Peer::of_worker(&raylet, 0);
    let call = |sequence, acknowledged, call| {
        let call = proto::PushTask {
            actor_id: actor_id.to_vec().into(),
            function_id: Bytes::new(),
            sequence,
            acknowledged,
            ..call
        };
        Frame::new(FrameKind::PushTask, 100 + sequence, &call)
    };
    let mut sequence = 0;
    for unreadable in unreadable(&worker) {
        // All are on their way at once.
        for push in [push(&worker), unreadable, push(&worker)] {
            peer.send(&call(sequence, 0, push));
            sequence += 1;
        }
        peer.done(100 + sequence - 3);
        peer.refused(100 + sequence - 2);
        peer.done(100 + sequence - 1);
    }
    // Of this one the worker does not even know the place: its caller tells.
    peer.send_garbage(FrameKind::PushTask, 1);
    peer.send(&call(sequence + 1, sequence, push(&worker)));
    peer.refused(1);
    let acknowledge = proto::AcknowledgeReplies {
        actor_id: actor_id.to_vec().into(),
        incarnation: 0,
        acknowledged: sequence + 1,
        sequences: Vec::new(),
    };
    peer.send(&Frame::new(FrameKind::AcknowledgeReplies, 0, &acknowledge));
    peer.done(100 + sequence + 1);
    raylet.hang_up();
    runner.join().unwrap();
}

#[test]
fn an_answer_that_cannot_be_read_fails_its_call_alone() {
    let raylet = TestRaylet::start();
    let driver = raylet.connect(ClientKind::Driver);
    let (_, to_raylet) = raylet.add_raw_client();
    let template = Arc::new(TaskTemplate {
        function_id: FunctionId::from_array([7; 16]),
        function_blob: Bytes::from_static(b"code"),
        name: "f".to_owned(),
        num_returns: 1,
        resources: ResourceSet::default(),
        max_retries: 0,
        retry_exceptions: false,
        strategy: SchedulingStrategy::Default,
        worker: WorkerKey::default(),
    });
    let submit = || driver.submit(&template, CallArguments::default()).unwrap()[0];
    let first = submit();
    // The raylet passes the driver's connection on to this worker.
    let incoming = Peer::new(to_raylet).receive();
    let mut caller = Peer::new(UnixStream::from(incoming.descriptor.unwrap()));
    let mut next_push = || loop {
        let frame = caller.receive();
        if frame.kind == FrameKind::PushTask {
            let message: proto::PushTask = frame.decode().unwrap();
            return (
                frame.correlation,
                message.function_length,
                caller.stream.try_clone().unwrap(),
            );
        }
    };
    let (correlation, code, stream) = next_push();
    assert!(code > 0, "the first push carries the code");
    Peer::new(stream).send_garbage(FrameKind::PushTaskReply, correlation);
    let until = Some(Instant::now() + DEADLINE);
    let failed = driver.get(&[first], until, &never_interrupted).unwrap().remove(0);
    let error = failed.unwrap_err();
    assert_eq!(error.code, ErrorCode::Internal);
    assert!(error.message.contains("cannot be read"), "{error}");
    let second = submit();
    // The same connection carries the next one, with the code again: nobody knows whether it was read.
    let (correlation, code, stream) = next_push();
    assert!(code > 0);
    let value = ValueHeader::encode(ValueFormat::Raw, b"done");
    let reply = proto::PushTaskReply {
        status: TaskStatus::Done.into(),
        returns: vec![proto::ReturnValue {
            inline_length: Some(value.len() as u64),
            ..Default::default()
        }],
        ..Default::default()
    };
    let reply = Frame::new(FrameKind::PushTaskReply, correlation, &reply).with_payload(value.into());
    Peer::new(stream).send(&reply);
    assert!(driver.get(&[second], until, &never_interrupted).unwrap()[0].is_ok());
}
