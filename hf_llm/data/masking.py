"""Masked language modeling: which tokens are hidden and predicted, and batches for bidirectional models.

Devlin et al. 2019, arXiv 1810.04805, 3.1 and the code published with it: 15 % of a row's tokens that are not special,
at least one, are selected for prediction; of these 80 % become the mask token, 10 % a random token and 10 % stay. All
other labels are -100. Liu et al. 2019, arXiv 1907.11692, 4.1: other tokens are selected in each epoch.
"""

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from datasets.fingerprint import Hasher
from transformers import TrainerCallback

from hf_llm.data.packing import PackingCollator
from hf_llm.data.token_folders import TokenRows

MASKED_SHARE, RANDOM_SHARE = 0.8, 0.1  # of the selected tokens


@dataclass(kw_only=True)
class MaskingCollator(PackingCollator):
    """`PackingCollator` for bidirectional models, which also hides tokens.

    Which tokens are hidden depends only on seed, epoch and the row's tokens, not on the order of rows, on workers or on
    earlier batches: a resumed run hides the same ones. Rows that already have `labels` are not masked again.

    Args:
        mask_token_id: replaces hidden tokens.
        ordinary_ids: ids of the tokens that are not special, (V,).
        probability: share of a row's ordinary tokens that are predicted.
        first_position: position id of the first token of a document; RoBERTa's is its padding id + 1.
        additive_mask: True for attention that adds the mask to its scores (`eager`), False for boolean masks.
    """

    causal = False

    mask_token_id: int
    ordinary_ids: np.ndarray
    probability: float = 0.15
    seed: int = 0
    epoch: int = 0
    first_position: int = 0
    additive_mask: bool = False

    def __call__(self, rows: list[dict[str, np.ndarray]]) -> dict[str, torch.Tensor]:
        """Make a batch as `PackingCollator` does, with `attention_mask`: (B, 1, T, T) for packed rows, else (B, T).

        A row of documents of 2 and 1 tokens has the mask [[1, 1, 0], [1, 1, 0], [0, 0, 1]].
        """
        batch = super().__call__([row if "labels" in row else self.mask(row) for row in rows])
        if self.position_ids:
            document = (batch["position_ids"] == 0).cumsum(1)  # positions 0 1 0 -> 1 1 2; padding is a document too
            visible = document[:, None, :, None] == document[:, None, None, :]
            lowest = torch.finfo(torch.float32).min
            batch["attention_mask"] = torch.where(visible, 0.0, lowest) if self.additive_mask else visible
            batch["position_ids"] += self.first_position
        else:
            lengths = torch.tensor([len(row["input_ids"]) for row in rows])
            batch["attention_mask"] = (torch.arange(batch["input_ids"].shape[1]) < lengths[:, None]).long()
        return batch

    def labels(self, row: dict[str, np.ndarray], starts: np.ndarray) -> np.ndarray:
        """The labels as they are: a hidden token is predicted at its own position, also at the start of a document."""
        return row["labels"]

    def mask(self, row: dict[str, Any]) -> dict[str, Any]:
        """Hide tokens of a row.

        Args:
            row: `{"input_ids": (t,)}`, of a stream also `epoch`.

        Returns:
            The row with hidden tokens in `input_ids`, and `labels`, (t,): the original ids of the selected tokens, -100
            elsewhere. Tokens [7, 8, 9] with only the second one selected: [7, MASK, 9], labels [-100, 8, -100].
        """
        tokens = np.array(row["input_ids"])
        generator = np.random.default_rng([self.seed, row.get("epoch", self.epoch), zlib.crc32(tokens.tobytes())])
        (candidates,) = np.nonzero(np.isin(tokens, self.ordinary_ids))
        number = min(len(candidates), max(1, round(self.probability * len(candidates))))
        selected = generator.choice(candidates, number, replace=False)
        labels = np.full(len(tokens), -100)
        labels[selected] = tokens[selected]
        share = generator.random(number)
        random = selected[(share >= MASKED_SHARE) & (share < MASKED_SHARE + RANDOM_SHARE)]
        tokens[selected[share < MASKED_SHARE]] = self.mask_token_id
        tokens[random] = generator.choice(self.ordinary_ids, len(random))
        return row | {"input_ids": tokens, "labels": labels}

    def facts(self) -> dict[str, Any]:
        """The share of hidden tokens, under its name in checkpoint manifests."""
        return {"mlm_probability": self.probability}

    def callbacks(self) -> list[TrainerCallback]:
        """The callback that sets the epoch."""
        return [SetMaskingEpoch(self)]


def mask_rows(rows: Dataset, collator: MaskingCollator) -> Dataset:
    """Hide tokens of evaluation rows once, so that every evaluation predicts the same ones."""
    rows = rows.in_memory() if isinstance(rows, TokenRows) else rows
    settings = (rows._fingerprint, collator.probability, collator.seed, collator.mask_token_id, collator.ordinary_ids)
    return rows.map(collator.mask, new_fingerprint=Hasher.hash(settings), desc="Masking")


class SetMaskingEpoch(TrainerCallback):
    """Set the collator's epoch, so that other tokens are hidden in each."""

    def __init__(self, collator: MaskingCollator):
        self.collator = collator

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.collator.epoch = int(state.epoch)
