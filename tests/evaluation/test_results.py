"""Comparisons with a baseline are those of the metrics; results files have all figures and appear on rank 0."""

from functools import partial

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from recipe_runs import contents, read_json, read_json_lines

from hf_llm.arguments import EvalArguments, EvalTaskArguments, TaskArguments
from hf_llm.data.examples import ExamplesReport
from hf_llm.evaluation.evaluations import Evaluation
from hf_llm.evaluation.results import compare_and_save, compare_results, results_folder
from hf_llm.evaluation.scoring import TaskResult, weighted_perplexity
from hf_llm.metrics.base import paired_differences, paired_test
from hf_llm.metrics.classification import StereotypeShare
from hf_llm.tasks import load_task

REFERENCES = [["a"], ["b"], ["c"]]
new_args = partial(EvalArguments, model_name_or_path="folder/mine", seed=1, dtype="float32")


def new_result(answers, tokens=None):
    """A result with the given answers, and with losses if the completions' numbers of tokens are given."""
    scores = StereotypeShare().compute(predictions=list(answers), references=REFERENCES)
    rows = zip(answers, REFERENCES, strict=True)
    predictions = [{"prompt": "?", "prediction": answer, "references": gold} for answer, gold in rows]
    losses = None if tokens is None else np.array([(2.0 * number + i, number) for i, number in enumerate(tokens)])
    return TaskResult(scores, predictions, ExamplesReport(3, 0, 1, 5), losses)


def new_evaluation(name, args):
    return Evaluation(name, load_task("bias"), DatasetDict(), TaskArguments(task="bias"), 64, args)


def test_differences_are_those_of_the_paired_test(caplog):
    """Of the metric, and of the perplexities if both models have the same numbers of tokens; few rows are reported."""
    result, baseline = new_result("abx", [3, 4, 5]), new_result("axx", [3, 4, 5])
    expected = paired_test(StereotypeShare(), list("abx"), list("axx"), REFERENCES)
    with_perplexity = paired_differences(weighted_perplexity, [result.losses, baseline.losses])
    assert compare_results(StereotypeShare(), result, baseline) == expected | with_perplexity
    assert "3 rows are few: a bootstrap's intervals are too narrow below 100" in caplog.text
    assert compare_results(StereotypeShare(), result, new_result("axx", [3, 4, 6])) == expected
    assert "Perplexities are not compared" in caplog.text


def test_a_single_task_is_saved_to_the_output_folder(tmp_path):
    """Scores, those of the baseline, counts, differences, the models' names without folders, and the settings."""
    args = new_args(baseline="other/base", output_dir=str(tmp_path))
    result, baseline = new_result("abx"), new_result("axx")
    (differences,) = compare_and_save(args, [new_evaluation("bias", args)], [[result], [baseline]])
    assert differences == compare_results(StereotypeShare(), result, baseline)
    assert read_json_lines(tmp_path / "predictions.jsonl") == result.predictions
    assert read_json_lines(tmp_path / "baseline_predictions.jsonl") == baseline.predictions
    figures = result.scores | {f"baseline_{name}": value for name, value in baseline.scores.items()}
    figures |= {"eval_examples": 3, "eval_examples_dropped": 0, "eval_examples_shortened": 1, "eval_tokens_cut": 5}
    figures |= differences | {"model": "mine", "baseline": "base"}
    settings = {"task": "bias", "task_options": TaskArguments(task="bias").task_options, "prompt_style": None}
    settings |= {"chat_template": None, "system_prompt": None}
    figures["settings"] = settings | {"num_fewshot": 0, "max_length": 64, "seed": 1, "dtype": "float32"}
    saved = read_json(tmp_path / "eval_results.json")
    assert saved == figures and list(saved) == list(figures)


def test_an_evaluation_without_a_baseline_removes_the_predictions_of_an_earlier_one(tmp_path):
    """Otherwise they would look like those of this evaluation."""
    args = new_args(output_dir=str(tmp_path))
    (tmp_path / "baseline_predictions.jsonl").touch()
    assert compare_and_save(args, [new_evaluation("bias", args)], [[new_result("abx")]]) == [{}]
    assert set(contents(tmp_path)) == {"eval_results.json", "predictions.jsonl"}


def test_several_tasks_have_a_folder_each(tmp_path):
    """The file in the output folder holds the figures of all of them."""
    args = new_args(output_dir=str(tmp_path))
    evaluations = [new_evaluation(name, args) for name in ("one", "two")]
    compare_and_save(args, evaluations, [[new_result("abx"), new_result("axx")]])
    figures = {name: read_json(tmp_path / name / "eval_results.json") for name in ("one", "two")}
    assert read_json(tmp_path / "eval_results.json") == figures
    assert figures["one"]["stereotype_share"] == pytest.approx(2 / 3)
    assert read_json_lines(tmp_path / "two" / "predictions.jsonl") == new_result("axx").predictions


@pytest.mark.parametrize(
    ("output_dir", "folder"), [(None, "outputs/eval/Qwen3-1.7B-bias-spelling-pairs"), ("mine", "mine")]
)
def test_the_folder_is_named_after_model_and_tasks(output_dir, folder):
    """The files' endings are left out, the model's version number is kept; `--output_dir` comes first."""
    args = EvalArguments(model_name_or_path="models/Qwen3-1.7B", harness=["x/pairs.yaml"], output_dir=output_dir)
    assert results_folder(EvalTaskArguments(task=["bias", "configs/spelling.yaml"]), args) == folder


def test_the_settings_hold_the_options_that_the_data_decide():
    """Whether the prompt offers `unanswerable` depends on the rows of this evaluation."""
    task, task_args = load_task("question_answering"), TaskArguments(task="question_answering")
    evaluation = Evaluation("squad", task, DatasetDict(), task_args, 64, new_args())
    evaluation.task.prepare(DatasetDict({"validation": Dataset.from_list([{"question": "q", "answers": []}])}))
    assert evaluation.settings()["task_options"] == "offer_no_answer=true"
