"""What of a row is prompt and completion."""

import pytest
from task_rows import load

from hf_llm import load_task


def test_a_system_prompt_comes_before_the_instruction(tmp_path):
    """In a column of its own, as in OpenOrca."""
    task = load_task("generation")
    (row,) = load(tmp_path, task, [{"system_prompt": "Be brief.", "question": "Why?", "response": "So."}])
    assert task.to_example(row) == {"prompt": "Be brief.\n\nWhy?", "completion": "So."}


def test_a_conversation_replaces_the_instruction_that_it_repeats(tmp_path):
    """As in Magpie."""
    turns = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]
    task = load_task("generation")
    (row,) = load(tmp_path, task, [{"instruction": "Why?", "response": "So.", "conversations": turns}])
    assert task.to_example(row) == {"prompt": "Why?", "completion": "So."}


@pytest.mark.parametrize(
    "row, message",
    [
        ({"prompt": "Why?", "completion": "Because.", "label": False}, "`label` says that some answers are wrong"),
        ({"instruction": "Why?", "output": "So.", "history": [["Who?", "You."]]}, "`history` has earlier turns"),
        (
            {
                "messages": [
                    {"role": "user", "content": "Why?"},
                    {"role": "assistant", "content": "So.", "reasoning_content": "Hm."},
                ]
            },
            "`reasoning_content` of a message is not supported",
        ),
    ],
)
def test_what_would_be_lost_or_learned_wrongly_is_refused(row, message, tmp_path):
    """Bad completions of KTO, earlier turns, and thoughts."""
    with pytest.raises(ValueError, match=message):
        load(tmp_path, load_task("generation"), [row, row])


def test_system_messages_in_the_turn_of_the_user_are_counted(tmp_path, caplog):
    """Of conversations and of columns; rows without one are not."""
    task, answer = load_task("generation"), {"role": "assistant", "content": "So."}
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}, answer]
    rows = load(tmp_path, task, [{"messages": turns}, {"messages": turns[1:]}])
    assert [task.to_example(row)["prompt"] for row in rows] == ["Be brief.\n\nWhy?", "Why?"]
    assert "validation: the system messages of 1 of 2 rows are written before the prompt" in caplog.text
