"""A vocabulary is extended on the model as it was saved, and new embeddings are means of old ones."""

import copy

import pytest
import torch
from tiny import new_model, new_tokenizer
from transformers import AutoConfig, AutoModelForMaskedLM

from hf_llm.arguments import TokenizerArguments
from hf_llm.models.extension import extend_embeddings
from hf_llm.models.loading import load_to_extend


def test_a_model_is_extended_as_it_was_saved(tmp_path):
    """A masked model stays masked and keeps its precision; its tokenizer does not get a pad token."""
    tokenizer = copy.deepcopy(new_tokenizer())
    tokenizer.pad_token = None
    settings = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = AutoConfig.for_model("roberta", vocab_size=len(tokenizer), max_position_embeddings=40, **settings)
    AutoModelForMaskedLM.from_config(config).to(torch.bfloat16).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded, model = load_to_extend(TokenizerArguments(model_name_or_path=str(tmp_path), new_tokens=1))
    assert type(model).__name__ == "RobertaForMaskedLM" and model.dtype == torch.bfloat16
    assert loaded.pad_token is None


@pytest.mark.parametrize("settings", [{}, {"tie_word_embeddings": True}])
def test_new_embeddings_are_the_mean_over_the_tokens_they_replace(settings):
    """For input and output embeddings; a table that is large enough keeps its size, and no other row changes."""
    for vocab_size, rows in ((300, 303), (310, 310)):
        model = new_model(vocab_size=vocab_size, **settings)
        before = {name: weights.clone() for name, weights in model.state_dict().items()}
        extend_embeddings(model, {300: [5, 7], 301: [9], 302: [1, 2, 3]})
        for name, weights in model.state_dict().items():
            if weights.shape[0] == rows and before[name].shape[0] == vocab_size:
                assert torch.equal(weights[:300], before[name][:300])
                assert torch.allclose(weights[300], before[name][[5, 7]].mean(0))
                assert torch.allclose(weights[302], before[name][[1, 2, 3]].mean(0))
            else:
                assert torch.equal(weights, before[name])
        assert model.config.vocab_size == rows == model.get_output_embeddings().weight.shape[0]
