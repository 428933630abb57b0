"""What is trained of conversations, with the chat templates of real models, against TRL's templates for training.

python benchmarks/chat_masks.py

Conversations of two questions: alone, after a system message, with a call of a tool and its result, with thoughts. For
templates of which TRL has a copy that marks the answers (`{% generation %}`), token ids and mask are compared with that
copy's, by transformers alone; for the others with texts written here by hand. Where a template changes earlier turns,
each row is compared with the template's own rendering up to its answer. Prints a Markdown table, and what differs.
"""

import importlib.resources
import itertools
from collections import Counter

from chat_templates import SHAPES, tokenizer_of
from transformers import PreTrainedTokenizerBase

from hf_llm.conversations import Conversation
from hf_llm.data.chat_answers import ChatFormat, switches
from hf_llm.data.chat_turns import encode_conversations
from hf_llm.data.chats import as_lists, with_json_text
from hf_llm.data.prompt_settings import PromptSettings

# ruff: noqa: RUF001  marks with fullwidth bars

CALL = {"type": "function", "id": "call00001", "function": {"name": "weather", "arguments": {"city": "Bern"}}}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string", "description": "A city."}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "weather", "description": "Weather.", "parameters": SCHEMA}}


def turn(role: str, content: str, **fields) -> dict:
    return {"role": role, "content": content, **fields}


FIRST = [turn("user", "Question 1."), turn("assistant", "Answer 1.")]
LAST = [turn("user", "Question 2."), turn("assistant", "Answer 2.")]
CALLED = [turn("assistant", "", tool_calls=[CALL]), turn("tool", "sun", name="weather", tool_call_id="call00001")]
THOUGHTS = [turn("assistant", f"Answer {i}.", reasoning_content=f"Thought {i}.") for i in (1, 2)]
CHATS: dict[str, Conversation] = {
    "turns": {"messages": FIRST + LAST, "tools": None},
    "system": {"messages": [turn("system", "Be brief."), *FIRST, *LAST], "tools": None},
    "tools": {"messages": [FIRST[0], *CALLED, FIRST[1], *LAST], "tools": [TOOL]},
    "thoughts": {"messages": [FIRST[0], THOUGHTS[0], LAST[0], THOUGHTS[1]], "tools": None},
}

# Trained of an answer A, and of the call; by hand, for templates without a copy in TRL.
GEMMA_CALL = '<|tool_call>call:weather{city:<|"|>Bern<|"|>}<tool_call|>'
GEMMA = ("A<turn|>\n", GEMMA_CALL + "<|tool_response>")
LLAMA = ("A<|eot_id|>", '{"name": "weather", "parameters": {"city": "Bern"}}<|eot_id|>')
LFM = ("A<|im_end|>\n", "<|tool_call_start|>[weather(city='Bern')]<|tool_call_end|><|im_end|>\n")
BY_HAND = {
    **{f"gemma4{version}": GEMMA for version in ("", "_v3", "_v4", "_v5")},
    "gemma4_v2": ("A<turn|>\n", GEMMA_CALL + "<turn|>\n"),
    **dict.fromkeys(("llama3_1", "llama3_2"), LLAMA),
    **dict.fromkeys(("lfm2_2_5", "lfm2_2_5_v2", "lfm2_2_5_vl"), LFM),
    "ChatML without generation prompt": ("<|im_start|>assistant\nA<|im_end|>\n", ""),
    "Llama 2": (" A </s>", ""),
    "Llama 4": ("A<|eot|>", ""),
    "Mistral 7B v0.1": ("A</s> ", ""),
    "Mistral 7B v0.3": (" A</s>", ""),
    "Mistral Small 3": ("A</s>", ""),
    "Zephyr": ("A</s>\n", ""),
    "Vicuna": (" A</s>", ""),
    "Alpaca": ("A</s>\n\n", ""),
    "Yi": ("A<|im_end|>\n", ""),
    "InternLM 2": ("A<|im_end|>\n", ""),
    "Phi-4": ("A<|im_end|>", ""),
    "OLMo 2": ("A</s>", ""),
    "Granite 3": ("A</s>\n", ""),
    "SmolLM 2": ("A<|im_end|>\n", ""),
    "SmolLM 3": ("A<|im_end|>\n", ""),
    "DeepSeek V2": (" A</s>", ""),
    "DeepSeek V3.1": ("A<｜end▁of▁sentence｜>", ""),
    "ChatGLM 3": ("\n A<|user|>", ""),
    "Hunyuan": ("A<｜hy_end｜>", ""),
    "Kimi K2": ("A<|im_end|>", ""),
    "Baichuan 2": ("A<reserved_106>", ""),
}
THINKS = {  # of them, those that write thoughts
    "gemma4_v5": "<|channel>thought\nT\n<channel|>A<turn|>\n",
    **dict.fromkeys(("lfm2_2_5", "lfm2_2_5_v2", "lfm2_2_5_vl"), "<think>T</think>A<|im_end|>\n"),
}

Encoded = tuple[list[int], list[bool]]  # token ids, and which of them are trained


def encode(tokenizer: PreTrainedTokenizerBase, chat: Conversation) -> tuple[list[Encoded], dict]:
    """The rows of a conversation, and the variables of the template that they need.

    Raises:
        ValueError: the template writes it otherwise than it is asked for, whatever its variables.
    """
    reason = ""
    for variables in ({}, *switches(tokenizer)):
        try:
            format = ChatFormat(tokenizer, PromptSettings(template_kwargs=variables))
            (rows,), problems = encode_conversations(format, [chat], ["a row"])
        except ValueError as error:
            rows, problems = [], {0: str(error)}
        if rows:
            return [(row["input_ids"], [label != -100 for label in row["labels"]]) for row in rows], variables
        reason = reason or problems[0]
    raise ValueError(reason)


