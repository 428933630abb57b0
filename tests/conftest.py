"""Shared fixtures: a small corpus, and processes that run on the CPU, offline, and never outlive the tests."""

import contextlib
import gc
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest_plugins = ["finetuning_runs", "pretraining_runs"]

ROOT = Path(__file__).parent.parent
LAUNCHERS = ("ACCELERATE_", "OMPI_", "PMI_", "TORCHELASTIC_", "RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_")


def pytest_collection_finish():
    """Take all that is imported out of garbage collection: each `Trainer.train` collects, for 0.3 seconds otherwise."""
    gc.collect()
    gc.freeze()


@dataclass
class Finished:
    """What a process that has ended said."""

    status: int
    stdout: str
    stderr: str


class Processes:
    """Starts processes, two at a time where they are submitted, each with a time limit."""

    def __init__(self, home: Path):
        inherited = {name: value for name, value in os.environ.items() if not name.startswith((*LAUNCHERS, "HF_"))}
        path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
        self.environment = inherited | {
            "PATH": path,
            "PYTHONPATH": str(ROOT),
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
        }
        self.pool = ThreadPoolExecutor(2)
        self.running: set[subprocess.Popen] = set()
        self.servers: dict[frozenset, subprocess.Popen] = {}
        self.lock = threading.Lock()

    def start(
        self, command: list, folder: Path, environment: dict[str, str] | None = None, **settings
    ) -> subprocess.Popen:
        """A process in a group of its own."""
        process = subprocess.Popen(
            [str(part) for part in command],
            cwd=folder,
            env=self.environment | (environment or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            **settings,
        )
        self.running.add(process)
        return process

    def finish(self, process: subprocess.Popen, timeout: float = 300) -> Finished:
        try:
            stdout, stderr = process.communicate(timeout=timeout)
            return Finished(process.returncode, stdout, stderr)
        finally:
            self.kill(process)

    def kill(self, process: subprocess.Popen) -> None:
        """End the process and its group; launchers end those of their ranks that are in other groups."""
        for number, patience in ((signal.SIGTERM, 10), (signal.SIGKILL, 60)):
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                    os.killpg(process.pid, number)
                    process.wait(patience)
        self.running.discard(process)

    def run(self, command: list, folder: Path, environment: dict[str, str] | None = None) -> Finished:
        """Start a process and wait for its end."""
        return self.finish(self.start(command, folder, environment))

    def server(self, environment: dict[str, str]) -> subprocess.Popen:
        """The process that forks recipes with this environment, which libraries read when they are imported."""
        with self.lock:
            key = frozenset(environment.items())
            if key not in self.servers:
                server = [sys.executable, ROOT / "tests" / "forked_recipes.py"]
                self.servers[key] = self.start(server, ROOT, environment, stdin=subprocess.PIPE)
            return self.servers[key]

    def fork(
        self,
        command: list,
        folder: Path,
        environment: dict[str, str] | None = None,
        ranks: int = 1,
        hub: dict[str, str] | None = None,
    ) -> Finished:
        """Run a recipe in a process, or on several ranks, forked from one that has done the imports.

        Args:
            environment: variables of this process.
            hub: variables that libraries read when they are imported, as those of the Hub: they have a server.
        """
        server = self.server(hub or {})
        with tempfile.TemporaryDirectory() as results:
            job = {"command": [str(part) for part in command], "folder": str(folder), "results": results}
            job |= {"environment": environment or {}, "ranks": ranks}
            with self.lock:
                print(json.dumps(job), file=server.stdin, flush=True)
            status, deadline = Path(results, "status"), time.monotonic() + 300
            while not status.exists():
                assert server.poll() is None, server.stderr.read()
                assert time.monotonic() < deadline, f"{command} takes more than 300 seconds"
                time.sleep(0.02)
            return Finished(
                int(status.read_text()), *(Path(results, name).read_text() for name in ("stdout", "stderr"))
            )

    def fork_each(self, jobs: dict[str, list], folder: Path) -> dict[str, Finished]:
        """Recipes one after the other in `folder`."""
        return {name: self.fork(command, folder) for name, command in jobs.items()}

    def submit(self, function: Callable, *arguments: Any) -> Future:
        """Call `function` when one of two workers is free."""
        return self.pool.submit(function, *arguments)

    def close(self) -> None:
        self.pool.shutdown(wait=False, cancel_futures=True)
        for process in list(self.running):
            self.kill(process)
        for server in self.servers.values():
            for stream in (server.stdin, server.stdout, server.stderr):
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        self.pool.shutdown()


# The runs that tests share, in the order in which they are started: long ones and those that others need come first.
STARTED = ["trained", "short_tuning_runs", "zero2", "two_ranks", "short_runs", "killed", "streamed_killed", "zero3"]
STARTED += ["streamed", "one_process", "zero2_resumed", "twin", "resumed", "resumed_before_half", "continued"]
STARTED += ["adapters_resumed", "scored_on_ranks", "pushed", "pushed_at_end", "push_failed", "pushed_to_public"]


def pytest_collection_modifyitems(items):
    """Tests of these runs come last: the runs take place during the other tests."""
    items.sort(key=lambda item: not set(STARTED).isdisjoint(item.fixturenames))


@pytest.fixture(scope="session", autouse=True)
def started(request):
    """Start the runs that the selected tests need, without waiting for them."""
    wanted = {name for item in request.session.items for name in getattr(item, "fixturenames", [])}
    for name in STARTED:
        if name in wanted:
            request.getfixturevalue(name)


@pytest.fixture(scope="session")
def processes(tmp_path_factory):
    """Processes with an empty `HF_HOME` that they share."""
    processes = Processes(tmp_path_factory.mktemp("hf_home"))
    yield processes
    processes.close()


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory) -> Path:
    """A folder as the README's first command leaves it behind: an untrained model and a tokenizer of Python's docs."""
    from tiny import new_model

    from hf_llm.data.vocabulary import train_tokenizer
    from hf_llm.python_docs import python_docs

    folder = tmp_path_factory.mktemp("base")
    size = {"vocab_size": 600, "hidden_size": 64, "intermediate_size": 64, "max_position_embeddings": 1024}
    new_model(initializer_range=0.06, **size).save_pretrained(folder)
    train_tokenizer(python_docs()["train"]["text"][:40], vocab_size=600).save_pretrained(folder)
    return folder


