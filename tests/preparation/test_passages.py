"""Lines and paragraphs that stand in an earlier text are left out, and nothing else."""

import contextlib
import random

import numpy as np
import pyarrow as pa
import pytest

from hf_llm.preparation import spool as spooling
from hf_llm.preparation.passages import drop_repeated_passages
from hf_llm.preparation.spool import Spool

MENU = "Home | Products | About us | Contact | Terms of use and privacy"


def cut(folder, texts, unit="lines", min_chars=20, rows=None):
    """Texts after the step, and the bytes that each lost."""
    rows = np.arange(len(texts)) if rows is None else np.array(rows)
    with contextlib.closing(Spool(folder / "a")) as spool, contextlib.closing(Spool(folder / "b")) as into:
        spool.append(pa.array(texts, pa.large_string()), {name: np.arange(len(texts)) for name in ("source", "row")})
        lost, _ = drop_repeated_passages(spool, rows, into, unit, min_chars)
        assert into.column("row").tolist() == rows.tolist()
        return into.texts(into.column("begin"), into.column("end")).to_pylist(), lost.tolist()


def test_the_first_of_equal_lines_stays(tmp_path):
    """Also of those in one text; spaces around do not matter; what is left keeps its order."""
    texts = [f"{MENU}\nOne text.\n  {MENU}\nIts end.", f"Another.\n{MENU}", "No menu."]
    found, lost = cut(tmp_path, texts)
    assert found == [f"{MENU}\nOne text.\nIts end.", "Another.", "No menu."]
    assert lost == [len(MENU) + 3, len(MENU) + 1, 0]


def test_short_lines_stay(tmp_path):
    """Every text may have a `}` or a heading."""
    texts = ["}\nreturn\n", "}\nreturn\n"]
    assert cut(tmp_path, texts)[0] == texts
    assert cut(tmp_path / "one", texts, min_chars=1)[0] == ["}\nreturn\n", ""]


def test_paragraphs_are_compared_as_a_whole(tmp_path):
    """A line of one that is there already stays in another."""
    first, second = "A line of some length.\nAnd its second line.", "A line of some length.\nAnd something else."
    texts = [f"{first}\n\n{second}", f"{second}\n\nNew words at the end.", "A line of some length."]
    found, _ = cut(tmp_path, texts, unit="paragraphs")
    assert found == [f"{first}\n\n{second}", "New words at the end.", "A line of some length."]


def test_texts_that_lose_nothing_are_left_as_they_are(tmp_path):
    """Blank lines and spaces too; one that loses all of it is empty."""
    texts = ["  a\n\n\n\nb  \n", "", MENU, MENU, "\n"]
    assert cut(tmp_path, texts) == (["  a\n\n\n\nb  \n", "", MENU, "", "\n"], [0, 0, 0, len(MENU), 0])


def test_only_the_chosen_rows_count(tmp_path):
    """What a duplicate held, which is gone, is no reason to leave it out elsewhere."""
    assert cut(tmp_path, [MENU, f"{MENU}\nmore", MENU], rows=[1, 2])[0] == [f"{MENU}\nmore", ""]


@pytest.mark.parametrize("block", [1, 60, 10**9])
def test_it_is_the_plain_definition_however_texts_are_read(block, tmp_path, monkeypatch):
    """Against a set of lines in a loop, over random texts in any script."""
    monkeypatch.setattr(spooling, "BLOCK", block)
    draw = random.Random(0)
    lines = [draw.choice(["天地玄黄宇宙洪荒", "été à la mer", "plain words"]) + str(i % 40) for i in range(60)]
    texts = ["\n".join(draw.choices(lines, k=draw.randrange(6))) for _ in range(80)]
    seen, expected = set(), []
    for text in texts:
        kept = [line for line in text.split("\n") if len(line) < 10 or not (line in seen or seen.add(line))]
        expected.append("\n".join(kept))
    assert cut(tmp_path, texts, min_chars=10)[0] == expected
