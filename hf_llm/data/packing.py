"""Packing of tokenized documents into rows of `max_length`, and batches in which packed documents are isolated."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from datasets.fingerprint import Hasher
from transformers import TrainerCallback

from hf_llm.data.arrow import column, count_tokens

# Tokens that are packed at once: limits the memory, and is so large that partly filled rows hardly count.
TOKENS_PER_BATCH = 16_000_000


@dataclass
class PackingReport:
    """What packing did to one split; every token is accounted for."""

    documents: int
    documents_cut: int
    rows: int
    tokens_in: int
    tokens_packed: int
    tokens_dropped: int
    packing_efficiency: float

    def metrics(self, prefix: str) -> dict[str, float]:
        """The counts under the names that the results files use, e.g. `train_tokens_in`."""
        return {f"{prefix}_{key}": value for key, value in asdict(self).items()}

    def check_fills_row(self, max_length: int) -> None:
        """Refuse rows to train on that do not fill one.

        Raises:
            ValueError: there are fewer tokens than `max_length`.
        """
        if self.tokens_in < max_length:
            raise ValueError(
                f"`train` has {self.tokens_in} tokens, fewer than one row of `--max_length` {max_length}: give more "
                "text or a smaller --max_length"
            )


def cut_documents(lengths: np.ndarray, max_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut concatenated documents into pieces of at most `max_length` tokens.

    A last piece of one token takes another one from the piece before it. A piece of one token has nothing to predict,
    and the loss of a batch of such pieces would be 0 / 0.

    Args:
        lengths: (documents,) tokens of each.

    Returns:
        Start (in the concatenated tokens) and length of every piece, (pieces,) int64 both, in document order.

    Example:
        A document of 3 tokens stays whole, one of 9 gives 4 + 3 + 2 instead of 4 + 4 + 1:

        >>> cut_documents(np.array([3, 9]), 4)
        (array([ 0,  3,  7, 10]), array([3, 4, 3, 2]))
    """
    pieces = -(-lengths // max_length)
    document = np.repeat(np.arange(len(lengths)), pieces)
    number = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)  # of a piece in its document
    starts = (np.cumsum(lengths) - lengths)[document] + number * max_length
    sizes = np.minimum(lengths[document] - number * max_length, max_length)
    (single,) = np.nonzero((sizes == 1) & (number > 0) & (max_length > 2))
    starts[single] -= 1
    sizes[single] += 1
    sizes[single - 1] -= 1
    return starts, sizes


def best_fit_decreasing(lengths: np.ndarray, max_length: int) -> list[list[int]]:
    """Assign pieces to rows: the longest piece first, each into the fullest row that has room for it.

    Args:
        lengths: (pieces,) tokens of each, 1 to `max_length`.

    Returns:
        For each row the indices of its pieces. At most 11/9 of the best possible number of rows (Johnson, 1973).

    Example:
        >>> best_fit_decreasing(np.array([2, 3, 2, 1]), 4)
        [[1, 3], [0, 2]]
    """
    rows: list[list[int]] = []
    rows_by_room: list[list[int]] = [[] for _ in range(max_length + 1)]  # index: free tokens of the rows
    free_sizes = 0  # bit f is set while a row has f tokens free; the best fit is the lowest set bit from `length` on
    for piece in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[piece])
        fitting = free_sizes >> length
        if fitting:
            free = length + (fitting & -fitting).bit_length() - 1
            row = rows_by_room[free].pop()
            rows[row].append(piece)
            if not rows_by_room[free]:
                free_sizes ^= 1 << free
        else:
            free, row = max_length, len(rows)
            rows.append([piece])
        if free > length:
            rows_by_room[free - length].append(row)
            free_sizes |= 1 << (free - length)
    return rows


