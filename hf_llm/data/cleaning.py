"""Text made whole: broken Unicode repaired, one normal form, no control characters, plain white space."""

import re
import unicodedata

import ftfy

# What was broken by wrong decoding, and no more: curly quotes, ligatures and wide Chinese punctuation are meant.
REPAIRS = ftfy.TextFixerConfig(
    fix_character_width=False, fix_latin_ligatures=False, uncurl_quotes=False, normalization=None
)
# Control characters but tab and line feed, byte order marks, zero width spaces, soft hyphens; joiners stay.
INVISIBLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u00ad\u200b\u2060\ufeff\ufffe\uffff]")
LINE_ENDS = re.compile("\r\n?|\u2028|\u2029|\x85")
SPACES = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f]")  # but not U+3000, with which Chinese and Japanese indent
TRAILING = re.compile("[ \t\u3000]+$", re.MULTILINE)
BLANK_LINES = re.compile("\n{3,}")


def clean(text: str) -> str:
    """The text repaired: what wrong decoding did to it, NFC, line ends, and characters that nobody sees.

    Indentation and spaces between words stay, since code needs them; at most one blank line stays where there are more.

    Example:
        >>> clean("schÃ¶n\\r\\n\\x07und\u00a0gut  ")
        'schön\\nund gut'
    """
    if not text.isascii() or "&" in text:
        text = unicodedata.normalize("NFC", ftfy.fix_text(text, REPAIRS))
        text = SPACES.sub(" ", text)
    text = INVISIBLE.sub("", LINE_ENDS.sub("\n", text))
    return BLANK_LINES.sub("\n\n", TRAILING.sub("", text)).strip("\n ")
