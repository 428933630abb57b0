"""Texts of several columns, and of fields in objects, in every format that has columns."""

import json

import datasets
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from hf_llm.arguments import ReadingArguments, TaskArguments, TextArguments
from hf_llm.data.columns import field_of
from hf_llm.data.readers import read_documents, read_rows, read_texts
from hf_llm.data.rows import load_rows
from hf_llm.data.sources import load_splits
from hf_llm.tasks import load_task

READING = ReadingArguments()
ROWS = [{"title": "One", "body": "two", "id": 1}, {"title": None, "body": "three", "id": 2}]
NESTED = [{"content": {"text": "a", "n": 1}}, {"content": None}, {"content": {"text": None}}, {"other": 1}]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def write(folder, rows):
    """Write rows in every format that has columns, and return the paths."""
    lines = "\n".join(map(json.dumps, rows))
    paths = [folder / f"a{extension}" for extension in (".jsonl", ".ndjson", ".jsonlines", ".json")]
    for path in paths:
        path.write_text(json.dumps(rows) if path.suffix == ".json" else lines)
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, folder / "a.parquet")
    pyarrow.feather.write_feather(table, folder / "a.feather")
    with pa.ipc.new_stream(folder / "a.arrow", table.schema) as writer:
        writer.write_table(table)
    paths += [folder / f"a{extension}" for extension in (".parquet", ".feather", ".arrow")]
    if not isinstance(next(iter(rows[0].values())), dict):
        for name, delimiter in (("a.csv", ","), ("a.tsv", "\t")):
            values = [
                delimiter.join("" if v is None else str(v) for v in row.values())
                for row in (dict.fromkeys(rows[0]), *rows)
            ]
            (folder / name).write_text("\n".join([delimiter.join(rows[0]), *values[1:]]))
            paths.append(folder / name)
    return [str(path) for path in paths]


def texts(path, column, reading=READING):
    return [text for batch in read_texts(path, column, reading) for text in batch.to_pylist()]


def problems(path, column, reading=READING):
    return [problem.message for _, found, _ in read_documents(path, column, reading) for problem in found.values()]


def test_columns_are_joined_by_an_empty_line(tmp_path):
    """In every format; an empty one is left out, without the line."""
    for path in write(tmp_path, ROWS):
        assert texts(path, "title+body") == ["One\n\ntwo", "three"], path
        assert texts(path, "body") == ["two", "three"], path


def test_fields_in_objects_are_texts(tmp_path):
    """Null objects and fields are empty texts; a row without the field is a problem that names those it has."""
    for path in write(tmp_path, NESTED):
        is_json = "json" in path
        assert texts(path, "content.text") == ["a", "", "", None if is_json else ""], path
        assert len(problems(path, "content.text")) == is_json, path
    assert "has no column `content.text`, only other: choose" in problems(str(tmp_path / "a.jsonl"), "content.text")[0]


def test_a_column_of_that_very_name_is_read(tmp_path):
    """A `+` or a dot in a name need not be a sign."""
    (tmp_path / "a.csv").write_text("title+body,a.b,title\nx,y,z\n")
    (tmp_path / "a.jsonl").write_text('{"a.b": "x", "a": {"b": "y"}}')
    assert texts(str(tmp_path / "a.csv"), "title+body") == ["x"]
    assert texts(str(tmp_path / "a.csv"), "title+a.b") == ["z\n\ny"]
    assert texts(str(tmp_path / "a.jsonl"), "a.b") == ["x"]


def test_fields_of_a_list_are_joined():
    """Such as the pages of a book; a list of texts is not, because nothing says what was between them."""
    assert field_of({"pages": [{"text": "a"}, {"text": None}, {"text": "b"}]}, "pages.text") == "a\n\nb"
    with pytest.raises(ValueError, match="holds int"):
        field_of({"pages": [{"text": 1}]}, "pages.text")
    with pytest.raises(KeyError):
        field_of({"pages": ["a"]}, "pages.text")


def test_what_is_wrong_with_columns(tmp_path):
    """A misspelled one is named with those there, in every format; another type and a long text by the row."""
    for path in write(tmp_path, ROWS):
        names = problems(path, "titel+body")
        assert names == [f"`{path}` has no column `titel`, only title, body, id: choose with --dataset_text_field"]
    for path in write(tmp_path, NESTED):
        assert "has no column `content.txt`, only " in problems(path, "content.txt")[0]
    path = str(tmp_path / "a.jsonl")
    (tmp_path / "a.jsonl").write_text('{"a": "x", "b": ["y"]}\n{"a": "x", "b": "z"}\n')
    assert problems(path, "a+b") == [f"`{path}` line 1: `b` holds list, not a string"]
    assert "longer than `--max_text_bytes` 3" in problems(path, "a+b", ReadingArguments(max_text_bytes=3))[0]


