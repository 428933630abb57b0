"""Conversations in the layouts of the Hub become messages and tools in one form."""

import json

import pytest

from hf_llm.conversations import check_conversation, read_conversation

USER, ANSWER = {"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Ho."}
SYSTEM = {"role": "system", "content": "Be brief."}
MORE = [{"role": "user", "content": "So?"}, {"role": "assistant", "content": "Yes."}]
FUNCTION = {"name": "look", "arguments": {"at": "goats"}}
CALL = {"type": "function", "function": FUNCTION}
CALLING, RESULT = {"role": "assistant", "content": "", "tool_calls": [CALL]}, {"role": "tool", "content": "9"}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
TEXTS = ["Hi.", "Ho.", "So?", "Yes."]
CHATML = "<|im_start|>user\nHi.<|im_end|>\n<|im_start|>assistant\nHo.<|im_end|>\n"
LAYOUTS = [
    ({"messages": [USER, ANSWER, *MORE]}, [USER, ANSWER, *MORE]),
    ({"messages": json.dumps([USER, ANSWER])}, [USER, ANSWER]),
    ({"messages": f"{[USER, ANSWER]}"}, [USER, ANSWER]),  # as pandas writes it to a CSV file
    ({"messages": [{"role": "User", "content": "Hi."}, {"role": "Chatbot", "content": "Ho."}]}, [USER, ANSWER]),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi."}]}, ANSWER]}, [USER, ANSWER]),
    ({"conversations": [{"from": "human", "value": "Hi."}, {"from": "gpt", "value": "Ho."}]}, [USER, ANSWER]),
    ({"conversations": {"from": ["user", "bing"], "value": ["Hi.", "Ho."]}}, [USER, ANSWER]),
    ({"conversations": [USER, ANSWER], "system": "Be brief."}, [SYSTEM, USER, ANSWER]),
    ({"messages": [SYSTEM | {"content": " "}, USER, ANSWER], "system_prompt": ""}, [USER, ANSWER]),
    ({"conversation": [{"human": "Hi.", "assistant": "Ho."}, {"input": "So?", "output": "Yes."}]},
     [USER, ANSWER, *MORE]),
    ({"data": TEXTS}, [USER, ANSWER, *MORE]),  # UltraChat
    ({"prompt": [USER], "completion": [ANSWER]}, [USER, ANSWER]),
    ({"prompt": "Hi.", "chosen": [USER, ANSWER], "rejected": [USER, MORE[1]]}, [USER, ANSWER]),
    ({"input": {"messages": [USER], "tools": []}, "preferred_output": [ANSWER]}, [USER, ANSWER]),
    ({"instruction": "So?", "input": "", "output": "Yes.", "history": [["Hi.", "Ho."]]}, [USER, ANSWER, *MORE]),
    ({"query": "So?", "response": "Yes.", "history": '[["Hi.", "Ho."]]'}, [USER, ANSWER, *MORE]),
    ({"contents": [{"role": "user", "parts": [{"text": "Hi."}]}, {"role": "model", "parts": [{"text": "Ho."}]}]},
     [USER, ANSWER]),
    ({"prompt": {"role": "prompter", "text": "Hi.", "replies": [
        {"role": "assistant", "text": "Hm.", "rank": 1}, {"role": "assistant", "text": "Ho.", "rank": 0}]}},
     [USER, ANSWER]),
    ({"chosen": "\n\nHuman: Hi.\n\nAssistant: Ho.\n\nHuman: So?\n\nAssistant: Yes."}, [USER, ANSWER, *MORE]),
    ({"prompt": "\n\nHuman: Hi.\n\nAssistant:", "chosen": " Ho."}, [USER, ANSWER]),
    ({"text": "### Human: Hi.### Assistant: Ho.### Human: So?### Assistant: Yes."}, [USER, ANSWER, *MORE]),
    ({"text": "### Instruction:\nHi.\n\n### Response:\nHo."}, [USER, ANSWER]),
    ({"text": CHATML}, [USER, ANSWER]),
    ({"text": "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi. [/INST] Ho. </s><s>[INST] So? [/INST] Yes. </s>"},
     [SYSTEM, USER, ANSWER, *MORE]),
    ({"text": "<|user|>\nHi.</s>\n<|assistant|>\nHo.</s>"}, [USER, ANSWER]),
    ({"text": "<start_of_turn>user\nHi.<end_of_turn>\n<start_of_turn>model\nHo.<end_of_turn>"}, [USER, ANSWER]),
    ({"text": "USER: Hi. ASSISTANT: Ho.</s>"}, [USER, ANSWER]),
    ({"text": "<human>: Hi.\n<bot>: Ho."}, [USER, ANSWER]),
    ({"messages": [USER, ANSWER | {"reasoning": "Hm."}]}, [USER, ANSWER | {"reasoning_content": "Hm."}]),
]  # fmt: skip
TOOL_LAYOUTS = [
    {"messages": [USER, CALLING | {"content": None}, RESULT, ANSWER], "tools": [TOOL]},
    {"messages": [USER, {"role": "assistant", "function_call": {"name": "look", "arguments": '{"at": "goats"}'}},
                  {"role": "function", "content": "9"}, ANSWER], "functions": [TOOL["function"]]},
    {"conversations": [{"from": "human", "value": "Hi."}, {"from": "function_call", "value": json.dumps(FUNCTION)},
                       {"from": "observation", "value": "9"}, {"from": "gpt", "value": "Ho."}],
     "tools": json.dumps([TOOL["function"]])},
    {"chat": "USER: Hi.\n\n\nASSISTANT: <functioncall> {\"name\": \"look\", \"arguments\": '{\"at\": \"goats\"}'} "
             "<|endoftext|>\n\n\nFUNCTION RESPONSE: 9\n\n\nASSISTANT: Ho. <|endoftext|>",
     "system": 'SYSTEM: \n{"name": "look", "parameters": {"type": "object"}}'},
]  # fmt: skip


