"""finetune.py and eval.py as processes: every application trains, and its scores are those of one process."""

import json
import random
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from recipe_runs import ROOT, contents, expect_success, flags, read_json, read_json_lines
from safetensors.torch import load_file

from hf_llm.tasks import load_task, task_names

FINETUNE, EVAL, PRETRAIN = (ROOT / "recipes" / f"{name}.py" for name in ("finetune", "eval", "pretrain"))
BASE = "outputs/pretrain_tiny"
CONFIGS = sorted((ROOT / "recipes" / "configs").glob("*.yaml"))
APPLICATIONS = [name for name in task_names() if load_task(name).trainable]
CONFIG = {path.stem: yaml.safe_load(path.read_text()) for path in CONFIGS}
A_FEW_STEPS = {"max_steps": 3, "max_train_samples": 40, "max_eval_samples": 6, "bf16": "false", "save_strategy": "no"}
# In place of what the large models' files ask of a cluster and of the Hub.
ON_A_LAPTOP = A_FEW_STEPS | {
    "config_overrides": "hidden_size=32,num_hidden_layers=2,num_attention_heads=2",
    "tokenizer_name": BASE,
    "dataset_name": "python_docs",
    "max_length": 64,
    "max_train_samples": 4,
    "gradient_accumulation_steps": 1,
    "deepspeed": "",
    "torch_compile": "false",
    "dataloader_num_workers": 0,
}


def finetune(application: str, **settings) -> list:
    """The README's command on a sample of the sample; `settings` come last and so override it."""
    config = ROOT / "recipes" / "configs" / f"{application}.yaml"
    return [FINETUNE, "--config", config, *flags(A_FEW_STEPS | settings)]


def evaluate(task: str, model: str, **settings) -> list:
    """The evaluation recipe with what the application's own file says of prompts and batches."""
    config = {"max_length": 512, "task_options": "", "per_device_eval_batch_size": 16} | CONFIG.get(task, {})
    as_trained = {"batch_size": config["per_device_eval_batch_size"], "max_eval_samples": 6, "dtype": "float32"}
    as_trained |= {name: config[name] for name in ("max_length", "task_options")}
    return [EVAL, *flags({"model_name_or_path": model} | as_trained | settings | {"task": task})]


@pytest.fixture(scope="module")
def work(tmp_path_factory, tiny_base) -> Path:
    """The folder that all recipes run in; `outputs/pretrain_tiny` is there as if the first command had run."""
    folder = tmp_path_factory.mktemp("finetuning")
    shutil.copytree(tiny_base, folder / BASE)
    rows = {
        "good": [{"translation": {"en": "one", "de": "eins"}}, {"translation": {"en": "two", "de": "zwei"}}],
        "no_column": [{"English": "one", "German": "eins"}],
        "no_pair": [{"translation": {"en": "one", "fr": "un"}}],
        "no_reference": [{"document": "Long text.", "summary": "Short."}, {"document": "Another.", "summary": " "}],
        "labels": [{"text": "Fine.", "label": "good"}, {"text": "Hm.", "label": "unsure"}],
        "long": [{"document": "Long text.", "summary": "word " * 400}],
    }
    for name, of_file in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in of_file))
    (folder / "empty.jsonl").write_text("")
    in_a_file = {"task": "summarization", "validation_file": "no_reference.jsonl", "max_length": 512}
    (folder / "no_reference.yaml").write_text(yaml.dump(in_a_file))
    (folder / "two.yaml").write_text(yaml.dump({"task": ["summarization", "bias"]}))
    draw = random.Random(0)
    for part, number in (("train", 260), ("validation", 40)):
        labels = draw.choices(list(WORDS_OF), k=number)
        rows = [{"text": " ".join(draw.choices(WORDS_OF[label].split(), k=5)), "label": label} for label in labels]
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs = load_task("bias").sample()["validation"]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    (folder / "pairs.yaml").write_text(yaml.dump(PAIRS_FOR_THE_HARNESS))
    return folder


