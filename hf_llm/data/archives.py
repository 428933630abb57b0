"""Read the files in .zip and .tar archives one after the other. Nothing is unpacked, and no link is followed."""

import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from hf_llm.data.byte_streams import BadFile, FileStream, file_format
from hf_llm.data.compression import CountedFile, ReadFunction, decompress
from hf_llm.data.folder_rules import hidden, reason_to_skip_file
from hf_llm.data.formats import is_archive
from hf_llm.messages import one_line, printable

MAX_RATIO, ALWAYS_ALLOWED = 1000, 1 << 28  # decompressed bytes of a byte on the disk, if they are more than the second


class Member(NamedTuple):
    """A file in an archive.

    Args:
        name: its path in the archive.
        size: its bytes on the disk; an estimate where the archive is compressed as a whole.
        stream: its content, if it is to be read.
        reason: else why it is left out.
        problem: or why it cannot be read.
    """

    name: str
    size: int
    stream: FileStream | None = None
    reason: str | None = None
    problem: str | None = None


class BoundedFile(CountedFile):
    """A decompressed file that may not be much larger than on the disk, where a few bytes can stand for terabytes.

    Args:
        file: an open file of decompressed bytes.
        size: number of bytes on the disk.
        name: for the message.
    """

    def __init__(self, file: Any, size: int, name: str):
        super().__init__(file)
        self.limit, self.name, self.last = max(ALWAYS_ALLOWED, size * MAX_RATIO), name, b""

    def read(self, size: int = -1) -> bytes:
        """Read some bytes.

        Raises:
            BadFile: they are above the limit.
        """
        content = super().read(size)
        self.last = (self.last + content[-tarfile.BLOCKSIZE :])[-tarfile.BLOCKSIZE :]
        if self.position > self.limit:
            problem = f"has more than {MAX_RATIO:,} times its size on the disk when it is decompressed"
            raise BadFile(f"`{printable(self.name)}` {problem}: if that is right, unpack it first")
        return content


def read_members(stream: FileStream) -> Iterator[Member]:
    """Yield the files in an archive, in their order; each must be read before the next one.

    Raises:
        Exception: the archive is damaged, or becomes too large.
    """
    yield from (zip_members if file_format(stream.path)[0] == ".zip" else tar_members)(stream)


def zip_members(stream: FileStream) -> Iterator[Member]:
    """Yield the files in a .zip archive."""
    with stream.open(seekable=True) as file, zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            stream.position += info.compress_size
            if info.is_dir():
                continue
            path, size = f"{stream.path}/{info.filename}", info.compress_size
            is_link = info.external_attr >> 28 == 0o12
            if reason := reason_to_leave_out(stream, info.filename, is_link):
                yield Member(info.filename, size, reason=reason)
                continue
            try:
                opened = archive.open(info)
            except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
                cause = "it is encrypted" if isinstance(error, RuntimeError) and info.flag_bits & 1 else one_line(error)
                problem = f"`{printable(path)}` cannot be read: {cause}: unpack it first"
                yield Member(info.filename, size, problem=problem)
                continue
            with opened:
                yield Member(info.filename, size, member_stream(stream, path, opened, info.file_size, size))
        stream.position = stream.size


def tar_members(stream: FileStream) -> Iterator[Member]:
    """Yield the files in a .tar archive, which may be compressed as a whole.

    Raises:
        BadFile: it has no end, or something after it.
    """
    with stream.open() as opened:
        file = CountedFile(opened)
        with decompress(file, file_format(stream.path)[1]) as read:
            content = BoundedFile(ReadFunction(read), stream.size, stream.path)
            with tarfile.open(fileobj=content, mode="r|") as archive:
                for info in archive:
                    stream.position, stream.length = file.position, content.position
                    if info.isdir():
                        continue
                    path, size = f"{stream.path}/{info.name}", stream.on_disk(info.size)
                    if reason := reason_to_leave_out(stream, info.name, info.issym() or info.islnk(), info.isfile()):
                        yield Member(info.name, size, reason=reason)
                    else:
                        member = archive.extractfile(info)
                        yield Member(info.name, size, member_stream(stream, path, member, info.size, max(1, info.size)))
            while rest := content.read(1 << 20):
                if rest.strip(b"\0"):
                    raise BadFile(f"`{stream.name}` has more after its end: is it two archives? unpack it first")
            if content.last.strip(b"\0") or len(content.last) < tarfile.BLOCKSIZE:
                raise BadFile(f"`{stream.name}` has no end: it is cut short")
            stream.position = stream.size


def member_stream(stream: FileStream, path: str, file: Any, size: int, size_on_disk: int) -> FileStream:
    """Return the stream of a file in an archive, of `size` bytes."""
    member = FileStream(path, stream.reading, stream.chunk, BoundedFile(file, size_on_disk, path))
    member.size = size
    return member


def reason_to_leave_out(stream: FileStream, name: str, is_link: bool, is_file: bool = True) -> str | None:
    """Return why a file in an archive is not training text; None if it is."""
    *folders, file = PurePosixPath(name).parts or [name]
    if is_link or not is_file:
        return "a link" if is_link else "a device or pipe"
    if reason := next(filter(None, map(hidden, (part for part in folders if part not in (".", "..")))), None):
        return reason
    if is_archive(name):
        return "an archive in an archive"
    return reason_to_skip_file(file, {file}, stream.reading.text_extensions)
