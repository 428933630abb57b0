"""No token sees what it must not: other documents of its row, and, in a causal model, the tokens after it."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from tiny import ISOLATED, SETTINGS, new_model, pieces_of, random_documents, relative_error
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, Trainer, TrainingArguments

from hf_llm.data.masking import MaskingCollator
from hf_llm.data.packing import PackingCollator, pack
from hf_llm.models.inspection import first_position
from hf_llm.models.isolation import check_causality, check_isolation

# Causal models


@pytest.fixture(scope="module", params=ISOLATED)
def trainer(request, tmp_path_factory):
    """A stock Trainer over packed rows of unequal lengths, for each architecture."""
    rows, _ = pack(Dataset.from_dict({"input_ids": random_documents(9, 20, seed=3)}), 24)
    args = TrainingArguments(
        str(tmp_path_factory.mktemp("run")),
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        per_device_train_batch_size=100,
        per_device_eval_batch_size=100,
    )
    collator = PackingCollator(pad_token_id=2)
    return Trainer(new_model(request.param), args, data_collator=collator, train_dataset=rows, eval_dataset=rows)


def separate_losses(model, rows):
    """Mean loss of all predicted tokens, and the logits, where every piece is a forward pass of its own."""
    losses, logits = [], []
    with torch.no_grad():
        for piece in pieces_of(rows):
            ids = torch.tensor([piece])
            logits.append(model(ids).logits[0])
            losses.append(torch.nn.functional.cross_entropy(logits[-1][:-1], ids[0, 1:], reduction="none"))
    return torch.cat(losses).mean().item(), torch.cat(logits)


def test_the_packed_training_loss_is_the_mean_over_the_tokens_of_separate_documents(trainer):
    """The stock Trainer's training batch, model in training mode, against one forward pass for each document."""
    (batch,) = trainer.get_train_dataloader()
    assert len(batch["input_ids"]) < 9, "nothing was packed"
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, dict(batch)).item()
    count = (batch["labels"][:, 1:] != -100).sum()
    accumulated = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=count).item()
    separate, _ = separate_losses(trainer.model.eval(), trainer.train_dataset)
    assert loss == pytest.approx(separate, rel=1e-6)
    assert accumulated == pytest.approx(separate, rel=1e-6)


def test_packed_logits_equal_those_of_separate_documents(trainer):
    """The stock Trainer's evaluation step: every logit of every packed document, up to the rounding of float32."""
    (batch,) = trainer.get_eval_dataloader()
    real = torch.tensor([[i < len(row["input_ids"]) for i in range(24)] for row in trainer.eval_dataset])
    loss, logits, _ = trainer.prediction_step(trainer.model, dict(batch), prediction_loss_only=False)
    separate_loss, separate = separate_losses(trainer.model.eval(), trainer.eval_dataset)
    assert relative_error(logits[real[:, : logits.shape[1]]], separate) < 2e-6
    assert loss.item() == pytest.approx(separate_loss, rel=1e-6)


def test_an_attention_mask_of_ones_would_let_packed_documents_leak():
    """This is why the collator makes no mask; and it shows that the comparison above notices a leak."""
    model = new_model("llama").eval()
    (batch,) = [PackingCollator(2)([{"input_ids": [5, 6, 7, 8, 9, 10], "lengths": [3, 3]}])]
    with torch.no_grad():
        isolated = model(**batch, use_cache=False).logits
        leaking = model(**batch, attention_mask=torch.ones_like(batch["input_ids"]), use_cache=False).logits
    assert relative_error(leaking[0, 3:], isolated[0, 3:]) > 1e-2


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("model_type", ISOLATED)
def test_isolating_architectures_pass_the_check_and_keep_their_mode(model_type, attention):
    """In float32 and in bfloat16."""
    model = new_model(model_type, attn_implementation=attention).train()
    check_isolation(model, PackingCollator(2))
    check_isolation(model.to(torch.bfloat16), PackingCollator(2))
    assert model.training


@pytest.mark.parametrize("model_type", ["opt", "bloom"])
def test_architectures_that_leak_are_refused_with_the_remedy(model_type):
    """OPT counts its positions by itself, BLOOM has none."""
    with pytest.raises(ValueError, match=r"--packing false"):
        check_isolation(new_model(model_type), PackingCollator(2))


@pytest.mark.parametrize("model_type", [*ISOLATED, "opt", "bloom"])
def test_causal_models_do_not_see_later_tokens(model_type):
    """This holds for architectures that cannot be packed too, and in bfloat16."""
    for dtype in (torch.float32, torch.bfloat16):
        for positions in {model_type != "bloom", False}:
            check_causality(new_model(model_type).to(dtype), PackingCollator(2, positions))


