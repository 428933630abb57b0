"""Quality rules that were published with large corpora: what Gopher, C4 and FineWeb leave out of a crawl.

Thresholds are those of the papers. Where a script has no spaces each of its characters counts as a word, and the rules
that are about the length of words are left out; ends of sentences are those of any script.

Sources: Rae et al. 2021, arXiv 2112.11446, A1.1 and table A1 (gopher, repetition); Raffel et al. 2020, JMLR 21:140,
2.2 (c4); Penedo et al. 2024, arXiv 2406.17557, 3.6 (fineweb).
"""

from collections import Counter
from functools import cached_property

import regex

from hf_llm.metrics.segmentation import UNSPACED_SCRIPTS

PIECES = regex.compile(rf"[{UNSPACED_SCRIPTS}]\p{{M}}*|[^\s{UNSPACED_SCRIPTS}]+")
UNSPACED = regex.compile(rf"[{UNSPACED_SCRIPTS}]")
SENTENCES = regex.compile(r"[.!?]+(?=[\s\"'”’)\]]|$)|[\p{Sentence_Terminal}--[.!?]]+", regex.V1)
TERMINAL = regex.compile(r"[\p{Sentence_Terminal}.]")
CLOSING = "\"'”’」』）)]"
BULLETS = ("•", "‣", "▪", "◦", "●", "○", "-", "*")
STOP_WORDS = frozenset(["the", "be", "to", "of", "and", "that", "have", "with"])
TOP_NGRAMS = {2: 0.20, 3: 0.18, 4: 0.16}
REPEATED_NGRAMS = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
POLICIES = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")


class Page:
    """A text as the rules look at it, each part made when the first rule asks for it.

    Args:
        language: code of its language, for the rules that are about English words alone.
    """

    def __init__(self, text: str, language: str = "en"):
        self.text, self.language = text, language

    @cached_property
    def lines(self) -> list[str]:
        return [line for line in self.text.split("\n") if line.strip()]

    @cached_property
    def unspaced(self) -> bool:
        """Whether most of it is in a script without spaces."""
        return not self.text.isascii() and 2 * len(UNSPACED.findall(self.text)) > len("".join(self.text.split()))

    @cached_property
    def words(self) -> list[str]:
        spaced = self.text.isascii() or not UNSPACED.search(self.text)
        return self.text.split() if spaced else PIECES.findall(self.text)


def gopher(page: Page) -> str | None:
    """Too short or long, not made of words, or of bullets and cut lines; no English stop words in an English text."""
    words, lines = page.words, page.lines
    if not 50 <= len(words) <= 100_000:
        return "fewer than 50 or more than 100,000 words"
    if not (page.unspaced or 3 <= sum(map(len, words)) / len(words) <= 10):
        return "mean length of words not in 3 to 10"
    if max(page.text.count("#"), page.text.count("...") + page.text.count("…")) > 0.1 * len(words):
        return "more than 0.1 hash signs or ellipses a word"
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
    """Lines, paragraphs and n-grams of words that come again and again, by their share of the characters."""
    size = max(len(page.text), 1)
    for name, parts in (("lines", page.lines), ("paragraphs", page.text.split("\n\n"))):
        repeated = repetitions(parts)
        if len(repeated) > 0.3 * len(parts):
            return f"more than 30 % of {name} are repeated"
        if sum(map(len, repeated)) > 0.2 * size:
            return f"repeated {name} are more than 20 %"
    for number, limit in TOP_NGRAMS.items():
        if top_ngram(page.words, number) > limit * size:
            return f"the most frequent {number}-gram is more than {100 * limit:.0f} %"
    for number, limit in REPEATED_NGRAMS.items():
        repeated = repeated_ngrams(page.words, number)
        if repeated > limit * size:
            return f"repeated {number}-grams are more than {100 * limit:.0f} %"
        if not repeated:  # nor any longer one
            break
    return None


def repetitions(parts: list[str]) -> list[str]:
    """All parts that were there before."""
    counts = Counter(parts)
    return [part for part, number in counts.items() for _ in range(number - 1)]


def top_ngram(words: list[str], number: int) -> int:
    """Characters in all occurrences of the most frequent n-gram; 0 where none comes twice."""
    (most,) = Counter(zip(*(words[start:] for start in range(number)), strict=False)).most_common(1) or [((), 0)]
    return most[1] * (sum(map(len, most[0])) + number - 1) if most[1] > 1 else 0


def repeated_ngrams(words: list[str], number: int) -> int:
    """Characters in n-grams that were there before; none counts twice."""
    grams = list(zip(*(words[start:] for start in range(number)), strict=False))
    if len(set(grams)) == len(grams):
        return 0
    seen, place, characters = set(), 0, 0
    while place < len(grams):
        if grams[place] in seen:
            characters += sum(map(len, grams[place]))
            place += number
        else:
            seen.add(grams[place])
            place += 1
    return characters


def c4(page: Page) -> str | None:
    """No prose: `without_bad_lines` left too little, or it is code or a filler."""
    lower = page.text.lower()
    if "lorem ipsum" in lower:
        return "lorem ipsum"
    if "{" in page.text:
        return "a curly bracket"
    if len(SENTENCES.findall(page.text)) < 5:
        return "fewer than 5 sentences"
    return None


def without_bad_lines(text: str) -> str:
    """C4's rules for lines: those that end no sentence, have less than 3 words, or are about cookies or scripts go."""
    return "\n".join(line for line in text.split("\n") if not line.strip() or keeps_line(line.strip()))


def ends_sentence(line: str) -> bool:
    """Whether its last mark, within quotation marks and brackets, ends a sentence."""
    return TERMINAL.fullmatch(line.rstrip().rstrip(CLOSING)[-1:]) is not None


def keeps_line(line: str) -> bool:
    words, lower = PIECES.findall(line), line.lower()
    if not ends_sentence(line) or line.endswith(("...", "…")) or len(words) < 3 or max(map(len, words)) > 1000:
        return False
    return "javascript" not in lower and not any(policy in lower for policy in POLICIES)


def fineweb(page: Page) -> str | None:
    """Lists and menus: lines that end no sentence, are short, come again, or hold few words."""
    lines = page.lines
    if not lines:
        return "nothing but white space"
    if sum(map(ends_sentence, lines)) < 0.12 * len(lines):
        return "fewer than 12 % of lines end a sentence"
    short = 12 if page.unspaced else 30  # characters; of those that are words, about as much text
    if sum(len(line) <= short for line in lines) > 0.67 * len(lines):
        return f"more than 67 % of lines have at most {short} characters"
    if sum(map(len, repetitions(lines))) > 0.01 * len(page.text.replace("\n", "")):
        return "repeated lines are more than 1 %"
    if page.text.count("\n") > 0.3 * len(page.words):
        return "more than 0.3 line ends a word"
    return None


RULES = {"gopher": gopher, "repetition": repetition, "c4": c4, "fineweb": fineweb}
