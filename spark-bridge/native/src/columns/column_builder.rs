//! One column in the making: takes a field of every staged row and gives an Arrow array.
//!
//! Values are kept in Arrow's layout from the start, so that the array takes the memory over without a copy. A null
//! keeps its place with a value of 0. What a row says is checked where it could lead out of its bytes, and nowhere else.

use std::ops::Range;
use std::sync::Arc;

use arrow_array::types::{
    ArrowPrimitiveType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type, TimestampMicrosecondType,
};
use arrow_array::{ArrayRef, BinaryArray, BooleanArray, PrimitiveArray};
use arrow_buffer::{BooleanBufferBuilder, Buffer, NullBuffer, NullBufferBuilder, OffsetBuffer, ScalarBuffer};

use super::reserve::reserve;
use super::staged_columns::StagedColumn;
use super::{ColumnError, SparkField, SparkType, StagedRows};

/// Precision up to which Spark keeps a decimal in the eight bytes of its field.
const MAX_LONG_DIGITS: u8 = 18;

enum Values {
    Boolean(BooleanBufferBuilder),
    Byte(Vec<i8>),
    Short(Vec<i16>),
    Integer(Vec<i32>),
    Long(Vec<i64>),
    Float(Vec<f32>),
    Double(Vec<f64>),
    Decimal(Vec<i128>),
    Variable { offsets: Vec<i32>, data: Vec<u8> },
}

/// Collects one column of staged rows.
pub(super) struct ColumnBuilder {
    field: SparkField,
    index: usize,
    nulls: NullBufferBuilder,
    values: Values,
}

impl ColumnBuilder {
    pub(super) fn new(index: usize, field: SparkField) -> Result<Self, ColumnError> {
        let values = match field.spark_type {
            SparkType::Boolean => Values::Boolean(BooleanBufferBuilder::new(0)),
            SparkType::Byte => Values::Byte(Vec::new()),
            SparkType::Short => Values::Short(Vec::new()),
            SparkType::Integer | SparkType::Date => Values::Integer(Vec::new()),
            SparkType::Long | SparkType::Timestamp | SparkType::TimestampNtz => Values::Long(Vec::new()),
            SparkType::Float => Values::Float(Vec::new()),
            SparkType::Double => Values::Double(Vec::new()),
            SparkType::Decimal { .. } => Values::Decimal(Vec::new()),
            SparkType::String | SparkType::Binary => Values::Variable {
                offsets: vec![0],
                data: Vec::new(),
            },
            SparkType::Void => {
                return Err(ColumnError::UnsupportedType {
                    column: field.name,
                    type_name: "void".to_owned(),
                    direction: "put into the object store",
                });
            }
        };
        Ok(Self {
            field,
            index,
            nulls: NullBufferBuilder::new(0),
            values,
        })
    }

    /// Whether its values have a variable length.
    pub(super) fn is_variable(&self) -> bool {
        matches!(self.values, Values::Variable { .. })
    }

    /// Whether its values are wider in Arrow than in a row.
    pub(super) fn is_decimal(&self) -> bool {
        matches!(self.values, Values::Decimal(_))
    }

    /// Bits that one row needs at least: validity, value or offset.
    pub(super) fn bits_per_row(&self) -> usize {
        1 + match &self.values {
            Values::Boolean(_) => 1,
            Values::Byte(_) => 8,
            Values::Short(_) => 16,
            Values::Integer(_) | Values::Float(_) | Values::Variable { .. } => 32,
            Values::Long(_) | Values::Double(_) => 64,
            Values::Decimal(_) => 128,
        }
    }

    /// Bytes of variable parts collected so far.
    pub(super) fn variable_bytes(&self) -> usize {
        match &self.values {
            Values::Variable { data, .. } => data.len(),
            _ => 0,
        }
    }

