//! Placement groups, from their request to their removal.

use std::time::Duration;

use sparkray_common::{BundleChoice, BundleId, PlacementGroupId};
use sparkray_proto::{
    Bundles, BundlesPrepared, CreatePlacementGroup, FinishJob, GetPlacementGroup, PlacementGroupRecord,
    PlacementGroupState, PlacementStrategy, PrepareBundles, RemovePlacementGroup,
};

use super::*;

fn group_id(number: u8) -> PlacementGroupId {
    PlacementGroupId::from_array([number; 16])
}

fn id_bytes(number: u8) -> prost::bytes::Bytes {
    group_id(number).to_vec().into()
}

/// What one node was ordered about groups.
#[derive(Debug, Default, PartialEq)]
struct Orders {
    prepare: Vec<PrepareBundles>,
    commit: Vec<Bundles>,
    giveback: Vec<Bundles>,
    removed: usize,
}

impl Cluster {
    fn create_group(
        &mut self,
        number: u8,
        strategy: PlacementStrategy,
        bundles: &[f64],
    ) -> Result<Reply, Failure> {
        self.request(Request::CreatePlacementGroup(CreatePlacementGroup {
            placement_group_id: id_bytes(number),
            job_id: self.job.to_vec().into(),
            name: format!("group{number}"),
            strategy: strategy.into(),
            bundles: bundles.iter().map(|amount| cpus(*amount)).collect(),
            ..CreatePlacementGroup::default()
        }))
    }

    fn remove_group(&mut self, number: u8) {
        let placement_group_id = id_bytes(number);
        self.request(Request::RemovePlacementGroup(RemovePlacementGroup {
            placement_group_id,
        }))
        .unwrap();
    }

    fn group(&mut self, number: u8) -> PlacementGroupRecord {
        let request = GetPlacementGroup {
            placement_group_id: id_bytes(number),
            ..GetPlacementGroup::default()
        };
        match self.request(Request::GetPlacementGroup(request)) {
            Ok(Reply::PlacementGroup(record)) => record,
            other => panic!("no group but {other:?}"),
        }
    }

    fn group_state(&mut self, number: u8) -> PlacementGroupState {
        self.group(number).state()
    }

    /// The node of each bundle.
    fn places(&mut self, number: u8) -> Vec<Option<NodeId>> {
        let bundles = self.group(number).bundles;
        bundles
            .iter()
            .map(|bundle| NodeId::from_slice(&bundle.node_id).ok())
            .collect()
    }

    fn orders(&mut self, node: u8) -> Orders {
        let mut orders = Orders::default();
        for message in self.inbox(node_id(node)) {
            match message {
                Message::PrepareBundles(order) => orders.prepare.push(order),
                Message::CommitBundles(order) => orders.commit.push(order),
                Message::ReturnBundles(order) => orders.giveback.push(order),
                Message::PlacementGroupRemoved(_) => orders.removed += 1,
                _ => {}
            }
        }
        orders
    }

    fn answer(&mut self, node: u8, order: &PrepareBundles, prepared: bool) {
        let answer = BundlesPrepared {
            placement_group_id: order.placement_group_id.clone(),
            attempt: order.attempt,
            prepared,
        };
        self.say(node_id(node), FromNode::BundlesPrepared(answer));
    }

    /// A group with one bundle on each of two nodes of two CPUs.
    fn with_spread_group() -> Self {
        let mut cluster = Self::with_nodes(&[2.0, 2.0]);
        cluster
            .create_group(1, PlacementStrategy::StrictSpread, &[1.0, 1.0])
            .unwrap();
        for node in [1, 2] {
            let order = cluster.orders(node).prepare.remove(0);
            cluster.answer(node, &order, true);
        }
        cluster
    }
}

#[test]
fn nodes_commit_when_all_have_reserved() {
    let mut cluster = Cluster::with_nodes(&[2.0, 2.0]);
    cluster
        .create_group(1, PlacementStrategy::Spread, &[1.0, 1.0])
        .unwrap();
    let (first, second) = (cluster.orders(1), cluster.orders(2));
    cluster.answer(1, &first.prepare[0], true);
    assert_eq!(cluster.group_state(1), PlacementGroupState::Pending);
    assert_eq!(cluster.orders(1), Orders::default());
    cluster.answer(2, &second.prepare[0], true);
    assert_eq!(cluster.group_state(1), PlacementGroupState::Created);
    for node in [1, 2] {
        assert_eq!(cluster.orders(node).commit.len(), 1);
    }
    let mut places = cluster.places(1);
    places.sort_unstable();
    assert_eq!(places, [Some(node_id(1)), Some(node_id(2))]);
    for name in ["registered", "attempts", "created"] {
        let name = format!("ray_gcs_placement_groups_{name}");
        assert_eq!(cluster.counted(&name, ""), 1, "{name}");
    }
    assert_eq!(cluster.counted("ray_gcs_placement_group_count", "Created"), 1);
}

