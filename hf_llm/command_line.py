"""How a run is described: flags and YAML files, parsed into the dataclasses of the recipe and `TrainingArguments`."""

import argparse
import copy
import dataclasses
import difflib
import importlib.util
import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import yaml
from transformers import HfArgumentParser

from hf_llm.arguments import (
    AdapterArguments,
    DataArguments,
    EvalArguments,
    EvalTaskArguments,
    FinetuneArguments,
    ModelArguments,
    TaskArguments,
)
from hf_llm.hardware import has_bfloat16
from hf_llm.mappings import MappingLoader, parse_mapping
from hf_llm.messages import hide_progress, one_line, show_messages, stop

# Settings of a file that would overrule what these flags ask for.
REPLACED = {"num_train_epochs": ("max_steps",)}
# The same for the default config, which describes its own small model and run.
REPLACED_DEFAULTS = REPLACED | {
    "model_type": ("config_overrides", "initializer_range"),
    "config_overrides": ("initializer_range",),
    "early_stopping_patience": ("max_steps",),
    "streaming": ("max_steps",),  # whose text is not the default's
}
# What transformers takes without a word, or refuses hours later without the flag's name.
AT_LEAST = {
    "max_length": 2,
    "lora_r": 1,
    **dict.fromkeys(
        ("min_chars", "passage_min_chars", "decontamination_ngram", "deduplication_ngram", "shard_bytes"), 1
    ),
    "learning_rate": 0,
    "num_fewshot": 0,
    "new_tokens": 0,
    **dict.fromkeys(("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"), 1),
    **dict.fromkeys(("max_train_samples", "max_eval_samples"), 1),
    **dict.fromkeys(("early_stopping_patience", "dataset_num_proc", "batch_size", "max_new_tokens", "num_beams"), 1),
}
# Flags that do nothing unless another one is given, or has one of these values.
IDLE_WITHOUT = {
    **dict.fromkeys(("fim_rate", "fim_spm_rate"), ("objective", "fim")),
    "mlm_probability": ("objective", "masked"),
    **dict.fromkeys(("temperature", "top_k", "top_p"), ("do_sample",)),
    "language_threshold": ("languages",),
    **dict.fromkeys(("decontamination_ngram", "decontamination_mode"), ("decontaminate",)),
    "pseudonym_key_file": ("anonymize", "pseudonyms"),
    **dict.fromkeys(("jaccard_threshold", "deduplication_ngram"), ("near_deduplication",)),
    "passage_min_chars": ("passage_deduplication", "lines", "paragraphs"),
    "ray_address": ("runner", "ray"),
    "dataset_config_name": ("dataset_name",),
}
# Flags that do nothing beside one of these.
IDLE_BESIDE = {
    **dict.fromkeys(("vocab_size", "algorithm"), ("tokenizer_name", "model_name_or_path")),
    "validation_fraction": ("validation_file",),
}
ABOVE_ZERO = ("num_train_epochs", "save_steps", "eval_steps", "logging_steps", "temperature")
# What run_clm.py, TRL, LLaMA-Factory and axolotl call it.
ELSEWHERE = {
    **dict.fromkeys(("block_size", "max_seq_length", "cutoff_len", "sequence_len"), "max_length"),
    **dict.fromkeys(("epochs", "num_epochs"), "num_train_epochs"),
    **dict.fromkeys(("batch_size", "micro_batch_size"), "per_device_train_batch_size"),
    **dict.fromkeys(("model", "base_model", "model_name"), "model_name_or_path"),
    **dict.fromkeys(("val_size", "validation_split_percentage"), "validation_fraction"),
    "lr": "learning_rate",
    "lora_rank": "lora_r",
    "lora_target": "lora_target_modules",
    "preprocessing_num_workers": "dataset_num_proc",
    "text_column": "dataset_text_field",
}


OWN_METADATA = ("mapping",)  # of a field, which argparse does not know


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Defaults behind the flags, and a recipe's commands as its docstring has them, to be copied."""


def has_trainer(dataclass_types: list[type]) -> bool:
    """Whether `TrainingArguments` are among them: by their name, since importing them takes seconds of `--help`."""
    return any(dataclass_type.__name__ == "TrainingArguments" for dataclass_type in dataclass_types)


