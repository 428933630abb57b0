"""What is spooled is read as it was appended."""

import numpy as np
import pyarrow as pa

from hf_llm.data import spool as module
from hf_llm.data.spool import Spool, blocks


def test_texts_and_columns_come_back(tmp_path):
    """In several batches, slices and empty texts among them."""
    spool = Spool(tmp_path / "spool")
    spool.append(pa.array(["left out", "größe", ""], pa.large_string())[1:], {"row": np.array([1, 2])})
    spool.append(pa.array([], pa.large_string()), {"row": np.array([], np.int64)})
    spool.append(pa.array(["三"], pa.large_string()), {"row": np.array([3])})
    ends = spool.column("end")
    assert ends.tolist() == [0, 7, 7, 10] and spool.column("row").tolist() == [1, 2, 3]
    chosen = np.array([2, 0])
    assert spool.texts(ends[chosen], ends[chosen + 1]).to_pylist() == ["三", "größe"]
    spool.close()


def test_blocks_hold_about_as_much_text_each(monkeypatch):
    """Every row is in one of them, also one that is larger than a block."""
    monkeypatch.setattr(module, "BLOCK", 10)
    sizes = np.array([4, 4, 4, 25, 1, 0, 9])
    found = [sizes[block].tolist() for block in blocks(sizes)]
    assert found == [[4, 4, 4], [25], [1, 0, 9]]
    assert list(blocks(np.array([], np.int64))) == []
