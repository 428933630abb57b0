"""Applications, one file each. Nothing is registered: the modules of this folder are the tasks.

What flows: a raw row -> `to_example` -> prompt and completion -> the model -> `answer` -> the metric, against
`references`.
"""

import dataclasses
import difflib
import importlib
import pkgutil
from dataclasses import dataclass
from typing import Any, ClassVar

import yaml
from datasets import Dataset, DatasetDict

from hf_llm.mappings import parse_object
from hf_llm.metrics.base import TaskMetric


@dataclass
class Task:
    """What an application has to say: its columns, its prompt, its gold answers, its metric.

    Fields are the task's options, set by `--task_options name=value,...`. Every row that the methods get has the
    columns of `columns`, under those names.
    """

    max_new_tokens: int = 64

    # Name of a column -> other names that data sets on the Hub give to it.
    columns: ClassVar[dict[str, tuple[str, ...]]] = {}
    texts: ClassVar[tuple[str, ...]] = ()  # those that hold one text a row, or a list of its sentences
    optional: ClassVar[tuple[str, ...]] = ()
    document: ClassVar[str | None] = None  # the column that is shortened where a row is too long
    stop_strings: ClassVar[tuple[str, ...]] = ("\n",)
    trainable: ClassVar[bool] = True
    choices_end: ClassVar[bool] = True  # rank choices with the token that ends an answer, as they are trained
    with_perplexity: ClassVar[bool] = False  # score the gold completions' likelihood too
    may_have_no_answer: ClassVar[bool] = False  # an empty list of references is an answer too

    def column_names(self) -> list[str]:
        """Every name that `--column_mapping` may give to a column."""
        return list(self.columns)

    def adapt(self, rows: Dataset) -> Dataset:
        """Bring a layout that new names alone cannot fit to `columns` into one that they do."""
        return rows

    def prepare(self, rows: DatasetDict) -> None:
        """Look at the data once, before any row is used: at its labels, say."""

    def to_example(self, row: dict[str, Any]) -> dict[str, str]:
        """A row as `{"prompt": str, "completion": str}`, neither with white space at its ends."""
        raise NotImplementedError

    def references(self, row: dict[str, Any]) -> list[str]:
        """The gold answers, as the metric takes them."""
        raise NotImplementedError

    def choices(self, row: dict[str, Any]) -> list[str] | None:
        """The completions to rank by their likelihood; None where the answer is generated."""
        return None

    def normalizes_length(self) -> bool:
        """Whether choices are ranked by their likelihood per token."""
        return False

    def answer(self, text: str, row: dict[str, Any]) -> str:
        """What a generated text (or the likeliest choice) says, as the metric takes it."""
        return text.strip()

    def metric(self) -> TaskMetric:
        """The scorer, new."""
        raise NotImplementedError

    def sample(self) -> DatasetDict:
        """A small data set that needs no download: `train` (but for tasks that only evaluate) and `validation`."""
        raise NotImplementedError


def task_names() -> list[str]:
    """The applications that there are: one for each file beside this one."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load_task(name: str, options: str | None = None) -> Task:
    """The task of a file in this folder, with its options set.

    Args:
        options: `target=de,max_new_tokens=128`, or the same as a JSON object.

    Raises:
        ValueError: no such task or option (the nearest is named), or a value of another type.

    Example:
        >>> load_task("translation", "source=en,target=zh").target
        'zh'
    """
    if name not in task_names():
        known = ", ".join(task_names())
        raise ValueError(f"`--task` {name} is not known: there are {known}; put spaces between several")
    module = importlib.import_module(f"{__name__}.{name}")
    task_class = next(
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Task) and value.__module__ == module.__name__
    )
    return task_class(**parse_options(name, task_class, options or ""))


def parse_options(name: str, task_class: type[Task], options: str) -> dict[str, Any]:
    """The options as keyword arguments, each checked against its field."""
    types = {field.name: field.type for field in dataclasses.fields(task_class)}
    if options.lstrip().startswith("{"):  # a mapping in a YAML file arrives as JSON
        given = parse_object("--task_options", options)
    else:
        pairs = [part.partition("=") for part in options.split(",") if part.strip()]
        given = {key.strip(): value.strip() for key, _, value in pairs}
        # A command line has no types: `no` is a language here, there a refusal.
        given = {key: value if types.get(key) is str else typed(value) for key, value in given.items()}
    for key, value in given.items():
        if key not in types:
            near = difflib.get_close_matches(key, types, 1, cutoff=0) or list(types)
            raise ValueError(f"`--task_options` {key}: {name} has no such option; the nearest is {near[0]}")
        if not isinstance(value, types[key]) or (types[key] is int and (isinstance(value, bool) or value < 1)):
            kind = "int, at least 1" if types[key] is int else getattr(types[key], "__name__", types[key])
            raise ValueError(f"`--task_options` {key}={value}: give a value of type {kind}")
    return given


def typed(value: str) -> Any:
    """A value of the command line as YAML reads it; what is no YAML stays the text that it is."""
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        return value


def as_list(value: str | list[str] | None) -> list[str]:
    """One gold answer or several, as a list without empty ones.

    Raises:
        ValueError: it is something else than text.
    """
    values = [value] if isinstance(value, str) else [] if value is None else value
    if not (isinstance(values, list) and all(isinstance(text, str) for text in values)):
        raise ValueError(f"`{value}` is no text and no list of texts")
    return [text.strip() for text in values if text.strip()]
