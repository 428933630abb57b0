"""Few-shot examples of a task: drawn from its rows, and removed from the rows that are trained on or evaluated."""

import logging

import numpy as np
from datasets import DatasetDict
from transformers import PreTrainedTokenizerBase

from hf_llm.arguments import TaskArguments
from hf_llm.data.prompting import Prompter, example_of
from hf_llm.tasks import Task

logger = logging.getLogger(__name__)


def new_prompter(
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    rows: DatasetDict,
    task_args: TaskArguments,
    max_length: int,
    seed: int,
) -> tuple[Prompter, DatasetDict]:
    """Create the prompter of a run, and return it with the rows that are not few-shot examples."""
    shots, rest = draw_shots(rows, task, task_args.num_fewshot, seed)
    return Prompter(tokenizer, task, max_length, task_args.prompt_style, shots), rest


def draw_shots(rows: DatasetDict, task: Task, number: int, seed: int) -> tuple[list[dict[str, str]], DatasetDict]:
    """Draw few-shot examples from `train`, or without one from `validation`, and remove them from that split.

    Rows of `train` whose prompt is also in `validation` are skipped.

    Returns:
        The examples, and the remaining rows.

    Raises:
        ValueError: the split has too few different rows.
    """
    if not number:
        return [], rows
    split = "train" if "train" in rows else "validation"
    evaluated = {example_of(row, task)["prompt"] for row in rows["validation"].to_list()} if split == "train" else set()
    drawn, shots = [], []
    for index in np.random.default_rng(seed).permutation(len(rows[split])).tolist():
        example = example_of(rows[split][index], task)
        if len(shots) == number:
            break
        if example["completion"] and example["prompt"] not in evaluated and example not in shots:
            drawn.append(index)
            shots.append(example)
    rest = np.setdiff1d(np.arange(len(rows[split])), drawn).tolist()
    if split == "validation":  # a row equal to a few-shot example would see its own answer
        rest = [index for index in rest if example_of(rows[split][index], task) not in shots]
    if len(shots) < number or not rest:
        raise ValueError(
            f"`--num_fewshot` {number}: `{split}` has {len(shots)} different rows to draw from, and one must be left"
        )
    logger.info(f"{number} few-shot examples before each prompt: rows {drawn} of {split}, which are not used otherwise")
    return shots, DatasetDict({**rows, split: rows[split].select(rest)})
