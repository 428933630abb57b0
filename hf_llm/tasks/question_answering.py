"""Answer a question with or without a context: rows in the format of SQuAD 1.1 and 2.0."""

from dataclasses import dataclass
from typing import ClassVar

from datasets import Dataset, DatasetDict

from hf_llm.messages import add_origin
from hf_llm.metrics import question_answering as squad
from hf_llm.metrics.segmentation import starts_with_words
from hf_llm.python_docs import python_docs
from hf_llm.tasks import Task, reference_list

NO_ANSWER = "unanswerable"
# What a written answer may say instead, after e.g. "the question is".
NO_ANSWER_TEXTS = (NO_ANSWER, "not answerable", "no answer", "cannot be answered", "can not be answered")
LEADING_WORDS = "the|this|that|it|it['’]s|there|question|answer|is|has"  # noqa: RUF001


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

    columns: ClassVar = {"question": ("query",), "answers": ("answer",), "context": ("passage",)}
    text_columns = ("question", "context")
    optional_columns = ("context",)
    document_column = "context"
    allows_no_answer = True

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
        answers = row["answers"]
        texts = answers.get("text") if isinstance(answers, dict) else answers
        if texts is None:
            raise ValueError(f"`answers` is `{answers}`: give its texts, or [] if there is no answer")
        return reference_list(texts)

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
