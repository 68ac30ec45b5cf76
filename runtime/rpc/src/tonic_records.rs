//! The bytes between the records of a socket and HTTP/2.

use std::io;
use std::task::{Poll, ready};

use tokio::io::ReadBuf;

use crate::records::Records;

/// Bytes that are sealed ahead of one write.
const SEALED_BYTES: usize = 64 * 1024;

#[derive(Debug)]
pub(crate) struct TonicRecords {
    records: Records,
    /// Opened, and read by nobody yet from `read` on.
    plain: Vec<u8>,
    read: usize,
    /// Sealed, and not written yet from `written` on.
    wire: Vec<u8>,
    written: usize,
}

impl TonicRecords {
    pub(crate) fn new(records: Records) -> Self {
        Self {
            records,
            plain: Vec::new(),
            read: 0,
            wire: Vec::new(),
            written: 0,
        }
    }

    /// Gives what was opened; reads until something is, or the end.
    pub(crate) fn poll_read(
        &mut self,
        buffer: &mut ReadBuf<'_>,
        mut read_socket: impl FnMut(&mut [u8]) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<()>> {
        if self.read == self.plain.len() {
            let opener = &mut self.records.opener;
            self.plain.clear();
            self.read = 0;
            while self.plain.is_empty() {
                let read = ready!(read_socket(opener.read_slot()))?;
                if read == 0 {
                    break;
                }
                opener.advance(read);
                opener.take_all_into(&mut self.plain).map_err(io::Error::other)?;
            }
        }
        let waiting = &self.plain[self.read..];
        let taken = waiting.len().min(buffer.remaining());
        buffer.put_slice(&waiting[..taken]);
        self.read += taken;
        Poll::Ready(Ok(()))
    }

    /// Takes bytes once those that were taken before have left: no more than one write is sealed ahead. Returns how many.
    pub(crate) fn poll_write(
        &mut self,
        parts: &[io::IoSlice<'_>],
        mut write_socket: impl FnMut(&[u8]) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_drain(&mut write_socket))?;
        let mut plain = Vec::new();
        for part in parts {
            let room = SEALED_BYTES - plain.len();
            plain.extend_from_slice(&part[..part.len().min(room)]);
        }
        self.records.sealer.seal(&plain, &mut self.wire);
        // The rest leaves with the next write, or the flush.
        if let Poll::Ready(Err(error)) = self.poll_drain(write_socket) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(plain.len()))
    }

    /// Writes what is sealed.
    pub(crate) fn poll_drain(
        &mut self,
        mut write_socket: impl FnMut(&[u8]) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<()>> {
        while self.written < self.wire.len() {
            self.written += ready!(write_socket(&self.wire[self.written..]))?;
        }
        self.wire.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }
}
