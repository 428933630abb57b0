"""How prompts are written, apart from the wording of the task: in training, evaluation, chat and generation."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class PromptSettings:
    """How the prompts of a model are written.

    Args:
        style: `plain` puts a space between prompt and completion; `chat` uses the chat template. None: `chat` if the
            tokenizer has a template.
        template_kwargs: variables of the chat template, e.g. `{"enable_thinking": False}`.
        system_prompt: the first message of chats whose example has no system message.
        shots: few-shot examples, `{"prompt": str, "completion": str}`, put before each prompt.
        train_on: what is trained: `assistant`, `last` or `all`, as in `encode_conversations`.
    """

    style: str | None = None
    template_kwargs: dict[str, Any] = field(default_factory=dict)
    system_prompt: str | None = None
    shots: Sequence[dict[str, str]] = ()
    train_on: str = "assistant"
