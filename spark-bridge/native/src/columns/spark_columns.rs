//! How the columns of a block become columns of a DataFrame.
//!
//! It is decided once for each block, from its schema: Spark's type of every column, and the steps from Arrow's values
//! to values that Spark's `ArrowColumnVector` reads. A column whose layout Spark takes as it is has no steps and stays in
//! place.
//!
//! A step keeps every value or fails with the column's name: nothing is rounded, cut off or made null without a word.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowPrimitiveType, Date32Type, Date64Type, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType,
};
use arrow_array::{Array, ArrayRef, PrimitiveArray, RecordBatch, new_null_array};
use arrow_cast::{CastOptions, cast_with_options};
use arrow_schema::{ArrowError, DataType, Field, Schema, TimeUnit};

use super::extension_types::{extension_name, not_zero, plan_extension, uuid_text};
use super::field_metadata::from_arrow_field;
use super::widening::{long_to_double, widening};
use super::{ColumnError, SparkField, SparkSchema, SparkType};

const MILLIS_PER_DAY: i64 = 86_400_000;
/// Java addresses the bytes of a column by signed 32-bit offsets.
const MAX_COLUMN_BYTES: usize = i32::MAX as usize;
const MAX_PRECISION: u8 = 38;

/// What has to be done to a column before Spark's `ArrowColumnVector` takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Arrow's cast, which refuses values that do not fit.
    Cast(DataType),
    /// Timestamps of another unit, and Date64: never by truncation towards zero.
    ToMicroseconds(TimeUnit),
    ToDays,
    UuidText,
    NotZero,
    /// A column of nulls in a DataFrame whose other blocks have values there.
    OnlyNulls(DataType),
    LongToDouble,
}

#[derive(Debug, Clone)]
struct ColumnPlan {
    field: SparkField,
    arrow_type: DataType,
    steps: Vec<Step>,
}

/// How the columns of a block become columns of a DataFrame. Columns that Spark takes as they are stay in place.
#[derive(Debug, Clone)]
pub(crate) struct SparkColumns {
    columns: Vec<ColumnPlan>,
}

impl SparkColumns {
    /// Decides for a block's schema; names the first column that Spark cannot hold.
    pub(crate) fn new(schema: &Schema) -> Result<Self, ColumnError> {
        let columns = schema
            .fields()
            .iter()
            .map(|field| plan_column(field))
            .collect::<Result<_, _>>()?;
        Ok(Self { columns })
    }

    /// The DataFrame's schema.
    pub(crate) fn spark_schema(&self) -> SparkSchema {
        SparkSchema {
            fields: self.columns.iter().map(|column| column.field.clone()).collect(),
        }
    }

    /// Makes the columns those that the DataFrame was promised, whose types may be wider than this block's.
    pub(crate) fn fit_to(&mut self, expected: &SparkSchema, block: &str) -> Result<(), ColumnError> {
        if self.columns.len() != expected.fields.len() {
            return Err(ColumnError::SchemaMismatch(format!(
                "{block} has {} columns, the first block has {}",
                self.columns.len(),
                expected.fields.len()
            )));
        }
        for (index, (column, wanted)) in self.columns.iter_mut().zip(&expected.fields).enumerate() {
            let field = &column.field;
            if field.name != wanted.name {
                return Err(ColumnError::SchemaMismatch(format!(
                    "column {index} of {block} is named '{}', in the first block '{}'",
                    field.name, wanted.name
                )));
            }
            let Some(steps) = widening(field.spark_type, wanted.spark_type) else {
                return Err(ColumnError::SchemaMismatch(format!(
                    "column '{}' of {block} has the type {}, which is no {}",
                    field.name, field.spark_type, wanted.spark_type
                )));
            };
            column.steps.extend(steps);
            column.field.spark_type = wanted.spark_type;
        }
        Ok(())
    }

