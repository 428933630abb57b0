"""Rows that are held out from training: folds of the rows of tasks and of texts."""

import json
from collections import Counter

import numpy as np
import pytest
from datasets import Dataset
from sklearn.model_selection import StratifiedGroupKFold

from hf_llm.arguments import DataArguments, TaskArguments, TextArguments
from hf_llm.data.folds import assign_folds, number_groups
from hf_llm.data.rows import load_rows
from hf_llm.data.sources import load_splits
from hf_llm.tasks import load_task

ROWS = [
    {
        "text": f"text {n}",
        "label": "ab"[n % 3 == 0],
        "user": f"u{n % 7}",
        "number": n % 7,
        "meta": {"site": f"s{n % 3}"},
    }
    for n in range(31)
]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return str(path)


def task_folds(file, folds, seed=1, **settings):
    """The rows of `understanding` of each fold."""
    task_args = TaskArguments(task="understanding")
    arguments = [DataArguments(train_file=[file], fold=f"{number + 1}/{folds}", **settings) for number in range(folds)]
    return [load_rows(each, task_args, load_task("understanding"), seed) for each in arguments]


def text_folds(file, folds, seed=1, **settings):
    """The documents of each fold."""
    return [
        load_splits(TextArguments(train_file=[file], fold=f"{number}/{folds}", **settings), seed)
        for number in range(1, folds + 1)
    ]


def texts(splits, split="validation"):
    return splits[split]["text"][:]


@pytest.mark.parametrize("load", [task_folds, text_folds])
@pytest.mark.parametrize("settings", [{}, {"group_field": "user"}, {"max_train_samples": 20}])
def test_every_row_is_held_out_exactly_once(file, load, settings):
    """In each fold the other rows are trained on; limits apply before the rows are divided."""
    folds = load(file, 3, **settings)
    held_out = [text for splits in folds for text in texts(splits)]
    assert len(held_out) == len({*held_out}) == settings.get("max_train_samples", len(ROWS))
    for splits in folds:
        assert sorted(texts(splits) + texts(splits, "train")) == sorted(held_out)


@pytest.mark.parametrize("load", [task_folds, text_folds])
def test_folds_depend_on_the_seed_alone(file, load):
    """The same seed gives the same folds, another one others."""
    first, again, other = (list(map(texts, load(file, 2, seed=seed))) for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("load", [task_folds, text_folds])
def test_groups_stay_together(file, load):
    """No value of the column is in both splits."""
    users = {row["text"]: row["user"] for row in ROWS}
    for splits in load(file, 3, group_field="user"):
        groups = [{users[text] for text in texts(splits, split)} for split in ("train", "validation")]
        assert groups[1]
        assert not groups[0] & groups[1]


def test_each_fold_has_its_share_of_each_class():
    """Folds differ by at most one row of each class, and one in all; groups are as balanced as scikit-learn's."""
    generator = np.random.default_rng(0)
    classes = generator.choice(list("abcd"), 203, p=[0.6, 0.2, 0.1, 0.1]).tolist()
    counts = [Counter(np.array(classes)[assign_folds(203, 5, 1, classes) == fold]) for fold in range(5)]
    for name in "abcd":
        assert np.ptp([count[name] for count in counts]) <= 1
    assert np.ptp([count.total() for count in counts]) <= 1

    groups = generator.integers(0, 60, 203)
    reference = np.empty(203, int)
    splitter = StratifiedGroupKFold(5, shuffle=True, random_state=1)
    for fold, (_, rows) in enumerate(splitter.split(classes, classes, groups)):
        reference[rows] = fold

    def imbalance(folds):
        return sum(np.std([np.mean(np.array(classes)[folds == fold] == name) for fold in range(5)]) for name in "abcd")

    assert imbalance(assign_folds(203, 5, 1, classes, groups.tolist())) < 1.5 * imbalance(reference)


def test_classes_of_one_row_are_dealt_at_random():
    """Where each row has an answer of its own, another seed gives other folds."""
    answers = [f"answer {number}" for number in range(20)]
    assert assign_folds(20, 2, 1, answers).tolist() != assign_folds(20, 2, 2, answers).tolist()


@pytest.mark.parametrize("load", [task_folds, text_folds])
def test_a_fold_has_the_rows_of_files_that_were_divided_by_hand(file, tmp_path, load):
    """In the same order, so that a run on the fold is a run on these files."""
    fold = load(file, 2)[1]
    for split in ("train", "validation"):
        own = {*texts(fold, split)}
        rows = [row for row in ROWS if row["text"] in own]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        assert texts(fold, split) == [row["text"] for row in rows]


def test_questions_about_one_text_stay_together(tmp_path):
    """Rows that one row of the file was made into have the same origin, and are held out together."""
    turns = [
        {"story": f"Story {n}.", "questions": [f"Who {n}?", f"Where {n}?"], "answers": {"input_text": ["A", "B"]}}
        for n in range(6)
    ]
    path = tmp_path / "turns.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in turns))
    task = load_task("question_answering")
    splits = load_rows(
        DataArguments(train_file=[str(path)], fold="1/3"), TaskArguments(task="question_answering"), task, 1
    )
    stories = {split: {*splits[split]["context"][:]} for split in splits}
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 8, "validation": 4}
    assert not stories["train"] & stories["validation"]


