"""Choose among several answers: rows in the formats of MMLU, ARC, HellaSwag, PIQA, WinoGrande, SciQ and RACE."""

import logging
import re
from dataclasses import dataclass
from typing import Any, ClassVar

from datasets import Dataset, DatasetDict

from hf_llm.messages import add_origin
from hf_llm.metrics.classification import Accuracy
from hf_llm.python_docs import python_docs
from hf_llm.tasks import HIDDEN_LABELS, Task, drop_unlabelled

logger = logging.getLogger(__name__)

CHOICE_LISTS = ("choices", "options", "endings")
# Columns with one choice each: choice1, option2, ending0, answerA, sol1, opa, distractor3, or only A, B, C.
CHOICE_COLUMN = re.compile(r"(choice|option|ending|answer|sol|op|distractor)_?([0-9]|[A-Ea-e])|()([A-E])")
NUMBER = re.compile(r"(?:choice|option|ending|answer|sol)?([0-9]+)(?:\.0)?")  # also of COPA: choice1, choice2
LETTER = re.compile(r"\(?([A-Ja-j])[.)]?")


@dataclass
class MultipleChoice(Task):
    """Accuracy: how often the right choice is the likeliest one.

    Args:
        scoring: `normalized` ranks the choices by their log-likelihood per token, `likelihood` by its sum.
        show_choices: list the choices in the prompt.
        first_number: the number of the first choice in the column `answer`, 0 or 1. Default: 1 if the numbers show it.
    """

    scoring: str = "normalized"
    show_choices: bool = False
    first_number: int | None = None

    columns: ClassVar = {
        "question": ("question_stem", "query", "ctx", "goal", "sentence", "startphrase"),
        "choices": CHOICE_LISTS[1:],
        "answer": ("answerKey", "label", "answer_idx", "answer_index", "correct_answer", "correct_option", "cop"),
        "context": ("passage", "article", "paragraph", "support", "premise"),
    }
    text_columns = ("question", "context")
    optional_columns = ("context",)
    nested_columns = ("choices",)
    document_column = "context"

    def __post_init__(self):
        if self.scoring not in ("likelihood", "normalized"):
            raise ValueError(f"`--task_options` scoring={self.scoring}: choose likelihood or normalized")
        if self.first_number not in (None, 0, 1):
            raise ValueError(f"`--task_options` first_number={self.first_number}: choose 0 or 1")
        self.first = int(self.first_number or 0)
        self.answers_are_texts = True  # or numbers and letters, even where 1 or A is the text of a choice too

    def adapt(self, rows):
        """Collect the choices that have a column each, as in PIQA, SWAG and SciQ."""
        names = choice_columns(rows.column_names)
        if not names:
            return rows
        right = ["correct_answer"] if names[0].startswith("distractor") else []  # SciQ
        choices = [list(row) for row in zip(*(rows[name][:] for name in [*right, *names]), strict=True)]
        for texts in choices:
            while texts and texts[-1] in (None, ""):  # rows with fewer choices than others
                texts.pop()
            if right:  # not always the first one
                texts.sort(key=str)
        return rows.remove_columns(names).add_column("choices", choices)

    def select(self, rows, split):
        answers = [None if is_hidden(answer) else answer for answer in rows["answer"][:]]
        return drop_unlabelled(rows, answers, split)

    def prepare(self, rows):
        numbers, counts_to_last = set(), False  # whether one equals the number of choices
        for row in (row for split_rows in rows.values() for row in split_rows.to_list()):
            with add_origin(row):
                texts, labels = choices_of(row)
            answer = str(row["answer"]).strip()
            if answer not in labels:
                self.answers_are_texts &= isinstance(row["answer"], str) and " ".join(answer.split()) in texts
                if found := NUMBER.fullmatch(answer):
                    numbers.add(int(found[1]))
                    counts_to_last |= int(found[1]) == len(texts)
        if self.first_number is not None or self.answers_are_texts:
            return
        self.first = int(counts_to_last and 0 not in numbers)
        if numbers and not self.first and 0 not in numbers:
            logger.warning("the numbers in `answer` count from 0: if not, set `first_number=1` in `--task_options`")

    def to_example(self, row):
        context = f"Context: {row['context'].strip()}\n\n" if row.get("context") else ""
        listed = "".join(f"- {text}\n" for text in self.choices(row)) if self.show_choices else ""
        prompt = f"Answer the question.\n\n{context}Question: {row['question'].strip()}\n{listed}Answer:"
        return {"prompt": prompt, "completion": self.references(row)[0]}

    def references(self, row):
        texts, labels = choices_of(row)
        answer = " ".join(str(row["answer"]).split())
        if isinstance(row["answer"], str) and answer in labels:
            return [texts[labels.index(answer)]]
        found, letter = NUMBER.fullmatch(answer), LETTER.fullmatch(answer)
        if isinstance(row["answer"], str) and answer in texts and (self.answers_are_texts or not (found or letter)):
            return [answer]
        number = int(found[1]) - self.first if found else ord(letter[1].upper()) - ord("A") if letter else -1
        if not 0 <= number < len(texts):
            raise ValueError(
                f"the answer `{answer}` is none of the {len(texts)} choices: give its letter, its text or its "
                f"number, counted from {self.first} unless `first_number` in `--task_options` says otherwise"
            )
        return [texts[number]]

    def choices(self, row):
        return choices_of(row)[0]

    def ranks_per_token(self):
        return self.scoring == "normalized"

    def metric(self):
        return Accuracy()

    def sample(self):
        """Which of four Python modules a line of the documentation is about."""
        return DatasetDict({split: Dataset.from_list(sample_rows(rows)) for split, rows in python_docs().items()})


