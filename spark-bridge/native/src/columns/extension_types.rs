//! Arrow's extension types: mapped where Spark has a type of the same meaning, else refused by the column's name.
//! Never read as their storage without a word, which would be bytes for a UUID.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Int8Type;
use arrow_array::{Array, ArrayRef, BooleanArray, builder::BinaryBuilder};
use arrow_schema::{DataType, Field};

use super::SparkType;
use super::spark_columns::{Step, plan_type};

const NAME_KEY: &str = "ARROW:extension:name";

/// The name of a column's extension type.
pub(super) fn extension_name(field: &Field) -> Option<&str> {
    let name = field.metadata().get(NAME_KEY)?;
    (!name.is_empty()).then_some(name.as_str())
}

/// Spark's type for an extension type and what has to be done to its storage; `None` when there is none.
pub(super) fn plan_extension(name: &str, storage: &DataType) -> Option<(SparkType, Vec<Step>)> {
    match (name, storage) {
        ("arrow.uuid", DataType::FixedSizeBinary(16)) => Some((SparkType::String, vec![Step::UuidText])),
        ("arrow.bool8", DataType::Int8) => Some((SparkType::Boolean, vec![Step::NotZero])),
        // The storage is the text of the document.
        ("arrow.json", DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View) => plan_type(storage),
        _ => None,
    }
}

/// As RFC 9562 writes them, which is what `str(uuid.UUID(...))` gives.
pub(super) fn uuid_text(array: &ArrayRef) -> ArrayRef {
    let uuids = array.as_fixed_size_binary();
    let mut texts = BinaryBuilder::with_capacity(uuids.len(), uuids.len() * 36);
    for uuid in uuids {
        texts.append_option(uuid.map(|bytes| {
            let mut text = String::with_capacity(36);
            for (index, byte) in bytes.iter().enumerate() {
                if matches!(index, 4 | 6 | 8 | 10) {
                    text.push('-');
                }
                for digit in [byte >> 4, byte & 15] {
                    text.push(char::from(b"0123456789abcdef"[usize::from(digit)]));
                }
            }
            text
        }));
    }
    Arc::new(texts.finish())
}

/// False is zero, true is anything else.
pub(super) fn not_zero(array: &ArrayRef) -> ArrayRef {
    let numbers = array.as_primitive::<Int8Type>();
    Arc::new(
        numbers
            .iter()
            .map(|value| value.map(|value| value != 0))
            .collect::<BooleanArray>(),
    )
}
