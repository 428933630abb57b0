"""The space of a search: a YAML file with the flags of a recipe, and the values that each may take."""

import difflib
import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from hf_llm.flag_parser import to_flags
from hf_llm.mappings import format_mapping, load_yaml, read_settings, read_yaml

DIGITS = 4  # significant ones of a value from a range, so that a person can read it and repeat it
MAX_SETTINGS = 100_000  # that are listed
RANGE = ("low", "high", "step", "log")


@dataclass(frozen=True)
class Parameter:
    """A flag, or an entry of a flag that takes a mapping (`config_overrides.hidden_size`), and its values.

    Attributes:
        choices: the values; None: a range.
        low, high: ends of a range, both included.
        step: distance of the values of a range; None: any, or 1 for whole numbers.
        log: whether the values of a range are drawn from its logarithm.
        when: other parameters, and the values that they must have for this one to be used.
        whole: whether a range has whole numbers only.
    """

    name: str
    choices: list[Any] | None = None
    low: float = 0
    high: float = 0
    step: float | None = None
    log: bool = False
    when: dict[str, list[Any]] = field(default_factory=dict)
    whole: bool = False

    def distribution(self) -> BaseDistribution:
        """The values for Optuna, which keeps choices that are lists or mappings as JSON text."""
        if self.choices is not None:
            return CategoricalDistribution([to_label(choice) for choice in self.choices])
        if self.whole:
            return IntDistribution(int(self.low), int(self.high), log=self.log, step=int(self.step or 1))
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def draw(self, trial: optuna.Trial) -> Any:
        """Let Optuna choose a value."""
        if self.choices is not None:
            label = trial.suggest_categorical(self.name, [to_label(choice) for choice in self.choices])
            return next(choice for choice in self.choices if is_equal(to_label(choice), label))
        if self.whole:
            return trial.suggest_int(self.name, int(self.low), int(self.high), log=self.log, step=int(self.step or 1))
        value = trial.suggest_float(self.name, self.low, self.high, log=self.log, step=self.step)
        return min(max(rounded(value, DIGITS), self.low), self.high) if self.step is None else rounded(value)

    def values(self) -> list[Any] | None:
        """All values; None: there is no end to them."""
        if self.choices is not None:
            return self.choices
        step = self.step or (1 if self.whole else None)
        if step is None:
            return None
        count = math.floor((self.high - self.low) / step + 1e-9) + 1
        return [self.low + int(step) * n if self.whole else rounded(self.low + step * n) for n in range(count)]

    def is_used(self, setting: dict[str, Any]) -> bool:
        """Whether the other parameters have the values that this one needs."""
        return all(
            name in setting and any(is_equal(setting[name], value) for value in values)
            for name, values in self.when.items()
        )


def rounded(value: float, digits: int = 12) -> float:
    """A number with so many significant digits, e.g. 0.3 for 0.1 + 0.2."""
    return float(f"{value:.{digits}g}")


def to_label(choice: Any) -> Any:
    """A choice as Optuna stores it: numbers, text, true, false and null as they are."""
    return json.dumps(choice) if isinstance(choice, list | dict) else choice


