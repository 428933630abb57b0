"""Read the rows of a Parquet or Arrow file, or the texts of one of its columns."""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import ClassLabel, Features

from hf_llm.data.byte_streams import (
    BadFile,
    Batch,
    Columns,
    FileStream,
    Problem,
    file_format,
    missing_column,
    open_bytes,
)
from hf_llm.messages import ORIGIN

ARROW = (".arrow", ".feather")
FILE_MAGIC = b"ARROW1"  # of Arrow's file format; its stream format has none
MESSAGE = b"\xff\xff\xff\xff"  # begins each message of a stream, since Arrow 0.15
END_OF_STREAM = MESSAGE + b"\0\0\0\0"
BATCH_ROWS = 1000
PAGE_BYTES = 1 << 10  # of a page of a column besides its values, at most
BUFFER_BYTES = 1 << 20  # of a column that are read from the disk at once


def read_parquet(stream: FileStream, column: Columns) -> Iterator[Batch]:
    """Read a Parquet file. Numbered labels of `datasets` become their names, and hidden ones null."""
    with stream.open(seekable=True) as source:
        if not stream.size and "://" not in stream.path:
            stream.check_not_empty()
            return
        metadata = pq.read_metadata(source)
        if footer_size(source) != metadata.serialized_size:  # it is signed
            raise BadFile(f"`{stream.name}` has encrypted columns: decrypt it")
        dictionaries = [column] if isinstance(column, str) and has_dictionary(metadata, column) else None
        with pq.ParquetFile(source, read_dictionary=dictionaries, buffer_size=BUFFER_BYTES) as file:
            if file.metadata.num_rows:
                is_one = isinstance(column, str)
                batches = read_column(stream, file, column) if is_one else read_all_columns(stream, file, column)
                rows = 0
                for batch in batches:
                    rows += len(batch[0])
                    stream.position = stream.size * rows // file.metadata.num_rows
                    yield batch


def footer_size(source: Any) -> int:
    """Return the size of the metadata at the end of a Parquet file, and of its signature if columns are encrypted.

    Arrow reads the metadata of an encrypted file, but ends the process when it is asked for those of its columns.
    """
    source.seek(-8, os.SEEK_END)
    return int.from_bytes(source.read(4), "little")


def column_chunks(metadata: pq.FileMetaData, group: int, column: str) -> list[pq.ColumnChunkMetaData]:
    """Return what is known of a column in a row group; nothing if it does not exist."""
    chunks = map(metadata.row_group(group).column, range(metadata.row_group(group).num_columns))
    return [chunk for chunk in chunks if chunk.path_in_schema == column]


def has_dictionary(metadata: pq.FileMetaData, column: str) -> bool:
    """Return whether equal texts of a column are stored once: it may be much larger in memory than on the disk."""
    groups = range(metadata.num_row_groups)
    return any(chunk.has_dictionary_page for group in groups for chunk in column_chunks(metadata, group, column))


def read_column(stream: FileStream, file: pq.ParquetFile, column: str) -> Iterator[Batch]:
    """Read a column of texts: of strings, or of bytes that are UTF-8, in any of Arrow's layouts."""
    metadata = file.metadata
    check_column(stream, file.schema_arrow, column)
    row, row_bytes = 0, max(1, stream.size // metadata.num_rows)
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group).num_rows
        size = sum(chunk.total_uncompressed_size for chunk in column_chunks(metadata, group, column))
        if size > rows * (stream.limit + PAGE_BYTES):  # not read, because it may not fit into memory
            problem = (
                f"`{stream.name}` row {row}, or another one of {rows} that are stored together, {stream.too_long()}"
            )
            yield pa.nulls(rows, pa.string()), dict.fromkeys(range(rows), Problem(problem, row_bytes))
            row += rows
            continue
        for batch in file.iter_batches(number_of_rows(rows, size, stream.chunk), [group], [column]):
            for texts in split_texts(batch.column(0), stream.chunk):
                yield check_texts(texts, stream, row, row_bytes)
                row += len(texts)