WORDS = ["the", "a", "cat", "dog", "sat", "ran", "on", "mat", "and", "then", "it", "was", "very", "big", "small"]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    """A folder with `train.jsonl` (150 documents) and `validation.jsonl` (12), the same in every run.

    Four times out of five a word is followed by the next one of `WORDS`, which a tiny model learns in 60 steps.
    """
    folder, draw = tmp_path_factory.mktemp("corpus"), random.Random(0)

    def document() -> str:
        places = [draw.randrange(len(WORDS))]
        for _ in range(draw.randint(5, 90)):
            places.append(places[-1] + 1 if draw.random() < 0.8 else draw.randrange(len(WORDS)))
        return " ".join(WORDS[place % len(WORDS)] for place in places)

    for name, documents in (("train", 150), ("validation", 12)):
        lines = [json.dumps({"text": document()}) + "\n" for _ in range(documents)]
        (folder / f"{name}.jsonl").write_text("".join(lines))
    return folder


TORCHRUN = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


@pytest.fixture
def no_launcher(monkeypatch):
    """An environment without a launcher, on a machine without a GPU, in which no process group is started."""
    import torch

    for name in [name for name in os.environ if name.startswith(LAUNCHERS)]:
        monkeypatch.delenv(name)
    for name in TORCHRUN:  # so that those which the tested code sets are removed after the test
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr("hf_llm.distributed.deepspeed_config.set_up_cpu_ranks", lambda config, values: None)


@pytest.fixture
def torchrun(no_launcher, monkeypatch):
    """The environment that torchrun gives to the first of two ranks."""
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
