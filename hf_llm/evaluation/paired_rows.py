"""What runs and evaluations have left of each row that they scored, and tests of scores on the same rows.

Texts that were written are in `predictions.jsonl`, losses of validation documents in `document_losses.jsonl`.
"""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hf_llm.mappings import parse_mapping
from hf_llm.metrics.base import RESAMPLES, SEED, Scores, bootstrap, interval, swap_p_value
from hf_llm.tasks import load_task

PREDICTIONS, DOCUMENTS = "predictions.jsonl", "document_losses.jsonl"
BLOCK = 500_000  # drawn rows at once, of several resamples


@dataclass(frozen=True)
class RowTest:
    """Difference of a score between two models, or groups of models, on the same rows.

    Attributes:
        low, high: 95 % interval over other rows of the same kind, by a bootstrap.
        p_value: of the permutation test that swaps the two on random rows, two-sided.
        std_error: standard error of the difference.
        rows: number of rows.
        unit: what they are: rows, or documents.
    """

    difference: float
    low: float
    high: float
    p_value: float
    std_error: float
    rows: int
    unit: str = "rows"


@dataclass(frozen=True)
class ScoredRows:
    """The rows that one model was scored on, in the order of its file.

    Attributes:
        rows: those of `predictions.jsonl`, or of `document_losses.jsonl`.
        settings: `task` and `task_options` of the predictions, by which their metric is made again.
    """

    rows: list[dict[str, Any]]
    settings: dict[str, Any]

    @cached_property
    def keys(self) -> list[str]:
        """What shows that two rows are the same: the gold answers, or the hash of a document and its number so far."""
        if not self.of_documents:
            return [json.dumps(row["references"], ensure_ascii=False) for row in self.rows]
        seen: Counter[str] = Counter()
        keys = []
        for row in self.rows:
            seen[row["document"]] += 1
            keys.append(f"{row['document']} {seen[row['document']]}")
        return keys

    @property
    def of_documents(self) -> bool:
        """Whether these are losses of documents."""
        return "document" in self.rows[0]

    def in_order_of(self, other: "ScoredRows") -> "ScoredRows | None":
        """The same rows in the order of another file; None if that has other rows.

        Documents are found by their hashes. Predictions must be in the same order, because gold answers are repeated.
        """
        if self.keys == other.keys:
            return self
        if self.of_documents and other.of_documents and {*self.keys} == {*other.keys}:
            rows = dict(zip(self.keys, self.rows, strict=True))
            return ScoredRows([rows[key] for key in other.keys], self.settings)
        return None


def read_scored_rows(folder: Path, settings: dict[str, Any]) -> list[ScoredRows]:
    """Read the files of a folder that have rows: predictions, losses of documents, both or none.

    Raises:
        ValueError: a line is not a JSON object.
    """
    found = []
    for name in (PREDICTIONS, DOCUMENTS):
        if (folder / name).is_file():
            rows = []
            with open(folder / name, encoding="utf-8") as lines:
                for number, line in enumerate(lines, 1):
                    try:
                        rows.append({**json.loads(line)})
                    except (TypeError, ValueError):
                        problem = f"`{folder / name}`, line {number}, is not a JSON object: was the file edited?"
                        raise ValueError(problem) from None
            found += [ScoredRows(rows, settings)] if rows else []
    return found


def compare_on_rows(name: str, score: float, a: Sequence[ScoredRows], b: Sequence[ScoredRows]) -> RowTest | None:
    """Test whether two models, or groups of models, differ in a score beyond what the choice of rows explains.

    The p-value is that of `metrics.base.paired_test`, here for groups of models too. It is exact for any score if the
    two do not differ.

    Args:
        name: of the score, e.g. `rougeL` or `bits_per_byte`.
        score: that of the first model of `a` as it was saved, which proves how the score is computed from the rows.
        a: rows of each model of one group.
        b: the same rows, in the same order, of each model of the other group.

    Returns:
        The test; None if the score cannot be computed from the rows.
    """
    if (sums := row_sums(name, [*a, *b])) is not None:
        values, units = sums
        if is_close(values[0].sum() / units.sum(), score):
            difference = values[: len(a)].mean(0) - values[len(a) :].mean(0)
            test = compare_sums(difference, units)
            return replace(test, unit="documents" if a[0].of_documents else "rows")
    if (computed := metric_statistics([*a, *b])) is not None:
        scores, statistics = computed
        if is_close(scores(statistics[0], np.ones(len(statistics[0]))).get(name, math.nan), score):
            return compare_scores(name, scores, statistics[: len(a)], statistics[len(a) :])
    return None


