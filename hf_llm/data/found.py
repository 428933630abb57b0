"""Files that an argument leads to, and those that were left out in its folders."""

import itertools
import logging
from collections.abc import Iterator
from typing import NamedTuple

logger = logging.getLogger(__name__)

LISTED = 3  # names of each reason in a message
LISTED_REASONS = 8
NO_READER = "no reader for "  # begins the reason of a format without one
NO_FILE = "a link to nothing"
OTHER_SPLIT = "another split of a saved data set: "  # begins the reason of one that an argument does not take
SECOND_NAME = "the same as "  # begins the reason of a name whose file is read under another one


class SourceFile(NamedTuple):
    """A file to read.

    Args:
        path: its path or URL.
        name: its name in everything that is written.
        size: in bytes.
        column: of its texts, if the argument names it.
    """

    path: str
    name: str
    size: int
    column: str | None = None


class SkippedFile(NamedTuple):
    """A file that is not read, or a folder of such files: its name, the reason, the bytes and number of the files."""

    name: str
    reason: str
    size: int
    files: int = 1


class Found(NamedTuple):
    """What the values of an argument name: files to read, and what was left out of their folders."""

    files: list[SourceFile]
    skipped: list[SkippedFile]

    @property
    def paths(self) -> list[str]:
        return [file.path for file in self.files]


def with_unique_names(files: list[SourceFile]) -> list[SourceFile]:
    """Add a number to names that an earlier file has."""
    unique: dict[str, SourceFile] = {}
    for file in files:
        name = next(name for name in numbered(file.name) if name not in unique)
        unique[name] = file._replace(name=name)
    return list(unique.values())


def numbered(name: str) -> Iterator[str]:
    """Yield a name, and then the name with the numbers 2, 3, ..."""
    yield name
    yield from (f"{name} ({number})" for number in itertools.count(2))


def summary(skipped: list[SkippedFile]) -> str:
    """Describe in one line what was left out: by reason some names, the number of files and their bytes."""
    by_reason: dict[str, list[SkippedFile]] = {}
    for file in skipped:
        by_reason.setdefault(file.reason, []).append(file)
    groups = sorted(by_reason.items(), key=lambda group: -sum(file.size for file in group[1]))
    texts = []
    for reason, files in groups[:LISTED_REASONS]:
        names = ", ".join(file.name for file in files[:LISTED]) + (", ..." if len(files) > LISTED else "")
        texts.append(f"{names} ({reason}; {count_files(files)})")
    if rest := [file for _, files in groups[LISTED_REASONS:] for file in files]:
        texts.append(f"others ({count_files(rest)})")
    return ", ".join(texts)


def remedy(skipped: list[SkippedFile]) -> str:
    """Return the end of a message about what was left out: how it can be read, if it can."""
    named = any(not file.reason.startswith((NO_READER, NO_FILE)) for file in skipped)
    texts = ["to take a file, name the file itself"] if named else []
    if any(file.reason.startswith(NO_READER) for file in skipped):
        texts.append("to take one without a reader, convert it, or if it is text add `--text_extensions`")
    return ": " + "; ".join(texts) if texts else ""


def count_files(skipped: list[SkippedFile]) -> str:
    number, size = sum(file.files for file in skipped), sum(file.size for file in skipped)
    return f"{number:,} file{'s' * (number != 1)}, {size:,} bytes"


def warn_of_skipped(argument: str, skipped: list[SkippedFile], how: str | None = None) -> None:
    """Log in one line what was left out, without second names of files and other splits of data sets.

    Args:
        how: the end of the message. Default: `remedy`.
    """
    if left_out := [file for file in skipped if not file.reason.startswith((SECOND_NAME, OTHER_SPLIT))]:
        logger.warning(f"`{argument}`: left out {summary(left_out)}{remedy(left_out) if how is None else how}")
