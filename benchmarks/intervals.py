"""How often intervals over folds and seeds hold the true mean, and how often equal settings are called different.

python benchmarks/intervals.py

Prints Markdown tables. Scores are simulated: with a normal distribution and the correlation that the corrected test
assumes, with skewed and with rounded scores, and by training real classifiers on the folds of drawn data sets. The last
table repeats the example "Statistical comparison of models using grid search" of scikit-learn's documentation.
"""

import functools
import itertools
from collections.abc import Callable, Iterator

import numpy as np
from sklearn.datasets import make_moons
from sklearn.model_selection import RepeatedStratifiedKFold, cross_val_score
from sklearn.svm import SVC

from hf_llm.data.folds import assign_folds
from hf_llm.statistics import compare_runs, difference, fold_interval, mean_interval, runs_needed

RUNS = 2000  # simulated cross-validations of each row of a table
FOLDS_AND_SEEDS = ((3, 1), (5, 1), (10, 1), (5, 3))
Scores = np.ndarray  # (runs,)


def correlated(runs: int, correlation: float, seed: int) -> Iterator[Scores]:
    """Scores with mean 0, variance 1 and one correlation between any two, as held-out folds of the same rows have."""
    draw = np.random.default_rng(seed).standard_normal
    while True:
        yield np.sqrt(correlation) * draw() + np.sqrt(1 - correlation) * draw(runs)


def skewed(runs: int, seed: int) -> Iterator[Scores]:
    """Independent scores with a long tail below: 1 minus a lognormal of standard deviation 0.5 of its logarithm."""
    generator = np.random.default_rng(seed)
    while True:
        yield np.exp(0.125) - generator.lognormal(0, 0.5, runs)  # mean 0


def accuracies(runs: int, rows: int, seed: int) -> Iterator[Scores]:
    """Independent accuracies of models that are right with a probability of about 0.8 on as many rows."""
    generator = np.random.default_rng(seed)
    while True:
        yield generator.binomial(rows, np.clip(generator.normal(0.8, 0.02, runs), 0, 1)) / rows - 0.8


def classifiers(folds: int, seeds: int, seed: int, rows: int = 200) -> Iterator[np.ndarray]:
    """Accuracies of two classifiers on the folds of a new data set, (2, folds * seeds).

    Two classes, ten columns, the first half for one least-squares classifier and the second for the other: equally good
    on average.
    """
    generator = np.random.default_rng(seed)
    while True:
        labels = np.where(generator.random(rows) < 0.5, 1.0, -1.0)
        columns = generator.standard_normal((rows, 10)) + 0.3 * labels[:, None]
        scores = []
        for draw in range(seeds):
            fold_of = assign_folds(rows, folds, int(generator.integers(2**31)) + draw)
            for fold in range(folds):
                train, held_out = fold_of != fold, fold_of == fold
                halves = []
                for own in (slice(0, 5), slice(5, 10)):
                    weights = np.linalg.lstsq(columns[train, own], labels[train])[0]
                    halves.append(np.mean(np.sign(columns[held_out, own] @ weights) == labels[held_out]))
                scores.append(halves)
        yield np.array(scores).T


def coverage(draws: Iterator[Scores], truth: float, interval: Callable) -> float:
    """Share of the intervals that have the truth in them; one without limits has not."""
    estimates = [interval(next(draws)) for _ in range(RUNS)]
    return float(np.mean([found.low is not None and found.low <= truth <= found.high for found in estimates]))


def coverage_table() -> None:
    """Intervals of 95 % of the mean of runs."""
    print("| scores | runs | interval | has the true mean | without the correction |\n|---|---|---|---|---|")
    for runs in (2, 3, 5, 10):
        found = coverage(correlated(runs, 0, runs), 0, mean_interval)
        print(f"| normal, independent | {runs} seeds | Student | {found:.1%} | |")
    for name, draws in (("skewed", skewed), ("accuracy on 200 rows", lambda runs, seed: accuracies(runs, 200, seed))):
        for runs in (3, 5, 10):
            print(f"| {name} | {runs} seeds | Student | {coverage(draws(runs, runs), 0, mean_interval):.1%} | |")
    for folds, seeds in FOLDS_AND_SEEDS:
        trained = [pair[0] for pair in itertools.islice(classifiers(folds, seeds, folds), RUNS)]
        kinds = {
            "normal, correlated": (itertools.islice(correlated(folds * seeds, 1 / folds, folds), RUNS), 0.0),
            "classifiers": (trained, np.mean(trained)),
        }
        for kind, (draws, truth) in kinds.items():
            scores = [*draws]
            corrected = coverage(iter(scores), truth, functools.partial(fold_interval, test_share=1 / folds))
            plain = coverage(iter(scores), truth, mean_interval)
            print(f"| {kind} | {runs_in_words(folds, seeds)} | Nadeau and Bengio | {corrected:.1%} | {plain:.1%} |")


