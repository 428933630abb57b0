"""Mappings in flags and files: `key=value` pairs, YAML mappings and JSON objects."""

import ast
import copy
import datetime
import itertools
import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

MAX_CHARACTERS = 1 << 20  # of the text of a mapping or file of settings
MAX_DEPTH = 50  # brackets within brackets
TOO_DEEP = f"it is nested deeper than {MAX_DEPTH} levels: make it flatter"
QUOTED = r"\"(?:\\.|[^\"\\])*\"|'(?:''|[^'])*'"
ARRAY = re.compile(r"\barray\((\[.*?\])(?:,\s*dtype=[^)]*)?\)", re.DOTALL)
# What matters in splitting pairs: a quoted string at the start of a value or item, brackets and braces (which open a
# value only after `=`), commas.
SPLIT_TOKENS = re.compile(rf"(?<=[=:,\[{{ ])(?:{QUOTED})|=\s*[\[{{]|[\[\]{{}},]")


class PlainLoader(yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader):  # pyright: ignore[reportGeneralTypeIssues]
    """YAML whose keys appear once, and in which `12:30` is text, not a number in base 60."""

    def construct_number(self, node):
        read = self.construct_yaml_int if node.tag.endswith("int") else self.construct_yaml_float
        return node.value if ":" in node.value else read(node)

    def construct_mapping(self, node, deep=False):
        check_unique([key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)])
        return super().construct_mapping(node, deep)


for kind in ("int", "float"):
    PlainLoader.add_constructor(f"tag:yaml.org,2002:{kind}", PlainLoader.construct_number)


class MappingLoader(PlainLoader):
    """The same, with numbers that may be written as 1e-4, which PyYAML reads as text."""


MappingLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?|\d*\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


class MappingDumper(yaml.SafeDumper):
    """Writes YAML that `MappingLoader` reads back: text that it would take for a number is put between quotes."""

    def ignore_aliases(self, data):
        return True  # a list that occurs twice is written twice: the loaders take no references


MappingDumper.yaml_implicit_resolvers = MappingLoader.yaml_implicit_resolvers


def represent_text(dumper: MappingDumper, value: Any) -> yaml.ScalarNode:
    """Text, and days as text; line ends that YAML would read as spaces need escapes, between double quotes."""
    style = '"' if re.search("[\x85\u2028\u2029\ufeff]", str(value)) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", str(value), style)


def represent_float(dumper: MappingDumper, value: float) -> yaml.ScalarNode:
    """The shortest number that is read as the same: `1e-05`, `.inf`."""
    text = repr(value) if math.isfinite(value) else f".{abs(value)}"
    return dumper.represent_scalar("tag:yaml.org,2002:float", f"-{text}" if value == -math.inf else text)


MappingDumper.add_representer(str, represent_text)
MappingDumper.add_representer(datetime.date, represent_text)
MappingDumper.add_representer(float, represent_float)


def dump_yaml(settings: dict[str, Any]) -> str:
    """Write settings as YAML that `read_yaml` reads back to the same values, in their order."""
    options: dict[str, Any] = {"sort_keys": False, "allow_unicode": True, "width": 2**31}
    return yaml.dump(settings, Dumper=MappingDumper, **options) if settings else ""


def load_yaml(text: str, loader: type = MappingLoader) -> Any:
    """Load YAML that cannot take endless memory or time.

    Raises:
        ValueError: a text or number that is too large, a key given twice, or a value repeated by `*name`, which ten
            short lines can expand to gigabytes.
        yaml.YAMLError: invalid YAML, or a tag (`!!name`).
    """
    check_size(text)
    depth, anchors = 0, set()
    for event in yaml.parse(text, loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ValueError(TOO_DEEP)
        if isinstance(event, yaml.AliasEvent) and event.anchor in anchors:
            raise ValueError(f"line {event.start_mark.line + 1} repeats a value by its name: write the value out")
        if getattr(event, "tag", None) is not None:
            raise yaml.constructor.ConstructorError(problem="tags are not read", problem_mark=event.start_mark)
        anchors.add(getattr(event, "anchor", None))
    return yaml.load(text, loader)


def describe_yaml_error(error: yaml.YAMLError) -> str:
    """Say where YAML is invalid and why, without the line itself or names in it, which may be secrets."""
    mark = getattr(error, "problem_mark", None)
    problem = re.sub(r"'(?!<)[^'\s]{2,}'", "a name", getattr(error, "problem", None) or str(error))
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark else problem


def load_json(text: str) -> Any:
    """Load JSON whose keys appear once.

    Raises:
        ValueError: invalid JSON (a `json.JSONDecodeError`), a key given twice, a text that is too large or too deep.
    """
    try:
        value = json.loads(text, object_pairs_hook=without_duplicates)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    level = [value]
    for _ in range(MAX_DEPTH):  # fewer levels than Python's recursion allows, for whatever reads the value later
        lists = [item.values() if isinstance(item, dict) else item for item in level if isinstance(item, dict | list)]
        if not (level := list(itertools.chain.from_iterable(lists))):
            return value
    raise ValueError(TOO_DEEP)


def read_settings(path: str | Path, name: str) -> str:
    """Read a small text file, e.g. of arguments.

    Args:
        name: the argument and the file, for error messages.

    Raises:
        ValueError: it cannot be read, is not UTF-8, or is too large.
    """
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(MAX_CHARACTERS + 1)
        check_size(text)
        return text
    except OSError as error:
        raise ValueError(f"{name} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{name} cannot be read: {error}") from None


def check_size(text: str) -> None:
    """Refuse settings longer than any real ones."""
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"it has more than {MAX_CHARACTERS:,} characters, which settings do not need: is it data?")