class RecipeParser(HfArgumentParser):
    """Flags typed by the dataclasses; an error is one line on stderr, exit status 2, and names what is nearest."""

    def __init__(self, dataclass_types: list[type], description: str | None):
        layout = {"usage": "%(prog)s [--config FILE] [flags]", "formatter_class": HelpFormatter}
        super().__init__(dataclass_types, description=description, allow_abbrev=False, **layout)
        if has_trainer(dataclass_types):
            self._optionals.title = "the Trainer (transformers.TrainingArguments)"
        self._action_groups.append(self._action_groups.pop(self._action_groups.index(self._optionals)))  # the last
        self.add_argument("--config", help="YAML file: a saved command line. Flags given beside it override it.")
        self.origin = ""  # where the flags being parsed come from, for the error message

    def _parse_dataclass_field(self, parser: argparse.ArgumentParser, field: dataclasses.Field) -> None:
        """Add the flag of a field, without the metadata that argparse does not know."""
        field = copy.copy(field)
        if kind := field.metadata.get("mapping"):
            field.type = partial(self.to_mapping, field.name, kind == "text")
        field.metadata = {key: value for key, value in field.metadata.items() if key not in OWN_METADATA}
        super()._parse_dataclass_field(parser, field)

    def to_mapping(self, name: str, text_values: bool, text: str) -> dict[str, Any]:
        """Convert the value of a flag that takes a mapping."""
        try:
            return parse_mapping(f"--{name}", text, text_values)
        except ValueError as error:
            self.error(str(error))

    def error(self, message: str) -> NoReturn:
        stop(f"{self.origin}{message}", status=2)

    def check_known(self, argv: list[str]) -> None:
        """End where a flag is unknown, which argparse would say after it missed the required ones."""
        known = {option for action in self._actions for option in action.option_strings}
        for flag in argv:
            if flag.startswith("--") and " " not in flag and flag_name(flag) not in known:
                hint = self.nearest(flag) or "; a value that begins with -- is written as `--name=--value`"
                self.error(f"unknown argument `{flag}`{hint}")

    def nearest(self, name: str) -> str:
        """The known flag that an unknown one may mean: by another package's name, a part of it, or its letters."""
        known = [action.dest for action in self._actions if action.dest != "help"]
        dashes, name = "--" * name.startswith("--"), flag_name(name).lstrip("-").replace("-", "_")
        name = ELSEWHERE[name] if ELSEWHERE.get(name) in known else name
        holding = [flag for flag in known if min(len(flag), len(name)) > 3 and (name in flag or flag in name)]
        near = difflib.get_close_matches(name, holding, 1, cutoff=0) or difflib.get_close_matches(name, known, 1)
        return f"; the nearest is `{dashes}{near[0]}`" if near else ""

    def config_flags(self, path: str, replaced: set[str], flag: str = "config") -> list[str]:
        """A YAML file, without the keys in `replaced`, as the command line that it stands for, each value checked."""
        try:
            text = Path(path).expanduser().read_text(encoding="utf-8")
            settings = yaml.safe_load(text) or {}
            typed = yaml.load(text, MappingLoader) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ValueError(f"`--{flag}` {path} cannot be read: {one_line(error)}") from None
        except ValueError as error:
            raise ValueError(f"`{path}`: {error}") from None
        if not isinstance(settings, dict):
            raise ValueError(f"`--{flag}` {path}: write lines `key: value`")
        known = {action.dest: action for action in self._actions if action.dest not in ("help", "config")}
        for key, value in settings.items():
            if key in known and value is False and "no" in (known[key].choices or ()):
                settings[key] = "no"  # what YAML makes of it
            if isinstance(value, dict):
                settings[key] = typed[key]
            if key not in known:
                raise ValueError(f"`{path}`: unknown key `{key}`{self.nearest(str(key))}")
        settings = {key: value for key, value in settings.items() if value is not None and key not in replaced}
        flags = [flag for key, value in settings.items() for flag in to_flags(key, value)]
        self.origin = f"`{path}`: "
        self.parse_known_args([*flags, *self.required_flags(settings)])
        self.origin = ""
        return flags

    def required_flags(self, settings: dict[str, Any]) -> list[str]:
        """Stand-ins for required flags that a file need not hold, while the file alone is checked."""
        missing = [action.dest for action in self._actions if action.required and action.dest not in settings]
        return [f"--{name}=x" for name in missing]


def to_flags(key: str, value: Any) -> list[str]:
    """`key: value` of a YAML file as flags; argparse gives the value its type."""
    if isinstance(value, list):
        return [f"--{key}", *map(str, value)]
    if isinstance(value, dict):
        return [f"--{key}={json.dumps(value, default=str)}"]
    return [f"--{key}={value}"]


