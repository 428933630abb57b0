"""Load the rows of a task from files or the Hub, with the column names that the task uses."""

import itertools
import json
import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, DatasetDict, DatasetInfo, Features, List, concatenate_datasets

from hf_llm.arguments import DataArguments, ReadingArguments, TaskArguments
from hf_llm.data.arrow import column as column_of
from hf_llm.data.byte_streams import file_format
from hf_llm.data.checks import refuse_bad_files
from hf_llm.data.few_shot import draw_shots
from hf_llm.data.folds import draw_splits, groups_of, hold_out_rows, rows_to_divide, split_validation
from hf_llm.data.locations import find_files, split_patterns
from hf_llm.data.mixtures import SOURCE, naming_source, read_mixture
from hf_llm.data.parquet_rows import name_numbers, read_classes
from hf_llm.data.readers import read_rows
from hf_llm.data.sentences import join_sentences, text_size
from hf_llm.data.sources import load_hub_splits
from hf_llm.mappings import parse_nested
from hf_llm.messages import ORIGIN, one_line
from hf_llm.tasks import Task, drop_unanswered, load_task, task_names

logger = logging.getLogger(__name__)


def load_rows(data_args: DataArguments, task_args: TaskArguments, task: Task, seed: int) -> DatasetDict:
    """Load the rows that `data_args` names, with the task's column names (default: the task's own sample).

    Args:
        data_args: files or Hub dataset, and how many rows to use.
        task_args: `column_mapping`, from the columns of the data to those of the task, and `num_fewshot`.
        task: the application that reads the rows.
        seed: draws the validation split, the rows where their number is limited, and the few-shot examples.

    Returns:
        `train` and `validation`, or only `validation`: of a task that only evaluates, or if only
        `--validation_file` is given; with `num_fewshot`, the examples are in a split `fewshot` of their own.

    Raises:
        ValueError: an argument, a file or a row is wrong.
    """
    if data_args.mixture:
        splits = load_mixed_rows(data_args, task_args, task, seed)
    else:
        splits = load_source_rows(data_args, task_args.column_mapping or {}, task, seed)
        warn_of_shared_rows(splits)
        task.prepare(DatasetDict({**splits}))  # on all rows: the labels, for example, do not depend on the limits
        splits = draw_splits(splits, data_args, seed)
    return draw_shots(DatasetDict({**splits}), task, task_args.num_fewshot or 0, seed)


def load_mixed_rows(data_args: DataArguments, task_args: TaskArguments, task: Task, seed: int) -> dict[str, Dataset]:
    """Load the rows of each source of a mixture, one source after the other, with their names in the column `SOURCE`.

    Raises:
        ValueError: the mixture or a source is wrong; the source is named.
    """
    mixture, sources = read_mixture(data_args), {}
    for name, source in mixture.sources.items():
        with naming_source(mixture.path, name):
            mapping = mixture.column_mappings[name] or task_args.column_mapping or {}
            sources[name] = load_source_rows(source, mapping, task, seed)
    whole = mixture.join(sources)
    warn_of_shared_rows(whole)
    task.prepare(DatasetDict({**whole}))
    return mixture.join({name: draw_splits(sources[name], mixture.sources[name], seed) for name in sources})


def load_source_rows(data_args: DataArguments, mapping: dict[str, str], task: Task, seed: int) -> dict[str, Dataset]:
    """Load all rows of one source, with the task's column names, and split off a validation split if there is none.

    Raises:
        ValueError: an argument, a file or a row is wrong.
    """
    if data_args.dataset_name and (data_args.train_file or data_args.validation_file):
        raise ValueError("`--dataset_name` and files are both given: name the data with one of them")
    if data_args.train_file or data_args.validation_file:
        mapped = [column for column, name in mapping.items() if name in task.json_columns]
        json_columns = (*task.json_columns, *mapped)
        splits = {
            split: read_files(f"--{split}_file", patterns, data_args, json_columns)
            for split, patterns in split_patterns(data_args).items()
        }
    elif data_args.dataset_name:
        splits = load_hub_splits(data_args)
    else:
        splits = {str(split): rows for split, rows in task.sample().items()}
    splits = {split: add_origins(rows, split) for split, rows in splits.items()}
    if data_args.fold:
        rows, name = rows_to_divide(splits, data_args.fold), data_args.group_field
        groups = dict(zip(rows[ORIGIN], groups_of(rows, name), strict=True)) if name else None
        train = drop_unanswered(to_task_columns(rows, "train", task, mapping), task, "train")
        splits = hold_out_rows(train, groups, data_args, task, seed)
    else:
        splits = {split: to_task_columns(rows, split, task, mapping) for split, rows in splits.items()}
    if not task.trainable:
        splits.pop("train", None)
    if not splits:
        raise ValueError("there are no rows to evaluate: give `--validation_file`")
    if "validation" not in splits:
        if len(splits["train"]) == 1:
            raise ValueError("`--train_file` holds one row, nothing to split off: give `--validation_file`")
        splits = split_validation(splits["train"], data_args.validation_fraction, seed)
        # As in the training split that it was drawn from; in a file of the user's own they are errors.
        splits["validation"] = drop_unanswered(splits["validation"], task, "validation")
    return splits


