"""Mappings in flags and files: `key=value` pairs, YAML mappings and JSON objects."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import yaml

QUOTED = r"\"(?:\\.|[^\"\\])*\"|'(?:''|[^'])*'"
# What matters in splitting pairs: a quoted string at the start of a value or item, brackets and braces, commas.
SPLIT_TOKENS = re.compile(rf"(?<=[=:,\[{{ ])(?:{QUOTED})|[\[\]{{}},]")


class MappingLoader(yaml.SafeLoader):
    """YAML whose numbers may be written as 1e-4, which PyYAML reads as text, and whose keys appear once."""

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value]
        if repeated := [key for key in keys if keys.count(key) > 1]:
            raise ValueError(f"`{repeated[0]}` appears twice: keep one")
        return super().construct_mapping(node, deep)


MappingLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?|\d*\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def parse_mapping(flag: str, text: str, text_values: bool = False) -> dict[str, Any]:
    """Parse `key=value` pairs, a JSON object, or a YAML mapping in braces.

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
    mapping = {}
    for pair in split_pairs(flag, text):
        key, equals, value = (part.strip() for part in pair.partition("="))
        if not (key and equals):
            raise ValueError(f"`{flag}` has `{pair.strip()}`: write key=value pairs, separated by commas")
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
        json.loads(text)
    except json.JSONDecodeError:
        try:
            mapping = parse_value(text)
        except ValueError as error:
            raise ValueError(f"`{flag}`: {error}") from None
        if isinstance(mapping, dict) and None not in mapping.values():  # YAML reads `{a=1}` as a key without a value
            return mapping
    return read_json_object(text, flag)[1]


def split_pairs(flag: str, text: str) -> list[str]:
    """Split `a=1,b={c: 2, d: 3}` at the commas between pairs -> `["a=1", "b={c: 2, d: 3}"]`."""
    pairs, start, depth = [], 0, 0
    for token in SPLIT_TOKENS.finditer(text):
        if token[0] in ("{", "["):
            # Only after `=` it opens a value; in `a=x[1` it is a character like any other.
            depth += depth > 0 or text[: token.start()].rstrip().endswith("=")
        elif token[0] in ("}", "]"):
            depth -= depth > 0
        elif token[0] == "," and not depth:
            pairs.append(text[start : token.start()])
            start = token.end()
    if depth:
        raise ValueError(f"`{flag}` has `{text[start:]}`: close its bracket or brace")
    return [pair for pair in [*pairs, text[start:]] if pair.strip()]


def parse_value(text: str) -> Any:
    """A value of the command line, typed as in YAML; invalid YAML is kept as text."""
    try:
        return yaml.load(text, MappingLoader)
    except yaml.YAMLError:
        return text


def format_mapping(mapping: dict[str, Any]) -> str:
    """Write a mapping as `key=value` pairs, which `parse_mapping` reads back."""
    plain = {key: isinstance(value, str) and not re.match(r"[\[{\"']|.*,", value) for key, value in mapping.items()}
    return ",".join(f"{key}={value if plain[key] else json.dumps(value)}" for key, value in mapping.items())


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
    try:
        text = value if inline else Path(value).read_text(encoding="utf-8")
        config = json.loads(text, object_pairs_hook=without_duplicates)
    except OSError as error:
        raise ValueError(f"{name} cannot be read: {error.strerror}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{name}, line {error.lineno}, column {error.colno}, is not JSON: {error.msg}") from None
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{name} holds a JSON {type(config).__name__}: write one object, {{...}}")
    return name, config


def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, each key of which appears once."""
    keys = [key for key, _ in pairs]
    if len(set(keys)) < len(keys):
        raise ValueError(f"`{next(key for key in keys if keys.count(key) > 1)}` appears twice in one object: keep one")
    return dict(pairs)
