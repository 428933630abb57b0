"""Models and tokenizers are loaded completely and in the right precision, or an error of one line says why not."""

import json
import re
import shutil
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from tiny import TEXTS, new_model, new_tokenizer, relative_error, save_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

from hf_llm.arguments import ModelArguments
from hf_llm.command_line import parse_args
from hf_llm.data.vocabulary import train_tokenizer
from hf_llm.mappings import parse_mapping
from hf_llm.models.inspection import count_parameters
from hf_llm.models.loading import (
    build_on_meta_device,
    load_for_generation,
    load_model,
    load_tokenizer,
    new_config,
)

GROUPED = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
RECIPES = Path(__file__).parent.parent.parent / "recipes"
CONFIGS = sorted((RECIPES / "configs").glob("pretrain*.yaml"))
OVERRIDES = {
    "llama": GROUPED | {"rope_theta": 1e4},
    "qwen3": GROUPED | {"head_dim": 16, "tie_word_embeddings": True},
    "mistral": GROUPED | {"hidden_act": "gelu"},
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4},
}


@pytest.fixture(scope="module")
def tokenizer():
    return new_tokenizer()


@pytest.fixture
def folder(tmp_path, tokenizer):
    return save_model(tmp_path / "saved", tokenizer)


def build(tokenizer, max_length=32, **arguments):
    torch.manual_seed(0)
    return load_model(ModelArguments(**arguments), tokenizer, max_length)


def error_of(tokenizer, max_length=32, **arguments):
    with pytest.raises(ValueError) as info:
        build(tokenizer, max_length, **arguments)
    assert "\n" not in str(info.value)
    return str(info.value)


@pytest.mark.parametrize("spread", [None, 0.1], ids=["default", "0.1"])
@pytest.mark.parametrize("model_type", OVERRIDES)
def test_a_new_model_has_the_sizes_asked_for_and_normal_weights(model_type, spread, tokenizer):
    """Mean 0, standard deviation `initializer_range` (0.02 by default), vocabulary and positions fitted to the data."""
    settings = OVERRIDES[model_type]
    model = build(tokenizer, model_type=model_type, config_overrides=settings, initializer_range=spread)
    config = model.config
    assert (config.model_type, config.hidden_size, config.num_hidden_layers) == (model_type, 64, 2)
    assert (config.vocab_size, config.max_position_embeddings) == (len(tokenizer), 32)
    assert (config.bos_token_id, config.eos_token_id) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    spread = spread or 0.02
    matrices = {name: p for name, p in model.named_parameters() if p.ndim == 2 and p.numel() >= 4096}
    assert len(matrices) >= 8
    for name, p in matrices.items():
        # GPT-2 divides the projections that end a block by the square root of twice the number of layers.
        expected = spread / 2 if model_type == "gpt2" and name.endswith("c_proj.weight") else spread
        assert p.std().item() == pytest.approx(expected, rel=0.04), name
        assert abs(p.mean().item()) < 5 * expected / p.numel() ** 0.5, name


def test_overrides_reach_the_config(tokenizer):
    """Numbers, booleans, names; `rope_theta` is one of the rotary parameters."""
    overrides = GROUPED | {"rms_norm_eps": 1e-4, "tie_word_embeddings": True, "hidden_act": "gelu", "rope_theta": 5e5}
    config = build(tokenizer, config_overrides=overrides).config
    assert (config.rms_norm_eps, config.tie_word_embeddings, config.hidden_act) == (1e-4, True, "gelu")
    assert config.rope_parameters["rope_theta"] == 500_000.0