def parse_args(
    dataclass_types: list[type],
    argv: list[str] | None = None,
    description: str | None = None,
    default_config: str | None = None,
) -> tuple:
    """Parse a recipe's command line into its dataclasses.

    Args:
        dataclass_types: e.g. `[ModelArguments, DataArguments, TrainingArguments]`; every flag is a field of one.
        argv: the command line, `sys.argv[1:]` when left out.
        default_config: file next to the recipe that describes a new model; read when the command line names neither
            `--config` nor `--model_name_or_path`.

    Returns:
        One instance of each dataclass. `TrainingArguments` are made last, after DeepSpeed has been prepared.

    Raises:
        ValueError: unreadable file, unknown key, inconsistent DeepSpeed configuration.
        SystemExit: an unknown flag or a value of the wrong type, with one line on stderr and status 2.
    """
    show_messages()
    argv = sys.argv[1:] if argv is None else argv
    parser = RecipeParser(dataclass_types, description)
    if has_trainer(dataclass_types):
        # None: neither asked for nor refused, so that bfloat16 is used where the hardware has it.
        parser.set_defaults(bf16=None, logging_nan_inf_filter=False)
        parser.set_defaults(restore_callback_states_from_checkpoint=True)  # or patience would begin anew on resuming
    parser.check_known(argv)
    named, unknown = parser.parse_known_args([*parser.required_flags({}), *argv])
    given, config = names_of(argv), named.config
    replacing = REPLACED
    if config is None and getattr(named, "model_name_or_path", None) is None:
        config, replacing = default_config, REPLACED_DEFAULTS
    asked = [name for name in given if getattr(named, name, None) is not False]
    replaced = {setting for name in asked for setting in replacing.get(name, ())}
    flags = parser.config_flags(config, replaced) if config else []
    namespace, unknown = parser.parse_known_args(flags + argv)
    if unknown:
        parser.error(f"unknown argument `{unknown[0]}`{parser.nearest(unknown[0])}")
    for action in parser._actions:
        if action.nargs == "+" and sum(name in action.option_strings for name in map(flag_name, argv)) > 1:
            parser.error(f"`--{action.dest}` is given twice: put all its values behind one")
    values = vars(namespace)
    check_bounds(values)
    in_file = names_of(flags) - given
    check_used(values, given, in_file)
    for event in ("save", "eval"):
        # `--save_steps 100` would do nothing beside a strategy of "no", which is a default or in the file.
        for names, stronger in ((given, set()), (in_file, given)):
            if f"{event}_steps" in names and f"{event}_strategy" not in names | stronger:
                values[f"{event}_strategy"] = "steps"
    return tuple(build(dataclass_type, values) for dataclass_type in dataclass_types)


def parse_tasks(
    argv: list[str], task_args: EvalTaskArguments, data_args: DataArguments, args: EvalArguments
) -> dict[str, tuple[TaskArguments, DataArguments, EvalArguments]]:
    """The arguments of each `--task` of the evaluation recipe, under the name of the task or of its YAML file.

    Args:
        argv: the command line that the other arguments were parsed from.

    Raises:
        ValueError: a file cannot be read or has an unknown key, or two tasks have one name.
    """
    tasks = {}
    for entry in task_args.task:
        name = Path(entry).stem
        if name in tasks:
            raise ValueError(f"`--task` has `{name}` twice, and their results would have one place: rename a file")
        tasks[name] = parse_task(entry, argv, task_args, data_args, args)
    return tasks


def parse_task(
    name: str, argv: list[str], task_args: EvalTaskArguments, data_args: DataArguments, args: EvalArguments
) -> tuple[TaskArguments, DataArguments, EvalArguments]:
    """The arguments of one task, given by its name or as a YAML file, whose settings the flags of `argv` override.

    Of a file the seed counts too, by which rows were split off and drawn, and the batch size.

    Raises:
        ValueError: the file cannot be read, or has an unknown key.
    """
    if not name.endswith((".yaml", ".yml")):
        return dataclasses.replace(task_args, task=name), data_args, args
    from transformers import TrainingArguments

    groups = [ModelArguments, AdapterArguments, TaskArguments, DataArguments, FinetuneArguments, TrainingArguments]
    parser = RecipeParser(groups, None)
    in_file = parser.config_flags(name, set(), "task")
    values = vars(parser.parse_known_args([*in_file, *argv])[0])
    of_file, rest = parser.parse_known_args(in_file)
    if rest:
        raise ValueError(f"`--task` {name}: its `task` names several; write a file for each")
    values["task"] = of_file.task  # the flag is the file's name
    batch_size = args.batch_size or values["per_device_eval_batch_size"]
    settings = dataclasses.replace(args, seed=values["seed"], batch_size=batch_size)
    return build(TaskArguments, values), build(DataArguments, values), settings


def flag_name(flag: str) -> str:
    """`--max_length=5` -> `--max_length`."""
    return flag.split("=")[0]


def names_of(flags: list[str]) -> set[str]:
    """The arguments that a command line names."""
    return {flag_name(flag).lstrip("-").replace("-", "_") for flag in flags if flag.startswith("--")}


