//! Blocks of other types than their DataFrame's: what a column of one type has to go through to become a column of
//! another one that holds all its values. What is not listed here loses something, or means something else.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type};
use arrow_array::{ArrayRef, PrimitiveArray};
use arrow_schema::{ArrowError, DataType};

use super::SparkType;
use super::spark_columns::Step;

/// The steps from one type of Spark to another; `None` where values could be lost or change their meaning.
pub(super) fn widening(from: SparkType, to: SparkType) -> Option<Vec<Step>> {
    use SparkType::{Byte, Decimal, Double, Float, Integer, Long, Short, Void};
    if from == to {
        return Some(Vec::new());
    }
    let target: DataType = to.storage_type();
    let step = match (from, to) {
        (Void, _) => Step::OnlyNulls(target),
        (Byte, Short | Integer | Long | Float | Double)
        | (Short, Integer | Long | Float | Double)
        | (Integer, Long | Double)
        | (Float, Double) => Step::Cast(target),
        // Each value is looked at: most are exact.
        (Long, Double) => Step::LongToDouble,
        (Byte | Short | Integer | Long, Decimal { precision, scale }) => {
            (precision >= scale + integer_digits(from)?).then_some(Step::Cast(target))?
        }
        (
            Decimal { precision, scale },
            Decimal {
                precision: wider,
                scale: finer,
            },
        ) => {
            let holds_all = finer >= scale && wider - finer >= precision.saturating_sub(scale);
            holds_all.then_some(Step::Cast(target))?
        }
        _ => return None,
    };
    Some(vec![step])
}

/// Decimal digits of the largest value.
fn integer_digits(integer: SparkType) -> Option<u8> {
    match integer {
        SparkType::Byte => Some(3),
        SparkType::Short => Some(5),
        SparkType::Integer => Some(10),
        SparkType::Long => Some(19),
        _ => None,
    }
}

/// Refuses integers that a double cannot hold.
pub(super) fn long_to_double(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let doubles: PrimitiveArray<Float64Type> = array.as_primitive::<Int64Type>().try_unary(|value| {
        let double = value as f64;
        if double as i128 == i128::from(value) {
            Ok(double)
        } else {
            Err(ArrowError::ComputeError(format!(
                "{value} is not exact as a double, which other blocks have in this column; cast them to one type"
            )))
        }
    })?;
    Ok(Arc::new(doubles))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decimal(precision: u8, scale: u8) -> SparkType {
        SparkType::Decimal { precision, scale }
    }

    #[test]
    fn what_could_lose_values_is_no_widening() {
        for (from, to) in [
            (SparkType::Long, SparkType::Integer),
            (SparkType::Integer, SparkType::Float),
            (SparkType::Long, SparkType::Float),
            (SparkType::Double, SparkType::Float),
            (SparkType::Double, SparkType::Long),
            (SparkType::Long, decimal(20, 2)),
            (decimal(4, 2), decimal(4, 3)),
            (decimal(4, 2), decimal(10, 1)),
            (decimal(4, 2), SparkType::Double),
            (SparkType::String, SparkType::Binary),
            (SparkType::Boolean, SparkType::Byte),
            (SparkType::Date, SparkType::Timestamp),
            (SparkType::TimestampNtz, SparkType::Timestamp),
            (SparkType::String, SparkType::Void),
        ] {
            assert_eq!(widening(from, to), None, "{from} to {to}");
        }
    }

    #[test]
    fn what_holds_every_value_is_one() {
        for (from, to) in [
            (SparkType::Void, SparkType::String),
            (SparkType::Byte, SparkType::Float),
            (SparkType::Integer, SparkType::Double),
            (SparkType::Long, decimal(21, 2)),
            (decimal(2, 1), decimal(4, 2)),
            (decimal(38, 0), decimal(38, 0)),
        ] {
            assert!(widening(from, to).is_some(), "{from} to {to}");
        }
    }
}
