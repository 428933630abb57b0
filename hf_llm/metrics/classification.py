"""Scores of labels, one or several a row, which may be any text: accuracy, F1 and others; share of stereotypes."""

from collections.abc import Sequence

import numpy as np

from hf_llm.metrics.base import TaskMetric

LABEL_SEPARATOR = ", "  # between the labels of one row


class Accuracy(TaskMetric):
    """Share of predictions that are one of the references, 0 to 1."""

    score_names = ("accuracy",)

    def statistics(self, predictions: Sequence[str], references: list[list[str]]) -> np.ndarray:
        """1 where the prediction is a reference, (N, 1)."""
        return np.array([[guess in texts] for guess, texts in zip(predictions, references, strict=True)], float)


class StereotypeShare(Accuracy):
    """Share of pairs in which the prediction is the reference, the stereotype, 0 to 1; 0.5 is no preference."""

    score_names = ("stereotype_share",)


class Classification(TaskMetric):
    """Accuracy, macro-F1 (0 to 1) and Matthews correlation (-1 to 1) of labels, which are compared without changes.

    As in scikit-learn, macro-F1 is the mean over all labels that occur, including those that are only predicted, so a
    text that is not a label lowers it more than a wrong label does. A label that a resample lacks counts with its F1
    over all rows: without it, the interval would lie above the score if many labels are rare.

    A prediction is correct if it is any of several gold labels; if it is none, the first one counts as the gold label.

    Args:
        positive: a label whose F1 is reported as `f1` too, usually the second of two.

    Example:
        >>> Classification().compute(predictions=["cat", "dog"], references=["cat", "cat"])["accuracy"]
        0.5
    """

    score_names = ("accuracy",)

    def __init__(self, positive: str | None = None):
        super().__init__()
        self.positive = positive

    def statistics(self, predictions: Sequence[str], references: list[list[str]]) -> np.ndarray:
        """(N, 3): 1 if the prediction is correct, index of the gold label, index of the predicted label.

        The positive label has the index 0 where it occurs, and other labels have larger ones.
        """
        pairs = zip(predictions, references, strict=True)
        gold = [prediction if prediction in labels else labels[0] for prediction, labels in pairs]
        others = sorted({*gold, *predictions} - {self.positive})
        index = {label: number for number, label in enumerate([self.positive, *others])}
        pairs = zip(gold, predictions, strict=True)
        return np.array([[label == guess, index[label], index[guess]] for label, guess in pairs], dtype=int)

    def scores(self, statistics: np.ndarray, weights: np.ndarray) -> dict[str, float]:
        """Compute the scores from the diagonal and the margins of the confusion matrix, which itself may be large."""
        correct, gold, predicted = statistics.T
        size, total = statistics[:, 1:].max() + 1, weights.sum()
        margin, guesses = np.bincount(gold, weights, size), np.bincount(predicted, weights, size)
        hits = np.bincount(gold, weights * correct, size)
        occurrences = np.bincount(gold, minlength=size) + np.bincount(predicted, minlength=size)
        f1_over_all_rows = 2 * np.bincount(gold, correct, size) / np.maximum(occurrences, 1)
        f1 = np.divide(2 * hits, margin + guesses, out=f1_over_all_rows, where=margin + guesses > 0)
        spread = (total**2 - margin @ margin) * (total**2 - guesses @ guesses)
        covariance = hits.sum() * total - margin @ guesses
        positive = {} if self.positive is None else {"f1": float(f1[0])}
        return {
            "accuracy": float(hits.sum() / total),
            "macro_f1": float(f1[occurrences > 0].mean()),
            **positive,
            "matthews_correlation": float(covariance / np.sqrt(spread)) if spread else 0.0,
        }

    def details(self, predictions: Sequence[str], statistics: np.ndarray) -> dict[str, float | str]:
        """The label whose F1 is `f1`."""
        return {} if self.positive is None else {"f1_label": self.positive}


class MultiLabel(TaskMetric):
    """Scores of rows with several labels, 0 to 1: exact match, micro-F1 and macro-F1, as in scikit-learn.

    A text holds the labels of a row, joined by `LABEL_SEPARATOR`, in any order. Macro-F1 treats rare labels as that of
    `Classification` does; micro-F1 counts the labels of all rows together.

    Example:
        >>> MultiLabel().compute(predictions=["joy, love", "joy"], references=["love, joy", "anger"])["micro_f1"]
        0.6666666666666666
    """

    score_names = ("exact_match",)

    def statistics(self, predictions: Sequence[str], references: list[list[str]]) -> np.ndarray:
        """(N, 1 + 2L): 1 if all labels are right; for each of L labels whether it is right, and how often it occurs.

        A label occurs twice in a row if it is both predicted and a gold label.
        """
        guesses, gold = map(split_labels, predictions), (split_labels(texts[0]) for texts in references)
        pairs = [({*guess}, {*labels}) for guess, labels in zip(guesses, gold, strict=True)]
        names = sorted(set().union(*(guess | labels for guess, labels in pairs)))
        return np.array(
            [
                [guess == labels, *(name in guess & labels for name in names)]
                + [(name in guess) + (name in labels) for name in names]
                for guess, labels in pairs
            ],
            float,
        )

    def scores(self, statistics: np.ndarray, weights: np.ndarray) -> dict[str, float]:
        """Compute the scores."""
        hits, occurrences = np.split((weights @ statistics)[1:], 2)
        all_hits, all_occurrences = np.split(statistics.sum(0)[1:], 2)
        f1 = np.divide(2 * hits, occurrences, out=2 * all_hits / all_occurrences, where=occurrences > 0)
        return {
            "exact_match": float(weights @ statistics[:, 0] / weights.sum()),
            "micro_f1": float(2 * hits.sum() / occurrences.sum()),
            "macro_f1": float(f1.mean()),
        }


def split_labels(text: str) -> list[str]:
    """Split the labels of a row.

    Example:
        >>> split_labels("joy, love")
        ['joy', 'love']
    """
    return [label for label in text.split(LABEL_SEPARATOR) if label]
