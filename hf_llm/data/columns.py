"""The text of a row: one column, several joined (`title+body`), or a field inside another one (`content.text`)."""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from hf_llm.data.byte_streams import BadFile, FileStream, NoColumn, Problem, missing_column
from hf_llm.messages import ORIGIN

SEPARATOR = "\n\n"  # between joined columns, and between the items of a list of objects


def is_plain(column: str) -> bool:
    """Return whether a column can be read as it is, without looking for others in its name."""
    return not {"+", "."} & {*column}


def names_to_read(columns: Iterable[str]) -> set[str]:
    """Return the names that the columns of a file may have, for these names of columns and fields.

    Example:
        >>> sorted(names_to_read(["title+content.text"]))
        ['content', 'content.text', 'title', 'title+content', 'title+content.text']
    """
    names = {part for column in columns for part in (column, *column.split("+"))}
    return names | {".".join(name.split(".")[:end]) for name in names for end in range(1, name.count(".") + 1)}


def field_of(value: Any, name: str) -> Any:
    """Return a field of nested objects; of a list of objects those of all its items, joined. Null has null fields.

    Example:
        >>> field_of({"content": {"text": "a"}}, "content.text")
        'a'

    Raises:
        KeyError: it does not exist.
        ValueError: the fields in a list are not texts.
    """
    if isinstance(value, list):
        return join_values([field_of(item, name) for item in value], name)
    if not isinstance(value, dict):
        if value is None:
            return None
        raise KeyError(name)
    if name in value:
        return value[name]
    for key in value:
        if name.startswith(f"{key}."):
            return field_of(value[key], name[len(key) + 1 :])
    raise KeyError(name)


def has_field(row: dict[str, Any], name: str) -> bool:
    """Return whether a row has a column or a field, null or not."""
    try:
        field_of(row, name)
    except KeyError:
        return False
    except ValueError:  # fields in a list, which are not texts
        return True
    return True


def text_of(row: dict[str, Any], column: str) -> tuple[str | None, set[str]]:
    """Return the text of a row, and the columns that it was made of.

    Of joined columns those that are null, empty or missing are left out.

    Returns:
        None as the text: the row has none of the columns.

    Raises:
        ValueError: a column does not hold text.
    """
    values = {}
    for name in [column] if column in row else column.split("+"):
        try:
            values[name] = field_of(row, name)
        except KeyError:
            continue
        join_values([values[name]], name)
    return (join_values([*values.values()], column) if values else None), {*values}


def text_row(row: dict[str, Any], column: str) -> dict[str, str | None]:
    """Return a row with the text as its only column; a function by name, because `datasets` hashes it for its cache."""
    return {"text": text_of({**row}, column)[0]}  # of `datasets` no dictionary


def join_values(values: list[Any], name: str) -> str:
    """Join texts by empty lines.

    Raises:
        ValueError: one of them is not a text.
    """
    if others := [value for value in values if not isinstance(value, str | None)]:
        raise ValueError(f"`{name}` holds {type(others[0]).__name__}, not a string")
    return SEPARATOR.join(filter(None, values))


def read_text_of_rows(
    stream: FileStream, batches: Iterable[tuple[list, dict[int, Problem]]], column: str, keep: Sequence[str]
) -> Iterator[tuple[pa.Array, dict[int, Problem], list[str | None]]]:
    """Make texts of rows.

    Args:
        batches: as those of a reader without a column.
        column: of the text, or several.
        keep: columns that go with it.

    Returns:
        Batches `(texts, problems, kept)`: (N,) strings, the problem of each null, and the columns of `keep` that each
        row has, as JSON.

    Raises:
        BadFile: the first rows have no such column.
    """
    is_checked = False
    for rows, problems in batches:
        texts, kept, found = [], [], set()
        for index, row in enumerate(rows):
            text, problem = checked_text(stream, row, column, found) if row else (None, None)
            problems |= {index: problem} if problem else {}
            texts.append(text)
            kept.append(kept_columns(row, keep) if row and keep and not problem else None)
        first = next(filter(None, rows), None)
        if first and not is_checked:
            is_checked, wanted = True, [] if column in found else column.split("+")
            if missing := [name for name in wanted if name not in found]:
                names = stream.names or field_names(first)
                raise BadFile(missing_column(f"`{stream.name}`", missing[0], names))
        yield pa.array(texts, pa.large_string()), problems, kept


def checked_text(
    stream: FileStream, row: dict[str, Any], column: str, found: set[str]
) -> tuple[str | None, Problem | None]:
    """Return the text of a row, or why it has none, and add the columns that it was made of to `found`."""
    try:
        text, names = text_of(row, column)
    except ValueError as error:
        found |= {*column.split("+")}
        return None, Problem(f"{row[ORIGIN]}: {error}", row_size(stream, row))
    found |= names
    if text is None:
        return None, NoColumn(missing_column(row[ORIGIN], column, field_names(row)), row_size(stream, row))
    if len(text) > stream.limit or len(text.encode()) > stream.limit:
        return None, Problem(f"{row[ORIGIN]} {stream.too_long()}", row_size(stream, row))
    return text, None


def row_size(stream: FileStream, row: dict[str, Any]) -> int:
    """Estimate the bytes of a row on the disk."""
    return stream.on_disk(len(str(row)))


def field_names(row: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the names of the fields of a row that are not objects."""
    for name, value in row.items():
        first = value[0] if isinstance(value, list) and value else value
        if isinstance(first, dict):
            yield from field_names(first, f"{prefix}{name}.")
        elif name != ORIGIN:
            yield prefix + name


def kept_columns(row: dict[str, Any], keep: Sequence[str]) -> str:
    """Return the columns to keep of a row as JSON, without those that it does not have."""
    values = {}
    for name in keep:
        try:
            values[name] = field_of(row, name)
        except (KeyError, ValueError):  # ValueError: fields in a list, which are not texts
            continue
    return json.dumps(values, ensure_ascii=False, default=str)
