"""Split text of any language into words, or into characters if its script has no spaces between words."""

import regex

# By script and not by language, since Chinese within a German text has no spaces either. Combining marks stay with
# their letter.
UNSPACED_SCRIPTS = r"\p{Han}\p{Hiragana}\p{Katakana}ー\p{Khmer}\p{Lao}\p{Myanmar}\p{Thai}\p{Tibetan}"
WORD_EXPRESSION = rf"[[{UNSPACED_SCRIPTS}]&&[\p{{L}}\p{{N}}]]\p{{M}}*|[[\p{{L}}\p{{M}}\p{{N}}]--[{UNSPACED_SCRIPTS}]]+"
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
