"""Scores of lm-evaluation-harness are saved under one name each; unknown tasks are refused in one line."""

import logging
from pathlib import Path

import lm_eval.evaluator
import pytest
from recipe_runs import read_json
from tiny import new_model, new_tokenizer

from hf_llm.arguments import EvalArguments, TaskArguments
from hf_llm.evaluation.harness import load_harness, run_harness, save_harness

ROOT = Path(__file__).parent.parent.parent


def test_scores_of_model_and_baseline_are_saved_together(tmp_path):
    """Those of the baseline have the prefix `baseline_`; models and settings are in the file too."""
    args = EvalArguments(model_name_or_path="a/m", baseline="b", output_dir=str(tmp_path))
    settings = {"num_fewshot": {"pairs": 0}}
    figures = save_harness(args, [({"pairs_acc": 0.5}, settings), ({"pairs_acc": 0.25}, settings)])
    assert figures == {"pairs_acc": 0.5, "baseline_pairs_acc": 0.25}
    saved = figures | {"model": "m", "baseline": "b", "settings": settings}
    assert read_json(tmp_path / "harness_results.json") == saved


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model."""
    folder = tmp_path_factory.mktemp("model")
    new_model(max_position_embeddings=512).save_pretrained(folder)
    new_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(("shots", "fixed"), [(None, False), (0, False), (1, True)])
def test_the_task_of_the_documentation_is_scored_offline(folder, shots, fixed, tmp_path, monkeypatch, caplog):
    """`--num_fewshot 0` overrules the task's 2; a 0 of a task cannot be overruled, which is said. The seed is used."""
    monkeypatch.chdir(ROOT)
    file = Path("docs/harness/capitals.yaml")
    if fixed:
        text = file.read_text(encoding="utf-8").replace("num_fewshot: 2", "num_fewshot: 0")
        file = tmp_path / "capitals.yaml"
        file.write_text(text, encoding="utf-8")
    args = EvalArguments(model_name_or_path=folder, harness=[str(file)], dtype="float32", seed=7)
    asked = []
    simple_evaluate = lm_eval.evaluator.simple_evaluate
    evaluate = lambda *args, **options: asked.append(options) or simple_evaluate(*args, **options, log_samples=False)  # noqa: E731
    monkeypatch.setattr(lm_eval.evaluator, "simple_evaluate", evaluate)
    with caplog.at_level(logging.WARNING, "hf_llm"):
        scores, settings = run_harness(folder, args, TaskArguments(task="", num_fewshot=shots), 3)
    assert 0 <= scores["capitals_acc"] <= 1
    used = 0 if fixed else 2 if shots is None else shots
    assert settings["num_fewshot"] == {"capitals": used} and settings["task_versions"] == {"capitals": 1.0}
    assert settings["rows"] == {"capitals": 3} and settings["seed"] == 7 and settings["dtype"] == "float32"
    assert {asked[0][f"{kind}_seed"] for kind in ("random", "numpy_random", "torch_random", "fewshot_random")} == {7}
    assert ("`--num_fewshot` 1: the harness has 0 for capitals" in caplog.text) is (fixed and shots == 1)


def test_a_missing_installation_is_reported_with_the_remedy(monkeypatch):
    """Before any model is loaded."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ValueError, match="`--harness` needs lm-evaluation-harness: `pip install"):
        load_harness("pairs")


def test_data_that_cannot_be_reached_are_reported_with_the_remedy(folder, monkeypatch):
    """Offline, the tasks are known and their data are not."""
    monkeypatch.chdir(ROOT)
    args = EvalArguments(model_name_or_path=folder, harness=["docs/harness/capitals.yaml"], dtype="float32")

    def unreachable(*args, **options):
        raise ConnectionError("Couldn't reach 'me/data' on the Hub")

    monkeypatch.setattr(lm_eval.evaluator, "simple_evaluate", unreachable)
    with pytest.raises(
        ValueError, match=r"Couldn't reach .*: run it once with a network, or give YAML files of tasks with local data"
    ):
        run_harness(folder, args, TaskArguments(task=""), 3)
