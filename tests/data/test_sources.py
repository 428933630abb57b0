"""Every source is loaded as `train` and `validation` with one column `text`, exactly, or refused in one line."""

import gzip
import json
import os
import re
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from hf_llm.arguments import TextArguments
from hf_llm.data import byte_streams, sources
from hf_llm.data.sources import load_splits


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def load(seed=0, **arguments):
    return load_splits(TextArguments(**arguments), seed)


def texts(tmp_path, **arguments):
    """The training texts of everything in `tmp_path`, in order."""
    arguments.setdefault("train_file", [str(tmp_path / "*")])
    held_out = tmp_path.parent / f"{tmp_path.name}-held-out.txt"
    held_out.write_text("held out")
    return load(validation_file=[str(held_out)], **arguments)["train"]["text"][:]


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def error_of(**arguments):
    """The message of the ValueError: one line, without another error as its cause."""
    with pytest.raises(ValueError) as info:
        load(**arguments)
    assert "\n" not in str(info.value) and "`" in str(info.value)
    assert info.value.__cause__ is None and (info.value.__context__ is None or info.value.__suppress_context__)
    return str(info.value)


def error_of_file(path, content, **arguments):
    """The message for one bad file, which must name the file."""
    path.write_bytes(content)
    message = error_of(train_file=[str(path)], **arguments)
    assert f"`{path}`" in message
    return message


# What is read


@pytest.mark.parametrize("name", [None, "python_docs"])
def test_no_data_named_gives_the_sample(monkeypatch, name):
    """Without arguments, or by name, the built-in sample is loaded with its splits, and without `module`."""
    rows = {part: datasets.Dataset.from_dict({"text": [part], "module": ["m"]}) for part in ("train", "validation")}
    monkeypatch.setattr(sources, "python_docs", lambda: datasets.DatasetDict(rows))
    assert {part: rows.to_dict() for part, rows in load(dataset_name=name).items()} == {
        "train": {"text": ["train"]},
        "validation": {"text": ["validation"]},
    }


@pytest.mark.parametrize("compression", ["", ".gz", ".zst"])
def test_text_formats_are_read_exactly(tmp_path, compression):
    """.txt, .jsonl, .json and .csv give the same strings, compressed or not."""
    rows = [
        "plain",
        "two\nlines\n\nand a paragraph",
        'quotes " and , commas',
        "é 漢字 😀",
        "NA",
        "null",
        "007",
        "2020-01-01",
    ]
    compress = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}[compression]
    contents = {
        "a.csv": "id,text\n" + "".join('{},"{}"\n'.format(i, row.replace('"', '""')) for i, row in enumerate(rows)),
        "b.json": json.dumps([{"text": row, "n": 1} for row in rows], indent=1),
        "c.json": "".join(json.dumps({"text": row}) + "\n" for row in rows),
        "d.jsonl": "\n\n".join(json.dumps({"n": i, "text": row}, ensure_ascii=False) for i, row in enumerate(rows)),
        "e.txt": rows[1],
    }
    for name, content in contents.items():
        (tmp_path / (name + compression)).write_bytes(compress(content.encode()))
    assert texts(tmp_path) == rows * 4 + [rows[1]]


def test_parquet_is_read_exactly(tmp_path):
    """Strings and large strings of a parquet file arrive as they are."""
    for name, kind in {"a": pa.string(), "b": pa.large_string()}.items():
        pq.write_table(pa.table({"text": pa.array(["x", "y\n"], kind), "n": [1, 2]}), tmp_path / f"{name}.parquet")
    assert texts(tmp_path) == ["x", "y\n", "x", "y\n"]


def test_byte_order_marks_and_windows_line_ends_are_not_text(tmp_path):
    """A BOM is dropped in every text format, and the lines of a .txt file end in a single character."""
    mark = "\ufeff".encode()
    (tmp_path / "a.csv").write_bytes(mark + b"text\r\na\r\n")
    (tmp_path / "b.jsonl").write_bytes(mark + b'{"text": "b"}\r\n')
    (tmp_path / "c.json").write_bytes(mark + b'[{"text": "c"}]')
    (tmp_path / "d.txt").write_bytes(mark + b"d\r\ne")
    assert texts(tmp_path) == ["a", "b", "c", "d\ne"]


