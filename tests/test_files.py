"""Files and folders appear complete or not at all, and what cannot be written is refused before the work."""

import contextlib
import os
import signal
import socket
import subprocess
import sys

import pytest

from hf_llm.files import (
    atomic_folder,
    atomic_path,
    check_output_folder,
    check_writable,
    lock_folder,
    lock_output_file,
    locked,
    new_folder,
    write_json_lines,
    write_text,
)


def test_a_file_appears_complete_or_not_at_all(tmp_path, monkeypatch):
    """If the process is killed while writing, the old content is left."""
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", killed)
        write_text(path, "new")
    assert path.read_text() == "old"
    write_text(path, "ünew")
    assert path.read_text(encoding="utf-8") == "ünew" and os.listdir(tmp_path) == ["file.txt"]


def test_an_error_leaves_the_earlier_file_and_nothing_else(tmp_path):
    """Neither half of the new one nor its temporary file."""
    write_text(tmp_path / "new" / "a.txt", "earlier")
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "new" / "a.txt") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    with pytest.raises(TypeError):
        write_json_lines(f"{tmp_path}/new/b.jsonl", [{"a": 1}, {"a": object()}])
    assert [(path.name, path.read_text()) for path in (tmp_path / "new").iterdir()] == [("a.txt", "earlier")]


def test_an_error_leaves_no_folder(tmp_path):
    """With all that has been written into it."""
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "out") as folder:
        write_text(folder / "a.txt", "a")
        raise RuntimeError
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("make", ["file", "folder"])
def test_what_a_killed_run_left_does_not_disturb_the_next(tmp_path, make):
    """A temporary file or folder of the same name, and an empty folder in the place of the result."""
    leftover = tmp_path / ".out.tmp"
    if make == "file":
        leftover.write_text("half")
    else:
        (leftover / "part").mkdir(parents=True)
    (tmp_path / "out").mkdir()
    with atomic_folder(tmp_path / "out") as folder:
        write_text(folder / "a.txt", "a")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.txt"]
    (tmp_path / ".b.txt.tmp").mkdir()
    write_text(tmp_path / "b.txt", "b")
    assert (tmp_path / "b.txt").read_text() == "b" and not (tmp_path / ".b.txt.tmp").exists()


def test_what_cannot_be_written_is_refused(tmp_path, monkeypatch):
    """With the argument, its value and the part of the path that is in the way."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("a")
    for check, name in (
        (check_writable, "`--output_dir`"),
        (lambda path: new_folder(path).__enter__(), "`--output_dir`"),
        (lock_output_file, "`--output_file`"),
    ):
        with pytest.raises(ValueError, match=f"{name} file/a/b cannot be written: `.*file` is not a writable folder"):
            check("file/a/b")
    check_writable("new/a/b")
    assert os.listdir(tmp_path) == ["file"], "a check makes nothing"


def test_a_new_folder_holds_nothing_and_a_results_file_is_no_folder(tmp_path):
    """An empty folder is as good as none."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    with new_folder(f"{tmp_path}/a/b") as folder:
        assert folder == tmp_path / "a" / "b"
    with (
        pytest.raises(ValueError, match="exists already and is not an empty folder"),
        new_folder(f"{tmp_path}/a"),
    ):
        pass
    with pytest.raises(ValueError, match="is a folder: name a file"):
        lock_output_file(f"{tmp_path}/a")
    lock_output_file(None)


@pytest.fixture
def victim(tmp_path):
    """A folder outside the output folder, with a file that nothing may change."""
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "a.txt").write_text("precious")
    yield tmp_path / "victim"
    assert [path.name for path in (tmp_path / "victim").iterdir()] == ["a.txt"]
    assert (tmp_path / "victim" / "a.txt").read_text() == "precious"


