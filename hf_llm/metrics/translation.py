"""BLEU, chrF and TER by sacreBLEU, each with the signature without which its figure cannot be compared."""

from collections.abc import Sequence
from copy import copy
from itertools import zip_longest

import numpy as np
from sacrebleu.metrics import BLEU, CHRF, TER

from hf_llm.metrics.base import TaskMetric
from hf_llm.metrics.segmentation import WITHOUT_SPACES, language_code

ENDS = [10, 28]  # of the columns of BLEU and of chrF
ROWS_AT_A_TIME = 200  # sacreBLEU keeps all n-grams of all references it is given, 20 kB a row
TOKENIZERS = dict.fromkeys(WITHOUT_SPACES, "char") | {"zh": "zh", "ja": "ja-mecab", "ko": "ko-mecab"}


class Translation(TaskMetric):
    """Corpus BLEU and chrF, in percent, as the `sacrebleu` command prints them; TER where asked for.

    Args:
        target_language: chooses BLEU's tokenizer: zh, ja-mecab, ko-mecab, char for other languages without spaces,
            13a for the rest.
        ter: TER too. Translations with another word order take it a minute for 400 rows.

    Raises:
        ValueError: the language's tokenizer is not installed.

    Example:
        >>> Translation("de").compute(predictions=["Guten Tag!"], references=[["Guten Tag!"]])["chrf"]
        100.0
    """

    # The statistics of each row are added up and scored by the methods through which sacreBLEU's own bootstrap goes;
    # its public ones would tokenize every resample again.

    def __init__(self, target_language: str, ter: bool = False):
        super().__init__()
        language = language_code(target_language)
        try:
            bleu = BLEU(tokenize=TOKENIZERS.get(language, "13a"))
        except RuntimeError:
            remedy = f"pip install 'sacrebleu[{language}]'"
            raise ValueError(f"`target_language` {target_language!r} is tokenized by MeCab: {remedy}") from None
        self.metrics = {"bleu": bleu, "chrf": CHRF()} | ({"ter": TER()} if ter else {})

    def statistics(self, predictions: Sequence[str], references: list[list[str]]) -> np.ndarray:
        """Counts that add up to the corpus scores: (N, 10) of BLEU, (N, 18) of chrF, (N, 2) of TER, side by side."""
        parts = []
        for start in range(0, len(predictions), ROWS_AT_A_TIME):
            part = slice(start, start + ROWS_AT_A_TIME)
            streams = list(zip_longest(*references[part]))  # None where a row has fewer references
            extracted = [m._extract_corpus_statistics(predictions[part], streams) for m in self.metrics.values()]
            parts.append(np.hstack([np.array(rows, dtype=float) for rows in extracted]))
        of_rows = {len(texts) for texts in references}
        for metric in self.metrics.values():
            metric.num_refs = min(of_rows) if len(of_rows) == 1 else -1  # in the signature; of all parts
        return np.vstack(parts)

    def scores(self, statistics: np.ndarray, weights: np.ndarray) -> dict[str, float]:
        """Scores of the summed counts."""
        sums = zip(self.metrics.items(), np.split(weights @ statistics, ENDS), strict=False)
        return {name: metric._compute_score_from_stats(counts.tolist()).score for (name, metric), counts in sums}

    def row_scores(self, predictions: Sequence[str], references: Sequence | None = None) -> list[dict[str, float]]:
        """Sentence scores; BLEU with effective order, or a short sentence without 4-grams would have 0."""
        statistics = self.statistics(predictions, self.checked(predictions, references))
        sentence = copy(self)
        sentence.metrics = self.metrics | {"bleu": copy(self.metrics["bleu"])}
        sentence.metrics["bleu"].effective_order = True
        return [sentence.scores(row[None], np.ones(1)) for row in statistics]

    def details(self, predictions: Sequence[str], statistics: np.ndarray) -> dict[str, float | str]:
        """`bleu_signature` and so on."""
        return {f"{name}_signature": str(metric.get_signature()) for name, metric in self.metrics.items()}
