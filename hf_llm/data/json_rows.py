"""Read the objects of JSON Lines and of JSON lists, as rows or as texts of one column."""

import codecs
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.json

from hf_llm.data.byte_streams import (
    BOM,
    BadFile,
    Batch,
    Columns,
    FileStream,
    NoColumn,
    Problem,
    file_format,
    missing_column,
    read_lines,
)
from hf_llm.messages import ORIGIN, one_line

BATCH_ROWS = 10_000  # of a list
PIECE = 1 << 16  # bytes of a list that are decoded together
HALF_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")  # half of a pair, or both halves
DECODER = json.JSONDecoder()
WHITE_SPACE = re.compile(r"[ \t\r\n]*")
ROWS = ("data", "rows", "examples")  # names of a list of rows in an object
NAME = re.compile(r'[ \t\r\n,]*"((?:[^"\\]|\\.)*)"[ \t\r\n]*:[ \t\r\n]*')  # of the next value in an object
SIGNS = re.compile(r'\\.|[{\[]+|["}\],]', re.DOTALL)  # that open and close strings, lists and objects, or end an item
REMEDY = "give one JSON object a line, or a list of them"
# The origin of a row; the line and column where it is, if the origin does not say them; its bytes, None where it is too
# long; and their number.
Item = tuple[str, tuple[int, int] | None, bytes | None, int]


def read_json(stream: FileStream, column: Columns) -> Iterator[Batch]:
    """Read JSON Lines, one list of objects, or the list under the name `data` in one object."""
    chunks = stream.read_text()
    first = next(chunks, b"")
    start = start_of_list(first) if file_format(stream.path)[0] == ".json" else None
    if start is not None or first.lstrip(b" \t\r\n").startswith(b"["):
        blank = re.sub(rb"[^\n]", b" ", first[: start or 0])
        yield from read_list(stream, itertools.chain([blank + first[start or 0 :]], chunks), column, start is not None)
    else:
        yield from read_json_lines(stream, itertools.chain([first], chunks), column)


def start_of_list(first: bytes) -> int | None:
    """Find the list of rows in one object, e.g. `{"version": "1.1", "data": [...]}`.

    Args:
        first: the beginning of the file.

    Returns:
        The offset of its bracket, or None: the object has no such list, or it is the first of JSON Lines.
    """
    line, _, rest = first.partition(b"\n")
    if rest.strip() and is_json(line):
        return None
    text = first.decode("utf-8", "surrogateescape")
    start = WHITE_SPACE.match(text).end()  # pyright: ignore[reportOptionalMemberAccess]
    position = start + 1 if text.startswith("{", start) else len(text)
    while name := NAME.match(text, position):
        if name[1] in ROWS and text.startswith("[", name.end()):
            return len(text[: name.end()].encode("utf-8", "surrogateescape"))
        try:
            _, position = DECODER.raw_decode(text, name.end())
        except (ValueError, RecursionError):
            break
    return None


