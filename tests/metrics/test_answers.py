"""The answer within a text."""

import pytest

from hf_llm.metrics.answers import find_answer, gold_answers


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("3 + 4 = 7 eggs\n#### 7", "7"), ("#### 7\nQuestion: Ann has 9", "7"), ("#### $1,200.50 a year", "1200.5"),
        ("so 12, or 13.", "13"), ("10-4", "4"), ("it fell to -4", "-4"), ("-0.50", "-0.5"), ("a 7-day trip", "7"),
        ("It is 3.", "3"), ("1,2", "2"), ("1,234,567 or so", "1234567"), ("#### none, but 5", "5"), ("x2 = .5", "0.5"),
        ("#### no number", None), ("", None), ("-0", "0"), ("007", "7"),
    ],
)  # fmt: skip
def test_the_final_number_of_a_solution_is_found(text, answer):
    """After `####`, as in GSM8K, or else the last one; equal numbers are written alike."""
    assert find_answer(text, "number") == answer


@pytest.mark.parametrize(
    ("text", "pattern", "answer"),
    [
        ("(A) no, so (B).", r"\(([A-D])\)", "B"), ("a1 b2 c", r"[a-z]\d", "b2"), ("none", r"\d", None),
        ("answer: x ", r"answer:(.*)|result:(.*)", "x"), ("result: y", r"answer:(.*)|result:(.*)", "y"),
        ("\\boxed{1} \\boxed{\\frac12}", r"\\boxed\{(.*)\}", "1} \\boxed{\\frac12"),
    ],
)  # fmt: skip
def test_a_pattern_gives_its_last_match_or_the_first_group_of_it(text, pattern, answer):
    """Without outer white space; a greedy expression takes as much as it matches, as everywhere."""
    assert find_answer(text, pattern) == answer


def test_a_gold_answer_in_which_the_pattern_finds_nothing_is_refused():
    """Also if it matches an empty text, which every answer without a match would equal."""
    for pattern in (r"\d", r"\d*"):
        with pytest.raises(ValueError, match="finds no answer in the gold answer 'none'"):
            gold_answers(["none"], pattern)


def test_an_expression_that_takes_endless_time_is_refused(monkeypatch):
    """A nested repetition, on a text that does not match."""
    monkeypatch.setattr("hf_llm.metrics.answers.MAX_SECONDS", 0.2)
    with pytest.raises(ValueError, match=r"`--answer_pattern` \(a\+\)\+b: it takes more than .* simpler expression"):
        find_answer("a" * 60, "(a+)+b")
