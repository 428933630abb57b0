"""Base of the metrics: validation of rows, the `evaluate.Metric` interface, and one bootstrap for all of them.

A metric computes the statistics of each row once, and the scores from statistics and row weights. A bootstrap resample
is a vector of weights, and the paired test swaps the statistics of two systems, whether the score is a mean, a corpus
score such as BLEU or an F1 over classes; no text is tokenized twice.
"""

from collections.abc import Callable, Sequence

import evaluate
import numpy as np
from datasets import Features, List, Value

RESAMPLES = 1000
SEED = 12345  # of sacreBLEU, whose tests draw the same rows and swaps
SWAPS_AT_ONCE = 8_000_000  # drawn together, one byte each; up to 8,000 rows they are those of sacreBLEU


class TaskMetric(evaluate.Metric):
    """Base class of the metrics, an `evaluate.Metric` that adds bootstrap confidence intervals and needs no network.

    `predictions` are N texts; `references` are N lists of gold answers, or N texts if each row has one. A subclass
    defines `statistics` and `score_names`, and `scores` if the scores are not means over the rows.

    Attributes:
        score_names: names of the first columns of the statistics, which are the scores of each row.
        needs_references: whether a row without a gold answer is refused.

    Example:
        >>> from hf_llm.metrics.classification import Classification
        >>> Classification().compute(predictions=["cat", "dog"], references=["cat", "cat"])["accuracy"]
        0.5
    """

    score_names: tuple[str, ...]
    needs_references = True

    def __init__(self):
        super().__init__(keep_in_memory=True)

    def _info(self) -> evaluate.MetricInfo:
        features = Features({"predictions": Value("string"), "references": List(Value("string"))})
        return evaluate.MetricInfo(description=self.__doc__ or "", citation="", features=features)

    def _build_data_dir(self) -> str:
        return ""  # by default evaluate creates a folder in its cache, although everything is kept in memory

    def add_batch(self, *, predictions: Sequence[str], references: Sequence | None = None) -> None:
        """Add rows to those that `compute` scores.

        Raises:
            ValueError: there are no rows, the lists have different lengths, or a reference is empty.
        """
        super().add_batch(predictions=predictions, references=self.list_references(predictions, references))

    def add(self, *, prediction: str, reference: Sequence | None = None) -> None:
        """Add one row, as `add_batch` does."""
        self.add_batch(predictions=[prediction], references=None if reference is None else [reference])

    def list_references(self, predictions: Sequence[str], references: Sequence | None) -> list[list[str]]:
        """Convert the references to one list of gold answers for each prediction.

        Raises:
            ValueError: as for `add_batch`.
        """
        references = [[]] * len(predictions) if references is None else references
        if isinstance(predictions, str) or isinstance(references, str):
            raise ValueError("`predictions` and `references` must be lists, with a text or a list of texts per row")
        references = [[row] if isinstance(row, str) else row for row in references]
        for row, texts in enumerate(references):
            if not (isinstance(texts, list | tuple) and all(isinstance(text, str) for text in texts)):
                raise ValueError(f"`references[{row}]` is {texts}: give a text, or a list of texts")
        references = list(map(list, references))
        if len(predictions) == 0:
            raise ValueError("`predictions` is empty: give at least one text")
        if len(predictions) != len(references):
            raise ValueError(
                f"`references` has {len(references)} rows and `predictions` {len(predictions)}: "
                "give one list of references for each prediction"
            )
        for row, texts in enumerate(references if self.needs_references else []):
            if not texts or not all(text.strip() for text in texts):
                raise ValueError(f"`references[{row}]` is {texts}: give it a text, or remove the row")
        return references

    def statistics(self, predictions: Sequence[str], references: list[list[str]]) -> np.ndarray:
        """Compute what each row contributes to the scores, (N, k)."""
        raise NotImplementedError

    def scores(self, statistics: np.ndarray, weights: np.ndarray) -> dict[str, float]:
        """Compute the scores of rows with these statistics (N, k), each counted `weights` (N,) times."""
        return weighted_means(self.score_names, statistics, weights)

    def counted(self, statistics: np.ndarray) -> np.ndarray:
        """Whether each row counts for the first score, (N,): 1 or 0."""
        return np.ones(len(statistics))

    def row_scores(self, predictions: Sequence[str], references: Sequence | None = None) -> list[dict[str, float]]:
        """Compute the scores of each single row, for a predictions file."""
        statistics = self.statistics(predictions, self.list_references(predictions, references))
        return [dict(zip(self.score_names, row, strict=False)) for row in statistics.tolist()]

    def details(self, predictions: Sequence[str], statistics: np.ndarray) -> dict[str, float | str]:
        """Values that are reported with the scores but have no interval, such as signatures and counts."""
        return {}

    def _compute(self, predictions: list[str], references: list[list[str]]) -> dict[str, float | str]:
        """Compute scores, 95 % percentile bootstrap intervals `<name>_ci95_low` and `<name>_ci95_high`, and details."""
        statistics = self.statistics(predictions, references)
        return with_interval(self.scores, statistics) | self.details(predictions, statistics)


Scores = Callable[[np.ndarray, np.ndarray], dict[str, float]]  # (statistics, weights) -> scores: `TaskMetric.scores`


