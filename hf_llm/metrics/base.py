"""What the metrics share: checked rows, the `evaluate.Metric` interface, and one bootstrap for all of them.

A metric says once what each row contributes, and how to score rows that count any number of times. Drawing rows with
replacement is giving them other weights, so intervals and the paired test need no more than that, be the score a mean,
a corpus score as BLEU, or an F1 over classes; and no text is tokenized twice.
"""

from collections.abc import Callable, Sequence

import evaluate
import numpy as np
from datasets import Features, List, Value

RESAMPLES = 1000
SEED = 12345  # sacreBLEU's own: its paired bootstrap draws the same rows


class TaskMetric(evaluate.Metric):
    """Base of the metrics. A subclass has `statistics`, `score_names`, and `scores` where they are no plain means.

    `predictions` are N texts; `references` are N lists of gold answers, or N texts where each row has one.
    """

    score_names: tuple[str, ...]  # the first columns of the statistics that are scores of the row by itself
    needs_references = True  # whether a row without a gold answer makes the score meaningless

    def __init__(self):
        super().__init__(keep_in_memory=True)

    def _info(self) -> evaluate.MetricInfo:
        features = Features({"predictions": Value("string"), "references": List(Value("string"))})
        return evaluate.MetricInfo(description=self.__doc__, citation="", features=features)

    def _build_data_dir(self) -> str:
        return ""  # evaluate would make a folder in its cache, although everything is kept in memory

    def add_batch(self, *, predictions: Sequence[str], references: Sequence | None = None) -> None:
        """Add rows; a ValueError for none, for lists of different lengths and for an empty reference."""
        super().add_batch(predictions=predictions, references=self.checked(predictions, references))

    def add(self, *, prediction: str, reference: Sequence | None = None) -> None:
        """Add one row, as `add_batch` does."""
        self.add_batch(predictions=[prediction], references=None if reference is None else [reference])

    def checked(self, predictions: Sequence[str], references: Sequence | None) -> list[list[str]]:
        """The references as one list for each prediction; a ValueError as `add_batch` has it."""
        references = [[]] * len(predictions) if references is None else references
        if isinstance(predictions, str) or isinstance(references, str):
            raise ValueError("`predictions` and `references` are lists, of a text or of a list of texts for each row")
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
                raise ValueError(f"`references[{row}]` is {texts}: give it a text, or leave the row out")
        return references

    def statistics(self, predictions: Sequence[str], references: list[list[str]]) -> np.ndarray:
        """What each row contributes to the scores, (N, k)."""
        raise NotImplementedError

    def scores(self, statistics: np.ndarray, weights: np.ndarray) -> dict[str, float]:
        """Scores of rows that count `weights` times each, (N,); ones give the scores of the corpus."""
        return weighted_means(self.score_names, statistics, weights)

    def row_scores(self, predictions: Sequence[str], references: Sequence | None = None) -> list[dict[str, float]]:
        """The scores of each row by itself, for a predictions file."""
        statistics = self.statistics(predictions, self.checked(predictions, references))
        return [dict(zip(self.score_names, row, strict=False)) for row in statistics.tolist()]

    def details(self, predictions: Sequence[str], statistics: np.ndarray) -> dict[str, float | str]:
        """What is reported with the scores but not resampled, such as signatures and counts."""
        return {}

    def _compute(self, predictions: list[str], references: list[list[str]]) -> dict[str, float | str]:
        """The scores, 95 % percentile bootstrap intervals as `<name>_ci95_low` and `<name>_ci95_high`, the details."""
        statistics = self.statistics(predictions, references)
        return with_interval(self.scores, statistics) | self.details(predictions, statistics)


Scores = Callable[[np.ndarray, np.ndarray], dict[str, float]]  # of statistics and weights, as `TaskMetric.scores`


def with_interval(scores: Scores, statistics: np.ndarray) -> dict[str, float]:
    """The scores of all rows, each with its 95 % interval."""
    results = {name: float(score) for name, score in scores(statistics, np.ones(len(statistics))).items()}
    (samples,) = bootstrap(scores, [statistics], RESAMPLES, SEED)
    for name in list(results):
        results |= interval(name, samples[name])
    return results


def weighted_means(names: Sequence[str], statistics: np.ndarray, weights: np.ndarray) -> dict[str, float]:
    """Means of the first columns; NaN where no row counts, as in a resample without any row of a rare part."""
    total = weights.sum()
    sums = weights @ statistics[:, : len(names)]
    return dict(zip(names, (sums / total).tolist() if total else [np.nan] * len(names), strict=True))


def bootstrap(scores: Scores, systems: list[np.ndarray], resamples: int, seed: int) -> list[dict[str, np.ndarray]]:
    """Scores of each system, (resamples,) a name; one draw of rows serves all the systems."""
    draw = np.random.default_rng(seed)
    num_rows = len(systems[0])
    samples = [[] for _ in systems]
    for _ in range(resamples):
        weights = np.bincount(draw.integers(num_rows, size=num_rows), minlength=num_rows)
        for of_system, statistics in zip(samples, systems, strict=True):
            of_system.append(scores(statistics, weights))
    return [{name: np.array([row[name] for row in of_system]) for name in of_system[0]} for of_system in samples]


def interval(name: str, samples: np.ndarray) -> dict[str, float]:
    """The 95 % percentile interval of `samples`."""
    low, high = np.nanpercentile(samples, [2.5, 97.5]).tolist()
    return {f"{name}_ci95_low": low, f"{name}_ci95_high": high}


def paired_bootstrap(
    metric: TaskMetric,
    predictions: Sequence[str],
    baseline_predictions: Sequence[str],
    references: Sequence | None = None,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> dict[str, float]:
    """Whether a system differs from a baseline by more than the choice of rows explains.

    The p-value is that of `sacrebleu --paired-bs` (sacrebleu/significance.py, after Moses'
    bootstrap-hypothesis-difference-significance.pl and Koehn 2004): the share of resamples in which the absolute
    difference exceeds its own mean by more than the observed absolute difference, with one added to both counts.
    Except for systems that never differ: theirs is 1, where sacreBLEU's is the smallest possible.

    Returns:
        For every score `<name>_difference` (system - baseline), its interval and `<name>_p_value`.

    Example:
        >>> from hf_llm.metrics.classification import Classification
        >>> paired_bootstrap(Classification(), ["a", "b"], ["a", "b"], ["a", "a"])["accuracy_p_value"]
        1.0
    """
    systems = [metric.statistics(p, metric.checked(p, references)) for p in (predictions, baseline_predictions)]
    return paired_differences(metric.scores, systems, resamples, seed)


def paired_differences(
    scores: Scores, systems: list[np.ndarray], resamples: int = RESAMPLES, seed: int = SEED
) -> dict[str, float]:
    """`paired_bootstrap` of the statistics of a system and of its baseline."""
    score, baseline = (scores(statistics, np.ones(len(statistics))) for statistics in systems)
    samples, baseline_samples = bootstrap(scores, systems, resamples, seed)
    results = {}
    for name in score:
        difference = score[name] - baseline[name]
        differences = samples[name] - baseline_samples[name]
        sizes = np.abs(differences)
        exceeding = np.sum(sizes - np.nanmean(sizes) > abs(difference)).item()
        results |= {f"{name}_difference": difference} | interval(f"{name}_difference", differences)
        results[f"{name}_p_value"] = (exceeding + 1) / (resamples + 1) if np.nanmax(sizes) else 1.0
    return results