def runs_in_words(folds: int, seeds: int) -> str:
    """`5 folds`, or `5 folds, 3 seeds`."""
    return f"{folds} folds" + f", {seeds} seeds" * (seeds > 1)


def called_different(pairs: Iterator[tuple[Scores, Scores]], share: float) -> tuple[float, float]:
    """Share of equal settings with a p-value below 0.05, by the test of `compare_runs` and without its correction."""
    found = []
    for _ in range(RUNS):
        a, b = (dict(enumerate(scores.tolist())) for scores in next(pairs))
        plain = difference([*a.values()], [*b.values()], paired=share > 0)
        found.append((compare_runs(a, b, share).significant, plain.significant))
    corrected, plain = np.mean(found, axis=0)
    return float(corrected), float(plain)


def equal_settings_table() -> None:
    """Two settings that are equally good."""
    print("\n| scores | runs of each | test | called different | without the correction |\n|---|---|---|---|---|")
    for runs in ((2, 2), (3, 3), (5, 5), (1, 3), (2, 5)):
        for name, draw in (("normal", lambda runs, seed: correlated(runs, 0, seed)), ("skewed", skewed)):
            pairs = zip(draw(runs[0], 1), draw(runs[1], 2), strict=True)
            rate, _ = called_different(pairs, 0)
            test = "Student" if 1 in runs else "Welch"
            print(f"| {name}, independent | {runs[0]} and {runs[1]} seeds | {test} | {rate:.1%} | |")
    for folds, seeds in FOLDS_AND_SEEDS:
        rate, plain = called_different(((a, b) for a, b in classifiers(folds, seeds, folds)), 1 / folds)
        runs = runs_in_words(folds, seeds)
        print(f"| classifiers | {runs} | Nadeau and Bengio, paired | {rate:.1%} | {plain:.1%} |")


def runs_needed_table() -> None:
    """The number of runs that is asked for, and how often so many find the difference."""
    print("\n| difference / std of a run | runs so far | asked for | find it |\n|---|---|---|---|")
    for effect in (0.5, 1, 2, 4):
        a = np.array([effect, effect + 1, effect - 1])  # standard deviation 1
        needed = runs_needed(difference(a, a - effect))
        draw = np.random.default_rng(1).standard_normal
        found = np.mean([difference(draw(needed) + effect, draw(needed)).significant for _ in range(RUNS)])
        print(f"| {effect} | 3 and 3 seeds | {needed} of each | {found:.1%} |")
    for effect in (1, 2):
        scores = np.array([-1.2, -0.6, 0, 0.6, 1.2])
        scores = scores / scores.std(ddof=1) + effect
        needed = runs_needed(difference(scores, np.zeros(5), paired=True, test_share=0.2))
        if needed is None:
            print(f"| {effect} | 5 folds | none would do | |")
            continue
        draws = correlated(needed, 0.2, 1)  # the variance within a data set is 0.8
        found = [
            difference(next(draws) / np.sqrt(0.8) + effect, np.zeros(needed), True, 0.2).significant
            for _ in range(RUNS)
        ]
        print(f"| {effect} | 5 folds | {needed} runs, {-(-needed // 5)} seeds of 5 folds | {np.mean(found):.1%} |")


def published_table() -> None:
    """scikit-learn's example: kernels of support vector machines in ten times ten folds."""
    rows, labels = make_moons(noise=0.352, random_state=1, n_samples=100)
    splits = RepeatedStratifiedKFold(n_splits=10, n_repeats=10, random_state=0)
    linear, rbf = (
        cross_val_score(SVC(kernel=kernel, random_state=0), rows, labels, scoring="roc_auc", cv=splits)
        for kernel in ("linear", "rbf")
    )
    found = difference(rbf, linear, paired=True, test_share=1 / 10)
    print(f"\nrbf against linear: one-sided p-value {found.p_value / 2:.3f}; published: 0.227")


if __name__ == "__main__":
    coverage_table()
    equal_settings_table()
    runs_needed_table()
    published_table()
