"""Any task in a wording of one's own: templates over the columns of a row, a metric, a pattern for the answer."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from datasets import Dataset, DatasetDict

from hf_llm.mappings import read_settings
from hf_llm.messages import add_origin
from hf_llm.metrics import load_metric
from hf_llm.metrics.answers import check_pattern, find_answer, gold_answers
from hf_llm.tasks import Task
from hf_llm.templates import RowTemplate

FILES = (".jinja", ".jinja2", ".j2", ".txt")


@dataclass
class Custom(Task):
    """The score of the metric, e.g. exact match, over answers that a pattern finds in texts.

    The defaults are for rows as in GSM8K: a question, and an answer with its solution.

    Args:
        prompt_template: `--prompt_template`, Jinja over the columns of a row, or a file of it. In a template of one
            line, `\\n` is a line break.
        completion_template: `--completion_template`, the same for the answer. One that writes nothing but a list of
            texts, e.g. `{{ answers }}`, gives several gold answers, of which the first is trained on.
        metric_name: `--metric`.
        answer_pattern: `--answer_pattern`, what is compared of a generated text and of the gold answer. Default: all.
        language: of the texts, for metrics that split them into words.
        document: the column that is shortened if a row is too long. Default: none, such a row is refused.
    """

    prompt_template: str = "Question: {{ question }}\nAnswer:"
    completion_template: str = "{{ answer }}"
    metric_name: str = "exact_match"
    answer_pattern: str = ""
    language: str = "en"
    document: str = ""
    max_new_tokens: int = 128

    columns: ClassVar = {"question": (), "answer": ()}
    stop_strings: ClassVar = ()

    def __post_init__(self):
        self.prompt = new_template("--prompt_template", self.prompt_template)
        self.completion = new_template("--completion_template", self.completion_template)
        check_pattern(self.answer_pattern)
        self.metric()
        if self.document and self.document not in self.prompt.columns:
            raise ValueError(
                f"`--task_options` document={self.document}: `--prompt_template` reads no such column, only "
                f"{', '.join(self.prompt.columns)}"
            )
        columns = {name: () for name in sorted({*self.prompt.columns, *self.completion.columns})}
        # Of this instance, and not of the class.
        vars(self).update(columns=columns, document_column=self.document or None)

    def prepare(self, rows):
        """Check all gold answers, and let generated ones end with their line or paragraph if all gold ones do."""
        golds = []
        for row in (row for split_rows in rows.values() for row in split_rows.to_list()):
            with add_origin(row):
                self.references(row)
                golds.append(self.to_example(row)["completion"])
        # A base model goes on with a question of its own, whose answer would be found last.
        ends = (end for end in ("\n", "\n\n") if not any(end in gold for gold in golds))
        vars(self).update(stop_strings=(*ends,)[:1])

    def to_example(self, row):
        return {"prompt": self.prompt.text(row), "completion": "".join(self.completion.texts(row)[:1])}

    def references(self, row):
        return gold_answers([text for text in self.completion.texts(row) if text], self.answer_pattern)

    def answer(self, text, row):
        return (find_answer(text, self.answer_pattern) or "") if self.answer_pattern else text.strip()

    def metric(self):
        return load_metric(self.metric_name, self.language)

    def sample(self):
        """Sums of two numbers with a solution and the final answer, as in GSM8K; every seventh is for validation."""
        pairs = [(a, b) for a in range(2, 16) for b in range(2, 16)]
        rows = {"train": [], "validation": []}
        for number, (a, b) in enumerate(pairs):
            question = f"Ann has {a} eggs and buys {b}. How many has she now?"
            row = {"question": question, "answer": f"She has {a} + {b} = {a + b} eggs.\n#### {a + b}"}
            rows["train" if number % 7 else "validation"].append(row)
        return DatasetDict({split: Dataset.from_list(split_rows) for split, split_rows in rows.items()})


def new_template(flag: str, source: str) -> RowTemplate:
    """Make a template of a flag's value, which may be the name of a file.

    Raises:
        ValueError: the file cannot be read, or the template is not valid or the same for all rows.
    """
    template = RowTemplate(flag, read_template(flag, source))
    if not template.columns:
        raise ValueError(f"`{flag}` {source} reads no column of the rows: write one as `{{{{ COLUMN }}}}`")
    return template


def read_template(flag: str, source: str) -> str:
    """The text of a flag's value, which may be the name of a file.

    Raises:
        ValueError: the file cannot be read.
    """
    if source.endswith(FILES) and "{" not in source:
        return read_settings(Path(source).expanduser(), f"`{flag}` {source}")
    return source if "\n" in source else source.replace("\\n", "\n")
