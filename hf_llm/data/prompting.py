"""Rows of a task -> token ids: in plain text or by the chat template, with solved examples, shortened to fit."""

import contextlib
import functools
import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from accelerate import PartialState
from datasets import Dataset, DatasetDict
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from hf_llm.arguments import TaskArguments
from hf_llm.tasks import Task

logger = logging.getLogger(__name__)

PROBE = "the completion"
CUE = 8  # characters before a completion, enough for a tokenizer to see where it begins


@dataclass
class ExamplesReport:
    """What encoding did to the rows of one split."""

    examples: int
    examples_dropped: int  # nothing to learn: no completion
    examples_shortened: int
    tokens_cut: int

    def metrics(self, prefix: str) -> dict[str, float]:
        """The counts under the names that the results files use, e.g. `train_examples_shortened`."""
        return {f"{prefix}_{key}": value for key, value in asdict(self).items()}


class Prompter:
    """Turns the rows of a task into token ids, in training and in evaluation the same way.

    Args:
        style: `plain` puts a space between prompt and completion; `chat` uses the tokenizer's template. None: `chat`
            where the tokenizer has one.
        shots: solved examples, `{"prompt": str, "completion": str}`, put before each prompt.
        max_length: tokens of prompt and completion together.

    Raises:
        ValueError: `chat`, and the tokenizer has no template; no end-of-sequence token.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        task: Task,
        max_length: int,
        style: str | None = None,
        shots: list[dict[str, str]] | None = None,
    ):
        if style == "chat" and not tokenizer.chat_template:
            raise ValueError(f"`--prompt_style` chat: tokenizer `{tokenizer.name_or_path}` has no template; use plain")
        if tokenizer.eos_token_id is None:
            raise ValueError(f"tokenizer `{tokenizer.name_or_path}` has no eos token: give another `--tokenizer_name`")
        self.tokenizer, self.task, self.max_length, self.shots = tokenizer, task, max_length, shots or []
        self.chat = style == "chat" or (style is None and bool(tokenizer.chat_template))
        self.cue, self.end = self._turn() if self.chat else ("", tokenizer.eos_token)
        self._ids_after = functools.lru_cache(1000)(self._ids_after)  # a label is a choice of every row
        self.end_token_ids = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(self.end)]

    def _turn(self) -> tuple[str, str]:
        """What the template puts right before an answer, and the special token that ends one.

        With some models that is another token than the end of a document, and not the last one of the turn.
        """
        turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": PROBE}]
        before, _, after = self.tokenizer.apply_chat_template(turns, tokenize=False).rpartition(PROBE)
        special = self.tokenizer.all_special_ids
        closing = [i for i in self._ids(after) if i in special or i in self.tokenizer.added_tokens_decoder]
        return before[-CUE:], self.tokenizer.convert_ids_to_tokens(closing[0]) if closing else self.tokenizer.eos_token

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def prompt_ids(self, prompt: str) -> list[int]:
        """A prompt with the shots before it."""
        if self.chat:
            turns = [
                {"role": role, "content": shot[part]}
                for shot in self.shots
                for role, part in (("user", "prompt"), ("assistant", "completion"))
            ]
            turns.append({"role": "user", "content": prompt})
            text = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
            return self._ids(text)
        before = "".join(f"{shot['prompt']} {shot['completion']}\n\n" for shot in self.shots)
        return without_end(self.tokenizer(before + prompt).input_ids, self.tokenizer)

    def completion_ids(self, completion: str, after: str, end: bool = True) -> list[int]:
        """A completion of the prompt `after`, closed by the token that ends an answer."""
        cue = self.cue if self.chat else after[-CUE:]
        text = ("" if self.chat or not after else " ") + completion + (self.end if end else "")
        return self._ids_after(cue, text)

    def _ids_after(self, cue: str, text: str) -> list[int]:
        """Of a text with what stands before it: alone, SentencePiece would put a space of its own before it."""
        before, whole = self._ids(cue), self._ids(cue + text)
        return whole[len(before) :] if whole[: len(before)] == before else self._ids(text)

    def fit(self, row: dict[str, Any], budget: int) -> tuple[list[int], int]:
        """The row's prompt in at most `budget` tokens, and how many of its document's tokens were cut for it.

        Raises:
            ValueError: it does not fit with no document at all.
        """
        ids = self.prompt_ids(self.task.to_example(row)["prompt"])
        if len(ids) <= budget:
            return ids, 0
        document = row.get(self.task.document) or ""
        if not self.tokenizer.is_fast:
            raise ValueError(f"{len(ids)} tokens are too many, and this tokenizer cannot tell where to cut a document")
        ends = [end for _, end in self.tokenizer(document, return_offsets_mapping=True)["offset_mapping"]]
        keep = len(ends)
        while len(ids) > budget and keep > 0:
            keep = max(0, keep - (len(ids) - budget))
            cut = row | {self.task.document: document[: ends[keep - 1] if keep else 0]}
            ids = self.prompt_ids(self.task.to_example(cut)["prompt"])
        if len(ids) > budget:
            raise ValueError(
                f"a prompt of {len(ids)} tokens leaves no room for {self.max_length - budget} more in `--max_length` "
                f"{self.max_length}: give {len(ids) + self.max_length - budget} or more, a smaller `max_new_tokens` in "
                f"`--task_options`{', or fewer `--num_fewshot`' if self.shots else ''}"
            )
        return ids, len(ends) - keep


def without_end(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """A prompt's ids; an end-of-sequence token that the tokenizer puts behind every text is taken off."""
    ids = ids[:-1] if ids[-1:] == [tokenizer.eos_token_id] else ids
    opening = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    return ids or [opening]


