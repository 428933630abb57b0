"""Few-shot examples come before each prompt and are not evaluated."""

import pytest
from datasets import Dataset, DatasetDict
from tiny import new_tokenizer

from hf_llm.arguments import DataArguments, TaskArguments
from hf_llm.data.few_shot import draw_shots
from hf_llm.data.prompting import Prompter, task_settings
from hf_llm.data.rows import load_rows
from hf_llm.tasks import load_task

TOKENIZER = new_tokenizer()
TASK = load_task("summarization")
ROWS = Dataset.from_list(
    [{"document": f"Document {i} counts {'0 1 2 ' * i}", "summary": f"It ends {i}."} for i in range(9)]
)


def test_few_shot_examples_are_removed_from_their_split():
    """And come before each prompt."""
    rows = draw_shots(DatasetDict(validation=ROWS), TASK, 2, seed=0)
    left, settings = {row["summary"] for row in rows["validation"]}, task_settings(TaskArguments(), TASK, rows)
    shots = settings.shots
    assert len(left) == 7 and len(shots) == 2 and not left & {shot["completion"] for shot in shots}
    text = TOKENIZER.decode(Prompter(TOKENIZER, TASK, 512, settings).prompt_ids([{"prompt": "Now this:"}])[0])
    assert text.endswith(f"{shots[1]['completion']}\n\nNow this:")


def test_sentences_without_a_prompt_can_be_few_shot_examples():
    """Only rows equal to an example are left out of the evaluation, repeated ones too."""
    rows = [{"sent_more": f"{i}", "sent_less": "b"} for i in (0, 0, 1, 2)]
    task = load_task("bias")
    for seed in range(5):
        splits = draw_shots(DatasetDict(validation=Dataset.from_list(rows)), task, 2, seed)
        texts = {task.to_example(row)["completion"] for row in splits["fewshot"]}
        assert len(texts) == 2 and not texts & {task.to_example(row)["completion"] for row in splits["validation"]}


@pytest.mark.parametrize("split", ["train", "validation"])
def test_no_evaluated_row_has_the_prompt_of_a_few_shot_example(split):
    """Whatever its completion: the example would show an answer to it. Nor do two examples have the same prompt."""
    rows = Dataset.from_list([{"instruction": f"Name {i // 2}.", "output": f"It is {i}."} for i in range(12)])
    splits = DatasetDict({"validation": rows} | ({"train": rows.select(range(2, 12))} if split == "train" else {}))
    if split == "train":
        splits["validation"] = rows.select(range(6))
    task = load_task("generation")
    for seed in range(5):
        left = draw_shots(splits, task, 2, seed)
        prompts = {task.to_example(row)["prompt"] for row in left["fewshot"]}
        assert len(prompts) == 2 and not prompts & {task.to_example(row)["prompt"] for row in left["validation"]}
    with pytest.raises(ValueError, match=f"`{split}` has . different prompts to draw from"):
        draw_shots(splits, task, 6, seed=0)


@pytest.mark.parametrize("given", ["train_file", "validation_file"])
def test_every_model_of_an_evaluation_has_the_same_rows(given, tmp_path):
    """An encoder reads no few-shot examples, but is not scored on them either: they are drawn with the rows."""
    ROWS.to_json(tmp_path / "rows.jsonl")
    data_args = DataArguments(**{given: [str(tmp_path / "rows.jsonl")]})
    rows = load_rows(data_args, TaskArguments("summarization", num_fewshot=2), TASK, 0)
    split = given.removesuffix("_file")
    shots, left = ({*part["summary"]} for part in (rows["fewshot"], rows[split]))
    assert len(shots) == 2 and not shots & left
    whole = load_rows(data_args, TaskArguments("summarization"), TASK, 0)
    assert "fewshot" not in whole and {*whole[split]["summary"]} == shots | left
