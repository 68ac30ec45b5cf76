//! A block of a table, as `to_spark` describes it, checked.

use sparkray_common::{ClusterId, NodeId, ObjectId};
use sparkray_object_store::GetEntry;
use sparkray_proto::MessageError;
use sparkray_proto::bridge::TableBlock;

use crate::columns::ColumnError;
use crate::error::NativeError;

/// Where to find one block.
pub(crate) struct Block {
    /// The cluster whose object it is.
    pub(crate) cluster_id: ClusterId,
    pub(crate) entry: GetEntry,
    /// Position in the list that the user gave.
    pub(crate) index: u32,
    /// Bytes of the object.
    pub(crate) size: u64,
    /// Bytes of this node's store that blocks may occupy until the tasks that read them end.
    pub(crate) hold_bytes: u64,
}

impl Block {
    /// What messages call it.
    pub(crate) fn name(&self) -> String {
        format!("block {} (object {})", self.index, self.entry.object)
    }
}

impl TryFrom<TableBlock> for Block {
    type Error = MessageError;

    fn try_from(message: TableBlock) -> Result<Self, MessageError> {
        for location in &message.locations {
            NodeId::from_slice(&location.node_id)?;
        }
        Ok(Self {
            cluster_id: ClusterId::from_slice(&message.cluster_id)?,
            entry: GetEntry {
                object: ObjectId::from_slice(&message.object_id)?,
                locations: message.locations,
            },
            index: message.index,
            size: message.size,
            hold_bytes: message.hold_bytes,
        })
    }
}

/// A failure in the columns of the block of this name.
pub(crate) fn in_block(name: &str, error: &ColumnError) -> NativeError {
    NativeError::refused(error.code(), format!("{name}: {error}"))
}
