use sparkray_common::group_request;

use super::*;
use crate::test_support::{node_info, resources};

const HERE: NodeId = NodeId::from_array([8; 16]);
const GROUP: PlacementGroupId = PlacementGroupId::from_array([1; 16]);

fn cpus(amount: f64) -> ResourceSet {
    resources(&[("CPU", amount)])
}

fn bundle(index: u32) -> BundleId {
    BundleId { group: GROUP, index }
}

fn manager(cpu: f64) -> LeaseManager {
    LeaseManager::new(Own::new(&node_info(HERE), cpus(cpu), true))
}

fn ask(manager: &mut LeaseManager, resources: ResourceSet) -> LeaseId {
    let lease_id = LeaseId::random();
    let request = LeaseRequest {
        lease_id,
        job_id: JobId::from_array([1; 4]),
        owner: LeaseOwner::Worker(WorkerId::from_array([1; 16])),
        shape: Shape {
            resources,
            ..Shape::default()
        },
        spilled: false,
        python_version: String::new(),
        worker: WorkerKey::default(),
        task_name: "f".to_owned(),
    };
    assert_eq!(manager.request(request, Instant::now()), None);
    manager.schedule(&mut ClusterView::new(HERE), false, Instant::now());
    lease_id
}

/// A node of four CPUs that holds bundle 0 of two.
fn with_bundle() -> LeaseManager {
    let mut manager = manager(4.0);
    assert!(manager.prepare_bundles(&[(bundle(0), cpus(2.0))]));
    manager.commit_bundle(bundle(0));
    manager
}

#[test]
fn a_prepared_bundle_takes_room_and_a_committed_one_offers_it_under_its_names() {
    let mut manager = manager(4.0);
    assert!(manager.prepare_bundles(&[(bundle(0), cpus(3.0))]));
    assert_eq!(manager.available(), &cpus(1.0));
    assert_eq!(manager.total(), &cpus(4.0));
    let inside = bundle(0).request(&cpus(3.0));
    let lease = ask(&mut manager, inside);
    assert_eq!(manager.state(lease), Some(LeaseState::Queued));
    manager.commit_bundle(bundle(0));
    manager.schedule(&mut ClusterView::new(HERE), false, Instant::now());
    assert_eq!(manager.state(lease), Some(LeaseState::Starting));
    let outside = ask(&mut manager, cpus(2.0));
    assert_eq!(
        manager.state(outside),
        Some(LeaseState::Queued),
        "one CPU is free"
    );
}

#[test]
fn all_bundles_of_an_order_are_reserved_or_none() {
    let mut manager = manager(4.0);
    assert!(!manager.prepare_bundles(&[(bundle(0), cpus(3.0)), (bundle(1), cpus(2.0))]));
    assert_eq!(manager.available(), &cpus(4.0));
}

#[test]
fn orders_that_come_again_change_nothing() {
    let mut manager = with_bundle();
    let (total, available) = (manager.total().clone(), manager.available().clone());
    assert!(manager.prepare_bundles(&[(bundle(0), cpus(2.0))]));
    manager.commit_bundle(bundle(0));
    assert_eq!((manager.total(), manager.available()), (&total, &available));
    manager.commit_bundle(bundle(5));
    assert!(manager.return_bundle(bundle(5)).is_empty());
    assert_eq!((manager.total(), manager.available()), (&total, &available));
    for _ in 0..2 {
        manager.return_bundle(bundle(0));
        assert_eq!((manager.total(), manager.available()), (&cpus(4.0), &cpus(4.0)));
    }
}

#[test]
fn what_runs_in_a_returned_bundle_ends_and_what_runs_beside_it_does_not() {
    let mut manager = with_bundle();
    let inside = ask(&mut manager, bundle(0).request(&cpus(1.0)));
    let waits = ask(&mut manager, bundle(0).request(&cpus(2.0)));
    let outside = ask(&mut manager, cpus(1.0));
    let worker = WorkerId::random();
    assert!(manager.assign_worker(inside, worker));
    let ended: HashMap<LeaseId, LeaseState> = manager
        .return_bundle(bundle(0))
        .into_iter()
        .map(|lease| (lease.request.lease_id, lease.state))
        .collect();
    let expected = [(inside, LeaseState::Granted(worker)), (waits, LeaseState::Queued)];
    assert_eq!(ended, expected.into());
    assert_eq!(manager.state(outside), Some(LeaseState::Starting));
    assert_eq!((manager.total(), manager.available()), (&cpus(4.0), &cpus(3.0)));
}

#[test]
fn a_request_for_any_bundle_stays_while_one_is_left() {
    let mut manager = with_bundle();
    assert!(manager.prepare_bundles(&[(bundle(1), cpus(1.0))]));
    manager.commit_bundle(bundle(1));
    let lease = ask(&mut manager, group_request(GROUP, &cpus(1.0)));
    assert_eq!(manager.state(lease), Some(LeaseState::Starting));
    assert!(manager.return_bundle(bundle(0)).is_empty());
    assert_eq!(manager.return_bundle(bundle(1)).len(), 1);
    assert_eq!((manager.total(), manager.available()), (&cpus(4.0), &cpus(4.0)));
}

#[test]
fn a_removed_group_leaves_nothing_prepared_committed_or_waiting() {
    let mut manager = with_bundle();
    assert!(manager.prepare_bundles(&[(bundle(1), cpus(1.0))]));
    let elsewhere = bundle(7).request(&cpus(1.0));
    let waits = ask(&mut manager, elsewhere);
    let ended = manager.remove_group(GROUP);
    assert_eq!(ended.len(), 1);
    assert_eq!(ended[0].request.lease_id, waits);
    assert_eq!((manager.total(), manager.available()), (&cpus(4.0), &cpus(4.0)));
    assert!(manager.remove_group(GROUP).is_empty());
}
