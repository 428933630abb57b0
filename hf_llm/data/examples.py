"""Rows of a task as token ids: prompts with their completions to train on, prompts with choices to evaluate."""

import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
from accelerate import PartialState
from datasets import Dataset
from datasets.utils import tqdm
from transformers import PreTrainedTokenizerBase

from hf_llm.data.arrow import token_lists
from hf_llm.data.chat_answers import Example
from hf_llm.data.chat_contents import check_prompt_written
from hf_llm.data.chat_rows import ConversationCounts, Features, encode_chats, log_conversations
from hf_llm.data.few_shot import example_of
from hf_llm.data.prompting import Prompter
from hf_llm.mappings import format_mapping
from hf_llm.messages import ORIGIN, add_origin

logger = logging.getLogger(__name__)

BATCH_ROWS = 1000
MAX_UNPROVED = 0.01  # share of the rows of a split that may be left out because they cannot be proved


@dataclass
class ExamplesReport:
    """What encoding did to the rows of one split; the names of the fields are those in the results files."""

    examples: int
    examples_dropped: int  # without a completion
    examples_shortened: int  # whose document is shortened
    tokens_cut: int
    chat_template_kwargs: str = ""  # the day of the run among them, where the template writes a day
    conversations: dict[str, int] = field(default_factory=dict)  # counts of `ConversationCounts`

    def metrics(self, prefix: str) -> dict[str, float | str]:
        """The fields that are not empty under the names that the results files use, e.g. `train_examples_shortened`."""
        fields = asdict(self)
        fields |= fields.pop("conversations")
        return {f"{prefix}_{key}": value for key, value in fields.items() if value != ""}


def encode_examples(rows: Dataset, prompter: Prompter, split: str = "train") -> tuple[Dataset, ExamplesReport]:
    """Encode the rows of a task for training on the completions, or on what else `train_on` says.

    Args:
        rows: N rows as `load_rows` returns them, with the task's column names.
        prompter: tokenizes them, and shortens documents that do not fit.
        split: name of the rows in messages.

    Returns:
        Rows `{"input_ids": list[int32], "labels": list[int32]}`, and the counts. A prompt [5, 6] and its completion
        [7, 1] give the labels [-100, -100, 7, 1]. A conversation may give several rows: see `encode_conversations`.

    Raises:
        ValueError: a completion is longer than `max_length`, more than 1 % of the rows cannot be proved, or there is
            nothing to learn; the row is named.
    """
    tables, removed, counts = [], [], ConversationCounts(max_unproved=MAX_UNPROVED * len(rows))
    for batch in batches_with_origins(rows, split):
        examples = [example_of(row, prompter.task) for row in batch]
        chats = [i for i, example in enumerate(examples) if "messages" in example]
        pairs = [i for i, example in enumerate(examples) if example.get("completion")]
        encoded: dict[int, list[Features]] = {}
        if chats:
            results = encode_chats(prompter, [batch[i] for i in chats], [examples[i] for i in chats], counts)
            encoded |= zip(chats, results, strict=True)
        if pairs:
            results = encode_pairs(prompter, [batch[i] for i in pairs], [examples[i] for i in pairs], removed)
            encoded |= zip(pairs, results, strict=True)
        flat = [features for _, row in sorted(encoded.items()) for features in row]
        columns = {name: token_lists([features[name] for features in flat]) for name in ("input_ids", "labels")}
        tables.append(pa.table(columns))
    table = pa.concat_tables(tables)
    log_conversations(counts, split, prompter.max_length)
    if not len(table):
        too_long = f" that fits in `--max_length` {prompter.max_length}" * bool(counts.conversations_too_long)
        raise ValueError(f"`{split}`: none of the {len(rows)} rows has a completion to learn{too_long}")
    dropped = len(rows) - len(removed) - counts.total()
    return Dataset(table), new_report(removed, dropped, split, prompter, counts)


def encode_pairs(
    prompter: Prompter, rows: list[dict[str, Any]], examples: list[Example], removed: list[int]
) -> list[list[Features]]:
    """Encode prompts with their completions for training, one row each.

    Args:
        rows: where the examples are from.
        removed: the number of tokens removed from each row's document is added to it.
    """
    max_length = prompter.max_length
    origins = [row[ORIGIN] for row in rows]
    texts = prompter.prompt_texts(examples, origins)
    completions = prompter.completion_ids(examples, texts=texts, origins=origins)
    prompts = prompter.prompt_ids(examples, texts)
    encoded = []
    for row, prompt, completion in zip(rows, prompts, completions, strict=True):
        with add_origin(row):
            size = len(completion)
            if size >= max_length:
                raise ValueError(
                    f"a completion of {size} tokens does not fit in `--max_length` {max_length}: shorten or remove "
                    "the row, or give a larger one, if the model has as many positions"
                )
            prompt, tokens = prompter.fit(row, prompt, max_length - size)
        removed.append(tokens)
        labels = prompt if prompter.settings.train_on == "all" else [-100] * len(prompt)
        encoded.append([{"input_ids": prompt + completion, "labels": labels + completion}])
    return encoded


