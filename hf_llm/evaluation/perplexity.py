"""Perplexity and bits per byte of held-out text, as metrics of the Trainer."""

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xxhash
from datasets import Dataset
from transformers import EvalPrediction, PreTrainedTokenizerBase

from hf_llm.data.text_size import text_figures
from hf_llm.data.token_folders import TokenRows


def token_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Sum and count the token losses of every row, for `Trainer(preprocess_logits_for_metrics=...)`.

    Keeps 16 bytes per row instead of its logits, so that memory does not grow with the evaluation set.

    For the labels [5, -100, 7] only the logits at position 1 count, which predict 7: no position predicts the first
    label, position 0 predicts -100, and no label follows position 2.

    Args:
        logits: (B, T, vocabulary); position i predicts label i + 1. Or (L, vocabulary), only those that predict one of
            the batch's L labels, as the model returns them for `PackingCollator(skip_prompts=True)`.
        labels: (B, T); -100 is not counted.

    Returns:
        (B, 2) float64: summed loss in nats, number of predicted tokens.
    """
    check_logits(logits)
    labels = labels[:, 1:]
    if logits.dim() == 3:
        return row_losses(logits[:, :-1], labels)
    counts = (labels != -100).sum(1).tolist()
    return row_losses(logits.split(counts), labels[labels != -100].split(counts))


def position_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Give the loss of every token, of which `LanguageModelingMetrics` makes those of documents.

    Keeps 8 bytes per token, and only until the next batch.

    Args:
        logits: (B, T, vocabulary); position i predicts label i + 1.
        labels: (B, T); -100 is not counted.

    Returns:
        (B, T, 2) float32: loss in nats of the prediction of the token at each position, and 1; both 0 where none is.
    """
    check_logits(logits)
    losses = torch.zeros(*labels.shape, 2, device=logits.device)
    for row, row_logits, row_labels in zip(losses, logits[:, :-1], labels[:, 1:], strict=True):
        row[1:, 0] = torch.nn.functional.cross_entropy(
            row_logits.float(), row_labels, ignore_index=-100, reduction="none"
        )
        row[1:, 1] = row_labels != -100
    return losses


