"""JSON is read row by row: a broken row, or one that is too long or too deep, is a problem of its own."""

import json
import random
import time

import pytest

from hf_llm.arguments import ReadingArguments
from hf_llm.data import byte_streams
from hf_llm.data.readers import read_documents, read_rows
from hf_llm.messages import ORIGIN


def read(path, **settings):
    """Texts of a file, and its problems without the path, by the number of the row."""
    texts, problems = [], {}
    for batch, found, _ in read_documents(str(path), "text", ReadingArguments(**settings)):
        problems |= {len(texts) + row: problem.message.replace(f"`{path}` ", "") for row, problem in found.items()}
        texts += batch.to_pylist()
    return texts, problems


def rows_of(path):
    return [{name: row[name] for name in row if name != ORIGIN} for row in read_rows(str(path), ReadingArguments())]


@pytest.mark.parametrize("chunk", [1, 7, 1 << 24])
def test_a_list_is_read_as_by_pythons_json_module(chunk, tmp_path, monkeypatch):
    """However the chunks fall: numbers of any size, escapes, nested values, names given twice, white space."""
    monkeypatch.setattr(byte_streams, "CHUNK", chunk)
    draw = random.Random(0)

    def value(depth=0):
        kinds = [1 << 70, -1.5e300, True, None, 'a "[{,]}" \\ é 日 \n', "", "\\"]
        nested = [[value(depth + 1) for _ in range(2)], {"k": value(depth + 1)}] if depth < 3 else []
        return draw.choice(kinds + nested)

    for _ in range(30):
        rows = [{"text": value(), "n": value()} for _ in range(draw.randint(1, 4))]
        content = json.dumps(rows, indent=draw.choice([None, 1]), ensure_ascii=draw.choice([True, False]))
        (tmp_path / "a.json").write_text(f" \n{content}\n ", encoding="utf-8")
        assert rows_of(tmp_path / "a.json") == rows
    (tmp_path / "a.json").write_text('[{"a": 1, "a": 2}]')
    assert rows_of(tmp_path / "a.json") == [{"a": 2}]


@pytest.mark.parametrize("chunk", [1, 1 << 24])
@pytest.mark.parametrize(
    ("item", "problem"),
    [
        ('{"text": "b" "n": 1}', "Expecting ',' delimiter: line 2 column 14"),
        ('["b, c"]', "found list, not an object"),
        ("12", "found int, not an object"),
        ('{"n": ' + "[" * 30_000 + "]" * 30_000 + "}", "is nested too deeply"),
        ('{"text": "\\ud800"}', "`text` holds half of a surrogate pair"),
        ("", "Expecting value"),
        ('{"text": "' + "b" * 100_000 + '"}', "is longer than `--max_text_bytes` 70,000: raise it"),
    ],
)
def test_a_broken_item_of_a_list_is_a_problem_and_the_others_are_read(item, problem, chunk, tmp_path, monkeypatch):
    """Its end is found by its brackets and quotation marks."""
    monkeypatch.setattr(byte_streams, "CHUNK", chunk if len(item) < 1000 else max(chunk, 5000))
    (tmp_path / "a.json").write_text(f'[{{"text": "a"}},\n{item},\n{{"text": "c"}}]\n')
    texts, problems = read(tmp_path / "a.json", max_text_bytes=70_000)
    assert texts == ["a", None, "c"] and list(problems) == [1]
    assert problems[1].startswith("row 1") and problem in problems[1]


def test_bytes_of_another_encoding_are_a_problem_of_their_item(tmp_path):
    """As they are of their line."""
    (tmp_path / "a.json").write_bytes(b'[{"text": "a"}, {"text": "\xe9"}, {"text": "c"}]')
    texts, problems = read(tmp_path / "a.json")
    assert texts == ["a", None, "c"] and problems[1].startswith("row 1 is not UTF-8: give its `--encoding`")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('[{"text": "a"}, {"text": "b', "line 1: the list has no end"),
        ('[{"text": "a"}]\n{"text": "b"}', "line 1 has more after the end of its list"),
    ],
)
def test_a_list_without_an_end_gives_its_rows_first(content, problem, tmp_path):
    """Then the problem of the rest."""
    (tmp_path / "a.json").write_text(content)
    texts, problems = read(tmp_path / "a.json")
    assert (texts[0], texts[-1], list(problems)) == ("a", None, [1]) and problems[1].startswith(problem)


@pytest.mark.parametrize("chunk", [64, 1 << 24])
def test_long_and_deep_lines_are_problems_and_the_others_are_read(chunk, tmp_path, monkeypatch):
    """Without the long ones ever being in memory."""
    monkeypatch.setattr(byte_streams, "CHUNK", chunk)
    deep = '{"n": ' + "[" * 100_000 + "]" * 100_000 + ', "text": "d"}'
    lines = ['{"text": "a"}', json.dumps({"text": "b" * 400_000}), '{"text": "c"}', deep, '{"text": "e"}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    texts, problems = read(tmp_path / "a.jsonl", max_text_bytes=300_000)
    assert texts in (["a", None, "c", None, "e"], ["a", None, "c", "d", "e"])  # Arrow may read one that is not used
    assert problems[1] == "line 2 is longer than `--max_text_bytes` 300,000: raise it, or remove the text"
    assert texts[3] or problems[3].startswith("line 4 is nested too deeply")
    (tmp_path / "b.jsonl").write_text("\n".join(["{}", deep]))
    with pytest.raises(ValueError, match="line 2 is nested too deeply"):
        rows_of(tmp_path / "b.jsonl")


@pytest.mark.parametrize(
    ("item", "number"), [("[", 10_000), ('{"a": "', 10_000), ('"\\', 10_000), ("{}]", 10_000), ('{"a" "b"},', 2000)]
)
def test_time_grows_with_the_size_of_a_broken_list(item, number, tmp_path):
    """Ten times the items take far less than a hundred times as long."""

    def seconds(items):
        (tmp_path / "a.json").write_text("[" + item * items)
        begin = time.process_time()
        read(tmp_path / "a.json")
        return time.process_time() - begin

    limit = 30 * min(seconds(number) for _ in range(3)) + 1  # a second for a pause of the interpreter
    assert min(seconds(10 * number) for _ in range(2)) < limit
