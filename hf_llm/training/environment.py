"""Where and with what a run was made: versions, commit, hardware, ranks, data."""

import importlib
import importlib.util
import json
import logging
import os
import platform
import re
import subprocess
import time
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import torch
from datasets.fingerprint import Hasher
from transformers import Trainer

import hf_llm
from hf_llm.data.arrow import row_facts
from hf_llm.messages import one_line
from hf_llm.training.facts import zero_stage
from hf_llm.training.record import launcher

logger = logging.getLogger(__name__)

# Packages that others bring in, and that change results.
INDIRECT = ("numpy", "tokenizers", "safetensors", "pyarrow", "huggingface_hub")


def describe_environment(trainer: Trainer) -> dict[str, Any]:
    """Describe what a run is made with and on, without names of users, hosts and folders.

    Returns:
        The content of `environment.json`; `wall_seconds` and `energy_kwh` come at the end.
    """
    return {
        "hf_llm": hf_llm.__version__,
        "versions": package_versions(),
        "python": platform.python_version(),
        "commit": git_commit(Path(__file__).parents[2]),
        "platform": platform.platform(),
        "hardware": describe_hardware(),
        "ranks": trainer.args.world_size,
        "launcher": launcher(),
        "deepspeed": None if (stage := zero_stage(trainer)) is None else {"stage": stage},
        "data": {
            split: describe_rows(rows)
            for split, rows in (("train", trainer.train_dataset), ("validation", trainer.eval_dataset))
            if rows is not None
        },
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "finished": False,
    }


def package_versions() -> dict[str, str]:
    """Versions of the packages that hf_llm requires and that are installed."""
    try:
        required = [re.split(r"[^\w.-]", line)[0] for line in metadata.requires("hf_llm") or () if "extra" not in line]
    except metadata.PackageNotFoundError:
        required = ["torch", "transformers", "accelerate", "deepspeed", "datasets", "peft"]
    installed = {}
    for name in sorted({*required, *INDIRECT}):
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed


def git_commit(folder: Path) -> str | None:
    """The commit of a git repository, "+changes" if files differ from it; None if the folder is not one."""
    if not (folder / ".git").exists():
        return None
    command = ["git", "-C", str(folder)]
    try:
        commit, changes = (
            subprocess.run([*command, *words], capture_output=True, text=True, check=True, timeout=10).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return None  # no git, or the folder belongs to somebody else
    return commit + "+changes" * bool(changes)


def describe_hardware() -> dict[str, Any]:
    """Processor, cores and memory that this process may use, and the GPUs of this machine."""
    cpu = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).exists() and (named := re.search(r"model name\s*:\s*(.+)", info.read_text())):
        cpu = named[1]
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": psutil.virtual_memory().total,
        "gpus": [torch.cuda.get_device_name(index) for index in gpus],
    }


def describe_rows(rows: Any) -> dict[str, Any]:
    """Number and fingerprint of the rows of a split: of their content, wherever it was read from."""
    facts = row_facts(rows)
    text = json.dumps(facts.get("data", facts), sort_keys=True, default=str)
    return {"rows": facts.get("rows"), "fingerprint": Hasher.hash_bytes(text.encode())}


class EnergyMeter:
    """The energy that this machine uses, where codecarbon is installed; estimated where there are no counters."""

    def __init__(self):
        self.tracker = None
        if importlib.util.find_spec("codecarbon") is None:
            return
        os.environ.setdefault("CODECARBON_LOG_LEVEL", "critical")
        try:
            # The country is for the emissions only, which are not read; the other tracker looks it up in the network.
            new_tracker = importlib.import_module("codecarbon").OfflineEmissionsTracker
            self.tracker = new_tracker(country_iso_code="USA", save_to_file=False, log_level="critical")
            self.tracker.start()
        except Exception as error:
            self.fail(error)

    def stop(self) -> dict[str, float]:
        """Return `energy_kwh` since the start, or nothing if it is not known."""
        try:
            if self.tracker is not None:
                self.tracker.stop()
                return {"energy_kwh": self.tracker.final_emissions_data.energy_consumed}
        except Exception as error:
            self.fail(error)
        return {}

    def fail(self, error: Exception) -> None:
        """A figure that cannot be had costs no run."""
        logger.warning(f"codecarbon does not work here, and the energy of the run is not known: {one_line(error)}")
        self.tracker = None


def process_seconds() -> float:
    """Seconds since this process was started."""
    return round(time.time() - psutil.Process().create_time(), 1)