def check_bounds(values: dict[str, Any]) -> None:
    """Refuse numbers that make no sense, before any work."""
    for name, lowest in AT_LEAST.items():
        if values.get(name) is not None and not values[name] >= lowest:  # also where it is no number
            raise ValueError(f"`--{name}` is {values[name]}: give at least {lowest}")
    for name in ABOVE_ZERO:
        if values.get(name) is not None and not values[name] > 0:
            raise ValueError(f"`--{name}` is {values[name]}: give a number above 0")
    if values.get("max_steps", 1) < 1 and values["max_steps"] != -1:
        raise ValueError(f"`--max_steps` is {values['max_steps']}: give at least 1, or -1 for `--num_train_epochs`")


def check_used(values: dict[str, Any], given: set[str], in_file: set[str]) -> None:
    """Refuse what would do nothing; a file may hold it where the command line overrides what it depends on."""
    for name, (needed, *choices) in IDLE_WITHOUT.items():
        named = name in given or (name in in_file and not given & {needed, f"no_{needed}"})
        value = values.get(needed)
        if named and not (value in choices if choices else value):
            remedy = " ".join([needed, *choices[:1]])
            raise ValueError(f"`--{name}` does nothing without `--{remedy}`: give both or neither")
    for name, others in IDLE_BESIDE.items():
        for other in others:
            if values.get(other) and (name in given or {name, other} <= in_file):
                raise ValueError(f"`--{name}` does nothing beside `--{other}`: leave one of them out")


def build(dataclass_type: type, values: dict[str, Any]) -> Any:
    """One dataclass from the parsed values."""
    fields = {f.name: values[f.name] for f in dataclasses.fields(dataclass_type) if f.init}
    if has_trainer([dataclass_type]):
        return build_training_arguments(fields)
    return dataclass_type(**fields)


# Trackers whose package has their name.
TRACKERS = ("tensorboard", "wandb", "mlflow", "comet_ml", "clearml", "swanlab", "trackio", "dvclive", "codecarbon")
LOWER_IS_BETTER = ("loss", "perplexity", "bits_per_byte", "ter", "repetition")


def build_training_arguments(values: dict[str, Any]) -> "TrainingArguments":  # noqa: F821 imported below
    """`TrainingArguments` with the token kept out, DeepSpeed prepared, and the precision that the hardware has."""
    import torch
    from transformers import TrainingArguments

    from hf_llm.distributed.deepspeed_config import prepare_deepspeed
    from hf_llm.hardware import share_cores

    if token := values.pop("hub_token"):
        # huggingface_hub finds it there; in the arguments it would be written to training_args.bin and pushed.
        os.environ["HF_TOKEN"] = token
    check_trackers(values["report_to"])
    on_cpu = values["use_cpu"] or not torch.accelerator.is_available()
    if values["bf16"] is None:
        values["bf16"] = not values["fp16"] and has_bfloat16(on_cpu)
    if on_cpu and not values["deepspeed"]:
        values["use_cpu"] = True  # or TrainingArguments refuses bf16
    if on_cpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or DeepSpeed warns that it found nothing else
        share_cores()
    if values["disable_tqdm"]:
        hide_progress()
    prepare_deepspeed(values, script=sys.argv[0])
    if values["push_to_hub"]:
        check_push(values)
        # What is published by mistake cannot be taken back.
        values["hub_private_repo"] = values["hub_private_repo"] is not False
    if (values["metric_for_best_model"] or "").removeprefix("eval_") in LOWER_IS_BETTER:
        # The Trainer takes every score but a loss for one to be raised.
        values["greater_is_better"] = values["greater_is_better"] or False
    values["remove_unused_columns"] = False  # the collator reads the lengths that the model does not take
    values["include_num_input_tokens_seen"] = "non_padding"  # what throughput is counted in
    values["batch_eval_metrics"] = True  # sums per batch, so that evaluation needs no memory for logits
    return TrainingArguments(**values)


def check_trackers(names: str | list[str] | None) -> None:
    """Refuse at the start a tracker whose package is missing."""
    for name in [names] if isinstance(names, str) else names or []:
        packages = ("tensorboard", "tensorboardX") if name == "tensorboard" else (name,)
        if name in TRACKERS and not any(map(importlib.util.find_spec, packages)):
            raise ValueError(f"`--report_to` {name} is not installed: `pip install {name}`, or `--report_to none`")


def check_push(values: dict[str, Any]) -> None:
    """Refuse at the start what could only fail, or publish too much, hours later."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    named = values["hub_model_id"] or Path(values["output_dir"] or "trainer_output").resolve().name
    try:
        validate_repo_id(named)
    except HFValidationError as error:
        raise ValueError(f"`--hub_model_id` {named} cannot be a repository: {error}") from None
    if values["hub_strategy"] in ("checkpoint", "all_checkpoints"):
        raise ValueError(
            f"`--hub_strategy` {values['hub_strategy']} would publish optimizer states, which are pickles, and local "
            "paths: take every_save or end"
        )
