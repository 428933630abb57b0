"""Every metric is an evaluate.Metric that leaves no files, refuses what has no score, and resamples rows honestly."""

import contextlib
import os

import evaluate
import numpy as np
import pytest
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import PairedTest

from hf_llm.metrics.base import SEED, bootstrap, paired_bootstrap
from hf_llm.metrics.classification import Classification
from hf_llm.metrics.question_answering import QuestionAnswering
from hf_llm.metrics.rouge import Rouge
from hf_llm.metrics.text import FreeText
from hf_llm.metrics.translation import Translation

METRICS = [Classification(), FreeText(), QuestionAnswering(), Rouge(), Translation("de", ter=True)]
WORDS = ["the", "a", "cat", "dog", "sat", "ran", "on", "mat", "and", "then", "it", "was", "very", "big", "small"]


def noisy_rows(share, num_rows=60):
    """Rows of eight words, and the same with a share of the words drawn anew."""
    draw = np.random.default_rng(0)
    texts = draw.choice(WORDS, size=(num_rows, 8))
    noisy = np.where(draw.random(texts.shape) < share, draw.choice(WORDS, size=texts.shape), texts)
    return [" ".join(row) for row in noisy], [[" ".join(row)] for row in texts]


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_compute_gives_floats_with_intervals_around_them(metric):
    """Through evaluate's own `compute`, with one string or several gold answers a row; the same in every run."""
    predictions, references = noisy_rows(0.3)
    results = metric.compute(predictions=predictions, references=references)
    assert isinstance(metric, evaluate.Metric)
    assert results == metric.compute(predictions=predictions, references=[texts[0] for texts in references])
    names = [name.removesuffix("_ci95_low") for name in results if name.endswith("_ci95_low")]
    assert names
    for name in names:
        assert all(type(results[key]) is float for key in (name, f"{name}_ci95_low", f"{name}_ci95_high"))
        assert results[f"{name}_ci95_low"] <= results[name] <= results[f"{name}_ci95_high"]


def test_batches_add_up():
    """`add_batch` and `add` then `compute` score all the rows."""
    predictions, references = noisy_rows(0.3)
    metric = Rouge()
    metric.add_batch(predictions=predictions[:50], references=references[:50])
    for prediction, texts in zip(predictions[50:], references[50:], strict=True):
        metric.add(prediction=prediction, reference=texts)
    assert metric.compute() == metric.compute(predictions=predictions, references=references)


def test_nothing_is_written(tmp_path, monkeypatch):
    """No cache folder, no Arrow files."""
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for metric in (Rouge(), FreeText()):
        metric.compute(predictions=["a cat"], references=["a cat"])
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_rows_that_have_no_score_are_refused(metric):
    """No rows, and lists of different lengths: one line each, and the next call works."""
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
    """Where a gold answer is needed; free text needs none."""
    refused = pytest.raises(ValueError, match=r"^`references\[1\]` is \[.*leave the row out$")
    with refused if metric.needs_references else contextlib.nullcontext():
        metric.compute(predictions=["a", "b"], references=["a", empty])


def test_weights_are_repetitions():
    """Scores of rows with weights are the scores of a corpus in which the rows are repeated."""
    predictions, references = noisy_rows(0.3)
    for metric in METRICS:
        fewest = isinstance(metric, Classification)  # a label that is left out altogether goes on counting
        weights = np.random.default_rng(1).integers(fewest, 4, size=len(predictions))
        weighted = metric.scores(metric.statistics(predictions, references), weights)
        rows = np.repeat(np.arange(len(predictions)), weights)
        repeated = metric.statistics([predictions[row] for row in rows], [references[row] for row in rows])
        assert weighted == pytest.approx(metric.scores(repeated, np.ones(len(repeated))))


def test_intervals_cover_the_true_score_nineteen_times_in_twenty():
    """Accuracy of 100 rows that are right with probability 0.7, over 200 draws: 95 % within sampling error."""
    draw, metric, covered = np.random.default_rng(0), Classification(), 0
    for _ in range(200):
        right = (draw.random(100) < 0.7).astype(int)
        statistics = np.stack([right, np.ones(100, int), right], axis=1)
        (samples,) = bootstrap(metric.scores, [statistics], 300, SEED)
        low, high = np.percentile(samples["accuracy"], [2.5, 97.5])
        covered += low <= 0.7 <= high
    assert 180 <= covered <= 198


@pytest.mark.parametrize("share", [0.3, 0.33, 0.4], ids=str)
def test_p_values_are_those_of_sacrebleu(share, monkeypatch):
    """The same draws, so the same p-value for differences of any size."""
    monkeypatch.delenv("SACREBLEU_SEED", raising=False)
    baseline, references = noisy_rows(0.3)
    system = noisy_rows(share)[0]
    system[0] = "something else"
    streams = [[texts[0] for texts in references]]
    named = [("baseline", baseline), ("system", system)]
    _, theirs = PairedTest(named, {"bleu": BLEU(), "chrf": CHRF()}, streams, test_type="bs", n_samples=1000)()
    ours = paired_bootstrap(Translation("de"), system, baseline, references)
    for name, key in (("BLEU", "bleu"), ("chrF2", "chrf")):
        before, after = theirs[name]
        assert ours[f"{key}_p_value"] == after.p_value
        assert ours[f"{key}_difference"] == pytest.approx(after.score - before.score, abs=1e-9)
        assert ours[f"{key}_difference_ci95_low"] < ours[f"{key}_difference"] < ours[f"{key}_difference_ci95_high"]


def test_a_system_does_not_differ_from_itself():
    """Where sacreBLEU would call the absence of any difference significant, p is 1."""
    predictions, references = noisy_rows(0.3)
    for metric in METRICS:
        results = paired_bootstrap(metric, predictions, predictions, references, resamples=20)
        assert {value for name, value in results.items() if name.endswith("p_value")} == {1.0}
        assert {value for name, value in results.items() if not name.endswith("p_value")} == {0.0}
