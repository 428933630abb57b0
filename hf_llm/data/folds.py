"""Rows to hold out from training: a validation split, or one of the folds of a cross-validation (`--fold 2/5`).

Every row is held out in exactly one of the folds, which are drawn with the seed. Rows of a group stay together, and
each fold gets its share of each class.
"""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import Dataset

from hf_llm.arguments import DataArguments
from hf_llm.data.columns import field_of
from hf_llm.messages import ORIGIN
from hf_llm.tasks import Task

logger = logging.getLogger(__name__)

UNUSED = "unused"  # split of the rows beyond `--max_train_samples`


def rows_to_divide(splits: dict[str, Any], fold: str) -> Any:
    """Return the training rows, which `--fold` divides. Those of a data set that are held out already are left aside.

    Raises:
        ValueError: there are none.
    """
    if "train" not in splits:
        raise ValueError(f"`--fold` {fold} divides training rows, and there are none: name data that have them")
    if len(splits) > 1:
        logger.info("The rows for validation that the data have are not used: `--fold` holds out training rows")
    return splits["train"]


def groups_of(rows: Dataset, name: str) -> list[Any]:
    """Read the group of each row, from a column or a field in objects, e.g. `meta.author`.

    Raises:
        ValueError: there is no such column.
    """
    try:
        column = name if name in rows.column_names else name.split(".")[0]
        return [field_of(row, name) for row in rows.select_columns(column).to_list()]
    except (KeyError, ValueError):  # ValueError: `datasets` has no such column
        columns = ", ".join(column for column in rows.column_names if column != ORIGIN)
        raise ValueError(
            f"`--group_field` {name}: the rows have no such column, only {columns}: name one of them"
        ) from None


def hold_out_rows(
    rows: Dataset, groups: dict[str, Any] | None, data_args: DataArguments, task: Task, seed: int
) -> dict[str, Dataset]:
    """Hold out a fold of the rows of a task that `--max_train_samples` draws; the others are a split of their own.

    Args:
        rows: with the task's column names.
        groups: of each origin its group, if they are grouped. Rows of one origin, such as all questions about a text,
            stay together.

    Returns:
        `train`, `validation`, and `UNUSED` if there are others.

    Raises:
        ValueError: as `hold_out`.
    """
    limit = data_args.max_train_samples or len(rows)
    drawn = draw_rows(rows, limit, seed)
    classes = [task.row_class(row) for row in drawn.to_list()]
    origins = drawn[ORIGIN][:]
    if groups is not None:
        origins = [groups[origin] for origin in origins]
    elif len({*origins}) == len(origins):
        origins = None
    splits = hold_out(drawn, data_args, seed, classes, origins)
    if limit < len(rows):
        others = np.random.default_rng(seed).permutation(len(rows))[limit:]
        splits[UNUSED] = rows.select(np.sort(others))
    return splits


def draw_splits(splits: dict[str, Dataset], data_args: DataArguments, seed: int) -> dict[str, Dataset]:
    """Draw at most as many rows of each split as `data_args` allows."""
    limits = data_args.limits()
    return {split: draw_rows(rows, limits[split], seed) for split, rows in splits.items() if split in limits}


def draw_rows(rows: Dataset, limit: int | None, seed: int) -> Dataset:
    """Draw at most `limit` rows with the seed and keep their order.

    The first rows would not do: in files that are sorted by label they all have the same one.
    """
    if limit is None or limit >= len(rows):
        return rows
    return rows.select(sorted(np.random.default_rng(seed).permutation(len(rows))[:limit].tolist()))


def hold_out(
    rows: Dataset,
    data_args: DataArguments,
    seed: int,
    classes: Sequence[str] | None = None,
    groups: Sequence[Any] | None = None,
) -> dict[str, Dataset]:
    """Divide rows into those of `--fold`, as `validation`, and all others, as `train`.

    Args:
        rows: the N rows to divide.
        data_args: `fold` and `group_field`.
        seed: draws the folds.
        classes: the class of each row.
        groups: the group of each row; an empty one is a group of its own.

    Raises:
        ValueError: there are fewer rows or groups than folds.
    """
    number, folds = data_args.fold_numbers()
    divided, name = len(rows), "rows"
    if groups is not None:
        groups = number_groups(groups, data_args.group_field)
        divided, name = len({*groups}), f"groups of rows by {data_args.group_field or 'their origin'}"
    if divided < folds:
        raise ValueError(f"`--fold` {data_args.fold}: the number of {name} is {divided}: give more data or fewer folds")
    held_out = assign_folds(len(rows), folds, seed, classes, groups) == number - 1
    splits = {"train": np.flatnonzero(~held_out), "validation": np.flatnonzero(held_out)}
    logger.info(
        f"Fold {data_args.fold} of seed {seed}: {len(splits['validation']):,} of {len(rows):,} rows are held out"
        + (f"; {divided:,} {name} stay together" if groups is not None else "")
    )
    return {split: rows.select(numbers) for split, numbers in splits.items()}