#[test]
fn one_refusal_gives_back_what_the_others_reserved_and_the_group_is_tried_again() {
    let mut cluster = Cluster::with_nodes(&[2.0, 2.0]);
    cluster
        .create_group(1, PlacementStrategy::StrictSpread, &[1.0, 1.0])
        .unwrap();
    let (first, second) = (cluster.orders(1), cluster.orders(2));
    cluster.answer(1, &first.prepare[0], true);
    cluster.answer(2, &second.prepare[0], false);
    assert_eq!(cluster.orders(1).giveback.len(), 1);
    assert_eq!(cluster.orders(2).giveback.len(), 1);
    cluster.pass_alive(Duration::from_millis(100), &[node_id(1), node_id(2)]);
    let again = cluster.orders(1).prepare.remove(0);
    assert_eq!(again.attempt, 2);
    // A late answer to the first attempt says nothing of the second one.
    cluster.answer(1, &first.prepare[0], true);
    let other = cluster.orders(2).prepare.remove(0);
    cluster.answer(2, &other, true);
    assert_eq!(cluster.group_state(1), PlacementGroupState::Pending);
    cluster.answer(1, &again, true);
    assert_eq!(cluster.group_state(1), PlacementGroupState::Created);
}

#[test]
fn a_group_that_fits_nowhere_waits_for_a_node() {
    let mut cluster = Cluster::with_nodes(&[1.0]);
    cluster.create_group(1, PlacementStrategy::Pack, &[4.0]).unwrap();
    assert_eq!(cluster.group_state(1), PlacementGroupState::Pending);
    assert!(cluster.group(1).infeasible, "no node is large enough");
    assert_eq!(cluster.orders(1), Orders::default());
    cluster.attach(node_id(2), 4.0).unwrap();
    let order = cluster.orders(2).prepare.remove(0);
    cluster.answer(2, &order, true);
    assert_eq!(cluster.places(1), [Some(node_id(2))]);
}

#[test]
fn a_driver_is_told_what_keeps_its_groups_from_their_nodes() {
    let mut cluster = Cluster::with_nodes(&[2.0, 2.0]);
    cluster
        .create_group(1, PlacementStrategy::Pack, &[1.0, 4.0])
        .unwrap();
    cluster
        .create_group(2, PlacementStrategy::StrictPack, &[2.0, 1.0])
        .unwrap();
    cluster
        .create_group(3, PlacementStrategy::StrictSpread, &[1.0, 1.0, 1.0])
        .unwrap();
    cluster
        .create_group(4, PlacementStrategy::Spread, &[2.0, 2.0, 2.0])
        .unwrap();
    cluster.pass_alive(Duration::from_secs(3), &[node_id(1), node_id(2)]);
    let told = cluster.infeasible_demand();
    assert_eq!(told.len(), 1, "once");
    let mut shapes: Vec<_> = told[0].shapes.iter().collect();
    shapes.sort_by(|left, right| left.cause.cmp(&right.cause));
    assert!(
        shapes
            .iter()
            .all(|shape| shape.waiters[0].kind == "placement group")
    );
    let mut cpus: Vec<_> = shapes
        .iter()
        .map(|shape| shape.resources.as_ref().unwrap().units["CPU"])
        .collect();
    cpus[..2].sort_by(f64::total_cmp);
    assert_eq!(
        cpus,
        [3.0, 4.0, 3.0, 6.0],
        "a bundle, a node's, and those of whole groups"
    );
    let causes: Vec<_> = shapes.iter().map(|shape| shape.cause.as_str()).collect();
    assert_eq!(causes[..2], ["", ""]);
    assert!(causes[2].starts_with("each of its 3 bundles goes to a node of its own"));
    assert!(causes[3].starts_with("its 3 bundles have no room on all nodes together"));

    cluster.attach(node_id(3), 4.0).unwrap();
    let nodes = [node_id(1), node_id(2), node_id(3)];
    cluster.pass_alive(Duration::from_secs(40), &nodes);
    assert!(cluster.infeasible_demand().is_empty(), "it can meet each of them");
}

#[test]
fn what_one_group_reserves_no_other_gets() {
    let mut cluster = Cluster::with_nodes(&[2.0]);
    for number in [1, 2] {
        cluster
            .create_group(number, PlacementStrategy::Pack, &[2.0])
            .unwrap();
    }
    assert!(!cluster.group(2).infeasible, "the node will have room");
    let orders = cluster.orders(1).prepare;
    assert_eq!(orders.len(), 1);
    assert_eq!(orders[0].placement_group_id, id_bytes(1));
}

#[test]
fn bundles_of_a_dead_node_go_elsewhere_and_the_others_stay() {
    let mut cluster = Cluster::with_spread_group();
    let kept = cluster
        .places(1)
        .iter()
        .position(|node| *node == Some(node_id(1)));
    cluster.orders(1);
    cluster.state.detach(cluster.now, node_id(2), "it was killed");
    cluster.collect();
    assert_eq!(cluster.group_state(1), PlacementGroupState::Rescheduling);
    cluster.attach(node_id(3), 2.0).unwrap();
    let order = cluster.orders(3).prepare.remove(0);
    assert_eq!(order.bundles.len(), 1);
    cluster.answer(3, &order, true);
    assert_eq!(cluster.group_state(1), PlacementGroupState::Created);
    let places = cluster.places(1);
    assert_eq!(places[kept.unwrap()], Some(node_id(1)));
    assert!(places.contains(&Some(node_id(3))));
    assert_eq!(cluster.orders(1), Orders::default(), "its bundle stayed");
}

