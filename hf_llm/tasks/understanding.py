"""Label a text or a pair of texts, for classification and inference: rows in the format of GLUE."""

import logging
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar

from datasets import Dataset, DatasetDict

from hf_llm.messages import add_origin
from hf_llm.metrics.classification import LABEL_SEPARATOR, Classification, MultiLabel
from hf_llm.metrics.segmentation import starts_with_words
from hf_llm.python_docs import python_docs
from hf_llm.tasks import HIDDEN_LABELS, Task, drop_unlabelled
from hf_llm.tasks.multiple_choice import CHOICE_LISTS, choice_columns

logger = logging.getLogger(__name__)

HINT = "; if -1 is a label, name all labels by `labels=a|b|...` in `--task_options`"
# What a written answer may say before its label.
LEADING_WORDS = "the|this|it|text|final|correct|label|answer|response|option|category|class|sentiment|is"
LABEL_AND_REQUEST = ("Label", "Label the text.")
BOOLEANS = {"false": "0", "true": "1"}
INTEGER, FRACTION = re.compile(r"([+-]?\d+)\.0+"), re.compile(r"[+-]?\d*\.\d+(e[+-]?\d+)?|[+-]?inf", re.IGNORECASE)


@dataclass
class Understanding(Task):
    """Accuracy, macro-F1 and Matthews correlation, and of two labels the F1 of the second one, e.g. of `no|yes`.

    Of rows with several labels, exact match, micro-F1 and macro-F1. A model that writes then generates all labels of a
    row, separated by commas; an encoder gives those that are more likely than not, and at least one.

    Args:
        labels: the labels, separated by `|`, in the order of their numbers. Default: the names that the data set has
            for its classes, or those that occur in the data.
        scoring: `likelihood` ranks the labels by their log-likelihood as completions, `normalized` by log-likelihood
            per token; `generated` generates an answer and takes the longest label that it starts with, by whole words.
        show_labels: list the labels in the prompt. Default: if there are at most 20.
        several_labels: a row may have several labels, which are a list. Default: whether one has in the data.
    """

    labels: str = ""
    scoring: str = "likelihood"
    show_labels: bool | None = None
    several_labels: bool | None = None
    max_new_tokens: int = 16

    columns: ClassVar = {
        "text": (
            *("sentence", "premise", "sentence1", "sentence_a", "question1", "statement", "claim", "passage"),
            *("paragraph", "context", "question", "content", "review", "review_body", "comment_text", "tweet", "sms"),
            *("utt", "utterance"),
        ),
        "text2": ("hypothesis", "hypo", "sentence2", "sentence_b", "question2", "question", "span1_text"),
        "text3": ("answer", "word", "span2_text"),
        "label": ("labels", "intent", "category", "gold_label", "sentiment", "class"),
    }
    text_columns = ("text", "text2", "text3")
    optional_columns = ("text2", "text3")
    document_column = "text"
    writing_options = (*Task.writing_options, "scoring", "show_labels")

    def __post_init__(self):
        if self.scoring not in ("likelihood", "normalized", "generated"):
            raise ValueError(f"`--task_options` scoring={self.scoring}: choose likelihood, normalized or generated")
        names = [label_text(name) for name in self.labels.split("|")]
        self.label_names = [name for name in names if name]
        self.class_names = []
        self.several = bool(self.several_labels)

    @property
    def problem_type(self):  # pyright: ignore[reportIncompatibleVariableOverride]
        return "multi_label_classification" if self.several else "single_label_classification"

    def adapt(self, rows):
        """Take the names of labels from a column of their own, as in the data sets of SetFit; refuse choices."""
        refuse_choices(rows)
        if {"label", "label_text"} <= {*rows.column_names}:
            rows = rows.remove_columns("label").rename_column("label_text", "label")
        return rows

    def name_classes(self, column, names):
        if column == "label":
            self.class_names = names

    def select(self, rows, split):
        labels, values = [], rows["label"][:]
        several = any(isinstance(value, list) and len(value) > 1 for value in values)
        several = several if self.several_labels is None else self.several_labels
        for number, value in enumerate(values):
            try:
                labels.append(self.known_labels(value) if several else self.known_label(value))
            except ValueError:
                with add_origin(rows[number], f"`{split}` row {number}"):
                    raise
        rows = rows.remove_columns("label").add_column("label", labels)  # pyright: ignore[reportCallIssue]
        return drop_unlabelled(rows, labels, split, "" if self.labels else HINT)

    def known_label(self, value: str | float | list | None) -> str | None:
        """Convert a label to text, None if it is hidden or empty.

        Raises:
            ValueError: it is not one class.
        """
        label = label_text(value)
        if label and FRACTION.fullmatch(label) and label not in self.label_names:
            raise ValueError(
                f"the label {label} is a number on a scale, not a class: take `--task regression`, round the column "
                "to whole numbers, or name all classes by `labels=a|b|...` in `--task_options`"
            )
        return None if label in HIDDEN_LABELS - {*self.label_names} else label

    def known_labels(self, value: str | float | list | None) -> list[str] | None:
        """Convert the labels of a row to texts, None if there are none."""
        labels = map(self.known_label, value if isinstance(value, list) else [value])
        return [label for label in labels if label] or None

    def prepare(self, rows):
        labels = {str(split): split_rows["label"][:] for split, split_rows in rows.items()}
        self.several |= any(isinstance(value, list) for values in labels.values() for value in values)
        counts = {split: Counter(chain.from_iterable(map(label_list, values))) for split, values in labels.items()}
        if self.labels:
            self.report_named_labels(set().union(*counts.values()))
        else:
            self.label_names = self.class_names or collect_label_names(counts)
            warn_of_rare_labels(counts)
        if self.several:
            self.prepare_several([label_list(value) for values in labels.values() for value in values])
        self.shows_labels = len(self.label_names) <= 20 if self.show_labels is None else self.show_labels

    def prepare_several(self, labels: list[list[str]]) -> None:
        """Prepare answers of several labels.

        Args:
            labels: those of each row.
        """
        if unclear := [name for name in self.label_names if "," in name]:
            raise ValueError(f"the label `{unclear[0]}` has a comma, which separates the labels of a row: rename it")
        most = max(map(len, labels), default=1)
        if self.max_new_tokens == type(self).max_new_tokens:
            self.max_new_tokens *= most
        logger.info(f"Rows have up to {most} labels: `several_labels=true` in `--task_options` says so for other data")

    def report_named_labels(self, found: set[str]) -> None:
        """Log which names the numbers in the data stand for, and warn of names that no row has."""
        names = {label: self.name_of(label) for label in found}
        if numbered := sorted((label, name) for label, name in names.items() if label != name):
            logger.info(f"labels: {', '.join(f'{label} is {name}' for label, name in numbered)}")
        if absent := [name for name in self.label_names if name not in names.values()]:
            logger.warning(
                f"no row has the label {', '.join(absent)}: `labels` names them all, and numbers count from 0"
            )

    def name_of(self, label: str) -> str:
        """Return the name of a label, which may be its number or a boolean."""
        if label not in self.label_names:
            label = BOOLEANS.get(label.lower(), label)
        if label.isdecimal() and label not in self.label_names and int(label) < len(self.label_names):
            return self.label_names[int(label)]
        return label

    def to_example(self, row):
        texts = f"Text: {row['text'].strip()}\n"
        if row.get("text2") is not None:
            texts += f"Second text: {row['text2'].strip()}\n"
        if row.get("text3") is not None:
            texts += f"Third text: {row['text3'].strip()}\n"
        listed = f" Choose from: {', '.join(self.label_names)}." if self.shows_labels else ""
        label, request = ("Labels", "Label the text with all labels that apply.") if self.several else LABEL_AND_REQUEST
        return {"prompt": f"{request}{listed}\n\n{texts}{label}:", "completion": "".join(self.references(row))}

    def texts(self, row):
        first, *more = (row[name].strip() for name in self.text_columns if row.get(name) is not None)
        return [first, " ".join(more)] if more else [first]

    def references(self, row):
        labels = {self.known_name(value) for value in label_list(row["label"])}
        return [LABEL_SEPARATOR.join(name for name in self.label_names if name in labels)]

    def known_name(self, value: str | float | None) -> str:
        """Return the name of a label that must be among the choices."""
        label = label_text(value) or ""
        label = self.name_of(label) if self.labels else label
        if label not in self.label_names:
            choices = ", ".join(self.label_names[:20])
            raise ValueError(
                f"label `{label}` is not among the choices {choices}: name all by `labels=a|b|...` in `--task_options` "
                "in the order of their numbers from 0, or leave `labels` out"
            )
        return label

    def row_class(self, row):
        return LABEL_SEPARATOR.join(map(str, label_list(row["label"])))

    def choices(self, row):
        return None if self.scoring == "generated" or self.several else self.label_names

    def ranks_per_token(self):
        return self.scoring == "normalized"

    def answer(self, text, row):
        if self.several:
            labels = [*map(self.written_label, text.split(","))]
            known = [name for name in self.label_names if name in labels]
            return LABEL_SEPARATOR.join([*known, *(label for label in labels if label not in known)])
        return self.written_label(text)

    def written_label(self, text: str) -> str:
        """The longest label that a text starts with, or else the text."""
        text = text.strip()
        if text in self.label_names:
            return text
        matches = [name for name in self.label_names if starts_with_words(text, name, LEADING_WORDS)]
        return max(matches, key=lambda name: (len(name), text.startswith(name)), default=text)

    def metric(self):
        if self.several:
            return MultiLabel()
        return Classification(self.label_names[1] if len(self.label_names) == 2 else None)

    def sample(self):
        """Paragraphs of Python's documentation, labeled with one of four packages; equally many of each."""
        splits = {split: list(paragraphs(rows)) for split, rows in python_docs().items()}
        held_out = {row["text"] for row in splits["validation"]}
        splits["train"] = [row for row in splits["train"] if row["text"] not in held_out]
        counts = {split: Counter(row["label"] for row in rows) for split, rows in splits.items()}
        common = counts["train"] & counts["validation"]  # the smaller number of the two
        packages = [name for name, _ in common.most_common(4)]
        kept: dict[str, list[dict[str, str]]] = {}
        for split, rows in splits.items():
            each = min(counts[split][name] for name in packages)
            labelled = [[row for row in rows if row["label"] == name][:each] for name in packages]
            kept[f"{split}"] = [row for group in zip(*labelled, strict=True) for row in group]
        return DatasetDict({split: Dataset.from_list(rows) for split, rows in kept.items()})


