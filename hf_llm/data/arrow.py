"""Columns of token ids in Arrow, without a Python object for each token."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset
from datasets.fingerprint import Hasher


def column(dataset: Dataset, name: str) -> pa.ChunkedArray:
    """Return a whole column as Arrow stores it, without copying."""
    return dataset.with_format("arrow")[:][name]


def count_tokens(dataset: Dataset) -> int:
    """Count the tokens in the column `input_ids`."""
    return sum(len(chunk.flatten()) for chunk in column(dataset, "input_ids").chunks)


def token_lists(lists: list[list[int]]) -> pa.Array:
    """Convert lists of token ids to Arrow, with 4 bytes for each id instead of about 40."""
    return pa.array(lists, pa.list_(pa.int32()))


def split_lists(lists: pa.ListArray) -> list[np.ndarray]:
    """Return each list as an array, without copying."""
    return np.split(lists.flatten().to_numpy(), lists.offsets.to_numpy()[1:-1] - lists.offsets[0].as_py())


def token_table(ids: np.ndarray, offsets: np.ndarray, **columns: np.ndarray) -> pa.Table:
    """Make a table of documents.

    Args:
        ids: tokens of all documents, one after the other, (N,).
        offsets: where each document begins and the last one ends, (documents + 1,).
        columns: further columns, one value for each document.
    """
    return pa.table({"input_ids": pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(ids)), **columns})


def hash_rows(rows: Dataset) -> str:
    """Hash all columns of packed rows, which are lists of integers, but the numbers of their documents."""

    def buffers() -> Iterator[Any]:
        for table in rows.with_format("arrow").iter(1000):
            for name in sorted({*table.column_names} - {"documents"}):
                lists = table[name].combine_chunks()
                yield from (name.encode(), lists.value_lengths().to_numpy(), lists.flatten().to_numpy())

    return Hasher.hash_bytes(buffers())  # pyright: ignore[reportArgumentType]  # it takes all that is made of bytes


def row_facts(rows: Any) -> dict[str, Any]:
    """The facts that a stream or the rows of a token folder know; of other rows their number and a hash of all."""
    return rows.facts if hasattr(rows, "facts") else {"rows": len(rows), "data": hash_rows(rows)}