@pytest.mark.parametrize("as_file", [True, False], ids=["file", "flag"])
def test_a_nested_setting_reaches_the_config(as_file, tokenizer, tmp_path):
    """From a mapping in a YAML file, and from pairs on the command line."""
    pairs = "hidden_size=64,rope_parameters={rope_type: linear, factor: 2.0}"
    (tmp_path / "run.yaml").write_text(
        "config_overrides:\n  hidden_size: 64\n  rope_parameters: {rope_type: linear, factor: 2.0}\n"
    )
    argv = ["--config", str(tmp_path / "run.yaml")] if as_file else ["--config_overrides", pairs]
    config = new_config(parse_args([ModelArguments], argv)[0], tokenizer, 32)
    assert config.hidden_size == 64
    assert (config.rope_parameters["rope_type"], config.rope_parameters["factor"]) == ("linear", 2.0)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_models_of_the_shipped_files_can_be_built(path, tokenizer):
    """Every setting in them exists and goes with the others."""
    settings = yaml.safe_load(path.read_text())
    overrides = parse_mapping("--config_overrides", settings["config_overrides"])
    arguments = ModelArguments(model_type=settings["model_type"], config_overrides=overrides)
    config = new_config(arguments, tokenizer, settings["max_length"])
    assert config.model_type == settings["model_type"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"model_type": "lama"}, "`--model_type` lama has no causal language model here; the nearest is llama"),
        ({"model_type": "t5"}, "`--model_type` t5 has no causal language model here"),
        ({"config_overrides": {"hiden_size": 8}}, "`--config_overrides` hiden_size: llama has no such setting; "
         "the nearest is hidden_size"),
        ({"model_type": "gpt2", "config_overrides": {"hidden_sise": 8}}, "the nearest is hidden_size"),
        ({"config_overrides": {"hidden_size": "abc"}}, "hidden_size"),
        ({"config_overrides": {"hidden_act": "["}}, "cannot build this llama model"),
        ({"config_overrides": {"hidden_act": "relux"}}, "'relux' is unknown; the nearest is relu"),
        ({"config_overrides": {"rope_parameters": {"rope_type": "linaer", "factor": 2.0, "rope_theta": 1e4}}},
         "'linaer' is unknown; the nearest is linear"),
        ({"config_overrides": GROUPED | {"num_key_value_heads": 3}}, "`--config_overrides`: num_key_value_heads=3 does "
         "not divide num_attention_heads=4: give a number that does"),
        ({"model_type": "mixtral", "config_overrides": {"num_attention_heads": 4}}, "num_key_value_heads=8 does not"),
        ({"config_overrides": {"num_hidden_layers": 0}}, "`--config_overrides` num_hidden_layers=0: give a number of"),
        ({"model_type": "gpt2", "config_overrides": {"n_layer": -1}}, "`--config_overrides` n_layer=-1: give a number"),
        ({"model_type": "gpt2", "config_overrides": {"n_embd": 32, "hidden_size": 64}}, "two names of one setting"),
        ({"model_type": "gpt2", "config_overrides": {"n_positions": 8}}, "`--max_length` 32 is beyond the model's 8 "),
        ({"model_type": "gpt2", "config_overrides": {"n_embd": 30, "n_head": 4}}, "cannot build this gpt2 model: `emb"),
        ({"config_overrides": {"attention_dropout": 2}}, "`--config_overrides` attention_dropout=2: give a share"),
        ({"config_overrides": {"dtype": "bfloat16"}}, "`--config_overrides` dtype: a new model is trained in float32: "
         "`--save_dtype`"),
        ({"config_overrides": {"return_dict": False}}, "`--config_overrides` return_dict: outputs are taken by their"),
        ({"model_type": "xglm", "initializer_range": 0.1}, "`--initializer_range`: xglm has no such setting"),
        ({"model_name_or_path": "/no/such/folder"}, "cannot load `/no/such/folder`: "),
    ],
)  # fmt: skip
def test_a_model_that_cannot_be_built_is_an_error_of_one_line(arguments, message, tokenizer):
    """It names the argument and the nearest known name."""
    assert message in error_of(tokenizer, **arguments)


