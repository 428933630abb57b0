"""Few-shot examples of a task: drawn from its rows, and removed from the rows that are trained on or evaluated."""

import logging
from typing import Any

import numpy as np
from datasets import DatasetDict

from hf_llm.messages import add_origin
from hf_llm.tasks import Task

logger = logging.getLogger(__name__)

FEWSHOT = "fewshot"  # the split of the examples


def draw_shots(rows: DatasetDict, task: Task, number: int, seed: int) -> DatasetDict:
    """Move rows from `train`, or without it from `validation`, into a split of few-shot examples, `FEWSHOT`.

    No example has the prompt of another one or of an evaluated row, whatever their completions.

    Returns:
        The splits; the same as before if `number` is 0.

    Raises:
        ValueError: the split has too few different rows.
    """
    if not number:
        return rows
    split = "train" if "train" in rows else "validation"
    held_out = rows["validation"].to_list() if split == "train" else []
    taken, drawn = {prompt_key(example_of(row, task)) for row in held_out}, []
    for index in np.random.default_rng(seed).permutation(len(rows[split])).tolist():
        example = example_of(rows[split][index], task)
        if len(drawn) == number:
            break
        key = prompt_key(example)
        if example["completion"] and key not in taken:
            drawn.append(index)
            taken.add(key)
    rest = np.setdiff1d(np.arange(len(rows[split])), drawn).tolist()
    if split == "validation":  # a row with the prompt of a few-shot example would see an answer to it
        rest = [index for index in rest if prompt_key(example_of(rows[split][index], task)) not in taken]
    if len(drawn) < number or not rest:
        raise ValueError(
            f"`--num_fewshot` {number}: `{split}` has {len(drawn)} different prompts to draw from"
            f"{' that are not in `validation`' if split == 'train' else ''}, and a row with another one must be left: "
            "give fewer examples, or more rows"
        )
    logger.info(f"{number} few-shot examples before each prompt: rows {drawn} of {split}, which are not used otherwise")
    return DatasetDict({**rows, split: rows[split].select(rest), FEWSHOT: rows[split].select(drawn)})


def prompt_key(example: dict[str, str]) -> str:
    """What few-shot examples and evaluated rows do not share: the prompt, or the completion if there is no prompt.

    Raises:
        ValueError: the example is a conversation.
    """
    if "messages" in example:
        raise ValueError("`--num_fewshot` has no effect on conversations: leave it out, or give pairs of texts")
    return example["prompt"] or example["completion"]


def example_of(row: dict[str, Any], task: Task) -> dict[str, str]:
    """Prompt and completion of a row; an error names the row's origin."""
    with add_origin(row):
        return task.to_example(row)
