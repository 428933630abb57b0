"""Where the data is: paths, folders, globs and URLs -> the files that have a reader."""

import contextlib
import fnmatch
import glob
import json
import logging
import os
from collections import Counter

import pyarrow.fs

from hf_llm.data.readers import READERS, file_format, remote
from hf_llm.messages import one_line

logger = logging.getLogger(__name__)

PREPARED_MANIFEST = "manifest.json"  # of a prepared folder


def find_files(argument: str, patterns: list[str]) -> list[str]:
    """Absolute paths of the files that the paths, folders and globs name: sorted, each once, of known extensions."""
    paths: set[str] = set()
    for pattern in patterns:
        expanded = os.path.abspath(os.path.expanduser(pattern))
        found = [expanded] if os.path.exists(expanded) else glob.glob(expanded, recursive=True)
        files = list_folder(expanded) if os.path.isdir(expanded) else [path for path in found if os.path.isfile(path)]
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
    """As `find_files`; and files, folders and globs at `s3://`, `gs://`, `hf://`, `http(s)://`, kept as URLs."""
    local = [pattern for pattern in patterns if "://" not in pattern]
    remote = [url for pattern in patterns if "://" in pattern for url in find_urls(argument, pattern)]
    return [*(find_files(argument, local) if local else []), *sorted(set(remote))]


def find_urls(argument: str, pattern: str) -> list[str]:
    """URLs of the files of known extensions that one names: a file, a folder or a glob."""
    try:
        filesystem, place = remote(pattern)
        base = place.split("*")[0].rpartition("/")[0] if "*" in place else place
        (found,) = filesystem.get_file_info([base])
        if found.type == pyarrow.fs.FileType.File:
            files = [found]
        else:
            files = filesystem.get_file_info(pyarrow.fs.FileSelector(base, allow_not_found=True, recursive=True))
    except Exception as error:  # the network, access, a scheme without a package: each library has classes of its own
        raise ValueError(f"`{argument}` {pattern} cannot be reached: {one_line(error)}") from None
    paths = [file.path for file in files if file.type == pyarrow.fs.FileType.File and has_reader(file.path)]
    if "*" in place:
        paths = [path for path in paths if fnmatch.fnmatch(path, place)]
    if not paths:
        raise ValueError(f"`{argument}` {pattern} matches no file: give a file, a folder or a glob")
    return [pattern.removesuffix(place) + path for path in paths]


def list_folder(folder: str) -> list[str]:
    """The shards of a prepared folder; of any other one all files of known extensions, those of its folders too."""
    manifest = os.path.join(folder, PREPARED_MANIFEST)
    if os.path.exists(manifest):
        with open(manifest, encoding="utf-8") as file, contextlib.suppress(ValueError, KeyError, TypeError):
            return [os.path.join(folder, shard["file"]) for shard in json.load(file)["shards"]]
    found = glob.glob(os.path.join(glob.escape(folder), "**", "*"), recursive=True)
    paths = list(filter(os.path.isfile, found))
    known = list(filter(has_reader, paths))
    if known and len(known) < len(paths):
        others = Counter(os.path.splitext(path)[1] or "without extension" for path in set(paths) - set(known))
        named = ", ".join(f"{number:,} {extension}" for extension, number in others.most_common())
        logger.warning(f"{folder}: files of other formats are passed over: {named}")
    return known


def has_reader(path: str) -> bool:
    """Whether there is a reader for the file's extension."""
    extension, compression = file_format(path)
    return extension in READERS and not (compression and extension == ".parquet")
