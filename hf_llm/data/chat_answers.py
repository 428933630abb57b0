"""What a chat template writes of an answer: found in its own rendering of the whole chat, and proved for each row."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from hf_llm.conversations import Conversation
from hf_llm.data.chats import chat_variables, render_chats, render_marked, writes
from hf_llm.data.prompt_settings import PromptSettings
from hf_llm.data.tokenization import Encode
from hf_llm.mappings import format_mapping

QUESTION, ANSWER = "the question", "the completion"  # searched for in the output of the template
PROBE = {"prompt": QUESTION, "completion": ANSWER}
EXCERPT_CHARACTERS = 60

Example = dict[str, Any]  # {"prompt": str, "completion": str, "system"?: str}, or a conversation


class ChatFormat:
    """Prompts and completions as the chat template of a tokenizer writes them.

    Args:
        settings: of the prompts; few-shot examples become turns.

    Attributes:
        variables: those variables, with the day of the run where the template writes a day.
        opening: text between the prompt and the answer, e.g. empty thoughts; empty for most templates.
        end: the special token that ends an answer. After it the template may write more, e.g. a line end.
        missing_end: the same, if the template writes no special token after the last answer; else empty.
        added, added_ids: the special and added tokens of the tokenizer with their ids, without those of white space.
        marked: whether the template marks answers by `{% generation %}`.
        pattern: finds them in a text.
        last_token: the last special token of the prompt, at which text can be cut without changing its token ids.

    Raises:
        ValueError: the template fails, does not read one of the variables, or leaves out the system prompt.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, settings: PromptSettings = PromptSettings()):
        self.tokenizer, self.settings, self.system_prompt = tokenizer, settings, settings.system_prompt
        self.engine: Encode | None = None  # selected for the first conversations
        self.variables = chat_variables(tokenizer, settings.template_kwargs)
        added = {str(token): number for number, token in tokenizer.added_tokens_decoder.items()}
        self.added = {text: number for text, number in added.items() if text.strip()}
        self.added_ids = {*self.added.values()}
        self.pattern = re.compile("|".join(map(re.escape, sorted(self.added, key=len, reverse=True))) or "(?!)")
        chat = self.conversation(PROBE)
        (prompt,), ((whole, marks),) = self.prompts([PROBE]), render_marked(tokenizer, [chat], **self.variables)
        self.marked = bool(marks)
        if not writes(self.system_prompt or "", prompt):
            raise ValueError(
                f"`--system_prompt`: the chat template of `{tokenizer.name_or_path}` leaves it out: leave the flag "
                "out, or give another template by `--chat_template`, e.g. chatml"
            )
        before, _, after = whole.rpartition(ANSWER)
        self.opening = before.removeprefix(prompt) if before.startswith(prompt) else ""
        self.last_token = next(reversed(self.special_tokens(prompt)), "")
        self.end = next(iter(self.special_tokens(after)), "")
        self.missing_end = "" if self.end else self.end_before_next_turn(chat)
        self.end = self.end or self.missing_end

    def conversation(self, example: Example) -> Conversation:
        """The turns of an example: of a conversation its own, else system, few-shot examples, prompt and completion."""
        if "messages" in example:
            turns = example["messages"]
            if self.system_prompt is None or turns[0]["role"] in ("system", "developer"):
                return example
            return example | {"messages": [{"role": "system", "content": self.system_prompt}, *turns]}
        turns = [("system", example.get("system") or self.system_prompt)]
        for pair in (*self.settings.shots, example):
            system = "" if pair.get("system") == example.get("system") else pair.get("system")  # of another shot
            prompt = "\n\n".join(filter(None, (system, pair["prompt"])))
            turns += [("user", prompt), ("assistant", pair.get("completion"))]
        return {
            "messages": [{"role": role, "content": text} for role, text in turns if text is not None],
            "tools": None,
        }

    def end_before_next_turn(self, chat: Conversation) -> str:
        """The special token between an answer and the next question, as GLM has it, or the end-of-sequence token."""
        longer = chat | {"messages": [*chat["messages"], {"role": "user", "content": QUESTION}]}
        try:
            (text,) = render_chats(self.tokenizer, [longer], **self.variables)
        except ValueError:  # the template takes no second question
            text = ""
        between = text.rpartition(ANSWER)[2].partition(QUESTION)[0]
        return next(iter(self.special_tokens(between)), self.tokenizer.special_tokens_map["eos_token"])

    def missing_end_of(self, chat: Conversation) -> str:
        """The end token of a last answer for which the template writes none: of calls, the first of their results."""
        calls = chat["messages"][-1].get("tool_calls")
        if not calls:
            return self.end
        call = calls[0]
        name, number = call["function"]["name"], call.get("id", "call00000")
        result = {"role": "tool", "content": ANSWER, "name": name, "tool_call_id": number}
        chats = [chat, chat | {"messages": [*chat["messages"], result]}]
        try:
            before, after = render_chats(self.tokenizer, chats, **self.variables)
        except ValueError:  # the template takes no results
            return self.end
        return next(iter(self.special_tokens(after.removeprefix(before.rstrip()))), self.end)

    def decode(self, ids: list[int]) -> str:
        """Text of token ids; by the backend, because transformers looks at the type of each id."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend:
            return backend.decode(ids, skip_special_tokens=False)
        return f"{self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)}"

    def is_same(self, first: str, second: str) -> bool:
        """Whether texts are the same for the tokenizer, apart from white space and characters that it does not know."""
        normalizer = getattr(getattr(self.tokenizer, "backend_tokenizer", None), "normalizer", None)
        normalize = normalizer.normalize_str if normalizer else str
        first, second = ("".join(normalize(text).replace("▁", " ").split()) for text in (first, second))
        return first == second or f"{self.tokenizer.unk_token}" in first

    def special_tokens(self, text: str) -> list[str]:
        """The special and added tokens in a text, in their order, without those of white space."""
        return self.pattern.findall(text)

    def prompts(self, examples: list[Example], origins: Sequence[str] = ()) -> list[str]:
        """Examples without their last answer, with the few-shot examples before and the start of an answer after."""
        chats = [without_answer(self.conversation(example)) for example in examples]
        return render_chats(self.tokenizer, chats, add_generation_prompt=True, origins=origins, **self.variables)

    def completions(self, examples: list[Example], texts: list[str], origins: Sequence[str]) -> list[str]:
        """Read from the template's rendering of whole chats what it writes after the prompt of each example.

        Where rows have equal choices, each row is rendered with one choice, and each choice with one row; all of them
        only if a choice is not written alike in these rows.

        Args:
            texts: the prompts as `prompts` returns them.
            origins: where each completion is from, for error messages.

        Raises:
            ValueError: the template writes a finished answer otherwise than after the prompt, or changes it.
        """
        chats = [self.conversation(example) for example in examples]
        pairs = [(text, repr(chat["messages"][-1])) for text, chat in zip(texts, chats, strict=True)]
        firsts = {key: i for i, pair in reversed([*enumerate(pairs)]) for key in enumerate(pair)}  # (0, prompt) -> row
        chosen = sorted({*firsts.values()})
        written = self.render_completions(chosen, pairs, examples, origins)
        by_completion = {completion: text for (_, completion), text in written.items()}
        if any(by_completion[completion] != text for (_, completion), text in written.items()):
            written = self.render_completions(range(len(pairs)), pairs, examples, origins)
        ends = [self.missing_end and self.missing_end_of(chat) for chat in chats]
        return [written.get(pair, by_completion[pair[1]]) + end for pair, end in zip(pairs, ends, strict=True)]

    def render_completions(
        self, chosen: Sequence[int], pairs: list[tuple[str, str]], examples: list[Example], origins: Sequence[str]
    ) -> dict[tuple[str, str], str]:
        """What the template writes after the prompt of some of the pairs (text of the prompt, answer)."""
        chats, sources = [self.conversation(examples[i]) for i in chosen], [origins[i] for i in chosen]
        wholes = render_chats(self.tokenizer, chats, origins=sources, **self.variables)
        if False in self.settings.template_kwargs.values():  # `enable_thinking=false`: the prompt may close them
            texts = [pairs[i][0] for i in chosen]
            chats = [
                chat if whole.startswith(text) else without_thoughts(chat)
                for chat, whole, text in zip(chats, wholes, texts, strict=True)
            ]
            wholes = render_chats(self.tokenizer, chats, origins=sources, **self.variables)
        written = {}
        for i, chat, whole in zip(chosen, chats, wholes, strict=True):
            with self.add_remedy(origins[i], examples[i]):
                written[pairs[i]] = completion_after(pairs[i][0], whole, *contents_of(chat))
        return written

    def context(self, text: str) -> str:
        """The end of a prompt's text, from its last special token on: what follows is tokenized alike after both."""
        return text[max(0, text.rfind(self.last_token)) :] if self.last_token else text

    def ids_after(self, context: str, written: str, context_ids: list[int], joined_ids: list[int]) -> list[int]:
        """Token ids of what a template writes after a prompt.

        Where a token of the whole chat has characters of both, e.g. a line end of each, both are encoded apart:
        generation too goes on after the ids of the prompt.

        Args:
            context: the end of the prompt.
            context_ids: its ids.
            joined_ids: those of context and answer together.

        Raises:
            ValueError: they cannot be encoded apart: a SentencePiece tokenizer would put a space between them.
        """
        if joined_ids[: len(context_ids)] == context_ids:
            return joined_ids[len(context_ids) :]
        ids = self.tokenizer(written, add_special_tokens=False).input_ids
        if self.decode(context_ids + ids) != self.decode(joined_ids):
            check_token_border(context, written, context_ids, joined_ids)
        return ids

    def check_split(self, example: Example) -> None:
        """Check that the template writes an answer after its prompt, in tokens that generation can write there.

        Raises:
            ValueError: it does not.
        """
        (text,), chat = self.prompts([example]), self.conversation(example)
        (whole,) = render_chats(self.tokenizer, [chat], **self.variables)
        context, written = self.context(text), completion_after(text, whole, *contents_of(chat))
        self.ids_after(
            context, written, *self.tokenizer([context, context + written], add_special_tokens=False).input_ids
        )

    def splits(self, example: Example) -> bool:
        """Whether `check_split` finds nothing to refuse."""
        try:
            self.check_split(example)
        except ValueError:
            return False
        return True

    def needs_thoughts(self) -> bool:
        """Whether the prompt opens a thought, so that the template writes only answers with thoughts after it."""
        return not self.splits(PROBE) and self.splits(with_thoughts(PROBE))

    @contextlib.contextmanager
    def add_remedy(self, origin: str, example: Example) -> Iterator[None]:
        """Put origin and remedy around the message of a `ValueError` about an answer."""
        try:
            yield
        except ValueError as error:
            raise ValueError(f"{origin}: {error}: {self.remedy(example)}") from None

    def remedy(self, example: Example) -> str:
        """What to do about an answer that the template writes otherwise: a switch of the template, if one helps."""
        changed = not self.splits(example)  # or it is another message that is not written
        for switch in switches(self.tokenizer) if changed else ():
            variables = self.settings.template_kwargs | switch
            with contextlib.suppress(ValueError):
                ChatFormat(self.tokenizer, replace(self.settings, template_kwargs=variables)).check_split(example)
                return f"give `--chat_template_kwargs {format_mapping(variables)}`, with which they agree"
        thoughts = "begin the answers by their thoughts, <think>...</think>, or "
        start = thoughts * (changed and self.splits(with_thoughts(example)))
        plain = ", or, unless the rows are conversations, take `--prompt_style plain`" * ("messages" not in example)
        return f"{start}give another template by `--chat_template`, e.g. chatml{plain}"


