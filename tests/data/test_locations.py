"""Files are found once each, whatever leads to them; what is not training text is left out and named."""

import json
import os
import socket
import time

import fsspec
import pytest

from hf_llm.arguments import ReadingArguments
from hf_llm.data.byte_streams import BadFile
from hf_llm.data.found import SourceFile, with_unique_names
from hf_llm.data.locations import find_files, find_sources
from hf_llm.data.readers import read_texts


def write(folder, *names, content="x"):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


def names(*patterns):
    return [file.name for file in find_files("--files", [str(pattern) for pattern in patterns]).files]


def left_out(*patterns):
    """Names and reasons."""
    found = find_files("--files", [str(pattern) for pattern in patterns])
    return {file.name: file.reason for file in found.skipped}


def error_of(*patterns):
    with pytest.raises(ValueError) as info:
        find_sources("--files", [str(pattern) for pattern in patterns])
    assert "\n" not in str(info.value)
    return str(info.value)


# Links


def test_links_that_lead_in_circles_give_each_file_once(tmp_path):
    """A link to its own folder, two folders linked to each other, and both with `**`, which `glob` never finishes."""
    write(tmp_path, "d/a.jsonl", "d/one/b.jsonl", "d/two/c.jsonl")
    for link, target in (("loop", "."), ("one/two", "../two"), ("two/one", "../one"), ("one/up", "..")):
        (tmp_path / "d" / link).symlink_to(target)
    expected = ["d/a.jsonl", "d/one/b.jsonl", "d/two/c.jsonl"]
    for pattern in ("d", "d/**/*.jsonl", "d/**", "d/**/**/*"):
        assert names(tmp_path / pattern) == expected, pattern
    found = names(tmp_path / "d" / "*" / "*.jsonl")
    assert sorted(name.rpartition("/")[2] for name in found) == ["a.jsonl", "b.jsonl", "c.jsonl"]
    assert left_out(tmp_path / "d")["d/loop"] == "the same as d"


def test_links_that_lead_to_each_other_do_not_hide_their_folder(tmp_path):
    """They are left out, and the files beside them are read."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.txt").write_text("a")
    (tmp_path / "d" / "first.txt").symlink_to("second.txt")
    (tmp_path / "d" / "second.txt").symlink_to("first.txt")
    for pattern in ("d", "d/*", "d/**/*"):
        found = find_files("--files", [str(tmp_path / pattern)])
        assert [file.name for file in found.files] == ["d/a.txt"], pattern
        assert [file.name for file in found.skipped] == ["d/first.txt", "d/second.txt"], pattern


def test_a_file_with_several_names_is_read_once_under_its_real_one(tmp_path):
    """Hard links, links to files and folders, before and after the real names in the alphabet, across arguments."""
    write(tmp_path, "m/real.jsonl", "m/deep/other.jsonl")
    os.link(tmp_path / "m/real.jsonl", tmp_path / "m/second.jsonl")
    (tmp_path / "m/a_link.jsonl").symlink_to("real.jsonl")
    (tmp_path / "m/z_link.jsonl").symlink_to("real.jsonl")
    (tmp_path / "m/a_folder").symlink_to("deep")
    (tmp_path / "a_m").symlink_to("m")
    expected = ["m/deep/other.jsonl", "m/real.jsonl"]
    for patterns in (["m"], ["a_m", "m"], ["m", "m/real.jsonl", "m/**/*.jsonl"], ["*/*.jsonl", "m/*/*.jsonl"]):
        found = names(*(tmp_path / pattern for pattern in patterns))
        assert len(found) == 2 and {name.rpartition("/")[2] for name in found} == {"other.jsonl", "real.jsonl"}
    assert names(tmp_path / "m") == names(tmp_path / "a_m", tmp_path / "m") == expected


def test_links_to_files_elsewhere_are_followed(tmp_path):
    """As in the Hub's cache, where a name with an extension is a link to one without; it is named by the link."""
    write(tmp_path, "hub/blobs/3f2a", "hub/blobs/77aa", "hub/refs/main", "far/away/c.jsonl")
    for revision in ("r1", "r2"):
        (tmp_path / "hub/snapshots" / revision / "data").mkdir(parents=True)
        (tmp_path / "hub/snapshots" / revision / "data/a.jsonl").symlink_to("../../../blobs/3f2a")
    (tmp_path / "hub/snapshots/r2/README.md").symlink_to("../../blobs/77aa")
    (tmp_path / "hub/elsewhere").symlink_to(tmp_path / "far")
    assert names(tmp_path / "hub") == ["hub/elsewhere/away/c.jsonl", "hub/snapshots/r1/data/a.jsonl"]
    found = find_files("--files", [str(tmp_path / "hub")])
    assert sum(file.size for file in [*found.files, *found.skipped]) == 4  # bytes, each file's once


