"""Files and folders appear complete or not at all, and what cannot be written is refused before the work."""

import os

import pytest

from hf_llm.files import (
    atomic_folder,
    atomic_path,
    check_new_folder,
    check_output_file,
    check_output_folder,
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
    with atomic_folder(check_new_folder(f"{tmp_path}/out")) as folder:
        write_text(folder / "a.txt", "a")
    assert (tmp_path / "out" / "a.txt").read_text() == "a" and (tmp_path / "out").is_symlink()
