"""Read the rows of a .csv or .tsv file with Python's `csv` module; rows that are not well formed become problems."""

import csv
import io
import itertools
import re
import sys
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from hf_llm.data.byte_streams import BadFile, Batch, Columns, FileStream, Problem, file_format, missing_column
from hf_llm.messages import ORIGIN

csv.field_size_limit(sys.maxsize)  # `--max_text_bytes` is the limit
BATCH_ROWS = 10_000
SAMPLE_BYTES, SAMPLE_ROWS = 1 << 16, 20  # of the start of a file, to recognize its delimiter
DELIMITERS = ",;\t|"
DELIMITER_LINE = re.compile(rb"sep=([,;\t|])\r?\n", re.IGNORECASE)  # which Excel reads before the names
BACKSLASH = re.compile(r'\\(["\\]?)')
DOUBLED_MARK = 'write " inside a value as ""'
ESCAPED = ', or give `--csv_escape backslash` if \\" stands for it'
ZERO_BYTE = b"\xc0\x80"  # replaces it, so that it is found with the bytes that are not UTF-8
LONG_ROW = 1 << 20  # bytes
MAX_SPACED_BYTES = 1 << 16  # of a row in which spaces may follow a closing quotation mark


class CsvLines:
    """The lines of a file as `csv.reader` asks for them, and the bytes of the row that it makes of them."""

    def __init__(self, stream: FileStream):
        self.stream, self.chunks, self.is_last = stream, stream.read_text(), False
        self.has_escapes = stream.reading.csv_escape == "backslash"
        self.content, self.is_simple = b"", True  # without lines that end with a carriage return
        self.short = min(LONG_ROW, stream.limit)
        self.start = self.second = self.end = 0  # offsets of the row's first line, its second line, the next line
        self.line = 0  # number of lines before `end`
        self.open_until = 0  # a row that is open at the end of a line before this one is not closed on it either
        self.found: dict[bytes, int] = dict.fromkeys(
            (b"\n", b"\r", b'"'), 0
        )  # no such sign is between `end` and this offset
        self.begin_row()

    def begin_row(self) -> None:
        """Let the next line be the first of a row."""
        self.start = self.second = self.end
        self.first_line = self.line + 1
        self.dropped = 0  # bytes of a line that is too long
        self.is_cut = self.is_long = self.is_invalid = False  # the row ends too early, is too long, is not UTF-8

    def end_after_first_line(self) -> None:
        """Let the row end after its first line."""
        self.end, self.line = self.second, self.first_line
        self.found = dict.fromkeys(self.found, self.end)

    def row(self, end: int | None = None) -> str:
        """Return the lines of the row, up to `end` or all that were read."""
        return self.content[self.start : end or self.end].decode("utf-8", "surrogateescape")

    def size(self) -> int:
        """Return the number of bytes in the lines of the row."""
        return self.dropped + self.end - self.start

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        """Return the next line with its end. There is none within a row that has no end or is too long."""
        stop = self.content.find(b"\n", self.end) + 1 if self.is_simple and self.line >= self.open_until else 0
        if 0 < stop <= self.start + self.short:  # nearly always; the rest takes three times as long
            self.second = stop if self.end == self.start else self.second
            line, self.end, self.line = self.content[self.end : stop], stop, self.line + 1
        else:
            line = self.read_line()
        try:
            text = line.decode()
        except UnicodeDecodeError:
            self.is_invalid, text = True, line.decode("utf-8", "surrogateescape")
        return BACKSLASH.sub(double_backslash, text) if self.has_escapes and "\\" in text else text

    def read_line(self) -> bytes:
        """Read the next line, whatever it ends with, as `__next__` does."""
        is_first = self.end == self.start
        is_open = not is_first and (self.line < self.open_until or not self.may_close())
        stop = self.end if is_open else self.find_line_end()
        length = (len(self.content) if is_open and self.line >= self.open_until else stop) - self.start
        self.is_long = self.dropped + length > self.stream.limit
        line = self.content[self.end : stop]
        self.is_cut = not line or bool(self.is_last and self.stream.error and not line.endswith((b"\n", b"\r")))
        if not self.is_cut and (is_first or not self.is_long):
            self.end = stop
            self.second = stop if is_first else self.second
            self.line += 1
        if self.is_cut or self.is_long:
            raise StopIteration
        return line

    def find(self, sign: bytes) -> int:
        """Return the offset of the next sign, or of the end of `content`; each byte is looked at once."""
        at = max(self.found[sign], self.end)
        if self.content[at : at + 1] != sign:
            at = self.content.find(sign, at)
            at = len(self.content) if at < 0 else at
            self.found[sign] = at
        return at

    def find_line_end(self) -> int:
        """Return the offset after the next line, or after as much of a row's later line as makes it too long."""
        while True:
            line_feed, carriage_return = self.find(b"\n"), self.find(b"\r")
            stop = min(line_feed, carriage_return)
            if line_feed == stop + 1 < len(self.content):
                return stop + 2
            # The line feed after a carriage return may be in the next chunk.
            if stop < len(self.content) - (stop == carriage_return and not self.is_last):
                return stop + 1
            is_long = stop - self.start > self.stream.limit
            if self.is_last or (is_long and self.end > self.start):
                return len(self.content)
            if is_long:
                self.dropped += stop - self.start
                self.start = self.second = self.end = stop
            self.fetch()

    def may_close(self) -> bool:
        """Return whether a long row has another quotation mark. Else `csv` would take four bytes for each character."""
        while self.end - self.start > LONG_ROW and self.find(b'"') == len(self.content):
            if self.is_last or len(self.content) - self.start > self.stream.limit:
                return False
            self.fetch()
        return True

    def fetch(self) -> None:
        """Add a chunk to `content`, which then begins with the row."""
        chunk = next(self.chunks, None)
        self.is_last = chunk is None
        chunk = (chunk or b"").replace(b"\0", ZERO_BYTE)
        self.content = b"".join((memoryview(self.content)[self.start :], chunk))
        self.found = {sign: max(0, offset - self.start) for sign, offset in self.found.items()}
        self.start, self.second, self.end = 0, self.second - self.start, self.end - self.start
        self.is_simple = self.content.count(b"\r") == self.content.count(b"\r\n")


