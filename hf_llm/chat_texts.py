"""Conversations that were written as one text: split into messages by the marks before each turn."""

import json
import re
from typing import Any

# The mark before each turn of a style, with its role in brackets.
STYLES = [
    re.compile(pattern)
    for pattern in (
        r"### (Human|User|Assistant|System): ?",  # Guanaco
        r"(?:^|\n)### (Instruction|Input|Response|System|User|Assistant):[ \t]*",  # Alpaca
        r"<\|im_start\|>(\w+)\n",  # ChatML
        r"<\|start_header_id\|>(\w+)<\|end_header_id\|>\s*",  # Llama 3
        r"<\|(system|user|assistant)\|>\s*",  # Zephyr, Phi
        r"<start_of_turn>(user|model)\n",  # Gemma
        r"(\[INST\]|\[/INST\])",  # Llama 2, Mistral
        r"(?:^|\n\n)(Human|Assistant): ?",  # HH-RLHF
        r"(?:^|\s)(SYSTEM|USER|ASSISTANT|FUNCTION RESPONSE): ?",  # Vicuna, Glaive
        r"<(human|bot)>: ?",  # OIG
    )
]
ROLE_OF_MARK = {
    "[inst]": "user", "[/inst]": "assistant", "instruction": "user", "input": "user", "human": "user",
    "response": "assistant", "bot": "assistant", "model": "assistant", "function response": "tool", "ipython": "tool",
}  # fmt: skip
PREAMBLES = ("Below is an instruction", "A chat between")  # of Alpaca and Vicuna, before the first mark
TEXT_START = re.compile(r"\s*(?:<s>|<bos>|<\|begin_of_text\|>|<\|endoftext\|>)?\s*")
TEXT_END = re.compile(
    r"(?:\s|</?s>|<\|im_end\|>|<\|eot_id\|>|<\|end\|>|<\|end_of_text\|>|<end_of_turn>|<\|endoftext\|>|<eos>)*\Z"
)
SYSTEM = re.compile(r"\s*<<SYS>>(.*?)<</SYS>>", re.DOTALL)  # of Llama 2, in the user's first turn
GLAIVE_CALL = re.compile(r"<functioncall>\s*\{\s*\"name\":\s*\"([^\"]*)\"(?:,\s*\"arguments\":(.*))?\}\s*\Z", re.DOTALL)


def split_chat_text(text: str) -> list[dict[str, Any]] | None:
    """Split the text of a whole conversation into its messages.

    Returns:
        Messages `{"role": str, "content": str}`, with `tool_calls` where Glaive calls a function; None if the text does
        not begin with the mark of a turn.

    Example:
        >>> split_chat_text("### Human: Hi.### Assistant: Hello.")
        [{'role': 'user', 'content': 'Hi.'}, {'role': 'assistant', 'content': 'Hello.'}]
    """
    text = text[TEXT_START.match(text).end() :]  # pyright: ignore[reportOptionalMemberAccess]
    for mark in STYLES:
        preamble, *parts = mark.split(text)
        if parts and (not preamble.strip() or preamble.startswith(PREAMBLES)):
            messages = [{"role": "system", "content": preamble.strip()}] if preamble.strip() else []
            for name, content in zip(parts[::2], parts[1::2], strict=True):
                add_turn(messages, name.lower(), TEXT_END.sub("", content, count=1).strip())
            return messages
    return None


def add_turn(messages: list[dict[str, Any]], name: str, content: str) -> None:
    """Add the turn after a mark to the messages before it."""
    if name == "input" and messages[-1:] and messages[-1]["role"] == "user":
        messages[-1]["content"] += f"\n\n{content}"
        return
    if name == "[inst]" and (system := SYSTEM.match(content)):
        messages.append({"role": "system", "content": system[1].strip()})
        content = content[system.end() :].strip()
    message: dict[str, Any] = {"role": ROLE_OF_MARK.get(name, name), "content": content}
    if call := GLAIVE_CALL.search(content):
        arguments = (call[2] or "{}").strip().strip("'")
        message |= {"content": content[: call.start()].strip()}
        message["tool_calls"] = [{"name": call[1], "arguments": arguments}]
    messages.append(message)


def split_glaive_system(text: str) -> tuple[str, list[dict[str, Any]]]:
    """Split the system message of Glaive, `SYSTEM: ... these functions -` before JSON objects, into text and tools."""
    text, tools = text.removeprefix("SYSTEM:").strip(), []
    start = end = re.search(r"(?:\n|\A)\s*\{|\Z", text).start()  # pyright: ignore[reportOptionalMemberAccess]
    decoder = json.JSONDecoder()
    while brace := re.compile(r"\s*(?=\{)").match(text, end):
        try:
            tool, end = decoder.raw_decode(text, brace.end())
        except ValueError:
            return text, []
        tools.append(tool)
    return text[:start].strip() + text[end:], tools
