"""Conversations as prompts of `recipes/generate.py`; tests of texts are in `test_generation.py`."""

import json

import pytest
from tiny import new_tokenizer

from hf_llm.arguments import GenerateArguments
from hf_llm.data.prompting import new_chat_format
from hf_llm.evaluation.prompts import format_prompts, read_prompts

TEMPLATE = (
    "{% if tools %}{{ tools[0].function.name }}\n{% endif %}"
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
USER, ANSWER = {"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}
TOOL = {"type": "function", "function": {"name": "clock", "parameters": {}}}


@pytest.fixture
def read(tmp_path):
    """Reads rows that are written to a prompt file."""

    def read_rows(*rows):
        (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
        return read_prompts(GenerateArguments(model_name_or_path="m", prompt_file=str(tmp_path / "p.jsonl")))

    return read_rows


def test_conversations_are_prompts_beside_texts(read, caplog):
    """With their tools, in any layout that is trained on; a last answer is left out and counted."""
    rows = read(
        {"messages": [USER, ANSWER, USER], "tools": [TOOL]},
        {"conversations": [{"from": "human", "value": "Hi."}, {"from": "gpt", "value": "Hello."}]},
        {"prompt": "Hi."},
    )
    assert rows[1] == {"messages": [USER], "tools": None} and "The last answers in 1 of 3 rows" in caplog.text
    tokenizer = new_tokenizer()
    tokenizer.chat_template = TEMPLATE
    prompts = tokenizer.batch_decode(format_prompts(tokenizer, rows, new_chat_format(tokenizer)))
    assert prompts == [
        "clock\nuser: Hi.\nassistant: Hello.\nuser: Hi.\nassistant:",
        "user: Hi.\nassistant:",
        "user: Hi.\nassistant:",
    ]


def test_a_conversation_without_a_template_is_refused(read):
    """The remedy is a built-in template."""
    with pytest.raises(ValueError, match=r"conversations need a chat template.*give `--chat_template chatml`"):
        format_prompts(new_tokenizer(), read({"messages": [USER]}))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": [ANSWER, USER]}, "line 1: the conversation starts with the assistant"),
        ({"messages": [{"role": "judge", "content": "x"}, USER]}, "line 1: .*judge"),
        ({"messages": "Hi."}, 'line 1: write {"prompt": "..."}'),
        ({"messages": [ANSWER]}, "line 1: the conversation has no message of the user"),
    ],
    ids=["assistant first", "role", "text", "answer only"],
)
def test_a_conversation_that_is_none_is_named_with_its_line(read, row, message):
    """Its order, its roles, its form."""
    with pytest.raises(ValueError, match=message):
        read(row)
