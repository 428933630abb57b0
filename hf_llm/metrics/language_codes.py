"""Codes of languages: ISO 639 with two or three letters, tags such as `pt-BR`, FLORES's codes such as `zho_Hans`."""

import logging
from functools import cache

import regex
from langcodes import Language
from langcodes.data_dicts import MACROLANGUAGES, NORMALIZED_MACROLANGUAGES

logger = logging.getLogger(__name__)

# Codes of countries that are often given as those of their languages, not kr, se, si: these are Kanuri, Northern Sami
# and Sinhala. And eml, which Wikipedia still uses.
CORRECTED = {
    "al": "sq", "by": "be", "cn": "zh", "cz": "cs", "dk": "da", "eml": "egl", "gb": "en", "ge": "ka", "gr": "el",
    "il": "he", "ir": "fa", "jp": "ja", "kh": "km", "kz": "kk", "mm": "my", "np": "ne", "rs": "sr", "tj": "tg",
    "tm": "tk", "ua": "uk", "us": "en", "vn": "vi",
}  # fmt: skip
NO_LANGUAGE = (None, "mis", "mul", "zxx")  # None: "und"
SERBO_CROATIAN = Language.make("sh")  # the Unicode consortium replaces it by sr-Latn


@cache
def parse_language(tag: str, option: str = "language") -> Language:
    """Parse a code into a language with the script and region that it names; FLORES's arb, npi, swh become ar, ne, sw.

    Args:
        option: what the error names.

    Raises:
        ValueError: not a language code.

    Example:
        >>> [str(parse_language(tag)) for tag in ("deu", "zho_Hant", "pt-BR", "arb_Arab", "iw")]
        ['de', 'zh-Hant', 'pt-BR', 'ar-Arab', 'he']
    """
    code, *subtags = regex.split("[-_]", tag.lower())
    corrected = CORRECTED.get(code, code)
    try:
        language = Language.get("-".join([corrected, *subtags]))
        if language.language in NO_LANGUAGE or not language.is_valid():
            raise ValueError
    except ValueError:  # langcodes' own is a ValueError too
        raise ValueError(
            f"`{option}` {tag!r} is not a language code: give one of ISO 639 as 'en', 'zh' or 'zho_Hans'"
        ) from None
    if code in ("sh", "hbs"):
        return SERBO_CROATIAN
    if corrected != code:
        logger.warning(f"`{option}` {tag} is not a language code: taken for {corrected} ({language.language_name()})")
    if len(language.language) == 3:
        code = NORMALIZED_MACROLANGUAGES.get(language.language, language.language)
        language = language.update_dict({"language": code})
    return language.update_dict({"territory": None}) if language.territory == "XX" else language  # en_XX of mBART


def language_code(tag: str, option: str = "language") -> str:
    """Return the two-letter code of a language, or its three-letter code if it has no other.

    Raises:
        ValueError: not a language code.

    Example:
        >>> [language_code(tag) for tag in ("zh-CN", "zho_Hans", "de", "ger", "nob", "cz")]
        ['zh', 'zh', 'de', 'de', 'nb', 'cs']
    """
    return str(parse_language(tag, option).language)


def language_name(tag: str, option: str = "language") -> str:
    """Return the English name of a language, with its script and region if they are not the usual ones.

    Raises:
        ValueError: not a language code.

    Example:
        >>> [language_name(tag) for tag in ("deu_Latn", "zho_Hans", "zho_Hant", "nb", "de-AT")]
        ['German', 'Chinese', 'Chinese (Traditional)', 'Norwegian Bokmål', 'German (Austria)']
    """
    language = parse_language(tag, option)
    code = str(language.language)
    usual = Language.make(code).maximize()
    group = Language.make(MACROLANGUAGES.get(code) if len(code) == 3 else code).maximize()  # of acm: Arabic
    if language.script in (usual.script, group.script, "Hang"):  # Hang is included in Kore, the usual one of Korean
        language = language.update_dict({"script": None})
    if language.territory == usual.territory:
        language = language.update_dict({"territory": None})
    return language.display_name().replace(" (individual language)", "")


def likely_script(language: Language) -> str:
    """Return the ISO 15924 code of the script that the language names, or is mostly written in (in its region).

    Example:
        >>> [likely_script(parse_language(tag)) for tag in ("zh", "zh-TW", "yue", "ja", "sr", "sr_Latn")]
        ['Hans', 'Hant', 'Hant', 'Jpan', 'Cyrl', 'Latn']
    """
    return str(language.maximize().script)
