"""A first look at files finds all that cannot be read, before one of them is read to its end."""

import gzip
import logging
import os

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_llm.arguments import DataArguments, ReadingArguments, TextArguments
from hf_llm.data.checks import check_files, refuse_bad_files
from hf_llm.data.found import SourceFile
from hf_llm.data.locations import find_sources
from hf_llm.data.rows import read_files
from hf_llm.data.sources import load_splits

GOOD = {"a.jsonl": b'{"text": "a"}', "a.csv": b"text\na", "a.txt": b"a", "a.html": b"<p>a"}
BAD = {  # name -> content, part of the message
    "b.jsonl": (b"", "is empty"),
    "b.json": (b"\n", "is empty"),
    "b.txt": (b"", "is empty"),
    "b.html": (b"", "is empty"),
    "c.csv": (b'"text\na', "a quotation mark that is never closed"),
    "d.csv": ("t\u00e9xt\na".encode("cp1252"), "line 1 is not UTF-8"),
    "e.txt": (b"a\xff", "line 1 is not UTF-8"),
    "f.jsonl.gz": (b"a", "Not a gzipped file"),
    "g.parquet": (b"PAR1", "cannot be read"),
    "h.csv": (b"body\na", "has no column `text`, only body"),
    "i.jsonl": (b'{"body": "a"}', "has no column `text`, only body"),
    "j.html.gz": (gzip.compress(b"<p>a" * 99)[:20], "Compressed file ended"),
}
WITHOUT_ROWS = {"k.csv": b"text\n", "k.json": b"[]", "part-0.jsonl": b"", "part-1.csv.gz": gzip.compress(b"")}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def write(folder, files):
    """Write files, and return their paths by name."""
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return {name: str(folder / name) for name in files}


def files_of(*paths):
    """Return paths as `find_files` does."""
    return [SourceFile(path, path, 0) for path in paths]


def test_each_unreadable_file_has_its_problem(tmp_path):
    """All of them are found, and no others."""
    paths = write(tmp_path, GOOD | {name: content for name, (content, _) in BAD.items()})
    problems = check_files(files_of(*paths.values()), "text", ReadingArguments())
    assert list(problems) == [paths[name] for name in BAD]
    for name, (_, message) in BAD.items():
        assert f"`{paths[name]}`" in problems[paths[name]] and message in problems[paths[name]], name


def test_files_without_rows_are_counted(tmp_path, caplog):
    """Those that are well-formed, and empty parts as Spark writes them."""
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "k.parquet")
    paths = [*write(tmp_path, GOOD | WITHOUT_ROWS).values(), str(tmp_path / "k.parquet")]
    with caplog.at_level(logging.INFO):
        assert check_files(files_of(*paths), "text", ReadingArguments()) == {}
    assert f"5 of 9 files are well-formed but have no rows: {tmp_path}/k.csv" in caplog.text


def test_a_file_is_not_read_to_its_end(tmp_path):
    """Which takes long, and what is wrong there is found when it is read."""
    path = write(tmp_path, {"a.jsonl": b'{"text": "a"}\n' * 200_000 + b"broken"})["a.jsonl"]
    assert check_files(files_of(path), "text", ReadingArguments()) == {}


def test_all_problems_are_reported_at_once(tmp_path, caplog):
    """Each in the log, then how many; a single one is the error itself."""
    paths = write(tmp_path, GOOD | {name: content for name, (content, _) in BAD.items()})
    with pytest.raises(ValueError) as error:
        refuse_bad_files(files_of(*paths.values()), "text", ReadingArguments())
    assert str(error.value).startswith(f"{len(BAD)} of {len(paths)} files cannot be read, each for the reason above")
    assert [record.levelname for record in caplog.records] == ["ERROR"] * len(BAD)
    with pytest.raises(ValueError, match=r"b\.jsonl` is empty: remove it"):
        refuse_bad_files(files_of(paths["a.jsonl"], paths["b.jsonl"]), "text", ReadingArguments())


