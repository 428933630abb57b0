"""Every byte of the input is read, lost or left out; what is lost is named, and too much of it ends the run."""

import gzip
import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_llm.arguments import PreparationArguments
from hf_llm.data.byte_streams import Problem
from hf_llm.data.found import Found, SkippedFile, SourceFile
from hf_llm.preparation.input_counts import InputCounts
from hf_llm.preparation.pipeline import prepare

TEXT = "Documents of this test are all different, because the number {} is in them."
NO_STEPS = {"clean": False, "anonymize": "none", "near_deduplication": False}  # no worker processes


def write_lines(path, *numbers):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": TEXT.format(number)}) + "\n" for number in numbers))


def arguments(folder, **settings):
    output = {"output_dir": str(folder.parent / "out")}
    return PreparationArguments(files=[str(folder)], **(output | NO_STEPS | settings))


def bytes_in(folder):
    """The bytes of all files of a folder, each file once, without following links."""
    paths = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return sum({path.stat().st_ino: path.stat().st_size for path in paths}.values())


@pytest.fixture
def mixed(tmp_path):
    """A folder of good, broken, empty and foreign files, links and hidden folders."""
    folder = tmp_path / "mixed"
    write_lines(folder / "good.jsonl", *range(300))
    write_lines(folder / "deep/more.jsonl", *range(300, 400))
    (folder / "text.md").write_text(TEXT.format("of a page"))
    pq.write_table(pa.table({"text": [TEXT.format(number) for number in range(400, 500)]}), folder / "rows.parquet")
    (folder / "broken.parquet").write_bytes(b"PAR1 no more")
    (folder / "cut.txt.gz").write_bytes(gzip.compress(os.urandom(5000))[:3000])
    (folder / "row.jsonl").write_text('{"text": "One good row of this file."}\n{"text": 5}\nno JSON\n')
    (folder / "README.md").write_text("# A card")
    (folder / "old.tar.lz4").write_bytes(b"tar" * 50)
    write_lines(folder / ".cache/hidden.jsonl", 1, 2)
    write_lines(folder / "run/all_results.json", 3)
    write_lines(folder / "run/predictions.jsonl", 4)
    (folder / "loop").symlink_to(".")
    (folder / "broken_link.jsonl").symlink_to("nothing")
    os.link(folder / "good.jsonl", folder / "same.jsonl")
    os.mkfifo(folder / "pipe.jsonl")
    with open(os.path.join(os.fsencode(folder), b"gr\xfcn.bin"), "wb") as file:
        file.write(b"x" * 77)
    return folder


def test_every_byte_of_a_mixed_folder_is_accounted_for(mixed):
    """Bytes found = read + lost + left out, and by file: sources and what was not read; rows add up too."""
    manifest = prepare(arguments(mixed, on_error="skip", max_unreadable=0.9))
    counts, sources = manifest["input"], manifest["sources"]
    assert counts["bytes"] == bytes_in(mixed)
    assert counts["bytes"] == counts["bytes_read"] + counts["bytes_lost"] + counts["bytes_left_out"]
    assert counts["bytes_read"] + counts["bytes_lost"] == sum(source["bytes"] for source in sources)
    assert counts["bytes_lost"] == sum(source.get("lost_bytes", 0) for source in sources) >= 3000 + 12
    assert counts["bytes_left_out"] == sum(file["bytes"] for file in manifest["not_read"])
    assert counts["files"] == counts["files_read"] + counts["files_left_out"]
    assert counts["rows"] == sum(source["rows"] for source in sources) == manifest["steps"][0]["rows_in"] == 504
    assert counts["unreadable_rows"] == sum(manifest["steps"][0]["dropped"].values()) == 2
    assert manifest["steps"][0]["bytes_in"] == sum(source["bytes_of_text"] for source in sources)
    assert {source["name"] for source in sources if "problem" in source} == {
        "mixed/broken.parquet",
        "mixed/cut.txt.gz",
    }
    assert {file["name"]: file["reason"] for file in manifest["not_read"]} == {
        "mixed/.cache": "hidden: its name begins with `.`",
        "mixed/README.md": "a readme, card or licence",
        "mixed/broken_link.jsonl": "a link to nothing",
        "mixed/gr\\xfcn.bin": "no reader for .bin",
        "mixed/loop": "the same as mixed",
        "mixed/old.tar.lz4": "no reader for .tar.lz4",
        "mixed/pipe.jsonl": "a named pipe",
        "mixed/run": "output of a training, or a model",
        "mixed/same.jsonl": "the same as mixed/good.jsonl",
    }
    for name in ("manifest.json", "report.md", "README.md"):
        assert str(mixed.parent) not in (mixed.parent / "out" / name).read_text()
    assert str(mixed.parent) not in gzip.decompress((mixed.parent / "out/dropped.tsv.gz").read_bytes()).decode()


