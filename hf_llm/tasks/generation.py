"""Follow an instruction or continue a text: rows in the format of Alpaca, or prompt and completion."""

import logging
import re
from dataclasses import dataclass
from typing import Any, ClassVar

from datasets import Dataset, DatasetDict

from hf_llm.messages import add_origin
from hf_llm.metrics.text import FreeText
from hf_llm.python_docs import python_docs
from hf_llm.tasks import Task, reference_list, refuse_wrong_answers

logger = logging.getLogger(__name__)

HUMAN = "### Human:"  # begins a conversation as text, as in openassistant-guanaco
TURN = re.compile(r"\s*### (Human|Assistant):")
ROLES = {"human": "user", "gpt": "assistant", "prompter": "user", "bot": "assistant"}  # of ShareGPT, OpenAssistant

UNREAD = ("reasoning_content", "reasoning", "thinking", "function_call")  # of a message, beside its text


@dataclass
class Generation(Task):
    """Diversity and repetition of the generated texts, and the perplexity of the gold completions."""

    max_new_tokens: int = 128

    columns: ClassVar = {
        "system": ("system_prompt",),
        "instruction": ("prompt", "question"),
        "input": ("context",),
        "output": ("completion", "response", "answer"),
    }
    text_columns = ("system", "instruction", "input")
    optional_columns = ("system", "input")
    nested_columns = ("messages", "conversations", "conversation")
    document_column = "input"
    stop_strings = ()
    scores_perplexity = True

    def adapt(self, rows):
        """Take question and answer from conversations of one exchange, in the formats of OpenAI, ShareGPT and TRL."""
        refuse_wrong_answers(rows)
        if "history" in rows.column_names and any(rows["history"][:]):  # of LLaMA-Factory's Alpaca format
            raise ValueError("`history` has earlier turns: put them into the instruction, or keep rows without them")
        names = [name for name in self.nested_columns if name in rows.column_names]
        first = rows[0]
        if is_chat(first.get("prompt")) and is_chat(first.get("completion")):
            names = ["prompt", "completion"]
        if not names and str(first.get("text")).startswith(HUMAN):
            names = ["text"]
        if not names or {"instruction", "output"} <= {*rows.column_names}:
            return rows
        exchanges = []
        for row in rows.to_list():
            with add_origin(row):
                if row.get("tools"):
                    raise ValueError("`tools` are not supported: keep rows without tools")
                exchanges.append(exchange_of([turn for name in names for turn in turns_of(row[name])]))
        columns = ("system", "instruction", "output")
        rows = rows.remove_columns([name for name in rows.column_names if name in (*names, *columns)])
        for name, texts in zip(columns, map(list, zip(*exchanges, strict=True)), strict=True):
            rows = rows.add_column(name, texts)
        return rows

    def prepare(self, rows):
        for split, split_rows in rows.items():
            if count := sum(bool(text) for text in split_rows["system"][:]) if "system" in split_rows.features else 0:
                logger.warning(
                    f"{split}: the system messages of {count} of {len(split_rows)} rows are written before the prompt, "
                    "into the user's turn, and not as the system's turn of a chat template"
                )

    def to_example(self, row):
        texts = [(row.get(name) or "").strip() for name in ("system", "instruction", "input")]
        return {"prompt": "\n\n".join(filter(None, texts)), "completion": "".join(self.references(row)[:1])}

    def references(self, row):
        return reference_list(row["output"])

    def metric(self):
        return FreeText()

    def sample(self):
        """Instructions to write the documentation of a Python module."""
        rows = {split: [*map(sample_row, docs.to_list())] for split, docs in python_docs().items()}
        return DatasetDict({split: Dataset.from_list(samples) for split, samples in rows.items()})


def is_chat(value: Any) -> bool:
    """Return whether a value is a list of messages."""
    return isinstance(value, list) and bool(value) and all(isinstance(message, dict) for message in value)


def turns_of(value: Any) -> list[tuple[str, str]]:
    """The role and the text of each message of a conversation.

    Raises:
        ValueError: it is not a list of messages with texts.

    Example:
        >>> turns_of("### Human: Hi.### Assistant: Hello.")
        [('user', 'Hi.'), ('assistant', 'Hello.')]
    """
    if isinstance(value, str) and value.startswith(HUMAN):
        _, *parts = TURN.split(value)
        roles = [ROLES.get(role.lower(), role.lower()) for role in parts[::2]]
        return [(role, text.strip()) for role, text in zip(roles, parts[1::2], strict=True)]
    if not is_chat(value):
        raise ValueError(f"`{value}` is not a list of messages: correct or remove the row")
    turns = []
    for message in value:
        role, text = message.get("role", message.get("from")), message.get("content", message.get("value"))
        if is_chat(text) and all(set(part) == {"type", "text"} and part["type"] == "text" for part in text):
            text = "".join(part["text"] for part in text)
        if not isinstance(role, str) or not isinstance(text, str) or message.get("tool_calls"):
            raise ValueError(f"`{message}` is not a message with a role and a text: correct or remove the row")
        if lost := [name for name in UNREAD if message.get(name)]:
            raise ValueError(f"`{lost[0]}` of a message is not supported: put it into the text, or remove it")
        turns.append((ROLES.get(role, role), text))
    return turns


def exchange_of(turns: list[tuple[str, str]]) -> tuple[str, str, str]:
    """The system message, empty if there is none, the question and the answer of a conversation.

    Raises:
        ValueError: it has another form.
    """
    roles = [role for role, _ in turns]
    if roles not in (["user", "assistant"], ["system", "user", "assistant"]):
        raise ValueError(
            f"the conversation has the turns {', '.join(roles)}: give one question and its answer in a row, after a "
            'system message or not; earlier turns may be in the question: {"prompt": "...", "completion": "..."}'
        )
    system, question, answer = [""] * (3 - len(turns)) + [text for _, text in turns]
    return system.strip(), question.strip(), answer


def sample_row(row: dict[str, str]) -> dict[str, str]:
    """An instruction, and the complete lines within the first 300 characters of the documentation."""
    text = row["text"][:300]
    output = (text.rpartition("\n")[0] or text).strip()
    return {"instruction": f"Document the Python module {row['module']}.", "output": output}
