"""Documents on the disk while all of them are looked at: texts one behind the other, and plain columns of numbers.

Arrow and Parquet files are read in batches, or mapped into memory that then counts as used; here any text is one read,
and a column is eight bytes a document.
"""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa

BLOCK = 32 << 20  # bytes of text that are worked on together
DENSE = 2  # at most so many bytes are read for each that is asked for, to read once


class Spool:
    """Rows that are appended once and then read: a column, or the texts of any rows."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True)
        self.folder, self.dtypes, self.files = folder, {}, {}
        self.size, self.order = 0, None

    def append(self, texts: pa.Array, columns: dict[str, np.ndarray]) -> None:
        """Add N rows; `columns` has the same names each time, arrays of (N,)."""
        texts = pa.concat_arrays([texts.cast(pa.large_binary())])  # a slice begins anew
        _, offsets, content = texts.buffers()
        places = np.frombuffer(offsets, np.int64)[: len(texts) + 1]
        self._file("text").write(content[places[0] : places[-1]])
        ends = places - places[0] + self.size
        for name, values in ({"begin": ends[:-1], "end": ends[1:]} | columns).items():
            self.dtypes[name] = values.dtype
            self._file(name).write(np.ascontiguousarray(values).data)
        self.size += int(places[-1] - places[0])

    def sort(self, *names: str) -> None:
        """Number the rows by their values of these columns, the first name counting most: engines mix batches up."""
        order = np.lexsort([self.column(name) for name in reversed(names)])
        self.order = None if np.all(np.diff(order) == 1) else order

    def column(self, name: str) -> np.ndarray:
        """All values of a column, (rows,); `begin` and `end` are the places of the texts in bytes."""
        self._file(name).flush()
        values = np.fromfile(self.folder / name, self.dtypes[name])
        return values if self.order is None else values[self.order]

    def texts(self, begins: np.ndarray, ends: np.ndarray) -> pa.Array:
        """Texts by their places, strings, (N,)."""
        file = self._file("text")
        file.flush()
        sizes = ends - begins
        if len(begins) and np.all(begins[1:] >= ends[:-1]) and ends[-1] - begins[0] <= DENSE * sizes.sum():
            return texts_between(os.pread(file.fileno(), ends[-1] - begins[0], begins[0]), begins, ends)
        found = [os.pread(file.fileno(), *place) for place in zip(sizes.tolist(), begins.tolist(), strict=True)]
        return pa.array(found, pa.large_binary()).cast(pa.large_string())

    def close(self) -> None:
        for file in self.files.values():
            file.close()

    def _file(self, name: str):
        if name not in self.files:
            self.files[name] = open(self.folder / name, "wb+")  # noqa: SIM115 (closed by `close`)
        return self.files[name]


def texts_between(content: bytes, begins: np.ndarray, ends: np.ndarray) -> pa.Array:
    """Texts out of what was read from the first one's begin to the last one's end: each second of texts and gaps."""
    borders = np.stack([begins, ends], axis=1).ravel() - begins[0]
    all_parts = pa.LargeStringArray.from_buffers(len(borders) - 1, pa.py_buffer(borders), pa.py_buffer(content))
    return all_parts.take(pa.array(np.arange(0, len(borders), 2)))


def blocks(sizes: np.ndarray):
    """Slices of rows whose sizes come to about `BLOCK` together, at least one row each."""
    number = (np.cumsum(sizes) - sizes) // BLOCK
    starts = np.flatnonzero(np.diff(number, prepend=-1))
    yield from map(slice, starts.tolist(), [*starts[1:].tolist(), len(sizes)])
