"""Rows of a task -> token ids: in plain text or by the chat template, with solved examples, shortened to fit."""

import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from accelerate import PartialState
from datasets import Dataset, DatasetDict
from datasets.utils import tqdm
from transformers import PreTrainedTokenizerBase

from hf_llm.arguments import TaskArguments
from hf_llm.data.arrow import token_lists
from hf_llm.messages import add_origin
from hf_llm.tasks import Task

logger = logging.getLogger(__name__)

PROBE = "the completion"
ROWS_AT_A_TIME = 1000
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
        if tokenizer.eos_token_id is None:
            raise ValueError(f"tokenizer `{tokenizer.name_or_path}` has no eos token: give another `--tokenizer_name`")
        self.tokenizer, self.task, self.max_length, self.shots = tokenizer, task, max_length, shots or []
        self.chat = uses_chat(tokenizer, style)
        self.cue, self.end = self._turn() if self.chat else ("", tokenizer.eos_token)
        self.end_token_ids = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(self.end)]

    def _turn(self) -> tuple[str, str]:
        """What the template puts right before an answer, and the special token that ends one.

        With some models that is another token than the end of a document, and not the last one of the turn.
        """
        turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": PROBE}]
        before, _, after = self.tokenizer.apply_chat_template(turns, tokenize=False).rpartition(PROBE)
        special = self.tokenizer.all_special_ids
        closing = [i for i in self._ids([after])[0] if i in special or i in self.tokenizer.added_tokens_decoder]
        return before[-CUE:], self.tokenizer.convert_ids_to_tokens(closing[0]) if closing else self.tokenizer.eos_token

    def _ids(self, texts: list[str], special: bool = False) -> list[list[int]]:
        return self.tokenizer(texts, add_special_tokens=special, return_attention_mask=False).input_ids

    def prompt_ids(self, prompts: list[str]) -> list[list[int]]:
        """Prompts, each with the shots before it; a tokenizer is fastest with many texts at once."""
        if self.chat:
            shots = [
                {"role": role, "content": shot[part]}
                for shot in self.shots
                for role, part in (("user", "prompt"), ("assistant", "completion"))
            ]
            turns = [[*shots, {"role": "user", "content": prompt}] for prompt in prompts]
            return self._ids(self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
        before = "".join(f"{shot['prompt']} {shot['completion']}\n\n" for shot in self.shots)
        found = self._ids([before + prompt for prompt in prompts], special=True)
        return [without_end(ids, self.tokenizer) for ids in found]

    def completion_ids(self, completions: list[str], prompts: list[str], end: bool = True) -> list[list[int]]:
        """Completions of prompts, each closed by the token that ends an answer.

        Each as it stands behind its prompt: alone, SentencePiece would put a space of its own before it. What occurs
        several times, as the labels of a classification do, is tokenized once.
        """
        pairs = [
            (self.cue, completion) if self.chat else (prompt[-CUE:], f" {completion}" if prompt else completion)
            for completion, prompt in zip(completions, prompts, strict=True)
        ]
        unique, closing = list(dict.fromkeys(pairs)), self.end if end else ""
        cues = list({cue for cue, _ in unique})
        before = dict(zip(cues, self._ids(cues), strict=True))
        found = dict(zip(unique, self._ids([f"{cue}{text}{closing}" for cue, text in unique]), strict=True))
        for (cue, text), ids in found.items():
            start = len(before[cue])
            found[cue, text] = ids[start:] if ids[:start] == before[cue] else self._ids([text + closing])[0]
        return [found[pair] for pair in pairs]

    def room_before(self, completion: list[int]) -> int:
        """How many tokens a prompt may have.

        Raises:
            ValueError: none.
        """
        if len(completion) >= self.max_length:
            raise ValueError(
                f"a completion of {len(completion)} tokens does not fit in `--max_length` {self.max_length}"
            )
        return self.max_length - len(completion)

    def fit(self, row: dict[str, Any], ids: list[int], budget: int) -> tuple[list[int], int]:
        """The row's prompt in at most `budget` tokens, and how many of its document's tokens were cut for it.

        Args:
            ids: the whole prompt.

        Raises:
            ValueError: it does not fit with no document at all.
        """
        if len(ids) <= budget:
            return ids, 0
        document = row.get(self.task.document_column) or ""
        if not self.tokenizer.is_fast:
            raise ValueError(f"{len(ids)} tokens are too many, and this tokenizer cannot tell where to cut a document")
        found = self.tokenizer(document, add_special_tokens=False, return_offsets_mapping=True)
        ends = [end for _, end in found["offset_mapping"]]
        keep = len(ends)
        while len(ids) > budget and keep > 0:
            keep = max(0, keep - (len(ids) - budget))
            cut = row | {self.task.document_column: document[: ends[keep - 1] if keep else 0]}
            (ids,) = self.prompt_ids([self.task.to_example(cut)["prompt"]])
        if len(ids) > budget:
            raise ValueError(
                f"a prompt of {len(ids)} tokens leaves no room for {self.max_length - budget} more in `--max_length` "
                f"{self.max_length}: give {len(ids) + self.max_length - budget} or more for this row, or a smaller "
                f"`max_new_tokens` in `--task_options`{', or fewer `--num_fewshot`' if self.shots else ''}"
            )
        return ids, len(ends) - keep


def uses_chat(tokenizer: PreTrainedTokenizerBase, style: str | None) -> bool:
    """Whether prompts go through the chat template: where they are asked to, or there is one and nobody asks otherwise.

    Raises:
        ValueError: `chat`, and the tokenizer has no template.
    """
    if style == "chat" and not tokenizer.chat_template:
        raise ValueError(f"`--prompt_style` chat: tokenizer `{tokenizer.name_or_path}` has no template; use plain")
    return style == "chat" or (style is None and bool(tokenizer.chat_template))


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
    asked = {example_of(row, task)["prompt"] for row in rows["validation"]} if part == "train" else set()
    taken, shots = [], []
    for index in np.random.default_rng(seed).permutation(len(rows[part])).tolist():
        example = example_of(rows[part][index], task)
        if len(shots) == number:
            break
        if example["completion"] and example["prompt"] not in asked and example not in shots:
            taken.append(index)
            shots.append(example)
    rest = np.setdiff1d(np.arange(len(rows[part])), taken).tolist()
    if part == "validation":  # a row like a shot would find its own answer before it
        rest = [index for index in rest if example_of(rows[part][index], task) not in shots]
    if len(shots) < number or not rest:
        raise ValueError(
            f"`--num_fewshot` {number}: `{part}` has {len(shots)} different rows to draw from, and one must be left"
        )
    logger.info(f"{number} solved examples before each prompt: rows {taken} of {part}, which are not used otherwise")
    return shots, DatasetDict({**rows, part: rows[part].select(rest)})


def batches(rows: Dataset, part: str) -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """The rows with their numbers in words, some at a time, under a progress bar on rank 0."""
    with tqdm(total=len(rows), desc=f"Prompts of {part}", disable=not PartialState().is_main_process) as bar:
        for start in range(0, len(rows), ROWS_AT_A_TIME):
            batch = rows.select(range(start, min(start + ROWS_AT_A_TIME, len(rows)))).to_list()
            yield [(f"`{part}` row {number}", row) for number, row in enumerate(batch, start)]
            bar.update(len(batch))


def example_of(row: dict[str, Any], task: Task, number: str = "a row") -> dict[str, str]:
    with add_origin(row, number):
        return task.to_example(row)


def encode_examples(rows: Dataset, prompter: Prompter, part: str = "train") -> tuple[Dataset, ExamplesReport]:
    """Rows of a task as features for training on the completion alone.

    Returns:
        Rows `{"input_ids": list[int32], "labels": list[int32]}`, labels -100 on the prompt; and the counts.

    Raises:
        ValueError: a completion is longer than `max_length`, or no row has one; the row is named.
    """
    tables, cuts = [], []
    for batch in batches(rows, part):
        examples = [(number, row, example_of(row, prompter.task, number)) for number, row in batch]
        examples = [of_row for of_row in examples if of_row[-1]["completion"]]
        if not examples:
            continue
        texts = [example["prompt"] for *_, example in examples]
        prompts = prompter.prompt_ids(texts)
        completions = prompter.completion_ids([example["completion"] for *_, example in examples], texts)
        for i, (number, row, _) in enumerate(examples):
            with add_origin(row, number):
                prompts[i], cut = prompter.fit(row, prompts[i], prompter.room_before(completions[i]))
            cuts.append(cut)
        both = list(zip(prompts, completions, strict=True))
        columns = {
            "input_ids": token_lists([prompt + completion for prompt, completion in both]),
            "labels": token_lists([[-100] * len(prompt) + completion for prompt, completion in both]),
        }
        tables.append(pa.table(columns))
    if not tables:
        raise ValueError(f"`{part}`: none of the {len(rows)} rows has a completion to learn")
    dropped = len(rows) - len(cuts)
    report = ExamplesReport(len(cuts), dropped, int(np.count_nonzero(cuts)), sum(cuts))
    if dropped or report.tokens_cut:
        logger.warning(
            f"{part}: {dropped} rows without a completion dropped; {report.examples_shortened} of {len(cuts)} "
            f"documents shortened by {report.tokens_cut} tokens together to fit in {prompter.max_length}"
        )
    return Dataset(pa.concat_tables(tables)), report


def encode_prompts(rows: Dataset, prompter: Prompter, part: str = "validation") -> tuple[Dataset, ExamplesReport]:
    """Rows of a task as prompts to be completed or as choices to be ranked.

    Returns:
        Rows `{"prompt": list[int], "completion": list[int], "choices": list[list[int]], "references": list[str]}`,
        choices empty where the answer is generated; and the counts.

    Raises:
        ValueError: a gold answer is empty, or a prompt does not fit; the row is named.
    """
    if not len(rows):
        raise ValueError(f"`{part}` has no rows to evaluate")
    task, tables, cuts = prompter.task, [], []
    for batch in batches(rows, part):
        examples, references, choices = [], [], []
        for number, row in batch:
            with add_origin(row, number):
                examples.append(task.to_example(row))
                references.append(task.references(row))
                choices.append(task.choices(row) or [])
                if not (references[-1] or task.allows_no_answer):
                    raise ValueError("the reference is empty: remove the row, or give it one")
        texts = [example["prompt"] for example in examples]
        prompts = prompter.prompt_ids(texts)
        completions = prompter.completion_ids([example["completion"] for example in examples], texts)
        ranked = encode_choices(prompter, choices, texts)
        for i, (number, row) in enumerate(batch):
            gold = len(completions[i]) if task.scores_perplexity else 0
            room = max(map(len, ranked[i]), default=max(task.max_new_tokens, gold))
            with add_origin(row, number):
                prompts[i], cut = prompter.fit(row, prompts[i], prompter.max_length - room)
            cuts.append(cut)
        columns = {"prompt": token_lists(prompts), "completion": token_lists(completions)}
        columns["choices"] = pa.array(ranked, pa.list_(pa.list_(pa.int32())))
        columns["references"] = pa.array(references, pa.list_(pa.string()))
        tables.append(pa.table(columns))
    report = ExamplesReport(len(cuts), 0, int(np.count_nonzero(cuts)), sum(cuts))
    if report.tokens_cut:
        logger.warning(
            f"{part}: {report.examples_shortened} of {len(cuts)} documents shortened by {report.tokens_cut} tokens "
            f"together to fit in {prompter.max_length}"
        )
    return Dataset(pa.concat_tables(tables)), report


def encode_choices(prompter: Prompter, choices: list[list[str]], prompts: list[str]) -> list[list[list[int]]]:
    """The choices of each prompt, empty where its answer is generated."""
    flat = [(text, prompt) for of_prompt, prompt in zip(choices, prompts, strict=True) for text in of_prompt]
    if not flat:
        return [[] for _ in prompts]
    ids = iter(prompter.completion_ids(*map(list, zip(*flat, strict=True)), prompter.task.choices_with_end_token))
    return [[next(ids) for _ in of_prompt] for of_prompt in choices]


def show_example(features: Dataset, tokenizer: PreTrainedTokenizerBase) -> None:
    """The first example as the model sees it, in the log; what is trained on stands in [[ ]]."""
    ids, labels = features[0]["input_ids"], features[0]["labels"]
    start = next(i for i, label in enumerate(labels) if label != -100)
    prompt, completion = tokenizer.decode(ids[:start]), tokenizer.decode(ids[start:])
    logger.info(f"First example, trained on what stands in [[ ]]:\n{prompt}[[{completion}]]")
