# ruff: noqa: RUF001 (marks of other scripts are what is tested)
"""Answers have the scores that the published scripts of SQuAD 1.1, SQuAD 2.0 and CMRC 2018 define."""

import pytest

from hf_llm.metrics.question_answering import (
    CHARACTERS,
    CMRC_PUNCTUATION,
    QuestionAnswering,
    cmrc_segments,
    squad_words,
)


def scores(prediction, references, **options):
    """Exact match and F1 of one row."""
    return tuple(QuestionAnswering(**options).row_scores([prediction], [references])[0].values())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Eiffel\tTower!", ["eiffel", "tower"]),
        ("U.S. well-known", ["us", "wellknown"]),
        ("a.n apple", ["apple"]),  # punctuation is removed before articles
        ("Theatre of another", ["theatre", "of", "another"]),
        ("über–alles “x”", ["über–alles", "“x”"]),  # only ASCII punctuation is removed
        ("the", []),
    ],
)
def test_answers_are_normalized_in_the_published_order(text, expected):
    """Lower case, punctuation, articles, white space."""
    assert squad_words(text) == expected


@pytest.mark.parametrize(
    ("prediction", "references", "expected"),
    [
        ("the Denver Broncos", ["Denver Broncos"], (100, 100)),
        ("Denver", ["Denver Broncos", "The Broncos"], (0, 100 * 2 / 3)),
        ("to to be", ["to be or not to be"], (0, 100 * 2 * 3 / 9)),  # with repetitions, three words in common
        ("be", ["the", "be"], (100, 100)),
        ("", ["Denver"], (0, 0)),
    ],
)
def test_both_versions_take_the_best_reference(prediction, references, expected):
    """F1 counts repeated words; 1.1 and 2.0 agree if there is an answer."""
    assert scores(prediction, references) == pytest.approx(expected)
    assert scores(prediction, references, version="2.0") == pytest.approx(expected)


def test_where_the_versions_differ():
    """For texts that normalize to nothing, 1.1 finds no word in common; 2.0 drops them and expects no answer."""
    assert scores("a", ["the"]) == (100, 0)
    assert scores("a", ["the"], version="2.0") == (100, 100)
    assert scores("", ["the", "cat"]) == (100, 0)
    assert scores("", ["the", "cat"], version="2.0") == (0, 0)


@pytest.mark.parametrize("unanswerable", [[], [""]], ids=["no references", "empty text"])
def test_no_answer_is_correct_if_there_is_none(unanswerable):
    """In version 2.0; a text that normalizes to nothing counts as no answer too."""
    assert scores("", unanswerable, version="2.0") == (100, 100)
    assert scores("the", unanswerable, version="2.0") == (100, 100)
    assert scores("cat", unanswerable, version="2.0") == (0, 0)
    with pytest.raises(ValueError, match=r"^`references\[0\]` is"):
        scores("", unanswerable)


def test_version_2_has_scores_of_both_groups():
    """By hand: two rows with an answer (F1 100 and 2/3), two without (one correct)."""
    results = QuestionAnswering("2.0").compute(
        predictions=["the cat", "red cat", "", "cat"], references=[["cat"], ["cat"], [], [""]]
    )
    expected = {"exact": 50, "f1": 100 * (1 + 2 / 3 + 1) / 4, "HasAns_exact": 50, "HasAns_f1": 100 * (1 + 2 / 3) / 2}
    expected |= {"NoAns_exact": 50, "NoAns_f1": 50, "total": 4, "HasAns_total": 2, "NoAns_total": 2}
    assert {name: value for name, value in results.items() if "ci95" not in name} == pytest.approx(expected)
    assert all(f"{name}_ci95_low" in results for name in expected if not name.endswith("total"))


def test_a_group_without_rows_has_no_scores():
    """As in the published script; and resamples may lack a rare group."""
    results = QuestionAnswering("2.0").compute(predictions=["cat"], references=["cat"])
    assert not any(name.startswith("NoAns") for name in results)
    results = QuestionAnswering("2.0").compute(predictions=["cat"] * 3, references=["cat", "cat", ""])
    assert results["NoAns_f1_ci95_high"] == 0


def test_an_unknown_version_is_refused():
    """The message names the known ones."""
    with pytest.raises(ValueError, match=r"^`version` '1.0': give '1.1', or '2.0'"):
        QuestionAnswering("1.0")


@pytest.mark.parametrize("version", ["1.1", "2.0"])
@pytest.mark.parametrize("language", ["zh", "ja"])
def test_equal_chinese_and_japanese_answers_have_100(language, version):
    """The listed punctuation between the characters is ignored."""
    options = {"version": version, "language": language}
    assert scores("《白鹿原》，1993年", ["白鹿原1993年"], **options) == (100, 100)
    assert scores("スペインの首都", ["スペインの首都"], **options) == (100, 100)


def test_chinese_f1_is_of_the_longest_common_run():
    """By hand: 3 of 8 and of 5 segments in one run, though 5 are common in order; the year is one segment."""
    assert scores("陈忠实先生在1993年", ["陈忠实1993年"], language="zh") == pytest.approx((0, 200 * 3 / (8 + 5)))
    assert scores("北京", ["上海"], language="zh") == (0, 0)
    assert scores("", [""], language="zh", version="2.0") == (100, 100)


def test_chinese_texts_are_split_as_in_cmrc():
    """Single characters, Latin text split by NLTK; the listed punctuation is removed before."""
    segments = cmrc_segments("他说：“GPT-2 is OK, don't.”在2019年", CHARACTERS["Hans"])
    assert segments == ["他", "说", "gpt2", "is", "ok", ",", "do", "n't", ".", "在", "2019", "年"]
    assert len(CMRC_PUNCTUATION) == 32 and "…".translate(CMRC_PUNCTUATION) == "…"