def with_thoughts(example: Example) -> Example:
    """An example whose answer begins by a thought."""
    thought = f"<think>\n{ANSWER}\n</think>\n\n"
    if "messages" not in example:
        return example | {"completion": thought + example["completion"]}
    *earlier, last = example["messages"]
    return example | {"messages": [*earlier, {"role": "assistant", "content": thought + last["content"]}]}


def without_answer(chat: Conversation) -> Conversation:
    """A conversation without its last message, if that is the assistant's."""
    *earlier, last = chat["messages"]
    return chat | {"messages": earlier} if last["role"] == "assistant" else chat


def without_thoughts(chat: Conversation) -> Conversation:
    """A conversation whose last message has no thoughts."""
    *earlier, last = chat["messages"]
    return chat | {"messages": [*earlier, {k: v for k, v in last.items() if k != "reasoning_content"}]}


def contents_of(chat: Conversation) -> tuple[str, str]:
    """The text of the user's message before the answer, and that of the answer."""
    *earlier, answer = chat["messages"]
    return "".join(message["content"] for message in earlier[-1:] if message["role"] == "user"), answer["content"]


def check_token_border(context: str, written: str, context_ids: list[int], joined_ids: list[int]) -> None:
    """Refuse a prompt that ends within a token: generated answers would begin by other tokens than trained ones.

    Args:
        context: the end of the prompt.
        written: what the template writes after it.
        context_ids: token ids of the context.
        joined_ids: those of both together.
    """
    if joined_ids[: len(context_ids)] != context_ids:
        raise ValueError(
            f"the chat template ends the prompt `{excerpt(context)}` within a token that goes on with "
            f"`{excerpt(written)}`"
        )


