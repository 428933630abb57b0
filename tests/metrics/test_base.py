"""Every metric is an evaluate.Metric that writes no files, refuses invalid rows, and resamples rows correctly."""

import contextlib
import os
from functools import partial

import evaluate
import numpy as np
import pytest
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import PairedTest

from hf_llm.metrics import lower_is_better
from hf_llm.metrics.base import SEED, bootstrap, paired_differences, paired_test, weighted_means
from hf_llm.metrics.classification import Classification
from hf_llm.metrics.question_answering import QuestionAnswering
from hf_llm.metrics.rouge import Rouge
from hf_llm.metrics.text import FreeText
from hf_llm.metrics.translation import Translation

METRICS = [Classification(), FreeText(), QuestionAnswering(), Rouge(), Translation("de", ter=True)]
WORDS = ["the", "a", "cat", "dog", "sat", "ran", "on", "mat", "and", "then", "it", "was", "very", "big", "small"]


def noisy_rows(share, num_rows=60):
    """Rows of eight words in which a share of the words is replaced by random ones, and the original rows."""
    generator = np.random.default_rng(0)
    texts = generator.choice(WORDS, size=(num_rows, 8))
    noisy = np.where(generator.random(texts.shape) < share, generator.choice(WORDS, size=texts.shape), texts)
    return [" ".join(row) for row in noisy], [[" ".join(row)] for row in texts]


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_compute_gives_floats_with_intervals_around_them(metric):
    """By the `compute` method of evaluate, with a string or a list of gold answers per row; equal in every call."""
    predictions, references = noisy_rows(0.3)
    results = metric.compute(predictions=predictions, references=references)
    assert isinstance(metric, evaluate.Metric)
    assert results == metric.compute(predictions=predictions, references=[texts[0] for texts in references])
    names = [name.removesuffix("_ci95_low") for name in results if name.endswith("_ci95_low")]
    assert names
    for name in names:
        assert all(type(results[key]) is float for key in (name, f"{name}_ci95_low", f"{name}_ci95_high"))
        assert results[f"{name}_ci95_low"] <= results[name] <= results[f"{name}_ci95_high"]


def test_rows_can_be_added_in_batches():
    """`compute` scores all rows of `add_batch` and `add`."""
    predictions, references = noisy_rows(0.3)
    metric = Rouge()
    metric.add_batch(predictions=predictions[:50], references=references[:50])
    for prediction, texts in zip(predictions[50:], references[50:], strict=True):
        metric.add(prediction=prediction, reference=texts)
    assert metric.compute() == metric.compute(predictions=predictions, references=references)


def test_nothing_is_written(tmp_path, monkeypatch):
    """Neither a cache folder nor Arrow files."""
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for metric in (Rouge(), FreeText()):
        metric.compute(predictions=["a cat"], references=["a cat"])
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_no_rows_and_lists_of_different_lengths_are_refused(metric):
    """With one line each; the next call works."""
    with pytest.raises(ValueError, match=r"^`predictions` is empty: .*text$"):
        metric.compute(predictions=[], references=[])
    with pytest.raises(ValueError, match=r"^`references` has 1 rows and `predictions` 2: .*prediction$"):
        metric.compute(predictions=["a", "b"], references=["a"])
    with pytest.raises(ValueError, match=r"^`references` has 1 rows"):
        metric.row_scores(["a", "b"], ["a"])
    assert metric.compute(predictions=["a"], references=["a"])


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
@pytest.mark.parametrize("empty", [[], [" "], ["a", ""]], ids=str)
def test_an_empty_reference_is_refused_with_its_row(metric, empty):
    """By the metrics that need a gold answer; free text needs none."""
    refused = pytest.raises(ValueError, match=r"^`references\[1\]` is \[.*remove the row$")
    with refused if metric.needs_references else contextlib.nullcontext():
        metric.compute(predictions=["a", "b"], references=["a", empty])


