"""Pearson and Spearman correlation of numbers that are predicted as text, as for STS-B."""

import math
import re
from collections.abc import Sequence

import numpy as np

from hf_llm.metrics.base import TaskMetric

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)


class Correlation(TaskMetric):
    """Pearson and Spearman correlation (-1 to 1), and the mean absolute error, of predicted numbers.

    A prediction without a number counts as the mean of the gold numbers, which says nothing about its row, and is
    counted. A correlation with numbers that are all equal is 0. Equal numbers share the mean of their ranks, as in
    scipy's `spearmanr`.

    Example:
        >>> Correlation().compute(predictions=["1", "2.5"], references=["0", "5"])["pearson"]
        1.0
    """

    score_names = ("mean_absolute_error",)

    def statistics(self, predictions: Sequence[str], references: list[list[str]]) -> np.ndarray:
        """(N, 5): absolute error, gold and predicted number, and the index of each among the different numbers."""
        gold = np.array([float(texts[0]) for texts in references])
        found = [read_number(text) for text in predictions]
        predicted = np.array([gold.mean() if number is None else number for number in found])
        indices = [np.unique(numbers, return_inverse=True)[1] for numbers in (gold, predicted)]
        return np.stack([np.abs(gold - predicted), gold, predicted, *indices], 1)

    def scores(self, statistics: np.ndarray, weights: np.ndarray) -> dict[str, float]:
        """Compute the scores; the ranks are those of the resampled rows."""
        error, gold, predicted, *indices = statistics.T
        gold_ranks, predicted_ranks = (mean_ranks(index.astype(int), weights) for index in indices)
        return {
            "pearson": weighted_correlation(gold, predicted, weights),
            "spearman": weighted_correlation(gold_ranks, predicted_ranks, weights),
            "mean_absolute_error": float(weights @ error / weights.sum()),
        }

    def details(self, predictions: Sequence[str], statistics: np.ndarray) -> dict[str, float | str]:
        """How many predictions hold no number, if there are any."""
        missing = sum(read_number(text) is None for text in predictions)
        return {"predictions_without_a_number": missing} if missing else {}


def read_number(text: str) -> float | None:
    """Read the first finite number of a text; None if there is none.

    Example:
        >>> read_number("about 3.5 of 5"), read_number("none")
        (3.5, None)
    """
    match = NUMBER.search(text)
    number = math.nan if match is None else float(match[0])
    return number if math.isfinite(number) else None


def mean_ranks(index: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Compute the rank of each row, where each counts `weights` times and equal ones share the mean of their ranks.

    Args:
        index: (N,) number of each row's value among the different values in ascending order. [1, 0, 1] with weights
            [1, 1, 1] gives the ranks [2.5, 1, 2.5].
    """
    counts = np.bincount(index, weights)
    return (np.cumsum(counts) - (counts - 1) / 2)[index]


def weighted_correlation(first: np.ndarray, second: np.ndarray, weights: np.ndarray) -> float:
    """Pearson correlation of two rows of numbers (N,), each pair counted `weights` times; 0 where one is constant."""
    first, second = (numbers - np.average(numbers, weights=weights) for numbers in (first, second))
    spread = math.sqrt((weights @ first**2) * (weights @ second**2))
    return float(weights @ (first * second) / spread) if spread > 1e-12 else 0.0
