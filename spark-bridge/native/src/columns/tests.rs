//! Rows to blocks and back, for generated schemas and values.

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    TimestampMicrosecondType,
};
use arrow_array::{Array, RecordBatch};
use arrow_buffer::Buffer;
use arrow_schema::DataType;
use proptest::prelude::*;
use sparkray_common::VALUE_HEADER_LEN;

use super::block_builder::EncodedBlock;
use super::staged_columns::testing::stage_columns;
use super::unsafe_row::testing::{Cell, stage};
use super::{BlockBuilder, ExportedBatch, SparkColumns, SparkField, SparkSchema, SparkType};
use super::{StagedColumns, StagedRows, StreamBatches};

fn spark_types() -> impl Strategy<Value = SparkType> {
    prop_oneof![
        Just(SparkType::Boolean),
        Just(SparkType::Byte),
        Just(SparkType::Short),
        Just(SparkType::Integer),
        Just(SparkType::Long),
        Just(SparkType::Float),
        Just(SparkType::Double),
        Just(SparkType::Decimal {
            precision: 18,
            scale: 4
        }),
        Just(SparkType::Decimal {
            precision: 38,
            scale: 10
        }),
        Just(SparkType::String),
        Just(SparkType::Binary),
        Just(SparkType::Date),
        Just(SparkType::Timestamp),
        Just(SparkType::TimestampNtz),
    ]
}

fn long_bits() -> impl Strategy<Value = u64> {
    let nan_with_payload = 0x7ff8_0000_0000_0123_u64;
    prop_oneof![
        any::<u64>(),
        prop::sample::select(vec![
            0,
            1,
            u64::MAX,
            i64::MIN as u64,
            i64::MAX as u64,
            (-0.0_f64).to_bits()
        ]),
        Just(nan_with_payload),
    ]
}

/// A cell as `UnsafeRowWriter` makes it.
fn cell(spark_type: SparkType) -> BoxedStrategy<Cell> {
    let value = match spark_type {
        SparkType::Boolean => any::<bool>()
            .prop_map(|value| Cell::Word(u64::from(value)))
            .boxed(),
        SparkType::Byte => any::<i8>()
            .prop_map(|value| Cell::Word(u64::from(value as u8)))
            .boxed(),
        SparkType::Short => any::<i16>()
            .prop_map(|value| Cell::Word(u64::from(value as u16)))
            .boxed(),
        SparkType::Integer | SparkType::Date | SparkType::Float => {
            prop_oneof![any::<u32>(), Just(0x7fc0_0001_u32), Just((-0.0_f32).to_bits())]
                .prop_map(|value| Cell::Word(u64::from(value)))
                .boxed()
        }
        SparkType::Decimal { precision, .. } if precision > 18 => any::<i128>()
            .prop_map(|value| Cell::Bytes(big_integer(value)))
            .boxed(),
        SparkType::String | SparkType::Binary => prop::collection::vec(any::<u8>(), 0..40)
            .prop_map(Cell::Bytes)
            .boxed(),
        _ => long_bits().prop_map(Cell::Word).boxed(),
    };
    prop_oneof![4 => value, 1 => Just(Cell::Null)].boxed()
}

/// `BigInteger.toByteArray`: as few bytes as hold the sign.
fn big_integer(value: i128) -> Vec<u8> {
    let bytes = value.to_be_bytes();
    let mut first = 0;
    while first < 15
        && ((bytes[first] == 0 && bytes[first + 1] < 128) || (bytes[first] == 255 && bytes[first + 1] >= 128))
    {
        first += 1;
    }
    bytes[first..].to_vec()
}

fn frames() -> impl Strategy<Value = (SparkSchema, Vec<Vec<Cell>>)> {
    frames_of(prop::collection::vec(spark_types(), 0..8))
}

/// Frames whose columns can be staged as such.
fn frames_of_fixed_width() -> impl Strategy<Value = (SparkSchema, Vec<Vec<Cell>>)> {
    let fixed = spark_types().prop_filter("of fixed width", |spark_type| {
        !matches!(
            spark_type,
            SparkType::Decimal { .. } | SparkType::String | SparkType::Binary
        )
    });
    frames_of(prop::collection::vec(fixed, 1..8))
}

