"""Columns that go with the texts through all steps into the shards."""

import json
import zipfile

import pyarrow.parquet as pq
import pytest

from hf_llm.arguments import PreparationArguments, ReadingArguments
from hf_llm.data.checks import refuse_missing_columns
from hf_llm.data.locations import find_files
from hf_llm.preparation.pipeline import prepare

TEXT = "The {} harvest was brought in before the rain, and nobody in the village had to buy bread that winter."
NO_STEPS = {"clean": False, "anonymize": "none"}  # no worker processes are started
NUMBERS = ("first", "second", "third", "fourth")


def prepare_rows(folder, name, files, **settings):
    """Prepare files, and return the rows of the shards."""
    args = PreparationArguments(
        files=[str(file) for file in files], output_dir=str(folder / name), **NO_STEPS, **settings
    )
    prepare(args)
    return [row for shard in sorted((folder / name).glob("*.parquet")) for row in pq.read_table(shard).to_pylist()]


def test_columns_go_with_their_texts(tmp_path):
    """Through deduplication, trimmed passages and several shards; in their types, null where a row has none."""
    menu = "This is the menu of the site, which is the same on all of its pages, as everybody knows."
    rows = [
        {
            "id": n,
            "source": f"s{n}",
            "meta": {"url": f"http://x/{n}"},
            "tags": [n],
            "text": f"{menu}\n{TEXT.format(word)}",
        }
        for n, word in enumerate(NUMBERS)
    ]
    rows.insert(1, rows[0] | {"id": 9})  # a duplicate
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "b.txt").write_text(TEXT.format("very last"))
    keep = {"keep_columns": ["id", "meta.url", "tags", "source"], "near_deduplication": False}
    files = [tmp_path / "a.jsonl", tmp_path / "b.txt"]
    kept = prepare_rows(tmp_path, "out", files, passage_deduplication="lines", shard_bytes=200, **keep)
    assert [row["id"] for row in kept] == [0, 1, 2, 3, None]
    assert [row["meta.url"] for row in kept] == [*(f"http://x/{n}" for n in range(4)), None]
    assert [row["tags"] for row in kept] == ["[0]", "[1]", "[2]", "[3]", None]
    assert [row["original_source"] for row in kept] == ["s0", "s1", "s2", "s3", None]
    assert all(word in row["text"] for word, row in zip(NUMBERS, kept, strict=False))
    again = prepare_rows(
        tmp_path, "again", [tmp_path / "out"], keep_columns=["id", "meta.url"], near_deduplication=False
    )
    assert [(row["id"], row["meta.url"]) for row in again] == [(row["id"], row["meta.url"]) for row in kept]


def test_values_of_several_types_are_stored_as_text(tmp_path, caplog):
    """Whole numbers beside others as numbers, those that would change as text; a column without values is named."""
    texts = [TEXT.format(word) for word in NUMBERS[:2]]
    rows = [
        {"n": 1, "m": 1, "big": 2**64 - 1, "exact": 2**53 + 1, "text": texts[0]},
        {"n": 0.5, "m": "x", "big": 1, "exact": 0.5, "o": None, "text": texts[1]},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    keep = ["n", "m", "big", "exact", "o"]
    kept = prepare_rows(tmp_path, "out", [tmp_path / "a.jsonl"], keep_columns=keep, near_deduplication=False)
    assert [row["n"] for row in kept] == [1.0, 0.5]
    assert [row["m"] for row in kept] == ["1", '"x"']
    assert [row["big"] for row in kept] == [f"{2**64 - 1}", "1"]
    assert [row["exact"] for row in kept] == [f"{2**53 + 1}", "0.5"]
    assert [row["o"] for row in kept] == [None, None]
    assert "`--keep_columns` o: no row that is left has a value" in caplog.text


def test_a_misspelt_column_is_refused_before_the_preparation(tmp_path):
    """Where no file has it: of several files one is enough, also a later one in an archive; documents have none."""
    (tmp_path / "a.jsonl").write_text(json.dumps({"id": 1, "meta": {"url": "u"}, "text": TEXT}))
    (tmp_path / "b.txt").write_text(TEXT.format("first"))
    (tmp_path / "c.csv").write_text("day,text\n1,x\n")
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        archive.writestr("a.csv", "text\nx\n")
        archive.writestr("b.csv", "hour,text\n1,x\n")
    only = "no file has this column in its first rows, only id, meta.url, text: choose among these"
    for files, column, message in [
        (["a.jsonl", "b.txt"], "meta.ulr", only),
        (["b.txt"], "id", "no file has this column in its first rows: leave it out"),
    ]:
        with pytest.raises(ValueError, match="no file has") as error:
            prepare_rows(tmp_path, "out", [tmp_path / name for name in files], keep_columns=[column])
        assert str(error.value) == f"`--keep_columns` {column}: {message}" and not (tmp_path / "out").exists()
    files = find_files("--files", [str(tmp_path)]).files
    refuse_missing_columns("--keep_columns", ["id", "meta.url", "day", "hour"], files, ReadingArguments())