def encode_prompts(rows: Dataset, prompter: Prompter, split: str = "validation") -> tuple[Dataset, ExamplesReport]:
    """Encode the rows of a task for evaluation: prompts to be completed, or choices to be ranked.

    Returns:
        Rows `{"prompt": list[int], "completion": list[int], "choices": list[list[int]], "references": list[str]}`,
        choices empty where the answer is generated, the completion empty unless its perplexity is scored: it is of no
        row if the template begins answers by thoughts, and a gold answer has none. And the counts.

    Raises:
        ValueError: a gold answer is empty, or a prompt does not fit; the row is named.
    """
    if not len(rows):
        raise ValueError(f"`{split}` has no rows to evaluate")
    task, tables, removed = prompter.task, [], []
    scores_perplexity = task.scores_perplexity
    for batch in batches_with_origins(rows, split):
        examples, references, choices = [], [], []
        for row in batch:
            with add_origin(row):
                examples.append(task.to_example(row))
                references.append(task.references(row))
                choices.append(task.choices(row) or [])
                if not (references[-1] or task.allows_no_answer):
                    raise ValueError("the reference is empty: remove the row, or give it one")
        origins = [row[ORIGIN] for row in batch]
        texts = prompter.prompt_texts(examples, origins)
        for row, example, text in zip(batch, examples, texts, strict=True):
            if "messages" in example:
                with prompter.chat_format().add_remedy(row[ORIGIN], example):
                    check_prompt_written(example, text)
        completions = [[] for _ in examples]
        if scores_perplexity:
            try:
                completions = prompter.completion_ids(examples, texts=texts, origins=origins)
            except ValueError as error:
                if not (prompter.format and prompter.format.needs_thoughts()):
                    raise
                logger.warning(f"The perplexity of gold answers without thoughts is not scored: {error}")
                scores_perplexity = False
        ranked = encode_choices(prompter, choices, examples, texts, origins)
        prompts = prompter.prompt_ids(examples, texts)
        for i, row in enumerate(batch):
            answer_tokens = max(map(len, ranked[i]), default=max(task.max_new_tokens, len(completions[i])))
            with add_origin(row):
                prompts[i], tokens = prompter.fit(row, prompts[i], prompter.max_length - answer_tokens)
            removed.append(tokens)
        columns = {"prompt": token_lists(prompts), "completion": token_lists(completions)}
        columns["choices"] = pa.array(ranked, pa.list_(pa.list_(pa.int32())))
        tables.append(pa.table(columns | {"references": pa.array(references, pa.list_(pa.string()))}))
    table = pa.concat_tables(tables)
    if not scores_perplexity:
        table = table.set_column(1, "completion", [token_lists([[]] * len(table))])
    return Dataset(table), new_report(removed, 0, split, prompter)


def batches_with_origins(rows: Dataset, split: str) -> Iterator[list[dict[str, Any]]]:
    """Yield batches of rows, with a progress bar on rank 0; a row without an origin gets one, e.g. "`train` row 0"."""
    with tqdm(total=len(rows), desc=f"Prompts of {split}", disable=not PartialState().is_main_process) as bar:
        for start in range(0, len(rows), BATCH_ROWS):
            batch = rows.select(range(start, min(start + BATCH_ROWS, len(rows)))).to_list()
            yield [{ORIGIN: f"`{split}` row {number}"} | row for number, row in enumerate(batch, start)]
            bar.update(len(batch))


def new_report(
    removed: list[int], dropped: int, split: str, prompter: Prompter, counts: ConversationCounts | None = None
) -> ExamplesReport:
    """Count the rows, of which `removed` has the tokens removed from each, and log what was dropped or shortened."""
    variables = format_mapping(prompter.format.variables) if prompter.format else ""
    examples, chats = len(removed) + (counts.conversations if counts else 0), counts.metrics() if counts else {}
    report = ExamplesReport(examples, dropped, int(np.count_nonzero(removed)), sum(removed), variables, chats)
    if dropped:
        logger.warning(f"{split}: {dropped} rows without a completion dropped")
    if report.tokens_cut:
        logger.warning(
            f"{split}: {report.examples_shortened} of {len(removed)} documents shortened by {report.tokens_cut} tokens "
            f"together to fit in {prompter.max_length}"
        )
    return report


def encode_choices(
    prompter: Prompter, choices: list[list[str]], examples: list[Example], texts: list[str], origins: list[str]
) -> list[list[list[int]]]:
    """Token ids of the choices of each prompt; an empty list where the answer is generated.

    Args:
        texts: the prompts as the model reads them.
        origins: where each prompt is from, for error messages.
    """
    rows = [i for i, row_choices in enumerate(choices) for _ in row_choices]
    if not rows:
        return [[] for _ in examples]
    flat = [text for row_choices in choices for text in row_choices]
    flat = [examples[i] | {"completion": text} for i, text in zip(rows, flat, strict=True)]
    repeated = {"texts": [texts[i] for i in rows], "origins": [origins[i] for i in rows]}
    end = prompter.task.choices_with_end_token
    ids = iter(prompter.completion_ids(flat, end, **repeated))
    return [[next(ids) for _ in row_choices] for row_choices in choices]


def show_example(features: Dataset, tokenizer: PreTrainedTokenizerBase) -> None:
    """Log the first example as the model sees it, with the tokens that are trained on in [[ ]]."""
    ids, labels = features[0]["input_ids"], features[0]["labels"]
    groups = groupby(zip(ids, labels, strict=True), lambda pair: pair[1] != -100)
    texts = [(trained, tokenizer.decode([number for number, _ in pairs])) for trained, pairs in groups]
    text = "".join(f"[[{text}]]" if trained else f"{text}" for trained, text in texts)
    logger.info(f"First example, with what is trained on in [[ ]]:\n{text}")
