"""Token ids of a task's rows: plain text or chat template, with few-shot examples, shortened to fit."""

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
from hf_llm.data.chats import render_chats
from hf_llm.messages import add_origin
from hf_llm.tasks import Task

logger = logging.getLogger(__name__)

PROBE_ANSWER = "the completion"  # an answer to be searched for in the chat template's output
ROWS_PER_BATCH = 1000
CONTEXT_CHARACTERS = 8  # of the prompt, tokenized before a completion so that it is split as within the whole text


@dataclass
class ExamplesReport:
    """What encoding did to the rows of one split; the names of the fields are those in the results files."""

    examples: int
    examples_dropped: int  # without a completion
    examples_shortened: int  # whose document is shortened
    tokens_cut: int

    def metrics(self, prefix: str) -> dict[str, float]:
        """The counts under the names that the results files use, e.g. `train_examples_shortened`."""
        return {f"{prefix}_{key}": value for key, value in asdict(self).items()}


class Prompter:
    """Tokenizes the prompts and completions of a task in the same way for training and evaluation.

    Args:
        tokenizer: with an end-of-sequence token.
        task: makes a prompt and a completion of each row.
        max_length: tokens of prompt and completion together.
        style: `plain` puts a space between prompt and completion; `chat` uses the chat template. None: `chat` if the
            tokenizer has a template.
        shots: few-shot examples, `{"prompt": str, "completion": str}`, put before each prompt.

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
        plain = ("", tokenizer.special_tokens_map["eos_token"])
        self.answer_start, self.end = self.read_template() if self.chat else plain
        self.end_token_ids = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(self.end)]

    def read_template(self) -> tuple[str, str]:
        """The last characters that the chat template puts before an answer, and the special token that ends an answer.

        In some models that token is not the end-of-sequence token, and other tokens of the turn come after it.
        """
        turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": PROBE_ANSWER}]
        before, _, after = render_chats(self.tokenizer, [turns])[0].rpartition(PROBE_ANSWER)
        special = {*self.tokenizer.all_special_ids, *self.tokenizer.added_tokens_decoder}
        end_ids = [id for id in self.tokenize([after])[0] if id in special]
        end = self.tokenizer.convert_ids_to_tokens(end_ids[0]) if end_ids else self.tokenizer.eos_token
        return before[-CONTEXT_CHARACTERS:], end  # pyright: ignore[reportReturnType]  # of one id it is one token

    def tokenize(self, texts: list[str], add_special_tokens: bool = False) -> list[list[int]]:
        """Token ids of texts; a tokenizer is fastest with many texts in one call."""
        return self.tokenizer(texts, add_special_tokens=add_special_tokens, return_attention_mask=False).input_ids

    def prompt_ids(self, prompts: list[str]) -> list[list[int]]:
        """Token ids of prompts, each with the few-shot examples before it."""
        if self.chat:
            roles = {"user": "prompt", "assistant": "completion"}
            shots = [{"role": role, "content": shot[key]} for shot in self.shots for role, key in roles.items()]
            turns = [[*shots, {"role": "user", "content": prompt}] for prompt in prompts]
            return self.tokenize(render_chats(self.tokenizer, turns, add_generation_prompt=True))
        shots = "".join(f"{shot['prompt']} {shot['completion']}\n\n" for shot in self.shots)
        return [without_end(ids, self.tokenizer) for ids in self.tokenize([shots + text for text in prompts], True)]

    def completion_ids(self, completions: list[str], prompts: list[str], end: bool = True) -> list[list[int]]:
        """Token ids of completions, each with the token that ends an answer unless `end` is False.

        A completion is tokenized after the last characters of its prompt, whose ids are then removed: on its own, a
        SentencePiece tokenizer would put a space before it. Equal completions, e.g. labels, are tokenized once.
        """
        pairs = [
            (self.answer_start, text) if self.chat else (prompt[-CONTEXT_CHARACTERS:], f" {text}" if prompt else text)
            for text, prompt in zip(completions, prompts, strict=True)
        ]
        unique, end_token = list(dict.fromkeys(pairs)), self.end if end else ""
        contexts = list({context for context, _ in unique})
        context_ids = dict(zip(contexts, self.tokenize(contexts), strict=True))
        joined = self.tokenize([f"{context}{text}{end_token}" for context, text in unique])
        ids_of = {}
        for (context, text), ids in zip(unique, joined, strict=True):
            start = len(context_ids[context])
            separable = ids[:start] == context_ids[context]
            ids_of[context, text] = ids[start:] if separable else self.tokenize([text + end_token])[0]
        return [ids_of[pair] for pair in pairs]

    def fit(self, row: dict[str, Any], ids: list[int], budget: int) -> tuple[list[int], int]:
        """Shorten the prompt of a row to at most `budget` tokens by removing the end of its document.

        Args:
            ids: the whole prompt.

        Returns:
            The prompt, and how many tokens of the document were removed.

        Raises:
            ValueError: it does not fit without the document either.
        """
        if len(ids) <= budget:
            return ids, 0
        column = self.task.document_column or ""
        document = row.get(column) or ""
        if not self.tokenizer.is_fast:
            raise ValueError(f"{len(ids)} tokens are too many, and this tokenizer has no offsets to shorten by")
        encoded = self.tokenizer(document, add_special_tokens=False, return_offsets_mapping=True)
        ends = [end for _, end in encoded["offset_mapping"]]  # character after each token
        keep = len(ends)
        while len(ids) > budget and keep > 0:
            keep = max(0, keep - (len(ids) - budget))
            shortened = row | {column: document[: ends[keep - 1] if keep else 0]}
            (ids,) = self.prompt_ids([self.task.to_example(shortened)["prompt"]])
        if len(ids) > budget:
            raise ValueError(
                f"a prompt of {len(ids)} tokens leaves no room for {self.max_length - budget} more in `--max_length` "
                f"{self.max_length}: give {len(ids) + self.max_length - budget} or more for this row, or a smaller "
                f"`max_new_tokens` in `--task_options`{', or fewer `--num_fewshot`' if self.shots else ''}"
            )
        return ids, len(ends) - keep


def uses_chat(tokenizer: PreTrainedTokenizerBase, style: str | None) -> bool:
    """Whether prompts use the chat template: `style` is `chat`, or it is None and the tokenizer has a template.

    Raises:
        ValueError: `chat`, and the tokenizer has no template.
    """
    if style == "chat" and not tokenizer.chat_template:
        raise ValueError(f"`--prompt_style` chat: tokenizer `{tokenizer.name_or_path}` has no template; use plain")
    return style == "chat" or (style is None and bool(tokenizer.chat_template))


def without_end(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """A prompt's ids without a final end-of-sequence token; an empty prompt becomes the first token of a document."""
    ids = ids[:-1] if ids[-1:] == [tokenizer.eos_token_id] else ids
    first: Any = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    return ids or [first]


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


