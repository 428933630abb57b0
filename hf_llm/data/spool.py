"""Documents on the disk while all of them are looked at: texts one behind the other, and plain columns of numbers.

Arrow and Parquet files are read in batches, or mapped into memory that then counts as used; here any text is one read,
and a column is eight bytes a document.
"""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa

BLOCK = 32 << 20  # bytes of text that are worked on together


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
        sizes = (ends - begins).tolist()
        found = [os.pread(file.fileno(), size, begin) for size, begin in zip(sizes, begins.tolist(), strict=True)]
        return pa.array(found, pa.large_binary()).cast(pa.large_string())

    def close(self) -> None:
        for file in self.files.values():
            file.close()

    def _file(self, name: str):
        if name not in self.files:
            self.files[name] = open(self.folder / name, "wb+")  # noqa: SIM115 (closed by `close`)
        return self.files[name]


def blocks(sizes: np.ndarray):
    """Slices of rows whose sizes come to about `BLOCK` together, at least one row each."""
    number = (np.cumsum(sizes) - sizes) // BLOCK
    starts = np.flatnonzero(np.diff(number, prepend=-1))
    yield from map(slice, starts.tolist(), [*starts[1:].tolist(), len(sizes)])
