"""Conversations in the layouts of the Hub, read into one form: the messages of OpenAI, calls of tools as objects."""

import contextlib
import json
import re
from collections.abc import Iterator
from itertools import cycle
from typing import Any

from hf_llm.chat_texts import split_chat_text, split_glaive_system
from hf_llm.mappings import parse_nested

# {"role": str, "content": str}, and `tool_calls`, `reasoning_content`, `tool_call_id` and `name` where they are given.
Message = dict[str, Any]
Conversation = dict[str, Any]  # {"messages": list[Message], "tools": list[dict] | None}

NAMES_OF_ROLES = {
    "system": ("system", "developer"),
    "user": ("user", "human", "prompter", "input", "question", "query", "instruction", "prompt"),
    "assistant": (
        *("assistant", "gpt", "chatgpt", "bing", "bard", "claude", "bot", "chatbot", "model", "ai"),
        *("output", "answer", "response", "completion"),
    ),
    "tool": (
        *("tool", "function", "observation", "ipython", "environment", "tool_response", "tool_result", "tool_results"),
        *("function_response", "function_result", "function-response"),
    ),
}
ROLE_OF = {name: role for role, names in NAMES_OF_ROLES.items() for name in names}
CALLS = ("function_call", "function-call", "tool_call", "tool_calls")  # roles of an assistant that calls tools
# Columns: lists of messages, whole conversations as text, and the two halves of an exchange.
LISTS = ("messages", "conversations", "conversation", "contents", "dialogue", "dialog", "chat", "data")
TEXTS = ("text", "chat", "conversation", "chosen")
PROMPTS = ("prompt", "instruction", "question", "query", "input")
COMPLETIONS = ("completion", "chosen", "preferred_output", "output", "response", "answer", "answers")
SYSTEMS = ("system", "system_prompt", "systemInstruction", "system_instruction")
REJECTED = ("rejected", "non_preferred_output", "rejected_response")  # not read
COLUMNS = {*LISTS, *TEXTS, *PROMPTS, *COMPLETIONS, *SYSTEMS, *REJECTED, "tools", "functions", "history"}
MEDIA = ("image", "images", "video", "videos", "audio", "audios")
# Keys of a message.
ROLE_KEYS = ("role", "from", "speaker")
CONTENT_KEYS = ("content", "value", "text", "parts")
THOUGHTS = ("reasoning_content", "reasoning", "thinking", "thought")
WEIGHTS = ("weight", "train", "loss")  # 0 or false: an answer that is not trained on
JSON_LIKE = re.compile(r"\s*[\[{]\s*(?:[\[{\"']|[\]}]\s*\Z)")  # begins a list or an object, and not `[INST]`


def read_conversation(row: dict[str, Any]) -> Conversation | None:
    """Read the conversation of a row; lists and objects may be given as text, as in CSV.

    Args:
        row: with a list of messages (`messages`, `conversations`, ...), prompt and completion as lists of messages, an
            instruction with its `history`, a query with calls of tools as its `answers`, or a conversation as text.

    Returns:
        `{"messages": [...], "tools": [...] or None}`, or None: the row has no conversation. The messages may be in any
        order (`check_conversation`) and end with any role.

    Raises:
        ValueError: something cannot be read, e.g. an image or broken JSON.

    Example:
        >>> read_conversation({"conversations": [{"from": "human", "value": "Hi."}]})
        {'messages': [{'role': 'user', 'content': 'Hi.'}], 'tools': None}
    """
    messages = find_messages(row)
    if messages is None:
        return None
    if media := [name for name in MEDIA if row.get(name)]:
        raise ValueError(f"`{media[0]}` is part of the conversation, of which only text can be used: remove the row")
    outer = row["input"] if isinstance(row.get("input"), dict) else row  # of OpenAI's preference pairs
    tools = next((tools for name in ("tools", "functions") if (tools := read_tools(outer.get(name)))), None)
    system = next((row[name] for name in SYSTEMS if row.get(name)), None)
    if isinstance(system, str) and system.startswith("SYSTEM:"):
        system, found = split_glaive_system(system)
        tools = tools or read_tools(found)
    if system and (not messages or messages[0]["role"] != "system"):
        content = system["parts"] if isinstance(system, dict) and "parts" in system else system  # of Gemini
        messages = [*read_turn({"role": "system", "content": content}), *messages]
    messages = [message for message in messages if message["role"] != "system" or message["content"].strip()]
    return {"messages": messages, "tools": tools}


