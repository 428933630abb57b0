"""Token ids of a task's prompts and completions: plain text or chat template, shortened to fit."""

import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets import DatasetDict
from transformers import PreTrainedTokenizerBase

from hf_llm.arguments import ChatArguments, GenerateArguments, TaskArguments
from hf_llm.data.chat_answers import PROBE, ChatFormat, Example, switches, with_thoughts
from hf_llm.data.chat_turns import encode_conversations
from hf_llm.data.chats import DAY
from hf_llm.data.few_shot import FEWSHOT, example_of
from hf_llm.data.prompt_settings import PromptSettings
from hf_llm.data.trained_prompts import record_prompts, warn_of_other_prompts
from hf_llm.data.vocabulary import add_special_tokens
from hf_llm.mappings import format_mapping, read_settings
from hf_llm.tasks import Task

logger = logging.getLogger(__name__)

BUILT_IN = {path.stem: path for path in Path(__file__).with_name("templates").iterdir()}  # `--chat_template`
# Of the prompt, tokenized before a completion so that it gets the space that it has there. More would change nothing,
# also if tokens span several words: without a token over the border, each side is split as by itself.
CONTEXT_CHARACTERS = 8


class Prompter:
    """Tokenizes the prompts and completions of a task in the same way for training and evaluation.

    Args:
        tokenizer: with an end-of-sequence token.
        task: makes a prompt and a completion of each row.
        max_length: tokens of prompt and completion together.
        settings: how the prompts are written, and what is trained.

    Raises:
        ValueError: `chat`, and the tokenizer has no template; no end-of-sequence token; an unknown variable.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        task: Task,
        max_length: int,
        settings: PromptSettings = PromptSettings(),
    ):
        if tokenizer.eos_token_id is None:
            raise ValueError(f"tokenizer `{tokenizer.name_or_path}` has no eos token: give another `--tokenizer_name`")
        self.tokenizer, self.task, self.max_length, self.settings = tokenizer, task, max_length, settings
        self.format = new_chat_format(tokenizer, settings)
        if self.format and DAY in self.format.variables:
            day = f"`--chat_template_kwargs {DAY}={self.format.variables[DAY]}`"
            logger.info(f"The chat template writes the day of the run into each prompt: {day} repeats it")
        self.end = self.format.end if self.format else tokenizer.special_tokens_map["eos_token"]
        opening = self.tokenize([self.format.opening])[0] if self.format else []
        self.opening = f"{tokenizer.decode(opening, skip_special_tokens=True)}"  # of generated answers

    def tokenize(self, texts: list[str], add_special_tokens: bool = False) -> list[list[int]]:
        """Token ids of texts; a tokenizer is fastest with many texts in one call."""
        return self.tokenizer(texts, add_special_tokens=add_special_tokens, return_attention_mask=False).input_ids

    def prompt_texts(self, examples: list[Example], origins: Sequence[str] = ()) -> list[str]:
        """Prompts of examples as the model reads them, each with the few-shot examples before it.

        Args:
            examples: what `Task.to_example` returns; the prompt of a conversation is all before its last answer.
            origins: where each example is from, for error messages.

        Raises:
            ValueError: the chat template fails, or there is none for a conversation.
        """
        if self.format:
            return self.format.prompts(examples, origins)
        if any("messages" in example for example in examples):
            self.chat_format()
        shots = "".join(f"{plain_prompt(shot)} {shot['completion']}\n\n" for shot in self.settings.shots)
        return [shots + plain_prompt(example) for example in examples]

    def chat_format(self) -> ChatFormat:
        """The format of chats, which conversations need.

        Raises:
            ValueError: there is none.
        """
        if self.format:
            return self.format
        if self.tokenizer.chat_template:
            raise ValueError("`--prompt_style plain` cannot write conversations: leave it out")
        raise ValueError(
            f"conversations need a chat template, and tokenizer `{self.tokenizer.name_or_path}` has none: give "
            "`--chat_template chatml`"
        )

    def prompt_ids(self, examples: list[Example], texts: list[str] | None = None) -> list[list[int]]:
        """Token ids of the prompts of examples, each with the few-shot examples before it.

        Args:
            texts: what `prompt_texts` makes of them, if it is known.
        """
        texts = self.prompt_texts(examples) if texts is None else texts
        if self.format:
            return self.tokenize(texts)
        return [without_end(ids, self.tokenizer) for ids in self.tokenize(texts, True)]

    def completion_ids(
        self,
        examples: list[Example],
        end: bool = True,
        *,
        texts: list[str] | None = None,
        origins: Sequence[str] | None = None,
    ) -> list[list[int]]:
        """Token ids of the completions of examples, each with the token that ends an answer unless `end` is False.

        In a chat they are everything that the template writes after the prompt. They are tokenized after the end of
        their prompt, whose ids are then removed: on its own, a SentencePiece tokenizer would put a space before a
        completion. Equal completions, e.g. labels, are tokenized once.

        Args:
            texts: what `prompt_texts` makes of the prompts, if it is known.
            origins: where each completion is from, for error messages. Default: its number.

        Raises:
            ValueError: the chat template writes another text than prompt and completion, or they share a token.
        """
        origins = [f"answer {number}" for number in range(len(examples))] if origins is None else origins
        if self.format:
            texts = self.prompt_texts(examples) if texts is None else texts
            contexts = [*map(self.format.context, texts)]
            answers = self.format.completions(examples, texts, origins)
            if not end:
                answers = [text.rpartition(self.end)[0] for text in answers]
        else:
            contexts = [plain_prompt(example)[-CONTEXT_CHARACTERS:] for example in examples]
            end_token = self.end if end else ""
            pairs = zip(contexts, examples, strict=True)
            answers = [" " * bool(context) + example["completion"] + end_token for context, example in pairs]
        pairs = [*zip(contexts, answers, strict=True)]
        rows: dict[tuple[str, str], int] = {}
        for i, pair in enumerate(pairs):
            rows.setdefault(pair, i)  # of equal pairs the first
        context_ids = dict(zip(unique := [*{*contexts}], self.tokenize(unique), strict=True))
        ids_of = {}
        for (context, answer), ids in zip(rows, self.tokenize([*map("".join, rows)]), strict=True):
            if self.format:
                i = rows[context, answer]
                with self.format.add_remedy(origins[i], examples[i]):
                    ids_of[context, answer] = self.format.ids_after(context, answer, context_ids[context], ids)
                continue
            start = len(context_ids[context])
            separable = ids[:start] == context_ids[context]
            ids_of[context, answer] = ids[start:] if separable else self.tokenize([answer])[0]
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
            (ids,) = self.prompt_ids([self.task.to_example(shortened)])
        if len(ids) > budget:
            answer = self.max_length - budget
            smaller = "; or a smaller `max_new_tokens` in `--task_options`" * (answer == self.task.max_new_tokens)
            fewer = "; or fewer `--num_fewshot`" * bool(self.settings.shots)
            raise ValueError(
                f"a prompt of {len(ids)} tokens leaves no room for an answer of {answer} in "
                f"`--max_length` {self.max_length}: shorten or remove the row, or, if the model has as many positions, "
                f"give {len(ids) + answer} or more{smaller}{fewer}"
            )
        return ids, len(ends) - keep


def plain_prompt(example: Example) -> str:
    """The prompt of an example in plain style: after its system message, if it has one."""
    return "\n\n".join(filter(None, (example.get("system"), example["prompt"])))


def prompt_settings(args: TaskArguments | GenerateArguments | ChatArguments) -> PromptSettings:
    """The settings that flags give, without few-shot examples."""
    return PromptSettings(args.prompt_style, args.chat_template_kwargs or {}, args.system_prompt)


def task_settings(args: TaskArguments, task: Task, rows: DatasetDict) -> PromptSettings:
    """The settings of a task's prompts, with the few-shot examples that `load_rows` has drawn."""
    shots = [example_of(row, task) for row in (rows[FEWSHOT].to_list() if FEWSHOT in rows else [])]
    return replace(prompt_settings(args), shots=shots, train_on=args.train_on)


