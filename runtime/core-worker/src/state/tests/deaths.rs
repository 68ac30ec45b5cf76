//! Deaths of each party: what is waited for ends, with a reason.

use sparkray_common::{ErrorCode, ObjectId, WorkerAddress, WorkerId};
use sparkray_proto::{self as proto, FrameKind};
use sparkray_rpc::{Frame, FrameDecoder};

use super::process::Process;
use super::value::Item;
use super::{DRIVER, Simulation};
use crate::error::CoreError;
use crate::state::{CloseCause, RAYLET_CONN};

fn driver(simulation: &mut Simulation) -> &mut Process {
    &mut simulation.processes[DRIVER]
}

fn error_of(simulation: &Simulation, key: u64) -> CoreError {
    simulation.processes[DRIVER].values[&key].clone().unwrap_err()
}

#[test]
fn the_death_of_an_owner_ends_waits_for_its_objects() {
    for seed in 0..30 {
        let mut simulation = Simulation::new(seed, 2, 1);
        let put = driver(&mut simulation).submit("put", &[Item::Number(0)], &[]);
        let key = driver(&mut simulation).fetch(put);
        simulation.settle();
        let items = simulation.processes[DRIVER].values[&key].clone().unwrap();
        let (inner, owner) = super::value::references(&items)[0].clone();
        let owner = simulation.process_of(owner.worker_id.as_bytes()).unwrap();
        if seed % 2 == 0 {
            simulation.kill(owner);
            let key = driver(&mut simulation).fetch(inner);
            simulation.settle();
            assert_eq!(error_of(&simulation, key).code, ErrorCode::OwnerDied);
        } else {
            let key = driver(&mut simulation).fetch(inner);
            let steps = simulation.random.below(4);
            simulation.run(steps);
            simulation.kill(owner);
            simulation.settle();
            assert!(simulation.processes[DRIVER].values.contains_key(&key));
        }
        driver(&mut simulation).drop_all();
        simulation.settle();
        simulation.check_nothing_left();
    }
}

#[test]
fn the_death_of_an_actor_ends_its_calls() {
    for seed in 0..30 {
        let mut simulation = Simulation::new(seed, 1, 1);
        let actor = simulation.create_actor(DRIVER, 0);
        let keys: Vec<u64> = (0..6)
            .map(|_| {
                let id = driver(&mut simulation).call_actor(actor, "value", &[], &[]);
                driver(&mut simulation).fetch(id)
            })
            .collect();
        simulation.run(10 + seed as usize);
        if let Some(process) = simulation.index_of_actor(actor) {
            simulation.kill(process);
        }
        simulation.settle();
        for key in keys {
            let value = &simulation.processes[DRIVER].values[&key];
            assert!(value.is_ok() || value.as_ref().unwrap_err().code == ErrorCode::ActorDied);
        }
        let late = driver(&mut simulation).call_actor(actor, "value", &[], &[]);
        let key = driver(&mut simulation).fetch(late);
        simulation.settle();
        assert_eq!(error_of(&simulation, key).code, ErrorCode::ActorDied);
        simulation.end_actors();
        simulation.check_nothing_left();
    }
}

#[test]
fn the_death_of_a_caller_leaves_nothing_at_its_workers() {
    for seed in 0..30 {
        let mut simulation = Simulation::new(seed, 1, 2);
        let actor = simulation.create_actor(DRIVER, 0);
        let other = simulation.start_process(0);
        simulation.processes[other].state.add_actor_handle(actor, false);
        for index in 0..10 {
            let process = &mut simulation.processes[other];
            process.call_actor(actor, "value", &[], &[]);
            process.submit("put", &[Item::Number(index)], &[]);
            process.call_actor(actor, "give", &[], &[]);
        }
        let steps = simulation.random.below(120);
        simulation.run(steps);
        simulation.kill(other);
        simulation.settle();
        let process = simulation.index_of_actor(actor).unwrap();
        let callers = &simulation.processes[process].state.execution.queues();
        assert_eq!(callers.len(), 0, "seed {seed}: {callers:?}");
        simulation.end_actors();
        simulation.check_nothing_left();
    }
}

