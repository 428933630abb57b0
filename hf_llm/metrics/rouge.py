"""ROUGE by `rouge_score`, with a tokenizer for other languages than English: its own drops letters beyond ASCII."""

from collections.abc import Sequence
from functools import lru_cache, partial
from types import SimpleNamespace
from typing import Any

import numpy as np
from nltk.stem.porter import PorterStemmer
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenize import tokenize as ascii_words

from hf_llm.metrics.base import TaskMetric
from hf_llm.metrics.language_codes import language_code
from hf_llm.metrics.segmentation import segment_words


class Rouge(TaskMetric):
    """F-measures of ROUGE-1, ROUGE-2 and ROUGE-L, 0 to 1, each for the best reference of a row.

    ROUGE-Lsum is not among them: it needs sentences, which rouge_score splits by a model of NLTK that is downloaded.

    Args:
        use_stemmer: compare Porter stems, for English only; scores with and without stems are not comparable.
        language: "en" uses rouge_score's tokenizer; other languages use words of any script, or characters if the
            script has no spaces.
        tokenizer: an object with `tokenize(text) -> list[str]`, used instead.

    Raises:
        ValueError: stems are asked for together with another language or a tokenizer.

    Example:
        >>> Rouge().compute(predictions=["a cat sat"], references=[["the cat sat", "a dog"]])["rouge1"]
        0.6666666666666666
    """

    score_names = ("rouge1", "rouge2", "rougeL")

    def __init__(self, use_stemmer: bool = False, language: str = "en", tokenizer: Any = None):
        super().__init__()
        english = language_code(language) == "en"
        if use_stemmer and (tokenizer or not english):
            raise ValueError(f"`use_stemmer` stems English only: leave it out with {tokenizer or language!r}")
        # Without the caches most of the time is spent on stems of the same words, and on tokenizing predictions: the
        # scorer tokenizes a prediction twice for each reference.
        stemmer = SimpleNamespace(stem=lru_cache(maxsize=None)(PorterStemmer().stem)) if use_stemmer else None
        tokenize = partial(ascii_words, stemmer=stemmer) if english else segment_words
        self.drops_letters = english and tokenizer is None
        self.tokenize = lru_cache(maxsize=64)(tokenizer.tokenize if tokenizer else tokenize)
        self.scorer = RougeScorer(self.score_names, tokenizer=SimpleNamespace(tokenize=self.tokenize))

    def statistics(self, predictions: Sequence[str], references: list[list[str]]) -> np.ndarray:
        """Compute the F-measures of each row, (N, 3).

        Raises:
            ValueError: most letters of the references are not Latin, and the tokenizer drops all others.
        """
        letters = [letter.isascii() for texts in references for text in texts for letter in text if letter.isalpha()]
        if self.drops_letters and sum(letters) < len(letters) / 2:
            raise ValueError(
                "most letters of `references` are not Latin, and ROUGE of English drops all others: give their "
                "language, e.g. 'zh' or 'th' (as `language=th` in `--task_options`)"
            )
        rows = []
        for prediction, texts in zip(predictions, references, strict=True):
            scores = self.scorer.score_multi(texts, prediction)
            rows.append([scores[name].fmeasure for name in self.score_names])
        return np.array(rows, dtype=float)
