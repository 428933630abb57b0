"""Perplexity and bits per byte of held-out text, as metrics of the Trainer."""

import math
import zlib
from collections.abc import Iterable

import numpy as np
import pyarrow.compute as pc
import torch
from datasets import Dataset
from transformers import EvalPrediction, PreTrainedTokenizerBase

from hf_llm.data.arrow import column


def token_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Sum and number of the token losses of every row, for `Trainer(preprocess_logits_for_metrics=...)`.

    Keeps 16 bytes a row instead of its logits, so that memory does not grow with the evaluation set.

    Args:
        logits: (B, T, vocabulary); row i of a sequence predicts token i + 1. Or (L, vocabulary), those alone that
            predict one of the batch's L labels, as `PackingCollator(skip_prompts=True)` asks for them.
        labels: (B, T); -100 is not counted.

    Returns:
        (B, 2) float64: summed loss in nats, number of predicted tokens.
    """
    logits = logits[0] if isinstance(logits, tuple) else logits
    labels = labels[:, 1:]
    if logits.dim() == 3:
        logits = logits[:, :-1]
    else:
        counts = (labels != -100).sum(1).tolist()
        logits, labels = logits.split(counts), labels[labels != -100].split(counts)
    return row_losses(logits, labels)


def masked_token_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """As `token_losses`, where (B, T, vocabulary) logits predict the labels, (B, T), in their own places."""
    return row_losses(logits[0] if isinstance(logits, tuple) else logits, labels)


def row_losses(logits: Iterable[torch.Tensor], labels: Iterable[torch.Tensor]) -> torch.Tensor:
    """Summed loss in nats and number of labels of each row, (B, 2) float64, from (t, vocabulary) and (t,)."""
    rows = []
    for row_logits, row_labels in zip(logits, labels, strict=True):  # one row at a time: float32 copies
        loss = torch.nn.functional.cross_entropy(row_logits.float(), row_labels, ignore_index=-100, reduction="none")
        rows.append(torch.stack([loss.double().sum(), (row_labels != -100).sum().double()]))
    return torch.stack(rows)


class TokenMetrics:
    """Mean token loss and perplexity, for `Trainer(compute_metrics=...)` with `batch_eval_metrics`.

    The Trainer's own `eval_loss` averages the batches' means, whatever number of tokens each has; this one is the
    mean over tokens, and it takes that one's place, so that perplexity = exp(eval_loss) holds.
    """

    def __init__(self):
        self.total = np.zeros(2)

    def __call__(self, prediction: EvalPrediction, compute_result: bool) -> dict[str, float]:
        """Add one batch of `token_losses`; the scores after the last."""
        self.total += prediction.predictions.sum(0).cpu().numpy()
        if not compute_result:
            return {}
        (loss, tokens), self.total = self.total, np.zeros(2)
        return self.scores(loss, tokens)

    def scores(self, loss: float, tokens: float) -> dict[str, float]:
        """From the summed loss in nats and the number of predicted tokens."""
        mean = loss / max(tokens, 1)
        return {"loss": mean, "perplexity": perplexity(mean)}


def perplexity(loss: float) -> float:
    """exp(mean token loss in nats), infinite where a float cannot hold it."""
    return math.exp(loss) if loss < 700 else math.inf


class LanguageModelingMetrics(TokenMetrics):
    """`TokenMetrics`, and bits per byte, which compare between tokenizers.

    Bits per byte is the length of the text when coded with the model, per UTF-8 byte: the losses of the predicted
    tokens, plus log2(vocabulary) for each token that nothing predicts (the first of a row's piece where the
    tokenizer puts no BOS). Ends of documents are paid for. What zlib level 9 makes of the same text stands beside it.

    Args:
        documents: the evaluated text, rows `{"text": str}`.
        rows: what `pack` made of it.
    """

    def __init__(self, documents: Dataset, rows: Dataset, tokenizer: PreTrainedTokenizerBase):
        super().__init__()
        texts = column(documents, "text")
        self.num_bytes = pc.sum(pc.binary_length(texts)).as_py()
        self.zlib_bits_per_byte = zlib_bits_per_byte(text.as_py() for text in texts)
        pieces = pc.sum(pc.list_value_length(column(rows, "lengths"))).as_py()
        opened = tokenizer("a").input_ids[0] == tokenizer.bos_token_id
        self.unpredicted_bits = (pieces - opened * len(documents)) * math.log2(len(tokenizer))

    def scores(self, loss: float, tokens: float) -> dict[str, float]:
        return super().scores(loss, tokens) | {
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
