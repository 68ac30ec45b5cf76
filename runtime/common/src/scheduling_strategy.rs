//! Where a task or an actor may run, as its user wants it.

use std::collections::{BTreeSet, HashMap};

use crate::{BundleChoice, NodeId, ResourceSet};

/// Names and values of a node.
pub type Labels = HashMap<String, String>;

/// The default label of every node: its id in hexadecimal.
pub const NODE_ID_LABEL: &str = "ray.io/node-id";

/// Ray's scheduling strategies.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub enum SchedulingStrategy {
    /// Near the caller and the arguments while there is room, then where there is most.
    #[default]
    Default,
    /// On one node after the other.
    Spread,
    /// On this node. `soft`: elsewhere when it is dead or can never have room.
    NodeAffinity {
        /// The node.
        node: NodeId,
        /// Other nodes may be used.
        soft: bool,
    },
    /// On nodes with labels.
    NodeLabels {
        /// A node must meet all of it.
        hard: LabelSelector,
        /// Nodes that meet this too come first.
        soft: LabelSelector,
    },
    /// In a bundle of a placement group.
    Bundle(BundleChoice),
}

impl SchedulingStrategy {
    /// Only on this node.
    pub const fn only_on(node: NodeId) -> Self {
        Self::NodeAffinity { node, soft: false }
    }

    /// What a node must have, so that `amounts` are met there. In bundles resources have names of their own, so that only
    /// nodes that hold the bundle have them.
    #[must_use]
    pub fn demand(&self, amounts: ResourceSet) -> ResourceSet {
        match self {
            Self::Bundle(choice) => choice.request(&amounts),
            Self::Default | Self::Spread | Self::NodeAffinity { .. } | Self::NodeLabels { .. } => amounts,
        }
    }

    /// The bundles that it may be in.
    pub fn bundle(&self) -> Option<BundleChoice> {
        match self {
            Self::Bundle(choice) => Some(*choice),
            Self::Default | Self::Spread | Self::NodeAffinity { .. } | Self::NodeLabels { .. } => None,
        }
    }

    /// Whether a node may be used. Of a bundle's node the names of its resources tell.
    pub fn allows(&self, node: NodeId, labels: &Labels) -> bool {
        match self {
            Self::Default | Self::Spread | Self::NodeAffinity { soft: true, .. } | Self::Bundle(_) => true,
            Self::NodeAffinity {
                node: wanted,
                soft: false,
            } => *wanted == node,
            Self::NodeLabels { hard, .. } => hard.matches(labels),
        }
    }

    /// Whether a node comes before others that may be used.
    pub fn prefers(&self, node: NodeId, labels: &Labels) -> bool {
        match self {
            Self::Default | Self::Spread | Self::Bundle(_) => true,
            Self::NodeAffinity { node: wanted, .. } => *wanted == node,
            Self::NodeLabels { soft, .. } => soft.matches(labels),
        }
    }
}

/// What the labels of a node must be: all of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct LabelSelector(Vec<LabelConstraint>);

impl LabelSelector {
    /// A selector is the same in whatever order its constraints come.
    pub fn new(mut constraints: Vec<LabelConstraint>) -> Self {
        constraints.sort();
        Self(constraints)
    }

    /// Its parts.
    pub fn constraints(&self) -> &[LabelConstraint] {
        &self.0
    }

    /// Whether a node's labels meet all of it.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|constraint| constraint.matches(labels))
    }
}

/// What one label must be.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LabelConstraint {
    /// Its name.
    pub key: String,
    /// How its value is judged.
    pub operator: LabelOperator,
}

impl LabelConstraint {
    /// A label that a node has not got meets `NotIn`, as in Ray.
    fn matches(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        match &self.operator {
            LabelOperator::In(values) => value.is_some_and(|value| values.contains(value)),
            LabelOperator::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            LabelOperator::Exists => value.is_some(),
            LabelOperator::DoesNotExist => value.is_none(),
        }
    }
}

/// How a label's value is judged.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LabelOperator {
    /// It is one of these.
    In(BTreeSet<String>),
    /// It is none of these.
    NotIn(BTreeSet<String>),
    /// There is such a label.
    Exists,
    /// There is none.
    DoesNotExist,
}

impl std::fmt::Display for SchedulingStrategy {
    /// What is asked of a node, for messages.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Default => formatter.write_str("any node"),
            Self::Spread => formatter.write_str("one node after the other"),
            Self::NodeAffinity { node, soft: false } => write!(formatter, "node {node}"),
            Self::NodeAffinity { node, soft: true } => write!(formatter, "node {node} if possible"),
            Self::NodeLabels { hard, .. } => write!(formatter, "a node with the labels {hard}"),
            Self::Bundle(choice) => choice.fmt(formatter),
        }
    }
}

