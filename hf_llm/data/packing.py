"""Tokenized documents -> rows of max_length, and the batches in which packed documents do not see each other."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from datasets.fingerprint import Hasher
from transformers import TrainerCallback

from hf_llm.data.arrow import column, count_tokens

# Tokens packed together: bounds the memory, and leaves at most one part-filled row in thousands.
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


def cut_documents(lengths: np.ndarray, max_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut documents of `lengths` tokens, laid one after the other, into pieces of at most `max_length`.

    A single token at the end takes one from the piece before it: alone it would predict nothing, and the loss of a
    batch with nothing else in it would be 0 / 0.

    Returns:
        Start (in the concatenated tokens) and length of every piece, (pieces,) int64 both, in document order.

    Example:
        >>> cut_documents(np.array([3, 10]), 4)
        (array([ 0,  3,  7, 11]), array([3, 4, 4, 2]))
    """
    pieces = -(-lengths // max_length)
    document = np.repeat(np.arange(len(lengths)), pieces)
    rank = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    starts = (np.cumsum(lengths) - lengths)[document] + rank * max_length
    sizes = np.minimum(lengths[document] - rank * max_length, max_length)
    (lone,) = np.nonzero((sizes == 1) & (rank > 0) & (max_length > 2))
    starts[lone] -= 1
    sizes[lone] += 1
    sizes[lone - 1] -= 1
    return starts, sizes


def best_fit(lengths: np.ndarray, max_length: int) -> list[list[int]]:
    """Assign pieces to rows by best-fit decreasing: the longest first, each into the fullest row that has room.

    Args:
        lengths: (pieces,) tokens of each, 1 to `max_length`.

    Returns:
        For each row the indices of its pieces. At most 11/9 of the best possible number of rows (Johnson, 1973).

    Example:
        >>> best_fit(np.array([2, 3, 2, 1]), 4)
        [[1, 3], [0, 2]]
    """
    rows: list[list[int]] = []
    with_room: list[list[int]] = [[] for _ in range(max_length + 1)]  # free tokens -> rows
    free_sizes = 0  # bit f is set while some row has f tokens free: the best fit is the lowest bit from `length` up
    for piece in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[piece])
        fitting = free_sizes >> length
        if fitting:
            free = length + (fitting & -fitting).bit_length() - 1
            row = with_room[free].pop()
            rows[row].append(piece)
            if not with_room[free]:
                free_sizes ^= 1 << free
        else:
            free, row = max_length, len(rows)
            rows.append([piece])
        if free > length:
            with_room[free - length].append(row)
            free_sizes |= 1 << (free - length)
    return rows


def pack_batch(documents: pa.Table, max_length: int, packing: bool) -> pa.Table:
    """Lay documents out in rows: `{"input_ids": list[int32], "lengths": list[int32]}`, lengths of the row's pieces.

    `labels`, where the documents have some, are laid out as the tokens are.
    """
    columns = {name: documents[name].combine_chunks() for name in documents.column_names}
    starts, lengths = cut_documents(columns["input_ids"].value_lengths().to_numpy(), max_length)
    rows = best_fit(lengths, max_length) if packing else [[piece] for piece in range(len(lengths))]
    order = np.fromiter((piece for row in rows for piece in row), np.int64, count=len(lengths))
    row_ends = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    lengths = lengths[order]
    piece_ends = np.concatenate([[0], np.cumsum(lengths)])
    index = np.arange(piece_ends[-1]) + np.repeat(starts[order] - piece_ends[:-1], lengths)
    offsets = pa.array(piece_ends[row_ends], pa.int32())
    rows = {
        name: pa.ListArray.from_arrays(offsets, pa.array(values.flatten().to_numpy()[index], pa.int32()))
        for name, values in columns.items()
    }
    return pa.table(
        rows | {"lengths": pa.ListArray.from_arrays(pa.array(row_ends, pa.int32()), pa.array(lengths, pa.int32()))}
    )


def pack(dataset: Dataset, max_length: int, packing: bool = True) -> tuple[Dataset, PackingReport]:
    """Fill rows of `max_length` with documents by best fit; long documents are cut into pieces, no token is lost.

    Args:
        dataset: rows `{"input_ids": list[int]}`, one a document; with `labels`, of the same length, where not all
            tokens are trained on. Such examples must fit in a row.
        packing: False gives each piece a row of its own.

    Returns:
        Rows `{"input_ids": list[int32], "lengths": list[int32]}` (and `labels`) for `PackingCollator`, and the counts.
    """
    tokens_in = count_tokens(dataset)
    mean = max(1, tokens_in // len(dataset))
    rows = dataset.with_format("arrow").map(
        lambda table: pack_batch(table, max_length, packing),
        batched=True,
        batch_size=max(1, TOKENS_PER_BATCH // mean),
        new_fingerprint=Hasher.hash((dataset._fingerprint, max_length, packing, "best-fit")),
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


@dataclass
class PackingCollator:
    """Batch packed rows so that documents in one row do not see each other.

    Isolation rests on three things together: position ids that restart at every document, no attention mask, and no
    cache. transformers then reads the document borders from the positions (`masking_utils`). The first token of
    every document has label -100: it is never predicted from the document before.

    Args:
        pad_token_id: fills the short rows; padding is a document of its own whose labels are all -100.
        position_ids: False for rows of one document each, for models that take no positions.
        skip_prompts: let the model compute logits, which may cost as much as all the layers before them, only where
            a label follows. For models that `can_skip_prompts` finds able to.
    """

    causal = True  # whether tokens are predicted from those before them, and must not see those after

    pad_token_id: int
    position_ids: bool = True
    skip_prompts: bool = False

    def __call__(self, rows: list[dict[str, np.ndarray]]) -> dict[str, torch.Tensor]:
        """Rows `{"input_ids": (t,), "lengths": (pieces,)}` -> `input_ids`, `labels`, `position_ids`, all (B, T).

        Rows with `labels`, (t,), keep those. With `skip_prompts` also `logits_to_keep`, (B, T) bool, true before the L
        labels of the batch, and `shift_labels`, (L,), those labels; the model's logits are then (L, vocabulary).
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
            position_ids[i] -= np.repeat(borders, np.append(lengths, width - len(tokens)))
        batch = {"input_ids": input_ids, "labels": labels} | (
            {"position_ids": position_ids} if self.position_ids else {}
        )
        if self.skip_prompts:
            following = np.pad(labels[:, 1:], ((0, 0), (0, 1)), constant_values=-100)
            batch |= {"logits_to_keep": following != -100, "shift_labels": following[following != -100]}
        return {key: torch.from_numpy(value) for key, value in batch.items()}

    def labels(self, row: dict[str, np.ndarray], starts: np.ndarray) -> np.ndarray:
        """Labels of a row's tokens, (t,); nothing before the first one of a piece predicts it."""
        labels = np.array(row.get("labels", row["input_ids"]))
        labels[starts] = -100
        return labels

    def facts(self) -> dict[str, Any]:
        """Settings that must be equal for a resumed run to be the same run."""
        return {}

    def callbacks(self) -> list[TrainerCallback]:
        """Callbacks that a Trainer needs to train with this collator."""
        return []
