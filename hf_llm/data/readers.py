"""Read the rows or the texts of files in every supported format, local or remote, compressed or not.

Each format has one reader, which takes a path and the name of a column: the texts of that column, or with `None` rows
with all columns. `read_texts`, `read_documents` and `read_rows` differ in how they report what cannot be read.
"""

import itertools
import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from datasets import ClassLabel, Features

from hf_llm.arguments import ReadingArguments
from hf_llm.data.byte_streams import BadFile, Batch, Problem, file_format, open_filesystem, read_chunks
from hf_llm.data.csv_rows import read_csv_rows
from hf_llm.data.json_rows import first_names, read_json
from hf_llm.messages import ORIGIN, one_line

DOCUMENTS = (".txt", ".md", ".html", ".htm")  # one text each, without columns


def read_texts(path: str, column: str, reading: ReadingArguments) -> Iterator[pa.Array]:
    """Read one column of a file, or the text of a document.

    Returns:
        Batches of (N,) strings, null where a row has no text.

    Raises:
        BadFile: the file or a row cannot be read, it is empty, or no row has the column.
    """
    has_texts = False
    for texts, problems in read_batches(path, column):
        if problems:
            raise BadFile(problems[min(problems)])
        if file_format(path)[0] in DOCUMENTS and not texts[0].as_py():
            raise BadFile(empty_file(path))
        has_texts = has_texts or texts.null_count < len(texts)
        yield texts
    if not has_texts and (names := first_names(path)):
        check_column(path, column, names)


def read_documents(path: str, column: str, reading: ReadingArguments) -> Iterator[tuple[pa.Array, dict[int, Problem]]]:
    """Read one column of a file, and report what cannot be read instead of raising it.

    Returns:
        Batches `(texts, problems)`: (N,) strings, and a problem for each index of a null among them. Where the rest of
        the file cannot be read, the last row is a null.
    """
    number = 0
    try:
        for texts, problems in read_batches(path, column):
            nulls = np.flatnonzero(texts.is_null().to_numpy(False)).tolist()
            names = first_names(path) if 0 in nulls and 0 not in problems and not number else []
            if names and column not in names:
                problems[0] = missing_column(f"`{path}` row 0", column, names)
            for index in nulls:
                problems.setdefault(index, f"`{path}` row {number + index} has no `{column}`")
            number += len(texts)
            yield texts, {index: Problem(message, 0) for index, message in problems.items()}
    except BadFile as error:
        yield (
            pa.array([None], pa.string()),
            {0: Problem(str(error), 0 if "://" in path else os.path.getsize(path), is_file=True)},
        )


def read_rows(path: str, reading: ReadingArguments) -> Iterator[dict[str, Any]]:
    """Read all columns of a file.

    Returns:
        Rows in Python's types, with their origin. What is text in the file stays text: dates, and all values of a
        .csv file.

    Raises:
        ValueError: the file or a row cannot be read, it is empty or has no columns.
    """
    if file_format(path)[0] in DOCUMENTS:
        raise BadFile(f"`{path}` has no columns: give .jsonl, .json, .csv or .parquet")
    for rows, problems in read_batches(path, None):
        if problems:
            raise BadFile(problems[min(problems)])
        yield from rows


def read_batches(path: str, column: str | None) -> Iterator[Batch]:
    """Read a file with the reader of its format.

    Raises:
        BadFile: it is empty, or cannot be read from some row on.
    """
    number = 0
    try:
        for rows, problems in READERS[file_format(path)[0]](path, column):
            number += len(rows)
            yield rows, problems
    except Exception as error:  # unreadable, cut short, or broken for Arrow; the network has classes of its own
        if isinstance(error, BadFile) or ("://" not in path and not isinstance(error, OSError | pa.ArrowException)):
            raise
        after = f" after row {number - 1}" if number else ""
        raise BadFile(f"`{path}` cannot be read{after}: {one_line(error, path)}") from None
    if not number:
        raise BadFile(empty_file(path))


def read_txt(path: str, column: str | None) -> Iterator[Batch]:
    """Read one document, whatever the column is called elsewhere."""
    content = b"".join(read_chunks(path))
    try:
        text = content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise BadFile(f"`{path}` line {line} is not UTF-8 (byte {error.start}): convert it to UTF-8") from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise BadFile(f"`{path}` line {line} has a zero byte: it is not a text file")
    yield pa.array([text]), {}


def read_html(path: str, column: str | None) -> Iterator[Batch]:
    """Read the main text of a page, without menus and the like; null where there is none."""
    import trafilatura  # takes a second

    text = trafilatura.extract(b"".join(read_chunks(path)), include_comments=False)
    yield pa.array([text], pa.string()), {} if text else {0: f"`{path}` has no main text"}


