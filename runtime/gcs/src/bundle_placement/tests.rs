use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;
use sparkray_common::Labels;

use super::*;

fn node(number: usize) -> NodeId {
    NodeId::from_array([number as u8; 16])
}

fn cpus(amount: f64) -> ResourceSet {
    ResourceSet::from_units([("CPU".to_owned(), amount)]).unwrap()
}

/// Nodes 1, 2, … with so many CPUs, all free.
fn view(nodes: &[f64]) -> Vec<Candidate> {
    let candidate = |(index, amount): (usize, &f64)| Candidate {
        node: node(index + 1),
        labels: Arc::new(Labels::new()),
        total: cpus(*amount),
        available: cpus(*amount),
        queued_leases: 0,
        actors: 0,
    };
    nodes.iter().enumerate().map(candidate).collect()
}

/// Where bundles of so many CPUs go.
fn choose(
    nodes: &[f64],
    strategy: PlacementStrategy,
    bundles: &[f64],
    others: &[usize],
) -> Option<Vec<usize>> {
    let resources: Vec<ResourceSet> = bundles.iter().map(|amount| cpus(*amount)).collect();
    let wanted = Wanted {
        strategy,
        bundles: resources
            .iter()
            .enumerate()
            .map(|(index, resources)| (index as u32, resources))
            .collect(),
        others: others.iter().map(|number| node(*number)).collect(),
    };
    let mut chosen = choose_nodes(&view(nodes), &wanted)?;
    chosen.sort_unstable();
    let number = |(_, node): &(u32, NodeId)| usize::from(node.as_bytes()[0]);
    Some(chosen.iter().map(number).collect())
}

#[test]
fn a_packed_group_is_on_one_node_if_one_has_room_and_on_few_otherwise() {
    let pack = PlacementStrategy::Pack;
    assert_eq!(choose(&[1.0, 4.0, 2.0], pack, &[1.0, 2.0], &[]), Some(vec![2, 2]));
    assert_eq!(
        choose(&[1.0, 2.0, 2.0], pack, &[1.0, 2.0, 1.0], &[]),
        Some(vec![3, 2, 3])
    );
    assert_eq!(choose(&[1.0, 2.0], pack, &[2.0, 2.0], &[]), None);
    let strict = PlacementStrategy::StrictPack;
    assert_eq!(choose(&[2.0, 2.0], strict, &[1.0, 1.0, 1.0], &[]), None);
    assert_eq!(
        choose(&[2.0, 3.0], strict, &[1.0, 1.0, 1.0], &[]),
        Some(vec![2, 2, 2])
    );
}

#[test]
fn a_spread_group_is_on_as_many_nodes_as_there_are() {
    let spread = PlacementStrategy::Spread;
    assert_eq!(
        choose(&[4.0, 4.0], spread, &[1.0, 1.0, 1.0], &[]),
        Some(vec![1, 2, 1])
    );
    let strict = PlacementStrategy::StrictSpread;
    assert_eq!(choose(&[4.0, 4.0], strict, &[1.0, 1.0, 1.0], &[]), None);
    assert_eq!(choose(&[4.0, 1.0], strict, &[1.0, 4.0], &[]), Some(vec![2, 1]));
}

#[test]
fn bundles_that_lost_their_node_mind_where_the_others_are() {
    let strict = PlacementStrategy::StrictSpread;
    assert_eq!(choose(&[4.0, 4.0], strict, &[1.0], &[1]), Some(vec![2]));
    assert_eq!(choose(&[4.0], strict, &[1.0], &[1]), None);
    let pack = PlacementStrategy::Pack;
    assert_eq!(choose(&[2.0, 8.0], pack, &[1.0], &[1]), Some(vec![1]));
    assert_eq!(choose(&[0.0, 8.0], pack, &[1.0], &[1]), Some(vec![2]));
}

#[test]
fn bundles_that_no_node_has_room_for_fit_nowhere() {
    assert_eq!(choose(&[], PlacementStrategy::Pack, &[1.0], &[]), None);
    assert_eq!(choose(&[0.5], PlacementStrategy::Spread, &[1.0], &[]), None);
}

proptest! {
    #[test]
    fn what_is_chosen_fits_and_keeps_the_strategy(
        nodes in prop::collection::vec(0_u8..6, 0..5),
        bundles in prop::collection::vec(1_u8..4, 1..6),
        strategy in 0_i32..4,
    ) {
        let nodes: Vec<f64> = nodes.into_iter().map(f64::from).collect();
        let bundles: Vec<f64> = bundles.into_iter().map(f64::from).collect();
        let strategy = PlacementStrategy::try_from(strategy).unwrap();
        let Some(chosen) = choose(&nodes, strategy, &bundles, &[]) else {
            return Ok(());
        };
        prop_assert_eq!(chosen.len(), bundles.len());
        for (index, room) in nodes.iter().enumerate() {
            let there = chosen.iter().zip(&bundles).filter(|(node, _)| **node == index + 1);
            let together: f64 = there.map(|(_, amount)| amount).sum();
            prop_assert!(together <= *room);
        }
        let different = chosen.iter().collect::<BTreeSet<_>>().len();
        match strategy {
            PlacementStrategy::StrictPack => prop_assert_eq!(different, 1),
            PlacementStrategy::StrictSpread => prop_assert_eq!(different, bundles.len()),
            PlacementStrategy::Pack | PlacementStrategy::Spread => {}
        }
    }
}