def test_a_column_may_be_missing_in_some_rows(tmp_path):
    """Rows of JSON leave out what is null; but one that no row has is refused."""
    (tmp_path / "a.jsonl").write_text('{"body": "x"}\n{"title": "y", "body": "z"}\n{"other": 1}\n')
    path = str(tmp_path / "a.jsonl")
    assert texts(path, "title+body") == ["x", "y\n\nz", None]
    assert problems(path, "title+body") == [
        f"`{path}` line 3 has no column `title+body`, only other: choose with --dataset_text_field"
    ]


def test_each_file_has_columns_of_its_own(tmp_path):
    """`--train_file kb.csv=title+body notes.jsonl=content.text other.jsonl`, streamed or not."""
    (tmp_path / "kb.csv").write_text("title,body\nOne,two\n")
    (tmp_path / "notes.jsonl").write_text('{"content": {"text": "three"}}')
    (tmp_path / "other.jsonl").write_text('{"text": "four"}')
    files = [f"{tmp_path}/kb.csv=title+body", f"{tmp_path}/no*.jsonl=content.text", str(tmp_path)]
    expected = ["One\n\ntwo", "three", "four"]
    arguments = TextArguments(train_file=files, validation_file=[f"{tmp_path}/kb.csv=body"])
    splits = load_splits(arguments, seed=0)
    assert splits["train"]["text"][:] == expected and splits["validation"]["text"][:] == ["two"]
    streamed = load_splits(TextArguments(**vars(arguments) | {"streaming": True}), seed=0)
    assert [row["text"] for row in streamed["train"]] == expected
    # Other columns of the same files are another entry in the cache.
    files[0] = f"{tmp_path}/kb.csv=body"
    arguments = TextArguments(train_file=files, validation_file=files[:1])
    assert load_splits(arguments, seed=0)["train"]["text"][0] == "two"


def test_columns_of_a_named_data_set(tmp_path):
    """`--dataset_text_field title+content.text`, streamed or not."""
    rows = [{"title": "One", "content": {"text": "two"}}, {"title": "", "content": {"text": "three"}}]
    for split in ("train", "validation"):
        Dataset.from_list(rows).to_json(tmp_path / f"{split}.jsonl")
    for streaming in (False, True):
        arguments = TextArguments(
            dataset_name=str(tmp_path), dataset_text_field="title+content.text", streaming=streaming
        )
        for split in load_splits(arguments, seed=0).values():
            assert [dict(row) for row in split] == [{"text": "One\n\ntwo"}, {"text": "three"}]


def test_columns_are_refused_where_they_mean_nothing(tmp_path):
    """A task reads whole rows; a file has one choice of columns; a name may not be empty."""
    path = str(tmp_path / "kb.csv")
    (tmp_path / "kb.csv").write_text("title,body\nOne,two\n")
    task = load_task("summarization")
    for files, message in (
        ([f"{path}=title", f"{path}=body"], "is named twice, with `body` and `title`: name it once"),
        ([f"{path}=title+"], "has an empty name of a column: write FILE=COLUMN"),
        ([f"{tmp_path}/none.csv=title"], "none.csv=title matches no file"),
    ):
        with pytest.raises(ValueError, match=message.replace("+", r"\+")):
            load_splits(TextArguments(train_file=files), seed=0)
    with pytest.raises(ValueError, match=r"kb\.csv=title: a task reads whole rows: leave `=title` out"):
        load_rows(TextArguments(train_file=[f"{path}=title"]), TaskArguments(task="summarization"), task, 0)


def test_all_formats_hold_the_rows_of_a_task(tmp_path):
    """Numbers stay numbers where the format has them, and named labels of a saved data set become their names."""
    for path in write(tmp_path, ROWS):
        rows = list(read_rows(path, READING))
        assert [row["body"] for row in rows] == ["two", "three"] and str(rows[0]["id"]) == "1", path
    labels = datasets.ClassLabel(names=["no", "yes"])
    features = datasets.Features({"text": datasets.Value("string"), "label": labels})
    Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features).save_to_disk(tmp_path / "saved")
    (path,) = (tmp_path / "saved").glob("*.arrow")
    assert [row["label"] for row in read_rows(str(path), READING)] == ["yes", "no"]
