"""Scores of generated labels, which may be no label at all: accuracy, macro-F1, Matthews correlation."""

from collections.abc import Sequence

import numpy as np

from hf_llm.metrics.base import TaskMetric


class StereotypeShare(TaskMetric):
    """Share of pairs of which the prediction is the reference, the stereotype, 0 to 1: 0.5 is no preference."""

    score_names = ("stereotype_share",)

    def statistics(self, predictions: Sequence[str], references: list[list[str]]) -> np.ndarray:
        """Whether each is, (N, 1)."""
        return np.array([[guess in texts] for guess, texts in zip(predictions, references, strict=True)], float)


class Classification(TaskMetric):
    """Accuracy, macro-F1 (0 to 1) and Matthews correlation (-1 to 1) of labels that are compared as they stand.

    As in scikit-learn every label that occurs counts in macro-F1, also one that is only predicted: free text where a
    label should be lowers it more than any wrong label. In the interval, a label that a resample lacks counts with its
    F1 over all rows: left out, it would push the interval above the score where many labels are rare.

    A row with several gold labels is right with any of them, and else counts as its first.

    Example:
        >>> Classification().compute(predictions=["cat", "dog"], references=["cat", "cat"])["accuracy"]
        0.5
    """

    score_names = ("accuracy",)

    def statistics(self, predictions: Sequence[str], references: list[list[str]]) -> np.ndarray:
        """(N, 3): whether the row is right, indices of its gold and of its predicted label."""
        pairs = zip(predictions, references, strict=True)
        gold = [prediction if prediction in labels else labels[0] for prediction, labels in pairs]
        index = {label: place for place, label in enumerate(sorted({*gold, *predictions}))}
        pairs = zip(gold, predictions, strict=True)
        return np.array([[label == guess, index[label], index[guess]] for label, guess in pairs], dtype=int)

    def scores(self, statistics: np.ndarray, weights: np.ndarray) -> dict[str, float]:
        """From the diagonal and the margins of the confusion matrix: all of it may be thousands of labels squared."""
        right, gold, predicted = statistics.T
        size, total = statistics[:, 1:].max() + 1, weights.sum()
        margin, guesses = np.bincount(gold, weights, size), np.bincount(predicted, weights, size)
        hits = np.bincount(gold, weights * right, size)
        occurrences = np.bincount(gold, minlength=size) + np.bincount(predicted, minlength=size)
        f1_of_all = 2 * np.bincount(gold, right, size) / occurrences
        f1 = np.divide(2 * hits, margin + guesses, out=f1_of_all, where=margin + guesses > 0)
        spread = (total**2 - margin @ margin) * (total**2 - guesses @ guesses)
        covariance = hits.sum() * total - margin @ guesses
        return {
            "accuracy": float(hits.sum() / total),
            "macro_f1": float(f1.mean()),
            "matthews_correlation": float(covariance / np.sqrt(spread)) if spread else 0.0,
        }
