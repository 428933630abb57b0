"""Scores of lm-evaluation-harness are saved under one name each; unknown tasks are refused in one line."""

import pytest
from recipe_runs import read_json

from hf_llm.arguments import EvalArguments
from hf_llm.evaluation.harness import load_harness, save_harness


def test_scores_of_model_and_baseline_are_saved_together(tmp_path):
    """Those of the baseline have the prefix `baseline_`."""
    args = EvalArguments(model_name_or_path="m", output_dir=str(tmp_path))
    figures = save_harness(args, [{"pairs_acc": 0.5}, {"pairs_acc": 0.25}])
    assert figures == {"pairs_acc": 0.5, "baseline_pairs_acc": 0.25}
    assert read_json(tmp_path / "harness_results.json") == figures


def test_a_missing_installation_is_reported_with_the_remedy(monkeypatch):
    """Before any model is loaded."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ValueError, match="`--harness` needs lm-evaluation-harness: `pip install"):
        load_harness("pairs")
