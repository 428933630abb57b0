"""Broken text is repaired, and intended characters are kept."""

import pytest

from hf_llm.preparation.cleaning import clean


@pytest.mark.parametrize(
    ("broken", "repaired"),
    [
        ("schÃ¶n, donâ€™t", "schön, don’t"),
        ("cafe\u0301", "café"),
        ("a\r\nb\rc\u2028d", "a\nb\nc\nd"),
        ("a\x00b\x07c\u200bd\ufeff", "abcd"),
        ("a\u00a0b\u2009c", "a b c"),
        ("one  \n\n\n\n two\t\n", "one\n\n two"),
        ("page one\x0cpage two\x0bline", "page one\npage two\nline"),
        ("\x1b[31mred\x1b[0m and \x1b[1mréd\x1b[0m", "red and réd"),
    ],
    ids=["wrong decoding", "NFC", "line ends", "invisible", "spaces", "blank lines", "form feeds", "colors"],
)
def test_broken_text_is_repaired(broken, repaired):
    """Cleaning a second time changes nothing."""
    assert clean(broken) == repaired
    assert clean(repaired) == repaired


@pytest.mark.parametrize(
    "text",
    [
        "    def f():\n        return  1\n\n\tx",
        "`&amp;` is &, “&lt;”",
        "他说：“你好，世界！”（笑）ＡＢＣ",
        "\u3000古之欲明明德於天下者",
        "“Curly” ﬁligree – naïve …",
        "<b>a &amp; b</b>",
        "می\u200cخواهم 👩\u200d💻",
        "",
    ],
    ids=["code", "entities", "wide punctuation", "indented Chinese", "typography", "HTML", "joiners", "empty"],
)
def test_intended_characters_are_kept(text):
    """Indentation, wide and curly characters, ligatures, joiners and HTML are not changed."""
    assert clean(text) == text


def test_long_runs_of_spaces_are_cleaned_in_linear_time():
    """Runs of 300,000 spaces within a line are kept; a quadratic pattern would take minutes."""
    assert clean("a" + " " * 300_000 + "b" + "\u3000" * 300_000) == "a" + " " * 300_000 + "b"