# Labels that a tiny model learns in a few steps.
WORDS_OF = {"weather": "rain sun wind storm", "animals": "cat dog horse bird", "food": "bread cheese apple soup"}
# The task `bias` as lm-evaluation-harness has such tasks.
PAIRS_FOR_THE_HARNESS = {
    "task": "pairs",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"validation": "pairs.jsonl"}},
    "validation_split": "validation",
    "output_type": "multiple_choice",
    "doc_to_text": "",
    "doc_to_choice": "{{[sent_more, sent_less]}}",
    "doc_to_target": 0,
    "target_delimiter": "",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}

# One line each: a recipe's command, and what the line on stderr must hold.
BAD_INPUTS = {
    "missing_column": (
        evaluate("translation", BASE, validation_file="no_column.jsonl"),
        ["`validation` has no column `translation`, only English, German: choose with `--column_mapping"],
    ),
    "missing_language": (
        evaluate("translation", BASE, validation_file="no_pair.jsonl"),
        ["no_pair.jsonl` line 1: no `de` in `translation`, only en, fr: choose with `--task_options`"],
    ),
    "empty_reference": (
        evaluate("summarization", BASE, validation_file="no_reference.jsonl"),
        ["no_reference.jsonl` line 2: the reference is empty"],
    ),
    "label_not_among_the_choices": (
        evaluate(
            "understanding", "outputs/pretrain_tiny", validation_file="labels.jsonl", task_options="labels=good|bad"
        ),
        ["labels.jsonl` line 2: label `unsure` is not among the choices good, bad"],
    ),
    "completion_too_long": (
        finetune("summarization", train_file="long.jsonl", validation_file="long.jsonl", max_length=256),
        ["long.jsonl` line 1: a completion of ", " tokens does not fit in `--max_length` 256"],
    ),
    "adapter_of_another_base": (
        evaluate("translation", "new/other_adapter"),
        ["adapter `new/other_adapter` does not fit its base `outputs/pretrain_tiny`"],
    ),
    "no_rows": (
        evaluate("translation", BASE, validation_file="empty.jsonl"),
        ["`--validation_file` empty.jsonl holds no row"],
    ),
    "one_place_for_two_results": (
        [*evaluate("translation", BASE), ROOT / "recipes" / "configs" / "translation.yaml"],
        ["`--task` has `translation` twice"],
    ),
    "no_model": ([FINETUNE, "--task", "translation"], ["there is no model to start from: give `--model_name_or_path`"]),
    "missing_baseline": (
        evaluate("translation", BASE, baseline="a/b/c"),
        ["cannot load a tokenizer from `a/b/c`: there is no such folder or file"],
    ),
    "unknown_task_of_the_harness": (
        evaluate("translation", BASE, harness="nope"),
        ["`--harness` nope: Tasks not found: nope"],
    ),
    "second_task_with_a_bad_row": (
        [*evaluate("bias", BASE), "no_reference.yaml"],
        ["no_reference.jsonl` line 2: the reference is empty"],
    ),
    "yaml_file_with_two_tasks": (evaluate("two.yaml", BASE), ["`--task` two.yaml: its `task` names several"]),
    "missing_yaml_file": (evaluate("nope.yaml", BASE), ["`--task` nope.yaml cannot be read"]),
    "nothing_to_score": ([EVAL, "--model_name_or_path", BASE], ["nothing to score: give `--task` or `--harness`"]),
    "nothing_to_train_on": (
        finetune("translation", validation_file="good.jsonl"),
        ["there is nothing to train on: give `--train_file`"],
    ),
    "push_of_an_adapter_on_a_local_base": (
        finetune("translation", lora_r=2, push_to_hub=True, hub_model_id="user/adapter"),
        ["`--push_to_hub` would publish adapters on the local base `outputs/pretrain_tiny`"],
    ),
    "resuming_with_another_scale": (
        finetune("translation", lora_r=4, lora_alpha=99, max_steps=4, resume_from_checkpoint="new/lora/checkpoint-2"),
        ["`new/lora/checkpoint-2` is of another run: ", "lora_alpha was 8 and is 99"],
    ),
    "unknown_task": (
        evaluate("translate", "outputs/pretrain_tiny"),
        ["`--task` translate is not known: there are bias"],
    ),
    "nothing_to_learn": (finetune("summarization", task="bias"), ["`--task` bias", "only evaluated"]),
    "template_that_is_missing": (finetune("translation", prompt_style="chat"), ["`--prompt_style` chat", "use plain"]),
    "more_solved_examples_than_rows": (
        finetune("translation", train_file="good.jsonl", validation_file="good.jsonl", num_fewshot=5),
        ["`--num_fewshot` 5: `train` has 0 different rows to draw from, and one must be left"],
    ),
    "four_bits_in_parts": (
        finetune("translation", lora_r=4, load_in_4bit=True, deepspeed=ROOT / "ds_configs" / "zero3.json"),
        ["`--load_in_4bit` does not work with ZeRO-3 on CPU ranks", "zero2.json"],
    ),
    "adapter_options_alone": (finetune("translation", use_dora=True), ["give `--lora_r` too"]),
    "best_by_no_metric": (
        finetune("translation", metric_for_best_model="blue", eval_strategy="steps", early_stopping_patience=1),
        ["`--metric_for_best_model` blue", "nearest is bleu"],
    ),
}