    /// The named columns of `batch`, in that order, as Spark takes them; more than one batch where a column of
    /// large strings does not fit into one of Java's. `promised` is the DataFrame's schema: a null where it
    /// promises none is an error.
    pub(crate) fn convert(
        &self,
        batch: &RecordBatch,
        projection: &[usize],
        promised: &SparkSchema,
    ) -> Result<Vec<(usize, Vec<ArrayRef>)>, ColumnError> {
        let mut converted = Vec::new();
        let mut pending = vec![batch.clone()];
        while let Some(part) = pending.pop() {
            if part.num_rows() > 1 && projection.iter().any(|index| is_too_large(part.column(*index))) {
                let half = part.num_rows() / 2;
                pending.push(part.slice(half, part.num_rows() - half));
                pending.push(part.slice(0, half));
                continue;
            }
            let mut arrays = Vec::with_capacity(projection.len());
            for index in projection {
                let column = &self.columns[*index];
                let array = column.apply(part.column(*index))?;
                if !promised.fields[*index].nullable && array.logical_null_count() > 0 {
                    return Err(ColumnError::UnexpectedNull(column.field.name.clone()));
                }
                arrays.push(array);
            }
            converted.push((part.num_rows(), arrays));
        }
        Ok(converted)
    }
}

impl ColumnPlan {
    fn apply(&self, array: &ArrayRef) -> Result<ArrayRef, ColumnError> {
        let mut array = Arc::clone(array);
        for step in &self.steps {
            array = step.apply(&array).map_err(|error| ColumnError::DoesNotFit {
                column: self.field.name.clone(),
                type_name: self.arrow_type.to_string(),
                target: self.field.spark_type.to_string(),
                problem: error.to_string(),
            })?;
        }
        Ok(array)
    }
}

impl Step {
    fn apply(&self, array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
        match self {
            Self::Cast(target) => cast_with_options(
                array,
                target,
                &CastOptions {
                    safe: false,
                    ..CastOptions::default()
                },
            ),
            Self::ToMicroseconds(TimeUnit::Second) => {
                multiply(array.as_primitive::<TimestampSecondType>(), 1_000_000)
            }
            Self::ToMicroseconds(TimeUnit::Millisecond) => {
                multiply(array.as_primitive::<TimestampMillisecondType>(), 1_000)
            }
            Self::ToMicroseconds(_) => {
                let nanos = array.as_primitive::<TimestampNanosecondType>();
                let micros: PrimitiveArray<TimestampMicrosecondType> =
                    nanos.try_unary(|value| match value.rem_euclid(1_000) {
                        0 => Ok(value / 1_000),
                        _ => Err(ArrowError::ComputeError(format!(
                            "{value} ns is not a whole number of microseconds, which are what Spark keeps; round it, \
                             for example by pyarrow.compute.floor_temporal(column, unit='microsecond')"
                        ))),
                    })?;
                Ok(Arc::new(micros))
            }
            Self::ToDays => {
                let millis = array.as_primitive::<Date64Type>();
                let days: PrimitiveArray<Date32Type> = millis.try_unary(|value| {
                    i32::try_from(value.div_euclid(MILLIS_PER_DAY))
                        .map_err(|_| ArrowError::ComputeError(format!("{value} ms are out of range")))
                })?;
                Ok(Arc::new(days))
            }
            Self::UuidText => Ok(uuid_text(array)),
            Self::NotZero => Ok(not_zero(array)),
            Self::OnlyNulls(target) => Ok(new_null_array(target, array.len())),
            Self::LongToDouble => long_to_double(array),
        }
    }
}

/// Coarser timestamps to microseconds; refuses what does not fit.
fn multiply<T>(array: &PrimitiveArray<T>, factor: i64) -> Result<ArrayRef, ArrowError>
where
    T: ArrowPrimitiveType<Native = i64>,
{
    let micros: PrimitiveArray<TimestampMicrosecondType> = array.try_unary(|value| {
        value
            .checked_mul(factor)
            .ok_or_else(|| ArrowError::ComputeError(format!("{value} times {factor} is out of range")))
    })?;
    Ok(Arc::new(micros))
}

/// Whether a column's bytes may be more than 32-bit offsets address.
fn is_too_large(array: &ArrayRef) -> bool {
    match array.data_type() {
        DataType::LargeBinary => {
            let offsets = array.as_binary::<i64>().value_offsets();
            let bytes = offsets
                .last()
                .zip(offsets.first())
                .map_or(0, |(last, first)| last - first);
            usize::try_from(bytes).is_ok_and(|bytes| bytes > MAX_COLUMN_BYTES)
        }
        DataType::BinaryView => {
            let bytes: usize = array.as_binary_view().lengths().map(|len| len as usize).sum();
            bytes > MAX_COLUMN_BYTES
        }
        _ => false,
    }
}

