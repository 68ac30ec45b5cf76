//! Frames: a header of 24 bytes, a protobuf message (meta) and raw bytes (payload).
//!
//! ```text
//! 0..2 kind   2..4 flags   4..8 meta length   8..16 payload length   16..24 correlation id     little-endian
//! ```

use std::os::fd::OwnedFd;

use bytes::{Buf, Bytes, BytesMut};
use prost::Message;
use sparkray_proto::{FrameKind, MessageError};

use crate::RpcError;

/// Length of a frame's header.
pub const FRAME_HEADER_LEN: usize = 24;
const FLAG_DESCRIPTOR: u16 = 1;
const MAX_META: usize = 1 << 30;
const MAX_PAYLOAD: usize = 1 << 36;
/// Room that the decoder asks for when it does not know how much follows.
const READ_SIZE: usize = 64 * 1024;

/// One message on a connection.
#[derive(Debug)]
pub struct Frame {
    /// Which message `meta` is.
    pub kind: FrameKind,
    /// Joins a reply to its request; 0: one-way.
    pub correlation: u64,
    /// The encoded message.
    pub meta: Bytes,
    /// Raw bytes.
    pub payload: Bytes,
    /// A descriptor that travels beside the bytes (Unix sockets only).
    pub descriptor: Option<OwnedFd>,
}

/// A frame's header.
#[derive(Debug, Clone, Copy)]
pub struct FrameHeader {
    /// Which message follows.
    pub kind: FrameKind,
    /// Whether a descriptor belongs to it.
    pub has_descriptor: bool,
    /// Bytes of the message.
    pub meta_len: usize,
    /// Bytes after it.
    pub payload_len: usize,
    /// Joins a reply to its request; 0: one-way.
    pub correlation: u64,
}

impl FrameHeader {
    /// The 24 bytes.
    pub fn encode(&self) -> [u8; FRAME_HEADER_LEN] {
        let mut bytes = [0; FRAME_HEADER_LEN];
        bytes[..2].copy_from_slice(&(self.kind as u16).to_le_bytes());
        bytes[2..4].copy_from_slice(&u16::from(self.has_descriptor).to_le_bytes());
        bytes[4..8].copy_from_slice(&(self.meta_len as u32).to_le_bytes());
        bytes[8..16].copy_from_slice(&(self.payload_len as u64).to_le_bytes());
        bytes[16..].copy_from_slice(&self.correlation.to_le_bytes());
        bytes
    }

    fn decode(mut bytes: &[u8]) -> Result<Self, RpcError> {
        let number = bytes.get_u16_le();
        let kind = FrameKind::from_number(number).ok_or_else(|| {
            RpcError::BadFrame(format!("message kind {number} is not known to this version"))
        })?;
        let flags = bytes.get_u16_le();
        let meta_len = bytes.get_u32_le() as usize;
        let payload_len = usize::try_from(bytes.get_u64_le()).unwrap_or(usize::MAX);
        let correlation = bytes.get_u64_le();
        if meta_len > MAX_META || payload_len > MAX_PAYLOAD {
            return Err(RpcError::BadFrame(format!(
                "lengths {meta_len} and {payload_len} exceed the limits"
            )));
        }
        Ok(Self {
            kind,
            has_descriptor: flags & FLAG_DESCRIPTOR != 0,
            meta_len,
            payload_len,
            correlation,
        })
    }
}

impl Frame {
    /// A frame that carries `message`.
    pub fn new<M: Message>(kind: FrameKind, correlation: u64, message: &M) -> Self {
        Self {
            kind,
            correlation,
            meta: Bytes::from(message.encode_to_vec()),
            payload: Bytes::new(),
            descriptor: None,
        }
    }

    /// With raw bytes.
    pub fn with_payload(mut self, payload: Bytes) -> Self {
        self.payload = payload;
        self
    }

    /// With a descriptor.
    pub fn with_descriptor(mut self, descriptor: OwnedFd) -> Self {
        self.descriptor = Some(descriptor);
        self
    }

    /// Decodes the message.
    pub fn decode<M: Message + Default>(&self) -> Result<M, RpcError> {
        M::decode(self.meta.clone()).map_err(|error| MessageError::Decode(error.to_string()).into())
    }

    /// Its header.
    pub fn header(&self) -> FrameHeader {
        FrameHeader {
            kind: self.kind,
            has_descriptor: self.descriptor.is_some(),
            meta_len: self.meta.len(),
            payload_len: self.payload.len(),
            correlation: self.correlation,
        }
    }
}

/// Appends header and message, without payload, to `out`.
pub fn encode_frame_head<M: Message>(
    out: &mut Vec<u8>,
    kind: FrameKind,
    correlation: u64,
    message: &M,
    payload_len: usize,
) {
    let meta_len = message.encoded_len();
    let header = FrameHeader {
        kind,
        has_descriptor: false,
        meta_len,
        payload_len,
        correlation,
    };
    out.reserve(FRAME_HEADER_LEN + meta_len + payload_len.min(READ_SIZE));
    out.extend_from_slice(&header.encode());
    message.encode(out).expect("a Vec grows as needed");
}

/// Cuts a stream of bytes into frames.
///
/// Small frames are read through a buffer that is used again and again, and then cost exactly their bytes: whoever keeps
/// a part of one keeps no more than what was read with it. Large ones are read straight into a buffer of their size.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    buffer: BytesMut,
    /// For reads whose length is not known.
    scratch: Vec<u8>,
    /// The slot that was given is the end of `buffer`.
    direct: bool,
    header: Option<FrameHeader>,
    descriptors: std::collections::VecDeque<OwnedFd>,
}

