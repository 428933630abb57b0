"""What a run was made with and on."""

import subprocess

from datasets import Dataset

from hf_llm.training.environment import describe_rows, git_commit


def test_the_commit_says_whether_files_have_changed(tmp_path):
    """None outside of a repository, also within a folder of one."""
    assert git_commit(tmp_path) is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    (tmp_path / "a.py").write_text("1")
    for words in (["init", "-q"], ["add", "a.py"], ["commit", "-qm", "a"]):
        subprocess.run([*git, *words], check=True)
    commit = git_commit(tmp_path)
    assert len(commit) == 40
    (tmp_path / "b.txt").write_text("not tracked")
    assert git_commit(tmp_path) == commit
    (tmp_path / "a.py").write_text("2")
    assert git_commit(tmp_path) == f"{commit}+changes"
    (tmp_path / "inner").mkdir()
    assert git_commit(tmp_path / "inner") is None


def test_the_fingerprint_is_that_of_the_content():
    """Equal rows have the same one wherever they are from; another token is another one."""
    first, same, other = (describe_rows(Dataset.from_dict({"input_ids": [[1, 2], [3, last]]})) for last in (4, 4, 5))
    assert first == same != other and first["rows"] == 2