def warn_of_shared_rows(splits: dict[str, Dataset]) -> None:
    """Warn of rows of `validation` that are in `train` too, e.g. because both are the same file."""
    names = [name for name in splits["validation"].column_names if name not in (ORIGIN, SOURCE)]
    if "train" not in splits or not {*names} <= {*splits["train"].column_names}:
        return
    keys = {
        split: [hash(repr(values)) for values in zip(*(splits[split][name][:] for name in names), strict=True)]
        for split in ("train", "validation")
    }
    trained = {*keys["train"]}
    if shared := sum(key in trained for key in keys["validation"]):
        logger.warning(
            f"validation is not independent: {shared} of its {len(keys['validation'])} rows are in `train` as well: "
            "remove them from one of the two"
        )


def read_files(
    argument: str, patterns: list[str], reading: ReadingArguments, json_columns: Sequence[str] = ()
) -> Dataset:
    """Read all rows of files, with every column that one of them has.

    Args:
        json_columns: columns whose dictionaries are stored as JSON text, unless files are Arrow or Parquet.

    Raises:
        ValueError: a file or row cannot be read, or the values of a column do not have one type.
    """
    files = find_files(argument, patterns, reading.text_extensions).files
    if named := next((file for file in files if file.column), None):
        raise ValueError(
            f"`{argument}` {named.name}={named.column}: a task reads whole rows: leave `={named.column}` out, "
            "and choose columns with `--column_mapping`"
        )
    refuse_bad_files(files, None, reading)
    paths = [file.path for file in files]
    rows = [row for path in paths for row in read_rows(path, reading)]
    if not rows:
        raise ValueError(f"`{argument}` {' '.join(patterns)}: the files have no rows: name other files")
    if len(rows) == 1 and file_format(paths[0])[0] == ".json" and holds_columns(rows[0]):
        raise ValueError(
            f"`{argument}` {' '.join(patterns)} holds whole columns, not rows: write it by "
            "`DataFrame.to_json(file, orient='records', lines=True)` of pandas"
        )
    columns = {name: [row.get(name) for row in rows] for name in dict.fromkeys(name for row in rows for name in row)}
    if any(file_format(path)[0] not in (".parquet", ".arrow", ".feather") for path in paths):
        columns |= {name: dictionaries_to_text(columns[name]) for name in json_columns if name in columns}
    for name, values in columns.items():
        try:
            if {str, bytes} <= set(map(type, values)):  # bytes that are UTF-8 by chance, such as an image
                values = [value.encode() if isinstance(value, str) else value for value in values]
            columns[name] = pa.array([None if value != value else value for value in values])  # without NaN
        except (pa.ArrowException, OverflowError, UnicodeError) as error:
            raise ValueError(
                f"`{argument}` {' '.join(patterns)}: the values of column `{name}` are of several types, or of one "
                f"that cannot be stored: {one_line(error)}: write all of them as texts"
            ) from None
    labels: dict[str, Any] = {}
    for name, label in {name: label for path in paths for name, label in read_classes(path).items()}.items():
        values = columns[name].to_pylist()
        if not any(isinstance(value, list) for value in values) and {*values} <= {None, *label.names}:
            columns[name], labels[name] = label.cast_storage(columns[name]), label
        elif {*itertools.chain.from_iterable(value or [] for value in values)} <= {*label.names}:
            numbers = [value and label.str2int(value) for value in values]
            columns[name], labels[name] = pa.array(numbers, pa.list_(pa.int64())), List(label)
    table = pa.table(columns)
    return Dataset(table, DatasetInfo(features=Features(Features.from_arrow_schema(table.schema) | labels)))


def dictionaries_to_text(values: list[Any]) -> list[Any]:
    """Write dictionaries and lists of them as JSON: as structs of Arrow, all rows would have the keys of one."""
    if not any(isinstance(item, dict) for value in values for item in (value if isinstance(value, list) else [value])):
        return values
    return [json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value for value in values]


