"""Rows of conversations to train on: those that can be proved and that fit, and the counts of the others."""

import logging
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

from hf_llm.data.chat_answers import Example
from hf_llm.data.chat_turns import encode_conversations
from hf_llm.data.chats import writes
from hf_llm.data.prompting import Prompter
from hf_llm.messages import ORIGIN

logger = logging.getLogger(__name__)

NAMED = 5  # rows that a message names

Features = dict[str, list[int]]


@dataclass
class ConversationCounts:
    """What encoding did to the conversations of one split.

    Args:
        max_unproved: number that may be left out because they cannot be proved.
    """

    max_unproved: float = 0.0
    conversations: int = 0  # with a trained answer
    conversations_unproved: int = 0  # left out, see `encode_conversations`
    conversations_too_long: int = 0  # left out, because no answer fits
    answers: int = 0  # trained
    answers_too_long: int = 0  # not trained, because they do not fit
    thoughts_left_out: int = 0  # conversations with thoughts, some of which the chat template does not write
    conversations_split: int = 0  # into several rows
    rows: int = 0
    unproved: list[str] = field(default_factory=list)  # origins

    def total(self) -> int:
        """The number of all conversations."""
        return self.conversations + self.conversations_unproved + self.conversations_too_long

    def metrics(self) -> dict[str, int]:
        """The counts under the names that the results files use, none for a split without conversations."""
        counts = {key: value for key, value in asdict(self).items() if key.startswith(("conv", "answers", "thoughts"))}
        return counts if self.total() else {}


def encode_chats(
    prompter: Prompter, rows: list[dict[str, Any]], examples: list[Example], counts: ConversationCounts
) -> list[list[Features]]:
    """Encode conversations for training: each with the answers that fit, from its first one on.

    A conversation is cut after its last answer that fits: the answers before it are trained as in the whole one.

    Args:
        rows: where the conversations are from.
        examples: the conversations.
        counts: what is counted is added to them.

    Returns:
        The rows of each conversation, `{"input_ids": list[int], "labels": list[int]}`.

    Raises:
        ValueError: too many cannot be proved, or there is no chat template; the row is named.
    """
    format, origins = prompter.chat_format(), [row[ORIGIN] for row in rows]
    encoded, problems = encode_conversations(format, examples, origins, prompter.settings.train_on)
    counts.unproved += [origins[i] for i in problems]
    counts.conversations_unproved = len(counts.unproved)
    for i, problem in sorted(problems.items())[:1]:
        message = f"{origins[i]}: {problem}"
        if counts.conversations_unproved > counts.max_unproved:
            raise ValueError(f"{message}: {format.remedy(examples[i])}, or remove such rows")
        logger.warning(f"{message}: left out")
    for i, chat in enumerate(examples):
        if i in problems:
            continue
        counts.thoughts_left_out += leaves_out_thoughts(prompter, chat, encoded[i])
        counts.conversations_split += len(encoded[i]) > 1
        answers = sum(len(answer_ends(row["labels"])) for row in encoded[i])
        rows_that_fit = [row for row in (shorten(row, prompter.max_length) for row in encoded[i]) if row]
        kept = answers
        if rows_that_fit != encoded[i]:
            encoded[i] = rows_that_fit
            kept = sum(len(answer_ends(row["labels"])) for row in encoded[i])
        counts.rows += len(encoded[i])
        counts.conversations += bool(kept)
        counts.conversations_too_long += not kept
        counts.answers += kept
        counts.answers_too_long += answers - kept
    return encoded


def answer_ends(labels: list[int]) -> list[int]:
    """Numbers of tokens up to the end of each trained answer.

    Example:
        >>> answer_ends([-100, 7, 1, -100, 9])
        [3, 5]
    """
    return [i for i, (label, after) in enumerate(pairwise([*labels, -100]), 1) if label != -100 and after == -100]


def shorten(row: Features, max_length: int) -> Features | None:
    """Cut a row after its last answer that fits in `max_length` tokens; None if none does."""
    if len(row["labels"]) <= max_length:
        return row
    end = max((end for end in answer_ends(row["labels"]) if end <= max_length), default=0)
    return {name: ids[:end] for name, ids in row.items()} if end else None


def leaves_out_thoughts(prompter: Prompter, chat: dict[str, Any], rows: list[Features]) -> bool:
    """Whether a trained answer has thoughts that are not among the trained texts."""
    answers = [message for message in chat["messages"] if message["role"] == "assistant"]
    answers = answers if prompter.settings.train_on == "assistant" else answers[-1:]
    thoughts = [message["reasoning_content"] for message in answers if message.get("reasoning_content")]
    if not thoughts:
        return False
    trained = [prompter.tokenizer.decode([label for label in row["labels"] if label != -100]) for row in rows]
    return not all(any(writes(thought, f"{text}") for text in trained) for thought in thoughts)


def log_conversations(counts: ConversationCounts, split: str, max_length: int) -> None:
    """Log what became of the conversations of a split otherwise than of most."""
    if counts.conversations_split:
        logger.info(
            f"{split}: the chat template changes earlier turns when later ones come, e.g. removes their thoughts, or "
            "begins answers within a token: "
            f"{counts.conversations_split} of {counts.total()} conversations become several rows, so that each answer "
            f"is trained as it is asked for; {counts.rows} rows in all"
        )
    if counts.unproved:
        names = ", ".join(counts.unproved[:NAMED]) + ", ..." * (len(counts.unproved) > NAMED)
        logger.warning(
            f"{split}: {len(counts.unproved)} conversations left out, for which it cannot be proved what the chat "
            f"template writes for the assistant: {names}"
        )
    if counts.answers_too_long:
        logger.warning(
            f"{split}: {counts.answers_too_long} of {counts.answers + counts.answers_too_long} answers left out, which "
            f"end after more than `--max_length` {max_length} tokens, {counts.conversations_too_long} conversations "
            "altogether: give a larger one, if the model has as many positions"
        )
    if counts.thoughts_left_out:
        logger.warning(
            f"{split}: the chat template leaves out thoughts of {counts.thoughts_left_out} conversations, and they are "
            "not trained: give another one by `--chat_template FILE` if they should be"
        )