fn frames_of(
    types: impl Strategy<Value = Vec<SparkType>>,
) -> impl Strategy<Value = (SparkSchema, Vec<Vec<Cell>>)> {
    types.prop_flat_map(|types| {
        let cells: Vec<BoxedStrategy<Cell>> = types.iter().map(|spark_type| cell(*spark_type)).collect();
        let fields = types
            .into_iter()
            .enumerate()
            .map(|(index, spark_type)| SparkField {
                name: format!("c{index}"),
                spark_type,
                nullable: true,
                metadata: serde_json::Map::new(),
            })
            .collect();
        (Just(SparkSchema { fields }), prop::collection::vec(cells, 0..60))
    })
}

fn value_of(block: &EncodedBlock) -> Vec<u8> {
    let mut value = vec![0xee; block.value_len()];
    block.write_value(&mut value);
    value
}

/// Builds blocks from batches of `batch_rows` rows, as the JVM hands them over.
fn build(schema: &SparkSchema, rows: &[Vec<Cell>], batch_rows: usize, max_bytes: usize) -> Vec<EncodedBlock> {
    let mut builder = BlockBuilder::new(schema, "Europe/Paris", max_bytes).unwrap();
    let mut blocks = Vec::new();
    for batch in rows.chunks(batch_rows) {
        let staged = stage(batch);
        let staged = StagedRows::parse(&staged, batch.len(), builder.field_count()).unwrap();
        let mut next = 0;
        while next < staged.len() {
            next = builder.append(&staged, next).unwrap();
            if next < staged.len() {
                blocks.push(builder.finish().unwrap());
            }
        }
    }
    if builder.rows() > 0 || blocks.is_empty() {
        blocks.push(builder.finish().unwrap());
    }
    blocks
}

/// As [`build`], from columns instead of rows.
fn build_from_columns(
    schema: &SparkSchema,
    rows: &[Vec<Cell>],
    batch_rows: usize,
    max_bytes: usize,
) -> Vec<EncodedBlock> {
    let mut builder = BlockBuilder::new(schema, "Europe/Paris", max_bytes).unwrap();
    let widths = builder.staged_widths().unwrap();
    let mut blocks = Vec::new();
    for batch in rows.chunks(batch_rows) {
        let staged = stage_columns(batch, &widths);
        let staged = StagedColumns::parse(&staged, batch.len(), &widths).unwrap();
        let mut next = 0;
        while next < staged.len() {
            next = builder.append_columns(&staged, next);
            if next < staged.len() {
                blocks.push(builder.finish().unwrap());
            }
        }
    }
    if builder.rows() > 0 || blocks.is_empty() {
        blocks.push(builder.finish().unwrap());
    }
    blocks
}

fn batches_of(value: &[u8]) -> Vec<RecordBatch> {
    let mut stream = StreamBatches::open(Buffer::from(value)).unwrap();
    let mut batches = Vec::new();
    while let Some(batch) = stream.next_batch().unwrap() {
        batches.push(batch);
    }
    batches
}

/// The bytes of a cell as a reader finds them.
fn arrow_cell(batch: &RecordBatch, column: usize, row: usize) -> Option<Vec<u8>> {
    let array = batch.column(column);
    if array.is_null(row) {
        return None;
    }
    Some(match array.data_type() {
        DataType::Boolean => vec![u8::from(array.as_boolean().value(row))],
        DataType::Int8 => array.as_primitive::<Int8Type>().value(row).to_le_bytes().to_vec(),
        DataType::Int16 => array
            .as_primitive::<Int16Type>()
            .value(row)
            .to_le_bytes()
            .to_vec(),
        DataType::Int32 => array
            .as_primitive::<Int32Type>()
            .value(row)
            .to_le_bytes()
            .to_vec(),
        DataType::Int64 => array
            .as_primitive::<Int64Type>()
            .value(row)
            .to_le_bytes()
            .to_vec(),
        DataType::Float32 => array
            .as_primitive::<Float32Type>()
            .value(row)
            .to_le_bytes()
            .to_vec(),
        DataType::Float64 => array
            .as_primitive::<Float64Type>()
            .value(row)
            .to_le_bytes()
            .to_vec(),
        DataType::Date32 => array
            .as_primitive::<Date32Type>()
            .value(row)
            .to_le_bytes()
            .to_vec(),
        DataType::Decimal128(_, _) => array
            .as_primitive::<Decimal128Type>()
            .value(row)
            .to_le_bytes()
            .to_vec(),
        DataType::Timestamp(_, _) => array
            .as_primitive::<TimestampMicrosecondType>()
            .value(row)
            .to_le_bytes()
            .to_vec(),
        DataType::Binary => array.as_binary::<i32>().value(row).to_vec(),
        other => panic!("no block has {other}"),
    })
}