def test_json_that_only_python_reads_is_read(tmp_path):
    """Neither NaN nor a name given twice in one object stops the run."""
    (tmp_path / "a.jsonl").write_text('{"text": "a", "n": NaN}\n{"text": "x", "text": "b"}\n')
    assert texts(tmp_path) == ["a", "b"]


def test_other_columns_may_be_anything(tmp_path):
    """Columns that are not read may change their types from row to row."""
    write_lines(tmp_path / "a.jsonl", [{"text": "a", "m": 1}, {"text": "b", "m": {"k": []}}, {"m": "s", "text": "c"}])
    assert texts(tmp_path) == ["a", "b", "c"]


def test_lines_across_chunks_are_kept_whole(tmp_path, monkeypatch):
    """Rows are neither cut nor lost at the end of a chunk, even if a row is longer than a chunk."""
    monkeypatch.setattr(byte_streams, "CHUNK", 64)
    rows = [f"{i} " + "x" * (i % 150) for i in range(300)]
    write_lines(tmp_path / "a.jsonl", [{"text": row} for row in rows])
    assert texts(tmp_path) == rows


def test_text_field_is_renamed(tmp_path):
    """`--dataset_text_field` chooses the column, whatever other columns exist."""
    write_lines(tmp_path / "a.jsonl", [{"text": 1, "body": "b"}])
    assert texts(tmp_path, dataset_text_field="body") == ["b"]


