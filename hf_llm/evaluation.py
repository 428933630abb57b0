"""Scores of a language model on held-out text: mean token loss, perplexity, bits per byte."""

import math
import zlib
from collections.abc import Iterable

import numpy as np
import pyarrow.compute as pc
import torch
from datasets import Dataset
from transformers import EvalPrediction, PreTrainedTokenizerBase

from hf_llm.data.packing import column


def token_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Sum and number of the token losses of every row, for `Trainer(preprocess_logits_for_metrics=...)`.

    Keeps 16 bytes a row instead of its logits, so that memory does not grow with the evaluation set.

    Args:
        logits: (B, T, vocabulary); row i of a sequence predicts token i + 1.
        labels: (B, T); -100 is not counted.

    Returns:
        (B, 2) float64: summed loss in nats, number of predicted tokens.
    """
    logits = logits[0] if isinstance(logits, tuple) else logits
    rows = []
    for row_logits, row_labels in zip(logits[:, :-1], labels[:, 1:], strict=True):  # one row at a time: float32 copies
        loss = torch.nn.functional.cross_entropy(row_logits.float(), row_labels, ignore_index=-100, reduction="none")
        rows.append(torch.stack([loss.double().sum(), (row_labels != -100).sum().double()]))
    return torch.stack(rows)


class LanguageModelingMetrics:
    """Mean token loss, perplexity and bits per byte, for `Trainer(compute_metrics=...)` with `batch_eval_metrics`.

    The Trainer's own `eval_loss` averages the batches' means, whatever number of tokens each has; this one is the
    mean over tokens, and it takes that one's place, so that perplexity = exp(eval_loss) holds.

    Bits per byte is the length of the text when coded with the model, per UTF-8 byte: the losses of the predicted
    tokens, plus log2(vocabulary) for each token that nothing predicts (the first of a row's piece where the
    tokenizer puts no BOS). Ends of documents are paid for. So models with other tokenizers compare. What zlib level 9
    makes of the same text stands beside it.

    Args:
        documents: the evaluated text, rows `{"text": str}`.
        rows: what `pack` made of it.
    """

    def __init__(self, documents: Dataset, rows: Dataset, tokenizer: PreTrainedTokenizerBase):
        texts = column(documents, "text")
        self.num_bytes = pc.sum(pc.binary_length(texts)).as_py()
        self.zlib_bits_per_byte = zlib_bits_per_byte(text.as_py() for text in texts)
        pieces = pc.sum(pc.list_value_length(column(rows, "lengths"))).as_py()
        opened = tokenizer("a").input_ids[0] == tokenizer.bos_token_id
        self.unpredicted_bits = (pieces - opened * len(documents)) * math.log2(len(tokenizer))
        self.total = np.zeros(2)

    def __call__(self, prediction: EvalPrediction, compute_result: bool) -> dict[str, float]:
        """Add one batch of `token_losses`; the scores after the last."""
        self.total += prediction.predictions.sum(0).cpu().numpy()
        if not compute_result:
            return {}
        (loss, tokens), self.total = self.total, np.zeros(2)
        mean = loss / max(tokens, 1)
        return {
            "loss": mean,
            "perplexity": math.exp(mean) if mean < 700 else math.inf,
            "bits_per_byte": (loss / math.log(2) + self.unpredicted_bits) / self.num_bytes,
            "zlib_bits_per_byte": self.zlib_bits_per_byte,
        }


def zlib_bits_per_byte(texts: Iterable[str]) -> float:
    """Bits per UTF-8 byte that zlib level 9 reaches on the texts, one after the other: what a model must beat."""
    compressor = zlib.compressobj(9)
    num_bytes = compressed = 0
    for text in texts:
        data = text.encode()
        num_bytes += len(data)
        compressed += len(compressor.compress(data))
    return 8 * (compressed + len(compressor.flush())) / num_bytes
