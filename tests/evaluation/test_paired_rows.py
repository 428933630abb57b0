"""Scores are tested on the same rows only, and by the computation that gives the saved score."""

import json

import numpy as np
import pytest

from hf_llm.evaluation import paired_rows
from hf_llm.evaluation.paired_rows import ScoredRows, compare_on_rows, read_scored_rows
from hf_llm.metrics.classification import Classification

LABELS = ["a", "b", "c"]


def predicted(seed: int, share: float, rows: int = 80) -> ScoredRows:
    """Labels, of which this share is right."""
    generator = np.random.default_rng(seed)
    gold = np.random.default_rng(0).choice(LABELS, rows)
    guesses = np.where(generator.random(rows) < share, gold, generator.choice(LABELS, rows))
    rows = [
        {"prompt": "?", "prediction": str(guess), "references": [str(label)], "accuracy": float(guess == label)}
        for guess, label in zip(guesses, gold, strict=True)
    ]
    return ScoredRows(rows, {"task": "understanding", "task_options": "show_labels=false"})


def documents(names: str, losses: list[float], tokens: int = 10) -> ScoredRows:
    rows = [
        {"document": n, "bytes": 40, "tokens": tokens, "loss": x, "bits": 2 * x}
        for n, x in zip(names, losses, strict=True)
    ]
    return ScoredRows(rows, {})


def score(name: str, model: ScoredRows) -> float:
    """The score as an evaluation saves it."""
    metric, (predictions, references) = (
        Classification(),
        ([row[key] for row in model.rows] for key in ("prediction", "references")),
    )
    return metric.scores(metric.statistics(predictions, references), np.ones(len(references)))[name]


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr(paired_rows, "RESAMPLES", 200)


@pytest.mark.parametrize("name", ["accuracy", "macro_f1"])
def test_a_mean_and_a_score_of_all_rows_are_tested_alike(name):
    """Accuracy from the numbers of the rows, macro-F1 by the task's metric: differences as computed from the texts."""
    a, b = predicted(1, 0.8), predicted(2, 0.4)
    test = compare_on_rows(name, score(name, a), [a], [b])
    assert test.difference == pytest.approx(score(name, a) - score(name, b))
    assert test.low < test.difference < test.high
    assert test.p_value < 0.01
    same = compare_on_rows(name, score(name, a), [a], [a])
    assert (same.difference, same.p_value) == (0, 1)


def test_groups_are_compared_by_their_mean_scores():
    """Also if they are not equally large."""
    models = [predicted(seed, 0.6) for seed in (1, 2, 3)]
    for name in ("accuracy", "macro_f1"):
        one, two, three = (score(name, each) for each in models)
        assert compare_on_rows(name, one, models[:2], models[2:]).difference == pytest.approx((one + two) / 2 - three)


def test_a_score_that_the_rows_do_not_give_is_not_tested():
    """No column and no metric gives it: another score was saved, or there is no such score."""
    a, b = predicted(1, 0.8), predicted(2, 0.4)
    assert compare_on_rows("accuracy", score("accuracy", a) + 0.01, [a], [b]) is None
    assert compare_on_rows("perplexity", 5.0, [a], [b]) is None


def test_the_p_value_is_exact_for_few_rows():
    """Five documents that are all better by the same: 2 of 32 ways to swap them are as far apart."""
    a, b = documents("vwxyz", [1.0] * 5), documents("vwxyz", [2.0] * 5)
    assert compare_on_rows("bits_per_byte", 0.05, [a], [b]).p_value == pytest.approx(2 / 32, abs=0.05)


def test_documents_are_paired_by_their_text():
    """In any order; equal documents are counted; others are not paired; a token loss needs equal tokens."""
    a, b = documents("xyyz", [1, 2, 3, 4]), documents("zyxy", [4, 2, 1, 3], tokens=7)
    paired = b.in_order_of(a)
    assert [row["loss"] for row in paired.rows] == [1, 2, 3, 4]
    assert compare_on_rows("bits_per_byte", 20 / 160, [a], [paired]).difference == 0
    assert compare_on_rows("loss", 10 / 40, [a], [paired]) is None
    assert documents("xyz", [1, 2, 3]).in_order_of(a) is None
    assert predicted(1, 0.5, 50).in_order_of(predicted(1, 0.5)) is None


def test_a_damaged_file_is_named(tmp_path):
    """With its line."""
    (tmp_path / "predictions.jsonl").write_text(json.dumps({"references": []}) + "\n[1]\n")
    with pytest.raises(ValueError, match=r"predictions.jsonl`, line 2, is not a JSON object"):
        read_scored_rows(tmp_path, {})
