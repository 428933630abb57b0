"""Languages are identified offline, and the codes of `--languages` are checked."""

import pytest

from hf_llm.preparation.languages import identify_language, parse_languages


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("The house at the end of the street was sold last year.", "en"),
        ("Das Haus am Ende der Straße\nwurde letztes Jahr verkauft.", "de"),
        ("街道尽头的房子去年卖掉了，没有人知道是谁买的。", "zh"),
        ("通りの突き当たりの家は去年売られました。", "ja"),
        ("Дом в конце улицы был продан в прошлом году.", "ru"),
    ],
)
def test_sentences_are_identified(text, code):
    """With a probability above 0.5, also in a text of several lines."""
    language, probability = identify_language(text)
    assert language == code and 0.5 < probability <= 1


def test_codes_are_converted_to_those_of_the_model():
    """Tags with a script or region are accepted; the error for an unknown code names the nearest known one."""
    assert parse_languages(["en", "zho_Hans", "de-AT", "pt-BR"]) == ["en", "zh", "de", "pt"]
    with pytest.raises(
        ValueError, match=r"^`--languages` xq is not a language that can be identified; the nearest code is \w+$"
    ):
        parse_languages(["en", "xq"])
