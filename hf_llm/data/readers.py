"""Files of every supported format -> rows and texts; local or remote, compressed or not."""

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.fs
import pyarrow.json
import pyarrow.parquet
from datasets import ClassLabel, Features
from datasets.exceptions import DatasetGenerationError

from hf_llm.messages import ORIGIN, one_line


def read_rows(path: str) -> Iterator[dict[str, Any]]:
    """The rows of one file with their places, in Python's types: dates stay the text that they are."""
    kind = file_format(path)[0]
    if kind in (".txt", ".md", ".html", ".htm"):
        raise ValueError(f"`{path}` has no columns: give .jsonl, .json, .csv or .parquet")
    if kind == ".parquet":
        yield from parse_parquet(path)
        return
    try:
        text = b"".join(read_chunks(path)).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise ValueError(f"`{path}` cannot be read: {one_line(error)}") from None
    yield from (parse_csv if kind == ".csv" else parse_json)(text, path)


def parse_parquet(path: str) -> Iterator[dict[str, Any]]:
    """Rows; numbered labels that `datasets` wrote by their names."""
    table = pa.parquet.read_table(path)
    features = Features.from_arrow_schema(table.schema) if b"huggingface" in (table.schema.metadata or {}) else {}
    labels = {name: label for name, label in features.items() if isinstance(label, ClassLabel)}
    for number, row in enumerate(table.to_pylist()):
        names = {name: None if row[name] in (None, -1) else label.int2str(row[name]) for name, label in labels.items()}
        yield row | names | {ORIGIN: f"`{path}` row {number}"}


def parse_csv(text: str, path: str) -> Iterator[dict[str, str]]:
    """Rows under the names of the first line; every value stays the text that it is."""
    csv.field_size_limit(len(text) + 1)  # a document may be longer than csv's own limit
    reader = csv.DictReader(io.StringIO(text, newline=""))
    for row in reader:
        if None in row:
            raise ValueError(f"`{path}` line {reader.line_num}: more values than the first line has names")
        yield row | {ORIGIN: f"`{path}` line {reader.line_num}"}


def parse_json(text: str, path: str) -> Iterator[dict[str, Any]]:
    """JSON Lines, or one list of objects."""
    listed = text.lstrip().startswith("[")
    lines = [(0, text)] if listed else [line for line in enumerate(text.split("\n"), 1) if line[1].strip()]
    for number, line in lines:
        try:
            rows = json.loads(line) if listed else [json.loads(line)]
            if not all(isinstance(row, dict) for row in rows):
                raise ValueError("not an object")
        except ValueError as error:
            place = f"`{path}`" if listed else f"`{path}` line {number}"
            problem = one_line(error).replace("line 1 column", "column")
            raise ValueError(f"{place}: {problem}: give one JSON object a line, or a list of them") from None
        for index, row in enumerate(rows):
            yield row | {ORIGIN: f"`{path}` row {index}" if listed else f"`{path}` line {number}"}


COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}


def remote(url: str) -> tuple[pa.fs.FileSystem, str]:
    """The file system of a URL, and the place in it: Arrow's own for object stores, fsspec's for others."""
    if url.startswith(("s3://", "gs://")):
        return pa.fs.FileSystem.from_uri(url)
    filesystem, place = fsspec.url_to_fs(url)
    return pa.fs.PyFileSystem(pa.fs.FSSpecHandler(filesystem)), place


def open_bytes(path: str, compression: str | None = None) -> pa.NativeFile:
    """A file or URL as a stream of its unpacked bytes."""
    if "://" not in path:
        return pa.input_stream(path, compression=compression)
    filesystem, place = remote(path)
    return filesystem.open_input_stream(place, compression=compression)


def file_format(path: str) -> tuple[str, str | None]:
    """(".jsonl", "gzip") for "a.jsonl.gz", (".csv", None) for "a.csv"."""
    stem, last = os.path.splitext((urlsplit(path).path if "://" in path else path).lower())
    return (os.path.splitext(stem)[1], COMPRESSIONS[last]) if last in COMPRESSIONS else (last, None)


CHUNK = 16 << 20  # bytes of JSON Lines parsed at once
PIECE = 1 << 16  # bytes unpacked at once, and lost where a compressed file breaks off
CSV_BLOCK = 64 << 20  # bytes; the longest row of a .csv file
BOM = b"\xef\xbb\xbf"

Rows = tuple[pa.Array, dict[int, str]]  # texts, and what is wrong with some that are null, by their place


class BadFile(DatasetGenerationError):
    """The message for the user. `datasets` hands on this class as it is, also out of its worker processes."""


