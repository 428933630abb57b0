"""Mixtures: a YAML file names sources and how much of the training rows comes from each.

web:
  train_file: web/*.jsonl
  validation_file: web_held_out.jsonl
  weight: 0.7
docs:
  dataset_name: python_docs
  weight: 0.3

`datasets.interleave_datasets` draws the source of each row: after 1,000 rows, a share of 0.7 has a standard deviation
of 1.4 %, and it repeats rows in the same order without counting them. Here the shares are exact at any step, and every
pass over a source has an order of its own.
"""

import contextlib
import difflib
import math
import re
from collections.abc import Iterator
from dataclasses import Field, dataclass, field, fields, replace
from itertools import count
from typing import Any, TypeVar, get_args, get_origin

import numpy as np
from datasets import Dataset, IterableDataset, concatenate_datasets, interleave_datasets

from hf_llm.arguments import DataArguments, TextArguments
from hf_llm.mappings import read_yaml

SOURCE = "source of the row"  # column of rows, beside that of their origins
UNITS = ("weight", "epochs")
# What all sources have in common.
SHARED = ("mixture", "stopping_strategy", "max_length", "packing", "streaming", "fold")
AnyArguments = TypeVar("AnyArguments", bound=DataArguments)


@dataclass
class Mixture:
    """Sources of training rows, and how much comes from each.

    Args:
        path: the YAML file, for error messages.
        sources: the arguments of each source.
        amounts: of each source the share of the rows, which add up to 1; or passes over its rows in an epoch.
        unit: `weight` or `epochs`.
        stopping_strategy: where an epoch of shares ends, as in `datasets.interleave_datasets`: before the first source
            would repeat a row, or after the last one has no new row left.
        column_mappings: of the sources that have one.
    """

    path: str
    sources: dict[str, Any]
    amounts: dict[str, float]
    unit: str = "weight"
    stopping_strategy: str = "first_exhausted"
    column_mappings: dict[str, dict[str, str]] = field(default_factory=dict)

    def rows_of_an_epoch(self, sizes: dict[str, int]) -> dict[str, int]:
        """Count the rows of each source in an epoch of the mixture.

        Args:
            sizes: rows that each source has.

        Raises:
            ValueError: a source gets none.

        Example:
            Of 100, 20 and 50 rows with weights .7, .2 and .1, an epoch of `first_exhausted` takes 70, 20 and 10, and
            one of `all_exhausted` 350, 100 and 50.
        """
        names, amounts = [*self.amounts], np.array([*self.amounts.values()])
        available = np.array([sizes[name] for name in names])
        if self.unit == "epochs":
            counts = np.round(amounts * available).astype(int)
        elif self.stopping_strategy == "first_exhausted":
            counts = apportion(math.floor((available / amounts).min() * (1 + 1e-9)), amounts)
        else:
            counts = apportion(math.ceil((available / amounts).max() * (1 - 1e-9)), amounts)
        if not counts.all():
            larger = "more `epochs`" if self.unit == "epochs" else "a larger `weight`"
            other = ", or `--stopping_strategy all_exhausted`" if self.unit == "weight" else ""
            raise ValueError(
                f"`--mixture` {self.path}: `{names[counts.argmin()]}` gets none of the {counts.sum()} rows of an "
                f"epoch: give it {larger}{other}"
            )
        return dict(zip(names, counts.tolist(), strict=True))

    def join(self, sources: dict[str, dict[str, Dataset]]) -> dict[str, Dataset]:
        """Join each split of all sources, whose names are in the column `SOURCE`.

        Raises:
            ValueError: a source has no rows to train on, and others have.
        """
        splits = sorted({split for source in sources.values() for split in source})
        for name, source in sources.items():
            if "train" in splits and "train" not in source:
                raise ValueError(f"`--mixture` {self.path}, `{name}`: it has nothing to train on: give `train_file`")
        named: Any = {
            name: {split: rows.add_column(SOURCE, [name] * len(rows)) for split, rows in source.items()}  # pyright: ignore[reportCallIssue]
            for name, source in sources.items()
        }
        return {split: concatenate_datasets([source[split] for source in named.values()]) for split in splits}

    def describe(self, sizes: dict[str, int], counts: dict[str, int], unit: str) -> str:
        """Say how many rows of each source an epoch has, and how often they are repeated, for the log."""
        total = sum(counts.values())
        lines = [
            f"  {name}: {number / total:.1%}, {number:,} of its {sizes[name]:,} {unit}"
            + (f", each {number / sizes[name]:.3g} times" if number > sizes[name] else "")
            for name, number in counts.items()
        ]
        return "\n".join([f"Mixture, {total:,} {unit} an epoch:", *lines])