def completion_after(text: str, whole: str, prompt: str, completion: str) -> str:
    """Return what a template writes after a prompt in its rendering of the whole chat.

    Args:
        text: what the template makes of the prompt.
        whole: what it makes of prompt and completion.

    Example:
        >>> completion_after("<user>2 + 2?<bot>", "<user>2 + 2?<bot>4<end>", "2 + 2?", "4")
        '4<end>'

    Raises:
        ValueError: the whole chat does not begin with the prompt's text, or prompt or completion are not in it.
    """
    if not whole.startswith(text):
        shared = [first == second for first, second in zip(text, whole, strict=False)]
        start = max(0, [*shared, False].index(False) - EXCERPT_CHARACTERS // 2)
        raise ValueError(
            f"the chat template begins an answer by `{excerpt(text[start:])}`, and a finished one by "
            f"`{excerpt(whole[start:])}`"
        )
    written = whole[len(text) :]
    right = {"prompt": writes(prompt, text), "answer": completion in written or ends_after(text, whole, completion)}
    for name, content, rendering in (("prompt", prompt, text), ("answer", completion, written)):
        if not right[name]:
            raise ValueError(
                f"the chat template changes the {name} `{excerpt(content)}`, and writes `{excerpt(rendering)}`"
            )
    return written


def ends_after(text: str, whole: str, completion: str) -> bool:
    """Whether a completion ends after a prompt's text; it may begin within it, where the prompt opens a thought.

    White space does not count.
    """
    before, joined, answer = ("".join(each.split()) for each in (text, whole, completion))
    return (start := joined.rfind(answer)) >= 0 and start + len(answer) > len(before)


def excerpt(text: str) -> str:
    """The start of a text, on one line."""
    return repr(text[:EXCERPT_CHARACTERS] + "..." * (len(text) > EXCERPT_CHARACTERS))[1:-1]


def switches(tokenizer: PreTrainedTokenizerBase) -> list[dict[str, Any]]:
    """Values of variables with which a template may open no thoughts, e.g. `enable_thinking=False`."""
    names = dict.fromkeys(re.findall(r"\b[a-z_]*(?:think|reason)[a-z_]*\b", str(tokenizer.chat_template)))
    return [{name: value} for name in names for value in (False, "none", True)]
