"""finetune.py and eval.py as processes: every application trains, and its scores are those of one process."""

import json

import pytest
from finetuning_runs import APPLICATIONS, BAD_INPUTS, CONFIGS, TWO_RANKS
from recipe_runs import expect_success, read_json, read_json_lines
from safetensors.torch import load_file


@pytest.fixture
def said(short_tuning_runs):
    """Gives what a short run said, after a look at its exit status."""

    def read(name: str):
        run = short_tuning_runs.result()[0][name]
        assert run.status == 0, run.stderr
        return run

    return read


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_yaml_file_runs_offline(path, said, tuned):
    """A few steps on the offline sample; the folder holds a model and the results."""
    run = said(path.stem)
    folder = tuned / "new" / path.stem
    assert (folder / "model.safetensors").is_file() and "eval_loss" in read_json(folder / "eval_results.json")
    assert f"new/{path.stem}" in run.stdout


@pytest.mark.parametrize("name", APPLICATIONS)
def test_the_first_example_is_shown_with_what_is_trained_on_marked(name, said):
    """In double brackets, the end token included; logits of prompts are not computed."""
    assert "Logits are computed only where a label follows: for " in said(name).stderr
    shown = said(name).stderr.partition("First example, with what is trained on in [[ ]]:")[2]
    end = "<|im_end|>" if name == "chat" else "<|eos|>"
    assert "[[" in shown and f"{end}]]" in shown


@pytest.mark.parametrize("name", [*APPLICATIONS, "encoder", "encoder_lora"])
def test_scores_of_training_and_of_the_evaluation_recipe_are_equal(name, said, tuned):
    """The same folder, the same rows: every score with its interval, every prediction, to the last digit."""
    said(name), said(f"eval_{name}")
    trained, scored = tuned / "new" / name, tuned / "eval" / name
    assert read_json_lines(trained / "predictions.jsonl") == read_json_lines(scored / "predictions.jsonl")
    in_training, afterwards = read_json(trained / "eval_results.json"), read_json(scored / "eval_results.json")
    numbers = {key: value for key, value in afterwards.items() if f"eval_{key}" in in_training}
    assert numbers and {key: in_training[f"eval_{key}"] for key in numbers} == numbers
    assert any(key.endswith("_ci95_low") for key in numbers)


def test_the_last_line_of_stdout_is_the_result_for_a_program(said, tuned):
    """With `--json true` one object: the folder, and the metrics that its files have."""
    trained, scored = (json.loads(said(name).stdout.splitlines()[-1]) for name in ("encoder", "eval_encoder"))
    assert trained == {"output_dir": "new/encoder", "metrics": read_json(tuned / "new/encoder/all_results.json")}
    assert scored["output_dir"] == "eval/encoder" and "accuracy_ci95_low" in scored["metrics"]
    assert scored["metrics"].items() <= read_json(tuned / "eval/encoder/eval_results.json").items()
    assert '{"output_dir"' not in said("understanding").stdout


@pytest.mark.parametrize("name", APPLICATIONS)
def test_a_baseline_is_scored_on_the_same_rows_with_a_p_value(name, said, tuned):
    """Both lists of predictions are kept, with equal prompts and references."""
    assert "Difference" in said(f"eval_{name}").stdout
    folder = tuned / "eval" / name
    assert "6 rows are few: a bootstrap's intervals are too narrow below 100" in said(f"eval_{name}").stderr
    ours, theirs = (read_json_lines(folder / f"{of}predictions.jsonl") for of in ("", "baseline_"))
    assert [(row["prompt"], row["references"]) for row in ours] == [
        (row["prompt"], row["references"]) for row in theirs
    ]
    figures = read_json(folder / "eval_results.json")
    tested = [key.removesuffix("_p_value") for key in figures if key.endswith("_p_value")]
    assert (figures["model"], figures["baseline"]) == (name, "pretrain_tiny")
    assert figures["settings"]["task"] == name and figures["settings"]["num_fewshot"] == 0
    assert ("perplexity" in tested) if name == "generation" else tested
    for key in tested:
        assert figures[f"{key}_difference"] == pytest.approx(figures[key] - figures[f"baseline_{key}"])


