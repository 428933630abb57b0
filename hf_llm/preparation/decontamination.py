"""Find training text that is also in an evaluation, by word n-grams, whatever its case, punctuation and spacing."""

from collections.abc import Iterable

import numpy as np

from hf_llm.metrics.segmentation import WORD_PATTERN
from hf_llm.preparation.cleaning import normalize_unicode
from hf_llm.preparation.hashing import mix


class Decontaminator:
    """The word n-grams of an evaluation's texts, to be found in other texts.

    Args:
        texts: the texts of the evaluation. Those with fewer than `ngram` words have no n-gram and cannot be found;
            `too_short` counts them.
        ngram: words of an n-gram; Brown et al. 2020, arXiv 2005.14165, appendix C, use 13.

    Example:
        >>> decontaminator = Decontaminator(["one two three four"], ngram=3)
        >>> decontaminator.remove_matches("Zero. One, TWO three; five.")
        'Zero. ; five.'
    """

    def __init__(self, texts: Iterable[str], ngram: int):
        self.ngram, self.word_ids, self.too_short = ngram, {}, 0
        hashes = []
        for text in texts:
            ids = [self.word_ids.setdefault(word, len(self.word_ids) + 1) for word, *_ in normalized_words(text)]
            self.too_short += len(ids) < ngram
            hashes.append(self.hash_ngrams(ids))
        self.known = np.unique(np.concatenate(hashes)) if hashes else np.empty(0, np.uint64)

    def hash_ngrams(self, word_ids: list[int]) -> np.ndarray:
        """Hash each n-gram of N words, (max(N - ngram + 1, 0),) uint64."""
        count = max(len(word_ids) - self.ngram + 1, 0)
        words, hashes = np.array(word_ids, np.uint64), np.zeros(count, np.uint64)
        for offset in range(self.ngram):
            hashes = mix(hashes, words[offset : offset + count])
        return hashes

    def matches(self, text: str) -> np.ndarray:
        """Find the n-grams that the evaluation contains too: the index of each one's first word, (M,) int64."""
        ids = [self.word_ids.get(word, 0) for word, *_ in normalized_words(text)]
        if len(ids) - ids.count(0) < self.ngram:
            return np.empty(0, np.int64)
        hashes = self.hash_ngrams(ids)
        nearest = np.searchsorted(self.known, hashes).clip(max=len(self.known) - 1)
        return np.flatnonzero(self.known[nearest] == hashes) if len(self.known) else np.empty(0, np.int64)

    def remove_matches(self, text: str) -> str:
        """Remove the words of all matches, and what is between them, from the text."""
        words, kept, end = normalized_words(text), [], 0
        for first, stop in merge_windows(self.matches(text), self.ngram):
            kept.append(text[end : words[first][1]])
            end = words[stop - 1][2]
            if kept[-1][-1:] in (" ", "") and text[end : end + 1] == " ":
                end += 1  # of the spaces before and after the match, keep one
        return "".join([*kept, text[end:]])


def normalized_words(text: str) -> list[tuple[str, int, int]]:
    """Split a text into words in one form (NFKC, lower case), each with its start and end in the original text."""
    return [(normalize_unicode("NFKC", match[0]).lower(), *match.span()) for match in WORD_PATTERN.finditer(text)]


def merge_windows(starts: np.ndarray, length: int) -> list[tuple[int, int]]:
    """Merge windows of `length` words that overlap or touch into `(start, end)`, the end exclusive.

    Example:
        >>> merge_windows(np.array([0, 1, 2, 9, 12]), 3)
        [(0, 5), (9, 15)]
    """
    merged: list[tuple[int, int]] = []
    for start in starts.tolist():
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], start + length)
        else:
            merged.append((start, start + length))
    return merged
