"""Checks on the real model that a token sees no later token, and no other document of its row."""

import logging
import math

import numpy as np
import torch
from transformers import PreTrainedModel, TrainerCallback

from hf_llm.data.packing import PackingCollator
from hf_llm.messages import one_line
from hf_llm.models.inspection import num_positions, takes_positions, unwrap_adapters

logger = logging.getLogger(__name__)

PROBE_TOKENS = 8  # length in tokens of the document that is changed, and of the one whose logits are watched
# The weakest real leak seen is 2e-4, in BERT with very small initial weights. Layers of experts compute on tokens in
# groups, and a changed token may change the group, and so the rounding, of others.
LEAK_TOLERANCE, EXPERT_LEAK_TOLERANCE = 1e-4, 1e-2


def isolation_leak(model: PreTrainedModel, collator: PackingCollator) -> float:
    """Measure how much a packed document's logits depend on the document before it; see `measure_leak`."""
    return measure_leak(
        model, collator, [PROBE_TOKENS, PROBE_TOKENS], slice(0, PROBE_TOKENS), slice(PROBE_TOKENS, None)
    )


def causality_leak(model: PreTrainedModel, collator: PackingCollator) -> float:
    """Measure how much the logits of a document's first half depend on its second half; see `measure_leak`."""
    half = int(min(2 * PROBE_TOKENS, num_positions(model))) // 2
    return measure_leak(model, collator, [2 * half], slice(half, None), slice(0, half))


@torch.no_grad()
def measure_leak(
    model: PreTrainedModel,
    collator: PackingCollator,
    lengths: list[int],
    changed_positions: slice,
    watched_positions: slice,
) -> float:
    """Measure how much the logits at some positions change with the tokens at other positions.

    Two random rows go through the model twice, the second time with other tokens at `changed_positions`. The
    computation at `watched_positions` is the same both times, so that the result is 0 in every precision where nothing
    leaks.

    Args:
        lengths: tokens of each document of a row.
        changed_positions: where the tokens differ between the two passes.
        watched_positions: where the logits should not differ.

    Returns:
        Largest change of a watched logit, as a share of the largest change of a logit at `changed_positions`. With
        lengths [8, 8], changed 0:8 and watched 8:16, logits that change by at most 5.0 in the first document and by
        0.01 in the second give 0.002.
    """
    vocab_size = model.config.get_text_config().vocab_size
    tokens = np.random.default_rng(0).integers(0, vocab_size, (2, sum(lengths)))
    changed = tokens.copy()
    changed[:, changed_positions] = (changed[:, changed_positions] + vocab_size // 2) % vocab_size
    training = model.training
    model.eval()
    before, after = (compute_logits(model, collator, rows, lengths) for rows in (tokens, changed))
    model.train(training)
    change = (after - before).abs().amax(dim=(0, 2))  # (T,)
    return (change[watched_positions].max() / change[changed_positions].max()).item()


def compute_logits(
    model: PreTrainedModel, collator: PackingCollator, rows: np.ndarray, lengths: list[int]
) -> torch.Tensor:
    """Compute the float32 logits, (B, T, vocabulary), of rows of token ids, (B, T), with documents of `lengths`."""
    batch = collator([{"input_ids": row, "lengths": np.array(lengths), "labels": row} for row in rows])
    inputs = {
        name: batch[name].to(model.device) for name in ("input_ids", "position_ids", "attention_mask") if name in batch
    }
    packed = "attention_mask" not in batch and "position_ids" in batch
    return model(**inputs, **({"use_cache": False} if packed else {})).logits.float()


def leak_tolerance(model: PreTrainedModel) -> float:
    """Return the largest leak that rounding can explain."""
    return EXPERT_LEAK_TOLERANCE if any("experts" in name for name, _ in model.named_modules()) else LEAK_TOLERANCE


def check_causality(model: PreTrainedModel, collator: PackingCollator) -> None:
    """Refuse a model that sees the tokens that it is to predict, as BERT does: its loss would mean nothing.

    Args:
        collator: makes the batches that the model is trained on.

    Raises:
        ValueError: the model sees later tokens, its logits are not finite, or its config has sizes that do not fit.
    """
    name = type(unwrap_adapters(model)).__name__
    try:
        leak = causality_leak(model, collator)
    except (IndexError, RuntimeError, TypeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise ValueError(
            f"{name} cannot compute logits: {one_line(error)}. Look at the sizes in `--config_overrides`, or in the "
            "config.json of the model"
        ) from error
    if math.isnan(leak):
        raise ValueError(f"{name} gives logits that are not finite, or the same for any text: look at its weights")
    if leak > leak_tolerance(model):
        raise ValueError(
            f"{name} sees the tokens that it is to predict (leak {leak:.2g}): `--objective masked` of "
            "recipes/pretrain.py trains such a model, `--config_overrides is_decoder=true` makes a decoder of a new one"
        )


def check_isolation(model: PreTrainedModel, collator: PackingCollator) -> None:
    """Refuse an architecture or attention implementation in which packed documents see each other.

    Args:
        model: on its device; its mode (training or evaluation) is kept.
        collator: makes the batches that the model is trained on.

    Raises:
        ValueError: the documents see each other, or the model takes no positions.
    """
    try:
        leak = isolation_leak(model, collator) if takes_positions(model) else 1.0
    except (IndexError, RuntimeError, TypeError, ValueError):  # it cannot take these positions, or this kind of mask
        leak = 1.0
    if not leak <= leak_tolerance(model):  # NaN too
        raise ValueError(
            f"packed documents see each other in {type(unwrap_adapters(model)).__name__} with "
            f"{model.config._attn_implementation} attention (leak {leak:.2g}): train it with `--packing false`"
        )
    logger.info(f"Packing: documents in one row do not see each other (leak {leak:.1g})")


class CheckAttention(TrainerCallback):
    """Checks causality and isolation when training starts, on the model as it is placed and wrapped for training.

    Args:
        collator: makes the batches. Causality is not checked where it masks the tokens that are predicted.
        packing: check that packed documents do not see each other.

    Raises:
        ValueError: as `check_causality` and `check_isolation`.
    """

    def __init__(self, collator: PackingCollator, packing: bool):
        self.collator, self.packing = collator, packing

    def on_train_begin(self, args, state, control, model, **kwargs):
        if self.collator.causal:
            check_causality(model, self.collator)
        if self.packing:
            check_isolation(model, self.collator)
