"""Read the rows or the texts of files in every supported format, local or remote, compressed or not.

`read_texts`, `read_documents` and `read_rows` differ in how they report what cannot be read.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from hf_llm.arguments import ReadingArguments
from hf_llm.data.archives import read_members
from hf_llm.data.byte_streams import BadFile, Batch, FileStream, NoColumn, Problem
from hf_llm.data.columns import is_plain, names_to_read, read_text_of_rows
from hf_llm.data.formats import find_reader, is_archive, is_document
from hf_llm.data.found import SkippedFile, warn_of_skipped
from hf_llm.messages import printable

# Texts or rows; the problem of each that cannot be read, by its index; and the columns to keep of each, as JSON.
KeptBatch = tuple[Any, dict[int, Problem], Sequence[str | None]]


def read_texts(path: str, column: str, reading: ReadingArguments) -> Iterator[pa.Array]:
    """Read one column of a file, or the text of a document.

    Returns:
        Batches of (N,) strings, null where a JSON object has no such column.

    Raises:
        BadFile: the file or a row cannot be read, it is empty, or no row has the column.
    """
    has_texts, missing, stream = False, None, FileStream(path, reading)
    left_out = []
    for texts, problems, _ in read_batches(stream, column):
        for _, problem in sorted(problems.items()):
            if problem.left_out:
                left_out.append(problem)
                texts = texts[:0]
            elif not isinstance(problem, NoColumn):
                raise BadFile(problem.message)
            else:
                missing = missing or problem.message
        has_texts = has_texts or texts.null_count < len(texts)
        yield texts
    report_left_out(stream, left_out)
    if not has_texts and missing:
        raise no_column(stream, missing)


def no_column(stream: FileStream, problem: str) -> BadFile:
    """Make the error for a file of which no row has the column, from the problem of its first row."""
    _, has_no_column, names = problem.partition(" has no column ")
    return BadFile(f"`{stream.name}`{has_no_column}{names}")


def read_documents(path: str, column: str, reading: ReadingArguments, keep: Sequence[str] = ()) -> Iterator[KeptBatch]:
    """Read one column of a file, and report what cannot be read instead of raising it.

    Args:
        column: its name; several are joined, and fields found in objects, as `columns` does it.
        keep: other columns to read.

    Returns:
        Batches `(texts, problems, kept)`: (N,) strings, a problem for each index of a null among them, and for each
        row the columns of `keep` as JSON. Where the rest of the file cannot be read, the last row is a null.
    """
    has_rows, stream = False, FileStream(path, reading)
    try:
        for batch in read_batches(stream, column, keep):
            has_rows = True
            yield batch
    except BadFile as error:
        lost = stream.unread() if has_rows else max(1, stream.size)
        yield pa.array([None], pa.string()), {0: Problem(str(error), lost, is_file=True)}, [None]


def read_rows(path: str, reading: ReadingArguments) -> Iterator[dict[str, Any]]:
    """Read all columns of a file.

    Returns:
        Rows in Python's types, with their origin. What is text in the file stays text: dates, and all values of a
        .csv file.

    Raises:
        ValueError: the file or a row cannot be read, it is empty or has no columns.
    """
    stream = FileStream(path, reading)
    check_columns(stream)
    left_out = []
    for rows, problems, _ in read_batches(stream, None):
        left_out += [problem for problem in problems.values() if problem.left_out]
        if broken := [problems[index] for index in sorted(problems) if not problems[index].left_out]:
            raise BadFile(broken[0].message)
        yield from filter(None, rows)
    report_left_out(stream, left_out)


def check_columns(stream: FileStream) -> None:
    """Raise an error if files of this format have no columns."""
    if is_document(stream.path, stream.reading.text_extensions):
        raise BadFile(f"`{stream.name}` has no columns: give .jsonl, .json, .csv or .parquet")


def read_batches(stream: FileStream, column: str | None, keep: Sequence[str] = ()) -> Iterator[KeptBatch]:
    """Read a file with the reader of its format: texts of a column, or rows with all columns (None).

    Raises:
        BadFile: it is empty, or cannot be read from some row on.
    """
    number = 0
    try:
        for batch in read_columns(stream, column, keep):
            number += len(batch[0])
            yield batch
    except Exception as error:  # every library has classes of its own, and Daft may lose what its source raises
        stream.error = error
    stream.check_complete(number)


def read_columns(stream: FileStream, column: str | None, keep: Sequence[str]) -> Iterator[KeptBatch]:
    """Read a file as `read_batches` does; what goes wrong is raised as it is."""
    if is_archive(stream.path):
        yield from read_archive(stream, column, keep)
        return
    extensions = stream.reading.text_extensions
    reader: Any = find_reader(stream.path, extensions)
    if column is None or is_document(stream.path, extensions) or (is_plain(column) and not keep):
        for texts, problems in reader(stream, column):
            yield texts, problems, [None] * len(texts)
    else:
        rows: Iterator[Batch] = reader(stream, names_to_read([column, *keep]))
        yield from read_text_of_rows(stream, rows, column, keep)


def read_archive(stream: FileStream, column: str | None, keep: Sequence[str]) -> Iterator[KeptBatch]:
    """Read the files in an archive as if they lay in a folder. What is left out and what is damaged become problems."""
    for name, size, member, reason, problem in read_members(stream):
        if member:
            share = size / max(1, member.size)  # of a byte on the disk, for a byte of the file
            try:
                if column is None:
                    check_columns(member)
                for rows, problems, kept in read_batches(member, column, keep):
                    for index, found in problems.items():
                        problems[index] = found._replace(lost_bytes=round(found.lost_bytes * share))
                    yield rows, problems, kept
                continue
            except BadFile as error:
                problem, size = str(error), round(member.unread() * share)
        found = Problem(reason or f"{problem}", size, True, printable(f"{stream.path}/{name}") if reason else None)
        yield (pa.array([None], pa.string()) if column else [None]), {0: found}, [None]


def report_left_out(stream: FileStream, problems: Iterable[Problem]) -> None:
    """Log what is in a file and was not read."""
    skipped = [SkippedFile(f"{each.left_out}", each.message, each.lost_bytes) for each in problems]
    warn_of_skipped(stream.name, skipped, ": to take a file, unpack it and name it" if is_archive(stream.path) else "")
