"""Chats as text, by the chat template of a tokenizer: a program that came with the model, run within limits."""

import difflib
import inspect
import re
from collections.abc import Callable, Sequence
from datetime import date, datetime
from typing import Any

import jinja2
from transformers import PreTrainedTokenizerBase

from hf_llm.limits import limited_memory, limited_time
from hf_llm.messages import one_line

Chat = list[dict[str, Any]]  # messages {"role": str, "content": str}, some with "tool_calls"
Conversation = dict[str, Any]  # {"messages": Chat, "tools": list[dict] | None}

MAX_SECONDS = 5  # of CPU time for one chat, which takes a well-behaved template about a millisecond
MAX_EXTRA_BYTES = 2 << 30  # of memory while templates run
MAX_EXTRA_CHARACTERS = 1_000_000  # that a template adds to ten times the chat's own characters
DAY = "strftime_now"  # the function by which templates ask for the day; as a variable, the day that it returns


def render_chats(
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Conversation],
    add_generation_prompt: bool = False,
    **variables: Any,
) -> list[str]:
    """Apply a tokenizer's chat template.

    Contents are given as text, or as a list of parts if the template takes only those.

    Args:
        conversations: messages `{"role": str, "content": str}`, and the definitions of tools or None:
            `{"messages": list[dict], "tools": list[dict] | None}`.
        add_generation_prompt: end with the start of an answer.
        variables: those that the template reads, e.g. `enable_thinking=False`. `strftime_now="2024-07-26"` is the day
            for templates that write the current one.

    Raises:
        ValueError: the template is not valid, refuses a chat, or takes more time, memory or text than any real one.
    """
    day, tools = variables.pop(DAY, None), variables.pop("tools", None)
    template = tokenizer.get_chat_template(tools=tools or conversations[0].get("tools"))
    if day:
        template = with_fixed_day(template, datetime.fromisoformat(day))

    def render(chat: Chat, tools: list[Any] | None) -> str:
        with limited_time(MAX_SECONDS):
            options = {"chat_template": template, "add_generation_prompt": add_generation_prompt, **variables}
            text = tokenizer.apply_chat_template(chat, tools=tools, tokenize=False, **options)
        size = len(str([chat, tools]))
        if len(text) > 10 * size + MAX_EXTRA_CHARACTERS:
            raise ValueError(f"it makes {len(text):,} characters of a chat of {size:,}")
        return text  # pyright: ignore[reportReturnType]  # tokenize=False: a text

    try:
        check_template(template)
        with limited_memory(MAX_EXTRA_BYTES):
            chats = [(chat["messages"], chat.get("tools") or tools) for chat in conversations]
            lists = "text" in template and takes_lists(render, *chats[0])  # the type of such parts
            return [render(as_lists(chat) if lists else chat, tools) for chat, tools in chats]
    except Exception as error:  # templates raise any class of error
        cause = f"it takes more than {MAX_EXTRA_BYTES >> 30} GiB" if isinstance(error, MemoryError) else one_line(error)
        raise ValueError(
            f"the chat template of `{tokenizer.name_or_path}` fails: {cause}: correct the file of `--chat_template`, "
            "or without one the model's `chat_template.jinja`; or take `--prompt_style plain`"
        ) from None


def takes_lists(render: Callable[..., str], chat: Chat, tools: list[Any] | None) -> bool:
    """Whether a template takes contents only as lists: given texts, it fails, or leaves them out without a word."""
    try:
        if writes(chat[-1]["content"], render(chat, tools)):
            return False
    except (TimeoutError, MemoryError):
        raise
    except Exception:  # templates raise any class of error
        pass
    try:
        return writes(chat[-1]["content"], render(as_lists(chat), tools))
    except Exception:
        return False


def as_lists(chat: Chat) -> Chat:
    """Give each content as a list of one part, as models that also read images have them."""
    return [message | {"content": [{"type": "text", "text": message["content"]}]} for message in chat]


def writes(content: str, text: str) -> bool:
    """Whether a content is in a text, apart from white space, which many templates trim."""
    return content in text or "".join(content.split()) in "".join(text.split())


def check_template(template: str) -> None:
    """Refuse powers, e.g. `9 ** 9 ** 9`: Python computes one in a single step, which no limit of time can interrupt."""
    if "**" in template and any(token[1:] == ("operator", "**") for token in jinja2.Environment().lex(template)):
        raise ValueError("it computes a power by `**`, which may take endless time")


def with_fixed_day(template: str, day: datetime) -> str:
    """Put a function `strftime_now` of a fixed day before a template: variables may hold no function."""
    codes = [f"%{flag}{code}" for flag in ("-", "") for code in "aAbBcdfHIjmMpSUwWxXyYZ"]
    replaced = "".join(f"|replace('{code}', '{day.strftime(code)}')" for code in codes)
    return f"{{% macro {DAY}(format) %}}{{{{ format{replaced} }}}}{{% endmacro %}}{{{{ '' }}}}{template}"


def chat_variables(tokenizer: PreTrainedTokenizerBase, template_kwargs: dict[str, Any] | None) -> dict[str, Any]:
    """Return the variables of `--chat_template_kwargs`, with the day of the run where the template writes a day.

    So all prompts of a run have the same day, and it can be recorded.

    Raises:
        ValueError: the template does not read a variable, or it is not one to be set, or the day is not a date.
    """
    words = set(re.findall(r"[A-Za-z_]\w*", str(tokenizer.chat_template)))
    reserved = {*inspect.signature(tokenizer.apply_chat_template).parameters, "messages"} - {"tools", "documents"}
    variables = {}
    for name, value in (template_kwargs or {}).items():
        if name not in words or name in reserved:
            near = difflib.get_close_matches(name, words - reserved, 1)
            hint = f"; the nearest is {near[0]}" if near else ": leave it out"
            raise ValueError(
                f"`--chat_template_kwargs` {name}: the chat template of `{tokenizer.name_or_path}` has no such "
                f"variable{hint}"
            )
        variables[name] = str(value) if isinstance(value, date) else value  # YAML reads 2024-07-26 as a date
    if DAY in words:
        variables.setdefault(DAY, str(date.today()))
        try:
            datetime.fromisoformat(variables[DAY])
        except (TypeError, ValueError):
            raise ValueError(f"`--chat_template_kwargs` {DAY}={variables[DAY]}: give a date, e.g. 2024-07-26") from None
    return variables
