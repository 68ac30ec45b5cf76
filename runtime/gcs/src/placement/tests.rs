use super::*;

fn set(units: &[(&str, f64)]) -> ResourceSet {
    ResourceSet::from_units(units.iter().map(|(name, amount)| ((*name).to_owned(), *amount))).unwrap()
}

fn node(number: u8, total: f64, available: f64) -> Candidate {
    Candidate {
        node: id(number),
        total: set(&[("CPU", total)]),
        available: set(&[("CPU", available)]),
        queued_leases: 0,
        actors: 0,
    }
}

fn id(number: u8) -> NodeId {
    NodeId::from_array([number; 16])
}

#[test]
fn the_preferred_node_is_taken_while_it_has_room() {
    let view = [node(1, 4.0, 4.0), node(2, 4.0, 1.0)];
    assert_eq!(
        choose_node(
            &view,
            &set(&[("CPU", 1.0)]),
            &set(&[("CPU", 1.0)]),
            Some(id(2)),
            &[]
        ),
        Choice::Room(id(2))
    );
    assert_eq!(
        choose_node(
            &view,
            &set(&[("CPU", 2.0)]),
            &set(&[("CPU", 2.0)]),
            Some(id(2)),
            &[]
        ),
        Choice::Room(id(1))
    );
    assert_eq!(
        choose_node(
            &view,
            &set(&[("CPU", 1.0)]),
            &set(&[("CPU", 1.0)]),
            Some(id(9)),
            &[]
        ),
        Choice::Room(id(1))
    );
    assert_eq!(
        choose_node(
            &view,
            &set(&[("CPU", 1.0)]),
            &set(&[("CPU", 1.0)]),
            Some(id(2)),
            &[id(2)]
        ),
        Choice::Room(id(1))
    );
}

#[test]
fn the_least_utilized_node_with_room_is_taken() {
    let view = [node(1, 4.0, 2.0), node(2, 8.0, 6.0), node(3, 2.0, 1.0)];
    assert_eq!(
        choose_node(&view, &set(&[("CPU", 1.0)]), &set(&[("CPU", 1.0)]), None, &[]),
        Choice::Room(id(2))
    );
}

#[test]
fn without_room_the_least_loaded_feasible_node_is_named() {
    let mut view = [node(1, 4.0, 0.0), node(2, 4.0, 1.0), node(3, 1.0, 1.0)];
    assert_eq!(
        choose_node(&view, &set(&[("CPU", 2.0)]), &set(&[("CPU", 2.0)]), None, &[]),
        Choice::Busy(id(2))
    );
    view[1].available = set(&[]);
    view[0].queued_leases = 3;
    assert_eq!(
        choose_node(&view, &set(&[("CPU", 2.0)]), &set(&[("CPU", 2.0)]), None, &[]),
        Choice::Busy(id(2))
    );
}

#[test]
fn a_node_that_refused_is_not_asked_again_but_not_missing_either() {
    let view = [node(1, 1.0, 1.0), node(2, 1.0, 0.0)];
    assert_eq!(
        choose_node(
            &view,
            &set(&[("CPU", 1.0)]),
            &set(&[("CPU", 1.0)]),
            None,
            &[id(1)]
        ),
        Choice::Busy(id(2))
    );
    assert_eq!(
        choose_node(
            &view,
            &set(&[("CPU", 1.0)]),
            &set(&[("CPU", 1.0)]),
            None,
            &[id(1), id(2)]
        ),
        Choice::Refused
    );
}

#[test]
fn what_no_node_can_hold_is_infeasible_and_named() {
    let view = [node(1, 4.0, 4.0), node(2, 8.0, 0.0)];
    let request = set(&[("CPU", 9.0), ("GPU", 1.0)]);
    assert_eq!(
        choose_node(&view, &request, &request, None, &[]),
        Choice::Infeasible
    );
    assert_eq!(
        describe_missing(&view, &request),
        "CPU: needs 9, the largest node has 8; GPU: needs 1, the largest node has 0"
    );
    assert_eq!(
        choose_node(&[], &set(&[]), &set(&[]), None, &[]),
        Choice::Infeasible
    );
}

#[test]
fn what_asks_for_nothing_spreads_over_nodes_with_cpus() {
    let mut view = [node(1, 0.0, 0.0), node(2, 4.0, 0.0), node(3, 4.0, 0.0)];
    assert_eq!(
        choose_node(&view, &set(&[]), &set(&[]), None, &[]),
        Choice::Room(id(2))
    );
    view[1].actors = 1;
    assert_eq!(
        choose_node(&view, &set(&[]), &set(&[]), None, &[]),
        Choice::Room(id(3))
    );
    assert_eq!(
        choose_node(&view[..1], &set(&[]), &set(&[]), None, &[]),
        Choice::Room(id(1))
    );
}