def number_groups(groups: Sequence[Any], name: str | None) -> list[int]:
    """Number groups by their values; rows without a value are groups of their own, and counted."""
    numbers: dict[str, int] = {}
    empty = [value is None or value == "" for value in groups]
    if all(empty):
        raise ValueError(f"`--group_field` {name}: no row has such a column, or all are empty: name another one")
    if any(empty):
        logger.warning(f"`{name}` is empty in {sum(empty)} of {len(groups)} rows: each of them is a group of its own")
    keys = [f"value {value}" for value in groups]
    keys = [f"row {row}" if empty[row] else key for row, key in enumerate(keys)]
    return [numbers.setdefault(key, len(numbers)) for key in keys]


def assign_folds(
    rows: int,
    folds: int,
    seed: int,
    classes: Sequence[str] | None = None,
    groups: Sequence[int] | None = None,
) -> np.ndarray:
    """Return the number of the fold of each row, from 0, (rows,).

    Rows are dealt one after the other, class by class: folds differ by at most one row, and by at most one of each
    class. Groups are dealt from the largest to the smallest, each to the fold that has least of its classes.

    Args:
        classes: the class of each row, (rows,); without, all rows are of one.
        groups: the number of each row's group, (rows,), from 0.

    Example:
        >>> assign_folds(5, 2, seed=0, classes=["a", "b", "a", "b", "a"])
        array([0, 0, 0, 1, 1])
    """
    generator, fold_of = np.random.default_rng(seed), np.empty(rows, int)
    order = generator.permutation(rows)
    labels = np.zeros(rows, int) if classes is None else np.unique(classes, return_inverse=True)[1]
    if groups is None:
        class_order = generator.permutation(labels.max() + 1)[labels]  # classes of one row are dealt at random as well
        fold_of[order[np.argsort(class_order[order], kind="stable")]] = np.arange(rows) % folds
        return fold_of
    members: dict[int, list[int]] = {}
    for row in order.tolist():
        members.setdefault(groups[row], []).append(row)
    shares = 1 / np.bincount(labels)
    taken, sizes = np.zeros((folds, len(shares))), np.zeros(folds)
    for group in sorted(members.values(), key=len, reverse=True):
        own = labels[group]
        fold = np.lexsort((sizes, (taken[:, own] * shares[own]).sum(axis=1).round(9)))[0]
        np.add.at(taken[fold], own, 1)
        sizes[fold] += len(group)
        fold_of[group] = fold
    return fold_of


def split_validation(documents: Dataset, fraction: float, seed: int) -> dict[str, Dataset]:
    """Draw `fraction` of the rows for validation, at least one; of a single document its end is taken.

    Raises:
        ValueError: the fraction is not between 0 and 1, or the document is too short.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"`--validation_fraction` is {fraction}: give a number between 0 and 1")
    if len(documents) == 1:
        return split_document(documents, fraction)
    count = min(max(1, round(len(documents) * fraction)), len(documents) - 1)
    splits = documents.train_test_split(test_size=count, seed=seed)
    return {"train": splits["train"], "validation": splits["test"]}


def split_document(documents: Dataset, fraction: float) -> dict[str, Dataset]:
    """Take the end of the only document for validation: about `fraction` of it, at most twice as much."""
    text = documents[0]["text"]
    earliest, latest = int(len(text) * max(0, 1 - 2 * fraction)), int(len(text) * (1 - fraction))
    for separator in ("\n\n", "\n", " "):
        cut = text.rfind(separator, earliest, latest) + len(separator)
        if cut >= len(separator) and text[:cut].strip() and text[cut:].strip():
            break
    else:
        raise ValueError("`--train_file` holds one short document, nothing to split off: give --validation_file")
    logger.warning(f"one document only: its last {len(text) - cut} of {len(text)} characters are for validation")
    return {
        "train": documents.map(slice_text, fn_kwargs={"start": 0, "stop": cut}),
        "validation": documents.map(slice_text, fn_kwargs={"start": cut, "stop": None}),
    }


def slice_text(row: dict, start: int, stop: int | None) -> dict:
    """Cut the text of a row; a function by name, because `datasets` hashes it for its cache."""
    return {"text": row["text"][start:stop]}
