"""Calls of tools: which texts are calls, and when they are right."""

import json

import pytest

from hf_llm.metrics.tool_calls import ToolCalls, find_calls

LOOK = {"name": "look", "arguments": {"at": "goats", "n": 2}}
COUNT = {"name": "count", "arguments": {}}


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>\n{"name": "look", "arguments": {"at": "goats", "n": 2}}\n</tool_call>',  # Hermes, Qwen
        '{"name": "look", "parameters": {"at": "goats", "n": 2}}',  # Llama 3
        '[TOOL_CALLS] [{"name": "look", "arguments": {"at": "goats", "n": 2}, "id": "a"}]',  # Mistral
        'look[ARGS]{"at": "goats", "n": 2}',
        '{"type": "function", "function": {"name": "look", "arguments": "{\\"at\\": \\"goats\\", \\"n\\": 2}"}}',
        'I look [now].\n[{"tool_call_id": "0", "tool_name": "look", "parameters": {"at": "goats", "n": 2}}]',  # Cohere
        "<tool_call>\n<function=look>\n<parameter=at>\ngoats\n</parameter>\n<parameter=n>\n2\n</parameter>\n</function>",
        "<tool_call>look\n<arg_key>at</arg_key>\n<arg_value>goats</arg_value>\n<arg_key>n</arg_key>\n"
        "<arg_value>2</arg_value>\n</tool_call>",  # GLM
        "[look(at='goats', n=2)]",  # Llama 4
    ],
)
def test_calls_are_found_as_templates_write_them(text):
    """Alone, among words, in lists."""
    assert json.loads(find_calls(text)) == [LOOK]


@pytest.mark.parametrize("text", ["Nine.", '{"name": "Maria", "age": 9}', "[1, 2]", "look(at='a')", "{" * 5000, "[)]"])
def test_other_texts_are_no_calls(text):
    """Among them objects with a name, and brackets without an end."""
    assert find_calls(text) == ""


@pytest.mark.parametrize(
    ("calls", "right", "names"),
    [
        ([LOOK, COUNT], 1, 1),
        ([COUNT, LOOK], 1, 1),  # in any order
        ([LOOK], 0, 0),
        ([LOOK, COUNT, COUNT], 0, 0),
        ([{"name": "look", "arguments": {"at": "Goats.", "n": 2.0}}, COUNT], 1, 1),  # without case and marks
        ([{"name": "look", "arguments": {"at": "goats", "n": True}}, COUNT], 0, 1),
        ([{"name": "look", "arguments": {"at": "goats"}}, COUNT], 0, 1),
        ([{"name": "look", "arguments": {"at": "goats", "n": 2, "m": 1}}, COUNT], 0, 1),
        ([{"name": "Look", "arguments": LOOK["arguments"]}, COUNT], 0, 0),
    ],
)
def test_calls_are_right_if_names_and_arguments_are(calls, right, names):
    """As many as expected, none missing, none made up."""
    (scores,) = ToolCalls().row_scores([json.dumps(calls)], [json.dumps([LOOK, COUNT])])
    assert scores == {"tool_calls": right, "tool_names": names}


def test_rows_without_calls_are_scored_apart():
    """A call where none was expected lowers no share of the rows with calls."""
    gold, text = json.dumps([LOOK]), "Nine."
    scores = ToolCalls().compute(predictions=[gold, text, text, gold], references=[gold, gold, text, text])
    assert [scores[name] for name in ("tool_calls", "tool_names", "no_tool_calls")] == [0.5, 0.5, 0.5]
    assert "no_tool_calls" not in ToolCalls().compute(predictions=[gold], references=[gold])
