"""The fine-tuning and evaluation runs that the tests share. Each fixture is a Future, or several, of what was printed.

All runs that the selected tests need are started when the tests begin (`started` in conftest.py), two at a time.
"""

import json
import random
import shutil
from pathlib import Path

import pytest
import yaml
from recipe_runs import ROOT, contents, flags

from hf_llm.tasks import load_task, task_names

FINETUNE, EVAL, PRETRAIN = (ROOT / "recipes" / f"{name}.py" for name in ("finetune", "eval", "pretrain"))
BASE = "outputs/pretrain_tiny"
CONFIGS = sorted((ROOT / "recipes" / "configs").glob("*.yaml"))
APPLICATIONS = [name for name in task_names() if load_task(name).trainable]
CONFIG = {path.stem: yaml.safe_load(path.read_text()) for path in CONFIGS}
A_FEW_STEPS = {"max_steps": 3, "max_train_samples": 40, "max_eval_samples": 6, "bf16": "false", "save_strategy": "no"}
# What a YAML file says of prompts and answers, for the evaluation too.
AS_TRAINED = ("max_length", "task_options", "chat_template")
AS_TRAINED += ("prompt_template", "completion_template", "answer_pattern", "metric")
# In place of what the large models' files ask of a cluster and of the Hub.
ON_A_LAPTOP = A_FEW_STEPS | {
    "config_overrides": "hidden_size=32,num_hidden_layers=2,num_attention_heads=8",
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
    as_trained |= {name: config[name] for name in AS_TRAINED if name in config}
    return [EVAL, *flags({"model_name_or_path": model} | as_trained | settings | {"task": task})]


@pytest.fixture(scope="session")
def tuned(tmp_path_factory, tiny_base) -> Path:
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
        ["no column `translation` or `en`, only English, German: choose languages with `--task_options"],
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
        ["adapter `new/other_adapter` does not fit its base `", "outputs/pretrain_tiny`"],
    ),
    "no_rows": (
        evaluate("translation", BASE, validation_file="empty.jsonl"),
        ["empty.jsonl` is empty"],
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
    "missing_yaml_file": (evaluate("nope.yaml", BASE), ["`--task` nope.yaml: there is no such file"]),
    "nothing_to_score": ([EVAL, "--model_name_or_path", BASE], ["nothing to score: give `--task` or `--harness`"]),
    "nothing_to_train_on": (
        finetune("translation", validation_file="good.jsonl"),
        ["there is nothing to train on: give `--train_file`"],
    ),
    "push_of_an_adapter_on_a_local_base": (
        finetune("translation", lora_r=2, push_to_hub=True, hub_model_id="user/adapter"),
        ["`--push_to_hub` would publish adapters on the local base `", "outputs/pretrain_tiny`"],
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
        ["`--num_fewshot` 5: `train` has 0 different prompts to draw from that are not in `validation`"],
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


@pytest.fixture(scope="session")
def short_tuning_runs(processes, tuned, tmp_path_factory):
    """Every short run, one after the other: what each printed, and the files before and after the bad ones.

    The bad ones run in a folder of their own, as other runs write to `tuned` at the same time.
    """
    refused = tmp_path_factory.mktemp("refused")
    jobs = {name: finetune(name, output_dir=f"new/{name}") for name in APPLICATIONS}
    saving = {"lora_r": 4, "max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    jobs["lora"] = finetune("translation", **saving, output_dir="new/lora")
    for name, more in (("lora_repeated", {}), ("lora_resumed", {"resume_from_checkpoint": "new/lora/checkpoint-2"})):
        jobs[name] = [FINETUNE, *flags({"config": "new/lora/run.yaml", "output_dir": f"new/{name}"} | more)]
    jobs["dora"] = finetune("translation", lora_r=4, use_dora=True, output_dir="new/dora")
    jobs["qlora"] = finetune("translation", lora_r=4, load_in_4bit=True, output_dir="new/qlora")
    alone = LEARNING | WRITTEN | ADAPTERS | {"per_device_train_batch_size": 4}
    jobs["adapters_alone"] = finetune(**alone, output_dir="new/adapters_alone")
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
    encoder = {"model_name_or_path": "new/pretrain_roberta_tiny", "max_length": 60, "json": "true"}
    for name, more in (("encoder", {}), ("encoder_lora", {"lora_r": 2})):
        jobs[name] = finetune("understanding", **encoder, **more, output_dir=f"new/{name}")
        options = {"max_length": 60, "output_dir": f"eval/{name}", "json": "true"}
        jobs[f"eval_{name}"] = evaluate("understanding", f"new/{name}", **options)
    jobs["eval_lora"] = evaluate("translation", "new/lora", output_dir="eval/lora")
    several = [*flags({"model_name_or_path": "new/translation", "dtype": "float32", "batch_size": 16}), "--task"]
    several += [ROOT / "recipes" / "configs" / "translation.yaml", "bias", "--harness", "pairs.yaml"]
    jobs["eval_harness"] = [EVAL, *flags({"model_name_or_path": BASE, "harness": "pairs.yaml", "max_eval_samples": 6})]
    jobs["eval_several"] = [EVAL, *several, *flags({"max_eval_samples": 6, "output_dir": "eval/several"})]

    def run():
        said = processes.fork_each(jobs, tuned)
        weights = tuned / "new" / "other_adapter" / "adapter_config.json"
        weights.write_text(weights.read_text().replace('"r": 2', '"r": 3'))
        for folder in ("outputs", "new/lora", "new/other_adapter"):
            shutil.copytree(tuned / folder, refused / folder)
        for file in tuned.glob("*.*"):
            shutil.copy(file, refused)
        before = contents(refused)
        bad = {name: [*command, "--output_dir", f"bad/{name}"] for name, (command, _) in BAD_INPUTS.items()}
        return said, processes.fork_each(bad, refused), before, contents(refused)

    return processes.submit(run)


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
WRITTEN = {"application": "translation", "metric_for_best_model": "chrf", "task_options": "max_new_tokens=24"}
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


def on_two_ranks(name: str, **more) -> dict:
    """The settings of such a run, with its application among them."""
    config = ROOT / "ds_configs" / f"{TWO_RANKS[name]['deepspeed']}.json"
    return LEARNING | TWO_RANKS[name] | {"deepspeed": config, "output_dir": f"new/{name}"} | more


@pytest.fixture(scope="session")
def two_ranks(processes, tuned):
    """name -> Future of the run: fine-tuning on two ranks under DeepSpeed, then the evaluation recipe on its folder."""

    def run(name):
        settings = on_two_ranks(name)
        application = settings.pop("application")
        command = finetune(application, **settings)
        if name.endswith("in_step"):  # weights are gathered layer by layer, and the ranks call the model together
            command = [ROOT / "tests" / "scarce_memory.py", *command]
        training = processes.fork(command, tuned, ranks=2)
        assert training.status == 0, training.stderr
        assert ("gathered layer by layer" in training.stderr) == name.endswith("in_step")
        as_trained = {"max_eval_samples": 13, "batch_size": 4, "output_dir": f"eval/{name}"}
        as_trained |= {key: settings[key] for key in [*FILES, "task_options"] if key in settings}
        return processes.fork(evaluate(application, f"new/{name}", **as_trained), tuned)

    return {name: processes.submit(run, name) for name in TWO_RANKS}


@pytest.fixture(scope="session")
def scored_on_ranks(processes, two_ranks, tuned):
    """The evaluation recipe on two ranks of a real torchrun, without DeepSpeed, on what `zero2_written` trained."""

    def run():
        two_ranks["zero2_written"].result()
        settings = {"max_eval_samples": 13, "batch_size": 4, "task_options": WRITTEN["task_options"]}
        command = evaluate("translation", "new/zero2_written", **settings, output_dir="eval/on_ranks")
        return processes.run(["torchrun", "--standalone", "--nproc_per_node", 2, *command], tuned)

    return processes.submit(run)


@pytest.fixture(scope="session")
def adapters_resumed(processes, two_ranks, tuned):
    """`zero3_adapters` once more, from its checkpoint in the middle."""

    def run():
        two_ranks["zero3_adapters"].result()
        again = {"resume_from_checkpoint": "new/zero3_adapters/checkpoint-10", "output_dir": "new/adapters_resumed"}
        return processes.fork(finetune(**on_two_ranks("zero3_adapters", **again)), tuned, ranks=2)

    return processes.submit(run)
