//! Scheduling strategies: the message and the domain type.

use sparkray_common::{
    BundleChoice, LabelConstraint, LabelOperator as Operator, LabelSelector, NodeId, PlacementGroupId,
    SchedulingStrategy,
};

use crate::MessageError;
use crate::generated::scheduling_strategy::Strategy;
use crate::generated::{
    BundleChoice as ChoiceMessage, Empty, LabelConstraint as ConstraintMessage, LabelOperator, NodeAffinity,
    NodeLabels, SchedulingStrategy as StrategyMessage,
};

impl From<&SchedulingStrategy> for StrategyMessage {
    fn from(strategy: &SchedulingStrategy) -> Self {
        let strategy = match strategy {
            SchedulingStrategy::Default => None,
            SchedulingStrategy::Spread => Some(Strategy::Spread(Empty {})),
            SchedulingStrategy::NodeAffinity { node, soft } => Some(Strategy::NodeAffinity(NodeAffinity {
                node_id: node.to_vec().into(),
                soft: *soft,
            })),
            SchedulingStrategy::NodeLabels { hard, soft } => Some(Strategy::NodeLabels(NodeLabels {
                hard: constraints_of(hard),
                soft: constraints_of(soft),
            })),
            SchedulingStrategy::Bundle(choice) => Some(Strategy::Bundle(choice.into())),
        };
        Self { strategy }
    }
}

impl TryFrom<&StrategyMessage> for SchedulingStrategy {
    type Error = MessageError;

    fn try_from(message: &StrategyMessage) -> Result<Self, MessageError> {
        Ok(match &message.strategy {
            None => Self::Default,
            Some(Strategy::Spread(Empty {})) => Self::Spread,
            Some(Strategy::NodeAffinity(affinity)) => Self::NodeAffinity {
                node: NodeId::from_slice(&affinity.node_id)?,
                soft: affinity.soft,
            },
            Some(Strategy::NodeLabels(labels)) => Self::NodeLabels {
                hard: selector_of(&labels.hard),
                soft: selector_of(&labels.soft),
            },
            Some(Strategy::Bundle(choice)) => Self::Bundle(choice.try_into()?),
        })
    }
}

impl From<&BundleChoice> for ChoiceMessage {
    fn from(choice: &BundleChoice) -> Self {
        Self {
            placement_group_id: choice.group.to_vec().into(),
            index: choice.index,
            captures_child_tasks: choice.captures_child_tasks,
        }
    }
}

impl TryFrom<&ChoiceMessage> for BundleChoice {
    type Error = MessageError;

    fn try_from(message: &ChoiceMessage) -> Result<Self, MessageError> {
        Ok(Self {
            group: PlacementGroupId::from_slice(&message.placement_group_id)?,
            index: message.index,
            captures_child_tasks: message.captures_child_tasks,
        })
    }
}

impl StrategyMessage {
    /// The strategy of a message's field: without one the default.
    pub fn read(field: Option<&Self>) -> Result<SchedulingStrategy, MessageError> {
        field.map_or(Ok(SchedulingStrategy::Default), TryFrom::try_from)
    }
}

fn constraints_of(selector: &LabelSelector) -> Vec<ConstraintMessage> {
    let message = |constraint: &LabelConstraint| {
        let (operator, values) = match &constraint.operator {
            Operator::In(values) => (LabelOperator::In, values.iter().cloned().collect()),
            Operator::NotIn(values) => (LabelOperator::NotIn, values.iter().cloned().collect()),
            Operator::Exists => (LabelOperator::Exists, Vec::new()),
            Operator::DoesNotExist => (LabelOperator::DoesNotExist, Vec::new()),
        };
        ConstraintMessage {
            key: constraint.key.clone(),
            operator: operator.into(),
            values,
        }
    };
    selector.constraints().iter().map(message).collect()
}

fn selector_of(messages: &[ConstraintMessage]) -> LabelSelector {
    let constraint = |message: &ConstraintMessage| {
        let values = message.values.iter().cloned().collect();
        LabelConstraint {
            key: message.key.clone(),
            operator: match message.operator() {
                LabelOperator::In => Operator::In(values),
                LabelOperator::NotIn => Operator::NotIn(values),
                LabelOperator::Exists => Operator::Exists,
                LabelOperator::DoesNotExist => Operator::DoesNotExist,
            },
        }
    };
    LabelSelector::new(messages.iter().map(constraint).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_strategy_comes_back_from_its_message() {
        let selector = |key: &str, operator| {
            LabelSelector::new(vec![LabelConstraint {
                key: key.to_owned(),
                operator,
            }])
        };
        let values = || ["x".to_owned(), "y".to_owned()].into();
        let strategies = [
            SchedulingStrategy::Default,
            SchedulingStrategy::Spread,
            SchedulingStrategy::only_on(NodeId::random()),
            SchedulingStrategy::NodeAffinity {
                node: NodeId::random(),
                soft: true,
            },
            SchedulingStrategy::NodeLabels {
                hard: selector("a", Operator::In(values())),
                soft: selector("b", Operator::NotIn(values())),
            },
            SchedulingStrategy::NodeLabels {
                hard: selector("a", Operator::Exists),
                soft: selector("b", Operator::DoesNotExist),
            },
            SchedulingStrategy::Bundle(BundleChoice {
                group: PlacementGroupId::random(),
                index: Some(0),
                captures_child_tasks: true,
            }),
            SchedulingStrategy::Bundle(BundleChoice {
                group: PlacementGroupId::random(),
                index: None,
                captures_child_tasks: false,
            }),
        ];
        for strategy in strategies {
            let message = StrategyMessage::from(&strategy);
            assert_eq!(SchedulingStrategy::try_from(&message).unwrap(), strategy);
        }
        assert_eq!(StrategyMessage::read(None).unwrap(), SchedulingStrategy::Default);
    }
}