def refuse_choices(rows: Dataset) -> None:
    """Refuse rows whose label is the number of a choice: without the choices it means nothing.

    Raises:
        ValueError: there are columns of choices.
    """
    if found := choice_columns(rows.column_names) or [name for name in CHOICE_LISTS if name in rows.column_names]:
        raise ValueError(f"the label is one of the row's choices (`{found[0]}`): take `--task multiple_choice`")


def label_list(value: Any) -> list[Any]:
    """Return the labels of a row as a list."""
    return value if isinstance(value, list) else [value]


def label_text(label: str | int | float | list | None) -> str | None:
    """Convert a label to text, None if it is empty.

    Raises:
        ValueError: a list of several labels.

    Example:
        >>> label_text(1.0), label_text("1.0"), label_text([3]), label_text(float("nan"))
        ('1', '1', '3', None)
    """
    if isinstance(label, list):
        if len(label) > 1:
            raise ValueError(f"`label` is `{label}`: keep only rows with one label, or leave out `several_labels`")
        label = label[0] if label else None
    text = "" if label is None or label != label else str(label).strip()
    whole = INTEGER.fullmatch(text)  # integers in a column with missing values are read or were written as floats
    return (whole[1] if whole else text) or None


def collect_label_names(counts: dict[str, Counter[str]]) -> list[str]:
    """Collect the labels of the data, and warn of what may not be all of them, or numbers without a meaning.

    Args:
        counts: the rows of each label, for each split.

    Returns:
        The labels in alphabetical order, numbers in numerical order after them.
    """
    names = set().union(*counts.values())
    for name in sorted(names):
        if name.lower() != name and name.lower() in names:
            logger.warning(f"`{name}` and `{name.lower()}` are two labels: if they are one, write it in one way")
    if all(name.isdecimal() for name in names):
        logger.warning("the labels are numbers: name them by `labels=a|b|...` in `--task_options`")
    if "train" not in counts:
        logger.warning(
            f"the {len(names)} labels that occur in `validation` are the choices: if there are more, give them by "
            "`labels=a|b|...` in `--task_options`, or give `--train_file` too"
        )
    return sorted(names, key=lambda name: (int(name) if name.isdecimal() else -1, name))


def warn_of_rare_labels(counts: dict[str, Counter[str]]) -> None:
    """Warn of labels that occur only in `validation`: they may be misspelled."""
    for name in sorted({*counts["validation"]} - {*counts.get("train", counts["validation"])}):
        logger.warning(
            f"label `{name}` of {counts['validation'][name]} rows of `validation`, of {counts['validation'].total()} "
            "before `--max_eval_samples`, occurs in no row of `train`"
        )


def paragraphs(rows: Dataset) -> Iterator[dict[str, str]]:
    """The paragraphs of 41 to 399 characters, each with the name of its top-level package."""
    for module, page in zip(rows["module"], rows["text"], strict=True):
        for text in page.split("\n\n"):
            if 40 < len(text) < 400:
                yield {"text": " ".join(text.split()), "label": module.split(".")[0]}
