"""Open files and URLs as streams of their decompressed bytes."""

import os
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import fsspec
import pyarrow as pa
from datasets.exceptions import DatasetGenerationError
from pyarrow.fs import FileSystem, FSSpecHandler, PyFileSystem

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
CHUNK = 16 << 20  # bytes that are read and parsed together
PIECE = 1 << 16  # bytes that are decompressed together, and lost where a compressed file is cut short
BOM = b"\xef\xbb\xbf"

# The N texts of one column in Arrow, or a list of N rows; and a message for each that cannot be read, by its index.
Batch = tuple[Any, dict[int, str]]


class BadFile(DatasetGenerationError, ValueError):
    """A file that cannot be read, with the message for the user. `datasets` raises this class unchanged."""


class Problem(NamedTuple):
    """Why a row cannot be read, or with `is_file` the rest of its file, and how many bytes on the disk are lost."""

    message: str
    lost_bytes: int
    is_file: bool = False


def file_format(path: str) -> tuple[str, str | None]:
    """Return the extension and the compression: (".jsonl", "gzip") for "a.jsonl.gz", (".csv", None) for "a.csv"."""
    stem, last = os.path.splitext((urlsplit(path).path if "://" in path else path).lower())
    return (os.path.splitext(stem)[1], COMPRESSIONS[last]) if last in COMPRESSIONS else (last, None)


def open_filesystem(url: str) -> tuple[FileSystem, str]:
    """Return the file system of a URL and the path in it: Arrow's own for object stores, fsspec's for others."""
    if url.startswith(("s3://", "gs://")):
        return FileSystem.from_uri(url)
    filesystem, path = fsspec.url_to_fs(url)
    return PyFileSystem(FSSpecHandler(filesystem)), path


def open_bytes(path: str, compression: str | None = None) -> pa.NativeFile:
    """Open a file or URL; with `compression` its bytes are decompressed while they are read."""
    if "://" not in path:
        return pa.input_stream(path, compression=compression)
    filesystem, inner = open_filesystem(path)
    return filesystem.open_input_stream(inner, compression=compression)


def read_chunks(path: str) -> Iterator[bytes]:
    """Read the decompressed bytes of a file or URL.

    Arrow raises where a compressed file is cut short or its checksum is wrong; the bytes before that come first.
    """
    compression = file_format(path)[1]
    with open_bytes(path, compression) as stream:
        pieces, size = [], 0
        try:
            while piece := stream.read(PIECE if compression else CHUNK):
                pieces.append(piece)
                size += len(piece)
                if size >= CHUNK:
                    yield b"".join(pieces)
                    pieces, size = [], 0
        except Exception:  # the network has classes of its own
            if pieces:
                yield b"".join(pieces)
            raise
        if pieces:
            yield b"".join(pieces)


def read_lines(path: str) -> Iterator[bytes]:
    """Read chunks that end where a line ends."""
    rest = b""
    for chunk in read_chunks(path):
        head, newline, tail = chunk.rpartition(b"\n")
        if newline:
            yield rest + head + newline
            rest = b""
        rest += tail
    if rest:
        yield rest