def apportion(total: int, shares: np.ndarray) -> np.ndarray:
    """Divide `total` by shares that add up to 1, by largest remainders: 10 by [.55, .45] is [6, 4]."""
    exact = total * shares
    counts = np.floor(exact + 1e-9).astype(int)
    counts[np.argsort(counts - exact, kind="stable")[: total - counts.sum()]] += 1
    return counts


def spread(counts: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Order the rows of an epoch so that every part of it has each source's share.

    Row j of n of a source is put at (j + 0.5) / n of the epoch.

    Args:
        counts: rows of each source.

    Returns:
        The source of each row, and its number among the rows of that source, (N,) both.

    Example:
        Rows 0, 1 of a first and row 0 of a second source are at .25, .75 and .5:

        >>> spread([2, 1])
        (array([0, 1, 0]), array([0, 0, 1]))
    """
    numbers = np.concatenate([np.arange(size) for size in counts])
    order = np.argsort((numbers + 0.5) / np.repeat(counts, counts), kind="stable")
    return np.repeat(np.arange(len(counts)), counts)[order], numbers[order]


def endless_order(shares: list[float]) -> Iterator[int]:
    """Yield the source of each row of a stream: the one that is furthest below its share; [.7, .3] gives 0 1 0 0 ..."""
    taken = [0] * len(shares)
    for rows in count(1):
        source = max(range(len(shares)), key=lambda i: shares[i] * rows - taken[i])
        taken[source] += 1
        yield source


def read_mixture(data_args: DataArguments) -> Mixture:
    """Read the YAML file of `--mixture`. The settings of the command line hold for each source that has no other.

    Raises:
        ValueError: the file cannot be read, or a setting of it is wrong; the source is named.
    """
    path, sources, amounts, mappings = f"{data_args.mixture}", {}, {}, {}
    if data_args.train_file or data_args.validation_file or data_args.dataset_name:
        raise ValueError("`--mixture` and other data are both given: name all data in the mixture")
    settings = read_yaml(path, "mixture")
    if not settings:
        raise ValueError(f"`--mixture` {path} names no source: write `NAME: {{train_file: FILE, weight: 1}}`")
    for name, values in settings.items():
        with naming_source(path, name):
            if not re.fullmatch(r"\w+", f"{name}") or name == "zlib":  # there is an `eval_zlib_bits_per_byte`
                raise ValueError("is part of the names of scores: take another one, of letters, digits and _")
            if not isinstance(values, dict):
                raise ValueError(f"is `{values}`: write settings such as `train_file: FILE` and `weight: 1`")
            given = [unit for unit in UNITS if unit in values]
            if len(given) != 1:
                raise ValueError(f"has {' and '.join(given) or 'no share'}: give either `weight` or `epochs`")
            amounts[f"{name}"] = given[0], check_amount(given[0], values[given[0]])
            mappings[f"{name}"] = values.get("column_mapping") or {}
            sources[f"{name}"] = new_source(data_args, values)
    units = {unit: name for name, (unit, _) in reversed(amounts.items())}
    if len(units) > 1:
        raise ValueError(
            f"`--mixture` {path}: `{units['weight']}` has a weight and `{units['epochs']}` epochs: give all sources "
            "one of the two"
        )
    (unit,) = units
    if data_args.stopping_strategy != "first_exhausted" and (unit == "epochs" or is_streamed(data_args)):
        reason = "`epochs` in the mixture" if unit == "epochs" else "`--streaming`"
        raise ValueError(f"`--stopping_strategy` has no effect with {reason}: leave one of them out")
    if unit == "epochs" and is_streamed(data_args):
        raise ValueError(
            f"`--mixture` {path}: a stream does not know how long an epoch is: give each source a `weight`"
        )
    values = {name: amount for name, (_, amount) in amounts.items()}
    total = math.fsum(values.values()) if unit == "weight" else 1
    shares = {name: value / total for name, value in values.items()}
    return Mixture(path, sources, shares, unit, data_args.stopping_strategy, mappings)


def new_source(data_args: AnyArguments, values: dict[str, Any]) -> AnyArguments:
    """Make the arguments of a source: those of the command line, with the settings of the mixture.

    Raises:
        ValueError: a key is unknown, a value has another type, or no data are named.
    """
    options = {option.name: option for option in fields(data_args)}
    own = {} if isinstance(data_args, TextArguments) else {"column_mapping"}
    known = [*(name for name in options if name not in SHARED), *own, *UNITS]
    for key in values:
        if key in SHARED:
            raise ValueError(f"`{key}` is the same for all sources: give it as a flag")
        if key not in known:
            near = difflib.get_close_matches(f"{key}", known, 1, cutoff=0)
            raise ValueError(f"unknown key `{key}`; the nearest is `{near[0]}`")
    if not isinstance(values.get("column_mapping", {}), dict):
        raise ValueError("`column_mapping` is not a mapping: write `column_mapping: {COLUMN: NAME}`")
    if not {"train_file", "validation_file", "dataset_name"} & values.keys():
        raise ValueError("names no data: give `train_file` or `dataset_name`")
    chosen = {key: convert(options[key], value) for key, value in values.items() if key in options}
    return replace(data_args, **{"mixture": None, "stopping_strategy": "first_exhausted"} | chosen)


def convert(option: Field, value: Any) -> Any:
    """Return a value of the mixture with the type of its argument: a text is a list of one where lists are taken.

    Raises:
        ValueError: it has another type, or is not one of the argument's choices.
    """
    types = [get_origin(kind) or kind for kind in get_args(option.type) or (option.type,)]
    value = [value] if list in types and isinstance(value, str) else value
    value = float(value) if float in types and type(value) is int else value
    if type(value) not in types or (isinstance(value, list) and not all(isinstance(item, str) for item in value)):
        names = {"NoneType": "null", "str": "a text", "list": "texts", "int": "a whole number", "float": "a number"}
        wanted = [names.get(kind.__name__, kind.__name__) for kind in types if kind is not type(None)]
        raise ValueError(f"`{option.name}` is `{value}`: give {' or '.join(wanted)}")
    if (choices := option.metadata.get("choices")) and value not in choices:
        raise ValueError(f"`{option.name}` is `{value}`: give {', '.join(choices)}")
    return value


def check_amount(unit: str, value: Any) -> float:
    """Return a weight or number of epochs, which must be above 0 and finite."""
    if type(value) not in (int, float) or not 0 < value < math.inf:
        raise ValueError(f"`{unit}` is `{value}`: give a number above 0, or leave the source out")
    return float(value)


def is_streamed(data_args: DataArguments) -> bool:
    """Whether the data are read during training."""
    return isinstance(data_args, TextArguments) and data_args.streaming


@contextlib.contextmanager
def naming_source(path: str | None, name: str) -> Iterator[None]:
    """Put the mixture and the source in front of the message of an error."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"`--mixture` {path}, `{name}`: {error}") from None


def join_documents(documents: Any) -> Dataset | IterableDataset:
    """Join the texts of all sources of a mixture, those of streams in turn; other texts are returned as they are."""
    if not isinstance(documents, dict):
        return documents
    sources = [*documents.values()]
    streamed = isinstance(sources[0], IterableDataset)
    return (
        interleave_datasets(sources, stopping_strategy="all_exhausted") if streamed else concatenate_datasets(sources)
    )
