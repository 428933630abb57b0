"""A trained model is saved in the precision of the model that it started from, or in the one that was asked for."""

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from tiny import new_model, new_tokenizer, new_trainer
from transformers import AutoModelForCausalLM

from hf_llm.arguments import AdapterArguments, ModelArguments
from hf_llm.models.loading import load_model, load_to_finetune
from hf_llm.models.precision import cast_saved_weights
from hf_llm.training.checkpoints import save_final_model


@pytest.fixture(scope="module")
def tokenizer():
    return new_tokenizer()


@pytest.mark.parametrize("base_dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("save_dtype", [None, "bfloat16", "float32"])
def test_a_model_is_saved_in_the_precision_of_its_base_or_as_asked(base_dtype, save_dtype, tokenizer, tmp_path):
    """Weights, config and what stock transformers loads agree; training was in float32."""
    new_model().to(base_dtype).save_pretrained(tmp_path / "base")
    model_args = ModelArguments(model_name_or_path=str(tmp_path / "base"), save_dtype=save_dtype)
    model = load_model(model_args, tokenizer, 32)
    model.lm_head.weight.data += 1e-6  # as a step of training: lost in bfloat16
    trainer = new_trainer(tmp_path / "out", tokenizer, model)
    save_final_model(trainer)
    expected = getattr(torch, save_dtype) if save_dtype else base_dtype
    saved = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {expected}
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == expected
    assert model.dtype == torch.float32
    assert all(torch.equal(saved[name], p.to(expected)) for name, p in model.named_parameters())


def test_new_models_and_adapters_are_saved_in_float32_unless_asked(tokenizer, tmp_path):
    """The adapter of a model in bfloat16 too, whose base stays as it was."""
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = load_model(ModelArguments(config_overrides=sizes | {"num_key_value_heads": 1}), tokenizer, 64)
    save_final_model(new_trainer(tmp_path / "new", tokenizer, model))
    assert load_file(tmp_path / "new" / "model.safetensors")["lm_head.weight"].dtype == torch.float32
    new_model().to(torch.bfloat16).save_pretrained(tmp_path / "base")
    for save_dtype, expected in ((None, torch.float32), ("bfloat16", torch.bfloat16)):
        model_args = ModelArguments(model_name_or_path=str(tmp_path / "base"), save_dtype=save_dtype)
        model = load_to_finetune(
            model_args, AdapterArguments(lora_r=2), tokenizer, 64, False, SimpleNamespace(end="<|eos|>")
        )
        save_final_model(new_trainer(tmp_path / f"{save_dtype}", tokenizer, model))
        saved = load_file(tmp_path / f"{save_dtype}" / "adapter_model.safetensors")
        assert {tensor.dtype for tensor in saved.values()} == {expected}


def test_shards_and_their_index_are_converted_and_large_values_stay(tmp_path):
    """The index has the new size in bytes; what float16 cannot hold stays in float32."""
    model = new_model()
    model.saved_dtype = torch.float16
    model.lm_head.weight.data[0, 0] = 1e6
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    cast_saved_weights(tmp_path, model)
    tensors = {name: tensor for path in tmp_path.glob("*.safetensors") for name, tensor in load_file(path).items()}
    assert {name for name, tensor in tensors.items() if tensor.dtype == torch.float32} == {"lm_head.weight"}
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors.values())
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "float16"
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert loaded.lm_head.weight[0, 0] == 1e6