def read_csv(path: str, column: str | None) -> Iterator[Batch]:
    """Read the rows after the names in the first one. Every value is text as it is written: "NA" and "001"."""
    names: list[str] = []
    for content, ends, lines in read_csv_rows(path):
        if not names:
            parsing = pa.csv.ParseOptions(newlines_in_values=True)
            try:
                names = pa.csv.read_csv(pa.BufferReader(content[: ends[0]]), parse_options=parsing).column_names
            except UnicodeDecodeError:
                raise BadFile(f"`{path}` line {lines[0]} is not UTF-8: convert it to UTF-8") from None
            if column:
                check_column(path, column, names)
            content, lines = content[ends[0] :], lines[1:]
        if len(lines):
            yield parse_csv(content, path, lines, names, column)


def parse_csv(content: bytes, path: str, lines: np.ndarray, names: list[str], column: str | None) -> Batch:
    """Parse rows of a .csv file.

    Args:
        lines: the number of the line on which each row ends.
        names: of all columns; of two that are equal the last is read, as in JSON.
    """
    problems: dict[int, str] = {}

    def skip_row(row: pa.csv.InvalidRow) -> str:
        count = f"{row.actual_columns} values, and the first line names {row.expected_columns} columns"
        problems[row.number - 1] = f"`{path}` line {lines[row.number - 1]} has {count}: correct or quote its values"
        return "skip"

    ids = [str(number) for number in range(len(names))]  # names may be equal, and these are not
    chosen = {name: id for name, id in zip(names, ids, strict=True) if column in (None, name)}
    table = pa.csv.read_csv(
        pa.BufferReader(content),
        # In one thread: only then do invalid rows come with their number.
        pa.csv.ReadOptions(use_threads=False, block_size=len(content) + 1, column_names=ids),
        pa.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=skip_row),
        pa.csv.ConvertOptions(include_columns=list(chosen.values()), column_types=dict.fromkeys(ids, pa.binary())),
    )
    if problems:  # a row of nulls in the place of each
        valid = np.delete(np.arange(len(lines)), list(problems))
        rows = np.full(len(lines), -1)
        rows[valid] = np.arange(len(valid))
        table = table.take(pa.array(rows, mask=rows < 0))
    texts = [decode_texts(values, path, lines, problems) for values in table.columns]
    if column:
        return texts[0], problems
    origins = [f"`{path}` line {line}" for line in lines]
    rows = zip(*(values.to_pylist() for values in texts), origins, strict=True)
    return [dict(zip([*chosen, ORIGIN], row, strict=True)) for row in rows], problems


def decode_texts(values: pa.ChunkedArray, path: str, lines: np.ndarray, problems: dict[int, str]) -> pa.Array:
    """Decode UTF-8. Values that are not UTF-8 become null, and problems of their rows."""
    joined = values.combine_chunks()
    try:
        return joined.cast(pa.string())
    except pa.ArrowInvalid:
        texts = joined.to_pylist()
    for row, value in enumerate(texts):
        try:
            texts[row] = value if value is None else value.decode()
        except UnicodeDecodeError:
            texts[row] = None
            problems[row] = f"`{path}` line {lines[row]} is not UTF-8: convert it to UTF-8"
    return pa.array(texts, pa.string())


def read_parquet(path: str, column: str | None) -> Iterator[Batch]:
    """Read a Parquet file. Numbered labels of `datasets` become their names, and hidden ones null."""
    filesystem, inner = open_filesystem(path) if "://" in path else (None, path)
    with pa.parquet.ParquetFile(inner, filesystem=filesystem) as file:
        schema = file.schema_arrow
        if column:
            check_column(path, column, schema.names)
            kind = schema.field(column).type
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
                problem = f"column `{column}` holds {kind}, not strings: name another --dataset_text_field"
                raise BadFile(f"`{path}` {problem}")
            for batch in file.iter_batches(1000, columns=[column]):
                yield batch.column(0), {}
            return
        features = Features.from_arrow_schema(schema) if b"huggingface" in (schema.metadata or {}) else {}
        labels = {name: label for name, label in features.items() if isinstance(label, ClassLabel)}
        number = itertools.count()
        for batch in file.iter_batches(1000):
            rows = batch.to_pylist()
            for row in rows:
                for name, label in labels.items():
                    row[name] = None if row[name] in (None, -1) else label.int2str(row[name])
                row[ORIGIN] = f"`{path}` row {next(number)}"
            yield rows, {}


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


def check_column(path: str, column: str, names: Iterable[str]) -> None:
    """Raise an error if the column is not among the names."""
    if column not in names:
        raise BadFile(missing_column(f"`{path}`", column, names))


def missing_column(origin: str, column: str, names: Iterable[str]) -> str:
    """Return the message for a column that does not exist."""
    return f"{origin} has no column `{column}`, only {', '.join(names)}: choose with --dataset_text_field"


def empty_file(path: str) -> str:
    """Return the message for a file without rows."""
    return f"`{path}` is empty: remove it from the list or write it again"