def is_json(text: bytes) -> bool:
    """Return whether a text is one whole JSON value."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def read_json_lines(stream: FileStream, chunks: Iterable[bytes], column: Columns) -> Iterator[Batch]:
    """Read one object a line. Blank lines are skipped."""
    line, has_rows = 1, False
    for lines, size in read_lines(stream, chunks):
        texts, problems = None, {}
        if isinstance(column, str) and lines and longest_line(lines, stream.limit) <= stream.limit:
            texts = parse_column(lines, column)
        if texts is None:
            texts, problems = parse_items(split_lines(stream, lines, size, line), stream, column)
        has_rows = has_rows or len(texts) > 0
        line += lines.count(b"\n") if lines else 1
        yield texts, problems
    if not has_rows:
        stream.check_not_empty()


def longest_line(lines: bytes, limit: int) -> int:
    """Return the length of the longest line in bytes, or any smaller number than `limit`."""
    if len(lines) <= limit:
        return 0
    ends = np.flatnonzero(np.frombuffer(lines, np.uint8) == ord("\n"))
    return int(np.diff(ends, prepend=-1, append=len(lines)).max()) - 1


def parse_column(lines: bytes, column: str) -> pa.Array | None:
    """Parse one column of JSON Lines by Arrow.

    Returns:
        None where Arrow refuses (broken lines, or a name given twice), and where it has nulls: an object without the
        column is not the same as one with `null` in it.
    """
    if lines.lstrip(b" \t\r\n").startswith(b"null"):  # Arrow 25 ends the process by a segmentation fault
        return None
    parsing = pa.json.ParseOptions(pa.schema({column: pa.string()}), unexpected_field_behavior="ignore")
    try:
        table = pa.json.read_json(pa.BufferReader(lines), pa.json.ReadOptions(block_size=len(lines) + 1), parsing)
        texts = table[column].combine_chunks()
        texts.validate(full=True)  # UTF-8
    except pa.ArrowInvalid:
        return None
    return None if texts.null_count else texts


def split_lines(stream: FileStream, lines: bytes | None, size: int, first: int) -> Iterator[Item]:
    """Split lines that are not blank.

    Args:
        lines: None for one line that is too long.
        size: in bytes.
        first: the number of the first line.
    """
    for number, content in enumerate(lines.split(b"\n") if lines is not None else [None], first):
        if content is None or content.strip():
            length = size if content is None else len(content) + 1
            yield f"`{stream.name}` line {number}", None, content, length


def read_list(stream: FileStream, chunks: Iterable[bytes], column: Columns, in_object: bool = False) -> Iterator[Batch]:
    """Read a list of objects, which may be a value of an object."""
    items, total = [], 0
    for number, (content, size, where) in enumerate(split_list(stream, iter(chunks), in_object)):
        items.append((f"`{stream.name}` row {number}", where, content, size))
        total += size
        if len(items) == BATCH_ROWS or total >= stream.chunk:
            yield parse_items(items, stream, column)
            items, total = [], 0
    if items:
        yield parse_items(items, stream, column)


def split_list(
    stream: FileStream, chunks: Iterator[bytes], in_object: bool = False
) -> Iterator[tuple[bytes | None, int, tuple[int, int]]]:
    """Split a JSON list into its items, of which only one is in memory.

    Items that are not JSON are found by their brackets and quotation marks.

    Returns:
        The bytes of each item, None for one longer than the limit; their number; and the line and column where it is.
    """
    texts, text, has_items = decode_pieces(chunks), "", False
    while "[" not in text:
        text += next(texts)
    start = text.index("[") + 1
    line = count_lines(text, 0, start, (1, 0))  # the number of the line, and the offset where it begins
    while True:
        space = WHITE_SPACE.match(text, start).end()  # pyright: ignore[reportOptionalMemberAccess]
        line, start = count_lines(text, start, space, line), space
        where, end = (line[0], start - line[1]), end_of_json(text, start)
        position, depth, in_string, dropped = start, 0, False, 0
        while end is None:
            end, position, depth, in_string = end_of_item(text, position, depth, in_string)
            if end is None:
                stream.pending = dropped + len(text) - start
                more = read_more(texts, min(len(text) - start, stream.chunk))
                if not more:
                    problem = f"`{stream.name}` line {where[0]}: the list has no end: {REMEDY}"
                    stream.error = stream.error or BadFile(problem)
                    return
                if position - start > stream.limit:
                    line = count_lines(text, start, position, line)
                    dropped, start = dropped + position - start, position
                text, line = text[start:] + more, (line[0], line[1] - start)
                position, start = position - start, 0
        content, size = text[start:end].encode("utf-8", "surrogateescape"), dropped + end - start + 1
        if content or dropped or text[end] == "," or has_items:
            yield (None if dropped or len(content) > stream.limit else content), size, where
        line, has_items, start = count_lines(text, start, end, line), True, end + 1
        if text[end] == "]":
            break
    rests = itertools.chain([text[start:]], texts)
    if in_object:  # its other values, and its end
        rests = ["".join(rests)]
        if is_json(b'{"": 0' + rests[0].encode("utf-8", "surrogateescape")):
            return
    for rest in rests:
        if rest.strip(" \t\r\n"):
            stream.pending = len(rest)
            stream.error = BadFile(f"`{stream.name}` line {line[0]} has more after the end of its list: {REMEDY}")
            return


def decode_pieces(chunks: Iterable[bytes]) -> Iterator[str]:
    """Decode chunks in pieces: an error of the JSON decoder takes time in proportion to the text before it."""
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    for chunk in chunks:
        for start in range(0, len(chunk), PIECE):
            yield decoder.decode(chunk[start : start + PIECE])


def read_more(texts: Iterator[str], size: int) -> str:
    """Join texts until they have more than `size` characters: if it doubles each time, copying takes linear time."""
    parts, length = [], 0
    while length <= size and (text := next(texts, None)) is not None:
        parts.append(text)
        length += len(text)
    return "".join(parts)


def count_lines(text: str, start: int, stop: int, line: tuple[int, int]) -> tuple[int, int]:
    """Return the number of the line at `stop` and the offset where it begins, if `line` are those at `start`."""
    breaks = text.count("\n", start, stop)
    return (line[0] + breaks, text.rindex("\n", start, stop) + 1) if breaks else line


def end_of_json(text: str, start: int) -> int | None:
    """Return the offset of the comma or bracket after a JSON value; None where there is no such value."""
    try:
        _, end = DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):
        return None
    end = WHITE_SPACE.match(text, end).end()  # pyright: ignore[reportOptionalMemberAccess]
    return end if text[end : end + 1] in (",", "]") else None


def end_of_item(text: str, position: int, depth: int, in_string: bool) -> tuple[int | None, int, int, bool]:
    """Look for the comma or bracket after an item of a list, in a text that may end before it.

    Args:
        position: where to begin.
        depth: number of brackets that are open there.
        in_string: whether a string is open there.

    Returns:
        Its offset, or None; and the three arguments for the text that follows.
    """
    for sign in SIGNS.finditer(text, position):
        position = sign.end()
        if sign[0] == '"':
            in_string = not in_string
        elif in_string or sign[0].startswith("\\"):
            continue
        elif sign[0][0] in "[{":
            depth += len(sign[0])
        elif depth and sign[0] in "]}":
            depth -= 1
        elif not depth and sign[0] in ",]":
            return sign.start(), position, depth, in_string
    is_escape = position < len(text) and text.endswith("\\")  # of the next character, which is not there yet
    return None, len(text) - is_escape, depth, in_string


def parse_items(items: Iterable[Item], stream: FileStream, column: Columns) -> Batch:
    """Parse JSON objects one by one, which keeps every value as it is and finds those that are broken."""
    rows, problems = [], {}
    for origin, where, content, size in items:
        row = problem = None
        value: Any = None
        try:
            if content is None or len(content) > stream.limit:
                raise OverflowError
            value = json.loads(content.removeprefix(BOM).decode())
            row = check_row(value, column, bool(HALF_SURROGATE.search(content)), origin)
        except OverflowError:
            problem = f"{origin} {stream.too_long()}"
        except RecursionError:
            problem = f"{origin} is nested too deeply: remove it"
        except UnicodeDecodeError:
            problem = stream.undecodable(origin)
        except json.JSONDecodeError as error:
            line, column_number = f"line {where[0] + error.lineno - 1} " if where else "", error.colno
            column_number += where[1] if where and error.lineno == 1 else 0
            problem = f"{origin}: {error.msg}: {line}column {column_number}: {REMEDY}"
        except ValueError as error:
            problem = f"{origin}: {one_line(error)}"
        if problem:
            problems[len(rows)] = Problem(problem, stream.on_disk(size))
        elif row is None:
            problems[len(rows)] = NoColumn(missing_column(origin, f"{column}", value), stream.on_disk(size))
        rows.append(row)
    return pa.array(rows, pa.string()) if isinstance(column, str) else rows, problems


def check_row(row: object, column: Columns, surrogates: bool, origin: str) -> str | dict[str, Any] | None:
    """Return the text in a column of a JSON object, empty for `null`, or for other `Columns` the object and its origin.

    Args:
        surrogates: whether to look for halves of surrogate pairs.

    Raises:
        ValueError: it is not an object, the column does not hold text, or a text has half of a surrogate pair.
    """
    if not isinstance(row, dict):
        raise ValueError(f"found {type(row).__name__}, not an object: {REMEDY}")
    if isinstance(column, str) and not isinstance(row.get(column), str | None):
        raise ValueError(f"`{column}` holds {type(row[column]).__name__}, not a string")
    names = [column] if isinstance(column, str) else column
    values = {name: row.get(name) for name in names} if names else row
    for name, value in values.items() if surrogates else ():
        try:
            json.dumps([name, value], ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError(f"`{name}` holds half of a surrogate pair, which text may not have") from None
    if isinstance(column, str):
        return "" if column in row and row[column] is None else row.get(column)
    return row | {ORIGIN: origin}
