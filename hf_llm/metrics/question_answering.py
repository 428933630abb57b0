"""Exact match and F1 of extracted answers, by the definitions of the published evaluation scripts.

- English, 1.1: evaluate-v1.1.py of SQuAD (Rajpurkar et al. 2016). Also used for other languages, as in XQuAD.
- English, 2.0: evaluate-v2.0.py of SQuAD 2.0 (Rajpurkar et al. 2018), without its no-answer probabilities.
- Chinese: cmrc2018_evaluate.py of CMRC 2018 (Cui et al. 2019). Runs of Latin text are split by NLTK's word tokenizer,
  here without the sentence splitter, which needs a download. Japanese is treated the same, with kana as characters.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence
from difflib import SequenceMatcher

import numpy as np
from nltk.tokenize import NLTKWordTokenizer

from hf_llm.metrics.base import TaskMetric, weighted_means
from hf_llm.metrics.language_codes import likely_script, parse_language

ASCII_PUNCTUATION = str.maketrans("", "", string.punctuation)
ARTICLES = re.compile(r"\b(a|an|the)\b")
# The list of the script. Its ellipsis is missing here: it has two characters and never matches one in the script.
CMRC_PUNCTUATION = str.maketrans("", "", r"-:_*^/\~`+=，。：？！“”；’《》·、「」（）－～『』")  # noqa: RUF001
CHARACTERS = {"Hans": "\u4e00-\u9fa5", "Hant": "\u4e00-\u9fa5", "Jpan": "\u3040-\u30ff\u3400-\u9fff"}  # by script


def squad_words(text: str) -> list[str]:
    """Convert to lower case, remove ASCII punctuation, remove articles, split at white space, in this order.

    Example:
        >>> squad_words("The U.S. Army's  an-swer")
        ['us', 'armys', 'answer']
    """
    return ARTICLES.sub(" ", text.lower().translate(ASCII_PUNCTUATION)).split()


def cmrc_text(text: str) -> str:
    """Convert to lower case and remove the punctuation marks in CMRC's list."""
    return text.lower().strip().translate(CMRC_PUNCTUATION)


def cmrc_segments(text: str, characters: str) -> list[str]:
    """Split into single characters of a range, and the text between them into words.

    Args:
        characters: a range for a regular expression, e.g. `CHARACTERS["Hans"]`.

    Example:
        >>> cmrc_segments("《白鹿原》出版于1993年 Xi'an.", CHARACTERS["Hans"])
        ['白', '鹿', '原', '出', '版', '于', '1993', '年', "xi'an", '.']
    """
    segments = []
    for run in re.findall(f"[{characters}]|[^{characters}]+", cmrc_text(text)):
        segments += [run] if re.match(f"[{characters}]", run) else NLTKWordTokenizer().tokenize(run)
    return segments


def common_words(first: list[str], second: list[str]) -> int:
    """Count the words that two lists have in common, repetitions included."""
    return (Counter(first) & Counter(second)).total()


def longest_common_run(first: list[str], second: list[str]) -> int:
    """Length of the longest run of consecutive tokens that is in both lists."""
    return SequenceMatcher(None, first, second, autojunk=False).find_longest_match().size


class QuestionAnswering(TaskMetric):
    """Exact match and F1 in percent, each for the best reference of a row.

    Version 1.1 has `exact_match` and `f1`. Version 2.0 has `exact` and `f1`, the same over the rows with an answer
    (`HasAns_exact`, `HasAns_f1`) and without (`NoAns_exact`, `NoAns_f1`), and the counts `total`, `HasAns_total` and
    `NoAns_total`. No references, or "", mean that there is no answer, and so does the prediction "".

    Args:
        version: "1.1", or "2.0" if questions may have no answer.
        language: for Chinese and Japanese the definition of CMRC 2018 is used.

    Example:
        >>> QuestionAnswering().compute(predictions=["the red cat"], references=[["Red cat.", "cat"]])["exact_match"]
        100.0
    """

    def __init__(self, version: str = "1.1", language: str = "en"):
        super().__init__()
        if version not in ("1.1", "2.0"):
            raise ValueError(f"`version` {version!r}: give '1.1', or '2.0' if questions may have no answer")
        self.version, self.needs_references = version, version == "1.1"
        self.score_names = ("exact_match" if version == "1.1" else "exact", "f1")
        characters = CHARACTERS.get(likely_script(parse_language(language)))
        self.normalize = cmrc_text if characters else squad_words
        self.tokenize = (lambda text: cmrc_segments(text, characters)) if characters else squad_words
        self.overlap = longest_common_run if characters else common_words

    def pair_scores(self, prediction: str, reference: str) -> tuple[float, float]:
        """Compute exact match and F1, 0 to 100, for one reference."""
        exact = self.normalize(prediction) == self.normalize(reference)
        tokens, gold = self.tokenize(prediction), self.tokenize(reference)
        if not tokens and not gold:  # in 1.1 no word in common; in 2.0 a correct "no answer"
            return 100.0 * exact, 0.0 if self.version == "1.1" else 100.0
        return 100.0 * exact, 200 * self.overlap(tokens, gold) / (len(tokens) + len(gold))

    def statistics(self, predictions: Sequence[str], references: list[list[str]]) -> np.ndarray:
        """(N, 3): exact match, F1, 1 if the question has an answer."""
        rows = []
        for prediction, texts in zip(predictions, references, strict=True):
            gold = texts if self.version == "1.1" else [text for text in texts if self.normalize(text)] or [""]
            pairs = [self.pair_scores(prediction, text) for text in gold]
            rows.append([*map(max, zip(*pairs, strict=True)), any(texts)])  # each score for its own best reference
        return np.array(rows, dtype=float)

    def groups(self, statistics: np.ndarray) -> dict[str, np.ndarray]:
        """The groups of version 2.0 that have any rows: for each an array (N,), 1 for the rows in it and else 0."""
        groups = {"HasAns": statistics[:, 2], "NoAns": 1 - statistics[:, 2]}
        return {group: rows for group, rows in groups.items() if rows.any() and self.version == "2.0"}

    def scores(self, statistics: np.ndarray, weights: np.ndarray) -> dict[str, float]:
        """Compute the means over all rows, then over each group."""
        scores = super().scores(statistics, weights)
        for group, rows in self.groups(statistics).items():
            scores |= weighted_means([f"{group}_{name}" for name in self.score_names], statistics, weights * rows)
        return scores

    def details(self, predictions: Sequence[str], statistics: np.ndarray) -> dict[str, float | str]:
        """The number of rows in each group, and of all rows."""
        groups = self.groups(statistics)
        totals: dict[str, float | str] = {f"{group}_total": int(rows.sum()) for group, rows in groups.items()}
        return totals | {"total": len(statistics)} if totals else {}
