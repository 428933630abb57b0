"""Folders that `save_to_disk` wrote give their splits, and nothing else that lies in them."""

import shutil

import fsspec
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from hf_llm.arguments import DataArguments, TaskArguments, TextArguments
from hf_llm.data.locations import find_files, find_sources
from hf_llm.data.rows import load_rows
from hf_llm.data.sources import load_splits
from hf_llm.tasks import load_task

SPLITS = {"test": 1, "train": 5, "validation_b": 2, "validation_a": 3}  # with their rows


@pytest.fixture
def saved(tmp_path):
    """A saved `DatasetDict` with labelled texts; beside its training rows a cache and a shard of an earlier version."""
    features = Features({"text": Value("string"), "label": ClassLabel(names=["bad", "good"])})
    splits = {
        split: Dataset.from_dict({"text": [f"{split} {row}" for row in range(rows)], "label": [1] * rows}, features)
        for split, rows in SPLITS.items()
    }
    DatasetDict(splits).save_to_disk(tmp_path / "saved")
    shard = tmp_path / "saved" / "train" / "data-00000-of-00001.arrow"
    for name in ("cache-0123.arrow", "data-00001-of-00002.arrow"):
        shutil.copy(shard, shard.with_name(name))
    return tmp_path / "saved"


def texts(rows):
    return [*rows["text"]]


@pytest.mark.parametrize("streaming", [False, True])
def test_text_of_the_training_split_is_trained_on(saved, streaming, caplog):
    """And evaluated on the first of the splits for validation, or on `--validation_file`; the log says which."""
    caplog.set_level("INFO")
    splits = load_splits(TextArguments(train_file=[str(saved)], streaming=streaming), seed=0)
    assert [row["text"] for row in splits["train"]] == [f"train {row}" for row in range(5)]
    assert texts(splits["validation"]) == [f"validation_a {row}" for row in range(3)]
    assert f"validation is the split `validation_a` of {saved}" in caplog.messages
    given = TextArguments(train_file=[str(saved)], validation_file=[str(saved / "test")], streaming=streaming)
    assert texts(load_splits(given, seed=0)["validation"]) == ["test 0"]


def test_rows_of_a_task_keep_the_names_of_their_labels(saved):
    """Of both splits; the folder of a split can be named too, and one alone is split as other data are."""
    task, options = load_task("understanding"), TaskArguments(task="understanding")
    rows = load_rows(DataArguments(train_file=[str(saved)]), options, task, seed=0)
    assert {split: len(rows[split]) for split in rows} == {"train": 5, "validation": 3}
    assert {*rows["train"]["label"]} == {"good"} and task.class_names == ["bad", "good"]
    rows = load_rows(DataArguments(validation_file=[str(saved)]), options, task, seed=0)
    assert texts(rows["validation"]) == [f"validation_a {row}" for row in range(3)]
    rows = load_rows(DataArguments(train_file=[str(saved / "train")]), options, task, seed=0)
    assert sum(map(len, rows.values())) == 5


def test_only_files_of_the_data_set_are_read(saved):
    """In a folder above it, by a glob, at a URL, and for decontamination with all splits; the others are left out."""
    shard = "data-00000-of-00001.arrow"
    filesystem = fsspec.filesystem("memory")
    filesystem.put(str(saved), "/corpus/saved", recursive=True)
    try:
        for argument, read in {
            "--files": ["train"],
            "--validation_file": ["validation_a"],
            "--decontaminate": [*sorted(SPLITS)],
        }.items():
            for pattern in (saved, saved.parent, saved.parent / "*", "memory://corpus", "memory://corpus/saved"):
                found = find_sources(argument, [str(pattern)])
                assert [file.name.split("saved/")[1] for file in found.files] == [f"{split}/{shard}" for split in read]
    finally:
        filesystem.rm("/corpus", recursive=True)
    (cache,) = find_files("--train_file", [f"{saved}/train/*.arrow"]).skipped
    assert cache.name == "train/cache-0123.arrow"


def test_a_missing_shard_or_split_is_said(saved):
    """An incomplete copy is never read as if it were whole, and no split is taken for another one."""
    with pytest.raises(ValueError, match=r"matches no file .*`--train_file` takes `train`.*name the file"):
        shutil.rmtree(saved / "train")
        find_files("--train_file", [str(saved)])
    (saved / "test" / "data-00000-of-00001.arrow").unlink()
    message = "`saved/test/state.json` names data-00000-of-00001.arrow, which is missing: copy it again"
    with pytest.raises(ValueError, match="copy it again") as error:
        find_files("--train_file", [str(saved / "test")])
    assert str(error.value).replace(f"{saved.parent}/", "") == message
