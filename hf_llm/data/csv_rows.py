"""Find where the rows of a .csv file end, so that it can be parsed in chunks and each row has its line."""

import itertools
import re
from collections.abc import Iterator

import numpy as np

from hf_llm.data.byte_streams import BOM, BadFile, read_chunks

MAX_ROW_BYTES = 64 << 20
LINE_FEED, CARRIAGE_RETURN, MARK = b'\n\r"'
BEFORE_FIELD = np.isin(np.arange(256), list(b",\r\n"))
AFTER_FIELD = np.isin(np.arange(256), list(b',\r\n"'))  # a quotation mark: both together are one within the field
END_OF_FIELD = re.compile(rb'[ \t]*([,\r\n"]|\Z)')


def read_csv_rows(path: str) -> Iterator[tuple[bytes, np.ndarray, np.ndarray]]:
    """Read chunks that end where a row ends; a line break between quotation marks does not end one.

    Returns:
        `(content, ends, lines)`: of each row, but for blank ones, the offset of its end in `content` and the number of
        the line on which it ends.

    Raises:
        BadFile: a quotation mark is not closed, or not at the end of its field; the rows before it come first.

    Example:
        The five lines `a,b`, `1,"x`, `y"`, an empty one and `2,z` are three rows, which end on lines 1, 3 and 5.
    """
    rest, line = b"", 1  # a row that is not complete, and the line on which it begins
    for chunk in itertools.chain(read_chunks(path), [b""]):
        content = rest + chunk if rest or line > 1 else chunk.removeprefix(BOM)
        breaks, marks = line_breaks(content, is_last=not chunk), quotation_marks(content)
        ends = breaks[np.searchsorted(marks, breaks) % 2 == 0] + 1
        problem = None
        mark = misplaced_mark(content, marks, int(ends[-1]) if len(ends) else 0)
        if mark is not None:
            ends, problem = ends[: np.searchsorted(ends, mark)], "has text after a closing quotation mark"
        stop = int(ends[-1]) if len(ends) else 0
        if not problem and not chunk and len(marks) % 2:
            problem = "has a quotation mark that is never closed"
        elif not problem and len(content) - stop > MAX_ROW_BYTES:
            problem = f"is longer than {MAX_ROW_BYTES >> 20} MiB, perhaps for a quotation mark that is never closed"
        ends = ends[~blank_rows(content, ends)]
        if len(ends):
            yield content[:stop], ends, line + np.searchsorted(breaks, ends - 1)
        line += int(np.searchsorted(breaks, stop))
        if problem:
            raise BadFile(f'`{path}` line {line}: the row that begins here {problem}: write " inside a field as ""')
        rest = content[stop:]


def line_breaks(content: bytes, is_last: bool) -> np.ndarray:
    """Return the offsets of the last byte of each line: `\\n`, or `\\r` without `\\n` after it.

    At the end of a file the end of the last line counts too, though it has no such byte.
    """
    data = np.frombuffer(content, np.uint8)
    breaks, returns = np.flatnonzero(data == LINE_FEED), np.flatnonzero(data == CARRIAGE_RETURN)
    following = returns + 1 if is_last else returns[returns < len(data) - 1] + 1  # the next chunk may begin with `\n`
    lone_returns = following[data[np.minimum(following, len(data) - 1)] != LINE_FEED] - 1
    breaks = np.sort(np.concatenate([breaks, lone_returns])) if len(lone_returns) else breaks
    is_complete = not is_last or content.endswith((b"\n", b"\r"))
    return breaks if is_complete or not content else np.append(breaks, len(content))


def quotation_marks(content: bytes) -> np.ndarray:
    """Return the offsets of the marks that open and close fields, in turn. `content` begins where a row begins.

    A doubled mark within a field closes and opens it. A mark inside a field that none has opened is text.

    Example:
        Of `"a""b",5" disk` those at 0, 2, 3 and 5, but not the one at 8.
    """
    data = np.frombuffer(content, np.uint8)
    marks = np.flatnonzero(data == MARK)
    opening, closing = marks[::2], marks[1::2]
    expected = (opening == 0) | BEFORE_FIELD[data[opening - 1]]
    expected[1:] |= opening[1:] == closing[: len(opening) - 1] + 1
    if expected.all():
        return marks
    kept = [-2]
    for mark, before in zip(marks.tolist(), BEFORE_FIELD[data[marks - 1]].tolist(), strict=True):
        if len(kept) % 2 == 0 or before or mark == 0 or kept[-1] == mark - 1:
            kept.append(mark)
    return np.array(kept[1:], np.int64)


def misplaced_mark(content: bytes, marks: np.ndarray, stop: int) -> int | None:
    """Return the offset of the first closing mark before `stop` that is followed by more text of its field."""
    data, closing = np.frombuffer(content, np.uint8), marks[1::2]
    closing = closing[closing < min(stop, len(content)) - 1]
    followed = closing[~AFTER_FIELD[data[closing + 1]]].tolist()
    return next((mark for mark in followed if not END_OF_FIELD.match(content, mark + 1)), None)


def blank_rows(content: bytes, ends: np.ndarray) -> np.ndarray:
    """Return which rows have no byte but their line break."""
    starts = np.concatenate([[0], ends[:-1]]).astype(np.int64)
    lengths = ends - 1 - starts
    is_return = np.frombuffer(content, np.uint8)[starts[: len(ends)]] == CARRIAGE_RETURN if len(ends) else False
    return (lengths == 0) | ((lengths == 1) & is_return)
