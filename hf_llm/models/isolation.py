"""Proof on the real model of what a token sees: nothing after it, and no other document of its row."""

import logging
import math

import numpy as np
import torch
from transformers import PreTrainedModel, TrainerCallback

from hf_llm.data.masking import MaskingCollator
from hf_llm.data.packing import PackingCollator
from hf_llm.models.inspection import takes_positions, within_adapters

logger = logging.getLogger(__name__)

PROBE_TOKENS = 8  # tokens of each of two parts of a row, of which one may not see the other
# BERT with the smallest initial weights leaks 2e-4. Experts work on tokens together, in sums that round differently.
LEAK_TOLERANCE, EXPERT_LEAK_TOLERANCE = 1e-4, 1e-2


def isolation_leak(model: PreTrainedModel, collator: PackingCollator) -> float:
    """How far the logits of a packed document follow a change of the document before it; see `leak`."""
    return leak(
        model, collator, [PROBE_TOKENS, PROBE_TOKENS], changed=slice(0, PROBE_TOKENS), watched=slice(PROBE_TOKENS, None)
    )


def causality_leak(model: PreTrainedModel, collator: PackingCollator) -> float:
    """How far the logits of the first tokens of a document follow a change of the last ones; see `leak`."""
    half = (
        min(
            2 * PROBE_TOKENS,
            getattr(model.config.get_text_config(), "max_position_embeddings", None) or 2 * PROBE_TOKENS,
        )
        // 2
    )
    return leak(model, collator, [2 * half], changed=slice(half, None), watched=slice(0, half))


@torch.no_grad()
def leak(
    model: PreTrainedModel, collator: PackingCollator, lengths: list[int], changed: slice, watched: slice
) -> float:
    """How far the logits of some tokens follow a change of others.

    Two rows go through the model twice, with other tokens in the places `changed`. Works under every precision, since
    the tokens that are watched are computed twice in the same way: where nothing leaks, nothing changes.

    Args:
        lengths: of the documents of each row.

    Returns:
        Largest change in the watched places as a share of that in the changed ones. 0 is isolation.
    """
    vocab_size = model.config.get_text_config().vocab_size
    tokens = np.random.default_rng(0).integers(0, vocab_size, (2, sum(lengths)))
    others = tokens.copy()
    others[:, changed] = (others[:, changed] + vocab_size // 2) % vocab_size
    training = model.training
    model.eval()
    before, after = (forward(model, collator, rows, lengths) for rows in (tokens, others))
    model.train(training)
    change = (after - before).abs().amax(dim=(0, 2))
    return (change[watched].max() / change[changed].max()).item()


def forward(model: PreTrainedModel, collator: PackingCollator, rows: np.ndarray, lengths: list[int]) -> torch.Tensor:
    """Logits of rows of documents, (B, T, vocabulary), in float32."""
    batch = collator([{"input_ids": row, "lengths": lengths, "labels": row} for row in rows])
    inputs = {
        name: batch[name].to(model.device) for name in ("input_ids", "position_ids", "attention_mask") if name in batch
    }
    packed = "attention_mask" not in batch and "position_ids" in batch
    return model(**inputs, **({"use_cache": False} if packed else {})).logits.float()


def leak_tolerance(model: PreTrainedModel) -> float:
    """What is still taken for none."""
    return EXPERT_LEAK_TOLERANCE if any("experts" in name for name, _ in model.named_modules()) else LEAK_TOLERANCE


def check_causality(model: PreTrainedModel, collator: PackingCollator) -> None:
    """Refuse a model that sees the tokens that it is to predict, as BERT does: its loss would mean nothing.

    Raises:
        ValueError: it does.
    """
    found, name = causality_leak(model, collator), type(within_adapters(model)).__name__
    if math.isnan(found):
        raise ValueError(f"{name} gives logits that are not finite, or the same for any text: look at its weights")
    if found > leak_tolerance(model):
        raise ValueError(
            f"{name} sees the tokens that it is to predict (leak {found:.2g}): `--objective masked` of "
            "recipes/pretrain.py trains such a model, `--config_overrides is_decoder=true` makes a decoder of a new one"
        )


def check_isolation(model: PreTrainedModel, collator: PackingCollator) -> None:
    """Refuse an architecture or attention implementation in which packed documents see each other.

    Raises:
        ValueError: it leaks, or takes no positions.
    """
    try:
        found = isolation_leak(model, collator) if takes_positions(model) else 1.0
    except (IndexError, RuntimeError, TypeError, ValueError):  # it takes no mask of pairs of tokens, or no positions
        found = 1.0
    if not found <= leak_tolerance(model):  # also where it is no number
        raise ValueError(
            f"packed documents see each other in {type(within_adapters(model)).__name__} with "
            f"{model.config._attn_implementation} attention (leak {found:.2g}): train it with `--packing false`"
        )
    logger.info(f"Packing: documents in one row do not see each other (leak {found:.1g})")


class CheckAttention(TrainerCallback):
    """Proves on the real model, placed and wrapped as it will train, that no token sees what it must not.

    That is what comes behind it, but where hidden tokens are predicted, and packed documents beside its own.
    """

    def __init__(self, collator: PackingCollator, packing: bool):
        self.collator, self.packing = collator, packing

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        if not isinstance(self.collator, MaskingCollator):
            check_causality(model, self.collator)
        if self.packing:
            check_isolation(model, self.collator)