impl FrameDecoder {
    /// How many bytes of a large frame are still to come; 0: no frame is known to be large.
    fn missing(&self) -> usize {
        let whole = self
            .header
            .map_or(0, |header| header.meta_len + header.payload_len);
        let missing = whole.saturating_sub(self.buffer.len());
        if missing > READ_SIZE { missing } else { 0 }
    }

    /// Room to read into; call [`FrameDecoder::advance`] with the bytes that were read.
    pub fn read_slot(&mut self) -> &mut [u8] {
        let missing = self.missing();
        self.direct = missing > 0;
        if !self.direct {
            self.scratch.resize(READ_SIZE, 0);
            return &mut self.scratch;
        }
        let filled = self.buffer.len();
        // Grown in steps, so that a length is believed only as its bytes arrive.
        self.buffer.resize(filled + missing.min(4 << 20), 0);
        &mut self.buffer[filled..]
    }

    /// Room for exactly `len` bytes, which become one read; for records, whose length is known.
    pub fn record_slot(&mut self, len: usize) -> &mut [u8] {
        self.direct = self.missing() > 0;
        if !self.direct {
            if self.scratch.len() < len {
                self.scratch.resize(len, 0);
            }
            return &mut self.scratch[..len];
        }
        let filled = self.buffer.len();
        self.buffer.reserve(self.missing().min(4 << 20).max(len));
        self.buffer.resize(filled + len, 0);
        &mut self.buffer[filled..]
    }

    /// Takes the slot back: `slot_len` is its length, `read` the bytes in it.
    pub fn advance(&mut self, slot_len: usize, read: usize) {
        if self.direct {
            let unused = slot_len - read;
            self.buffer.truncate(self.buffer.len() - unused);
        } else if self.buffer.is_empty() {
            self.buffer = BytesMut::from(&self.scratch[..read]);
        } else {
            self.buffer.extend_from_slice(&self.scratch[..read]);
        }
    }

    /// Adds bytes that were read elsewhere.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Moves up to `count` bytes that are not frames (a handshake's) to `out`.
    pub fn take_raw(&mut self, count: usize, out: &mut Vec<u8>) {
        let taken = self.buffer.split_to(count.min(self.buffer.len()));
        out.extend_from_slice(&taken);
    }

    /// Adds a descriptor that arrived beside the bytes.
    pub fn push_descriptor(&mut self, descriptor: OwnedFd) {
        self.descriptors.push_back(descriptor);
    }

    /// Reads the header of the frame that begins, if it is there.
    fn read_header(&mut self) -> Result<Option<FrameHeader>, RpcError> {
        if self.header.is_none() && self.buffer.len() >= FRAME_HEADER_LEN {
            self.header = Some(FrameHeader::decode(&self.buffer[..FRAME_HEADER_LEN])?);
            self.buffer.advance(FRAME_HEADER_LEN);
        }
        Ok(self.header)
    }

    /// The next whole frame.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, RpcError> {
        let Some(header) = self.read_header()? else {
            return Ok(None);
        };
        if self.buffer.len() < header.meta_len + header.payload_len {
            return Ok(None);
        }
        self.header = None;
        let meta = self.buffer.split_to(header.meta_len).freeze();
        let payload = self.buffer.split_to(header.payload_len).freeze();
        let descriptor = if header.has_descriptor {
            let descriptor = self.descriptors.pop_front();
            Some(descriptor.ok_or_else(|| RpcError::BadFrame("its descriptor is missing".to_owned()))?)
        } else {
            None
        };
        Ok(Some(Frame {
            kind: header.kind,
            correlation: header.correlation,
            meta,
            payload,
            descriptor,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sparkray_proto::{LeaseWanted, WorkerLabel};

    fn encode(frame: &Frame) -> Vec<u8> {
        let mut bytes = frame.header().encode().to_vec();
        bytes.extend_from_slice(&frame.meta);
        bytes.extend_from_slice(&frame.payload);
        bytes
    }

    proptest! {
        #[test]
        fn frames_survive_any_cut_of_the_stream(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..2000), 1..6),
            cuts in prop::collection::vec(1_usize..700, 1..40),
        ) {
            let mut stream = Vec::new();
            for (index, payload) in payloads.iter().enumerate() {
                let message = WorkerLabel { name: format!("f{index}"), job_id: Bytes::new() };
                let frame = Frame::new(FrameKind::WorkerLabel, index as u64, &message)
                    .with_payload(Bytes::from(payload.clone()));
                stream.extend_from_slice(&encode(&frame));
            }
            let mut decoder = FrameDecoder::default();
            let mut seen = Vec::new();
            let mut rest = &stream[..];
            let mut cut = cuts.iter().cycle();
            while !rest.is_empty() {
                let take = (*cut.next().unwrap()).min(rest.len());
                let slot = decoder.read_slot();
                let slot_len = slot.len();
                slot[..take].copy_from_slice(&rest[..take]);
                decoder.advance(slot_len, take);
                rest = &rest[take..];
                while let Some(frame) = decoder.next_frame().unwrap() {
                    seen.push(frame);
                }
            }
            prop_assert_eq!(seen.len(), payloads.len());
            for (index, (frame, payload)) in seen.iter().zip(&payloads).enumerate() {
                prop_assert_eq!(frame.correlation, index as u64);
                prop_assert_eq!(&frame.payload[..], &payload[..]);
                prop_assert_eq!(frame.decode::<WorkerLabel>().unwrap().name, format!("f{index}"));
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut decoder = FrameDecoder::default();
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.next_frame() {}
        }
    }

    #[test]
    fn a_frame_that_promises_a_descriptor_needs_one() {
        let mut header = Frame::new(FrameKind::LeaseWanted, 0, &LeaseWanted::default()).header();
        header.has_descriptor = true;
        let mut decoder = FrameDecoder::default();
        decoder.push(&header.encode());
        assert!(decoder.next_frame().is_err());
    }
}