#[test]
fn a_lost_node_takes_its_objects_along() {
    let mut simulation = Simulation::new(9, 2, 1);
    let ids: Vec<_> = (0..6)
        .map(|index| driver(&mut simulation).submit("big", &[Item::Number(index)], &[]))
        .collect();
    simulation.settle();
    let there: Vec<_> = ids
        .iter()
        .filter(|id| simulation.stored.contains_key(&(1, **id)))
        .copied()
        .collect();
    assert!(!there.is_empty(), "nothing ran on the second node");
    simulation.stored.retain(|(node, _), _| *node == 0);
    let died = proto::NodeDied {
        node_id: simulation.nodes[1].to_vec().into(),
        cause: "power".to_owned(),
    };
    // A read is under way when the news come.
    let early = driver(&mut simulation).fetch(there[0]);
    simulation.broadcast(FrameKind::NodeDied, &died);
    simulation.settle();
    assert_eq!(error_of(&simulation, early).code, ErrorCode::ObjectLost);
    for id in there {
        let key = driver(&mut simulation).fetch(id);
        simulation.settle();
        let error = error_of(&simulation, key);
        assert_eq!(error.code, ErrorCode::ObjectLost);
        assert!(error.message.contains("power"), "{error}");
    }
}

#[test]
fn the_end_of_the_raylet_ends_everything_that_is_waited_for() {
    let mut simulation = Simulation::new(5, 1, 1);
    let actor = simulation.create_actor(DRIVER, 0);
    let mut keys = Vec::new();
    for index in 0..5 {
        let id = driver(&mut simulation).submit("value", &[Item::Number(index)], &[]);
        keys.push(driver(&mut simulation).fetch(id));
        let id = driver(&mut simulation).call_actor(actor, "value", &[], &[]);
        keys.push(driver(&mut simulation).fetch(id));
    }
    simulation.run(10);
    let cause = CloseCause::new("killed");
    driver(&mut simulation).state.on_closed(RAYLET_CONN, &cause);
    simulation.carry_out();
    while simulation.processes[DRIVER].can_go_on() {
        simulation.go_on(DRIVER);
    }
    let codes = keys
        .iter()
        .map(|key| match &simulation.processes[DRIVER].values[key] {
            Ok(_) => None,
            Err(error) => Some(error.code),
        });
    assert!(codes.flatten().all(|code| code == ErrorCode::NotRunning));
    assert_eq!(simulation.processes[DRIVER].state.unfinished_tasks(), 0);
}

#[test]
fn without_a_head_waiting_actors_fail_and_running_ones_go_on() {
    let mut simulation = Simulation::new(6, 1, 1);
    let alive = simulation.create_actor(DRIVER, 0);
    simulation.settle();
    let waiting = sparkray_common::ActorId::from_array([9; 16]);
    driver(&mut simulation).state.add_actor_handle(waiting, true);
    let waits = driver(&mut simulation).call_actor(waiting, "value", &[], &[]);
    let waits = driver(&mut simulation).fetch(waits);
    let lost = proto::HeadLost {
        cause: "its node died".to_owned(),
    };
    simulation.broadcast(FrameKind::HeadLost, &lost);
    simulation.settle();
    let runs = driver(&mut simulation).call_actor(alive, "value", &[], &[]);
    let runs = driver(&mut simulation).fetch(runs);
    simulation.settle();
    assert_eq!(error_of(&simulation, waits).code, ErrorCode::ActorUnavailable);
    assert_eq!(
        simulation.processes[DRIVER].values[&runs],
        Ok(vec![Item::Number(7)])
    );
}

