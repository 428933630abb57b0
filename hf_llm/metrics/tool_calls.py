"""Calls of tools: found in an answer, and compared by names and arguments."""

import ast
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from hf_llm.metrics.base import TaskMetric, weighted_means

Call = dict[str, Any]  # {"name": str, "arguments": dict}

NAMES, ARGUMENTS = ("name", "tool_name"), ("arguments", "parameters", "args")
OBJECT = re.compile(r"\{\s*\"(?:name|arguments|parameters|args|tool_name|tool_call_id|id|type|function)\"\s*:")
# Qwen3-Coder: <function=look><parameter=at>goats</parameter></function>
XML_CALL = re.compile(r"<function=([^>\s]+)>(.*?)</function>", re.DOTALL)
XML_ARGUMENT = re.compile(r"<parameter=([^>\s]+)>\n?(.*?)\n?</parameter>", re.DOTALL)
# GLM: <tool_call>look<arg_key>at</arg_key><arg_value>goats</arg_value></tool_call>
KEY_CALL = re.compile(r"<tool_call>\s*([\w.-]+)\s*((?:<arg_key>.*?)?)</tool_call>", re.DOTALL)
KEY_ARGUMENT = re.compile(r"<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>", re.DOTALL)
# Mistral and DeepSeek: the name, a mark, and a JSON object: look[ARGS]{"at": "goats"}
NAMED_OBJECT = re.compile(r"([\w.-]{1,64})(?:\[ARGS\]|<｜tool▁sep｜>|:\d+<\|tool_call_argument_begin\|>)\s*(?=\{)")  # noqa: RUF001
IGNORED = re.compile(r"[ ,./\-_*^]")


class ToolCalls(TaskMetric):
    """Share of rows whose calls of tools are right, by the AST evaluation of the Berkeley Function Calling Leaderboard.

    Predictions and references are calls as JSON text, `[{"name": "look", "arguments": {"at": "goats"}}]`, or texts
    without a call.

    - `tool_calls`: of the rows whose reference has calls, those with as many calls of the same names and arguments, in
      any order. Texts are compared without case, spaces and marks, and an integer equals the same float; the order of a
      list counts.
    - `tool_names`: of the same rows, those whose names of tools are right.
    - `no_tool_calls`: of the rows whose reference has no call, those without one; only if there are such rows.

    Source: Patil et al. (2025), "The Berkeley Function Calling Leaderboard", `ast_checker.py`. There a reference lists
    all possible values and says which arguments may be missing; here each argument has one value, and none is missing.

    Example:
        >>> answer, gold = ('[{"name": "look", "arguments": {"at": "%s"}}]' % animal for animal in ("Goats", "goats"))
        >>> ToolCalls().compute(predictions=[answer], references=[gold])["tool_calls"]
        1.0
    """

    score_names = ("tool_calls", "tool_names")

    def statistics(self, predictions: Sequence[str], references: list[list[str]]) -> np.ndarray:
        """Whether calls and names of each row are right, and whether it has calls, (N, 3)."""
        rows = []
        for text, golds in zip(predictions, references, strict=True):
            calls, expected = calls_in_text(text), [calls_in_text(gold) for gold in golds]
            right = any(same_calls(calls, gold) for gold in expected)
            names, *golds = (Counter(call["name"] for call in each) for each in (calls, *expected))
            rows.append([right, names in golds, any(expected)])
        return np.array(rows, float)

    def counted(self, statistics: np.ndarray) -> np.ndarray:
        return statistics[:, 2]

    def scores(self, statistics: np.ndarray, weights: np.ndarray) -> dict[str, float]:
        has_calls = self.counted(statistics)
        scores = weighted_means(self.score_names, statistics, weights * has_calls)
        if not has_calls.all():
            scores |= weighted_means(("no_tool_calls",), statistics, weights * (1 - has_calls))
        return scores


def calls_in_text(text: str) -> list[Call]:
    """Calls from JSON text or from the text of an answer."""
    found = find_calls(text)
    return json.loads(found) if found else []


