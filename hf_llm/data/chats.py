"""Chats as text, by the chat template of a tokenizer: a program that came with the model, run within limits."""

import difflib
import inspect
import json
import re
from collections.abc import Callable, Sequence
from datetime import date, datetime
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from hf_llm.conversations import Conversation, Message
from hf_llm.limits import limited_memory, limited_time
from hf_llm.messages import one_line
from hf_llm.templates import MAX_EXTRA_BYTES, MAX_SECONDS, check_template

Chat = list[Message]

MAX_EXTRA_CHARACTERS = 1_000_000  # that a template adds to ten times the chat's own characters
MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")  # before what the assistant writes, in some templates
FAILING_TEMPLATE = (
    "correct the file of `--chat_template`, or without one the model's `chat_template.jinja`; or give `--chat_template "
    "chatml`; or, unless the rows are conversations, `--prompt_style plain`"
)
DAY = "strftime_now"  # the function by which templates ask for the day; as a variable, the day that it returns


def render_chats(
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Conversation],
    add_generation_prompt: bool = False,
    origins: Sequence[str] = (),
    **variables: Any,
) -> list[str]:
    """Apply a tokenizer's chat template.

    Contents are given as text, or as a list of parts if the template takes only those; arguments of tool calls as
    objects, or as JSON text if the template takes only that.

    Args:
        conversations: messages `{"role": str, "content": str}`, and the definitions of tools or None:
            `{"messages": list[dict], "tools": list[dict] | None}`.
        add_generation_prompt: end with the start of an answer.
        origins: where each conversation is from, for error messages.
        variables: those that the template reads, e.g. `enable_thinking=False`. `strftime_now="2024-07-26"` is the day
            for templates that write the current one.

    Raises:
        ValueError: the template is not valid, refuses a chat, or takes more time, memory or text than any real one.
    """
    options = {"add_generation_prompt": add_generation_prompt}
    return [text for text, _ in render_marked(tokenizer, conversations, origins, **options | variables)]


def render_marked(
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Conversation],
    origins: Sequence[str] = (),
    **variables: Any,
) -> list[tuple[str, list[tuple[int, int]]]]:
    """Apply a chat template as `render_chats`; also return where it marks answers by `{% generation %}`, in characters.

    A text "<user>Hi<bot>Yes<end>" whose template marks "Yes<end>" has the marks [(13, 21)].
    """
    day, shared_tools = variables.pop(DAY, None), variables.pop("tools", None)
    templates = {}
    for has_tools in {bool(shared_tools or chat.get("tools")) for chat in conversations}:  # some models have two
        template = tokenizer.get_chat_template(tools=[{}] if has_tools else None)
        templates[has_tools] = with_fixed_day(template, datetime.fromisoformat(day)) if day else template
    marked = any(MARK.search(template) for template in templates.values())
    options = {"return_assistant_tokens_mask": marked, **tokenizer.special_tokens_map, **variables}

    def render(chat: Chat, tools: list[Any] | None) -> tuple[str, list[tuple[int, int]]]:
        with limited_time(MAX_SECONDS):
            texts: Any = render_jinja_template([chat], tools, chat_template=templates[bool(tools)], **options)
        (text,), marks = texts
        if len(text) > MAX_EXTRA_CHARACTERS:
            size = len(str([chat, tools]))
            if len(text) > 10 * size + MAX_EXTRA_CHARACTERS:
                raise ValueError(f"it makes {len(text):,} characters of a chat of {size:,}")
        return text, [span for spans in marks for span in spans]

    rendered = []
    try:
        for template in templates.values():
            check_template(template)
        with limited_memory(MAX_EXTRA_BYTES):
            chats = [(chat["messages"], chat.get("tools") or shared_tools) for chat in conversations]
            # "text" is the type of such parts.
            if any("text" in template for template in templates.values()) and takes_lists(render, *chats[0]):
                chats = [(as_lists(chat), tools) for chat, tools in chats]
            with_calls = next((chat for chat in chats if any(map(arguments_of, chat[0]))), None)
            if with_calls and takes_json_text(render, *with_calls):
                chats = [(with_json_text(chat), tools) for chat, tools in chats]
            for chat, tools in chats:
                rendered.append(render(chat, tools))
            return rendered
    except Exception as error:  # templates raise any class of error
        cause = f"it takes more than {MAX_EXTRA_BYTES >> 30} GiB" if isinstance(error, MemoryError) else one_line(error)
        origin = f"{origins[len(rendered)]}: " if origins else ""
        remedy = "change the row, or give another template by `--chat_template`" if origin else FAILING_TEMPLATE
        raise ValueError(f"{origin}the chat template of `{tokenizer.name_or_path}` fails: {cause}: {remedy}") from None


