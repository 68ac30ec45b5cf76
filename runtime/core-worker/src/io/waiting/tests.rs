use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sparkray_common::{
    ActorId, ErrorCode, FunctionId, JobId, ObjectId, ResourceSet, SchedulingStrategy, TaskId, ValueFormat,
    ValueHeader, WorkerKey,
};
use sparkray_proto::{self as proto, ActorState, ClientKind, FrameKind, head_request};
use sparkray_rpc::Frame;

use crate::api::{CallArguments, WorkItem};
use crate::error::WaitError;
use crate::io::{CoreWorker, Patience, never_interrupted};
use crate::state::{ActorMethod, Notice, Pending, SlotResult, TaskTemplate, Value};
use crate::test_raylet::{DEADLINE, GIVEN_JOB, TestRaylet};
use crate::values::Fetched;

fn ask(core: &CoreWorker) {
    let request = head_request::Request::ListNodes(proto::ListNodes {});
    core.ask_head_plainly(request).unwrap();
}

fn template(name: &str) -> Arc<TaskTemplate> {
    Arc::new(TaskTemplate {
        function_id: FunctionId::from_array([7; 16]),
        function_blob: Bytes::from_static(b"code"),
        name: name.to_owned(),
        num_returns: 1,
        resources: ResourceSet::default(),
        max_retries: 0,
        retry_exceptions: false,
        strategy: SchedulingStrategy::Default,
        worker: WorkerKey::default(),
    })
}