@pytest.fixture(scope="module")
def forked(processes, work):
    """Every short run, one after the other: what each said, and the files before and after the bad ones."""
    jobs = {name: finetune(name, output_dir=f"new/{name}") for name in APPLICATIONS}
    saving = {"lora_r": 4, "max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    jobs["lora"] = finetune("translation", **saving, output_dir="new/lora")
    jobs["lora_resumed"] = finetune(
        "translation", **saving, resume_from_checkpoint="new/lora/checkpoint-2", output_dir="new/lora_resumed"
    )
    jobs["dora"] = finetune("translation", lora_r=4, use_dora=True, output_dir="new/dora")
    jobs["qlora"] = finetune("translation", lora_r=4, load_in_4bit=True, output_dir="new/qlora")
    alone = LEARNING | ADAPTERS | {"per_device_train_batch_size": 4, "output_dir": "new/adapters_alone"}
    jobs["adapters_alone"] = finetune("translation", **alone, metric_for_best_model="chrf")
    jobs["other_adapter"] = finetune("translation", lora_r=2, output_dir="new/other_adapter")
    for path in CONFIGS:
        if path.stem not in task_names():
            settings = ON_A_LAPTOP | {"output_dir": f"new/{path.stem}"}
            if CONFIG[path.stem].get("objective") == "masked":
                del settings["tokenizer_name"]  # which has no mask
            jobs[path.stem] = [PRETRAIN, "--config", path, *flags(settings)]
    for name in APPLICATIONS:
        against = {"baseline": BASE, "output_dir": f"eval/{name}"}
        jobs[f"eval_{name}"] = evaluate(name, f"new/{name}", **against)
    jobs["eval_lora"] = evaluate("translation", "new/lora", output_dir="eval/lora")
    several = [*flags({"model_name_or_path": "new/translation", "dtype": "float32", "batch_size": 16}), "--task"]
    several += [ROOT / "recipes" / "configs" / "translation.yaml", "bias", "--harness", "pairs.yaml"]
    jobs["eval_harness"] = [EVAL, *flags({"model_name_or_path": BASE, "harness": "pairs.yaml", "max_eval_samples": 6})]
    jobs["eval_several"] = [EVAL, *several, *flags({"max_eval_samples": 6, "output_dir": "eval/several"})]

    def run():
        said = processes.run_forked(jobs, work)
        weights = work / "new" / "other_adapter" / "adapter_config.json"
        weights.write_text(weights.read_text().replace('"r": 2', '"r": 3'))
        before = contents(work)
        bad = {name: [*command, "--output_dir", f"bad/{name}"] for name, (command, _) in BAD_INPUTS.items()}
        return said, processes.run_forked(bad, work), before, contents(work)

    return processes.submit(run)


@pytest.fixture
def said(forked):
    """Gives what a short run said, after a look at its exit status."""

    def read(name: str):
        run = forked.result()[0][name]
        assert run.status == 0, run.stderr
        return run

    return read


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_yaml_file_runs_offline(path, said, work):
    """A few steps on the offline sample; the folder holds a model and the results."""
    run = said(path.stem)
    folder = work / "new" / path.stem
    assert (folder / "model.safetensors").is_file() and "eval_loss" in read_json(folder / "eval_results.json")
    assert f"new/{path.stem}" in run.stdout


@pytest.mark.parametrize("name", APPLICATIONS)
def test_the_first_example_is_shown_with_what_is_trained_on_marked(name, said):
    """In double brackets, the end token included; logits of prompts are not computed."""
    assert "Logits are computed only where a label follows: for " in said(name).stderr
    shown = said(name).stderr.partition("First example, trained on what stands in [[ ]]:")[2]
    assert "[[" in shown and "<|eos|>]]" in shown


@pytest.mark.parametrize("name", APPLICATIONS)
def test_scores_of_training_and_of_the_evaluation_recipe_are_equal(name, said, work):
    """The same folder, the same rows: every score with its interval, every prediction, to the last digit."""
    said(name), said(f"eval_{name}")
    trained, scored = work / "new" / name, work / "eval" / name
    assert read_json_lines(trained / "predictions.jsonl") == read_json_lines(scored / "predictions.jsonl")
    in_training, alone = read_json(trained / "eval_results.json"), read_json(scored / "eval_results.json")
    numbers = {key: value for key, value in alone.items() if f"eval_{key}" in in_training}
    assert numbers and {key: in_training[f"eval_{key}"] for key in numbers} == numbers
    assert any(key.endswith("_ci95_low") for key in numbers)


@pytest.mark.parametrize("name", APPLICATIONS)
def test_a_baseline_is_scored_on_the_same_rows_with_a_p_value(name, said, work):
    """Both lists of predictions are kept, with equal prompts and references."""
    assert "Difference" in said(f"eval_{name}").stdout
    folder = work / "eval" / name
    assert "6 rows are few: a bootstrap's p-values are too low below 100" in said(f"eval_{name}").stderr
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


def test_adapters_alone_are_saved_and_score_as_they_did_in_training(said, work):
    """A few kilobytes; the evaluation recipe puts them on their base."""
    said("lora"), said("dora"), said("qlora"), said("eval_lora")
    folder = work / "new" / "lora"
    assert (folder / "adapter_model.safetensors").is_file() and not (folder / "model.safetensors").exists()
    predictions = read_json_lines(folder / "predictions.jsonl")
    assert predictions == read_json_lines(work / "eval" / "lora" / "predictions.jsonl")
    assert "eval_loss" in read_json(folder / "eval_results.json")
    assert (work / "new" / "qlora" / "adapter_model.safetensors").is_file()


def test_resuming_with_adapters_is_exact(said, work):
    """From the checkpoint in the middle to the same bits."""
    said("lora"), said("lora_resumed")
    ended, resumed = (
        (work / "new" / name / "adapter_model.safetensors").read_bytes() for name in ("lora", "lora_resumed")
    )
    middle = (work / "new" / "lora" / "checkpoint-2" / "adapter_model.safetensors").read_bytes()
    assert ended == resumed != middle


def test_a_yaml_file_of_finetuning_says_how_to_score(said, work):
    """Several tasks have a folder each, and the scores of a name with its options given by hand."""
    said("translation"), said("eval_several")
    folder = work / "eval" / "several"
    assert read_json_lines(folder / "translation" / "predictions.jsonl") == read_json_lines(
        work / "new" / "translation" / "predictions.jsonl"
    )
    together = read_json(folder / "eval_results.json")
    assert set(together) == {"translation", "bias"}
    assert together["bias"] == read_json(folder / "bias" / "eval_results.json")


def test_the_harness_finds_the_same_likelier_sentences(said, work):
    """lm-evaluation-harness on the same model and rows, from a local task file: its accuracy is ours."""
    said("eval_several")
    said("eval_harness")
    assert (work / "outputs" / "eval" / "pretrain_tiny-pairs" / "harness_results.json").is_file()
    theirs = read_json(work / "eval" / "several" / "harness_results.json")
    ours = read_json(work / "eval" / "several" / "bias" / "eval_results.json")
    assert theirs["pairs_acc"] == ours["stereotype_share"]


@pytest.mark.parametrize("name", BAD_INPUTS)
def test_bad_input_is_one_line_and_status_2(name, forked):
    """The last line on stderr says what is wrong; no traceback, no table."""
    run = forked.result()[1][name]
    assert run.status == 2, run.stderr
    (line,) = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert run.stderr.splitlines()[-1] == line and "Traceback" not in run.stderr
    assert all(part in line for part in BAD_INPUTS[name][1]), line


def test_refused_runs_write_nothing(forked):
    """No result, not even half of one."""
    *_, before, after = forked.result()
    assert before == after


# Two ranks

LEARNING = {
    "max_train_samples": 400,
    "max_eval_samples": 13,
    "max_steps": 30,
    "learning_rate": 0.01,
    "eval_strategy": "steps",
    "eval_steps": 10,
    "save_strategy": "steps",
    "save_steps": 10,
    "load_best_model_at_end": True,
    "per_device_eval_batch_size": 4,
}
FILES = {"train_file": "train.jsonl", "validation_file": "validation.jsonl"}
RANKED = FILES | {"application": "understanding", "metric_for_best_model": "accuracy"}
WRITTEN = {"application": "translation", "metric_for_best_model": "chrf"}
# Within the first epoch: at the end of one, ranks fill their batches up with rows from its start.
ADAPTERS = {"lora_r": 8, "use_dora": True, "max_steps": 20, "logging_steps": 1, "per_device_train_batch_size": 2}
TWO_RANKS = {
    "zero2_written": WRITTEN | {"deepspeed": "zero2"},
    "zero3_written": WRITTEN | {"deepspeed": "zero3"},
    "zero3_ranked": RANKED | {"deepspeed": "zero3"},
    "zero3_adapters": WRITTEN | ADAPTERS | {"deepspeed": "zero3"},
    "zero3_written_in_step": WRITTEN | {"deepspeed": "zero3", "max_steps": 20},
    "zero3_ranked_in_step": RANKED | {"deepspeed": "zero3", "max_steps": 20},
}
LAUNCHER = ["torchrun", "--standalone", "--nproc_per_node", 2]


def on_two_ranks(name: str, **more) -> dict:
    """The settings of such a run, with its application among them."""
    config = ROOT / "ds_configs" / f"{TWO_RANKS[name]['deepspeed']}.json"
    return LEARNING | TWO_RANKS[name] | {"deepspeed": config, "output_dir": f"new/{name}"} | more


@pytest.fixture(scope="module")
def two_ranks(processes, work):
    """name -> Future of the run: fine-tuning on two ranks under DeepSpeed, then the evaluation recipe on its folder."""

    def run(name):
        settings = on_two_ranks(name)
        application = settings.pop("application")
        launcher = [*LAUNCHER]
        if name.endswith("in_step"):  # weights are gathered layer by layer, and the ranks call the model together
            launcher.append(ROOT / "tests" / "scarce_memory.py")
        tuned = processes.run([*launcher, *finetune(application, **settings)], work)
        assert tuned.status == 0, tuned.stderr
        assert ("gathered layer by layer" in tuned.stderr) == name.endswith("in_step")
        as_trained = {"max_eval_samples": 13, "batch_size": 4, "output_dir": f"eval/{name}"}
        as_trained |= {key: settings[key] for key in FILES if key in settings}
        return processes.run([sys.executable, *evaluate(application, f"new/{name}", **as_trained)], work)

    return {name: processes.submit(run, name) for name in TWO_RANKS}


@pytest.mark.parametrize("name", TWO_RANKS)
def test_scores_on_two_ranks_are_those_of_one_process(name, two_ranks, work):
    """Prediction by prediction, and every score to the last digit: greedy, float32."""
    expect_success(two_ranks[name])
    trained, scored = work / "new" / name, work / "eval" / name
    predictions = read_json_lines(trained / "predictions.jsonl")
    assert predictions == read_json_lines(scored / "predictions.jsonl")
    assert len(predictions) == 13 and len({row["prediction"] for row in predictions}) > 1
    in_training, alone = read_json(trained / "eval_results.json"), read_json(scored / "eval_results.json")
    metric = TWO_RANKS[name]["metric_for_best_model"]
    assert in_training[f"eval_{metric}"] == alone[metric]
    assert in_training[f"eval_{metric}_ci95_low"] == alone[f"{metric}_ci95_low"]


def test_ranks_share_the_rows_of_the_evaluation_recipe(processes, two_ranks, work):
    """Two processes without DeepSpeed write what one writes."""
    expect_success(two_ranks["zero2_written"])
    settings = {"max_eval_samples": 13, "batch_size": 4, "output_dir": "eval/on_ranks"}
    run = processes.run([*LAUNCHER, *evaluate("translation", "new/zero2_written", **settings)], work)
    assert run.status == 0, run.stderr
    for file in ("predictions.jsonl", "eval_results.json"):
        assert (work / "eval" / "on_ranks" / file).read_text() == (work / "eval" / "zero2_written" / file).read_text()


@pytest.mark.parametrize("name", TWO_RANKS)
def test_the_best_checkpoint_by_the_tasks_score_is_kept(name, two_ranks, work):
    """`metric_for_best_model` names a score of the task; the final folder holds the weights that reached it."""
    expect_success(two_ranks[name])
    folder = work / "new" / name
    state, key = read_json(folder / "trainer_state.json"), f"eval_{TWO_RANKS[name]['metric_for_best_model']}"
    scores = {entry["step"]: entry[key] for entry in state["log_history"] if key in entry}
    assert set(scores) >= {10, 20}
    assert state["best_metric"] == max(scores.values()) == scores[state["best_global_step"]]
    assert read_json(folder / "eval_results.json")[key] == state["best_metric"]


def test_adapters_under_zero3_train_as_in_one_process_and_resume_exactly(processes, two_ranks, said, work):
    """The same losses for the same global batch, every tensor in full, and from the middle to the same bits."""
    expect_success(two_ranks["zero3_adapters"]), said("adapters_alone")
    parted, alone, resumed = (work / "new" / name for name in ("zero3_adapters", "adapters_alone", "adapters_resumed"))
    losses = [
        [entry["loss"] for entry in read_json(folder / "trainer_state.json")["log_history"] if "loss" in entry]
        for folder in (parted, alone)
    ]
    assert len(losses[0]) == 20 and losses[0] == pytest.approx(losses[1], abs=1e-5)
    weights = [load_file(folder / "checkpoint-20" / "adapter_model.safetensors") for folder in (parted, alone)]
    assert weights[0].keys() == weights[1].keys()
    assert all(weights[0][name].shape == tensor.shape for name, tensor in weights[1].items())

    again = on_two_ranks("zero3_adapters", resume_from_checkpoint=parted / "checkpoint-10", output_dir=resumed)
    run = processes.run([*LAUNCHER, *finetune(**again)], work)
    assert run.status == 0, run.stderr
    middle, ended, reached = (
        (folder / "adapter_model.safetensors").read_bytes()
        for folder in (parted / "checkpoint-10", parted / "checkpoint-20", resumed / "checkpoint-20")
    )
    assert reached == ended != middle
