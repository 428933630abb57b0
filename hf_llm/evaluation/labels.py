"""The labels that a classification head gives to texts: on one rank or many, under any ZeRO stage."""

import numpy as np
import torch
from accelerate.utils import gather_object
from datasets import Dataset

from hf_llm.data.labelling import Labeller, pad_texts
from hf_llm.evaluation.generation import BATCH_SIZE, batch_by_length, evaluation_mode, rank_batches


def label_texts(
    model: torch.nn.Module,
    labeller: Labeller,
    texts: Dataset,
    *,
    batch_size: int = BATCH_SIZE,
    show_progress: bool = True,
) -> list[str]:
    """Return the answer of the classification head to each text.

    Args:
        model: a model on its device, or the DeepSpeedEngine around it. Every rank must call with the same texts.
        texts: N rows of `encode_texts`, with `prompt` for `input_ids`.
        batch_size: rows per forward pass.
    """
    rows = [{"input_ids": row["prompt"], **row} for row in texts.to_list()]
    label, logits = "Labelling" if show_progress else None, {}
    with evaluation_mode(model) as (plain, synced_ranks):
        batches = batch_by_length([len(row["input_ids"]) for row in rows], batch_size)
        for batch in rank_batches(batches, synced_ranks, label):
            inputs = pad_texts(labeller.tokenizer, [rows[i] for i in batch])
            inputs = {name: tensor.to(plain.device) for name, tensor in inputs.items()}
            logits |= zip(batch, plain(**inputs).logits.float().tolist(), strict=True)
    logits = dict(gather_object(list(logits.items())))
    return labeller.answers(np.array([logits[i] for i in range(len(rows))]))
