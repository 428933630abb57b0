"""Adapters give the same logits when they are loaded as when they were trained, or an error says why not."""

import json
import shutil
from pathlib import Path

import peft
import pytest
import torch
from tiny import new_model, new_tokenizer, relative_error, save_model
from transformers import AutoModelForCausalLM

from hf_llm.arguments import AdapterArguments, ModelArguments, TaskArguments
from hf_llm.data.prompting import Prompter, add_chat_template
from hf_llm.models.adapters import add_adapter, frozen_weight_options
from hf_llm.models.loading import load_for_generation, load_model, load_to_finetune
from hf_llm.tasks import load_task
from hf_llm.training.throughput import flops_per_token


@pytest.fixture(scope="module")
def tokenizer():
    return new_tokenizer()


@pytest.fixture
def folder(tmp_path, tokenizer):
    return save_model(tmp_path / "saved", tokenizer)


def adapter_on(base, folder, tokenizer=None):
    """A saved LoRA adapter that changes the logits of its base."""
    model = load_model(ModelArguments(model_name_or_path=str(base)), new_tokenizer(), 64)
    model = add_adapter(model, AdapterArguments(lora_r=2))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return model


@pytest.mark.parametrize("with_tokenizer", [True, False])
def test_an_adapter_is_loaded_on_its_base(folder, tmp_path, tokenizer, with_tokenizer):
    """The merged model has the logits of base and adapter; the base's tokenizer is used if the adapter has none."""
    trained = adapter_on(folder, tmp_path / "adapter", tokenizer if with_tokenizer else None).eval()
    model, loaded = load_for_generation(str(tmp_path / "adapter"), dtype="float32")
    ids = torch.arange(20)[None]
    with torch.no_grad():
        assert relative_error(model(ids).logits, trained(ids).logits) < 4e-6
        assert not torch.allclose(model(ids).logits, load_for_generation(str(folder), dtype="float32")[0](ids).logits)
    assert loaded.get_vocab() == tokenizer.get_vocab()


def test_an_adapter_of_a_larger_model_is_refused(folder, tmp_path, tokenizer):
    """PEFT would load the tensors that fit and ignore the others."""
    adapter_on(folder, tmp_path / "adapter", tokenizer)
    new_model(vocab_size=len(tokenizer), num_hidden_layers=1).save_pretrained(folder)
    with pytest.raises(ValueError, match=r"does not fit its base `.*`: \d+ tensors are only in one of them"):
        load_for_generation(str(tmp_path / "adapter"))


PEFT_WARNINGS = [  # of embeddings: that they are among the layers, saved, and no longer tied
    "ignore:Model has `tie_word_embeddings=True`:UserWarning",
    "ignore:Setting `save_embedding_layers` to `True`:UserWarning",
    "ignore:Input and output embeddings are no longer tied:UserWarning",
]


