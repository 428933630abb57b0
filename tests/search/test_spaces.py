"""The spaces that come with the recipes."""

import logging
import shlex
from pathlib import Path

import pytest

from hf_llm.arguments import SearchArguments
from hf_llm.command_line import parse_args
from hf_llm.search.commands import check_values, find_recipe, split_command
from hf_llm.search.space import read_space

ROOT = Path(__file__).parents[2]
SPACES = sorted((ROOT / "recipes" / "configs" / "spaces").glob("*.yaml"))


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_the_command_of_a_space_takes_all_of_its_values(path, monkeypatch):
    """The command in the file's comment names the file, and the recipe's parser takes each of its values."""
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
