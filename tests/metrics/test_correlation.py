"""Correlations are those of scipy, also of resampled rows, and texts without a number do not go unnoticed."""

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from hf_llm.metrics.correlation import Correlation


def test_correlations_equal_those_of_scipy_with_ties_and_weights():
    """A weight of 2 is the row twice."""
    draw = np.random.default_rng(0)
    gold = draw.integers(0, 6, 50) / 2
    predicted = np.round(gold + draw.normal(size=50), 1)
    metric, references = Correlation(), [[str(number)] for number in gold]
    statistics = metric.statistics([f"{number} of 5" for number in predicted], references)
    weights = draw.integers(0, 3, 50)
    for counts in (np.ones(50, int), weights):
        first, second = np.repeat(gold, counts), np.repeat(predicted, counts)
        scores = metric.scores(statistics, counts.astype(float))
        assert scores["pearson"] == pytest.approx(pearsonr(first, second)[0], abs=1e-12)
        assert scores["spearman"] == pytest.approx(spearmanr(first, second)[0], abs=1e-12)
        assert scores["mean_absolute_error"] == pytest.approx(np.abs(first - second).mean())


def test_a_text_without_a_number_counts_as_the_mean_and_is_counted():
    """Constant predictions have a correlation of 0, not NaN."""
    scores = Correlation().compute(predictions=["none", "2", ""], references=["1", "2", "3"])
    assert scores["predictions_without_a_number"] == 2 and scores["pearson"] == scores["spearman"] == 0
    assert scores["mean_absolute_error"] == pytest.approx(2 / 3)