def set_chat_template(
    tokenizer: PreTrainedTokenizerBase, args: TaskArguments | GenerateArguments | ChatArguments
) -> None:
    """Give the tokenizer the chat template of `--chat_template`, with which it is saved; without one it keeps its own.

    A warning says which other settings of prompts the model was trained with.

    Raises:
        ValueError: the file cannot be read, or prompts are plain.
    """
    warn_of_other_prompts(tokenizer, args)
    if args.chat_template is not None:
        if args.prompt_style == "plain":
            raise ValueError("`--chat_template` has no effect with `--prompt_style plain`: leave one of them out")
        path = BUILT_IN.get(args.chat_template, Path(args.chat_template).expanduser())
        if not path.exists():
            names = " and ".join(sorted(BUILT_IN))
            raise ValueError(f"`--chat_template` {path} cannot be read: there is no such file; {names} are built in")
        tokenizer.chat_template = read_settings(path, f"`--chat_template` {path}")
        if missing := [mark for mark in marks_of_built_in(args.chat_template) if mark not in tokenizer.get_vocab()]:
            logger.warning(
                f"`--chat_template` {args.chat_template}: {' and '.join(missing)} are no tokens of "
                f"`{tokenizer.name_or_path}`, which reads them as text: recipes/finetune.py would add them"
            )