def choice_columns(names: list[str]) -> list[str]:
    """The columns that hold one choice each, in their order; none if a column holds all choices.

    Example:
        >>> choice_columns(["question", "option2", "option1", "answer"])
        ['option1', 'option2']
    """
    families: dict[str, list[str]] = {}
    for name in sorted(names):
        if found := CHOICE_COLUMN.fullmatch(name):
            families.setdefault(found[1] or "", []).append(name)
    largest = max(families.values(), key=len, default=[])
    return [] if len(largest) < 2 or {*CHOICE_LISTS} & {*names} else largest


def is_hidden(answer: Any) -> bool:
    """Return whether the right choice is not known, as in test splits."""
    return answer is None or not str(answer).strip() or str(answer).strip() in HIDDEN_LABELS


def choices_of(row: dict[str, Any]) -> tuple[list[str], list[str]]:
    """The choices of a row, on one line each, and their labels, if the layout has any.

    Raises:
        ValueError: they are not texts.

    Example:
        >>> choices_of({"choices": {"text": ["one", "nine"], "label": ["A", "B"]}})
        (['one', 'nine'], ['A', 'B'])
    """
    choices, labels = row["choices"], []
    if isinstance(choices, dict) and isinstance(choices.get("text"), list):  # ARC, CommonsenseQA
        choices, labels = choices["text"], choices.get("label") or []
    elif isinstance(choices, dict):  # MedQA: {"A": "one", "B": "nine"}
        labels = [label for label, text in choices.items() if text is not None]
        choices = [choices[label] for label in labels]
    choices = choices if isinstance(choices, list) else []
    texts = [" ".join(text.split()) for text in choices if isinstance(text, str)]
    if len(texts) != len(choices) or len(texts) < 2 or not all(texts):
        raise ValueError(f"`choices` is `{row['choices']}`: give a list of at least two texts")
    return texts, list(labels)


def sample_rows(rows: Dataset) -> list[dict]:
    """Questions about modules of `python_docs`, each with the names of three others."""
    modules, sample = rows["module"][:], []
    for number, text in enumerate(rows["text"]):
        choices = [modules[(number + step) % len(modules)] for step in range(4)]
        answer = number % 4
        choices[0], choices[answer] = choices[answer], choices[0]
        line = text.split("\n")[0].strip()
        sample.append({"question": f'Which module says "{line}"?', "choices": choices, "answer": answer})
    return sample
