"""A row of a .csv file is read as RFC 4180 has it, or it is a problem; the rows around it are read."""

import time

import pytest

from hf_llm.arguments import ReadingArguments
from hf_llm.data import byte_streams
from hf_llm.data.readers import read_documents, read_rows
from hf_llm.messages import ORIGIN

DOUBLE = 'write " inside a value as ""'
ESCAPE = ', or give `--csv_escape backslash` if \\" stands for it'


def read(tmp_path, content, name="a.csv", column="text", **settings):
    """Texts of a file, and its problems without the path, by the number of the row."""
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    texts, problems = [], {}
    for batch, found, _ in read_documents(str(path), column, ReadingArguments(**settings)):
        messages = {len(texts) + row: problem.message.replace(f"`{path}` ", "") for row, problem in found.items()}
        problems, texts = problems | messages, texts + batch.to_pylist()
    return texts, problems


BAD_ROWS = {  # what is in the file -> its texts, problems by row
    "a mark that is never closed costs its own row": (
        'text\na\n"b\n\nc"\n"open\n' + "d\n" * 3,
        ["a", "b\n\nc", None, "d", "d", "d"],
        {2: f"line 6: the row that begins here has a quotation mark that is never closed: {DOUBLE}"},
    ),
    "two such marks cost two rows, not those between them": (
        'id,text\n1,"a\n2,b\n3,"c\n4,d\n',
        [None, "b", None, "d"],
        {
            0: f"line 2: the row that begins here has text after a closing quotation mark: {DOUBLE}",
            2: f"line 4: the row that begins here has a quotation mark that is never closed: {DOUBLE}",
        },
    ),
    "text after a closing mark": (
        'id,text\n1,"a" b\n2,c\n',
        [None, "c"],
        {0: f"line 2: the row that begins here has text after a closing quotation mark: {DOUBLE}"},
    ),
    "a backslash before a mark": (
        'id,text\n1,"He said \\"no\\" to me"\n2,b\n',
        [None, "b"],
        {0: f"line 2: the row that begins here has text after a closing quotation mark: {DOUBLE}{ESCAPE}"},
    ),
    "a backslash before a mark and a comma, in as many values as there should be": (
        'id,text\n1,"He said \\", he left"\n"2 \\", b"\n3,c\n',
        [None, None, "c"],
        {
            0: f"line 2 has 3 values, and the first line names 2 columns: correct or quote its values{ESCAPE}",
            1: "line 3 has a quotation mark after a backslash, which may close the value or belong to it: "
            f"{DOUBLE}{ESCAPE}",
        },
    ),
    "a backslash before two marks, of which the second is closed in the next row": (
        'id,text\n1,"a 5\\""\n2,6"\n3,c\n',
        [None, "c"],
        {
            0: "line 3 has a quotation mark after a backslash, which may close the value or belong to it: "
            f"{DOUBLE}{ESCAPE}"
        },
    ),
    "a wrong number of values": (
        "id,text\n1,a\n2\n3,b,c\n4,d\n",
        ["a", None, None, "d"],
        {
            1: "line 3 has 1 values, and the first line names 2 columns: correct or quote its values",
            2: "line 4 has 3 values, and the first line names 2 columns: correct or quote its values",
        },
    ),
    "bytes of another encoding, and a zero byte": (
        b"id,text\n1,a\n2,\xe9\n\xe9,c\n4,d\0\n",
        ["a", None, "c", None],
        {
            1: "line 3 is not UTF-8: give its `--encoding`, e.g. cp1252 or gb18030, or convert it to UTF-8",
            3: "line 5 has a zero byte, which is not text: remove it",
        },
    ),
}


@pytest.mark.parametrize("chunk", [3, 1 << 24])
@pytest.mark.parametrize("kind", BAD_ROWS)
def test_a_bad_row_is_a_problem_and_the_others_are_read(kind, chunk, tmp_path, monkeypatch):
    """With its line, in its place among the rows, however the chunks fall."""
    monkeypatch.setattr(byte_streams, "CHUNK", chunk)
    content, texts, problems = BAD_ROWS[kind]
    assert read(tmp_path, content) == (texts, problems)


def test_marks_and_backslashes_that_are_text(tmp_path):
    """As inches and paths are written; spaces may follow a closing mark."""
    rows = ['a 5" disk', '"a ""5"" disk"  ', '"C:\\dir\\"', "C:\\new\\", '"say \\""no\\"""', 'say \\"no\\"']
    texts = ['a 5" disk', 'a "5" disk', "C:\\dir\\", "C:\\new\\", 'say \\"no\\"', 'say \\"no\\"']
    found, problems = read(tmp_path, "id,text\n" + "".join(f"1,{row}\n" for row in rows))
    assert ([text.rstrip() for text in found], problems) == (texts, {})