def loads_as_trained(model, folder, tokenizer, ids):
    """Whether the saved adapter, with other weights than zero, has the logits of the model in memory."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.3 * torch.randn_like(parameter)
    trained = model.eval()(ids).logits
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    loaded, _ = load_for_generation(str(folder), dtype="float32")
    return loaded, relative_error(loaded(ids).logits, trained) < 4e-6


@pytest.mark.filterwarnings(*PEFT_WARNINGS)
@pytest.mark.parametrize("targets", [["lm_head"], ["embed_tokens"], ["lm_head", "embed_tokens", "q_proj"]], ids=str)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@torch.no_grad()
def test_adapters_of_embeddings_load_as_they_were_trained(tied, targets, tmp_path, tokenizer):
    """Also where input and output embedding are the same weights, which then become two; and saved again, merged."""
    new_model(tie_word_embeddings=tied).save_pretrained(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    model = add_adapter(model, AdapterArguments(lora_r=2, lora_target_modules=targets))
    ids = torch.arange(5, 25)[None]
    merged, equal = loads_as_trained(model, tmp_path / "adapter", tokenizer, ids)
    assert equal
    merged.save_pretrained(tmp_path / "merged")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    assert torch.equal(again(ids).logits, merged(ids).logits)


@pytest.mark.filterwarnings(*PEFT_WARNINGS)
@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["lm_head"], "ensure_weight_tying": True},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
        {"target_modules": ["q_proj"], "trainable_token_indices": [5, 6, 7]},
        {"target_modules": ["q_proj"], "bias": "all"},
    ],
    ids=str,
)
@torch.no_grad()
def test_adapters_of_other_trainers_on_tied_models_load_as_they_were_trained(settings, tmp_path, tokenizer):
    """With tied adapters, whole layers or single tokens that were trained with them."""
    new_model(tie_word_embeddings=True, attention_bias=True).save_pretrained(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    model = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", r=2, **settings))
    assert loads_as_trained(model, tmp_path / "adapter", tokenizer, torch.arange(5, 25)[None])[1]


@pytest.mark.filterwarnings(*PEFT_WARNINGS)
@pytest.mark.parametrize("vocab_size", [300, 320], ids=["added", "unused"])
@pytest.mark.parametrize("kind, tied", [("llama", True), ("llama", False)])
@torch.no_grad()
def test_new_tokens_of_a_chat_template_are_trained_with_adapters_and_merged(kind, tied, vocab_size, tmp_path):
    """In both embeddings, tied or not, in rows added to them or unused so far; no other row of them changes."""
    new_model(kind, tie_word_embeddings=tied, vocab_size=vocab_size).save_pretrained(tmp_path / "base")
    tokenizer, new = add_chat_template(new_tokenizer(), TaskArguments("summarization", chat_template="chatml"))
    arguments = ModelArguments(model_name_or_path=str(tmp_path / "base")), AdapterArguments(lora_r=2)
    model = load_to_finetune(*arguments, tokenizer, 64, False, Prompter(tokenizer, load_task("summarization"), 64), new)
    assert model.generation_config.eos_token_id == [1, 301]
    assert flops_per_token(model, attended=1.0) > 0  # the speed that training reports
    ids = torch.tensor([[5, 6, *new, 7]])
    merged, equal = loads_as_trained(model, tmp_path / "adapter", tokenizer, ids)
    assert equal
    merged.save_pretrained(tmp_path / "merged")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    assert torch.equal(again(ids).logits, merged(ids).logits)
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    for layer in ("get_input_embeddings", "get_output_embeddings"):
        after, before = (getattr(x, layer)().weight for x in (again, base))
        assert torch.equal(after[:300], before[:300])
        assert not torch.isin(after[300:302], before).any()


def test_new_tokens_beside_an_output_layer_with_a_bias_are_refused():
    """PEFT would compute its logits without the bias."""
    model = new_model()
    model.lm_head = torch.nn.Linear(16, 300)
    with pytest.raises(ValueError, match=r"has a bias, .* leave out `--lora_r`, or take `--chat_template alpaca`"):
        add_adapter(model, AdapterArguments(lora_r=2), [298, 299])


def test_an_adapter_finds_its_base_from_every_folder(folder, tmp_path, tokenizer, monkeypatch):
    """Although the base was named by a path from the folder that the training ran in; and after both were moved."""
    monkeypatch.chdir(tmp_path)
    trained = adapter_on(Path("saved"), "outputs/adapter", tokenizer).eval()
    shutil.copytree("outputs/adapter", "elsewhere/deeper/adapter")
    monkeypatch.chdir(tmp_path / "outputs")
    ids = torch.arange(20)[None]
    for adapter in ("adapter", "../elsewhere/deeper/adapter"):
        model, _ = load_for_generation(adapter, dtype="float32")
        assert relative_error(model(ids).logits, trained(ids).logits) < 4e-6
    (tmp_path / "other").mkdir()
    shutil.move(tmp_path / "saved", tmp_path / "other" / "saved")
    shutil.move(tmp_path / "outputs" / "adapter", tmp_path / "other" / "adapter")
    model, _ = load_for_generation("../other/adapter", dtype="float32")
    assert relative_error(model(ids).logits, trained(ids).logits) < 4e-6


def test_a_base_that_is_gone_is_named_with_the_setting_that_helps(folder, tmp_path, tokenizer):
    """The error has the file and the key; written there, the new folder is found."""
    adapter_on(folder, tmp_path / "adapter", tokenizer)
    shutil.move(folder, tmp_path / "renamed")
    with pytest.raises(ValueError, match=r"`.*adapter_config.json` names the base model .*`base_model_name_or_path`"):
        load_for_generation(str(tmp_path / "adapter"))
    file = tmp_path / "adapter" / "adapter_config.json"
    config = json.loads(file.read_text()) | {"base_model_name_or_path": str(tmp_path / "renamed")}
    file.write_text(json.dumps(config))
    load_for_generation(str(tmp_path / "adapter"))


def test_training_from_an_adapter_is_refused_with_the_remedy(folder, tmp_path, tokenizer):
    """A second adapter on top of it would replace it."""
    adapter_on(folder, tmp_path / "adapter", tokenizer)
    with pytest.raises(ValueError, match="is an adapter: train on its base, or merge them first"):
        load_model(ModelArguments(model_name_or_path=str(tmp_path / "adapter")), tokenizer, 64)


@pytest.mark.parametrize("adapter", [True, False])
def test_rotary_frequencies_stay_exact_in_bfloat16(folder, tmp_path, tokenizer, adapter):
    """If they were rounded, the angles of far positions would be wrong by a radian."""
    adapter_on(folder, tmp_path / "adapter", tokenizer)
    model, _ = load_for_generation(str(tmp_path / "adapter" if adapter else folder), dtype="bfloat16")
    exact = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert next(model.parameters()).dtype == torch.bfloat16
    assert torch.equal(model.model.rotary_emb.inv_freq, exact.model.rotary_emb.inv_freq)


def test_weights_under_adapters_are_bfloat16_with_bf16():
    """They are frozen, so float32 would only cost memory; without adapters the weights are float32."""
    assert frozen_weight_options(AdapterArguments(lora_r=4), bf16=True) == {"dtype": torch.bfloat16}
    assert frozen_weight_options(AdapterArguments(lora_r=4), bf16=False) == {}
    assert frozen_weight_options(AdapterArguments(), bf16=True) == {}


@pytest.mark.parametrize("options", [{"use_dora": True}, {"load_in_4bit": True}, {"lora_alpha": 32}])
def test_options_of_adapters_need_a_rank(options):
    """They are refused without `--lora_r`, where they would be ignored."""
    with pytest.raises(ValueError, match="belongs to adapters: give `--lora_r` too"):
        AdapterArguments(**options)


def test_unknown_target_modules_are_refused_with_the_names_of_the_linear_layers():
    """The message names the option."""
    with pytest.raises(ValueError, match=r"`--lora_target_modules`: .*nosuch.*; the linear layers are down_proj, "):
        add_adapter(new_model(), AdapterArguments(lora_r=2, lora_target_modules=["nosuch"]))
