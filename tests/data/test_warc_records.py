"""Pages of web archives: what servers sent as HTML or text, each a row, and nothing else."""

import gzip
from pathlib import Path

import pytest

from hf_llm.arguments import ReadingArguments
from hf_llm.data.byte_streams import BadFile
from hf_llm.data.readers import read_documents, read_rows, read_texts

READING = ReadingArguments()
SENTENCE = "A paragraph with enough words that nobody takes it for a menu, in {}."
PAGE = "<html><head><meta charset='{}'></head><body><p>" + SENTENCE + "</p></body></html>"


def write(path, records, compress=gzip.compress):
    """Write records of `(type, status, content type, content)`, each compressed by itself as crawlers do."""
    with open(path, "wb") as file:
        for number, (kind, status, content_type, content) in enumerate(records):
            if status:
                content = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\n\r\n".encode() + content
                content_type = "application/http; msgtype=response"
            names = {"Type": kind, "Target-URI": f"http://example.org/{number}", "Date": "2024-01-01T00:00:00Z"}
            head = "".join(f"WARC-{name}: {value}\r\n" for name, value in names.items())
            head = f"WARC/1.0\r\n{head}Content-Type: {content_type}\r\nContent-Length: {len(content)}\r\n\r\n"
            file.write(compress(head.encode() + content + b"\r\n\r\n"))
    return str(path)


RECORDS = [
    ("response", "200 OK", "text/html; charset=utf-8", PAGE.format("utf-8", "caf\u00e9").encode()),
    ("response", "200 OK", "text/html", PAGE.format("windows-1252", "caf\u00e9").encode("cp1252")),
    ("response", "404 Not Found", "text/html", PAGE.format("utf-8", "an error").encode()),
    ("response", "200 OK", "image/png", b"\x89PNG"),
    ("metadata", None, "application/json", b"{}"),
    ("response", "200 OK", "text/plain", b"plain text"),
]
TEXTS = [SENTENCE.format("caf\u00e9"), SENTENCE.format("caf\u00e9"), "plain text"]


@pytest.mark.parametrize("extension", [".warc", ".warc.gz"])
def test_pages_are_read_and_other_records_named(extension, tmp_path, caplog):
    """In the encoding that each page declares; error pages, images and metadata are left out and counted."""
    path = write(tmp_path / f"a{extension}", RECORDS, gzip.compress if extension == ".warc.gz" else bytes)
    assert [text for batch in read_texts(path, "body", READING) for text in batch.to_pylist()] == TEXTS
    for reason in ("status 404", "content of type image/png", "`metadata`, not a page"):
        assert reason in caplog.text
    assert [row["url"] for row in read_rows(path, READING)] == [f"http://example.org/{n}" for n in (0, 1, 5)]


def test_texts_of_common_crawl_are_read(tmp_path):
    """Its .wet.gz files have the text of each page as a record of its own."""
    path = write(tmp_path / "a.warc.wet.gz", [("conversion", None, "text/plain", "caf\u00e9\n".encode())] * 2)
    assert [text for batch in read_texts(path, "text", READING) for text in batch.to_pylist()] == ["caf\u00e9\n"] * 2


def test_a_damaged_archive_keeps_the_pages_before(tmp_path):
    """The rest is one problem; a file that is no web archive says so."""
    content = Path(write(tmp_path / "a.warc.gz", RECORDS)).read_bytes()
    (tmp_path / "b.warc.gz").write_bytes(content[:-60])
    batches = list(read_documents(str(tmp_path / "b.warc.gz"), "text", READING))
    assert [text for texts, _, _ in batches for text in texts.to_pylist()][:2] == TEXTS[:2]
    assert "b.warc.gz` cannot be read" in batches[-1][1][0].message
    content = Path(write(tmp_path / "a.warc", RECORDS, bytes)).read_bytes()
    (tmp_path / "d.warc").write_bytes(content[:-8])
    *_, (_, cut, _), _, _, _ = read_documents(str(tmp_path / "d.warc"), "text", READING)
    assert "record 5: is cut short" in cut[0].message
    (tmp_path / "c.warc").write_bytes(b"no such thing\n")
    with pytest.raises(BadFile, match="cannot be read"):
        list(read_texts(str(tmp_path / "c.warc"), "text", READING))
