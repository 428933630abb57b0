"""The course of a search: which settings run now, what becomes of them, and what a person sees of it."""

import difflib
import logging
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from tqdm import tqdm

from hf_llm.arguments import SearchArguments, parse_duration
from hf_llm.files import write_json
from hf_llm.messages import format_value
from hf_llm.search.commands import Command, Recipe
from hf_llm.search.space import Parameter, describe
from hf_llm.search.study import STATES, SharedStudy
from hf_llm.search.trials import RunProcess, last_error, list_runs, mean, remove_weights, share_of_gpus, trial_folder

logger = logging.getLogger(__name__)

WAIT = 0.3  # seconds between two looks at the processes
RECORD = "search.json"
MAX_FAILURES = 3  # at the start of a search, after which it stops


class RunningTrial:
    """A setting whose runs are trained one after another.

    Args:
        trial: as `SharedStudy.take` returned it.
        job: number of the slot in which it runs.
    """

    def __init__(self, trial: FrozenTrial, command: Command, recipe: Recipe, args: SearchArguments, job: int):
        self.trial, self.command, self.metric, self.job = trial, command, recipe.metric, job
        self.setting: dict[str, Any] = trial.user_attrs["setting"]
        self.folder = trial_folder(Path(args.output_dir).absolute(), trial.number)
        self.runs = list_runs(self.folder, args.num_folds, args.seeds)
        self.environment = share_of_gpus(job, args.jobs, recipe.gpus)
        self.finished: list[RunProcess] = []
        self.notes: dict[str, Any] = {}
        self.decided = 0  # evaluations that the pruner has seen
        self.start()

    def start(self) -> None:
        """Start the next run."""
        self.process = RunProcess(self.runs[len(self.finished)], self.command, self.setting, self.environment)

    def scores(self) -> list[float]:
        """The score of each finished run.

        Raises:
            ValueError: the runs do not have the score that decides.
        """
        name, scores = f"eval_{self.metric}", []
        for facts in (process.facts() for process in self.finished):
            if name not in facts["metrics"]:
                known = [key.removeprefix("eval_") for key in facts["metrics"] if key.startswith("eval_")]
                nearest = (difflib.get_close_matches(self.metric, known, 1) or known[:1] or ["loss"])[0]
                raise ValueError(f"`--metric` {self.metric} is not a score of the runs; the nearest is {nearest}")
            scores.append(facts["metrics"][name])
        return scores

    def reports(self) -> list[float]:
        """The score after each evaluation: the mean of the finished runs and the one that is trained."""
        reports, done = [], []
        for process in [*self.finished, self.process]:
            evaluations = process.read_scores(self.metric)
            reports += [mean([*done, score]) for score in evaluations]
            if process is not self.process:
                done.append(process.facts()["metrics"].get(f"eval_{self.metric}", math.nan))
        return reports

    def poll(self, study: SharedStudy) -> TrialState | None:
        """Look at the process, and start the next run when it has ended; return the state of a trial at its end."""
        running = self.process.is_running()
        if study.pruner != "none" and self.is_to_be_pruned(study):
            self.process.end()
            return TrialState.PRUNED
        if running:
            return None
        if self.process.has_failed():
            return TrialState.FAIL
        self.finished.append(self.process)
        if not math.isfinite(mean(self.scores())):
            return TrialState.FAIL
        if len(self.finished) == len(self.runs):
            return TrialState.COMPLETE
        self.start()
        return None

    def is_to_be_pruned(self, study: SharedStudy) -> bool:
        """Ask the pruner about evaluations that are new."""
        reports = self.reports()
        while self.decided < len(reports):
            self.decided += 1
            pruned, self.notes = study.decide(self.trial.number, reports[: self.decided])
            if pruned:
                return True
        return False

    def facts(self) -> dict[str, Any]:
        """What the study keeps of the runs."""
        processes = [*self.finished, *([self.process] if self.process not in self.finished else [])]
        return {"runs": [process.facts() for process in processes]}


def run_search(args: SearchArguments, command: Command, recipe: Recipe, space: list[Parameter]) -> optuna.Study:
    """Try settings until the space, the number of trials or the time is at its end.

    Returns:
        The study. `search.json`, which is written after each trial, has what is known of its settings.

    Raises:
        ValueError: the folder has another search, the first trials all fail, or none ends in time.
    """
    started, failures = time.monotonic(), 0
    seconds = parse_duration(args.time_budget) if args.time_budget else math.inf
    study = open_study(args, command, recipe, space)
    total = min([n for n in (args.max_trials, len(study.settings or [])) if n], default=None)
    bar = tqdm(total=total, desc="settings", unit="setting", dynamic_ncols=True)
    running: list[RunningTrial] = []
    try:
        while True:
            in_time = time.monotonic() - started < seconds
            while in_time and len(running) < args.jobs:
                taken = {other.trial.number for other in running}
                if (trial := study.take(args.max_trials, taken)) is None:
                    break
                free = next(job for job in range(args.jobs) if job not in {other.job for other in running})
                running.append(RunningTrial(trial, command, recipe, args, free))
            if not running or not in_time:
                break
            running[0].process.wait(WAIT)
            for trial in list(running):
                if (state := trial.poll(study)) is None:
                    continue
                running.remove(trial)
                if state == TrialState.FAIL and failures is not None:
                    failures += 1
                    check_failures(trial, failures, args)
                elif state != TrialState.FAIL:
                    failures = None
                finish(study, trial, state, args, recipe)
                write_search(study, args, command, recipe)
                show_trial(study, trial, state, recipe, bar)
    finally:
        bar.close()
        for trial in running:
            trial.process.end()
    write_search(study, args, command, recipe)
    describe_end(study, running, args)
    return study.study