#[test]
fn a_worker_speaks_for_nobody_else() {
    let mut simulation = Simulation::new(3, 2, 1);
    let node_id = simulation.processes[DRIVER].state.me().node_id.to_vec();
    let lies = [
        Frame::new(
            FrameKind::NodeDied,
            0,
            &proto::NodeDied {
                node_id: node_id.clone().into(),
                cause: "a lie".to_owned(),
            },
        ),
        Frame::new(
            FrameKind::HeadLost,
            0,
            &proto::HeadLost {
                cause: "a lie".to_owned(),
            },
        ),
        Frame::new(FrameKind::ExitWorker, 0, &proto::ExitWorker::default()),
        Frame::new(FrameKind::LeaseBroken, 0, &proto::LeaseBroken::default()),
    ];
    for lie in lies {
        let result = driver(&mut simulation).submit("value", &[Item::Number(1)], &[]);
        let key = driver(&mut simulation).fetch(result);
        simulation.settle();
        assert!(simulation.processes[DRIVER].values[&key].is_ok());
        let state = &mut driver(&mut simulation).state;
        let conn = state.base.links.any_worker().unwrap();
        state.on_frame(conn, lie);
        // What it said is not believed, and it is not listened to any more.
        assert!(!state.base.links.is_open(conn));
        assert!(state.head_lost().is_none() && !state.is_ending());
        assert!(!state.base.links.deaths.is_dead(state.me()));
    }
}

#[test]
fn a_worker_that_is_asked_ends_only_when_nobody_needs_what_it_has() {
    let mut simulation = Simulation::new(5, 1, 1);
    let put = driver(&mut simulation).submit("put", &[Item::Number(0)], &[]);
    let key = driver(&mut simulation).fetch(put);
    simulation.settle();
    let items = simulation.processes[DRIVER].values[&key].clone().unwrap();
    let (_, owner) = super::value::references(&items)[0].clone();
    let owner = simulation.process_of(owner.worker_id.as_bytes()).unwrap();
    let ask = |simulation: &mut Simulation| {
        let message = proto::ExitWorker {
            reason: "idle".to_owned(),
            unless_needed: true,
        };
        let state = &mut simulation.processes[owner].state;
        state.on_frame(RAYLET_CONN, Frame::new(FrameKind::ExitWorker, 0, &message));
        state.settle();
        let mut decoder = FrameDecoder::default();
        state.take_outgoing(|_, bytes, _| decoder.push(&std::mem::take(bytes)));
        let reply = decoder.next_frame().unwrap().unwrap();
        assert_eq!(reply.kind, FrameKind::ExitWorkerReply);
        let ends = reply.decode::<proto::ExitWorkerReply>().unwrap().ends;
        assert_eq!(ends, state.is_ending());
        ends
    };
    assert!(
        !ask(&mut simulation),
        "the driver has a reference to an object of it"
    );
    driver(&mut simulation).drop_all();
    simulation.settle();
    assert!(ask(&mut simulation));
}

/// One connection to an owner broke, and before it was made again the owner died, while another one was still open.
#[test]
fn nothing_is_kept_of_a_dead_owner_that_was_to_be_called_again() {
    let mut simulation = Simulation::new(1, 1, 1);
    let state = &mut driver(&mut simulation).state;
    let owner = WorkerAddress {
        worker_id: WorkerId::from_array([8; 16]),
        ..WorkerAddress::clone(state.me())
    };
    let object = ObjectId::from_array([7; 20]);
    state.add_foreign_ref(object, &owner);
    state.settle();
    let called = state.base.links.conns_of_worker(owner.worker_id)[0];
    let incoming = proto::IncomingConnection {
        agreement: sparkray_rpc::Agreement::plain().encode().into(),
    };
    let socket = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
    let incoming = Frame::new(FrameKind::IncomingConnection, 0, &incoming).with_descriptor(socket);
    state.on_frame(RAYLET_CONN, incoming);
    let hello = proto::WorkerHello {
        address: Some((&owner).into()),
        ..proto::WorkerHello::default()
    };
    state.on_frame(called + 1, Frame::new(FrameKind::WorkerHello, 0, &hello));
    state.on_closed(called, &CloseCause::new("reset"));
    let died = proto::WorkerDied {
        worker_id: owner.worker_id.to_vec().into(),
        node_id: owner.node_id.to_vec().into(),
        cause: "killed".to_owned(),
    };
    state.on_frame(RAYLET_CONN, Frame::new(FrameKind::WorkerDied, 0, &died));
    state.check();
    state.drop_ref(object);
    state.check();
}
