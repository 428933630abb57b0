"""Folders that `save_to_disk` of `datasets` wrote: of a `Dataset`, or of a `DatasetDict` with a folder a split."""

import json
import os
import re
from collections.abc import Collection
from typing import Any

from hf_llm.data.byte_streams import open_bytes
from hf_llm.data.found import OTHER_SPLIT
from hf_llm.messages import printable, without_secrets

SPLITS_FILE = "dataset_dict.json"
STATE_FILE = "state.json"
INFO_FILE = "dataset_info.json"
CACHE = re.compile(r"cache-.*\.arrow")
NOT_SAVED = "a cache, not in the saved data set"


def held_out_split(splits: Collection[str]) -> str | None:
    """Return the first of the splits `validation`, `validation_...` (MNLI has two) and `test` that there is."""
    held_out = sorted(split for split in splits if split.startswith("validation"))
    return next((split for split in (*held_out, "test") if split in splits), None)


def saved_splits(folder: str, names: set[str]) -> list[str]:
    """Return the names of the splits, which are those of their folders; nothing for another folder.

    Args:
        folder: a path or URL.
        names: of all files in it.
    """
    splits = (read_object(folder, SPLITS_FILE) if SPLITS_FILE in names else {}).get("splits")
    return [split for split in splits if isinstance(split, str)] if isinstance(splits, list) else []


def reason_to_skip_split(split: str, splits: list[str], argument: str) -> str | None:
    """Return why a split is not read for an argument: only those of `--decontaminate` are all read."""
    wanted = held_out_split(splits) if argument == "--validation_file" else "train"
    if argument == "--decontaminate" or split not in splits or split == wanted:
        return None
    return f"{OTHER_SPLIT}`{argument}` takes `{wanted or 'validation'}`"


def files_not_saved(folder: str, names: set[str]) -> set[str]:
    """Return the Arrow files that lie beside those of a saved `Dataset`: caches, shards of an earlier one.

    Args:
        folder: a path or URL.
        names: of all files in it.

    Raises:
        ValueError: a file of the data set is missing.
    """
    if INFO_FILE not in names:
        return set()
    arrow = {name for name in names if name.endswith(".arrow")}
    entries = (read_object(folder, STATE_FILE) if STATE_FILE in names else {}).get("_data_files")
    if not isinstance(entries, list):
        return {name for name in arrow if CACHE.fullmatch(name)}
    listed = {f"{entry.get('filename')}" for entry in entries if isinstance(entry, dict)}
    if missing := sorted(listed - names):
        shown = printable(without_secrets(folder) if "://" in folder else folder)
        raise ValueError(f"`{shown}/{STATE_FILE}` names {printable(missing[0])}, which is missing: copy it again")
    return arrow - listed


def read_object(folder: str, name: str) -> dict[str, Any]:
    """Read a JSON object; one that is empty where the file holds anything else."""
    try:
        with open_bytes(os.path.join(folder, name)) as file:
            content = json.loads(file.read())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