    /// Takes memory for a block of `rows` rows with `variable_bytes` of variable parts.
    pub(super) fn reserve(&mut self, rows: usize, variable_bytes: usize) {
        match &mut self.values {
            // A bit for each row.
            Values::Boolean(_) => {}
            Values::Byte(values) => reserve(values, rows),
            Values::Short(values) => reserve(values, rows),
            Values::Integer(values) => reserve(values, rows),
            Values::Long(values) => reserve(values, rows),
            Values::Float(values) => reserve(values, rows),
            Values::Double(values) => reserve(values, rows),
            Values::Decimal(values) => reserve(values, rows),
            Values::Variable { offsets, data } => {
                reserve(offsets, rows);
                reserve(data, variable_bytes);
            }
        }
    }

    /// Adds this column's field of each row.
    pub(super) fn append(&mut self, rows: &StagedRows<'_>, range: Range<usize>) -> Result<(), ColumnError> {
        let field = self.index;
        if rows.has_nulls(field) {
            for row in range.clone() {
                self.nulls.append(!rows.is_null(row, field));
            }
        } else {
            self.nulls.append_n_non_nulls(range.len());
        }
        // The word of a null field is 0: blocks are reproducible.
        let words = rows.words(range.clone(), field);
        match &mut self.values {
            Values::Boolean(values) => words.for_each(|word| values.append(word & 1 == 1)),
            Values::Byte(values) => values.extend(words.map(|word| word as i8)),
            Values::Short(values) => values.extend(words.map(|word| word as i16)),
            Values::Integer(values) => values.extend(words.map(|word| word as i32)),
            Values::Long(values) => values.extend(words.map(|word| word as i64)),
            Values::Float(values) => values.extend(words.map(|word| f32::from_bits(word as u32))),
            Values::Double(values) => values.extend(words.map(f64::from_bits)),
            Values::Decimal(values) => match self.field.spark_type {
                SparkType::Decimal { precision, .. } if precision > MAX_LONG_DIGITS => {
                    append_wide_decimals(values, rows, field, range)?;
                }
                _ => values.extend(words.map(|word| i128::from(word as i64))),
            },
            Values::Variable { offsets, data } => append_variable(offsets, data, rows, field, range)?,
        }
        Ok(())
    }

    /// Bytes of a value that is staged in a column; `None` when it has no fixed width there.
    pub(super) fn staged_width(&self) -> Option<usize> {
        match &self.values {
            Values::Boolean(_) | Values::Byte(_) => Some(1),
            Values::Short(_) => Some(2),
            Values::Integer(_) | Values::Float(_) => Some(4),
            Values::Long(_) | Values::Double(_) => Some(8),
            Values::Decimal(_) | Values::Variable { .. } => None,
        }
    }

    /// Adds these rows of a column whose values have [`Self::staged_width`].
    pub(super) fn append_column(&mut self, column: StagedColumn<'_>, range: Range<usize>) {
        match column.nulls {
            Some(nulls) => nulls[range.clone()]
                .iter()
                .for_each(|null| self.nulls.append(*null == 0)),
            None => self.nulls.append_n_non_nulls(range.len()),
        }
        let bytes = column.values;
        match &mut self.values {
            Values::Boolean(values) => bytes[range].iter().for_each(|byte| values.append(*byte != 0)),
            Values::Byte(values) => values.extend(bytes[range].iter().map(|byte| *byte as i8)),
            Values::Short(values) => values.extend(fixed(bytes, range).map(i16::from_le_bytes)),
            Values::Integer(values) => values.extend(fixed(bytes, range).map(i32::from_le_bytes)),
            Values::Long(values) => values.extend(fixed(bytes, range).map(i64::from_le_bytes)),
            Values::Float(values) => values.extend(fixed(bytes, range).map(f32::from_le_bytes)),
            Values::Double(values) => values.extend(fixed(bytes, range).map(f64::from_le_bytes)),
            Values::Decimal(_) | Values::Variable { .. } => {
                unreachable!("a batch with such a column is refused before")
            }
        }
    }

