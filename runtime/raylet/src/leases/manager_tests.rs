use proptest::prelude::*;
use sparkray_common::{SchedulingStrategy, WorkerKey};
use sparkray_proto::{ClusterView as ViewMessage, NodeView};

use super::*;
use crate::test_support::{node_info, resources};

const HERE: NodeId = NodeId::from_array([8; 16]);

fn cpus(amount: f64) -> ResourceSet {
    resources(&[("CPU", amount)])
}

fn owner(number: u8) -> LeaseOwner {
    LeaseOwner::Worker(WorkerId::from_array([number; 16]))
}

fn request(number: u8, amount: f64) -> LeaseRequest {
    LeaseRequest {
        lease_id: LeaseId::random(),
        job_id: JobId::from_array([1; 4]),
        owner: owner(number),
        shape: Shape {
            resources: cpus(amount),
            ..Shape::default()
        },
        spilled: false,
        python_version: String::new(),
        worker: WorkerKey::default(),
        task_name: "f".to_owned(),
    }
}

/// With a strategy.
fn request_for(strategy: SchedulingStrategy, number: u8, amount: f64) -> LeaseRequest {
    let mut request = request(number, amount);
    request.shape.strategy = strategy;
    request
}

fn pinned(number: u8, amount: f64) -> LeaseRequest {
    request_for(SchedulingStrategy::only_on(HERE), number, amount)
}

fn manager_of(total: ResourceSet) -> LeaseManager {
    LeaseManager::new(Own::new(&node_info(HERE), total, true))
}

fn view_with(nodes: &[(NodeId, f64, f64)]) -> ClusterView {
    let mut view = ClusterView::new(HERE);
    let nodes = nodes
        .iter()
        .map(|(node, total, available)| NodeView {
            node_id: node.to_vec().into(),
            alive: true,
            total: Some((&cpus(*total)).into()),
            available: Some((&cpus(*available)).into()),
            ..NodeView::default()
        })
        .collect();
    view.apply(&ViewMessage { nodes }).unwrap();
    view
}

fn granted(decisions: &[LeaseDecision]) -> Vec<LeaseId> {
    decisions
        .iter()
        .filter_map(|decision| match decision {
            LeaseDecision::NeedsWorker(lease_id) => Some(*lease_id),
            _ => None,
        })
        .collect()
}

#[test]
fn a_request_is_granted_here_when_there_is_room_and_waits_otherwise() {
    let mut manager = manager_of(cpus(2.0));
    let mut view = view_with(&[]);
    let requests: Vec<LeaseRequest> = (0..3).map(|_| request(1, 1.0)).collect();
    for request in &requests {
        assert_eq!(manager.request(request.clone(), Instant::now()), None);
    }
    let decisions = manager.schedule(&mut view, false, Instant::now());
    assert_eq!(
        granted(&decisions),
        vec![requests[0].lease_id, requests[1].lease_id]
    );
    assert_eq!(manager.queued_count(), 1);
    let worker = WorkerId::from_array([1; 16]);
    assert!(manager.assign_worker(requests[0].lease_id, worker));
    assert_eq!(
        manager.request(requests[0].clone(), Instant::now()),
        Some(LeaseState::Granted(worker))
    );
    assert_eq!(
        manager.request(requests[2].clone(), Instant::now()),
        Some(LeaseState::Queued)
    );
    manager.end(requests[0].lease_id).unwrap();
    assert_eq!(
        granted(&manager.schedule(&mut view, false, Instant::now())),
        vec![requests[2].lease_id]
    );
}