@pytest.mark.parametrize("leads_to", ["victim/a.txt", "victim", "nowhere"])
@pytest.mark.parametrize("name", ["results.json", ".results.json.tmp"])
def test_a_link_is_replaced_and_not_followed(tmp_path, victim, name, leads_to):
    """Under the name of the file and of the unfinished one, to a file, a folder or nothing."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).symlink_to(tmp_path / leads_to)
    for write in (
        lambda: write_text(tmp_path / "out" / "results.json", "new"),
        lambda: write_json_lines(f"{tmp_path}/out/results.json", [{"a": 1}]),
    ):
        write()
        path = tmp_path / "out" / "results.json"
        assert path.read_text() in ("new", '{"a": 1}\n') and not path.is_symlink()
    assert os.listdir(tmp_path / "out") == ["results.json"] and not (tmp_path / "nowhere").exists()


def test_a_folder_does_not_appear_in_the_place_that_a_planted_link_leads_to(tmp_path, victim):
    """The link under the temporary name is removed, and what it leads to is left."""
    (tmp_path / ".out.tmp").symlink_to(victim)
    with atomic_folder(tmp_path / "out") as folder:
        write_text(folder / "b.txt", "b")
    assert os.listdir(tmp_path / "out") == ["b.txt"] and not (tmp_path / ".out.tmp").exists()


@pytest.mark.parametrize(
    "name",
    [
        "all_results.json",
        "_saving",
        "checkpoint-7",
        ".README.md.tmp",
        "runs",
        "model.safetensors",
        "checkpoint-9/a/b",
        "qa",
    ],
)
@pytest.mark.parametrize("leads_to", ["victim/a.txt", "victim", "nowhere"])
def test_a_run_refuses_a_folder_with_links_under_the_names_that_it_writes(tmp_path, victim, name, leads_to):
    """In one line with the link; the folder itself may be a link, and so may a name that no run writes."""
    (tmp_path / "out" / name).parent.mkdir(parents=True)
    (tmp_path / "folder").symlink_to(tmp_path / "out")
    (tmp_path / "out" / "raw").symlink_to(victim)
    check_output_folder(f"{tmp_path}/folder", ["qa"])
    (tmp_path / "out" / name).symlink_to(tmp_path / leads_to)
    with pytest.raises(
        ValueError, match=f"`{tmp_path}/folder/{name}` is a symbolic link.*{leads_to}`: remove the link"
    ):
        check_output_folder(f"{tmp_path}/folder", ["qa"])


@pytest.mark.parametrize("exists", [True, False])
def test_a_new_folder_may_be_a_link(tmp_path, exists):
    """To an empty folder, or to one that is made."""
    if exists:
        (tmp_path / "disk" / "out").mkdir(parents=True)
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "out")
    with new_folder(f"{tmp_path}/out") as target, atomic_folder(target) as folder:
        write_text(folder / "a.txt", "a")
    assert (tmp_path / "out" / "a.txt").read_text() == "a" and (tmp_path / "out").is_symlink()


HOLD = """
import contextlib, sys
from hf_llm.files import lock_folder, lock_output_file, new_folder
kind, path = sys.argv[1:]
hold = {"run": lock_folder, "file": lock_output_file, "new": new_folder}[kind](path)
with hold or contextlib.nullcontext():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def hold():
    """Start a process that locks a path until its input ends or it is killed."""
    started = []

    def start(kind, path):
        command = [sys.executable, "-c", HOLD, kind, path]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("kind", ["run", "file", "new"])
def test_a_second_process_is_refused_until_the_first_has_ended_or_was_killed(tmp_path, hold, kind):
    """It is given the holder's process and machine; a killed holder leaves nothing in the way."""
    path = str(tmp_path / "out")
    first = hold(kind, path)
    second = subprocess.run([sys.executable, "-c", HOLD, kind, path], capture_output=True, text=True, input="")
    assert second.returncode != 0 and "held" not in second.stdout
    assert f"out is in use: process {first.pid} on {socket.gethostname()} writes to it" in second.stderr
    first.send_signal(signal.SIGKILL)
    first.wait()
    third = hold(kind, path)
    third.communicate("")
    assert third.returncode == 0
    assert not [found for found in tmp_path.rglob("*") if found.name.endswith("lock")], "an end removes the lock file"


def test_a_lock_is_of_the_folder_that_a_link_leads_to(tmp_path, hold):
    """Two names of one folder are one folder."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    for kind in ("run", "new"):
        first = hold(kind, str(tmp_path / "out"))
        with pytest.raises(ValueError, match=f"process {first.pid} on"), contextlib.ExitStack() as stack:
            lock_folder(f"{tmp_path}/disk") if kind == "run" else stack.enter_context(new_folder(f"{tmp_path}/disk"))
        first.communicate("")


def test_one_process_may_take_a_lock_twice_and_other_ranks_need_none(tmp_path, hold, monkeypatch):
    """One run after the other in a notebook; the ranks of one run."""
    with locked(tmp_path / ".lock", "out"):
        with locked(tmp_path / ".lock", "out"):
            pass
        assert (tmp_path / ".lock").exists()
    assert not (tmp_path / ".lock").exists()
    hold("run", str(tmp_path))
    monkeypatch.setenv("RANK", "1")
    lock_folder(str(tmp_path))


def test_files_have_the_mode_of_the_umask(tmp_path):
    """Also what a library makes readable for its owner alone, as safetensors does; folders keep theirs."""
    old = os.umask(0o027)
    try:
        with atomic_folder(tmp_path / "out") as folder:
            (folder / "shards").mkdir()
            for path in (folder / "a", folder / "shards" / "b"):
                path.touch(0o600)
    finally:
        os.umask(old)
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in (tmp_path / "out").rglob("*")}
    assert modes == {"shards": "0o750", "a": "0o640", "b": "0o640"}