class CsvReader:
    """The rows of a file, and what is wrong with them. After one that is not well formed, the next line is read."""

    def __init__(self, stream: FileStream, column: Columns):
        self.stream, self.lines = stream, CsvLines(stream)
        delimiter = find_delimiter(self.lines, file_format(stream.path)[0], column)
        self.settings: Any = {"delimiter": delimiter}
        self.escaped_settings = self.settings | {"escapechar": "\\", "strict": True}
        strict = self.escaped_settings if self.lines.has_escapes else self.settings | {"strict": True}
        self.parser = csv.reader(self.lines, **strict)
        field = rf'(?:"[^"]*(?:""[^"]*)*" *|(?!")[^\r\n{delimiter}]*)'
        self.spaced_row = re.compile(rf"{field}(?:[{delimiter}]{field})*[\r\n]*")

    def read_row(self) -> tuple[list[str], str | None]:
        """Read the next row that is not blank.

        Returns:
            Its values, or what is wrong with it; neither at the end of the file.
        """
        lines, values = self.lines, []
        while not values:
            lines.begin_row()
            try:
                values = next(self.parser)
            except StopIteration:
                return [], self.describe_row() if lines.is_long else None
            except csv.Error:
                return self.read_first_line()
        return values, None

    def read_first_line(self) -> tuple[list[str], str | None]:
        """Read a row as its first line, because its quotation marks are not where they may be: it has a problem."""
        lines, problem = self.lines, self.describe_row()
        if lines.is_cut and lines.is_last and self.stream.error:
            return [], None  # not the row has no end, but the file
        is_short = not lines.is_cut and lines.second - lines.start <= MAX_SPACED_BYTES
        if is_short and self.spaced_row.fullmatch(lines.row(lines.second)):
            lines.end_after_first_line()
            return next(csv.reader([lines.row()], **self.settings)), None  # only spaces follow a closing mark
        lines.open_until = max(lines.open_until, lines.line)
        lines.end_after_first_line()
        return [], problem

    def describe_row(self) -> str:
        """Return what is wrong with the quotation marks or the length of the row."""
        lines = self.lines
        origin = f"`{self.stream.name}` line {lines.first_line}: the row that begins here"
        if lines.is_long:
            return f"{origin} {self.stream.too_long()}"
        cause = "a quotation mark that is never closed" if lines.is_cut else "text after a closing quotation mark"
        return f"{origin} has {cause}: {DOUBLED_MARK}{ESCAPED if self.has_escaped_mark() else ''}"

    def check_values(self, values: list[str], names: list[str], used: list[str]) -> str | None:
        """Return what is wrong with the values of a row whose quotation marks are where they may be.

        Args:
            names: of the columns.
            used: those of the values that are used.
        """
        lines = self.lines
        origin = f"`{self.stream.name}` line {lines.line}"
        if len(values) != len(names):
            count = f"{len(values)} values, and the first line names {len(names)} columns"
            return f"{origin} has {count}: correct or quote its values{ESCAPED if self.has_escaped_mark() else ''}"
        if lines.is_invalid and any(map(has_surrogates, used)):
            return self.describe_bytes(used)
        if self.has_escaped_mark() and self.is_ambiguous(values):
            cause = "a quotation mark after a backslash, which may close the value or belong to it"
            return f"{origin} has {cause}: {DOUBLED_MARK}{ESCAPED}"
        return None

    def describe_bytes(self, values: list[str]) -> str:
        """Return which bytes of some values of the row are not text."""
        origin = f"`{self.stream.name}` line {self.lines.line}"
        if any(ZERO_BYTE.decode("utf-8", "surrogateescape") in value for value in values):
            return f"{origin} has a zero byte, which is not text: remove it"
        return self.stream.undecodable(origin)

    def has_escaped_mark(self) -> bool:
        """Return whether the row has a quotation mark after a backslash, and `--csv_escape` is none."""
        lines = self.lines
        return not lines.has_escapes and lines.content.find(b'\\"', lines.start, lines.end) >= 0

    def is_ambiguous(self, values: list[str]) -> bool:
        """Return whether a mark after a backslash may have been meant to belong to its value.

        So it is where a value ends with a backslash and an unquoted one after it has a mark, and where the row ends on
        a later line than it would otherwise.

        Example:
            `"He said \\", he left"` would be two values, and `1,"5\\""` would end on the line of the next mark.
        """
        lines = self.lines
        text, after_backslash = lines.row(), False
        for value in values:
            if '"' in value or value.endswith("\\"):
                is_quoted = '"' + value.replace('"', '""') + '"' in text
                if after_backslash and '"' in value and not is_quoted:
                    return True
                after_backslash = after_backslash or (is_quoted and value.endswith("\\"))
        if lines.end == lines.second:
            return False
        try:
            line = BACKSLASH.sub(double_backslash, lines.row(lines.second))
            return len(next(csv.reader([line], **self.escaped_settings))) == len(values)
        except csv.Error:
            return False


