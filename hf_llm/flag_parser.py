"""The parser of a recipe's flags and YAML files, with errors in one line."""

import argparse
import copy
import dataclasses
import difflib
import json
import os
import re
import sys
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

from transformers import HfArgumentParser

from hf_llm.arguments import (
    TRAINER_DEFAULTS,
    TRAINER_METADATA,
    AdapterArguments,
    EvalArguments,
    GenerateArguments,
    PreparationArguments,
    PretrainArguments,
    TaskArguments,
    TextArguments,
    TokenizationArguments,
    TokenizerArguments,
)
from hf_llm.mappings import parse_mapping, read_yaml
from hf_llm.messages import exit_with_error
from hf_llm.other_tools import NAMES_IN_OTHER_TOOLS, REMEDIES

HELP = {"-h", "--help"}
OWN_METADATA = ("min", "above", "max", "requires", "excludes", "mapping", "positional")  # argparse does not know these
# Settings of a YAML file that are ignored if the command line has the flag, because they would take precedence over it.
IGNORED_SETTINGS = {"num_train_epochs": ("max_steps",)}
# The same for the default config, which describes a small model and a short run.
IGNORED_DEFAULTS = IGNORED_SETTINGS | {
    "model_type": ("config_overrides", "initializer_range"),
    "early_stopping_patience": ("max_steps",),
    "streaming": ("max_steps",),
}
# Mappings of a YAML file that a mapping on the command line replaces, instead of adding to it, if the command line also
# names what they describe.
DESCRIBED = {"config_overrides": "model_type", "task_options": "task"}
# Types of fields of TrainingArguments for which HfArgumentParser takes another one.
TRAINER_TYPES = {"report_to": list[str], "include_num_input_tokens_seen": str, "parallelism_config": str}
# Arguments that not every recipe has.
FLAGS_OF_RECIPES = {
    recipe: {option.name for group in groups for option in dataclasses.fields(group)}
    for recipe, groups in {
        "finetune.py": (AdapterArguments, TaskArguments),
        "pretrain.py": (PretrainArguments, TextArguments),
        "eval.py": (EvalArguments,),
        "generate.py": (GenerateArguments,),
        "prepare_data.py": (PreparationArguments,),
        "train_tokenizer.py": (TokenizerArguments,),
        "tokenize_data.py": (TokenizationArguments,),
    }.items()
}


class AddToMapping(argparse.Action):
    """Add the keys of a mapping to those of an earlier one, which a YAML file has; its own values take precedence."""

    def __call__(self, parser, namespace, values: Any, option_string=None):
        setattr(namespace, self.dest, (getattr(namespace, self.dest) or {}) | values)


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Help with the defaults of the flags, and with a recipe's docstring as it is, so that commands can be copied."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if isinstance(action, argparse._StoreFalseAction):
            return f"The same as --{action.dest} false."
        return action.help if action.default is None else super()._get_help_string(action)


def has_trainer(dataclass_types: list[type]) -> bool:
    """Whether `TrainingArguments` is one of them, by its name: importing it would add seconds to `--help`."""
    return any(dataclass_type.__name__ == "TrainingArguments" for dataclass_type in dataclass_types)


