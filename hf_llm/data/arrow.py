"""Columns of tokens in Arrow, without a Python object for each token."""

import numpy as np
import pyarrow as pa
from datasets import Dataset


def column(dataset: Dataset, name: str) -> pa.ChunkedArray:
    """A whole column as Arrow has it, without copying."""
    return dataset.with_format("arrow")[:][name]


def count_tokens(dataset: Dataset) -> int:
    """Tokens in the column `input_ids`, read from the Arrow buffers."""
    return sum(len(chunk.flatten()) for chunk in column(dataset, "input_ids").chunks)


def token_lists(lists: list[list[int]]) -> pa.Array:
    """Token ids in Arrow, 4 bytes each: millions of Python's lists would take ten times as much."""
    return pa.array(lists, pa.list_(pa.int32()))


def split_lists(lists: pa.ListArray) -> list[np.ndarray]:
    """Each list as an array, without copying."""
    return np.split(lists.flatten().to_numpy(), lists.offsets.to_numpy()[1:-1] - lists.offsets[0].as_py())


def token_table(ids: np.ndarray, offsets: np.ndarray, **columns: np.ndarray) -> pa.Table:
    """Documents, and what else is known of each, as Arrow has them."""
    return pa.table({"input_ids": pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(ids)), **columns})
