"""Chats as text, by the chat template of a tokenizer: a program that came with the model, run within limits."""

from collections.abc import Sequence

import jinja2
from transformers import PreTrainedTokenizerBase

from hf_llm.limits import limited_memory, limited_time
from hf_llm.messages import one_line

MAX_SECONDS = 5  # of CPU time for one chat, which takes a well-behaved template about a millisecond
MAX_EXTRA_BYTES = 2 << 30  # of memory while templates run
MAX_EXTRA_CHARACTERS = 1_000_000  # that a template adds to ten times the chat's own characters


def render_chats(
    tokenizer: PreTrainedTokenizerBase, chats: Sequence[list[dict[str, str]]], add_generation_prompt: bool = False
) -> list[str]:
    """Apply a tokenizer's chat template.

    Args:
        chats: messages `{"role": str, "content": str}`.
        add_generation_prompt: end with the start of an answer.

    Raises:
        ValueError: the template is not valid, refuses a chat, or takes more time, memory or text than any real one.
    """
    texts = []
    try:
        check_template(tokenizer.chat_template)
        with limited_memory(MAX_EXTRA_BYTES):
            for chat in chats:
                with limited_time(MAX_SECONDS):
                    text = tokenizer.apply_chat_template(
                        chat, tokenize=False, add_generation_prompt=add_generation_prompt
                    )
                size = sum(len(message["content"]) for message in chat)
                if len(text) > 10 * size + MAX_EXTRA_CHARACTERS:
                    raise ValueError(f"it makes {len(text):,} characters of a chat of {size:,}")
                texts.append(text)
    except Exception as error:  # templates raise any class of error
        cause = f"it takes more than {MAX_EXTRA_BYTES >> 30} GiB" if isinstance(error, MemoryError) else one_line(error)
        raise ValueError(
            f"the chat template of `{tokenizer.name_or_path}` fails: {cause}: correct the model's "
            "`chat_template.jinja`, or take `--prompt_style plain`"
        ) from None
    return texts


def check_template(template: str | dict[str, str]) -> None:
    """Refuse powers, e.g. `9 ** 9 ** 9`: Python computes one in a single step, which no limit of time can interrupt."""
    for text in template.values() if isinstance(template, dict) else [template]:
        if "**" in text and any(token[1:] == ("operator", "**") for token in jinja2.Environment().lex(text)):
            raise ValueError("it computes a power by `**`, which may take endless time")
