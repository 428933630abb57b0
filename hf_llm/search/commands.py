"""The command of a search: a recipe with its launcher, checked with every value of the space before any trial."""

import difflib
import logging
import multiprocessing
import runpy
import shlex
import shutil
import socket
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hf_llm.arguments import SearchArguments
from hf_llm.flag_parser import flag_names
from hf_llm.search.space import MAX_SETTINGS, Parameter, describe, list_settings, setting_flags, settings_to_check

EXAMPLE = "python recipes/search.py --space space.yaml -- accelerate launch recipes/finetune.py --config ..."
# Flags of a recipe that a search sets for each run, and what they are for.
SET_BY_SEARCH = {
    "output_dir": "each run has a folder of its own in `--output_dir` of the search",
    "resume_from_checkpoint": "the search repeats a run that was cut short",
    "push_to_hub": "push the best model after the search",
}


@dataclass(frozen=True)
class Command:
    """A command line that trains.

    Attributes:
        launcher: the words before the recipe, e.g. `accelerate launch`.
        recipe: path of the recipe.
        flags: those of the recipe.
    """

    launcher: tuple[str, ...]
    recipe: str
    flags: tuple[str, ...]

    def words(self, flags: list[str]) -> list[str]:
        """The command with more flags, and a port that no other trial has."""
        return [*self.launcher, *port_flags(self.launcher), self.recipe, *self.flags, *flags]

    def text(self) -> str:
        """The command as it is typed."""
        return shlex.join([*self.launcher, self.recipe, *self.flags])


@dataclass(frozen=True)
class Recipe:
    """What a search needs to know of a recipe's command.

    Attributes:
        metric: name of the score, without `eval_`.
        direction: `minimize` or `maximize`.
        evaluates: whether it evaluates during training.
        seed: of the command.
        gpus: number of GPUs of this machine.
    """

    metric: str
    direction: Literal["minimize", "maximize"]
    evaluates: bool
    seed: int
    gpus: int


def split_command(argv: list[str]) -> tuple[list[str], list[str]]:
    """Split a command line at the first `--`: the flags of the search, the command."""
    end = argv.index("--") if "--" in argv else len(argv)
    return argv[:end], argv[end + 1 :]


def find_recipe(words: list[str]) -> Command:
    """Find the recipe in a command.

    Raises:
        ValueError: there is none, or the launcher is not installed.
    """
    if not words:
        raise ValueError(f"the command of the recipe is missing: write it after `--`, e.g. {EXAMPLE}")
    if (word := next((word for word in words if word.endswith(".py")), None)) is None:
        raise ValueError(f"the command `{shlex.join(words)}` has no recipe: name a file, e.g. recipes/finetune.py")
    number = words.index(word)
    if not Path(word).is_file():
        near = difflib.get_close_matches(Path(word).name, [path.name for path in Path(word).parent.glob("*.py")], 1)
        raise ValueError(f"the recipe `{word}` does not exist" + (f"; did you mean {near[0]}?" if near else ""))
    launcher = tuple(words[:number]) or (sys.executable,)
    if shutil.which(launcher[0]) is None:
        raise ValueError(f"`{launcher[0]}` of the command is not installed: name a launcher, e.g. accelerate launch")
    return Command(launcher, word, tuple(words[number + 1 :]))


def port_flags(launcher: tuple[str, ...]) -> list[str]:
    """The flag that gives a launcher a free port: trials that run at the same time would meet on its default one.

    torchrun chooses a free one by itself; launches on several machines keep their own.
    """
    if flag_names([*launcher]) & {"machine_rank", "nnodes", "num_nodes", "hostfile"}:
        return []
    programs = {Path(word).name for word in launcher}
    flag = "--main_process_port" if "accelerate" in programs else "--master_port" if "deepspeed" in programs else None
    return [flag, str(free_port())] if flag else []


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def check_command(command: Command, space: list[Parameter], args: SearchArguments) -> Recipe:
    """Check each value of the space with the recipe's own parser, in a process of its own.

    The process has the recipe's imports, which the search would else keep in memory for days.

    Raises:
        ValueError: a value that the recipe refuses, an unknown flag, or one that the search sets itself.
        SystemExit: the same, after the recipe's parser has written it to stderr.
    """
    quiet = {"initializer": logging.disable, "initargs": (logging.INFO,)}  # or each check would log its settings
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), **quiet) as pool:
        return pool.submit(check_values, command, space, args).result()