def holds_columns(row: dict[str, Any]) -> bool:
    """Whether the only object of a file is a table of columns, as pandas writes it: of equally many values each."""
    columns = [value for name, value in row.items() if name != ORIGIN]
    sizes = {len(column) if isinstance(column, list | dict) else 0 for column in columns}
    return len(columns) > 1 and len(sizes) == 1 and max(sizes) > 1 and len({*map(type, columns)}) == 1


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
    rows = rows.remove_columns(replaced).rename_columns(mapping)
    known = {*task.columns, *(name for others in task.columns.values() for name in others)} - {*rows.column_names}
    lower = {name.lower().replace(" ", "_"): name for name in rows.column_names}  # Question, Answer, sentence_A
    rows = rows.rename_columns({name: new for new, name in lower.items() if new in known})
    for name in task.nested_columns:
        for match in {name, *task.columns.get(name, ())} & {*rows.column_names}:
            rows = parse_column(rows, match, split)
    try:
        adapted = task.adapt(rows)
        chosen = choose_columns(adapted, task)
    except KeyError as missing:
        others = [other for other in task_names() if other != "custom"]
        fitting = {other: columns_read(load_task(other), rows) for other in others}
        best = max(fitting, key=lambda other: (fitting[other], other != "chat"))  # it reads most columns of text
        other_task = f", or take `--task {best}`, which reads these columns" if fitting[best] else ""
        raise ValueError(
            f"`{split}` has no column {' and no '.join(f'`{name}`' for name in missing.args)}, only "
            f"{', '.join(columns)}: choose with `--column_mapping "
            f"{','.join(f'NAME={name}' for name in missing.args)}`{other_task}"
        ) from None
    report_unused_columns(adapted, [*chosen.values()], replaced, split)
    kept = [*chosen.values(), *([ORIGIN] if ORIGIN in adapted.column_names else [])]
    rows = adapted.select_columns(kept).rename_columns({match: name for name, match in chosen.items()})
    for name, feature in rows.features.items():
        classes = getattr(feature, "feature", feature)  # of a list of labels those of its items
        if isinstance(classes, ClassLabel):
            task.name_classes(name, classes.names)
            names = [name_numbers(value, classes.names) for value in rows[name][:]]
            rows = rows.remove_columns(name).add_column(name, names)  # pyright: ignore[reportCallIssue]
    for name in task.text_columns:
        if name in rows.column_names:
            rows = join_sentences(rows, name, split, name in task.optional_columns)
    return task.select(rows, split)


def choose_columns(rows: Dataset, task: Task) -> dict[str, str]:
    """Choose the column of the data for each column of a task: of its own name, or the first of its other names.

    Raises:
        KeyError: there is none for some; its arguments are the task's names.
    """
    chosen: dict[str, str] = {}
    missing: list[str] = []
    for name, alternatives in task.columns.items():
        matches = [match for match in (name, *alternatives) if match in rows.column_names]
        matches = [match for match in matches if match not in chosen.values()]
        if len(matches) > 1:  # a column of nulls is the last
            matches.sort(key=lambda match: column_of(rows.select_columns(match), match).null_count == len(rows))
        if name in task.optional_columns:  # another name says little if the column does not hold texts
            matches = [match for match in matches if match == name or text_size(rows[:10][match])]
        if matches:
            chosen[name] = matches[0]
        elif name not in task.optional_columns:
            missing.append(name)
    if missing:
        raise KeyError(*missing)
    return chosen


def columns_read(task: Task, rows: Dataset) -> int:
    """Return how many columns of a data set a task would read; 0 if it cannot read it."""
    try:
        return len(choose_columns(task.adapt(rows), task))
    except (KeyError, ValueError):
        return 0


def report_unused_columns(rows: Dataset, used: list[str], replaced: list[str], split: str) -> None:
    """Name the columns that the task does not read; as a warning if they hold half of the text of the first rows."""
    unused = [name for name in rows.column_names if name not in (*used, ORIGIN)]
    if unused or replaced:
        first = rows[:100]
        lost = text_size([first[name] for name in unused])
        share = lost / max(1, lost + text_size([first[name] for name in used]))
        message = f"{split}: columns that are not used: {', '.join([*unused, *replaced])}"
        if share < 0.5:
            logger.info(message)
        else:
            logger.warning(
                f"{message}. They have {share:.0%} of the text: if the prompt needs it, choose the columns by "
                "`--column_mapping`, or copy the text into a column that is used"
            )


def parse_column(rows: Dataset, column: str, split: str) -> Dataset:
    """Parse a column of lists or dictionaries as text, as in CSV; where one value is plain text, all are.

    Raises:
        ValueError: a value cannot be parsed; the message has the row's origin.
    """
    values = rows[column][:]
    if not all(value is None or (isinstance(value, str) and value.strip()[:1] in ("", "[", "{")) for value in values):
        return rows
    if not any(values):
        return rows
    parsed: list[Any] = []
    for number, value in enumerate(values):
        try:
            parsed.append(parse_nested(value) if value and value.strip() else None)
        except ValueError as error:
            origin = rows[number].get(ORIGIN, f"`{split}` row {number}")
            raise ValueError(f"{origin}: `{column}`: {error}") from None
    return rows.remove_columns(column).add_column(column, parsed)  # pyright: ignore[reportCallIssue]


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
