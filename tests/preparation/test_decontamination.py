"""Text of an evaluation is found however it is written, and nothing else."""

import random

import numpy as np
import pytest

from hf_llm.preparation.decontamination import Decontaminator, runs

QUESTION = "Which of the seven hills of Rome did Romulus choose for his city, according to Livy's history?"


@pytest.mark.parametrize(
    "planted",
    [QUESTION, QUESTION.upper(), QUESTION.replace(" ", "\n\n  "), QUESTION.replace(",", " -- ").rstrip("?") + "!!"],
    ids=["same", "case", "spacing", "punctuation"],
)
def test_a_planted_text_is_found(planted):
    """And cut, so that what stands around it stays."""
    found = Decontaminator([QUESTION], 13)
    text = f"A page begins here. {planted} And it ends here."
    assert len(found.matches(text)) == 6
    assert found.cut(text).split()[:4] == ["A", "page", "begins", "here."]
    assert "Romulus" not in found.cut(text).title() and found.cut(text).endswith("And it ends here.")


def test_twelve_words_in_a_row_are_no_match():
    """Nor are all words in another order, nor text of its own."""
    found = Decontaminator([QUESTION], 13)
    words = QUESTION.split()
    shuffled = random.Random(0).sample(words, len(words))
    for text in (" ".join(words[:12]) + " something else", " ".join(shuffled), "Rome was built.", ""):
        assert not len(found.matches(text)) and found.cut(text) == text


def test_chinese_counts_characters():
    """A script without spaces has no other words."""
    found = Decontaminator(["古之欲明明德於天下者，先治其國。"], 13)
    assert len(found.matches("曰：古之欲明明德於天下者先治其國也")) == 2
    assert not len(found.matches("古之欲明明德者，先治其國"))


def test_short_texts_are_counted():
    """They have no n-gram that could be found."""
    found = Decontaminator(["yes", "no", QUESTION], 13)
    assert found.too_short == 2
    assert not len(Decontaminator(["yes"], 13).matches(QUESTION)) and not len(Decontaminator([], 13).matches(QUESTION))


def test_windows_that_touch_are_one_run():
    """Given by the word where it begins and the one behind its end."""
    assert runs(np.array([0, 1, 2, 9, 12]), 3) == [(0, 5), (9, 15)]


def test_cutting_is_exact_where_lower_case_is_longer():
    """And words are the same in every Unicode form."""
    found = Decontaminator(["one two three four five", "cafe\u0301 très bon"], ngram=3)
    assert found.cut("İstanbul İİİ: one TWO three. End") == "İstanbul İİİ: . End"
    assert found.cut("Un café ｔｒèｓ bon, oui") == "Un , oui"


def test_one_space_parts_what_stood_on_both_sides():
    """Also at the beginning of a text; what is no space stays."""
    found = Decontaminator(["one two three"], ngram=3)
    assert found.cut("You one two three save one two three, four") == "You save , four"
    assert found.cut("one two three four\n  one two three five") == "four\n  five"
