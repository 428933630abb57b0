"""Scores of labels are equal to those of scikit-learn."""

import warnings

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from hf_llm.metrics.classification import Classification, MultiLabel


def sklearn_scores(predictions, labels):
    """The three scores by scikit-learn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of corpora with a single label
        return {
            "accuracy": accuracy_score(labels, predictions),
            "macro_f1": f1_score(labels, predictions, average="macro"),
            "matthews_correlation": matthews_corrcoef(labels, predictions),
        }


@pytest.mark.parametrize("seed", range(5))
def test_scores_are_those_of_scikit_learn(seed):
    """With labels that are only predicted ("d", free text) and labels that are never predicted ("a")."""
    generator = np.random.default_rng(seed)
    labels = generator.choice(["a", "b", "c"], p=[0.1, 0.3, 0.6], size=200).tolist()
    predictions = generator.choice(["b", "c", "d", "I think it is b", ""], size=200).tolist()
    results = Classification().compute(predictions=predictions, references=labels)
    expected = sklearn_scores(predictions, labels)
    assert {name: results[name] for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize(
    ("predictions", "labels"),
    [(["a", "a"], ["a", "a"]), (["a", "a"], ["a", "b"]), (["b", "b"], ["a", "a"]), (["a", "b"], ["a", "b"])],
    ids=["one label", "always the same", "always wrong", "right"],
)
def test_small_corpora_have_the_scores_of_scikit_learn(predictions, labels):
    """A correlation of 0 / 0 is 0."""
    results = Classification().compute(predictions=predictions, references=labels)
    expected = sklearn_scores(predictions, labels)
    assert {name: results[name] for name in expected} == expected


def test_any_of_several_gold_labels_is_correct():
    """If the prediction is none of them, the first one counts as the gold label."""
    metric = Classification()
    results = metric.compute(predictions=["b", "c"], references=[["a", "b"], ["a", "b"]])
    assert results["accuracy"] == 0.5
    assert results["macro_f1"] == pytest.approx(sklearn_scores(["b", "c"], ["b", "a"])["macro_f1"])
    assert metric.row_scores(["b", "c"], [["a", "b"], ["a", "b"]]) == [{"accuracy": 1}, {"accuracy": 0}]


def test_the_interval_of_macro_f1_contains_the_score_if_labels_are_rare():
    """Two rows for each of 40 labels, two thirds of them correct: most resamples lack some label."""
    gold = [str(number // 2) for number in range(80)]
    guesses = [label if number % 3 else "something else" + label for number, label in enumerate(gold)]
    scores = Classification().compute(predictions=guesses, references=gold)
    assert scores["macro_f1_ci95_low"] < scores["macro_f1"] < scores["macro_f1_ci95_high"]


@pytest.mark.parametrize("seed", range(3))
def test_the_f1_of_the_positive_label_is_that_of_scikit_learn(seed):
    """And is reported with its name; the other scores do not change."""
    generator = np.random.default_rng(seed)
    labels, predictions = (generator.choice(["no", "yes"], p=[0.8, 0.2], size=60).tolist() for _ in range(2))
    predictions[0] = "I do not know"
    plain, results = (
        Classification(positive).compute(predictions=predictions, references=labels) for positive in (None, "yes")
    )
    expected = f1_score([label == "yes" for label in labels], [guess == "yes" for guess in predictions])
    assert results["f1"] == pytest.approx(expected) and results["f1_label"] == "yes"
    assert results["f1_ci95_low"] <= results["f1"] <= results["f1_ci95_high"]
    assert {name: results[name] for name in plain} == pytest.approx(plain)
    never = Classification("maybe").compute(predictions=predictions, references=labels)
    assert never["f1"] == 0 and never["macro_f1"] == pytest.approx(plain["macro_f1"])


def test_scores_of_several_labels_are_those_of_scikit_learn():
    """Labels that are only predicted, that are never predicted, and rows without a prediction."""
    generator, names = np.random.default_rng(0), np.array(["a", "b", "c", "d", "e"])
    shares = [[[0.1, 0.4, 0.6, 0, 0.2]], [[0.2, 0.3, 0.5, 0.1, 0]]]
    gold, predicted = (generator.random((2, 300, 5)) < shares).astype(int)
    gold[:, 1] |= gold.sum(1) == 0
    texts = [[", ".join(names[row.astype(bool)][::-1]) for row in rows] for rows in (predicted, gold)]
    results = MultiLabel().compute(predictions=texts[0], references=texts[1])
    expected = {"exact_match": accuracy_score(gold, predicted), "micro_f1": f1_score(gold, predicted, average="micro")}
    expected["macro_f1"] = f1_score(gold, predicted, average="macro")
    assert {name: results[name] for name in expected} == pytest.approx(expected)
    assert all(results[f"{name}_ci95_low"] < results[name] < results[f"{name}_ci95_high"] for name in expected)
