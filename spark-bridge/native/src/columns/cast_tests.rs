//! What Spark cannot take is cast, exactly or not at all.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Decimal128Type, Float64Type, Int16Type, Int32Type, Int64Type, TimestampMicrosecondType,
};
use arrow_array::{
    Array, ArrayRef, BinaryArray, Date64Array, Decimal128Array, Decimal256Array, DictionaryArray,
    FixedSizeBinaryArray, Int8Array, Int16Array, Int64Array, LargeStringArray, NullArray, RecordBatch,
    StringArray, StringViewArray, Time64MicrosecondArray, TimestampMillisecondArray,
    TimestampNanosecondArray, TimestampSecondArray, UInt8Array, UInt16Array, UInt64Array,
};
use arrow_buffer::{Buffer, i256};
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{DataType, Field, Schema};
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
fn timestamps_become_microseconds_or_are_refused() {
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
    let nanos = TimestampNanosecondArray::from(vec![-1_000, 2_000, 0]).with_timezone("America/New_York");
    assert_eq!(micros(Arc::new(nanos)), (SparkType::Timestamp, vec![-1, 2, 0]));
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
fn nanoseconds_that_microseconds_cannot_hold_are_refused() {
    for value in [-1, 1_999, i64::MIN] {
        let message = spark_column(Arc::new(TimestampNanosecondArray::from(vec![0, value])))
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("'c'") && message.contains("floor_temporal"),
            "{message}"
        );
    }
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
    let mut second = columns(Arc::new(BinaryArray::from(vec![b"x".as_slice()])));
    let message = second.fit_to(&first, "block 3").unwrap_err().to_string();
    assert_eq!(
        message,
        "column 'c' of block 3 has the type binary, which is no string"
    );
}

/// A block's only column in a DataFrame whose column has the type `to`.
fn fitted(array: ArrayRef, to: SparkType) -> Result<ArrayRef, ColumnError> {
    let mut stream = StreamBatches::open(value_of(&[batch_of(array)]))?;
    let mut columns = SparkColumns::new(stream.schema())?;
    let mut promised = columns.spark_schema();
    promised.fields[0].spark_type = to;
    columns.fit_to(&promised, "block 1")?;
    let batch = stream.next_batch()?.expect("one batch was written");
    Ok(columns.convert(&batch, &[0], &promised)?.remove(0).1.remove(0))
}

#[test]
fn narrower_blocks_fit_into_wider_dataframes() {
    let nulls = fitted(Arc::new(NullArray::new(2)), SparkType::String).unwrap();
    assert_eq!(strings(&nulls), [None, None]);
    let exact = 1_i64 << 60;
    let doubles = fitted(
        Arc::new(Int64Array::from(vec![Some(exact), None, Some(-3)])),
        SparkType::Double,
    )
    .unwrap();
    let doubles = doubles.as_primitive::<Float64Type>();
    assert_eq!(
        doubles.iter().collect::<Vec<_>>(),
        [Some(exact as f64), None, Some(-3.0)]
    );
    let money = Decimal128Array::from(vec![15])
        .with_precision_and_scale(2, 1)
        .unwrap();
    let to = SparkType::Decimal {
        precision: 4,
        scale: 2,
    };
    let wider = fitted(Arc::new(money), to).unwrap();
    assert_eq!(wider.as_primitive::<Decimal128Type>().value(0), 150);
    let long = fitted(Arc::new(Int16Array::from(vec![-7])), SparkType::Long).unwrap();
    assert_eq!(long.as_primitive::<Int64Type>().value(0), -7);
}

#[test]
fn integers_that_a_double_cannot_hold_are_refused() {
    for value in [(1_i64 << 53) + 1, i64::MAX, -(1_i64 << 53) - 1] {
        let message = fitted(Arc::new(Int64Array::from(vec![1, value])), SparkType::Double)
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("'c'") && message.contains(&value.to_string()) && message.contains("not exact"),
            "{message}"
        );
    }
}

fn extension_column(name: &str, array: ArrayRef) -> Result<(SparkType, ArrayRef), ColumnError> {
    let metadata = HashMap::from([("ARROW:extension:name".to_owned(), name.to_owned())]);
    let field = Field::new("c", array.data_type().clone(), true).with_metadata(metadata);
    let batch = RecordBatch::try_new(Arc::new(Schema::new(vec![field])), vec![array]).unwrap();
    let mut stream = StreamBatches::open(value_of(&[batch]))?;
    let columns = SparkColumns::new(stream.schema())?;
    let schema = columns.spark_schema();
    let batch = stream.next_batch()?.expect("one batch was written");
    let mut converted = columns.convert(&batch, &[0], &schema)?;
    Ok((schema.fields[0].spark_type, converted.remove(0).1.remove(0)))
}

