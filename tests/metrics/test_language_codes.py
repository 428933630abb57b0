"""Every usual code of a language means the same everywhere, and has an English name."""

import pytest

from hf_llm.metrics.language_codes import language_code, language_name, likely_script, parse_language


@pytest.mark.parametrize(
    ("tags", "code", "name"),
    [
        ("de deu ger DE deu_Latn", "de", "German"),
        ("zh zho chi cmn cn zh-CN ZH_Hans zho_Hans", "zh", "Chinese"),
        ("zh_Hant", "zh", "Chinese (Traditional)"),
        ("zh-HK", "zh", "Chinese (Hong Kong SAR China)"),
        ("yue zh-yue yue_Hant", "yue", "Cantonese"),
        ("nb nob nob_Latn", "nb", "Norwegian Bokmål"),
        ("no nor", "no", "Norwegian"),
        ("fil tl tgl_Latn", "fil", "Filipino"),
        ("cs ces cze cz cs_CZ", "cs", "Czech"),
        ("ja jpn jp jpn_Jpan", "ja", "Japanese"),
        ("el ell gre gr", "el", "Greek"),
        ("uk ukr ua", "uk", "Ukrainian"),
        ("da dan dk", "da", "Danish"),
        ("he heb iw", "he", "Hebrew"),
        ("ar ara arb_Arab", "ar", "Arabic"),
        ("fa pes_Arab per", "fa", "Persian"),
        ("ne npi_Deva", "ne", "Nepali"),
        ("sw swh_Latn", "sw", "Swahili"),
        ("ko kor_Hang kor", "ko", "Korean"),
        ("en eng en_XX en_US us", "en", "English"),
        ("pt pt-BR por_Latn", "pt", "Portuguese"),
        ("sh hbs", "sh", "Serbo-Croatian"),
        ("srp_Latn", "sr", "Serbian (Latin)"),
        ("acm_Arab", "acm", "Mesopotamian Arabic"),
        ("tw twi_Latn", "tw", "Twi"),
        ("kr", "kr", "Kanuri"),
        ("se", "se", "Northern Sami"),
        ("als_Latn", "sq", "Albanian"),
        ("ceb", "ceb", "Cebuano"),
        ("de-AT", "de", "German (Austria)"),
    ],
)
def test_codes_and_names(tags, code, name):
    """Of ISO 639 in its three forms, of FLORES and mBART, with regions, and common mistakes."""
    for tag in tags.split():
        assert (language_code(tag), language_name(tag)) == (code, name)


@pytest.mark.parametrize(
    "tag", ["Chinese", "english", "xq", "xx_Latn", "de_Xxxx", "und", "mul", "", "e", "en-", "en zh"]
)
def test_other_words_are_refused(tag):
    """The error names the option, the value and the form of a code."""
    with pytest.raises(
        ValueError, match=rf"^`target` '{tag}' is not a language code: give one of ISO 639 as 'en', 'zh'"
    ):
        language_code(tag, "target")


def test_scripts():
    """That of the tag, else the usual one of the language in its region."""
    tags = ["de", "zh", "zh-TW", "zh_Hant", "yue", "wuu", "ja", "ko", "th", "sr", "sr_Latn", "uz_Cyrl"]
    scripts = ["Latn", "Hans", "Hant", "Hant", "Hant", "Hans", "Jpan", "Kore", "Thai", "Cyrl", "Latn", "Cyrl"]
    assert [likely_script(parse_language(tag)) for tag in tags] == scripts