def test_backslashes_may_keep_quotation_marks_in_their_value(tmp_path):
    """With `--csv_escape backslash`, where two backslashes are one and any other is text."""
    rows = ['"He said \\"no\\", and left"', '"a\\\\"', r'"C:\dir\new \n"', '"a ""b"""', r"C:\dir", '"a\\\\\\"b"']
    texts = ['He said "no", and left', "a\\", r"C:\dir\new \n", 'a "b"', r"C:\dir", 'a\\"b']
    content = "id,text\n" + "".join(f"1,{row}\n" for row in rows)
    assert read(tmp_path, content, csv_escape="backslash") == (texts, {})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "id,text\n1,a;b\n2,c\n"),
        ("a.csv", "id;text\n1;a;b\n".replace("a;b", '"a;b"') + "2;c\n"),
        ("a.csv", "id\ttext\n1\ta;b\n2\tc\n"),
        ("a.csv", "id|text\n1|a;b\n2|c\n"),
        ("a.tsv", "id\ttext,x\n1\ta;b\n2\tc\n".replace("text,x", "text")),
        ("a.tsv", "id,text\n1,a;b\n2,c\n"),
        ("a.csv", 'sep=;\r\nid;text\r\n1;"a;b"\r\n2;c\r\n'),
        ("a.csv", '"id, or number";text\n1;"a;b"\n2;c\n'),
    ],
)
def test_the_delimiter_is_recognized(name, content, tmp_path):
    """By the names and the first rows, for texts and for rows."""
    assert read(tmp_path, content, name) == (["a;b", "c"], {})
    rows = list(read_rows(str(tmp_path / name), ReadingArguments()))
    assert [row["text"] for row in rows] == ["a;b", "c"] and all(len(row) == 3 for row in rows)


def test_a_table_with_one_column_has_no_delimiter_to_recognize(tmp_path):
    """Its texts may have semicolons and tabs."""
    assert read(tmp_path, 'text\na; b\n"c, d"\ne\tf\n') == (["a; b", "c, d", "e\tf"], {})


def test_names_of_another_encoding_are_a_problem_of_the_file(tmp_path):
    """One line with the remedy, which works."""
    content = "id,t\u00edtulo,text\n1,uno,a\u00f1o\n".encode("cp1252")
    texts, problems = read(tmp_path, content)
    assert texts == [None] and problems[0].startswith("line 1 is not UTF-8: give its `--encoding`, e.g. cp1252")
    assert read(tmp_path, content, encoding="cp1252") == (["a\u00f1o"], {})


@pytest.mark.parametrize("chunk", [7, 1 << 24])
def test_a_row_above_the_limit_is_a_problem(chunk, tmp_path, monkeypatch):
    """Of one line or several; reading goes on after it."""
    monkeypatch.setattr(byte_streams, "CHUNK", chunk)
    content = f'text\na\n{"b" * 60}\nc\n"{"d" * 20}\n{"d" * 20}"\ne\n'
    texts, problems = read(tmp_path, content, max_text_bytes=40)
    long = "the row that begins here is longer than `--max_text_bytes` 40: raise it, or remove the text"
    assert texts == ["a", None, "c", None, "d" * 20 + '"', "e"]
    assert problems == {1: f"line 3: {long}", 3: f"line 5: {long}"}


@pytest.mark.parametrize("line", ['b","d', '"a"b","d', '"open', 'x,"y', '"""y', '"a" '])
def test_time_grows_with_the_size_of_a_file_of_bad_rows(line, tmp_path):
    """However their quotation marks stand: ten times the rows take far less than a hundred times as long."""

    def seconds(rows):
        begin = time.process_time()
        read(tmp_path, "id,text\n" + f"{line}\n" * rows)
        return time.process_time() - begin

    limit = 30 * min(seconds(4000) for _ in range(3)) + 1  # a second for a pause of the interpreter
    assert min(seconds(40_000) for _ in range(2)) < limit


def test_the_rows_of_a_file_that_is_cut_short_come_first(tmp_path):
    """The row in which it ends is lost with the rest; what is inside a value that is open does not become rows."""
    import gzip

    content = "text\n" + "a\n" * 5 + '"b\n' + "".join(f"c {number}\n" for number in range(2000))
    texts, problems = read(tmp_path, gzip.compress(content.encode())[:-200], "a.csv.gz")
    assert texts == ["a"] * 5 + [None] and "cannot be read after row 4: Compressed file ended" in problems[5]


def test_the_line_of_a_row_is_the_one_on_which_it_ends(tmp_path):
    """Also after rows that are not well formed."""
    path = tmp_path / "a.csv"
    path.write_text('id;text\n1;"a\nb"\n\n2;c\n')
    assert [row[ORIGIN] for row in read_rows(str(path), ReadingArguments())] == [f"`{path}` line {n}" for n in (3, 5)]
