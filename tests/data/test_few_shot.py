"""Few-shot examples come before each prompt and are not evaluated."""

import pytest
from datasets import Dataset, DatasetDict
from tiny import new_tokenizer

from hf_llm.data.few_shot import draw_shots
from hf_llm.data.prompting import Prompter
from hf_llm.tasks import load_task

TOKENIZER = new_tokenizer()
TASK = load_task("summarization")
ROWS = Dataset.from_list(
    [{"document": f"Document {i} counts {'0 1 2 ' * i}", "summary": f"It ends {i}."} for i in range(9)]
)


def test_few_shot_examples_are_removed_from_their_split():
    """And come before each prompt."""
    shots, rows = draw_shots(DatasetDict(validation=ROWS), TASK, 2, seed=0)
    left = {row["summary"] for row in rows["validation"]}
    assert len(left) == 7 and not left & {shot["completion"] for shot in shots}
    text = TOKENIZER.decode(Prompter(TOKENIZER, TASK, 512, shots=shots).prompt_ids(["Now this:"])[0])
    assert text.endswith(f"{shots[1]['completion']}\n\nNow this:")


@pytest.mark.parametrize("name", ["bias", "generation"])
def test_rows_that_share_one_prompt_can_be_few_shot_examples(name):
    """Only rows equal to an example in prompt and completion are left out of the evaluation, repeated ones too."""
    task = load_task(name)
    rows = [{"sent_more": f"{i}", "sent_less": "b", "instruction": "Write.", "output": f"{i}"} for i in (0, 0, 1, 2)]
    for seed in range(5):
        shots, splits = draw_shots(DatasetDict(validation=Dataset.from_list(rows)), task, 2, seed)
        texts = {shot["completion"] for shot in shots}
        assert len(texts) == 2 and not texts & {task.to_example(row)["completion"] for row in splits["validation"]}
