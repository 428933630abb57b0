"""Conversations as a task: every layout, what is cut, what is refused, what is scored."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict
from task_rows import load
from tiny import new_tokenizer

from hf_llm import DataArguments, TaskArguments, load_rows, load_task
from hf_llm.data.prompting import Prompter
from hf_llm.evaluation.scoring import encode_task

USER, ANSWER = {"role": "user", "content": "How many goats?"}, {"role": "assistant", "content": "Nine."}
SYSTEM = {"role": "system", "content": "Be brief."}
ARGUMENTS = {"at": "goats", "unit": None, "x": 0.1234567890123456}
CALL = {"type": "function", "function": {"name": "look", "arguments": ARGUMENTS}}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "default": None}}}
CALLING = {"role": "assistant", "content": "", "tool_calls": [CALL]}
WITH_TOOLS = [USER, CALLING, {"role": "tool", "content": "9"}, ANSWER]


CALLS = (  # a template that writes calls as JSON; with another form of them
    "{{ tools | tojson }}"
    "{% for m in messages %}{{ pad_token }}{{ m.role }}{{ pad_token }}{{ m.content }}{% for call in m.tool_calls %}"
    "FORM{% endfor %}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ pad_token }}assistant{{ pad_token }}{% endif %}"
)
AS_JSON = "{{ call.function | tojson }}"
AS_WORDS = "call: {{ call.function.name }}{% for pair in call.function.arguments.items() %} {{ pair }}{% endfor %}"


def messages_of(task, rows):
    return [task.to_example(row)["messages"] for row in rows]


@pytest.mark.parametrize("name", ["chat", "generation"])
def test_tools_and_arguments_of_files_are_kept_as_they_are(name, tmp_path):
    """Rows with other arguments, an explicit null, long numbers: nothing is filled in, dropped or rounded."""
    task = load_task(name)
    other = {"type": "function", "function": {"name": "count", "arguments": {"n": 1, "of": ["a", {"b": 2}]}}}
    rows = [
        {"messages": WITH_TOOLS, "tools": [TOOL]},
        {"messages": [USER, CALLING | {"tool_calls": [other]}], "tools": [TOOL, {"name": "count"}]},
        {"messages": [USER, ANSWER]},
    ]
    first, second, third = (task.to_example(row) for row in load(tmp_path, task, rows))
    assert first == {"messages": WITH_TOOLS, "tools": [TOOL]}
    assert second["messages"][-1]["tool_calls"] == [other] and json.dumps(second).count('"n": 1,') == 1
    assert second["tools"] == [TOOL, {"type": "function", "function": {"name": "count"}}]
    assert third == {"messages": [USER, ANSWER], "tools": None}


def test_nulls_that_arrow_fills_in_are_dropped(tmp_path):
    """In Parquet and data sets of the Hub all messages and arguments of a column have the same keys."""
    task, path = load_task("chat"), tmp_path / "rows.parquet"
    call = {"type": "function", "function": {"name": "count", "arguments": {"n": 1}}}
    messages = [USER, CALLING | {"tool_calls": [CALL, call]}]
    rows = Dataset.from_list([{"messages": messages}, {"messages": [USER, ANSWER]}])
    assert "n" in rows[0]["messages"][1]["tool_calls"][0]["function"]["arguments"]
    pq.write_table(pa.table(rows.data.table), path)
    read = load_rows(DataArguments(validation_file=[str(path)]), TaskArguments(task=""), task, 42)["validation"]
    first, second = messages_of(task, read)
    arguments = [each["function"]["arguments"] for each in first[1]["tool_calls"]]
    assert [set(each) for each in arguments] == [{"at", "x"}, {"n"}] and second == [USER, ANSWER]


def test_a_column_of_another_name_is_mapped(tmp_path):
    """Its rows keep what they have, too."""
    task, path = load_task("chat"), tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"talk": each}) for each in (WITH_TOOLS, [USER, ANSWER])))
    arguments = TaskArguments(task="", column_mapping={"talk": "messages"})
    rows = load_rows(DataArguments(validation_file=[str(path)]), arguments, task, 42)["validation"]
    assert messages_of(task, rows) == [WITH_TOOLS, [USER, ANSWER]]


def test_conversations_are_cut_after_their_last_answer_and_counted(tmp_path, caplog):
    """A last question, a result of a tool, an empty answer; without any answer, nothing is left to learn."""
    task, empty = load_task("chat"), {"role": "assistant", "content": " "}
    rows = [[USER, ANSWER, USER], WITH_TOOLS[:3], [USER, ANSWER, USER, empty, USER, ANSWER], [USER], [USER, ANSWER]]
    read = messages_of(task, load(tmp_path, task, [{"messages": messages} for messages in rows]))
    assert read == [[USER, ANSWER], WITH_TOOLS[:2], [USER, ANSWER], [USER, ANSWER]]
    assert "of 5 conversations, 3 are cut after their last answer or before an empty one, and 1 without" in caplog.text
    with pytest.raises(ValueError, match="`validation`: none of the 2 conversations has an answer"):
        load(tmp_path, task, [{"messages": [USER]}] * 2)


def test_the_rejected_answer_of_a_pair_is_not_used(tmp_path, caplog):
    """Which the log says."""
    task = load_task("chat")
    (row,) = load(tmp_path, task, [{"prompt": "How many goats?", "chosen": "Nine.", "rejected": "Ten."}])
    assert messages_of(task, [row]) == [[USER, ANSWER]]
    assert "`rejected` is not used: only the preferred answers are trained on" in caplog.text


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": [ANSWER, USER, ANSWER]}, "line 2: the conversation starts with the assistant"),
        ({"messages": [{"role": "wizard", "content": "Hm."}, ANSWER]}, "line 2: message 1 has the role `wizard`"),
        ({"messages": [USER, {"role": "tool", "content": "9"}, ANSWER]}, "line 2: message 2 is the result of a tool"),
        ({"messages": None}, "line 2: the row has no conversation"),
        ({"messages": "[{'role': 'user'"}, "line 2: .*is not a list or dictionary: write it as JSON"),
        ({"messages": [USER, ANSWER], "label": False}, "`label` says that some answers are wrong"),
        ({"messages": [USER, ANSWER], "images": ["a.png"]}, "line 2: `images` is part of the conversation"),
        ({"messages": [USER, ANSWER | {"weight": 0}]}, "line 2: message 2: `weight` 0 says that it is not trained on"),
    ],
)
def test_bad_conversations_are_refused_by_file_and_line(row, message, tmp_path):
    """Before anything else is done."""
    good = {"messages": json.dumps([USER, ANSWER]) if isinstance(row["messages"], str) else [USER, ANSWER]}
    good |= {name: True if name == "label" else [] for name in row if name != "messages"}
    with pytest.raises(ValueError, match=message):
        load(tmp_path, load_task("chat"), [good, row])


def test_rows_without_conversations_name_the_task_that_reads_them(tmp_path):
    """A single text is not a conversation."""
    with pytest.raises(ValueError, match=r"no column `messages`.*or take `--task summarization`"):
        load(tmp_path, load_task("chat"), [{"article": "Long.", "highlights": "Short."}])


def test_every_answer_of_a_conversation_can_be_scored(tmp_path):
    """One row for each; the messages before it are its prompt."""
    task = load_task("chat", evaluate_turns="every")
    rows = task.evaluated(load(tmp_path, task, [{"messages": [SYSTEM, *WITH_TOOLS], "tools": [TOOL]}]))
    assert [len(messages) for messages in messages_of(task, rows)] == [3, 5]
    call, text = map(task.references, rows)
    assert json.loads(call[0]) == [CALL["function"]] and text == ["Nine."]
    assert {*task.metric().score_names} == {"tool_calls", "tool_names"}
    with pytest.raises(ValueError, match="evaluate_turns=all: choose last or every"):
        load_task("chat", evaluate_turns="all")


def test_calls_are_scored_where_the_last_answer_has_some():
    """Else diversity and repetition."""
    for messages, scores in ((WITH_TOOLS, "repetition"), (WITH_TOOLS[:2], "tool_calls")):
        task = load_task("chat")
        task.prepare(DatasetDict(validation=Dataset.from_list([{"messages": json.dumps(messages)}])))
        assert scores in task.metric().score_names
    text = 'I look.\n<tool_call>\n{"name": "look", "arguments": {"at": "goats"}}\n</tool_call>'
    assert json.loads(task.answer(text, {})) == [{"name": "look", "arguments": {"at": "goats"}}]
    assert task.answer(" Nine. ", {}) == "Nine."


@pytest.mark.parametrize(("form", "unread"), [(AS_JSON, 0), (AS_WORDS, 1)])
def test_calls_survive_rendering_and_are_read_back_from_it(form, unread, tmp_path, caplog):
    """The references are the calls unchanged; where a template writes calls that cannot be read, the log says so."""
    tokenizer, task = new_tokenizer(), load_task("chat", max_new_tokens=8, evaluate_turns="every")
    tokenizer.chat_template = CALLS.replace("FORM", form)
    rows = load(tmp_path, task, [{"messages": WITH_TOOLS, "tools": [TOOL]}])
    encoded = encode_task(Prompter(tokenizer, task, 2048), rows)
    assert json.loads(encoded.prompts["references"][0][0]) == [CALL["function"]]
    assert (json.dumps(ARGUMENTS) in tokenizer.decode(encoded.prompts["prompt"][1])) is (form == AS_JSON)
    assert (f"{unread} of 2 gold answers cannot be read back" in caplog.text) is bool(unread)


def test_messages_that_are_a_row_each_are_joined(tmp_path, caplog):
    """As in OpenAssistant: the best reply each time; a message without what it replies to is counted."""
    rows = [
        {"message_id": "a", "parent_id": None, "role": "prompter", "text": "Hi.", "rank": None},
        {"message_id": "b", "parent_id": "a", "role": "assistant", "text": "Hm.", "rank": 1},
        {"message_id": "c", "parent_id": "a", "role": "assistant", "text": "Ho.", "rank": 0},
        {"message_id": "d", "parent_id": "x", "role": "assistant", "text": "Lost.", "rank": 0},
    ]
    for name in ("chat", "generation"):
        task = load_task(name)
        (row,) = load(tmp_path, task, rows)
        assert [message["content"] for message in task.to_example(row)["messages"]] == ["Hi.", "Ho."]
    assert "1 of 4 messages are not used: what they reply to is missing" in caplog.text
    with pytest.raises(ValueError, match="no message is the first of a conversation"):
        load(tmp_path, load_task("chat"), rows[1:])
