"""Rows of a spool are read as they were appended."""

import numpy as np
import pyarrow as pa
import pytest

from hf_llm.preparation import spool as module
from hf_llm.preparation.spool import Spool, blocks


def texts_of(spool, rows):
    return spool.texts(spool.column("begin")[rows], spool.column("end")[rows]).to_pylist()


def test_texts_and_columns_come_back(tmp_path):
    """From several batches, with a sliced array, an empty batch and an empty text among them."""
    spool = Spool(tmp_path / "spool")
    spool.append(pa.array(["sliced off", "größe", ""], pa.large_string())[1:], {"row": np.array([1, 2])})
    spool.append(pa.array([], pa.large_string()), {"row": np.array([], np.int64)})
    spool.append(pa.array(["三"], pa.large_string()), {"row": np.array([3])})
    assert spool.column("end").tolist() == [7, 7, 10] and spool.column("row").tolist() == [1, 2, 3]
    assert texts_of(spool, [2, 0]) == ["三", "größe"]
    spool.close()


@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [1, 3], [0, 3], [3, 0], [2, 2], [], [4], [0, 2, 4, 5]])
def test_any_rows_are_read_whether_they_are_adjacent_or_not(rows, tmp_path):
    """In one read if little is between them, one by one otherwise; in any order, empty texts included."""
    texts = ["eins", "", "größe " * 50, "vier", "五", "x" * 2000]
    spool = Spool(tmp_path / "spool")
    spool.append(pa.array(texts, pa.large_string()), {"row": np.arange(6)})
    assert texts_of(spool, rows) == [texts[row] for row in rows]
    spool.close()


def test_rows_are_sorted_by_columns(tmp_path):
    """Columns and texts follow the same order."""
    spool = Spool(tmp_path / "spool")
    spool.append(
        pa.array(list("dacb"), pa.large_string()), {"file": np.array([1, 0, 1, 0]), "row": np.array([9, 0, 2, 5])}
    )
    spool.sort("file", "row")
    assert spool.column("file").tolist() == [0, 0, 1, 1] and spool.column("row").tolist() == [0, 5, 2, 9]
    assert texts_of(spool, [0, 1, 2, 3]) == ["a", "b", "c", "d"]
    spool.close()


def test_blocks_hold_about_as_much_text_each(monkeypatch):
    """Every row is in one block, also a row that is larger than a block."""
    monkeypatch.setattr(module, "BLOCK_BYTES", 10)
    sizes = np.array([4, 4, 4, 25, 1, 0, 9])
    contents = [sizes[block].tolist() for block in blocks(sizes)]
    assert contents == [[4, 4, 4], [25], [1, 0, 9]]
    assert list(blocks(np.array([], np.int64))) == []
