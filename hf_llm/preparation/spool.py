"""Rows kept in temporary files while the pipeline looks at all of them: the texts in one file, each column in another.

Arrow and Parquet files are read in batches, or memory-mapped, which counts as used memory. Here one read gets any text,
and a column takes eight bytes per row.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

BLOCK_BYTES = 32 << 20  # bytes of text that are processed together
MAX_EXCESS = 2  # texts are read in one piece if it has at most this many times their bytes


class Spool:
    """Rows that are appended first and read later: whole columns, or the texts of any rows."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True)
        self.folder, self.dtypes, self.files = folder, {}, {}
        self.size, self.order = 0, None

    def append(self, texts: pa.Array, columns: dict[str, np.ndarray]) -> None:
        """Add N rows: N texts, and the same columns in each call, arrays of (N,)."""
        texts = pa.concat_arrays([texts.cast(pa.large_binary())])  # copy a slice, so that its offsets begin at 0
        _, offset_buffer, content = texts.buffers()
        offsets = np.frombuffer(offset_buffer, np.int64)[: len(texts) + 1]
        self.open_file("text").write(content[offsets[0] : offsets[-1]])
        ends = offsets - offsets[0] + self.size
        for name, values in ({"begin": ends[:-1], "end": ends[1:]} | columns).items():
            self.dtypes[name] = values.dtype
            self.open_file(name).write(np.ascontiguousarray(values).data)
        self.size += int(offsets[-1] - offsets[0])

    def sort(self, *names: str) -> None:
        """Order the rows by these columns, the first being the primary key; Ray returns batches in any order."""
        order = np.lexsort([self.column(name) for name in reversed(names)])
        self.order = None if np.all(np.diff(order) == 1) else order

    def column(self, name: str) -> np.ndarray:
        """Return all values of a column, (rows,); `begin` and `end` are the byte offsets of the texts."""
        self.open_file(name).flush()
        values = np.fromfile(self.folder / name, self.dtypes[name])
        return values if self.order is None else values[self.order]

    def texts(self, begins: np.ndarray, ends: np.ndarray) -> pa.Array:
        """Read the texts at these byte offsets, strings (N,)."""
        file = self.open_file("text")
        file.flush()
        sizes = ends - begins
        if len(begins) and np.all(begins[1:] >= ends[:-1]) and ends[-1] - begins[0] <= MAX_EXCESS * sizes.sum():
            return slice_texts(os.pread(file.fileno(), ends[-1] - begins[0], begins[0]), begins, ends)
        texts = [os.pread(file.fileno(), *extent) for extent in zip(sizes.tolist(), begins.tolist(), strict=True)]
        return pa.array(texts, pa.large_binary()).cast(pa.large_string())

    def close(self) -> None:
        for file in self.files.values():
            file.close()

    def open_file(self, name: str):
        """The file of a column, which is opened once and stays open until `close`."""
        if name not in self.files:
            self.files[name] = open(self.folder / name, "wb+")  # noqa: SIM115 (closed by `close`)
        return self.files[name]


def slice_texts(content: bytes, begins: np.ndarray, ends: np.ndarray) -> pa.Array:
    """Cut texts out of `content`, which was read from the first text's begin to the last one's end.

    Example:
        Texts at 10 to 13 and 15 to 19 have the borders [0, 3, 5, 9] in `content`; of the three strings between them
        the first and third are the texts, and the second is the gap.
    """
    borders = np.stack([begins, ends], axis=1).ravel() - begins[0]
    texts_and_gaps = pa.LargeStringArray.from_buffers(len(borders) - 1, pa.py_buffer(borders), pa.py_buffer(content))
    return texts_and_gaps.take(pa.array(np.arange(0, len(borders), 2)))


def blocks(sizes: np.ndarray) -> Iterator[slice]:
    """Slices of consecutive rows whose sizes sum to about `BLOCK_BYTES`, with at least one row each."""
    number = (np.cumsum(sizes) - sizes) // BLOCK_BYTES
    starts = np.flatnonzero(np.diff(number, prepend=-1))
    yield from map(slice, starts.tolist(), [*starts[1:].tolist(), len(sizes)])
