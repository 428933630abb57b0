"""Applications, one file each. Nothing is registered: the modules of this folder are the tasks.

A raw row becomes prompt and completion by `to_example`; the model generates a text or ranks the `choices`; `answer`
extracts the prediction, and the `metric` compares it with the `references`.
"""

import dataclasses
import difflib
import importlib
import logging
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from datasets import Dataset, DatasetDict

from hf_llm.mappings import parse_value
from hf_llm.metrics.base import TaskMetric

logger = logging.getLogger(__name__)

# GLUE's test splits have -1, SNLI and MNLI "-" where the annotators disagreed; NaN is a missing value as text.
HIDDEN_LABELS = {"-1", "-", "nan", "NaN"}
JUDGEMENTS = ("label", "labels", "is_correct", "correct")  # columns that may say whether an answer is right
WRONG = {"0", "0.0", "False", "false"}
# Options of some tasks that are flags too.
FLAGS = {name: name for name in ("prompt_template", "completion_template", "answer_pattern")} | {
    "metric_name": "metric"
}


@dataclass
class Task:
    """Base class of the applications: columns, prompt, gold answers and metric.

    The dataclass fields are the options of the task, set by `--task_options name=value,...`. Rows are passed to the
    methods with the column names in `columns`.

    Args:
        max_new_tokens: length of a generated answer at most, in tokens.
        max_thought_tokens: of thoughts before the answer (`<think>...</think>`), which are not scored.
    """

    max_new_tokens: int = 64
    max_thought_tokens: int = 1024

    # Name of a column -> other names that data sets on the Hub use for it.
    columns: ClassVar[dict[str, tuple[str, ...]]] = {}
    text_columns: ClassVar[tuple[str, ...]] = ()  # columns with one text per row, or a list of its sentences
    optional_columns: ClassVar[tuple[str, ...]] = ()  # columns that a data set may lack
    # Columns of lists or dictionaries, which a CSV file holds as text: "{'text': ['Rain'], 'answer_start': [3]}".
    nested_columns: ClassVar[tuple[str, ...]] = ()
    # Columns of dictionaries with differing keys, which are JSON text in `adapt`: Arrow would fill in nulls.
    json_columns: ClassVar[tuple[str, ...]] = ()
    document_column: ClassVar[str | None] = None  # the column that is shortened if a row is too long
    stop_strings: ClassVar[tuple[str, ...]] = ("\n",)  # a generated answer ends before the first of them
    trainable: ClassVar[bool] = True  # False: the task is only evaluated
    choices_with_end_token: ClassVar[bool] = True  # rank each choice with the end token after it, as in training
    scores_perplexity: ClassVar[bool] = False  # also report the perplexity of the gold completions
    allows_no_answer: ClassVar[bool] = False  # an empty list of references means that there is no answer
    # What a classification head of transformers is trained for, e.g. single_label_classification: the task can also be
    # learned by an encoder such as BERT, which reads `texts`. None: only by a model that writes.
    problem_type: ClassVar[str | None] = None
    # Options of prompts and of answers that a model writes or ranks; an encoder has no use for them.
    writing_options: ClassVar[tuple[str, ...]] = ("max_new_tokens", "max_thought_tokens")

    def column_names(self) -> list[str]:
        """Names that `--column_mapping` may map a column to."""
        return list(self.columns)

    def adapt(self, rows: Dataset) -> Dataset:
        """Convert a layout that renaming columns cannot convert; by default, return the rows unchanged.

        Raises:
            ValueError: the task cannot read this layout.
        """
        return rows

    def name_classes(self, column: str, names: list[str]) -> None:
        """Take note of the names of a column's classes, in the order of their numbers; by default, do nothing."""

    def select(self, rows: Dataset, split: str) -> Dataset:
        """Drop the rows that cannot be used, e.g. without a label, and log how many; by default, keep all.

        Args:
            rows: with the task's column names.
            split: name of the rows in messages.
        """
        return rows

    def prepare(self, rows: DatasetDict) -> None:
        """Inspect the data once, before any row is used, e.g. to collect its labels."""

    def evaluated(self, rows: Dataset) -> Dataset:
        """The rows that are scored, made of those of `validation`, e.g. one for each turn; by default, the same."""
        return rows

    def to_example(self, row: dict[str, Any]) -> dict[str, Any]:
        """Convert a row to `{"prompt": str, "completion": str}`, without leading or trailing white space.

        `"system"` may be a third text. Or to a conversation that ends with the assistant's message:
        `{"messages": list[dict], "tools": list[dict] | None}`, in the form of `conversations`.

        Raises:
            ValueError: the row cannot be used; the caller adds its origin.
        """
        raise NotImplementedError

    def references(self, row: dict[str, Any]) -> list[str]:
        """The gold answers of a row, in the form that the metric expects."""
        raise NotImplementedError

    def texts(self, row: dict[str, Any]) -> list[str]:
        """The text, or the two texts, that an encoder reads; only of a task with a `problem_type`."""
        raise NotImplementedError

    def row_class(self, row: dict[str, Any]) -> str:
        """The class of a row, of which each fold gets its share; by default, all rows are of one."""
        return ""

    def choices(self, row: dict[str, Any]) -> list[str] | None:
        """The completions to rank by likelihood; None if the answer is generated."""
        return None

    def ranks_per_token(self) -> bool:
        """Whether choices are ranked by log-likelihood per token instead of the sum over their tokens."""
        return False

    def ranking_scores(self, row: dict[str, Any], log_likelihoods: list[float]) -> dict[str, float]:
        """Compute further scores of a row from the log-likelihoods of its choices, in nats; their means are reported.

        By default none: the metric compares the likeliest choice with the references.
        """
        return {}

    def answer(self, text: str, row: dict[str, Any]) -> str:
        """Extract the prediction from a generated text or from the likeliest choice, as the metric expects it."""
        return text.strip()

    def metric(self) -> TaskMetric:
        """Create the metric."""
        raise NotImplementedError

    def sample(self) -> DatasetDict:
        """A small data set that needs no download: `validation`, and `train` if the task is trainable."""
        raise NotImplementedError