def test_globs_are_sorted_and_each_file_is_read_once(tmp_path, monkeypatch):
    """Order does not depend on the command line; `~` is the home folder; a file named twice counts once."""
    for name in "cab":
        (tmp_path / f"{name}[1].txt").write_text(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert texts(tmp_path, train_file=["~/c[1].txt", str(tmp_path / "*.txt"), "~/a*"]) == ["a", "b", "c"]


def test_several_processes_give_the_same_rows(tmp_path):
    """`--dataset_num_proc` changes neither rows nor order, and an error still is one line."""
    for i in range(4):
        write_lines(tmp_path / f"{i}.jsonl", [{"text": f"{i}.{j}"} for j in range(5)])
    assert texts(tmp_path, dataset_num_proc=2) == [f"{i}.{j}" for i in range(4) for j in range(5)]
    (tmp_path / "3.jsonl").write_text("{broken")
    assert "3.jsonl` line 1: " in error_of(train_file=[str(tmp_path / "*")], dataset_num_proc=2)


# The cache


def test_changed_file_is_read_again(tmp_path):
    """The same name, size and modification time with other content do not give the old rows."""
    path = tmp_path / "a.txt"
    for content in ("one", "two"):
        path.write_text(content)
        os.utime(path, (1, 1))
        assert texts(tmp_path) == [content]


def test_unchanged_file_is_not_read_again(tmp_path, monkeypatch):
    """The second load comes out of the cache of `datasets`, with the same fingerprint."""
    path = write_lines(tmp_path / "a.jsonl", [{"text": str(i)} for i in range(20)])
    first = load(train_file=[path])["train"]
    monkeypatch.setattr(sources, "read_texts", None)
    second = load(train_file=[path])["train"]
    assert first.cache_files and second._fingerprint == first._fingerprint


# The splits


def test_validation_file_is_used_whole(tmp_path):
    """With `--validation_file` nothing is split off."""
    train = write_lines(tmp_path / "t.jsonl", [{"text": f"t{i}"} for i in range(20)])
    held_out = write_lines(tmp_path / "v.jsonl", [{"text": f"v{i}"} for i in range(3)])
    splits = load(train_file=[train], validation_file=[held_out])
    assert splits["train"]["text"][:] == [f"t{i}" for i in range(20)]
    assert splits["validation"]["text"][:] == ["v0", "v1", "v2"]


def test_file_in_both_splits_is_reported(tmp_path, caplog):
    """A warning names the file if a glob of the training files matches the validation file too."""
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(name)
    load(train_file=[str(tmp_path / "*")], validation_file=[str(tmp_path / "b.txt")])
    assert "b.txt is in `--train_file` as well" in caplog.text


@pytest.mark.parametrize("rows, fraction, expected", [(100, 0.05, 5), (2, 0.05, 1), (3, 0.99, 2)])
def test_fraction_is_split_off_with_the_seed(tmp_path, rows, fraction, expected):
    """The splits have all rows, share none, have at least one each and depend only on the seed."""
    path = write_lines(tmp_path / "a.jsonl", [{"text": str(i)} for i in range(rows)])
    loaded = [load(seed, train_file=[path], validation_fraction=fraction) for seed in (1, 1, 2)]
    splits = [{name: rows["text"][:] for name, rows in split.items()} for split in loaded]
    assert len(splits[0]["validation"]) == expected
    assert sorted(splits[0]["train"] + splits[0]["validation"], key=int) == [str(i) for i in range(rows)]
    assert splits[0] == splits[1] and (rows < 100 or splits[0] != splits[2])


@pytest.mark.parametrize("separator", ["\n\n", "\n", " "])
def test_single_document_is_cut_between_paragraphs_lines_or_words(tmp_path, caplog, separator):
    """The last 5 to 10 % of a book.txt are for validation, cut at the coarsest boundary; nothing is lost."""
    book = separator.join(f"word{i}" for i in range(1000))
    (tmp_path / "book.txt").write_text(book)
    splits = load(train_file=[str(tmp_path / "book.txt")])
    train, validation = splits["train"][0]["text"], splits["validation"][0]["text"]
    assert train + validation == book and train.endswith(separator) and validation.startswith("word")
    assert 0.05 <= len(validation) / len(book) <= 0.1
    assert f"its last {len(validation)} of {len(book)} characters" in caplog.text


def test_limits_keep_the_first_rows(tmp_path):
    """`--max_train_samples` and `--max_eval_samples` keep N rows and may exceed the number of rows."""
    path = write_lines(tmp_path / "a.jsonl", [{"text": str(i)} for i in range(9)])
    splits = load(train_file=[path], validation_file=[path], max_train_samples=4, max_eval_samples=99)
    assert splits["train"]["text"][:] == ["0", "1", "2", "3"] and len(splits["validation"]) == 9


def test_rows_without_text_are_dropped_and_counted(tmp_path, caplog):
    """Null, missing, empty and blank texts are dropped and counted, before the limit applies."""
    rows = [{"text": None}, {"text": "a"}, {"n": 1}, {"text": ""}, {"text": " \n\u3000"}, {"text": " b"}]
    write_lines(tmp_path / "a.jsonl", rows)
    assert texts(tmp_path, max_train_samples=2) == ["a", " b"]
    assert "train: dropped 4 empty rows of 6" in caplog.text


# Data sets by name (a folder in place of the Hub)


@pytest.mark.parametrize(
    "files, expected", [("train validation test", "validation"), ("train test", "test"), ("train", "train")]
)
def test_named_data_set_gives_validation_or_test_or_a_fraction(tmp_path, files, expected):
    """The split `validation` is used, or else `test`, or else a fraction of `train`."""
    for name in files.split():
        write_lines(tmp_path / f"{name}.jsonl", [{"body": f"{name}{i}", "n": i} for i in range(4)])
    splits = load(dataset_name=str(tmp_path), dataset_text_field="body")
    assert all(rows.column_names == ["text"] for rows in splits.values())
    assert all(text.startswith(expected) for text in splits["validation"]["text"])
    assert len(splits["train"]) == (3 if expected == "train" else 4)


def test_errors_of_named_data_sets(tmp_path, monkeypatch):
    """Columns and types are checked, and a data set that cannot be loaded offline is refused in one line."""
    write_lines(tmp_path / "train.jsonl", [{"body": "b", "n": 1}])
    assert "no column `text`, only body, n: choose with --dataset_text_field" in error_of(dataset_name=str(tmp_path))
    message = error_of(dataset_name=str(tmp_path), dataset_text_field="n")
    assert "`--dataset_text_field` n holds" in message and "int64" in message
    os.rename(tmp_path / "train.jsonl", tmp_path / "test.jsonl")
    assert "has no split `train`: name another" in error_of(dataset_name=str(tmp_path))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "`--dataset_name` nobody/nothing cannot be loaded: " in error_of(dataset_name="nobody/nothing")


# What is wrong


def test_contradictory_arguments(tmp_path):
    """Two sources, validation without training, and a fraction of 1 are refused."""
    path = write_lines(tmp_path / "a.jsonl", [{"text": "a"}, {"text": "b"}])
    assert "are both given" in error_of(train_file=[path], dataset_name="x")
    assert "without `--train_file`" in error_of(validation_file=[path])
    assert "`--validation_fraction` is 1" in error_of(train_file=[path], validation_fraction=1)


def test_names_that_lead_to_no_file(tmp_path):
    """A glob without matches, a folder without files and an unknown extension are named, with the remedy."""
    (tmp_path / "a.odd").write_text("a")
    (tmp_path / "a.parquet.gz").write_text("a")
    pattern = str(tmp_path / "*.txt")
    assert f"`--train_file` {pattern} matches no file" in error_of(train_file=[pattern])
    assert "matches no file" in error_of(train_file=[str(tmp_path)])
    for name in ("a.odd", "a.parquet.gz"):
        message = error_of(train_file=[str(tmp_path / name)])
        assert f"`{tmp_path / name}` has an unknown extension: known are .txt .md .jsonl .json" in message


@pytest.mark.parametrize(
    "name, content",
    [
        *[(name, "") for name in ("a.txt", "a.jsonl", "a.csv", "a.parquet", "a.jsonl.gz")],
        ("a.jsonl", "\n\n"),
        ("a.json", "[]"),
        ("a.csv", "text\n"),
    ],
)
def test_empty_file(tmp_path, name, content):
    """A file without rows is named, whatever its format."""
    assert re.search(
        "empty|cannot be read: ", error_of_file(tmp_path / name, content.encode(), validation_fraction=0.5)
    )


@pytest.mark.parametrize(
    "line, problem",
    [
        ('{"text": "b', "Unterminated string starting at: column 10"),
        ('{"text": "b"} extra', "Extra data"),
        ('{"text": "b"}\0', "Extra data"),
        ('"b"', "found str, not an object"),
        ('{"text": 3}', "`text` holds int, not a string"),
        ('{"text": "\\ud800"}', "`text` holds half of a surrogate pair"),
    ],
)
def test_broken_json_line(tmp_path, line, problem):
    """The file, the line and what is wrong with it; the blank lines before it count."""
    rows = '{"text": "a"}\n\n' * 5 + line + '\n{"text": "c"}\n'
    message = error_of_file(tmp_path / "a.jsonl", rows.encode())
    assert "a.jsonl` line 11: " in message and problem in message and "line 1 " not in message


def test_broken_json_line_far_into_a_compressed_file(tmp_path, monkeypatch):
    """Lines are counted across chunks and through compression."""
    monkeypatch.setattr(byte_streams, "CHUNK", 100)
    rows = b'{"text": "some text"}\n' * 500 + b"{\n"
    assert "a.jsonl.gz` line 501: " in error_of_file(tmp_path / "a.jsonl.gz", gzip.compress(rows))


@pytest.mark.parametrize(
    "content, problem",
    [
        ('[{"text": "a"},\n {"text": }]', "line 2 column 11"),
        ('[{"text": "a"}, ["b"]]', "row 1: found list, not an object"),
        ('[{"text": "a"}, {"text": ["b"]}]', "row 1: `text` holds list, not a string"),
    ],
)
def test_broken_json_list(tmp_path, content, problem):
    """The message names the line and column where a list is broken, or the row that is not an object with a text."""
    assert problem in error_of_file(tmp_path / "a.json", content.encode())


@pytest.mark.parametrize(
    "name, content",
    [("a.jsonl", '{"body": "b", "n": 1}\n'), ("a.json", '[{"body": "b", "n": 1}]'), ("a.csv", "body,n\nb,1\n")],
)
def test_missing_text_column(tmp_path, name, content):
    """The columns that exist are listed, with the flag that chooses one."""
    message = error_of_file(tmp_path / name, content.encode())
    assert "no column `text`, only body, n: choose with --dataset_text_field" in message


def test_parquet_columns_are_checked(tmp_path):
    """A missing column and a column of numbers are named."""
    path = str(tmp_path / "a.parquet")
    pq.write_table(pa.table({"body": ["b"], "n": [1]}), path)
    assert "no column `text`, only body, n" in error_of(train_file=[path])
    assert "column `n` holds int64, not strings" in error_of(train_file=[path], dataset_text_field="n")


@pytest.mark.parametrize(
    "name, where", [("a.txt", "line 2"), ("a.jsonl", "line 2"), ("a.json", ""), ("a.csv", "line 3")]
)
def test_other_encodings_are_refused(tmp_path, name, where):
    """Latin-1 is not guessed: the message names the file and the line."""
    quoted = {"a.txt": "one\n{}", "a.jsonl": '{{"text": "a"}}\n{{"text": "{}"}}\n', "a.json": '[{{"text": "{}"}}]'}
    content = quoted.get(name, "text\na\n{}\n").format("é").encode("latin-1")
    message = error_of_file(tmp_path / name, content)
    assert where in message and "utf" in message.lower()


@pytest.mark.parametrize("name", ["a.txt.gz", "a.jsonl.gz", "a.csv.gz", "a.txt.zst", "a.jsonl.zst"])
@pytest.mark.parametrize("kept", [0.5, 0.999])
def test_compressed_file_cut_short(tmp_path, name, kept):
    """A download that is cut short is not taken for the whole file, not even if only the checksum is missing."""
    content = ("text\n" + "".join(f"{i}\n" for i in range(5000))).encode()
    if "jsonl" in name:
        content = "".join(json.dumps({"text": str(i)}) + "\n" for i in range(5000)).encode()
    packed = gzip.compress(content) if name.endswith("gz") else zstandard.ZstdCompressor().compress(content)
    error = error_of_file(tmp_path / name, packed[: int(len(packed) * kept)])
    assert re.search("cannot be read.*(ended before the end|Truncated)", error)


@pytest.mark.parametrize(
    "content, problem",
    [
        ("text,n\na,1\nb,2,3\n", "line 3 has 3 values, and the first line names 2 columns"),
        ('text\na\n"b\nc\n', "line 3: the row that begins here has a quotation mark that is never closed"),
    ],
)
def test_broken_csv(tmp_path, content, problem):
    """A row with too many values is named; a quotation mark that is not closed does not swallow what follows."""
    assert problem in error_of_file(tmp_path / "a.csv", content.encode())


def test_file_that_is_not_what_its_name_says(tmp_path):
    """Text called .gz or .parquet is refused."""
    assert "cannot be read" in error_of_file(tmp_path / "a.txt.gz", b"plain text, not packed")
    assert "cannot be read" in error_of_file(tmp_path / "a.parquet", b"plain text, not parquet")


def test_nothing_but_empty_rows(tmp_path):
    """All rows empty is an error, not an empty data set."""
    path = write_lines(tmp_path / "a.jsonl", [{"text": ""}, {"text": " "}])
    assert "`train` has 2 rows, all of them empty" in error_of(train_file=[path])


def test_single_document_too_short_to_cut(tmp_path):
    """One word cannot be split: the remedy is named."""
    (tmp_path / "a.txt").write_text("word")
    assert "give --validation_file" in error_of(train_file=[str(tmp_path / "a.txt")])


def test_files_at_an_address_are_streamed_like_local_ones(tmp_path):
    """Also a local folder in the form of a Hub dataset; the validation split is read into memory."""
    documents = [f"Document {number}" for number in range(20)]
    for name in ("train", "validation"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    files = {f"{name}_file": [str(tmp_path / f"{name}.jsonl")] for name in ("train", "validation")}
    remote = files | {"train_file": [f"file://{tmp_path}/train.jsonl"]}
    for settings in (files, remote, {"dataset_name": str(tmp_path)}):
        splits = load_splits(TextArguments(streaming=True, max_eval_samples=5, **settings), 0)
        assert isinstance(splits["train"], datasets.IterableDataset)
        assert [row["text"] for row in splits["train"]] == documents
        assert splits["validation"]["text"][:] == documents[:5]
    limited = load_splits(TextArguments(streaming=True, max_train_samples=3, **files), 0)
    assert len(list(limited["train"])) == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "`--streaming` has nothing to stream"),
        ({"train_file": ["a.jsonl"]}, "`--streaming` does not split off validation rows: give `--validation_file`"),
        ({"train_file": ["b.jsonl"], "validation_file": ["a.jsonl"]}, "`.*b.jsonl` line 2: "),
    ],
)
def test_what_cannot_be_streamed_is_named(settings, message, tmp_path, monkeypatch):
    """The error names the flag, or the file and line when it is read."""
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl").write_text('{"text": "fine"}\n')
    Path("b.jsonl").write_text('{"text": "fine"}\n{"text": "cut\n')
    with pytest.raises(ValueError, match=message):
        list(load_splits(TextArguments(streaming=True, **settings), 0)["train"])
