"""Choose among several answers, as in MMLU, ARC, HellaSwag, PIQA, COPA and RACE; answer yes or no, as in BoolQ."""

import logging
import re
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from datasets import Dataset, DatasetDict

from hf_llm.messages import add_origin
from hf_llm.metrics.classification import Accuracy
from hf_llm.python_docs import python_docs
from hf_llm.tasks import HIDDEN_LABELS, Task, drop_unlabelled

logger = logging.getLogger(__name__)

CHOICE_LISTS = ("choices", "options", "endings")
# Columns with one choice each: choice1, option2, ending0, answerA, sol1, opa, distractor3, or only A, B, C.
CHOICE_COLUMN = re.compile(
    r"((?:mc_)?answer|incorrect_answer|choice|option|ending|sentence_quiz|hypothesis_|sol|op|ans|distractor)_?"
    r"([0-9]|[A-Ea-e])|()([A-E])"
)
RIGHT, WRONG = "correct_answer", ("distractor", "incorrect_answer")  # of SciQ and GPQA
CHOICE_NUMBER = re.compile(r"(?:choice|option|ending|answer|sol)?([0-9]+)(?:\.0)?")  # also of COPA: choice1, choice2
CHOICE_LETTER = re.compile(r"\(?([A-Ja-j])[.)]?")
YES_OR_NO = ["no", "yes"]
BOOLEANS = {"0": "no", "1": "yes", "false": "no", "true": "yes", "no": "no", "yes": "yes"}
# Columns of statements that are right or wrong, and how they become context and question.
STATEMENTS = {
    ("word", "sentence1", "sentence2"): (  # WiC
        "{sentence1}\n{sentence2}",
        'Does the word "{word}" have the same meaning in both sentences?',
    ),
    ("text", "span1_text", "span2_text"): ("{text}", 'Does "{span2_text}" refer to "{span1_text}"?'),  # WSC
    ("paragraph", "question", "answer"): ("{paragraph}", "{question}\nIs the answer right: {answer}"),  # MultiRC
    ("passage", "question"): ("{passage}", "{question}"),  # BoolQ
}
# Columns of stories whose choices have no question, and how they become context and question.
STORIES = {
    ("text", "pronoun", "quote"): ("{text}", 'Who or what is "{pronoun}" in "{quote}"?'),  # WSC285
    ("input_sentence_1", "input_sentence_2", "input_sentence_3", "input_sentence_4"): (  # StoryCloze
        "{input_sentence_1} {input_sentence_2} {input_sentence_3} {input_sentence_4}",
        "What happened next?",
    ),
    ("observation_1", "observation_2"): ("{observation_1}\n{observation_2}", "What happened in between?"),  # ART
}
QUESTIONS = {"cause": "What was the cause?", "effect": "What happened as a result?"}  # of COPA


