"""Packing keeps every token, fills the rows well, and documents in one row do not see each other."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from tiny import new_model
from transformers import AutoConfig, AutoModelForCausalLM, BartConfig, BartForCausalLM, Trainer, TrainingArguments

from hf_llm.data.packing import PackingCollator, best_fit, cut_documents, pack
from hf_llm.models.inspection import can_skip_prompts
from hf_llm.models.isolation import check_causality, check_isolation

ISOLATED = ["llama", "qwen3", "mistral", "gemma", "gpt2"]


def random_documents(number, longest, seed=0):
    generator = np.random.default_rng(seed)
    return [generator.integers(3, 50, length).tolist() for length in generator.integers(1, longest + 1, number)]


def as_dataset(documents):
    return Dataset.from_dict({"input_ids": documents})


def pieces_of(rows):
    """Every piece of every row."""
    return [
        piece.tolist()
        for row in rows
        for piece in np.split(np.asarray(row["input_ids"]), np.cumsum(row["lengths"])[:-1])
    ]


def first_fit(lengths, max_length):
    """Number of rows that first fit takes, in the order of the documents."""
    free = []
    for length in lengths:
        row = next((i for i, room in enumerate(free) if room >= length), None)
        if row is None:
            free.append(max_length - length)
        else:
            free[row] -= length
    return len(free)


@pytest.mark.parametrize(
    "lengths, pieces",
    [
        ([3], [(0, 3)]),
        ([4, 1], [(0, 4), (4, 1)]),
        ([3, 10], [(0, 3), (3, 4), (7, 4), (11, 2)]),
        ([5, 9, 2], [(0, 3), (3, 2), (5, 4), (9, 3), (12, 2), (14, 2)]),
    ],
)
def test_only_documents_longer_than_a_row_are_cut(lengths, pieces):
    """(start, length) of the pieces, in document order, where a row holds 4 tokens; no token is cut off alone."""
    starts, piece_lengths = cut_documents(np.array(lengths), 4)
    assert list(zip(starts.tolist(), piece_lengths.tolist(), strict=True)) == pieces


def test_a_piece_goes_into_the_fullest_row_that_has_room():
    """Two rows of 10 are enough here; the emptiest row with room would take three."""
    lengths = np.array([2, 7, 3, 6, 2])
    assert sorted(sorted(lengths[row].tolist()) for row in best_fit(lengths, 10)) == [[2, 2, 6], [3, 7]]


LENGTHS = {
    "uniform": lambda g: g.integers(1, 101, 500),
    "short": lambda g: g.integers(1, 12, 500),
    "around a third": lambda g: g.integers(30, 40, 500),
    "heavy tail": lambda g: np.minimum(g.geometric(0.03, 500), 100),
}


@pytest.mark.parametrize("kind", LENGTHS)
@pytest.mark.parametrize("seed", range(3))
def test_best_fit_places_each_piece_once_and_wastes_little(kind, seed):
    """No row is over-full, no more rows than first fit takes, and at most 11/9 of the least possible, plus one."""
    lengths = LENGTHS[kind](np.random.default_rng(seed))
    rows = best_fit(lengths, 100)
    assert sorted(piece for row in rows for piece in row) == list(range(len(lengths)))
    assert max(lengths[row].sum() for row in rows) <= 100
    assert len(rows) <= first_fit(lengths, 100)
    per_row = 100 // lengths.min()  # and no row takes more pieces than this
    least = max(-(-lengths.sum() // 100), (lengths > 50).sum(), -(-len(lengths) // per_row))
    assert len(rows) <= 11 / 9 * least + 1


@pytest.mark.parametrize("packing", [True, False], ids=["packing", "no packing"])
def test_no_token_is_lost_and_each_document_keeps_its_order(packing):
    """The pieces are exactly the documents; those over 32 tokens are cut at every 32nd, or one before."""
    documents = [*random_documents(200, 80), list(range(3, 36))]
    rows, report = pack(as_dataset(documents), 32, packing)
    pieces = []
    for ids in documents:
        ends = [end - (len(ids) - end == 1) for end in range(32, len(ids), 32)]
        pieces += [ids[start:end] for start, end in zip([0, *ends], [*ends, len(ids)], strict=True)]
    assert sorted(pieces_of(rows)) == sorted(pieces)
    tokens = sum(map(len, documents))
    assert (report.tokens_in, report.tokens_packed, report.tokens_dropped) == (tokens, tokens, 0)


@pytest.mark.parametrize("packing", [True, False], ids=["packing", "no packing"])
def test_the_report_says_how_full_the_rows_are_and_how_many_documents_were_cut(packing):
    """Two documents of 2 and one of 6 tokens, rows of 4: one cut; 3 rows packed, 4 rows with a piece each."""
    rows, report = pack(as_dataset([[5, 6], [7, 8], [9] * 6]), 4, packing)
    assert (report.documents, report.documents_cut, report.rows) == (3, 1, 3 if packing else 4)
    assert report.packing_efficiency == pytest.approx(10 / 12 if packing else 10 / 16)
    assert len(rows) == report.rows
    assert report.metrics("eval")["eval_documents_cut"] == 1


def test_packed_rows_are_nearly_full():
    """Documents of mixed lengths fill the rows to more than 99 %."""
    _, report = pack(as_dataset(random_documents(2000, 100)), 128)
    assert report.packing_efficiency > 0.99


def test_the_batch_restarts_positions_and_predicts_no_first_token():
    """Row of pieces 3 + 2 beside a row of 2: positions restart, first tokens and padding carry the label -100."""
    batch = PackingCollator(pad_token_id=2)(
        [
            {"input_ids": np.array([10, 11, 12, 20, 21]), "lengths": np.array([3, 2])},
            {"input_ids": np.array([30, 2]), "lengths": np.array([2])},
        ]
    )
    assert batch["input_ids"].tolist() == [[10, 11, 12, 20, 21], [30, 2, 2, 2, 2]]
    # The pad token inside the document is learned; only the layout decides what padding is.
    assert batch["labels"].tolist() == [[-100, 11, 12, -100, 21], [-100, 2, -100, -100, -100]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1], [0, 1, 0, 1, 2]]
    assert set(batch) == {"input_ids", "labels", "position_ids"}  # an attention mask would switch isolation off


def test_models_without_positions_get_none():
    """Rows of one document each, for architectures that take no position ids."""
    batch = PackingCollator(2, position_ids=False)([{"input_ids": [5, 6], "lengths": [2]}])
    assert {key: value.tolist() for key, value in batch.items()} == {"input_ids": [[5, 6]], "labels": [[-100, 6]]}


def test_the_logits_that_are_kept_are_those_before_a_label():
    """Two completions in one row: a mask over the batch, and the labels that follow, row after row."""
    rows = [
        {"input_ids": [10, 11, 12, 20, 21], "labels": [-100, 11, 12, -100, 21], "lengths": [3, 2]},
        {"input_ids": [30, 31, 32], "labels": [-100, -100, 32], "lengths": [3]},
    ]
    batch = PackingCollator(2, skip_prompts=True)(rows)
    assert batch["logits_to_keep"].int().tolist() == [[1, 1, 0, 1, 0], [0, 1, 0, 0, 0]]
    assert batch["shift_labels"].tolist() == [11, 12, 21, 32]
    assert torch.equal(batch["labels"], PackingCollator(2)(rows)["labels"])


@pytest.mark.parametrize("model_type", ISOLATED)
def test_skipping_the_logits_of_prompts_changes_neither_loss_nor_gradients(model_type, tmp_path):
    """The stock Trainer's loss, one logit for each label; only the matrix products have another shape."""
    model = new_model(model_type)
    rows = [{"input_ids": ids, "labels": [-100] * 5 + ids[5:]} for ids in random_documents(9, 20, seed=3) if ids[5:]]
    rows, _ = pack(Dataset.from_list(rows), 24)
    trainer = Trainer(model, TrainingArguments(str(tmp_path), use_cpu=True, report_to="none"))
    assert can_skip_prompts(model, trainer.args)
    found = []
    for skip in (False, True):
        batch = PackingCollator(2, skip_prompts=skip)([*rows])
        count = trainer._get_num_items_in_batch([batch], trainer.args.device)
        loss, outputs = trainer.compute_loss(model, batch, return_outputs=True, num_items_in_batch=count)
        model.zero_grad()
        loss.backward()
        gradients = torch.cat([p.grad.flatten() for p in model.parameters()])
        found.append((count, loss.item(), gradients))
    assert outputs.logits.shape[0] == count == found[0][0]
    assert found[1][1] == pytest.approx(found[0][1], abs=1e-6)
    assert torch.allclose(found[1][2], found[0][2], atol=1e-6)