def batches_with_origins(rows: Dataset, split: str) -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """Yield batches of (origin, row), e.g. ("`train` row 0", row), with a progress bar on rank 0."""
    with tqdm(total=len(rows), desc=f"Prompts of {split}", disable=not PartialState().is_main_process) as bar:
        for start in range(0, len(rows), ROWS_PER_BATCH):
            batch = rows.select(range(start, min(start + ROWS_PER_BATCH, len(rows)))).to_list()
            yield [(f"`{split}` row {number}", row) for number, row in enumerate(batch, start)]
            bar.update(len(batch))


def example_of(row: dict[str, Any], task: Task, origin: str = "a row") -> dict[str, str]:
    """Prompt and completion of a row; an error names its file and line, or `origin`."""
    with add_origin(row, origin):
        return task.to_example(row)


def encode_examples(rows: Dataset, prompter: Prompter, split: str = "train") -> tuple[Dataset, ExamplesReport]:
    """Encode the rows of a task for training on the completions only.

    Args:
        rows: N rows as `load_rows` returns them, with the task's column names.
        prompter: tokenizes them, and shortens documents that do not fit.
        split: name of the rows in messages.

    Returns:
        Rows `{"input_ids": list[int32], "labels": list[int32]}`, and the counts. A prompt [5, 6] and its completion
        [7, 1] give the labels [-100, -100, 7, 1].

    Raises:
        ValueError: a completion is longer than `max_length`, or no row has one; the row is named.
    """
    max_length, tables, removed = prompter.max_length, [], []  # removed: tokens of each row's document
    for batch in batches_with_origins(rows, split):
        examples = [(origin, row, example_of(row, prompter.task, origin)) for origin, row in batch]
        examples = [entry for entry in examples if entry[-1]["completion"]]
        if not examples:
            continue
        texts = [example["prompt"] for *_, example in examples]
        prompts = prompter.prompt_ids(texts)
        completions = prompter.completion_ids([example["completion"] for *_, example in examples], texts)
        for i, (origin, row, _) in enumerate(examples):
            with add_origin(row, origin):
                size = len(completions[i])
                if size >= max_length:
                    raise ValueError(f"a completion of {size} tokens does not fit in `--max_length` {max_length}")
                prompts[i], tokens = prompter.fit(row, prompts[i], max_length - size)
            removed.append(tokens)
        pairs = list(zip(prompts, completions, strict=True))
        input_ids = token_lists([prompt + completion for prompt, completion in pairs])
        labels = token_lists([[-100] * len(prompt) + completion for prompt, completion in pairs])
        tables.append(pa.table({"input_ids": input_ids, "labels": labels}))
    if not tables:
        raise ValueError(f"`{split}`: none of the {len(rows)} rows has a completion to learn")
    return Dataset(pa.concat_tables(tables)), new_report(removed, len(rows) - len(removed), split, max_length)


