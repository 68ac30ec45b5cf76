//! What Spark cannot take is cast, exactly or not at all.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Date32Type, Decimal128Type, Int16Type, Int32Type, TimestampMicrosecondType};
use arrow_array::{
    Array, ArrayRef, BinaryArray, Date64Array, Decimal256Array, DictionaryArray, LargeStringArray, NullArray,
    RecordBatch, StringArray, StringViewArray, Time64MicrosecondArray, TimestampMillisecondArray,
    TimestampNanosecondArray, TimestampSecondArray, UInt8Array, UInt16Array, UInt64Array,
};
use arrow_buffer::{Buffer, i256};
use arrow_ipc::writer::StreamWriter;
use sparkray_common::{ValueFormat, ValueHeader};

use super::{ColumnError, SparkColumns, SparkType, StreamBatches};

fn value_of(batches: &[RecordBatch]) -> Buffer {
    let mut body = Vec::new();
    let mut writer = StreamWriter::try_new(&mut body, &batches[0].schema()).unwrap();
    for batch in batches {
        writer.write(batch).unwrap();
    }
    writer.finish().unwrap();
    Buffer::from_vec(ValueHeader::encode(ValueFormat::Arrow, &body))
}

fn batch_of(array: ArrayRef) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable([("c", array, true)]).unwrap()
}

/// The column as Spark would get it.
fn spark_column(array: ArrayRef) -> Result<(SparkType, ArrayRef), ColumnError> {
    let mut stream = StreamBatches::open(value_of(&[batch_of(array)]))?;
    let columns = SparkColumns::new(stream.schema())?;
    let schema = columns.spark_schema();
    let batch = stream.next_batch()?.expect("one batch was written");
    let mut converted = columns.convert(&batch, &[0], &schema)?;
    assert_eq!(converted.len(), 1);
    Ok((schema.fields[0].spark_type, converted.remove(0).1.remove(0)))
}

fn strings(array: &ArrayRef) -> Vec<Option<Vec<u8>>> {
    array
        .as_binary::<i32>()
        .iter()
        .map(|value| value.map(<[u8]>::to_vec))
        .collect()
}

#[test]
fn strings_of_every_layout_become_spark_strings() {
    let values = [
        Some("a"),
        None,
        Some(""),
        Some("a long string that is not inlined in a view"),
    ];
    let wanted: Vec<Option<Vec<u8>>> = values
        .iter()
        .map(|value| value.map(|text| text.as_bytes().to_vec()))
        .collect();
    let dictionary: DictionaryArray<Int32Type> = values.into_iter().collect();
    let arrays: [ArrayRef; 4] = [
        Arc::new(StringArray::from(values.to_vec())),
        Arc::new(LargeStringArray::from(values.to_vec())),
        Arc::new(StringViewArray::from(values.to_vec())),
        Arc::new(dictionary),
    ];
    for array in arrays {
        let (spark_type, column) = spark_column(array).unwrap();
        assert_eq!(spark_type, SparkType::String);
        assert_eq!(strings(&column), wanted);
    }
}

#[test]
fn dictionaries_may_change_between_batches() {
    let first: DictionaryArray<Int32Type> = ["x", "y"].into_iter().collect();
    let second: DictionaryArray<Int32Type> = ["z"].into_iter().collect();
    let batches = [batch_of(Arc::new(first)), batch_of(Arc::new(second))];
    let mut stream = StreamBatches::open(value_of(&batches)).unwrap();
    let columns = SparkColumns::new(stream.schema()).unwrap();
    let schema = columns.spark_schema();
    let mut all = Vec::new();
    while let Some(batch) = stream.next_batch().unwrap() {
        for (_, arrays) in columns.convert(&batch, &[0], &schema).unwrap() {
            all.extend(strings(&arrays[0]).into_iter().flatten());
        }
    }
    assert_eq!(all, [b"x".to_vec(), b"y".to_vec(), b"z".to_vec()]);
}

#[test]
fn unsigned_integers_become_the_next_wider_type() {
    let (spark_type, column) = spark_column(Arc::new(UInt8Array::from(vec![Some(255), None]))).unwrap();
    assert_eq!(spark_type, SparkType::Short);
    assert_eq!(column.as_primitive::<Int16Type>().value(0), 255);
    assert!(column.is_null(1));
    let (spark_type, _) = spark_column(Arc::new(UInt16Array::from(vec![65535]))).unwrap();
    assert_eq!(spark_type, SparkType::Integer);
    let (spark_type, column) = spark_column(Arc::new(UInt64Array::from(vec![u64::MAX]))).unwrap();
    assert_eq!(
        spark_type,
        SparkType::Decimal {
            precision: 20,
            scale: 0
        }
    );
    assert_eq!(
        column.as_primitive::<Decimal128Type>().value(0),
        i128::from(u64::MAX)
    );
}

