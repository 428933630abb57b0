"""Means, intervals and tests over runs."""

import numpy as np
import pytest
from scipy import stats

from hf_llm.statistics import difference, mean_interval


def test_seeds_have_the_interval_of_student():
    """Independent runs have the interval of scipy's t distribution, and one run has none."""
    scores = [0.61, 0.64, 0.60, 0.66]
    low, high = stats.t.interval(0.95, 3, np.mean(scores), stats.sem(scores))
    estimate = mean_interval(scores)
    assert (estimate.low, estimate.high) == pytest.approx((low, high))
    assert (estimate.mean, estimate.std, estimate.runs) == pytest.approx((np.mean(scores), np.std(scores, ddof=1), 4))
    assert mean_interval([0.5]).std is mean_interval([0.5]).low is None


def test_unpaired_runs_are_compared_as_scipy_does():
    """Settings with seeds of their own are compared by Welch's test, paired ones by that of the differences."""
    a, b = [0.61, 0.64, 0.60, 0.66], [0.70, 0.64, 0.71]
    welch = stats.ttest_ind(a, b, equal_var=False)
    found = difference(a, b)
    assert found.p_value == pytest.approx(welch.pvalue)
    assert (found.low, found.high) == pytest.approx((*welch.confidence_interval(),))
    assert difference(a[:3], b, paired=True).p_value == pytest.approx(stats.ttest_rel(a[:3], b).pvalue)
