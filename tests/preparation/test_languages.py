"""Languages are told apart offline, by codes that are checked."""

import pytest

from hf_llm.preparation.languages import check_languages, identify


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
    """With a probability that means something, line ends or not."""
    found, probability = identify(text)
    assert found == code and 0.5 < probability <= 1


def test_codes_are_brought_to_those_of_the_model():
    """However they are written; an unknown one is named, with the nearest."""
    assert check_languages(["en", "zho_Hans", "de-AT", "pt-BR"]) == ["en", "zh", "de", "pt"]
    with pytest.raises(
        ValueError, match=r"^`--languages` xq is no language that can be told; the nearest code is \w+$"
    ):
        check_languages(["en", "xq"])
