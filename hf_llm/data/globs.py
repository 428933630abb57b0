"""Expand globs to paths, each folder once: Python's `glob` follows links without end."""

import fnmatch
import glob
import os
from collections import deque
from collections.abc import Iterator


def expand(typed: str) -> tuple[str, list[str]]:
    """Expand a path or glob.

    Of the wildcards, `**` matches any number of folders. Names that begin with a dot are matched by a dot only. A
    glob that ends in `*` or `**` chooses no names: it means the folders before that.

    Returns:
        The part before the first wildcard as it was typed, and the absolute paths that exist.
    """
    parts = typed.split("/")
    first = next((number for number, part in enumerate(parts) if glob.has_magic(part)), None)
    if first is None or os.path.lexists(typed):  # a name may have brackets
        return typed, [absolute_path(typed)] if os.path.lexists(typed) else []
    fixed, wildcards = "/".join(parts[:first]) or ("/" if typed.startswith("/") else "."), parts[first:]
    only_folders = wildcards[-1] in ("*", "**")
    wildcards = wildcards[:-1] if only_folders else wildcards
    while only_folders and wildcards and wildcards[-1] == "**":
        wildcards.pop()
    paths = [absolute_path(fixed)]
    for wildcard in wildcards:
        if wildcard == "**":
            paths = list(subfolders(paths))
        else:
            paths = [path for folder in paths for path in match_entries(folder, wildcard)]
    if only_folders:
        paths = [path for path in paths if os.path.isdir(path)]
    return fixed, paths


def match_entries(folder: str, wildcard: str) -> list[str]:
    """Return the paths in a folder that match one component of a glob."""
    if not glob.has_magic(wildcard):
        path = os.path.join(folder, wildcard)
        return [path] if os.path.lexists(path) else []
    try:
        names = sorted(os.listdir(folder))
    except OSError:  # not a folder, or closed to this user
        return []
    return [
        os.path.join(folder, name)
        for name in names
        if fnmatch.fnmatchcase(name, wildcard) and (wildcard[0] == "." or name[0] != ".")
    ]


def subfolders(folders: list[str]) -> Iterator[str]:
    """Yield folders and those in them that are not hidden, each once, under its real path rather than by a link."""
    seen, real, links = set(), deque(folders), deque()
    while real or links:
        folder = real.popleft() if real else links.popleft()
        try:
            key = identity(folder, os.stat(folder))
            if key in seen:
                continue
            with os.scandir(folder) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError:  # not a folder, or closed to this user
            continue
        seen.add(key)
        yield folder
        for entry in entries:
            if entry.name[0] != "." and os.path.isdir(entry.path):  # `entry.is_dir()` raises an error of circular links
                (links if entry.is_symlink() else real).append(entry.path)


def absolute_path(path: str) -> str:
    """Return a path from the root of the file system, shortened by its `.` and `..` unless they come after a link."""
    absolute = os.path.abspath(path)
    return absolute if os.path.realpath(absolute) == os.path.realpath(path) else os.path.join(os.getcwd(), path)


def identity(path: str, status: os.stat_result) -> tuple:
    """Return what is equal for all names of one file or folder; some network file systems have no inode numbers."""
    return (status.st_dev, status.st_ino) if status.st_ino else (os.path.realpath(path),)
