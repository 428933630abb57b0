"""Files and folders appear complete or not at all, and what cannot be written is refused before the work."""

import os

import pytest

from hf_llm.files import (
    atomic_folder,
    atomic_path,
    check_new_folder,
    check_output_file,
    check_writable,
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
        (check_new_folder, "`--output_dir`"),
        (check_output_file, "`--output_file`"),
    ):
        with pytest.raises(ValueError, match=f"{name} file/a/b cannot be written: `.*file` is not a writable folder"):
            check("file/a/b")
        check("new/a/b")
    assert os.listdir(tmp_path) == ["file"], "a check makes nothing"


def test_a_new_folder_holds_nothing_and_a_results_file_is_no_folder(tmp_path):
    """An empty folder is as good as none."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert check_new_folder(f"{tmp_path}/a/b") == tmp_path / "a" / "b"
    with pytest.raises(ValueError, match="exists already and is not an empty folder"):
        check_new_folder(f"{tmp_path}/a")
    with pytest.raises(ValueError, match="is a folder: name a file"):
        check_output_file(f"{tmp_path}/a")
    check_output_file(None)
