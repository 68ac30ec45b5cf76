//! Native methods of `org.sparkray.data.DataNative` that write a partition's rows into blocks of this node's store.
//!
//! The staged bytes belong to Java and are read during the call only. A block is written straight into its range of
//! the store and sealed as provisional: the owner of the feed adopts the blocks of the attempts that Spark reports.

use jni::EnvUnowned;
use jni::objects::{JClass, JString};
use jni::sys::{jboolean, jint, jlong};
use serde::{Deserialize, Serialize};
use sparkray_common::sync::Mutex;
use sparkray_common::{ErrorCode, FeedId, ObjectId, TaskId, WorkerAddress};
use tracing::debug_span;

use crate::columns::{BlockBuilder, SparkSchema, StagedColumns, StagedRows};
use crate::error::NativeError;
use crate::guard::{guard, text};
use crate::handles::Handles;
use crate::requests::{OwnerAddress, parse_address, parse_feed};
use crate::store_access::NodeStore;

static FEEDS: Handles<Mutex<PartitionFeed>> = Handles::new("feed");

/// What `from_spark` sends to every task.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FeedRequest {
    /// Hexadecimal id of the cluster to which the owner belongs.
    cluster_id: String,
    feed_id: String,
    owner: OwnerAddress,
    max_block_bytes: usize,
}

/// What a task returns.
#[derive(Debug, Serialize)]
struct FeedReport<'a> {
    partition: i32,
    attempt: i64,
    blocks: &'a [BlockReport],
}

#[derive(Debug, Serialize)]
struct BlockReport {
    object_id: String,
    node_id: String,
    node_address: String,
    rows: usize,
    bytes: usize,
}

/// The blocks of one attempt of one partition.
struct PartitionFeed {
    store: NodeStore,
    feed: FeedId,
    owner: WorkerAddress,
    /// Random, so that attempts never write the same object.
    task: TaskId,
    builder: BlockBuilder,
    partition: i32,
    attempt: i64,
    blocks: Vec<BlockReport>,
}

impl PartitionFeed {
    fn append(&mut self, bytes: &[u8], rows: usize) -> Result<(), NativeError> {
        let staged = StagedRows::parse(bytes, rows, self.builder.field_count())?;
        let mut next = 0;
        loop {
            next = self.builder.append(&staged, next)?;
            if next == staged.len() {
                return Ok(());
            }
            self.write_block()?;
        }
    }

    fn append_columns(&mut self, bytes: &[u8], rows: usize) -> Result<(), NativeError> {
        let staged = StagedColumns::parse(bytes, rows, &self.builder.staged_widths()?)?;
        let mut next = 0;
        loop {
            next = self.builder.append_columns(&staged, next);
            if next == staged.len() {
                return Ok(());
            }
            self.write_block()?;
        }
    }

    fn write_block(&mut self) -> Result<(), NativeError> {
        let block = self.builder.finish()?;
        let object = ObjectId::for_result(self.task, self.blocks.len() as u32);
        let size = block.value_len();
        let _span = debug_span!("feed_write", feed_id = %self.feed, object_id = %object, size).entered();
        self.store
            .write(object, block.value_len(), &self.owner, self.feed, |value| {
                block.write_value(value);
            })?;
        self.blocks.push(BlockReport {
            object_id: object.to_string(),
            node_id: self.store.node_id().to_string(),
            node_address: self.store.node_address().to_owned(),
            rows: block.rows(),
            bytes: block.value_len(),
        });
        Ok(())
    }

    fn finish(&mut self, even_if_empty: bool) -> Result<String, NativeError> {
        let _span = debug_span!("feed_finish", feed_id = %self.feed, partition = self.partition).entered();
        if self.builder.rows() > 0 || (even_if_empty && self.blocks.is_empty()) {
            self.write_block()?;
        }
        // Seals are one-way: the owner must not adopt blocks before the store has seen them.
        if let Some(index) = self.blocks.len().checked_sub(1) {
            self.store
                .confirm(ObjectId::for_result(self.task, index as u32))?;
        }
        let report = FeedReport {
            partition: self.partition,
            attempt: self.attempt,
            blocks: &self.blocks,
        };
        Ok(serde_json::to_string(&report)?)
    }
}

