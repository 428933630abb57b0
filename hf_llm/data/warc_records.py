"""Read the pages of a web archive (WARC, as Common Crawl stores them; WET, its texts) by warcio."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from hf_llm.data.byte_streams import BadFile, Batch, Columns, FileStream, Problem, file_format
from hf_llm.data.compression import CountedFile, ReadFunction, decompress
from hf_llm.data.html_pages import decode_page, main_text
from hf_llm.messages import ORIGIN, one_line

PAGES = ("text/html", "application/xhtml+xml")


def read_warc(stream: FileStream, column: Columns) -> Iterator[Batch]:
    """Read the main text of each page that a server sent; whatever the column is called elsewhere.

    Rows have the columns `text`, `url` and `date`. Records of other kinds, other contents and error pages are left out.
    """
    from warcio.archiveiterator import ArchiveIterator

    left_out: Counter[str] = Counter()
    number = -1
    with stream.open() as opened:
        file = CountedFile(opened)
        with decompress(file, file_format(stream.path)[1]) as read:
            content = ReadFunction(read)
            for number, record in enumerate(ArchiveIterator(content)):
                stream.position = file.position
                if reason := reason_to_leave_out(record):
                    left_out[reason] += 1
                    continue
                text, problems = None, {}
                try:
                    text = record_text(stream, record)
                except BadFile as error:
                    problems = {0: Problem(f"`{stream.name}` record {number}: {one_line(error)}", 1)}
                row = {"text": text, "url": record.rec_headers.get_header("WARC-Target-URI")}
                row |= {"date": record.rec_headers.get_header("WARC-Date"), ORIGIN: f"`{stream.name}` record {number}"}
                yield (pa.array([text], pa.string()) if isinstance(column, str) else [row]), problems
            if content.error:
                raise content.error
    if number < 0:
        stream.check_not_empty()
    for reason, records in left_out.items():
        name = f"{stream.name}: {records:,} records"
        nothing = pa.array([None], pa.string()) if isinstance(column, str) else [None]
        yield nothing, {0: Problem(reason, 0, True, name)}


def reason_to_leave_out(record: Any) -> str | None:
    """Return why a record has no text; None if it has."""
    if record.rec_type == "conversion":
        return None
    if record.rec_type != "response":
        return f"`{record.rec_type}`, not a page"
    if record.http_headers is None:
        return "not of HTTP"
    status = record.http_headers.get_statuscode()
    if status != "200":
        return f"status {status}"
    kind = content_type(record)
    return None if kind in (*PAGES, "text/plain") else f"content of type {kind or 'none'}"


def content_type(record: Any) -> str:
    """Return the type of a response's content."""
    return (record.http_headers.get_header("Content-Type") or "").partition(";")[0].strip().lower()


def record_text(stream: FileStream, record: Any) -> str:
    """Return the text of a record.

    Raises:
        BadFile: it cannot be decoded, or is longer than `--max_text_bytes`.
    """
    content = record.content_stream().read(stream.limit + 1)
    if len(content) > stream.limit:
        raise BadFile(stream.too_long())
    if record.raw_stream.limit > 0:
        raise BadFile("is cut short: the file ends before it")
    encoding = stream.encoding
    try:
        page = decode_page(stream, content)
    finally:
        stream.encoding = encoding  # of other pages
    if record.rec_type == "conversion" or content_type(record) == "text/plain":
        return page
    try:
        return main_text(page) or ""
    except ValueError as error:
        raise BadFile(str(error)) from None
