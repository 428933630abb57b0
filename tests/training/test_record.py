"""What a run has left is read while it runs, when it is done, and from folders of older versions."""

import json
import sys

import pytest

from hf_llm.training.record import launch_command, read_run

ENTRIES = [{"step": 1, "loss": 2.5, "seconds": 0.1}, {"step": 2, "loss": 2.25, "seconds": 0.2}]
ACCELERATE, TORCHRUN = {"ACCELERATE_MIXED_PRECISION": "no"}, {"TORCHELASTIC_RUN_ID": "a"}


def write(folder, **files):
    for name, content in files.items():
        name = name.replace("_", ".") if name in ("run_yaml", "log_jsonl", "environment_json") else f"{name}.json"
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))


def test_the_results_of_an_earlier_run_are_not_those_of_a_running_one(tmp_path):
    """They are still in the folder, and become those of the new run when it is done."""
    lines = "".join(json.dumps(entry) + "\n" for entry in ENTRIES)
    write(tmp_path, run_yaml="# a\nlearning_rate: 1e-4\nrun_name: '1e-4'\n", log_jsonl=lines, all_results={"a": 1})
    write(tmp_path, environment_json={"finished": False})
    run = read_run(tmp_path)
    assert (run.settings, run.log, run.results) == ({"learning_rate": 1e-4, "run_name": "1e-4"}, ENTRIES, {})
    write(tmp_path, environment_json={"finished": True})
    assert read_run(str(tmp_path)).results == {"a": 1}


def test_the_line_that_is_being_written_is_not_read(tmp_path):
    """It will be complete the next time; another broken line is an error that names it."""
    write(tmp_path, log_jsonl=json.dumps(ENTRIES[0]) + '\n{"step": 2, "lo')
    assert read_run(tmp_path).log == ENTRIES[:1]
    write(tmp_path, log_jsonl='{"step": 1, "lo\n' + json.dumps(ENTRIES[1]) + "\n")
    with pytest.raises(ValueError, match=r"^`.*log.jsonl`, line 1, is not JSON: was the file edited\?$"):
        read_run(tmp_path)


def test_older_folders_are_read_as_far_as_they_go(tmp_path):
    """The log is then that of the Trainer's state."""
    write(tmp_path, trainer_state={"log_history": ENTRIES}, all_results={"a": 1})
    run = read_run(tmp_path)
    assert (run.settings, run.environment, run.log, run.results) == ({}, {}, ENTRIES, {"a": 1})


@pytest.mark.parametrize(
    "files, message",
    [
        (None, "is not a folder: name the `--output_dir` of a training run, which has a log.jsonl"),
        ({}, "holds no run: name"),
        ({"config": {}}, "holds no run: name"),
        ({"run_yaml": "a: [1"}, "run.yaml` cannot be read: line "),
        ({"run_yaml": "- a"}, "run.yaml` has no lines `key: value`"),
        ({"run_yaml": "a: 1\na: 2\n"}, "`a` appears twice"),
        ({"environment_json": "[]"}, "environment.json` holds a JSON list"),
        ({"log_jsonl": "{}\n", "all_results": "{"}, "all_results.json`, line 1, column 2, is not JSON"),
    ],
)
def test_a_folder_that_is_not_a_run_is_named(tmp_path, files, message):
    """One line, with the file that cannot be read."""
    folder = tmp_path / "run"
    if files is not None:
        folder.mkdir()
        write(folder, **files)
    with pytest.raises(ValueError) as error:
        read_run(folder)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "variables, command",
    [
        ({}, "python recipes/a.py"),
        (ACCELERATE, "accelerate launch recipes/a.py"),
        (
            {"ACCELERATE_MIXED_PRECISION": "no", "LOCAL_WORLD_SIZE": "4"},
            "accelerate launch --num_processes 4 recipes/a.py",
        ),
        ({"TORCHELASTIC_RUN_ID": "a", "LOCAL_WORLD_SIZE": "4"}, "torchrun --nproc_per_node 4 recipes/a.py"),
        ({"TORCHELASTIC_RUN_ID": "a", "LOCAL_WORLD_SIZE": "2"}, "torchrun --nnodes 2 --nproc_per_node 2 recipes/a.py"),
    ],
)
def test_the_command_starts_as_many_processes(monkeypatch, variables, command):
    """By the launcher that has started the run."""
    for name in ("ACCELERATE_MIXED_PRECISION", "ACCELERATE_USE_DEEPSPEED", "TORCHELASTIC_RUN_ID", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["recipes/a.py"])
    assert launch_command(4 if "LOCAL_WORLD_SIZE" in variables else 1) == command