def test_what_is_no_file_is_never_opened(tmp_path):
    """Links to nothing and to the system's files, pipes, sockets, devices are left out, and refused as an argument."""
    write(tmp_path, "d/a.jsonl")
    (tmp_path / "d/broken.jsonl").symlink_to("nothing")
    os.mkfifo(tmp_path / "d/pipe.jsonl")
    (tmp_path / "d/null.jsonl").symlink_to("/dev/null")
    (tmp_path / "d/log.jsonl").symlink_to("/proc/kmsg")
    (tmp_path / "d/one.jsonl").symlink_to("two.jsonl")
    (tmp_path / "d/two.jsonl").symlink_to("one.jsonl")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "d/socket.jsonl"))
    assert names(tmp_path / "d") == ["d/a.jsonl"]
    reasons = {"broken": "a link to nothing", "pipe": "a named pipe", "null": "a device", "socket": "a socket"}
    reasons["log"] = "a file of the system"
    reasons |= dict.fromkeys(("one", "two"), "Too many levels of symbolic links")
    assert left_out(tmp_path / "d") == {f"d/{name}.jsonl": reason for name, reason in reasons.items()}
    for name, reason in reasons.items():
        assert f"matches no file to read, only {name}.jsonl ({reason}" in error_of(tmp_path / "d" / f"{name}.jsonl")


# Names


def test_names_that_are_not_utf8_are_found_and_escaped(tmp_path):
    """So are line ends and control characters; a name never damages a terminal, a table or a JSON file."""
    for name in (b"gr\xfcn.jsonl", b"two\nlines.jsonl", b"\x1b[31mred.jsonl", "grün.jsonl".encode()):
        with open(os.path.join(os.fsencode(tmp_path), name), "wb") as file:
            file.write(b"x")
    found = find_files("--files", [str(tmp_path)])
    assert sorted(file.name.rpartition("/")[2] for file in found.files) == [
        "\\x1b[31mred.jsonl", "gr\\xfcn.jsonl", "grün.jsonl", "two\\nlines.jsonl",
    ]  # fmt: skip
    assert all(os.path.isfile(path) for path in found.paths)


def test_files_are_named_by_the_argument_that_they_come_from(tmp_path, monkeypatch):
    """A file by its own name, a folder by its name, a glob by that of its fixed part; never by a full path."""
    write(tmp_path, "x/books/a.txt", "x/books/deep/b.txt", "y/books/a.txt", "y/c.txt", "home/user/d.txt")
    assert names(tmp_path / "x/books/a.txt") == ["a.txt"]
    assert names(tmp_path / "x/books") == names(f"{tmp_path}/x/../x/books/") == ["books/a.txt", "books/deep/b.txt"]
    assert names(tmp_path / "x/boo*/*.txt") == ["x/books/a.txt"]
    both = ["books (2)/a.txt", "books/a.txt", "books/deep/b.txt", "c.txt"]
    assert names(tmp_path / "y/c.txt", tmp_path / "y/books", tmp_path / "x/books") == both
    assert names(tmp_path / "x/books", tmp_path / "y/books", tmp_path / "y/c.txt") == both
    assert names(tmp_path / "x/books/a.txt", tmp_path / "y/books/a.txt") == ["a.txt", "a.txt (2)"]
    monkeypatch.chdir(tmp_path / "x/books")
    monkeypatch.setenv("HOME", str(tmp_path / "home/user"))
    for pattern in (".", "*", "./*.txt"):
        assert "a.txt" in names(pattern)
    assert names("~") == names("~/*.txt") == ["d.txt"] and names("../../y/c.txt") == ["c.txt"]


