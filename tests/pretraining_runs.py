"""The pretraining and generation runs that the tests share. Each fixture is the Future of what the process printed.

The output folder of a run is the fixture's name, in the folder `work`. All runs that the selected tests need are
started when the tests begin (`started` in conftest.py), two at a time.
"""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hub_server import HubServer
from recipe_runs import RECIPES, ROOT, contents, flags

PRETRAIN, GENERATE = ROOT / "recipes" / "pretrain.py", ROOT / "recipes" / "generate.py"
TOKEN = "hf_" + "ThisTokenIsASecret" * 2

NEW_MODEL = {
    "config_overrides": "hidden_size=32,intermediate_size=64,num_hidden_layers=2,num_attention_heads=2,"
    "num_key_value_heads=2,tie_word_embeddings=false",
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


def complete_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints with a manifest, the newest last."""
    folders = [path.parent for path in folder.glob("checkpoint-*/complete.json")]
    return sorted(folders, key=lambda path: int(path.name.split("-")[1]))


def wait_for_two_checkpoints(folder: Path, process: subprocess.Popen) -> None:
    """Return once the process has written two complete checkpoints, or has ended."""
    deadline = time.monotonic() + 300
    while len(complete_checkpoints(folder)) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)


@pytest.fixture(scope="session")
def work(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("recipes")


@pytest.fixture(scope="session")
def trained(processes, corpus, work):
    """A new model by the README's command, with a token on the command line."""
    command = pretrain(corpus, work / "trained", hub_token=TOKEN, sample_prompt="the dog")
    return processes.submit(processes.run, ["accelerate", "launch", *command], work)


@pytest.fixture(scope="session")
def twin(processes, work, trained):
    """The same run by its run.yaml, without a launcher and into another folder."""

    def run():
        trained.result()
        command = [PRETRAIN, *flags({"config": work / "trained" / "run.yaml", "output_dir": work / "twin"})]
        return processes.fork(command, work)

    return processes.submit(run)


@pytest.fixture(scope="session")
def killed(processes, corpus, work):
    """The same run, ended by `kill -9` once it has two complete checkpoints; and a copy whose newest one is half."""

    def run_and_kill():
        folder = work / "killed"
        process = processes.start([sys.executable, *pretrain(corpus, folder)], work)
        wait_for_two_checkpoints(folder, process)
        os.killpg(process.pid, signal.SIGKILL)
        run = processes.finish(process)
        shutil.copytree(folder, work / "half")
        complete_checkpoints(work / "half")[-1].joinpath("complete.json").unlink()
        return run

    return processes.submit(run_and_kill)


def resume(processes, corpus, work, killed, name):
    def run():
        killed.result()
        before = {path.name: path.stat() for path in complete_checkpoints(work / name)}
        command = pretrain(corpus, work / name, resume_from_checkpoint="true")
        return before, processes.fork(command, work)

    return processes.submit(run)


@pytest.fixture(scope="session")
def resumed(processes, corpus, work, killed):
    return resume(processes, corpus, work, killed, "killed")


@pytest.fixture(scope="session")
def resumed_before_half(processes, corpus, work, killed):
    return resume(processes, corpus, work, killed, "half")


@pytest.fixture(scope="session")
def from_trained(processes, corpus, work, trained):
    """Starts a run that continues from the weights of `trained`; `how` are arguments of `Processes.fork`."""

    def start(name: str, how: dict | None = None, launcher: list | None = None, **settings):
        def run():
            trained.result()
            command = pretrain(corpus, work / name, model_name_or_path=work / "trained", **settings)
            if launcher:
                return processes.run([*launcher, *command], work)
            return processes.fork(command, work, **how or {})

        return processes.submit(run)

    return start


COMPARED = {"max_steps": 20, "save_strategy": "no", "logging_steps": 1, "learning_rate": 0.001}
HALF_THE_BATCH = COMPARED | {"per_device_train_batch_size": 2}
ZERO2 = HALF_THE_BATCH | {"deepspeed": ROOT / "ds_configs" / "zero2.json", "save_strategy": "steps"}
ZERO3 = HALF_THE_BATCH | {"deepspeed": ROOT / "ds_configs" / "zero3.json"}


@pytest.fixture(scope="session")
def one_process(from_trained):
    return from_trained("one_process", **COMPARED, per_device_train_batch_size=4)


@pytest.fixture(scope="session")
def zero2(from_trained):
    """Two ranks with half the batch each, by `accelerate launch`."""
    launcher = ["accelerate", "launch", "--use_deepspeed", "--num_processes", 2, "--num_machines", 1]
    launcher += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", 0]
    return from_trained("zero2", launcher=launcher, **ZERO2)


@pytest.fixture(scope="session")
def zero2_resumed(processes, corpus, work, zero2):
    """The ranks of `zero2` once more, by its run.yaml and from its checkpoint in the middle."""

    def run():
        assert zero2.result().status == 0
        shutil.copytree(work / "zero2" / "checkpoint-10", work / "zero2_resumed" / "checkpoint-10")
        settings = {"output_dir": work / "zero2_resumed", "resume_from_checkpoint": "true"}
        command = [PRETRAIN, *flags({"config": work / "zero2" / "run.yaml"} | settings)]
        return processes.fork(command, work, ranks=2)

    return processes.submit(run)


@pytest.fixture(scope="session")
def zero3(from_trained):
    """Two ranks with half the batch each."""
    return from_trained("zero3", {"ranks": 2}, **ZERO3)


STREAMED = {"streaming": True, "per_device_train_batch_size": 4, "save_steps": 5, "logging_steps": 1}


@pytest.fixture(scope="session")
def streamed(from_trained):
    """Two ranks that read a stream, for more than two epochs."""
    return from_trained("streamed", {"ranks": 2}, **STREAMED)


@pytest.fixture(scope="session")
def streamed_killed(processes, corpus, work, trained):
    """The same, one rank ended by `kill -9` once there are two complete checkpoints, and the same command again."""

    def run_and_kill():
        trained.result()
        folder, launcher = work / "streamed_killed", ["torchrun", "--standalone", "--nproc_per_node", 2]
        settings = STREAMED | {"model_name_or_path": work / "trained", "resume_from_checkpoint": "true"}
        command = pretrain(corpus, folder, **settings)
        process = processes.start([*launcher, *command], work)
        wait_for_two_checkpoints(folder, process)
        ranks = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(ranks[1]), signal.SIGKILL)  # the launcher ends the other
        return processes.finish(process), processes.fork(command, work, ranks=2)

    return processes.submit(run_and_kill)


