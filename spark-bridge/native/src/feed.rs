//! Native methods of `org.sparkray.data.DataNative` that write a partition's rows into blocks of this node's store.
//!
//! The staged bytes belong to Java and are read during the call only. A block is written straight into its range of
//! the store and sealed as provisional: the owner of the feed adopts the blocks of the attempts that Spark reports.

use jni::EnvUnowned;
use jni::objects::{JByteArray, JClass, JString};
use jni::sys::{jboolean, jint, jlong};
use sparkray_common::sync::Mutex;
use sparkray_common::{ClusterId, ErrorCode, FeedId, ObjectId, TaskId, WorkerAddress};
use sparkray_proto::bridge::{FedBlock, FedPartition, FeedReport, FeedRequest};
use sparkray_proto::{MessageError, location_of};
use tracing::debug_span;

use crate::columns::{BlockBuilder, SparkSchema, StagedColumns, StagedRows};
use crate::error::NativeError;
use crate::guard::{guard, text};
use crate::handles::Handles;
use crate::requests::{answer, message};
use crate::store_access::NodeStore;

static FEEDS: Handles<Mutex<PartitionFeed>> = Handles::new("feed");

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
    blocks: Vec<FedBlock>,
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
        self.blocks.push(FedBlock {
            object_id: object.to_vec().into(),
            location: Some(location_of(self.store.node_id(), self.store.node_address())),
            rows: block.rows() as u64,
            size: size as u64,
        });
        Ok(())
    }

    fn finish(&mut self, even_if_empty: bool) -> Result<FeedReport, NativeError> {
        let _span = debug_span!("feed_finish", feed_id = %self.feed, partition = self.partition).entered();
        if self.builder.rows() > 0 || (even_if_empty && self.blocks.is_empty()) {
            self.write_block()?;
        }
        // Seals are one-way: the owner must not adopt blocks before the store has seen them.
        if let Some(index) = self.blocks.len().checked_sub(1) {
            self.store
                .confirm(ObjectId::for_result(self.task, index as u32))?;
        }
        Ok(FeedReport {
            partitions: vec![FedPartition {
                partition: self.partition,
                attempt: self.attempt,
                blocks: self.blocks.clone(),
            }],
        })
    }
}

fn open(
    request: &FeedRequest,
    schema_json: &str,
    time_zone: &str,
    partition: i32,
    attempt: i64,
) -> Result<PartitionFeed, NativeError> {
    let feed = FeedId::from_slice(&request.feed_id).map_err(MessageError::from)?;
    let _span = debug_span!("feed_open", feed_id = %feed, partition, attempt).entered();
    let schema = SparkSchema::from_json(schema_json)?;
    let cluster_id = ClusterId::from_slice(&request.cluster_id).map_err(MessageError::from)?;
    let owner = request.owner.as_ref().ok_or(MessageError::Missing("owner"))?;
    Ok(PartitionFeed {
        store: NodeStore::connect(cluster_id)?,
        feed,
        owner: WorkerAddress::try_from(owner)?,
        task: TaskId::next(),
        builder: BlockBuilder::new(&schema, time_zone, request.max_block_bytes as usize)?,
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
    request: JByteArray<'local>,
    schema_json: JString<'local>,
    time_zone: JString<'local>,
    partition: jint,
    attempt: jlong,
) -> jlong {
    guard(env, |env| {
        let feed = open(
            &message(env, &request)?,
            &text(env, &schema_json)?,
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

/// Writes the last block and lists all blocks: a `FeedReport`.
#[unsafe(no_mangle)]
pub(crate) extern "system" fn Java_org_sparkray_data_DataNative_feedFinish<'local>(
    env: EnvUnowned<'local>,
    _class: JClass<'local>,
    handle: jlong,
    even_if_empty: jboolean,
) -> JByteArray<'local> {
    guard(env, |env| {
        let report = FEEDS.get(handle)?.lock().finish(even_if_empty)?;
        answer(env, &report)
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
