"""Each format has one reader: what is read as text and what is read as rows agree, and so do their errors."""

import base64
import csv
import gzip
import io
import json
import random
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as encryption
import pytest

from hf_llm.arguments import ReadingArguments
from hf_llm.data import byte_streams
from hf_llm.data.formats import READERS
from hf_llm.data.readers import read_documents, read_rows, read_texts
from hf_llm.messages import ORIGIN

READING = ReadingArguments()
ROWS = "".join(f'{number},"text {number}"\n' for number in range(50))
DAMAGED = {  # file name -> content, part of the message
    "never_closed.csv": (ROWS.replace('"text 4"', '"text 4').encode(), "line 6: the row that begins here has"),
    "never_closed_last.csv": (
        f'{ROWS}50,"text\n51,text\n'.encode(),
        "line 52: the row that begins here has a quotation mark that is never closed",
    ),
    "two_never_closed.csv": (
        ROWS.replace('"text 4"', '"text 4').replace('"text 20"', '"text 20').encode(),
        "line 6: the row that begins here has text after a closing quotation mark",
    ),
    "backslashes.csv": (b'1,"he said \\"no\\" to me"\n', "line 2: the row that begins here has text after a closing"),
    "more_values.csv": (b"1,a\n\n2,b,c\n", "line 4 has 3 values, and the first line names 2 columns"),
    "fewer_values.csv": (b'1,"a\nb"\n2\n3,c\n', "line 4 has 1 values, and the first line names 2 columns"),
    "latin_1.csv": ("1,a\n2,é\n".encode("latin-1"), "line 3 is not UTF-8"),
    "empty.csv": (b"", "is empty"),
    "cut_short.csv.gz": (gzip.compress(f"id,text\n{ROWS}".encode())[:-20], "cannot be read"),
    "broken.jsonl": (b'{"text": "a"}\n\n{"text": \n', "line 3: Expecting value"),
    "latin_1.jsonl": ('{"text": "a"}\n{"text": "é"}\n'.encode("latin-1"), "line 2 is not UTF-8"),
    "zero_byte.jsonl": (b'{"text": "a\0"}\n', "line 1: Invalid control character"),
    "surrogate.jsonl": (b'{"text": "a"}\n{"text": "\\ud83d"}\n', "line 2: `text` holds half of a surrogate pair"),
    "surrogate.json": (b'[{"text": "a"}, {"text": "\\udE00"}]', "row 1: `text` holds half of a surrogate pair"),
    "numbers.jsonl": (b'{"text": "a"}\n5\n', "line 2: found int, not an object"),
    "numbers.json": (b'[{"text": "a"}, 5]', "row 1: found int, not an object"),
    "empty.jsonl": (b"\n\n", "is empty"),
    "cut_short.jsonl.gz": (gzip.compress(b'{"text": "a"}\n' * 99)[:-9], "cannot be read"),
    "damaged.parquet": (b"PAR1 and nothing else", "cannot be read"),
}


def write(path, content):
    path.write_bytes(content)
    return str(path)


def read_in_another_process(path):
    code = (
        "import sys; from hf_llm.arguments import ReadingArguments; from hf_llm.data.readers import read_documents;"
        "print(list(read_documents(sys.argv[1], 'text', ReadingArguments())))"
    )
    return subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)


def origins(rows):
    return [row[ORIGIN].rpartition("` ")[2] for row in rows]


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_are_refused_as_texts_and_as_rows(name, tmp_path):
    """By the same message, which names the file and, where there is one, the line or row."""
    content, message = DAMAGED[name]
    content = b"id,text\n" + content if name.endswith(".csv") and content else content
    path = write(tmp_path / name, content)
    errors = []
    for read in (
        lambda: list(read_texts(path, "text", READING)),
        lambda: list(read_rows(path, READING)),
    ):
        with pytest.raises(ValueError) as info:
            read()
        errors.append(str(info.value))
    assert errors[0] == errors[1] and errors[0].startswith(f"`{path}`") and message in errors[0]


def test_marks_inside_unquoted_fields_are_text(tmp_path):
    """As inches are written; spaces may follow a closing mark."""
    path = write(tmp_path / "a.csv", b'id,text\n1,a 5" disk\n2,"a ""5"" disk" \n')
    assert [row["text"] for row in read_rows(path, READING)] == ['a 5" disk', 'a "5" disk ']


