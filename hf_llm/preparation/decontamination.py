"""Training text that an evaluation holds too: found by n-grams of words, whatever case, punctuation and spacing."""

import unicodedata
from collections.abc import Iterable

import numpy as np

from hf_llm.metrics.segmentation import WORD_PATTERN
from hf_llm.preparation.hashing import mix


class Decontaminator:
    """Knows the n-grams of texts that are evaluated, and finds them in others.

    Args:
        texts: of the evaluation; those of fewer words than `ngram` cannot be found, `too_short` of them.
        ngram: words in a row that are taken for no chance; Brown et al. 2020, arXiv 2005.14165, appendix C, have 13.

    Example:
        >>> found = Decontaminator(["one two three four"], ngram=3)
        >>> found.cut("Zero. One, TWO three; five.")
        'Zero. ; five.'
    """

    def __init__(self, texts: Iterable[str], ngram: int):
        self.ngram, self.numbers, self.too_short = ngram, {}, 0
        hashes = []
        for text in texts:
            found = [self.numbers.setdefault(word, len(self.numbers) + 1) for word, *_ in words_at(text)]
            self.too_short += len(found) < ngram
            hashes.append(self.hashes(found))
        self.known = np.unique(np.concatenate(hashes)) if hashes else np.empty(0, np.uint64)

    def hashes(self, numbers: list[int]) -> np.ndarray:
        """One of 64 bits for each n-gram of numbered words, (N - ngram + 1,)."""
        windows = max(len(numbers) - self.ngram + 1, 0)
        words, found = np.array(numbers, np.uint64), np.zeros(windows, np.uint64)
        for step in range(self.ngram):
            found = mix(found, words[step : step + windows])
        return found

    def matches(self, text: str) -> np.ndarray:
        """Places of the n-grams that the evaluation has too, counted in words."""
        numbers = [self.numbers.get(word, 0) for word, *_ in words_at(text)]
        if len(numbers) - numbers.count(0) < self.ngram:
            return np.empty(0, np.int64)
        found = self.hashes(numbers)
        places = np.searchsorted(self.known, found).clip(max=len(self.known) - 1)
        return np.flatnonzero(self.known[places] == found) if len(self.known) else np.empty(0, np.int64)

    def cut(self, text: str) -> str:
        """The text without the words of its matches, and what stands between them."""
        words, kept, end = words_at(text), [], 0
        for start, stop in runs(self.matches(text), self.ngram):
            kept.append(text[end : words[start][1]])
            end = words[stop - 1][2]
            if kept[-1][-1:] in (" ", "") and text[end : end + 1] == " ":
                end += 1  # one space parts what stands on both sides
        return "".join([*kept, text[end:]])


def words_at(text: str) -> list[tuple[str, int, int]]:
    """Words in one form (NFKC, lower case), and where each begins and ends in the text as it is."""
    return [(unicodedata.normalize("NFKC", match[0]).lower(), *match.span()) for match in WORD_PATTERN.finditer(text)]


def runs(places: np.ndarray, length: int) -> list[tuple[int, int]]:
    """Windows of `length` that begin at `places`, those that touch each other joined: `(start, stop)` in words."""
    found: list[tuple[int, int]] = []
    for place in places.tolist():
        if found and place <= found[-1][1]:
            found[-1] = (found[-1][0], place + length)
        else:
            found.append((place, place + length))
    return found