def test_adapters_alone_are_saved_and_score_as_they_did_in_training(said, tuned):
    """A few kilobytes; the evaluation recipe puts them on their base."""
    said("lora"), said("dora"), said("qlora"), said("eval_lora")
    folder = tuned / "new" / "lora"
    assert (folder / "adapter_model.safetensors").is_file() and not (folder / "model.safetensors").exists()
    predictions = read_json_lines(folder / "predictions.jsonl")
    assert predictions == read_json_lines(tuned / "eval" / "lora" / "predictions.jsonl")
    assert "eval_loss" in read_json(folder / "eval_results.json")
    assert (tuned / "new" / "qlora" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("name", ["encoder", "encoder_lora"])
def test_an_encoder_is_tuned_with_a_new_head_that_is_said_in_a_line(name, said, tuned):
    """The labels are those of the data; transformers' own table of all new and unused weights is not printed."""
    new = "roberta_tiny` has no such classification head: classifier.dense.bias, "
    assert new in said(name).stderr and "LOAD REPORT" not in said(name).stderr + said(f"eval_{name}").stderr
    assert (new in said(f"eval_{name}").stderr) == (name == "encoder_lora")
    predicted = {row["prediction"] for row in read_json_lines(tuned / "new" / name / "predictions.jsonl")}
    config = read_json(tuned / "new" / name / ("config.json" if name == "encoder" else "head_config.json"))
    assert len(config["id2label"]) == 4 and predicted <= {*config["id2label"].values()}


def test_repeating_and_resuming_with_adapters_is_exact(said, tuned):
    """By its run.yaml, from the start or from the checkpoint in the middle, to the same bits."""
    names = ("lora", "lora_repeated", "lora_resumed")
    for name in names:
        said(name)
    ended, *others = ((tuned / "new" / name / "adapter_model.safetensors").read_bytes() for name in names)
    middle = (tuned / "new" / "lora" / "checkpoint-2" / "adapter_model.safetensors").read_bytes()
    assert others == [ended, ended] and ended != middle


def test_a_yaml_file_of_finetuning_says_how_to_score(said, tuned):
    """Several tasks have a folder each, and the scores of a name with its options given by hand."""
    said("translation"), said("eval_several")
    folder = tuned / "eval" / "several"
    assert read_json_lines(folder / "translation" / "predictions.jsonl") == read_json_lines(
        tuned / "new" / "translation" / "predictions.jsonl"
    )
    together = read_json(folder / "eval_results.json")
    assert set(together) == {"translation", "bias"}
    assert together["bias"] == read_json(folder / "bias" / "eval_results.json")


def test_the_harness_finds_the_same_likelier_sentences(said, tuned):
    """lm-evaluation-harness on the same model and rows, from a local task file: its accuracy is ours."""
    said("eval_several")
    said("eval_harness")
    assert (tuned / "outputs" / "eval" / "pretrain_tiny-pairs" / "harness_results.json").is_file()
    theirs = read_json(tuned / "eval" / "several" / "harness_results.json")
    ours = read_json(tuned / "eval" / "several" / "bias" / "eval_results.json")
    assert theirs["pairs_acc"] == ours["stereotype_share"]


@pytest.mark.parametrize("name", BAD_INPUTS)
def test_bad_input_is_one_line_and_status_2(name, short_tuning_runs):
    """The last line on stderr says what is wrong; no traceback, no table."""
    run = short_tuning_runs.result()[1][name]
    assert run.status == 2, run.stderr
    (line,) = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert run.stderr.splitlines()[-1] == line and "Traceback" not in run.stderr
    assert all(part in line for part in BAD_INPUTS[name][1]), line


def test_refused_runs_write_nothing(short_tuning_runs):
    """No result, not even half of one."""
    *_, before, after = short_tuning_runs.result()
    assert before == after


# Two ranks


@pytest.mark.parametrize("name", TWO_RANKS)
def test_scores_on_two_ranks_are_those_of_one_process(name, two_ranks, tuned):
    """Prediction by prediction, and every score to the last digit: greedy, float32."""
    expect_success(two_ranks[name])
    trained, scored = tuned / "new" / name, tuned / "eval" / name
    predictions = read_json_lines(trained / "predictions.jsonl")
    assert predictions == read_json_lines(scored / "predictions.jsonl")
    assert len(predictions) == 13 and len({row["prediction"] for row in predictions}) > 1
    in_training, afterwards = read_json(trained / "eval_results.json"), read_json(scored / "eval_results.json")
    metric = TWO_RANKS[name]["metric_for_best_model"]
    assert in_training[f"eval_{metric}"] == afterwards[metric]
    assert in_training[f"eval_{metric}_ci95_low"] == afterwards[f"{metric}_ci95_low"]


def test_ranks_share_the_rows_of_the_evaluation_recipe(scored_on_ranks, two_ranks, tuned):
    """Two processes without DeepSpeed write what one writes."""
    expect_success(two_ranks["zero2_written"]), expect_success(scored_on_ranks)
    for file in ("predictions.jsonl", "eval_results.json"):
        assert (tuned / "eval" / "on_ranks" / file).read_text() == (tuned / "eval" / "zero2_written" / file).read_text()


@pytest.mark.parametrize("name", TWO_RANKS)
def test_the_best_checkpoint_by_the_tasks_score_is_kept(name, two_ranks, tuned):
    """`metric_for_best_model` names a score of the task; the final folder holds the weights that reached it."""
    expect_success(two_ranks[name])
    folder = tuned / "new" / name
    state, key = read_json(folder / "trainer_state.json"), f"eval_{TWO_RANKS[name]['metric_for_best_model']}"
    scores = {entry["step"]: entry[key] for entry in state["log_history"] if key in entry}
    assert set(scores) >= {10, 20}
    assert state["best_metric"] == max(scores.values()) == scores[state["best_global_step"]]
    assert read_json(folder / "eval_results.json")[key] == state["best_metric"]


def test_adapters_under_zero3_train_as_in_one_process_and_resume_exactly(two_ranks, adapters_resumed, said, tuned):
    """The same losses for the same global batch, every tensor in full, and from the middle to the same bits."""
    expect_success(two_ranks["zero3_adapters"]), said("adapters_alone")
    zero3, one_process, resumed = (
        tuned / "new" / name for name in ("zero3_adapters", "adapters_alone", "adapters_resumed")
    )
    losses = [
        [entry["loss"] for entry in read_json(folder / "trainer_state.json")["log_history"] if "loss" in entry]
        for folder in (zero3, one_process)
    ]
    assert len(losses[0]) == 20 and losses[0] == pytest.approx(losses[1], rel=1e-5)
    weights = [load_file(folder / "checkpoint-20" / "adapter_model.safetensors") for folder in (zero3, one_process)]
    assert weights[0].keys() == weights[1].keys()
    assert all(weights[0][name].shape == tensor.shape for name, tensor in weights[1].items())

    expect_success(adapters_resumed)
    middle, ended, reached = (
        (folder / "adapter_model.safetensors").read_bytes()
        for folder in (zero3 / "checkpoint-10", zero3 / "checkpoint-20", resumed / "checkpoint-20")
    )
    assert reached == ended != middle
