"""Writes gzip with all cores: one gzip member for each chunk, which every reader takes as one stream."""

from __future__ import annotations

import collections
import concurrent.futures
import struct
import zlib
from types import TracebackType
from typing import BinaryIO

from sparkray._private import limits

CHUNK_BYTES = 4 * 1024**2
LEVEL = 1
# Magic, deflate, no flags, no time, fastest, Unix.
_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x04\x03"


class ParallelGzipWriter:
    """A file to write to; what is written is compressed by a pool of threads and goes to another file in order."""

    def __init__(self, file: BinaryIO, threads: int | None = None) -> None:
        self._file = file
        self._threads = threads or min(limits.cpus(), 8)
        self._pool = concurrent.futures.ThreadPoolExecutor(self._threads, thread_name_prefix="sparkray-gzip")
        self._buffer = bytearray()
        self._pending: collections.deque[concurrent.futures.Future[bytes]] = collections.deque()

    def write(self, data: bytes) -> int:
        """Takes bytes; waits when compression is behind."""
        self._buffer += data
        while len(self._buffer) >= CHUNK_BYTES:
            chunk = bytes(memoryview(self._buffer)[:CHUNK_BYTES])
            del self._buffer[:CHUNK_BYTES]
            self._submit(chunk)
        return len(data)

    def close(self) -> None:
        """Writes what is left and ends the threads; the underlying file stays open."""
        try:
            self._submit(bytes(self._buffer))
            self._buffer.clear()
            while self._pending:
                self._file.write(self._pending.popleft().result())
        finally:
            self._pool.shutdown(cancel_futures=True)

    def __enter__(self) -> ParallelGzipWriter:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exception is None:
            self.close()
        else:
            self._pool.shutdown(cancel_futures=True)

    def _submit(self, chunk: bytes) -> None:
        while len(self._pending) >= 2 * self._threads:
            self._file.write(self._pending.popleft().result())
        self._pending.append(self._pool.submit(_gzip_member, chunk))


def _gzip_member(chunk: bytes) -> bytes:
    compressor = zlib.compressobj(LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = compressor.compress(chunk) + compressor.flush()
    return _HEADER + body + struct.pack("<LL", zlib.crc32(chunk), len(chunk) & 0xFFFFFFFF)