def find_messages(row: dict[str, Any]) -> list[Message] | None:
    """The messages of a row in its first column that has some; None if no column has."""
    for name in LISTS:
        value = parse_if_nested(row.get(name))
        if isinstance(value, dict) and isinstance(value.get("messages"), list):
            value = value["messages"]
        if isinstance(value, dict) and value and all(isinstance(column, list) for column in value.values()):
            value = [dict(zip(value, turn, strict=True)) for turn in zip(*value.values(), strict=True)]
        if isinstance(value, list) and value:
            return read_messages(value)
    prompt, completion = (
        next((parse_if_nested(row[name]) for name in names if row.get(name)), None) for names in (PROMPTS, COMPLETIONS)
    )
    if isinstance(prompt, dict):
        prompt = prompt["messages"] if "messages" in prompt else best_replies(prompt)
    if row.get("tools") and is_calls(completion):
        completion = [{"role": "assistant", "tool_calls": completion}]
    if is_chat(prompt) or is_chat(completion):
        prompt, completion = read_side(prompt, "user"), read_side(completion, "assistant")
        return completion if completion[: len(prompt)] == prompt else prompt + completion
    if isinstance(history := parse_if_nested(row.get("history")), list):
        question = "\n\n".join(str(row[name]) for name in PROMPTS if row.get(name))
        return read_messages([*(text for pair in history for text in pair), question, completion or ""])
    for name in TEXTS:
        if isinstance(text := row.get(name), str):
            before = prompt if name == "chosen" and isinstance(prompt, str) and not split_chat_text(text) else ""
            if turns := split_chat_text(before + text):
                return read_messages(turns)
    return None


def parse_if_nested(value: Any) -> Any:
    """Parse a text that is written as a list or an object; return any other value as it is.

    Raises:
        ValueError: it begins as one and is not.
    """
    return parse_nested(value) if isinstance(value, str) and JSON_LIKE.match(value) else value


