"""Answer a question, from a context or from memory: rows as SQuAD 1.1 and 2.0 have them."""

from dataclasses import dataclass
from typing import ClassVar

from datasets import Dataset, DatasetDict

from hf_llm.messages import add_origin
from hf_llm.metrics import question_answering as squad
from hf_llm.python_docs import python_docs
from hf_llm.tasks import Task, as_list

NO_ANSWER = "unanswerable"


@dataclass
class QuestionAnswering(Task):
    """Exact match and F1. A question that the context does not answer is answered by the word `unanswerable`."""

    language: str = "en"  # of the answers: zh and ja are scored by character, as CMRC 2018 does
    max_new_tokens: int = 32
    with_context: bool = True

    columns: ClassVar = {"question": ("query",), "answers": ("answer",), "context": ("passage",)}
    texts = ("question", "context")
    optional = ("context",)
    document = "context"
    may_have_no_answer = True

    def prepare(self, rows):
        self.version = "1.1"
        for row in rows["validation"]:
            with add_origin(row):
                if not self.references(row):
                    self.version = "2.0"

    def to_example(self, row):
        context = ""
        if self.with_context and row.get("context") is not None:
            context = f"Context: {row['context'].strip()}\n\n"
        return {
            "prompt": f"Answer the question in a few words.\n\n{context}Question: {row['question'].strip()}\nAnswer:",
            "completion": " ".join((self.references(row) or [NO_ANSWER])[0].splitlines()),
        }

    def references(self, row):
        answers = row["answers"]
        texts = answers.get("text") if isinstance(answers, dict) else answers
        if texts is None:
            raise ValueError(f"`answers` is `{answers}`: give its texts, and [] where there is no answer")
        return as_list(texts)

    def answer(self, text, row):
        text = text.strip()
        return "" if text.lower().rstrip(".") == NO_ANSWER else text

    def metric(self):
        return squad.QuestionAnswering(self.version, self.language)

    def sample(self):
        """Which module of Python does what: a context of three; every seventh question is about a fourth."""
        return DatasetDict({part: Dataset.from_list(sample_rows(rows)) for part, rows in python_docs().items()})


def sample_rows(rows: Dataset) -> list[dict]:
    first_lines = [(row["module"], row["text"].split("\n")[0]) for row in rows]
    made = []
    for i in range(3, len(first_lines)):
        context = " ".join(f"{module}: {line}" for module, line in first_lines[i - 3 : i])
        module, line = first_lines[i if i % 7 == 0 else i - 1 - i % 3]
        answers = [] if i % 7 == 0 else [module]
        made.append({"context": context, "question": f'Which module says "{line}"?', "answers": {"text": answers}})
    return made
