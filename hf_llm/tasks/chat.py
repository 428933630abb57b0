"""Answer in conversations of one or many turns, with or without tools, in every layout that `conversations` reads."""

import json
import logging
from dataclasses import dataclass
from typing import Any, ClassVar

from datasets import Dataset, DatasetDict

from hf_llm.conversations import (
    COLUMNS,
    COMPLETIONS,
    LISTS,
    PROMPTS,
    REJECTED,
    Conversation,
    check_conversation,
    read_conversation,
    without_nulls,
)
from hf_llm.messages import ORIGIN, add_origin
from hf_llm.metrics import load_metric
from hf_llm.metrics.answers import check_pattern, find_answer, gold_answers
from hf_llm.metrics.base import TaskMetric
from hf_llm.metrics.text import FreeText
from hf_llm.metrics.tool_calls import ToolCalls, find_calls
from hf_llm.python_docs import python_docs
from hf_llm.tasks import Task, reference_list, refuse_wrong_answers

logger = logging.getLogger(__name__)

TURNS = ("last", "every")
TREE = {"message_id", "parent_id", "role", "text"}  # columns of OpenAssistant, whose rows are single messages


@dataclass
class Chat(Task):
    """Right calls of tools, or diversity and repetition of the answers; and the perplexity of the gold answers.

    Args:
        evaluate_turns: `last`: the last answer of each conversation is scored; `every`: each of them, after the gold
            answers before it.
        metric_name: `--metric`, instead of calls or repetition.
        answer_pattern: `--answer_pattern`, what is compared of a generated and of a gold answer. Default: all.
    """

    max_new_tokens: int = 128
    evaluate_turns: str = "last"
    metric_name: str = ""
    answer_pattern: str = ""

    columns: ClassVar = {"messages": (), "tools": (), "system": ()}
    optional_columns = ("tools", "system")
    json_columns = (*LISTS, "tools", "functions", "prompt", "completion", "chosen", "input", "preferred_output")
    stop_strings = ()
    scores_perplexity = True
    scores_calls = False  # whether some evaluated turn calls tools

    def __post_init__(self):
        if self.evaluate_turns not in TURNS:
            raise ValueError(f"`--task_options` evaluate_turns={self.evaluate_turns}: choose {' or '.join(TURNS)}")
        check_pattern(self.answer_pattern)
        self.metric()

    def adapt(self, rows):
        """Read the conversations into the columns `messages` and `tools`, as JSON text: nothing is filled in there."""
        if {*rows.column_names} >= TREE:
            rows = trees_of(rows)
        refuse_wrong_answers(rows)
        if unused := [name for name in REJECTED if name in rows.column_names]:
            logger.warning(f"`{unused[0]}` is not used: only the preferred answers are trained on")
        exact = [name for name, feature in rows.features.items() if "Json(" in str(feature)]
        messages, tools = [], []
        for row in rows.to_list():
            row = {name: value if name in exact else without_nulls(value) for name, value in row.items()}
            with add_origin(row):
                conversation = read_conversation(row) or read_exchange(row)
                if conversation is None:
                    if not messages:
                        raise KeyError("messages")
                    raise ValueError("the row has no conversation: correct or remove it")
                check_conversation(conversation)
            messages.append(json.dumps(conversation["messages"], ensure_ascii=False))
            tools.append(conversation["tools"] and json.dumps(conversation["tools"], ensure_ascii=False))
        rows = rows.remove_columns([name for name in rows.column_names if name in COLUMNS])
        return rows.add_column("messages", messages).add_column("tools", tools)  # pyright: ignore[reportCallIssue]

    def select(self, rows, split):
        """Cut what follows the last answer of each conversation, and drop those without an answer."""
        if "messages" not in rows.column_names:
            return rows
        conversations = [json.loads(messages) for messages in rows["messages"]]
        answered = [up_to_last_answer(messages) for messages in conversations]
        kept = [number for number, messages in enumerate(answered) if messages]
        cut = sum(0 < len(answered[number]) < len(conversations[number]) for number in kept)
        dropped = len(rows) - len(kept)
        if not kept:
            raise ValueError(f"`{split}`: none of the {len(rows)} conversations has an answer: name other data")
        if cut or dropped:
            logger.warning(
                f"{split}: of {len(rows)} conversations, {cut} are cut after their last answer or before an empty one, "
                f"and {dropped} without an answer are dropped"
            )
            texts = [json.dumps(answered[number], ensure_ascii=False) for number in kept]
            rows = rows.select(kept).remove_columns("messages").add_column("messages", texts)
        return rows

    def prepare(self, rows):
        validation = rows["validation"].to_list() if "validation" in rows else []
        conversations = map(self.to_example, validation)
        messages = (each["messages"] for each in conversations if "messages" in each)
        turns = (turns if self.evaluate_turns == "every" else turns[-1:] for turns in messages)
        self.scores_calls = any(calls_of(turn) for row in turns for turn in row if turn["role"] == "assistant")

    def evaluated(self, rows):
        """One row for each turn that is scored, which ends with that turn."""
        if self.evaluate_turns == "last":
            return rows
        split = []
        for row in rows.to_list():
            messages = self.to_example(row).get("messages", [])
            ends = [end for end, message in enumerate(messages, 1) if message["role"] == "assistant"]
            split += [row | {"messages": json.dumps(messages[:end], ensure_ascii=False)} for end in ends] or [row]
        return Dataset.from_list(split)

    def to_example(self, row):
        return read_conversation(row) or {}

    def references(self, row):
        last = self.to_example(row)["messages"][-1]
        return gold_answers(reference_list(calls_of(last) or last["content"]), self.answer_pattern)

    def answer(self, text, row):
        if self.answer_pattern:
            return find_answer(text, self.answer_pattern) or ""
        return (find_calls(text) if self.scores_calls else "") or text.strip()

    def metric(self) -> TaskMetric:
        if self.metric_name:
            return load_metric(self.metric_name)
        return ToolCalls() if self.scores_calls else FreeText()

    def sample(self):
        """Two questions about a Python module, answered from its documentation."""
        rows = {split: [*filter(None, map(sample_row, docs.to_list()))] for split, docs in python_docs().items()}
        return DatasetDict({split: Dataset.from_list(samples) for split, samples in rows.items()})