def test_files_of_one_name_from_two_globs_get_a_number(tmp_path, monkeypatch):
    """So that a row's source is one file."""
    write(tmp_path, "a.txt", "y/a.txt", "a.txt (2)")
    monkeypatch.chdir(tmp_path)
    assert names("*.txt", "y/a.txt") == ["a.txt", "a.txt (2)"]
    taken = [SourceFile(str(n), name, 0) for n, name in enumerate(("a", "a (2)", "a"))]
    assert [file.name for file in with_unique_names(taken)] == ["a", "a (2)", "a (3)"]


# What is left out


def test_a_folder_is_read_without_what_is_no_training_text(tmp_path):
    """Each file is left out with its bytes and the reason; a file that an argument names is read."""
    write(
        tmp_path, *(f"d/{name}" for name in ("data/a.jsonl", "b.txt", "licenses.jsonl", "readers.md", "notice/c.txt"))
    )
    texts = names(tmp_path / "d")
    assert len(texts) == 5
    reasons = {
        "a readme, card or licence": ("README.md", "readme_zh.txt", "LICENSE", "LICENCE-MIT.txt", "COPYING.LESSER.txt",
                                      "NOTICE.html", "CITATION.md", "data/README.md.gz", "dataset_card.md"),
        "metadata of a data set": ("dataset_infos.json", "s/dataset_info.json", "s/state.json", "dataset_dict.json"),
        "hidden: its name begins with `.`": (".git", ".cache", "data/.ipynb_checkpoints", ".a.jsonl", "data/._a.jsonl"),
        "hidden: its name begins with `_`": ("__MACOSX", "_SUCCESS", "_metadata.json", "data/_temporary"),
        "output of a training, or a model": ("outputs/run1", "model", "trainer_state.json"),
        "no reader for .tar.lz4": ("x.tar.lz4",), "no reader for .jsonl.lz4": ("a.jsonl.lz4",),
        "no reader for .7z": ("a.7z",), "no reader for .parquet.gz": ("a.parquet.gz",),
        "no reader for files without extension": ("Makefile",), "no reader for .gz": ("v1.2.gz",),
    }  # fmt: skip
    folders = {
        ".git": "config", ".cache": "x/a.jsonl", "data/.ipynb_checkpoints": "a.txt", "__MACOSX": "b.jsonl",
               "data/_temporary": "part-0.jsonl", "outputs/run1": "all_results.json", "model": "tokenizer_config.json",
    }  # fmt: skip
    for files in reasons.values():
        write(tmp_path / "d", *(f"{name}/{folders[name]}" if name in folders else name for name in files))
    write(tmp_path / "d", "outputs/run1/rows.jsonl", "model/checkpoint-1/rows.jsonl")
    for pattern in ("d", "d/*", "d/**", "d/**/*"):
        assert names(tmp_path / pattern) == texts
    found = find_files("--files", [str(tmp_path / "d")])
    assert {file.name: (file.reason, file.size) for file in found.skipped} == {
        f"d/{name}": (reason, 2 if name in ("outputs/run1", "model") else 1)
        for reason, files in reasons.items()
        for name in files
    }
    assert names(tmp_path / "d/README.md", tmp_path / "d/outputs/run1", tmp_path / "d/.git/../_metadata.json") == [
        "README.md", "_metadata.json", "run1/rows.jsonl",
    ]  # fmt: skip
    assert names(tmp_path / "d/R*.md") == ["d/README.md"]


