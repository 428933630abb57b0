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
        self._write("end", np.zeros(1, np.int64))
        self.size = 0

    def append(self, texts: pa.Array, columns: dict[str, np.ndarray]) -> None:
        """Add N rows; `columns` has the same names each time, arrays of (N,)."""
        texts = pa.concat_arrays([texts.cast(pa.large_binary())])  # a slice begins anew
        _, offsets, content = texts.buffers()
        places = np.frombuffer(offsets, np.int64)[: len(texts) + 1]
        self._file("text").write(content[places[0] : places[-1]])
        self._write("end", places[1:] - places[0] + self.size)
        self.size += int(places[-1] - places[0])
        for name, values in columns.items():
            self._write(name, values)

    def column(self, name: str) -> np.ndarray:
        """All values of a column, (rows,); of `end` (rows + 1,), where each text begins and the last one ends."""
        self._file(name).flush()
        return np.fromfile(self.folder / name, self.dtypes[name])

    def texts(self, begins: np.ndarray, ends: np.ndarray) -> pa.Array:
        """Texts by their places, as `column("end")` has them."""
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

    def _write(self, name: str, values: np.ndarray) -> None:
        self.dtypes[name] = values.dtype
        self._file(name).write(np.ascontiguousarray(values).data)


def blocks(sizes: np.ndarray):
    """Slices of rows whose sizes come to about `BLOCK` together, at least one row each."""
    number = (np.cumsum(sizes) - sizes) // BLOCK
    starts = np.flatnonzero(np.diff(number, prepend=-1))
    yield from map(slice, starts.tolist(), [*starts[1:].tolist(), len(sizes)])