    /// The collected column; the builder is empty afterwards.
    pub(super) fn finish(&mut self) -> Result<ArrayRef, ColumnError> {
        let nulls = self.nulls.finish();
        if !self.field.nullable && nulls.as_ref().is_some_and(|nulls| nulls.null_count() > 0) {
            return Err(ColumnError::UnexpectedNull(self.field.name.clone()));
        }
        let array: ArrayRef = match &mut self.values {
            Values::Boolean(values) => Arc::new(BooleanArray::new(values.finish(), nulls)),
            Values::Byte(values) => primitive::<Int8Type>(values, nulls),
            Values::Short(values) => primitive::<Int16Type>(values, nulls),
            Values::Integer(values) if self.field.spark_type == SparkType::Date => {
                primitive::<Date32Type>(values, nulls)
            }
            Values::Integer(values) => primitive::<Int32Type>(values, nulls),
            Values::Long(values) if self.field.spark_type == SparkType::Long => {
                primitive::<Int64Type>(values, nulls)
            }
            Values::Long(values) => {
                let array = PrimitiveArray::<TimestampMicrosecondType>::new(take(values), nulls);
                Arc::new(array.with_data_type(self.field.spark_type.arrow_type()))
            }
            Values::Float(values) => primitive::<Float32Type>(values, nulls),
            Values::Double(values) => primitive::<Float64Type>(values, nulls),
            Values::Decimal(values) => {
                let array = PrimitiveArray::<Decimal128Type>::new(take(values), nulls);
                Arc::new(array.with_data_type(self.field.spark_type.arrow_type()))
            }
            Values::Variable { offsets, data } => {
                let offsets = OffsetBuffer::new(ScalarBuffer::from(std::mem::replace(offsets, vec![0])));
                let values = Buffer::from_vec(std::mem::take(data));
                let array = BinaryArray::try_new(offsets, values, nulls)
                    .map_err(|error| ColumnError::Encode(error.to_string()))?;
                Arc::new(array)
            }
        };
        Ok(array)
    }
}

fn take<T: arrow_buffer::ArrowNativeType>(values: &mut Vec<T>) -> ScalarBuffer<T> {
    ScalarBuffer::from(std::mem::take(values))
}

fn primitive<T: ArrowPrimitiveType>(values: &mut Vec<T::Native>, nulls: Option<NullBuffer>) -> ArrayRef {
    Arc::new(PrimitiveArray::<T>::new(take(values), nulls))
}

/// The values of these rows, of `WIDTH` bytes each.
fn fixed<const WIDTH: usize>(bytes: &[u8], range: Range<usize>) -> impl Iterator<Item = [u8; WIDTH]> {
    let (values, _) = bytes.as_chunks::<WIDTH>();
    values[range].iter().copied()
}

/// Decimals of more than 18 digits: the bytes of a `BigInteger`, big-endian two's complement.
fn append_wide_decimals(
    values: &mut Vec<i128>,
    rows: &StagedRows<'_>,
    field: usize,
    range: Range<usize>,
) -> Result<(), ColumnError> {
    for row in range {
        if rows.is_null(row, field) {
            values.push(0);
            continue;
        }
        let bytes = rows.variable(row, field)?;
        if bytes.is_empty() || bytes.len() > 16 {
            let problem = format!("field {field} holds a decimal of {} bytes", bytes.len());
            return Err(ColumnError::BadRow { row, problem });
        }
        let sign = if bytes[0] & 0x80 == 0 { 0 } else { 0xff };
        let mut wide = [sign; 16];
        wide[16 - bytes.len()..].copy_from_slice(bytes);
        values.push(i128::from_be_bytes(wide));
    }
    Ok(())
}

fn append_variable(
    offsets: &mut Vec<i32>,
    data: &mut Vec<u8>,
    rows: &StagedRows<'_>,
    field: usize,
    range: Range<usize>,
) -> Result<(), ColumnError> {
    offsets.reserve(range.len());
    for row in range {
        if !rows.is_null(row, field) {
            data.extend_from_slice(rows.variable(row, field)?);
        }
        let end = i32::try_from(data.len()).map_err(|_| {
            ColumnError::Encode(format!(
                "field {field} has more than 2 GiB of data in one block; use smaller blocks"
            ))
        })?;
        offsets.push(end);
    }
    Ok(())
}
