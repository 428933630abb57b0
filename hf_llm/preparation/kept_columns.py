"""Columns that go with the texts into the shards, spooled as JSON until the shards are written."""

import json
import logging
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from hf_llm.preparation.spool import Spool

logger = logging.getLogger(__name__)

SHARD_COLUMNS = ("text", "source", "row")
EXACT = 1 << 53  # up to this size each whole number has a float64
TYPES = {str: pa.large_string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


class KeptColumns:
    """The values of some columns for each row of a spool.

    Args:
        names: of the columns. One that the shards have themselves is stored as `original_...`.
        spool: an empty spool.
    """

    def __init__(self, names: Sequence[str], spool: Spool):
        self.names, self.spool = names, spool
        self.types: dict[str, set[type]] = {name: set() for name in names}  # of the values of each
        self.inexact: set[str] = set()  # columns with whole numbers that a float would change

    def append(self, values: pa.ChunkedArray, columns: dict[str, np.ndarray]) -> None:
        """Add the values of N rows, (N,) objects as JSON, with the columns of these rows in the spool of the texts."""
        if not self.names:
            return
        for value in values.to_pylist():
            for name, each in json.loads(value or "{}").items():
                fits = not isinstance(each, int) or -(2**63) <= each < 2**63  # in an int64
                self.types[name].add(type(each) if fits else object)
                self.inexact |= {name} if isinstance(each, int) and abs(each) > EXACT else set()
        self.spool.append(values.combine_chunks().fill_null("{}"), {name: columns[name] for name in ("source", "row")})

    def sort(self) -> None:
        """Order the rows as those of the texts, and warn of columns that no row has."""
        if not self.names:
            return
        self.spool.sort("source", "row")
        if missing := [name for name in self.names if not self.types[name] - {type(None)}]:
            logger.warning(f"`--keep_columns` {' '.join(missing)}: no row that is left has a value: check the names")

    def fields(self) -> list[pa.Field]:
        """Return the fields of the shards' schema."""
        return [pa.field(f"original_{name}" if name in SHARD_COLUMNS else name, self.type(name)) for name in self.names]

    def type(self, name: str) -> pa.DataType:
        """Return the type of a column: of its values, float for whole and other numbers, text (JSON) for all others."""
        types = self.types[name] - {type(None)}
        types = {float} if types == {int, float} and name not in self.inexact else types
        return TYPES.get(types.pop(), pa.large_string()) if len(types) == 1 else pa.large_string()

    def columns(self, rows: np.ndarray) -> list[pa.Array]:
        """Return the values of the rows at N indices, an array of (N,) for each column."""
        if not self.names:
            return []
        begins, ends = self.spool.column("begin")[rows], self.spool.column("end")[rows]
        values = [json.loads(text) for text in self.spool.texts(begins, ends).to_pylist()]
        return [self.column(name, [value.get(name) for value in values]) for name in self.names]

    def column(self, name: str, values: list) -> pa.Array:
        """Return an array of values in the type of their column."""
        kind = self.type(name)
        if kind == pa.large_string() and self.types[name] - {type(None)} != {str}:
            values = [None if value is None else json.dumps(value, ensure_ascii=False) for value in values]
        elif kind == pa.float64():
            values = [None if value is None else float(value) for value in values]
        return pa.array(values, kind)