#[test]
fn a_request_without_room_here_goes_to_a_node_with_room_unless_it_is_pinned_or_came_from_there() {
    let other = NodeId::from_array([9; 16]);
    let mut manager = manager_of(cpus(1.0));
    let mut view = view_with(&[(other, 4.0, 2.0)]);
    let first = request(1, 1.0);
    let second = request(1, 1.0);
    let pinned = pinned(1, 1.0);
    let spilled = LeaseRequest {
        spilled: true,
        ..request(1, 1.0)
    };
    for request in [&first, &second, &pinned, &spilled] {
        manager.request(request.clone(), Instant::now());
    }
    let decisions = manager.schedule(&mut view, false, Instant::now());
    assert_eq!(
        decisions,
        vec![
            LeaseDecision::NeedsWorker(first.lease_id),
            LeaseDecision::Spill(second.clone(), other)
        ]
    );
    assert_eq!(manager.queued_count(), 2);
    let decisions = manager.schedule(&mut view, true, Instant::now());
    assert_eq!(decisions, vec![LeaseDecision::Spill(spilled, other)]);
    assert_eq!(manager.state(pinned.lease_id), Some(LeaseState::Queued));
}

#[test]
fn a_request_that_never_fits_here_goes_to_a_node_where_it_fits_or_waits_for_one() {
    let other = NodeId::from_array([9; 16]);
    let mut manager = manager_of(cpus(0.0));
    let mut view = view_with(&[(other, 2.0, 0.0)]);
    let fits = request(1, 1.0);
    let never = request(1, 8.0);
    manager.request(fits.clone(), Instant::now());
    manager.request(never.clone(), Instant::now());
    assert_eq!(
        manager.schedule(&mut view, false, Instant::now()),
        vec![LeaseDecision::Spill(fits, other)]
    );
    assert_eq!(manager.infeasible(&view), [&never]);
    assert_eq!(
        manager.missing(&view, &never.shape),
        "CPU: 8 asked for, no node has more than 2"
    );
    assert!(manager.pinned_in_vain(&view).is_empty());
    assert!(manager.pinned_in_vain(&view).is_empty());
    assert_eq!(manager.state(never.lease_id), Some(LeaseState::Queued));
}

#[test]
fn what_no_node_can_meet_is_known_and_what_is_pinned_here_whatever_others_have() {
    let other = NodeId::from_array([9; 16]);
    let mut manager = manager_of(cpus(1.0));
    let mut view = view_with(&[(other, 4.0, 0.0)]);
    let pinned = pinned(1, 2.0);
    let never = request(1, 8.0);
    let fits = request(1, 1.0);
    for request in [&pinned, &never, &fits, &request(1, 1.0)] {
        manager.request(request.clone(), Instant::now());
    }
    manager.schedule(&mut view, false, Instant::now());
    let mut named: Vec<LeaseId> = manager
        .infeasible(&view)
        .iter()
        .map(|request| request.lease_id)
        .collect();
    named.sort_unstable();
    let mut expected = vec![pinned.lease_id, never.lease_id];
    expected.sort_unstable();
    assert_eq!(named, expected);
    assert!(manager.pinned_in_vain(&view).is_empty(), "the view may be late");
    assert_eq!(manager.pinned_in_vain(&view), [pinned]);
    assert!(manager.pinned_in_vain(&view).is_empty(), "once");
}

#[test]
fn owners_take_turns_and_idle_leases_are_asked_for_once() {
    let mut manager = manager_of(cpus(2.0));
    let mut view = view_with(&[]);
    let greedy: Vec<LeaseRequest> = (0..4).map(|_| request(1, 1.0)).collect();
    for request in &greedy {
        manager.request(request.clone(), Instant::now());
    }
    for lease_id in granted(&manager.schedule(&mut view, false, Instant::now())) {
        manager.assign_worker(lease_id, WorkerId::from_slice(lease_id.as_bytes()).unwrap());
    }
    let modest = request(2, 1.0);
    manager.request(modest.clone(), Instant::now());
    let wanted = manager.schedule(&mut view, false, Instant::now());
    assert_eq!(wanted.len(), 2);
    assert!(
        wanted
            .iter()
            .all(|decision| matches!(decision, LeaseDecision::Wanted(_, wanted) if *wanted == owner(1)))
    );
    assert!(manager.schedule(&mut view, false, Instant::now()).is_empty());
    manager.end(greedy[0].lease_id).unwrap();
    assert_eq!(
        granted(&manager.schedule(&mut view, false, Instant::now())),
        vec![modest.lease_id]
    );
}