fn expected_cell(spark_type: SparkType, cell: &Cell) -> Option<Vec<u8>> {
    let width = match spark_type {
        SparkType::Boolean | SparkType::Byte => 1,
        SparkType::Short => 2,
        SparkType::Integer | SparkType::Float | SparkType::Date => 4,
        _ => 8,
    };
    match (spark_type, cell) {
        (_, Cell::Null) => None,
        (SparkType::Decimal { .. }, Cell::Word(word)) => {
            Some(i128::from(*word as i64).to_le_bytes().to_vec())
        }
        (SparkType::Decimal { .. }, Cell::Bytes(bytes)) => {
            let mut wide = [if bytes[0] >= 128 { 255 } else { 0 }; 16];
            wide[16 - bytes.len()..].copy_from_slice(bytes);
            Some(i128::from_be_bytes(wide).to_le_bytes().to_vec())
        }
        (_, Cell::Word(word)) => Some(word.to_le_bytes()[..width].to_vec()),
        (_, Cell::Bytes(bytes)) => Some(bytes.clone()),
    }
}

proptest! {
    #[test]
    fn every_value_survives_rows_to_blocks_to_columns(
        (schema, rows) in frames(), batch_rows in 1_usize..20, max_bytes in 600_usize..6000
    ) {
        let blocks = build(&schema, &rows, batch_rows, max_bytes);
        let mut row = 0;
        for block in &blocks {
            let value = value_of(block);
            let batches = batches_of(&value);
            prop_assert_eq!(batches.len(), 1);
            prop_assert_eq!(batches[0].num_rows(), block.rows());
            for local in 0..block.rows() {
                for (column, field) in schema.fields.iter().enumerate() {
                    prop_assert_eq!(
                        arrow_cell(&batches[0], column, local),
                        expected_cell(field.spark_type, &rows[row][column])
                    );
                }
                row += 1;
            }
        }
        prop_assert_eq!(row, rows.len());
    }

    #[test]
    fn columns_and_rows_give_the_same_blocks(
        (schema, rows) in frames_of_fixed_width(), batch_rows in 1_usize..20, max_bytes in 600_usize..6000
    ) {
        let from_rows: Vec<Vec<u8>> = build(&schema, &rows, 7, max_bytes).iter().map(value_of).collect();
        let from_columns: Vec<Vec<u8>> =
            build_from_columns(&schema, &rows, batch_rows, max_bytes).iter().map(value_of).collect();
        prop_assert_eq!(from_columns, from_rows);
    }

    #[test]
    fn blocks_keep_to_their_limit_unless_one_row_is_larger(
        (schema, rows) in frames(), max_bytes in 600_usize..6000
    ) {
        for block in build(&schema, &rows, 7, max_bytes) {
            let body: usize = batches_of(&value_of(&block))[0]
                .columns()
                .iter()
                .map(|column| column.to_data().get_slice_memory_size().unwrap())
                .sum();
            prop_assert!(body <= max_bytes || block.rows() == 1, "{} bytes in {} rows", body, block.rows());
        }
    }

    #[test]
    fn what_spark_takes_is_not_copied((schema, rows) in frames()) {
        let block = &build(&schema, &rows, 50, 1 << 20)[0];
        let buffer = aligned(&value_of(block));
        let (start, end) = (buffer.as_ptr() as i64, buffer.as_ptr() as i64 + buffer.len() as i64);
        let mut stream = StreamBatches::open(buffer).unwrap();
        let columns = SparkColumns::new(stream.schema()).unwrap();
        prop_assert_eq!(columns.spark_schema(), schema.clone());
        let projection: Vec<usize> = (0..schema.fields.len()).collect();
        let batch = stream.next_batch().unwrap().unwrap();
        let converted = columns.convert(&batch, &projection, &schema).unwrap();
        let exported = ExportedBatch::new(converted[0].0, &converted[0].1).unwrap();
        let words = exported.words();
        prop_assert_eq!(words[0], rows.len() as i64);
        let mut at = 1;
        for _ in &schema.fields {
            for buffer in 0..words[at + 1] as usize {
                let (address, len) = (words[at + 2 + 2 * buffer], words[at + 3 + 2 * buffer]);
                prop_assert!(len == 0 || (address >= start && address + len <= end), "copied");
                prop_assert!(len == 0 || address % 64 == 0, "not aligned");
            }
            at += 2 + 2 * words[at + 1] as usize;
        }
        prop_assert_eq!(at, words.len());
    }

    #[test]
    fn malformed_streams_are_errors(
        (schema, rows) in frames(), flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>()
    ) {
        let mut value = value_of(&build(&schema, &rows, 50, 1 << 20)[0]);
        for (position, byte) in flips {
            let index = VALUE_HEADER_LEN + position.index(value.len() - VALUE_HEADER_LEN);
            value[index] = byte;
        }
        value.truncate(VALUE_HEADER_LEN + cut.index(value.len() - VALUE_HEADER_LEN + 1));
        // The JNI guard turns a panic of the decoder into an exception; memory is never read out of bounds.
        let _ = std::panic::catch_unwind(|| {
            if let Ok(mut stream) = StreamBatches::open(aligned(&value)) {
                while let Ok(Some(_)) = stream.next_batch() {}
            }
        });
    }
}