def check_unique(keys: list[Any]) -> None:
    """Refuse keys of which one is given twice."""
    repeated = [key for key, number in Counter(keys).items() if number > 1]
    if repeated:
        raise ValueError(f"`{repeated[0]}` appears twice: keep one")


def read_yaml(path: str, flag: str) -> dict[str, Any]:
    """Read a YAML file of arguments. 1e-4 is a number only inside a mapping; elsewhere argparse converts it from text.

    Raises:
        ValueError: it cannot be read, is not a mapping, has a key twice, or is refused by `load_yaml`.
    """
    text = read_settings(Path(path).expanduser(), f"`--{flag}` {path}")
    try:
        settings, typed = load_yaml(text, PlainLoader) or {}, load_yaml(text) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"`--{flag}` {path} cannot be read: {describe_yaml_error(error)}") from None
    except ValueError as error:
        raise ValueError(f"`{path}`: {error}") from None
    if not isinstance(settings, dict):
        raise ValueError(f"`--{flag}` {path}: write lines `key: value`")
    return {key: typed.get(key, value) if isinstance(value, dict) else value for key, value in settings.items()}


def parse_mapping(flag: str, text: str, text_values: bool = False) -> dict[str, Any]:
    """Parse `key=value` pairs, a JSON object, or a YAML mapping with or without braces.

    A value that begins with a brace, bracket or quotation mark may contain commas:
    `rope_parameters={rope_type: linear, factor: 2.0},rms_norm_eps=1e-4` ->
    `{"rope_parameters": {"rope_type": "linear", "factor": 2.0}, "rms_norm_eps": 0.0001}`.

    Args:
        flag: the argument, for error messages.
        text_values: keep the values of pairs as text, e.g. `target=no`; others have types anyway.

    Raises:
        ValueError: a pair without `=`, a key given twice, a bracket that is not closed, or an invalid object.
    """
    if text.lstrip().startswith("{"):
        return parse_object(flag, text)
    if re.match(r"\s*[\w.]+:\s", text):
        lines = parse_value(text)
        return lines if isinstance(lines, dict) else parse_object(flag, f"{{{text}}}")
    mapping = {}
    for pair in split_pairs(flag, text):
        key, equals, value = (part.strip() for part in pair.partition("="))
        if not (key and equals):
            name = re.split(r"[:\s]", pair.strip(), maxsplit=1)[0]  # without what may be a secret
            raise ValueError(f"`{flag}` has `{name}`: write key=value pairs, separated by commas")
        if key in mapping:
            raise ValueError(f"`{flag}` has `{key}` twice: keep one")
        try:
            mapping[key] = value if text_values and not re.fullmatch(QUOTED, value) else parse_value(value)
        except ValueError as error:
            raise ValueError(f"`{flag}` {key}: {error}") from None
    return mapping