def test_weights_are_repetitions():
    """Scores of weighted rows are the scores of a corpus in which the rows are repeated."""
    predictions, references = noisy_rows(0.3)
    for metric in METRICS:
        lowest = isinstance(metric, Classification)  # at least 1: labels that a resample lacks count nevertheless
        weights = np.random.default_rng(1).integers(lowest, 4, size=len(predictions))
        weighted = metric.scores(metric.statistics(predictions, references), weights)
        rows = np.repeat(np.arange(len(predictions)), weights)
        repeated = metric.statistics([predictions[row] for row in rows], [references[row] for row in rows])
        assert weighted == pytest.approx(metric.scores(repeated, np.ones(len(repeated))))


def test_intervals_cover_the_true_score_nineteen_times_in_twenty():
    """Accuracy of 100 rows, each correct with probability 0.7, in 200 trials: 95 % within sampling error."""
    generator, metric, covered = np.random.default_rng(0), Classification(), 0
    for _ in range(200):
        correct = (generator.random(100) < 0.7).astype(int)
        statistics = np.stack([correct, np.ones(100, int), correct], axis=1)
        (samples,) = bootstrap(metric.scores, [statistics], 300, SEED)
        low, high = np.percentile(samples["accuracy"], [2.5, 97.5])
        covered += low <= 0.7 <= high
    assert 180 <= covered <= 198


@pytest.mark.parametrize("share", [0.33, 0.36, 0.4], ids=str)
def test_p_values_are_those_of_sacrebleu(share, monkeypatch):
    """Both swap the systems on the same rows, so p-values are equal for differences of any size."""
    monkeypatch.delenv("SACREBLEU_SEED", raising=False)
    baseline, references = noisy_rows(0.3)
    system = noisy_rows(share)[0]
    system[0] = "something else"
    streams = [[texts[0] for texts in references]]
    named = [("baseline", baseline), ("system", system)]
    _, theirs = PairedTest(named, {"bleu": BLEU(), "chrf": CHRF()}, streams, test_type="ar", n_samples=1000)()
    ours = paired_test(Translation("de"), system, baseline, references)
    for name, key in (("BLEU", "bleu"), ("chrF2", "chrf")):
        before, after = theirs[name]
        assert ours[f"{key}_p_value"] == after.p_value
        assert ours[f"{key}_difference"] == pytest.approx(after.score - before.score, abs=1e-11 * after.score)
        assert ours[f"{key}_difference_ci95_low"] < ours[f"{key}_difference"] < ours[f"{key}_difference_ci95_high"]


def test_equal_systems_are_called_different_in_at_most_five_percent():
    """The p-value is two-sided; that of sacreBLEU's paired bootstrap would be below 0.05 in nearly 10 %."""
    generator, scores, called = np.random.default_rng(0), partial(weighted_means, ["accuracy"]), 0
    for seed in range(200):
        systems = [generator.integers(2, size=(100, 1)).astype(float) for _ in range(2)]
        called += paired_differences(scores, systems, 100, seed)["accuracy_p_value"] < 0.05
    assert called <= 13


def test_a_system_does_not_differ_from_itself():
    """The p-value is 1, although sacreBLEU's would be significant."""
    predictions, references = noisy_rows(0.3)
    for metric in METRICS:
        results = paired_test(metric, predictions, predictions, references, resamples=20)
        assert {value for name, value in results.items() if name.endswith("p_value")} == {1.0}
        assert {value for name, value in results.items() if not name.endswith("p_value")} == {0.0}


@pytest.mark.parametrize(
    ("score", "lower"),
    [("translation/ter", True), ("web_loss", True), ("chrf", False), ("letter", False), ("a/stereotype_share", None)],
)
def test_the_better_end_of_a_score_is_known_by_its_name(score, lower):
    """Training, searches and comparisons ask the same function; of a share of stereotypes neither end is better."""
    assert lower_is_better(score) is lower
