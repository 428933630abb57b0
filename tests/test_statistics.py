"""Means, intervals and tests over runs."""

import numpy as np
import pytest
from scipy import stats

from hf_llm.statistics import compare_runs, difference, fold_interval, held_out_share, mean_interval, runs_needed


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


def test_runs_on_different_rows_are_compared_in_pairs():
    """Folds are paired by fold and seed, with those that both have; seeds on the same rows are not."""
    a = {("1/3", 1): 0.5, ("2/3", 1): 0.7, ("3/3", 1): 0.9}
    b = {("3/3", 1): 0.8, ("1/3", 1): 0.4, ("2/3", 1): 0.65, ("1/3", 2): 0.1}
    folds, seeds = compare_runs(a, b, 1 / 3), compare_runs(a, b, 0)
    assert folds == difference([0.5, 0.7, 0.9], [0.4, 0.65, 0.8], paired=True, test_share=1 / 3)
    assert (seeds.paired, seeds.runs) == (False, (3, 4))
    assert compare_runs(a, {("1/3", 9): 0.5}, 1 / 3).runs == (3, 1)


def test_the_share_of_held_out_rows_is_that_of_a_fold_or_of_a_drawn_split():
    """Runs that are scored on the same rows are independent of their choice."""
    assert held_out_share({"fold": "2/5"}, ["a", "b"]) == 1 / 5
    assert held_out_share({}, ["a", "a"]) == held_out_share({}, ["a"]) == 0
    assert held_out_share({}, ["a", "b"]) == 0.05
    assert held_out_share({"validation_fraction": 0.2}, ["a", "b"]) == 0.2


def test_runs_without_variation_are_compared_by_permutations():
    """Equal scores have no standard deviation to divide by: the p-value is that of swapping runs."""
    assert difference([1, 1], [2, 2]).p_value == pytest.approx(2 / 6)
    assert difference([1.0] * 5, [2.0] * 5).significant
    paired = difference([0.8, 0.7, 0.6], [0.7, 0.6, 0.5], paired=True)
    assert (paired.p_value, paired.low) == (pytest.approx(2 / 8), None)
    assert difference([1, 1], [1, 1]).p_value == 1
    assert mean_interval([1, 1]).low is None


def test_a_single_run_is_compared_with_the_spread_of_the_others():
    """Student's test of one run against several; one run of each cannot be told apart."""
    assert difference([0.9], [0.5, 0.6, 0.7]).p_value == pytest.approx(stats.ttest_ind([0.9], [0.5, 0.6, 0.7]).pvalue)
    single = difference([0.9], [0.5])
    assert (single.p_value, single.significant, runs_needed(single)) == (None, False, None)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: mean_interval([]), "give one finite number or more"),
        (lambda: mean_interval([1, float("nan")]), "give one finite number or more; leave out runs that failed"),
        (lambda: fold_interval([1, 2], 1), "`test_share` is 1: give the share of rows that a run holds out"),
        (lambda: difference([1, 2], [1], paired=True), "2 and 1 runs: give runs of the same folds and seeds"),
    ],
)
def test_bad_scores_are_refused(call, message):
    """One line with the value and the remedy."""
    with pytest.raises(ValueError, match=message.replace("`", ".")):
        call()


@pytest.mark.parametrize("correlation, seeds", [(0, 3), (0, 5), (1 / 5, 1), (1 / 5, 3)])
def test_intervals_hold_the_true_mean_in_95_percent(correlation, seeds):
    """Of independent seeds, and of folds that are correlated by the rows that they share: 93 to 97 % of 2,000."""
    runs, generator = seeds * (5 if correlation else 1), np.random.default_rng(seeds)
    shared, own = generator.standard_normal((2000, 1)), generator.standard_normal((2000, runs))
    scores = np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * own
    estimates = [fold_interval(row, correlation) for row in scores]
    assert 0.93 < np.mean([found.low < 0 < found.high for found in estimates]) < 0.97


def test_folds_are_compared_by_the_test_of_nadeau_and_bengio():
    """Their t: the mean over the root of (1/n + n2/n1) times the variance, n1 rows to train on."""
    a, b = np.array([0.8, 0.9, 0.7, 0.9, 0.8]), np.array([0.7, 0.9, 0.65, 0.8, 0.81])
    t = np.mean(a - b) / np.sqrt((1 / 5 + 20 / 80) * np.var(a - b, ddof=1))
    assert difference(a, b, paired=True, test_share=20 / 100).p_value == pytest.approx(2 * stats.t.sf(t, 4))


@pytest.mark.parametrize("paired, test_share, effect", [(False, 0, 1), (False, 0, 0.5), (True, 1 / 5, 2)])
def test_as_many_runs_as_are_asked_for_find_the_difference(paired, test_share, effect):
    """Of 400 simulated tests with so many runs, at least 74 % find it: 80 %, less three standard errors."""
    a = np.array([effect - 1, effect, effect + 1])  # standard deviation 1
    needed = runs_needed(difference(a, [0, 0, 0] if paired else a - effect, paired, test_share))
    generator = np.random.default_rng(1)
    shared = np.sqrt(test_share / (1 - test_share)) * generator.standard_normal((400, 1))
    draws = generator.standard_normal((2, 400, needed))
    pairs = zip(effect + shared + draws[0], draws[1] * (not paired), strict=True)
    assert np.mean([difference(*pair, paired, test_share).significant for pair in pairs]) > 0.74


def test_more_runs_on_the_same_rows_do_not_help_a_small_difference():
    """The rows of five folds vary as well, so that no number of seeds finds half a standard deviation."""
    scores = [0.5, -0.5, 0.5, 1.5, 0.5]
    assert runs_needed(difference(scores, [0] * 5, paired=True, test_share=1 / 5)) is None
    assert runs_needed(difference(scores, [0] * 5, paired=True)) > 5
    assert runs_needed(difference([1, 2], [2, 1])) is None