def check_column(stream: FileStream, schema: pa.Schema, column: str) -> None:
    """Raise an error if a file has no such column of texts."""
    if column not in schema.names:
        raise BadFile(missing_column(f"`{stream.name}`", column, schema.names))
    if not holds_texts(schema.field(column).type):
        problem = f"column `{column}` holds {schema.field(column).type}, not strings: name another --dataset_text_field"
        raise BadFile(f"`{stream.name}` {problem}")


def number_of_rows(rows: int, size: int, chunk: int) -> int:
    """Return how many rows to read together, of `rows` that have `size` bytes."""
    return max(1, min(BATCH_ROWS, chunk * rows // max(1, size)))


def holds_texts(kind: pa.DataType) -> bool:
    """Return whether a column of this type may hold texts."""
    if isinstance(kind, pa.BaseExtensionType):
        return holds_texts(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return holds_texts(kind.value_type)
    types = pa.types
    tests = (types.is_string, types.is_large_string, types.is_string_view, types.is_binary, types.is_large_binary)
    return any(test(kind) for test in (*tests, types.is_binary_view, types.is_null))


def split_texts(texts: pa.Array, size: int) -> Iterator[pa.Array]:
    """Split a column so that about `size` bytes are in memory, where equal texts are stored once."""
    if isinstance(texts, pa.ExtensionArray):
        texts = texts.storage
    if not isinstance(texts, pa.DictionaryArray):
        yield texts
        return
    lengths = pc.binary_length(texts.dictionary.cast(pa.large_binary())).take(texts.indices)
    number = np.cumsum(lengths.fill_null(0).to_numpy(zero_copy_only=False)) // size
    ends = [*(np.flatnonzero(np.diff(number)) + 1).tolist(), len(texts)]
    for start, end in zip([0, *ends], ends, strict=False):
        yield texts[start:end].dictionary_decode()


def check_texts(texts: pa.Array, stream: FileStream, first: int, row_bytes: int) -> Batch:
    """Return texts as strings, nulls as empty ones, and with problems for those that are too long or not UTF-8.

    Args:
        first: the number of the first row.
        row_bytes: size of a row on the disk.
    """
    origin = f"`{stream.name}` row"
    values = texts.cast(pa.large_binary()).fill_null(b"")
    is_long = pc.greater(pc.binary_length(values), stream.limit)
    problems = {
        index: Problem(f"{origin} {first + index} {stream.too_long()}", row_bytes)
        for index in np.flatnonzero(is_long.to_numpy(zero_copy_only=False)).tolist()
    }
    values = pc.if_else(is_long, None, values) if problems else values
    try:
        return values.cast(pa.large_string()), problems
    except pa.ArrowInvalid:
        checked = values.to_pylist()
    for index, value in enumerate(checked):
        try:
            checked[index] = value if value is None else value.decode()
        except UnicodeDecodeError:
            checked[index] = None
            problems[index] = Problem(f"{origin} {first + index} is not UTF-8: convert it to UTF-8", row_bytes)
    return pa.array(checked, pa.large_string()), problems


def read_all_columns(stream: FileStream, file: pq.ParquetFile, columns: set[str] | None) -> Iterator[Batch]:
    """Read rows as dictionaries, with some columns or all. Bytes that are UTF-8 are text."""
    metadata, number = file.metadata, 0
    stream.names = file.schema_arrow.names
    names = [name for name in stream.names if columns is None or name in columns]
    for group in range(metadata.num_row_groups):
        size, rows = metadata.row_group(group).total_byte_size, metadata.row_group(group).num_rows
        for batch in file.iter_batches(number_of_rows(rows, size, stream.chunk), [group], names):
            yield rows_of(stream, batch, number), {}
            number += len(batch)


def rows_of(stream: FileStream, batch: pa.RecordBatch, first: int) -> list[dict[str, Any]]:
    """Return rows as dictionaries. Bytes that are UTF-8 are text.

    Args:
        first: the number of the first row.
    """
    labels, values = class_columns(batch.schema), batch.to_pylist()
    stream.length += batch.nbytes
    for number, row in enumerate(values, first):
        for name, label in labels.items():
            row[name] = name_numbers(row[name], label.names)
        for name, value in row.items():
            if isinstance(value, bytes):
                row[name] = decode_text(value)
        row[ORIGIN] = f"`{stream.name}` row {number}"
    return values


def read_arrow(stream: FileStream, column: Columns) -> Iterator[Batch]:
    """Read an Arrow file as `datasets` saves it (a stream), or as Feather; see `read_parquet`."""
    with stream.open(seekable=True) as source:
        if not stream.size and "://" not in stream.path:
            stream.check_not_empty()
            return
        rows, batches = 0, arrow_batches(source)
        for batch in batches:
            batch.validate(full=True)  # damaged offsets would end the process
            stream.position = source.tell()
            for start in range(0, len(batch), BATCH_ROWS):
                part = batch.slice(start, BATCH_ROWS)
                yield from read_arrow_batch(stream, part, column, rows)
                rows += len(part)
        check_end(stream, source)
        stream.position = stream.size


def check_end(stream: FileStream, source: Any) -> None:
    """Raise an error if a stream of Arrow, of which all batches were read, is cut short between two of them."""
    end = source.tell()
    source.seek(0)
    if source.read(len(MESSAGE)) != MESSAGE:  # the file format, which has a footer, or an old stream
        return
    source.seek(max(0, end - len(END_OF_STREAM)))
    if source.read(len(END_OF_STREAM)) != END_OF_STREAM:
        raise BadFile(f"`{stream.name}` has no end: it is cut short: write or copy it again")
    if source.read(1):
        raise BadFile(f"`{stream.name}` has more after its end: are they two files? separate them")


def arrow_batches(source: Any) -> Iterator[pa.RecordBatch]:
    """Yield the batches of rows of an Arrow file in either of its formats."""
    is_file = source.read(len(FILE_MAGIC)) == FILE_MAGIC
    source.seek(0)
    if is_file:
        with pa.ipc.open_file(source) as file:
            yield from map(file.get_batch, range(file.num_record_batches))
    else:
        with pa.ipc.open_stream(source) as batches:
            yield from batches


def read_arrow_batch(stream: FileStream, batch: pa.RecordBatch, column: Columns, first: int) -> Iterator[Batch]:
    """Read some rows of an Arrow file, of which the first has the number `first`."""
    stream.names = batch.schema.names
    if not isinstance(column, str):
        yield (
            rows_of(stream, batch.select([name for name in stream.names if column is None or name in column]), first),
            {},
        )
        return
    check_column(stream, batch.schema, column)
    row_bytes = max(1, stream.position // (first + len(batch)))
    for texts in split_texts(batch.column(stream.names.index(column)), stream.chunk):
        yield check_texts(texts, stream, first, row_bytes)
        first += len(texts)


def class_columns(schema: pa.Schema) -> dict[str, ClassLabel]:
    """The columns of numbered labels, or of lists of them, with the names that `datasets` wrote into the schema."""
    features = Features.from_arrow_schema(schema) if b"huggingface" in (schema.metadata or {}) else {}
    items = {name: getattr(feature, "feature", feature) for name, feature in features.items()}
    return {name: label for name, label in items.items() if isinstance(label, ClassLabel)}


def name_numbers(value: Any, names: list[str]) -> Any:
    """Return the name of a class, None of a number below 0; of a list of numbers, the list of names."""
    if isinstance(value, list):
        return [name_numbers(number, names) for number in value]
    return None if value is None or value < 0 else names[value]


def read_classes(path: str) -> dict[str, ClassLabel]:
    """Read the columns of numbered labels of a file with their names, in the order of their numbers."""
    if file_format(path)[0] not in (".parquet", *ARROW):
        return {}
    with open_bytes(path, seekable=True) as source:
        if file_format(path)[0] == ".parquet":
            return class_columns(pq.read_schema(source))
        return next((class_columns(batch.schema) for batch in arrow_batches(source)), {})


def decode_text(value: bytes) -> str | bytes:
    """Decode bytes that are UTF-8."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value
