"""The recipe that tokenizes once, as a process; pretraining from its folder is the same run as from the text."""

import pytest
from pretraining_runs import pretrain
from recipe_runs import ROOT, flags, read_json

RECIPE = ROOT / "recipes" / "tokenize_data.py"
TIMES = ("_runtime", "_per_second", "_mfu")


@pytest.fixture(scope="module")
def runs(processes, corpus, tiny_base, tmp_path_factory):
    """A token folder, then the same short training from it and from the text."""
    folder = tmp_path_factory.mktemp("tokenize")
    text = {"train_file": corpus / "train.jsonl", "validation_file": corpus / "validation.jsonl"}
    made = text | {"tokenizer_name": tiny_base, "max_length": 64, "output_dir": "tokens"}
    runs = {"tokens": processes.fork([RECIPE, *flags(made)], folder)}
    settings = {"model_name_or_path": tiny_base, "max_steps": 4, "save_strategy": "no"}
    commands = {name: pretrain(corpus, folder / name, **settings) for name in ("from_text", "from_tokens")}
    command = commands["from_tokens"]
    command[command.index("--train_file") + 1] = "tokens"
    del command[(place := command.index("--validation_file")) : place + 2]
    return folder, runs | processes.fork_each(commands, folder)


def test_a_run_from_tokens_is_the_run_from_text(runs):
    """The same weights to the last bit, and the same figures but for the times."""
    folder, results = runs
    for result in results.values():
        assert result.status == 0, result.stderr
    weights = [(folder / name / "model.safetensors").read_bytes() for name in ("from_text", "from_tokens")]
    assert weights[0] == weights[1]
    figures = [read_json(folder / name / "all_results.json") for name in ("from_text", "from_tokens")]
    same = [{key: value for key, value in each.items() if not key.endswith(TIMES)} for each in figures]
    assert same[0] == same[1] and same[0]["eval_bits_per_byte"] > 0


def test_the_recipe_prints_the_command_that_trains_on_its_folder(runs):
    """With the length of its rows."""
    _, results = runs
    assert "--train_file tokens --max_length 64\n" in results["tokens"].stdout