def test_left_out_files_are_named_in_one_short_line(tmp_path, caplog):
    """Few by their names, thousands by their number and bytes."""
    write(tmp_path, "d/a.jsonl", "d/README.md", "d/LICENSE.txt")
    find_files("--train_file", [str(tmp_path / "d")])
    assert caplog.messages == [
        "`--train_file`: left out d/LICENSE.txt, d/README.md (a readme, card or licence; 2 files, 2 bytes): to take a "
        "file, name the file itself"
    ]
    caplog.clear()
    write(tmp_path, *(f"d/{number}.x{number % 50}" for number in range(2000)))
    find_files("--train_file", [str(tmp_path / "d")])
    (message,) = caplog.messages
    assert len(message) < 1000 and "d/0.x0, d/100.x0, d/1000.x0, ... (no reader for .x0; 40 files, 40 bytes)" in message


def test_a_folder_with_nothing_to_read_says_what_is_there(tmp_path):
    """And how to take it."""
    write(tmp_path, "d/README.md", "d/x.tar.lz4")
    message = error_of(tmp_path / "d")
    assert "d/README.md (a readme, card or licence; 1 file, 1 bytes)" in message and "no reader for .tar.lz4" in message
    remedies = "to take a file, name the file itself; to take one without a reader, convert it, or if it is text add "
    remedies += "`--text_extensions`"
    assert message.endswith(f": {remedies}")
    assert names(tmp_path / "d/README.md") == ["README.md"]
    write(tmp_path, "e/a.jsonl")
    assert "matches no file to read, only d/" in error_of(tmp_path / "d", tmp_path / "e")


def test_files_without_a_reader_that_a_glob_names_are_refused(tmp_path):
    """With their number, since all of them are wrong."""
    write(tmp_path, "a.tar.lz4", "a.doc", "a.txt")
    assert f"`{tmp_path}/a.doc` (and 1 others) has no reader: convert it, e.g. by `soff" in error_of(tmp_path / "a.*")


def test_source_files_are_text_by_their_extension(tmp_path):
    """The readme and licence of a project stay out; what is binary is an error of its file."""
    write(
        tmp_path / "d", "a.py", "docs/b.RST", "README.rst", "README.py", "LICENSE", "LICENSE.rst", "Makefile", "c.pyc"
    )
    found = find_files("--files", [str(tmp_path / "d")], [".py", ".rst"])
    assert [file.name for file in found.files] == ["d/a.py", "d/docs/b.RST"]
    card, no_extension = "a readme, card or licence", "no reader for files without extension"
    assert {file.name.removeprefix("d/"): file.reason for file in found.skipped} == {
        **dict.fromkeys(("README.rst", "README.py", "LICENSE", "LICENSE.rst"), card),
        "Makefile": no_extension, "c.pyc": "no reader for .pyc",
    }  # fmt: skip
    (tmp_path / "d/a.py").write_bytes(b"import\0")
    with pytest.raises(BadFile, match=r"a\.py` line 1 has a zero byte: it is not a text file"):
        [*read_texts(found.files[0].path, "text", ReadingArguments(text_extensions=[".py"]))]
    assert "LICENSE` has no extension: " in error_of(tmp_path / "d/LICENSE")
    assert error_of(tmp_path / "d/LICENSE").endswith("if it is text, let its name end in .txt")


def test_a_folder_of_tokens_is_not_text(tmp_path, remote):
    """In another folder it is left out; one that an argument names is refused, also at a URL."""
    write(tmp_path / "d", "a.txt", "t/tokens.json", "t/train-00000.arrow", "t/tokenizer/vocab.json", "u/tokens.json")
    assert names(tmp_path / "d") == ["d/a.txt", "d/u/tokens.json"]
    assert left_out(tmp_path / "d") == {"d/t": "a folder of tokens"}
    remote("tokens.json", "train-00000.arrow")
    for folder in (tmp_path / "d/t", tmp_path / "d/t*", "memory://corpus"):
        message = error_of(folder)
        assert message.startswith("`--files` ") and " holds tokens, not text: only `--train_file` of " in message


