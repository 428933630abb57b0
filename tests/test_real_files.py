"""`benchmarks/real_files.py` in small: files of every kind go through the preparation, no byte is lost unnamed."""

import json
import runpy
import shutil
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from recipe_runs import ROOT

from hf_llm.arguments import PreparationArguments
from hf_llm.preparation.pipeline import prepare

real_files = SimpleNamespace(**runpy.run_path(str(ROOT / "benchmarks" / "real_files.py")))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The folder, the prepared one, and what is in the files; two files of each kind."""
    folder = tmp_path_factory.mktemp("real_files")
    (folder / "real").mkdir()
    written = real_files.make_folder(folder / "real", files=120)
    settings = {"clean": False, "anonymize": "none", "on_error": "skip", "max_unreadable": 1}
    prepare(PreparationArguments(files=[str(folder / "real")], output_dir=str(folder / "out"), **settings))
    return folder / "real", folder / "out", written


def test_every_byte_of_a_folder_is_kept_dropped_with_a_reason_or_named_as_not_read(prepared):
    """Texts are equal to what was written, rows are counted once, and sizes and checksums are those on the disk."""
    accounts = real_files.Accounts(*prepared)
    assert not accounts.errors, "\n".join(sorted(accounts.errors))
    table = list(accounts.table())
    assert len(table) == len(real_files.SHARES) + 3 and f"| {len(accounts.files):,} | " in table[-1]


@pytest.mark.parametrize("damage", ["text", "row", "source", "left out", "bytes"])
def test_the_accounts_notice_what_is_missing(prepared, tmp_path, damage):
    """One text changed, one row or file not listed, one byte less."""
    folder, target, written = prepared
    shutil.copytree(target, tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    if damage in ("text", "row"):
        (shard,) = (tmp_path / "out").glob("*.parquet")
        table = pq.read_table(shard).to_pylist()
        if damage == "text":
            table[0]["text"] += "."
        pq.write_table(real_files.pa.Table.from_pylist(table[damage == "row" :]), shard)
    elif damage == "source":
        del manifest["sources"][0]
    elif damage == "left out":
        del manifest["not_read"][0]
    else:
        manifest["sources"][0]["bytes"] -= 1
    (tmp_path / "out" / "manifest.json").write_text(json.dumps(manifest))
    assert len(real_files.Accounts(folder, tmp_path / "out", written).errors) > len(
        real_files.Accounts(folder, target, written).errors
    )
