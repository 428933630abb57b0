"""Means, intervals and tests over runs: the same setting trained with several seeds or on several folds.

A test over the rows of one run (`metrics.base`) tells about two models; these tell about two settings.

Runs on folds of the same rows are not independent: they share most of their training rows. With the correlation
`test_share`, the share of rows that each run holds out, the variance of the mean of n runs is
`std**2 * (1 / n + test_share / (1 - test_share))`: the corrected resampled t-test of Nadeau and Bengio, "Inference for
the Generalization Error", Machine Learning 52 (2003); for repeated folds Bouckaert and Frank, PAKDD 2004. Runs that
are all scored on the same held-out rows have `test_share` 0: Student's interval, Welch's test.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import comb, sqrt
from typing import Any

import numpy as np
from scipy import stats

from hf_llm.arguments import DataArguments

CONFIDENCE = 0.95
SIGNIFICANT = 1 - CONFIDENCE  # p-values below it
MOST_RUNS = 10_000


@dataclass(frozen=True)
class Estimate:
    """Mean score of a setting over its runs.

    Attributes:
        std: standard deviation of the scores; None for one run.
        low, high: 95 % interval of the mean; None for one run, or if all scores are equal, which says nothing of how
            much they would vary.
        runs: number of runs.
    """

    mean: float
    std: float | None
    low: float | None
    high: float | None
    runs: int


@dataclass(frozen=True)
class Difference:
    """Difference of the mean scores of two settings, a - b.

    Attributes:
        std: standard deviation of a difference between one run of each; None where the runs are too few for it.
        low, high: 95 % interval; None where there is no `std`, or it is 0.
        p_value: two-sided; None where there is no `std`. With a `std` of 0 that of the exact permutation test.
        runs: numbers of runs of a and of b.
        paired: whether each run of a was compared with one of b.
        test_share: as given.
    """

    mean: float
    std: float | None
    low: float | None
    high: float | None
    p_value: float | None
    runs: tuple[int, int]
    paired: bool
    test_share: float

    @property
    def significant(self) -> bool:
        """Whether the two can be told apart: the p-value is below 0.05."""
        return self.p_value is not None and self.p_value < SIGNIFICANT


def mean_interval(scores: Sequence[float]) -> Estimate:
    """Estimate the mean of independent runs, e.g. of seeds that are scored on the same held-out rows.

    Raises:
        ValueError: there is no score, or one is not finite.
    """
    return fold_interval(scores, 0)


def fold_interval(scores: Sequence[float], test_share: float) -> Estimate:
    """Estimate the mean of runs that each hold out other rows of the same data.

    Args:
        scores: one for each run: of k folds, or of k folds with each of several seeds that draw the folds anew.
        test_share: share of the rows that a run holds out, 1 / k for k folds.

    Raises:
        ValueError: there is no score, one is not finite, or the share is not below 1.

    Example:
        >>> estimate = fold_interval([0.70, 0.74, 0.72, 0.69, 0.75], 1 / 5)
        >>> print(f"{estimate.mean:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]")
        0.720 [0.673, 0.767]
    """
    values, mean, std = summary(scores)
    if not std:
        return Estimate(mean, std, None, None, len(values))
    half = std * sqrt(1 / len(values) + excess(test_share)) * t_quantile(len(values) - 1)
    return Estimate(mean, std, mean - half, mean + half, len(values))


def difference(a: Sequence[float], b: Sequence[float], paired: bool = False, test_share: float = 0) -> Difference:
    """Test whether two settings differ: a t-test over their runs.

    Args:
        a: scores of the runs of one setting.
        b: those of the other.
        paired: whether run i of both is of the same fold and seed, so that their held-out rows are equal: the
            corrected t-test of the differences. Else Welch's test; where one setting has a single run, the standard
            deviation of the other holds for both.
        test_share: as for `fold_interval`; 0 if all runs are scored on the same rows.

    Raises:
        ValueError: as `fold_interval`; paired settings have other numbers of runs.
    """
    runs = (len(a), len(b))
    if paired and runs[0] != runs[1]:
        raise ValueError(f"paired settings have {runs[0]} and {runs[1]} runs: give runs of the same folds and seeds")
    (values_a, mean_a, std_a), (values_b, mean_b, std_b) = summary(a), summary(b)
    mean, error, degrees = mean_a - mean_b, 0.0, 0.0
    if paired:
        _, mean, std = summary(values_a - values_b)
        if std:
            error, degrees = std * sqrt(1 / runs[0] + excess(test_share)), runs[0] - 1
    else:
        known = [value for value in (std_a, std_b) if value is not None]
        std_a, std_b = [value if value is not None else max(known, default=None) for value in (std_a, std_b)]
        std = None if std_a is None or std_b is None else sqrt(std_a**2 + std_b**2)
        if std_a is not None and std_b is not None and std:
            parts = [std_a**2 * (1 / runs[0] + excess(test_share)), std_b**2 * (1 / runs[1] + excess(test_share))]
            error, degrees = sqrt(sum(parts)), welch_degrees(parts, runs)
    if std is None:
        return Difference(mean, None, None, None, None, runs, paired, test_share)
    if not std:
        return Difference(mean, std, None, None, exact_p_value(runs, paired) if mean else 1.0, runs, paired, test_share)
    half, p_value = error * t_quantile(degrees), 2 * stats.t.sf(abs(mean) / error, degrees)
    return Difference(mean, std, mean - half, mean + half, float(p_value), runs, paired, test_share)


def compare_runs(a: Mapping[Any, float], b: Mapping[Any, float], test_share: float) -> Difference:
    """Test two settings by the test that fits their runs.

    Where runs hold out different rows, those of the same fold and seed are compared with each other, because some rows
    are harder than others. Where all are scored on the same rows, nothing is gained by pairs of seeds, and half of the
    degrees of freedom would be lost.

    Args:
        a: score of each run of one setting, by fold and seed.
        b: those of the other; folds and seeds that only one of the two has are left out, if they share any.
        test_share: as `held_out_share` returns it.

    Raises:
        ValueError: as `difference`.
    """
    common = [key for key in a if key in b]
    if not test_share or not common:
        return difference([*a.values()], [*b.values()], test_share=test_share)
    return difference([a[key] for key in common], [b[key] for key in common], paired=True, test_share=test_share)


def held_out_share(settings: Mapping[str, Any], validation: Sequence[str | None]) -> float:
    """Return which share of the rows each run of a setting holds out; 0 if all are scored on the same rows.

    Args:
        settings: of one of the runs, as in its `run.yaml`.
        validation: for each run the fingerprint of its held-out rows, as in its `environment.json`.
    """
    if settings.get("fold"):
        return 1 / int(settings["fold"].split("/")[1])
    if len({*validation}) < 2:
        return 0
    return settings.get("validation_fraction", DataArguments.validation_fraction)


def runs_needed(found: Difference, power: float = 0.8) -> int | None:
    """Estimate how many runs of each setting would tell them apart, if the difference found is the true one.

    Args:
        found: the difference so far, of at least two runs.
        power: probability that a test with so many runs has a p-value below 0.05.

    Returns:
        Runs of each setting, those there are included; None if no number of runs would do (the difference is 0 or
        small beside what other rows would change: only more data help) or the runs are too few to say.
    """
    if not found.mean or found.std is None:
        return None
    count = 2
    while count <= MOST_RUNS and not reaches(found, count, power):
        count *= 2
    if count > MOST_RUNS:
        return None
    return next(runs for runs in range(max(2, count // 2), count + 1) if reaches(found, runs, power))


def reaches(found: Difference, runs: int, power: float) -> bool:
    """Whether a test with so many runs of each setting finds the difference with at least this probability."""
    if not found.std:
        return exact_p_value((runs, runs), found.paired) < SIGNIFICANT
    degrees = (runs - 1) * (1 if found.paired else 2)
    shift = abs(found.mean) / (found.std * sqrt(1 / runs + excess(found.test_share)))
    # A shift of 40 standard errors is found for certain; the noncentral t of scipy has no figure for much more.
    return shift > 40 * t_quantile(degrees) or float(stats.nct.sf(t_quantile(degrees), degrees, shift)) >= power


def summary(scores: Sequence[float] | np.ndarray) -> tuple[np.ndarray, float, float | None]:
    """Scores as an array, their mean, and their standard deviation: exactly 0 if they are equal, None of one.

    Raises:
        ValueError: there is no score, or one is not finite.
    """
    values = np.asarray(scores, float)
    if not len(values) or not np.isfinite(values).all():
        raise ValueError(f"scores {values.tolist()}: give one finite number or more; leave out runs that failed")
    mean = float(values.mean())
    if len(values) == 1:
        return values, mean, None
    # Differences of equal floats, such as 0.8 - 0.7 and 0.7 - 0.6, are not equal to the last digit.
    equal = np.ptp(values) <= 1e-12 * max(1.0, float(np.abs(values).max()))
    return values, mean, 0.0 if equal else float(values.std(ddof=1))


def excess(test_share: float) -> float:
    """What correlated runs add to the `1 / n` of the variance of a mean: held-out rows per training row."""
    if not 0 <= test_share < 1:
        raise ValueError(f"`test_share` is {test_share}: give the share of rows that a run holds out, 0 to below 1")
    return test_share / (1 - test_share)


@lru_cache
def t_quantile(degrees: float) -> float:
    """How many standard errors the 95 % interval extends to each side."""
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, degrees))


def welch_degrees(parts: Sequence[float], runs: tuple[int, int]) -> float:
    """Degrees of freedom of Welch and Satterthwaite, from the two variances of a mean; a single run adds none."""
    if 1 in runs:
        return max(runs) - 1
    return sum(parts) ** 2 / sum(part**2 / (count - 1) for part, count in zip(parts, runs, strict=True))


def exact_p_value(runs: tuple[int, int], paired: bool) -> float:
    """P-value of the permutation test where all runs of a setting score the same: 2 of all ways to swap them."""
    return 2 / (2 ** runs[0] if paired else comb(sum(runs), runs[0]))
