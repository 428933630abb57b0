"""Every recipe run as a process: what it does, what it leaves behind, and how it refuses bad input. No network, no GPU.

All processes that the selected tests look at are started at once, two at a time; each test waits for its own.
"""

import ast
import dataclasses
import hashlib
import json
import math
import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
import transformers
from hub_server import HubServer
from recipe_runs import RECIPES, ROOT, contents, expect_success, flags, read_json
from safetensors.torch import load_file

from hf_llm import arguments
from hf_llm.training.checkpoints import complete_checkpoints

PRETRAIN, GENERATE = ROOT / "recipes" / "pretrain.py", ROOT / "recipes" / "generate.py"
TOKEN = "hf_" + "ThisTokenIsASecret" * 2

NEW_MODEL = {
    "config_overrides": "hidden_size=32,intermediate_size=64,num_hidden_layers=2,num_attention_heads=2,"
    "num_key_value_heads=2",
    "vocab_size": 300,
}
OPT = {
    "model_type": "opt",
    "config_overrides": "hidden_size=32,ffn_dim=64,num_hidden_layers=2,num_attention_heads=2,word_embed_proj_dim=32",
}
TRAINING = {
    "max_length": 64,
    "max_steps": 60,
    "per_device_train_batch_size": 4,
    "learning_rate": 0.01,
    "logging_steps": 10,
    "save_strategy": "steps",
    "save_steps": 10,
    "bf16": "false",
}


def pretrain(corpus: Path, output_dir: Path, **settings) -> list:
    """The command line of a tiny run; `settings` come last and so override it."""
    model = {} if "model_name_or_path" in settings else NEW_MODEL
    data = {"train_file": corpus / "train.jsonl", "validation_file": corpus / "validation.jsonl"}
    return [PRETRAIN, *flags(data | model | TRAINING | {"output_dir": output_dir} | settings)]


def generate(output_file: str, **settings) -> list:
    return [
        GENERATE,
        *flags({"model_name_or_path": "model", "output_file": output_file, "max_new_tokens": 8} | settings),
    ]


