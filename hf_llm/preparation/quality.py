"""Quality rules that were published with large corpora: the filters of Gopher, C4 and FineWeb for crawled pages.

The thresholds are those of the papers. In scripts without spaces each character counts as a word, and the rules about
the length of words are skipped; sentences end with the marks of any script.

Sources: Rae et al. 2021, arXiv 2112.11446, A1.1 and table A1 (gopher, repetition); Raffel et al. 2020, JMLR 21:140,
2.2 (c4); Penedo et al. 2024, arXiv 2406.17557, 3.6 (fineweb).
"""

from collections import Counter
from functools import cached_property

import regex

from hf_llm.metrics.segmentation import UNSPACED_SCRIPTS

# Words with their punctuation, as the papers count them; `segment_words` finds letters and digits only.
WHITESPACE_WORD = regex.compile(rf"[{UNSPACED_SCRIPTS}]\p{{M}}*|[^\s\u200b{UNSPACED_SCRIPTS}]+")
UNSPACED_CHARACTER = regex.compile(rf"[{UNSPACED_SCRIPTS}]")
# The lookbehind makes it linear: a row of marks is tried from its start only.
SENTENCE_ENDS = regex.compile(r"(?<![.!?])[.!?]++(?=[\s\"'”’)\]]|$)|[\p{Sentence_Terminal}--[.!?]]+", regex.V1)
END_MARK = regex.compile(r"[\p{Sentence_Terminal}.]")
CLOSING_MARKS = "\"'”’」』）)]"
BULLETS = ("•", "‣", "▪", "◦", "●", "○", "-", "*")
STOP_WORDS = frozenset(["the", "be", "to", "of", "and", "that", "have", "with"])
# n -> largest share of the characters
TOP_NGRAM_LIMITS = {2: 0.20, 3: 0.18, 4: 0.16}
REPEATED_NGRAM_LIMITS = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
POLICY_PHRASES = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")


class Page:
    """A text with its lines and words, each computed when the first rule needs it.

    Args:
        language: code of its language; some rules apply to English only.
    """

    def __init__(self, text: str, language: str = "en"):
        self.text, self.language = text, language

    @cached_property
    def lines(self) -> list[str]:
        """The lines that are not blank."""
        return [line for line in self.text.split("\n") if line.strip()]

    @cached_property
    def mostly_unspaced(self) -> bool:
        """Whether more than half of the characters are of scripts without spaces."""
        if self.text.isascii():
            return False
        return 2 * len(UNSPACED_CHARACTER.findall(self.text)) > len("".join(self.text.split()))

    @cached_property
    def whitespace_words(self) -> list[str]:
        """Words with their punctuation; in scripts without spaces, characters."""
        spaced = self.text.isascii() or not UNSPACED_CHARACTER.search(self.text)
        return self.text.split() if spaced else WHITESPACE_WORD.findall(self.text)


def gopher(page: Page) -> str | None:
    """Drop texts that are too short or long, have few real words or many bullets, or are English without stop words."""
    words, lines = page.whitespace_words, page.lines
    if not 50 <= len(words) <= 100_000:
        return "fewer than 50 or more than 100,000 words"
    if not (page.mostly_unspaced or 3 <= sum(map(len, words)) / len(words) <= 10):
        return "mean word length not in 3 to 10"
    if max(page.text.count("#"), page.text.count("...") + page.text.count("…")) > 0.1 * len(words):
        return "more than 0.1 hash signs or ellipses per word"
    if sum(line.lstrip().startswith(BULLETS) for line in lines) > 0.9 * len(lines):
        return "more than 90 % of lines begin with a bullet"
    if sum(line.rstrip().endswith(("...", "…")) for line in lines) > 0.3 * len(lines):
        return "more than 30 % of lines end with an ellipsis"
    if sum(any(map(str.isalpha, word)) for word in words) < 0.8 * len(words):
        return "fewer than 80 % of words have a letter"
    if page.language == "en" and len(STOP_WORDS & {word.strip(".,;:!?\"'()").lower() for word in words}) < 2:
        return "fewer than two English stop words"
    return None