def with_interval(scores: Scores, statistics: np.ndarray) -> dict[str, float]:
    """Compute the scores of all rows, each with its 95 % interval."""
    results = {name: float(score) for name, score in scores(statistics, np.ones(len(statistics))).items()}
    (samples,) = bootstrap(scores, [statistics], RESAMPLES, SEED)
    for name in list(results):
        results |= interval(name, samples[name])
    return results


def weighted_means(names: Sequence[str], statistics: np.ndarray, weights: np.ndarray) -> dict[str, float]:
    """Compute weighted means of the first columns; NaN if all weights are 0, e.g. if a resample lacks a rare kind."""
    total = weights.sum()
    sums = weights @ statistics[:, : len(names)]
    return dict(zip(names, (sums / total).tolist() if total else [np.nan] * len(names), strict=True))


def bootstrap(scores: Scores, systems: list[np.ndarray], resamples: int, seed: int) -> list[dict[str, np.ndarray]]:
    """Compute the scores of each system on resampled rows, the same rows for all systems.

    Args:
        systems: statistics (N, k) of each system.

    Returns:
        For each system, an array (resamples,) per score.
    """
    generator = np.random.default_rng(seed)
    num_rows = len(systems[0])
    samples = [[] for _ in systems]
    for _ in range(resamples):
        weights = np.bincount(generator.integers(num_rows, size=num_rows), minlength=num_rows)
        for system_samples, statistics in zip(samples, systems, strict=True):
            system_samples.append(scores(statistics, weights))
    return [{name: np.array([sample[name] for sample in each]) for name in each[0]} for each in samples]


def interval(name: str, samples: np.ndarray) -> dict[str, float]:
    """Compute the 95 % percentile interval of resampled scores."""
    low, high = np.nanpercentile(samples, [2.5, 97.5]).tolist()
    return {f"{name}_ci95_low": low, f"{name}_ci95_high": high}


def paired_test(
    metric: TaskMetric,
    predictions: Sequence[str],
    baseline_predictions: Sequence[str],
    references: Sequence | None = None,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> dict[str, float]:
    """Test whether a system differs from a baseline on the same rows.

    The p-value is that of approximate randomization (Noreen 1989; Yeh 2000), as in `sacrebleu --paired-ar`: the share
    of random swaps of the two systems on each row that give at least the observed difference, with one added to both
    counts. It is two-sided. `sacrebleu --paired-bs`, after Koehn 2004, calls systems that do not differ different in
    nearly 10 % of the cases at p < 0.05. Swaps that give the same difference count, which they do not in sacreBLEU.

    Args:
        metric: scores the texts.
        predictions: N texts of the system.
        baseline_predictions: N texts of the baseline.
        references: N lists of gold answers, or N texts.
        resamples: number of swaps for the p-value, and of bootstrap samples of the rows for the interval.
        seed: of the sampling.

    Returns:
        For every score `<name>_difference` (system - baseline), its 95 % interval and `<name>_p_value`.

    Raises:
        ValueError: there are no rows, the lists have different lengths, or a reference is empty.

    Example:
        >>> from hf_llm.metrics.classification import Classification
        >>> paired_test(Classification(), ["a", "b"], ["a", "b"], ["a", "a"])["accuracy_p_value"]
        1.0
    """
    texts = (predictions, baseline_predictions)
    systems = [metric.statistics(each, metric.list_references(each, references)) for each in texts]
    return paired_differences(metric.scores, systems, resamples, seed)


def paired_differences(
    scores: Scores, systems: list[np.ndarray], resamples: int = RESAMPLES, seed: int = SEED
) -> dict[str, float]:
    """Compute `paired_test` from the statistics (N, k) of a system and of its baseline."""
    score, baseline = (scores(statistics, np.ones(len(statistics))) for statistics in systems)
    samples, baseline_samples = bootstrap(scores, systems, resamples, seed)
    swapped = swapped_differences(scores, systems, resamples, seed)
    results = {}
    for name in score:
        difference = score[name] - baseline[name]
        results |= {f"{name}_difference": difference}
        results |= interval(f"{name}_difference", samples[name] - baseline_samples[name])
        results[f"{name}_p_value"] = swap_p_value(difference, swapped[name])
    return results


def swap_p_value(difference: float, swapped: np.ndarray) -> float:
    """The share of differences of swapped systems, (resamples,), at least as large as the observed one, two-sided.

    One is added to both counts. NaN, where no row of a rare kind is left, counts as large.
    """
    smaller = np.abs(swapped) < abs(difference) * (1 - 1e-9)  # equal differences are not equal to the last digit
    return (np.sum(~smaller).item() + 1) / (len(swapped) + 1)


def swapped_differences(scores: Scores, systems: list[np.ndarray], resamples: int, seed: int) -> dict[str, np.ndarray]:
    """Differences of each score, (resamples,), between two systems that are swapped on random rows."""
    system, baseline = systems
    rows, generator = len(system), np.random.default_rng(seed)
    ones, block = np.ones(rows), max(1, SWAPS_AT_ONCE // rows)
    differences = []
    for start in range(0, resamples, block):
        for swap in generator.integers(2, size=(min(block, resamples - start), rows), dtype=bool):
            swap = np.expand_dims(swap, (*range(1, system.ndim),))  # also (N, samples, k)
            first, second = (np.where(swap, *pair) for pair in ((baseline, system), (system, baseline)))
            pair = scores(first, ones), scores(second, ones)
            differences.append({name: pair[0][name] - pair[1][name] for name in pair[0]})
    return {name: np.array([each[name] for each in differences]) for name in differences[0]}
