"""Files, folders and globs, local or at a URL, are expanded to the files that can be read."""

import fsspec

from hf_llm.data.locations import find_sources


def test_folders_and_globs_at_urls_are_expanded():
    """To the files of known extensions below them, each once, as URLs."""
    filesystem = fsspec.filesystem("memory")
    for name in ("a.jsonl", "b.txt.gz", "c.bin", "deep/d.csv"):
        filesystem.pipe(f"/corpus/{name}", b"x")
    assert [url.rpartition("corpus/")[2] for url in find_sources("--files", ["memory://corpus"])] == [
        "a.jsonl",
        "b.txt.gz",
        "deep/d.csv",
    ]
    assert len(find_sources("--files", ["memory://corpus/*.jsonl", "memory://corpus/a.jsonl"])) == 1
    filesystem.rm("/corpus", recursive=True)


def test_a_folder_with_a_foreign_manifest_is_not_a_prepared_folder(tmp_path):
    """All files in it are found, not the shards of a manifest."""
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    for content in ('{"name": "extension"}', "[1, 2]"):
        (tmp_path / "manifest.json").write_text(content)
        assert f"{tmp_path}/a.jsonl" in find_sources("--files", [str(tmp_path)])
