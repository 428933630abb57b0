"""The size of a model is counted right, and logits of prompts are skipped only where the loss stays the same."""

from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from tiny import ISOLATED, new_model, new_tokenizer, random_documents, relative_error
from transformers import BartConfig, BartForCausalLM, Trainer, TrainingArguments

from hf_llm.data.packing import PackingCollator, pack
from hf_llm.models.inspection import can_skip_prompts, count_parameters, detect_auto_class, end_token_ids

ARGS = {"use_liger_kernel": False, "label_smoothing_factor": 0.0, "torch_compile": False, "n_gpu": 1}
ARGS |= {"accelerator_config": SimpleNamespace(dispatch_batches=None)}


def test_tied_parameters_are_counted_once():
    """With tied embeddings, input and output matrix are one."""
    untied, tied = (new_model(tie_word_embeddings=tie, vocab_size=100) for tie in (False, True))
    assert count_parameters(untied) - count_parameters(tied) == 100 * 16


@pytest.mark.parametrize("model_type", ISOLATED)
def test_skipping_the_logits_of_prompts_changes_neither_loss_nor_gradients(model_type, tmp_path):
    """The stock Trainer computes the same loss from one logit for each label, up to the rounding of float32."""
    model = new_model(model_type)
    rows = [{"input_ids": ids, "labels": [-100] * 5 + ids[5:]} for ids in random_documents(9, 20, seed=3) if ids[5:]]
    rows, _ = pack(Dataset.from_list(rows), 24)
    trainer = Trainer(model, TrainingArguments(str(tmp_path), use_cpu=True, report_to="none"))
    assert can_skip_prompts(model, trainer.args)
    counts, losses, gradients = [], [], []
    for skip in (False, True):
        batch = PackingCollator(2, skip_prompts=skip)([*rows])
        counts.append(trainer._get_num_items_in_batch([batch], trainer.args.device))
        loss, outputs = trainer.compute_loss(model, batch, return_outputs=True, num_items_in_batch=counts[-1])
        model.zero_grad()
        loss.backward()
        losses.append(loss.item())
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert outputs.logits.shape[0] == counts[0] == counts[1]
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    assert relative_error(gradients[1], gradients[0]) < 4e-6


@pytest.mark.parametrize("setting", ["use_liger_kernel", "label_smoothing_factor", "torch_compile", "n_gpu"])
def test_losses_that_need_all_logits_get_them(setting):
    """Liger's loss and label smoothing need all logits; several devices in one process divide batches by rows."""
    assert can_skip_prompts(new_model("llama"), SimpleNamespace(**ARGS))
    assert not can_skip_prompts(new_model("llama"), SimpleNamespace(**ARGS | {setting: 2}))


def test_an_architecture_with_a_loss_of_its_own_gets_all_logits():
    """BART does not shift labels; Bamba may have a second loss over all logits."""
    sizes = {"decoder_layers": 1, "decoder_attention_heads": 1, "decoder_ffn_dim": 8}
    args = SimpleNamespace(**ARGS)
    assert not can_skip_prompts(BartForCausalLM(BartConfig(vocab_size=30, d_model=8, **sizes)), args)
    model = new_model("llama")
    model.config.z_loss_coefficient = 0.01
    assert not can_skip_prompts(model, args)


def test_batches_that_are_divided_among_devices_have_all_logits():
    """With `dispatch_batches`, one process reads for all and divides each batch by rows."""
    args = SimpleNamespace(**ARGS | {"accelerator_config": SimpleNamespace(dispatch_batches=True)})
    assert not can_skip_prompts(new_model("llama"), args)


@pytest.mark.parametrize(
    "config, message",
    [("[" * 40_000, "nested deeper"), ("{", "line 1, column 2, is not JSON"), ("[1]", "holds a JSON list")],
)
def test_a_config_that_is_not_one_is_named(tmp_path, config, message):
    """In one line, however deep it is."""
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ValueError, match=f"config.json`.*{message}"):
        detect_auto_class(str(tmp_path))


@pytest.mark.parametrize("known, ends", [(7, [1, 2, 7]), ([7, 2], [1, 2, 7]), (None, [1, 2])])
def test_an_answer_ends_at_the_tokens_of_model_tokenizer_and_template(known, ends):
    """One token, several or none in the generation config."""
    model, tokenizer = new_model(), new_tokenizer()
    model.generation_config.eos_token_id = known
    assert tokenizer.eos_token_id == 1 and end_token_ids(model, tokenizer, tokenizer.pad_token) == ends
