"""Exact match of texts; repetition and diversity of free text, for which there is no gold answer."""

from collections.abc import Sequence

import numpy as np

from hf_llm.metrics.base import TaskMetric
from hf_llm.metrics.segmentation import segment_words_and_marks


def token_ngrams(tokens: list[str], n: int) -> list[tuple[str, ...]]:
    """Return all n-grams of a list of tokens in their order.

    Example:
        >>> token_ngrams(["a", "b", "c"], 2)
        [('a', 'b'), ('b', 'c')]
    """
    return list(zip(*(tokens[start:] for start in range(n)), strict=False))


class ExactMatch(TaskMetric):
    """Share of predictions that equal one of the references, 0 to 1, apart from white space at both ends.

    `empty_predictions` counts predictions without a text, e.g. because no answer was found in them.

    Example:
        >>> ExactMatch().compute(predictions=["7", "8"], references=["7", "9"])["exact_match"]
        0.5
    """

    score_names = ("exact_match",)

    def statistics(self, predictions: Sequence[str], references: list[list[str]]) -> np.ndarray:
        """1 where the prediction equals a reference, (N, 1)."""
        pairs = zip(predictions, references, strict=True)
        return np.array([[guess.strip() in {*map(str.strip, texts)}] for guess, texts in pairs], float)

    def details(self, predictions: Sequence[str], statistics: np.ndarray) -> dict[str, float | str]:
        """The number of empty predictions."""
        return {"empty_predictions": sum(not guess.strip() for guess in predictions)}


class FreeText(TaskMetric):
    """Repetition within texts and distinct n-grams over all texts, 0 to 1; references are ignored.

    - `repetition`: share of a text's 4-grams that repeat an earlier one, averaged over the texts: seq-rep-4 of Welleck
      et al. (2020), here over words. 0 for a text with fewer than four tokens.
    - `distinct_1`, `distinct_2`, `distinct_3`: different n-grams / all n-grams of the corpus (Li et al. 2016). They
      decrease with the number of texts. They have no interval: a resample contains rows twice, whose n-grams are
      repeated, so it always has a lower score.

    Example:
        >>> FreeText().compute(predictions=["so it goes so it goes so it goes"])["repetition"]
        0.5
    """

    score_names = ("repetition",)
    needs_references = False

    def statistics(self, predictions: Sequence[str], references: list[list[str]]) -> np.ndarray:
        """Compute the repetition of each text, (N, 1)."""
        all_grams = [token_ngrams(segment_words_and_marks(text), 4) for text in predictions]
        return np.array([[1 - len(set(grams)) / len(grams) if grams else 0.0] for grams in all_grams])

    def details(self, predictions: Sequence[str], statistics: np.ndarray) -> dict[str, float | str]:
        """The shares of distinct n-grams."""
        tokens = [segment_words_and_marks(text) for text in predictions]
        grams = {f"distinct_{n}": [gram for text in tokens for gram in token_ngrams(text, n)] for n in (1, 2, 3)}
        return {name: len(set(all_grams)) / max(len(all_grams), 1) for name, all_grams in grams.items()}
