"""The course of a search, with a recipe that trains nothing."""

import json
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from hf_llm.arguments import SearchArguments
from hf_llm.search.commands import Command, Recipe
from hf_llm.search.scheduling import run_search
from hf_llm.search.space import Parameter
from hf_llm.search.supervisor import MARK
from hf_llm.search.trials import list_runs

QUICK = str(Path(__file__).parent / "quick_recipe.py")
SPACE = [Parameter("learning_rate", low=1e-4, high=1.0, log=True), Parameter("config_overrides.size", [1, 2, 3])]
FORK = multiprocessing.get_context("fork")


def search(folder, space=SPACE, flags=(), **options):
    """Run a search, and return its `search.json`."""
    args = SearchArguments(space="space.yaml", output_dir=str(folder), **options)
    command, recipe = (
        Command((sys.executable,), QUICK, tuple(flags)),
        Recipe(args.metric or "loss", "minimize", True, 42, 0),
    )
    run_search(args, command, recipe, space)
    return json.loads((folder / "search.json").read_text())


def started(folder):
    """Number of the trial of each rank that was started."""
    path = folder / "started.txt"
    return [int(line.split()[0]) for line in path.read_text().splitlines()] if path.exists() else []


def ranks(folder):
    """Processes that still run in the folder of a search."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK, "").startswith(str(folder)):
                found.append(process)
        except psutil.Error:
            continue
    return found


def wait_until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def outcome(content):
    return content["best"], [(s["parameters"], s["state"], s["value"]) for s in content["settings"]]


def test_a_search_that_is_killed_again_and_again_ends_as_an_undisturbed_one(tmp_path):
    """With the same settings, states and best one; no rank of a killed search trains on, and none writes beside."""
    options = {"max_trials": 3, "pruner": "halving", "flags": ["--evaluations=4", "--sleep=0.03"]}
    undisturbed = search(tmp_path / "one", **options)
    assert {"pruned", "complete"} == {setting["state"] for setting in undisturbed["settings"]}
    folder = tmp_path / "two"
    for trials in (1, 2, 3):
        process = FORK.Process(target=search, args=(folder,), kwargs=options)
        process.start()
        wait_until(lambda trials=trials: len({*started(folder)}) >= trials)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        wait_until(lambda: not ranks(folder), seconds=5)
    assert outcome(search(folder, **options)) == outcome(undisturbed)
    assert sorted({*started(folder)}) == [0, 1, 2]
    finished = len(started(folder))
    assert outcome(search(folder, **options)) == outcome(undisturbed)
    assert len(started(folder)) == finished


def test_each_setting_is_trained_on_each_fold_with_each_seed(tmp_path):
    """Its value is the mean of the runs."""
    content = search(tmp_path, [Parameter("learning_rate", [0.01])], num_folds=2, seeds=[10])
    (setting,) = content["settings"]
    assert [run["metrics"]["eval_loss"] for run in setting["runs"]] == pytest.approx([1.2, 1.3])
    assert setting["value"] == pytest.approx(1.25)
    assert [run["folder"] for run in setting["runs"]] == [f"trials/0000/fold_{fold}_seed_10" for fold in (1, 2)]
    runs = [(run.fold, run.seed) for run in list_runs(tmp_path, 2, [0, 10])]
    assert runs == [("1/2", 0), ("2/2", 0), ("1/2", 10), ("2/2", 10)]
    assert list_runs(tmp_path, None, None)[0].flags() == [f"--output_dir={tmp_path}/run"]


def test_weights_are_kept_of_the_best_setting_only(tmp_path):
    """Unless `--keep_models`; what tells of the others is kept."""
    space = [Parameter("learning_rate", [1.0, 0.01, 0.1])]
    content = search(tmp_path, space, sampler="grid")
    assert content["best"] == 1
    assert [path.parents[1].name for path in tmp_path.rglob("*.safetensors")] == ["0001"]
    assert len([*tmp_path.rglob("all_results.json")]) == 3


def test_a_trial_that_crashes_costs_one_trial(tmp_path):
    """Its error is recorded in one line, and the search goes on."""
    content = search(tmp_path, [Parameter("learning_rate", [0.0, 0.01])], sampler="grid", jobs=2)
    assert [setting["state"] for setting in content["settings"]] == ["failed", "complete"]
    assert content["settings"][0]["error"] == "ValueError: math domain error"
    assert content["best"] == 1


def test_a_search_whose_first_trials_all_fail_stops(tmp_path):
    """With the error of the recipe and the file that has all of it."""
    with pytest.raises(
        ValueError, match=r"the first 3 trials all failed, the last with: it fails, as asked \(all .*\.log"
    ):
        search(tmp_path, flags=["--fail=true"], max_trials=9)
    with pytest.raises(ValueError, match=r"no trial has succeeded, and the last failed with: it fails, .* .*/0000\)"):
        search(tmp_path, flags=["--fail=true"], max_trials=1)


def test_a_score_that_the_runs_do_not_have_ends_the_search(tmp_path):
    """The nearest is named."""
    with pytest.raises(ValueError, match="`--metric` los is not a score of the runs; the nearest is loss"):
        search(tmp_path, metric="los", max_trials=9)


def test_time_that_is_over_ends_the_runs_and_the_same_command_repeats_them(tmp_path):
    """A budget in which no trial ends is refused then."""
    options = {"space": [Parameter("learning_rate", [0.01])], "flags": ["--sleep=0.5"]}
    with pytest.raises(ValueError, match=r"`--time_budget` 0\.2s ended before the first trial did"):
        search(tmp_path, time_budget="0.2s", **options)
    assert not ranks(tmp_path)
    assert search(tmp_path, **options)["best"] == 0