class RecipeParser(HfArgumentParser):
    """Parser of a recipe's dataclasses; an error is one line on stderr, with exit status 2."""

    def __init__(self, dataclass_types: list[Any], description: str | None):
        layout = {"usage": "%(prog)s [--config FILE] [flags]", "formatter_class": HelpFormatter}
        self.metadata: dict[str, dict[str, Any]] = TRAINER_METADATA if has_trainer(dataclass_types) else {}
        super().__init__(dataclass_types, description=description, allow_abbrev=False, **layout)
        if has_trainer(dataclass_types):
            self._optionals.title = "the Trainer (transformers.TrainingArguments)"
            self.set_defaults(**TRAINER_DEFAULTS)
        self._action_groups.append(self._action_groups.pop(self._action_groups.index(self._optionals)))  # last in help
        self.add_argument("--config", help="YAML file with arguments. Flags on the command line override it.")
        self.origin = ""  # of the flags being parsed, for error messages
        self.options = [self.with_metadata(f) for group in dataclass_types for f in dataclasses.fields(group) if f.init]

    def with_metadata(self, field: dataclasses.Field) -> dataclasses.Field:
        """Return a copy of a field, with our metadata if it is one of the Trainer."""
        field = copy.copy(field)
        field.metadata = {**field.metadata, **self.metadata.get(field.name, {})}  # pyright: ignore[reportAttributeAccessIssue]
        return field

    def _parse_dataclass_field(self, parser: argparse.ArgumentParser, field: dataclasses.Field) -> None:
        """Add the flag of a field, without the metadata that argparse does not know."""
        field = self.with_metadata(field)
        if self.metadata:
            field.type = TRAINER_TYPES.get(field.name, field.type)
        if field.metadata.get("positional"):
            parser.add_argument(field.name, nargs="+", metavar=field.name.upper(), help=field.metadata["help"])
            return
        if kind := field.metadata.get("mapping"):
            field.type = partial(self.to_mapping, field.name, kind == "text")
        metadata = {key: value for key, value in field.metadata.items() if key not in OWN_METADATA}
        field.metadata = metadata | ({"action": AddToMapping} if kind else {})
        super()._parse_dataclass_field(parser, field)

    def to_mapping(self, name: str, text_values: bool, text: str) -> dict[str, Any]:
        """Convert the value of a flag that takes a mapping."""
        try:
            return parse_mapping(f"--{name}", text, text_values)
        except ValueError as error:
            self.error(str(error))

    def error(self, message: str) -> NoReturn:
        message = re.sub(r"(--\w+)/--[\w-]+", r"\1", message)  # argparse names a flag with its spelling in dashes
        exit_with_error(f"{self.origin}{message}", status=2)

    def check_flags(self, argv: list[str]) -> None:
        """Exit if a flag is unknown, which argparse reports only after required ones, or if a list is given twice."""
        known = {option for action in self._actions for option in action.option_strings}
        for flag in argv:
            # With one dash, argparse would take `-hub_token=...` for `-h` and print the rest.
            unknown_long = flag.startswith("--") and " " not in flag and flag_name(flag) not in known
            if unknown_long or re.match("-[a-z]{2}", flag):
                hint = self.suggest(f"-{shown_name(flag)}") or "; write a value that begins with - as `--name=-value`"
                self.error(f"unknown argument `{shown_name(flag)}`{hint}")
        for action in self._actions:
            if action.nargs == "+" and sum(flag_name(flag) in action.option_strings for flag in argv) > 1:
                self.error(f"`--{action.dest}` is given twice: put all its values after one")

    def suggest(self, name: str) -> str:
        """Return a hint to the known flag nearest to an unknown one: another tool's name, a part of it, or similar."""
        known = [action.dest for action in self._actions if action.dest != "help"]
        dashes, name = "--" * name.startswith("--"), flag_name(name).lstrip("-").replace("-", "_").lower()
        equivalent = NAMES_IN_OTHER_TOOLS.get(name, name)
        if equivalent not in known:
            if name in REMEDIES:
                return f": {REMEDIES[name]}"
            if recipe := next((recipe for recipe, flags in FLAGS_OF_RECIPES.items() if equivalent in flags), None):
                subject = "it" if equivalent == name else f"`{dashes}{equivalent}`"
                return f": {subject} is an argument of recipes/{recipe}"
        name = equivalent
        containing = [flag for flag in known if min(len(flag), len(name)) > 3 and (name in flag or flag in name)]
        near = difflib.get_close_matches(name, containing, 1, 0.5) or difflib.get_close_matches(name, known, 1, 0.75)
        return f"; the nearest is `{dashes}{near[0]}`" if near else ""

    def parse(self, argv: list[str]) -> dict[str, Any]:
        """Parse flags to values by name; exit if there is anything else."""
        namespace, unknown = self.parse_known_args(argv)
        if unknown:
            name = shown_name(unknown[0])
            flags = [flag_name(word) for word in argv[: argv.index(unknown[0])] if word.startswith("--")]
            if flags and flags[-1].endswith(("token", "key")):  # the word may be a piece of it
                self.error(f"`{flags[-1]}` takes one value, and another word follows: put quotes around the value")
            flag = self.suggest(f"--{name}") or "; write a value after its flag, see `--help`"
            self.error(f"unknown argument `{name}`{flag}")
        return vars(namespace)

    def config_flags(self, argv: list[str], default_config: str | None) -> list[str]:
        """Flags of the YAML file of `--config`, or of the default one, without settings that `argv` overrides."""
        namespace, _ = self.parse_known_args([*self.placeholders({}), *argv])
        path, ignored = namespace.config, IGNORED_SETTINGS
        if path is None and getattr(namespace, "model_name_or_path", None) is None:
            path, ignored = default_config, IGNORED_DEFAULTS
        used = {name for name in flag_names(argv) if getattr(namespace, name, None) is not False}
        ignored_keys = {key for name in used for key in ignored.get(name, ())}
        ignored_keys |= {name for name, subject in DESCRIBED.items() if {name, subject} <= used}
        return self.read_config(path, ignored_keys) if path else []

    def show_defaults_of_file(self, argv: list[str], default_config: str | None) -> None:
        """Let `--help` show the settings of the YAML file that the command line would read as the defaults."""
        argv = [flag for flag in argv if flag not in HELP]
        flags = self.config_flags(argv, default_config)
        namespace, _ = self.parse_known_args([*self.placeholders({}), *flags])
        self.set_defaults(**{name: getattr(namespace, name) for name in flag_names(flags)})
        if flags and default_config and "config" not in flag_names(argv):
            self.set_defaults(config=os.path.relpath(default_config))

    def read_config(self, path: str, ignored_keys: set[str], flag: str = "config") -> list[str]:
        """Read a YAML file as flags, and check each value.

        Args:
            ignored_keys: settings to leave out.
            flag: the argument that names the file, for error messages.

        Raises:
            ValueError: the file cannot be read, or has an unknown key.
        """
        configs = {file.name: file for file in Path(sys.argv[0]).parent.glob("configs/*.yaml")}
        if not Path(path).exists() and (near := difflib.get_close_matches(Path(path).name, configs, 1)):
            raise ValueError(f"`--{flag}` {path}: there is no such file; the nearest is {configs[near[0]]}")
        settings = read_yaml(path, flag)
        known = {action.dest: action for action in self._actions if action.dest not in ("help", "config")}
        for key, value in settings.items():
            if key not in known:
                name = shown_name(str(key))
                raise ValueError(f"`{path}`: unknown key `{name}`{self.suggest(name)}")
            if value is False and "no" in (known[key].choices or ()):
                settings[key] = "no"  # which YAML reads as False
        settings = {key: value for key, value in settings.items() if value is not None and key not in ignored_keys}
        flags = [flag for key, value in settings.items() for flag in to_flags(key, value)]
        origin, self.origin = self.origin, f"`{path}`: "
        self.parse_known_args([*flags, *self.placeholders(settings)])
        self.origin = origin
        return flags

    def placeholders(self, settings: dict[str, Any]) -> list[str]:
        """Values for required flags that are not in `settings`, to parse the others without them."""
        missing = [action for action in self._actions if action.required and action.dest not in settings]
        return [f"--{action.dest}=x" if action.option_strings else "x" for action in missing]


