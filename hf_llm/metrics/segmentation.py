"""Split text of any language into words, or into characters if its script has no spaces between words."""

import regex

# By script and not by language, since Chinese within a German text has no spaces either. Combining marks stay with
# their letter.
UNSPACED_SCRIPTS = r"\p{Han}\p{Hiragana}\p{Katakana}ー\p{Khmer}\p{Lao}\p{Myanmar}\p{Thai}\p{Tibetan}"
LETTER = rf"[[\p{{L}}\p{{M}}\p{{N}}]--[{UNSPACED_SCRIPTS}]]"
WORD_EXPRESSION = rf"[[{UNSPACED_SCRIPTS}]&&[\p{{L}}\p{{N}}]]\p{{M}}*|{LETTER}+"
WORD_PATTERN = regex.compile(WORD_EXPRESSION, regex.V1)
WORD_OR_MARK_PATTERN = regex.compile(rf"{WORD_EXPRESSION}|[^\s\u200b]", regex.V1)  # a zero-width space is not a mark


def segment_words(text: str) -> list[str]:
    """Split into lower-case words of letters and digits, and into characters in scripts without spaces.

    Example:
        >>> segment_words("GPT-2在2019年, über")
        ['gpt', '2', '在', '2019', '年', 'über']
    """
    return WORD_PATTERN.findall(text.lower())


def segment_words_and_marks(text: str) -> list[str]:
    """Split as `segment_words` does, with each punctuation mark or symbol as a token of its own."""
    return WORD_OR_MARK_PATTERN.findall(text.lower())


def starts_with_words(text: str, start: str, skipped: str = "") -> bool:
    """Whether a text starts with some words, after marks such as quotation marks or Markdown's asterisks.

    The words end where the text has no letter, digit or sign of the same word: "None" does not start with "no", nor
    "C++" with "C", "no-one" or "no or yes" with "no", "3.5" with "3". Case and the spaces between the words do not
    matter.

    Args:
        skipped: words that may come before, separated by `|`.

    Example:
        >>> starts_with_words("The answer is **Yes**, because", "yes", skipped="the|answer|is")
        True
    """
    words = r"[\s_]+".join(regex.escape(word) for word in regex.split(r"[\s_]+", start.strip()))
    listed = r"-\s|\d+[.)]\s|\\(?:boxed|text)"  # the mark of an item of a list, and commands of LaTeX
    before = rf"(?:[\s*_`~\"'“”‘’„«»()\[\]{{}}<>#:：.…!¡¿$]|{listed}|(?:{skipped or r'(?!)'})(?!{LETTER}))*"  # noqa: RUF001
    after = rf"(?!{LETTER}|[+#]|[-–.,'’/]{LETTER}|\s+or\s)"  # noqa: RUF001
    spaced = regex.match(LETTER, start.strip()[-1:], regex.V1)  # a script without spaces has no end of a word
    return bool(regex.match(f"{before}{words}{after if spaced else ''}", text, regex.V1 | regex.IGNORECASE))