def check_values(command: Command, space: list[Parameter], args: SearchArguments) -> Recipe:
    """Check as `check_command`, in this process, which takes the imports of the recipe."""
    from hf_llm.command_line import parse_values

    recipe = runpy.run_path(command.recipe, run_name="recipe")
    groups = recipe.get("GROUPS", [])
    if not any(group.__name__ == "TrainingArguments" for group in groups):
        raise ValueError(f"`{command.recipe}` does not train: name recipes/pretrain.py or recipes/finetune.py")
    sys.argv[0] = command.recipe
    check_names(command, space, args)
    if args.sampler == "grid":
        check_grid(space, args.space)
    options: dict[str, Any] = {"default_config": recipe.get("DEFAULT_CONFIG")}
    fold = ["--fold", f"1/{args.num_folds}"] if args.num_folds else []
    _, values = parse_values(groups, [*command.flags, *fold], **options)
    if fold:
        check_folds(groups, values)
    for name in ("push_to_hub", "resume_from_checkpoint"):
        if values[name]:
            raise ValueError(f"`{name}` of the command is set by the search: {SET_BY_SEARCH[name]}; leave it out")
    for setting in settings_to_check(space):
        origin = f"`--space` {args.space} with {describe(setting)}: "
        try:
            parse_values(groups, [*command.flags, *fold, *setting_flags(setting)], **options, origin=origin)
        except ValueError as error:
            raise ValueError(f"{origin}{error}") from None
    return describe_recipe(values, space, args)


def check_folds(groups: list[type], values: dict[str, Any]) -> None:
    """Read the rows of the command and divide them, as each run will do it.

    Raises:
        ValueError: they cannot be read, are fewer than the folds, or the command says already what is held out.
    """
    from hf_llm.arguments import DataArguments, TaskArguments, TextArguments
    from hf_llm.command_line import build
    from hf_llm.data.rows import load_rows
    from hf_llm.data.sources import load_splits
    from hf_llm.tasks import load_task

    data_args = build(next(group for group in groups if issubclass(group, DataArguments)), values)
    if isinstance(data_args, TextArguments):
        load_splits(data_args, values["seed"])
    else:
        task_args = build(TaskArguments, values)
        load_rows(data_args, task_args, load_task(task_args.task, **task_args.task_options or {}), values["seed"])


def check_grid(space: list[Parameter], path: str) -> None:
    """Refuse a space that a grid cannot try to its end.

    Raises:
        ValueError: a parameter has no end of values, or the settings are too many.
    """
    if endless := next((parameter.name for parameter in space if parameter.values() is None), None):
        problem = f"`{endless}` of `{path}` has no end of them: give it a list of values"
    elif list_settings(space) is None:
        problem = f"`{path}` has more than {MAX_SETTINGS:,}: leave some out"
    else:
        return
    raise ValueError(f"`--sampler grid` tries all settings, and {problem}, or use `--sampler tpe`")


def check_names(command: Command, space: list[Parameter], args: SearchArguments) -> None:
    """Refuse flags that the search sets itself, and those that both the space and the command have.

    Raises:
        ValueError: the flag is named.
    """
    set_here = SET_BY_SEARCH | ({"seed": "`--seeds` has the seeds"} if args.seeds else {})
    set_here |= {"fold": "`--num_folds` has the folds"} if args.num_folds else {}
    in_command = flag_names([*command.flags])
    for name, reason in set_here.items():
        if name in in_command:
            raise ValueError(f"`--{name}` of the command is set by the search: {reason}; leave it out")
    for parameter in space:
        name, _, entry = parameter.name.partition(".")
        if name in set_here:
            raise ValueError(f"`{args.space}`: `{name}` is set by the search: {set_here[name]}; leave it out")
        if name in in_command and not entry:
            raise ValueError(f"`--{name}` is in the command and in `{args.space}`: leave one of them out")


def describe_recipe(values: dict[str, Any], space: list[Parameter], args: SearchArguments) -> Recipe:
    """What the search needs to know of the command, from its parsed values.

    Raises:
        ValueError: a pruner has no evaluations to look at, or no value of the score is the best.
    """
    import torch

    from hf_llm.metrics import lower_is_better

    evaluates = values["eval_strategy"] != "no" or any(p.name in ("eval_strategy", "eval_steps") for p in space)
    if args.pruner != "none" and not evaluates:
        raise ValueError(
            f"`--pruner` {args.pruner} looks at evaluations during training: add `--eval_strategy epoch`, or "
            "`--eval_steps` with a number, to the command"
        )
    metric = (args.metric or values["metric_for_best_model"] or "loss").removeprefix("eval_")
    if (lower := lower_is_better(metric)) is None:
        raise ValueError(f"`--metric` {metric} has no better end: name another score, e.g. loss")
    direction = "minimize" if lower else "maximize"
    return Recipe(metric, direction, evaluates, values["seed"], torch.cuda.device_count())