def encode_prompts(rows: Dataset, prompter: Prompter, split: str = "validation") -> tuple[Dataset, ExamplesReport]:
    """Encode the rows of a task for evaluation: prompts to be completed, or choices to be ranked.

    Returns:
        Rows `{"prompt": list[int], "completion": list[int], "choices": list[list[int]], "references": list[str]}`,
        choices empty where the answer is generated; and the counts.

    Raises:
        ValueError: a gold answer is empty, or a prompt does not fit; the row is named.
    """
    if not len(rows):
        raise ValueError(f"`{split}` has no rows to evaluate")
    task, tables, removed = prompter.task, [], []
    for batch in batches_with_origins(rows, split):
        examples, references, choices = [], [], []
        for origin, row in batch:
            with add_origin(row, origin):
                examples.append(task.to_example(row))
                references.append(task.references(row))
                choices.append(task.choices(row) or [])
                if not (references[-1] or task.allows_no_answer):
                    raise ValueError("the reference is empty: remove the row, or give it one")
        texts = [example["prompt"] for example in examples]
        prompts = prompter.prompt_ids(texts)
        completions = prompter.completion_ids([example["completion"] for example in examples], texts)
        ranked = encode_choices(prompter, choices, texts)
        for i, (origin, row) in enumerate(batch):
            gold = len(completions[i]) if task.scores_perplexity else 0
            answer = max(map(len, ranked[i]), default=max(task.max_new_tokens, gold))  # tokens to leave free for it
            with add_origin(row, origin):
                prompts[i], tokens = prompter.fit(row, prompts[i], prompter.max_length - answer)
            removed.append(tokens)
        columns = {"prompt": token_lists(prompts), "completion": token_lists(completions)}
        columns["choices"] = pa.array(ranked, pa.list_(pa.list_(pa.int32())))
        tables.append(pa.table(columns | {"references": pa.array(references, pa.list_(pa.string()))}))
    return Dataset(pa.concat_tables(tables)), new_report(removed, 0, split, prompter.max_length)


def new_report(removed: list[int], dropped: int, split: str, max_length: int) -> ExamplesReport:
    """Count the rows, of which `removed` has the tokens removed from each, and log what was dropped or shortened."""
    report = ExamplesReport(len(removed), dropped, int(np.count_nonzero(removed)), sum(removed))
    if dropped or report.tokens_cut:
        logger.warning(
            f"{split}: {f'{dropped} rows without a completion dropped; ' if dropped else ''}"
            f"{report.examples_shortened} of {len(removed)} documents shortened by {report.tokens_cut} tokens together "
            f"to fit in {max_length}"
        )
    return report


def encode_choices(prompter: Prompter, choices: list[list[str]], prompts: list[str]) -> list[list[list[int]]]:
    """Token ids of the choices of each prompt; an empty list where the answer is generated."""
    flat = [(text, prompt) for texts, prompt in zip(choices, prompts, strict=True) for text in texts]
    if not flat:
        return [[] for _ in prompts]
    texts, contexts = map(list, zip(*flat, strict=True))
    ids = iter(prompter.completion_ids(texts, contexts, prompter.task.choices_with_end_token))
    return [[next(ids) for _ in texts] for texts in choices]


def show_example(features: Dataset, tokenizer: PreTrainedTokenizerBase) -> None:
    """Log the first example as the model sees it, with the tokens that are trained on in [[ ]]."""
    ids, labels = features[0]["input_ids"], features[0]["labels"]
    start = next(i for i, label in enumerate(labels) if label != -100)
    prompt, completion = tokenizer.decode(ids[:start]), tokenizer.decode(ids[start:])
    logger.info(f"First example, with what is trained on in [[ ]]:\n{prompt}[[{completion}]]")