def test_values_keep_their_types(tmp_path):
    """All of a .csv file are text; those of JSON stay what they are, and dates are text."""
    path = write(tmp_path / "a.csv", "\ufeffcode,day,n\n001,2020-01-01,NA\n,,\n".encode())
    assert [list(row.values())[:3] for row in read_rows(path, READING)] == [
        ["001", "2020-01-01", "NA"],
        ["", "", ""],
    ]
    rows = [{"n": 1, "day": "2020-01-01"}, {"n": "one", "day": None}, {"n": [1.5, {"k": True}], "big": 1 << 80}]
    path = write(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    assert list(read_rows(path, READING)) == [row | {ORIGIN: f"`{path}` line {n}"} for n, row in enumerate(rows, 1)]


def test_a_name_that_is_given_twice_means_the_last_value(tmp_path):
    """In JSON and in a .csv file, as text and as rows."""
    paths = write(tmp_path / "a.jsonl", b'{"a": "1", "a": "2"}\n'), write(tmp_path / "a.csv", b"a,a\n1,2\n")
    for path in paths:
        assert [texts.to_pylist() for texts in read_texts(path, "a", READING)] == [["2"]]
        assert [row["a"] for row in read_rows(path, READING)] == ["2"]


def test_rows_are_named_by_the_line_on_which_they_end(tmp_path):
    """Line breaks inside fields count, of every kind, and so do blank lines."""
    path = write(tmp_path / "a.csv", b'id,text\r\n1,"a\r\n\r\nb"\r\n\r\n2,"c\rd"\r\n3,e')
    rows = list(read_rows(path, READING))
    assert [row["text"] for row in rows] == ["a\r\n\r\nb", "c\rd", "e"]
    assert origins(rows) == ["line 4", "line 7", "line 8"]
    path = write(tmp_path / "a.jsonl", b'{"a": 1}\n\n \n{"a": 2}\n')
    assert origins(read_rows(path, READING)) == ["line 1", "line 4"]
    pq.write_table(pa.table({"n": range(1500)}), tmp_path / "a.parquet")
    assert origins(read_rows(str(tmp_path / "a.parquet"), READING)) == [f"row {number}" for number in range(1500)]


@pytest.mark.parametrize("chunk", [3, 20, 1 << 20])
def test_csv_files_are_read_as_by_pythons_csv_module(chunk, tmp_path, monkeypatch):
    """Values and lines of 300 random files, however the chunks fall."""
    monkeypatch.setattr(byte_streams, "CHUNK", chunk)
    draw = random.Random(0)

    def field():
        plain = "".join(draw.choices('ab é"', k=draw.randint(0, 5))).lstrip('"')
        pieces = draw.choices(["a", "é", ",", '""', "\n", "\r\n", "\r", " "], k=draw.randint(0, 8))
        return draw.choice([plain, f'"{"".join(pieces)}"'])

    for _ in range(300):
        end = draw.choice(["\n", "\r\n", "\r"])
        text = f'"p",q{end}' + "".join(f"{field()},{field()}{end * draw.choice([1, 1, 2])}" for _ in range(4))
        text = draw.choice([text, text.rstrip("\r\n")])
        path = write(tmp_path / "a.csv", text.encode())
        reader = csv.DictReader(io.StringIO(text, newline=""))
        expected = [row | {ORIGIN: f"`{path}` line {reader.line_num}"} for row in reader]
        assert list(read_rows(path, READING)) == expected
        assert [t for texts in read_texts(path, "p", READING) for t in texts.to_pylist()] == [
            row["p"] for row in expected
        ]


def test_the_error_of_a_url_has_no_secrets(tmp_path, monkeypatch):
    """However long the URL is: secrets are removed before the message is shortened."""
    secret = "s3cr3t" * 40

    def fail(stream, field):
        raise OSError(f"cannot open '{stream.path}' nor http://jo:{secret}@127.0.0.1/x?token={secret}")

    monkeypatch.setitem(READERS, ".txt", fail)
    path = f"http://127.0.0.1/{'deep/' * 40}a.txt?token={secret}"
    ((_, problems, _),) = read_documents(path, "text", READING)
    assert "s3cr3t" not in problems[0].message.replace(path, "") and "the file" in problems[0].message


def test_a_null_in_the_first_line_is_a_problem_of_that_line(tmp_path):
    """Arrow ends the whole process by a segmentation fault at such a file, so it is read in another one."""
    path = write(tmp_path / "a.jsonl", b' null\n{"text": "a"}\n')
    result = read_in_another_process(path)
    assert result.returncode == 0 and "line 1: found NoneType, not an object" in result.stdout


def test_the_bytes_of_rows_without_the_column_are_lost(tmp_path):
    """As those of rows that cannot be parsed, so that `--max_unreadable` sees a file without the column."""
    for name, content in {
        "a.jsonl": b'{"id": 1}\n{"text": "a"}\n{"other": 12345}\n',
        "a.json": b'[{"id": 1},{"text": "a"},{"other": 12345}]',
    }.items():
        ((texts, problems, _),) = read_documents(write(tmp_path / name, content), "text", READING)
        assert texts.to_pylist() == [None, "a", None]
        assert [problems[row].lost_bytes for row in (0, 2)] == pytest.approx([10, 17], abs=1)
        assert problems[0].message.endswith("has no column `text`, only id: choose with --dataset_text_field")


def test_a_wrong_checksum_is_a_loss_of_the_whole_file(tmp_path):
    """Any of its bytes may be damaged; only what follows complete members of gzip is lost alone."""
    content = gzip.compress(b'{"text": "a"}\n' * 99)
    for ending, lost in ((b"\1\2\3\4" + content[-4:], len(content)), (content[-8:] + b"xyz", 3)):
        path = write(tmp_path / "a.jsonl.gz", content[:-8] + ending)
        *_, (_, problems, _) = read_documents(path, "text", READING)
        assert problems[0].is_file and problems[0].lost_bytes == pytest.approx(lost, abs=2)


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.json", "a.csv", "a.tsv", "a.md"])
@pytest.mark.parametrize("content", [gzip.compress(b'{"text": "a"}\n'), b"PK\x03\x04 and more", b"PAR1 and more"])
def test_files_of_other_formats_are_named_as_such(name, content, tmp_path):
    """Not as texts in another encoding, which Latin-1 would read as they are."""
    path = write(tmp_path / name, content)
    ((_, problems, _),) = read_documents(path, "text", ReadingArguments(encoding="latin-1"))
    assert f"`{path}` is not text, but" in problems[0].message and problems[0].lost_bytes == len(content)


OTHER_CONTENTS = {
    "a.zip": (b"Rar!\x1a\x07\0 and more", "a RAR archive: unpack it"),
    "b.zip": (b"", "is empty"),
    "a.tar": (gzip.compress(b"x"), "compressed by gzip: add .gz to its name"),
    "a.docx": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 500, "an office document of before 2007"),
    "a.pdf": (b"PK\x03\x04 and more", "a ZIP archive or office document"),
    "a.parquet": (b"<!DOCTYPE html><title>404</title>", "an HTML page, perhaps the answer of a server"),
    "b.parquet": (b"version https://git-lfs.github.com/spec/v1\n", "run `git lfs pull`"),
    "a.arrow": (b"PAR1 and more", "Parquet: rename it to end in .parquet"),
    "a.jsonl.gz": (b"<html>404</html>", "an HTML page"),
    "a.txt": (rb"{\rtf1\ansi Hello}", "a document in RTF: convert it"),
    "a.jsonl": (b"a".ljust(257, b"\0") + b"ustar", "a TAR archive: let its name end in .tar"),
    "a.warc.gz": (gzip.compress(b""), "is empty"),
}


