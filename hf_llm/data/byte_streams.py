"""Open files and URLs as streams of their decompressed bytes, or of their text in UTF-8."""

import codecs
import contextlib
import gzip
import itertools
import lzma
import os
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import fsspec
from datasets.exceptions import DatasetGenerationError
from pyarrow.fs import FileSystem, FSSpecHandler, PyFileSystem

from hf_llm.arguments import ReadingArguments
from hf_llm.data.compression import PIECE, CountedFile, decompress
from hf_llm.data.file_signatures import recognize
from hf_llm.messages import one_line, printable

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bzip2", ".xz": "xz", ".lzma": "xz"}
SHORT_EXTENSIONS = {  # of compressed archives
    ".tgz": ".tar.gz", ".tbz": ".tar.bz2", ".tbz2": ".tar.bz2", ".txz": ".tar.xz", ".tzst": ".tar.zst",
}  # fmt: skip
CHUNK = 16 << 20  # bytes that are read and parsed together
HEAD = 1 << 10  # bytes at the start of a file from which its encoding is recognized
BOM = codecs.BOM_UTF8
BOMS = {  # byte order mark -> encoding; that of UTF-32 begins with that of UTF-16
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
TWO_ASCII_CHARACTERS = {  # in a file without a byte order mark, as in RFC 4627, section 3
    "utf-32-le": re.compile(rb"([^\0]\0\0\0){2}"),
    "utf-32-be": re.compile(rb"(\0\0\0[^\0]){2}"),
    "utf-16-le": re.compile(rb"([^\0]\0){2}"),
    "utf-16-be": re.compile(rb"(\0[^\0]){2}"),
}
# Bytes that do not decode become half of a surrogate pair, which is not valid UTF-8: the reader finds it in its row.
codecs.register_error("hf_llm.half_surrogate", lambda error: ("\udc80", error.end))  # pyright: ignore


class BadFile(DatasetGenerationError, ValueError):
    """A file that cannot be read, with the message for the user. `datasets` raises this class unchanged."""


class Problem(NamedTuple):
    """Why a row cannot be read, or with `is_file` the rest of its file, and how many bytes on the disk are lost.

    Args:
        left_out: name of what is in a file and is no text, with the reason as `message`.
    """

    message: str
    lost_bytes: int
    is_file: bool = False
    left_out: str | None = None


class NoColumn(Problem):
    """A row that is well formed, but does not have the column."""


# The N texts of one column in Arrow, or a list of N rows; and the problem of each that cannot be read, by its index.
Batch = tuple[Any, dict[int, Problem]]
# What a reader makes of a file: the texts of one column, or rows with some columns if it has them, or with all (None).
Columns = str | set[str] | None


def file_format(path: str) -> tuple[str, str | None]:
    """Return the extension and the compression: (".jsonl", "gzip") for "a.jsonl.gz", (".csv", None) for "a.csv"."""
    stem, last = os.path.splitext((urlsplit(path).path if "://" in path else path).lower())
    if last in SHORT_EXTENSIONS:
        stem, last = os.path.splitext(stem + SHORT_EXTENSIONS[last])
    return (os.path.splitext(stem)[1], COMPRESSIONS[last]) if last in COMPRESSIONS else (last, None)


def open_filesystem(url: str) -> tuple[FileSystem, str]:
    """Return the file system of a URL and the path in it: Arrow's own for object stores, fsspec's for others."""
    if url.startswith(("s3://", "gs://")):
        return FileSystem.from_uri(url)
    filesystem, path = fsspec.url_to_fs(url)
    return PyFileSystem(FSSpecHandler(filesystem)), path


def open_bytes(path: str, seekable: bool = False) -> Any:
    """Open a file or URL, compressed or not."""
    if "://" not in path:
        return open(path, "rb")  # Arrow does not open names that are not UTF-8
    filesystem, inner = open_filesystem(path)
    return filesystem.open_input_file(inner) if seekable else filesystem.open_input_stream(inner, compression=None)


def size_on_disk(path: str) -> int:
    """Return the size of a file or URL in bytes; 0 where a server does not say it."""
    if "://" not in path:
        return os.path.getsize(path)
    filesystem, inner = open_filesystem(path)
    (entry,) = filesystem.get_file_info([inner])
    return entry.size or 0


class FileStream:
    """The content of a file or URL in chunks, and how many of its bytes on the disk they are made of.

    What goes wrong while it is read ends the chunks and is kept in `error`: what was read before comes first.

    Args:
        path: a file or URL.
        reading: how to read it.
        chunk: approximate number of bytes in a chunk. Default: `CHUNK`.
        member: the open file, if it is one in an archive.
    """

    def __init__(self, path: str, reading: ReadingArguments, chunk: int | None = None, member: Any = None):
        self.path, self.reading, self.chunk, self.member = path, reading, chunk or CHUNK, member
        self.name, self.limit = printable(path), reading.max_text_bytes
        self.encoding = codecs.lookup(reading.encoding).name.removesuffix("-sig")  # until the file shows another one
        self.size = self.position = 0  # of the file on the disk, in bytes; up to where it was read
        self.length = 0  # bytes in the chunks until now
        self.pending = 0  # those at their end that are not in a complete row
        self.error: Exception | None = None
        self.names: list[str] = []  # of its columns, if the file names them once for all rows

    def open(self, seekable: bool = False) -> Any:
        """Open the file, and set its size."""
        if self.member is None:
            self.size = size_on_disk(self.path)
            return open_bytes(self.path, seekable)
        if not seekable:
            return contextlib.closing(self.member)
        file = tempfile.TemporaryFile()  # noqa: SIM115 (the caller closes it)
        shutil.copyfileobj(self.member, file, PIECE)
        self.size = file.tell()
        file.seek(0)
        return file

    def on_disk(self, size: int) -> int:
        """Return about how many bytes on the disk became `size` bytes of the chunks."""
        return max(1, round(size * self.position / max(1, self.length)))

    def unread(self) -> int:
        """Return about how many bytes on the disk were not read as complete rows."""
        if isinstance(self.error, gzip.BadGzipFile | lzma.LZMAError) and "Not a gzipped file" not in str(self.error):
            return max(1, self.size)  # a wrong checksum: any byte before it may be damaged
        pending = self.pending + (PIECE if self.error and file_format(self.path)[1] == "zstd" else 0)
        return max(1, self.size - self.position + (self.on_disk(pending) if pending else 0))

    def read_bytes(self) -> Iterator[bytes]:
        """Yield chunks of the decompressed bytes."""
        pieces, size = [], 0
        try:
            opened = self.open()
            file = CountedFile(opened if self.member is None else self.member)
            with opened, decompress(file, file_format(self.path)[1]) as read:
                while piece := read(self.chunk):
                    pieces.append(piece)
                    size += len(piece)
                    self.position = file.position
                    if size >= self.chunk:
                        yield b"".join(pieces)
                        pieces, size = [], 0
        except Exception as error:  # cut short, damaged, a wrong checksum; the network has classes of its own
            self.error = error
        if pieces:
            yield b"".join(pieces)

    def read_text(self) -> Iterator[bytes]:
        """Yield chunks in UTF-8 without a byte order mark. Bytes that do not decode become invalid UTF-8.

        The encoding is that of the byte order mark, else UTF-16 or UTF-32 if the file begins like that, else
        `--encoding`.
        """
        chunks, head = self.read_bytes(), b""
        while len(head) < HEAD and (chunk := next(chunks, b"")):
            head += chunk
        if found := recognize(head):
            self.error = BadFile(f"`{self.name}` is not text, but {found}")
            return
        self.encoding = detect_encoding(head[:HEAD]) or self.encoding
        decoder = codecs.getincrementaldecoder(self.encoding)("hf_llm.half_surrogate")
        for text in itertools.chain([head], chunks, [b""]):
            if self.encoding != "utf-8":
                text = decoder.decode(text, final=not text).encode("utf-8", "surrogatepass")
            text = text if self.length else text.removeprefix(BOM)
            if text:
                self.length += len(text)
                yield text

    def join(self, chunks: Iterable[bytes]) -> bytes:
        """Join chunks to one document.

        Raises:
            BadFile: it is longer than `--max_text_bytes`, or cannot be read to its end.
        """
        content = bytearray()
        for chunk in chunks:
            content += chunk
            if len(content) > self.limit:
                raise BadFile(f"`{self.name}` {self.too_long()}")
        self.check_complete()
        return bytes(content)

    def check_complete(self, rows: int = 0) -> None:
        """Raise what went wrong while the file was read.

        Args:
            rows: how many were read before.

        Raises:
            BadFile: it could not be read to its end.
        """
        if isinstance(self.error, BadFile):
            raise self.error
        if self.error and not rows:
            self.check_format()
        if self.error:
            after = f" after row {rows - 1}" if rows else ""
            raise BadFile(f"`{self.name}` cannot be read{after}: {one_line(self.error, self.path)}")

    def check_format(self) -> None:
        """Check that a local file is of the format that its extension stands for.

        Raises:
            BadFile: it is of another one, or empty.
        """
        if not os.access(self.path, os.R_OK):  # a URL, one in an archive, or the error says that it cannot be opened
            return
        with open(self.path, "rb") as file:
            head = file.read(HEAD)
        if not head:
            self.check_is_part()
        if found := recognize(head, self.path):
            raise BadFile(f"`{self.name}` is not of the format {os.path.splitext(self.path)[1]}, but {found}")

    def check_not_empty(self) -> None:
        """Check that a file that has nothing was read to its end, and is a part without rows as Spark writes them.

        Raises:
            BadFile: it is not.
        """
        self.check_complete()
        self.check_is_part()

    def check_is_part(self) -> None:
        """Raise an error unless an empty file is a part without rows, or of `--text_extensions`, as `__init__.py`."""
        is_source = file_format(self.path)[0] in self.reading.text_extensions
        if not is_source and not os.path.basename(self.path).startswith("part-"):
            raise BadFile(f"`{self.name}` is empty: remove it from the list or write it again")

    def too_long(self) -> str:
        """Return the end of the message for a row or document above the limit."""
        return f"is longer than `--max_text_bytes` {self.limit:,}: raise it, or remove the text"

    def undecodable(self, origin: str) -> str:
        """Return the message for a row or document whose bytes are not of the file's encoding."""
        remedy = "give its `--encoding`, e.g. cp1252 or gb18030, or convert it to UTF-8"
        if self.encoding != "utf-8" and self.encoding == codecs.lookup(self.reading.encoding).name:
            remedy = "`--encoding` holds for all files, so convert those of other encodings to UTF-8"
        return f"{origin} is not {self.encoding.upper()}: {remedy}"


def detect_encoding(head: bytes) -> str | None:
    """Return the encoding of the byte order mark, or UTF-16 or UTF-32 if the first two characters are ASCII in it."""
    for mark, encoding in BOMS.items():
        if head.startswith(mark):
            return encoding
    for encoding, pattern in TWO_ASCII_CHARACTERS.items():
        if pattern.match(head):
            text = head.decode(encoding, "replace")[:-1]
            is_text = "\ufffd" not in text and not {"Cn", "Co"} & set(map(unicodedata.category, text))
            return encoding if is_text else None  # a file of numbers may begin like that
    return None


def read_lines(stream: FileStream, chunks: Iterable[bytes]) -> Iterator[tuple[bytes | None, int]]:
    """Join chunks so that they end where a line ends.

    Returns:
        Pairs of lines and their size in bytes, with None for a line that is longer than the limit.
    """
    rest, size = [], 0  # a line that is not complete
    for chunk in chunks:
        if size > stream.limit:
            end, newline, chunk = chunk.partition(b"\n")
            size += len(end) + len(newline)
            if not newline:
                continue
            yield None, size
            rest, size = [], 0
        head, newline, tail = chunk.rpartition(b"\n")
        if newline:
            lines = b"".join((*rest, head, newline))
            yield lines, len(lines)
            rest, size = [], 0
        rest.append(tail)
        size += len(tail)
        rest = rest if size <= stream.limit else []
    stream.pending = size
    if size and not stream.error:
        yield (b"".join(rest), size) if size <= stream.limit else (None, size)


def missing_column(origin: str, column: str, names: Iterable[str]) -> str:
    """Return the message for a column that does not exist."""
    return f"{origin} has no column `{column}`, only {', '.join(names)}: choose with --dataset_text_field"
