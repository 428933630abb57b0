"""Columns of texts are read in every layout that Arrow writes, and what is not text is a problem of its row."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_llm.arguments import ReadingArguments
from hf_llm.data.readers import read_documents, read_rows, read_texts

TEXTS = ["one", "twó", None, "one"]
BYTES = [text and text.encode() for text in TEXTS]
LAYOUTS = {
    "string": pa.array(TEXTS),
    "large_string": pa.array(TEXTS, pa.large_string()),
    "string_view": pa.array(TEXTS, pa.string_view()),
    "dictionary": pa.array(TEXTS).dictionary_encode(),
    "dictionary of large strings": pa.array(TEXTS, pa.large_string()).dictionary_encode(),
    "binary": pa.array(BYTES),
    "large_binary": pa.array(BYTES, pa.large_binary()),
    "binary_view": pa.array(BYTES, pa.binary_view()),
    "dictionary of bytes": pa.array(BYTES).dictionary_encode(),
    "json": pa.array(TEXTS, pa.json_()),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("use_dictionary", [True, False])
def test_texts_of_every_layout_are_read(layout, use_dictionary, tmp_path):
    """As one column and as rows."""
    path = str(tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": LAYOUTS[layout], "n": range(4)}), path, use_dictionary=use_dictionary)
    reading = ReadingArguments()
    assert [text for texts in read_texts(path, "text", reading) for text in texts.to_pylist()] == [
        text or "" for text in TEXTS
    ]
    assert [row["text"] for row in read_rows(path, reading)] == TEXTS


@pytest.mark.parametrize("values", [pa.array([b"a", b"\xff", b"c"]), pa.array([b"a", b"\xff", b"c"]).view(pa.string())])
def test_bytes_that_are_no_text_are_a_problem_of_their_row(values, tmp_path):
    """Also in a column that calls them strings."""
    path = str(tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": values}), path)
    ((texts, problems, _),) = read_documents(path, "text", ReadingArguments())
    assert texts.to_pylist() == ["a", None, "c"] and list(problems) == [1]
    assert problems[1].message == f"`{path}` row 1 is not UTF-8: convert it to UTF-8"
    assert problems[1].lost_bytes == (tmp_path / "a.parquet").stat().st_size // 3


def test_a_file_without_rows_is_no_problem(tmp_path):
    """Whatever its columns are."""
    for table in (pa.table({"text": pa.array([], pa.string())}), pa.table({"n": pa.array([], pa.int64())})):
        pq.write_table(table, tmp_path / "a.parquet")
        assert list(read_documents(str(tmp_path / "a.parquet"), "text", ReadingArguments())) == []


def test_long_texts_are_problems_of_their_rows(tmp_path):
    """Without a text that is stored once for many rows being in memory as often."""
    path = str(tmp_path / "a.parquet")
    texts = pa.DictionaryArray.from_arrays(pa.array([0, 1] * 300), pa.array(["a" * 1_000_000, "b" * 2_000_000]))
    pq.write_table(pa.table({"text": texts}), path, compression="zstd")
    start, batches = pa.total_allocated_bytes(), 0
    most = rows = lost = 0
    for batch, problems, _ in read_documents(path, "text", ReadingArguments(max_text_bytes=1_500_000)):
        batches, rows, lost = batches + 1, rows + len(batch), lost + len(problems)
        most = max(most, pa.total_allocated_bytes() - start)
    assert (rows, lost) == (600, 300) and batches > 20 and most < 150_000_000
    pq.write_table(pa.table({"text": ["c" * 3_000_000]}), path, use_dictionary=False, compression="zstd")
    ((texts, problems, _),) = read_documents(path, "text", ReadingArguments(max_text_bytes=1_500_000))
    assert texts.to_pylist() == [None] and "longer than `--max_text_bytes` 1,500,000" in problems[0].message


def test_a_broken_or_encrypted_file_is_one_problem(tmp_path):
    """With its rows before it, where there are any."""
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [f"{number} " * 500 for number in range(3000)]}), path, row_group_size=500)
    content = path.read_bytes()
    path.write_bytes(content[:20_000] + b"\xff" * 200_000 + content[220_000:])
    *_, (last, problems, _) = read_documents(str(path), "text", ReadingArguments())
    assert last.to_pylist() == [None] and problems[0].is_file and "cannot be read" in problems[0].message
    path.write_bytes(content[:-4] + b"PARE")
    ((_, problems, _),) = read_documents(str(path), "text", ReadingArguments())
    assert problems[0].is_file and "cannot be read" in problems[0].message and "\n" not in problems[0].message


def test_an_arrow_stream_that_ends_between_two_batches_is_cut_short(tmp_path):
    """The rows before are read; what follows the end, as after `cat a.arrow b.arrow`, is not lost without a word."""
    path, table = tmp_path / "a.arrow", pa.table({"text": TEXTS})
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table)
    whole = path.read_bytes()
    assert [row["text"] for row in read_rows(str(path), ReadingArguments())] == TEXTS
    for content, problem in ((whole[:-8], "has no end: it is cut short"), (whole * 2, "has more after its end")):
        path.write_bytes(content)
        (texts, problems, _), (_, end, _) = read_documents(str(path), "text", ReadingArguments())
        assert len(texts) == 4 and not problems and problem in end[0].message