/// A copy that begins at a multiple of 64, as values in segments do.
fn aligned(bytes: &[u8]) -> Buffer {
    let mut copy = arrow_buffer::MutableBuffer::new(bytes.len());
    copy.extend_from_slice(bytes);
    copy.into()
}

#[test]
fn a_block_is_a_stream_that_arrow_itself_reads() {
    let schema = SparkSchema::from_json(
        r#"{"type":"struct","fields":[
            {"name":"text","type":"string","nullable":true},{"name":"at","type":"timestamp","nullable":false}]}"#,
    )
    .unwrap();
    let rows = vec![
        vec![Cell::Bytes("grün".into()), Cell::Word(1)],
        vec![Cell::Null, Cell::Word(i64::MIN as u64)],
        vec![Cell::Bytes(Vec::new()), Cell::Word(2)],
    ];
    let value = value_of(&build(&schema, &rows, 2, 1 << 20)[0]);
    let mut reader = arrow_ipc::reader::StreamReader::try_new(&value[VALUE_HEADER_LEN..], None).unwrap();
    let batch = reader.next().unwrap().unwrap();
    assert!(reader.next().is_none());
    assert_eq!(batch.schema().as_ref(), &schema.arrow_schema("Europe/Paris"));
    let text: Vec<Option<&str>> = batch.column(0).as_string::<i32>().iter().collect();
    assert_eq!(text, [Some("grün"), None, Some("")]);
}

#[test]
fn a_null_in_a_column_without_nulls_is_an_error() {
    let schema = SparkSchema {
        fields: vec![SparkField {
            name: "id".into(),
            spark_type: SparkType::Long,
            nullable: false,
            metadata: serde_json::Map::new(),
        }],
    };
    let staged = stage(&[vec![Cell::Null]]);
    let mut builder = BlockBuilder::new(&schema, "UTC", 1 << 20).unwrap();
    builder
        .append(&StagedRows::parse(&staged, 1, 1).unwrap(), 0)
        .unwrap();
    let message = builder.finish().err().unwrap().to_string();
    assert!(message.contains("'id'"), "{message}");
}
