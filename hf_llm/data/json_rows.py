"""Read the objects of JSON Lines and of JSON lists, as rows or as texts of one column."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.json

from hf_llm.data.byte_streams import BOM, BadFile, Batch, file_format, read_lines
from hf_llm.messages import ORIGIN, one_line

HALF_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")  # half of a pair, or both halves


def read_json(path: str, column: str | None) -> Iterator[Batch]:
    """Read JSON Lines, or one list of objects."""
    line, is_first, chunks = 1, True, read_lines(path)
    for lines in chunks:
        if is_first and lines.lstrip(BOM + b" \t\r\n").startswith(b"["):
            yield parse_list(lines + b"".join(chunks), path, column)
            return
        is_first = False
        texts = parse_column(lines, column) if column else None
        yield parse_lines(lines, path, line, column) if texts is None else (texts, {})
        line += lines.count(b"\n")


def parse_column(lines: bytes, column: str) -> pa.Array | None:
    """Parse one column of JSON Lines by Arrow; None where Arrow refuses: broken lines, or a name given twice."""
    parsing = pa.json.ParseOptions(pa.schema({column: pa.string()}), unexpected_field_behavior="ignore")
    try:
        table = pa.json.read_json(pa.BufferReader(lines), pa.json.ReadOptions(block_size=len(lines) + 1), parsing)
        texts = table[column].combine_chunks()
        texts.validate(full=True)  # UTF-8
    except pa.ArrowInvalid:
        return None
    return texts


def parse_lines(lines: bytes, path: str, line: int, column: str | None) -> Batch:
    """Parse JSON Lines one by one, which keeps every value as it is and finds the broken lines.

    Args:
        line: the number of the first line.
    """
    rows, problems = [], {}
    for number, content in enumerate(lines.split(b"\n"), line):
        if not content.strip():
            continue
        origin = f"`{path}` line {number}"
        try:
            row = json.loads(content.removeprefix(BOM).decode())
            rows.append(check_row(row, column, bool(HALF_SURROGATE.search(content)), origin))
        except ValueError as error:
            problem = one_line(error).replace("line 1 column", "column")  # the decoder is called with one line
            remedy = "" if type(error) is ValueError else ": give one JSON object a line, or a list of them"
            problems[len(rows)] = f"{origin}: {problem}{remedy}"
            rows.append(None)
    return pa.array(rows, pa.string()) if column else rows, problems


def parse_list(content: bytes, path: str, column: str | None) -> Batch:
    """Parse a list of JSON objects."""
    try:
        items = json.loads(content.decode("utf-8-sig"))
    except ValueError as error:
        raise BadFile(f"`{path}`: {one_line(error)}: give one JSON object a line, or a list of them") from None
    rows, problems, surrogates = [], {}, bool(HALF_SURROGATE.search(content))
    for number, item in enumerate(items):
        origin = f"`{path}` row {number}"
        try:
            rows.append(check_row(item, column, surrogates, origin))
        except ValueError as error:
            problems[number] = f"{origin}: {one_line(error)}"
            rows.append(None)
    return pa.array(rows, pa.string()) if column else rows, problems


def check_row(row: object, column: str | None, surrogates: bool, origin: str) -> str | dict[str, Any] | None:
    """Return the text in `column` of a JSON object, or without a column the object with its origin.

    Args:
        surrogates: whether to look for halves of surrogate pairs.

    Raises:
        ValueError: it is not an object, the column does not hold text, or a text has half of a surrogate pair.
    """
    if not isinstance(row, dict):
        raise ValueError(f"found {type(row).__name__}, not an object: give one JSON object a line, or a list of them")
    if column and not isinstance(row.get(column), str | None):
        raise ValueError(f"`{column}` holds {type(row[column]).__name__}, not a string")
    values = {column: row.get(column)} if column else row
    for name, value in values.items() if surrogates else ():
        try:
            json.dumps([name, value], ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError(f"`{name}` holds half of a surrogate pair, which text may not have") from None
    return row.get(column) if column else row | {ORIGIN: origin}


def first_names(path: str) -> list[str]:
    """Return the names in the first object of a JSON file; none for other formats."""
    if file_format(path)[0] not in (".json", ".jsonl"):
        return []
    text = next(read_lines(path), b"").decode("utf-8-sig", "replace").lstrip("[ \t\r\n")
    try:
        row, _ = json.JSONDecoder().raw_decode(text)
    except ValueError:
        return []
    return list(row) if isinstance(row, dict) else []
