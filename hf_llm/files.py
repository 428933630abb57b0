"""Files and folders that appear complete or not at all, and early checks that they can be written.

What has a name already is replaced, never written through: a symbolic link that somebody else has planted would
lead to another file.
"""

import contextlib
import fnmatch
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

# Names in an output folder that a run writes: results, model, unfinished files, checkpoints, TensorBoard's logs.
WRITTEN_BY_RUNS = ("*.json", "*.jsonl", "*.safetensors", "*.bin", "*.jinja", "*.model", "*.txt", "*.md", ".*.tmp")
WRITTEN_BY_RUNS += ("_saving", "checkpoint-*", "runs")


@contextlib.contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Give a temporary path in the same folder to write to, which is renamed to `target` at the end.

    After an error it is removed; what a killed run left under its name is removed first.
    """
    temporary = target.with_name(f".{target.name}.tmp")
    target.parent.mkdir(parents=True, exist_ok=True)
    remove(temporary)
    try:
        yield temporary
        os.replace(temporary, target)
    except BaseException:
        remove(temporary)
        raise


@contextlib.contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Make a temporary folder to write into, which is renamed to `target` at the end: a new or an empty folder."""
    with atomic_path(target) as temporary:
        temporary.mkdir()
        yield temporary


def remove(path: Path) -> None:
    """Remove a file or a folder with its contents, if there is one; of a link, the link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file that appears complete or not at all."""
    with atomic_path(path) as temporary, open(temporary, "x", encoding="utf-8") as file:  # x: no link, no other writer
        file.write(text)


def write_json(path: Path, figures: dict) -> None:
    """Write figures in the layout of the Trainer's results files."""
    write_text(path, json.dumps(figures, indent=2, ensure_ascii=False) + "\n")


def write_json_lines(path: str, rows: list[dict]) -> None:
    """Write rows to a JSON Lines file."""
    with atomic_path(Path(path).expanduser()) as temporary, open(temporary, "x", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def check_writable(folder: str | Path, name: str | None = None) -> None:
    """Check before the work that a folder can be made or written to.

    Args:
        name: argument and value for the error message. Default: `--output_dir` and the folder.

    Raises:
        ValueError: it cannot.
    """
    existing = Path(folder)
    while not existing.exists():
        existing = existing.parent
    if not (existing.is_dir() and os.access(existing, os.W_OK)):
        name = name or f"`--output_dir` {folder}"
        raise ValueError(f"{name} cannot be written: `{existing}` is not a writable folder; name another")


def check_output_folder(output_dir: str, subfolders: Iterable[str] = ()) -> None:
    """Check before the work that a run can write to its folder, and that no link in it leads its files elsewhere.

    The folder itself may be a link.

    Args:
        subfolders: names of folders in it that the run writes to.

    Raises:
        ValueError: it cannot be written to, or a name that a run writes is a symbolic link.
    """
    check_writable(output_dir)
    written = (*WRITTEN_BY_RUNS, *subfolders)
    for path in sorted(Path(output_dir).glob("*")):
        if any(fnmatch.fnmatchcase(path.name, pattern) for pattern in written):
            for link in filter(Path.is_symlink, [path, *path.rglob("*")]):
                raise ValueError(
                    f"`{link}` is a symbolic link, through which the run could write to `{os.readlink(link)}`: remove "
                    "the link, or name another `--output_dir`"
                )


def check_new_folder(output_dir: str) -> Path:
    """Check before the work that a new folder can be made.

    Returns:
        Its absolute path; of a link, that of the folder it leads to.

    Raises:
        ValueError: it cannot, or it holds something already.
    """
    target = Path(output_dir).expanduser().absolute()
    target = target.resolve() if target.is_symlink() else target
    check_writable(target.parent, f"`--output_dir` {output_dir}")
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ValueError(
            f"`--output_dir` {output_dir} exists already and is not an empty folder: name another, or remove it"
        )
    return target


def check_output_file(path: str | None) -> None:
    """Check before the work that a results file can be written.

    Raises:
        ValueError: it is a folder, or its folder cannot be made or written to.
    """
    if path is None:
        return
    target = Path(path).expanduser()
    if target.is_dir():
        raise ValueError(f"`--output_file` {path} is a folder: name a file")
    check_writable(target.parent, f"`--output_file` {path}")