def test_weights_are_loaded_in_float32(folder, tokenizer):
    """The optimizer needs float32, in whatever precision the weights were saved."""
    model = build(tokenizer, model_name_or_path=str(folder))
    saved = load_file(folder / "model.safetensors")
    assert {p.dtype for p in saved.values()} == {torch.bfloat16}
    assert all(p.dtype == torch.float32 and torch.equal(p, saved[n].float()) for n, p in model.state_dict().items())


def test_a_checkpoint_that_lacks_tensors_is_refused(folder, tokenizer):
    """transformers would initialise them at random, with only a warning."""
    tensors = load_file(folder / "model.safetensors")
    lost = [name for name in tensors if "layers.1.mlp" in name]
    save_file(
        {name: t for name, t in tensors.items() if name not in lost}, folder / "model.safetensors", {"format": "pt"}
    )
    message = error_of(tokenizer, model_name_or_path=str(folder))
    assert f"the weights lack 3 tensors, the first is {min(lost)}" in message and str(folder) in message


def test_rows_longer_than_the_positions_are_refused(folder, tokenizer):
    """Rows of as many tokens as the model has positions fit."""
    build(tokenizer, max_length=64, model_name_or_path=str(folder))
    message = error_of(tokenizer, max_length=65, model_name_or_path=str(folder))
    assert "`--max_length` 65 is beyond the model's 64 positions" in message
    assert "positions" in error_of(tokenizer, config_overrides=GROUPED | {"max_position_embeddings": 16}, max_length=17)


def test_positions_that_no_token_can_have_do_not_count(tokenizer):
    """With padding id 2, RoBERTa numbers tokens from 3: of 40 positions 37 are left, and the message says 37."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    sizes |= {"max_position_embeddings": 40}
    arguments = ModelArguments(model_type="roberta", config_overrides=sizes)
    load_model(arguments, tokenizer, 37, AutoModelForMaskedLM)
    with pytest.raises(ValueError, match="`--max_length` 38 is beyond the model's 37 positions"):
        load_model(arguments, tokenizer, 38, AutoModelForMaskedLM)


def test_a_tokenizer_too_large_for_the_model_is_refused(folder):
    """Its highest token ids would have no embedding."""
    large = train_tokenizer([" ".join(f"{a}{b}x" for a in "abcdefgh" for b in "ijklmnop")] * 3, 350)
    assert f"the tokenizer has {len(large)} entries, the model" in error_of(large, model_name_or_path=str(folder))


def test_the_tokenizer_comes_from_the_folder_or_is_trained(folder, tokenizer):
    """In this order: `--tokenizer_name`, the model's own, the one that a resumed run has trained, a new one."""
    rows = [{"text": text} for text in TEXTS]
    assert len(load_tokenizer(ModelArguments(vocab_size=280), rows)) == 280
    for loaded in (
        load_tokenizer(ModelArguments(model_name_or_path=str(folder))),
        load_tokenizer(ModelArguments(model_name_or_path="/no/such", tokenizer_name=str(folder))),
        load_tokenizer(ModelArguments(vocab_size=280), rows, checkpoint=str(folder)),
    ):
        assert loaded.get_vocab() == tokenizer.get_vocab()
    with pytest.raises(ValueError, match="cannot load a tokenizer from `/no/such`"):
        load_tokenizer(ModelArguments(tokenizer_name="/no/such"), rows, checkpoint=str(folder))


