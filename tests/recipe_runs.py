"""What the tests of the recipes share: command lines, and looks at what a process left behind."""

import hashlib
import json
from concurrent.futures import Future
from pathlib import Path

from conftest import Finished

ROOT = Path(__file__).parent.parent
RECIPES = sorted((ROOT / "recipes").glob("*.py"))


def flags(settings: dict) -> list[str]:
    return [part for name, value in settings.items() for part in (f"--{name}", str(value))]


def contents(folder: Path) -> dict[str, str]:
    """Path -> hash of every file."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def read_json(path: Path) -> dict:
    return json.loads(path.read_text())


def read_json_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def expect_success(future: Future) -> Finished:
    """The finished process, after a look at its exit status."""
    run = future.result()
    assert run.status == 0, run.stderr
    return run
