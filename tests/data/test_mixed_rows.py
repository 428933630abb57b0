"""The rows of a mixture are in its shares at every step, and a resumed run takes exactly those of a whole one."""

import json
import shutil
from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from tiny import STOCK, TEXTS, new_model, new_tokenizer
from transformers import Trainer, TrainingArguments

from hf_llm.arguments import ModelArguments, PretrainArguments, TextArguments
from hf_llm.data.mixed_rows import MixedExamples, MixedRows
from hf_llm.data.mixtures import Mixture, endless_order, spread
from hf_llm.data.sources import load_splits
from hf_llm.training.objectives import check_objective, set_training_arguments, tokenize_and_pack, trainer_options
from hf_llm.training.run import run_training

WORDS = {"web": "rain sun", "code": "def return", "math": "one two three"}


def mixture(unit="weight", strategy="first_exhausted", **amounts):
    return Mixture("mix.yaml", {}, amounts, unit, strategy)


def numbered(size):
    """Rows of two tokens, the first of which is their number."""
    return Dataset.from_dict({"input_ids": [[i, 0] for i in range(size)], "lengths": [[2]] * size})


def taken(rows, epoch):
    """(source, number, pass) of each row of an epoch."""
    rows.set_epoch(epoch)
    names = [*rows.rows]
    items = [(names[rows.sources[i]], rows[i]) for i in range(len(rows))]
    return [(name, int(row["input_ids"][0]), row["epoch"]) for name, row in items]


@pytest.mark.parametrize("shares", [[0.7, 0.2, 0.1], [0.5, 0.5], [0.999, 0.001], [1.0]])
def test_the_shares_hold_after_any_number_of_rows(shares):
    """A source is at most one row off its share, in an epoch of given rows and in a stream."""
    orders = [spread([round(share * 1000) for share in shares])[0], np.array([*islice(endless_order(shares), 1000)])]
    for order in orders:
        for source, share in enumerate(shares):
            counts = np.cumsum(order == source)
            assert np.abs(counts - share * np.arange(1, 1001)).max() <= 1


def test_a_source_repeats_a_row_only_when_it_has_no_new_one():
    """The next epoch continues where the one before ended, and a new pass has another order."""
    rows = MixedRows({"a": numbered(10), "b": numbered(3)}, mixture(a=0.5, b=0.5), seed=1)
    epochs = [taken(rows, epoch) for epoch in range(7)]
    assert [len(epoch) for epoch in epochs] == [6] * 7
    for name, size in (("a", 10), ("b", 3)):
        numbers = [number for epoch in epochs for source, number, _ in epoch if source == name]
        passes = [numbers[i : i + size] for i in range(0, 21 - 21 % size, size)]
        assert all(sorted(order) == [*range(size)] for order in passes)
        assert len({tuple(order) for order in passes}) > 1
    assert taken(rows, 3) == epochs[3]
    assert {passed for source, _, passed in epochs[6] if source == "b"} == {6}


@pytest.mark.parametrize(
    "unit, strategy, amounts, counts",
    [
        ("weight", "first_exhausted", {"a": 0.7, "b": 0.2, "c": 0.1}, {"a": 70, "b": 20, "c": 10}),
        ("weight", "all_exhausted", {"a": 0.7, "b": 0.2, "c": 0.1}, {"a": 350, "b": 100, "c": 50}),
        ("epochs", "first_exhausted", {"a": 0.5, "b": 3.0, "c": 1.0}, {"a": 50, "b": 60, "c": 50}),
    ],
)
def test_an_epoch_ends_where_the_strategy_says(unit, strategy, amounts, counts):
    """The example of the docstring, and passes over each source."""
    assert mixture(unit, strategy, **amounts).rows_of_an_epoch({"a": 100, "b": 20, "c": 50}) == counts


def test_examples_are_drawn_and_repeated_by_their_shares():
    """Each example as often as the others of its source, but for those that an incomplete pass draws."""
    examples = MixedExamples({"a": numbered(10), "b": numbered(4)}, mixture("epochs", a=0.5, b=2.5), seed=0)
    numbers = [row["input_ids"][0] for row in examples.examples]
    assert len({*numbers[:5]}) == 5 and sorted(Counter(numbers[5:]).values()) == [2, 2, 3, 3]
    figures = examples.metrics("train")
    assert figures["train_a_share"] == 5 / 15 and figures["train_b_repetitions"] == 2.5
    assert figures["train_b_tokens"] == 20 and figures["train_examples_of_an_epoch"] == 15


def write_mixture(folder):
    lines = []
    for number, (name, words) in enumerate(WORDS.items()):
        texts = [f"{text} {words}" for text in TEXTS]
        for split, part in (("train", texts[number * 5 :]), ("held_out", texts[:3])):
            rows = "".join(json.dumps({"text": text}) + "\n" for text in part)
            (folder / f"{name}_{split}.jsonl").write_text(rows)
        files = f"train_file: {folder}/{name}_train.jsonl, validation_file: {folder}/{name}_held_out.jsonl"
        lines.append(f"{name}: {{{files}, weight: {7 - 3 * number}}}\n")
    (folder / "mix.yaml").write_text("".join(lines))
    return folder / "mix.yaml"


def new_run(folder, data_args, splits):
    """The Trainer and the reports as the recipe makes them."""
    run_args = PretrainArguments()
    args = TrainingArguments(
        str(folder),
        **STOCK | {"max_steps": 6, "save_strategy": "steps", "save_steps": 4, "per_device_train_batch_size": 16},
    )
    tokenizer = new_tokenizer()
    check_objective(ModelArguments(), data_args, run_args, args, tokenizer)
    set_training_arguments(args, data_args, run_args)
    model = new_model()
    train, validation, reports = tokenize_and_pack(splits, tokenizer, data_args, run_args, args)
    options = trainer_options(run_args, data_args, model, tokenizer, splits["validation"], validation, args)
    return Trainer(model=model, args=args, train_dataset=train, processing_class=tokenizer, **options), reports


@pytest.mark.parametrize("streaming", [False, True])
def test_a_resumed_mixture_ends_with_the_same_bits(streaming, tmp_path):
    """In a later epoch, with the same figures of each source; its losses are those of all rows."""
    data_args = TextArguments(mixture=f"{write_mixture(tmp_path)}", max_length=64, streaming=streaming)
    splits = load_splits(data_args, seed=42)
    whole, reports = new_run(tmp_path / "whole", data_args, splits)
    assert streaming or len(whole.train_dataset) < 4 * 16
    figures = run_training(whole, None, True, reports)
    shutil.copytree(tmp_path / "whole" / "checkpoint-4", tmp_path / "again" / "checkpoint-4")
    again, reports = new_run(tmp_path / "again", data_args, splits)
    resumed = run_training(again, str(tmp_path / "again" / "checkpoint-4"), True, reports)
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("whole", "again")]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
    names = [name for name in figures if name.startswith(("train_web", "train_code", "train_math", "eval_"))]
    names = [name for name in names if not name.endswith(("runtime", "_second"))]
    assert {name: figures[name] for name in names} == {name: resumed[name] for name in names}
    rows = np.array([figures[f"train_{name}_rows"] for name in WORDS])
    assert np.abs(rows - rows.sum() * np.array([7, 4, 1]) / 12).max() <= 2  # a row off in each of two epochs
    assert sum(figures[f"train_{name}_tokens"] for name in WORDS) == figures["num_input_tokens_seen"]
    losses = [figures[f"eval_{name}_loss"] for name in WORDS]
    assert min(losses) < figures["eval_loss"] < max(losses)
