"""The model card shows results and settings, and no local path or token."""

import os
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from hf_llm.publishing.card import write_model_card


def card(folder: Path, **changes) -> ModelCard:
    arguments = {"base_model": None, "datasets": [], "results": {}, "hyperparameters": {}, **changes}
    write_model_card(folder, **arguments)
    return ModelCard.load(folder / "README.md")


def test_the_model_card_shows_results_to_readers_and_to_the_hub(tmp_path):
    """The results are a table in the text and a model-index in the metadata, where the Hub looks for them."""
    results = {"eval_loss": 2.5257286, "perplexity": 12.5, "broken": float("nan")}
    written = card(tmp_path, base_model="gpt2", datasets=["me/poems"], results=results, language="en", license="mit")
    assert "| `perplexity` | 12.5 |" in written.text
    assert "| `broken` | nan |" in written.text
    assert {result.metric_type: result.metric_value for result in written.data.eval_results} == {
        "eval_loss": 2.5257286,
        "perplexity": 12.5,
    }
    assert (written.data.base_model, written.data.datasets) == ("gpt2", ["me/poems"])
    assert (written.data.language, written.data.license) == ("en", "mit")
    assert "AutoModelForCausalLM.from_pretrained" in written.text


def test_data_of_several_sources_are_named(tmp_path):
    """Those of the Hub by their names; data without a name are not left out of the sentence."""
    written = card(tmp_path, datasets=["me/poems", None, "me/tales"])
    assert "Trained on me/poems, me/tales, local files with hf_llm" in written.text
    assert written.data.datasets == ["me/poems", "me/tales"]


def test_the_model_card_holds_no_local_path_and_no_token(tmp_path, monkeypatch):
    """They are left out of every argument of the card."""
    monkeypatch.setenv("HF_TOKEN", "hf_" + "secret" * 6)
    monkeypatch.chdir(tmp_path)
    Path("data/base").mkdir(parents=True)
    hyperparameters = {
        "learning_rate": 3e-4,
        "output_dir": str(tmp_path),
        "train_file": ["data/base", "~/more.txt"],
        "deepspeed": {"offload": {"nvme_path": "/local_nvme"}},
        "hub_token": os.environ["HF_TOKEN"],
    }
    text = str(card(tmp_path, base_model="data/base", datasets=[str(tmp_path)], hyperparameters=hyperparameters))
    assert "| `learning_rate` | 0.0003 |" in text
    for secret in (str(tmp_path.parent), "data/base", "more.txt", "nvme", "secret"):
        assert secret not in text
    with pytest.raises(ValueError, match="would contain the Hub token"):
        card(tmp_path, results={os.environ["HF_TOKEN"]: 1.0})


@pytest.mark.parametrize("value", ["a/" * 10**6, "x" * 10**6, "a/" * 3000, "\\\\" * 10**5])
def test_a_setting_of_any_length_makes_a_card(tmp_path, value):
    """What is too long for a path is no local path, and no error."""
    assert "| `seed` | 3 |" in card(tmp_path, hyperparameters={"seed": 3, "other": value}).text