@pytest.fixture(scope="session")
def continued(from_trained):
    """Until the validation loss no longer falls."""
    stopping = {"eval_strategy": "steps", "eval_steps": 10, "early_stopping_patience": 1, "save_total_limit": 1}
    return from_trained("continued", **stopping, max_steps=1000, learning_rate=0.03)


@pytest.fixture(scope="session")
def hub():
    with HubServer() as server:
        yield server


@pytest.fixture(scope="session")
def push_from_trained(from_trained, hub, work):
    """Starts a run from `trained` that pushes."""

    def start(name: str, environment: dict | None = None, **settings):
        how = {"hub": hub.env(work / "hub_home"), "environment": environment}
        return from_trained(name, how, push_to_hub=True, **settings)

    return start


@pytest.fixture(scope="session")
def pushed(push_from_trained):
    return push_from_trained("pushed", hub_model_id="user/pushed", max_steps=20)


@pytest.fixture(scope="session")
def pushed_at_end(push_from_trained, hub):
    """The token is on the command line only."""
    settings = {"hub_strategy": "end", "hub_token": hub.token, "max_steps": 20}
    return push_from_trained("pushed_at_end", {"HF_TOKEN": ""}, **settings)


@pytest.fixture(scope="session")
def pushed_to_public(push_from_trained, hub):
    """A repository of this name exists, and everybody can read it."""
    hub.add_repo("user/public", {"README.md": b"open to all"})
    return push_from_trained("pushed_to_public", hub_model_id="user/public")


@pytest.fixture(scope="session")
def push_failed(push_from_trained, hub):
    """Nothing can be committed, neither during training nor at the end."""
    hub.fail_on("user/failed/commit/", 500)
    return push_from_trained("push_failed", hub_model_id="user/failed", max_steps=20)


# Bad input: flags added to those of a tiny run that would succeed, and what the one line on stderr must contain.


@dataclasses.dataclass
class Bad:
    flags: dict
    parts: list[str]
    status: int = 2
    output_dir: str = "outputs/{name}"


BAD_INPUTS = {
    "no_file_matches": Bad({"train_file": "nothing/*.txt"}, ["`--train_file` nothing/*.txt matches no file"]),
    "empty_file": Bad({"train_file": "empty.txt"}, ["empty.txt` is empty"]),
    "not_utf8": Bad({"train_file": "latin1.txt"}, ["latin1.txt` line 2 is not UTF-8: give its `--encoding`"]),
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
        ["`--max_length` 128 is beyond the model's 64 positions: give `--max_length 64`"],
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
    "metric_of_a_task": Bad(
        {"metric_for_best_model": "rougeL", "eval_strategy": "epoch"},
        ["`--metric_for_best_model` rougeL is not a score of this objective: give loss, perplexity, bits_per_byte"],
    ),
    "order_of_a_stream": Bad(
        {"streaming": True, "train_sampling_strategy": "group_by_length"},
        ["`--streaming` keeps the order of the files"],
    ),
    "batch_that_is_dropped": Bad(
        {"dataloader_drop_last": True, "per_device_train_batch_size": 10_000},
        ["`--dataloader_drop_last` drops all ", " rows, which do not fill one batch of 10000"],
    ),
    "no_epochs": Bad({"num_train_epochs": 0}, ["`--num_train_epochs` is 0.0: give a number above 0"]),
    "tracker_that_is_not_installed": Bad(
        {"report_to": "wandb"}, ["`--report_to` wandb is not installed: `pip install wandb`"]
    ),
    "model_larger_than_the_machine": Bad(
        {"model_type": "llama", "config_overrides": "hidden_size=1048576,num_hidden_layers=2"},
        ["this llama model has ", "machine has "],
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
    "checkpoint_that_would_be_ignored": Bad(
        {"enable_jit_checkpoint": True}, ["`--enable_jit_checkpoint` True is not supported: it would save at"]
    ),
    "checkpoint_that_is_not_there": Bad(
        {"resume_from_checkpoint": "nowhere"}, ["`--resume_from_checkpoint` nowhere: there is no such folder; give"]
    ),
    "another_model": Bad(
        {
            "resume_from_checkpoint": "earlier/checkpoint-10",
            "config_overrides": "hidden_size=16,num_hidden_layers=1",
            "vocab_size": 290,
            "label_smoothing_factor": 0.1,
        },
        ["config.num_hidden_layers was 2 and is 1", "vocab_size was 300 and is 290", "label_smoothing_factor was 0.0"],
    ),
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
def short_runs(processes, corpus, work, inputs, trained):
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
        return processes.fork_each(jobs, inputs), before, contents(inputs)

    return processes.submit(run)
