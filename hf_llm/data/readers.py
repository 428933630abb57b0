"""Read the rows or the texts of files in every supported format, local or remote, compressed or not.

Each format has one reader, which takes the stream of a file and the name of a column: the texts of that column, or with
`None` rows with all columns. `read_texts`, `read_documents` and `read_rows` differ in how they report what cannot be
read.
"""

import codecs
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from hf_llm.arguments import ReadingArguments
from hf_llm.data.byte_streams import BadFile, Batch, FileStream, NoColumn, Problem, file_format, missing_column
from hf_llm.data.csv_rows import read_csv
from hf_llm.data.html_pages import read_html
from hf_llm.data.json_rows import first_names, read_json
from hf_llm.data.parquet_rows import read_parquet

DOCUMENTS = (".txt", ".md", ".html", ".htm")  # one text each, without columns


def read_texts(path: str, column: str, reading: ReadingArguments) -> Iterator[pa.Array]:
    """Read one column of a file, or the text of a document.

    Returns:
        Batches of (N,) strings, null where a JSON object has no such column.

    Raises:
        BadFile: the file or a row cannot be read, it is empty, or no row has the column.
    """
    has_texts, stream = False, FileStream(path, reading)
    for texts, problems in read_batches(stream, column):
        for index in sorted(problems):
            if not isinstance(problems[index], NoColumn):
                raise BadFile(problems[index].message)
        has_texts = has_texts or texts.null_count < len(texts)
        yield texts
    if not has_texts and (names := first_names(path, reading)) and column not in names:
        raise BadFile(missing_column(f"`{stream.name}`", column, names))


def read_documents(path: str, column: str, reading: ReadingArguments) -> Iterator[tuple[pa.Array, dict[int, Problem]]]:
    """Read one column of a file, and report what cannot be read instead of raising it.

    Returns:
        Batches `(texts, problems)`: (N,) strings, and a problem for each index of a null among them. Where the rest of
        the file cannot be read, the last row is a null.
    """
    number, stream = 0, FileStream(path, reading)
    try:
        for texts, problems in read_batches(stream, column):
            first = problems.get(0)
            if not number and isinstance(first, NoColumn) and (names := first_names(path, reading)):
                problems[0] = Problem(missing_column(f"`{stream.name}` row 0", column, names), first.lost_bytes)
            number += len(texts)
            yield texts, problems
    except BadFile as error:
        lost = stream.unread() if number else max(1, stream.size)
        yield pa.array([None], pa.string()), {0: Problem(str(error), lost, is_file=True)}


def read_rows(path: str, reading: ReadingArguments) -> Iterator[dict[str, Any]]:
    """Read all columns of a file.

    Returns:
        Rows in Python's types, with their origin. What is text in the file stays text: dates, and all values of a
        .csv file.

    Raises:
        ValueError: the file or a row cannot be read, it is empty or has no columns.
    """
    stream = FileStream(path, reading)
    check_columns(stream)
    for rows, problems in read_batches(stream, None):
        if problems:
            raise BadFile(problems[min(problems)].message)
        yield from rows


def check_columns(stream: FileStream) -> None:
    """Raise an error if files of this format have no columns."""
    if file_format(stream.path)[0] in DOCUMENTS:
        raise BadFile(f"`{stream.name}` has no columns: give .jsonl, .json, .csv or .parquet")


def read_batches(stream: FileStream, column: str | None) -> Iterator[Batch]:
    """Read a file with the reader of its format.

    Raises:
        BadFile: it is empty, or cannot be read from some row on.
    """
    number = 0
    try:
        for rows, problems in READERS[file_format(stream.path)[0]](stream, column):
            number += len(rows)
            yield rows, problems
    except Exception as error:  # every library has classes of its own, and Daft may lose what its source raises
        stream.error = error
    stream.check_complete(number)


def read_txt(stream: FileStream, column: str | None) -> Iterator[Batch]:
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
    ".json": read_json,
    ".csv": read_csv,
    ".tsv": read_csv,
    ".parquet": read_parquet,
    ".html": read_html,
    ".htm": read_html,
}
