"""Texts and labels for a model with a classification head, such as BERT: one text or a pair of texts for each row."""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase, TrainerCallback

from hf_llm.data.arrow import token_lists
from hf_llm.data.examples import ExamplesReport, batches_with_origins
from hf_llm.messages import add_origin
from hf_llm.metrics.classification import LABEL_SEPARATOR, split_labels
from hf_llm.tasks import Task

logger = logging.getLogger(__name__)


class Labeller:
    """Encodes the rows of a task for a model that labels them, as `Prompter` does for one that writes.

    Args:
        tokenizer: of the model.
        task: one with a `problem_type`.
        max_length: tokens of a row; longer texts lose their end, of a pair the longer one first.
        labels: the names of the head's outputs, in their order; one, which has no meaning, for a regression.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, task: Task, max_length: int, labels: list[str]):
        self.tokenizer, self.task, self.max_length, self.labels = tokenizer, task, max_length, labels
        self.index = {name: number for number, name in enumerate(labels)}
        both, first, second = tokenizer("a", "a"), tokenizer("a"), tokenizer("a", add_special_tokens=False)
        joined = len(both.input_ids) == len(first.input_ids) + len(second.input_ids)  # as by those of our new models
        # What a tokenizer that puts nothing between two texts needs before the second one.
        self.separator = f"{tokenizer.sep_token or tokenizer.eos_token or ' '}" if joined else ""

    def head(self) -> dict[str, Any]:
        """The settings of the classification head in the model's config."""
        id2label = dict(enumerate(self.labels))
        return {"id2label": id2label, "label2id": self.index, "problem_type": self.task.problem_type}

    def tokenize(self, texts: list[list[str]]) -> tuple[list[dict[str, list[int]]], list[int]]:
        """Encode rows of one or two texts.

        Returns:
            For each row the model's inputs without the attention mask, and how many tokens were cut.
        """
        pairs: Any = [list(column) for column in zip(*texts, strict=True)]
        if len(pairs) > 1:
            pairs[1] = [self.separator + text for text in pairs[1]]
        options: dict[str, Any] = {"return_attention_mask": False, "verbose": False}
        lengths = [len(ids) for ids in self.tokenizer(*pairs, **options)["input_ids"]]
        if max(lengths) > self.max_length:
            options |= {"truncation": True, "max_length": self.max_length}
        encoded = self.tokenizer(*pairs, **options)
        rows = [dict(zip(encoded, values, strict=True)) for values in zip(*encoded.values(), strict=True)]
        return rows, [length - len(row["input_ids"]) for length, row in zip(lengths, rows, strict=True)]

    def target(self, gold: str) -> list[int] | list[float]:
        """The number of a gold label among the model's, 1 or 0 for each of several, or the gold number of a regression.

        Raises:
            ValueError: the model has no such label.
        """
        if self.task.problem_type == "regression":
            return [float(gold)]
        several = self.task.problem_type == "multi_label_classification"
        labels = split_labels(gold) if several else [gold]
        if unknown := {*labels} - {*self.index}:
            raise ValueError(
                f"label `{min(unknown)}` is not among the {len(self.labels)} labels of the model, "
                f"{', '.join(self.labels[:20])}: give it another name by `labels=a|b|...` in `--task_options`"
            )
        return [float(name in labels) for name in self.labels] if several else [self.index[gold]]

    def answers(self, logits: np.ndarray) -> list[str]:
        """The label of each row of logits (N, labels), several, or its number."""
        if self.task.problem_type == "regression":
            return [f"{number:.7g}" for number in logits[:, 0]]
        if self.task.problem_type == "multi_label_classification":
            chosen = logits > 0
            chosen[np.arange(len(chosen)), logits.argmax(1)] = True
            return [LABEL_SEPARATOR.join(np.array(self.labels)[row]) for row in chosen]
        return [self.labels[number] for number in logits.argmax(1)]


def encode_texts(rows: Dataset, labeller: Labeller, split: str = "train") -> tuple[Dataset, ExamplesReport]:
    """Encode the rows of a task for a model with a classification head, to train it or to evaluate it.

    Args:
        rows: N rows as `load_rows` returns them, with the task's column names.
        split: name of the rows in messages.

    Returns:
        Rows `{"input_ids": list[int32], "lengths": [tokens], "labels": [label]}`, with `token_type_ids` of tokenizers
        that have them; and the counts.

    Raises:
        ValueError: a row has no label, or one that the model lacks; the row is named.
    """
    if not len(rows):
        raise ValueError(f"`{split}` has no rows")
    tables, removed, task = [], [], labeller.task
    for batch in batches_with_origins(rows, split):
        texts, labels = [], []
        for row in batch:
            with add_origin(row):
                texts.append(task.texts(row))
                labels.append(labeller.target(task.references(row)[0]))
        inputs: list[dict[str, list[int]]] = [{}] * len(batch)
        cut = [0] * len(batch)
        for size in {*map(len, texts)}:  # single texts and pairs are tokenized in different ways
            members = [number for number, row in enumerate(texts) if len(row) == size]
            for number, ids, tokens in zip(members, *labeller.tokenize([texts[i] for i in members]), strict=True):
                inputs[number], cut[number] = ids, tokens
        removed += cut
        columns: dict[str, Any] = {name: token_lists([row[name] for row in inputs]) for name in inputs[0]}
        columns["lengths"] = token_lists([[len(row["input_ids"])] for row in inputs])
        tables.append(pa.table(columns | {"labels": labels}))
    report = ExamplesReport(len(removed), 0, int(np.count_nonzero(removed)), sum(removed))
    if report.tokens_cut:
        logger.warning(
            f"{split}: {report.examples_shortened} of {len(removed)} rows shortened by {report.tokens_cut} tokens "
            f"together to fit in {labeller.max_length}"
        )
    return Dataset(pa.concat_tables(tables)), report


@dataclass
class LabelCollator:
    """Make batches of the rows of `encode_texts`, padded to the longest one.

    Example:
        >>> LabelCollator(tokenizer)([{"input_ids": [0, 9, 2], "lengths": [3], "labels": [1]}])
        {"input_ids": tensor([[0, 9, 2]]), "attention_mask": tensor([[1, 1, 1]]), "labels": tensor([[1]])}
    """

    tokenizer: PreTrainedTokenizerBase
    causal = position_ids = skip_prompts = False  # as of a `PackingCollator`: each row is one text

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Make a batch: the model's inputs, (B, T), and `labels`, (B, 1), or (B, labels) of several labels a row."""
        batch = pad_texts(self.tokenizer, rows)
        return batch | {"labels": torch.tensor(np.array([row["labels"] for row in rows]))}

    def facts(self) -> dict[str, Any]:
        """Settings that must be equal for a resumed run to be the same run: there are none."""
        return {}

    def callbacks(self) -> list[TrainerCallback]:
        """Callbacks that a Trainer needs to train with this collator: there are none."""
        return []


def pad_texts(tokenizer: PreTrainedTokenizerBase, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Pad the model's inputs of rows of `encode_texts` to the longest one, each (B, T)."""
    names = [name for name in ("input_ids", "token_type_ids") if name in rows[0]]
    return {**tokenizer.pad([{name: row[name] for name in names} for row in rows], return_tensors="pt")}