def test_labels_do_not_depend_on_the_rows_that_are_drawn(file):
    """All labels of the data are choices, also those that none of the few rows of a try has."""
    task = load_task("understanding")
    settings = DataArguments(train_file=[file], fold="1/2", max_train_samples=2)
    splits = load_rows(settings, TaskArguments(task="understanding"), task, 1)
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 1, "validation": 1}
    assert task.label_names == ["a", "b"]


@pytest.mark.parametrize("column", ["number", "meta.site"])
@pytest.mark.parametrize("load", [task_folds, text_folds])
def test_groups_may_be_numbers_or_fields(file, load, column):
    """Numbers, and fields in objects, are groups as well as texts are."""
    assert sum(len(texts(splits)) for splits in load(file, 2, group_field=column)) == len(ROWS)


def test_rows_without_a_group_are_groups_of_their_own(caplog):
    """They are counted."""
    assert number_groups(["a", None, "a", ""], "user") == [0, 1, 0, 2]
    assert "`user` is empty in 2 of 4 rows: each of them is a group of its own" in caplog.text


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"fold": "6/5"}, "`--fold` is 6/5: give the number of a fold and of all folds, e.g. 2/5"),
        ({"fold": "2"}, "`--fold` is 2: give the number of a fold and of all folds, e.g. 2/5"),
        ({"fold": "1/1"}, "`--fold` is 1/1: give the number"),
        ({"fold": "1/40"}, "`--fold` 1/40: the number of rows is 31: give more data or fewer folds"),
        ({"fold": "1/9", "group_field": "user"}, "the number of groups of rows by user is 7: give more data or"),
        ({"fold": "1/2", "group_field": "nobody"}, "`--group_field` nobody: "),
        ({"fold": "1/2", "validation_file": ["x"]}, "`--fold` and `--validation_file` both say which rows are held"),
    ],
)
@pytest.mark.parametrize("load", ["rows", "texts"])
def test_folds_that_cannot_be_are_refused(file, settings, message, load):
    """Before anything is trained, with what is there."""
    with pytest.raises(ValueError) as error:
        if load == "rows":
            load_rows(
                DataArguments(train_file=[file], **settings),
                TaskArguments(task="understanding"),
                load_task("understanding"),
                1,
            )
        else:
            load_splits(TextArguments(train_file=[file], **settings), 1)
    assert message in str(error.value)


def test_streams_and_token_folders_are_not_divided(file, monkeypatch):
    """Both are refused instead of training on all rows."""
    with pytest.raises(ValueError, match="divides rows that are read before training: leave `--streaming` out"):
        load_splits(TextArguments(train_file=[file], fold="1/2", streaming=True), 1)
    monkeypatch.setattr("hf_llm.data.sources.load_token_rows", lambda *_: Dataset.from_list([]))
    with pytest.raises(ValueError, match="divides documents, and `--train_file` has packed rows: name text"):
        load_splits(TextArguments(train_file=[file], fold="1/2"), 1)
