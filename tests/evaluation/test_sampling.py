"""Several sampled answers to each row: pass@k, the majority, intervals over rows."""

import itertools
import json

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from tiny import new_model, new_tokenizer

from hf_llm.arguments import DataArguments, EvalArguments, TaskArguments
from hf_llm.data.examples import ExamplesReport
from hf_llm.data.prompting import Prompter
from hf_llm.evaluation.answers import generate_answers
from hf_llm.evaluation.evaluations import Evaluation, check_evaluation, load_evaluations
from hf_llm.evaluation.results import compare_results
from hf_llm.evaluation.sampling import Sampling, majority, pass_at, sample_scores, score_answers, shown_answers
from hf_llm.evaluation.scoring import TaskResult, encode_task
from hf_llm.metrics.classification import Accuracy
from hf_llm.metrics.question_answering import QuestionAnswering
from hf_llm.metrics.rouge import Rouge
from hf_llm.metrics.tool_calls import ToolCalls
from hf_llm.tasks import load_task

ANSWERS = [["Rome", "Paris", "rome "], ["Oslo", "Bern", "Bern"], ["x", "y", "z"]]
GOLD = [["Rome"], ["Oslo"], ["w"]]


def test_pass_at_k_is_the_share_of_all_draws_with_a_right_answer():
    """Every choice of k of n answers is equally likely."""
    for samples, k in ((1, 1), (4, 1), (4, 3), (5, 5)):
        for right in range(samples + 1):
            draws = [*itertools.combinations([i < right for i in range(samples)], k)]
            assert pass_at(k, samples)[right] == pytest.approx(np.mean([any(draw) for draw in draws]))


def test_the_majority_counts_no_empty_answers_and_no_case():
    """Of equally frequent answers the first one counts; without any answer it is empty."""
    assert majority(["b", "a", "A", " a"]) == "a"
    assert majority(["b", "a"]) == "b" and majority(["", " "]) == "" and majority(["", "a"]) == "a"


def test_scores_are_means_over_all_answers_with_pass_at_k_and_the_majority():
    """On the scale of the metric; the interval is that of rows and not of answers."""
    scores, rows, statistics = score_answers(QuestionAnswering(), ANSWERS, GOLD, sampled=True)
    assert scores["exact_match"] == pytest.approx(100 / 3) and scores["pass@1"] == pytest.approx(100 / 3)
    assert scores["pass@2"] == pytest.approx(100 * (1 + 2 / 3) / 3) and scores["pass@3"] == pytest.approx(200 / 3)
    assert scores["maj@3"] == pytest.approx(100 / 3)
    assert [row["exact_match"] for row in rows] == pytest.approx([200 / 3, 100 / 3, 0])
    one_answer, _, _ = score_answers(Accuracy(), [["a"]] * 50 + [["b"]] * 50, [["a"]] * 100, sampled=False)
    same, _, _ = score_answers(Accuracy(), [["a"] * 8] * 50 + [["b"] * 8] * 50, [["a"]] * 100, sampled=True)
    for score in ("accuracy", "pass@4", "maj@8"):
        assert same[f"{score}_ci95_low"] == one_answer["accuracy_ci95_low"]
    weighted = sample_scores(QuestionAnswering(), statistics, np.array([0, 2, 0]))
    assert weighted["pass@1"] == pytest.approx(100 / 3) and weighted["maj@3"] == 0


def test_calls_of_tools_are_right_or_wrong_where_a_call_is_asked_for():
    """In the rows without one `pass@k` would count something else than the score `tool_calls`."""
    call, other = (json.dumps([{"name": "look", "arguments": {"at": animal}}]) for animal in ("goats", "cows"))
    answers, gold = [[call, other, other], [call, other, "goats"], ["four"] * 3], [[call], [other], ["four"]]
    scores, _, statistics = score_answers(ToolCalls(), answers, gold, sampled=True)
    assert [scores["tool_calls"], scores["pass@1"]] == pytest.approx([1 / 3] * 2) and scores["no_tool_calls"] == 1
    assert scores["pass@2"] == pytest.approx(2 / 3) and scores["pass@3"] == 1 and scores["maj@3"] == 0
    assert np.isnan(sample_scores(ToolCalls(), statistics, np.array([0, 0, 1]))["pass@2"])  # of a resample


def test_a_metric_without_right_and_wrong_has_means_only():
    """ROUGE of summaries has no pass@k."""
    scores, _, _ = score_answers(Rouge(), [["a cat", "a dog"]], [["a cat"]], sampled=True)
    assert scores["rouge1"] == pytest.approx(0.75) and not [name for name in scores if "@" in name]


def test_samples_depend_on_the_seed_alone():
    """Not on the batches; more samples begin with those of fewer, and no two rows or samples are drawn alike."""
    model = new_model(max_position_embeddings=256)
    model.generation_config.min_p = 1.0  # would leave one token to sample from, as would:
    model.generation_config.top_k = 1
    rows = Dataset.from_list([{"question": f"Document {i} {'?' * i}", "answers": ["one"]} for i in range(3)])
    task = load_task("question_answering", max_new_tokens=6)
    task.prepare(DatasetDict(validation=rows))
    encoded = encode_task(Prompter(new_tokenizer(), task, 128), rows)

    def sample(sampling=None, **options):
        prompts = encoded.prompts["prompt"]
        return generate_answers(model, encoded.prompter, prompts, sampling, show_progress=False, **options)[0]

    texts = sample(Sampling(3))
    assert texts == sample(Sampling(3), batch_size=2)
    assert [row[:2] for row in texts] == sample(Sampling(2)) != sample(Sampling(2, seed=43))
    assert len({text for row in texts for text in row}) == 9
    assert sample(Sampling(1, temperature=1e-4)) == sample()  # one by greedy search


def test_models_are_compared_by_all_their_samples():
    """A model does not differ from itself, and one that is right more often does."""
    metric = QuestionAnswering()
    results = []
    for answers in (ANSWERS, [ANSWERS[0], ["Oslo"] * 3, ANSWERS[2]]):
        scores, _, samples = score_answers(metric, answers, GOLD, sampled=True)
        results.append(TaskResult(scores, [{}] * 3, ExamplesReport(3, 0, 0, 0), samples=samples))
    first, second = results
    same = compare_results(metric, first, first)
    assert same["pass@2_difference"] == 0 and same["maj@3_p_value"] == 1
    better = compare_results(metric, second, first)
    assert better["exact_match_difference"] == pytest.approx(200 / 9) and better["maj@3_difference"] > 0
    assert shown_answers(ANSWERS[0], ["", "t", ""], sampled=True) == {
        "prediction": "Rome",
        "samples": ANSWERS[0],
        "thoughts": ["", "t", ""],
    }


def test_sampling_is_refused_where_nothing_is_sampled():
    """Choices are ranked, and the harness has settings of its own; results name how answers were sampled."""
    args = EvalArguments(model_name_or_path="m", num_samples=4, temperature=0.5)
    task_args = TaskArguments(task="bias")
    with pytest.raises(
        ValueError, match="`--num_samples` has no effect on bias, whose choices are ranked: leave it out"
    ):
        load_evaluations({"bias": (task_args, DataArguments(), args)})
    settings = Evaluation("bias", load_task("bias"), DatasetDict(), task_args, 64, args).settings()
    assert settings["num_samples"] == 4 and settings["temperature"] == 0.5 and settings["top_k"] == 0
    harness = EvalArguments(model_name_or_path="m", num_samples=4, harness=["arc_easy"])
    with pytest.raises(ValueError, match="`--num_samples` has no effect on tasks of `--harness`"):
        check_evaluation({}, harness)