@pytest.mark.parametrize(("row", "messages"), LAYOUTS)
def test_every_layout_becomes_the_same_messages(row, messages):
    """Whatever the names of columns, keys and roles are."""
    conversation = read_conversation(row)
    check_conversation(conversation)
    assert conversation == {"messages": messages, "tools": None}
    assert read_conversation(conversation) == conversation


@pytest.mark.parametrize("row", TOOL_LAYOUTS)
def test_calls_of_tools_become_objects(row):
    """Arguments as JSON text, calls as turns of their own, definitions with and without OpenAI's frame."""
    conversation = read_conversation(row)
    check_conversation(conversation)
    assert conversation == {"messages": [USER, CALLING, RESULT, ANSWER], "tools": [TOOL]}


def test_the_answers_of_a_query_may_be_calls():
    """As in xLAM; an explicit null stays."""
    answers = [{"name": "look", "arguments": {"at": None}}]
    row = {"query": "Hi.", "answers": json.dumps(answers), "tools": json.dumps([TOOL["function"]])}
    conversation = read_conversation(row)
    assert conversation["messages"][1]["tool_calls"] == [{"type": "function", "function": answers[0]}]


def test_calls_and_results_of_anthropic_are_parts_of_contents():
    """A result becomes a message of its own, an identifier stays."""
    use = {"type": "tool_use", "id": "t", "name": "look", "input": {"at": "goats"}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": "9"}
    contents = [("assistant", [{"type": "thinking", "thinking": "Hm."}, use]), ("user", [result]), ("assistant", "Ho.")]
    messages = [USER, *({"role": role, "content": content} for role, content in contents)]
    tools = [{"name": "look", "input_schema": {"type": "object"}}]
    calling = CALLING | {"reasoning_content": "Hm.", "tool_calls": [{"id": "t", **CALL}]}
    expected = [USER, calling, RESULT | {"tool_call_id": "t"}, ANSWER]
    assert read_conversation({"messages": messages, "tools": tools}) == {"messages": expected, "tools": [TOOL]}


def test_calls_as_text_stay_text():
    """As in Hermes; their results have a call."""
    call = {"role": "assistant", "content": '<tool_call>\n{"name": "look"}\n</tool_call>'}
    conversation = read_conversation({"messages": [USER, call, RESULT, ANSWER]})
    check_conversation(conversation)
    assert conversation["messages"][1] == call


@pytest.mark.parametrize("row", [{"text": "A text."}, {"prompt": "[INST] Hi."}, {"question": "Hi.", "answer": "Ho."}])
def test_other_rows_have_no_conversation(row):
    """A text, a prompt, an exchange."""
    assert read_conversation(row) is None


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([ANSWER, USER], "starts with the assistant"),
        ([SYSTEM], "no message of the user"),
        ([USER, {"role": "wizard", "content": "Hm."}], "message 2 has the role `wizard`: name it system, user"),
        ([USER, RESULT], "message 2 is the result of a tool without its call"),
        ([USER, ANSWER, RESULT], "message 3 is the result of a tool without its call"),
        ([USER, CALLING | {"tool_calls": [CALL | {"id": "a"}]}, RESULT | {"tool_call_id": "b"}], "message 3 is the"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "message 1: its content has a part of type `image_"),
        ([{"role": "user", "content": 5}], "message 1: its content has `5`"),
        ([{"foo": "bar"}], "has no role"),
        ([5], "message 1 is `5`, not an object"),
        ([USER, CALLING | {"tool_calls": [{"name": "look", "arguments": "{at"}]}], "is not a call with a name"),
    ],
)
def test_bad_conversations_are_refused(messages, message):
    """With the number of the message."""
    with pytest.raises(ValueError, match=message):
        check_conversation(read_conversation({"messages": messages}))