def marks_of_built_in(name: str | None) -> list[str]:
    """The special tokens that a built-in chat template writes; none of a file's are known."""
    text = BUILT_IN[name].read_text(encoding="utf-8") if name in BUILT_IN else ""
    return [*dict.fromkeys(re.findall(r"<\|\w+\|>", text))]


def new_chat_format(
    tokenizer: PreTrainedTokenizerBase, settings: PromptSettings = PromptSettings()
) -> ChatFormat | None:
    """The format of chats, or None for plain prompts: without a style, they are chats if the tokenizer has a template.

    Raises:
        ValueError: `chat`, and the tokenizer has no template; variables or a system prompt for plain prompts.
    """
    if settings.style == "chat" and not tokenizer.chat_template:
        raise ValueError(
            f"`--prompt_style` chat: tokenizer `{tokenizer.name_or_path}` has no template; use plain, or give one by "
            "`--chat_template FILE`"
        )
    if settings.style != "plain" and tokenizer.chat_template:
        return ChatFormat(tokenizer, settings)
    if settings.system_prompt is not None:
        raise ValueError(
            "`--system_prompt` has no effect on plain prompts: leave it out, or give a chat template, e.g. "
            "`--chat_template chatml`"
        )
    if settings.template_kwargs:
        raise ValueError("`--chat_template_kwargs` has no effect on plain prompts: leave it out")
    return None


def check_chat_template(tokenizer: PreTrainedTokenizerBase, args: TaskArguments) -> None:
    """Refuse a chat template that cannot be trained on, before any data are read.

    It must write some answer as after its own prompt: a plain one, or one with thoughts; for `chat` that of a
    conversation, which it may also mark by `{% generation %}`.

    Raises:
        ValueError: it writes both otherwise, or as `set_chat_template` and `new_chat_format`.
    """
    set_chat_template(tokenizer, args)
    if chat := new_chat_format(tokenizer, prompt_settings(args)):
        probe = chat.conversation(PROBE) if args.task == "chat" else PROBE
        origin = f"tokenizer `{tokenizer.name_or_path}`"
        with chat.add_remedy(origin, probe):
            if not chat.splits(with_thoughts(probe)):
                chat.check_split(probe)
            if args.task == "chat":
                _, problems = encode_conversations(chat, [with_thoughts(probe), probe], [origin] * 2, args.train_on)
                if len(problems) == 2:
                    raise ValueError(problems[1])
        if opens_thought(chat) and chat.splits(probe):
            without = next(filter(None, (without_thoughts(chat, switch) for switch in switches(tokenizer))), None)
            remedy = f"; `--chat_template_kwargs {format_mapping(without)}` asks without thoughts" if without else ""
            logger.info(
                f"The chat template opens a thought in the prompt: answers without one are trained to end it{remedy}"
            )


def opens_thought(chat: ChatFormat) -> bool:
    """Whether the prompts of a chat template end within a thought."""
    return chat.prompts([PROBE])[0].rstrip().endswith(("<think>", "<thinking>"))


def without_thoughts(chat: ChatFormat, switch: dict[str, Any]) -> dict[str, Any] | None:
    """The variables of a template and a switch, if it then opens no thought and takes answers without one."""
    settings = replace(chat.settings, template_kwargs=chat.settings.template_kwargs | switch)
    try:
        switched = ChatFormat(chat.tokenizer, settings)
    except ValueError:  # another kind of value is needed
        return None
    return settings.template_kwargs if switched.splits(PROBE) and not opens_thought(switched) else None


def add_chat_template(
    tokenizer: PreTrainedTokenizerBase, args: TaskArguments
) -> tuple[PreTrainedTokenizerBase, dict[int, list[int]]]:
    """Give a tokenizer that is trained with the template of `--chat_template`, and the tokens of a built-in one.

    Returns:
        The tokenizer, and for each new id the ids as which its text was encoded before: the model is to be extended by
        `extend_embeddings`.

    Raises:
        ValueError: as `check_chat_template`.
    """
    record_prompts(tokenizer, args)
    marks = marks_of_built_in(args.chat_template)
    tokenizer, new = add_special_tokens(tokenizer, marks) if marks else (tokenizer, {})
    if new:
        logger.info(f"`--chat_template` {args.chat_template}: {len(new)} of {', '.join(marks)} are new tokens")
    check_chat_template(tokenizer, args)
    return tokenizer, new


def without_end(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """A prompt's ids without a final end-of-sequence token; an empty prompt becomes the first token of a document."""
    ids = ids[:-1] if ids[-1:] == [tokenizer.eos_token_id] else ids
    first: Any = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    return ids or [first]
