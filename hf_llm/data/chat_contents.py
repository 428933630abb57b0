"""Whether a chat template writes what the messages of a conversation say, calls and results of tools included."""

import re
from typing import Any

from hf_llm.conversations import Conversation
from hf_llm.data.chats import writes

SWITCH = re.compile(r"(?:^|\s)/\w+")  # in a message for the template itself, e.g. `/no_think`


def check_prompt_written(chat: Conversation, text: str) -> None:
    """Check that a template writes the messages before an answer, and the names of the tools.

    Args:
        chat: the conversation up to its answer.
        text: what the template makes of the messages before the answer.

    Raises:
        ValueError: a message or tool is missing.
    """
    for tool in chat.get("tools") or []:
        name = tool.get("function", tool).get("name")
        if name and name not in text:
            raise ValueError(f"the chat template leaves out the tool `{name}`")
    for message in chat["messages"][:-1]:
        content = message["content"] or ""
        if message["role"] == "assistant":
            check_answer_written(message, text)
        if message["role"] == "assistant" or content in text:
            continue
        if not (writes(content, text) if message["role"] == "user" else writes_words(SWITCH.sub(" ", content), text)):
            raise ValueError(f"the chat template changes or leaves out the {message['role']} message `{content[:60]}`")


def check_answer_written(answer: dict[str, Any], written: str) -> None:
    """Check that a template writes the calls of tools of an answer.

    Raises:
        ValueError: the name or an argument of a call is missing.
    """
    for call in answer.get("tool_calls") or []:
        function = call.get("function", call)
        if function["name"] not in written or not writes_words(function["arguments"], written):
            raise ValueError(f"the chat template changes or leaves out the call of the tool `{function['name']}`")


def writes_words(value: Any, text: str) -> bool:
    """Whether a text has most words of a value, which may be written in another form, e.g. as JSON."""
    words = words_of(value)
    return not words or 2 * sum(word in text for word in words) > len(words)


def words_of(value: Any) -> list[str]:
    """The words of a text, or of all texts in a dictionary or list."""
    if isinstance(value, dict):
        return [word for item in value.items() for part in item for word in words_of(part)]
    if isinstance(value, list):
        return [word for item in value for word in words_of(item)]
    return re.findall(r"\w+", value) if isinstance(value, str) else []
