"""Flags and YAML files, parsed into the dataclasses of a recipe and `TrainingArguments`."""

import dataclasses
import logging
import os
import sys
from pathlib import Path
from typing import Any

from hf_llm.arguments import (
    AdapterArguments,
    DataArguments,
    EvalArguments,
    EvalTaskArguments,
    FinetuneArguments,
    ModelArguments,
    TaskArguments,
    check_bounds,
)
from hf_llm.flag_parser import HELP, RecipeParser, asks_for_json, flag_names, has_trainer
from hf_llm.mappings import format_mapping
from hf_llm.messages import set_last_line, set_up_logging

logger = logging.getLogger(__name__)

CHOSEN_HERE = ("bf16",)  # by the hardware
# Defaults that depend on the model, or on other arguments in the file.
WRITTEN_ANYWAY = (*CHOSEN_HERE, "max_length", "eval_strategy", "save_strategy")
# A repeated run starts anew, and publishes nothing.
NOT_REPEATED = ("resume_from_checkpoint", "push_to_hub", "hub_token", "hub_model_id", "hub_strategy", "hub_revision")
NOT_REPEATED += ("hub_private_repo", "hub_always_push")


def parse_args(
    dataclass_types: list[type],
    argv: list[str] | None = None,
    description: str | None = None,
    default_config: str | None = None,
) -> tuple:
    """Parse a recipe's command line into its dataclasses.

    Args:
        dataclass_types: e.g. `[ModelArguments, DataArguments, TrainingArguments]`; each flag is a field of one.
        argv: the command line. Default: `sys.argv[1:]`.
        description: text at the top of `--help`.
        default_config: YAML file of a new model, which is read if the command line has neither `--config` nor
            `--model_name_or_path`.

    Returns:
        One instance of each dataclass. `TrainingArguments` must be the last, because making them starts DeepSpeed. The
        last one has the attribute `settings`, those of `effective_settings`, for the record of the run.

    Raises:
        ValueError: unreadable file, unknown key, inconsistent DeepSpeed configuration.
        SystemExit: an unknown flag or a value of the wrong type, with one line on stderr and status 2.
    """
    set_up_logging()
    argv = sys.argv[1:] if argv is None else argv
    set_last_line(is_json=asks_for_json(argv))  # also of errors in the flags themselves
    parser, values = parse_values(dataclass_types, argv, description, default_config)
    set_last_line(is_json=values.get("json", False))
    built = tuple(build(dataclass_type, values) for dataclass_type in dataclass_types)
    built[-1].settings = effective_settings(parser, values, built[-1])
    return built


def parse_values(
    dataclass_types: list[type],
    argv: list[str],
    description: str | None = None,
    default_config: str | None = None,
    origin: str = "",
) -> tuple[RecipeParser, dict[str, Any]]:
    """Parse and check as `parse_args`, without making the dataclasses.

    Args:
        origin: of the command line, for error messages.

    Returns:
        The parser, and the value of each argument by its name.
    """
    parser = RecipeParser(dataclass_types, description)
    parser.origin = origin
    parser.check_flags(argv)
    if not HELP.isdisjoint(argv):
        parser.show_defaults_of_file(argv, default_config)
    config_flags = parser.config_flags(argv, default_config)
    values = parser.parse(config_flags + argv)
    named, in_file = flag_names(argv), flag_names(config_flags) - flag_names(argv)
    for option in parser.options:
        check_bounds(option.name, values[option.name], option.metadata)
    if values.get("max_steps", 1) < 1 and values["max_steps"] != -1:
        raise ValueError(f"`--max_steps` is {values['max_steps']}: give at least 1, or -1 for `--num_train_epochs`")
    for name in sorted(named & flag_names(config_flags)):
        if isinstance(values[name], dict):
            logger.info(f"`--{name}`, with the settings of the file: {format_mapping(values[name])}")
    set_strategies(values, named, in_file)
    if has_trainer(dataclass_types) and "max_length" in values and "max_length" not in named | in_file:
        fit_max_length(values)
    check_effects(parser.options, values, named, in_file)
    return parser, values


def effective_settings(parser: RecipeParser, values: dict[str, Any], args: Any) -> dict[str, Any]:
    """What flags, YAML files and defaults of a recipe came to, as a YAML file of `--config` that repeats the run.

    Without the defaults of the parser, arguments that have no effect next to the others, and `NOT_REPEATED`.

    Args:
        values: all arguments by name, as parsed.
        args: the last dataclass, with what was chosen by this machine.
    """
    chosen = {name: getattr(args, name) for name in CHOSEN_HERE if name in values}
    if getattr(args, "deepspeed", None) and not values["deepspeed"]:
        chosen["deepspeed"] = os.environ["ACCELERATE_DEEPSPEED_CONFIG_FILE"]
    effective = {}
    for option in parser.options:
        name, requires = option.name, option.metadata.get("requires")
        value = chosen.get(name, values[name])
        if name in NOT_REPEATED or value is None or (value == parser.get_default(name) and name not in WRITTEN_ANYWAY):
            continue
        if requires and not (values[requires[0]] in requires[1:] if requires[1:] else values[requires[0]]):
            continue
        if not any(values[other] for other in option.metadata.get("excludes", ())):
            effective[name] = value
    return effective


