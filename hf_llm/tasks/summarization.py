"""Say a document in a few words: rows as XSum, CNN/DailyMail, SAMSum and SciTLDR have them."""

from dataclasses import dataclass
from typing import ClassVar

from datasets import Dataset, DatasetDict

from hf_llm.metrics.rouge import Rouge
from hf_llm.metrics.segmentation import language_code
from hf_llm.python_docs import python_docs
from hf_llm.tasks import Task, as_list


@dataclass
class Summarization(Task):
    """ROUGE against one summary or several."""

    language: str = "en"  # of the summaries, by which ROUGE parts words
    max_new_tokens: int = 96

    columns: ClassVar = {
        "document": ("article", "dialogue", "text", "source"),
        "summary": ("highlights", "summaries", "target"),
    }
    texts = ("document",)
    document = "document"

    def to_example(self, row):
        summary = self.references(row)[:1]
        return {
            "prompt": f"Summarize the text.\n\nText: {row['document'].strip()}\n\nSummary:",
            "completion": " ".join("".join(summary).splitlines()),  # a new line ends the answer
        }

    def references(self, row):
        return as_list(row["summary"])

    def metric(self):
        return Rouge(language=self.language, use_stemmer=language_code(self.language) == "en")

    def sample(self):
        """The first paragraph of a module's documentation as the summary of the rest."""
        parts = {part: [row["text"].split("\n\n", 1) for row in rows] for part, rows in python_docs().items()}
        return DatasetDict(
            {
                part: Dataset.from_list([{"summary": text[0], "document": text[1]} for text in texts if len(text) == 2])
                for part, texts in parts.items()
            }
        )