def describe_end(study: SharedStudy, running: list[RunningTrial], args: SearchArguments) -> None:
    """Log why a search ends before its space does.

    Raises:
        ValueError: its time was too short for any trial, or all have failed.
    """
    finished = [trial for trial in study.trials() if trial.state.is_finished()]
    if finished and all(trial.state == TrialState.FAIL for trial in finished):
        raise ValueError(
            f"no trial has succeeded, and the last failed with: {finished[-1].user_attrs['error']} (all of it: "
            f"{trial_folder(study.folder, finished[-1].number)})"
        )
    if running and not finished:
        raise ValueError(
            f"`--time_budget` {args.time_budget} ended before the first trial did: give more time, or shorter runs"
        )
    if running:
        numbers = ", ".join(str(trial.trial.number) for trial in running)
        logger.info(f"`--time_budget` {args.time_budget} is over: the same command repeats trial {numbers} and goes on")


def open_study(args: SearchArguments, command: Command, recipe: Recipe, space: list[Parameter]) -> SharedStudy:
    """Open the study of a search, or make it.

    Raises:
        ValueError: the folder has another search.
    """
    definition = {
        "space": [asdict(parameter) for parameter in space],
        "command": command.text(),
        "metric": recipe.metric,
        **{name: getattr(args, name) for name in ("sampler", "pruner", "num_folds", "seeds", "seed")},
    }
    folder = Path(args.output_dir).absolute()
    return SharedStudy(folder, definition, space, recipe.direction, args.sampler, args.pruner, args.seed)


def check_failures(trial: RunningTrial, failures: int, args: SearchArguments) -> None:
    """Stop a search whose first trials all fail.

    Raises:
        ValueError: the message has the error of the last one.
    """
    if failures >= MAX_FAILURES:
        raise ValueError(
            f"the first {failures} trials all failed, the last with: {last_error(trial.process.run.console)} (all of "
            f"it: {trial.process.run.console})"
        )


def finish(study: SharedStudy, trial: RunningTrial, state: TrialState, args: SearchArguments, recipe: Recipe) -> None:
    """Record the end of a trial, and remove the weights that are not those of the best one."""
    facts = trial.facts()
    if state == TrialState.FAIL:
        facts["error"] = last_error(trial.process.run.console)
    value = mean(trial.scores()) if state == TrialState.COMPLETE else None
    reports = trial.reports()[: trial.decided]
    study.finish(trial.trial, state, value, reports, trial.notes, facts)
    if args.keep_models:
        return
    with study.lock.held():
        best = study.best()
        for other in study.trials():
            if other.state.is_finished() and (best is None or other.number != best.number):
                remove_weights(trial_folder(study.folder, other.number))


def show_trial(study: SharedStudy, trial: RunningTrial, state: TrialState, recipe: Recipe, bar: tqdm) -> None:
    """Log one line about a trial, and move the bar."""
    record, best = study.trials()[trial.trial.number], study.best()
    values = {
        TrialState.COMPLETE: f"{recipe.metric} {format_value(record.value)}" if record.value is not None else "",
        TrialState.PRUNED: f"pruned after {trial.decided} evaluations",
        TrialState.FAIL: f"failed: {record.user_attrs.get('error')}",
    }
    so_far = f"; best so far {format_value(best.value or 0)} (trial {best.number})" if best else ""
    bar.clear()
    logger.info(f"Trial {record.number}: {describe(trial.setting)}: {values[state]}{so_far}")
    bar.n = sum(other.state.is_finished() for other in study.trials())
    bar.refresh()


def write_search(study: SharedStudy, args: SearchArguments, command: Command, recipe: Recipe) -> None:
    """Write `search.json`: the settings that were tried, with their runs; `write_results` adds figures."""
    best = study.best()
    content = {
        "command": command.text(),
        "space": args.space,
        "sampler": args.sampler,
        "pruner": args.pruner,
        "metric": recipe.metric,
        "direction": recipe.direction,
        "num_folds": args.num_folds,
        "seeds": args.seeds,
        "best": best and best.number,
        "settings": [
            {
                "number": trial.number,
                "parameters": trial.user_attrs["setting"],
                "state": STATES[trial.state],
                "value": trial.value if trial.state == TrialState.COMPLETE else None,
                "runs": trial.user_attrs.get("runs", []),
                **({"error": trial.user_attrs["error"]} if "error" in trial.user_attrs else {}),
            }
            for trial in study.trials()
            if trial.state.is_finished()
        ],
    }
    with study.lock.held():
        write_json(study.folder / RECORD, content)
