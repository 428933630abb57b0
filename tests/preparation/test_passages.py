"""Lines and paragraphs of an earlier text are removed, and nothing else."""

import contextlib
import random

import numpy as np
import pyarrow as pa
import pytest

from hf_llm.preparation import spool as spool_module
from hf_llm.preparation.passages import remove_repeated_passages
from hf_llm.preparation.spool import Spool

MENU = "Home | Products | About us | Contact | Terms of use and privacy"


def remove_repeated(folder, texts, unit="lines", min_chars=20, rows=None):
    """Return the texts after the step, and the bytes that were removed from each."""
    rows = np.arange(len(texts)) if rows is None else np.array(rows)
    with contextlib.closing(Spool(folder / "a")) as spool, contextlib.closing(Spool(folder / "b")) as target:
        spool.append(pa.array(texts, pa.large_string()), {name: np.arange(len(texts)) for name in ("source", "row")})
        removed, _ = remove_repeated_passages(spool, rows, target, unit, min_chars)
        assert target.column("row").tolist() == rows.tolist()
        return target.texts(target.column("begin"), target.column("end")).to_pylist(), removed.tolist()


def test_the_first_of_equal_lines_is_kept(tmp_path):
    """Also within one text; surrounding spaces do not matter; the remaining lines keep their order."""
    texts = [f"{MENU}\nOne text.\n  {MENU}\nIts end.", f"Another.\n{MENU}", "No menu."]
    texts_after, removed = remove_repeated(tmp_path, texts)
    assert texts_after == [f"{MENU}\nOne text.\nIts end.", "Another.", "No menu."]
    assert removed == [len(MENU) + 3, len(MENU) + 1, 0]


def test_short_lines_are_kept(tmp_path):
    """Lines below `min_chars`, such as `}`, are not compared."""
    texts = ["}\nreturn\n", "}\nreturn\n"]
    assert remove_repeated(tmp_path, texts)[0] == texts
    assert remove_repeated(tmp_path / "one", texts, min_chars=1)[0] == ["}\nreturn\n", ""]


def test_paragraphs_are_compared_as_a_whole(tmp_path):
    """A line of an earlier paragraph is kept in another paragraph."""
    first, second = "A line of some length.\nAnd its second line.", "A line of some length.\nAnd something else."
    texts = [f"{first}\n\n{second}", f"{second}\n\nNew words at the end.", "A line of some length."]
    texts_after, _ = remove_repeated(tmp_path, texts, unit="paragraphs")
    assert texts_after == [f"{first}\n\n{second}", "New words at the end.", "A line of some length."]


def test_texts_without_repeated_passages_are_not_changed(tmp_path):
    """Not even their blank lines and spaces; a text that is only repeated passages becomes empty."""
    texts = ["  a\n\n\n\nb  \n", "", MENU, MENU, "\n"]
    assert remove_repeated(tmp_path, texts) == (["  a\n\n\n\nb  \n", "", MENU, "", "\n"], [0, 0, 0, len(MENU), 0])


def test_only_the_given_rows_are_compared(tmp_path):
    """Passages of a row that was dropped before are not removed from other rows."""
    assert remove_repeated(tmp_path, [MENU, f"{MENU}\nmore", MENU], rows=[1, 2])[0] == [f"{MENU}\nmore", ""]


@pytest.mark.parametrize("block", [1, 60, 10**9])
def test_the_result_is_the_plain_definition_for_any_block_size(block, tmp_path, monkeypatch):
    """Compared with a loop over all lines and a set of those seen, on random texts in several scripts."""
    monkeypatch.setattr(spool_module, "BLOCK_BYTES", block)
    draw = random.Random(0)
    lines = [draw.choice(["天地玄黄宇宙洪荒", "été à la mer", "plain words"]) + str(i % 40) for i in range(60)]
    texts = ["\n".join(draw.choices(lines, k=draw.randrange(6))) for _ in range(80)]
    seen, expected = set(), []
    for text in texts:
        kept = [line for line in text.split("\n") if len(line) < 10 or not (line in seen or seen.add(line))]
        expected.append("\n".join(kept))
    assert remove_repeated(tmp_path, texts, min_chars=10)[0] == expected
