"""Decompress streams of bytes, up to the byte where one is cut short or damaged."""

import bz2
import contextlib
import gzip
import io
import lzma
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

PIECE = 1 << 12  # bytes that are decompressed together


class CountedFile(io.RawIOBase):
    """A file or stream, and how many bytes were read from it."""

    def __init__(self, file: Any):
        self.file, self.position = file, 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        content = self.file.read(size)
        self.position += len(content)
        return content


@contextlib.contextmanager
def decompress(file: Any, compression: str | None) -> Iterator[Callable[[int], bytes]]:
    """Return a function that reads up to some number of decompressed bytes.

    It returns all bytes before it raises an error, where a file is cut short or damaged.
    """
    if compression == "gzip":  # Python's reads several members, and zeros that pad a file
        with gzip.GzipFile(fileobj=file) as stream:
            yield lambda size: stream.read1(min(size, PIECE))
    elif compression == "zstd":
        with pa.CompressedInputStream(file, "zstd") as stream:
            yield lambda size: stream.read(min(size, PIECE))  # what is in a piece is lost with an error in it
    elif compression in ("bzip2", "xz"):
        yield JoinedStreams(file, bz2.BZ2Decompressor if compression == "bzip2" else lzma.LZMADecompressor).read
    else:
        yield file.read


class JoinedStreams:
    """The decompressed bytes of streams that follow each other. Python's own readers end silently where one is damaged.

    Args:
        file: the compressed bytes.
        new_decompressor: makes the decompressor of one stream.
    """

    def __init__(self, file: Any, new_decompressor: Callable[[], Any]):
        self.file, self.new_decompressor, self.decompressor = file, new_decompressor, None

    def read(self, size: int) -> bytes:
        """Read up to `size` bytes; none at the end."""
        content = b""
        while not content:
            if self.decompressor is None or self.decompressor.eof:
                compressed = self.decompressor.unused_data if self.decompressor else b""
                compressed = compressed.lstrip(b"\0") or self.file.read(PIECE).lstrip(b"\0")  # xz pads by zeros
                if not compressed and not (compressed := self.file.read(PIECE)):
                    return b""
                self.decompressor = self.new_decompressor()
            else:
                compressed = self.file.read(PIECE) if self.decompressor.needs_input else b""
                if self.decompressor.needs_input and not compressed:
                    raise EOFError("Compressed file ended before the end-of-stream marker was reached")
            content = self.decompressor.decompress(compressed, min(size, PIECE))
        return content


class ReadFunction(io.RawIOBase):
    """A file of a function that reads up to some number of bytes. What goes wrong is raised after the bytes before."""

    def __init__(self, read: Callable[[int], bytes]):
        self.read_some, self.error = read, None

    def read(self, size: int = -1) -> bytes:
        """Read exactly `size` bytes, or fewer at the end."""
        pieces, missing = [], size
        try:
            while missing and not self.error and (piece := self.read_some(missing)):
                pieces.append(piece)
                missing -= len(piece)
        except Exception as error:  # of any decompressor, or the network
            self.error = error
        if self.error and not pieces:
            raise self.error
        return b"".join(pieces)
