//! Frames as they are put into an outgoing buffer, and inline parts as they are read from one that came.

use std::ops::Range;

use bytes::Bytes;
use prost::Message;
use sparkray_common::ErrorCode;
use sparkray_proto::FrameKind;
use sparkray_rpc::{FRAME_HEADER_LEN, FrameHeader};

use crate::error::CoreError;

/// Where the correlation id is in a frame's header.
pub(in crate::state) const CORRELATION: Range<usize> = 16..24;

/// Appends a whole frame whose message begins with fields that are encoded already.
pub(in crate::state) fn encode_frame<M: Message>(
    out: &mut Vec<u8>,
    kind: FrameKind,
    correlation: u64,
    prefix: &[u8],
    message: &M,
    payload: &[&[u8]],
) {
    let meta_len = prefix.len() + message.encoded_len();
    let payload_len = payload.iter().map(|part| part.len()).sum();
    let header = FrameHeader {
        kind,
        has_descriptor: false,
        meta_len,
        payload_len,
        correlation,
    };
    out.reserve(FRAME_HEADER_LEN + meta_len + payload_len);
    out.extend_from_slice(&header.encode());
    out.extend_from_slice(prefix);
    message.encode(out).expect("a Vec grows as needed");
    for part in payload {
        out.extend_from_slice(part);
    }
}

/// A whole frame, with another correlation id: what was sent over an earlier connection is sent again.
pub(in crate::state) fn with_correlation(frame: &[u8], correlation: u64) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[CORRELATION].copy_from_slice(&correlation.to_le_bytes());
    frame
}

/// An id as a message carries it.
pub(in crate::state) fn id_bytes(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

/// Splits the inline parts of a payload.
pub(in crate::state) struct PayloadReader {
    rest: Bytes,
}

impl PayloadReader {
    pub(in crate::state) fn new(payload: Bytes) -> Self {
        Self { rest: payload }
    }

    pub(in crate::state) fn take(&mut self, length: u64) -> Result<Bytes, CoreError> {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > self.rest.len() {
            return Err(CoreError::new(
                ErrorCode::Internal,
                format!(
                    "a payload of {} bytes is shorter than its message says ({length})",
                    self.rest.len()
                ),
            ));
        }
        Ok(self.rest.split_to(length))
    }
}
