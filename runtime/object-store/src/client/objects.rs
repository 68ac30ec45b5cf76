//! Objects that a blocking client writes or reads; what they hold is given back on drop.

use std::sync::Arc;

use sparkray_common::ObjectId;
use sparkray_proto::{AbortObject, FrameKind, ReleaseObjects, SealObject};
use sparkray_rpc::Frame;

use super::blocking::Shared;
use crate::error::StoreError;
use crate::shm::MappedRange;

pub(super) fn release_frame(object: ObjectId) -> Frame {
    Frame::new(
        FrameKind::ReleaseObjects,
        0,
        &ReleaseObjects {
            object_ids: vec![object.to_vec().into()],
        },
    )
}

pub(super) fn abort_frame(object: ObjectId) -> Frame {
    Frame::new(
        FrameKind::AbortObject,
        0,
        &AbortObject {
            object_id: object.to_vec().into(),
        },
    )
}

/// An object that is being written. Dropped without [`WritableObject::seal`] it is given up.
#[derive(Debug)]
pub struct WritableObject {
    pub(super) shared: Arc<Shared>,
    pub(super) object: ObjectId,
    pub(super) range: Option<MappedRange>,
}

impl WritableObject {
    /// The object.
    pub fn object_id(&self) -> ObjectId {
        self.object
    }

    /// Its bytes; their first content is arbitrary.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        self.range
            .as_mut()
            .map(MappedRange::as_mut_slice)
            .unwrap_or_default()
    }

    /// The object is complete: it is immutable from now on. Does not wait.
    pub fn seal(mut self) -> Result<(), StoreError> {
        self.range = None;
        let message = SealObject {
            object_id: self.object.to_vec().into(),
        };
        self.shared.send(&Frame::new(FrameKind::SealObject, 0, &message))
    }
}

impl Drop for WritableObject {
    fn drop(&mut self) {
        if self.range.take().is_some() {
            // Without a connection the store has reclaimed it already.
            self.shared.send(&abort_frame(self.object)).ok();
        }
    }
}

/// An object that is being read, in place. Its use is given up on drop.
#[derive(Debug)]
pub struct ReadableObject {
    pub(super) shared: Arc<Shared>,
    pub(super) object: ObjectId,
    pub(super) range: Option<MappedRange>,
}

impl ReadableObject {
    /// The object.
    pub fn object_id(&self) -> ObjectId {
        self.object
    }

    /// Its bytes.
    pub fn as_slice(&self) -> &[u8] {
        self.range.as_ref().map(MappedRange::as_slice).unwrap_or_default()
    }

    /// Takes the bytes out of this process's resident memory; the next access brings them back.
    pub fn give_back(&self) {
        if let Some(range) = &self.range {
            range.give_back();
        }
    }
}

impl AsRef<[u8]> for ReadableObject {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl Drop for ReadableObject {
    fn drop(&mut self) {
        if self.range.take().is_some() {
            // Without a connection the store has taken the use back already.
            self.shared.send(&release_frame(self.object)).ok();
        }
    }
}
