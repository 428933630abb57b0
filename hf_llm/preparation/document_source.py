"""The rows of all files as a data source of Daft, which no exception leaves: Daft may lose one that a source raises."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from daft.io.source import DataSource, DataSourceTask
from daft.recordbatch import RecordBatch
from daft.schema import Schema

from hf_llm.arguments import ReadingArguments
from hf_llm.data.byte_streams import Problem
from hf_llm.data.found import SourceFile
from hf_llm.data.readers import read_documents
from hf_llm.messages import one_line, printable

SCHEMA = pa.schema(
    [
        ("source", pa.int32()),
        ("row", pa.int64()),
        ("text", pa.large_string()),
        ("problem", pa.large_string()),
        ("lost_bytes", pa.int64()),
        ("is_file", pa.bool_()),
        ("left_out", pa.large_string()),
        ("kept", pa.large_string()),  # columns that go with the text, as JSON
    ]
)


class DocumentSource(DataSource):
    """The rows of files, in their order; one task reads one file.

    Columns: the number of the file, the number of the row in it, and its text; or for a row that cannot be read no
    text, but the fields of a `Problem`. With `is_file` it stands for all rows from there to the end of the file.

    Args:
        batch: maximum number of rows, and approximate maximum of bytes of text, that Daft hands to a core at a time.
        max_bytes: maximum size of a text. Longer ones are problems.
        remedy: what to do for those.
        keep: columns that go with the text.
    """

    def __init__(
        self,
        files: list[SourceFile],
        column: str,
        reading: ReadingArguments,
        batch: tuple[int, int],
        max_bytes: int,
        remedy: str,
        keep: Sequence[str] = (),
    ):
        self.files = files
        self.settings = {
            "column": column, "reading": reading, "batch": batch, "max_bytes": max_bytes, "remedy": remedy,
            "keep": keep,
        }  # fmt: skip

    @property
    def name(self) -> str:
        return "documents"

    @property
    def schema(self) -> Schema:
        return Schema.from_pyarrow_schema(SCHEMA)

    async def get_tasks(self, pushdowns):
        for number, file in enumerate(self.files):
            yield DocumentFileTask(number, file, **self.settings)


@dataclass
class DocumentFileTask(DataSourceTask):
    """Read one file of a `DocumentSource`; `source` is its number among the files."""

    source: int
    file: SourceFile
    column: str
    reading: ReadingArguments
    batch: tuple[int, int]
    max_bytes: int
    remedy: str
    keep: Sequence[str] = ()

    @property
    def schema(self) -> Schema:
        return Schema.from_pyarrow_schema(SCHEMA)

    async def read(self):
        row = 0
        try:
            column = self.file.column or self.column
            for texts, problems, kept in read_documents(self.file.path, column, self.reading, self.keep):
                table = self.table(row, texts, problems, kept)
                for rows in slices(table["text"], *self.batch):
                    yield RecordBatch.from_arrow_table(table[rows])
                row += len(table)
        except Exception as error:  # of any library, or memory
            after = f" after row {row - 1}" if row else ""
            problem = f"`{self.file.path}` cannot be read{after}: {one_line(error, self.file.path)}"
            rest = {0: Problem(problem, self.file.size, is_file=True)}
            yield RecordBatch.from_arrow_table(self.table(row, pa.array([None], pa.string()), rest, [None]))

    def table(self, first: int, texts: pa.Array, problems: dict[int, Problem], kept: Sequence[str | None]) -> pa.Table:
        """Build a table of N rows from their texts and problems, with texts that are too long as problems."""
        texts, rows = texts.cast(pa.large_string()), len(texts)
        sizes = pc.fill_null(pc.binary_length(texts), 0).to_numpy(False)
        long = np.flatnonzero(sizes > self.max_bytes).tolist()
        for row in long:
            message = f"`{self.file.path}` row {first + row} has {sizes[row]:,} bytes, at most {self.max_bytes:,} fit "
            problems = problems | {row: Problem(message + self.remedy, min(int(sizes[row]), self.file.size))}
        if long:
            texts = texts.take(pa.array(np.arange(rows), mask=sizes > self.max_bytes))  # without their bytes
        columns = [
            pa.array(np.full(rows, self.source, np.int32)),
            pa.array(np.arange(first, first + rows)),
            texts,
            pa.array([self.storable(problems[row].message) if row in problems else None for row in range(rows)]),
            pa.array([problems[row].lost_bytes if row in problems else 0 for row in range(rows)]),
            pa.array([row in problems and problems[row].is_file for row in range(rows)]),
            pa.array([problems[row].left_out if row in problems else None for row in range(rows)], pa.string()),
            pa.array(kept, pa.large_string()),
        ]
        return pa.table(columns, [field.name for field in SCHEMA]).cast(SCHEMA)

    def storable(self, message: str) -> str:
        """Escape what UTF-8 cannot hold in a message: a file's name may be of any bytes."""
        path = self.file.path
        for written in (path, os.fsencode(path).decode("utf-8", "backslashreplace")):
            message = message.replace(written, printable(path))
        return message.encode("utf-8", "backslashreplace").decode()


def slices(texts: pa.ChunkedArray, max_rows: int, max_bytes: int) -> Iterator[slice]:
    """Slice N rows into pieces of at most `max_rows` rows and `max_bytes` bytes of text, but at least one row.

    Example:
        >>> list(slices(pa.chunked_array([["a", "bb", "c", "dddd", "e"]]), 2, 3))
        [slice(0, 2, None), slice(2, 3, None), slice(3, 4, None), slice(4, 5, None)]
    """
    ends = np.cumsum(pc.fill_null(pc.binary_length(texts), 0).to_numpy())
    start = 0
    while start < len(ends):
        before = int(ends[start - 1]) if start else 0
        fitting = int(np.searchsorted(ends, min(before + max_bytes, int(ends[-1])), side="right"))
        stop = min(max(fitting, start + 1), start + max_rows)
        yield slice(start, stop)
        start = stop
