"""Token ids of a task's prompts and completions: plain text or chat template, shortened to fit."""

from typing import Any

from transformers import PreTrainedTokenizerBase

from hf_llm.data.chats import render_chats
from hf_llm.messages import add_origin
from hf_llm.tasks import Task

PROBE_ANSWER = "the completion"  # an answer to be searched for in the chat template's output
CONTEXT_CHARACTERS = 8  # of the prompt, tokenized before a completion so that it is split as within the whole text


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


def example_of(row: dict[str, Any], task: Task, origin: str = "a row") -> dict[str, str]:
    """Prompt and completion of a row; an error names its file and line, or `origin`."""
    with add_origin(row, origin):
        return task.to_example(row)
