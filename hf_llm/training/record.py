"""What a run leaves besides its model: its settings, its environment and its log; and the function that reads them."""

import json
import logging
import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import hf_llm
from hf_llm.files import write_text
from hf_llm.mappings import describe_yaml_error, dump_yaml, load_yaml, read_json_file, read_settings
from hf_llm.messages import printable, without_secrets

logger = logging.getLogger(__name__)

SETTINGS, ENVIRONMENT, LOG = "run.yaml", "environment.json", "log.jsonl"
TRAINER_STATE, RESULTS = "trainer_state.json", "all_results.json"


@dataclass(frozen=True)
class Run:
    """What a training run has left in its folder. What is not there, or not yet, is empty.

    Attributes:
        folder: its output folder.
        settings: flags by name, from `run.yaml`.
        environment: `environment.json`: versions, hardware, data.
        log: entries of the Trainer in the order of time, with `step`, `epoch` and `seconds` since training began.
        results: `all_results.json`, the figures at the end.
    """

    folder: Path
    settings: dict[str, Any]
    environment: dict[str, Any]
    log: list[dict[str, Any]]
    results: dict[str, Any]


def read_run(folder: str | Path) -> Run:
    """Read what a training run has left in its folder, also while it runs, and also without the newer files.

    Raises:
        ValueError: the folder is not that of a run, or a file in it cannot be read.
    """
    folder = Path(folder)
    names = (SETTINGS, ENVIRONMENT, LOG, TRAINER_STATE, RESULTS)
    if not any((folder / name).is_file() for name in names):
        problem = "holds no run" if folder.is_dir() else "is not a folder"
        raise ValueError(f"`{folder}` {problem}: name the `--output_dir` of a training run, which has a {LOG}")
    environment, results = read_json(folder / ENVIRONMENT), read_json(folder / RESULTS)
    if environment.get("finished") is False:
        results = {}  # those in the file are of an earlier run
    return Run(folder, read_run_settings(folder / SETTINGS), environment, read_log(folder), results)


def read_run_settings(path: Path) -> dict[str, Any]:
    """Read `run.yaml` with numbers as numbers; without such a file there are no settings."""
    if not path.is_file():
        return {}
    try:
        settings = load_yaml(read_settings(path, f"`{path}`")) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"`{path}` cannot be read: {describe_yaml_error(error)}") from None
    if not isinstance(settings, dict):
        raise ValueError(f"`{path}` has no lines `key: value`: was the file edited?")
    return settings


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; an empty one if there is no such file."""
    return read_json_file(path) if path.is_file() else {}


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Read the log of a run. The last line of a running one may be half written, and is not read then.

    Raises:
        ValueError: another line is not a JSON object.
    """
    if not (folder / LOG).is_file():
        return read_json(folder / TRAINER_STATE).get("log_history", [])
    lines = (folder / LOG).read_text(encoding="utf-8").splitlines(keepends=True)
    entries = []
    for number, line in enumerate(lines, 1):
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError:
            if line.endswith("\n"):
                raise ValueError(f"`{folder / LOG}`, line {number}, is not JSON: was the file edited?") from None
    return entries


def write_settings(folder: str | Path, settings: Mapping[str, Any]) -> None:
    """Write `run.yaml` on rank 0: the settings of a run, which `--config` repeats, and its command as a comment.

    Args:
        settings: those that `parse_args` leaves in its last dataclass. What looks like a secret is left out.
    """
    if int(os.environ.get("RANK", 0)) > 0:
        return
    ranks = int(os.environ.get("WORLD_SIZE", 1))
    safe = {name: hide_secrets(value) for name, value in settings.items()}
    hidden = [name for name in settings if safe[name] != settings[name]]
    path, processes = Path(folder) / SETTINGS, "1 process" if ranks == 1 else f"{ranks} processes"
    comments = [
        f"{os.path.relpath(sys.argv[0])} of hf_llm {hf_llm.__version__}, {processes}",
        f"Started in {os.getcwd()}, where relative paths begin. To repeat it:",
        f"{launch_command(ranks)} --config {shlex.quote(str(path))} --output_dir outputs/again",
    ]
    if hidden:
        comments.append(f"Not complete, without secrets and names that are not UTF-8: give again {', '.join(hidden)}")
        logger.warning(f"`{path}` is without secrets in {', '.join(hidden)}: give them again to repeat the run")
    write_text(path, "".join(f"# {printable(line)}\n" for line in comments) + dump_yaml(safe))


def hide_secrets(value: Any) -> Any:
    """Return a setting without passwords, tokens and queries of addresses in its texts, and in UTF-8."""
    if isinstance(value, dict):
        return {key: hide_secrets(item) for key, item in value.items()}
    if isinstance(value, list):
        return [hide_secrets(item) for item in value]
    return without_secrets(value).encode(errors="backslashreplace").decode() if isinstance(value, str) else value


def launcher() -> str:
    """What has started this process: python, accelerate, torchrun, or other (MPI, Slurm)."""
    if "ACCELERATE_MIXED_PRECISION" in os.environ:
        return "accelerate"
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return "torchrun"
    return "other" if int(os.environ.get("WORLD_SIZE", 1)) > 1 else "python"


def launch_command(ranks: int) -> str:
    """The command that starts this recipe on as many processes, without its flags."""
    recipe, nodes = shlex.quote(os.path.relpath(sys.argv[0])), 1
    if (local := int(os.environ.get("LOCAL_WORLD_SIZE", ranks))) < ranks:
        nodes = ranks // local
    if launcher() == "accelerate" and nodes == 1:
        deepspeed = "--use_deepspeed " * ("ACCELERATE_USE_DEEPSPEED" in os.environ)
        return f"accelerate launch {deepspeed}" + f"--num_processes {ranks} " * (ranks > 1) + recipe
    if ranks > 1:
        return "torchrun " + f"--nnodes {nodes} " * (nodes > 1) + f"--nproc_per_node {local} {recipe}"
    return f"{'accelerate launch' if launcher() == 'accelerate' else 'python'} {recipe}"