def new_prompter(
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    rows: DatasetDict,
    task_args: TaskArguments,
    max_length: int,
    seed: int,
) -> tuple[Prompter, DatasetDict]:
    """The prompter of a run, and the rows without those that serve as shots."""
    shots, rows = draw_shots(rows, task, task_args.num_fewshot, seed)
    return Prompter(tokenizer, task, max_length, task_args.prompt_style, shots), rows


def draw_shots(rows: DatasetDict, task: Task, number: int, seed: int) -> tuple[list[dict[str, str]], DatasetDict]:
    """Solved examples from `train`, or where there is none from `validation`, taken out of the part they are from.

    A row of `train` that is evaluated too is passed over.
    """
    if not number:
        return [], rows
    part = "train" if "train" in rows else "validation"
    evaluated = {task.to_example(row)["prompt"] for row in rows["validation"]} if part == "train" else set()
    taken, shots = [], []
    for index in np.random.default_rng(seed).permutation(len(rows[part])).tolist():
        example = task.to_example(rows[part][index])
        if len(shots) == number:
            break
        if example["completion"] and example["prompt"] not in evaluated:
            taken.append(index)
            shots.append(example)
    if len(shots) < number or len(taken) == len(rows[part]):
        raise ValueError(f"`--num_fewshot` {number}: `{part}` has no more than {len(shots)} rows to draw from")
    logger.info(f"{number} solved examples before each prompt: rows {taken} of {part}, which are not used otherwise")
    rest = np.setdiff1d(np.arange(len(rows[part])), taken)
    return shots, DatasetDict({**rows, part: rows[part].select(rest)})


