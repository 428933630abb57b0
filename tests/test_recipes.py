"""Every recipe run as a process: what it does, what it leaves behind, and how it refuses bad input. No network, no GPU.

The runs are the fixtures of pretraining_runs.py; each test waits for its own.
"""

import ast
import dataclasses
import hashlib
import json
import logging
import math
import os
import re
import signal
import sys
from pathlib import Path

import pytest
import torch
import transformers
from pretraining_runs import BAD_INPUTS, BAD_PROMPTS, GENERATE, PROMPTS, TOKEN, complete_checkpoints
from recipe_runs import RECIPES, contents, expect_success, flags, read_json
from safetensors.torch import load_file

from hf_llm import arguments
from hf_llm.files import locked
from hf_llm.training.record import read_run


def files_with(folder: Path, text: str) -> list[str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return sorted(str(path.relative_to(folder)) for path in files if text.encode() in path.read_bytes())


def logged_losses(folder: Path) -> list[float]:
    return [entry["loss"] for entry in read_json(folder / "trainer_state.json")["log_history"] if "loss" in entry]


def logits_of(folder: Path) -> torch.Tensor:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        return model(torch.arange(20).reshape(2, 10)).logits


@pytest.fixture
def said(short_runs):
    """Gives exit status, stdout and stderr of a forked recipe."""
    said, *_ = short_runs.result()
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
    fields = [field for group in groups for field in dataclasses.fields(group) if field.init]
    expected = {f"--{field.name}" for field in fields if not field.metadata.get("positional")}
    assert expected | {"--config"} <= listed
    examples = ast.get_docstring(ast.parse(recipe.read_text())).split(f"recipes/{recipe.name}")[1:]
    used = {word for command in examples for word in command.split("\n\n")[0].split() if word.startswith("--")}
    launchers = {"--use_deepspeed", "--num_processes"}
    assert used - launchers <= listed


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_no_recipe_imports_bitsandbytes_before_its_message_is_turned_off(recipe):
    """transformers imports it with the Trainer, and on some CPUs it logs that a Hub kernel is missing.

    `import transformers` alone imports nothing, so the first import of something in it is that of hf_llm.
    """
    imports = [node for node in ast.parse(recipe.read_text()).body if isinstance(node, ast.ImportFrom)]
    packages = [node.module.split(".")[0] for node in imports]
    heavy = [package for package in packages if package in ("hf_llm", "transformers", "peft", "accelerate", "datasets")]
    assert heavy[0] == "hf_llm"
    assert logging.getLogger("bitsandbytes.backends.cpu.ops").level == logging.ERROR


# Pretraining


@pytest.mark.parametrize(
    "recipe", [path for path in RECIPES if path.stem not in ("chat", "compare", "search")], ids=lambda path: path.stem
)
def test_a_recipe_refuses_to_write_where_another_process_does(recipe, processes, tiny_base, corpus, tmp_path):
    """At once, before it reads or writes anything, with the other process and its machine."""
    text, model = {"train_file": corpus / "train.jsonl"}, {"model_name_or_path": tiny_base}
    tasks, out = model | {"task": "question_answering"}, {"output_dir": tmp_path / "out"}
    settings = {
        "pretrain": text | out,
        "finetune": tasks | out,
        "eval": tasks | out,
        "generate": model | {"prompt": "the", "output_file": tmp_path / "out"},
        "prepare_data": {"files": corpus / "train.jsonl"} | out,
        "train_tokenizer": text | out,
        "tokenize_data": text | out | {"tokenizer_name": tiny_base},
    }[recipe.stem]
    run_folder = recipe.stem in ("pretrain", "finetune", "eval")
    with locked(tmp_path / "out" / ".lock" if run_folder else tmp_path / ".out.lock", "out"):
        before = sorted(tmp_path.rglob("*"))  # not their contents: a process that reads its lock file releases the lock
        refused = processes.fork([recipe, *flags(settings)], tmp_path)
        assert refused.status == 2
        assert f"out is in use: process {os.getpid()} on" in refused.stderr
        assert len(refused.stderr.strip().splitlines()) == 1
        assert sorted(tmp_path.rglob("*")) == before


def test_the_folder_loads_with_stock_transformers(trained, work):
    """`AutoModelForCausalLM` and `pipeline("text-generation")` take the output folder as it is."""
    expect_success(trained)
    model, loading = transformers.AutoModelForCausalLM.from_pretrained(work / "trained", output_loading_info=True)
    assert not any(loading.values())
    assert model.config.use_cache
    generate = transformers.pipeline("text-generation", model=str(work / "trained"))
    (answer,) = generate("the dog", max_new_tokens=8, do_sample=False)
    assert answer["generated_text"].startswith("the dog ")


def test_all_files_of_a_run_can_be_read_by_whom_the_umask_lets(trained, work):
    """Weights, states and results alike: the libraries make some of them readable by their owner alone."""
    expect_success(trained)
    files = [path for path in (work / "trained").rglob("*") if path.is_file()]
    (work / "a_new_file").touch()
    modes = {path.name: path.stat().st_mode for path in files}
    assert {"model.safetensors", "optimizer.pt", "complete.json", "eval_results.json"} <= modes.keys()
    assert set(modes.values()) == {(work / "a_new_file").stat().st_mode}


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
    """The token of the command line, the output folder and the data's folder are in no file, checkpoints included, but
    for the paths in run.yaml, which needs them, and in the report, which shows it; neither is pushed.
    """
    expect_success(trained)
    assert (work / "trained" / "checkpoint-60" / "complete.json").is_file()
    assert files_with(work / "trained", TOKEN) == []
    assert files_with(work / "trained", str(work.parent)) == ["report.html", "run.yaml"]
    assert not list((work / "trained").rglob("training_args.bin"))
    assert not list((work / "trained").glob("[._]*"))  # nothing unfinished


def test_the_run_ends_with_a_table_a_sample_and_the_folder(trained, work):
    """What a person reads at the end is on stdout, and the token is nowhere in the log."""
    run = expect_success(trained)
    table, sample = run.stdout.split("A sample of its text, begun with 'the dog':")
    results = read_json(work / "trained" / "eval_results.json")
    figures = dict(line.strip().rsplit(maxsplit=1) for line in table.splitlines() if "  " in line)
    assert float(figures["validation loss"]) == pytest.approx(results["eval_loss"], rel=1e-3)
    assert float(figures["bits per byte"]) == pytest.approx(results["eval_bits_per_byte"], rel=1e-3)
    assert re.search(r"packed, dropped +[\d,]+, 0\n", table)
    assert "\n  the dog " in sample
    assert run.stdout.endswith(f"Model and results: {work / 'trained'}\n")
    assert TOKEN not in run.stdout + run.stderr


def test_a_run_is_repeated_from_its_run_yaml_to_the_last_digit(trained, twin, work):
    """Settings and seed decide everything, with and without a launcher: equal weights, equal results."""
    expect_success(trained), expect_success(twin)
    first, second = (read_json(work / name / "eval_results.json") for name in ("trained", "twin"))
    assert first["eval_loss"] == second["eval_loss"]
    assert weights(work / "trained") == weights(work / "twin")
    settings = [read_run(work / name).settings for name in ("trained", "twin")]
    assert settings[0] | {"output_dir": str(work / "twin")} == settings[1]


def test_the_files_of_a_run_say_how_it_was_started_and_on_what(zero2, work):
    """The command in run.yaml starts as many ranks; the environment has them, and the data by their content."""
    expect_success(zero2)
    assert "\n# accelerate launch --use_deepspeed --num_processes 2 " in (work / "zero2" / "run.yaml").read_text()
    environment = read_run(work / "zero2").environment
    assert environment["ranks"] == 2 and environment["launcher"] == "accelerate" and environment["finished"]
    assert environment["deepspeed"] == {"stage": 2} and environment["versions"]["torch"]
    one_rank = read_run(work / "trained").environment
    assert one_rank["data"] == environment["data"] and one_rank["deepspeed"] is None


def weights(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def test_after_kill_9_the_run_goes_on_to_the_same_weights(trained, killed, resumed, work):
    """The same command with `--resume_from_checkpoint true` resumes from the newest complete one, bit for bit."""
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
    """Without its manifest the newest checkpoint is named in the log, and the run resumes from the one before."""
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
    assert read_json(work / "continued" / "eval_results.json")["eval_loss"] == min(losses) == losses[-1] < losses[-2]


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
    """Two ranks under ZeRO-2 resume from a checkpoint and reach the same weights, bit for bit."""
    expect_success(zero2), expect_success(zero2_resumed)
    assert "checkpoint-10" in {path.name for path in complete_checkpoints(work / "zero2_resumed")}
    assert logged_losses(work / "zero2_resumed") == logged_losses(work / "zero2")
    assert weights(work / "zero2_resumed") == weights(work / "zero2")


# The Hub

NOT_PUSHED = ("trainer_state.json", "run.yaml", "environment.json", "log.jsonl", "document_losses.jsonl")
NOT_PUSHED += ("report.html", "samples.json")


@pytest.mark.parametrize(
    "name, history",
    [
        ("pushed", ["Final model", "Training in progress, step 20", "Training in progress, step 10", "initial commit"]),
        ("pushed_at_end", ["Final model", "initial commit"]),
    ],
)
def test_a_push_brings_the_final_folder_to_a_private_repository(name, history, hub, request, work):
    """Only with `--push_to_hub`. Private, equal to the final folder file by file, no token or pickle in any commit.

    The picture that the card shows is pushed too.
    """
    expect_success(request.getfixturevalue(name))
    repo = hub.repos[f"user/{name}"]
    assert repo.private
    local = {path.name: path.read_bytes() for path in (work / name).iterdir() if path.is_file()}
    local |= {f"curves/{path.name}": path.read_bytes() for path in (work / name / "curves").iterdir()}
    assert "curves/loss.png" in local and b"(curves/loss.png)" in local["README.md"]
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
assert AutoTokenizer.from_pretrained(sys.argv[1])("the dog").input_ids
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
def test_bad_input_is_one_line_and_changes_nothing(name, said, short_runs):
    """One last line on stderr that names what is wrong, the exit status, no traceback; the output folder as it was.

    A run that fails in training leaves the record of what it did.
    """
    bad = BAD_INPUTS.get(name) or BAD_PROMPTS[name]
    status, _, stderr = said(name)
    assert status == bad.status, stderr
    (line,) = errors(stderr)
    for part in bad.parts:
        assert part in line
    assert stderr.splitlines()[-1] == line
    assert "Traceback" not in stderr
    folder = bad.output_dir.format(name=name) if name in BAD_INPUTS else f"{name}.jsonl"
    before, after = ({p: h for p, h in files.items() if p.startswith(folder)} for files in short_runs.result()[1:])
    assert without_records(before) == without_records(after)


def without_records(files):
    """The files without those in which a run that fails in training says what it did."""
    records = tuple(f"loss_not_finite/{name}" for name in ("run.yaml", "environment.json", "log.jsonl"))
    return {path: hash for path, hash in files.items() if not path.endswith(records)}


def test_refused_runs_leave_no_file_anywhere(short_runs):
    """Of the whole folder that the recipes ran in, only what the successful ones were told to write is new."""
    _, *files = short_runs.result()
    before, after = map(without_records, files)
    assert {path for path in after.keys() - before.keys() if not path.startswith("new/")} == set()
    assert {path: after[path] for path in before} == before


# Generating


def test_a_prompt_is_completed_on_stdout(trained, processes, work):
    """Nothing but the prompt, its completion and an empty line is printed: the output can be piped."""
    expect_success(trained)
    command = [GENERATE, "--model_name_or_path", work / "trained", "--prompt", "the dog", "--max_new_tokens", 8]
    run = processes.fork(command, work)
    assert run.status == 0, run.stderr
    assert run.stdout.startswith("the dog ") and run.stdout.endswith("\n\n")
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
