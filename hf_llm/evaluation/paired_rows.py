"""What runs and evaluations have left of each row that they scored, and tests of scores on the same rows.

Texts that were written are in `predictions.jsonl`, losses of validation documents in `document_losses.jsonl`.
"""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from hf_llm.metrics.base import RESAMPLES, SEED, Scores, bootstrap, interval, weighted_means
from hf_llm.tasks import load_task

PREDICTIONS, DOCUMENTS = "predictions.jsonl", "document_losses.jsonl"


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


def statistics_of_score(name: str, score: float, groups: Sequence[Sequence[ScoredRows]]) -> tuple[Scores, list] | None:
    """Find how a score is computed from rows, and prove it by the score that was saved for the first model.

    Args:
        name: of the score, e.g. `rougeL` or `bits_per_byte`.
        score: of the first model of the first group.
        groups: rows of each model of each group, all the same rows in the same order.

    Returns:
        The function that computes the score, and for each group an array (models, N, k) of statistics; None if the
        score is not that of these rows.
    """
    ways = (row_means, ratios, metric_statistics)
    for scores, statistics in filter(None, (way(name, groups) for way in ways)):
        again = scores(statistics[0][0], np.ones(len(statistics[0][0]))).get(name, math.nan)
        if math.isclose(again, score, rel_tol=1e-6, abs_tol=1e-9):
            return scores, statistics
    return None


def row_means(name: str, groups: Sequence[Sequence[ScoredRows]]) -> tuple[Scores, list[np.ndarray]] | None:
    """A score that is the mean of a number of each row."""
    if not all(isinstance(row.get(name), int | float) for models in groups for each in models for row in each.rows):
        return None
    statistics = [np.array([[[row[name]] for row in each.rows] for each in models], float) for models in groups]
    return partial(weighted_means, [name]), statistics


def ratios(name: str, groups: Sequence[Sequence[ScoredRows]]) -> tuple[Scores, list[np.ndarray]] | None:
    """Bits per byte, or the mean token loss, which is compared only where all models have the same tokens."""
    columns = {"bits_per_byte": ("bits", "bytes"), "loss": ("loss", "tokens")}.get(name)
    if columns is None or not all(column in each.rows[0] for column in columns for m in groups for each in m):
        return None
    statistics = [np.array([[[row[c] for c in columns] for row in each.rows] for each in m], float) for m in groups]
    if any(not np.array_equal(each[:, 1], statistics[0][0][:, 1]) for models in statistics for each in models):
        return None

    def scores(statistics: np.ndarray, weights: np.ndarray) -> dict[str, float]:
        total, units = weights @ statistics
        return {name: float(total / units)}

    return scores, statistics


def metric_statistics(name: str, groups: Sequence[Sequence[ScoredRows]]) -> tuple[Scores, list[np.ndarray]] | None:
    """A score that the task's metric computes over all rows, such as BLEU or macro-F1."""
    models = [each for group in groups for each in group]
    first = models[0]
    if first.of_documents or not first.settings.get("task") or any("samples" in each.rows[0] for each in models):
        return None
    try:
        metric = load_task(first.settings["task"], **(first.settings.get("task_options") or {})).metric()
        predictions = [row["prediction"] for each in models for row in each.rows]
        references = metric.list_references(predictions, [row["references"] for each in models for row in each.rows])
        # All models at once: a metric may number the labels that it finds.
        statistics = metric.statistics(predictions, references)
    except (ValueError, TypeError, KeyError):
        return None  # a task that needs more than its options, e.g. a template that is not here
    each_model = statistics.reshape(len(models), len(first.rows), -1)
    return metric.scores, np.split(each_model, np.cumsum([len(group) for group in groups])[:-1])


def compare_rows(name: str, scores: Scores, a: np.ndarray, b: np.ndarray, resamples: int = RESAMPLES) -> RowTest:
    """Test whether two models, or groups of models, differ in a score beyond what the choice of rows explains.

    The p-value is that of approximate randomization (Noreen 1989; Yeh 2000, "More accurate tests for the statistical
    significance of result differences"): the share of random swaps of the two on each row that give at least the
    observed difference. It is exact for any score if the two do not differ. Of groups that are not equally large, the
    first models are swapped.

    Args:
        name: of the score.
        scores: (statistics, weights) -> scores.
        a: (models, N, k) statistics of one group on N rows.
        b: the same of the other on the same rows.
        resamples: of the bootstrap, and swaps of the permutation test.
    """
    number, generator = len(a[0]), np.random.default_rng(SEED)
    ones = np.ones(number)
    mean = lambda models, weights: np.mean([scores(each, weights)[name] for each in models])  # noqa: E731
    difference = float(mean(a, ones) - mean(b, ones))
    samples = [each[name] for each in bootstrap(scores, [*a, *b], resamples, SEED)]
    differences = np.mean(samples[: len(a)], 0) - np.mean(samples[len(a) :], 0)
    pairs = min(len(a), len(b))
    observed = abs(mean(a[:pairs], ones) - mean(b[:pairs], ones))
    exceeding = 0
    for _ in range(resamples):
        swap = generator.integers(2, size=(number, 1)).astype(bool)
        one, other = np.where(swap, b[:pairs], a[:pairs]), np.where(swap, a[:pairs], b[:pairs])
        exceeding += abs(mean(one, ones) - mean(other, ones)) >= observed * (1 - 1e-9)
    low, high = interval(name, differences).values()
    p_value = (exceeding + 1) / (resamples + 1)
    return RowTest(difference, low, high, float(p_value), float(np.nanstd(differences)), number)
