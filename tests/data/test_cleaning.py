"""Broken text is made whole, and what was meant stays as it is."""

import pytest

from hf_llm.data.cleaning import clean


@pytest.mark.parametrize(
    ("broken", "whole"),
    [
        ("schÃ¶n, donâ€™t", "schön, don’t"),
        ("cafe\u0301", "café"),
        ("a\r\nb\rc\u2028d", "a\nb\nc\nd"),
        ("a\x00b\x07c\u200bd\ufeff", "abcd"),
        ("a\u00a0b\u2009c", "a b c"),
        ("one  \n\n\n\n two\t\n", "one\n\n two"),
        ("fish &amp; chips – 5", "fish & chips – 5"),
    ],
    ids=["wrong decoding", "NFC", "line ends", "invisible", "spaces", "blank lines", "entities"],
)
def test_broken_text_is_repaired(broken, whole):
    """And a second time changes nothing."""
    assert clean(broken) == whole
    assert clean(whole) == whole


@pytest.mark.parametrize(
    "text",
    [
        "def f():\n    return  1\n\n\tx",
        "他说：“你好，世界！”（笑）ＡＢＣ",
        "\u3000古之欲明明德於天下者",
        "“Curly” ﬁligree – naïve …",
        "<b>a &amp; b</b>",
        "می\u200cخواهم 👩\u200d💻",
        "",
    ],
    ids=["code", "wide punctuation", "indented Chinese", "typography", "HTML", "joiners", "nothing"],
)
def test_what_was_meant_stays(text):
    """Indentation, wide and curly characters, ligatures, joiners, the source of a page."""
    assert clean(text) == text
