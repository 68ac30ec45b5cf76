//! Messages of a known length over a non-blocking socket, for tokio: what comes before frames and HTTP/2.

use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Sends all bytes.
pub(crate) async fn write_all(socket: &AsyncFd<OwnedFd>, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let written = socket
            .async_io(Interest::WRITABLE, |fd| {
                Ok(rustix::net::send(fd, bytes, rustix::net::SendFlags::NOSIGNAL)?)
            })
            .await?;
        bytes = &bytes[written..];
    }
    Ok(())
}

/// Fills the buffer; the end of the stream before that is an error.
pub(crate) async fn read_exact(socket: &AsyncFd<OwnedFd>, bytes: &mut [u8]) -> std::io::Result<()> {
    let mut filled = 0;
    while filled < bytes.len() {
        let slot = &mut bytes[filled..];
        let read = socket
            .async_io(Interest::READABLE, |fd| Ok(rustix::io::read(fd, &mut *slot)?))
            .await?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        filled += read;
    }
    Ok(())
}
