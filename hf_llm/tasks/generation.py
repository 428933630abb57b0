"""Follow an instruction or continue a text: rows in the format of Alpaca, prompt and completion, or conversations."""

from dataclasses import dataclass
from typing import ClassVar

from datasets import Dataset, DatasetDict

from hf_llm.conversations import parse_if_nested, read_conversation
from hf_llm.messages import add_origin
from hf_llm.metrics.answers import gold_answers
from hf_llm.python_docs import python_docs
from hf_llm.tasks import reference_list, refuse_wrong_answers
from hf_llm.tasks.chat import TREE, Chat

INSTRUCTION = {
    "instruction": (
        *("prompt", "question", "definition", "problem", "query", "inputs_pretokenized", "inputs", "input"),
    ),
    "output": (*("completion", "response", "solution", "answer", "code", "targets_pretokenized", "targets", "target"),),
}


@dataclass
class Generation(Chat):
    """Diversity and repetition of the generated texts, and the perplexity of the gold completions."""

    columns: ClassVar = {
        "system": ("system_prompt",),
        "instruction": INSTRUCTION["instruction"],
        "input": ("context", "inputs"),
        "output": INSTRUCTION["output"],
        "messages": (),
        "tools": (),
    }
    text_columns = ("system", "instruction", "input")
    optional_columns = tuple(columns)  # the rows are instructions or conversations
    document_column = "input"

    def adapt(self, rows):
        """Read conversations as `chat` does; rows with an instruction and its output stay as they are."""
        if is_conversation(rows):
            return super().adapt(rows)
        refuse_wrong_answers(rows)
        for name, others in INSTRUCTION.items():
            found = next((other for other in (name, *others) if other in rows.column_names), None)
            if found is None:
                raise KeyError(name)
            rows = rows if found == name else rows.rename_column(found, name)
        return rows.remove_columns([name for name in ("messages", "tools") if name in rows.column_names])

    def to_example(self, row):
        if row.get("messages"):
            return super().to_example(row)
        if row["instruction"] is None:
            raise ValueError("`instruction` is empty: correct or remove the row")
        texts = [(row.get(name) or "").strip() for name in ("instruction", "input")]
        example = {"prompt": "\n\n".join(filter(None, texts)), "completion": "".join(reference_list(row["output"])[:1])}
        return {"system": system} | example if (system := (row.get("system") or "").strip()) else example

    def references(self, row):
        if row.get("messages"):
            return super().references(row)
        return gold_answers(reference_list(row["output"]), self.answer_pattern)

    def sample(self):
        """Instructions to write the documentation of a Python module."""
        rows = {split: [*map(sample_row, docs.to_list())] for split, docs in python_docs().items()}
        return DatasetDict({split: Dataset.from_list(samples) for split, samples in rows.items()})


def is_conversation(rows: Dataset) -> bool:
    """Whether rows are conversations, or messages of some: with earlier turns, tools, or no instruction with output."""
    names = {*rows.column_names}
    if names >= TREE:
        return True
    if any(parse_if_nested(value) for name in {"history", "tools", "functions"} & names for value in rows[name][:]):
        return True
    with add_origin(rows[0]):
        return not {"instruction", "output"} <= names and read_conversation(rows[0]) is not None


def sample_row(row: dict[str, str]) -> dict[str, str]:
    """An instruction, and the complete lines within the first 300 characters of the documentation."""
    text = row["text"][:300]
    output = (text.rpartition("\n")[0] or text).strip()
    return {"instruction": f"Document the Python module {row['module']}.", "output": output}
