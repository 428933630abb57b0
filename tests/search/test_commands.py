"""The command of a search is checked before any trial."""

import pytest

from hf_llm.arguments import TextArguments
from hf_llm.command_line import parse_values
from hf_llm.search.commands import check_folds


@pytest.mark.parametrize(
    "folds, flags, message",
    [
        (5, [], "`--fold` 1/5: the number of rows is 3: give more data or fewer folds"),
        (2, ["--validation_file", "held_out.jsonl"], "`--fold` and `--validation_file` both say which rows are held"),
        (2, ["--group_field", "author"], "`--group_field` author: no row has such a column"),
    ],
)
def test_rows_that_cannot_be_divided_into_folds_are_refused(tmp_path, folds, flags, message):
    """One line, before any trial: the rows of the command are read and divided."""
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n{"text": "three"}\n')
    argv = ["--train_file", str(tmp_path / "a.jsonl"), "--fold", f"1/{folds}", *flags]
    _, values = parse_values([TextArguments], argv)
    with pytest.raises(ValueError) as error:
        check_folds([TextArguments], values | {"seed": 1})
    assert message in str(error.value)