#[test]
fn a_blocked_worker_lends_its_cpus_and_takes_them_back() {
    let mut manager = manager_of(cpus(1.0));
    let mut view = view_with(&[]);
    let (parent, child) = (request(1, 1.0), request(2, 1.0));
    let worker = WorkerId::from_array([1; 16]);
    manager.request(parent.clone(), Instant::now());
    manager.schedule(&mut view, false, Instant::now());
    manager.assign_worker(parent.lease_id, worker);
    manager.request(child.clone(), Instant::now());
    assert!(granted(&manager.schedule(&mut view, false, Instant::now())).is_empty());
    manager.set_blocked(worker, true);
    manager.set_blocked(worker, true);
    assert_eq!(
        granted(&manager.schedule(&mut view, false, Instant::now())),
        vec![child.lease_id]
    );
    manager.set_blocked(worker, false);
    assert!((manager.available().get("CPU") + 1.0).abs() < f64::EPSILON);
    manager.end(child.lease_id);
    manager.end(parent.lease_id);
    assert!((manager.available().get("CPU") - 1.0).abs() < f64::EPSILON);
}

#[test]
fn an_actor_that_waits_keeps_its_cpus() {
    let mut manager = manager_of(cpus(1.0));
    let mut view = view_with(&[]);
    let actor = LeaseRequest {
        owner: LeaseOwner::Head,
        ..request(1, 1.0)
    };
    let worker = WorkerId::from_array([1; 16]);
    manager.request(actor.clone(), Instant::now());
    manager.schedule(&mut view, false, Instant::now());
    manager.assign_worker(actor.lease_id, worker);
    manager.request(request(2, 1.0), Instant::now());
    manager.set_blocked(worker, true);
    assert!(granted(&manager.schedule(&mut view, false, Instant::now())).is_empty());
}

#[test]
fn an_owner_that_goes_takes_all_its_leases_and_requests_along() {
    let mut manager = manager_of(cpus(1.0));
    let mut view = view_with(&[]);
    for _ in 0..3 {
        manager.request(request(1, 1.0), Instant::now());
    }
    let other = request(2, 1.0);
    manager.request(other.clone(), Instant::now());
    manager.schedule(&mut view, false, Instant::now());
    assert_eq!(manager.end_of_owner(owner(1), |_, _| false).len(), 3);
    assert_eq!(
        granted(&manager.schedule(&mut view, false, Instant::now())),
        vec![other.lease_id]
    );
}

#[test]
fn room_is_kept_for_a_large_request_that_waits_but_not_for_ever() {
    let start = Instant::now();
    let mut manager = manager_of(cpus(2.0));
    let mut view = view_with(&[]);
    let running: Vec<LeaseRequest> = (0..2).map(|_| request(1, 1.0)).collect();
    let large = request(1, 2.0);
    let small: Vec<LeaseRequest> = (0..2).map(|_| request(1, 1.0)).collect();
    for request in running.iter().chain([&large]).chain(&small) {
        manager.request(request.clone(), start);
    }
    assert_eq!(granted(&manager.schedule(&mut view, false, start)).len(), 2);

    let waiting = start + KEEP_AFTER;
    manager.end(running[0].lease_id).unwrap();
    assert!(granted(&manager.schedule(&mut view, false, waiting)).is_empty());
    let too_long = waiting + KEEP_FOR;
    assert_eq!(
        granted(&manager.schedule(&mut view, false, too_long)),
        vec![small[0].lease_id]
    );
    manager.end(small[0].lease_id).unwrap();
    manager.end(running[1].lease_id).unwrap();
    assert_eq!(
        granted(&manager.schedule(&mut view, false, too_long)),
        vec![large.lease_id]
    );
}

#[derive(Debug, Clone)]
enum Step {
    Request {
        owner: u8,
        half_cpus: u8,
        pinned: bool,
        spilled: bool,
    },
    Repeat(usize),
    End(usize),
    EndOwner(u8),
    Blocked(usize, bool),
    View(u8),
    Wait(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_u8..3, 0_u8..10, any::<bool>(), any::<bool>())
            .prop_map(|(owner, half_cpus, pinned, spilled)| Step::Request { owner, half_cpus, pinned, spilled }),
        1 => any::<usize>().prop_map(Step::Repeat),
        3 => any::<usize>().prop_map(Step::End),
        1 => (0_u8..3).prop_map(Step::EndOwner),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(index, blocked)| Step::Blocked(index, blocked)),
        1 => (0_u8..6).prop_map(Step::View),
        1 => (0_u16..8000).prop_map(Step::Wait),
    ]
}