def is_chat(value: Any) -> bool:
    """Whether a value is a list of messages."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(message, dict) for message in value)
        and any(key in value[0] for key in ROLE_KEYS)
    )


def is_calls(value: Any) -> bool:
    """Whether a value is a list of calls of tools, as the answers of xLAM."""
    return isinstance(value, list) and bool(value) and all(isinstance(call, dict) and "name" in call for call in value)


def read_side(value: Any, role: str) -> list[Message]:
    """The messages of one half of an exchange: a list of them, or the text of one.

    Raises:
        ValueError: it is neither.
    """
    if value and not is_chat(value) and not isinstance(value, str):
        raise ValueError(f"`{value}` is not a text or a list of messages: correct or remove the row")
    return read_messages(value if isinstance(value, list) else [{"role": role, "content": value}] if value else [])


def best_replies(node: dict[str, Any]) -> list[dict[str, Any]]:
    """The thread of a tree of OpenAssistant that takes the reply of the best rank each time."""
    nodes = [node]
    while replies := nodes[-1].get("replies"):
        nodes.append(min(replies, key=lambda reply: reply.get("rank") or 0))
    return nodes


def read_messages(turns: list[Any]) -> list[Message]:
    """Read messages, pairs of them (`{"human": ..., "assistant": ...}`), or texts of user and assistant in turn."""
    if all(isinstance(turn, str) for turn in turns):
        turns = [{"role": role, "content": text} for role, text in zip(cycle(("user", "assistant")), turns)]
    messages: list[Message] = []
    for number, turn in enumerate(turns, 1):
        if not isinstance(turn, dict):
            raise ValueError(f"message {number} is `{turn}`, not an object with a role and a content: correct the row")
        try:
            read = [*read_turn(turn)]
        except ValueError as error:
            raise ValueError(f"message {number}: {error}") from None
        for message in read:
            last = messages[-1] if messages else {}
            role = next((str(turn[key]).lower() for key in ROLE_KEYS if key in turn), "")
            if role in CALLS and last.get("role") == "assistant":  # ShareGPT: a turn of its own
                last["tool_calls"] = last.get("tool_calls", []) + message["tool_calls"]
            else:
                messages.append(message)
    return messages


def read_turn(turn: dict[str, Any]) -> Iterator[Message]:
    """Read one turn: a message, several where results of tools are in it, or a pair of question and answer.

    Raises:
        ValueError: a content that is not text, or a call of a tool without a name or with broken arguments.
    """
    turn = {key: value for key, value in turn.items() if value is not None}
    key = next((key for key in ROLE_KEYS if key in turn), None)
    if key is None:
        pairs = [(ROLE_OF[name], text) for name, text in turn.items() if name in ROLE_OF and text]
        if not pairs:
            raise ValueError(f"`{json.dumps(turn, ensure_ascii=False)[:60]}` has no role: correct or remove the row")
        for role, text in pairs:
            yield from read_turn({"role": role, "content": text})
        return
    name = str(turn[key]).strip().lower()
    content = next((turn[each] for each in CONTENT_KEYS if each in turn), "")
    if media := [each for each in MEDIA if turn.get(each)]:
        raise ValueError(f"it has `{media[0]}`; only text can be used: remove the row")
    untrained = [each for each in WEIGHTS if turn.get(each, 1) == 0]
    if untrained and ROLE_OF.get(name, name) == "assistant":
        raise ValueError(
            f"`{untrained[0]}` 0 says that it is not trained on, which is not supported: cut the conversation before "
            "it or remove the key"
        )
    if name in CALLS:
        yield {"role": "assistant", "content": "", "tool_calls": read_calls(content)}
        return
    message: Message = {"role": ROLE_OF.get(name, name), "content": ""}
    if message["role"] == "tool" and not isinstance(content, str) and not has_parts(content):
        content = json.dumps(content, ensure_ascii=False)
    parts = content if isinstance(content, list) else [content]
    results = [result for part in parts for result in read_part(part, message)]
    if calls := turn.get("tool_calls") or turn.get("function_call"):
        message["tool_calls"] = message.get("tool_calls", []) + read_calls(calls)
    if thoughts := next((turn[each] for each in THOUGHTS if turn.get(each)), None):
        message["reasoning_content"] = thoughts
    message |= {each: turn[each] for each in ("tool_call_id", "name") if turn.get(each)}
    yield from results
    if message["content"] or not results:
        yield message


def has_parts(content: Any) -> bool:
    """Whether a content is a list of parts."""
    return isinstance(content, list) and all(isinstance(part, dict) and "type" in part for part in content)


def read_part(part: Any, message: Message) -> Iterator[Message]:
    """Add a part of a content to its message; a result of a tool becomes a message of its own.

    Raises:
        ValueError: it is not text, e.g. an image.
    """
    if isinstance(part, str):
        message["content"] += part
    elif isinstance(part, dict) and isinstance(part.get("text"), str) and part.get("type", "text").endswith("text"):
        message["content"] += part["text"]
    elif isinstance(part, dict) and isinstance(part.get("thinking"), str):
        message["reasoning_content"] = message.get("reasoning_content", "") + part["thinking"]
    elif isinstance(part, dict) and part.get("type") == "tool_use":
        message["tool_calls"] = message.get("tool_calls", []) + read_calls([part])
    elif isinstance(part, dict) and part.get("type") == "tool_result":
        yield from read_turn({"role": "tool", "content": part.get("content"), "tool_call_id": part.get("tool_use_id")})
    else:
        kind = f"a part of type `{part.get('type')}`" if isinstance(part, dict) else f"`{part}`"
        raise ValueError(f"its content has {kind}; only text can be used: remove the row")


def read_calls(calls: Any) -> list[dict[str, Any]]:
    """Read calls of tools, one or a list, whose arguments may be JSON text.

    Returns:
        `{"type": "function", "function": {"name": str, "arguments": dict}}` each, with `id` where it is given.

    Raises:
        ValueError: a call has no name, or its arguments are not an object.

    Example:
        >>> read_calls({"name": "look", "arguments": '{"at": "goats"}'})
        [{'type': 'function', 'function': {'name': 'look', 'arguments': {'at': 'goats'}}}]
    """
    calls = parse_if_nested(calls)
    read = []
    for call in calls if isinstance(calls, list) else [calls]:
        function = call.get("function", call) if isinstance(call, dict) else {}
        function = function if isinstance(function, dict) else call | {"name": function}
        arguments = next((function[key] for key in ("arguments", "parameters", "input") if function.get(key)), {})
        with contextlib.suppress(ValueError, RecursionError):  # refused below
            arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
        if not isinstance(function.get("name"), str) or not isinstance(arguments, dict):
            found = json.dumps(call, ensure_ascii=False)[:80]
            raise ValueError(f"`{found}` is not a call with a name and a JSON object of arguments: correct the row")
        read.append({"id": call["id"]} if call.get("id") else {})
        read[-1] |= {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
    return read


def read_tools(tools: Any) -> list[dict[str, Any]] | None:
    """Read definitions of tools, kept as they are but for OpenAI's frame around each; None if there are none.

    Raises:
        ValueError: they are not objects with a name.
    """
    tools = parse_if_nested(tools)
    if not tools:
        return None
    read = []
    for tool in tools if isinstance(tools, list) else [tools]:
        tool = parse_if_nested(tool)
        function = tool.get("function") if isinstance(tool, dict) else None
        if function is None and isinstance(tool, dict):
            function = {key: value for key, value in tool.items() if key != "type"}
            if "input_schema" in function:  # of Anthropic
                function["parameters"] = function.pop("input_schema")
            tool = {"type": "function", "function": function}
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise ValueError(f"`tools`: `{str(tool)[:60]}` is not the definition of a tool, an object with a name")
        read.append(tool)
    return read


def without_nulls(value: Any) -> Any:
    """A value without the keys that Arrow filled in: of a struct, every row has the keys that one row has."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def check_conversation(conversation: Conversation) -> None:
    """Check the order of the messages. Whether two turns of the user may follow each other is up to the template.

    Raises:
        ValueError: an unknown role, a conversation that starts with the assistant, a result of a tool without its call.
    """
    messages = conversation["messages"]
    for number, message in enumerate(messages, 1):
        role = message["role"]
        if role not in NAMES_OF_ROLES:
            raise ValueError(f"message {number} has the role `{role}`: name it {', '.join(NAMES_OF_ROLES)}")
        if role == "tool" and not has_call(messages[: number - 1], message):
            raise ValueError(f"message {number} is the result of a tool without its call: add the call, or remove it")
    first = next((message["role"] for message in messages if message["role"] != "system"), None)
    if first is None:
        raise ValueError("the conversation has no message of the user: remove the row")
    if first == "assistant":
        raise ValueError("the conversation starts with the assistant: remove that message, or put the user's before it")


def has_call(before: list[Message], result: Message) -> bool:
    """Whether the last message of the assistant calls the tool of a result; it may also be a call as text."""
    caller = next((message for message in reversed(before) if message["role"] != "tool"), {})
    calls = caller.get("tool_calls", [])
    ids = {call["id"] for call in calls if "id" in call}
    if caller.get("role") != "assistant":
        return False
    if not calls:  # a call as text has brackets: `<tool_call>`, `{"name": ...}`, `[look(at="goats")]`
        return "tool_call_id" not in result and bool(re.search(r"[<{\[(]", caller["content"]))
    return not ids or result.get("tool_call_id", "") in {*ids, ""}
