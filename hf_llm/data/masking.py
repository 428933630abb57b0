"""Masked language modelling: which tokens are hidden and predicted, and batches for models that look both ways.

Devlin et al. 2019, arXiv 1810.04805, 3.1 and the code published with it: of the tokens of a row that are not special
15 % are drawn, at least one; of those 80 % become the mask, 10 % another token and 10 % stay; labels are theirs alone.
Liu et al. 2019, arXiv 1907.11692, 4.1: drawn anew each epoch.
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

MASKED, RANDOM = 0.8, 0.1  # of the tokens that are drawn


@dataclass(kw_only=True)
class MaskingCollator(PackingCollator):
    """`PackingCollator` for models that look both ways, which also masks.

    What is drawn depends on seed, epoch and the row alone, not on the order of rows, on workers or on what ran before:
    a resumed run draws the same. Rows with `labels` are masked already.

    Args:
        mask_token_id: stands for what is hidden.
        ordinary: ids of the tokens that are not special, (V,).
        probability: share of a row's tokens that are predicted.
        first_position: of a document; RoBERTa's come after that of the padding.
        additive: whether the attention adds its mask (`eager`) or takes it as true and false.
    """

    causal = False

    mask_token_id: int
    ordinary: np.ndarray
    probability: float = 0.15
    seed: int = 0
    epoch: int = 0
    first_position: int = 0
    additive: bool = False

    def __call__(self, rows: list[dict[str, np.ndarray]]) -> dict[str, torch.Tensor]:
        """As `PackingCollator`, with `attention_mask`: (B, 1, T, T) where documents are packed, else (B, T)."""
        batch = super().__call__([row if "labels" in row else self.mask(row) for row in rows])
        if self.position_ids:
            document = (batch["position_ids"] == 0).cumsum(1)  # padding is one of its own
            seen = document[:, None, :, None] == document[:, None, None, :]
            lowest = torch.finfo(torch.float32).min
            batch["attention_mask"] = torch.where(seen, 0.0, lowest) if self.additive else seen
            batch["position_ids"] += self.first_position
        else:
            lengths = torch.tensor([len(row["input_ids"]) for row in rows])
            batch["attention_mask"] = (torch.arange(batch["input_ids"].shape[1]) < lengths[:, None]).long()
        return batch

    def labels(self, row: dict[str, np.ndarray], starts: np.ndarray) -> np.ndarray:
        """As they are: a token that is hidden is predicted in its own place."""
        return row["labels"]

    def mask(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row `{"input_ids": (t,)}` with some of its tokens hidden, and `labels`, (t,), that are -100 elsewhere."""
        tokens = np.array(row["input_ids"])
        draw = np.random.default_rng([self.seed, row.get("epoch", self.epoch), zlib.crc32(tokens.tobytes())])
        (places,) = np.nonzero(np.isin(tokens, self.ordinary))
        number = min(len(places), max(1, round(self.probability * len(places))))
        chosen = draw.choice(places, number, replace=False)
        labels = np.full(len(tokens), -100)
        labels[chosen] = tokens[chosen]
        fate = draw.random(number)
        replaced = chosen[(fate >= MASKED) & (fate < MASKED + RANDOM)]
        tokens[chosen[fate < MASKED]] = self.mask_token_id
        tokens[replaced] = draw.choice(self.ordinary, len(replaced))
        return row | {"input_ids": tokens, "labels": labels}

    def facts(self) -> dict[str, Any]:
        """The share of hidden tokens, under its name in checkpoint manifests."""
        return {"mlm_probability": self.probability}

    def callbacks(self) -> list[TrainerCallback]:
        """The callback that sets the epoch."""
        return [SetMaskingEpoch(self)]


def mask_rows(rows: Dataset, collator: MaskingCollator) -> Dataset:
    """Rows for evaluation, masked once: every evaluation asks for the same tokens."""
    settings = (rows._fingerprint, collator.probability, collator.seed, collator.mask_token_id, collator.ordinary)
    return rows.map(collator.mask, new_fingerprint=Hasher.hash(settings), desc="Masking")


class SetMaskingEpoch(TrainerCallback):
    """Tells the collator the epoch, so that other tokens are hidden in each."""

    def __init__(self, collator: MaskingCollator):
        self.collator = collator

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.collator.epoch = int(state.epoch)
