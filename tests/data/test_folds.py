"""Rows that are held out from training: folds of the rows of tasks and of texts."""

import json
from collections import Counter

import numpy as np
import pytest
from sklearn.model_selection import StratifiedGroupKFold

from hf_llm.arguments import DataArguments, TaskArguments, TextArguments
from hf_llm.data.folds import assign_folds
from hf_llm.data.rows import load_rows
from hf_llm.data.sources import load_splits
from hf_llm.tasks import load_task

ROWS = [{"text": f"text {n}", "label": "ab"[n % 3 == 0], "user": f"u{n % 7}", "number": n % 7} for n in range(31)]


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
    folds = load(file, 5, **settings)
    held_out = [text for splits in folds for text in texts(splits)]
    assert len(held_out) == len({*held_out}) == settings.get("max_train_samples", len(ROWS))
    for splits in folds:
        assert sorted(texts(splits) + texts(splits, "train")) == sorted(held_out)


@pytest.mark.parametrize("load", [task_folds, text_folds])
def test_folds_depend_on_the_seed_alone(file, load):
    """The same seed gives the same folds, another one others."""
    first, again, other = (list(map(texts, load(file, 3, seed=seed))) for seed in (1, 1, 2))
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