def takes_lists(render: Callable[..., tuple[str, Any]], chat: Chat, tools: list[Any] | None) -> bool:
    """Whether a template takes contents only as lists: given texts, it fails, or leaves them out without a word."""
    content = max((message["content"] for message in chat), key=len)
    text = try_to_render(render, chat, tools)
    if text is not None and writes(content, text):
        return False
    text = try_to_render(render, as_lists(chat), tools)
    return text is not None and writes(content, text)


def takes_json_text(render: Callable[..., tuple[str, Any]], chat: Chat, tools: list[Any] | None) -> bool:
    """Whether a template takes arguments of tool calls only as text: given objects, it fails, or writes Python's."""
    text = try_to_render(render, chat, tools)
    if text is not None and not any(str(each) in text for message in chat for each in arguments_of(message)):
        return False
    return bool(try_to_render(render, with_json_text(chat), tools))


def try_to_render(render: Callable[..., tuple[str, Any]], chat: Chat, tools: list[Any] | None) -> str | None:
    """What a template makes of a chat; None if it refuses it.

    Raises:
        TimeoutError, MemoryError: it takes too much.
    """
    try:
        return render(chat, tools)[0]
    except (TimeoutError, MemoryError):
        raise
    except Exception:  # templates raise any class of error
        return None


def arguments_of(message: dict[str, Any]) -> list[dict[str, Any]]:
    """The arguments of a message's tool calls, without empty ones, which are written alike in Python and JSON."""
    calls = [call["function"]["arguments"] for call in message.get("tool_calls") or ()]
    return [arguments for arguments in calls if arguments]


def with_json_text(chat: Chat) -> Chat:
    """Give the arguments of each tool call as JSON text, as OpenAI has them."""

    def convert(call: dict[str, Any]) -> dict[str, Any]:
        arguments = json.dumps(call["function"]["arguments"], ensure_ascii=False)
        return call | {"function": call["function"] | {"arguments": arguments}}

    changed = [{"tool_calls": [*map(convert, message.get("tool_calls") or ())]} for message in chat]
    return [message | calls if calls["tool_calls"] else message for message, calls in zip(chat, changed, strict=True)]


def as_lists(chat: Chat) -> Chat:
    """Give each content as a list of one part, as models that also read images have them."""
    return [message | {"content": [{"type": "text", "text": message["content"]}]} for message in chat]


def writes(content: str, text: str) -> bool:
    """Whether a content is in a text, apart from white space, which many templates trim."""
    return content in text or "".join(content.split()) in "".join(text.split())


def with_fixed_day(template: str, day: datetime) -> str:
    """Put a function `strftime_now` of a fixed day before a template: variables may hold no function."""
    codes = [f"%{flag}{code}" for flag in ("-", "") for code in "aAbBcdfHIjmMpSUwWxXyYZ"]
    replaced = "".join(f"|replace('{code}', '{day.strftime(code)}')" for code in codes)
    return f"{{% macro {DAY}(format) %}}{{{{ format{replaced} }}}}{{% endmacro %}}{{{{ '' }}}}{template}"


def chat_variables(tokenizer: PreTrainedTokenizerBase, template_kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the variables of `--chat_template_kwargs`, with the day of the run where the template writes a day.

    So all prompts of a run have the same day, and it can be recorded.

    Raises:
        ValueError: the template does not read a variable, or it is not one to be set, or the day is not a date.
    """
    words = set(re.findall(r"[A-Za-z_]\w*", str(tokenizer.chat_template)))
    reserved = {*inspect.signature(tokenizer.apply_chat_template).parameters, "messages"} - {"tools", "documents"}
    variables = {}
    for name, value in template_kwargs.items():
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
