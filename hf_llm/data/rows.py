"""Rows of a task: read from files or the Hub as they are, and brought under the column names that the task uses."""

import logging
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, DatasetDict, concatenate_datasets

from hf_llm.arguments import DataArguments, TaskArguments
from hf_llm.data.arrow import column as column_of
from hf_llm.data.locations import find_files
from hf_llm.data.readers import read_rows
from hf_llm.data.sources import load_hub_splits, split_validation
from hf_llm.messages import ORIGIN, one_line
from hf_llm.tasks import Task

logger = logging.getLogger(__name__)


def load_rows(data_args: DataArguments, task_args: TaskArguments, task: Task, seed: int) -> DatasetDict:
    """The rows that `data_args` names, under the task's column names; without data, the task's own sample.

    Returns:
        `train` and `validation`, or `validation` alone: of a task that only evaluates, or where only a
        `--validation_file` is given.

    Raises:
        ValueError: one line that names the argument or the file (and line), what is wrong and the remedy.
    """
    if data_args.dataset_name and (data_args.train_file or data_args.validation_file):
        raise ValueError("`--dataset_name` and files are both given: name the data with one of them")
    if data_args.train_file or data_args.validation_file:
        files = {"train": data_args.train_file, "validation": data_args.validation_file}
        parts = {part: read_files(f"--{part}_file", patterns) for part, patterns in files.items() if patterns}
    elif data_args.dataset_name:
        parts = load_hub_splits(data_args)
    else:
        parts = task.sample()
    mapping = task_args.column_mapping or {}
    parts = {name: to_task_columns(with_origins(rows, name), name, task, mapping) for name, rows in parts.items()}
    if not task.trainable:
        parts.pop("train", None)
    if not parts:
        raise ValueError("there are no rows to evaluate: give `--validation_file`")
    if "validation" not in parts:
        if len(parts["train"]) == 1:
            raise ValueError("`--train_file` holds one row, nothing to split off: give `--validation_file`")
        parts = split_validation(parts["train"], data_args.validation_fraction, seed)
    task.prepare(DatasetDict(parts))  # before rows are left out: the labels, say, do not depend on how many are used
    limits = {"train": data_args.max_train_samples, "validation": data_args.max_eval_samples}
    return DatasetDict({name: draw_rows(part, limits[name], seed) for name, part in parts.items()})


def draw_rows(part: Dataset, limit: int | None, seed: int) -> Dataset:
    """At most `limit` rows, drawn with the seed, in their order: the first ones of many a file are all of one label."""
    if limit is None or limit >= len(part):
        return part
    return part.select(sorted(np.random.default_rng(seed).permutation(len(part))[:limit].tolist()))


def read_files(argument: str, patterns: list[str]) -> Dataset:
    """All rows of the files, with every column that one of them has."""
    rows = [row for path in find_files(argument, patterns) for row in read_rows(path)]
    columns = {name: [row.get(name) for row in rows] for name in dict.fromkeys(name for row in rows for name in row)}
    for name, values in columns.items():
        try:
            columns[name] = pa.array(values)
        except (pa.ArrowException, OverflowError, UnicodeError) as error:
            raise ValueError(
                f"`{argument}` {' '.join(patterns)}: the values of column `{name}` are of several types, or none that "
                f"can be kept: {one_line(error)}"
            ) from None
    return Dataset(pa.table(columns))


def with_origins(rows: Dataset, part: str) -> Dataset:
    """With the column that says where each row is from, which files have already."""
    if ORIGIN in rows.column_names:
        return rows
    numbers = pc.cast(pa.array(np.arange(len(rows))), pa.string())
    places = pc.binary_join_element_wise(f"`{part}` row ", numbers, "")
    return concatenate_datasets([rows, Dataset(pa.table({ORIGIN: places}))], axis=1)


def to_task_columns(rows: Dataset, part: str, task: Task, mapping: dict[str, str]) -> Dataset:
    """The task's columns alone, under its names, and the rows' places; numbered labels become their names.

    Raises:
        ValueError: a column is missing.
    """
    there = [name for name in rows.column_names if name != ORIGIN]
    for name, ours in mapping.items():
        if name not in there:
            raise ValueError(
                f"`--column_mapping` {name}={ours}: `{part}` has no such column, only {', '.join(there)}: "
                "write COLUMN=NAME, the data's name first"
            )
        if ours not in task.column_names():
            known = ", ".join(task.column_names())
            raise ValueError(f"`--column_mapping` {name}={ours}: the task has no column {ours}, only {known}")
    if twice := [ours for ours, times in Counter(mapping.values()).items() if times > 1]:
        raise ValueError(f"`--column_mapping` names two columns `{twice[0]}`: name one")
    hidden = [ours for ours in mapping.values() if ours in there and ours not in mapping]
    rows = task.adapt(rows.remove_columns(hidden).rename_columns(mapping))
    chosen = {}
    for ours, others in task.columns.items():
        free = [name for name in (ours, *others) if name in rows.column_names and name not in chosen.values()]
        if free:
            chosen[ours] = free[0]
        elif ours not in task.optional_columns:
            raise ValueError(
                f"`{part}` has no column `{ours}`, only {', '.join(there)}: choose with `--column_mapping NAME={ours}`"
            )
    kept = [*chosen.values(), *([ORIGIN] if ORIGIN in rows.column_names else [])]
    rows = rows.select_columns(kept).rename_columns({name: ours for ours, name in chosen.items()})
    for name, feature in rows.features.items():
        if isinstance(feature, ClassLabel):
            rows = with_names(rows, name, part)
    for name in task.text_columns:
        if name in rows.column_names:
            rows = with_texts(rows, name, part, name in task.optional_columns)
    return rows


def with_names(rows: Dataset, column: str, part: str) -> Dataset:
    """Numbered labels by their names; rows with a hidden one, -1, are dropped and counted."""
    labelled = rows.filter(lambda label: label is not None and label >= 0, input_columns=column)
    if not labelled:
        raise ValueError(f"`{part}`: the labels of all {len(rows)} rows are hidden: name another part or data set")
    if dropped := len(rows) - len(labelled):
        logger.warning(f"{part}: {dropped} of {len(rows)} rows dropped, whose labels are hidden")
    names = [rows.features[column].names[number] for number in labelled[column]]
    return labelled.remove_columns(column).add_column(column, names)


def with_texts(rows: Dataset, column: str, part: str, optional: bool) -> Dataset:
    """A column of texts, a list of sentences joined to one.

    Raises:
        ValueError: a value is no text; the row is named.
    """
    plain = getattr(rows.features[column], "dtype", None) in ("string", "large_string")
    if plain and (optional or not column_of(rows, column).null_count):
        return rows  # as nearly always: millions of texts stay where they are, on the disk
    texts = [" ".join(value) if is_texts(value) else value for value in rows[column]]
    for number, text in enumerate(texts):
        if not (isinstance(text, str) or (optional and text is None)):
            place = rows[number].get(ORIGIN, f"`{part}` row {number}")
            raise ValueError(f"{place}: `{column}` is `{text}`, no text: correct or remove the row")
    return rows.remove_columns(column).add_column(column, texts)


def is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)
