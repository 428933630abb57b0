"""Prompts of `recipes/generate.py`: texts, conversations, texts to fill in between."""

import json
import logging
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from hf_llm.arguments import GenerateArguments
from hf_llm.conversations import check_conversation, read_conversation
from hf_llm.data.chat_answers import ChatFormat, without_answer
from hf_llm.data.infilling import infilling_prompts
from hf_llm.messages import add_origin, one_line

logger = logging.getLogger(__name__)


def format_prompts(
    tokenizer: PreTrainedTokenizerBase, rows: list[dict[str, Any]], chat: ChatFormat | None = None
) -> list[str] | list[list[int]]:
    """Convert the rows of `read_prompts` to prompts for `complete`: plain, as chats, or as infilling prompts.

    Raises:
        ValueError: some rows have a suffix and others do not, the tokenizer has no infilling tokens, or the chat
            template fails, or is missing for a conversation.
    """
    suffixes = [row["suffix"] for row in rows if "suffix" in row]
    if chat and not suffixes:
        return tokenizer(chat.prompts(rows), add_special_tokens=False).input_ids
    if any("messages" in row for row in rows):
        raise ValueError(
            f"conversations need a chat template, and tokenizer `{tokenizer.name_or_path}` has none, or "
            "`--prompt_style plain` or a suffix leaves it out: give `--chat_template chatml`"
        )
    prompts = [row["prompt"] for row in rows]
    if not suffixes:
        return prompts
    if len(suffixes) < len(rows):
        raise ValueError(f"{len(suffixes)} of {len(rows)} prompts have a suffix: give one to all or none")
    return infilling_prompts(tokenizer, prompts, suffixes)


def read_prompts(args: GenerateArguments) -> list[dict[str, Any]]:
    """Read the prompts from the command line or from `--prompt_file`.

    Returns:
        Rows `{"prompt": str}`, `{"prompt": str, "suffix": str}` for infilling, or conversations that end before an
        answer: `{"messages": list[dict], "tools": list[dict] | None}`.

    Raises:
        ValueError: neither or both are given, there are more or fewer suffixes than prompts, or the file is invalid.
    """
    if (args.prompt is None) == (args.prompt_file is None):
        raise ValueError("give either `--prompt` or `--prompt_file`")
    prompts = args.prompt or []
    if args.suffix is not None and len(args.suffix) != len(prompts):
        raise ValueError(f"`--suffix` has {len(args.suffix)} texts: give one for each `--prompt`")
    if args.prompt_file is not None:
        return read_prompt_file(Path(args.prompt_file).expanduser())
    if args.suffix is None:
        return [{"prompt": prompt} for prompt in prompts]
    return [{"prompt": prompt, "suffix": suffix} for prompt, suffix in zip(prompts, args.suffix, strict=True)]


def read_prompt_file(path: Path) -> list[dict[str, Any]]:
    """Read a prompt per line, or per JSON object where the file is named `.jsonl`; empty lines are skipped.

    Raises:
        ValueError: the file cannot be read or is empty, or a line is not such an object; the line is named.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"`--prompt_file` {path} cannot be read: {one_line(error)}") from None
    # Not splitlines(): it also splits at U+2028 and similar characters, which JSON strings may contain.
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise ValueError(f"`--prompt_file` {path} holds no prompt")
    if path.suffix != ".jsonl":
        return [{"prompt": line} for _, line in lines]
    rows = []
    for number, line in lines:
        with add_origin({}, f"`{path}` line {number}"):
            rows.append(read_prompt_row(line))
    if count := sum(row.pop("answered", False) for row in rows):
        logger.warning(f"The last answers in {count} of {len(rows)} rows of {path} are left out: they are asked for")
    return rows


def read_prompt_row(line: str) -> dict[str, Any]:
    """Read a prompt or a conversation, whose last answer is left out, from JSON.

    Returns:
        A row of `read_prompts`, with `answered` if an answer is left out.

    Raises:
        ValueError: it is neither.
    """
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if isinstance(row, dict):
        texts = {name: row[name] for name in ("prompt", "suffix") if name in row}
        if "prompt" in texts and all(isinstance(text, str) for text in texts.values()):
            return texts
        if conversation := read_conversation(row):
            prompt = without_answer(conversation)
            check_conversation(prompt)
            return prompt | ({"answered": True} if prompt is not conversation else {})
    raise ValueError(
        'write {"prompt": "..."}, with a "suffix" to fill in between, or a conversation: {"messages": [...]}'
    )
