"""What a run was made with and on."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
from datasets import Dataset

from hf_llm.training.environment import EnergyMeter, describe_rows, git_commit


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


@pytest.mark.parametrize("broken", ["start", "stop", None])
def test_the_energy_is_known_where_codecarbon_works(monkeypatch, caplog, broken):
    """It is asked without files and network; where it fails, the run goes on without the figure."""

    class Tracker:
        final_emissions_data = SimpleNamespace(energy_consumed=0.25)

        def __init__(self, save_to_file, country_iso_code, log_level):
            assert not save_to_file

        def __getattr__(self, name):
            return (lambda: 1 / 0) if name == broken else lambda: None

    found = lambda name: SimpleNamespace() if name == "codecarbon" else None  # noqa: E731
    monkeypatch.setattr("importlib.util.find_spec", found)
    monkeypatch.setitem(sys.modules, "codecarbon", SimpleNamespace(OfflineEmissionsTracker=Tracker))
    assert EnergyMeter().stop() == ({} if broken else {"energy_kwh": 0.25})
    assert ("codecarbon does not work here" in caplog.text) == bool(broken)
