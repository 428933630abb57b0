"""Summarize a document: rows in the format of XSum, CNN/DailyMail, SAMSum or SciTLDR."""

import re
from dataclasses import dataclass
from typing import ClassVar

from datasets import Dataset, DatasetDict

from hf_llm.metrics.language_codes import language_code
from hf_llm.metrics.rouge import Rouge
from hf_llm.python_docs import python_docs
from hf_llm.tasks import Task, reference_list

SAMPLE_CHARACTERS = 240  # of a summary, and of a document, in the built-in sample


@dataclass
class Summarization(Task):
    """ROUGE against one or several reference summaries."""

    language: str = "en"  # of the summaries; selects how ROUGE splits them into words
    max_new_tokens: int = 96

    columns: ClassVar = {
        "document": (
            *("article", "dialogue", "text", "report", "description", "chapter", "email_body", "documents", "content"),
            "source",
        ),
        "summary": ("highlights", "summaries", "target", "abstract", "tldr", "headline", "subject_line"),
    }
    text_columns = ("document",)
    nested_columns = ("summary",)
    document_column = "document"

    def adapt(self, rows):
        """Merge the columns `summary1`, `summary2`, ... of the test split of DialogSum."""
        numbered = [name for name in rows.column_names if re.fullmatch(r"(summary|highlights)_?\d+", name)]
        if not numbered or "summary" in rows.column_names:
            return rows
        texts = [[text for text in row if text] for row in zip(*(rows[name][:] for name in numbered), strict=True)]
        return rows.add_column("summary", texts).remove_columns(numbered)

    def to_example(self, row):
        summary = self.references(row)[:1]
        return {
            "prompt": f"Summarize the text.\n\nText: {row['document'].strip()}\n\nSummary:",
            "completion": " ".join("".join(summary).splitlines()),  # a new line ends the answer
        }

    def references(self, row):
        return reference_list(row["summary"])

    def metric(self):
        return Rouge(language=self.language, use_stemmer=language_code(self.language) == "en")

    def sample(self):
        """The documentation of Python modules: its first paragraph is the summary of what follows, which is cut.

        So that no row is too long for the model of the first command.
        """
        sample = {}
        for split, rows in python_docs().items():
            texts = [text.split("\n\n", 1) for text in rows["text"]]
            pairs = [
                {"summary": text[0], "document": text[1][:SAMPLE_CHARACTERS].rsplit(maxsplit=1)[0]}
                for text in texts
                if len(text) == 2 and len(text[0]) < SAMPLE_CHARACTERS
            ]
            sample[split] = Dataset.from_list(pairs)
        return DatasetDict(sample)