def pack_batch(documents: pa.Table, max_length: int, packing: bool, first: int | None = None) -> pa.Table:
    """Pack the documents of one table into rows.

    Args:
        documents: column `input_ids`, and maybe `labels` of the same lengths, which are arranged like the tokens.
        first: number of the first document, for the column `documents`.

    Returns:
        Columns `input_ids` (and `labels`), list[int32], the tokens of a row; `lengths`, list[int32], of its pieces;
        with `first` also `documents`, list[int32], the number of the document of each piece.
        Documents [1, 2], [3, 4, 5], [6] in rows of 4 become [3, 4, 5, 6] with lengths [3, 1] and [1, 2] with [2].
    """
    columns = {name: documents[name].combine_chunks() for name in documents.column_names}
    sizes = columns["input_ids"].value_lengths().to_numpy()
    starts, lengths = cut_documents(sizes, max_length)
    rows = best_fit_decreasing(lengths, max_length) if packing else [[piece] for piece in range(len(lengths))]
    order = np.fromiter((piece for row in rows for piece in row), np.int64, count=len(lengths))
    row_ends = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    lengths = lengths[order]
    piece_ends = np.concatenate([[0], np.cumsum(lengths)])
    # Where each packed token comes from: pieces that start at 5 and 0 with lengths 3 and 2 give 5, 6, 7, 0, 1.
    index = np.arange(piece_ends[-1]) + np.repeat(starts[order] - piece_ends[:-1], lengths)
    offsets = pa.array(piece_ends[row_ends], pa.int32())
    rows = {
        name: pa.ListArray.from_arrays(offsets, pa.array(values.flatten().to_numpy()[index], pa.int32()))
        for name, values in columns.items()
    }
    pieces = {"lengths": lengths}
    if first is not None:
        pieces["documents"] = first + np.repeat(np.arange(len(sizes)), -(-sizes // max_length))[order]
    ends = pa.array(row_ends, pa.int32())
    lists = {name: pa.ListArray.from_arrays(ends, pa.array(values, pa.int32())) for name, values in pieces.items()}
    return pa.table(rows | lists)


def pack(
    dataset: Dataset, max_length: int, packing: bool = True, number_documents: bool = False
) -> tuple[Dataset, PackingReport]:
    """Pack tokenized documents into rows by best fit; long documents are cut into pieces, no token is lost.

    Args:
        dataset: documents `{"input_ids": list[int]}`. With `labels` of the same length where not all tokens are
            trained on; such examples must fit in a row.
        max_length: tokens of a row.
        packing: False puts each piece into a row of its own.
        number_documents: add the column `documents`, the number of the document that each piece is of.

    Returns:
        Rows `{"input_ids": list[int32], "lengths": list[int32]}` (and `labels`) for `PackingCollator`, and the counts.
    """
    tokens_in = count_tokens(dataset)
    mean = max(1, tokens_in // len(dataset))
    rows = dataset.with_format("arrow").map(
        lambda table, numbers: pack_batch(table, max_length, packing, numbers[0] if number_documents else None),
        batched=True,
        with_indices=True,
        batch_size=max(1, TOKENS_PER_BATCH // mean),
        new_fingerprint=Hasher.hash((dataset._fingerprint, max_length, packing, number_documents, "best-fit")),
        desc=f"Packing rows of {max_length}",
    )
    lengths = np.concatenate([chunk.value_lengths().to_numpy() for chunk in column(dataset, "input_ids").chunks])
    tokens_packed = count_tokens(rows)
    report = PackingReport(
        documents=len(dataset),
        documents_cut=int((lengths > max_length).sum()),
        rows=len(rows),
        tokens_in=tokens_in,
        tokens_packed=tokens_packed,
        tokens_dropped=tokens_in - tokens_packed,
        packing_efficiency=tokens_packed / (len(rows) * max_length),
    )
    return rows.with_format("numpy"), report


def mean_attended_length(rows: Dataset) -> float:
    """Length of the document piece that a token is in, averaged over all tokens.

    Example: pieces of 3 and 1 tokens: (3 + 3 + 3 + 1) / 4 = 2.5.
    """
    lengths = np.concatenate([chunk.flatten().to_numpy() for chunk in column(rows, "lengths").chunks]).astype(float)
    return float((lengths**2).sum() / lengths.sum())


@dataclass
class PackingCollator:
    """Make batches of packed rows in which the documents of a row do not see each other.

    Isolation needs three things together: position ids that restart at every document, no attention mask, and no
    cache. transformers then finds the borders of the documents in the positions (`masking_utils`). The first token of
    every document has the label -100, so it is never predicted from the document before.

    Args:
        pad_token_id: fills the short rows; padding is a document of its own whose labels are all -100.
        position_ids: False for rows of one document each, for models that take no positions.
        skip_prompts: let the model compute logits only where a label follows; they may cost as much as all layers.
            Only for models for which `can_skip_prompts` is true.

    Example:
        A row of documents of 3 and 2 tokens:

        >>> batch = PackingCollator(pad_token_id=0)([{"input_ids": [10, 11, 12, 20, 21], "lengths": [3, 2]}])
        >>> batch["position_ids"].tolist()
        [[0, 1, 2, 0, 1]]
        >>> batch["labels"].tolist()
        [[-100, 11, 12, -100, 21]]
    """

    causal = True  # whether tokens are predicted from those before them, and must not see those after

    pad_token_id: int
    position_ids: bool = True
    skip_prompts: bool = False

    def __call__(self, rows: list[dict[str, np.ndarray]]) -> dict[str, torch.Tensor]:
        """Make a batch.

        Args:
            rows: each `{"input_ids": (t,), "lengths": (pieces,)}`, and `labels`, (t,), if these are not the tokens.

        Returns:
            `input_ids`, `labels` and `position_ids`, all (B, T) int64. With `skip_prompts` also `logits_to_keep`,
            (B, T) bool, true at each token that is followed by one of the L labels, and `shift_labels`, (L,), these
            labels; the model's logits are then (L, vocabulary). Labels [-100, 11, 12, -100, 21] give `logits_to_keep`
            [1, 1, 0, 1, 0] and `shift_labels` [11, 12, 21].
        """
        width = max(len(row["input_ids"]) for row in rows)
        input_ids = np.full((len(rows), width), self.pad_token_id, np.int64)
        labels = np.full((len(rows), width), -100, np.int64)
        position_ids = np.tile(np.arange(width), (len(rows), 1))
        for i, row in enumerate(rows):
            tokens, lengths = np.asarray(row["input_ids"]), np.asarray(row["lengths"])
            starts = np.cumsum(lengths) - lengths
            input_ids[i, : len(tokens)] = tokens
            labels[i, : len(tokens)] = self.labels(row, starts)
            borders = np.append(starts, len(tokens))
            # 0 1 2 3 4 minus the start of each token's document, 0 0 0 3 3, is 0 1 2 0 1.
            position_ids[i] -= np.repeat(borders, np.append(lengths, width - len(tokens)))
        batch = {"input_ids": input_ids, "labels": labels} | (
            {"position_ids": position_ids} if self.position_ids else {}
        )
        if self.skip_prompts:
            next_labels = np.pad(labels[:, 1:], ((0, 0), (0, 1)), constant_values=-100)
            batch |= {"logits_to_keep": next_labels != -100, "shift_labels": next_labels[next_labels != -100]}
        return {key: torch.from_numpy(value) for key, value in batch.items()}

    def labels(self, row: dict[str, np.ndarray], starts: np.ndarray) -> np.ndarray:
        """Labels of a row's tokens, (t,): -100 at `starts`, where no token of the same document comes before."""
        labels = np.array(row.get("labels", row["input_ids"]))
        labels[starts] = -100
        return labels

    def facts(self) -> dict[str, Any]:
        """Settings that must be equal for a resumed run to be the same run."""
        return {}

    def callbacks(self) -> list[TrainerCallback]:
        """Callbacks that a Trainer needs to train with this collator."""
        return []
