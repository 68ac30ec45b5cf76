use sparkray_common::{LabelConstraint, LabelOperator, LabelSelector};

use super::*;

fn set(units: &[(&str, f64)]) -> ResourceSet {
    ResourceSet::from_units(units.iter().map(|(name, amount)| ((*name).to_owned(), *amount))).unwrap()
}

fn node(number: u8, total: f64, available: f64) -> Candidate {
    Candidate {
        node: id(number),
        labels: Arc::default(),
        total: set(&[("CPU", total)]),
        available: set(&[("CPU", available)]),
        queued_leases: 0,
        actors: 0,
    }
}

fn id(number: u8) -> NodeId {
    NodeId::from_array([number; 16])
}

/// What is held is what is needed.
fn demand(resources: ResourceSet) -> Demand {
    demand_with(SchedulingStrategy::Default, resources)
}

fn demand_with(strategy: SchedulingStrategy, resources: ResourceSet) -> Demand {
    Demand {
        held: resources.clone(),
        needs: resources,
        strategy,
    }
}

fn one_cpu(strategy: SchedulingStrategy) -> Demand {
    demand_with(strategy, set(&[("CPU", 1.0)]))
}

fn affinity(number: u8, soft: bool) -> SchedulingStrategy {
    SchedulingStrategy::NodeAffinity {
        node: id(number),
        soft,
    }
}

fn zone(name: &str) -> LabelSelector {
    LabelSelector::new(vec![LabelConstraint {
        key: "zone".to_owned(),
        operator: LabelOperator::In([name.to_owned()].into()),
    }])
}

fn in_zone(mut candidate: Candidate, name: &str) -> Candidate {
    candidate.labels = Arc::new(Labels::from([("zone".to_owned(), name.to_owned())]));
    candidate
}

#[test]
fn an_affinity_waits_for_its_node_as_long_as_that_can_have_the_actor() {
    let view = [
        node(1, 4.0, 4.0),
        node(2, 4.0, 1.0),
        node(3, 4.0, 0.0),
        node(4, 0.0, 0.0),
    ];
    for soft in [false, true] {
        let choose = |number, avoid: &[NodeId]| choose_node(&view, &one_cpu(affinity(number, soft)), avoid);
        assert_eq!(choose(2, &[]), Choice::Room(id(2)));
        assert_eq!(choose(3, &[]), Choice::Busy(id(3)));
        assert_eq!(
            choose(3, &[id(3)]),
            Choice::Refused,
            "it is asked again when it reports"
        );
    }
    for (number, why) in [(9, "is gone"), (4, "is too small")] {
        let hard = one_cpu(affinity(number, false));
        assert_eq!(choose_node(&view, &hard, &[]), Choice::Unschedulable, "{why}");
        let soft = one_cpu(affinity(number, true));
        assert_eq!(choose_node(&view, &soft, &[]), Choice::Room(id(1)), "{why}");
    }
}

#[test]
fn a_spread_takes_the_node_with_the_fewest_actors() {
    let mut view = [node(1, 8.0, 7.0), node(2, 2.0, 1.0), node(3, 4.0, 0.0)];
    view[0].actors = 1;
    assert_eq!(
        choose_node(&view, &one_cpu(SchedulingStrategy::Spread), &[]),
        Choice::Room(id(2))
    );
    assert_eq!(
        choose_node(&view, &demand(set(&[("CPU", 1.0)])), &[]),
        Choice::Room(id(1))
    );
}

#[test]
fn labels_choose_among_nodes() {
    let view = [
        in_zone(node(1, 4.0, 4.0), "a"),
        in_zone(node(2, 4.0, 1.0), "b"),
        in_zone(node(3, 4.0, 0.0), "c"),
    ];
    let hard = |name| {
        let (hard, soft) = (zone(name), LabelSelector::default());
        one_cpu(SchedulingStrategy::NodeLabels { hard, soft })
    };
    let soft = |name| {
        let (hard, soft) = (LabelSelector::default(), zone(name));
        one_cpu(SchedulingStrategy::NodeLabels { hard, soft })
    };
    assert_eq!(choose_node(&view, &hard("b"), &[]), Choice::Room(id(2)));
    assert_eq!(choose_node(&view, &hard("c"), &[]), Choice::Busy(id(3)));
    assert_eq!(
        choose_node(&view, &hard("d"), &[]),
        Choice::Infeasible,
        "such a node may join"
    );
    assert_eq!(
        describe_missing(&view, &hard("d")),
        "it may only be on a node with the labels {zone: in(d)}"
    );
    assert_eq!(choose_node(&view, &soft("b"), &[]), Choice::Room(id(2)));
    assert_eq!(choose_node(&view, &soft("c"), &[]), Choice::Room(id(1)));
}

#[test]
fn the_least_utilized_node_with_room_is_taken() {
    let view = [node(1, 4.0, 2.0), node(2, 8.0, 6.0), node(3, 2.0, 1.0)];
    assert_eq!(
        choose_node(&view, &demand(set(&[("CPU", 1.0)])), &[]),
        Choice::Room(id(2))
    );
}

#[test]
fn without_room_the_least_loaded_feasible_node_is_named() {
    let mut view = [node(1, 4.0, 0.0), node(2, 4.0, 1.0), node(3, 1.0, 1.0)];
    assert_eq!(
        choose_node(&view, &demand(set(&[("CPU", 2.0)])), &[]),
        Choice::Busy(id(2))
    );
    view[1].available = set(&[]);
    view[0].queued_leases = 3;
    assert_eq!(
        choose_node(&view, &demand(set(&[("CPU", 2.0)])), &[]),
        Choice::Busy(id(2))
    );
}

#[test]
fn a_node_that_refused_is_not_asked_again_but_not_missing_either() {
    let view = [node(1, 1.0, 1.0), node(2, 1.0, 0.0)];
    assert_eq!(
        choose_node(&view, &demand(set(&[("CPU", 1.0)])), &[id(1)]),
        Choice::Busy(id(2))
    );
    assert_eq!(
        choose_node(&view, &demand(set(&[("CPU", 1.0)])), &[id(1), id(2)]),
        Choice::Refused
    );
}

#[test]
fn what_no_node_can_hold_is_infeasible_and_named() {
    let view = [node(1, 4.0, 4.0), node(2, 8.0, 0.0)];
    let request = demand(set(&[("CPU", 9.0), ("GPU", 1.0)]));
    assert_eq!(choose_node(&view, &request, &[]), Choice::Infeasible);
    assert_eq!(
        describe_missing(&view, &request),
        "CPU: needs 9, the largest node has 8; GPU: needs 1, the largest node has 0"
    );
    assert_eq!(choose_node(&[], &demand(set(&[])), &[]), Choice::Infeasible);
}

#[test]
fn what_asks_for_nothing_spreads_over_nodes_with_cpus() {
    let mut view = [node(1, 0.0, 0.0), node(2, 4.0, 0.0), node(3, 4.0, 0.0)];
    assert_eq!(choose_node(&view, &demand(set(&[])), &[]), Choice::Room(id(2)));
    view[1].actors = 1;
    assert_eq!(choose_node(&view, &demand(set(&[])), &[]), Choice::Room(id(3)));
    assert_eq!(
        choose_node(&view[..1], &demand(set(&[])), &[]),
        Choice::Room(id(1))
    );
}
