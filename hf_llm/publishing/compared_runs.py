"""Training runs and evaluations that are to be compared: read, and grouped by their settings."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hf_llm.evaluation.paired_rows import ScoredRows, read_scored_rows
from hf_llm.evaluation.results import EVALUATION
from hf_llm.mappings import read_json_file
from hf_llm.publishing.page import flatten
from hf_llm.training.record import RESULTS, SETTINGS, read_run

# Settings that change neither what is trained nor how it is scored: those of runs of one group may differ.
NOT_COMPARED = {"config", "output_dir", "run_name", "report_to", "json", "resume_from_checkpoint", "disable_tqdm"}
NOT_COMPARED |= {"dataset_num_proc", "per_device_eval_batch_size", "sample_prompt", "skip_memory_metrics", "baseline"}
NOT_COMPARED_PREFIXES = ("logging_", "log_", "save_", "hub_", "push_", "dataloader_num", "dataloader_pin")
NOT_COMPARED_PREFIXES += ("dataloader_prefetch", "dataloader_persistent")
DEFAULT_SEED = 42  # which `run.yaml` does not name
REPEATED = ("seed", "data_seed", "fold")  # what runs of one setting may differ in, and only that
SCORES_OF_TEXT = ("loss", "perplexity", "bits_per_byte")


@dataclass(frozen=True)
class Result:
    """What a training run or an evaluation has left.

    Attributes:
        folder: as the user named it, or one in that.
        trained: whether it is a training run; else what recipes/eval.py wrote.
        settings: flags by name, of an evaluation those of its model's training too, if that is at hand.
        scores: without the prefix `eval_`; of several tasks in one folder as `task/score`.
        intervals: 95 % interval over rows of each score that has one.
    """

    folder: str
    trained: bool
    settings: dict[str, Any]
    environment: dict[str, Any]
    log: list[dict[str, Any]]
    scores: dict[str, float]
    intervals: dict[str, tuple[float, float]]

    @cached_property
    def rows(self) -> dict[str, list[ScoredRows]]:
        """The scored rows of each task, under "" if there is one."""
        if self.trained:
            return {"": read_scored_rows(Path(self.folder), self.settings)}
        figures = read_json_file(Path(self.folder) / EVALUATION)
        if "settings" in figures:
            return {"": read_scored_rows(Path(self.folder), figures["settings"])}
        return {
            task: read_scored_rows(Path(self.folder) / task, own["settings"])
            for task, own in figures.items()
            if isinstance(own, dict) and "settings" in own
        }

    def rows_of(self, score: str) -> list[ScoredRows]:
        """The scored rows of the task that a score is of."""
        task = score.rpartition("/")[0]
        return self.rows.get(task, [])

    @cached_property
    def identity(self) -> str:
        """The settings that are equal for runs of one group, as text; of an evaluation without them its folder."""
        compared = compared_settings(self.settings)
        return json.dumps(compared, sort_keys=True, default=str) if compared else self.folder

    @property
    def repetition(self) -> tuple:
        """Seed and fold."""
        return tuple(f"{({'seed': DEFAULT_SEED} | self.settings).get(name)}" for name in REPEATED)

    @property
    def fold(self) -> str | None:
        return self.settings.get("fold")

    def data(self, split: str) -> dict[str, Any]:
        """`rows` and `fingerprint` of a split, if they were recorded."""
        return self.environment.get("data", {}).get(split) or {}


@dataclass(frozen=True)
class Group:
    """Runs with the same settings, apart from seed and fold; for a comparison of models, one of them.

    Attributes:
        name: a letter.
    """

    name: str
    runs: list[Result]

    @property
    def repetitions(self) -> list[tuple]:
        return [run.repetition for run in self.runs]

    def describe(self) -> str:
        """Folders, and what was repeated, in one line."""
        folders = [run.folder for run in self.runs]
        shown = ", ".join(folders[:3]) + (f" and {len(folders) - 3} more" if len(folders) > 3 else "")
        seeds = sorted({int(run.settings.get("seed", DEFAULT_SEED)) for run in self.runs if run.settings})
        folds = sorted({f"{run.fold}" for run in self.runs if run.fold})
        repeated = [
            f"{name}{'s' * (len(values) > 1)} {', '.join(map(str, values))}"
            for name, values in (("seed", seeds), ("fold", folds))
            if values
        ]
        return shown + f" ({'; '.join(repeated)})" * bool(repeated)


def compared_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that make a run another one than a repetition."""
    return {
        name: value
        for name, value in settings.items()
        if name not in NOT_COMPARED and name not in REPEATED and not name.startswith(NOT_COMPARED_PREFIXES)
    }


def read_results(folders: Sequence[str]) -> list[Result]:
    """Read the folders of training runs or evaluations, or those inside of folders that hold several.

    Raises:
        ValueError: a folder is given twice or is none of these, or a file in it cannot be read.
    """
    results, seen = [], {}
    for folder in folders:
        for found in find_results(folder):
            path = found.resolve()
            if path in seen:
                same = f"`{seen[path]}`" if str(found) != seen[path] else "it"
                raise ValueError(f"`{found}` is given twice ({same} is the same folder): name each folder once")
            seen[path] = str(found)
            results.append(read_result(found))
    return results


