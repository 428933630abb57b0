"""Texts and pairs of texts are encoded as an encoder reads them, with the number of their label."""

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from tiny import new_tokenizer

from hf_llm.data.labelling import LabelCollator, Labeller, encode_texts
from hf_llm.tasks import load_task

ROWS = [
    {"text": "a b", "text2": None, "label": "no"},
    {"text": "a", "text2": "b", "label": "yes"},
    {"text": "a " * 40, "label": "no"},
]


def labeller(max_length=16, labels=("yes", "no")):
    task = load_task("understanding")
    task.prepare(DatasetDict(validation=Dataset.from_list(ROWS)))
    return Labeller(new_tokenizer(), task, max_length, [*labels])


def test_a_pair_is_separated_and_longer_texts_are_cut_and_counted(caplog):
    """Our own tokenizers put nothing between two texts; the labels have the order of the head."""
    encoder = labeller()
    rows, report = encode_texts(Dataset.from_list(ROWS), encoder)
    single, pair, cut = (encoder.tokenizer.decode(row["input_ids"]) for row in rows)
    assert single.endswith("a b") and pair.endswith(f"a{encoder.tokenizer.eos_token}b")
    assert [row["labels"] for row in rows] == [[1], [0], [1]]
    whole = len(encoder.tokenizer(ROWS[2]["text"].strip()).input_ids)
    assert (report.examples_shortened, report.tokens_cut) == (1, whole - 16) and rows[2]["lengths"] == [16]
    assert "1 of 3 rows shortened" in caplog.text and cut


def test_a_batch_is_padded_with_a_mask():
    """As tensors of the model's inputs."""
    encoder = labeller()
    rows, _ = encode_texts(Dataset.from_list(ROWS), encoder)
    batch = LabelCollator(encoder.tokenizer)(rows.to_list())
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (3, 16)
    assert batch["attention_mask"].sum(1).tolist() == [row["lengths"][0] for row in rows]
    assert batch["labels"].tolist() == [[1], [0], [1]]


def test_a_label_that_the_model_lacks_is_refused_by_row():
    """With the labels that it has."""
    with pytest.raises(ValueError, match="`train` row 1: label `yes` is not among the 1 labels of the model, no"):
        encode_texts(Dataset.from_list(ROWS), labeller(labels=["no"]))


def test_several_labels_are_those_more_likely_than_not_and_at_least_one():
    """In the order of the head, in training and in answers; the likeliest where none has a probability of half."""
    rows = [{"text": "a", "label": ["c", "a"]}, {"text": "b", "label": ["b"]}]
    task = load_task("understanding", several_labels=True)
    task.prepare(DatasetDict(validation=Dataset.from_list(rows)))
    encoder = Labeller(new_tokenizer(), task, 16, ["c", "b", "a"])
    encoded, _ = encode_texts(Dataset.from_list(rows), encoder)
    assert LabelCollator(encoder.tokenizer)(encoded.to_list())["labels"].tolist() == [[1, 0, 1], [0, 1, 0]]
    assert encoder.answers(np.array([[0.1, -1, 2], [-3, -1, -2]])) == ["c, a", "b"]
    with pytest.raises(ValueError, match="label `b` is not among the 2 labels of the model, c, a"):
        Labeller(new_tokenizer(), task, 16, ["c", "a"]).target("b, c")
