"""Broken text is repaired, and intended characters are kept."""

import ftfy
import pytest

from hf_llm.preparation.cleaning import REPAIRS, clean


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
        (
            "ex\u200bample \u200b\u4f60\u200b\u597d. \u200b\u0e44\u0e17\u0e22\u200b.\u200b",
            "example \u4f60\u597d. \u0e44\u0e17\u0e22.",
        ),
        ("\u0e44\u0e17\u0e22\u200b\u200b\u2060\u200b\u0e17\u0e35\u0e48", "\u0e44\u0e17\u0e22\u200b\u0e17\u0e35\u0e48"),
        ("z" + "\u0301" * 500 + "x", "\u017a" + "\u0301" * 29 + "x"),
        ("\x1b[31mred\x1b[0m and \x1b[1mréd\x1b[0m", "red and réd"),
    ],
    ids=[
        "wrong decoding",
        "NFC",
        "line ends",
        "invisible",
        "spaces",
        "blank lines",
        "form feeds",
        "zero-width",
        "rows",
        "marks",
        "colors",
    ],
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
        "\u1797\u17b6\u200b\u1781\u17d2\u1798 \u0e44\u0e17\u0e22\u200b\u0e17 \u0ea5\u0eb2\u200b5 PC\u200b\u1019\u103c",
        "\u05d0\u200f! \u202b\u0639\u202c \u2764\ufe0f \U0001f3f4\U000e0067\U000e007f",
        "",
    ],
    ids=[
        "code",
        "entities",
        "wide punctuation",
        "indented Chinese",
        "typography",
        "HTML",
        "joiners",
        "parted words",
        "directions",
        "empty",
    ],
)
def test_intended_characters_are_kept(text):
    """Indentation, wide and curly characters, ligatures, joiners and HTML are not changed."""
    assert clean(text) == text


def test_long_runs_of_spaces_are_cleaned_in_linear_time():
    """Runs of 300,000 spaces within a line are kept; a quadratic pattern would take minutes."""
    assert clean("a" + " " * 300_000 + "b" + "\u3000" * 300_000) == "a" + " " * 300_000 + "b"


def test_repairs_are_those_of_ftfy():
    """Also where a text is handed to it only because of one character; see `REPLACED`."""
    for text in [
        "naïve\x81",
        "caf\u00c3\u00a9",
        "\u2028é",
        "é\u206a",
        "é\ufff9",
        "a\x1fé",
        "\x96é",
        "l\u2019Ã\x00©tude",
    ]:
        repaired = ftfy.fix_text(text, REPAIRS)
        assert clean(text) == clean(repaired)
