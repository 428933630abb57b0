"""The reader of each format. It takes the stream of a file, and the name of a column or several, see `Columns`.

Readers of documents make one text of a file, whatever the column is called elsewhere.
"""

import codecs
from collections.abc import Callable, Iterator, Sequence

import pyarrow as pa

from hf_llm.data.byte_streams import BadFile, Batch, Columns, FileStream, file_format
from hf_llm.data.csv_rows import read_csv
from hf_llm.data.html_pages import read_html
from hf_llm.data.json_rows import read_json
from hf_llm.data.office_documents import read_docx, read_pdf
from hf_llm.data.parquet_rows import ARROW, read_arrow, read_parquet
from hf_llm.data.warc_records import read_warc

Reader = Callable[[FileStream, Columns], Iterator[Batch]]
ARCHIVES = (".zip", ".tar")  # of files with readers
SEEKABLE = (".parquet", ".zip", *ARROW)  # not read from compressed files


def find_reader(path: str, text_extensions: Sequence[str] = ()) -> Reader | None:
    """Return the reader of a file, by its extension."""
    extension, compression = file_format(path)
    if extension in text_extensions:
        return read_txt
    return None if compression and extension in SEEKABLE else READERS.get(extension)


def is_archive(path: str) -> bool:
    """Return whether a file is an archive of others that can be read."""
    extension, compression = file_format(path)
    return extension in ARCHIVES and not (compression and extension in SEEKABLE)


def can_read(path: str, text_extensions: Sequence[str] = ()) -> bool:
    """Return whether a file, or what is in it, has a reader."""
    return is_archive(path) or find_reader(path, text_extensions) is not None


def is_document(path: str, text_extensions: Sequence[str] = ()) -> bool:
    """Return whether a file is one text, without columns."""
    return find_reader(path, text_extensions) in DOCUMENT_READERS


def read_txt(stream: FileStream, column: Columns) -> Iterator[Batch]:
    """Read one document, whatever the column is called elsewhere."""
    content = stream.join(stream.read_text())
    if content:
        yield pa.array([decode_document(stream, content).replace("\r\n", "\n")]), {}
    else:
        stream.check_not_empty()


def decode_document(stream: FileStream, content: bytes, is_complete: bool = True) -> str:
    """Decode a text, or its beginning.

    Raises:
        BadFile: it has bytes of another encoding, or a zero byte; the message has the line.
    """
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(content, is_complete)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise BadFile(stream.undecodable(f"`{stream.name}` line {line}")) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise BadFile(f"`{stream.name}` line {line} has a zero byte: it is not a text file")
    return text


READERS = {
    ".txt": read_txt,
    ".md": read_txt,
    ".jsonl": read_json,
    **dict.fromkeys((".jsonlines", ".ndjson", ".json"), read_json),
    ".csv": read_csv,
    ".tsv": read_csv,
    ".parquet": read_parquet,
    **dict.fromkeys(ARROW, read_arrow),
    ".pdf": read_pdf,
    ".docx": read_docx,
    ".warc": read_warc,
    ".wet": read_warc,
    ".html": read_html,
    ".htm": read_html,
}
DOCUMENT_READERS = (read_txt, read_html, read_pdf, read_docx)