def to_flags(key: str, value: Any) -> list[str]:
    """Write `key: value` of a YAML file as flags, whose values argparse converts."""
    value = json.dumps(value, default=str) if isinstance(value, dict) else value
    return [f"--{key}", *map(str, value)] if isinstance(value, list) else [f"--{key}={value}"]


def flag_name(flag: str) -> str:
    """`--max_length=5` -> `--max_length`."""
    return flag.split("=")[0]


def asks_for_json(argv: list[str]) -> bool:
    """Whether a command line, which need not be valid, has `--json`, `--json true` or the like."""
    given = [
        word.partition("=")[2] or following for word, following in pairwise([*argv, ""]) if flag_name(word) == "--json"
    ]
    return bool(given) and given[-1].lower() not in ("false", "no", "f", "n", "0")


def shown_name(word: str) -> str:
    """A word that is not a known name, without the value after `=`, `:` or a space, which may be a secret."""
    return re.split(r"[=:\s]", word, maxsplit=1)[0].replace("\u2014", "--")  # word processors join two dashes


def flag_names(argv: list[str]) -> set[str]:
    """Names of the arguments in a command line: `["--max-length", "5"]` -> `{"max_length"}`."""
    return {flag_name(flag).lstrip("-").replace("-", "_") for flag in argv if flag.startswith("--")}
