"""Files in archives are read as if they lay in a folder, and what is wrong with an archive is said and bounded."""

import bz2
import gzip
import io
import json
import lzma
import os
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_llm.arguments import PreparationArguments, ReadingArguments
from hf_llm.data import archives
from hf_llm.data.archives import BoundedFile
from hf_llm.data.byte_streams import BadFile
from hf_llm.data.readers import read_documents, read_rows, read_texts
from hf_llm.preparation.pipeline import prepare

READING = ReadingArguments()
LINES = "".join(json.dumps({"text": f"row {n}"}) + "\n" for n in range(3)).encode()
TEXTS = ["one", "row 0", "row 1", "row 2", "row 0", "row 1", "row 2", "parquet"]


def contents():
    """Files that are read, in their order, and files that are not."""
    parquet = io.BytesIO()
    pq.write_table(pa.table({"text": ["parquet"]}), parquet)
    read = {
        "d/one.txt": b"one",
        "rows.jsonl": LINES,
        "../e/rows.jsonl.xz": lzma.compress(LINES),
        "p.parquet": parquet.getvalue(),
    }
    return read | {"LICENSE.txt": b"mit", "__MACOSX/a.txt": b"x", "a.zip": b"x", "b.bin": b"x"}


def write_zip(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("folder")
        for name, content in files.items():
            archive.writestr(name, content)
    return str(path)


def write_tar(path, files, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo("link.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return str(path)


def texts(path, reading=READING):
    return [text for batch in read_texts(path, "text", reading) for text in batch.to_pylist()]


def found(path):
    """Return the texts, and for each problem its message and lost bytes."""
    rows, problems = [], []
    for batch, new, _ in read_documents(path, "text", READING):
        rows += [text for text in batch.to_pylist() if text is not None]
        problems += [(problem.message, problem.lost_bytes) for problem in new.values() if not problem.left_out]
    return rows, problems


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tgz", "a.tar.xz", "a.tar.bz2"])
def test_the_files_in_an_archive_are_read(name, tmp_path, caplog):
    """Those that a folder would give; what is left out is named, and a path out of the archive leads nowhere."""
    mode = {"gz": "w:gz", "tgz": "w:gz", "xz": "w:xz", "bz2": "w:bz2"}.get(name.rpartition(".")[2], "w")
    path = write_zip(tmp_path / name, contents()) if name == "a.zip" else write_tar(tmp_path / name, contents(), mode)
    assert texts(path) == TEXTS
    for part in (
        "LICENSE.txt (a readme, card or licence",
        "a.zip (an archive in an archive",
        "b.bin (no reader for .bin",
    ):
        assert part in caplog.text
    assert ("link.txt (a link" in caplog.text) == (name != "a.zip")


def test_rows_of_a_task_are_read_from_an_archive(tmp_path):
    """With the file in the archive and its line as their origin."""
    path = write_zip(tmp_path / "a.zip", {"rows.jsonl": LINES, "more.csv": b"text,n\nx,1\n"})
    rows = list(read_rows(path, READING))
    assert [row["text"] for row in rows] == ["row 0", "row 1", "row 2", "x"]
    assert rows[1]["_origin"] == f"`{path}/rows.jsonl` line 2"
    with pytest.raises(BadFile, match="has no columns"):
        list(read_rows(write_zip(tmp_path / "b.zip", {"a.txt": b"x"}), READING))


def test_a_damaged_file_in_an_archive_is_a_problem_of_its_own(tmp_path):
    """Those before and after it are read from a .zip; what follows the damage of a .tar.gz is lost."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name in "abc":
            archive.writestr(f"{name}.txt", f"text of {name}")
    path.write_bytes(path.read_bytes().replace(b"text of b", b"text OF b"))
    rows, problems = found(str(path))
    assert rows == ["text of a", "text of c"]
    assert problems == [(f"`{path}/b.txt` cannot be read: Bad CRC-32 for file 'b.txt'", 9)]
    with pytest.raises(BadFile, match=r"b\.txt` cannot be read"):
        texts(str(path))
    whole = write_tar(tmp_path / "a.tar.gz", {f"{n}.txt": bytes(range(97, 123)) * n for n in range(1, 60)}, "w:gz")
    (tmp_path / "b.tar.gz").write_bytes(Path(whole).read_bytes()[:-30])
    rows, problems = found(str(tmp_path / "b.tar.gz"))
    assert len(rows) > 10 and "Compressed file ended" in problems[-1][0]


def test_an_archive_that_is_cut_or_joined_is_not_read_in_silence(tmp_path):
    """Python's own reader ends without a word where a .tar has no end, and before a second one."""
    content = Path(write_tar(tmp_path / "a.tar", {"a.txt": b"one", "b.txt": b"two"})).read_bytes()
    cases = {
        "cut.tar": (content[:1024], "has no end: it is cut short"),
        "two.tar": (content * 2, "has more after its end"),
    }
    cases |= {
        "c.zip": (b"PK\3\4", "cannot be read"),
        "d.zip": (b"", "is empty"),
        "e.tar": (b"x" * 999, "cannot be read"),
    }
    for name, (damaged, message) in cases.items():
        (tmp_path / name).write_bytes(damaged)
        assert message in found(str(tmp_path / name))[1][-1][0], name


def test_a_bomb_is_refused(tmp_path, monkeypatch):
    """A file that is a thousand times as large as on the disk, in an archive or as the archive itself."""
    monkeypatch.setattr(archives, "ALWAYS_ALLOWED", 1 << 16)
    zeros = b"0" * (4 << 20)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.txt", zeros)
    write_tar(tmp_path / "a.tar.xz", {"a.txt": zeros}, "w:xz")
    for name in ("a.zip", "a.tar.xz"):
        assert "more than 1,000 times its size" in found(str(tmp_path / name))[1][0][0], name
    assert BoundedFile(io.BytesIO(b"ab"), 1, "a").read() == b"ab"


def test_an_encrypted_file_is_a_problem(tmp_path):
    """With the remedy; the others are read."""
    path = write_zip(tmp_path / "a.zip", {"a.txt": b"one", "b.txt": b"two"})
    content = bytearray(Path(path).read_bytes())
    content[content.rindex(b"PK\3\4") + 6] |= 1  # the flag, in front of the file and in the list of all files
    content[content.rindex(b"PK\1\2") + 8] |= 1
    (tmp_path / "b.zip").write_bytes(content)
    rows, ((message, _),) = found(str(tmp_path / "b.zip"))
    assert rows == ["one"] and "b.txt` cannot be read" in message and "encrypted" in message and "unpack it" in message


def test_every_byte_of_an_archive_is_accounted_for(tmp_path):
    """In the manifest: read, lost and left out are its size; what is left out is listed as in a folder."""
    (tmp_path / "in").mkdir()
    paths = [write_zip(tmp_path / "in" / "a.zip", contents()), write_tar(tmp_path / "in" / "b.tar", contents())]
    args = PreparationArguments(files=[str(tmp_path / "in")], output_dir=str(tmp_path / "out"))
    args.exact_deduplication = args.near_deduplication = args.clean = False
    args.anonymize = "none"  # no worker processes are started
    manifest = prepare(args)
    counts = manifest["input"]
    assert counts["rows"] == manifest["rows"] == 2 * len(TEXTS)
    assert counts["bytes"] == counts["bytes_read"] + counts["bytes_left_out"] == sum(map(os.path.getsize, paths))
    reasons = {entry["name"]: entry["reason"] for entry in manifest["not_read"]}
    assert reasons["in/a.zip/LICENSE.txt"] == "a readme, card or licence" and reasons["in/b.tar/link.txt"] == "a link"


def test_a_checksum_of_a_compressed_file_is_checked(tmp_path):
    """Streams that follow each other are one text; damage in a later one is not the end of the file."""
    for name, compress in (("a.txt.bz2", bz2.compress), ("a.txt.xz", lzma.compress), ("a.txt.gz", gzip.compress)):
        content = compress(b"one ") + compress(b"two")
        (tmp_path / name).write_bytes(content)
        assert texts(str(tmp_path / name)) == ["one two"], name
        for damaged in (content[:-5], compress(b"one ") + b"garbage", content[: len(compress(b"one ")) + 2]):
            (tmp_path / name).write_bytes(damaged)
            assert "cannot be read" in found(str(tmp_path / name))[1][0][0], (name, damaged)
