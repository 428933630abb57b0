"""Encoders are told from models that write, and keep head and labels through saving, also with adapters."""

import math

import pytest
import torch
from datasets import Dataset, DatasetDict
from tiny import new_tokenizer, save_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

from hf_llm.arguments import AdapterArguments, ModelArguments
from hf_llm.data.labelling import LabelCollator, Labeller, encode_texts
from hf_llm.models.adapters import save_adapter_configs
from hf_llm.models.classifiers import (
    check_classifier,
    check_kind,
    count_positions,
    find_classifier,
    labels_to_train,
    match_labels,
    read_positions,
)
from hf_llm.models.loading import load_for_generation, load_to_evaluate, load_to_finetune
from hf_llm.tasks import load_task

LABELS = [f"label {number}" for number in range(12)]  # as text, the number 10 comes before 2
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def save_encoder(folder, model_type="roberta"):
    tokenizer = new_tokenizer()
    ids = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": 0, "eos_token_id": 1}
    config = AutoConfig.for_model(model_type, vocab_size=len(tokenizer), max_position_embeddings=40, **ids, **SIZES)
    torch.manual_seed(0)
    AutoModelForMaskedLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def understanding(labels):
    task = load_task("understanding", labels="|".join(labels))
    task.prepare(DatasetDict())
    return task


@pytest.mark.parametrize("model_type", ["roberta", "bert", "deberta-v2"])
@pytest.mark.parametrize("lora_r", [None, 2])
def test_a_head_is_saved_with_its_labels_and_gives_the_same_logits(model_type, lora_r, tmp_path):
    """Pooler and head are new weights: with adapters they are trained and saved whole."""
    base, folder = save_encoder(tmp_path / "base", model_type), tmp_path / "saved"
    task, tokenizer = understanding(LABELS), new_tokenizer()
    labeller = Labeller(tokenizer, task, 30, labels_to_train(find_classifier(base), task))
    rows, _ = encode_texts(Dataset.from_list([{"text": "a b", "label": "label 11"}]), labeller)
    batch = LabelCollator(tokenizer)(rows.to_list())
    del batch["labels"]
    model_args = ModelArguments(model_name_or_path=base)
    model = load_to_finetune(model_args, AdapterArguments(lora_r=lora_r), tokenizer, 30, False, labeller).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += torch.randn(parameter.shape) * 0.1
        before = model(**batch).logits
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        save_adapter_configs(folder, model)
        assert match_labels(find_classifier(str(folder)), task) == LABELS
        loaded, _ = load_to_evaluate(str(folder), dtype="float32", head=labeller.head())
        after = loaded(**batch).logits
    assert before.shape == (1, 12) and torch.allclose(before, after, rtol=1e-5, atol=1e-6)


def test_what_a_model_is_for_is_said_at_once(tmp_path):
    """An encoder does not write, and a model that writes is none."""
    base = save_encoder(tmp_path / "base")
    config = find_classifier(base)
    assert count_positions(config) == 40 - (config.pad_token_id + 1)
    assert find_classifier(str(save_model(tmp_path / "causal", new_tokenizer()))) is None
    assert find_classifier("model.gguf") is find_classifier(None) is None
    with pytest.raises(
        ValueError, match=r"`--task` translation needs a model that writes, and `x` \(roberta\) is an enc"
    ):
        check_classifier("x", config, "translation", load_task("translation"))
    with pytest.raises(ValueError, match="is an encoder, which labels texts and does not write them"):
        load_for_generation(base)


@pytest.mark.parametrize(
    ("model_type", "kind"), [("t5", "an encoder-decoder"), ("vit", "neither a language model nor")]
)
def test_models_of_other_kinds_are_refused_at_once(model_type, kind, tmp_path):
    """Before rows are read: neither head nor prompts fit them."""
    AutoConfig.for_model(model_type).save_pretrained(tmp_path)
    for refuse in (find_classifier, load_for_generation):
        with pytest.raises(ValueError, match=rf"\({model_type}\) is {kind}.*: take a causal language model such as"):
            refuse(str(tmp_path))


def test_an_objective_is_refused_a_model_of_another_kind(tmp_path):
    """Before text is tokenized: an encoder does not write, and a classification head predicts no tokens."""
    encoder = ModelArguments(model_name_or_path=save_encoder(tmp_path / "base"))
    check_kind(encoder, AutoModelForMaskedLM), check_kind(ModelArguments(), AutoModelForCausalLM)
    with pytest.raises(ValueError, match=r"\(roberta\) is an encoder: give `--objective masked`"):
        check_kind(encoder, AutoModelForCausalLM)
    AutoConfig.for_model("llama", architectures=["LlamaForSequenceClassification"]).save_pretrained(tmp_path / "head")
    with pytest.raises(ValueError, match="has a classification head, and predicts no tokens: name the model below"):
        check_kind(ModelArguments(model_name_or_path=str(tmp_path / "head")), AutoModelForCausalLM)
    AutoConfig.for_model("bart").save_pretrained(tmp_path / "bart")  # transformers has a masked class of it
    with pytest.raises(ValueError, match="is an encoder-decoder: take a causal language model"):
        check_kind(ModelArguments(model_name_or_path=str(tmp_path / "bart")), AutoModelForMaskedLM)


def test_labels_are_matched_by_name_never_by_number():
    """Upper case does not matter; labels that nobody named have the order of the task; other labels need a new head."""
    config = AutoConfig.for_model("roberta", id2label={0: "CONTRADICTION", 1: "NEUTRAL", 2: "ENTAILMENT"})
    config.architectures = ["RobertaForSequenceClassification"]
    task = understanding(["entailment", "neutral", "contradiction"])
    assert match_labels(config, task) == labels_to_train(config, task) == ["contradiction", "neutral", "entailment"]
    numbers = understanding(["0", "1", "2"])
    assert match_labels(config, numbers) == ["CONTRADICTION", "NEUTRAL", "ENTAILMENT"]
    assert labels_to_train(config, numbers) == ["0", "1", "2"]
    config.id2label = {number: f"LABEL_{number}" for number in range(3)}
    assert match_labels(config, task) == ["entailment", "neutral", "contradiction"]
    assert match_labels(config, load_task("regression")) is None
    config.problem_type = "multi_label_classification"
    assert match_labels(config, task) is None


def test_the_positions_of_a_saved_model_are_those_that_texts_can_have(tmp_path):
    """RoBERTa numbers tokens from padding id + 1; a model that cannot be read is reported where it is loaded."""
    assert read_positions(save_encoder(tmp_path / "roberta")) == 37
    assert read_positions(str(save_model(tmp_path / "llama", new_tokenizer()))) == 64
    assert read_positions(str(tmp_path / "nothing")) == math.inf
