"""The command of a search is checked before any trial."""

import logging
import shlex
from pathlib import Path

import pytest

from hf_llm.arguments import SearchArguments, TextArguments
from hf_llm.command_line import parse_args, parse_values
from hf_llm.search.commands import check_folds, check_values, find_recipe, split_command
from hf_llm.search.space import read_space

ROOT = Path(__file__).parents[2]
SPACES = sorted((ROOT / "recipes" / "configs" / "spaces").glob("*.yaml"))


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


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_the_command_of_a_space_takes_all_of_its_values(path, monkeypatch):
    """The command in the comment of a file that comes with the recipes names the file, and takes each of its values."""
    monkeypatch.chdir(ROOT)
    (command,) = [line for line in path.read_text().splitlines() if line.startswith("# python ")]
    argv, words = split_command(shlex.split(command)[3:])
    monkeypatch.setattr("sys.argv", shlex.split(command)[2:3])
    (args,) = parse_args([SearchArguments], argv)
    assert args.space == str(path.relative_to(ROOT))
    try:
        check_values(find_recipe(words), read_space(args.space), args)
    finally:
        logging.disable(logging.NOTSET)
