"""Files that appear complete or not at all, and early checks that they can be written."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Write a file that appears complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.tmp")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)


def check_writable(output_dir: str) -> None:
    """The output folder can be made or written to; told before the work instead of after it.

    Raises:
        ValueError: it cannot.
    """
    place = Path(output_dir)
    while not place.exists():
        place = place.parent
    if not (place.is_dir() and os.access(place, os.W_OK)):
        raise ValueError(f"`--output_dir` {output_dir}: `{place}` is no folder that can be written to; name another")


def new_folder(output_dir: str) -> Path:
    """The absolute path of a folder that is to be written.

    Raises:
        ValueError: it holds something already, or cannot be made.
    """
    target = Path(output_dir).expanduser().absolute()
    check_writable(str(target.parent))
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ValueError(
            f"`--output_dir` {output_dir} is there already and not an empty folder: name another, or remove it"
        )
    return target


@contextlib.contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """A folder to write into, which takes the place of `target` when all of it is written."""
    beside = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(beside, ignore_errors=True)  # of a run that was ended
    beside.mkdir(parents=True)
    try:
        yield beside
        os.replace(beside, target)
    except BaseException:
        shutil.rmtree(beside)
        raise


def check_output_file(path: str | None) -> None:
    """A results file can be written; told before the work instead of after it.

    Raises:
        ValueError: it is a folder, or its folder cannot be made or written to.
    """
    if path is None:
        return
    target = Path(path).expanduser()
    place = next(folder for folder in target.absolute().parents if folder.exists())
    if target.is_dir() or not place.is_dir() or not os.access(place, os.W_OK):
        raise ValueError(f"`--output_file` {path} cannot be written: name a file in a folder that can be written to")


def write_json(path: Path, figures: dict) -> None:
    """Write figures as the Trainer's results files have them."""
    write_text(path, json.dumps(figures, indent=2, ensure_ascii=False) + "\n")


def write_json_lines(path: str, rows: list[dict]) -> None:
    """Write rows to a JSON Lines file that appears complete or not at all."""
    target = Path(path).expanduser()
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.tmp")
    with open(beside, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    os.replace(beside, target)
