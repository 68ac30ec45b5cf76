use std::time::Instant;

use proptest::prelude::*;
use sparkray_common::{
    BundleChoice, BundleId, LabelConstraint, LabelOperator, LabelSelector, PlacementGroupId,
};
use sparkray_proto::{ClusterView as ViewMessage, NodeView};

use super::*;
use crate::test_support::{node_info, resources};

const HERE: NodeId = NodeId::from_array([5; 16]);

fn node(number: u8) -> NodeId {
    NodeId::from_array([number; 16])
}

fn cpus(amount: f64) -> ResourceSet {
    resources(&[("CPU", amount)])
}

fn own(cpus_here: f64, zone: &str) -> Own {
    let mut info = node_info(HERE);
    info.labels = labels(zone);
    Own::new(&info, cpus(cpus_here), true)
}

fn labels(zone: &str) -> Labels {
    Labels::from([("zone".to_owned(), zone.to_owned())])
}

/// Nodes with 4 CPUs of which so many are free, and their zones.
fn view(nodes: &[(u8, f64, &str)]) -> ClusterView {
    let mut view = ClusterView::new(HERE);
    let message = |(number, free, zone): &(u8, f64, &str)| NodeView {
        node_id: node(*number).to_vec().into(),
        alive: true,
        total: Some((&cpus(4.0)).into()),
        available: Some((&cpus(*free)).into()),
        labels: labels(zone),
        ..NodeView::default()
    };
    view.apply(&ViewMessage {
        nodes: nodes.iter().map(message).collect(),
    })
    .unwrap();
    view
}

fn shape(amount: f64, strategy: SchedulingStrategy) -> Shape {
    Shape {
        resources: cpus(amount),
        strategy,
    }
}

fn affinity(number: u8, soft: bool) -> SchedulingStrategy {
    SchedulingStrategy::NodeAffinity {
        node: node(number),
        soft,
    }
}

fn zone(name: &str) -> LabelSelector {
    LabelSelector::new(vec![LabelConstraint {
        key: "zone".to_owned(),
        operator: LabelOperator::In([name.to_owned()].into()),
    }])
}

fn in_bundle(index: u32) -> SchedulingStrategy {
    SchedulingStrategy::Bundle(BundleChoice {
        group: PlacementGroupId::from_array([7; 16]),
        index: Some(index),
        captures_child_tasks: false,
    })
}

#[test]
fn a_request_for_a_bundle_goes_where_the_bundle_is_and_waits_while_it_is_nowhere() {
    let own = own(4.0, "a");
    let mut view = view(&[(2, 4.0, "a"), (3, 4.0, "a")]);
    let shape = |index| Shape::new(cpus(1.0), in_bundle(index));
    assert_eq!(own.pass_on_to(&view, &shape(0)), None);
    let text = missing(&own, &view, &shape(0));
    assert!(
        text.contains("bundle 0 of placement group") && text.contains("yet"),
        "{text}"
    );
    let bundle = BundleId {
        group: PlacementGroupId::from_array([7; 16]),
        index: 0,
    };
    let mut total = bundle.node_resources(&cpus(1.0));
    total.add(&cpus(4.0));
    let with_bundle = NodeView {
        node_id: node(3).to_vec().into(),
        alive: true,
        total: Some((&total).into()),
        available: Some((&total).into()),
        ..NodeView::default()
    };
    view.apply(&ViewMessage {
        nodes: vec![with_bundle],
    })
    .unwrap();
    assert_eq!(own.pass_on_to(&view, &shape(0)), Some(node(3)));
    assert_eq!(own.pass_on_to(&view, &shape(1)), None, "it is another bundle");
    assert_eq!(first_target(&own, &view, &shape(0)), None);
}

fn first_target(own: &Own, view: &ClusterView, shape: &Shape) -> Option<NodeId> {
    FirstLook::default().target(own, own.total(), view, shape)
}

#[test]
fn a_spread_goes_round_all_nodes_with_room() {
    let own = own(2.0, "a");
    let mut view = view(&[(1, 2.0, "a"), (7, 0.0, "a"), (9, 1.0, "a")]);
    let shape = shape(1.0, SchedulingStrategy::Spread);
    let mut look = FirstLook::default();
    let mut free = cpus(2.0);
    let mut turns = Vec::new();
    for _ in 0..6 {
        let target = look.target(&own, &free, &view, &shape);
        match target {
            Some(node) => view.note_sent(node, &shape.resources, Instant::now()),
            None => free.subtract(&shape.resources),
        }
        turns.push(target);
    }
    let here = None;
    assert_eq!(
        turns,
        [Some(node(1)), here, Some(node(9)), Some(node(1)), here, here],
        "7 has no room, 9 had room for one, and in the end there is none: it waits here"
    );
}

