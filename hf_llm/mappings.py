"""Dictionaries in text: JSON objects in files and flags."""

import copy
import json
from pathlib import Path
from typing import Any


def parse_object(flag: str, text: str) -> dict[str, Any]:
    """A JSON object, as which a mapping in a YAML file arrives.

    Raises:
        ValueError: it is none.
    """
    try:
        given = json.loads(text)
    except ValueError as error:
        raise ValueError(f"`{flag}` {text} is no JSON object: {error}") from None
    if not isinstance(given, dict):
        raise ValueError(f"`{flag}` {text} is no JSON object: write name=value pairs, parted by commas")
    return given


def read_json(value: str | dict[str, Any], flag: str) -> tuple[str, dict[str, Any]]:
    """Name for messages, and the object: from a file, from JSON on the command line, or a dict as it is."""
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
        raise ValueError(f"{name}, line {error.lineno}, column {error.colno}, is no JSON: {error.msg}") from None
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{name} holds a JSON {type(config).__name__}: write one object, {{...}}")
    return name, config


def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if len(set(keys)) < len(keys):
        raise ValueError(f"`{next(key for key in keys if keys.count(key) > 1)}` appears twice in one object: keep one")
    return dict(pairs)