#[test]
fn extension_types_are_mapped_or_refused_by_name() {
    let uuids = FixedSizeBinaryArray::try_from_iter([[0xab_u8; 16], [0x01; 16]].into_iter()).unwrap();
    let (spark_type, texts) = extension_column("arrow.uuid", Arc::new(uuids)).unwrap();
    assert_eq!(spark_type, SparkType::String);
    assert_eq!(
        strings(&texts)[1].as_deref(),
        Some(b"01010101-0101-0101-0101-010101010101".as_slice())
    );
    let (spark_type, flags) = extension_column("arrow.bool8", Arc::new(Int8Array::from(vec![0, 2]))).unwrap();
    assert_eq!(spark_type, SparkType::Boolean);
    assert_eq!(
        flags.as_boolean().iter().collect::<Vec<_>>(),
        [Some(false), Some(true)]
    );
    let (spark_type, _) =
        extension_column("arrow.json", Arc::new(LargeStringArray::from(vec!["{}"]))).unwrap();
    assert_eq!(spark_type, SparkType::String);
    for (name, array) in [
        ("pandas.period", Arc::new(Int64Array::from(vec![1])) as ArrayRef),
        ("arrow.uuid", Arc::new(StringArray::from(vec!["x"]))),
    ] {
        let message = extension_column(name, array).unwrap_err().to_string();
        assert!(message.contains("'c'") && message.contains(name), "{message}");
    }
}

/// A block whose schema has this text somewhere, where it stands as bytes that are no text.
fn with_bad_text(field: Field, schema_metadata: HashMap<String, String>) -> Buffer {
    let schema = Schema::new(vec![field]).with_metadata(schema_metadata);
    let array: ArrayRef = Arc::new(Int64Array::from(vec![7]));
    let batch = RecordBatch::try_new(Arc::new(schema), vec![array]).unwrap();
    let mut bytes = value_of(&[batch]).to_vec();
    let mut at = 0;
    while let Some(found) = bytes[at..].windows(3).position(|window| window == b"BAD") {
        at += found;
        bytes[at..at + 3].copy_from_slice(b"\xff\xfe\xe6");
    }
    Buffer::from_vec(bytes)
}

#[test]
fn metadata_that_is_no_text_stops_nobody() {
    let bad = || {
        HashMap::from([
            ("BADk".to_owned(), "vBAD".to_owned()),
            ("also".to_owned(), "BAD".to_owned()),
        ])
    };
    let field = Field::new("n", DataType::Int64, true).with_metadata(bad());
    let mut stream = StreamBatches::open(with_bad_text(field, bad())).unwrap();
    assert_eq!(stream.schema().field(0).name(), "n");
    let batch = stream.next_batch().unwrap().unwrap();
    assert_eq!(batch.column(0).as_primitive::<Int64Type>().value(0), 7);
}

#[test]
fn a_name_that_is_no_text_is_refused() {
    let field = Field::new("nBAD", DataType::Int64, true);
    let message = StreamBatches::open(with_bad_text(field, HashMap::new()))
        .err()
        .unwrap()
        .to_string();
    assert!(
        message.contains("'n") && message.contains("not UTF-8"),
        "{message}"
    );
}

#[test]
fn what_a_column_says_about_itself_is_kept_as_far_as_it_fits() {
    let read = |name: &str, data_type: DataType, json: &str| {
        let metadata = HashMap::from([("SPARK::metadata::json".to_owned(), json.to_owned())]);
        let schema = Schema::new(vec![Field::new(name, data_type, true).with_metadata(metadata)]);
        let schema = SparkColumns::new(&schema).unwrap().spark_schema();
        serde_json::Value::Object(schema.fields[0].metadata.clone()).to_string()
    };
    let said = r#"{"__COLLATIONS":{"c":"icu.UNICODE_CI"},"comment":"x","ml_attr":{"vals":["a","b"]}}"#;
    assert_eq!(read("c", DataType::Utf8, said), said);
    // The column was renamed, or got another type.
    assert_eq!(
        read("d", DataType::LargeUtf8, said),
        said.replace(r#""c":"#, r#""d":"#)
    );
    assert_eq!(
        read("c", DataType::Int64, said),
        r#"{"comment":"x","ml_attr":{"vals":["a","b"]}}"#
    );
    // What Spark could not read.
    for json in [
        "nonsense",
        "[1]",
        r#"{"a":[1,"x"]}"#,
        r#"{"a":[[1]]}"#,
        r#"{"a":18446744073709551615}"#,
    ] {
        assert_eq!(read("c", DataType::Utf8, json), "{}");
    }
}
