"""What of a row is prompt and completion."""

import pytest
from task_rows import load

from hf_llm import load_task
from hf_llm.data.few_shot import example_of

QUESTION, ANSWER = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}


def test_a_system_prompt_is_a_message_of_its_own(tmp_path):
    """In a column of its own, as in OpenOrca; an empty one is none."""
    task = load_task("generation")
    rows = [{"system_prompt": text, "question": "Why?", "response": "So."} for text in ("Be brief.", " ")]
    first, second = map(task.to_example, load(tmp_path, task, rows))
    assert first == {"system": "Be brief.", "prompt": "Why?", "completion": "So."}
    assert second == {"prompt": "Why?", "completion": "So."}


def test_a_conversation_replaces_the_instruction_that_it_repeats(tmp_path):
    """As in Magpie."""
    turns = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]
    task = load_task("generation")
    (row,) = load(tmp_path, task, [{"instruction": "Why?", "response": "So.", "conversations": turns}])
    assert task.to_example(row)["messages"] == [QUESTION, ANSWER]


def test_instructions_stay_prompt_and_completion_where_other_columns_repeat_them(tmp_path):
    """The text of Alpaca, an empty history, no tools: the document can still be shortened."""
    task = load_task("generation")
    given = {"instruction": "Why?", "input": "It rains.", "output": "So.", "text": "### Human: Why?### Assistant: So."}
    (row,) = load(tmp_path, task, [given | {"history": [], "tools": "[]", "messages": [QUESTION, ANSWER]}])
    assert task.to_example(row) == {"prompt": "Why?\n\nIt rains.", "completion": "So."}


def test_instructions_with_earlier_turns_are_conversations(tmp_path):
    """The history of LLaMA-Factory, which some rows have."""
    task = load_task("generation")
    given = {"instruction": "And why?", "input": "", "output": "So.", "system": "Be brief."}
    first, second = load(tmp_path, task, [given | {"history": [["Why?", "So."]]}, given | {"history": []}])
    system, last = {"role": "system", "content": "Be brief."}, [{"role": "user", "content": "And why?"}, ANSWER]
    assert task.to_example(first)["messages"] == [system, QUESTION, ANSWER, *last]
    assert task.to_example(second)["messages"] == [system, *last]


@pytest.mark.parametrize(
    "row, message",
    [
        ({"prompt": "Why?", "completion": "Because.", "label": False}, "`label` says that some answers are wrong"),
        ({"question": "Why?", "answer": False}, "`False` is not a text or a list of texts"),
        ({"question": "Why?"}, "has no column `output`"),
    ],
)
def test_what_would_be_learned_wrongly_is_refused(row, message, tmp_path):
    """Bad completions of KTO, and what is not an answer."""
    with pytest.raises(ValueError, match=message):
        task = load_task("generation")
        example_of(load(tmp_path, task, [row, row])[0], task)


@pytest.mark.parametrize(
    "row",
    [
        {"inputs": "Hi.", "targets": "Ho."},  # Aya, FLAN
        {"problem": "Hi.", "solution": "Ho.", "answer": "H"},  # MATH
        {"input": "Hi.", "target": "Ho."},  # BBH
        {"query": "Hi.", "response": "Ho.", "original_question": "What?"},  # MetaMath
    ],
)
def test_pairs_of_other_columns_are_read(row, tmp_path):
    """The solution, and not its final answer alone."""
    task = load_task("generation")
    (loaded,) = load(tmp_path, task, [row])
    assert task.to_example(loaded) == {"prompt": "Hi.", "completion": "Ho."}


def test_an_input_follows_its_definition(tmp_path):
    """As in Natural Instructions."""
    task = load_task("generation")
    (row,) = load(tmp_path, task, [{"definition": "Greet.", "inputs": "Hi.", "targets": "Ho."}])
    assert task.to_example(row) == {"prompt": "Greet.\n\nHi.", "completion": "Ho."}
