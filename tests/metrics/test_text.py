"""Repetition and distinct n-grams of free text, against counts by hand."""

import pytest

from hf_llm.metrics.text import FreeText


def test_repetition_is_the_share_of_repeated_four_grams():
    """By hand: three of the five 4-grams of four times "a b", the mean over texts; 0 for texts without a 4-gram."""
    rows = FreeText().row_scores(["a b a b a b a b", "one two three four five", "no", ""])
    assert [row["repetition"] for row in rows] == pytest.approx([3 / 5, 0, 0, 0])
    results = FreeText().compute(predictions=["a b a b a b a b", "one two three four five", "no", ""])
    assert results["repetition"] == pytest.approx(3 / 20)


def test_repeated_marks_and_characters_are_repetition():
    """In text that consists of punctuation, and in text without spaces."""
    assert FreeText().compute(predictions=["!!!!!!!!"])["repetition"] == pytest.approx(4 / 5)
    assert FreeText().compute(predictions=["很好很好很好很好"])["repetition"] == pytest.approx(3 / 5)


def test_distinct_n_grams_are_counted_over_the_corpus():
    """By hand: 3 of 5 words, 3 of 3 pairs, the one triple."""
    results = FreeText().compute(predictions=["the cat The", "cat sat"])
    assert results["distinct_1"] == pytest.approx(3 / 5)
    assert results["distinct_2"] == results["distinct_3"] == 1
    assert FreeText().compute(predictions=["", ""])["distinct_1"] == 0