#[test]
fn timestamps_become_microseconds_and_never_round_towards_zero() {
    let micros = |array: ArrayRef| {
        let (spark_type, column) = spark_column(array).unwrap();
        (
            spark_type,
            column
                .as_primitive::<TimestampMicrosecondType>()
                .values()
                .to_vec(),
        )
    };
    let nanos = TimestampNanosecondArray::from(vec![-1, 1_999, i64::MIN]).with_timezone("America/New_York");
    assert_eq!(
        micros(Arc::new(nanos)),
        (SparkType::Timestamp, vec![-1, 1, i64::MIN.div_euclid(1000)])
    );
    let millis = TimestampMillisecondArray::from(vec![-5]);
    assert_eq!(micros(Arc::new(millis)), (SparkType::TimestampNtz, vec![-5000]));
    let seconds = TimestampSecondArray::from(vec![7]);
    assert_eq!(
        micros(Arc::new(seconds)),
        (SparkType::TimestampNtz, vec![7_000_000])
    );
    let too_far = TimestampSecondArray::from(vec![i64::MAX]);
    let message = spark_column(Arc::new(too_far)).unwrap_err().to_string();
    assert!(
        message.contains("'c'") && message.contains("timestamp_ntz"),
        "{message}"
    );
}

#[test]
fn dates_of_milliseconds_become_days() {
    let (spark_type, column) = spark_column(Arc::new(Date64Array::from(vec![-1, 86_400_000]))).unwrap();
    assert_eq!(spark_type, SparkType::Date);
    assert_eq!(column.as_primitive::<Date32Type>().values(), &[-1, 1]);
}

#[test]
fn decimals_keep_every_digit_or_are_refused() {
    let wide = |value: i256, precision, scale| {
        let array = Decimal256Array::from(vec![value])
            .with_precision_and_scale(precision, scale)
            .unwrap();
        spark_column(Arc::new(array))
    };
    let (spark_type, column) = wide(i256::from_i128(-123), 30, 2).unwrap();
    assert_eq!(
        spark_type,
        SparkType::Decimal {
            precision: 30,
            scale: 2
        }
    );
    assert_eq!(column.as_primitive::<Decimal128Type>().value(0), -123);
    let message = wide(i256::from_i128(1), 60, 2).unwrap_err().to_string();
    assert!(
        message.contains("'c'") && message.contains("Decimal256(60, 2)"),
        "{message}"
    );
    let (spark_type, column) = wide(i256::from_i128(12), 5, -3).unwrap();
    assert_eq!(
        spark_type,
        SparkType::Decimal {
            precision: 8,
            scale: 0
        }
    );
    assert_eq!(column.as_primitive::<Decimal128Type>().value(0), 12_000);
}

#[test]
fn columns_of_nulls_are_void() {
    let (spark_type, column) = spark_column(Arc::new(NullArray::new(3))).unwrap();
    assert_eq!((spark_type, column.len()), (SparkType::Void, 3));
}

#[test]
fn what_spark_has_no_type_for_is_refused_by_name() {
    let time = Time64MicrosecondArray::from(vec![1]);
    let message = spark_column(Arc::new(time)).unwrap_err().to_string();
    assert!(message.contains("'c'") && message.contains("Time64"), "{message}");
}

#[test]
fn objects_that_are_no_tables_are_refused() {
    let pickled = Buffer::from_vec(ValueHeader::encode(ValueFormat::Pickle5, b"x"));
    assert!(matches!(
        StreamBatches::open(pickled),
        Err(ColumnError::NotATable(_))
    ));
}

#[test]
fn blocks_with_other_columns_are_named() {
    let columns = |array: ArrayRef| SparkColumns::new(&batch_of(array).schema()).unwrap();
    let first = columns(Arc::new(StringArray::from(vec!["x"]))).spark_schema();
    let second = columns(Arc::new(BinaryArray::from(vec![b"x".as_slice()])));
    let message = second.check_against(&first, "block 3").unwrap_err().to_string();
    assert_eq!(
        message,
        "column 'c' of block 3 has the type binary, in the first block string"
    );
}
