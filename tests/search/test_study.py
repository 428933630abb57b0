"""The shared record of a search: what is proposed, who runs it, and when a setting is pruned."""

import multiprocessing
import os
import signal

import pytest
from optuna.trial import TrialState

from hf_llm.search.space import Parameter, setting_key
from hf_llm.search.study import JOURNAL, SharedStudy

SPACE = [Parameter("a", low=0.0, high=1.0), Parameter("b", choices=[1, 2, 3])]
FINITE = [Parameter("b", choices=[1, 2, 3]), Parameter("c", choices=[True, False], when={"b": [3]})]
FORK = multiprocessing.get_context("fork")


def new_study(folder, space=SPACE, **options):
    return SharedStudy(folder, {"space": f"{space}"}, space, "minimize", **options)


def finish(study, trial, value):
    study.finish(trial, TrialState.COMPLETE, value, [], {}, {"runs": []})


def run_settings(study, number, max_trials=None):
    """Take and finish settings, and return them; the score is a function of the setting."""
    settings = []
    for _ in range(number):
        if (trial := study.take(max_trials)) is None:
            break
        settings.append(trial.user_attrs["setting"])
        finish(study, trial, settings[-1].get("a", 0) + settings[-1]["b"])
    return settings


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_proposals_depend_on_the_finished_settings_alone(tmp_path, sampler):
    """Two searches that stop at other times propose the same, also where a setting was begun and given up."""
    whole = run_settings(new_study(tmp_path / "one", sampler=sampler), 14)
    parts = run_settings(new_study(tmp_path / "two", sampler=sampler), 6)
    parts += run_settings(new_study(tmp_path / "two", sampler=sampler), 5)
    interrupted = new_study(tmp_path / "two", sampler=sampler)
    interrupted.take(None)
    interrupted.worker = "another"  # which has no lock, as after its death
    parts += run_settings(interrupted, 3)
    assert parts == whole
    assert run_settings(new_study(tmp_path / "three", sampler=sampler, seed=1), 2) != whole[:2]


@pytest.mark.parametrize("sampler", ["grid", "random", "tpe"])
def test_every_setting_is_proposed_once_and_then_the_search_ends(tmp_path, sampler):
    """A space with an end is tried to the end, whatever the sampler; a grid in the order of the file."""
    settings = run_settings(new_study(tmp_path, FINITE, sampler=sampler), 99)
    assert len(settings) == 4 == len({setting_key(setting) for setting in settings})
    if sampler == "grid":
        assert settings == [{"b": 1}, {"b": 2}, {"b": 3, "c": True}, {"b": 3, "c": False}]
    assert new_study(tmp_path, FINITE, sampler=sampler).best().user_attrs["setting"] == {"b": 1}


def test_a_grid_is_tried_in_random_order_if_settings_are_pruned(tmp_path):
    """In the order of the file, ascending rates would each be the best so far; the seed decides the order."""
    orders = []
    for seed in (1, 2):
        study = new_study(tmp_path / str(seed), FINITE, sampler="grid", pruner="halving", seed=seed)
        orders.append([setting["b"] for setting in run_settings(study, 99)])
    assert orders[0] != orders[1]
    assert [sorted(order) for order in orders] == [[1, 2, 3, 3]] * 2


def take_and_finish(folder, results):
    results.put(run_settings(new_study(folder), 99, max_trials=16))


def test_two_processes_never_run_a_setting_twice(tmp_path):
    """They share the number of settings, and no two are equal."""
    results = FORK.Queue()
    processes = [FORK.Process(target=take_and_finish, args=(tmp_path, results)) for _ in range(2)]
    for process in processes:
        process.start()
    settings = [setting for _ in processes for setting in results.get(timeout=60)]
    for process in processes:
        process.join()
    assert len(settings) == 16 == len({setting_key(setting) for setting in settings})


def take_and_wait(folder, taken):
    taken.put(new_study(folder).take(None).number)
    signal.pause()


def test_a_setting_of_a_living_process_is_left_to_it_and_that_of_a_dead_one_repeated(tmp_path):
    """With the same number and values."""
    run_settings(new_study(tmp_path), 1)
    taken = FORK.Queue()
    process = FORK.Process(target=take_and_wait, args=(tmp_path, taken))
    process.start()
    assert taken.get(timeout=60) == 1
    study = new_study(tmp_path)
    other = study.take(None)
    assert other.number == 2
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    repeated = study.take(None, taken=[other.number])
    assert repeated.number == 1
    assert repeated.user_attrs["setting"] == study.trials()[1].user_attrs["setting"]
    assert study.take(None, taken=[1, 2]).number == 3


def test_a_folder_of_another_search_is_refused_unless_nothing_is_known_yet(tmp_path):
    """What differs is named; a search that was killed, or failed, before its first score is made anew."""
    run_settings(new_study(tmp_path), 1)
    with pytest.raises(ValueError, match="holds a search with another space"):
        new_study(tmp_path, FINITE)
    empty = new_study(tmp_path / "empty")
    empty.finish(empty.take(None), TrialState.FAIL, None, [], {}, {})
    assert new_study(tmp_path / "empty", FINITE).trials() == []


def test_a_file_that_is_no_journal_is_refused_and_half_a_line_is_removed(tmp_path):
    """A process that was killed may leave the start of a line."""
    run_settings(new_study(tmp_path), 2)
    with open(tmp_path / JOURNAL, "a") as file:
        file.write('{"op_code": 4, "wor')
    assert len(new_study(tmp_path).trials()) == 2
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / JOURNAL).write_text("a text\n")
    with pytest.raises(ValueError, match="is not the file of a search"):
        new_study(tmp_path / "other")


@pytest.mark.parametrize("pruner, pruned", [("none", False), ("halving", True), ("hyperband", True), ("median", True)])
def test_a_setting_that_is_worse_than_others_is_pruned(tmp_path, pruner, pruned):
    """After as many evaluations; a better one is not. The decision is the same however often it is asked for."""
    study = new_study(tmp_path, pruner=pruner)
    for _ in range(8):
        trial = study.take(None)
        reports = [trial.number + 1.0] * 4
        notes = study.decide(trial.number, reports)[1]
        study.finish(trial, TrialState.COMPLETE, 1.0, reports, notes, {})
    trial = study.take(None)
    for _ in range(2):
        assert study.decide(trial.number, [99.0, 99.0, 99.0])[0] == pruned
        assert not study.decide(trial.number, [0.0, 0.0, 0.0])[0]
    assert study.trials()[trial.number].state == TrialState.RUNNING