# Prepared folders


def prepared(folder, *entries, shards=("part-00000.parquet",)):
    write(folder, "README.md", "report.md", "funnel.png", "dropped.tsv.gz", *shards)
    (folder / "manifest.json").write_text(json.dumps({"shards": list(entries)}))


def test_a_prepared_folder_is_read_by_its_manifest(tmp_path):
    """Files that it does not name are left out and said; in another folder it is an earlier output."""
    prepared(tmp_path / "p", {"file": "part-00000.parquet"}, shards=("part-00000.parquet", "part-00001.parquet"))
    assert names(tmp_path / "p") == names(tmp_path / "p/*") == ["p/part-00000.parquet"]
    assert left_out(tmp_path / "p") == {"p/part-00001.parquet": "not in the manifest of the prepared folder"}
    write(tmp_path, "a.jsonl")
    assert names(tmp_path) == [f"{tmp_path.name}/a.jsonl"] and left_out(tmp_path)[f"{tmp_path.name}/p"] == (
        "a prepared folder"
    )


@pytest.mark.parametrize(
    "entry, problem",
    [
        ({"file": "../secret.txt"}, "is not a path inside the folder"),
        ({"file": "sub/../../secret.txt"}, "is not a path inside the folder"),
        ({"file": "/etc/passwd"}, "is not a path inside the folder"),
        ({"file": "file:///etc/passwd"}, "is not a path inside the folder"),
        ({"file": "link.txt"}, "leads out of the folder by a link"),
        ({"file": "out/secret.txt"}, "leads out of the folder by a link"),
        ({"file": "missing.parquet"}, "is not a file that exists"),
        ({"file": "pipe.parquet"}, "is not a file that exists"),
        ({"file": "."}, "is not a file that exists"),
        ({"file": ""}, "does not name a file"),
        ({"file": "a\0b"}, "does not name a file"),
        ({"file": ["a"]}, "does not name a file"),
        ({"path": "a"}, "does not name a file"),
        ("part-00000.parquet", "does not name a file"),
        (None, "does not name a file"),
    ],
)
def test_a_manifest_names_files_inside_its_folder_only(tmp_path, entry, problem):
    """Anything else is an error with manifest and entry, before anything is read."""
    write(tmp_path, "secret.txt")
    prepared(tmp_path / "p", {"file": "part-00000.parquet"}, entry)
    (tmp_path / "p/link.txt").symlink_to("../secret.txt")
    (tmp_path / "p/out").symlink_to("..")
    os.mkfifo(tmp_path / "p/pipe.parquet")
    message = error_of(tmp_path / "p")
    assert f"`{tmp_path}/p/manifest.json`: the shard " in message and problem in message
    assert json.dumps(entry)[:10] in message


def test_a_prepared_folder_in_the_cache_of_the_hub_is_read(tmp_path):
    """There all files are links to the folder `blobs` of the same repository."""
    snapshot = tmp_path / "hub/snapshots/r1"
    prepared(snapshot, {"file": "part-00000.parquet"}, {"file": "part-00001.parquet"})
    write(tmp_path, "hub/blobs/3f2a", "far")
    (snapshot / "part-00001.parquet").symlink_to("../../blobs/3f2a")
    assert names(snapshot) == ["r1/part-00000.parquet", "r1/part-00001.parquet"]
    (snapshot / "part-00001.parquet").unlink()
    (snapshot / "part-00001.parquet").symlink_to("../../../far")
    assert "leads out of the folder by a link" in error_of(snapshot)