def parse_object(flag: str, text: str) -> dict[str, Any]:
    """Parse a JSON object, or a YAML mapping in braces, whose keys need no quotation marks.

    JSON is tried first, because YAML reads its escapes of characters above U+FFFF as two characters.
    """
    try:
        return load_json(text)
    except json.JSONDecodeError as error:
        json_error = f"line {error.lineno}, column {error.colno}, is not JSON: {error.msg}"
    except ValueError as error:
        raise ValueError(f"`{flag}`: {error}") from None
    try:
        mapping = load_yaml(text)
    except yaml.YAMLError as error:
        problem = json_error if text.lstrip("{ ").startswith('"') else describe_yaml_error(error)
        raise ValueError(f"`{flag}`, {problem}") from None
    except ValueError as error:
        raise ValueError(f"`{flag}`: {error}") from None
    for key, value in mapping.items():  # YAML reads `{a=1}` and `{a:1}` as a key without a value
        if value is None and not re.search(rf"{re.escape(str(key))}[\"']?\s*:\s+(?:null|~)", text):
            name = re.split(r"[:=\s]", str(key), maxsplit=1)[0]  # without what may be a secret
            raise ValueError(
                f"`{flag}` has `{name}` without a value: write {{key: value}}, with a space after the colon"
            )
    return mapping


def split_pairs(flag: str, text: str) -> list[str]:
    """Split `a=1,b={c: 2, d: 3}` at the commas between pairs -> `["a=1", "b={c: 2, d: 3}"]`."""
    pairs, start, depth = [], 0, 0
    for token in SPLIT_TOKENS.finditer(text):
        if token[0][-1] in "{[":
            # Only after `=` it opens a value; in `a=x[1` it is a character like any other.
            depth += depth > 0 or token[0][0] == "="
        elif token[0] in ("}", "]"):
            depth -= depth > 0
        elif token[0] == "," and not depth:
            pairs.append(text[start : token.start()])
            start = token.end()
    if depth:
        raise ValueError(f"`{flag}` has `{text[start : start + 60]}`: close its bracket or brace")
    return [pair for pair in [*pairs, text[start:]] if pair.strip()]


def parse_value(text: str) -> Any:
    """A value of the command line, typed as in YAML; invalid YAML is kept as text."""
    try:
        return load_yaml(text)
    except yaml.YAMLError:
        return text


def parse_nested(text: str) -> Any:
    """Parse a list or dictionary that was written to a CSV file, as JSON or by Python, with or without NumPy's arrays.

    Raises:
        ValueError: it is neither.

    Example:
        >>> parse_nested("{'text': array(['Rain'], dtype=object), 'answer_start': array([3])}")
        {'text': ['Rain'], 'answer_start': [3]}
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(ARRAY.sub(r"\1", text.strip()))
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        raise ValueError(f"`{text[:60]}` is not a list or dictionary: write it as JSON") from None


def format_mapping(mapping: dict[str, Any]) -> str:
    """Write a mapping as `key=value` pairs, which `parse_mapping` reads back."""
    plain = {key: isinstance(value, str) and not re.match(r"[\[{\"']|.*,", value) for key, value in mapping.items()}
    written = {key: value if plain[key] else json.dumps(value, default=str) for key, value in mapping.items()}
    return ",".join(f"{key}={value}" for key, value in written.items())


def read_json_object(value: str | dict[str, Any], flag: str) -> tuple[str, dict[str, Any]]:
    """Read a JSON object from a file or from the command line; a dict is copied.

    Returns:
        Name of its origin for error messages, and the object.

    Raises:
        ValueError: an unreadable file, invalid JSON, a key that appears twice, or another value than an object.
    """
    if isinstance(value, dict):
        return f"`{flag}`", copy.deepcopy(value)
    inline = value.lstrip().startswith("{")
    name = f"`{flag}`" if inline else f"`{flag}` `{value}`"
    return name, parse_json_object(value if inline else read_settings(value, name), name)


def read_json_file(path: str | Path) -> dict[str, Any]:
    """Read a JSON object from a file of a model or a run.

    Raises:
        ValueError: not UTF-8, invalid JSON, or another value than an object.
        OSError: the file cannot be read.
    """
    try:
        return parse_json_object(Path(path).read_text(encoding="utf-8"), f"`{path}`")
    except UnicodeDecodeError as error:
        raise ValueError(f"`{path}` is not JSON: byte {error.start} is not UTF-8") from None


def parse_json_object(text: str, name: str) -> dict[str, Any]:
    """Parse a JSON object.

    Args:
        name: its origin, for error messages.

    Raises:
        ValueError: invalid JSON, or another value than an object.
    """
    try:
        config = load_json(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{name}, line {error.lineno}, column {error.colno}, is not JSON: {error.msg}") from None
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{name} holds a JSON {type(config).__name__}: write one object, {{...}}")
    return config


def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, each key of which appears once."""
    check_unique([key for key, _ in pairs])
    return dict(pairs)
