"""Whatever goes wrong in a source becomes a row with a problem, always: Daft may lose an exception."""

import asyncio
import json
import os
import re
import sys

import pyarrow as pa
import pytest

from hf_llm.arguments import PreparationArguments, ReadingArguments
from hf_llm.data.found import SourceFile
from hf_llm.preparation import document_source
from hf_llm.preparation.document_source import SCHEMA, DocumentFileTask, slices
from hf_llm.preparation.pipeline import prepare

GOOD = "A text that can be read without any problem."


class UnknownError(Exception):
    """Of a library that nobody knows."""


ERRORS = [
    OSError(5, "Input/output error"), MemoryError(), RecursionError("maximum recursion depth exceeded"),
    pa.ArrowInvalid("corrupt"), KeyError("text"), AssertionError(), StopIteration("early"), UnknownError("a\nb \udcff"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), StopAsyncIteration(), SyntaxError("x"),
]  # fmt: skip


def read(path="a.jsonl", size=100, batch=(256, 1 << 20), max_bytes=1 << 20):
    """Run the task of one file, and return its rows and the number of rows in each batch."""
    task = DocumentFileTask(3, SourceFile(path, "a", size), "text", ReadingArguments(), batch, max_bytes, "into memory")

    async def collect():
        return [batch.to_arrow_table() async for batch in task.read()]

    tables = asyncio.run(collect())
    assert all(table.schema.names == SCHEMA.names for table in tables)
    return pa.concat_tables(tables).to_pylist(), [len(table) for table in tables]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("rows", [0, 2])
def test_no_exception_leaves_a_task(monkeypatch, error, rows):
    """It becomes the last row, with the number of the row before it; the rows before it are kept."""

    def fail(*args):
        if rows:
            yield pa.array([GOOD] * rows), {}, [None] * rows
        raise error

    monkeypatch.setattr(document_source, "read_documents", fail)
    *good, last = read()[0]
    assert [row["text"] for row in good] == [GOOD] * rows and not any(row["problem"] for row in good)
    assert last | {"problem": 0} == {
        "source": 3, "row": rows, "text": None, "problem": 0, "lost_bytes": 100, "is_file": True,
        "left_out": None, "kept": None,
    }  # fmt: skip
    assert last["problem"].startswith(f"`a.jsonl` cannot be read{' after row 1' * bool(rows)}: ")
    assert "\n" not in last["problem"] and len(last["problem"]) > len("`a.jsonl` cannot be read: ")


@pytest.mark.parametrize("run", range(3))
@pytest.mark.parametrize("settings", [{}, {"clean": False, "anonymize": "none"}], ids=["processes", "no processes"])
def test_a_failing_reader_ends_the_run_with_its_message(tmp_path, monkeypatch, settings, run):
    """Every time, with and without worker processes, however many other files there are."""
    for number in range(6):
        (tmp_path / f"{number}.jsonl").write_text(json.dumps({"text": f"{GOOD} {number}"}) + "\n")
    original = document_source.read_documents

    def fail(path, *args):
        if path.endswith("3.jsonl"):
            raise UnknownError("the disk is on fire")
        return original(path, *args)

    monkeypatch.setattr(document_source, "read_documents", fail)
    args = PreparationArguments(files=[str(tmp_path)], output_dir=str(tmp_path / "out"), **settings)
    with pytest.raises(ValueError, match=re.escape(f"`{tmp_path}/3.jsonl` cannot be read: the disk is on fire")):
        prepare(args)


def test_a_text_that_is_too_long_for_the_processes_is_a_problem(monkeypatch):
    """Of its row alone, with its size and what to do; its bytes do not stay in the batch."""
    texts = pa.array([GOOD, "x" * 5000, "y" * 100, None])
    monkeypatch.setattr(document_source, "read_documents", lambda *args: [(texts, {}, [None] * len(texts))])
    rows, _ = read(size=6000, max_bytes=100)
    assert [row["text"] for row in rows] == [GOOD, None, "y" * 100, None]
    assert rows[1]["problem"] == "`a.jsonl` row 1 has 5,000 bytes, at most 100 fit into memory"
    assert [row["lost_bytes"] for row in rows] == [0, 5000, 0, 0] and not rows[1]["is_file"]


def test_batches_are_limited_in_rows_and_bytes(monkeypatch):
    """So that few long texts need no more shared memory than many short ones; a longer text is a batch of its own."""
    texts = pa.array(["a" * 10] * 5 + ["b" * 25] + ["c"] * 4)
    monkeypatch.setattr(document_source, "read_documents", lambda *args: [(texts, {}, [None] * len(texts))])
    assert read(batch=(3, 20))[1] == [2, 2, 1, 1, 3, 1]
    assert list(slices(pa.chunked_array([[None, "ab", None]], pa.large_string()), 9, 1)) == [
        slice(n, n + 1) for n in range(3)
    ]
    texts = pa.chunked_array([["a" * 10] * 5], pa.large_string())
    assert list(slices(texts, 2, sys.maxsize)) == [slice(0, 2), slice(2, 4), slice(4, 5)], "no limit of bytes"


def test_a_message_with_a_name_that_is_not_utf8_can_be_stored(tmp_path):
    """The name is escaped in it, as everywhere."""
    path = os.path.join(os.fsencode(tmp_path), b"gr\xfcn.jsonl")
    with open(path, "wb") as file:
        file.write(b"no JSON\n")
    (row,) = read(os.fsdecode(path))[0]
    assert "gr\\xfcn.jsonl`" in row["problem"]
