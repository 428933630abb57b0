"""Rows of a task, as its tests load them."""

import json

from hf_llm import DataArguments, TaskArguments, load_rows


def load(tmp_path, task, rows):
    """Rows of a task from a file of JSON Lines."""
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return load_rows(DataArguments(validation_file=[str(path)]), TaskArguments(task=""), task, 42)["validation"]
