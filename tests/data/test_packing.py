"""Packing keeps every token, fills the rows well, and lays out batches that keep documents separate."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from tiny import pieces_of, random_documents

from hf_llm.data.packing import PackingCollator, best_fit_decreasing, cut_documents, pack


def as_dataset(documents):
    return Dataset.from_dict({"input_ids": documents})


def first_fit(lengths, max_length):
    """Number of rows that first fit takes, in the order of the documents."""
    free = []
    for length in lengths:
        row = next((i for i, room in enumerate(free) if room >= length), None)
        if row is None:
            free.append(max_length - length)
        else:
            free[row] -= length
    return len(free)


@pytest.mark.parametrize(
    "lengths, pieces",
    [
        ([3], [(0, 3)]),
        ([4, 1], [(0, 4), (4, 1)]),
        ([3, 10], [(0, 3), (3, 4), (7, 4), (11, 2)]),
        ([5, 9, 2], [(0, 3), (3, 2), (5, 4), (9, 3), (12, 2), (14, 2)]),
    ],
)
def test_only_documents_longer_than_a_row_are_cut(lengths, pieces):
    """Rows of 4 tokens: (start, length) of the pieces in document order; no last piece has a single token."""
    starts, piece_lengths = cut_documents(np.array(lengths), 4)
    assert list(zip(starts.tolist(), piece_lengths.tolist(), strict=True)) == pieces


def test_a_piece_goes_into_the_fullest_row_that_has_room():
    """Two rows of 10 are enough here; filling the emptiest row that has room would need three."""
    lengths = np.array([2, 7, 3, 6, 2])
    assert sorted(sorted(lengths[row].tolist()) for row in best_fit_decreasing(lengths, 10)) == [[2, 2, 6], [3, 7]]


LENGTHS = {
    "uniform": lambda g: g.integers(1, 101, 500),
    "short": lambda g: g.integers(1, 12, 500),
    "around a third": lambda g: g.integers(30, 40, 500),
    "heavy tail": lambda g: np.minimum(g.geometric(0.03, 500), 100),
}


@pytest.mark.parametrize("kind", LENGTHS)
@pytest.mark.parametrize("seed", range(3))
def test_best_fit_places_each_piece_once_and_wastes_little(kind, seed):
    """No row is too long; there are no more rows than first fit needs, and at most 11/9 of the lower bound plus one."""
    lengths = LENGTHS[kind](np.random.default_rng(seed))
    rows = best_fit_decreasing(lengths, 100)
    assert sorted(piece for row in rows for piece in row) == list(range(len(lengths)))
    assert max(lengths[row].sum() for row in rows) <= 100
    assert len(rows) <= first_fit(lengths, 100)
    per_row = 100 // lengths.min()  # the most pieces that a row can take
    least = max(-(-lengths.sum() // 100), (lengths > 50).sum(), -(-len(lengths) // per_row))
    assert len(rows) <= 11 / 9 * least + 1


@pytest.mark.parametrize("packing", [True, False], ids=["packing", "no packing"])
def test_no_token_is_lost_and_each_document_keeps_its_order(packing):
    """Documents over 32 tokens are cut after every 32nd, or one earlier where a single token would be left."""
    documents = [*random_documents(200, 80), list(range(3, 36))]
    rows, report = pack(as_dataset(documents), 32, packing)
    pieces = []
    for ids in documents:
        ends = [end - (len(ids) - end == 1) for end in range(32, len(ids), 32)]
        pieces += [ids[start:end] for start, end in zip([0, *ends], [*ends, len(ids)], strict=True)]
    assert sorted(pieces_of(rows)) == sorted(pieces)
    tokens = sum(map(len, documents))
    assert (report.tokens_in, report.tokens_packed, report.tokens_dropped) == (tokens, tokens, 0)


@pytest.mark.parametrize("packing", [True, False], ids=["packing", "no packing"])
def test_the_report_says_how_full_the_rows_are_and_how_many_documents_were_cut(packing):
    """Two documents of 2 and one of 6 tokens, rows of 4: one cut; 3 rows packed, 4 rows with a piece each."""
    rows, report = pack(as_dataset([[5, 6], [7, 8], [9] * 6]), 4, packing)
    assert (report.documents, report.documents_cut, report.rows) == (3, 1, 3 if packing else 4)
    assert report.packing_efficiency == pytest.approx(10 / 12 if packing else 10 / 16)
    assert len(rows) == report.rows
    assert report.metrics("eval")["eval_documents_cut"] == 1


def test_packed_rows_are_nearly_full():
    """Documents of mixed lengths fill the rows to more than 99 %."""
    _, report = pack(as_dataset(random_documents(2000, 100)), 128)
    assert report.packing_efficiency > 0.99


def test_the_batch_restarts_positions_and_predicts_no_first_token():
    """A row of pieces of 3 and 2 tokens, and a row of 2: first tokens and padding have the label -100."""
    batch = PackingCollator(pad_token_id=2)(
        [
            {"input_ids": np.array([10, 11, 12, 20, 21]), "lengths": np.array([3, 2])},
            {"input_ids": np.array([30, 2]), "lengths": np.array([2])},
        ]
    )
    assert batch["input_ids"].tolist() == [[10, 11, 12, 20, 21], [30, 2, 2, 2, 2]]
    # A pad token within a document is trained on: padding is what comes after the row, not a token id.
    assert batch["labels"].tolist() == [[-100, 11, 12, -100, 21], [-100, 2, -100, -100, -100]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1], [0, 1, 0, 1, 2]]
    assert set(batch) == {"input_ids", "labels", "position_ids"}  # an attention mask would switch isolation off


def test_models_without_positions_get_none():
    """Rows of one document each, for architectures that take no position ids."""
    batch = PackingCollator(2, position_ids=False)([{"input_ids": [5, 6], "lengths": [2]}])
    assert {key: value.tolist() for key, value in batch.items()} == {"input_ids": [[5, 6]], "labels": [[-100, 6]]}


def test_the_logits_that_are_kept_are_those_before_a_label():
    """Two completions in one row: a mask over the batch, and the next labels, row after row."""
    rows = [
        {"input_ids": [10, 11, 12, 20, 21], "labels": [-100, 11, 12, -100, 21], "lengths": [3, 2]},
        {"input_ids": [30, 31, 32], "labels": [-100, -100, 32], "lengths": [3]},
    ]
    batch = PackingCollator(2, skip_prompts=True)(rows)
    assert batch["logits_to_keep"].int().tolist() == [[1, 1, 0, 1, 0], [0, 1, 0, 0, 0]]
    assert batch["shift_labels"].tolist() == [11, 12, 21, 32]
    assert torch.equal(batch["labels"], PackingCollator(2)(rows)["labels"])