def is_close(again: float, score: float) -> bool:
    """Whether a score that was computed from its rows is the one that was saved."""
    return math.isclose(again, score, rel_tol=1e-6, abs_tol=1e-9)


def row_sums(name: str, models: Sequence[ScoredRows]) -> tuple[np.ndarray, np.ndarray] | None:
    """What a score sums over rows, if it is a mean: of the rows, of tokens or of bytes.

    Losses are compared only where all models have the same tokens in each document.

    Returns:
        (models, N) values and (N,) units: the score is the sum of the values by that of the units.
    """
    value, unit = {"bits_per_byte": ("bits", "bytes"), "loss": ("loss", "tokens")}.get(name, (name, None))
    if value == "loss" and not models[0].of_documents:
        return None
    columns = [value] if unit is None else [value, unit]
    if not all(isinstance(row.get(column), int | float) for each in models for row in each.rows for column in columns):
        return None
    values = np.array([[row[value] for row in each.rows] for each in models], float)
    units = np.array([[row[unit] if unit else 1 for row in each.rows] for each in models], float)
    return (values, units[0]) if (units == units[0]).all() else None


def metric_statistics(models: Sequence[ScoredRows]) -> tuple[Scores, np.ndarray] | None:
    """What the task's metric needs of each row for scores such as BLEU or macro-F1, (models, N, k)."""
    first = models[0]
    if first.of_documents or not first.settings.get("task") or any("samples" in each.rows[0] for each in models):
        return None
    try:
        metric = load_task(first.settings["task"], **mapping(first.settings.get("task_options"))).metric()
        predictions = [row["prediction"] for each in models for row in each.rows]
        references = metric.list_references(predictions, [row["references"] for each in models for row in each.rows])
        statistics = metric.statistics(predictions, references)  # of all at once: it may number the labels it finds
    except (ValueError, TypeError, KeyError):
        return None  # a task that needs more than its options, e.g. a template that is not here
    return metric.scores, statistics.reshape(len(models), len(first.rows), -1)


def mapping(options: dict[str, Any] | str | None) -> dict[str, Any]:
    """Options of a task, which the results of eval.py have as `key=value` pairs."""
    return parse_mapping("--task_options", options) if isinstance(options, str) else options or {}


def compare_sums(difference: np.ndarray, units: np.ndarray) -> RowTest:
    """Test the difference of two scores that are sums over rows by sums of units.

    Args:
        difference: (N,) of the values.
        units: (N,), e.g. 1, tokens or bytes.
    """
    number, generator = len(difference), np.random.default_rng(SEED)
    block = max(1, BLOCK // number)
    resampled, swapped = [], []
    for start in range(0, RESAMPLES, block):
        size = (min(block, RESAMPLES - start), number)
        rows = generator.integers(number, size=size)
        resampled.append(difference[rows].sum(1) / units[rows].sum(1))
        swapped.append((2.0 * generator.integers(2, size=size, dtype=np.int8) - 1) @ difference / units.sum())
    return row_test(difference.sum() / units.sum(), np.concatenate(resampled), np.concatenate(swapped), number)


def compare_scores(name: str, scores: Scores, a: np.ndarray, b: np.ndarray) -> RowTest:
    """Test the difference of any score. Of groups that are not equally large, the first models are swapped.

    Args:
        scores: (statistics, weights) -> scores.
        a: (models, N, k) statistics of one group on N rows.
        b: the same of the other on the same rows.
    """
    number, generator, pairs = len(a[0]), np.random.default_rng(SEED), min(len(a), len(b))
    ones = np.ones(number)

    def mean(models: np.ndarray) -> float:
        return float(np.mean([scores(each, ones)[name] for each in models]))

    samples = [each[name] for each in bootstrap(scores, [*a, *b], RESAMPLES, SEED)]
    resampled = np.mean(samples[: len(a)], 0) - np.mean(samples[len(a) :], 0)
    swapped = [mean(a[:pairs]) - mean(b[:pairs])]  # the observed difference, for the p-value
    for _ in range(RESAMPLES):
        swap = generator.integers(2, size=(number, 1)).astype(bool)
        one, other = np.where(swap, b[:pairs], a[:pairs]), np.where(swap, a[:pairs], b[:pairs])
        swapped.append(mean(one) - mean(other))
    test = row_test(swapped[0], resampled, np.array(swapped[1:]), number)
    return replace(test, difference=mean(a) - mean(b))


def row_test(difference: float, resampled: np.ndarray, swapped: np.ndarray, rows: int) -> RowTest:
    """Make the result of a test from the differences of resampled, and of randomly swapped, rows."""
    low, high = interval("", resampled).values()
    p_value = swap_p_value(difference, swapped)
    return RowTest(float(difference), low, high, p_value, float(np.nanstd(resampled)), rows)
