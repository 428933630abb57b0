"""A first look at files finds those that cannot be read."""

import pytest

from hf_llm.arguments import ReadingArguments
from hf_llm.data.checks import check_files


@pytest.mark.parametrize("column", ["text", None])
def test_each_unreadable_file_has_its_problem(column, tmp_path):
    """All of them are found, not only the first."""
    files = {"a.jsonl": '{"text": "a"}', "b.jsonl": "", "c.csv": '"text\na', "d.csv": "text\na"}
    paths = {name: str(tmp_path / name) for name in files}
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    problems = check_files(paths.values(), column, ReadingArguments())
    assert list(problems) == [paths["b.jsonl"], paths["c.csv"]] and "is empty" in problems[paths["b.jsonl"]]
