//! From messages to domain types, checked, and back.

use sparkray_common::{
    BadVariable, ErrorCode, IdError, NodeId, ObjectId, ResourceError, ResourceSet, WorkerAddress as Address,
    WorkerId,
};

use crate::generated::{Failure, ObjectLocation, ObjectReference, Resources, WorkerAddress};

/// A message that breaks the protocol.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum MessageError {
    /// An id of the wrong length.
    #[error(transparent)]
    Id(#[from] IdError),
    /// An amount that is not a resource.
    #[error(transparent)]
    Resource(#[from] ResourceError),
    /// A field that must be there.
    #[error("message lacks {0}")]
    Missing(&'static str),
    /// A worker of a language that this version does not have.
    #[error("there are no workers of language {0}")]
    Language(i32),
    /// A variable that no process can have.
    #[error(transparent)]
    Variable(#[from] BadVariable),
    /// Bytes that protobuf does not read.
    #[error("message cannot be decoded: {0}")]
    Decode(String),
    /// Bytes from another language that are not the message that was agreed on.
    #[error("cannot read {name}: {cause}")]
    Unreadable {
        /// Of the message.
        name: &'static str,
        /// What protobuf says.
        cause: String,
    },
}

impl From<&Address> for WorkerAddress {
    fn from(address: &Address) -> Self {
        Self {
            node_id: address.node_id.to_vec().into(),
            worker_id: address.worker_id.to_vec().into(),
            node_address: address.node_address.clone(),
        }
    }
}

impl TryFrom<&WorkerAddress> for Address {
    type Error = MessageError;

    fn try_from(message: &WorkerAddress) -> Result<Self, MessageError> {
        Ok(Self {
            node_id: NodeId::from_slice(&message.node_id)?,
            worker_id: WorkerId::from_slice(&message.worker_id)?,
            node_address: message.node_address.clone(),
        })
    }
}

impl ObjectReference {
    /// A reference to `object` of `owner`.
    pub fn new(object: ObjectId, owner: &Address) -> Self {
        Self {
            object_id: object.to_vec().into(),
            owner: Some(owner.into()),
        }
    }

    /// The object and its owner, checked.
    pub fn parts(&self) -> Result<(ObjectId, Address), MessageError> {
        let owner = self.owner.as_ref().ok_or(MessageError::Missing("owner"))?;
        Ok((ObjectId::from_slice(&self.object_id)?, owner.try_into()?))
    }
}

impl From<&ResourceSet> for Resources {
    fn from(set: &ResourceSet) -> Self {
        Self {
            units: set.to_units().into_iter().collect(),
        }
    }
}

impl TryFrom<&Resources> for ResourceSet {
    type Error = MessageError;

    fn try_from(message: &Resources) -> Result<Self, MessageError> {
        Ok(ResourceSet::from_units(
            message.units.iter().map(|(name, amount)| (name.clone(), *amount)),
        )?)
    }
}

impl Failure {
    /// A failure with this code.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code: code.number(),
            message: message.into(),
        }
    }

    /// Its code.
    pub fn error_code(&self) -> ErrorCode {
        ErrorCode::from_number(self.code)
    }
}

/// A location message.
pub fn location_of(node: NodeId, node_address: &str) -> ObjectLocation {
    ObjectLocation {
        node_id: node.to_vec().into(),
        node_address: node_address.to_owned(),
    }
}
