#![allow(clippy::float_cmp, reason = "amounts are whole numbers")]

use std::sync::Arc;

use sparkray_common::{LabelConstraint, LabelOperator, Labels, NodeId};

use super::*;

const JOB: JobId = JobId::from_array([1; 4]);
const SECOND: Duration = Duration::from_secs(1);

fn set(units: &[(&str, f64)]) -> ResourceSet {
    ResourceSet::from_units(units.iter().map(|(name, amount)| ((*name).to_owned(), *amount))).unwrap()
}

fn node(number: u8, units: &[(&str, f64)], labels: &[(&str, &str)]) -> Candidate {
    let labels: Labels = labels
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    Candidate {
        node: NodeId::from_array([number; 16]),
        labels: Arc::new(labels),
        total: set(units),
        available: set(&[]),
        queued_leases: 0,
        actors: 0,
    }
}

fn shape(units: &[(&str, f64)]) -> Shape {
    Shape {
        needs: set(units),
        strategy: SchedulingStrategy::Default,
        cause: String::new(),
    }
}

fn waiting(kind: Kind, name: &str, shape: Shape, count: u32) -> Waiting {
    Waiting {
        job: JOB,
        shape,
        kind,
        name: name.to_owned(),
        count,
    }
}

fn task(name: &str, cpus: f64) -> Waiting {
    waiting(Kind::Task, name, shape(&[("CPU", cpus)]), 1)
}

/// What a look tells the job, if anything.
fn told(
    infeasible: &mut Infeasible,
    now: Instant,
    waiting: &[Waiting],
    view: &[Candidate],
) -> Option<InfeasibleDemand> {
    let mut messages = infeasible.look(now, waiting.to_vec(), view);
    assert!(messages.len() <= 1);
    messages.pop().map(|(job, message)| {
        assert_eq!(job, JOB);
        message
    })
}

fn waiters(shape: &InfeasibleShape) -> Vec<(&str, &str, u32)> {
    let waiters = shape.waiters.iter();
    waiters
        .map(|waiter| (waiter.kind.as_str(), waiter.name.as_str(), waiter.count))
        .collect()
}

#[test]
fn one_shape_is_told_once_with_all_who_wait_for_it_and_again_after_a_while() {
    let (mut infeasible, start) = (Infeasible::default(), Instant::now());
    let view = [
        node(1, &[("CPU", 4.0), ("node:1.2.3.4", 1.0)], &[]),
        node(2, &[("CPU", 2.0)], &[]),
    ];
    let all = [
        task("train", 64.0),
        task("train", 64.0),
        waiting(Kind::Actor, "Trainer", shape(&[("CPU", 64.0)]), 3),
        task("fits", 4.0),
    ];
    assert_eq!(
        told(&mut infeasible, start, &all, &view),
        None,
        "nodes may be joining"
    );
    let first = start + PATIENCE;
    let message = told(&mut infeasible, first, &all, &view).unwrap();
    assert_eq!(message.shapes.len(), 1);
    let told_shape = &message.shapes[0];
    assert_eq!(
        waiters(told_shape),
        [("task", "train", 2), ("actor", "Trainer", 3)]
    );
    assert_eq!(told_shape.resources.as_ref().unwrap().units["CPU"], 64.0);
    assert_eq!(
        (
            told_shape.label_selector.as_str(),
            told_shape.others,
            message.left_out
        ),
        ("", 0, 0)
    );
    assert_eq!(
        message.total.unwrap().units,
        HashMap::from([("CPU".to_owned(), 6.0)])
    );
    assert_eq!(message.largest.unwrap().units["CPU"], 4.0);
    assert!(message.labels.is_empty());

    assert_eq!(told(&mut infeasible, first + 29 * SECOND, &all, &view), None);
    assert!(told(&mut infeasible, first + AGAIN_AFTER, &all, &view).is_some());
    assert_eq!(
        told(&mut infeasible, first + AGAIN_AFTER + SECOND, &all, &view),
        None
    );
}

