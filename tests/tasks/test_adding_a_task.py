"""docs/adding_a_task.md: what it says to write is all there is to write."""

import re
import shutil
import sys
from pathlib import Path

import pytest
from recipe_runs import ROOT, contents

GUIDE = (ROOT / "docs" / "adding_a_task.md").read_text()
COPIED = ("hf_llm", "recipes", "tests")


@pytest.fixture(scope="module")
def blocks() -> list[str]:
    """The Python and YAML blocks of the guide, in order."""
    return re.findall(r"```(?:python|yaml)\n(.*?)```", GUIDE, re.DOTALL)


@pytest.fixture(scope="module")
def followed(blocks, tmp_path_factory) -> Path:
    """A copy of the project with the guide's files in it."""
    folder = tmp_path_factory.mktemp("project")
    for name in COPIED:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "outputs"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    before = contents(folder)
    for block in blocks:
        if named := re.match(r"# (\S+\.(?:py|yaml))\n", block):
            (folder / named[1]).write_text(block)
    written = set(contents(folder)) - set(before)
    assert written == {"hf_llm/tasks/spelling.py", "recipes/configs/spelling.yaml"}
    return folder


def test_the_contract_tests_find_the_new_application_and_pass(followed, processes):
    """With one file and one YAML file written, and no other touched."""
    command = [sys.executable, "-m", "pytest", "-q", "tests/tasks/test_tasks.py", "-k", "spelling"]
    run = processes.run(command, followed, {"PYTHONPATH": str(followed)})
    assert run.status == 0, run.stdout
    assert re.search(r"\b[5-9] passed", run.stdout)


def test_its_yaml_file_trains_it(followed, processes, tiny_base):
    """The recipe on the application's own sample."""
    small = ["--model_name_or_path", tiny_base, "--max_steps", 2, "--max_train_samples", 20, "--max_eval_samples", 4]
    command = [sys.executable, "recipes/finetune.py", "--config", "recipes/configs/spelling.yaml", *small]
    run = processes.run(command, followed, {"PYTHONPATH": str(followed)})
    assert run.status == 0, run.stderr
    assert "rouge1" in run.stdout and (followed / "outputs" / "spelling" / "model.safetensors").is_file()


def test_the_metric_of_the_guide_scores(blocks, capsys):
    """One letter is missing of eight; with an interval."""
    exec(blocks[-1], {"__name__": "guide"})
    assert re.search(r"'cer': 0\.125, 'cer_ci95_low': ", capsys.readouterr().out)