@pytest.mark.parametrize("streaming", [False, True])
def test_training_reports_all_bad_files_at_once(streaming, tmp_path):
    """As text, streamed or not, and as rows of a task; files of documents have no columns."""
    write(tmp_path, GOOD | {name: BAD[name][0] for name in ("b.jsonl", "c.csv")})
    files = {"train_file": [str(tmp_path / "*")], "validation_file": [str(tmp_path / "a.txt")]}
    with pytest.raises(ValueError, match="2 of 6 files cannot be read"):
        load_splits(TextArguments(**files, streaming=streaming), seed=0)
    with pytest.raises(ValueError, match="4 of 6 files cannot be read"):
        read_files("--train_file", files["train_file"], DataArguments())


def test_rows_of_a_task_may_be_in_binary_columns_beside_images(tmp_path):
    """Bytes that are UTF-8 are text; a column where some are not stays as it is."""
    columns = {"text": [b"a", b"b"], "image": [b"\x89PNG", b"GIF"]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    rows = read_files("--train_file", [str(tmp_path / "a.parquet")], ReadingArguments())
    assert rows["text"][:] == ["a", "b"] and rows["image"][:] == [b"\x89PNG", b"GIF"]


def test_files_without_any_row_are_no_training_data(tmp_path):
    """The error names them."""
    for name, load in (
        ("k.csv", lambda path: load_splits(TextArguments(train_file=[path]), seed=0)),
        ("k.json", lambda path: read_files("--train_file", [path], DataArguments())),
    ):
        path = write(tmp_path, {name: WITHOUT_ROWS[name]})[name]
        with pytest.raises(ValueError) as error:
            load(path)
        assert path in str(error.value) and "row" in str(error.value)


@pytest.mark.parametrize("num_proc", [1, 2])
def test_a_name_that_is_not_utf_8_can_be_trained_on(num_proc, tmp_path):
    """Also by worker processes."""
    for number in range(2):
        with open(os.fsencode(tmp_path) + b"/caf\xe9%d.txt" % number, "wb") as file:
            file.write(b"text %d" % number)
    settings = {"dataset_num_proc": num_proc, "validation_fraction": 0.5}
    splits = load_splits(TextArguments(train_file=[str(tmp_path)], **settings), seed=0)
    assert sorted(splits["train"]["text"][:] + splits["validation"]["text"][:]) == ["text 0", "text 1"]


def test_another_way_to_read_files_is_not_served_from_the_cache(tmp_path):
    """The settings belong to its key."""
    path = write(tmp_path, {"a.txt": "\u00e9t\u00e9 text".encode("cp1252")})["a.txt"]
    texts = []
    for encoding in ("cp1252", "cp437"):
        files = {"train_file": [path], "validation_file": [path]}
        texts += load_splits(TextArguments(**files, encoding=encoding), seed=0)["train"]["text"][:]
    assert texts == ["\u00e9t\u00e9 text", "\u0398t\u0398 text"]


def test_the_files_of_the_readmes_commands_can_be_read():
    """`--files README.md docs`, and `--train_file docs README.md`: everything in docs that looks like text has some."""
    found = find_sources("--files", ["README.md", "docs"])
    assert len(found.files) > 10
    assert check_files(found.files, "text", ReadingArguments()) == {}


def test_empty_source_files_are_no_problem(tmp_path, caplog):
    """Nearly every package of Python has an empty `__init__.py`: it is counted."""
    for name, content in (("__init__.py", ""), ("a.py", "print(1)")):
        (tmp_path / name).write_text(content)
    files = [SourceFile(str(tmp_path / name), name, 0) for name in ("__init__.py", "a.py")]
    with caplog.at_level("INFO"):
        assert check_files(files, "text", ReadingArguments(text_extensions=[".py"])) == {}
    assert "1 of 2 files are well-formed but have no rows" in caplog.text
