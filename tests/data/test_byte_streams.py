"""Text of any encoding and compression comes as UTF-8, and what cannot be read is counted in bytes of the disk."""

import gzip
import json
import os
import random
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from hf_llm.arguments import ReadingArguments
from hf_llm.data import byte_streams
from hf_llm.data.readers import read_documents, read_rows

TEXTS = ["Zażółć gęślą jaźń", "plain", "日本語, и русский"]
FORMATS = {  # of the same texts
    "a.jsonl": "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in TEXTS),
    "a.json": json.dumps([{"text": text} for text in TEXTS], ensure_ascii=False),
    "a.csv": "id,text\n" + "".join(f'1,"{text}"\n' for text in TEXTS),
    "a.tsv": "id\ttext\n" + "".join(f"1\t{text}\n" for text in TEXTS),
    "a.txt": "Title\n" + "\n".join(TEXTS),
    "a.md": "# Title\n" + "\n".join(TEXTS),
    "a.html": f"<html><body><p>{TEXTS[0]} {TEXTS[2]}</p></body></html>",
}


def read(path, **settings):
    texts, problems = [], []
    for batch, found, _ in read_documents(str(path), "text", ReadingArguments(**settings)):
        texts += batch.to_pylist()
        problems += found.values()
    return texts, problems


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_unicode_is_recognized_in_every_format(name, encoding, pack, tmp_path):
    """With a byte order mark or without, compressed or not."""
    path = tmp_path / (name + ".gz" * (pack is gzip.compress))
    path.write_bytes(FORMATS[name].encode())
    expected = read(tmp_path / name) if path.name == name else None
    path.write_bytes(pack(FORMATS[name].encode(encoding)))
    texts, problems = read(path)
    assert not problems and (expected is None or texts == expected[0])
    assert "Zażółć gęślą jaźń" in texts[0] and "日本語, и русский" in texts[-1]


@pytest.mark.parametrize("chunk", [1, 1 << 24])
@pytest.mark.parametrize(
    ("encoding", "text"), [("cp1251", "и русский"), ("gb18030", "汉语"), ("iso2022_jp", "日本語"), ("cp1252", "año")]
)
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt"])
def test_an_encoding_may_be_given(name, encoding, text, chunk, tmp_path, monkeypatch):
    """Characters may be cut by the end of a chunk; a byte order mark takes precedence."""
    monkeypatch.setattr(byte_streams, "CHUNK", chunk)
    content = FORMATS[name].replace(TEXTS[0], text).replace(TEXTS[2], text)
    (tmp_path / name).write_bytes(content.encode(encoding))
    texts, problems = read(tmp_path / name, encoding=encoding)
    assert not problems and text in texts[0] and text in texts[-1]
    (tmp_path / name).write_bytes(content.encode("utf-8-sig"))
    assert read(tmp_path / name, encoding=encoding) == (texts, [])