@dataclass
class MultipleChoice(Task):
    """Accuracy: how often the right choice is the likeliest one, as lm-evaluation-harness computes it.

    `accuracy` ranks the choices by their log-likelihood (acc of the harness), `accuracy_norm` by log-likelihood per
    character (acc_norm) and `accuracy_bytes` per byte of UTF-8 (acc_bytes).

    Args:
        show_choices: list the choices in the prompt.
        first_number: the number of the first choice in the column `answer`, 0 or 1. Default: 1 if the numbers show it.
    """

    show_choices: bool = False
    first_number: int | None = None

    columns: ClassVar = {
        "question": (
            *("question_stem", "query", "ctx", "goal", "sentence", "startphrase", "inputs", "problem", "prompt"),
            "context",
        ),
        "choices": (*CHOICE_LISTS[1:], "choice", "answers"),
        "answer": (
            *("answerkey", "label", "answer_idx", "answer_index", "correct_answer", "correct_option", "cop", "gold"),
            *("correct_answer_num", "correct_answer_id", "correct", "answer_right_ending"),
        ),
        "context": (
            *("passage", "article", "paragraph", "support", "premise", "flores_passage", "dialogue", "narrative"),
        ),
    }
    text_columns = ("question", "context")
    optional_columns = ("context",)
    nested_columns = ("choices", "question", "mc1_targets", "incorrect_answers", "distractors")
    document_column = "context"
    choices_with_end_token = False  # as in the harness

    def __post_init__(self):
        if self.first_number not in (None, 0, 1):
            raise ValueError(f"`--task_options` first_number={self.first_number}: choose 0 or 1")
        self.first = int(self.first_number or 0)
        self.answers_are_texts = True  # or numbers and letters, even where 1 or A is the text of a choice too

    def adapt(self, rows):
        """Collect the choices that have a column each, as in PIQA, SWAG and SciQ; make questions of statements."""
        names = {name: name.lower().replace(" ", "_") for name in rows.column_names if len(name) > 1}  # also Question
        rows = rows.rename_columns({name: new for name, new in names.items() if new not in rows.column_names})
        if "mc1_targets" in rows.column_names:  # TruthfulQA
            targets = rows["mc1_targets"][:]
            rights = [target["choices"][target["labels"].index(1)] for target in targets]
            return with_columns(rows, choices=[sorted(target["choices"]) for target in targets], answer=rights)
        if "multiple_choice_targets" in rows.column_names:  # BIG-bench
            scores = [[*map(int, marks)] for marks in rows["multiple_choice_scores"]]
            rights = [[number for number, score in enumerate(marks) if score] for marks in scores]
            return with_columns(rows, choices=rows["multiple_choice_targets"][:], answer=rights)
        if isinstance(rows[0].get("question"), dict):  # the files of ARC, OpenBookQA and CommonsenseQA
            questions = rows["question"][:]
            rows = with_columns(rows, choices=[question["choices"] for question in questions])
            rows = with_columns(rows, question=[question["stem"] for question in questions])
        if "question" in rows.column_names and {*map(str, rows["question"])} <= {*QUESTIONS}:
            rows = with_columns(rows, question=[QUESTIONS[question] for question in rows["question"]])
        for columns, forms in STORIES.items():
            if {*columns} <= {*rows.column_names} and "question" not in rows.column_names:
                rows = with_questions(rows, columns, forms)
        names = choice_columns(rows.column_names)
        if names:
            return self.collect_choices(rows, names)
        return rows if {*CHOICE_LISTS, "choice"} & {*rows.column_names} else questions_of_statements(rows)

    def collect_choices(self, rows: Dataset, names: list[str]) -> Dataset:
        """Put the choices of several columns into one list, without the empty ones of rows with fewer choices."""
        with_right = names[0].startswith(WRONG)
        choices = [list(row) for row in zip(*(rows[name][:] for name in [RIGHT] * with_right + names), strict=True)]
        for texts in choices:
            while texts and texts[-1] in (None, ""):
                texts.pop()
            if with_right:  # not always the first one
                texts.sort(key=str)
        return rows.remove_columns(names).add_column("choices", choices)

    def select(self, rows, split):
        answers = rows["answer"][:]
        if any(isinstance(answer, list) for answer in answers):  # AGIEval, BIG-bench: of one number or letter
            for number, answer in enumerate(answers):
                if isinstance(answer, list) and len(answer) > 1:
                    with add_origin(rows[number], f"`{split}` row {number}"):
                        raise ValueError(f"the answers {answer} are several: keep only rows with one right choice")
            answers = [(answer or [None])[0] if isinstance(answer, list) else answer for answer in answers]
            rows = with_columns(rows, answer=answers)
        return drop_unlabelled(rows, [None if is_hidden(answer) else answer for answer in answers], split)

    def prepare(self, rows):
        numbers, counts_to_last = set(), False  # whether one equals the number of choices
        for row in (row for split_rows in rows.values() for row in split_rows.to_list()):
            with add_origin(row):
                texts, labels = choices_of(row)
            answer = str(row["answer"]).strip()
            if answer not in labels:
                self.answers_are_texts &= isinstance(row["answer"], str) and " ".join(answer.split()) in texts
                if found := CHOICE_NUMBER.fullmatch(answer):
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
        found, letter = CHOICE_NUMBER.fullmatch(answer), CHOICE_LETTER.fullmatch(answer)
        if isinstance(row["answer"], str) and answer in texts and (self.answers_are_texts or not (found or letter)):
            return [answer]
        number = int(found[1]) - self.first if found else ord(letter[1].upper()) - ord("A") if letter else -1
        if not 0 <= number < len(texts):
            raise ValueError(
                f"the answer `{answer}` is none of the {len(texts)} choices: give its letter, its text or its "
                f"number, counted from {self.first} unless `first_number` in `--task_options` says otherwise"
            )
        return [texts[number]]

    def row_class(self, row):
        return str(row["answer"])

    def choices(self, row):
        return choices_of(row)[0]

    def ranking_scores(self, row, log_likelihoods):
        choices, gold = self.choices(row), self.references(row)
        sizes = {"accuracy_norm": [*map(len, choices)], "accuracy_bytes": [len(text.encode()) for text in choices]}
        likeliest = {name: choices[int(np.argmax(np.divide(log_likelihoods, sizes[name])))] for name in sizes}
        return {name: float(choice in gold) for name, choice in likeliest.items()}

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


def with_columns(rows: Dataset, **columns: list) -> Dataset:
    """Add columns to rows, or put them in the place of those with the same names."""
    for name, values in columns.items():
        rows = rows.remove_columns([name] if name in rows.column_names else []).add_column(name, values)  # pyright: ignore[reportCallIssue]
    return rows


def questions_of_statements(rows: Dataset) -> Dataset:
    """Make questions of statements that a label calls right or wrong; return rows of other layouts unchanged."""
    for columns, forms in STATEMENTS.items():
        label = next((name for name in ("label", "answer") if name in {*rows.column_names} - {*columns}), "")
        if not label or not {*columns} <= {*rows.column_names}:
            continue
        answers = [str(value).strip().lower().removesuffix(".0") for value in rows[label]]
        if not {*answers} <= {*BOOLEANS, *HIDDEN_LABELS, "none", ""}:
            continue
        rows = with_questions(rows, columns, forms)
        rows = rows.remove_columns([name for name in (label,) if name != "answer"])
        answers = [BOOLEANS.get(answer) for answer in answers]
        return with_columns(rows, choices=[YES_OR_NO] * len(rows), answer=answers)
    return rows


def with_questions(rows: Dataset, columns: tuple[str, ...], forms: tuple[str, str]) -> Dataset:
    """Write columns of texts as context and question, and remove them.

    Args:
        forms: format strings of the context and of the question.

    Raises:
        ValueError: a value is not a text; the origin of its row is named.
    """
    texts = rows.select_columns([*columns]).to_list()
    for row, text in zip(rows.to_list(), texts, strict=True):
        with add_origin(row):
            if not all(isinstance(value, str) for value in text.values()):
                raise ValueError(f"`{', '.join(columns)}` must be texts: correct or remove the row")
    contexts, questions = ([form.format(**row) for row in texts] for form in forms)
    return with_columns(rows.remove_columns([*columns]), context=contexts, question=questions)


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
    if isinstance(choices, list) and all(isinstance(choice, dict) for choice in choices):  # the files of ARC
        labels = [choice.get("label", choice.get("key")) for choice in choices]
        choices = [choice.get("text", choice.get("value")) for choice in choices]
    elif isinstance(choices, dict) and isinstance(choices.get("text"), list):  # ARC, CommonsenseQA
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
