"""Clean text: repaired Unicode in one normal form, no control characters, plain white space."""

import re
import unicodedata

import ftfy

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
# Control characters except tab and line feed, byte order marks, zero-width spaces, soft hyphens. Joiners are kept.
INVISIBLE = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\u00ad\u200b\u2060\ufeff\ufffe\uffff]")
SPACES = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f]")  # not U+3000, which indents Chinese and Japanese text
TRAILING = re.compile("(?<![ \t\u3000])[ \t\u3000]+$", re.MULTILINE)
BLANK_LINES = re.compile("\n{3,}")


def clean(text: str) -> str:
    """Repair wrong decoding, normalize to NFC and "\\n" line ends, and remove invisible characters.

    Indentation and spaces between words are kept because code needs them; of several blank lines one is kept.

    Example:
        >>> clean("schÃ¶n\\r\\n\\x07und\u00a0gut  ")
        'schön\\nund gut'
    """
    text = ESCAPE_SEQUENCES.sub("", text)
    if not text.isascii():
        text = SPACES.sub(" ", unicodedata.normalize("NFC", ftfy.fix_text(text, REPAIRS)))
    return trim_whitespace(INVISIBLE.sub("", LINE_ENDS.sub("\n", text)))


def trim_whitespace(text: str) -> str:
    """Remove spaces at line ends and blank lines at both ends of the text, and keep at most one blank line in a row."""
    return BLANK_LINES.sub("\n\n", TRAILING.sub("", text)).lstrip("\n").rstrip()
