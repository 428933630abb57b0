"""Follow an instruction or continue a text: rows in the format of Alpaca, or prompt and completion."""

from dataclasses import dataclass
from typing import ClassVar

from datasets import Dataset, DatasetDict

from hf_llm.metrics.text import FreeText
from hf_llm.python_docs import python_docs
from hf_llm.tasks import Task, reference_list


@dataclass
class Generation(Task):
    """Diversity and repetition of the generated texts, and the perplexity of the gold completions."""

    max_new_tokens: int = 128

    columns: ClassVar = {
        "instruction": ("prompt", "question"),
        "input": ("context",),
        "output": ("completion", "response", "answer"),
    }
    text_columns = ("instruction", "input")
    optional_columns = ("input",)
    document_column = "input"
    stop_strings = ()
    scores_perplexity = True

    def to_example(self, row):
        prompt = row["instruction"].strip()
        if (row.get("input") or "").strip():
            prompt += f"\n\n{row['input'].strip()}"
        return {"prompt": prompt, "completion": "".join(self.references(row)[:1])}

    def references(self, row):
        return reference_list(row["output"])

    def metric(self):
        return FreeText()

    def sample(self):
        """Instructions to write the documentation of a Python module."""
        rows = {split: [*map(sample_row, docs.to_list())] for split, docs in python_docs().items()}
        return DatasetDict({split: Dataset.from_list(samples) for split, samples in rows.items()})


def sample_row(row: dict[str, str]) -> dict[str, str]:
    """An instruction, and the complete lines within the first 300 characters of the documentation."""
    text = row["text"][:300]
    output = (text.rpartition("\n")[0] or text).strip()
    return {"instruction": f"Document the Python module {row['module']}.", "output": output}