#[test]
fn an_affinity_goes_to_its_node_busy_or_not() {
    let (own, view) = (own(4.0, "a"), view(&[(1, 0.0, "a"), (2, 4.0, "a")]));
    for soft in [false, true] {
        let busy = shape(1.0, affinity(1, soft));
        assert_eq!(first_target(&own, &view, &busy), Some(node(1)));
        let here = shape(1.0, affinity(5, soft));
        assert_eq!(first_target(&own, &view, &here), None);
        assert_eq!(own.pass_on_to(&view, &here), None, "it waits for its node");
    }
}

#[test]
fn an_affinity_to_a_node_that_is_not_there_waits_or_goes_anywhere() {
    let (own, view) = (own(4.0, "a"), view(&[(2, 4.0, "a")]));
    let hard = shape(1.0, affinity(1, false));
    assert_eq!(first_target(&own, &view, &hard), None);
    assert_eq!(own.pass_on_to(&view, &hard), None);
    assert!(!own.is_feasible(&hard));
    let soft = shape(1.0, affinity(1, true));
    assert!(own.is_feasible(&soft));
    assert_eq!(own.pass_on_to(&view, &soft), Some(node(2)));
    let too_large_here = shape(8.0, affinity(5, true));
    assert_eq!(own.pass_on_to(&view, &too_large_here), None, "no node has 8");
}

#[test]
fn labels_choose_among_nodes() {
    let hard = |name| {
        let (hard, soft) = (zone(name), LabelSelector::default());
        shape(1.0, SchedulingStrategy::NodeLabels { hard, soft })
    };
    let soft = |name| {
        let (hard, soft) = (LabelSelector::default(), zone(name));
        shape(1.0, SchedulingStrategy::NodeLabels { hard, soft })
    };
    let (own, view) = (
        own(4.0, "a"),
        view(&[(1, 4.0, "b"), (2, 1.0, "c"), (3, 0.0, "d")]),
    );
    assert_eq!(first_target(&own, &view, &hard("a")), None);
    assert_eq!(first_target(&own, &view, &hard("c")), Some(node(2)));
    assert_eq!(first_target(&own, &view, &hard("d")), None, "it has no room now");
    assert_eq!(
        own.pass_on_to(&view, &hard("d")),
        Some(node(3)),
        "no other may have it"
    );
    assert_eq!(own.pass_on_to(&view, &hard("e")), None);
    assert_eq!(first_target(&own, &view, &soft("c")), Some(node(2)));
    assert_eq!(
        first_target(&own, &view, &soft("d")),
        None,
        "better here than to wait there"
    );
    assert_eq!(first_target(&own, &view, &soft("e")), None);
    assert!(missing(&own, &view, &hard("e")).contains("{zone: in(e)}"));
}

proptest! {
    /// Wherever a request goes, that node may grant it, and what nobody may grant goes nowhere.
    #[test]
    fn nothing_is_sent_where_it_may_not_be(
        free in prop::collection::vec(0.0..4.0_f64, 3),
        amount in 0.0..5.0_f64,
        kind in 0_u8..6,
        wanted in 1_u8..6,
    ) {
        let (own, view) = (
            own(2.0, "a"),
            view(&[(1, free[0].floor(), "a"), (2, free[1].floor(), "b"), (3, free[2].floor(), "b")]),
        );
        let none = LabelSelector::default;
        let strategy = match kind {
            0 => SchedulingStrategy::Default,
            1 => SchedulingStrategy::Spread,
            2 => affinity(wanted, false),
            3 => affinity(wanted, true),
            4 => SchedulingStrategy::NodeLabels { hard: zone("b"), soft: none() },
            _ => SchedulingStrategy::NodeLabels { hard: none(), soft: zone("b") },
        };
        let shape = shape(amount.floor(), strategy);
        for target in [first_target(&own, &view, &shape), own.pass_on_to(&view, &shape)].into_iter().flatten() {
            prop_assert!(target != HERE && view.is_feasible_on(target, &shape));
        }
    }
}