fn plan_column(field: &Field) -> Result<ColumnPlan, ColumnError> {
    let storage = field.data_type();
    let extension = extension_name(field);
    let plan = match extension {
        Some(name) => plan_extension(name, storage),
        None => plan_type(storage),
    };
    let (spark_type, steps) = plan.ok_or_else(|| ColumnError::UnsupportedType {
        column: field.name().clone(),
        type_name: extension.map_or_else(
            || storage.to_string(),
            |name| format!("extension<{name}> over {storage}"),
        ),
        direction: "read by Spark",
    })?;
    let spark_field = SparkField {
        name: field.name().clone(),
        spark_type,
        nullable: field.is_nullable(),
        metadata: from_arrow_field(field, spark_type),
    };
    Ok(ColumnPlan {
        field: spark_field,
        arrow_type: field.data_type().clone(),
        steps,
    })
}

/// Spark's type for an Arrow type and what has to be done to its values; `None` when there is none.
pub(super) fn plan_type(arrow_type: &DataType) -> Option<(SparkType, Vec<Step>)> {
    let as_is = |spark_type: SparkType| Some((spark_type, Vec::new()));
    let cast = |spark_type: SparkType| Some((spark_type, vec![Step::Cast(spark_type.storage_type())]));
    match arrow_type {
        DataType::Null => as_is(SparkType::Void),
        DataType::Boolean => as_is(SparkType::Boolean),
        DataType::Int8 => as_is(SparkType::Byte),
        DataType::Int16 => as_is(SparkType::Short),
        DataType::Int32 => as_is(SparkType::Integer),
        DataType::Int64 => as_is(SparkType::Long),
        DataType::Float32 => as_is(SparkType::Float),
        DataType::Float64 => as_is(SparkType::Double),
        DataType::Utf8 => as_is(SparkType::String),
        DataType::Binary => as_is(SparkType::Binary),
        DataType::Date32 => as_is(SparkType::Date),
        // Spark has no unsigned integers: the next wider type holds every value.
        DataType::UInt8 => cast(SparkType::Short),
        DataType::UInt16 => cast(SparkType::Integer),
        DataType::UInt32 => cast(SparkType::Long),
        DataType::UInt64 => cast(SparkType::Decimal {
            precision: 20,
            scale: 0,
        }),
        DataType::Float16 => cast(SparkType::Float),
        DataType::LargeUtf8 | DataType::Utf8View => cast(SparkType::String),
        DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            cast(SparkType::Binary)
        }
        DataType::Date64 => Some((SparkType::Date, vec![Step::ToDays])),
        DataType::Timestamp(unit, zone) => {
            let spark_type = if zone.is_some() {
                SparkType::Timestamp
            } else {
                SparkType::TimestampNtz
            };
            match unit {
                TimeUnit::Microsecond => as_is(spark_type),
                other => Some((spark_type, vec![Step::ToMicroseconds(*other)])),
            }
        }
        DataType::Decimal128(precision, scale) => {
            let spark_type = spark_decimal(*precision, *scale)?;
            if spark_type.arrow_type() == *arrow_type {
                as_is(spark_type)
            } else {
                cast(spark_type)
            }
        }
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal256(precision, scale) => cast(spark_decimal(*precision, *scale)?),
        DataType::Dictionary(_, values) => {
            let (spark_type, steps) = plan_type(values)?;
            let mut all = vec![Step::Cast(super::ipc_read::storage_type(values))];
            all.extend(steps);
            Some((spark_type, all))
        }
        _ => None,
    }
}

/// Spark's decimal with every digit of Arrow's: its scale is neither negative nor above its precision.
fn spark_decimal(precision: u8, scale: i8) -> Option<SparkType> {
    let (precision, scale) = match u8::try_from(scale) {
        Ok(scale) => (precision.max(scale), scale),
        Err(_) => (precision.checked_add(scale.unsigned_abs())?, 0),
    };
    (precision <= MAX_PRECISION).then_some(SparkType::Decimal { precision, scale })
}