def find_results(folder: str) -> list[Path]:
    """The folder itself if it is a result, else those in it.

    Raises:
        ValueError: there is none.
    """
    path = Path(folder).expanduser()
    if any((path / name).is_file() for name in (RESULTS, EVALUATION)):
        return [path]
    for name in (RESULTS, EVALUATION):
        if found := sorted(file.parent for file in path.rglob(name)):
            return found
    if not path.is_dir():
        raise ValueError(f"`{folder}` is not a folder: name the `--output_dir` of training runs or of recipes/eval.py")
    read_run(path)  # says that it is not a run
    raise ValueError(f"`{folder}` has no results: the run has not finished; compare it when it has a {RESULTS}")


def read_result(folder: Path) -> Result:
    """Read one training run or evaluation."""
    if (folder / RESULTS).is_file():
        run = read_run(folder)
        figures = {name.removeprefix("eval_"): value for name, value in run.results.items() if name.startswith("eval_")}
        settings, environment, log, trained = run.settings, run.environment, run.log, True
    else:
        settings, environment, log, trained = {}, {}, [], False
        if (folder / SETTINGS).is_file():
            run = read_run(folder)
            settings, environment = settings_of_model(run.settings), run.environment
        figures = read_json_file(folder / EVALUATION)
        if "settings" not in figures:
            nested = {task: own for task, own in figures.items() if isinstance(own, dict)}
            figures = {f"{task}/{name}": value for task, own in nested.items() for name, value in own.items()}
        elif not environment:
            environment = {"model": figures["model"]}
    return Result(str(folder), trained, settings, environment, log, *scores_and_intervals(figures))


def settings_of_model(settings: dict[str, Any]) -> dict[str, Any]:
    """Replace the folder of an evaluated model by the settings that it was trained with, if it is at hand.

    Two models that differ in the seed of their training are then known as the same setting.
    """
    path = Path(f"{settings.get('model_name_or_path')}")
    if not (path / SETTINGS).is_file():
        return settings
    trained = read_run(path).settings
    own = {name: value for name, value in settings.items() if name not in ("model_name_or_path", *REPEATED)}
    return own | {name: trained[name] for name in REPEATED if name in trained} | {"model": compared_settings(trained)}


def scores_and_intervals(figures: dict[str, Any]) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Choose the scores among the figures of a results file: those with an interval, and losses."""
    numbers = {name: value for name, value in figures.items() if isinstance(value, int | float)}
    intervals = {
        name: (numbers[f"{name}_ci95_low"], numbers[f"{name}_ci95_high"])
        for name in numbers
        if f"{name}_ci95_low" in numbers and not name.endswith(("_difference", "_p_value"))
    }
    chosen = [name for name in numbers if name in intervals or name.endswith(SCORES_OF_TEXT)]
    of_baseline = ("baseline_", "zlib_")
    chosen = [name for name in chosen if not name.rpartition("/")[2].startswith(of_baseline)]
    return {name: float(numbers[name]) for name in chosen}, {
        name: intervals[name] for name in chosen if name in intervals
    }


def group_results(results: list[Result], each_alone: bool = False) -> list[Group]:
    """Group runs by their settings.

    Args:
        each_alone: make a group of each, as for a comparison of models.

    Returns:
        The groups in the order of their first runs, named A, B, C, ...
    """
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.folder if each_alone else result.identity, []).append(result)
    return [Group(letter(number), runs) for number, runs in enumerate(groups.values())]


def letter(number: int) -> str:
    """A, B, ..., Z, A2, B2, ..."""
    turn, place = divmod(number, 26)
    return chr(ord("A") + place) + (str(turn + 1) if turn else "")


def setting_differences(groups: list[Group]) -> dict[str, list[Any]]:
    """The settings in which groups differ, with the value of each group; None where it is not given."""
    settings = [flatten(compared_settings(group.runs[0].settings)) for group in groups]
    names = dict.fromkeys(name for each in settings for name in each)
    values = {name: [each.get(name) for each in settings] for name in names}
    return {name: each for name, each in values.items() if any(value != each[0] for value in each)}


def environment_differences(groups: list[Group]) -> dict[str, list[Any]]:
    """The facts of the environments in which groups differ: versions, ranks, hardware, training data.

    What a folder does not record, as those of recipes/eval.py and of older versions, is empty and no difference.
    """
    facts = [[environment_facts(run) for run in group.runs] for group in groups]
    names = dict.fromkeys(name for group in facts for run in group for name in run)
    values = {}
    for name in names:
        known = [[f"{run.get(name)}" for run in group if name in run or "hf_llm" in run] for group in facts]
        values[name] = [" or ".join(dict.fromkeys(each)) for each in known]
    return {name: each for name, each in values.items() if len({value for value in each if value}) > 1}


def environment_facts(run: Result) -> dict[str, Any]:
    """Facts of the environment that may explain a difference."""
    environment = run.environment
    names = ("model", "hf_llm", "commit", "python", "platform", "ranks", "deepspeed")
    facts = {name: environment[name] for name in names if name in environment}
    facts |= {name: version for name, version in environment.get("versions", {}).items()}
    hardware = environment.get("hardware", {})
    facts |= {name: hardware[name] for name in ("cpu", "gpus") if name in hardware}
    if train := run.data("train"):
        facts["training data"] = f"{train.get('rows')} rows, {train.get('fingerprint')}"
    return facts