def encode_by_transformers(
    tokenizer: PreTrainedTokenizerBase,
    template: str | None,
    chat: Conversation,
    messages: int | None = None,
    **variables,
) -> list[Encoded]:
    """Token ids and mask by `apply_chat_template`, in each form of messages that the template takes."""
    found = []
    for content, arguments in itertools.product((list, as_lists), (list, with_json_text)):
        options = {"chat_template": template, "tools": chat["tools"], "return_dict": True, **variables}
        options["return_assistant_tokens_mask"] = template is not None
        try:
            result = tokenizer.apply_chat_template(arguments(content(chat["messages"][:messages])), **options)
        except Exception:  # templates raise any class of error
            continue
        found.append((result["input_ids"], [*map(bool, result.get("assistant_masks", ()))]))
    return found


def trained_texts(tokenizer: PreTrainedTokenizerBase, rows: list[Encoded]) -> list[str]:
    """The trained spans of rows as texts."""
    texts = []
    for ids, mask in rows:
        for trained, group in itertools.groupby(zip(ids, mask, strict=True), key=lambda pair: pair[1]):
            texts += [tokenizer.decode([id for id, _ in group])] * trained
    return texts


def is_text(tokenizer: PreTrainedTokenizerBase, row: Encoded, chat: Conversation, **variables) -> bool:
    """Whether the tokens of a row, whose answer is encoded apart from its prompt, are the text of such a rendering."""
    sizes = [i + 1 for i, message in enumerate(chat["messages"]) if message["role"] == "assistant"]
    wholes = [encode_by_transformers(tokenizer, None, chat, size, **variables) for size in sizes]
    return any(tokenizer.decode(row[0]) == tokenizer.decode(ids) for whole in wholes for ids, _ in whole)


def is_rendering(tokenizer: PreTrainedTokenizerBase, row: Encoded, chat: Conversation, **variables) -> bool:
    """Whether a row is the template's own rendering of the messages up to some answer, with or without an end token."""
    sizes = [i + 1 for i, message in enumerate(chat["messages"]) if message["role"] == "assistant"]
    wholes = [encode_by_transformers(tokenizer, None, chat, size, **variables) for size in sizes]
    return any(row[0] in (ids, [*ids, row[0][-1]]) for whole in wholes for ids, _ in whole)


def verdict(name: str, template: str, training: str | None, kind: str) -> tuple[str, str]:
    """The verdict on a conversation with a template, and the texts that differ or the reason."""
    tokenizer, chat = tokenizer_of(template + (training or "")), CHATS[kind]
    tokenizer.chat_template = template
    try:
        rows, variables = encode(tokenizer, chat)
    except ValueError as error:
        return "refused", str(error).split("fails: ")[-1].removesuffix(
            ": change the row, or give another template by `--chat_template`"
        )
    switch = "".join(f", `{key}={str(value).lower()}`" for key, value in variables.items())
    own = trained_texts(tokenizer, rows)
    if training is None:
        answer, call = BY_HAND.get(name, ("", ""))
        answer = THINKS.get(name, answer) if kind == "thoughts" else answer
        numbers = [call] * (kind == "tools") + [
            answer.replace("A", f"Answer {i}.").replace("T\n", f"Thought {i}.\n").replace("T<", f"Thought {i}.<")
            for i in (1, 2)
        ]
        return ("by hand" + switch, "") if own == numbers else ("DIFFERS", f"{own} by hand {numbers}")
    if len(rows) > 1 and all(is_rendering(tokenizer, row, chat, **variables) for row in rows):
        return f"{len(rows)} rows{switch}", ""
    theirs = encode_by_transformers(tokenizer, training, chat, **variables)
    if len(rows) == 1 and rows[0] in theirs:
        return "equal" + switch, ""
    if len(rows) > 1 and all(is_text(tokenizer, row, chat, **variables) for row in rows):
        return f"{len(rows)} rows, apart{switch}", ""
    same = [mask for ids, mask in theirs if ids == rows[0][0]]
    return "other mask" + switch if same else "DIFFERS", f"`{own}`, TRL's copy `{trained_texts(tokenizer, theirs[:1])}`"


def main():
    folder = importlib.resources.files("trl") / "chat_templates"
    texts = {file.name.removesuffix(".jinja"): file.read_text() for file in folder.iterdir() if ".jinja" in file.name}
    names = sorted(name for name in texts if not name.endswith("_training"))
    templates = {name: (texts[name], texts.get(f"{name}_training")) for name in names}
    templates |= {name: (template, None) for name, template in SHAPES.items() if name in BY_HAND}
    print("| Template | TRL has a copy | " + " | ".join(CHATS) + " |\n|---|---|" + "---|" * len(CHATS))
    notes, counts = [], Counter()
    for name, (template, training) in templates.items():
        kinds = ["turns"] if name in SHAPES else [*CHATS]
        verdicts = {kind: verdict(name, template, training, kind) for kind in kinds}
        cells = " | ".join(verdicts[kind][0] if kind in verdicts else "" for kind in CHATS)
        print(f"| {name} | {'yes' if training else ''} | {cells} |")
        notes += [f"- {name}, {kind}: {result}: {note}" for kind, (result, note) in verdicts.items() if note]
        counts.update(result.partition(",")[0] for result, _ in verdicts.values())
    print("\n" + "\n".join(notes) + "\n\n" + ", ".join(f"{result}: {count}" for result, count in counts.items()))


if __name__ == "__main__":
    main()
