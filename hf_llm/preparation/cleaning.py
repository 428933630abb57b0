"""Clean text: repaired Unicode in one normal form, no control characters, plain white space."""

import re
import unicodedata
from typing import Literal

import ftfy
import regex
from ftfy.badness import is_bad

# Repair only wrong decoding: curly quotes, ligatures and wide Chinese punctuation were meant by the author.
REPAIRS = ftfy.TextFixerConfig(
    fix_character_width=False,
    fix_latin_ligatures=False,
    normalization=None,
    uncurl_quotes=False,
    unescape_html=False,
)
LINE_ENDS = re.compile("\r\n?|[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
ESCAPE_SEQUENCES = re.compile("\x1b\\[[0-?]*[ -/]*[@-~]")  # colors and cursor movements of a terminal
# Control characters except tab and line feed, byte order marks, soft hyphens. Joiners are kept.
INVISIBLE = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\u00ad\u2060\ufeff\ufffe\uffff]")
# Zero-width spaces: between letters of a script without spaces, and next to one, the first of a row is kept.
UNSPACED = r"[\p{Khmer}\p{Lao}\p{Myanmar}\p{Thai}\p{Tibetan}\p{Balinese}\p{Javanese}\p{Tai_Tham}]"
ZERO_WIDTH_SPACES = regex.compile(
    rf"((?<={UNSPACED})\u200b(?=\u200b*+[\p{{L}}\p{{N}}])|(?<=[\p{{L}}\p{{M}}\p{{N}}])\u200b(?=\u200b*+{UNSPACED}))|\u200b+"
)
# Characters that ftfy removes or replaces in any text; its other repairs are of text that looks wrongly decoded.
REPLACED = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\u206a-\u206f\ufeff\ufff9-\ufffc\ud800-\udfff]")
SPACES = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f]")  # not U+3000, which indents Chinese and Japanese text
TRAILING = re.compile("(?<![ \t\u3000])[ \t\u3000]+$", re.MULTILINE)
# More combining marks in a row than any language needs (UAX #15, stream-safe text), after which NFC would be quadratic.
EXCESS_MARKS = regex.compile(r"(\p{M}{30})\p{M}+")
BLANK_LINES = re.compile("\n{3,}")


def clean(text: str) -> str:
    """Repair wrong decoding, normalize to NFC and "\\n" line ends, and remove invisible characters.

    Indentation and spaces between words are kept because code needs them; of several blank lines one is kept. A
    zero-width space stays where it separates words, as in Khmer or Thai.

    Example:
        >>> clean("schÃ¶n\\r\\n\\x07und\u00a0gut  ")
        'schön\\nund gut'
    """
    text = ESCAPE_SEQUENCES.sub("", text)
    if not text.isascii():
        if is_bad(text) or REPLACED.search(text):
            text = ftfy.fix_text(text, REPAIRS)
        text = SPACES.sub(" ", normalize_unicode("NFC", text))
    text = INVISIBLE.sub("", LINE_ENDS.sub("\n", text))
    return trim_whitespace(ZERO_WIDTH_SPACES.sub(r"\1", text) if "\u200b" in text else text)


def trim_whitespace(text: str) -> str:
    """Remove spaces at line ends and blank lines at both ends of the text, and keep at most one blank line in a row."""
    return BLANK_LINES.sub("\n\n", TRAILING.sub("", text)).lstrip("\n").rstrip()


def normalize_unicode(form: Literal["NFC", "NFKC"], text: str) -> str:
    """Normalize to a form of Unicode in linear time; of a row of combining marks the first 30 are kept."""
    return unicodedata.normalize(form, EXCESS_MARKS.sub(r"\1", text))
