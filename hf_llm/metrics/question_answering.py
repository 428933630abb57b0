"""Exact match and F1 of extracted answers, each language and version by the definition that published figures follow.

- English, 1.1: evaluate-v1.1.py of SQuAD (Rajpurkar et al. 2016). Other languages too, as XQuAD is scored.
- English, 2.0: evaluate-v2.0.py of SQuAD 2.0 (Rajpurkar et al. 2018), without its no-answer probabilities.
- Chinese: cmrc2018_evaluate.py of CMRC 2018 (Cui et al. 2019). Its Latin runs go through NLTK's word tokenizer, here
  without the sentence splitter that needs a download. Japanese the same way, with kana as characters.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence
from difflib import SequenceMatcher

import numpy as np
from nltk.tokenize import NLTKWordTokenizer

from hf_llm.metrics.base import TaskMetric, weighted_means
from hf_llm.metrics.segmentation import language_code

ASCII_PUNCTUATION = str.maketrans("", "", string.punctuation)
ARTICLES = re.compile(r"\b(a|an|the)\b")
# The script's list, with the ASCII marks that it keeps; its two-character ellipsis never equals a character.
CMRC_PUNCTUATION = str.maketrans("", "", r"-:_*^/\~`+=，。：？！“”；’《》·、「」（）－～『』")  # noqa: RUF001
CHARACTERS = {"zh": "\u4e00-\u9fa5", "ja": "\u3040-\u30ff\u3400-\u9fff"}


def squad_words(text: str) -> list[str]:
    """Lower case, then no ASCII punctuation, then no articles, then words between white space: in this order.

    Example:
        >>> squad_words("The U.S. Army's  an-swer")
        ['us', 'armys', 'answer']
    """
    return ARTICLES.sub(" ", text.lower().translate(ASCII_PUNCTUATION)).split()


def cmrc_text(text: str) -> str:
    """Lower case without the punctuation marks of CMRC's list."""
    return text.lower().strip().translate(CMRC_PUNCTUATION)


def cmrc_segments(text: str, characters: str) -> list[str]:
    """Each character of the range by itself, what lies between cut into words.

    Example:
        >>> cmrc_segments("《白鹿原》出版于1993年 Xi'an.", CHARACTERS["zh"])
        ['白', '鹿', '原', '出', '版', '于', '1993', '年', "xi'an", '.']
    """
    segments = []
    for run in re.findall(f"[{characters}]|[^{characters}]+", cmrc_text(text)):
        segments += [run] if re.match(f"[{characters}]", run) else NLTKWordTokenizer().tokenize(run)
    return segments


def common_words(first: list[str], second: list[str]) -> int:
    """Size of the intersection of the two bags."""
    return (Counter(first) & Counter(second)).total()


def longest_common_run(first: list[str], second: list[str]) -> int:
    """Length of the longest run of tokens that is in both."""
    return SequenceMatcher(None, first, second, autojunk=False).find_longest_match().size


class QuestionAnswering(TaskMetric):
    """Exact match and F1, in percent, of the best reference of a row.

    Version 1.1 has `exact_match` and `f1`. Version 2.0 has `exact` and `f1`, the same of the rows with an answer
    (`HasAns_exact`, `HasAns_f1`) and without (`NoAns_exact`, `NoAns_f1`), and the counts `total`, `HasAns_total`,
    `NoAns_total`: no references, or "", say that there is no answer, and the prediction "" says so too.

    Args:
        version: "1.1", or "2.0" where questions may have no answer.
        language: "zh" and "ja" have the definition of CMRC 2018.

    Example:
        >>> QuestionAnswering().compute(predictions=["the red cat"], references=[["Red cat.", "cat"]])["exact_match"]
        100.0
    """

    def __init__(self, version: str = "1.1", language: str = "en"):
        super().__init__()
        if version not in ("1.1", "2.0"):
            raise ValueError(f"`version` {version!r}: give '1.1', or '2.0' where questions may have no answer")
        self.version, self.needs_references = version, version == "1.1"
        self.score_names = ("exact_match" if version == "1.1" else "exact", "f1")
        characters = CHARACTERS.get(language_code(language))
        self.normalize = cmrc_text if characters else squad_words
        self.tokenize = (lambda text: cmrc_segments(text, characters)) if characters else squad_words
        self.overlap = longest_common_run if characters else common_words

    def pair_scores(self, prediction: str, reference: str) -> tuple[float, float]:
        """Exact match and F1, 0 to 100, of one reference."""
        exact = self.normalize(prediction) == self.normalize(reference)
        tokens, gold = self.tokenize(prediction), self.tokenize(reference)
        if not tokens and not gold:  # nothing in common, says 1.1; "no answer" and right, says 2.0
            return 100.0 * exact, 0.0 if self.version == "1.1" else 100.0
        return 100.0 * exact, 200 * self.overlap(tokens, gold) / (len(tokens) + len(gold))

    def statistics(self, predictions: Sequence[str], references: list[list[str]]) -> np.ndarray:
        """(N, 3): exact match, F1, whether the question has an answer."""
        rows = []
        for prediction, texts in zip(predictions, references, strict=True):
            gold = texts if self.version == "1.1" else [text for text in texts if self.normalize(text)] or [""]
            pairs = [self.pair_scores(prediction, text) for text in gold]
            rows.append([*map(max, zip(*pairs, strict=True)), any(texts)])  # each at its own best reference
        return np.array(rows, dtype=float)

    def parts(self, statistics: np.ndarray) -> dict[str, np.ndarray]:
        """Which rows are in each part of 2.0 that has any, (N,) of 0 and 1."""
        parts = {"HasAns": statistics[:, 2], "NoAns": 1 - statistics[:, 2]}
        return {part: rows for part, rows in parts.items() if rows.any() and self.version == "2.0"}

    def scores(self, statistics: np.ndarray, weights: np.ndarray) -> dict[str, float]:
        """Means over all rows, then over each part."""
        scores = super().scores(statistics, weights)
        for part, rows in self.parts(statistics).items():
            scores |= weighted_means([f"{part}_{name}" for name in self.score_names], statistics, weights * rows)
        return scores

    def details(self, predictions: Sequence[str], statistics: np.ndarray) -> dict[str, float | str]:
        """The number of rows of each part, and of all."""
        totals = {f"{part}_total": int(rows.sum()) for part, rows in self.parts(statistics).items()}
        return totals | {"total": len(statistics)} if totals else {}
