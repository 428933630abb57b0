"""What the searches for personal data share: one form for the digits of all scripts, and matches in context."""

import re
import string
import unicodedata
from collections.abc import Callable, Iterator

Span = tuple[int, int]
BEFORE, AFTER = 80, 40  # characters around a value that are looked at

# One character for one, so that positions stay the same: digits of all scripts (Arabic, Devanagari, fullwidth ...),
# fullwidth letters and marks of addresses and numbers, spaces that do not break, and dashes. A fullwidth comma stays:
# it separates numbers, whereas the plain one may be in a number.
FOLD = {
    **{code: str(unicodedata.decimal(chr(code))) for code in range(128, 0x20000) if chr(code).isdecimal()},
    **{ord(char) + 0xFEE0: char for char in f"{string.ascii_letters}@.-+()/:_=%"},
    **dict.fromkeys(map(ord, "\u00a0\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u3000"), " "),
    **dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2212"), "-"),
}
FOLDED = frozenset(map(chr, FOLD))


def fold(text: str) -> str:
    """Write digits of other scripts, fullwidth letters, dashes and spaces in ASCII; the length stays the same.

    Example:
        >>> fold("९८७६५")
        '98765'
    """
    return text if text.isascii() or FOLDED.isdisjoint(text) else text.translate(FOLD)


def search(
    pattern: re.Pattern[str], text: str, accepts: Callable[[str, str, str], bool] = lambda value, before, after: True
) -> Iterator[Span]:
    """Yield the span of each match that is accepted.

    Args:
        pattern: its group `value` is the value, or the whole match if it has none.
        accepts: whether a match is a value, from the match and the text before and after it.
    """
    group = "value" if "value" in pattern.groupindex else 0
    for match in pattern.finditer(text):
        start, end = match.span(group)
        if accepts(text[start:end], text[max(0, start - BEFORE) : start], text[end : end + AFTER]):
            yield start, end
