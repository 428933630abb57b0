"""Text made whole: broken Unicode repaired, one normal form, no control characters, plain white space."""

import re
import unicodedata

import ftfy

# What was broken by wrong decoding, and no more: curly quotes, ligatures and wide Chinese punctuation are meant.
REPAIRS = ftfy.TextFixerConfig(
    fix_character_width=False,
    fix_latin_ligatures=False,
    normalization=None,
    uncurl_quotes=False,
    unescape_html=False,
)
LINE_ENDS = re.compile("\r\n?|[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
TERMINAL = re.compile("\x1b\\[[0-?]*[ -/]*[@-~]")  # colours and the like
# Control characters but tab and line feed, byte order marks, zero width spaces, soft hyphens; joiners stay.
INVISIBLE = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\u00ad\u200b\u2060\ufeff\ufffe\uffff]")
SPACES = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f]")  # but not U+3000, with which Chinese and Japanese indent
TRAILING = re.compile("(?<![ \t\u3000])[ \t\u3000]+$", re.MULTILINE)
BLANK_LINES = re.compile("\n{3,}")


def clean(text: str) -> str:
    """The text repaired: what wrong decoding did to it, NFC, line ends, and characters that nobody sees.

    Indentation and spaces between words stay, since code needs them; at most one blank line stays where there are more.

    Example:
        >>> clean("schÃ¶n\\r\\n\\x07und\u00a0gut  ")
        'schön\\nund gut'
    """
    text = TERMINAL.sub("", text)
    if not text.isascii():
        text = SPACES.sub(" ", unicodedata.normalize("NFC", ftfy.fix_text(text, REPAIRS)))
    return tidy(INVISIBLE.sub("", LINE_ENDS.sub("\n", text)))


def tidy(text: str) -> str:
    """Without spaces at line ends, blank lines at its own ends, and more than one of them elsewhere."""
    return BLANK_LINES.sub("\n\n", TRAILING.sub("", text)).lstrip("\n").rstrip()
