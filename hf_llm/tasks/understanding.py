"""Choose the label of a text, or of a pair of texts: classification and inference, rows as GLUE has them."""

import logging
from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

from datasets import Dataset, DatasetDict, Value

from hf_llm.metrics.classification import Classification
from hf_llm.python_docs import python_docs
from hf_llm.tasks import Task

logger = logging.getLogger(__name__)

HIDDEN = "-1"  # as GLUE's test parts have it


@dataclass
class Understanding(Task):
    """Accuracy, macro-F1 and Matthews correlation.

    Args:
        labels: the labels, parted by `|`, in the order of their numbers; left out: those of the data.
        scoring: `likelihood` ranks the labels as completions, `normalized` per token, `generated` lets the model write
            one and takes the label that it begins with.
        show_labels: put the labels into the prompt. Left out: where there are at most 20.
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
    texts = ("text", "text2")
    optional = ("text2",)
    document = "text"

    def __post_init__(self):
        if self.scoring not in ("likelihood", "normalized", "generated"):
            raise ValueError(f"`--task_options` scoring={self.scoring}: choose likelihood, normalized or generated")
        self.names = [name.strip() for name in self.labels.split("|") if name.strip()]

    def prepare(self, rows):
        if not self.names:
            self.names = names_in({part: label_counts(of_part) for part, of_part in rows.items()})
        self.listed = len(self.names) <= 20 if self.show_labels is None else self.show_labels

    def to_example(self, row):
        texts = f"Text: {row['text'].strip()}\n"
        if row.get("text2") is not None:
            texts += f"Second text: {row['text2'].strip()}\n"
        among = f" Choose from: {', '.join(self.names)}." if self.listed else ""
        return {"prompt": f"Label the text.{among}\n\n{texts}Label:", "completion": "".join(self.references(row))}

    def references(self, row):
        label = name_of(row["label"])
        if not label or (label == HIDDEN and HIDDEN not in self.names):
            return []
        if self.labels and label.isdecimal() and label not in self.names and int(label) < len(self.names):
            label = self.names[int(label)]
        if label not in self.names:
            raise ValueError(f"label `{label}` is not among the choices {', '.join(self.names[:20])}: see `labels`")
        return [label]

    def choices(self, row):
        return None if self.scoring == "generated" else self.names

    def normalizes_length(self):
        return self.scoring == "normalized"

    def answer(self, text, row):
        text = text.strip()
        begun = [name for name in self.names if text.lower().startswith(name.lower())]
        return max(begun, key=len, default=text)

    def metric(self):
        return Classification()

    def sample(self):
        """Paragraphs of Python's documentation, and the package that each is from: the four largest ones."""
        parts = {part: list(paragraphs(rows)) for part, rows in python_docs().items()}
        held_out = {row["text"] for row in parts["validation"]}
        parts["train"] = [row for row in parts["train"] if row["text"] not in held_out]
        packages = [name for name, _ in Counter(row["label"] for row in parts["validation"]).most_common(4)]
        return DatasetDict(
            {part: Dataset.from_list([row for row in rows if row["label"] in packages]) for part, rows in parts.items()}
        )


def name_of(label: str | int | float | None) -> str | None:
    """A label as text."""
    if isinstance(label, float) and label.is_integer():  # as a column with a gap has its numbers
        label = int(label)
    return None if label is None else str(label).strip() or None


def label_counts(rows: Dataset) -> Counter[str]:
    """How often each label occurs, rows without one left out."""
    if not isinstance(rows.features["label"], Value):
        raise ValueError(f"`label` is `{rows[0]['label']}`: give one text or number in each row")
    counts = Counter(map(name_of, rows["label"]))
    del counts[None]
    return counts


def names_in(parts: dict[str, Counter[str]]) -> list[str]:
    """All labels of the data, and a word on those that may be none."""
    names = set().union(*parts.values())
    if HIDDEN in names:
        logger.warning(f"the label {HIDDEN} counts as a hidden one: name all by `labels=...` where it is none")
        names.remove(HIDDEN)
    if not names:
        raise ValueError("the labels of all rows are hidden or empty: name another column or data set")
    if all(name.isdecimal() for name in names):
        logger.warning("the labels are numbers: name them by `labels=a|b|...` in `--task_options`")
    if "train" not in parts:
        logger.warning(
            f"the {len(names)} labels that occur in `validation` are the choices: where there are more, give them by "
            "`labels=a|b|...` in `--task_options`, or `--train_file` too"
        )
    for name in sorted(names - {*parts.get("train", names)}):  # maybe a slip of the pen
        logger.warning(
            f"label `{name}` of {parts['validation'][name]} rows of `validation` occurs in no row of `train`"
        )
    return sorted(names, key=lambda name: (int(name) if name.isdecimal() else -1, name))


def paragraphs(rows: Dataset):
    for row in rows:
        for text in row["text"].split("\n\n"):
            if 40 < len(text) < 400:
                yield {"text": " ".join(text.split()), "label": row["module"].split(".")[0]}