def task_names() -> list[str]:
    """Names of all applications: the modules of this folder."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load_task(name: str, /, **options: Any) -> Task:
    """Make the task of a file in this folder.

    Args:
        name: name of the file, e.g. `translation`.
        options: values for fields of its dataclass; a number or a switch may be text, as on a command line.

    Returns:
        The task, an instance of the class in that file.

    Raises:
        ValueError: no such task or option (the nearest is named), or a value of another type.

    Example:
        >>> load_task("translation", source="en", target="zh").target
        'zh'
    """
    if not name:
        raise ValueError("no task is named: give `--task`, or `--prompt_template` for one of your own")
    if name not in task_names():
        known = ", ".join(task_names())
        raise ValueError(f"`--task` {name} is not known: there are {known}; put spaces between several")
    module = importlib.import_module(f"{__name__}.{name}")
    task_class = next(
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Task) and value.__module__ == module.__name__
    )
    return task_class(**typed_options(name, task_class, options))


def typed_options(name: str, task_class: type[Task], options: dict[str, Any]) -> dict[str, Any]:
    """Options of a task with the types of their fields.

    Raises:
        ValueError: no such option, or a value of another type.
    """
    types: dict[str, Any] = {field.name: field.type for field in dataclasses.fields(task_class)}
    checked = {}
    for key, value in options.items():
        if key not in types and key in FLAGS:
            raise ValueError(f"`--{FLAGS[key]}` does not apply to `--task {name}`: leave out one of the two")
        if key not in types:
            near = difflib.get_close_matches(key, types, 1, cutoff=0) or list(types)
            raise ValueError(f"`--task_options` {key}: {name} has no such option; the nearest is {near[0]}")
        kind = types[key]
        if isinstance(value, str) and kind is not str:  # pairs on a command line are text: `no` is a language or False
            value = parse_value(value)
        below_1 = kind is int and isinstance(value, int) and (isinstance(value, bool) or value < 1)
        if not isinstance(value, kind) or below_1:
            expected = str(getattr(kind, "__name__", kind))
            expected += {int: ", at least 1", str: ", in a YAML file with quotation marks"}.get(kind, "")
            raise ValueError(f"`--task_options` {key}={value}: give a value of type {expected}")
        checked[key] = value
    return checked


def reference_list(value: str | list[str] | None) -> list[str]:
    """Convert one gold answer, a list of them or None to a list without empty texts.

    Raises:
        ValueError: the value is neither a text nor a list of texts.

    Example:
        >>> reference_list(["a cat ", " "])
        ['a cat']
    """
    values = [value] if isinstance(value, str) else [] if value is None else value
    if not (isinstance(values, list) and all(isinstance(text, str) for text in values)):
        raise ValueError(f"`{value}` is not a text or a list of texts")
    return [text.strip() for text in values if text.strip()]


def refuse_wrong_answers(rows: Dataset) -> None:
    """Refuse rows some of whose answers are wrong, as in MultiRC, WikiQA and KTO: a column of 0 and 1 says which.

    Raises:
        ValueError: there is such a column.
    """
    for name in JUDGEMENTS:
        values = {str(value) for value in rows[name][:]} if name in rows.column_names else set()
        if values & WRONG and values <= {*WRONG, "1", "1.0", "True", "true", "None"}:
            raise ValueError(
                f"`{name}` says that some answers are wrong: keep only the rows where it is 1 or true, or, if it says "
                "something else, remove the column; `--task understanding` learns such a label"
            )


def drop_unlabelled(rows: Dataset, labels: Sequence[Any], split: str, hint: str = "") -> Dataset:
    """Drop and count the rows whose label is None.

    Args:
        labels: the label of each of the N rows.
        split: name of the rows in messages.
        hint: what to do if a label was dropped by mistake.

    Raises:
        ValueError: no row has a label.
    """
    kept = [number for number, label in enumerate(labels) if label is not None]
    if not kept:
        raise ValueError(
            f"`{split}`: the labels of all {len(rows)} rows are hidden or empty: name another split, column or data "
            f"set{hint}"
        )
    if dropped := len(rows) - len(kept):
        logger.warning(f"{split}: {dropped} of {len(rows)} rows dropped, whose labels are hidden (-1) or empty{hint}")
    return rows.select(kept) if dropped else rows


def drop_unanswered(rows: Dataset, task: Task, split: str) -> Dataset:
    """Drop and count the rows without a gold answer. Those that cannot be read are kept for the error of their reader.

    Args:
        split: name of the rows in messages.
    """

    def is_unanswered(row: dict[str, Any]) -> bool:
        try:
            return not task.references(row) and bool(task.to_example(row))
        except ValueError:
            return False

    kept = [number for number, row in enumerate(rows.to_list()) if task.allows_no_answer or not is_unanswered(row)]
    if len(kept) == len(rows) or not kept:
        return rows
    logger.warning(f"{split}: {len(rows) - len(kept)} of {len(rows)} rows without a gold answer dropped")
    return rows.select(kept)
