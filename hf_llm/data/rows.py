"""Load the rows of a task from files or the Hub, with the column names that the task uses."""

import logging
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, DatasetDict, concatenate_datasets

from hf_llm.arguments import DataArguments, ReadingArguments, TaskArguments
from hf_llm.data.arrow import column as column_of
from hf_llm.data.checks import refuse_bad_files
from hf_llm.data.locations import find_files
from hf_llm.data.readers import read_rows
from hf_llm.data.sources import load_hub_splits, split_validation
from hf_llm.messages import ORIGIN, one_line
from hf_llm.tasks import Task

logger = logging.getLogger(__name__)


def load_rows(data_args: DataArguments, task_args: TaskArguments, task: Task, seed: int) -> DatasetDict:
    """Load the rows that `data_args` names, with the task's column names (default: the task's own sample).

    Args:
        data_args: files or Hub dataset, and how many rows to use.
        task_args: `column_mapping`, from the columns of the data to those of the task.
        task: the application that reads the rows.
        seed: draws the validation split, and the rows where their number is limited.

    Returns:
        `train` and `validation`, or only `validation`: of a task that only evaluates, or if only
        `--validation_file` is given.

    Raises:
        ValueError: an argument, a file or a row is wrong.
    """
    if data_args.dataset_name and (data_args.train_file or data_args.validation_file):
        raise ValueError("`--dataset_name` and files are both given: name the data with one of them")
    if data_args.train_file or data_args.validation_file:
        files = {"train": data_args.train_file, "validation": data_args.validation_file}
        splits = {
            split: read_files(f"--{split}_file", patterns, data_args) for split, patterns in files.items() if patterns
        }
    elif data_args.dataset_name:
        splits = load_hub_splits(data_args)
    else:
        splits = {str(split): rows for split, rows in task.sample().items()}
    mapping = task_args.column_mapping or {}
    splits = {split: to_task_columns(add_origins(rows, split), split, task, mapping) for split, rows in splits.items()}
    if not task.trainable:
        splits.pop("train", None)
    if not splits:
        raise ValueError("there are no rows to evaluate: give `--validation_file`")
    if "validation" not in splits:
        if len(splits["train"]) == 1:
            raise ValueError("`--train_file` holds one row, nothing to split off: give `--validation_file`")
        splits = split_validation(splits["train"], data_args.validation_fraction, seed)
    task.prepare(DatasetDict({**splits}))  # on all rows: the labels, for example, do not depend on the limits
    limits = {"train": data_args.max_train_samples, "validation": data_args.max_eval_samples}
    return DatasetDict({split: draw_rows(rows, limits[split], seed) for split, rows in splits.items()})


def draw_rows(rows: Dataset, limit: int | None, seed: int) -> Dataset:
    """Draw at most `limit` rows with the seed and keep their order.

    The first rows would not do: in files that are sorted by label they all have the same one.
    """
    if limit is None or limit >= len(rows):
        return rows
    return rows.select(sorted(np.random.default_rng(seed).permutation(len(rows))[:limit].tolist()))


def read_files(argument: str, patterns: list[str], reading: ReadingArguments) -> Dataset:
    """Read all rows of files, with every column that one of them has.

    Raises:
        ValueError: a file or row cannot be read, or the values of a column do not have one type.
    """
    paths = find_files(argument, patterns).paths
    refuse_bad_files(paths, None, reading)
    rows = [row for path in paths for row in read_rows(path, reading)]
    if not rows:
        raise ValueError(f"`{argument}` {' '.join(patterns)}: the files have no rows: name other files")
    columns = {name: [row.get(name) for row in rows] for name in dict.fromkeys(name for row in rows for name in row)}
    for name, values in columns.items():
        try:
            if {str, bytes} <= set(map(type, values)):  # bytes that are UTF-8 by chance, such as an image
                values = [value.encode() if isinstance(value, str) else value for value in values]
            columns[name] = pa.array(values)
        except (pa.ArrowException, OverflowError, UnicodeError) as error:
            raise ValueError(
                f"`{argument}` {' '.join(patterns)}: the values of column `{name}` are of several types, or of one "
                f"that cannot be stored: {one_line(error)}"
            ) from None
    return Dataset(pa.table(columns))