def is_equal(one: Any, other: Any) -> bool:
    """Whether two values are the same, unlike 1 and true."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def setting_key(setting: dict[str, Any]) -> str:
    """A setting as text, equal for equal settings."""
    return json.dumps(setting, sort_keys=True)


def read_space(path: str) -> list[Parameter]:
    """Read the space of a search, each parameter after those that its `when` names.

    Raises:
        ValueError: the file cannot be read, or a parameter has no values, or values that contradict each other.
    """
    text = read_yaml(path, "space")  # checks the file
    settings = load_yaml(read_settings(path, f"`--space` {path}")) or {}
    if not text:
        raise ValueError(f"`--space` {path} is empty: write lines such as `learning_rate: [1e-4, 3e-4]`")
    space = [read_parameter(f"`{path}`: `{name}`", str(name), value) for name, value in settings.items()]
    return in_order(path, space)


def read_parameter(origin: str, name: str, value: Any) -> Parameter:
    """Read one parameter: a list of choices, a mapping with `choices` or `low` and `high`, or a single value.

    Raises:
        ValueError: the message begins with `origin`.
    """
    if not isinstance(value, dict):
        value = {"choices": value if isinstance(value, list) else [value]}
    known = [option.name for option in fields(Parameter) if option.name not in ("name", "whole")]
    for key in value:
        if key not in known:
            nearest = difflib.get_close_matches(str(key), known, 1)
            entry = f"; an entry of a mapping is written `{name.strip('`')}.{key}`" if not nearest else ""
            raise ValueError(f"{origin} has `{key}`: give {nearest[0] if nearest else ', '.join(known)}{entry}")
    when = value.get("when") or {}
    if not isinstance(when, dict):
        raise ValueError(f"{origin} has `when` {when}: write a mapping, e.g. `when: {{optim: adamw_torch}}`")
    when = {key: allowed if isinstance(allowed, list) else [allowed] for key, allowed in when.items()}
    if "choices" in value:
        return Parameter(name, check_choices(origin, value), when=when)
    missing = [end for end in ("low", "high") if end not in value]
    if missing:
        raise ValueError(f"{origin} has no `{missing[0]}`: give a list of values, or `low` and `high`")
    return check_range(origin, Parameter(name, **{key: value[key] for key in RANGE if key in value}, when=when))


def check_choices(origin: str, value: dict[str, Any]) -> list[Any]:
    """Return the choices of a parameter, which must be several and differ."""
    choices = value["choices"]
    if clash := [key for key in RANGE if key in value]:
        raise ValueError(f"{origin} has `choices` and `{clash[0]}`: give a list of values, or a range")
    if not isinstance(choices, list) or not choices:
        raise ValueError(f"{origin} has no choices: write a list of values, e.g. [1e-4, 3e-4]")
    for number, choice in enumerate(choices):
        if any(is_equal(choice, other) for other in choices[:number]):
            raise ValueError(f"{origin} has `{choice}` twice: keep one")
    return choices


def check_range(origin: str, parameter: Parameter) -> Parameter:
    """Check the numbers of a range, and return it with `whole` set if all are whole.

    Raises:
        ValueError: they are not numbers, or contradict each other.
    """
    low, high, step, log = parameter.low, parameter.high, parameter.step, parameter.log
    for key, number in (("low", low), ("high", high), ("step", 1 if step is None else step)):
        if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
            raise ValueError(f"{origin} has `{key}` {number}: give a number")
    if not isinstance(log, bool):
        raise ValueError(f"{origin} has `log` {log}: give true or false")
    if low >= high:
        raise ValueError(f"{origin} has `low` {low} and `high` {high}: `low` must be less than `high`")
    if log and low <= 0:
        raise ValueError(f"{origin} has `low` {low} and `log: true`: a logarithm needs `low` above 0")
    if log and step is not None:
        raise ValueError(f"{origin} has `log: true` and `step`: leave out one, or write a list of values")
    if step is not None and not 0 < step <= high - low:
        raise ValueError(f"{origin} has `step` {step}: give a number above 0 and at most {high - low:g}")
    whole = all(isinstance(number, int) for number in (low, high, 1 if step is None else step))
    if step is not None:
        high = low + rounded(math.floor((high - low) / step + 1e-9) * step)  # the last value
        high = int(high) if whole else rounded(high)
    return Parameter(parameter.name, None, low, high, step, log, parameter.when, whole)


def in_order(path: str, space: list[Parameter]) -> list[Parameter]:
    """Put each parameter after those that its `when` names.

    Raises:
        ValueError: one of them is not in the space, never has the value, or waits for itself.
    """
    named = {parameter.name: parameter for parameter in space}
    for parameter in space:
        for other, allowed in parameter.when.items():
            if other not in named:
                nearest = difflib.get_close_matches(other, named, 1)
                hint = f"; did you mean {nearest[0]}?" if nearest else ": add it"
                raise ValueError(f"`{path}`: `{parameter.name}` has `when` {other}, which is not in the space{hint}")
            values = named[other].values()
            for value in allowed if values else ():
                if not any(is_equal(value, possible) for possible in values or ()):
                    raise ValueError(f"`{path}`: `{parameter.name}` has `when` {other}: {value}, which it never is")
    ordered: list[Parameter] = []
    while len(ordered) < len(space):
        ready = [p for p in space if p not in ordered and p.when.keys() <= {q.name for q in ordered}]
        if not ready:
            names = ", ".join(p.name for p in space if p not in ordered)
            raise ValueError(f"`{path}`: {names} wait for each other by `when`: remove one of these conditions")
        ordered += ready
    return ordered


def draw_setting(trial: optuna.Trial, space: list[Parameter]) -> dict[str, Any]:
    """Let Optuna choose a value for each parameter that is used with the ones before."""
    setting: dict[str, Any] = {}
    for parameter in space:
        if parameter.is_used(setting):
            setting[parameter.name] = parameter.draw(trial)
    return setting


def all_settings(space: list[Parameter], setting: dict[str, Any] | None = None) -> Iterator[dict[str, Any]]:
    """List all settings, the last parameter changing first. Each parameter must have an end to its values."""
    setting = setting or {}
    if not space:
        yield setting
        return
    first, rest = space[0], space[1:]
    if not first.is_used(setting):
        yield from all_settings(rest, setting)
        return
    for value in first.values() or ():
        yield from all_settings(rest, setting | {first.name: value})


def list_settings(space: list[Parameter]) -> list[dict[str, Any]] | None:
    """List all settings; None: there is no end to them, or they are more than can be listed."""
    if any(parameter.values() is None for parameter in space):
        return None
    settings = list(itertools.islice(all_settings(space), MAX_SETTINGS + 1))
    return settings if len(settings) <= MAX_SETTINGS else None


def settings_to_check(space: list[Parameter]) -> Iterator[dict[str, Any]]:
    """Settings in which each choice, and each end of a range, is used at least once: the others have their first."""
    named = {parameter.name: parameter for parameter in space}

    def add_needed(fixed: dict[str, Any], name: str) -> None:
        for other, allowed in named[name].when.items():
            if other not in fixed:
                fixed[other] = allowed[0]
                add_needed(fixed, other)

    for checked in space:
        for value in checked.choices or (checked.low, checked.high):
            fixed = {checked.name: value}
            add_needed(fixed, checked.name)
            setting: dict[str, Any] = {}
            for parameter in space:
                first = parameter.low if parameter.choices is None else parameter.choices[0]
                if parameter.name in fixed or parameter.is_used(setting):
                    setting[parameter.name] = fixed.get(parameter.name, first)
            yield setting


def setting_flags(setting: dict[str, Any]) -> list[str]:
    """Write a setting as flags of the recipe; a value of null leaves the flag out.

    Example:
        >>> setting_flags({"learning_rate": 0.001, "config_overrides.hidden_size": 64})
        ['--learning_rate=0.001', '--config_overrides={"hidden_size": 64}']
    """
    flags: dict[str, Any] = {}
    for name, value in setting.items():
        mapping, dot, key = name.partition(".")
        if dot:
            flags.setdefault(mapping, {})[key] = value
        elif value is not None:
            flags[name] = value
    return [word for name, value in flags.items() for word in to_flags(name, value)]


def describe(setting: dict[str, Any]) -> str:
    """Write a setting for a person: `learning_rate=0.001 lora_r=8`."""
    return " ".join(
        f"{name}={format_mapping(value) if isinstance(value, dict) else value}" for name, value in setting.items()
    )