/// Answers calls with the length of their arguments, until it is to end.
fn run_worker(core: &CoreWorker) {
    while let Some(work) = core.next_work(&never_interrupted).unwrap() {
        match work {
            WorkItem::Task(task) => {
                let value = ValueHeader::encode(ValueFormat::Raw, &task.arguments.len().to_le_bytes());
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

fn arguments(index: usize) -> CallArguments {
    CallArguments {
        value: vec![0; index % 3000].into(),
        ..Default::default()
    }
}

fn length_of(value: &Fetched) -> usize {
    let header = ValueHeader::read(value.as_slice()).unwrap();
    usize::from_le_bytes(header.body(value.as_slice()).try_into().unwrap())
}

#[test]
fn a_driver_that_has_connected_has_the_job_that_the_head_gave_it_and_a_worker_has_none() {
    let raylet = TestRaylet::start();
    assert_eq!(raylet.connect(ClientKind::Driver).job_id(), GIVEN_JOB);
    assert_eq!(raylet.connect(ClientKind::Worker).job_id(), JobId::NIL);
}

#[test]
fn a_participant_has_the_drivers_job_until_that_is_over() {
    let raylet = TestRaylet::start();
    let (sender, left) = mpsc::channel();
    let participant = raylet.connect_with(
        ClientKind::Participant,
        Box::new(move |notice| {
            if let Notice::Left = notice {
                sender.send(()).unwrap();
            }
        }),
    );
    assert_eq!(participant.job_id(), GIVEN_JOB);
    let over = |job: JobId| proto::JobFinished {
        job_id: job.to_vec().into(),
    };
    raylet.send(
        0,
        &Frame::new(FrameKind::JobFinished, 0, &over(JobId::from_array([9; 4]))),
    );
    ask(&participant);
    raylet.send(0, &Frame::new(FrameKind::JobFinished, 0, &over(GIVEN_JOB)));
    left.recv_timeout(DEADLINE).unwrap();
    let request = head_request::Request::ListNodes(proto::ListNodes {});
    let error = participant.ask_head_plainly(request).unwrap_err();
    assert_eq!(error.code, ErrorCode::NotRunning);
    assert!(error.message.contains("is over"), "{}", error.message);
}

#[test]
fn an_object_that_a_participant_sealed_for_the_driver_is_the_drivers() {
    let raylet = TestRaylet::start();
    let driver = raylet.connect(ClientKind::Driver);
    let participant = raylet.connect(ClientKind::Participant);
    let id = ObjectId::from_array([7; ObjectId::LEN]);
    let me = participant.address();
    let message = proto::AdoptObject {
        object_id: id.to_vec().into(),
        size: 5,
        location: Some(proto::location_of(me.node_id, "there:1")),
    };
    // Said again it changes nothing.
    for _ in 0..2 {
        let slot = participant.with_state(|state| {
            state.ask_worker(&driver.address(), Pending::Done, FrameKind::AdoptObject, &message)
        });
        let deadline = Some(Instant::now() + DEADLINE);
        let answer = participant.wait_until(Patience::until(deadline), &never_interrupted, |state| {
            state.take_slot(slot)
        });
        assert!(matches!(answer.unwrap(), SlotResult::Done));
    }
    participant.shutdown();
    let deadline = Some(Instant::now() + DEADLINE);
    let found = driver
        .locations(&[id], deadline, &never_interrupted)
        .unwrap()
        .remove(0)
        .unwrap();
    assert_eq!(
        (found.size, found.nodes),
        (5, vec![(me.node_id, "there:1".to_owned())])
    );
}

#[test]
fn calls_of_functions_and_actors_go_from_process_to_process() {
    let raylet = TestRaylet::start();
    let driver = raylet.connect(ClientKind::Driver);
    let worker = raylet.connect(ClientKind::Worker);
    let running = Arc::clone(&worker);
    let runner = std::thread::spawn(move || run_worker(&running));

    let function = template("f");
    let ids: Vec<ObjectId> = (0..3000)
        .map(|index| driver.submit(&function, arguments(index)).unwrap()[0])
        .collect();
    let deadline = Some(Instant::now() + DEADLINE);
    let values = driver.get(&ids, deadline, &never_interrupted).unwrap();
    for (index, value) in values.iter().enumerate() {
        assert_eq!(length_of(value.as_ref().unwrap()), index % 3000);
    }

    let actor_id = ActorId::random();
    let spec = proto::ActorSpec {
        actor_id: actor_id.to_vec().into(),
        ..Default::default()
    };
    let create = proto::CreateActor {
        spec: Some(spec),
        incarnation: 0,
    };
    driver.add_actor_handle(actor_id);
    raylet.send(1, &Frame::new(FrameKind::CreateActor, 1, &create));
    raylet.wait_to_hear(FrameKind::CreateActorReply);
    let update = proto::ActorUpdate {
        actor_id: actor_id.to_vec().into(),
        state: ActorState::Alive.into(),
        address: Some((&worker.address()).into()),
        ..Default::default()
    };
    raylet.send(0, &Frame::new(FrameKind::ActorUpdate, 0, &update));
    let method = Arc::new(ActorMethod {
        method: "m".to_owned(),
        name: "A.m".to_owned(),
    });
    for index in 0..300 {
        let id = driver
            .submit_actor(actor_id, &method, 1, arguments(index))
            .unwrap()[0];
        let value = driver.get(&[id], deadline, &never_interrupted).unwrap().remove(0);
        assert_eq!(length_of(&value.unwrap()), index);
    }
    raylet.hang_up();
    runner.join().unwrap();
}

#[test]
fn threads_that_wait_at_once_are_all_answered_promptly() {
    let raylet = TestRaylet::start();
    let driver = raylet.connect(ClientKind::Driver);
    let slow = Arc::new(AtomicU64::new(0));
    let threads: Vec<_> = (0..6)
        .map(|_| {
            let (driver, slow) = (Arc::clone(&driver), Arc::clone(&slow));
            std::thread::spawn(move || {
                for _ in 0..200 {
                    let begun = Instant::now();
                    ask(&driver);
                    // A wake-up that is missed costs the interval at which a thread looks at signals.
                    if begun.elapsed() >= super::INTERRUPT_INTERVAL {
                        slow.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let slow = slow.load(Ordering::Relaxed);
    assert!(slow < 60, "{slow} of 1200 waits were slow");
}

#[test]
fn a_wait_ends_at_its_deadline_or_when_it_is_interrupted() {
    let raylet = TestRaylet::start();
    let driver = raylet.connect(ClientKind::Driver);
    let id = ObjectId::for_result(TaskId::next(), 0);
    driver.with_state(|state| state.add_owned(id, Value::Pending, Vec::new()));
    let begun = Instant::now();
    let outcome = driver.get(&[id], Some(begun + Duration::from_millis(80)), &never_interrupted);
    assert!(matches!(outcome, Err(WaitError::Deadline)));
    assert!(begun.elapsed() >= Duration::from_millis(80));
    assert_eq!(
        driver
            .wait(&[id], 1, Some(Instant::now()), &never_interrupted)
            .unwrap(),
        Vec::<usize>::new()
    );

    let stop = AtomicBool::new(false);
    let interrupt = || {
        if stop.load(Ordering::Relaxed) {
            Err("signal")
        } else {
            Ok(())
        }
    };
    std::thread::scope(|scope| {
        let leader = scope.spawn(|| driver.get(&[id], None, &interrupt));
        let follower = scope.spawn(|| driver.get(&[id], None, &interrupt));
        stop.store(true, Ordering::Relaxed);
        for thread in [leader, follower] {
            assert!(matches!(
                thread.join().unwrap(),
                Err(WaitError::Interrupted("signal"))
            ));
        }
    });
    // The waits that were given up are forgotten.
    driver.with_state(|state| state.resolve(id, Value::Inline(Bytes::from_static(b"x"))));
    assert!(driver.get(&[id], None, &never_interrupted).unwrap()[0].is_ok());
}

#[test]
fn what_happens_in_one_thread_wakes_those_that_wait_in_others() {
    let raylet = TestRaylet::start();
    let driver = raylet.connect(ClientKind::Driver);
    let id = ObjectId::for_result(TaskId::next(), 0);
    driver.with_state(|state| state.add_owned(id, Value::Pending, Vec::new()));
    std::thread::scope(|scope| {
        let waiting: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| driver.get(&[id], None, &never_interrupted).map(|_| ())))
            .collect();
        // No frame arrives: only this thread knows.
        driver.with_state(|state| state.resolve(id, Value::Inline(Bytes::from_static(b"x"))));
        for thread in waiting {
            assert!(thread.join().unwrap().is_ok());
        }
    });
}

#[test]
fn waits_end_with_the_raylet_and_with_shutdown() {
    for shuts_down in [true, false] {
        let raylet = TestRaylet::start();
        let driver = raylet.connect(ClientKind::Driver);
        let id = ObjectId::for_result(TaskId::next(), 0);
        driver.with_state(|state| state.add_owned(id, Value::Pending, Vec::new()));
        std::thread::scope(|scope| {
            let waiting: Vec<_> = (0..3)
                .map(|_| scope.spawn(|| driver.get(&[id], None, &never_interrupted)))
                .collect();
            if shuts_down {
                driver.shutdown();
            } else {
                raylet.hang_up();
            }
            for thread in waiting {
                let values = match thread.join().unwrap() {
                    Ok(values) => values,
                    Err(WaitError::Failed(error)) => vec![Err(error)],
                    Err(WaitError::Deadline | WaitError::Interrupted(_)) => panic!("it ended otherwise"),
                };
                assert_eq!(values[0].as_ref().unwrap_err().code, ErrorCode::NotRunning);
            }
        });
        assert!(driver.submit(&template("f"), CallArguments::default()).is_err());
    }
}

#[test]
fn what_nobody_waits_for_leaves_too() {
    let raylet = TestRaylet::start();
    let driver = raylet.connect(ClientKind::Driver);
    // The helper sleeps on the sockets by then.
    ask(&driver);
    let me = driver.address();
    let stored = ObjectId::for_result(TaskId::next(), 0);
    let value = Value::Stored {
        size: 1,
        locations: vec![(me.node_id, me.node_address)],
    };
    driver.with_state(|state| state.add_owned(stored, value, Vec::new()));
    driver.drop_reference(stored);
    raylet.wait_to_hear(FrameKind::FreeObjects);
    driver.with_state(|state| {
        let label = proto::WorkerLabel::default();
        state.tell_raylet(FrameKind::WorkerLabel, &label, false);
    });
    raylet.wait_to_hear(FrameKind::WorkerLabel);
}

#[test]
fn values_are_told_to_those_who_asked_for_them_later() {
    let raylet = TestRaylet::start();
    let (sender, told) = mpsc::channel();
    let sender = sparkray_common::sync::Mutex::new(sender);
    let driver = raylet.connect_with(
        ClientKind::Driver,
        Box::new(move |notice| {
            if let Notice::Fetched(key, value) = notice {
                let _ = sender.lock().send((key, value.is_ok()));
            }
        }),
    );
    let id = ObjectId::for_result(TaskId::next(), 0);
    driver.with_state(|state| state.add_owned(id, Value::Pending, Vec::new()));
    driver.fetch_later(id, 5);
    driver.with_state(|state| state.resolve(id, Value::Inline(Bytes::from_static(b"x"))));
    assert_eq!(told.recv_timeout(DEADLINE), Ok((5, true)));
    driver.fetch_later(id, 6);
    assert_eq!(told.recv_timeout(DEADLINE), Ok((6, true)));
    driver.fetch_later(ObjectId::for_result(TaskId::next(), 0), 7);
    assert_eq!(told.recv_timeout(DEADLINE), Ok((7, false)));
}

#[test]
fn an_event_loop_hears_of_calls_without_waiting_itself() {
    let raylet = TestRaylet::start();
    let driver = raylet.connect(ClientKind::Driver);
    let (sender, announced) = mpsc::channel();
    let sender = sparkray_common::sync::Mutex::new(sender);
    let worker = raylet.connect_with(
        ClientKind::Worker,
        Box::new(move |notice| {
            if let Notice::Work = notice {
                let _ = sender.lock().send(());
            }
        }),
    );
    worker.announce_work();
    let function = template("f");
    let id = driver.submit(&function, CallArguments::default()).unwrap()[0];
    let until = Instant::now() + DEADLINE;
    let task = loop {
        announced.recv_timeout(until - Instant::now()).unwrap();
        if let Some(WorkItem::Task(task)) = worker.try_next_work() {
            break task;
        }
    };
    let error = crate::error::CoreError::new(ErrorCode::Cancelled, "no");
    worker.fail_task(&task, &error);
    let value = driver
        .get::<Infallible>(&[id], Some(until), &never_interrupted)
        .unwrap();
    assert_eq!(value[0].as_ref().unwrap_err(), &error);
}

#[test]
fn a_core_worker_that_nobody_holds_goes_away() {
    let raylet = TestRaylet::start();
    let driver = raylet.connect(ClientKind::Driver);
    let left = Arc::downgrade(&driver);
    drop(driver);
    let until = Instant::now() + DEADLINE;
    while left.strong_count() > 0 {
        assert!(Instant::now() < until, "the helper keeps it");
        std::thread::yield_now();
    }
}

/// What an embedding program does wrong with output stands for any mistake of the thread that reads.
fn panicking_on_output(raylet: &Arc<TestRaylet>, kind: ClientKind) -> Arc<CoreWorker> {
    raylet.connect_with(
        kind,
        Box::new(|notice| assert!(!matches!(notice, Notice::Log(_)), "a mistake")),
    )
}

fn send_output(raylet: &TestRaylet) {
    raylet.send(
        0,
        &Frame::new(FrameKind::LogBatch, 0, &proto::LogBatch::default()),
    );
}

#[test]
fn a_panic_of_the_thread_that_reads_is_an_error_for_all_who_wait() {
    let raylet = TestRaylet::start();
    let driver = panicking_on_output(&raylet, ClientKind::Driver);
    let id = ObjectId::for_result(TaskId::next(), 0);
    driver.with_state(|state| state.add_owned(id, Value::Pending, Vec::new()));
    let until = Some(Instant::now() + DEADLINE);
    std::thread::scope(|scope| {
        let waiting: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| driver.get(&[id], until, &never_interrupted)))
            .collect();
        send_output(&raylet);
        for thread in waiting {
            let error = match thread.join().unwrap() {
                Ok(mut values) => values.remove(0).unwrap_err(),
                Err(WaitError::Failed(error)) => error,
                Err(other) => panic!("{other:?}"),
            };
            assert!(
                error.message.contains("broke down") && error.message.contains("a mistake"),
                "{error}"
            );
        }
    });
    assert!(driver.submit(&template("f"), CallArguments::default()).is_err());
    driver.shutdown();
}

#[test]
fn a_panic_of_the_thread_that_reads_ends_a_worker() {
    const CHILD: &str = "SPARKRAY_TEST_PANICS";
    if std::env::var_os(CHILD).is_some() {
        let raylet = TestRaylet::start();
        let worker = panicking_on_output(&raylet, ClientKind::Worker);
        send_output(&raylet);
        let _ = worker.next_work(&never_interrupted);
        std::process::exit(0);
    }
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "io::waiting::tests::a_panic_of_the_thread_that_reads_ends_a_worker",
        ])
        .env(CHILD, "1")
        .output()
        .unwrap()
        .status;
    // By SIGABRT.
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&status),
        Some(6),
        "{status}"
    );
}