#[test]
fn the_death_of_a_node_that_was_asked_returns_what_others_reserved() {
    let mut cluster = Cluster::with_nodes(&[1.0, 1.0]);
    cluster
        .create_group(1, PlacementStrategy::StrictSpread, &[1.0, 1.0])
        .unwrap();
    let first = cluster.orders(1).prepare.remove(0);
    cluster.answer(1, &first, true);
    cluster.state.detach(cluster.now, node_id(2), "it was killed");
    cluster.collect();
    assert_eq!(cluster.orders(1).giveback.len(), 1);
    assert_eq!(cluster.group_state(1), PlacementGroupState::Pending);
}

#[test]
fn removal_ends_actors_tells_all_nodes_and_frees_the_name() {
    let mut cluster = Cluster::with_spread_group();
    let index = cluster
        .places(1)
        .iter()
        .position(|node| *node == Some(node_id(1)));
    let bundle = BundleId {
        group: group_id(1),
        index: index.unwrap() as u32,
    };
    let one_cpu = (&cpus(1.0)).try_into().unwrap();
    let mut total = bundle.node_resources(&one_cpu);
    total.add(&(&cpus(2.0)).try_into().unwrap());
    let report = ResourceReport {
        available: Some((&total).into()),
        total: Some((&total).into()),
        ..ResourceReport::default()
    };
    cluster.say(node_id(1), FromNode::Report(report));
    let strategy = SchedulingStrategy::Bundle(BundleChoice {
        group: bundle.group,
        index: Some(bundle.index),
        captures_child_tasks: false,
    });
    let mut spec = cluster.spec(7, 1.0);
    spec.strategy = Some((&strategy).into());
    spec.max_restarts = -1;
    assert_eq!(
        cluster.alive(spec, 5),
        node_id(1),
        "only this node has the bundle"
    );

    cluster.remove_group(1);
    assert_eq!(cluster.actor_state(7), ActorState::Dead);
    assert!(cluster.update(7).cause.contains("placement group"));
    let told = cluster.inbox(node_id(1));
    assert_eq!(kills(&told).len(), 1);
    assert!(matches!(told.last(), Some(Message::PlacementGroupRemoved(_))));
    assert_eq!(cluster.orders(2).removed, 1);
    assert_eq!(cluster.group_state(1), PlacementGroupState::Removed);
    assert_eq!(cluster.places(1), [None, None]);
    let mut late = cluster.spec(8, 1.0);
    late.strategy = Some((&strategy).into());
    assert_eq!(
        code(cluster.register(late)),
        ErrorCode::ActorPlacementGroupRemoved
    );
    cluster.remove_group(1);
    assert_eq!(cluster.orders(2).removed, 0, "it was removed before");
    let by_name = GetPlacementGroup {
        name: "group1".to_owned(),
        namespace: "space".to_owned(),
        ..GetPlacementGroup::default()
    };
    let found = cluster.request(Request::GetPlacementGroup(by_name));
    assert_eq!(code(found), ErrorCode::NotFound);
}

#[test]
fn a_group_goes_with_its_job() {
    let mut cluster = Cluster::with_spread_group();
    let job_id = cluster.job.to_vec().into();
    cluster.request(Request::FinishJob(FinishJob { job_id })).unwrap();
    assert_eq!(cluster.group_state(1), PlacementGroupState::Removed);
}

#[test]
fn a_refused_group_leaves_no_trace_and_a_known_one_changes_nothing() {
    let mut cluster = Cluster::with_spread_group();
    let records = cluster.journal.len();
    let pack = PlacementStrategy::Pack;
    for bundles in [vec![], vec![1.0, 0.0], vec![1.0; 1001]] {
        let refused = cluster.create_group(2, pack, &bundles);
        assert_eq!(code(refused), ErrorCode::InvalidArgument);
    }
    cluster.create_group(1, pack, &[1.0]).unwrap();
    let taken = CreatePlacementGroup {
        placement_group_id: id_bytes(3),
        job_id: cluster.job.to_vec().into(),
        name: "group1".to_owned(),
        bundles: vec![cpus(1.0)],
        ..CreatePlacementGroup::default()
    };
    let refused = cluster.request(Request::CreatePlacementGroup(taken));
    assert_eq!(code(refused), ErrorCode::AlreadyExists);
    assert_eq!(cluster.journal.len(), records);
}

#[test]
fn a_head_that_starts_goes_on_where_an_attempt_was() {
    let mut cluster = Cluster::with_nodes(&[1.0, 1.0]);
    cluster
        .create_group(1, PlacementStrategy::StrictSpread, &[1.0, 1.0])
        .unwrap();
    let (first, second) = (cluster.orders(1), cluster.orders(2));
    cluster.answer(1, &first.prepare[0], true);
    cluster.restart_head();
    cluster.answer(2, &second.prepare[0], true);
    assert_eq!(cluster.group_state(1), PlacementGroupState::Created);
}
