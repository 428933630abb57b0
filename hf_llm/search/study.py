"""The record of a search that several processes and machines share: an Optuna study in its folder.

What is tried next depends on the finished settings alone: a proposal is drawn, with a seed made of its number, from a
copy of the study in memory, and joins the shared study with all its values at once. So does a decision to prune. A
search that was killed therefore goes on as if nothing had happened: the setting that ran is repeated.
"""

import contextlib
import fcntl
import json
import os
import socket
import uuid
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from hf_llm.files import UNTIL_EXIT, locked, remove
from hf_llm.search.space import Parameter, draw_setting, list_settings, setting_key, to_label

JOURNAL = "study.log"
NAME = "search"  # of the study; Hyperband draws a setting's bracket from it
ATTEMPTS = 20  # at a setting that was not tried yet
FACTOR = 3  # one of so many settings goes on at each rung of halving and Hyperband
STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


class FileLock:
    """A lock that other processes and machines wait for, and that this one may take several times."""

    def __init__(self, path: Path):
        self.file = open(path, "a")  # noqa: SIM115 (kept open: closing it would release the lock)
        self.depth = 0

    def acquire(self) -> bool:
        """Wait for the lock; the names are those that Optuna calls."""
        if self.depth == 0:
            fcntl.lockf(self.file, fcntl.LOCK_EX)
        self.depth += 1
        return True

    def release(self) -> None:
        """Release the lock, if it was taken once only."""
        self.depth -= 1
        if self.depth == 0:
            fcntl.lockf(self.file, fcntl.LOCK_UN)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock."""
        self.acquire()
        try:
            yield
        finally:
            self.release()


class SharedStudy:
    """The study in a folder, made or opened.

    Args:
        folder: of the search.
        definition: what makes two searches the same, e.g. space, command and metric; as JSON can write it.
        space: the parameters.
        direction: `minimize` or `maximize`.
        sampler, pruner, seed: as `SearchArguments` has them.

    Raises:
        ValueError: the folder has a search with another definition, or its file is damaged.
    """

    def __init__(
        self,
        folder: Path,
        definition: dict[str, Any],
        space: list[Parameter],
        direction: Literal["minimize", "maximize"],
        sampler: str = "tpe",
        pruner: str = "none",
        seed: int = 42,
    ):
        self.folder, self.space = folder, space
        self.direction: Literal["minimize", "maximize"] = direction
        self.sampler, self.pruner, self.seed = sampler, pruner, seed
        self.settings = list_settings(space)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        (folder / ".workers").mkdir(parents=True, exist_ok=True)
        self.worker = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        UNTIL_EXIT.enter_context(locked(self.worker_file(self.worker), f"`--output_dir` {folder}"))
        self.lock = FileLock(folder / ".search.lock")
        with self.lock.held():
            remove_torn_line(folder / JOURNAL)
            self.study = self.open(definition)

    def open(self, definition: dict[str, Any]) -> optuna.Study:
        """Open the study and compare its definition; make it anew if no setting has a score yet.

        Raises:
            ValueError: as for the class.
        """
        path = self.folder / JOURNAL
        definition = json.loads(json.dumps(definition))  # lists for tuples, as it is read back
        try:
            self.storage = JournalStorage(JournalFileBackend(str(path), lock_obj=self.lock))  # pyright: ignore[reportArgumentType]
            options: dict[str, Any] = {"storage": self.storage, "study_name": NAME, "direction": self.direction}
            study = optuna.create_study(**options, load_if_exists=True)
        except (ValueError, KeyError, TypeError, AssertionError) as error:
            raise ValueError(f"`{path}` is not the file of a search: {error}; name another `--output_dir`") from None
        if study.user_attrs and not (self.others() or any(trial.value is not None for trial in study.trials)):
            optuna.delete_study(study_name=NAME, storage=self.storage)
            remove(self.folder / "trials")
            study = optuna.create_study(**options)
        if not (saved := study.user_attrs.get("definition")):
            study.set_user_attr("definition", definition)
        for name, value in definition.items():
            if saved and saved.get(name) != value:
                raise ValueError(
                    f"`--output_dir` {self.folder} holds a search with another {name}: {saved.get(name)}, now {value}; "
                    "repeat its command, or name another folder"
                )
        return study

    def worker_file(self, name: str) -> Path:
        """The file that a process of the search locks as long as it lives."""
        return self.folder / ".workers" / name

    def trials(self) -> list[FrozenTrial]:
        """All trials, by their number."""
        return self.study.get_trials(deepcopy=False)

    def storage_id(self, trial: FrozenTrial) -> int:
        """What the storage calls a trial: numbers are those of the study, which may not be the first in its file."""
        return self.storage.get_trial_id_from_study_id_trial_number(
            self.storage.get_study_id_from_name(NAME), trial.number
        )

    def take(self, max_trials: int | None, taken: Container[int] = ()) -> FrozenTrial | None:
        """Take the next setting to run: one whose process has died, or else a new one.

        Args:
            taken: numbers of the trials that this process runs.
            max_trials: number of settings after which no new one is proposed.

        Returns:
            Its trial, with the setting among `user_attrs`; None: there is nothing left to start.
        """
        with self.lock.held():
            trials, others = self.trials(), self.others()
            for trial in trials:
                is_left = trial.number not in taken and trial.user_attrs["worker"] not in others
                if trial.state == TrialState.RUNNING and is_left:
                    self.storage.set_trial_user_attr(self.storage_id(trial), "worker", self.worker)
                    return self.trials()[trial.number]
            if max_trials is not None and len(trials) >= max_trials:
                return None
            if (setting := self.propose(trials)) is None:
                return None
            used = [parameter for parameter in self.space if parameter.name in setting]
            self.study.add_trial(
                optuna.trial.create_trial(
                    state=TrialState.RUNNING,
                    params={p.name: to_label(setting[p.name]) for p in used},
                    distributions={p.name: p.distribution() for p in used},
                    user_attrs={"setting": setting, "worker": self.worker},
                )
            )
            return self.trials()[len(trials)]

    def others(self) -> set[str]:
        """Names of the other processes of the search that live, here or on another machine: death releases a lock."""
        alive = set()
        for path in (self.folder / ".workers").iterdir():
            if path.name != self.worker:  # closing a file of its own would release the lock
                with contextlib.suppress(FileNotFoundError), open(path, "r+") as file:
                    try:
                        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        path.unlink()
                    except (BlockingIOError, PermissionError):
                        alive.add(path.name)
        return alive

    def propose(self, trials: list[FrozenTrial]) -> dict[str, Any] | None:
        """Choose a setting that no trial has; None: all were tried, or no attempt found one."""
        tried = {setting_key(trial.user_attrs["setting"]) for trial in trials}
        untried = [setting for setting in self.settings or [] if setting_key(setting) not in tried]
        if self.settings is not None and not untried:
            return None
        generator = np.random.default_rng([self.seed, len(trials)])
        if untried and self.sampler == "grid":
            # In the order of the file, ascending rates would each be the best so far, and none would be pruned.
            return untried[0 if self.pruner == "none" else generator.integers(len(untried))]
        seeds = generator.integers(2**32, size=ATTEMPTS).tolist()
        study = self.copy(trials, TPESampler(seed=seeds[0]) if self.sampler == "tpe" else RandomSampler(seed=seeds[0]))
        for seed in seeds:
            setting = draw_setting(study.ask(), self.space)
            if setting_key(setting) not in tried:
                return setting
            study.sampler = RandomSampler(seed=seed)
        return untried[generator.integers(len(untried))] if untried else None

    def copy(self, trials: list[FrozenTrial], sampler: BaseSampler | None = None) -> optuna.Study:
        """A study in memory with these trials."""
        study = optuna.create_study(
            study_name=NAME, direction=self.direction, sampler=sampler or RandomSampler(0), pruner=self.new_pruner()
        )
        study.add_trials(trials)
        return study

    def new_pruner(self) -> BasePruner:
        """The pruner, whose unit is an evaluation."""
        if self.pruner == "halving":
            return SuccessiveHalvingPruner(min_resource=1, reduction_factor=FACTOR)
        if self.pruner == "hyperband":
            return HyperbandPruner(min_resource=1, reduction_factor=FACTOR)
        return MedianPruner() if self.pruner == "median" else NopPruner()

    def decide(self, number: int, reports: list[float]) -> tuple[bool, dict[str, Any]]:
        """Decide whether a setting is to be pruned.

        Args:
            number: of its trial.
            reports: its scores after 1, 2, ... evaluations.

        Returns:
            Whether it is, and what the pruner wants to know of it later.
        """
        trials, pruned = self.trials(), False
        study = self.copy(trials[:number])
        trial = study.ask()
        study.add_trials([other for other in trials[number + 1 :] if other.state.is_finished()])
        for step, value in enumerate(reports, start=1):
            trial.report(value, step)
            pruned = trial.should_prune()
        attributes = study.get_trials(deepcopy=False)[number].system_attrs
        return pruned, {key: value for key, value in attributes.items() if key.startswith("completed_rung")}

    def finish(
        self,
        trial: FrozenTrial,
        state: TrialState,
        value: float | None,
        reports: list[float],
        pruner_notes: dict[str, Any],
        facts: dict[str, Any],
    ) -> None:
        """Record the end of a setting.

        Args:
            trial: as `take` returned it.
            state: complete, pruned or failed.
            value: mean score of its runs, if complete.
            reports, pruner_notes: as for and from `decide`.
            facts: what is kept of its runs.
        """
        with self.lock.held():
            trial_id = self.storage_id(trial)
            for step, report in enumerate(reports, start=1):
                self.storage.set_trial_intermediate_value(trial_id, step, report)
            for key, note in pruner_notes.items():
                self.storage.set_trial_system_attr(trial_id, key, note)
            for key, fact in facts.items():
                self.storage.set_trial_user_attr(trial_id, key, fact)
            self.study.tell(trial.number, value, state=state)

    def best(self) -> FrozenTrial | None:
        """The complete trial with the best score, of equal ones the first; None: none is complete."""
        complete = [trial for trial in self.trials() if trial.state == TrialState.COMPLETE]
        sign = 1 if self.direction == "minimize" else -1
        return min(complete, key=lambda trial: (sign * (trial.value or 0), trial.number), default=None)


def remove_torn_line(path: Path) -> None:
    """Remove the start of a line that a process which was killed has left at the end of the journal."""
    if not path.exists():
        return
    with open(path, "r+b") as file:
        content = file.read()
        if not content.endswith(b"\n"):
            file.truncate(content.rfind(b"\n") + 1)