def masked_token_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Sum and count the losses as `token_losses` does, for a masked model: position i predicts label i.

    Args:
        logits: (B, T, vocabulary).
        labels: (B, T); -100 is not counted.
    """
    check_logits(logits)
    return row_losses(logits, labels)


def check_logits(outputs: torch.Tensor | tuple) -> None:
    """Refuse several outputs of a model: which of them are its logits depends on the architecture and its config.

    Raises:
        ValueError: the outputs are a tuple.
    """
    if isinstance(outputs, tuple):
        raise ValueError(
            f"the Trainer keeps {len(outputs)} outputs of the model, not only its logits: give "
            "`outputs_besides_logits(model)` of hf_llm.models.inspection to `Trainer.evaluate` as `ignore_keys`, and "
            "to `Trainer.train` as `ignore_keys_for_eval`"
        )


def row_losses(logits: Iterable[torch.Tensor], labels: Iterable[torch.Tensor]) -> torch.Tensor:
    """Sum and count the losses of B rows.

    Args:
        logits: (t, vocabulary) of each row, each of which predicts the label at the same index.
        labels: (t,) of each row; -100 is not counted.

    Returns:
        (B, 2) float64: summed loss in nats, number of labels.
    """
    rows = []
    for row_logits, row_labels in zip(logits, labels, strict=True):  # row by row: the logits are copied to float32
        loss = torch.nn.functional.cross_entropy(row_logits.float(), row_labels, ignore_index=-100, reduction="none")
        rows.append(torch.stack([loss.double().sum(), (row_labels != -100).sum().double()]))
    return torch.stack(rows)


class TokenMetrics:
    """Mean token loss and perplexity, for `Trainer(compute_metrics=...)` with `batch_eval_metrics`.

    The Trainer's own `eval_loss` is the mean of the batches' means, although batches have different numbers of tokens.
    It is replaced by the mean over tokens, so that perplexity = exp(eval_loss).

    Attributes:
        names: of the scores.
    """

    names: tuple[str, ...] = ("loss", "perplexity")

    def __init__(self):
        self.total = np.zeros(2)

    def __call__(self, prediction: EvalPrediction, compute_result: bool) -> dict[str, float]:
        """Add one batch of `token_losses` or `position_losses`; return the scores after the last (`compute_result`)."""
        self.total += prediction.predictions.reshape(-1, 2).double().sum(0).cpu().numpy()
        if not compute_result:
            return {}
        (loss, tokens), self.total = self.total, np.zeros(2)
        return self.scores(loss, tokens)

    def join(self, others: Sequence[Any]) -> "TokenMetrics":
        """Return the metrics of all rows that these and other metrics are for."""
        return TokenMetrics()

    def document_losses(self) -> list[dict[str, Any]]:
        """The losses of each document at the last evaluation, where they are known."""
        return []

    def scores(self, loss: float, tokens: float) -> dict[str, float]:
        """Compute the scores from the summed loss in nats and the number of predicted tokens."""
        mean = loss / max(tokens, 1)
        return {"loss": mean, "perplexity": perplexity(mean)}


class SourceMetrics(TokenMetrics):
    """The scores of all validation rows, and under `NAME_` those of the rows of each source of a mixture.

    One evaluation gives both; a dictionary of data sets would be evaluated once for each, without a loss of all.

    Args:
        sources: metrics of the rows of each source.
        rows: how many rows each source has; they come one source after the other.
    """

    def __init__(self, sources: Mapping[str, TokenMetrics], rows: list[int]):
        first, *others = sources.values()
        self.whole, self.sources, self.ends, self.seen = first.join(others), sources, np.cumsum(rows), 0
        self.names = (*first.names, *(f"{name}_{score}" for name in sources for score in first.names))

    def __call__(self, prediction: EvalPrediction, compute_result: bool) -> dict[str, float]:
        """Add one batch of `token_losses`, each row to its source; return the scores after the last batch."""
        losses = prediction.predictions
        scores = self.whole(prediction, compute_result)
        # With 3 rows of the first source, rows 2 to 5 of the data are split before row 3, which is 1 of the batch.
        batches = losses.tensor_split([max(0, int(end) - self.seen) for end in self.ends[:-1]])
        for (name, metrics), batch in zip(self.sources.items(), batches, strict=True):
            own = metrics(EvalPrediction(batch, None), compute_result)  # pyright: ignore[reportArgumentType]
            scores |= {f"{name}_{score}": value for score, value in own.items()}
        self.seen = 0 if compute_result else self.seen + len(losses)
        return scores

    def document_losses(self) -> list[dict[str, Any]]:
        return [{"source": name} | row for name, source in self.sources.items() for row in source.document_losses()]


def perplexity(loss: float) -> float:
    """exp(mean token loss in nats), infinity if it is too large for a float."""
    return math.exp(loss) if loss < 700 else math.inf


class LanguageModelingMetrics(TokenMetrics):
    """`TokenMetrics`, and bits per byte, which are comparable between tokenizers.

    Bits per byte is the length of the text when compressed with the model, per UTF-8 byte: the losses of the predicted
    tokens, end tokens included, plus log2(vocabulary) for each token without a prediction (the first one of each piece
    of a document, unless it is a bos token). The figure of zlib level 9 for the same text is reported for comparison.

    Args:
        documents: the evaluated text, rows `{"text": str}`.
        rows: the rows that `pack` returns for it; `TokenRows` know the sizes of their text.
    """

    def __init__(self, documents: Dataset, rows: Dataset, tokenizer: PreTrainedTokenizerBase):
        super().__init__()
        text = rows.text if isinstance(rows, TokenRows) else text_figures(documents, rows)
        self.num_bytes, self.zlib_bits_per_byte = text["bytes"], text["zlib_bits_per_byte"]
        self.starts_with_bos = tokenizer("a").input_ids[0] == tokenizer.bos_token_id
        self.token_bits = math.log2(len(tokenizer))
        self.unpredicted_bits = (text["pieces"] - self.starts_with_bos * text["documents"]) * self.token_bits
        self.documents, self.rows = (documents, rows) if "documents" in rows.column_names else (None, rows)
        self.seen, self.of_documents, self.found = 0, np.zeros((len(documents), 3)), np.zeros((0, 3))

    def __call__(self, prediction: EvalPrediction, compute_result: bool) -> dict[str, float]:
        if self.documents is not None and prediction.predictions.dim() == 3:
            for losses in prediction.predictions.double().cpu().numpy():
                row = self.rows[self.seen]
                starts = np.cumsum(row["lengths"]) - row["lengths"]
                # Losses of pieces, and 1 for each: [l0 l1 l2 l3] with lengths [3, 1] gives [l0 + l1 + l2, l3].
                pieces = np.pad(np.add.reduceat(losses, starts), ((0, 0), (0, 1)), constant_values=1)
                np.add.at(self.of_documents, row["documents"], pieces)
                self.seen += 1
        if compute_result:
            self.seen, self.found, self.of_documents = 0, self.of_documents, np.zeros_like(self.of_documents)
        return super().__call__(prediction, compute_result)

    def document_losses(self) -> list[dict[str, Any]]:
        """The losses of each document: nats of its predicted tokens, and all bits, whose sum gives bits per byte.

        A document is named by a hash of its text, so that runs can be compared that read other files in other orders.
        """
        if self.documents is None or not self.found.any():
            return []
        rows = []
        for text, (loss, tokens, pieces) in zip(self.documents["text"], self.found.tolist(), strict=True):
            data = text.encode()
            bits = loss / math.log(2) + (pieces - self.starts_with_bos) * self.token_bits
            row = {"document": xxhash.xxh3_64_hexdigest(data), "bytes": len(data), "tokens": int(tokens)}
            rows.append(row | {"loss": loss, "bits": bits})
        return rows

    def join(self, others: Sequence[Any]) -> TokenMetrics:
        whole, parts = copy.copy(self), [self, *others]
        whole.documents = None  # each source has its own
        whole.total, whole.num_bytes = np.zeros(2), sum(part.num_bytes for part in parts)
        whole.unpredicted_bits = sum(part.unpredicted_bits for part in parts)
        compressed = sum(part.zlib_bits_per_byte * part.num_bytes for part in parts)
        whole.zlib_bits_per_byte = compressed / whole.num_bytes
        return whole

    def scores(self, loss: float, tokens: float) -> dict[str, float]:
        return super().scores(loss, tokens) | {
            "bits_per_byte": (loss / math.log(2) + self.unpredicted_bits) / self.num_bytes,
            "zlib_bits_per_byte": self.zlib_bits_per_byte,
        }