proptest! {
    #[test]
    fn resources_are_conserved_and_every_request_is_answered_or_known(steps in prop::collection::vec(step(), 1..80)) {
        let total = cpus(3.0);
        let mut manager = manager_of(total.clone());
        let mut view = view_with(&[]);
        let mut open: Vec<LeaseRequest> = Vec::new();
        let mut now = Instant::now();
        for step in steps {
            let mut view_changed = false;
            match step {
                Step::Request { owner, half_cpus, pinned, spilled } => {
                    let strategy = if pinned { SchedulingStrategy::only_on(HERE) } else { SchedulingStrategy::Default };
                    let request = LeaseRequest { spilled, ..request_for(strategy, owner, f64::from(half_cpus) / 2.0) };
                    prop_assert_eq!(manager.request(request.clone(), now), None);
                    open.push(request);
                }
                Step::Repeat(index) if !open.is_empty() => {
                    let request = open[index % open.len()].clone();
                    let before = (manager.available().clone(), manager.queued_count());
                    prop_assert!(manager.request(request, now).is_some());
                    prop_assert_eq!(before, (manager.available().clone(), manager.queued_count()));
                }
                Step::End(index) if !open.is_empty() => {
                    let request = open.swap_remove(index % open.len());
                    prop_assert!(manager.end(request.lease_id).is_some());
                    prop_assert!(manager.end(request.lease_id).is_none());
                }
                Step::EndOwner(number) => {
                    let owner = owner(number);
                    let ended = manager.end_of_owner(owner, |_, _| false);
                    prop_assert_eq!(ended.len(), open.iter().filter(|request| request.owner == owner).count());
                    open.retain(|request| request.owner != owner);
                }
                Step::Blocked(index, blocked) if !open.is_empty() => {
                    if let Some(LeaseState::Granted(worker)) = manager.state(open[index % open.len()].lease_id) {
                        manager.set_blocked(worker, blocked);
                    }
                }
                Step::View(available) => {
                    view = view_with(&[(NodeId::from_array([7; 16]), 6.0, f64::from(available))]);
                    view_changed = true;
                }
                Step::Wait(milliseconds) => now += Duration::from_millis(u64::from(milliseconds)),
                _ => {}
            }
            for decision in manager.schedule(&mut view, view_changed, now) {
                match decision {
                    LeaseDecision::NeedsWorker(lease_id) => {
                        let worker = WorkerId::from_slice(lease_id.as_bytes()).unwrap();
                        prop_assert!(manager.assign_worker(lease_id, worker));
                    }
                    LeaseDecision::Spill(request, _) => {
                        prop_assert_eq!(request.shape.only_node(), None);
                        let before = open.len();
                        open.retain(|known| known.lease_id != request.lease_id);
                        prop_assert_eq!(open.len() + 1, before);
                    }
                    LeaseDecision::Wanted(lease_id, _) => {
                        prop_assert!(matches!(manager.state(lease_id), Some(LeaseState::Granted(_))));
                    }
                }
            }
            for request in &open {
                let state = manager.state(request.lease_id);
                prop_assert!(matches!(state, Some(LeaseState::Queued | LeaseState::Granted(_))));
            }
            let mut expected = total.clone();
            for lease in manager.leases.values().filter(|lease| lease.state != LeaseState::Queued) {
                expected.subtract(&lease.request.shape.resources);
                if let Some(lent) = &lease.lent {
                    expected.add(lent);
                }
            }
            prop_assert!((expected.get("CPU") - manager.available().get("CPU")).abs() < 1e-9);
        }
        for request in open {
            manager.end(request.lease_id);
        }
        prop_assert!((manager.available().get("CPU") - 3.0).abs() < 1e-9);
        prop_assert_eq!(manager.queued_count(), 0);
    }
}
