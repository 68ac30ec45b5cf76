//! What the head orders about bundles, and what becomes of that.

use sparkray_common::{BundleChoice, BundleId, ErrorCode, PlacementGroupId, SchedulingStrategy};
use sparkray_proto::{self as proto, Bundles, PrepareBundles};

use super::*;

const GROUP: PlacementGroupId = PlacementGroupId::from_array([5; 16]);
const FIRST: BundleId = BundleId {
    group: GROUP,
    index: 0,
};

fn order(bench: &mut Bench, message: head_message::Message) {
    bench.put(Input::Head(HeadEvent::Message(Box::new(message))));
}

fn bundles() -> Bundles {
    Bundles {
        placement_group_id: GROUP.to_vec().into(),
        indexes: vec![FIRST.index],
    }
}

/// What the head is told.
fn prepare(bench: &mut Bench, cpus: f64) -> Option<bool> {
    let message = PrepareBundles {
        placement_group_id: GROUP.to_vec().into(),
        attempt: 3,
        bundles: vec![proto::Bundle {
            index: FIRST.index,
            resources: Some((&resources(&[("CPU", cpus)])).into()),
        }],
    };
    order(bench, head_message::Message::PrepareBundles(message));
    let mut told = std::iter::from_fn(|| bench.to_head.try_recv().ok());
    told.find_map(|message| match message.message {
        Some(node_message::Message::BundlesPrepared(answer)) => {
            assert_eq!(answer.attempt, 3);
            Some(answer.prepared)
        }
        _ => None,
    })
}

fn in_first() -> SchedulingStrategy {
    SchedulingStrategy::Bundle(BundleChoice {
        group: GROUP,
        index: Some(FIRST.index),
        captures_child_tasks: false,
    })
}

fn ask_in_bundle(bench: &mut Bench, driver: u64) -> LeaseId {
    let lease = LeaseId::random();
    let request = RequestWorkerLease {
        lease_id: lease.to_vec().into(),
        job_id: JOB.to_vec().into(),
        resources: Some((&resources(&[("CPU", 1.0)])).into()),
        strategy: Some((&in_first()).into()),
        ..RequestWorkerLease::default()
    };
    bench.say(driver, FrameKind::RequestWorkerLease, &request);
    lease
}

#[test]
fn the_head_hears_whether_a_bundle_fits() {
    let mut bench = Bench::new(2.0);
    assert_eq!(prepare(&mut bench, 3.0), Some(false));
    assert_eq!(prepare(&mut bench, 2.0), Some(true));
    assert_eq!(prepare(&mut bench, 2.0), Some(true), "it is told again");
    order(&mut bench, head_message::Message::ReturnBundles(bundles()));
    assert_eq!(bench.router.free().0, &resources(&[("CPU", 2.0)]));
}

#[test]
fn removal_kills_what_runs_in_a_bundle_and_refuses_what_waits_for_it() {
    let mut bench = Bench::new(1.0);
    let driver = bench.driver();
    assert_eq!(prepare(&mut bench, 1.0), Some(true));
    order(&mut bench, head_message::Message::CommitBundles(bundles()));
    let runs = ask_in_bundle(&mut bench, driver);
    let (_, pid) = bench.bear().remove(0);
    assert_eq!(bench.granted(driver).len(), 1);
    ask_in_bundle(&mut bench, driver);
    assert!(bench.granted(driver).is_empty(), "the bundle is full");

    let removed = head_message::Message::PlacementGroupRemoved(GROUP.to_vec().into());
    order(&mut bench, removed);
    let broken = bench.sent::<LeaseBroken>(driver, FrameKind::LeaseBroken);
    assert_eq!(broken.len(), 1);
    assert_eq!(broken[0].1.lease_id[..], runs.as_bytes()[..]);
    assert!(broken[0].1.cause.contains("was removed"), "{}", broken[0].1.cause);
    let killed = bench.take_effects(|effect| match effect {
        Effect::Kill { pid } => Some(*pid),
        _ => None,
    });
    assert_eq!(killed, vec![pid]);
    let refused = bench.granted(driver);
    assert_eq!(refused.len(), 1);
    let failure = refused[0].1.failure.as_ref().unwrap();
    assert_eq!(failure.error_code(), ErrorCode::TaskPlacementGroupRemoved);
    ask_in_bundle(&mut bench, driver);
    let refused = bench.granted(driver);
    assert!(
        refused.len() == 1 && refused[0].1.failure.is_some(),
        "who comes too late does not wait"
    );
    assert_eq!(bench.router.free().0, &resources(&[("CPU", 1.0)]));
}

#[test]
fn an_actor_dies_with_its_bundle_before_and_after_it_has_a_worker() {
    for has_worker in [false, true] {
        let mut bench = Bench::new(1.0);
        assert_eq!(prepare(&mut bench, 1.0), Some(true));
        order(&mut bench, head_message::Message::CommitBundles(bundles()));
        let spec = ActorSpec {
            actor_id: ActorId::random().to_vec().into(),
            job_id: JOB.to_vec().into(),
            resources: Some((&resources(&[("CPU", 1.0)])).into()),
            strategy: Some((&in_first()).into()),
            ..ActorSpec::default()
        };
        let place = PlaceActor {
            spec: Some(spec),
            incarnation: 1,
        };
        order(&mut bench, head_message::Message::PlaceActor(place));
        let born = if has_worker { bench.bear() } else { Vec::new() };
        let removed = head_message::Message::PlacementGroupRemoved(GROUP.to_vec().into());
        order(&mut bench, removed);
        for (birth, pid) in born {
            bench.die(birth, pid);
        }
        assert!(matches!(bench.outcomes()[..], [Outcome::WorkerDied(_)]));
        assert_eq!(bench.router.free().0, &resources(&[("CPU", 1.0)]));
    }
}
