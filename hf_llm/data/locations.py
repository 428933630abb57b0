"""Find the files that paths, folders, globs and URLs name."""

import contextlib
import fnmatch
import glob
import json
import logging
import os
from collections import Counter

from pyarrow.fs import FileSelector, FileType

from hf_llm.data.byte_streams import file_format, open_filesystem
from hf_llm.data.readers import READERS
from hf_llm.messages import one_line

logger = logging.getLogger(__name__)

PREPARED_MANIFEST = "manifest.json"  # of a prepared folder


def find_files(argument: str, patterns: list[str]) -> list[str]:
    """Find local files by paths, folders and globs.

    Args:
        argument: the flag that names them, for error messages.

    Returns:
        Absolute paths, sorted, each once.

    Raises:
        ValueError: a pattern matches no file, or a file has an extension without a reader.
    """
    paths: set[str] = set()
    for pattern in patterns:
        expanded = os.path.abspath(os.path.expanduser(pattern))
        if os.path.isdir(expanded):
            files = list_folder(expanded)
        else:
            matches = [expanded] if os.path.exists(expanded) else glob.glob(expanded, recursive=True)
            files = [path for path in matches if os.path.isfile(path)]
        if not files:
            raise ValueError(f"`{argument}` {pattern} matches no file: give a file or a glob such as 'data/*.jsonl'")
        paths.update(files)
    for path in sorted(paths):
        if not has_reader(path):
            known = " ".join(READERS)
            raise ValueError(
                f"`{path}` has an unknown extension: known are {known}, all but .parquet also as .gz or .zst"
            )
    return sorted(paths)


def find_sources(argument: str, patterns: list[str]) -> list[str]:
    """Find files as `find_files` does, and those that URLs name (`s3://`, `gs://`, `hf://`, `http(s)://`).

    Returns:
        Absolute paths, then URLs, each sorted.

    Raises:
        ValueError: as `find_files`; a URL cannot be reached.
    """
    local = [pattern for pattern in patterns if "://" not in pattern]
    urls = {url for pattern in patterns if "://" in pattern for url in find_urls(argument, pattern)}
    return [*(find_files(argument, local) if local else []), *sorted(urls)]


def find_urls(argument: str, pattern: str) -> list[str]:
    """List the files with a reader that a URL names: a file, a folder or a glob.

    Raises:
        ValueError: it cannot be reached, or matches no file.
    """
    try:
        filesystem, inner = open_filesystem(pattern)
        base = inner.split("*")[0].rpartition("/")[0] if "*" in inner else inner
        (entry,) = filesystem.get_file_info([base])
        if entry.type == FileType.File:
            entries = [entry]
        else:
            entries = filesystem.get_file_info(FileSelector(base, allow_not_found=True, recursive=True))
    except Exception as error:  # the network, access, a scheme without a package: each library has classes of its own
        raise ValueError(f"`{argument}` {pattern} cannot be reached: {one_line(error)}") from None
    paths = [entry.path for entry in entries if entry.type == FileType.File and has_reader(entry.path)]
    if "*" in inner:
        paths = [path for path in paths if fnmatch.fnmatch(path, inner)]
    if not paths:
        raise ValueError(f"`{argument}` {pattern} matches no file: give a file, a folder or a glob")
    return [pattern.removesuffix(inner) + path for path in paths]


def list_folder(folder: str) -> list[str]:
    """List the shards of a prepared folder, or the files with a reader in any other folder and its subfolders."""
    manifest = os.path.join(folder, PREPARED_MANIFEST)
    if os.path.exists(manifest):
        with open(manifest, encoding="utf-8") as file, contextlib.suppress(ValueError, KeyError, TypeError):
            return [os.path.join(folder, shard["file"]) for shard in json.load(file)["shards"]]
    entries = glob.glob(os.path.join(glob.escape(folder), "**", "*"), recursive=True)
    paths = list(filter(os.path.isfile, entries))
    known = list(filter(has_reader, paths))
    if known and len(known) < len(paths):
        others = Counter(os.path.splitext(path)[1] or "without extension" for path in set(paths) - set(known))
        counts = ", ".join(f"{number:,} {extension}" for extension, number in others.most_common())
        logger.warning(f"{folder}: files of other formats are ignored: {counts}")
    return known


def has_reader(path: str) -> bool:
    """Return whether the file's extension has a reader."""
    extension, compression = file_format(path)
    return extension in READERS and not (compression and extension == ".parquet")
