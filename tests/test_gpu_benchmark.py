"""`benchmarks/gpu.py` without a GPU: every part in small, an end before its time, and bad inputs."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PARTS = {"pretraining", "finetuning", "attention", "zero", "memory", "generation"}


def command(*flags) -> dict:
    """What `subprocess` takes to run the benchmark."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    env = os.environ | {"PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return {"args": [sys.executable, str(ROOT / "benchmarks/gpu.py"), *map(str, flags)], "env": env, "text": True}


def test_every_part_gives_its_rows_on_a_cpu(processes, tmp_path):
    """All cells that a CPU can measure have a figure, the others say what they need, and none has failed."""
    run = processes.fork([ROOT / "benchmarks/gpu.py", "--device", "cpu", "--tiny", "--output_dir", tmp_path], tmp_path)
    assert run.status == 0, run.stderr
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert [row for row in rows if row.get("failed")] == []
    measured = [row for row in rows if row.get("note") != "needs a GPU"]
    assert {row["part"] for row in measured} == PARTS
    assert all("rate" in row for row in measured if row["part"] in ("pretraining", "finetuning", "generation"))
    none, zero2, zero3 = (row for row in rows if row["part"] == "zero")
    assert zero2["losses"] == pytest.approx(none["losses"], rel=1e-5)
    assert zero3["losses"] == pytest.approx(none["losses"], rel=1e-5)
    assert "in force" in zero2["note"] and "in force" in zero3["note"]
    table = (tmp_path / "gpu.md").read_text()
    assert table in run.stdout + "\n"
    assert table.count("\n| ") == 1 + len(rows)


def test_a_killed_run_leaves_the_rows_it_had_measured(tmp_path):
    """The files are complete after every row."""
    run = command("--device", "cpu", "--tiny", "--parts", "attention,memory", "--output_dir", tmp_path)
    process = subprocess.Popen(**run, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    for line in process.stdout:
        if line.startswith("| memory"):
            process.send_signal(signal.SIGTERM)
            break
    process.stdout.close()
    assert process.wait(30) == 143
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert [row["part"] for row in rows] == ["attention"] * (len(rows) - 1) + ["memory"]
    assert (tmp_path / "gpu.md").read_text().count("\n| ") == 1 + len(rows)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--parts", "pretraining,speed"], "`--parts` speed: there is no such part"),
        ([], "there is no GPU here: add `--device cpu --tiny`"),
    ],
)
def test_bad_input_is_one_line(tmp_path, flags, message):
    run = subprocess.run(**command(*flags, "--output_dir", tmp_path / "new"), capture_output=True)
    assert run.returncode == 2
    assert run.stderr.count("\n") == 1
    assert message in run.stderr
    assert not (tmp_path / "new").exists()


def test_too_many_wheels_are_refused(tmp_path):
    """A folder above the limit would not reach the GPU machine."""
    with open(tmp_path / "large.whl", "wb") as file:
        file.truncate(65 * 2**20)
    run = subprocess.run(
        [str(ROOT / "benchmarks/gpu_wheels.sh"), "install", str(tmp_path)], capture_output=True, text=True
    )
    assert run.returncode == 2
    assert run.stderr == f"error: `{tmp_path}` has 66 MiB of wheels, more than 64: take some out of WHEELS\n"
