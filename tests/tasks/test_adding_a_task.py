"""docs/adding_a_task.md: the files that it says to write are sufficient."""

import re
import shutil
from pathlib import Path

import pytest
import pytest.__main__
from recipe_runs import ROOT, contents

GUIDE = (ROOT / "docs" / "adding_a_task.md").read_text()
COPIED = ("hf_llm", "recipes", "tests")


@pytest.fixture(scope="module")
def blocks() -> list[str]:
    """The Python and YAML code blocks of the guide, in order."""
    return re.findall(r"```(?:python|yaml)\n(.*?)```", GUIDE, re.DOTALL)


@pytest.fixture(scope="module")
def followed(blocks, tmp_path_factory) -> Path:
    """A copy of the project, with the files of the guide added."""
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


@pytest.fixture(scope="module")
def run(followed, processes):
    """Run a Python file in the copy, with its package."""
    # Plugins of pytest may have been imported before the fork, which is an error.
    environment = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    script = ROOT / "tests" / "tasks" / "run_in_copy.py"
    return lambda *command: processes.fork([script, *command], followed, environment)


def test_the_contract_tests_find_the_new_application_and_pass(run):
    """One Python file and one YAML file are written, and no other file is changed."""
    tests = run(pytest.__main__.__file__, "-q", "tests/tasks/test_tasks.py", "-k", "spelling")
    assert tests.status == 0, tests.stdout
    assert re.search(r"\b[5-9] passed", tests.stdout)


def test_its_yaml_file_trains_it(run, followed, tiny_base):
    """The recipe fine-tunes on the application's own sample."""
    small = ["--model_name_or_path", tiny_base, "--max_steps", 2, "--max_train_samples", 20, "--max_eval_samples", 4]
    training = run("recipes/finetune.py", "--config", "recipes/configs/spelling.yaml", *small)
    assert training.status == 0, training.stderr
    assert "rouge1" in training.stdout
    assert (followed / "outputs" / "spelling" / "model.safetensors").is_file()


def test_the_metric_of_the_guide_scores(blocks, capsys):
    """Its value for one missing letter of eight, with an interval."""
    exec(blocks[-1], {"__name__": "guide"})
    assert re.search(r"'cer': 0\.125, 'cer_ci95_low': ", capsys.readouterr().out)
