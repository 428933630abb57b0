"""Answer a question with or without a context: rows in the format of SQuAD 1.1 and 2.0."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from datasets import Dataset, DatasetDict

from hf_llm.messages import ORIGIN, add_origin
from hf_llm.metrics import question_answering as squad
from hf_llm.metrics.answers import FINAL
from hf_llm.metrics.segmentation import starts_with_words
from hf_llm.python_docs import python_docs
from hf_llm.tasks import Task, reference_list, refuse_wrong_answers
from hf_llm.tasks.multiple_choice import CHOICE_LISTS, choice_columns

logger = logging.getLogger(__name__)

NO_ANSWER = "unanswerable"
# What a written answer may say instead, after e.g. "the question is".
NO_ANSWER_TEXTS = (NO_ANSWER, "not answerable", "no answer", "cannot be answered", "can not be answered")
LEADING_WORDS = "the|this|that|it|it['’]s|there|question|answer|is|has"  # noqa: RUF001
NO_ANSWER_MARKS = ("No Answer Present.", "CANNOTANSWER")  # gold answers of MS MARCO and QuAC
NEGATIVE = ("False", "false", "0")
# Columns and values.
UNANSWERED = {"is_impossible": ("True", "true", "1"), "has_answer": NEGATIVE, "answerable": NEGATIVE}


@dataclass
class QuestionAnswering(Task):
    """Exact match and F1. The completion of a question without an answer is the word `unanswerable`.

    Args:
        offer_no_answer: name that word in the prompt. Default: if some of the data's questions have no answer.
    """

    language: str = "en"  # of the answers; zh and ja are scored by character, as in CMRC 2018
    max_new_tokens: int = 32
    with_context: bool = True
    offer_no_answer: bool | None = None

    columns: ClassVar = {
        "question": ("query", "query_text", "problem", "input"),
        "answers": (
            *("answer_number", "answer", "possible_answers", "answers_spans", "correct_answers", "final_decision"),
            "target",
        ),
        "context": (*("passage", "passages", "paragraph", "paragraphs", "article", "story", "context_text", "body"),),
    }
    text_columns = ("question", "context")
    optional_columns = ("context",)
    nested_columns = ("answers",)
    document_column = "context"
    allows_no_answer = True

    def adapt(self, rows):
        """Make a row of each question, where paragraphs have several as in the official files; refuse choices.

        Answers of rows with `is_impossible`, or without `has_answer`, are only plausible ones and are removed.
        """
        names = {*rows.column_names}
        if found := [name for name in CHOICE_LISTS if name in names] or choice_columns(rows.column_names):
            raise ValueError(f"the answer is one of the row's `{found[0]}`: take `--task multiple_choice`")
        if "qas" in names or ("paragraphs" in names and "question" not in names):
            return Dataset.from_list([*questions_of(rows)])
        if {"questions", "answers"} <= names:
            return Dataset.from_list([*turns_of(rows)])
        refuse_wrong_answers(rows)
        column = next((name for name in ("answers", *self.columns["answers"]) if name in rows.column_names), None)
        for name, unanswered in UNANSWERED.items():
            if column and name in rows.column_names:
                pairs = zip(rows[column][:], rows[name][:], strict=True)
                answers = [[] if str(mark) in unanswered else answer_texts(answer) for answer, mark in pairs]
                rows = rows.remove_columns(column).add_column(column, answers)
        return rows

    def select(self, rows, split):
        answers = rows["answers"][:]
        if {*map(str, answers)} <= {"True", "False", "true", "false"}:  # BoolQ, as text in CSV
            words = ["yes" if str(answer).lower() == "true" else "no" for answer in answers]
            rows = rows.remove_columns("answers").add_column("answers", words)
        if solutions := sum(isinstance(answer, str) and f"\n{FINAL}" in answer for answer in answers):
            logger.info(
                f"{split}: of {solutions} answers only what follows `####` is used: `--task generation` takes all"
            )
        return rows

    def prepare(self, rows):
        unanswered = dict.fromkeys(rows, 0)
        for split, split_rows in rows.items():
            for row in split_rows.to_list():
                with add_origin(row):
                    unanswered[split] += not self.references(row)
        self.version = "2.0" if unanswered["validation"] else "1.1"
        if self.offer_no_answer is None:
            self.offer_no_answer = any(unanswered.values())

    def to_example(self, row):
        context = ""
        if self.with_context and row.get("context") is not None:
            context = f"Context: {row['context'].strip()}\n\n"
        offer = f", or write {NO_ANSWER} if it has no answer" if self.offer_no_answer else ""
        question = f"Question: {row['question'].strip()}\nAnswer:"
        return {
            "prompt": f"Answer the question in a few words{offer}.\n\n{context}{question}",
            "completion": " ".join((self.references(row) or [NO_ANSWER])[0].splitlines()),
        }

    def references(self, row):
        texts = answer_texts(row["answers"])
        if texts is None:
            raise ValueError(f"`answers` is `{row['answers']}`: give its texts, or [] if there is no answer")
        return reference_list([text.rpartition(f"\n{FINAL}")[2] for text in texts if text not in NO_ANSWER_MARKS])

    def answer(self, text, row):
        text = text.strip()
        unanswered = any(starts_with_words(text, words, LEADING_WORDS) for words in NO_ANSWER_TEXTS)
        return "" if self.version == "2.0" and unanswered else text

    def metric(self):
        return squad.QuestionAnswering(self.version, self.language)

    def sample(self):
        """Questions about Python modules; the context describes three of them.

        Every seventh question is about a module that the context does not describe.
        """
        return DatasetDict({split: Dataset.from_list(sample_rows(rows)) for split, rows in python_docs().items()})


def questions_of(rows: Dataset) -> Iterator[dict[str, Any]]:
    """Yield a row for each question of the official files of SQuAD, CMRC and MRQA, which have paragraphs or contexts.

    Raises:
        ValueError: a row has another layout; its origin is named.
    """
    for row in rows.to_list():
        with add_origin(row):
            for paragraph in row["paragraphs"] if row.get("paragraphs") is not None else [row]:
                if not isinstance(paragraph, dict) or not isinstance(paragraph.get("qas"), list):
                    raise ValueError("no questions in `qas`: give rows with `question`, `answers` and `context`")
                context = paragraph.get("context", paragraph.get("context_text"))
                for question in paragraph["qas"]:
                    yield {
                        "context": context,
                        "question": question.get("question", question.get("query_text")),
                        "answers": [] if question.get("is_impossible") else answer_texts(question.get("answers")),
                        ORIGIN: row.get(ORIGIN),
                    }


def turns_of(rows: Dataset) -> Iterator[dict[str, Any]]:
    """Yield a row for each question of a conversation of CoQA or QuAC, after the earlier ones with their answers.

    Raises:
        ValueError: a row has not as many answers as questions; its origin is named.
    """
    for row in rows.to_list():
        with add_origin(row):
            answers, before = row["answers"], ""
            if isinstance(answers, dict):
                answers = answers.get("input_text", answers.get("texts"))
            if not isinstance(answers, list) or len(answers) != len(row["questions"]):
                raise ValueError("`questions` and `answers` are not lists of one length: correct or remove the row")
            for question, answer in zip(row["questions"], answers, strict=True):
                texts = answer_texts(answer) or []
                yield row | {"question": before + question, "answers": texts}
                before += f"{question}\nAnswer: {texts[0] if texts else NO_ANSWER}\nQuestion: "


def answer_texts(answers: Any) -> list[str] | None:
    """The gold answers in any of the usual layouts, None where there are none.

    Example:
        >>> answer_texts(True), answer_texts([{"text": "a cat"}]), answer_texts({"value": "a", "aliases": ["a", "b"]})
        (['yes'], ['a cat'], ['a', 'b'])
    """
    if isinstance(answers, bool):
        return ["yes" if answers else "no"]
    if isinstance(answers, str | int):
        return [str(answers)]
    if isinstance(answers, dict):
        texts = drop_texts(answers) if "spans" in answers else answers.get("text")
        if texts is None and isinstance(answers.get("value"), str):  # TriviaQA
            texts = [answers["value"], *(answers.get("aliases") or [])]
        return answer_texts(texts)
    if isinstance(answers, list):
        texts = [answer_texts(answer) for answer in answers if answer is not None]
        return None if None in texts else list(dict.fromkeys(text for group in texts for text in group or []))
    if answers is None:
        return None
    raise ValueError(f"`{answers}` is not a text or a list of texts: write it as text")


def drop_texts(answer: dict[str, Any]) -> list[str]:
    """The answer in the format of DROP: spans, a number or a date.

    Raises:
        ValueError: it has several spans, of which each alone would count as an answer.
    """
    spans = [*dict.fromkeys(answer["spans"] or [])]
    if len(spans) > 1:
        raise ValueError(f"the spans {spans} are one answer: join them to one text, or give a list if each is right")
    date = " ".join(filter(None, (answer.get("date") or {}).values()))
    return spans or [text for text in (answer.get("number"), date) if text]


def sample_rows(rows: Dataset) -> list[dict]:
    """Contexts, questions and answers about each three consecutive modules of `python_docs`."""
    first_lines = [(module, text.split("\n")[0]) for module, text in zip(rows["module"], rows["text"], strict=True)]
    sample = []
    for i in range(3, len(first_lines)):
        context = " ".join(f"{module}: {line}" for module, line in first_lines[i - 3 : i])
        module, line = first_lines[i if i % 7 == 0 else i - 1 - i % 3]
        answers = [] if i % 7 == 0 else [module]
        sample.append({"context": context, "question": f'Which module says "{line}"?', "answers": {"text": answers}})
    return sample