PLAIN = {"use_liger_kernel": False, "label_smoothing_factor": 0.0, "torch_compile": False, "n_gpu": 1}
PLAIN |= {"accelerator_config": SimpleNamespace(dispatch_batches=None)}


@pytest.mark.parametrize("setting", ["use_liger_kernel", "label_smoothing_factor", "torch_compile", "n_gpu"])
def test_losses_that_want_all_logits_get_them(setting):
    """Liger's and the label smoother's; and several devices in one process, which cut batches by rows."""
    assert can_skip_prompts(new_model("llama"), SimpleNamespace(**PLAIN))
    assert not can_skip_prompts(new_model("llama"), SimpleNamespace(**PLAIN | {setting: 2}))


def test_an_architecture_with_a_loss_of_its_own_gets_all_logits():
    """BART shifts no labels; Bamba may have a second loss over all logits."""
    sizes = {"decoder_layers": 1, "decoder_attention_heads": 1, "decoder_ffn_dim": 8}
    args = SimpleNamespace(**PLAIN)
    assert not can_skip_prompts(BartForCausalLM(BartConfig(vocab_size=30, d_model=8, **sizes)), args)
    model = new_model("llama")
    model.config.z_loss_coefficient = 0.01
    assert not can_skip_prompts(model, args)


def test_batches_that_are_cut_for_several_devices_have_all_logits():
    """One process reads for all, and cuts by rows."""
    args = SimpleNamespace(**PLAIN | {"accelerator_config": SimpleNamespace(dispatch_batches=True)})
    assert not can_skip_prompts(new_model("llama"), args)


