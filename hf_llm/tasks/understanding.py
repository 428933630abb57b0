"""Label a text or a pair of texts, for classification and inference: rows in the format of GLUE."""

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from datasets import Dataset, DatasetDict, Value

from hf_llm.metrics.classification import Classification
from hf_llm.metrics.segmentation import starts_with_words
from hf_llm.python_docs import python_docs
from hf_llm.tasks import Task

logger = logging.getLogger(__name__)

LEADING_WORDS = "the|this|it|text|label|answer|category|class|sentiment|is"  # of a written answer, before its label
HIDDEN_LABEL = "-1"  # the label of every row in GLUE's test splits


@dataclass
class Understanding(Task):
    """Accuracy, macro-F1 and Matthews correlation.

    Args:
        labels: the labels, separated by `|`, in the order of their numbers. Default: those that occur in the data.
        scoring: `likelihood` ranks the labels by their log-likelihood as completions, `normalized` by log-likelihood
            per token; `generated` generates an answer and takes the longest label that it starts with, by whole words.
        show_labels: list the labels in the prompt. Default: if there are at most 20.
    """

    labels: str = ""
    scoring: str = "likelihood"
    show_labels: bool | None = None
    max_new_tokens: int = 16

    columns: ClassVar = {
        "text": ("sentence", "premise", "sentence1", "question1", "question"),
        "text2": ("hypothesis", "sentence2", "question2", "question"),
        "label": ("labels", "intent", "category"),
    }
    text_columns = ("text", "text2")
    optional_columns = ("text2",)
    document_column = "text"

    def __post_init__(self):
        if self.scoring not in ("likelihood", "normalized", "generated"):
            raise ValueError(f"`--task_options` scoring={self.scoring}: choose likelihood, normalized or generated")
        self.label_names = [name.strip() for name in self.labels.split("|") if name.strip()]

    def prepare(self, rows):
        if not self.label_names:
            counts = {str(split): count_labels(split_rows) for split, split_rows in rows.items()}
            self.label_names = collect_label_names(counts)
        self.shows_labels = len(self.label_names) <= 20 if self.show_labels is None else self.show_labels

    def to_example(self, row):
        texts = f"Text: {row['text'].strip()}\n"
        if row.get("text2") is not None:
            texts += f"Second text: {row['text2'].strip()}\n"
        listed = f" Choose from: {', '.join(self.label_names)}." if self.shows_labels else ""
        return {"prompt": f"Label the text.{listed}\n\n{texts}Label:", "completion": "".join(self.references(row))}

    def references(self, row):
        label = label_text(row["label"])
        if not label or (label == HIDDEN_LABEL and HIDDEN_LABEL not in self.label_names):
            return []
        if self.labels and label.isdecimal() and label not in self.label_names and int(label) < len(self.label_names):
            label = self.label_names[int(label)]
        if label not in self.label_names:
            choices = ", ".join(self.label_names[:20])
            raise ValueError(f"label `{label}` is not among the choices {choices}: see `labels`")
        return [label]

    def choices(self, row):
        return None if self.scoring == "generated" else self.label_names

    def ranks_per_token(self):
        return self.scoring == "normalized"

    def answer(self, text, row):
        text = text.strip()
        if text in self.label_names:
            return text
        matches = [name for name in self.label_names if starts_with_words(text, name, LEADING_WORDS)]
        return max(matches, key=lambda name: (len(name), text.startswith(name)), default=text)

    def metric(self):
        return Classification()

    def sample(self):
        """Paragraphs of Python's documentation, labeled with their package; the four most frequent packages."""
        splits = {split: list(paragraphs(rows)) for split, rows in python_docs().items()}
        held_out = {row["text"] for row in splits["validation"]}
        splits["train"] = [row for row in splits["train"] if row["text"] not in held_out]
        packages = [name for name, _ in Counter(row["label"] for row in splits["validation"]).most_common(4)]
        kept = {split: [row for row in rows if row["label"] in packages] for split, rows in splits.items()}
        return DatasetDict({split: Dataset.from_list(rows) for split, rows in kept.items()})


def label_text(label: str | int | float | None) -> str | None:
    """Convert a label to text, None if it is empty."""
    if isinstance(label, float) and label.is_integer():  # integers in a column with missing values are read as floats
        label = int(label)
    return None if label is None else str(label).strip() or None


def count_labels(rows: Dataset) -> Counter[str]:
    """Count the rows of each label; rows without a label are not counted."""
    if not isinstance(rows.features["label"], Value):
        raise ValueError(f"`label` is `{rows[0]['label']}`: give one text or number in each row")
    return Counter(label for label in map(label_text, rows["label"]) if label is not None)


def collect_label_names(counts: dict[str, Counter[str]]) -> list[str]:
    """Collect the labels of the data, and warn of those that may not be labels.

    Args:
        counts: the rows of each label, for each split.

    Returns:
        The labels in alphabetical order, numbers in numerical order after them.

    Raises:
        ValueError: all labels are hidden or empty.
    """
    names = set().union(*counts.values())
    if HIDDEN_LABEL in names:
        logger.warning(f"the label {HIDDEN_LABEL} counts as a hidden one: if it is a label, name all by `labels=...`")
        names.remove(HIDDEN_LABEL)
    if not names:
        raise ValueError("the labels of all rows are hidden or empty: name another column or data set")
    if all(name.isdecimal() for name in names):
        logger.warning("the labels are numbers: name them by `labels=a|b|...` in `--task_options`")
    if "train" not in counts:
        logger.warning(
            f"the {len(names)} labels that occur in `validation` are the choices: if there are more, give them by "
            "`labels=a|b|...` in `--task_options`, or give `--train_file` too"
        )
    for name in sorted(names - {*counts.get("train", names)}):  # possibly a misspelled label
        logger.warning(
            f"label `{name}` of {counts['validation'][name]} rows of `validation` occurs in no row of `train`"
        )
    return sorted(names, key=lambda name: (int(name) if name.isdecimal() else -1, name))


def paragraphs(rows: Dataset) -> Iterator[dict[str, str]]:
    """The paragraphs of 41 to 399 characters, each with the name of its top-level package."""
    for module, page in zip(rows["module"], rows["text"], strict=True):
        for text in page.split("\n\n"):
            if 40 < len(text) < 400:
                yield {"text": " ".join(text.split()), "label": module.split(".")[0]}