@contextlib.contextmanager
def naming_row(part: str, number: int):
    """Puts the row's place before the message of an error."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"`{part}` row {number}: {error}") from None


def progress(rows: Dataset, part: str) -> Iterable[dict[str, Any]]:
    """The rows under a progress bar, on rank 0."""
    return tqdm(rows, desc=f"Prompts of {part}", disable=not PartialState().is_main_process)


def as_ids(ids: list[int]) -> np.ndarray:
    """Token ids at 4 bytes each, where a list takes nine times as much."""
    return np.array(ids, np.int32)


def encode_examples(rows: Dataset, prompter: Prompter, part: str = "train") -> tuple[Dataset, ExamplesReport]:
    """Rows of a task as features for training on the completion alone.

    Returns:
        Rows `{"input_ids": list[int32], "labels": list[int32]}`, labels -100 on the prompt; and the counts.

    Raises:
        ValueError: a completion is longer than `max_length`, or no row has one; the row is named.
    """
    features, dropped, cuts = [], 0, []
    for number, row in enumerate(progress(rows, part)):
        with naming_row(part, number):
            example = prompter.task.to_example(row)
            completion = prompter.completion_ids(example["completion"], example["prompt"])
            if not example["completion"]:
                dropped += 1
                continue
            if len(completion) >= prompter.max_length:
                raise ValueError(
                    f"a completion of {len(completion)} tokens does not fit in `--max_length` {prompter.max_length}"
                )
            prompt, cut = prompter.fit(row, prompter.max_length - len(completion))
        cuts.append(cut)
        labels = as_ids([-100] * len(prompt) + completion)
        features.append({"input_ids": as_ids(prompt + completion), "labels": labels})
    if not features:
        raise ValueError(f"`{part}`: none of the {len(rows)} rows has a completion to learn")
    report = ExamplesReport(len(features), dropped, int(np.count_nonzero(cuts)), sum(cuts))
    if dropped or report.tokens_cut:
        logger.warning(
            f"{part}: {dropped} rows without a completion dropped; {report.examples_shortened} of {len(features)} "
            f"documents shortened by {report.tokens_cut} tokens together to fit in {prompter.max_length}"
        )
    return Dataset.from_list(features), report


def encode_prompts(rows: Dataset, prompter: Prompter, part: str = "validation") -> tuple[Dataset, ExamplesReport]:
    """Rows of a task as prompts to be completed or as choices to be ranked.

    Returns:
        Rows `{"prompt": list[int], "completion": list[int], "choices": list[list[int]], "references": list[str]}`,
        choices empty where the answer is generated; and the counts.

    Raises:
        ValueError: a gold answer is empty, or a prompt does not fit; the row is named.
    """
    task, features, cuts = prompter.task, [], []
    for number, row in enumerate(progress(rows, part)):
        with naming_row(part, number):
            example, references = task.to_example(row), task.references(row)
            if not (references or task.may_have_no_answer):
                raise ValueError("the reference is empty: remove the row, or give it one")
            completion = prompter.completion_ids(example["completion"], example["prompt"])
            choices = [
                prompter.completion_ids(text, example["prompt"], task.choices_end) for text in task.choices(row) or []
            ]
            rooms = map(len, choices) if choices else (task.max_new_tokens, task.with_perplexity and len(completion))
            room = max(rooms)
            prompt, cut = prompter.fit(row, prompter.max_length - room)
        cuts.append(cut)
        row = {"prompt": as_ids(prompt), "completion": as_ids(completion), "choices": [*map(as_ids, choices)]}
        features.append(row | {"references": references})
    report = ExamplesReport(len(features), 0, int(np.count_nonzero(cuts)), sum(cuts))
    if report.tokens_cut:
        logger.warning(
            f"{part}: {report.examples_shortened} of {len(features)} documents shortened by {report.tokens_cut} tokens "
            f"together to fit in {prompter.max_length}"
        )
    return Dataset.from_list(features), report


def show_example(features: Dataset, tokenizer: PreTrainedTokenizerBase) -> None:
    """The first example as the model sees it, in the log; what is trained on stands in [[ ]]."""
    ids, labels = features[0]["input_ids"], features[0]["labels"]
    start = next(i for i, label in enumerate(labels) if label != -100)
    prompt, completion = tokenizer.decode(ids[:start]), tokenizer.decode(ids[start:])
    logger.info(f"First example, trained on what stands in [[ ]]:\n{prompt}[[{completion}]]")
