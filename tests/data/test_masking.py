"""Masked language modelling as it was published, on rows in which documents do not see each other."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoConfig, AutoModelForMaskedLM, DataCollatorForLanguageModeling

from hf_llm.data.masking import MaskingCollator, mask_rows
from hf_llm.data.vocabulary import MASK, train_tokenizer
from hf_llm.models.isolation import check_isolation
from hf_llm.models.loading import first_position

VOCABULARY, SPECIAL = 1000, 4
TOKENS = np.random.default_rng(0).integers(SPECIAL, VOCABULARY, (200, 120))
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def collator(**settings):
    ordinary = np.arange(SPECIAL, VOCABULARY)
    return MaskingCollator(2, **{"mask_token_id": 3, "ordinary": ordinary} | settings)


def rows(tokens=TOKENS):
    """Each with a special token at both ends."""
    return [{"input_ids": np.r_[0, row, 1], "lengths": [len(row) + 2]} for row in tokens]


def new_model(model_type, **settings):
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        model_type, **SIZES | {"vocab_size": VOCABULARY, "pad_token_id": 2, "initializer_range": 0.3} | settings
    )
    return AutoModelForMaskedLM.from_config(config).eval()


def figures(input_ids, labels, original):
    """Shares: predicted; of those masked, replaced, kept."""
    predicted = labels != -100
    assert (labels[predicted] == original[predicted]).all()
    assert (input_ids[~predicted] == original[~predicted]).all()
    masked = (input_ids == 3) & predicted
    kept = (input_ids == original) & predicted
    count = predicted.sum()
    return [
        count / (original >= SPECIAL).sum(),
        masked.sum() / count,
        1 - (masked | kept).sum() / count,
        kept.sum() / count,
    ]


def test_tokens_are_hidden_as_published_and_as_transformers_does():
    """15 % predicted, of those 80 % masked, 10 % replaced, 10 % kept; the library's own collator beside it."""
    batch = collator()(rows())
    original = np.stack([row["input_ids"] for row in rows()])
    ours = figures(batch["input_ids"].numpy(), batch["labels"].numpy(), original)
    assert ours == pytest.approx([0.15, 0.8, 0.1, 0.1], abs=0.02)

    class Tokenizer:  # all that the library's masking asks of one
        mask_token, pad_token = "<mask>", "<pad>"

        def get_special_tokens_mask(self, ids, already_has_special_tokens):
            return [int(id < SPECIAL) for id in ids]

        def convert_tokens_to_ids(self, token):
            return 3

        def __len__(self):
            return VOCABULARY

    torch.manual_seed(0)
    library = DataCollatorForLanguageModeling(Tokenizer(), mlm_probability=0.15)
    theirs = figures(*(t.numpy() for t in library.torch_mask_tokens(torch.tensor(original))), original)
    assert ours == pytest.approx(theirs, abs=0.02)


def test_special_tokens_are_neither_hidden_nor_put_in():
    """Beginning, end and padding stay; what replaces a token is an ordinary one."""
    batch = collator()(rows(TOKENS[:50]))
    assert (batch["input_ids"][:, 0] == 0).all() and (batch["input_ids"][:, -1] == 1).all()
    assert ((batch["input_ids"][:, 1:-1] >= SPECIAL) | (batch["input_ids"][:, 1:-1] == 3)).all()
    assert (batch["labels"][:, [0, -1]] == -100).all()


def test_a_short_row_has_something_to_predict():
    """A loss over nothing would be 0 / 0."""
    assert (collator()(rows(TOKENS[:, :2]))["labels"] != -100).sum(1).tolist() == [1] * len(TOKENS)


def test_each_epoch_hides_others_and_the_same_epoch_the_same():
    """Whatever came before, and whatever else is in the batch: so a resumed run goes on exactly."""
    first = collator(epoch=0)(rows(TOKENS[:4]))
    again = collator(epoch=0)(rows(TOKENS[2:6]))
    other = collator(epoch=1)(rows(TOKENS[:4]))
    assert torch.equal(first["input_ids"][2:], again["input_ids"][:2])
    assert not torch.equal(first["labels"], other["labels"])
    assert not torch.equal(first["labels"], collator(seed=1)(rows(TOKENS[:4]))["labels"])


def test_rows_for_evaluation_are_masked_once():
    """Every evaluation asks for the same tokens, whatever the epoch."""
    dataset = Dataset.from_list(
        [{"input_ids": row["input_ids"].tolist(), "lengths": row["lengths"]} for row in rows(TOKENS[:5])]
    )
    masked = mask_rows(dataset.with_format("numpy"), collator())
    batches = [collator(epoch=epoch)([masked[i] for i in range(5)]) for epoch in (0, 3)]
    assert torch.equal(batches[0]["labels"], batches[1]["labels"])
    assert torch.equal(batches[0]["input_ids"], collator()(rows(TOKENS[:5]))["input_ids"])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("model_type", ["roberta", "bert", "xlm-roberta", "camembert"])
def test_packed_documents_do_not_see_each_other(model_type, attention):
    """Each one's logits equal those of a run by itself, as the model numbers positions on its own."""
    model = new_model(model_type)
    model.set_attn_implementation(attention)
    packing = collator(first_position=first_position(model), additive=attention == "eager")
    check_isolation(model, packing)
    document = TOKENS[0, :20]
    packed = {"input_ids": np.r_[TOKENS[1, :13], document], "lengths": [13, 20]}
    short = {"input_ids": TOKENS[2, :9], "lengths": [9]}
    batch = packing([row | {"labels": row["input_ids"]} for row in (packed, short)])
    batch.pop("labels")
    with torch.no_grad():
        logits = model(**batch).logits
        alone = model(input_ids=torch.tensor(document[None]), attention_mask=torch.ones(1, 20).long()).logits
        shorter = model(input_ids=torch.tensor(short["input_ids"][None])).logits
    assert (logits[0, 13:] - alone[0]).abs().max() < 1e-4
    assert (logits[1, :9] - shorter[0]).abs().max() < 1e-4


@pytest.mark.parametrize("model_type", ["distilbert", "roberta"])
def test_without_packing_padding_is_not_seen(model_type):
    """By a plain mask, which every architecture takes."""
    model = new_model(model_type, **({"dim": 32, "n_layers": 2, "n_heads": 2} if model_type == "distilbert" else {}))
    unpacked = collator(position_ids=False)
    row, longer = (
        {"input_ids": tokens, "lengths": [len(tokens)], "labels": tokens} for tokens in (TOKENS[0, :9], TOKENS[1])
    )
    batch = unpacked([row, longer])
    assert batch["attention_mask"].sum(1).tolist() == [9, 120] and "position_ids" not in batch
    batch.pop("labels")
    with torch.no_grad():
        assert (model(**batch).logits[0, :9] - model(torch.tensor(row["input_ids"][None])).logits[0]).abs().max() < 1e-4


@pytest.mark.parametrize("model_type", ["fnet", "deberta-v2"])
def test_an_architecture_that_leaks_is_refused_with_the_remedy(model_type):
    """FNet mixes all tokens of a row, DeBERTa takes no mask of pairs of tokens."""
    with pytest.raises(ValueError, match="--packing false"):
        check_isolation(new_model(model_type), collator())


def test_a_new_tokenizer_knows_its_mask():
    """Under the name by which pipelines ask for it."""
    tokenizer = train_tokenizer(["a few words"], 300, special_tokens=[MASK])
    assert tokenizer.mask_token == MASK and tokenizer.mask_token_id < 300
    assert train_tokenizer(["a few words"], 300).mask_token is None