@pytest.mark.parametrize("model_type", ["bert", "roberta"])
def test_a_model_that_sees_later_tokens_is_not_trained_to_predict_them(model_type):
    """The causal classes of BERT and RoBERTa see them unless `is_decoder` is set."""
    settings = {"hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    settings |= {"initializer_range": 0.002}  # so small that tokens hardly attend to each other
    for is_decoder in (False, True):
        config = AutoConfig.for_model(model_type, vocab_size=300, is_decoder=is_decoder, **settings)
        model = AutoModelForCausalLM.from_config(config)
        if is_decoder:
            check_causality(model, PackingCollator(2, False))
        else:
            with pytest.raises(ValueError, match=r"sees the tokens that it is to predict .* `--objective masked`"):
                check_causality(model, PackingCollator(2, False))


def test_sizes_that_do_not_fit_are_an_error_of_one_line(monkeypatch):
    """Some show only when the model computes: more experts for a token than there are."""
    monkeypatch.setitem(SETTINGS, "mixtral", SETTINGS["llama"] | {"num_local_experts": 2, "num_experts_per_tok": 4})
    with pytest.raises(ValueError, match=r"MixtralForCausalLM cannot compute logits: .*`--config_overrides`"):
        check_causality(new_model("mixtral"), PackingCollator(2))


def test_broken_weights_are_not_reported_as_a_leak():
    """That message would suggest another objective."""
    model = new_model("gpt2")
    model.transformer.wte.weight.data[:] = float("nan")
    with pytest.raises(ValueError, match="GPT2LMHeadModel gives logits that are not finite"):
        check_causality(model, PackingCollator(2))


def test_a_model_with_few_positions_is_checked_with_rows_that_fit():
    """Six positions here, fewer than the check uses otherwise."""
    check_causality(new_model("gpt2", max_position_embeddings=6), PackingCollator(2))


# Masked models

VOCABULARY, SPECIAL = 1000, 4
TOKENS = np.random.default_rng(0).integers(SPECIAL, VOCABULARY, (3, 120))
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def masking_collator(**settings):
    return MaskingCollator(2, mask_token_id=3, ordinary_ids=np.arange(SPECIAL, VOCABULARY), **settings)


def new_masked_model(model_type, **settings):
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        model_type, **SIZES | {"vocab_size": VOCABULARY, "pad_token_id": 2, "initializer_range": 0.3} | settings
    )
    return AutoModelForMaskedLM.from_config(config).eval()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("model_type", ["roberta", "bert", "xlm-roberta", "camembert"])
def test_packed_documents_of_masked_models_do_not_see_each_other(model_type, attention):
    """The logits of each equal those of a forward pass of its own, for which the model numbers the positions."""
    model = new_masked_model(model_type)
    model.set_attn_implementation(attention)
    collator = masking_collator(first_position=first_position(model), additive_mask=attention == "eager")
    check_isolation(model, collator)
    document = TOKENS[0, :20]
    packed = {"input_ids": np.r_[TOKENS[1, :13], document], "lengths": [13, 20]}
    short = {"input_ids": TOKENS[2, :9], "lengths": [9]}
    batch = collator([row | {"labels": row["input_ids"]} for row in (packed, short)])
    batch.pop("labels")
    with torch.no_grad():
        logits = model(**batch).logits
        separate = model(input_ids=torch.tensor(document[None]), attention_mask=torch.ones(1, 20).long()).logits
        shorter = model(input_ids=torch.tensor(short["input_ids"][None])).logits
    assert relative_error(logits[0, 13:], separate[0]) < 1e-5
    assert relative_error(logits[1, :9], shorter[0]) < 1e-5


@pytest.mark.parametrize("model_type", ["distilbert", "roberta"])
def test_masked_models_do_not_see_padding_in_rows_of_one_document(model_type):
    """Without packing the collator makes a mask of tokens, which every architecture takes."""
    sizes = {"dim": 32, "n_layers": 2, "n_heads": 2} if model_type == "distilbert" else {}
    model = new_masked_model(model_type, **sizes)
    row, longer = (
        {"input_ids": tokens, "lengths": [len(tokens)], "labels": tokens} for tokens in (TOKENS[0, :9], TOKENS[1])
    )
    batch = masking_collator(position_ids=False)([row, longer])
    assert batch["attention_mask"].sum(1).tolist() == [9, 120] and "position_ids" not in batch
    batch.pop("labels")
    with torch.no_grad():
        padded, plain = model(**batch).logits[0, :9], model(torch.tensor(row["input_ids"][None])).logits[0]
    assert relative_error(padded, plain) < 1e-5


@pytest.mark.parametrize("model_type", ["fnet", "deberta-v2"])
def test_masked_architectures_that_leak_are_refused_with_the_remedy(model_type):
    """FNet mixes all tokens of a row, DeBERTa takes no mask of pairs of tokens."""
    with pytest.raises(ValueError, match="--packing false"):
        check_isolation(new_masked_model(model_type), masking_collator())