@pytest.mark.parametrize("content", ['{"name": "extension"}', "[1, 2]", "{", "[" * 100_000, '{"shards": 3}', "\xff"])
def test_a_foreign_manifest_is_left_out_and_said(tmp_path, content):
    """All files in the folder are found, not the shards of a manifest."""
    write(tmp_path, "d/a.jsonl")
    (tmp_path / "d/manifest.json").write_text(content, encoding="latin-1")
    assert names(tmp_path / "d") == ["d/a.jsonl"]
    assert left_out(tmp_path / "d") == {"d/manifest.json": "a manifest, but not that of a prepared folder"}


# URLs


@pytest.fixture
def remote():
    """Write files to a file system in memory, with a manifest if entries are given."""
    filesystem = fsspec.filesystem("memory")

    def pipe(*paths, shards=None):
        for path in paths:
            filesystem.pipe(f"/corpus/{path}", b"x")
        if shards is not None:
            filesystem.pipe("/corpus/manifest.json", json.dumps({"shards": shards}).encode())

    yield pipe
    filesystem.rm("/corpus", recursive=True)


def test_folders_and_globs_at_urls_are_expanded(remote):
    """To the files that may be text, each once; the others are left out as in a local folder."""
    remote("a.jsonl", "b.txt.gz", "c.bin", "deep/d.csv", "README.md", "deep/_temporary/e.csv", "run/all_results.json")
    remote("run/f.jsonl")
    for pattern in ("memory://corpus", "memory://corpus/*"):
        found = find_sources("--files", [pattern])
        assert [url.rpartition("corpus/")[2] for url in found.paths] == ["a.jsonl", "b.txt.gz", "deep/d.csv"]
        assert {file.name.rpartition("corpus/")[2]: file.reason for file in found.skipped} == {
            "c.bin": "no reader for .bin",
            "README.md": "a readme, card or licence",
            "deep/_temporary/e.csv": "hidden: its name begins with `_`",
            "run/all_results.json": "output of a training, or a model",
            "run/f.jsonl": "output of a training, or a model",
        }
    assert len(find_sources("--files", ["memory://corpus/*.jsonl", "memory://corpus/a.jsonl"]).files) == 2


def test_a_prepared_folder_at_a_url_is_read_by_its_manifest(remote):
    """Which names files inside it only."""
    remote("part-0.parquet", "part-1.parquet", "README.md", "report.md", shards=[{"file": "part-0.parquet"}])
    found = find_sources("--files", ["memory://corpus"])
    assert [file.name.rpartition("/")[2] for file in found.files] == ["part-0.parquet"]
    assert [file.name.rpartition("/")[2] for file in found.skipped] == ["part-1.parquet"]
    for entry in ("../other", "part-2.parquet", "/etc/passwd"):
        remote(shards=[{"file": entry}])
        assert "manifest.json`: the shard " in error_of("memory://corpus")


def test_the_query_of_a_url_is_not_printed():
    """It may hold a key."""
    url = "http://user:word@127.0.0.1:9/a.jsonl?X-Key=SECRET#word"
    message = error_of(url)
    assert "`--files` http://127.0.0.1:9/a.jsonl cannot be reached" in message
    assert "SECRET" not in message and "word" not in message


def test_thousands_of_files_are_found_in_seconds(tmp_path):
    """The time grows in proportion to them: a folder of 2,000, and as many arguments whose files have one name."""
    write(tmp_path, *(f"d/{number}/part.jsonl" for number in range(2000)))
    start = time.process_time()
    assert len(names(tmp_path / "d")) == 2000
    found = names(*(tmp_path / f"d/{number}/part.jsonl" for number in range(2000)))
    assert len(set(found)) == 2000 and time.process_time() - start < 10


def test_a_file_url_is_a_local_path(tmp_path):
    """So its name has no folder of this machine, and links are followed once."""
    write(tmp_path, "d/a.jsonl")
    found = find_sources("--files", [f"file://{tmp_path}/d", str(tmp_path / "d")])
    assert [(file.path, file.name) for file in found.files] == [(f"{tmp_path}/d/a.jsonl", "d/a.jsonl")]