def files_with(folder: Path, text: str) -> list[str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return sorted(str(path.relative_to(folder)) for path in files if text.encode() in path.read_bytes())


def logged_losses(folder: Path) -> list[float]:
    return [entry["loss"] for entry in read_json(folder / "trainer_state.json")["log_history"] if "loss" in entry]


def logits_of(folder: Path) -> torch.Tensor:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        return model(torch.arange(20).reshape(2, 10)).logits


# The processes. Each fixture gives a Future of what the process said; the folder is the fixture's name.

STARTED = ["trained", "twin", "killed", "zero2", "zero3", "forked", "one_process", "streamed", "streamed_killed"]
STARTED += [
    "zero2_resumed",
    "resumed",
    "resumed_before_half",
    "continued",
    "pushed",
    "pushed_at_end",
    "push_failed",
    "pushed_to_public",
]


@pytest.fixture(scope="session", autouse=True)
def started(request):
    """Start what the selected tests wait for, without waiting: the longest and what others need first."""
    wanted = {name for item in request.session.items for name in getattr(item, "fixturenames", [])}
    for name in STARTED:
        if name in wanted:
            request.getfixturevalue(name)


@pytest.fixture(scope="session")
def work(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("recipes")


@pytest.fixture(scope="session")
def trained(processes, corpus, work):
    """A new model by the README's command, with a token on the command line."""
    command = pretrain(corpus, work / "trained", hub_token=TOKEN, sample_prompt="the cat")
    return processes.submit(processes.run, ["accelerate", "launch", *command], work)


@pytest.fixture(scope="session")
def twin(processes, corpus, work):
    """The same run without a launcher and into another folder."""
    command = pretrain(corpus, work / "twin", sample_prompt="the cat")
    return processes.submit(processes.run, [sys.executable, *command], work)


@pytest.fixture(scope="session")
def killed(processes, corpus, work):
    """The same run, ended by `kill -9` once it has two complete checkpoints; and a copy whose newest one is half."""

    def run_and_kill():
        folder = work / "killed"
        process = processes.start([sys.executable, *pretrain(corpus, folder)], work)
        deadline = time.monotonic() + 300
        while len(complete_checkpoints(str(folder))) < 2 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
        run = processes.finish(process)
        newest = complete_checkpoints(str(folder))[-1].name
        shutil.copytree(folder, work / "half")
        (work / "half" / newest / "complete.json").unlink()
        return run

    return processes.submit(run_and_kill)


def resume(processes, corpus, work, killed, name):
    def run():
        killed.result()
        before = {path.name: path.stat() for path in complete_checkpoints(str(work / name))}
        command = pretrain(corpus, work / name, resume_from_checkpoint="true")
        return before, processes.run([sys.executable, *command], work)

    return processes.submit(run)


@pytest.fixture(scope="session")
def resumed(processes, corpus, work, killed):
    return resume(processes, corpus, work, killed, "killed")


@pytest.fixture(scope="session")
def resumed_before_half(processes, corpus, work, killed):
    return resume(processes, corpus, work, killed, "half")


@pytest.fixture(scope="session")
def from_trained(processes, corpus, work, trained):
    """Starts a run that goes on from the weights of `trained`."""

    def start(name: str, launcher: list, environment=None, **settings):
        def run():
            trained.result()
            command = pretrain(corpus, work / name, model_name_or_path=work / "trained", **settings)
            return processes.run([*launcher, *command], work, environment)

        return processes.submit(run)

    return start


COMPARED = {"max_steps": 20, "save_strategy": "no", "logging_steps": 1, "learning_rate": 0.001}
HALF_THE_BATCH = COMPARED | {"per_device_train_batch_size": 2}
ZERO2 = HALF_THE_BATCH | {"deepspeed": ROOT / "ds_configs" / "zero2.json", "save_strategy": "steps"}
ZERO3 = HALF_THE_BATCH | {"deepspeed": ROOT / "ds_configs" / "zero3.json"}


@pytest.fixture(scope="session")
def one_process(from_trained):
    return from_trained("one_process", [sys.executable], **COMPARED, per_device_train_batch_size=4)


@pytest.fixture(scope="session")
def zero2(from_trained):
    """Two ranks with half the batch each, by `accelerate launch`."""
    launcher = ["accelerate", "launch", "--use_deepspeed", "--num_processes", 2, "--num_machines", 1]
    launcher += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", 0]
    return from_trained("zero2", launcher, **ZERO2)


@pytest.fixture(scope="session")
def zero2_resumed(processes, corpus, work, zero2):
    """The ranks of `zero2` once more, from its checkpoint in the middle."""

    def run():
        assert zero2.result().status == 0
        shutil.copytree(work / "zero2" / "checkpoint-10", work / "zero2_resumed" / "checkpoint-10")
        settings = ZERO2 | {"model_name_or_path": work / "trained", "resume_from_checkpoint": "true"}
        command = pretrain(corpus, work / "zero2_resumed", **settings)
        return processes.run(["torchrun", "--standalone", "--nproc_per_node", 2, *command], work)

    return processes.submit(run)


@pytest.fixture(scope="session")
def zero3(from_trained):
    """Two ranks with half the batch each, by torchrun."""
    return from_trained("zero3", ["torchrun", "--standalone", "--nproc_per_node", 2], **ZERO3)


STREAMED = {"streaming": True, "per_device_train_batch_size": 4, "save_steps": 5, "logging_steps": 1}


@pytest.fixture(scope="session")
def streamed(from_trained):
    """Two ranks that read a stream, for more than two epochs."""
    return from_trained("streamed", ["torchrun", "--standalone", "--nproc_per_node", 2], **STREAMED)


@pytest.fixture(scope="session")
def streamed_killed(processes, corpus, work, trained):
    """The same, one rank ended by `kill -9` once there are two complete checkpoints, and the same command again."""

    def run_and_kill():
        trained.result()
        folder, launcher = work / "streamed_killed", ["torchrun", "--standalone", "--nproc_per_node", 2]
        settings = STREAMED | {"model_name_or_path": work / "trained", "resume_from_checkpoint": "true"}
        command = [*launcher, *pretrain(corpus, folder, **settings)]
        process = processes.start(command, work)
        deadline = time.monotonic() + 300
        while len(complete_checkpoints(str(folder))) < 2 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        ranks = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(ranks[1]), signal.SIGKILL)  # the launcher ends the other
        return processes.finish(process), processes.run(command, work)

    return processes.submit(run_and_kill)


@pytest.fixture(scope="session")
def continued(from_trained):
    """Until the validation loss no longer falls."""
    stopping = {"eval_strategy": "steps", "eval_steps": 10, "early_stopping_patience": 1, "save_total_limit": 1}
    return from_trained("continued", [sys.executable], **stopping, max_steps=1000, learning_rate=0.03)


@pytest.fixture(scope="session")
def hub(work):
    with HubServer() as server:
        yield server


@pytest.fixture(scope="session")
def pushed(from_trained, hub, work):
    return from_trained(
        *("pushed", [sys.executable], hub.env(work / "hub_home")),
        **{"push_to_hub": True, "hub_model_id": "user/pushed", "max_steps": 20},
    )


@pytest.fixture(scope="session")
def pushed_at_end(from_trained, hub, work):
    """The token is on the command line only."""
    return from_trained(
        *("pushed_at_end", [sys.executable], hub.env(work / "hub_home") | {"HF_TOKEN": ""}),
        **{"push_to_hub": True, "hub_strategy": "end", "hub_token": hub.token, "max_steps": 20},
    )


@pytest.fixture(scope="session")
def pushed_to_public(from_trained, hub, work):
    """Somebody else's eyes are on this repository already."""
    hub.add_repo("user/public", {"README.md": b"open to all"})
    settings = {"push_to_hub": True, "hub_model_id": "user/public"}
    return from_trained("pushed_to_public", [sys.executable], hub.env(work / "hub_home"), **settings)


@pytest.fixture(scope="session")
def push_failed(from_trained, work):
    """Nothing can be committed, neither while training nor at the end."""
    with HubServer() as server:
        server.fail_on("/commit/", 500)
        settings = {"push_to_hub": True, "hub_model_id": "user/failed", "max_steps": 20}
        yield from_trained("push_failed", [sys.executable], server.env(work / "other_home"), **settings)


# Bad input: flags beside those of a tiny run that would succeed, and what the one line on stderr must hold.


@dataclasses.dataclass
class Bad:
    flags: dict
    parts: list[str]
    status: int = 2
    output_dir: str = "outputs/{name}"


BAD_INPUTS = {
    "no_file_matches": Bad({"train_file": "nothing/*.txt"}, ["`--train_file` nothing/*.txt matches no file"]),
    "empty_file": Bad({"train_file": "empty.txt"}, ["empty.txt` is empty"]),
    "not_utf8": Bad({"train_file": "latin1.txt"}, ["latin1.txt` line 2 is not UTF-8 (byte 18)"]),
    "broken_json_line": Bad({"train_file": "broken.jsonl"}, ["broken.jsonl` line 3: ", "one JSON object a line"]),
    "missing_text_column": Bad(
        {"train_file": "columns.jsonl"}, ["columns.jsonl` has no column `text`, only title, body", "dataset_text_field"]
    ),
    "broken_validation_file": Bad({"validation_file": "broken.jsonl"}, ["broken.jsonl` line 3: "]),
    "fewer_tokens_than_one_row": Bad(
        {"train_file": "short.txt", "max_length": 1024},
        ["`train` has ", " tokens, fewer than one row of `--max_length` 1024: give more text or a smaller"],
    ),
    "beyond_the_positions": Bad(
        {"model_name_or_path": "model", "max_length": 128},
        ["`--max_length` 128 is beyond the model's 64 positions"],
    ),
    "unknown_model_type": Bad({"model_type": "lama"}, ["`--model_type` lama ", "the nearest is llama"]),
    "unknown_setting_of_the_model": Bad(
        {"config_overrides": "hidden_sise=32"}, ["`--config_overrides` hidden_sise", "the nearest is hidden_size"]
    ),
    "no_such_model": Bad({"model_name_or_path": "nowhere"}, ["cannot load a tokenizer from `nowhere`"]),
    "model_half_written": Bad({"model_name_or_path": "truncated"}, ["cannot load `truncated`: "]),
    "model_without_weights": Bad({"model_name_or_path": "weightless"}, ["cannot load `weightless`: "]),
    "missing_config": Bad({"config": "nowhere.yaml"}, ["`--config` nowhere.yaml cannot be read: ", "No such file"]),
    "broken_config": Bad({"config": "broken.yaml"}, ["`--config` broken.yaml cannot be read: ", "line 2"]),
    "unknown_key_in_config": Bad(
        {"config": "unknown.yaml"}, ["`unknown.yaml`: unknown key `lerning_rate`; the nearest is `learning_rate`"]
    ),
    "wrong_type_in_config": Bad({"config": "typed.yaml"}, ["`typed.yaml`: ", "--max_steps", "many"]),
    "key_twice_in_config": Bad({"config": "twice.yaml"}, ["`twice.yaml`: `max_steps` appears twice: keep one"]),
    "rows_of_no_tokens": Bad({"max_length": 0}, ["`--max_length` is 0: give at least 2"]),
    "no_samples": Bad({"max_train_samples": 0}, ["`--max_train_samples` is 0: give at least 1"]),
    "no_steps": Bad({"max_steps": 0}, ["`--max_steps` is 0: give at least 1, or -1"]),
    "learning_rate_that_is_no_number": Bad({"learning_rate": "nan"}, ["`--learning_rate` is nan: give at least 0"]),
    "no_epochs": Bad({"num_train_epochs": 0}, ["`--num_train_epochs` is 0.0: give a number above 0"]),
    "tracker_that_is_not_installed": Bad(
        {"report_to": "wandb"}, ["`--report_to` wandb is not installed: `pip install wandb`"]
    ),
    "model_larger_than_the_machine": Bad(
        {"model_type": "llama", "config_overrides": "num_hidden_layers=5000"}, ["this llama model has ", "machine has "]
    ),
    "no_such_folder": Bad({"model_name_or_path": "./nowhere"}, ["`./nowhere`: there is no such folder or file"]),
    "abbreviated_flag": Bad({"max_step": 5}, ["unknown argument `--max_step`; the nearest is `--max_steps`"]),
    "value_of_the_wrong_type": Bad({"max_steps": "many"}, ["--max_steps", "many"]),
    "checkpoint_half_written": Bad(
        {"resume_from_checkpoint": "half/checkpoint-10"}, ["`half/checkpoint-10` has no complete.json", "half written"]
    ),
    "checkpoint_with_a_file_cut_short": Bad(
        {"resume_from_checkpoint": "cut/checkpoint-10"},
        ["`cut/checkpoint-10` is half written: optimizer.pt is missing or has another size"],
    ),
    "checkpoint_of_another_run": Bad(
        {"resume_from_checkpoint": "earlier/checkpoint-10", "seed": 7},
        ["`earlier/checkpoint-10` is of another run: seed was 42 and is 7"],
    ),
    "checkpoints_of_an_earlier_run": Bad(
        {}, ["`--output_dir` earlier holds checkpoint-10 of an earlier run", "true`, or name"], output_dir="earlier"
    ),
    "output_dir_in_a_file": Bad({}, ["`--output_dir` short.txt/out", "short.txt"], output_dir="short.txt/out"),
    "packing_that_leaks": Bad(
        OPT,
        ["packed documents see each other in OPTForCausalLM", "`--packing false`"],
    ),
    "contradictions_with_deepspeed": Bad(
        {"deepspeed": "zero.json"},
        ["`zero.json`", "`optimizer` block", "`train_batch_size` is 7", "`zero_optimization.stage` is 9"],
    ),
    "stream_without_an_end": Bad(
        {"streaming": True, "max_steps": -1}, ["`--streaming` has no end: give `--max_steps`"]
    ),
    "stream_by_several_readers": Bad(
        {"streaming": True, "dataloader_num_workers": 2}, ["`--streaming` reads ahead by itself: leave out"]
    ),
    "early_stopping_without_evaluation": Bad({"early_stopping_patience": 2}, ["`--early_stopping_patience` needs"]),
    "repository_that_cannot_be": Bad(
        {"push_to_hub": True, "hub_model_id": "user/a model"}, ["`--hub_model_id` user/a model cannot be a repository"]
    ),
    "push_of_pickles": Bad(
        {"push_to_hub": True, "hub_strategy": "all_checkpoints"}, ["`--hub_strategy` all_checkpoints would publish"]
    ),
    "loss_not_finite": Bad(
        {"learning_rate": 1e30}, ["the loss of step ", " is not finite; last good checkpoint: none was saved"], status=1
    ),
}

BAD_PROMPTS = {
    "no_prompt": Bad({}, ["give either `--prompt` or `--prompt_file`"]),
    "two_kinds_of_prompts": Bad({"prompt": "a", "prompt_file": "prompts.txt"}, ["give either `--prompt` or"]),
    "missing_model": Bad({"model_name_or_path": "nowhere", "prompt": "a"}, ["cannot load a tokenizer from `nowhere`"]),
    "missing_prompt_file": Bad({"prompt_file": "nowhere.txt"}, ["`--prompt_file` nowhere.txt cannot be read"]),
    "empty_prompt_file": Bad({"prompt_file": "empty.txt"}, ["`--prompt_file` empty.txt holds no prompt"]),
    "output_file_in_a_file": Bad(
        {"prompt": "a", "output_file": "prompts.txt/out.jsonl"}, ["`--output_file` prompts.txt/out.jsonl cannot be"]
    ),
    "broken_prompt_line": Bad({"prompt_file": "broken_prompts.jsonl"}, ["`broken_prompts.jsonl` line 3: write"]),
}

# Prompts of several lengths, and the word that the corpus puts after each.
PROMPTS = {"the a cat": "dog", "cat dog sat ran on mat and then it was": "very", "sat ran": "on", "it was very": "big"}


@pytest.fixture(scope="session")
def inputs(work) -> Path:
    """The folder that the forked recipes run in, with the bad files."""
    folder = work / "inputs"
    folder.mkdir()
    texts = {
        "empty.txt": "",
        "short.txt": "A few words only.\n\nAnd a few more of them.\n",
        "broken.jsonl": '{"text": "fine"}\n\n{"text": "cut sh\n{"text": "fine"}\n',
        "columns.jsonl": '{"title": "one", "body": "two"}\n',
        "broken.yaml": "max_steps: 5\n  learning_rate: 1e-3\n",
        "unknown.yaml": "max_steps: 5\nlerning_rate: 1e-3\n",
        "typed.yaml": "max_steps: many\n",
        "twice.yaml": "max_steps: 5\nmax_length: 64\nmax_steps: 6\n",
        "zero.json": '{"train_batch_size": 7, "optimizer": {"type": "Adam"}, "zero_optimization": {"stage": 9}}',
        "prompts.txt": "\n".join(PROMPTS) + "\n",
        "prompts.jsonl": "".join(json.dumps({"prompt": prompt}) + "\n\n" for prompt in PROMPTS),
        "broken_prompts.jsonl": '{"prompt": "fine"}\n\n{"question": "?"}\n',
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    (folder / "latin1.txt").write_bytes("A fine line\nun café\n".encode("latin-1"))
    return folder


@pytest.fixture(scope="session")
def forked(processes, corpus, work, inputs, trained):
    """All short runs: bad inputs, `--help`, prompts in files, OPT without packing.

    Gives what each said by its name, and the files of their folder before and after. Every bad
    input finds an output folder with an earlier result in it.
    """

    def run():
        trained.result()
        model = inputs / "model"
        shutil.copytree(work / "trained", model, ignore=shutil.ignore_patterns("checkpoint-*"))
        for name in ("truncated", "weightless"):
            shutil.copytree(model, inputs / name)
        os.truncate(inputs / "truncated" / "model.safetensors", 100_000)
        (inputs / "weightless" / "model.safetensors").unlink()
        for name in ("earlier", "half", "cut"):
            shutil.copytree(work / "trained" / "checkpoint-10", inputs / name / "checkpoint-10")
        (inputs / "half" / "checkpoint-10" / "complete.json").unlink()
        os.truncate(inputs / "cut" / "checkpoint-10" / "optimizer.pt", 1000)

        jobs = {}
        for name, bad in BAD_INPUTS.items():
            folder = Path(bad.output_dir.format(name=name))
            if folder.parent.name == "outputs":
                shutil.copytree(model, inputs / folder)
            jobs[name] = pretrain(corpus, folder, **bad.flags)
        for name, bad in BAD_PROMPTS.items():
            jobs[name] = generate(**{"output_file": f"{name}.jsonl"} | bad.flags)
            (inputs / f"{name}.jsonl").write_text("an earlier result")
        for recipe in RECIPES:
            jobs[f"help_{recipe.stem}"] = [recipe, "--help"]
        for kind in ("txt", "jsonl"):
            jobs[f"prompts_{kind}"] = generate(f"new/{kind}.jsonl", prompt_file=f"prompts.{kind}", batch_size=3)
        for name in ("drawn_7", "drawn_7_again", "drawn_8"):
            drawing = {"do_sample": True, "temperature": 3.0, "seed": name.split("_")[1]}
            jobs[name] = generate(f"new/{name}.jsonl", prompt_file="prompts.txt", **drawing)
        jobs["opt_unpacked"] = pretrain(corpus, work / "opt_unpacked", **OPT, packing="false", max_steps=5)

        before = contents(inputs)
        return processes.run_forked(jobs, inputs), before, contents(inputs)

    return processes.submit(run)


@pytest.fixture
def said(forked):
    """Gives exit status, stdout and stderr of a forked recipe."""
    said, *_ = forked.result()
    return lambda name: dataclasses.astuple(said[name])


# Contracts of every recipe file


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_one_short_main_under_its_commands(recipe):
    """Under 60 lines, no function but `main`, and commands to copy at the top of the docstring."""
    source = recipe.read_text()
    tree = ast.parse(source)
    assert len(source.splitlines()) < 60
    assert [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)] == ["main"]
    commands = [line.strip() for line in ast.get_docstring(tree).splitlines()[1:4] if line.strip()]
    assert commands
    assert all(line.startswith(("python ", "accelerate launch ")) or "--" in line for line in commands)
    assert f"recipes/{recipe.name}" in commands[0]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_help_lists_every_flag(recipe, said):
    """`--help` ends well and names each field of the recipe's argument dataclasses, and the flags of its docstring."""
    status, stdout, stderr = said(f"help_{recipe.stem}")
    assert status == 0, stderr
    listed = {word.strip("[],") for word in stdout.split() if word.startswith(("--", "[--"))}
    nodes = list(ast.walk(ast.parse(recipe.read_text())))
    names = {getattr(node, "id", None) or getattr(node, "attr", "") for node in nodes}
    groups = [getattr(arguments, name) for name in names - {"TrainingArguments"} if name.endswith("Arguments")]
    groups += [transformers.TrainingArguments] if "TrainingArguments" in names else []
    assert groups
    expected = {f"--{field.name}" for group in groups for field in dataclasses.fields(group) if field.init}
    assert expected | {"--config"} <= listed
    examples = ast.get_docstring(ast.parse(recipe.read_text())).split(f"recipes/{recipe.name}")[1:]
    used = {word for command in examples for word in command.split("\n\n")[0].split() if word.startswith("--")}
    launchers = {"--use_deepspeed", "--num_processes"}
    assert used - launchers <= listed


# Pretraining


def test_the_folder_loads_with_stock_transformers(trained, work):
    """`AutoModelForCausalLM` and `pipeline("text-generation")` take the output folder as it is."""
    expect_success(trained)
    model, loading = transformers.AutoModelForCausalLM.from_pretrained(work / "trained", output_loading_info=True)
    assert not any(loading.values())
    assert model.config.use_cache
    generate = transformers.pipeline("text-generation", model=str(work / "trained"))
    (answer,) = generate("the cat", max_new_tokens=8, do_sample=False)
    assert answer["generated_text"].startswith("the cat ")


def test_the_model_has_learned_the_words_of_the_corpus(trained, work):
    """After 60 steps it codes the held-out text in fewer bits than zlib, and predicts it far better than by chance."""
    expect_success(trained)
    results = read_json(work / "trained" / "eval_results.json")
    assert results["eval_loss"] < 0.5 * math.log(300)
    assert results["eval_bits_per_byte"] < results["eval_zlib_bits_per_byte"]


def test_results_account_for_every_token(trained, work):
    """Tokens in = tokens packed + 0 dropped, perplexity = exp(loss), `all_results.json` holds both files."""
    expect_success(trained)
    train, evaluated, everything = (read_json(work / "trained" / f"{n}_results.json") for n in ("train", "eval", "all"))
    for prefix, results, documents in (("train", train, 150), ("eval", evaluated, 12)):
        assert results[f"{prefix}_documents"] == documents
        assert results[f"{prefix}_tokens_in"] == results[f"{prefix}_tokens_packed"] > 0
        assert results[f"{prefix}_tokens_dropped"] == 0
    assert train["train_packing_efficiency"] > 0.95
    assert train["train_tokens_per_second"] > 0 and 0 < train["train_mfu"] < 1
    assert evaluated["eval_perplexity"] == math.exp(evaluated["eval_loss"])
    assert evaluated["eval_bits_per_byte"] > 0
    assert everything == train | evaluated


def test_no_file_holds_the_token_or_the_users_path(trained, work):
    """The token of the command line, the output folder and the data's folder are in no file, checkpoints included."""
    expect_success(trained)
    assert (work / "trained" / "checkpoint-60" / "complete.json").is_file()
    assert files_with(work / "trained", TOKEN) == []
    assert files_with(work / "trained", str(work.parent)) == []
    assert not list((work / "trained").rglob("training_args.bin"))
    assert not list((work / "trained").glob("[._]*"))  # nothing unfinished


def test_the_run_ends_with_a_table_a_sample_and_the_folder(trained, work):
    """What a person reads at the end is on stdout, and the token is nowhere in the log."""
    run = expect_success(trained)
    table, sample = run.stdout.split("A sample of its text, begun with 'the cat':")
    results = read_json(work / "trained" / "eval_results.json")
    figures = dict(line.strip().rsplit(maxsplit=1) for line in table.splitlines() if "  " in line)
    assert float(figures["validation loss"]) == pytest.approx(results["eval_loss"], rel=1e-3)
    assert float(figures["bits per byte"]) == pytest.approx(results["eval_bits_per_byte"], rel=1e-3)
    assert re.search(r"packed, dropped +[\d,]+, 0\n", table)
    assert "\n  the cat " in sample
    assert run.stdout.endswith(f"Model and results: {work / 'trained'}\n")
    assert TOKEN not in run.stdout + run.stderr


def test_a_second_run_gives_the_same_loss_to_the_last_digit(trained, twin, work):
    """The seed decides everything, with and without a launcher: equal weights, equal results."""
    expect_success(trained), expect_success(twin)
    first, second = (read_json(work / name / "eval_results.json") for name in ("trained", "twin"))
    assert first["eval_loss"] == second["eval_loss"]
    assert weights(work / "trained") == weights(work / "twin")


def weights(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def test_after_kill_9_the_run_goes_on_to_the_same_weights(trained, killed, resumed, work):
    """The same command with `--resume_from_checkpoint true` goes on from the newest complete one, bit for bit."""
    expect_success(trained)
    assert killed.result().status == -signal.SIGKILL
    before, run = resumed.result()
    assert run.status == 0, run.stderr
    assert len(before) >= 2 and "checkpoint-60" not in before
    for name, stat in before.items():  # not trained once more
        assert (work / "killed" / name).stat().st_mtime_ns == stat.st_mtime_ns
    assert weights(work / "killed") == weights(work / "trained")
    results = [read_json(work / name / "eval_results.json")["eval_loss"] for name in ("killed", "trained")]
    assert results[0] == results[1]


def test_a_stream_goes_on_after_kill_9_as_if_nothing_had_happened(streamed, streamed_killed, work):
    """Two ranks: every loss to the last digit, and the same weights; the data was read more than twice."""
    expect_success(streamed)
    killed, resumed = streamed_killed.result()
    assert killed.status == 1 and resumed.status == 0, resumed.stderr
    assert logged_losses(work / "streamed") == logged_losses(work / "streamed_killed")
    whole, again = (load_file(work / name / "model.safetensors") for name in ("streamed", "streamed_killed"))
    assert all(torch.equal(tensor, again[name]) for name, tensor in whole.items())
    figures = read_json(work / "streamed" / "train_results.json")
    assert figures["train_epochs_completed"] >= 2 and figures["train_tokens_dropped"] == 0
    same = ("train_documents", "train_tokens_in", "train_epochs_completed")
    again = read_json(work / "streamed_killed" / "train_results.json")
    assert [figures[name] for name in same] == [again[name] for name in same]


def test_a_half_written_checkpoint_is_ignored(trained, killed, resumed_before_half, work):
    """Without its manifest the newest checkpoint is named in the log, and the run goes on from the one before."""
    expect_success(trained)
    before, run = resumed_before_half.result()
    assert run.status == 0, run.stderr
    whole = max(before, key=lambda name: int(name.split("-")[1]))
    half = f"checkpoint-{int(whole.split('-')[1]) + 10}"
    assert f"{half}` has no complete.json: it is half written" in run.stderr
    assert (work / "half" / whole).stat().st_mtime_ns == before[whole].st_mtime_ns
    assert (work / "half" / half / "complete.json").is_file()
    assert weights(work / "half") == weights(work / "trained")


def test_a_loaded_model_goes_on_until_it_converges(trained, continued, work):
    """The loss starts where the earlier run ended, and the run stops by itself and keeps the best weights."""
    expect_success(trained), expect_success(continued)
    assert logged_losses(work / "continued")[0] < logged_losses(work / "trained")[0] / 2
    state = read_json(work / "continued" / "trainer_state.json")
    losses = [entry["eval_loss"] for entry in state["log_history"] if "eval_loss" in entry]
    assert state["global_step"] < 1000
    assert read_json(work / "continued" / "eval_results.json")["eval_loss"] == min(losses) < losses[-1]


def test_opt_trains_without_packing(said, work):
    """The remedy that the refusal of OPT names works, and loses no token."""
    status, _, stderr = said("opt_unpacked")
    assert status == 0, stderr
    results = read_json(work / "opt_unpacked" / "train_results.json")
    assert results["train_tokens_dropped"] == 0
    assert results["train_rows"] >= results["train_documents"]
    assert logits_of(work / "opt_unpacked").isfinite().all()


@pytest.mark.parametrize("name", ["zero2", "zero3"])
def test_two_ranks_under_deepspeed_train_like_one_process(name, one_process, request, work):
    """With the same global batch the losses agree within 1e-4 at every step, and the saved models with each other."""
    expect_success(one_process)
    run = expect_success(request.getfixturevalue(name))
    expected, found = logged_losses(work / "one_process"), logged_losses(work / name)
    assert len(expected) == 20
    assert found == pytest.approx(expected, abs=1e-4)
    results = [read_json(work / folder / "eval_results.json")["eval_loss"] for folder in ("one_process", name)]
    assert results[0] == pytest.approx(results[1], abs=1e-4)
    one, two = (load_file(work / folder / "model.safetensors") for folder in ("one_process", name))
    assert one.keys() == two.keys()
    for key in one:
        torch.testing.assert_close(two[key], one[key], atol=1e-5, rtol=0)
    elements = sum(tensor.numel() for tensor in one.values())
    (line,) = [line for line in run.stderr.splitlines() if "DeepSpeed in force" in line]
    assert "DeepSpeedEngine" in line and f"'stage': {name[-1]}" in line and "2 ranks on cpu" in line
    sizes = [int(size) for size in line.split("'optimizer': [")[1].split("]")[0].split(", ")]
    assert len(sizes) == 2 and elements <= sum(sizes) < elements + 100 and abs(sizes[0] - sizes[1]) <= 1
    assert run.stdout.count("A sample of its text:") == 1


def test_resuming_under_deepspeed_is_exact(zero2, zero2_resumed, work):
    """Two ranks under ZeRO-2 go on from a checkpoint to the same weights, bit for bit."""
    expect_success(zero2), expect_success(zero2_resumed)
    assert "checkpoint-10" in {path.name for path in complete_checkpoints(str(work / "zero2_resumed"))}
    assert logged_losses(work / "zero2_resumed") == logged_losses(work / "zero2")
    assert weights(work / "zero2_resumed") == weights(work / "zero2")


# The Hub

NOT_PUSHED = ("trainer_state.json",)


@pytest.mark.parametrize(
    "name, history",
    [
        ("pushed", ["Final model", "Training in progress, step 20", "Training in progress, step 10", "initial commit"]),
        ("pushed_at_end", ["Final model", "initial commit"]),
    ],
)
def test_a_push_brings_the_final_folder_to_a_private_repository(name, history, hub, request, work):
    """`--push_to_hub` alone: private, equal to the final folder file by file, no token and no pickle in any commit."""
    expect_success(request.getfixturevalue(name))
    repo = hub.repos[f"user/{name}"]
    assert repo.private
    local = {path.name: path.read_bytes() for path in (work / name).iterdir() if path.is_file()}
    remote = repo.files()
    assert remote.pop(".gitattributes")
    assert remote == {name: content for name, content in local.items() if name not in NOT_PUSHED}
    titles = [commit.title for commit in repo.history()]
    assert titles[0] == history[0] and set(titles) <= set(history)  # a push is left out while the last one runs
    assert len(titles) >= min(len(history), 3)
    for commit in repo.history():
        for path, blob in commit.blobs.items():
            assert not path.endswith((".bin", ".pt", ".pth")), (commit.title, path)
            for secret in (hub.token, str(work.parent)):
                assert secret.encode() not in blob.content, (commit.title, path)
    assert files_with(work / name, hub.token) == []
    assert not list((work / name).rglob("training_args.bin"))


LOAD = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
assert AutoTokenizer.from_pretrained(sys.argv[1])("the cat").input_ids
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
torch.save(model(torch.arange(20).reshape(2, 10)).logits.detach(), sys.argv[2])
"""


def test_a_pushed_model_loads_by_its_id_with_the_local_logits(pushed, hub, processes, work):
    """On a machine that has nothing but the token, `from_pretrained(repo_id)` computes what the local folder does."""
    expect_success(pushed)
    command = [sys.executable, "-c", LOAD, "user/pushed", work / "logits.pt"]
    run = processes.run(command, work, hub.env(work / "new_home"))
    assert run.status == 0, run.stderr
    assert torch.equal(torch.load(work / "logits.pt"), logits_of(work / "pushed"))


def test_a_public_repository_is_refused_before_training(pushed_to_public, hub, work):
    """What is private unless asked for is not published by a name that exists: one line, and no step is trained."""
    run = pushed_to_public.result()
    assert run.status == 2
    (line,) = errors(run.stderr)
    assert "`user/public` is a public repository: pass `--hub_private_repo false`" in line
    assert hub.repos["user/public"].files() == {"README.md": b"open to all"}
    assert contents(work / "pushed_to_public") == {}


def test_a_failed_push_costs_one_line_and_no_result(push_failed, work):
    """Exit status 1, the command that pushes again, and a folder that is as complete as without the push."""
    run = push_failed.result()
    assert run.status == 1
    (line,) = errors(run.stderr)
    assert "Push to `user/failed` failed" in line and "Push again with: hf upload user/failed" in line
    assert "Traceback" not in run.stderr
    assert "Model and results:" in run.stdout
    everything = read_json(work / "push_failed" / "all_results.json")
    assert {"eval_loss", "train_loss"} <= everything.keys()
    assert logits_of(work / "push_failed").isfinite().all()


# Bad input


def errors(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if line.startswith("error: ")]


@pytest.mark.parametrize("name", [*BAD_INPUTS, *BAD_PROMPTS])
def test_bad_input_is_one_line_and_changes_nothing(name, said, forked):
    """One last line on stderr that names what is wrong, the exit status, no traceback; the output folder as it was."""
    bad = BAD_INPUTS.get(name) or BAD_PROMPTS[name]
    status, _, stderr = said(name)
    assert status == bad.status, stderr
    (line,) = errors(stderr)
    for part in bad.parts:
        assert part in line
    assert stderr.splitlines()[-1] == line
    assert "Traceback" not in stderr
    folder = bad.output_dir.format(name=name) if name in BAD_INPUTS else f"{name}.jsonl"
    before, after = ({p: h for p, h in files.items() if p.startswith(folder)} for files in forked.result()[1:])
    assert before == after


def test_refused_runs_leave_no_file_anywhere(forked):
    """Of the whole folder that the recipes ran in, only what the successful ones were told to write is new."""
    _, before, after = forked.result()
    assert {path for path in after.keys() - before.keys() if not path.startswith("new/")} == set()
    assert {path: after[path] for path in before} == before


# Generating


def test_a_prompt_is_completed_on_stdout(trained, processes, work):
    """Nothing but the prompt, its completion and an empty line is printed: the output can be piped."""
    expect_success(trained)
    command = [sys.executable, GENERATE, "--model_name_or_path", work / "trained", "--prompt", "the cat"]
    run = processes.run([*command, "--max_new_tokens", 8], work)
    assert run.status == 0, run.stderr
    assert run.stdout.startswith("the cat ") and run.stdout.endswith("\n\n")
    assert len(run.stdout.splitlines()) == 2


def test_prompts_from_files_are_completed_in_their_order(said, work):
    """`.txt` and `.jsonl` prompts give JSON Lines in the prompts' order, and greedy search the same text again."""
    completions = []
    for kind in ("txt", "jsonl"):
        status, stdout, stderr = said(f"prompts_{kind}")
        assert status == 0, stderr
        lines = (work / "inputs" / "new" / f"{kind}.jsonl").read_text().splitlines()
        completions.append([json.loads(line) for line in lines])
        assert stdout == ""
    assert [row["prompt"] for row in completions[0]] == list(PROMPTS)
    for row in completions[0]:
        assert row["completion"].split()[0] == PROMPTS[row["prompt"]]
    assert completions[0] == completions[1]


def test_the_seed_decides_what_is_drawn(said, work):
    """With `--do_sample` the same seed draws the same text, and another seed another."""
    texts = []
    for name in ("drawn_7", "drawn_7_again", "drawn_8"):
        status, _, stderr = said(name)
        assert status == 0, stderr
        texts.append((work / "inputs" / "new" / f"{name}.jsonl").read_text())
    assert texts[0] == texts[1] != texts[2]
