"""The command of a search, and the check of its space with the recipe's parser."""

import shlex
import sys
from pathlib import Path

import pytest

from hf_llm.arguments import SearchArguments, TextArguments
from hf_llm.command_line import parse_args, parse_values
from hf_llm.search.commands import check_folds, check_values, find_recipe, port_flags, split_command
from hf_llm.search.space import read_space

ROOT = Path(__file__).parents[2]
SPACES = sorted((ROOT / "recipes" / "configs" / "spaces").glob("*.yaml"))
RECIPE = """
import transformers
from hf_llm.arguments import ModelArguments, PretrainArguments
GROUPS = [ModelArguments, PretrainArguments, transformers.TrainingArguments]
"""


@pytest.fixture
def check(tmp_path, monkeypatch):
    """A function that checks a space against a command, and returns what the search learns of the recipe."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["search.py"])
    (tmp_path / "recipe.py").write_text(RECIPE)
    (tmp_path / "hub.yaml").write_text("push_to_hub: true")

    def check(space, flags="", **options):
        (tmp_path / "space.yaml").write_text(space)
        command = find_recipe(["python", "recipe.py", *shlex.split(flags)])
        return check_values(command, read_space("space.yaml"), SearchArguments(space="space.yaml", **options))

    return check


def test_a_command_is_found_after_two_dashes_with_its_launcher(tmp_path, monkeypatch):
    """And runs in Python without one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.py").write_text("")
    argv, words = split_command(["--jobs", "2", "--", "python", "-u", "recipe.py", "--a", "--", "b"])
    assert argv == ["--jobs", "2"]
    command = find_recipe(words)
    assert command.launcher == ("python", "-u")
    assert command.words(["--c"]) == ["python", "-u", "recipe.py", "--a", "--", "b", "--c"]
    assert find_recipe(["recipe.py"]).launcher == (sys.executable,)


@pytest.mark.parametrize(
    "words, message",
    [
        ("", "the command of the recipe is missing"),
        ("accelerate launch", "has no recipe"),
        ("python recipes.py", "`recipes.py` does not exist; did you mean recipe.py"),
        ("acelerate launch recipe.py", "`acelerate` of the command is not installed"),
    ],
)
def test_a_command_without_a_recipe_is_refused(tmp_path, monkeypatch, words, message):
    """In one line."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.py").write_text("")
    with pytest.raises(ValueError, match=message):
        find_recipe(words.split())


def test_launchers_get_a_free_port_unless_they_join_machines():
    """Trials at the same time would meet on the default one; the last flag counts."""
    flag, port = port_flags(("accelerate", "launch", "--num_processes", "2"))
    assert flag == "--main_process_port"
    assert int(port) > 1023
    assert port_flags(("/usr/bin/deepspeed",))[0] == "--master_port"
    assert port_flags(("torchrun", "--nproc_per_node", "2")) == port_flags(("python",)) == []
    assert port_flags(("accelerate", "launch", "--machine_rank", "1")) == []


def test_what_a_search_needs_to_know_is_read_from_the_command(check):
    """The score that decides and its direction, the seed, and whether there are evaluations to prune by."""
    recipe = check("learning_rate: [1e-4, 1e-3]", "--seed 7")
    assert (recipe.metric, recipe.direction, recipe.evaluates, recipe.seed) == ("loss", "minimize", False, 7)
    flags = "--eval_steps 5 --metric_for_best_model perplexity"
    assert check("learning_rate: [1e-4]", flags, pruner="halving").metric == "perplexity"
    assert check("learning_rate: [1e-4]", metric="eval_accuracy").direction == "maximize"


@pytest.mark.parametrize(
    "space, flags, options, message",
    [
        ("weight_decay: [-1]", "", {}, "`--weight_decay` is -1.0: give at least 0"),
        ("max_steps: [0]", "", {}, "`--max_steps` is 0"),
        ("output_dir: [a]", "", {}, "`output_dir` is set by the search"),
        ("weight_decay: {low: 0.0, high: 1.0}", "", {"sampler": "grid"}, "`weight_decay` of `space.yaml` has no end"),
        ("learning_rate: [1]", "", {"metric": "stereotype_share"}, "`--metric` stereotype_share has no better end"),
        ("learning_rate: [1]", "--output_dir a", {}, "`--output_dir` of the command is set by the search"),
        ("seed: [1]", "", {"seeds": [1, 2]}, "`seed` is set by the search"),
        ("learning_rate: [1]", "--learning_rate 2", {}, "is in the command and in `space.yaml`"),
        ("learning_rate: [1]", "", {"pruner": "median"}, "looks at evaluations during training: add"),
        ("learning_rate: [1]", "--config hub.yaml", {}, "`push_to_hub` of the command is set by the search"),
        ("hub_model_id: [a]", "", {}, "`--hub_model_id` has no effect without `--push_to_hub`"),
    ],
)
def test_a_space_that_the_recipe_refuses_ends_the_search(check, space, flags, options, message):
    """Before any trial, with the recipe's own reason."""
    with pytest.raises(ValueError, match=message):
        check(space, flags, **options)


@pytest.mark.parametrize(
    "space, message",
    [
        (
            "learning_rte: [1]",
            "unknown argument `--learning_rte`; the nearest is `--learning_rate`",
        ),
        (
            "learning_rate: [fast]",
            "space.yaml with learning_rate=fast: argument --learning_rate: invalid float",
        ),
        ("config_override.a: [1]", "unknown argument `--config_override`; the nearest is `--config_overrides`"),
        ("optim: [adamw_torch, admw]", "argument --optim: invalid choice: 'admw'"),
    ],
)
def test_a_flag_that_the_parser_does_not_take_is_named_with_the_space(check, capsys, space, message):
    """An unknown one with the nearest known, and a value of the wrong kind."""
    with pytest.raises(SystemExit) as stop:
        check(space)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_a_recipe_that_does_not_train_is_refused(check, tmp_path):
    """Such as recipes/eval.py."""
    check("seed: [1]")
    (tmp_path / "recipe.py").write_text("GROUPS = []")
    command = find_recipe(["python", "recipe.py"])
    with pytest.raises(ValueError, match=r"`recipe\.py` does not train"):
        check_values(command, read_space("space.yaml"), SearchArguments(space="space.yaml"))


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
    check_values(find_recipe(words), read_space(args.space), args)