def read_texts(path: str, field: str) -> Iterator[pa.Array]:
    """All texts of a file, some at a time; the first problem is raised as `BadFile`."""
    rows = found = 0
    try:
        for texts, problems in READERS[file_format(path)[0]](path, field):
            if problems:
                raise BadFile(problems[min(problems)])
            rows, found = rows + len(texts), found + len(texts) - texts.null_count
            yield texts
    except Exception as error:  # unreadable, cut short, or broken for Arrow; the network has classes of its own
        if isinstance(error, BadFile) or ("://" not in path and not isinstance(error, OSError | pa.ArrowException)):
            raise
        raise BadFile(f"`{path}` cannot be read: {one_line(error)}") from None
    if not rows:
        raise BadFile(f"`{path}` is empty: remove it from the list or write it again")
    if not found and (names := first_names(path)):
        check_column(path, field, names)


def read_chunks(path: str) -> Iterator[bytes]:
    """The unpacked bytes. Arrow reports a compressed file that is cut short or whose checksum is wrong.

    What stands before the break is given first.
    """
    compression = file_format(path)[1]
    with open_bytes(path, compression) as stream:
        pieces, size = [], 0
        try:
            while piece := stream.read(PIECE if compression else CHUNK):
                pieces.append(piece)
                size += len(piece)
                if size >= CHUNK:
                    yield b"".join(pieces)
                    pieces, size = [], 0
        except Exception:  # the network has classes of its own
            if pieces:
                yield b"".join(pieces)
            raise
        if pieces:
            yield b"".join(pieces)


def read_documents(path: str, field: str) -> Iterator[Rows]:
    """Texts of a file, some at a time; what cannot be read is null, and its problem is said.

    Returns:
        `(texts, problems)`: (N,) strings, and a line for each place of a null among them.
    """
    number = 0
    try:
        for texts, problems in READERS[file_format(path)[0]](path, field):
            nulls = np.flatnonzero(texts.is_null().to_numpy(False)).tolist()
            names = first_names(path) if 0 in nulls and 0 not in problems and not number else []
            if names and field not in names:
                problems[0] = missing_column(f"`{path}` row 0", field, names)
            for place in nulls:
                problems.setdefault(place, f"`{path}` row {number + place} has no `{field}`")
            number += len(texts)
            yield texts, problems
        if not number and file_format(path)[0] in (".txt", ".md"):
            yield pa.array([""]), {}
        elif not number:
            yield pa.array([None], pa.string()), {0: f"`{path}` is empty: remove it from the list or write it again"}
    except BadFile as error:
        yield pa.array([None], pa.string()), {0: str(error)}
    except Exception as error:  # unreadable, cut short, or broken for Arrow; the network has classes of its own
        if "://" not in path and not isinstance(error, OSError | pa.ArrowException):
            raise
        rest = f" after row {number - 1}" if number else ""
        yield pa.array([None], pa.string()), {0: f"`{path}` cannot be read{rest}: {one_line(error, path)}"}


def read_txt(path: str, field: str) -> Iterator[Rows]:
    """One document, whatever the column is called elsewhere."""
    content = b"".join(read_chunks(path))
    try:
        text = content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise BadFile(f"`{path}` line {line} is not UTF-8 (byte {error.start}): convert it to UTF-8") from None
    if "\0" in text:
        raise BadFile(f"`{path}` line {text.count(chr(10), 0, text.index(chr(0))) + 1} has a zero byte: it is no text")
    if content:
        yield pa.array([text]), {}


def read_json(path: str, field: str) -> Iterator[Rows]:
    """JSON Lines at Arrow's speed, or a list of objects."""
    parsing = pa.json.ParseOptions(pa.schema({field: pa.string()}), unexpected_field_behavior="ignore")
    line, first, problems = 1, b"", {}
    for lines in whole_lines(path):
        if not first and lines.lstrip(BOM + b" \t\r\n").startswith(b"["):
            yield parse_list(b"".join(read_chunks(path)), path, field)
            return
        first = first or lines
        try:
            reading = pa.json.ReadOptions(block_size=len(lines) + 1)
            column = pa.json.read_json(pa.BufferReader(lines), reading, parsing)[field].combine_chunks()
            column.validate(full=True)  # UTF-8
            problems = {}
        except pa.ArrowInvalid:  # broken, or valid for Python alone: a name given twice
            column, problems = parse_lines(lines, path, line, field)
        line += lines.count(b"\n")
        yield column, problems


def first_names(path: str) -> list[str]:
    """The names in the first object of a JSON file; none in another."""
    if file_format(path)[0] not in (".json", ".jsonl"):
        return []
    text = next(whole_lines(path), b"").decode("utf-8-sig", "replace").lstrip("[ \t\r\n")
    try:
        first, _ = json.JSONDecoder().raw_decode(text)
    except ValueError:
        return []
    return list(first) if isinstance(first, dict) else []


def whole_lines(path: str) -> Iterator[bytes]:
    """Chunks that end where a line ends."""
    rest = b""
    for chunk in read_chunks(path):
        head, newline, tail = chunk.rpartition(b"\n")
        if newline:
            yield rest + head + newline
            rest = b""
        rest += tail
    if rest:
        yield rest