def has_surrogates(text: str) -> bool:
    """Return whether a text has bytes that were not UTF-8."""
    try:
        return text.encode() is None
    except UnicodeEncodeError:
        return True


def double_backslash(found: re.Match) -> str:
    """Double a backslash, which then is text, unless it is before a quotation mark or a backslash."""
    return found[0] if found[1] else "\\\\"


def find_delimiter(lines: CsvLines, extension: str, column: Columns) -> str:
    """Recognize the delimiter: it separates the names, and as many values in most of the first rows.

    Args:
        column: the name that must be among them. Default: any.

    Returns:
        The usual one of the extension, unless another one is better.
    """
    while len(lines.content) < SAMPLE_BYTES and not lines.is_last:
        lines.fetch()
    if found := DELIMITER_LINE.match(lines.content):
        lines.end, lines.line = found.end(), 1
        return found[1].decode()
    usual, scores = "\t" if extension == ".tsv" else ",", {}
    sample = lines.content[:SAMPLE_BYTES].decode("utf-8", "replace")
    for delimiter in DELIMITERS:
        rows = csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter)
        names, *others = list(itertools.islice(filter(None, rows), SAMPLE_ROWS)) or [[]]
        if len(names) > 1 and (column is None or column_set(column) & {*names}):
            fitting = sum(len(row) == len(names) for row in others)
            scores[delimiter] = (fitting, delimiter == usual, len(names))
    return max(scores, key=scores.__getitem__, default=usual)


def read_csv(stream: FileStream, column: Columns) -> Iterator[Batch]:
    """Read the rows after the names in the first one. Every value is text as it is written: "NA" and "001".

    Of two columns with the same name the last is read, as in JSON.
    """
    reader, name = CsvReader(stream, column), f"`{stream.name}`"
    lines = reader.lines
    names, problem = reader.read_row()
    if problem or any(map(has_surrogates, names)):
        raise BadFile(problem or reader.describe_bytes(names))
    if not names:
        stream.check_not_empty()
    elif isinstance(column, str) and column not in names:
        raise BadFile(missing_column(name, column, names))
    stream.names = names
    chosen = {key: index for index, key in enumerate(names) if column is None or key in column_set(column)}
    is_end = not names
    while not is_end:
        rows, problems, size = [], {}, 0
        while len(rows) < BATCH_ROWS and size < stream.chunk and not is_end:
            values, problem = reader.read_row()
            if is_end := not (values or problem):
                break
            used = values if column is None else [values[index] for index in chosen.values() if index < len(values)]
            problem = problem or reader.check_values(values, names, used)
            if problem:
                problems[len(rows)] = Problem(problem, stream.on_disk(lines.size()))
                rows.append(None)
            elif isinstance(column, str):
                rows.append(used[0])
            else:
                row = {key: values[index] for key, index in chosen.items()}
                rows.append(row | {ORIGIN: f"{name} line {lines.line}"})
            size += lines.size()
        stream.pending = len(lines.content) - lines.start
        yield pa.array(rows, pa.string()) if isinstance(column, str) else rows, problems


def column_set(column: str | set[str]) -> set[str]:
    """Return the names of one or several columns."""
    return {column} if isinstance(column, str) else column