def find_calls(text: str) -> str:
    """Find the calls of tools that an answer makes, as chat templates write them.

    Returns:
        The calls as JSON text, `[{"name": str, "arguments": dict}, ...]`; empty if there are none.

    Example:
        >>> find_calls('<tool_call>{"name": "look", "arguments": {"at": "goats"}}</tool_call>')
        '[{"name": "look", "arguments": {"at": "goats"}}]'
    """
    calls = [*calls_in_json(text)] or [*calls_in_marks(text)] or calls_in_python(text)
    return json.dumps(calls, ensure_ascii=False) if calls else ""


def calls_in_json(text: str) -> Iterator[Call]:
    """Objects with a name and arguments, alone or in lists: Hermes, Qwen, Llama 3, Mistral, xLAM."""
    decoder, end = json.JSONDecoder(), 0
    for start in OBJECT.finditer(text):
        if start.start() >= end:
            try:
                value, end = decoder.raw_decode(text, start.start())
            except (ValueError, RecursionError):
                continue
            if call := as_call(value):
                yield call


def as_call(value: Any) -> Call | None:
    """A call, if a value is one, perhaps in OpenAI's frame; its arguments may be JSON text."""
    value = value.get("function", value) if isinstance(value, dict) else None
    if not isinstance(value, dict):
        return None
    name = next((value[key] for key in NAMES if key in value), None)
    arguments = next((value[key] for key in ARGUMENTS if key in value), None)
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return None
    return {"name": name, "arguments": arguments} if isinstance(name, str) and isinstance(arguments, dict) else None


def calls_in_marks(text: str) -> Iterator[Call]:
    """Calls with marks around names and arguments."""
    for pattern, argument in ((XML_CALL, XML_ARGUMENT), (KEY_CALL, KEY_ARGUMENT)):
        for name, arguments in pattern.findall(text):
            yield {
                "name": name,
                "arguments": {key: parse_argument(value) for key, value in argument.findall(arguments)},
            }
    for match in NAMED_OBJECT.finditer(text):
        try:
            arguments, _ = json.JSONDecoder().raw_decode(text, match.end())
        except (ValueError, RecursionError):
            continue
        yield {"name": match[1].removeprefix("functions."), "arguments": arguments}


def parse_argument(value: str) -> Any:
    """The value of an argument without quotation marks: JSON, or else text."""
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value.strip()


def calls_in_python(text: str) -> list[Call]:
    """Calls as a list of Python: `[look(at="goats")]`, of Llama 4 and ToolACE."""
    if not (text.strip().startswith("[") and text.strip().endswith(")]")):
        return []
    try:
        (expression,) = ast.parse(text.strip()).body
        nodes = expression.value.elts  # pyright: ignore[reportAttributeAccessIssue]  # refused below
        arguments = [{each.arg: ast.literal_eval(each.value) for each in node.keywords} for node in nodes]
        names = [ast.unparse(node.func) for node in nodes]
        return [{"name": name, "arguments": each} for name, each in zip(names, arguments, strict=True)]
    except (ValueError, SyntaxError, AttributeError, TypeError, RecursionError, MemoryError):
        return []


def same_calls(calls: list[Call], expected: list[Call]) -> bool:
    """Whether two lists have equal calls, in any order."""
    rest = [(call["name"], standardized(call["arguments"])) for call in expected]
    for call in calls:
        key = (call["name"], standardized(call["arguments"]))
        if key not in rest:
            return False
        rest.remove(key)
    return not rest


def standardized(value: Any) -> Any:
    """A value whose texts are without case, spaces and marks.

    Example:
        >>> standardized({"at": ["New-York", 2]})
        {'at': ['newyork', 2]}
    """
    if isinstance(value, dict):
        return {key: standardized(item) for key, item in value.items()}
    if isinstance(value, list):
        return [standardized(item) for item in value]
    if isinstance(value, str):
        return IGNORED.sub("", value).lower().replace("'", '"')
    return f"{value}" if isinstance(value, bool) else value