impl std::fmt::Display for LabelSelector {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("{")?;
        for (index, constraint) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(formatter, "{comma}{}: {}", constraint.key, constraint.operator)?;
        }
        formatter.write_str("}")
    }
}

impl std::fmt::Display for LabelOperator {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let list = |values: &BTreeSet<String>| values.iter().cloned().collect::<Vec<_>>().join(", ");
        match self {
            Self::In(values) => write!(formatter, "in({})", list(values)),
            Self::NotIn(values) => write!(formatter, "!in({})", list(values)),
            Self::Exists => formatter.write_str("any"),
            Self::DoesNotExist => formatter.write_str("none"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BundleId, PlacementGroupId};

    fn constraint(key: &str, operator: LabelOperator) -> LabelConstraint {
        LabelConstraint {
            key: key.to_owned(),
            operator,
        }
    }

    fn values(of: &[&str]) -> BTreeSet<String> {
        of.iter().map(|value| (*value).to_owned()).collect()
    }

    #[test]
    fn operators_are_judged_as_in_ray() {
        let labels = Labels::from([("zone".to_owned(), "a".to_owned())]);
        let cases = [
            ("zone", LabelOperator::In(values(&["a", "b"])), true),
            ("zone", LabelOperator::In(values(&["b"])), false),
            ("zone", LabelOperator::NotIn(values(&["b"])), true),
            ("zone", LabelOperator::NotIn(values(&["a"])), false),
            ("zone", LabelOperator::Exists, true),
            ("zone", LabelOperator::DoesNotExist, false),
            ("gpu", LabelOperator::In(values(&["a"])), false),
            ("gpu", LabelOperator::NotIn(values(&["a"])), true),
            ("gpu", LabelOperator::Exists, false),
            ("gpu", LabelOperator::DoesNotExist, true),
        ];
        for (key, operator, expected) in cases {
            let selector = LabelSelector::new(vec![constraint(key, operator)]);
            assert_eq!(selector.matches(&labels), expected, "{selector}");
        }
        let both = LabelSelector::new(vec![
            constraint("zone", LabelOperator::Exists),
            constraint("gpu", LabelOperator::Exists),
        ]);
        assert!(!both.matches(&labels), "all of it must hold");
        assert!(LabelSelector::default().matches(&Labels::new()));
    }

    #[test]
    fn the_order_of_constraints_does_not_matter() {
        let one = constraint("a", LabelOperator::Exists);
        let other = constraint("b", LabelOperator::In(values(&["x"])));
        let selector = LabelSelector::new(vec![other.clone(), one.clone()]);
        assert_eq!(selector, LabelSelector::new(vec![one, other]));
        assert_eq!(selector.to_string(), "{a: any, b: in(x)}");
    }

    #[test]
    fn only_in_a_bundle_resources_have_other_names() {
        let amounts = || ResourceSet::from_units([("CPU".to_owned(), 1.0)]).unwrap();
        let group = PlacementGroupId::from_array([1; 16]);
        for (index, offered) in [(Some(0), true), (None, true), (Some(1), false)] {
            let choice = BundleChoice {
                group,
                index,
                captures_child_tasks: false,
            };
            let strategy = SchedulingStrategy::Bundle(choice);
            let first = BundleId { group, index: 0 }.node_resources(&amounts());
            assert_eq!(first.covers(&strategy.demand(amounts())), offered, "{strategy}");
            assert!(!amounts().covers(&strategy.demand(amounts())));
        }
        assert_eq!(SchedulingStrategy::Spread.demand(amounts()), amounts());
    }

    #[test]
    fn a_soft_strategy_allows_what_it_does_not_prefer() {
        let (wanted, other) = (NodeId::random(), NodeId::random());
        let none = Labels::new();
        let hard = SchedulingStrategy::only_on(wanted);
        assert!(hard.allows(wanted, &none) && !hard.allows(other, &none));
        let soft = SchedulingStrategy::NodeAffinity {
            node: wanted,
            soft: true,
        };
        assert!(soft.allows(other, &none) && !soft.prefers(other, &none) && soft.prefers(wanted, &none));
        let labels = SchedulingStrategy::NodeLabels {
            hard: LabelSelector::default(),
            soft: LabelSelector::new(vec![constraint("zone", LabelOperator::Exists)]),
        };
        assert!(labels.allows(other, &none) && !labels.prefers(other, &none));
    }
}