def repetition(page: Page) -> str | None:
    """Drop texts with many repeated lines, paragraphs or n-grams, by their share of the lines or of the characters."""
    size = max(len(page.text), 1)
    for name, parts in (("lines", page.lines), ("paragraphs", page.text.split("\n\n"))):
        repeated = repeated_items(parts)
        if len(repeated) > 0.3 * len(parts):
            return f"more than 30 % of {name} are repeated"
        if sum(map(len, repeated)) > 0.2 * size:
            return f"repeated {name} are more than 20 %"
    for number, limit in TOP_NGRAM_LIMITS.items():
        if top_ngram_characters(page.whitespace_words, number) > limit * size:
            return f"the most frequent {number}-gram is more than {100 * limit:.0f} %"
    for number, limit in REPEATED_NGRAM_LIMITS.items():
        repeated = repeated_ngram_characters(page.whitespace_words, number)
        if repeated > limit * size:
            return f"repeated {number}-grams are more than {100 * limit:.0f} %"
        if not repeated:  # then no longer n-gram is repeated either
            break
    return None


def repeated_items(items: list[str]) -> list[str]:
    """Return every occurrence of an item after its first.

    Example:
        >>> repeated_items(["a", "b", "a", "a"])
        ['a', 'a']
    """
    counts = Counter(items)
    return [item for item, number in counts.items() for _ in range(number - 1)]


def top_ngram_characters(words: list[str], number: int) -> int:
    """Count the characters in all occurrences of the most frequent n-gram; 0 if none occurs twice."""
    (most,) = Counter(zip(*(words[start:] for start in range(number)), strict=False)).most_common(1) or [((), 0)]
    return most[1] * (sum(map(len, most[0])) + number - 1) if most[1] > 1 else 0


def repeated_ngram_characters(words: list[str], number: int) -> int:
    """Count the characters in n-grams that occurred earlier in the text; overlapping ones count once."""
    grams = list(zip(*(words[start:] for start in range(number)), strict=False))
    if len(set(grams)) == len(grams):
        return 0
    seen, start, characters = set(), 0, 0
    while start < len(grams):
        if grams[start] in seen:
            characters += sum(map(len, grams[start]))
            start += number
        else:
            seen.add(grams[start])
            start += 1
    return characters


def c4(page: Page) -> str | None:
    """Drop texts that are code or filler text, or have fewer than 5 sentences after `drop_c4_lines`."""
    lower = page.text.lower()
    if "lorem ipsum" in lower:
        return "lorem ipsum"
    if "{" in page.text:
        return "a curly bracket"
    if len(SENTENCE_ENDS.findall(page.text)) < 5:
        return "fewer than 5 sentences"
    return None


def drop_c4_lines(text: str) -> str:
    """Remove the lines that C4 removes: no end of a sentence, fewer than 3 words, or about cookies or JavaScript."""
    return "\n".join(line for line in text.split("\n") if not line.strip() or keep_line(line.strip()))


def ends_sentence(line: str) -> bool:
    """Whether the last character before closing quotation marks and brackets ends a sentence."""
    return END_MARK.fullmatch(line.rstrip().rstrip(CLOSING_MARKS)[-1:]) is not None


def keep_line(line: str) -> bool:
    """Whether C4 keeps this line."""
    words, lower = WHITESPACE_WORD.findall(line), line.lower()
    if not ends_sentence(line) or line.endswith(("...", "…")) or len(words) < 3 or max(map(len, words)) > 1000:
        return False
    return "javascript" not in lower and not any(policy in lower for policy in POLICY_PHRASES)


def fineweb(page: Page) -> str | None:
    """Drop lists and menus: few lines end a sentence, most are short, many are repeated, or they have few words."""
    lines = page.lines
    if not lines:
        return "only white space"
    if sum(map(ends_sentence, lines)) < 0.12 * len(lines):
        return "fewer than 12 % of lines end a sentence"
    short = 12 if page.mostly_unspaced else 30  # characters; 12 that are words each have about as much text
    if sum(len(line) <= short for line in lines) > 0.67 * len(lines):
        return f"more than 67 % of lines have at most {short} characters"
    if sum(map(len, repeated_items(lines))) > 0.01 * len(page.text.replace("\n", "")):
        return "repeated lines are more than 1 %"
    if page.text.count("\n") > 0.3 * len(page.whitespace_words):
        return "more than 0.3 line ends per word"
    return None


# Each returns the reason to drop a page, or None.
RULES = {"gopher": gopher, "repetition": repetition, "c4": c4, "fineweb": fineweb}