GGUF_NAMES = {
    "model.layers.": "blk.",
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def write_gguf(path, model, tokenizer):
    """A Llama as llama.cpp's converter writes it: its own names, the rotated halves of q and k interleaved."""
    config, writer = model.config, gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    bpe = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(sorted(bpe["vocab"], key=bpe["vocab"].get))
    writer.add_token_merges([" ".join(pair) for pair in bpe["merges"]])
    writer.add_token_types([gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (len(tokenizer) - 3))
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(True)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, parameter in model.state_dict().items():
        weight = parameter.numpy()
        if number := heads.get(name.split(".")[-2]):
            weight = weight.reshape(number, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)
        for ours, theirs in GGUF_NAMES.items():
            name = name.replace(ours, theirs)
        writer.add_tensor(name, np.ascontiguousarray(weight))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_loads_and_saves_like_any_model(tmp_path, tokenizer):
    """Its logits equal those of the original model and of a folder saved from it; its tokenizer gives the same ids."""
    original = new_model(vocab_size=len(tokenizer), hidden_size=32)
    path = tmp_path / "tiny.gguf"
    write_gguf(path, original, tokenizer)

    arguments = ModelArguments(model_name_or_path=str(path))
    own_tokenizer = load_tokenizer(arguments)
    ids = tokenizer(TEXTS[5]).input_ids
    assert own_tokenizer(TEXTS[5]).input_ids == ids and len(own_tokenizer) == len(tokenizer)
    assert (own_tokenizer.eos_token, own_tokenizer.pad_token) == (tokenizer.eos_token, tokenizer.pad_token)

    model = load_model(arguments, own_tokenizer, max_length=64).eval()
    model.save_pretrained(tmp_path / "saved")
    own_tokenizer.save_pretrained(tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype=torch.float32).eval()
    with torch.no_grad():
        expected, loaded, reloaded = (m(torch.tensor([ids])).logits for m in (original, model, again))
    assert relative_error(loaded, expected) < 2e-6
    assert torch.equal(loaded, reloaded)
    assert load_tokenizer(ModelArguments(model_name_or_path=str(tmp_path / "saved")))(TEXTS[5]).input_ids == ids


def test_a_folder_without_a_model_is_refused(tmp_path):
    """An interrupted run leaves such a folder. Without any model name, no tokenizer is trained either."""
    with pytest.raises(ValueError, match="holds no model: did the run"):
        load_tokenizer(ModelArguments(model_name_or_path=str(tmp_path)))
    with pytest.raises(ValueError, match="there is no model to start from: give `--model_name_or_path`"):
        load_tokenizer(ModelArguments())


@pytest.mark.parametrize("name, vocabulary", [("pretrain_gpt2_124m", 50_257), ("pretrain_llama_1b", 49_152)])
def test_a_file_of_settings_says_how_large_its_model_is(name, vocabulary):
    """The number of parameters in its first line is that of the model, with the vocabulary of its tokenizer."""
    text = (RECIPES / "configs" / f"{name}.yaml").read_text()
    settings = yaml.safe_load(text)
    overrides = parse_mapping("--config_overrides", settings["config_overrides"])
    config = AutoConfig.for_model(settings["model_type"], **overrides, vocab_size=vocabulary)
    parameters = count_parameters(build_on_meta_device(config, AutoModelForCausalLM))
    number, unit = re.search(r"([\d.]+)(M|B)\b", text.splitlines()[0]).groups()
    decimals = len(number.partition(".")[2])
    assert round(parameters / {"M": 1e6, "B": 1e9}[unit], decimals) == float(number)


def test_the_first_command_makes_a_model_that_the_other_files_can_tune():
    """Rows of the fine-tuning files fit in its positions, which are as many as the rows that it was trained on."""
    settings = {path.stem: yaml.safe_load(path.read_text()) for path in (RECIPES / "configs").glob("*.yaml")}
    tuned = [of_file for of_file in settings.values() if of_file.get("model_name_or_path") == "outputs/pretrain_tiny"]
    assert len(tuned) >= 5
    assert max(of_file["max_length"] for of_file in tuned) <= settings["pretrain_tiny"]["max_length"]


@pytest.mark.parametrize("content", [b"", b"\0\0", b"null", b"[]", b'{"eos_token_id": '])
@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json"])
def test_damaged_settings_of_a_model_are_named(tiny_base, tmp_path, name, content):
    """transformers generates without a `generation_config.json` that it cannot read, and so without its end of turn."""
    folder = shutil.copytree(tiny_base, tmp_path / "model")
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"`{folder}`: {name} is damaged: its {len(content)} bytes are not a JSON"):
        load_for_generation(str(folder), False)
