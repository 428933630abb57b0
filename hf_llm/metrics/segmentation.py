"""Text to tokens where there may be no spaces, and the one place that knows which languages have none."""

import regex

WITHOUT_SPACES = frozenset({"bo", "dz", "ja", "km", "lo", "my", "th", "zh"})
TWO_LETTERS = {
    "bod": "bo", "cmn": "zh", "dzo": "dz", "eng": "en", "jpn": "ja", "khm": "km", "kor": "ko", "lao": "lo",
    "mya": "my", "tha": "th", "yue": "zh", "zho": "zh",
}  # fmt: skip

# By script and not by language: Chinese inside a German text has no spaces either. Marks stay with their letter.
UNSPACED_SCRIPTS = r"\p{Han}\p{Hiragana}\p{Katakana}ー\p{Khmer}\p{Lao}\p{Myanmar}\p{Thai}\p{Tibetan}"
WORD_EXPRESSION = rf"[[{UNSPACED_SCRIPTS}]&&[\p{{L}}\p{{N}}]]\p{{M}}*|[[\p{{L}}\p{{M}}\p{{N}}]--[{UNSPACED_SCRIPTS}]]+"
WORD_PATTERN = regex.compile(WORD_EXPRESSION, regex.V1)
WORD_OR_MARK_PATTERN = regex.compile(rf"{WORD_EXPRESSION}|\S", regex.V1)


def language_code(language: str) -> str:
    """The code by which languages are told apart here.

    Raises:
        ValueError: not a language code.

    Example:
        >>> [language_code(tag) for tag in ("zh-CN", "zho_Hans", "de")]
        ['zh', 'zh', 'de']
    """
    code = regex.split("[-_]", language.lower())[0]
    if not regex.fullmatch("[a-z]{2,3}", code):
        raise ValueError(f"`language` {language!r} is no language code: give one as 'en', 'zh' or 'zho_Hans'")
    return TWO_LETTERS.get(code, code)


def segment_words(text: str) -> list[str]:
    """Lower-case words of letters and digits in any script, characters where a script has no spaces.

    Example:
        >>> segment_words("GPT-2在2019年, über")
        ['gpt', '2', '在', '2019', '年', 'über']
    """
    return WORD_PATTERN.findall(text.lower())


def segment_words_and_marks(text: str) -> list[str]:
    """As `segment_words`, with each punctuation mark or symbol a token: degenerate text may be nothing else."""
    return WORD_OR_MARK_PATTERN.findall(text.lower())