def parse_lines(lines: bytes, path: str, line: int, field: str) -> Rows:
    """The slow and exact way, to name the lines that are broken. `line` is the number of the first one here."""
    texts, problems = [], {}
    for number, content in enumerate(lines.split(b"\n"), line):
        if not content.strip():
            continue
        try:
            texts.append(text_of(json.loads(content.decode("utf-8-sig")), field))
        except ValueError as error:
            problem = one_line(error).replace("line 1 column", "column")  # the decoder sees nothing but this line
            remedy = "" if type(error) is ValueError else ": give one JSON object a line"  # it is no JSON
            problems[len(texts)] = f"`{path}` line {number}: {problem}{remedy}"
            texts.append(None)
    return pa.array(texts, pa.string()), problems


def parse_list(content: bytes, path: str, field: str) -> Rows:
    texts, problems = [], {}
    try:
        rows = json.loads(content.decode("utf-8-sig"))
    except ValueError as error:
        raise BadFile(f"`{path}`: {one_line(error)}: give a list of JSON objects") from None
    for number, row in enumerate(rows):
        try:
            texts.append(text_of(row, field))
        except ValueError as error:
            problems[number] = f"`{path}` item {number}: {one_line(error)}"
            texts.append(None)
    return pa.array(texts, pa.string()), problems


def text_of(row: object, field: str) -> str | None:
    if not isinstance(row, dict):
        raise ValueError(f"found {type(row).__name__}, not an object: give JSON objects")
    text = row.get(field)
    if not isinstance(text, str | None):
        raise ValueError(f"`{field}` holds {type(text).__name__}, not a string")
    try:
        return text and text.encode().decode()
    except UnicodeEncodeError:
        raise ValueError(f"`{field}` holds half of a surrogate pair, which JSON may have and text may not") from None


def read_csv(path: str, field: str) -> Iterator[Rows]:
    """Every field as it is written: "NA" and "001" are text."""
    if sum(chunk.count(b'"') for chunk in read_chunks(path)) % 2:  # Arrow would read the rest of the file as one field
        raise BadFile(f'`{path}` has a quotation mark that is never closed: write " inside a field as ""')
    reading = pa.csv.ReadOptions(block_size=CSV_BLOCK, use_threads=False)  # one thread: errors with the row's number
    bad: list[pa.csv.InvalidRow] = []
    parsing = pa.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=lambda row: bad.append(row) or "skip")
    with open_bytes(path, file_format(path)[1]) as stream:
        names = pa.csv.open_csv(stream, reading, parsing).schema.names
    check_column(path, field, names)
    converting = pa.csv.ConvertOptions(include_columns=[field], column_types={field: pa.string()})
    with open_bytes(path, file_format(path)[1]) as stream:
        bad.clear()  # those that were seen while the names were read
        for batch in pa.csv.open_csv(stream, reading, parsing, converting):
            texts = pa.concat_arrays([batch.column(0), pa.nulls(len(bad), pa.string())])
            yield texts, {len(batch) + place: odd_row(path, row) for place, row in enumerate(bad)}
            bad.clear()
        if bad:
            yield pa.nulls(len(bad), pa.string()), {place: odd_row(path, row) for place, row in enumerate(bad)}


def odd_row(path: str, row: "pa.csv.InvalidRow") -> str:
    number = f"Row #{row.number}: " if row.number is not None else ""
    return f"`{path}` cannot be read: {number}Expected {row.expected_columns} columns, got {row.actual_columns}"


def read_parquet(path: str, field: str) -> Iterator[Rows]:
    filesystem, place = remote(path) if "://" in path else (None, path)
    with pa.parquet.ParquetFile(place, filesystem=filesystem) as file:
        schema = file.schema_arrow
        check_column(path, field, schema.names)
        kind = schema.field(field).type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise BadFile(f"`{path}` column `{field}` holds {kind}, not strings: name another --dataset_text_field")
        for batch in file.iter_batches(1000, columns=[field]):
            yield batch.column(0), {}


def read_html(path: str, field: str) -> Iterator[Rows]:
    """The main text of a page, without menus and other frames; null where there is none."""
    import trafilatura  # takes a second

    text = trafilatura.extract(b"".join(read_chunks(path)), include_comments=False)
    problem = {} if text else {0: f"`{path}` has no text to speak of"}
    yield pa.array([text], pa.string()), problem


READERS = {
    ".txt": read_txt,
    ".md": read_txt,
    ".jsonl": read_json,
    ".json": read_json,
    ".csv": read_csv,
    ".parquet": read_parquet,
    ".html": read_html,
    ".htm": read_html,
}


def check_column(path: str, field: str, columns: Iterable[str]) -> None:
    if field not in columns:
        raise BadFile(missing_column(f"`{path}`", field, columns))


def missing_column(place: str, field: str, columns: Iterable[str]) -> str:
    return f"{place} has no column `{field}`, only {', '.join(columns)}: choose with --dataset_text_field"