#[test]
fn what_a_node_can_meet_again_or_waits_no_more_is_forgotten() {
    let (mut infeasible, start) = (Infeasible::default(), Instant::now());
    let small = [node(1, &[("CPU", 1.0)], &[])];
    let grown = [node(1, &[("CPU", 1.0)], &[]), node(2, &[("CPU", 8.0)], &[])];
    let all = [task("large", 8.0)];
    told(&mut infeasible, start, &all, &small);
    assert!(told(&mut infeasible, start + PATIENCE, &all, &small).is_some());
    let later = start + PATIENCE + AGAIN_AFTER;
    assert_eq!(told(&mut infeasible, later, &all, &grown), None);
    assert_eq!(
        told(&mut infeasible, later + SECOND, &all, &small),
        None,
        "it begins anew"
    );
    assert!(told(&mut infeasible, later + SECOND + PATIENCE, &all, &small).is_some());
    assert_eq!(told(&mut infeasible, later + 2 * AGAIN_AFTER, &[], &small), None);
    assert!(infeasible.jobs.is_empty(), "{infeasible:?}");
}

#[test]
fn resources_that_no_single_node_has_together_are_told_too() {
    let (mut infeasible, start) = (Infeasible::default(), Instant::now());
    let view = [node(1, &[("CPU", 4.0)], &[]), node(2, &[("slot", 1.0)], &[])];
    let all = [waiting(
        Kind::Task,
        "both",
        shape(&[("CPU", 1.0), ("slot", 1.0)]),
        1,
    )];
    told(&mut infeasible, start, &all, &view);
    assert!(told(&mut infeasible, start + PATIENCE, &all, &view).is_some());
}

#[test]
fn labels_that_no_node_has_are_told_with_those_that_there_are() {
    let (mut infeasible, start) = (Infeasible::default(), Instant::now());
    let view = [node(1, &[("CPU", 4.0)], &[("zone", "a"), (NODE_ID_LABEL, "01")])];
    let hard = LabelSelector::new(vec![LabelConstraint {
        key: "zone".to_owned(),
        operator: LabelOperator::In(BTreeSet::from(["b".to_owned()])),
    }]);
    let labelled = Shape {
        needs: set(&[("CPU", 1.0)]),
        strategy: SchedulingStrategy::NodeLabels {
            hard,
            soft: LabelSelector::default(),
        },
        cause: String::new(),
    };
    let all = [waiting(Kind::Task, "f", labelled, 1)];
    told(&mut infeasible, start, &all, &view);
    let message = told(&mut infeasible, start + PATIENCE, &all, &view).unwrap();
    assert_eq!(message.labels, ["zone=a"]);
    assert_eq!(message.shapes[0].label_selector, "{zone: in(b)}");
}

#[test]
fn a_flood_of_shapes_and_names_is_counted_and_takes_turns() {
    let (mut infeasible, start) = (Infeasible::default(), Instant::now());
    let view = [node(1, &[("CPU", 1.0)], &[])];
    let count = MAX_SHAPES + 5;
    let shapes: Vec<Waiting> = (0..count).map(|number| task("f", 10.0 + number as f64)).collect();
    told(&mut infeasible, start, &shapes, &view);
    let first = start + PATIENCE;
    let message = told(&mut infeasible, first, &shapes, &view).unwrap();
    assert_eq!((message.shapes.len(), message.left_out), (MAX_SHAPES, 5));
    assert_eq!(
        told(&mut infeasible, first + SECOND, &shapes, &view),
        None,
        "no more of them for a while"
    );
    let again = told(&mut infeasible, first + AGAIN_AFTER, &shapes, &view).unwrap();
    assert_eq!((again.shapes.len(), again.left_out), (MAX_SHAPES, 5));
    let new = again
        .shapes
        .iter()
        .filter(|shape| !message.shapes.contains(shape));
    assert_eq!(new.count(), 5, "those that were left out come first");

    let names: Vec<Waiting> = (0..MAX_NAMES + 2)
        .map(|number| task(&format!("f{number:02}"), 9.0))
        .collect();
    let mut infeasible = Infeasible::default();
    told(&mut infeasible, start, &names, &view);
    let message = told(&mut infeasible, first, &names, &view).unwrap();
    assert_eq!(
        (message.shapes[0].waiters.len(), message.shapes[0].others),
        (MAX_NAMES, 2)
    );
}