def test_each_lost_file_is_a_warning_and_too_many_lost_bytes_end_the_run(mixed, caplog):
    """With name, reason and share of each; the error has the figures and a remedy that works; nothing is written."""
    with pytest.raises(ValueError, match="cannot be read") as info:
        prepare(arguments(mixed, on_error="skip"))
    message, warnings = str(info.value), [record.getMessage() for record in caplog.records]
    for name, reason in (("broken.parquet", "Parquet"), ("cut.txt.gz", "")):
        (warning,) = [warning for warning in warnings if f"`{mixed}/{name}`" in warning]
        assert reason in warning and "% of all bytes are lost" in warning
    (warning,) = [warning for warning in warnings if "row.jsonl" in warning]
    assert warning.startswith(f"`{mixed}/row.jsonl`: 2 rows cannot be read; ") and "; the first: line 2: " in warning
    assert "2 files and 2 rows, named above), more than `--max_unreadable` 0.01: " in message
    assert not list(mixed.parent.glob("*out*"))
    share = float(message.rpartition("--max_unreadable ")[2])
    assert 0.01 < share < 0.5 and prepare(arguments(mixed, on_error="skip", max_unreadable=share))


def test_few_lost_bytes_do_not_end_a_run(tmp_path):
    """The share counts, not the number of rows or files."""
    write_lines(tmp_path / "d/good.jsonl", *range(1000))
    (tmp_path / "d/empty.jsonl").write_text(" ")
    manifest = prepare(arguments(tmp_path / "d", on_error="skip"))
    assert manifest["rows"] == 1000 and manifest["input"]["unreadable_files"] == 1


def test_all_unreadable_files_are_named_at_once(tmp_path, caplog):
    """Each once, before anything is read; the last line has their number and the remedy."""
    write_lines(tmp_path / "d/good.jsonl", 1)
    for number in range(4):
        (tmp_path / f"d/bad{number}.parquet").write_text("no Parquet file")
    (tmp_path / "d/latin.txt").write_bytes("größe".encode("latin-1"))
    with pytest.raises(
        ValueError, match=r"5 of 6 files cannot be read, each for the reason above: .*`--on_error skip`"
    ):
        prepare(arguments(tmp_path / "d"))
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == 5
    for name in (*(f"bad{number}.parquet" for number in range(4)), "latin.txt"):
        assert sum(f"`{tmp_path}/d/{name}`" in error for error in errors) == 1


def test_a_file_without_rows_is_counted_and_lost_bytes_are_at_most_its_size():
    """Bytes of single rows are estimates."""
    files = [SourceFile(f"/x/{name}", name, 100) for name in "abc"]
    counts = InputCounts(Found(files, [SkippedFile("d", "hidden", 30, 3), SkippedFile("e", "the same as a", 0, 0)]))
    counts.count_read(np.array([0, 0, 2]), np.array([40, 0, 0]))
    counts.count_unreadable(0, Problem("`/x/a` line 2: bad", 500))
    counts.count_unreadable(2, Problem("`/x/c` cannot be read", 100, is_file=True))
    totals = counts.totals()
    assert totals["rows"] == 2 and totals["unreadable_rows"] == 1 and totals["unreadable_files"] == 1
    assert totals["bytes"] == 330 and totals["bytes_lost"] == 200 and totals["bytes_read"] == 100
    assert totals["files"] == 6 and totals["files_left_out"] == 3 and totals["files_without_rows"] == 1
    assert counts.stored_message(2, "`/x/c` cannot be read") == "`c` cannot be read"