def test_bytes_that_are_not_of_the_encoding_are_a_problem_of_their_row(tmp_path):
    """Of every encoding; the message names the line, or the row, and the option."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a"}\n{"text": "\x81"}\n{"text": "c"}\n')
    for encoding, message in (("utf-8", "UTF-8: give its `--encoding`"), ("cp1252", "CP1252: `--encoding` holds for")):
        texts, (problem,) = read(path, encoding=encoding)
        assert texts == ["a", None, "c"] and problem.message.startswith(f"`{path}` line 2 is not {message}")
    path = tmp_path / "a.txt"
    path.write_bytes("first\nsecond ż\n".encode("iso-8859-2"))
    assert read(path)[1][0].message.startswith(f"`{path}` line 2 is not UTF-8: give its `--encoding`")
    path.write_bytes("first\n".encode("utf-16") + b"\x00")
    assert read(path)[1][0].message.startswith(f"`{path}` line 2 is not UTF-16-LE: give its `--encoding`")


def test_a_file_of_numbers_is_no_text(tmp_path):
    """Though it begins as UTF-16 may."""
    (tmp_path / "a.txt").write_bytes(b"a\0b\0" + random.Random(0).randbytes(2000))
    assert len(read(tmp_path / "a.txt")[1]) == 1


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt", "a.html", "a.jsonl.gz", "a.parquet"])
def test_names_that_are_not_utf_8_are_opened_and_printed(name, tmp_path):
    """With escapes for their bytes."""
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9-" + name.encode())
    if name == "a.parquet":
        with open(path, "wb") as file:
            pq.write_table(pa.table({"text": TEXTS}), file)
    else:
        content = FORMATS[name.removesuffix(".gz")].encode()
        with open(path, "wb") as file:
            file.write(gzip.compress(content) if name.endswith(".gz") else content)
    assert "Zażółć" in read(path)[0][0]
    with open(path, "ab") as file:
        file.truncate(0)
    with pytest.raises(ValueError) as error:
        list(read_rows(path, ReadingArguments()))
    assert f"`{tmp_path}/caf\\xe9-{name}`" in str(error.value)


LINES = "".join(f'{{"text": "{number} {random.Random(number).random()}"}}\n' for number in range(5000)).encode()
MEMBERS = gzip.compress(LINES[: LINES.index(b"\n", 90_000) + 1]) + gzip.compress(
    LINES[LINES.index(b"\n", 90_000) + 1 :]
)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl.gz", MEMBERS),
        ("a.jsonl.gz", MEMBERS + bytes(512)),
        ("a.jsonl.gz", MEMBERS + gzip.compress(b"")),
        ("a.jsonl.zst", zstandard.compress(LINES[:5]) + zstandard.compress(LINES[5:])),
    ],
)
def test_every_member_of_a_compressed_file_is_read(name, content, tmp_path):
    """And zeros that pad a gzip file, as gzip reads it."""
    (tmp_path / name).write_bytes(content)
    texts, problems = read(tmp_path / name)
    assert len(texts) == 5000 and texts[-1].startswith("4999 ") and not problems


@pytest.mark.parametrize(
    ("name", "content", "least", "share"),
    [
        ("a.jsonl.gz", MEMBERS + b"garbage" * 99, 5000, 0.1),
        ("a.jsonl.gz", gzip.compress(LINES)[:-3000], 4000, 0.1),
        ("a.jsonl.gz", gzip.compress(LINES)[:60_000] + b"\xff" * 40_000, 2000, 0.5),
        ("a.jsonl.zst", zstandard.compress(LINES) + b"garbage" * 9, 4900, 0.1),
        ("a.jsonl", LINES + b'{"text"', 5000, 0.1),
    ],
)
def test_the_rows_before_the_end_of_a_damaged_file_come_first(name, content, least, share, tmp_path):
    """Then the problem of the rest, with about as many bytes as are lost; `share` is the most."""
    (tmp_path / name).write_bytes(content)
    texts, problems = read(tmp_path / name)
    assert len(texts) > least and texts[-1] is None and texts.count(None) == len(problems)
    assert problems[-1].is_file == (name != "a.jsonl")
    assert 0 < sum(problem.lost_bytes for problem in problems) <= share * len(content)


def test_lost_bytes_are_those_on_the_disk(tmp_path):
    """A row of a compressed file counts by its share of the text, and a document is lost as a whole."""
    lines = LINES.splitlines(keepends=True)
    lines[7] = b'{"text": ' + b"x" * 100_000 + b"}\n"
    content = b"".join(lines)
    (tmp_path / "a.jsonl").write_bytes(content)
    assert [problem.lost_bytes for problem in read(tmp_path / "a.jsonl")[1]] == [len(lines[7])]
    packed = zstandard.compress(content)
    (tmp_path / "a.jsonl.zst").write_bytes(packed)
    (problem,) = read(tmp_path / "a.jsonl.zst")[1]
    assert problem.lost_bytes == pytest.approx(len(packed) * len(lines[7]) / len(content), rel=0.01)
    (tmp_path / "a.txt").write_bytes(b"\xff" * 1000)
    assert [(problem.lost_bytes, problem.is_file) for problem in read(tmp_path / "a.txt")[1]] == [(1000, True)]


@pytest.mark.parametrize(
    ("name", "start", "end", "expected"),
    [
        ("a.txt.gz", b"", b"", [None]),
        ("a.html.gz", b"<p>", b"</p>", [None]),
        ("a.jsonl.gz", b'{"text": "a"}\n{"text": "', b'"}\n{"text": "b"}', ["a", None, "b"]),
        ("a.json.gz", b'[{"text": "a"}, {"text": "', b'"}, {"text": "b"}]', ["a", None, "b"]),
        ("a.csv.gz", b"text\na\n", b"\nb\n", ["a", None, "b"]),
        ("b.csv.gz", b'text\na\n"', b'"\nb\n', ["a", None, "b"]),
    ],
)
def test_a_text_above_the_limit_is_never_in_memory_as_a_whole(name, start, end, expected, tmp_path, monkeypatch):
    """30 MB of zeros, packed in 30 kB, with a limit of 2 MB; the rows around it are read."""
    monkeypatch.setattr(byte_streams, "CHUNK", 1 << 20)
    (tmp_path / name).write_bytes(gzip.compress(start + b"0" * 30_000_000 + end))
    read(tmp_path / name, max_text_bytes=2_000_000)  # imports
    tracemalloc.start()
    texts, (problem,) = read(tmp_path / name, max_text_bytes=2_000_000)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert texts == expected and "is longer than `--max_text_bytes` 2,000,000: raise it" in problem.message
    assert most < 20_000_000