@pytest.fixture(scope="module", params=ISOLATED)
def trainer(request, tmp_path_factory):
    """A stock Trainer over packed rows of unequal lengths, for each architecture."""
    rows, _ = pack(as_dataset(random_documents(9, 20, seed=3)), 24)
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
    """Mean loss of all predicted tokens, and the logits, where every piece goes through the model alone."""
    losses, logits = [], []
    with torch.no_grad():
        for piece in pieces_of(rows):
            ids = torch.tensor([piece])
            logits.append(model(ids).logits[0])
            losses.append(torch.nn.functional.cross_entropy(logits[-1][:-1], ids[0, 1:], reduction="none"))
    return torch.cat(losses).mean().item(), torch.cat(logits)


def test_the_packed_training_loss_is_the_mean_over_the_tokens_of_separate_documents(trainer):
    """The stock Trainer's training batch, model in training mode, against a run of each document by itself."""
    (batch,) = trainer.get_train_dataloader()
    assert len(batch["input_ids"]) < 9, "nothing was packed"
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, dict(batch)).item()
    count = (batch["labels"][:, 1:] != -100).sum()
    accumulated = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=count).item()
    alone, _ = separate_losses(trainer.model.eval(), trainer.train_dataset)
    assert loss == pytest.approx(alone, abs=1e-5)
    assert accumulated == pytest.approx(alone, abs=1e-5)


def test_packed_logits_equal_those_of_separate_documents(trainer):
    """The stock Trainer's evaluation step: every logit of every packed document, within 1e-5."""
    (batch,) = trainer.get_eval_dataloader()
    real = torch.tensor([[i < len(row["input_ids"]) for i in range(24)] for row in trainer.eval_dataset])
    loss, logits, _ = trainer.prediction_step(trainer.model, dict(batch), prediction_loss_only=False)
    alone, separate = separate_losses(trainer.model.eval(), trainer.eval_dataset)
    assert (logits[real[:, : logits.shape[1]]] - separate).abs().max() < 1e-5
    assert loss.item() == pytest.approx(alone, abs=1e-5)


def test_an_attention_mask_of_ones_would_let_packed_documents_leak():
    """Why the collator gives none; and proof that the comparison above notices a leak."""
    model = new_model("llama").eval()
    (batch,) = [PackingCollator(2)([{"input_ids": [5, 6, 7, 8, 9, 10], "lengths": [3, 3]}])]
    with torch.no_grad():
        isolated = model(**batch, use_cache=False).logits
        leaking = model(**batch, attention_mask=torch.ones_like(batch["input_ids"]), use_cache=False).logits
    assert (leaking - isolated)[0, 3:].abs().max() > 1e-2


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
def test_causal_models_do_not_see_what_they_are_to_predict(model_type):
    """Also those that may not be packed; in bfloat16 too."""
    for dtype in (torch.float32, torch.bfloat16):
        for positions in {model_type != "bloom", False}:
            check_causality(new_model(model_type).to(dtype), PackingCollator(2, positions))


@pytest.mark.parametrize("model_type", ["bert", "roberta"])
def test_a_model_that_sees_the_future_is_not_trained_to_predict_it(model_type):
    """The causal class of BERT is one, unless its configuration makes a decoder of it."""
    settings = {"hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    settings |= {"initializer_range": 0.002}  # so small that tokens hardly look at each other
    for is_decoder in (False, True):
        config = AutoConfig.for_model(model_type, vocab_size=300, is_decoder=is_decoder, **settings)
        model = AutoModelForCausalLM.from_config(config)
        if is_decoder:
            check_causality(model, PackingCollator(2, False))
        else:
            with pytest.raises(ValueError, match=r"sees the tokens that it is to predict .* `--objective masked`"):
                check_causality(model, PackingCollator(2, False))


def test_broken_weights_are_not_taken_for_a_leak():
    """They would send the user to another objective."""
    model = new_model("gpt2")
    model.transformer.wte.weight.data[:] = float("nan")
    with pytest.raises(ValueError, match="GPT2LMHeadModel gives logits that are not finite"):
        check_causality(model, PackingCollator(2))


def test_a_model_of_few_positions_is_looked_at_as_far_as_they_go():
    """Rows may be as short."""
    check_causality(new_model("gpt2", max_position_embeddings=6), PackingCollator(2))
