"""Predict a number for a text or a pair of texts, such as their similarity: rows in the format of STS-B."""

import math
from dataclasses import dataclass
from typing import ClassVar

from datasets import Dataset, DatasetDict

from hf_llm.messages import add_origin
from hf_llm.metrics.correlation import Correlation
from hf_llm.python_docs import python_docs
from hf_llm.tasks import Task, drop_unlabelled
from hf_llm.tasks.understanding import Understanding, paragraphs, refuse_choices

LABELS = ("score", "similarity_score", "similarity", "relatedness_score", "rating", "stars", "star")


@dataclass
class Regression(Task):
    """Pearson and Spearman correlation of predicted numbers; an encoder predicts them by a head with one output.

    Args:
        decimals: of the numbers that a model which writes learns to write.
    """

    decimals: int = 2
    max_new_tokens: int = 16

    columns: ClassVar = Understanding.columns | {"label": LABELS}
    text_columns = Understanding.text_columns
    optional_columns = Understanding.optional_columns
    document_column = "text"
    writing_options = (*Task.writing_options, "decimals")
    problem_type = "regression"
    label_names = ("number",)  # of the only output of the head

    def adapt(self, rows):
        refuse_choices(rows)
        exact = "relatedness_score" in rows.column_names  # of SICK, whose label is a class
        return rows.remove_columns([name for name in ("label",) if exact and name in rows.column_names])

    def select(self, rows, split):
        numbers = []
        for number, value in enumerate(rows["label"][:]):
            with add_origin(rows[number], f"`{split}` row {number}"):
                numbers.append(read_label(value))
        if {*numbers} == {-1.0}:  # as in GLUE's test split
            numbers = [None] * len(numbers)
        rows = rows.remove_columns("label").add_column("label", numbers)  # pyright: ignore[reportCallIssue]
        return drop_unlabelled(rows, numbers, split)

    def texts(self, row):
        first, *more = (row[name].strip() for name in self.text_columns if row.get(name) is not None)
        return [first, " ".join(more)] if more else [first]

    def to_example(self, row):
        names = ("Text", "Second text", "Third text")
        texts = zip(names, (row.get(name) for name in self.text_columns), strict=True)
        lines = "".join(f"{name}: {text.strip()}\n" for name, text in texts if text is not None)
        completion = f"{read_label(row['label']):.{self.decimals}f}"
        return {"prompt": f"Rate the text by a number.\n\n{lines}Number:", "completion": completion}

    def references(self, row):
        return [f"{read_label(row['label'])!r}"]

    def metric(self):
        return Correlation()

    def sample(self):
        """Paragraphs of Python's documentation, with the mean length of their words in letters."""
        splits = {split: list(paragraphs(rows))[:2000] for split, rows in python_docs().items()}
        held_out = {row["text"] for row in splits["validation"]}
        splits["train"] = [row for row in splits["train"] if row["text"] not in held_out]
        return DatasetDict({split: Dataset.from_list([*map(rated, rows)]) for split, rows in splits.items()})


def rated(row: dict[str, str]) -> dict[str, str | float]:
    """A row of the sample: its text and the mean length of its words."""
    words = row["text"].split()
    return {"text": row["text"], "label": round(sum(map(len, words)) / len(words), 2)}


def read_label(value: str | float | None) -> float | None:
    """Read a number of a column; None where it is empty.

    Raises:
        ValueError: it is not a finite number.
    """
    text = "" if value is None else str(value).strip()
    if text in ("", "nan", "NaN"):
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"the label `{text}` is not a number: `--task understanding` learns classes")
    return number
