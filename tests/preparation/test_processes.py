"""What goes wrong in a worker process comes out complete and always, and shared memory is never exceeded."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
from conftest import ROOT

from hf_llm.arguments import PreparationArguments
from hf_llm.preparation import pipeline, processes
from hf_llm.preparation.pipeline import prepare
from hf_llm.preparation.processes import StepWorker, shared_memory_limits
from hf_llm.preparation.row_steps import RowSteps

TEXTS = ["The first of three texts.", "FAIL here, please.", "And this is the last of them."]


class FailingSteps(RowSteps):
    """Fails at some texts; worker processes import it from here."""

    def length(self, result):
        if "FAIL" in result.text:
            raise RecursionError("a step\nfailed")
        if "SURROGATE" in result.text:
            result.text = "\ud800"
        if "KILL" in result.text:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().length(result)


def run(tmp_path, texts, monkeypatch, **settings):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    monkeypatch.setattr(pipeline, "build_row_steps", lambda args: FailingSteps())
    files = {"files": [str(tmp_path / "a.jsonl")], "output_dir": str(tmp_path / "out")}
    return prepare(PreparationArguments(**files, **settings))


def test_a_text_at_which_a_step_fails_is_a_row_with_a_problem(tmp_path, monkeypatch):
    """Of all texts in its batch that row alone; the run ends with its message, or counts it."""
    problem = f"`{tmp_path}/a.jsonl` row 1 cannot be prepared: RecursionError: a step failed"
    with pytest.raises(ValueError, match=re.escape(problem)):
        run(tmp_path, TEXTS, monkeypatch)
    manifest = run(tmp_path, [*TEXTS, "SURROGATE"], monkeypatch, on_error="skip", max_unreadable=0.9)
    assert manifest["rows"] == 2 and manifest["steps"][0]["dropped"] == {"cannot be read": 2}
    assert manifest["steps"][0]["bytes_out"] == manifest["bytes"] == len(TEXTS[0] + TEXTS[2])
    assert manifest["input"]["bytes_lost"] == len(TEXTS[1] + "SURROGATE")


def test_a_worker_process_that_is_killed_ends_the_run(tmp_path, monkeypatch):
    """In one line, with what may help; the run does not hang."""
    with pytest.raises(OSError, match=r"worker process ended: .*closed the connection.*: if there is too little"):
        run(tmp_path, ["KILL me"], monkeypatch)
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]
    assert not logging.getLogger("daft_local_execution.intermediate_ops.udf").isEnabledFor(logging.ERROR)


@pytest.fixture
def shared_memory(monkeypatch):
    """Set the free bytes of shared memory and the number of cores."""

    def set_size(free, cores=16):
        status = os.statvfs_result((4096, 1, free, free, free, 0, 0, 0, 0, 255))
        monkeypatch.setattr(processes.os, "statvfs", lambda path: status)
        monkeypatch.setattr(processes.os, "cpu_count", lambda: cores)

    return set_size


def test_texts_and_processes_fit_into_shared_memory(shared_memory, caplog):
    """Input and output of all processes, with a reserve; with little of it a warning says that there are fewer."""
    shared_memory(24 << 30)
    assert shared_memory_limits() == (None, (24 << 30) // 3 // 16) and not caplog.messages
    shared_memory(64 << 20)  # of a container
    workers, max_bytes = shared_memory_limits()
    assert workers == 5 and 3 * workers * max_bytes <= 64 << 20 and max_bytes >= 4 << 20
    assert "only 5 of 16 cores" in caplog.text and "docker run --shm-size" in caplog.text
    shared_memory(1 << 20)
    assert shared_memory_limits() == (1, (1 << 20) // 3)
    shared_memory(90_000)
    with pytest.raises(ValueError, match="`/dev/shm` has 90,000 free bytes: enlarge `/dev/shm`, of a container by"):
        shared_memory_limits()


def test_a_folder_of_temporary_files_with_a_long_name_is_refused(monkeypatch):
    """Its sockets could not be made."""
    monkeypatch.setattr(processes.tempfile, "gettempdir", lambda: "/tmp/" + "x" * 100)
    with pytest.raises(ValueError, match=r"TMPDIR is `/tmp/x+`, too long for the sockets in it"):
        shared_memory_limits()


def test_modules_in_the_current_folder_do_not_stop_worker_processes(tmp_path):
    """A file named like a module of Python is not imported in its place; the run would wait without end."""
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": TEXTS[0]}) + "\n")
    (tmp_path / "random.py").write_text("raise SystemExit")
    (tmp_path / "logging.py").write_text("raise SystemExit")
    command = [sys.executable, ROOT / "recipes" / "prepare_data.py", "--files", "a.jsonl", "--output_dir", "out"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    finished = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert finished.returncode == 0 and (tmp_path / "out/manifest.json").exists(), finished.stderr
    assert "tearing down" not in finished.stderr


def test_a_worker_process_ends_at_once(monkeypatch):
    """Without tidying up, for which Daft waits 5 s before it prints an error; no other process does so."""
    registered = []
    monkeypatch.setattr(processes.atexit, "register", lambda *call: registered.append(call))
    StepWorker(RowSteps())
    assert not registered
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", SimpleNamespace(name="daft.execution.udf_worker"))
    StepWorker(RowSteps())
    assert registered == [(os._exit, 0)]