def add_origins(rows: Dataset, split: str) -> Dataset:
    """Add a column with the origin of each row. Rows that were read from files have it already."""
    if ORIGIN in rows.column_names:
        return rows
    numbers = pc.cast(pa.array(np.arange(len(rows))), pa.string())
    origins = pc.binary_join_element_wise(f"`{split}` row ", numbers, "")
    return concatenate_datasets([rows, Dataset(pa.table({ORIGIN: origins}))], axis=1)


def to_task_columns(rows: Dataset, split: str, task: Task, mapping: dict[str, str]) -> Dataset:
    """Keep the columns of the task, under its names, and the origins; replace the numbers of labels by their names.

    Args:
        mapping: names of columns of the data, and the task's names for them.

    Raises:
        ValueError: the mapping does not fit, a column is missing, or a value is not text where the task needs it.
    """
    columns = [name for name in rows.column_names if name != ORIGIN]
    check_mapping(mapping, columns, split, task)
    replaced = [name for name in mapping.values() if name in columns and name not in mapping]
    rows = task.adapt(rows.remove_columns(replaced).rename_columns(mapping))
    chosen: dict[str, str] = {}
    for name, alternatives in task.columns.items():
        matches = [match for match in (name, *alternatives) if match in rows.column_names]
        matches = [match for match in matches if match not in chosen.values()]
        if matches:
            chosen[name] = matches[0]
        elif name not in task.optional_columns:
            raise ValueError(
                f"`{split}` has no column `{name}`, only {', '.join(columns)}: "
                f"choose with `--column_mapping NAME={name}`"
            )
    kept = [*chosen.values(), *([ORIGIN] if ORIGIN in rows.column_names else [])]
    rows = rows.select_columns(kept).rename_columns({match: name for name, match in chosen.items()})
    for name, feature in rows.features.items():
        if isinstance(feature, ClassLabel):
            rows = name_labels(rows, name, split)
    for name in task.text_columns:
        if name in rows.column_names:
            rows = join_sentences(rows, name, split, name in task.optional_columns)
    return rows


def check_mapping(mapping: dict[str, str], columns: list[str], split: str, task: Task) -> None:
    """Check that the mapping's columns exist in the data and in the task.

    Raises:
        ValueError: one does not exist, or two columns are mapped to the same name.
    """
    for column, name in mapping.items():
        if column not in columns:
            raise ValueError(
                f"`--column_mapping` {column}={name}: `{split}` has no such column, only {', '.join(columns)}: "
                "write COLUMN=NAME, the data's name first"
            )
        if name not in task.column_names():
            known = ", ".join(task.column_names())
            raise ValueError(f"`--column_mapping` {column}={name}: the task has no column {name}, only {known}")
    if repeated := [name for name, count in Counter(mapping.values()).items() if count > 1]:
        raise ValueError(f"`--column_mapping` names two columns `{repeated[0]}`: name one")


def name_labels(rows: Dataset, column: str, split: str) -> Dataset:
    """Replace numbers of labels by their names. Rows with a hidden label, -1, are dropped and counted.

    Raises:
        ValueError: all labels are hidden.
    """
    labelled = rows.filter(lambda label: label is not None and label >= 0, input_columns=column)
    if not labelled:
        raise ValueError(f"`{split}`: the labels of all {len(rows)} rows are hidden: name another split or data set")
    if dropped := len(rows) - len(labelled):
        logger.warning(f"{split}: {dropped} of {len(rows)} rows dropped, whose labels are hidden")
    names = [rows.features[column].names[number] for number in labelled[column]]
    return labelled.remove_columns(column).add_column(column, names)


def join_sentences(rows: Dataset, column: str, split: str, optional: bool) -> Dataset:
    """Join lists of sentences to texts, in a column of texts.

    Raises:
        ValueError: a value is not text; the message has the row's origin.
    """
    has_strings = getattr(rows.features[column], "dtype", None) in ("string", "large_string")
    if has_strings and (optional or not column_of(rows, column).null_count):
        return rows  # the usual case: millions of texts stay on the disk
    texts = [" ".join(value) if is_list_of_texts(value) else value for value in rows[column]]
    for number, text in enumerate(texts):
        if not (isinstance(text, str) or (optional and text is None)):
            origin = rows[number].get(ORIGIN, f"`{split}` row {number}")
            raise ValueError(f"{origin}: `{column}` is `{text}`, not text: correct or remove the row")
    return rows.remove_columns(column).add_column(column, texts)


def is_list_of_texts(value: Any) -> bool:
    """Return whether a value is a list of strings."""
    return isinstance(value, list) and all(isinstance(text, str) for text in value)
