"""A trial of a search: the runs of one setting, each a process with a folder, followed while it trains."""

import contextlib
import json
import math
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from hf_llm.files import remove, write_json
from hf_llm.messages import format_line
from hf_llm.search import supervisor
from hf_llm.search.commands import Command
from hf_llm.search.space import setting_flags
from hf_llm.training.record import LOG, RESULTS, read_json, read_log

FINISHED = "finished.json"
WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "checkpoint-*", "*.safetensors.index.json")
ERROR = re.compile(r"^(?:error: |\S*(?:Error|Exception): )")


@dataclass(frozen=True)
class PlannedRun:
    """One training of a setting, which may not have begun.

    Attributes:
        folder: its `--output_dir`.
        fold: e.g. `2/5`; None: no folds.
        seed: None: that of the command.
    """

    folder: Path
    fold: str | None = None
    seed: int | None = None

    def flags(self) -> list[str]:
        """The flags that make this run of a setting's command."""
        flags = [f"--output_dir={self.folder}"]
        flags += [f"--fold={self.fold}"] if self.fold else []
        return flags + ([f"--seed={self.seed}"] if self.seed is not None else [])

    @property
    def console(self) -> Path:
        """The file with what the run wrote to stdout and stderr."""
        return self.folder.with_name(f"{self.folder.name}.log")


def trial_folder(folder: Path, number: int) -> Path:
    """The folder of a trial in that of the search."""
    return folder / "trials" / f"{number:04d}"


def list_runs(folder: Path, num_folds: int | None, seeds: list[int] | None) -> list[PlannedRun]:
    """List the runs of a setting: each fold with each seed."""
    folds = [f"{number}/{num_folds}" for number in range(1, num_folds + 1)] if num_folds else [None]
    runs = []
    for seed in seeds or [None]:
        for fold in folds:
            names = [f"fold_{fold.split('/')[0]}"] if fold else []
            names += [f"seed_{seed}"] if seed is not None else []
            runs.append(PlannedRun(folder / ("_".join(names) or "run"), fold, seed))
    return runs


class RunProcess:
    """The process of a run, started when this object is made unless the run is finished already.

    Args:
        run: whose folder is removed first if it was cut short.
        command: of the search.
        setting: values of the space.
        environment: variables for the process, besides those of this one.
    """

    def __init__(self, run: PlannedRun, command: Command, setting: dict[str, Any], environment: dict[str, str]):
        self.run, self.evaluations, self.position, self.last_step = run, [], 0, -1
        self.process: subprocess.Popen | None = None
        if (run.folder / FINISHED).exists():
            return
        supervisor.end_marked(str(run.folder))
        remove(run.folder)
        run.folder.parent.mkdir(parents=True, exist_ok=True)
        words = command.words([*setting_flags(setting), *run.flags()])
        with open(run.console, "w") as console:
            self.process = subprocess.Popen(
                [sys.executable, supervisor.__file__, str(os.getpid()), *words],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                env=os.environ | environment | {supervisor.MARK: str(run.folder)},
                start_new_session=True,
            )

    def is_running(self) -> bool:
        """Whether the process runs; a run that has finished is marked as such."""
        if self.process is None:
            return False
        if self.process.poll() is None:
            return True
        if self.process.returncode == 0 and (self.run.folder / RESULTS).exists():
            write_json(self.run.folder / FINISHED, {"fold": self.run.fold, "seed": self.run.seed})
        return False

    def wait(self, seconds: float) -> None:
        """Wait until the process ends, but not longer than so many seconds."""
        if self.process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(seconds)

    def has_failed(self) -> bool:
        """Whether an ended process has left no results."""
        return not (self.run.folder / FINISHED).exists()

    def read_scores(self, metric: str) -> list[float]:
        """Read the scores of the evaluations that the log has by now, one a step."""
        path = self.run.folder / LOG
        if not path.exists():
            return self.evaluations
        with open(path, "rb") as file:
            file.seek(self.position)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self.position += len(line)
                entry = json.loads(line)
                if (name := f"eval_{metric}") in entry and entry["step"] > self.last_step:
                    self.last_step = entry["step"]
                    self.evaluations.append(float(entry[name]))
        return self.evaluations

    def end(self) -> None:
        """End the process and all that it has started."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(3 * supervisor.GRACE)
            except subprocess.TimeoutExpired:
                supervisor.end_marked(str(self.run.folder))
                self.process.kill()

    def facts(self) -> dict[str, Any]:
        """What the search keeps of the run: its fold, seed, folder, metrics and steps."""
        metrics = read_json(self.run.folder / RESULTS)
        folder = os.path.relpath(self.run.folder, self.run.folder.parents[2])
        return {
            "fold": self.run.fold,
            "seed": self.run.seed,
            "folder": folder,
            "metrics": {name: value for name, value in metrics.items() if isinstance(value, int | float)},
            "steps": max((entry.get("step", 0) for entry in read_log(self.run.folder)), default=0),
        }


def last_error(console: Path) -> str:
    """The line in which a run says why it failed, or else its last line."""
    text = console.read_text(encoding="utf-8", errors="replace") if console.exists() else ""
    lines = [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]
    errors = [line for line in lines if ERROR.match(line)]
    ours = [line for line in errors if line.startswith("error: ")]
    return format_line(
        (ours[:1] or errors[-1:] or lines[-1:] or ["it ended without a word"])[0].removeprefix("error: ")
    )


def remove_weights(folder: Path) -> None:
    """Remove weights and checkpoints from the runs of a setting; what tells of them is kept."""
    for run in filter(Path.is_dir, folder.glob("*")):
        for pattern in WEIGHTS:
            for path in run.glob(pattern):
                remove(path)


def mean(scores: list[float]) -> float:
    """The mean; NaN if one is not a number."""
    return math.fsum(scores) / len(scores)


def share_of_gpus(job: int, jobs: int, gpus: int) -> dict[str, str]:
    """Environment variables that give one of several jobs its share of this machine: GPUs, or CPU threads.

    Example:
        >>> share_of_gpus(1, 2, gpus=4)
        {'CUDA_VISIBLE_DEVICES': '2,3'}
    """
    if jobs == 1:
        return {}
    if gpus:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        names = visible if visible != [""] else [str(number) for number in range(gpus)]
        each = max(1, gpus // jobs)
        return {"CUDA_VISIBLE_DEVICES": ",".join(names[(job * each + n) % gpus] for n in range(each))}
    threads = max(1, len(psutil.Process().cpu_affinity() or [0]) // jobs)
    return {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))}