def trees_of(rows: Dataset) -> Dataset:
    """Join messages that are a row each to trees, of which `read_conversation` takes the best replies.

    Raises:
        ValueError: no message is the first of a conversation.
    """
    nodes = {row["message_id"]: {**row, "replies": []} for row in rows.to_list()}
    first = [node for node in nodes.values() if node["parent_id"] is None]
    replies = [node for node in nodes.values() if node["parent_id"] in nodes]
    if not first:
        raise ValueError("no message is the first of a conversation, whose `parent_id` is empty: give whole trees")
    if lost := len(rows) - len(first) - len(replies):
        logger.warning(f"{lost} of {len(rows)} messages are not used: what they reply to is missing")
    for node in replies:
        nodes[node["parent_id"]]["replies"].append(node)
    return Dataset.from_list([{"prompt": json.dumps(node, default=str), ORIGIN: node.get(ORIGIN)} for node in first])


def read_exchange(row: dict[str, Any]) -> Conversation | None:
    """Read a prompt with its completion as a conversation, if both are texts; None if there is a context as well."""
    texts = [text for name in PROMPTS if isinstance(text := row.get(name), str) and text.strip()]
    if not texts or row.get("context") or not any(row.get(name) for name in COMPLETIONS):
        return None
    return read_conversation(row | {"prompt": [{"role": "user", "content": "\n\n".join(texts)}]})


def up_to_last_answer(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages up to the last of the assistant that has a content or calls, before the first that has neither."""
    for number, message in enumerate(messages):
        if message["role"] == "assistant" and not (message["content"].strip() or message.get("tool_calls")):
            messages = messages[:number]
            break
    while messages and messages[-1]["role"] != "assistant":
        messages = messages[:-1]
    return messages


def calls_of(message: dict[str, Any]) -> str:
    """The calls of tools of a message as JSON text, empty if there are none."""
    calls = [call["function"] for call in message.get("tool_calls", [])]
    return json.dumps(calls, ensure_ascii=False) if calls else find_calls(message["content"])


def sample_row(row: dict[str, str]) -> dict[str, Any] | None:
    """A conversation about the first two paragraphs of the documentation of a module; None if they are not short."""
    first, second = (*row["text"].split("\n\n"), "", "")[:2]
    if not 0 < len(first) < 200 or not 0 < len(second) < 200:
        return None
    questions = (f"What is the Python module {row['module']}?", "Tell me more.")
    turns = [(questions[0], first.strip()), (questions[1], second.strip())]
    messages = [[{"role": "user", "content": user}, {"role": "assistant", "content": text}] for user, text in turns]
    return {"messages": messages[0] + messages[1]}
