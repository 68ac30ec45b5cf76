//! Native methods of `org.sparkray.data.DataNative` that read a block in place.
//!
//! Who frees what: an [`OpenBlock`] owns the mapping (through the buffers of the stream) and every column that was
//! cast. All of it goes when Java closes the handle, which it does when the task completes; the addresses given to
//! Java before are invalid from then on. Java's vectors over them free nothing.

use std::path::Path;

use jni::EnvUnowned;
use jni::objects::{JByteArray, JClass, JIntArray, JLongArray, JString};
use jni::sys::jlong;
use sparkray_common::sync::Mutex;
use sparkray_common::{ErrorCode, ObjectId};
use sparkray_proto::bridge::TableBlock;
use tracing::debug_span;

use crate::columns::{ColumnError, ExportedBatch, SparkColumns, SparkSchema, StreamBatches};
use crate::error::NativeError;
use crate::guard::{guard, text};
use crate::handles::Handles;
use crate::held_blocks::{in_place, until_task_ends};
use crate::requests::message;
use crate::store_access::NodeStore;
use crate::table_block::{Block, in_block};

static BLOCKS: Handles<Mutex<OpenBlock>> = Handles::new("block");

struct OpenBlock {
    name: String,
    object: ObjectId,
    stream: StreamBatches,
    columns: SparkColumns,
    promised: SparkSchema,
    projection: Vec<usize>,
    /// Batches that were made from one of the stream and not handed out yet, the last first.
    pending: Vec<ExportedBatch>,
    /// What was handed out: Java may look at it until the block is closed.
    handed_out: Vec<ExportedBatch>,
}

impl OpenBlock {
    /// `hold_directory`: where copies go of what is held until the task ends; none when it is read and let go.
    fn open(block: Block, hold_directory: Option<&Path>) -> Result<Self, NativeError> {
        let name = block.name();
        let id = block.entry.object;
        let _span = debug_span!("table_open", object_id = %id).entered();
        let store = NodeStore::connect(block.cluster_id)?;
        let object = store.read(id, &block.entry.locations)?;
        let value = match hold_directory {
            Some(directory) => until_task_ends(object, block.hold_bytes, directory)?,
            None => in_place(object)?,
        };
        let stream = StreamBatches::open(value).map_err(|error| in_block(&name, &error))?;
        let columns = SparkColumns::new(stream.schema()).map_err(|error| in_block(&name, &error))?;
        let promised = columns.spark_schema();
        let projection = (0..promised.fields.len()).collect();
        let (pending, handed_out) = (Vec::new(), Vec::new());
        Ok(Self {
            name,
            object: id,
            stream,
            columns,
            promised,
            projection,
            pending,
            handed_out,
        })
    }

    fn project(&mut self, schema_json: &str, projection: &[i32]) -> Result<(), NativeError> {
        let promised = SparkSchema::from_json(schema_json)?;
        self.columns.fit_to(&promised, &self.name)?;
        let mut columns = Vec::with_capacity(projection.len());
        for index in projection {
            let index = usize::try_from(*index)
                .ok()
                .filter(|index| *index < promised.fields.len());
            columns.push(index.ok_or_else(|| {
                NativeError::refused(ErrorCode::Internal, format!("{} has no such column", self.name))
            })?);
        }
        self.promised = promised;
        self.projection = columns;
        Ok(())
    }

    /// The words of the next batch; `None` at the end.
    fn next(&mut self) -> Result<Option<&[i64]>, NativeError> {
        let _span = debug_span!("table_read", object_id = %self.object).entered();
        let name = &self.name;
        let in_block = |error: ColumnError| in_block(name, &error);
        while self.pending.is_empty() {
            let Some(batch) = self.stream.next_batch().map_err(in_block)? else {
                return Ok(None);
            };
            for (rows, arrays) in self
                .columns
                .convert(&batch, &self.projection, &self.promised)
                .map_err(in_block)?
                .iter()
                .rev()
            {
                self.pending
                    .push(ExportedBatch::new(*rows, arrays).map_err(in_block)?);
            }
        }
        self.handed_out.extend(self.pending.pop());
        Ok(self.handed_out.last().map(ExportedBatch::words))
    }
}

/// Gets a block into this node's store, maps it and returns its key. `hold_directory` is null when it is not held.
#[unsafe(no_mangle)]
pub(crate) extern "system" fn Java_org_sparkray_data_DataNative_tableOpen<'local>(
    env: EnvUnowned<'local>,
    _class: JClass<'local>,
    block: JByteArray<'local>,
    hold_directory: JString<'local>,
) -> jlong {
    guard(env, |env| {
        let directory = if hold_directory.is_null() {
            None
        } else {
            Some(text(env, &hold_directory)?)
        };
        let block: TableBlock = message(env, &block)?;
        let block = OpenBlock::open(block.try_into()?, directory.as_deref().map(Path::new))?;
        Ok(BLOCKS.insert(Mutex::new(block)))
    })
}

/// Fixes which columns are read.
#[unsafe(no_mangle)]
pub(crate) extern "system" fn Java_org_sparkray_data_DataNative_tableProject<'local>(
    env: EnvUnowned<'local>,
    _class: JClass<'local>,
    handle: jlong,
    schema_json: JString<'local>,
    columns: JIntArray<'local>,
) {
    guard(env, |env| {
        let mut projection = vec![0; columns.len(env)?];
        columns.get_region(env, 0, &mut projection)?;
        BLOCKS
            .get(handle)?
            .lock()
            .project(&text(env, &schema_json)?, &projection)
    });
}

/// Addresses of the next batch; null at the end.
#[unsafe(no_mangle)]
pub(crate) extern "system" fn Java_org_sparkray_data_DataNative_tableNext<'local>(
    env: EnvUnowned<'local>,
    _class: JClass<'local>,
    handle: jlong,
) -> JLongArray<'local> {
    guard(env, |env| {
        let block = BLOCKS.get(handle)?;
        let mut block = block.lock();
        let Some(words) = block.next()? else {
            return Ok(JLongArray::default());
        };
        let array = env.new_long_array(words.len())?;
        array.set_region(env, 0, words)?;
        Ok(array)
    })
}

/// Unmaps the block and frees what was cast; a second call does nothing.
#[unsafe(no_mangle)]
pub(crate) extern "system" fn Java_org_sparkray_data_DataNative_tableClose<'local>(
    env: EnvUnowned<'local>,
    _class: JClass<'local>,
    handle: jlong,
) {
    guard(env, |_| {
        drop(BLOCKS.remove(handle));
        Ok(())
    });
}