@pytest.mark.parametrize("name", OTHER_CONTENTS)
def test_what_a_file_is_instead_is_said(name, tmp_path):
    """Not in the words of a library, such as "File is not a zip file" or "truncated header"."""
    content, message = OTHER_CONTENTS[name]
    ((_, problems, _),) = read_documents(write(tmp_path / name, content), "text", READING)
    assert message in problems[0].message and f"{name}`" in problems[0].message


def test_a_pointer_of_git_lfs_is_no_text(tmp_path):
    """A clone without Git LFS has these instead of the large files."""
    path = write(tmp_path / "a.txt", b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 5\n")
    with pytest.raises(ValueError, match="run `git lfs pull`"):
        list(read_texts(path, "text", READING))


def test_zero_bytes_in_csv_are_named(tmp_path):
    """No encoding would help."""
    ((_, problems, _),) = read_documents(write(tmp_path / "a.csv", b"id,text\n1,a\0b\n2,c\n"), "text", READING)
    assert problems[0].message.endswith("line 2 has a zero byte, which is not text: remove it")


class NoKeyManagement(encryption.KmsClient):
    """Wraps keys in nothing, so that a test can write an encrypted file."""

    def __init__(self, config):
        super().__init__()

    def wrap_key(self, key_bytes, master_key_identifier):
        return base64.b64encode(key_bytes)


@pytest.mark.parametrize("plaintext_footer", [True, False])
def test_an_encrypted_parquet_file_is_named(plaintext_footer, tmp_path):
    """Arrow ends the whole process at one with a footer in plain text, so it is read in another one."""
    settings = encryption.EncryptionConfiguration("f", column_keys={"c": ["text"]}, plaintext_footer=plaintext_footer)
    factory = encryption.CryptoFactory(NoKeyManagement)
    properties = factory.file_encryption_properties(encryption.KmsConnectionConfig(), settings)
    schema, path = pa.schema({"id": pa.int64(), "text": pa.string()}), str(tmp_path / "a.parquet")
    with pq.ParquetWriter(path, schema, encryption_properties=properties) as writer:
        writer.write_table(pa.table([[1], ["a"]], schema=schema))
    result = read_in_another_process(path)
    assert result.returncode == 0 and "encrypted" in result.stdout and "is_file=True" in result.stdout


def test_an_empty_part_of_spark_is_no_problem_in_any_format(tmp_path):
    """Other empty files are one."""
    for extension in READERS:
        problems = [
            problems for _, problems, _ in read_documents(write(tmp_path / f"part-1{extension}", b""), "text", READING)
        ]
        assert not any(problems), extension
    for extension in (".parquet", ".jsonl", ".csv"):
        ((_, problems, _),) = read_documents(write(tmp_path / f"a{extension}", b""), "text", READING)
        assert "is empty" in problems[0].message
