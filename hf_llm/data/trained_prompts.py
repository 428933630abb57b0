"""The settings of the prompts that a model was trained with: saved with its tokenizer, compared where it is used."""

import logging
import shlex
from typing import Any

from transformers import PreTrainedTokenizerBase

from hf_llm.arguments import ChatArguments, GenerateArguments, TaskArguments
from hf_llm.mappings import format_mapping
from hf_llm.tasks.custom import read_template

logger = logging.getLogger(__name__)

KEY = "prompting"  # in tokenizer_config.json, which checkpoints, adapters and repositories of the Hub have too
OF_ALL_TASKS = ("prompt_style", "system_prompt", "chat_template_kwargs")
OF_THE_TASK = ("prompt_template", "completion_template", "num_fewshot")


def record_prompts(tokenizer: PreTrainedTokenizerBase, args: TaskArguments) -> None:
    """Save the settings of a training's prompts with its tokenizer, in `tokenizer_config.json`."""
    tokenizer.init_kwargs.pop(KEY, None)  # of an earlier training
    if settings := given_settings(args):
        tokenizer.init_kwargs[KEY] = {"task": args.task, **settings}


def warn_of_other_prompts(
    tokenizer: PreTrainedTokenizerBase, args: TaskArguments | GenerateArguments | ChatArguments
) -> None:
    """Warn if a model is given other prompts than it was trained with, and name the flags that give the same."""
    trained, here = tokenizer.init_kwargs.get(KEY, {}), given_settings(args)
    names = [*OF_ALL_TASKS, *(OF_THE_TASK if getattr(args, "task", None) == trained.get("task") else ())]
    flags = [
        f"--{name} {written(trained[name])}" for name in names if name in trained and here.get(name) != trained[name]
    ]
    if flags:
        logger.warning(
            f"`{tokenizer.name_or_path}` was trained with other prompts than these: {' '.join(flags)} would give the "
            "same"
        )
    if "prompt_template" in trained and not hasattr(args, "task"):
        template = written(trained["prompt_template"])
        logger.warning(f"`{tokenizer.name_or_path}` was trained on prompts of the form {template}: write yours so")


def given_settings(args: TaskArguments | GenerateArguments | ChatArguments) -> dict[str, Any]:
    """The settings of prompts that are not the defaults, templates as text."""
    values = {name: value for name in (*OF_ALL_TASKS, *OF_THE_TASK) if (value := getattr(args, name, None))}
    templates = [name for name in ("prompt_template", "completion_template") if name in values]
    return values | {name: read_template(f"--{name}", values[name]) for name in templates}


def written(value: Any) -> str:
    """A value as it is written on the command line, in one line."""
    return shlex.quote(format_mapping(value) if isinstance(value, dict) else f"{value}".replace("\n", r"\n"))
