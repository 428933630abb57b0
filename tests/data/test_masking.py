"""Tokens are masked as it was published, and as a resumed run and every evaluation need it."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import DataCollatorForLanguageModeling

from hf_llm.data.masking import MaskingCollator, mask_rows

VOCABULARY, SPECIAL = 1000, 4
TOKENS = np.random.default_rng(0).integers(SPECIAL, VOCABULARY, (200, 120))


def collator(**settings):
    ordinary = np.arange(SPECIAL, VOCABULARY)
    return MaskingCollator(2, **{"mask_token_id": 3, "ordinary_ids": ordinary} | settings)


def rows(tokens=TOKENS):
    """Rows with a special token at both ends."""
    return [{"input_ids": np.r_[0, row, 1], "lengths": [len(row) + 2]} for row in tokens]


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
    """15 % are predicted, of those 80 % masked, 10 % replaced, 10 % kept; transformers' own collator gives the same."""
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
    """Start and end tokens and padding stay; tokens are only replaced by the mask or by ordinary tokens."""
    batch = collator()(rows(TOKENS[:50]))
    assert (batch["input_ids"][:, 0] == 0).all() and (batch["input_ids"][:, -1] == 1).all()
    assert ((batch["input_ids"][:, 1:-1] >= SPECIAL) | (batch["input_ids"][:, 1:-1] == 3)).all()
    assert (batch["labels"][:, [0, -1]] == -100).all()


def test_a_short_row_has_something_to_predict():
    """At least one token is hidden, because a mean loss over none would be 0 / 0."""
    assert (collator()(rows(TOKENS[:, :2]))["labels"] != -100).sum(1).tolist() == [1] * len(TOKENS)


def test_each_epoch_hides_others_and_the_same_epoch_the_same():
    """Whatever the earlier batches and the other rows of the batch were, so that resuming is exact."""
    first = collator(epoch=0)(rows(TOKENS[:4]))
    again = collator(epoch=0)(rows(TOKENS[2:6]))
    other = collator(epoch=1)(rows(TOKENS[:4]))
    assert torch.equal(first["input_ids"][2:], again["input_ids"][:2])
    assert not torch.equal(first["labels"], other["labels"])
    assert not torch.equal(first["labels"], collator(seed=1)(rows(TOKENS[:4]))["labels"])


def test_rows_for_evaluation_are_masked_once():
    """Every evaluation predicts the same tokens, whatever the epoch."""
    dataset = Dataset.from_list(
        [{"input_ids": row["input_ids"].tolist(), "lengths": row["lengths"]} for row in rows(TOKENS[:5])]
    )
    masked = mask_rows(dataset.with_format("numpy"), collator())
    batches = [collator(epoch=epoch)([masked[i] for i in range(5)]) for epoch in (0, 3)]
    assert torch.equal(batches[0]["labels"], batches[1]["labels"])
    assert torch.equal(batches[0]["input_ids"], collator()(rows(TOKENS[:5]))["input_ids"])