fn open(
    request: &str,
    schema_json: &str,
    time_zone: &str,
    partition: i32,
    attempt: i64,
) -> Result<PartitionFeed, NativeError> {
    let request: FeedRequest = serde_json::from_str(request)?;
    let _span = debug_span!("feed_open", feed_id = request.feed_id, partition, attempt).entered();
    let schema = SparkSchema::from_json(schema_json)?;
    Ok(PartitionFeed {
        store: NodeStore::connect(&request.cluster_id)?,
        feed: parse_feed(&request.feed_id)?,
        owner: parse_address(&request.owner)?,
        task: TaskId::next(),
        builder: BlockBuilder::new(&schema, time_zone, request.max_block_bytes)?,
        partition,
        attempt,
        blocks: Vec::new(),
    })
}

/// Hands staged bytes, their address, length and number of rows, to a feed.
fn with_staged(
    handle: jlong,
    (address, length, rows): (jlong, jlong, jint),
    append: impl FnOnce(&mut PartitionFeed, &[u8], usize) -> Result<(), NativeError>,
) -> Result<(), NativeError> {
    let refuse =
        |what: &str| NativeError::refused(ErrorCode::Internal, format!("staged rows have no {what}"));
    let length = usize::try_from(length).map_err(|_| refuse("length"))?;
    let rows = usize::try_from(rows).map_err(|_| refuse("count"))?;
    let start = std::ptr::with_exposed_provenance::<u8>(address as usize);
    if start.is_null() {
        return Err(refuse("address"));
    }
    // SAFETY: Java's stages keep `length` initialised bytes at this address and change them only after the call.
    let bytes = unsafe { std::slice::from_raw_parts(start, length) };
    append(&mut FEEDS.get(handle)?.lock(), bytes, rows)
}

/// Begins the blocks of one partition; returns their key.
#[unsafe(no_mangle)]
pub(crate) extern "system" fn Java_org_sparkray_data_DataNative_feedOpen<'local>(
    env: EnvUnowned<'local>,
    _class: JClass<'local>,
    request: JString<'local>,
    schema_json: JString<'local>,
    time_zone: JString<'local>,
    partition: jint,
    attempt: jlong,
) -> jlong {
    guard(env, |env| {
        let (request, schema_json) = (text(env, &request)?, text(env, &schema_json)?);
        let feed = open(
            &request,
            &schema_json,
            &text(env, &time_zone)?,
            partition,
            attempt,
        )?;
        Ok(FEEDS.insert(Mutex::new(feed)))
    })
}

/// Adds staged rows; writes blocks that are full.
#[unsafe(no_mangle)]
pub(crate) extern "system" fn Java_org_sparkray_data_DataNative_feedAppend<'local>(
    env: EnvUnowned<'local>,
    _class: JClass<'local>,
    handle: jlong,
    address: jlong,
    length: jlong,
    rows: jint,
) {
    guard(env, |_| {
        with_staged(handle, (address, length, rows), PartitionFeed::append)
    });
}

/// As `feedAppend`, for columns of fixed width.
#[unsafe(no_mangle)]
pub(crate) extern "system" fn Java_org_sparkray_data_DataNative_feedAppendColumns<'local>(
    env: EnvUnowned<'local>,
    _class: JClass<'local>,
    handle: jlong,
    address: jlong,
    length: jlong,
    rows: jint,
) {
    guard(env, |_| {
        with_staged(handle, (address, length, rows), PartitionFeed::append_columns)
    });
}

/// Writes the last block and lists all blocks in JSON.
#[unsafe(no_mangle)]
pub(crate) extern "system" fn Java_org_sparkray_data_DataNative_feedFinish<'local>(
    env: EnvUnowned<'local>,
    _class: JClass<'local>,
    handle: jlong,
    even_if_empty: jboolean,
) -> JString<'local> {
    guard(env, |env| {
        let report = FEEDS.get(handle)?.lock().finish(even_if_empty)?;
        Ok(env.new_string(report)?)
    })
}

/// Frees what the feed holds; a second call does nothing.
#[unsafe(no_mangle)]
pub(crate) extern "system" fn Java_org_sparkray_data_DataNative_feedClose<'local>(
    env: EnvUnowned<'local>,
    _class: JClass<'local>,
    handle: jlong,
) {
    guard(env, |_| {
        drop(FEEDS.remove(handle));
        Ok(())
    });
}
