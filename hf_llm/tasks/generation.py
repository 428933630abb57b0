"""Follow an instruction, or go on with a text: rows as Alpaca has them, or prompt and completion."""

from dataclasses import dataclass
from typing import ClassVar

from datasets import Dataset, DatasetDict

from hf_llm.metrics.text import FreeText
from hf_llm.python_docs import python_docs
from hf_llm.tasks import Task, as_list


@dataclass
class Generation(Task):
    """Diversity and repetition of what is written, and the perplexity of the gold completion."""

    max_new_tokens: int = 128

    columns: ClassVar = {
        "instruction": ("prompt", "question"),
        "input": ("context",),
        "output": ("completion", "response", "answer"),
    }
    texts = ("instruction", "input")
    optional = ("input",)
    document = "input"
    stop_strings = ()
    with_perplexity = True

    def to_example(self, row):
        prompt = row["instruction"].strip()
        if (row.get("input") or "").strip():
            prompt += f"\n\n{row['input'].strip()}"
        return {"prompt": prompt, "completion": "".join(self.references(row)[:1])}

    def references(self, row):
        return as_list(row["output"])

    def metric(self):
        return FreeText()

    def sample(self):
        """Write the documentation of a module of Python."""
        return DatasetDict({part: Dataset.from_list([*map(sample_row, rows)]) for part, rows in python_docs().items()})


def sample_row(row: dict[str, str]) -> dict[str, str]:
    """An instruction, and whole lines of the first 300 characters."""
    text = row["text"][:300]
    output = (text.rpartition("\n")[0] or text).strip()
    return {"instruction": f"Document the Python module {row['module']}.", "output": output}
