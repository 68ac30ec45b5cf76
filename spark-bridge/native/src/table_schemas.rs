//! The native method of `org.sparkray.data.DataNative` that reads the schemas of blocks where they are. What is wrong with
//! a block is a value, not a failure of the call: the driver names the block and decides by the code.

use jni::EnvUnowned;
use jni::objects::{JByteArray, JClass};
use sparkray_object_store::{GetEntry, ReadableObject};
use sparkray_proto::Failure;
use sparkray_proto::bridge::block_schema::Content;
use sparkray_proto::bridge::{BlockSchema, Table, TableSchemas};

use crate::columns::{SparkColumns, StreamBatches};
use crate::error::NativeError;
use crate::guard::guard;
use crate::held_blocks::in_place;
use crate::requests::{answer, message};
use crate::store_access::NodeStore;
use crate::table_block::{Block, in_block};

/// Blocks of so many bytes together are asked for, and in use, at once: small stores must have room for them.
const MOST_BYTES: u64 = 2 << 20;

fn schemas(table: Table) -> Result<TableSchemas, NativeError> {
    let blocks: Vec<Block> = table
        .blocks
        .into_iter()
        .map(Block::try_from)
        .collect::<Result<_, _>>()?;
    let mut found = Vec::with_capacity(blocks.len());
    let mut rest = &blocks[..];
    while !rest.is_empty() {
        let (batch, others) = rest.split_at(asked_at_once(rest));
        found.extend(batch.iter().map(|block| block.index).zip(schemas_of(batch)));
        rest = others;
    }
    Ok(TableSchemas {
        blocks: without_repetitions(found),
    })
}

/// How many of these blocks, from the first, are asked for together.
fn asked_at_once(blocks: &[Block]) -> usize {
    let mut bytes = 0;
    let fitting = blocks.iter().take_while(|block| {
        bytes += block.size;
        bytes <= MOST_BYTES
    });
    fitting.count().max(1)
}

/// One answer for each of these blocks.
fn schemas_of(batch: &[Block]) -> Vec<Result<String, Failure>> {
    let Some(first) = batch.first() else {
        return Vec::new();
    };
    let store = match NodeStore::connect(first.cluster_id) {
        Ok(store) => store,
        Err(error) => return vec![Err(failure(&error)); batch.len()],
    };
    let entries: Vec<GetEntry> = batch.iter().map(|block| block.entry.clone()).collect();
    let objects = store.read_all(&entries);
    let schema = |(block, object): (&Block, Result<ReadableObject, NativeError>)| {
        object
            .and_then(|object| schema_of(object, &block.name()))
            .map_err(|error| failure(&error))
    };
    batch.iter().zip(objects).map(schema).collect()
}

fn failure(error: &NativeError) -> Failure {
    Failure::new(error.code(), error.to_string())
}

fn schema_of(object: ReadableObject, name: &str) -> Result<String, NativeError> {
    let stream = StreamBatches::open(in_place(object)?).map_err(|error| in_block(name, &error))?;
    let columns = SparkColumns::new(stream.schema()).map_err(|error| in_block(name, &error))?;
    Ok(columns.spark_schema().to_json())
}

/// Neighbours have the same schema mostly, and all of it travels to the driver.
fn without_repetitions(found: Vec<(u32, Result<String, Failure>)>) -> Vec<BlockSchema> {
    let mut last: Option<(u32, String)> = None;
    let mut blocks = Vec::with_capacity(found.len());
    for (index, schema) in found {
        let content = match (schema, &last) {
            (Err(failure), _) => Content::Failure(failure),
            (Ok(schema), Some((same_as, known))) if schema == *known => Content::SameAs(*same_as),
            (Ok(schema), _) => {
                last = Some((index, schema.clone()));
                Content::Schema(schema)
            }
        };
        blocks.push(BlockSchema {
            index,
            content: Some(content),
        });
    }
    blocks
}

/// The columns of several blocks: `Table` and `TableSchemas`.
#[unsafe(no_mangle)]
pub(crate) extern "system" fn Java_org_sparkray_data_DataNative_tableSchemas<'local>(
    env: EnvUnowned<'local>,
    _class: JClass<'local>,
    blocks: JByteArray<'local>,
) -> JByteArray<'local> {
    guard(env, |env| {
        let found = schemas(message(env, &blocks)?)?;
        answer(env, &found)
    })
}

#[cfg(test)]
mod tests {
    use sparkray_common::{ClusterId, ErrorCode, ObjectId};

    use super::*;

    fn blocks(sizes: &[u64]) -> Vec<Block> {
        let block = |(index, size): (usize, &u64)| Block {
            cluster_id: ClusterId::NIL,
            entry: GetEntry {
                object: ObjectId::NIL,
                locations: Vec::new(),
            },
            index: index as u32,
            size: *size,
            hold_bytes: 0,
        };
        sizes.iter().enumerate().map(block).collect()
    }

    #[test]
    fn blocks_that_a_small_store_has_room_for_are_asked_for_together() {
        assert_eq!(asked_at_once(&blocks(&[1, 2, 3])), 3);
        assert_eq!(asked_at_once(&blocks(&[MOST_BYTES - 1, 1, 1])), 2);
        assert_eq!(asked_at_once(&blocks(&[MOST_BYTES + 1, 1])), 1);
    }

    #[test]
    fn a_schema_is_told_once_for_neighbours_that_have_it() {
        let missing = Failure::new(ErrorCode::ObjectLost, "it is lost");
        let told = without_repetitions(vec![
            (3, Ok("a".to_owned())),
            (4, Ok("a".to_owned())),
            (5, Err(missing.clone())),
            (6, Ok("a".to_owned())),
            (7, Ok("b".to_owned())),
        ]);
        let told: Vec<_> = told
            .into_iter()
            .map(|block| (block.index, block.content.unwrap()))
            .collect();
        let expected = [
            (3, Content::Schema("a".to_owned())),
            (4, Content::SameAs(3)),
            (5, Content::Failure(missing)),
            (6, Content::SameAs(3)),
            (7, Content::Schema("b".to_owned())),
        ];
        assert_eq!(told, expected);
    }
}
