"""Text of an evaluation is found whatever its case, punctuation and spacing, and no other text is."""

import random

import numpy as np
import pytest

from hf_llm.preparation.decontamination import Decontaminator, merge_windows

QUESTION = "Which of the seven hills of Rome did Romulus choose for his city, according to Livy's history?"


@pytest.mark.parametrize(
    "planted",
    [QUESTION, QUESTION.upper(), QUESTION.replace(" ", "\n\n  "), QUESTION.replace(",", " -- ").rstrip("?") + "!!"],
    ids=["same", "case", "spacing", "punctuation"],
)
def test_a_planted_text_is_found(planted):
    """It can be removed, and the text around it is kept."""
    decontaminator = Decontaminator([QUESTION], 13)
    text = f"A page begins here. {planted} And it ends here."
    assert len(decontaminator.matches(text)) == 6
    assert decontaminator.remove_matches(text).split()[:4] == ["A", "page", "begins", "here."]
    assert "Romulus" not in decontaminator.remove_matches(text).title() and decontaminator.remove_matches(
        text
    ).endswith("And it ends here.")


def test_twelve_consecutive_words_do_not_match():
    """Neither do all words in another order, unrelated text or an empty text."""
    decontaminator = Decontaminator([QUESTION], 13)
    words = QUESTION.split()
    shuffled = random.Random(0).sample(words, len(words))
    for text in (" ".join(words[:12]) + " something else", " ".join(shuffled), "Rome was built.", ""):
        assert not len(decontaminator.matches(text)) and decontaminator.remove_matches(text) == text


def test_characters_are_counted_in_chinese():
    """In a script without spaces each character is a word."""
    decontaminator = Decontaminator(["古之欲明明德於天下者，先治其國。"], 13)
    assert len(decontaminator.matches("曰：古之欲明明德於天下者先治其國也")) == 2
    assert not len(decontaminator.matches("古之欲明明德者，先治其國"))


def test_short_texts_are_counted():
    """They have no n-gram, so they cannot be found; an evaluation of only such texts matches nothing."""
    decontaminator = Decontaminator(["yes", "no", QUESTION], 13)
    assert decontaminator.too_short == 2
    assert not len(Decontaminator(["yes"], 13).matches(QUESTION)) and not len(Decontaminator([], 13).matches(QUESTION))


def test_windows_that_touch_are_merged():
    """A merged window is given by its first word and the word after its last one."""
    assert merge_windows(np.array([0, 1, 2, 9, 12]), 3) == [(0, 5), (9, 15)]


def test_matches_are_removed_exactly_where_lower_case_is_longer():
    """Offsets refer to the original text, and words match in every Unicode form."""
    decontaminator = Decontaminator(["one two three four five", "cafe\u0301 très bon"], ngram=3)
    assert decontaminator.remove_matches("İstanbul İİİ: one TWO three. End") == "İstanbul İİİ: . End"
    assert decontaminator.remove_matches("Un café ｔｒèｓ bon, oui") == "Un , oui"


def test_one_space_is_left_where_a_match_was_removed():
    """At the beginning of a text none is; punctuation and line ends are kept."""
    decontaminator = Decontaminator(["one two three"], ngram=3)
    assert decontaminator.remove_matches("You one two three save one two three, four") == "You save , four"
    assert decontaminator.remove_matches("one two three four\n  one two three five") == "four\n  five"