def parse_tasks(
    argv: list[str], task_args: EvalTaskArguments, data_args: DataArguments, args: EvalArguments
) -> dict[str, tuple[TaskArguments, DataArguments, EvalArguments]]:
    """Parse the arguments of each `--task` of the evaluation recipe.

    Args:
        argv: the command line that the other arguments were parsed from.

    Returns:
        Name of the task, or of its YAML file, and its arguments.

    Raises:
        ValueError: a file cannot be read or has an unknown key, or two tasks have the same name.
    """
    parser = RecipeParser([EvalTaskArguments, DataArguments, EvalArguments], None)
    argv, tasks = [*parser.config_flags(argv, None), *argv], {}
    for entry in task_args.task:
        name = Path(entry).stem
        if name in tasks:
            raise ValueError(f"`--task` has `{name}` twice, and their results the same file name: rename a YAML file")
        tasks[name] = parse_task(entry, argv, task_args, data_args, args)
    return tasks


def parse_task(
    name: str, argv: list[str], task_args: EvalTaskArguments, data_args: DataArguments, args: EvalArguments
) -> tuple[TaskArguments, DataArguments, EvalArguments]:
    """Parse the arguments of one task: a name, or a YAML file, whose settings the flags of `argv` override.

    Seed and batch size of the file are used too; the seed decides which rows are drawn.

    Raises:
        ValueError: the file cannot be read, or has an unknown key.
    """
    if not name.endswith((".yaml", ".yml")):
        return dataclasses.replace(task_args, task=name), data_args, args
    from transformers import TrainingArguments

    groups = [ModelArguments, AdapterArguments, TaskArguments, DataArguments, FinetuneArguments, TrainingArguments]
    parser = RecipeParser(groups, None)
    config_flags = parser.read_config(name, set(), "task")
    values = vars(parser.parse_known_args([*config_flags, *argv])[0])
    in_file, rest = parser.parse_known_args(config_flags)
    if rest:
        raise ValueError(f"`--task` {name}: its `task` names several tasks; write a file for each")
    values["task"] = in_file.task  # the flag names the file
    batch_size = args.batch_size or values["per_device_eval_batch_size"]
    settings = dataclasses.replace(args, seed=values["seed"], batch_size=batch_size)
    return build(TaskArguments, values), build(DataArguments, values), settings


def check_effects(options: list[dataclasses.Field], values: dict[str, Any], named: set[str], in_file: set[str]) -> None:
    """Raise an error for an argument that would have no effect.

    A file may contain it if the command line overrides what it depends on.

    Args:
        named: arguments of the command line.
        in_file: arguments of the YAML file that the command line does not name.
    """
    for option in options:
        name = option.name
        if requires := option.metadata.get("requires"):
            needed, *choices = requires
            present = name in named or (name in in_file and not named & {needed, f"no_{needed}"})
            present = present and values[name] not in (None, False)
            if present and not (values[needed] in choices if choices else values[needed]):
                remedy = " ".join([needed, *(choices[:1] or ["true"] * (needed in named))])
                raise ValueError(f"`--{name}` has no effect without `--{remedy}`: give both or neither")
        for other in option.metadata.get("excludes", ()):
            if values[other] and (name in named or {name, other} <= in_file):
                raise ValueError(f"`--{name}` has no effect with `--{other}`: leave one of them out")


def set_strategies(values: dict[str, Any], named: set[str], in_file: set[str]) -> None:
    """Let `--save_steps` and `--eval_steps` set their strategy to "steps", unless it is given with them.

    With the strategy "no", which is a default or in the file, they would have no effect.
    """
    for event in ("save", "eval"):
        for names, precedence in ((named, set()), (in_file, named)):
            if f"{event}_steps" in names and f"{event}_strategy" not in names | precedence:
                values[f"{event}_strategy"] = "steps"


def fit_max_length(values: dict[str, Any]) -> None:
    """Lower the default of `--max_length` to the positions of the model that is loaded, such as BERT's 512."""
    if (name := values.get("model_name_or_path")) is not None:
        from hf_llm.models.classifiers import read_positions

        if (positions := read_positions(name, values["trust_remote_code"])) < values["max_length"]:
            logger.info(f"`--max_length` {positions}: the model has no more positions")
            values["max_length"] = positions


def build(dataclass_type: type, values: dict[str, Any]) -> Any:
    """Make one dataclass from the parsed values."""
    fields = {f.name: values[f.name] for f in dataclasses.fields(dataclass_type) if f.init}
    if has_trainer([dataclass_type]):
        from hf_llm.training.training_arguments import build_training_arguments

        return build_training_arguments(fields, script=sys.argv[0])
    return dataclass_type(**fields)
