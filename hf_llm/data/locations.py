"""Find the files that paths, folders, globs and URLs name: each file once, whatever links lead to it."""

import glob
import itertools
import logging
import operator
import os
import stat
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from hf_llm.arguments import SourceArguments
from hf_llm.data.byte_streams import file_format
from hf_llm.data.file_signatures import CONVERSIONS
from hf_llm.data.folder_rules import (
    PREPARED_FILES,
    prepared_shards,
    reason_to_skip_file,
    reason_to_skip_folder,
    refuse_tokens,
    shard_path,
)
from hf_llm.data.formats import ARCHIVES, READERS, can_read
from hf_llm.data.found import (
    NO_FILE,
    SECOND_NAME,
    Found,
    SkippedFile,
    SourceFile,
    numbered,
    remedy,
    summary,
    warn_of_skipped,
    with_unique_names,
)
from hf_llm.data.globs import absolute_path, expand, identity
from hf_llm.data.saved_datasets import (
    CACHE,
    INFO_FILE,
    NOT_SAVED,
    SPLITS_FILE,
    files_not_saved,
    held_out_split,
    reason_to_skip_split,
    saved_splits,
)
from hf_llm.data.urls import find_urls
from hf_llm.messages import printable

logger = logging.getLogger(__name__)

SYSTEM_FOLDERS = ("/proc/", "/sys/")  # some of whose files have no end, or wait for one
SPECIAL_FILES = {stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
SPECIAL_FILES |= dict.fromkeys((stat.S_IFCHR, stat.S_IFBLK), "a device")


class Location(NamedTuple):
    """A path at which to look.

    Args:
        root: the folder or file that the argument names, of a glob its part before the first wildcard.
        label: what `root` is called in names.
        pattern: the argument.
        chosen: whether the argument names the path itself, not a folder above it.
        column: of the texts, if the argument ends with it.
    """

    path: str
    root: str
    label: str
    pattern: str
    chosen: bool
    column: str | None = None


def find_sources(argument: str, patterns: list[str], text_extensions: Sequence[str] = (), warn: bool = True) -> Found:
    """Find files as `find_files` does, and those that URLs name (`s3://`, `gs://`, `hf://`, `http(s)://`).

    Returns:
        The local files, then the URLs, each in order.

    Raises:
        ValueError: as `find_files`; a URL cannot be reached.
    """
    patterns = [pattern.removeprefix("file://") for pattern in patterns]
    files, skipped = find_files(
        argument, [pattern for pattern in patterns if "://" not in pattern], text_extensions, False
    )
    urls: dict[str, SourceFile] = {}
    for pattern in sorted({pattern for pattern in patterns if "://" in pattern}):
        url, column = split_column(pattern, text_extensions)
        more, more_skipped = find_urls(argument, url, text_extensions)
        for file in more:
            check_same_column(file.path, urls.get(file.path, file).column, column)
            urls[file.path] = file._replace(column=column)
        skipped += more_skipped
    if warn:
        warn_of_skipped(argument, skipped)
    return Found(with_unique_names([*files, *(urls[url] for url in sorted(urls))]), skipped)


def find_files(argument: str, patterns: list[str], text_extensions: Sequence[str] = (), warn: bool = True) -> Found:
    """Find local files by paths, folders and globs.

    In folders, and at globs that end in `*`, what is not training text is left out: readmes, licences, metadata, hidden
    files, outputs of earlier runs, other formats. A file that an argument names itself is always taken.

    Args:
        argument: the flag that names them, for messages.
        text_extensions: of files that are read as text besides the known ones.
        warn: log what was left out.

    Returns:
        The files in the order of their names, each once, even if several links lead to it.

    Raises:
        ValueError: a pattern matches no file, a file has an extension without a reader, or the manifest of a prepared
            folder names anything but files in it.
    """
    search = Search(argument, text_extensions)
    for location in sorted(
        {location for pattern in patterns for location in match_pattern(pattern, text_extensions)}, key=str
    ):
        search.add(location, is_linked(location))
    search.run()
    files, skipped = search.results()
    for pattern in patterns:
        if pattern not in search.matched:
            reasons = f" to read, only {summary(skipped)}" if skipped else ""
            how = remedy(skipped) if skipped else ": give a file or a glob such as 'data/*.jsonl'"
            raise ValueError(f"`{argument}` {printable(pattern)} matches no file{reasons}{how}")
    if unknown := [file.path for file in files if not can_read(file.path, text_extensions)]:
        others = f" (and {len(unknown) - 1:,} others)" if len(unknown) > 1 else ""
        known = (
            f"known are {' '.join((*READERS, *ARCHIVES))}, most of them also as .gz, .zst, .bz2 or .xz; if it is text"
        )
        how = f"an unknown extension: {known}, add its extension by `--text_extensions`"
        if not file_format(unknown[0])[0]:
            how = f"no extension: {known}, let its name end in .txt"
        elif conversion := CONVERSIONS.get(file_format(unknown[0])[0]):
            how = f"no reader: {conversion}"
        raise ValueError(f"`{printable(unknown[0])}`{others} has {how}")
    if warn:
        warn_of_skipped(argument, skipped)
    return Found(files, skipped)


class Search:
    """Look at paths and at everything in their folders, at each file and folder once: real paths first, then links."""

    def __init__(self, argument: str, text_extensions: Sequence[str] = ()):
        self.argument, self.text_extensions = argument, text_extensions
        self.real: deque[Location] = deque()
        self.links: deque[Location] = deque()
        self.seen: dict[tuple, Location] = {}  # files to read and opened folders, by identity
        self.sizes: dict[Location, int] = {}  # of the files to read, in bytes
        self.skipped: list[tuple[Location, str | Location]] = []  # with the reason, or its other name that was seen
        self.matched: set[str] = set()  # patterns that lead to a file to read

    def add(self, location: Location, linked: bool) -> None:
        (self.links if linked else self.real).append(location)

    def run(self) -> None:
        while self.real or self.links:
            location = self.real.popleft() if self.real else self.links.popleft()
            try:
                self.look(location, os.stat(location.path))
            except OSError as error:  # a link to nothing, no permission, deleted meanwhile
                broken = isinstance(error, FileNotFoundError) and os.path.islink(location.path)
                self.skipped.append((location, NO_FILE if broken else f"{error.strerror}"))

    def look(self, location: Location, status: os.stat_result) -> None:
        key, kind = identity(location.path, status), stat.S_IFMT(status.st_mode)
        if os.path.realpath(location.path).startswith(SYSTEM_FOLDERS):
            self.skipped.append((location, "a file of the system"))
        elif other := self.seen.get(key):
            self.matched.add(location.pattern)
            if location.chosen and other.chosen:
                check_same_column(location.path, other.column, location.column)
            if other.path != location.path:
                self.skipped.append((location, other))
        elif kind == stat.S_IFDIR:
            self.open_folder(location, key)
        elif kind == stat.S_IFREG and is_cache(location):
            self.skipped.append((location, NOT_SAVED))
        elif kind == stat.S_IFREG:
            self.matched.add(location.pattern)
            self.seen[key] = location
            self.sizes[location] = status.st_size
        else:
            self.skipped.append((location, SPECIAL_FILES[kind]))

    def open_folder(self, folder: Location, key: tuple) -> None:
        """Find the entries of a folder that may be text, or the shards of a prepared folder.

        Raises:
            OSError: it cannot be opened.
            ValueError: a prepared folder's manifest names anything but files in it; a folder of tokens.
        """
        with os.scandir(folder.path) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
        # Not `entry.is_file()` alone: of links that lead to each other it raises an error.
        names = {entry.name for entry in entries if entry.is_file(follow_symlinks=False) or os.path.isfile(entry.path)}
        if not folder.chosen and (reason := reason_to_skip_folder(folder.path, names)):
            self.skipped.append((folder, reason))
            return
        self.seen[key] = folder
        refuse_tokens(self.argument, folder.path, names)
        splits, others = saved_splits(folder.path, names), files_not_saved(folder.path, names)
        shards = prepared_shards(folder.path, names)
        if shards is not None:
            paths = {shard_path(folder.path, shard): None for shard in shards}
            for path in paths:
                self.add(folder._replace(path=path), os.path.islink(path))
            entries = [entry for entry in entries if entry.name not in PREPARED_FILES and entry.path not in paths]
        for entry in entries:
            location, reason = folder._replace(path=entry.path, chosen=False), None
            if shards is not None:
                reason = "not in the manifest of the prepared folder"
            elif entry.name in others:
                reason = NOT_SAVED
            elif entry.name not in names:
                reason = reason_to_skip_split(entry.name, splits, self.argument)
            else:
                reason = reason_to_skip_file(entry.name, names, self.text_extensions)
            if reason:
                self.skipped.append((location, reason))
            else:
                self.add(location, entry.is_symlink())

    def results(self) -> Found:
        """Return the files in the order of their names, and what was left out, each file's bytes once."""
        names, counted = self.names(), set(self.seen)
        files = [
            SourceFile(location.path, names[location], size, location.column) for location, size in self.sizes.items()
        ]
        skipped = []
        for location, reason in self.skipped:
            sizes = {} if isinstance(reason, Location) else file_sizes(location.path)
            if sizes and sizes.keys() <= self.seen.keys():
                continue  # taken under another name
            if isinstance(reason, Location):
                reason = SECOND_NAME + names[reason]
            size = sum(size for key, size in sizes.items() if key not in counted)
            skipped.append(SkippedFile(names[location], reason, size, len(sizes.keys() - counted)))
            counted |= sizes.keys()
        files.sort(key=lambda file: (file.name, file.path))
        return Found(with_unique_names(files), sorted(skipped))

    def names(self) -> dict[Location, str]:
        """Return for each location the label of its root, with a number if others have it, and its path inside."""
        locations = {*self.seen.values(), *(location for location, _ in self.skipped)}
        labels, roots = {}, sorted({(location.label, location.root) for location in locations})
        for label, group in itertools.groupby(roots, operator.itemgetter(0)):
            labels |= dict(zip(group, numbered(label) if label else itertools.repeat(""), strict=False))
        names = {}
        for location in locations:
            inner = os.path.relpath(location.path, location.root)
            name = os.path.join(labels[location.label, location.root], inner)
            names[location] = printable(os.path.normpath(name))
        return names


def split_column(pattern: str, text_extensions: Sequence[str] = ()) -> tuple[str, str | None]:
    """Split the value of an argument into a path, and the column of the texts if it ends with one.

    Example:
        >>> [split_column(value) for value in ("kb.csv=title+body", "year=2024/a.csv", "s3://b/year=2024")]
        [('kb.csv', 'title+body'), ('year=2024/a.csv', None), ('s3://b/year=2024', None)]

    Raises:
        ValueError: the column has no name.
    """
    path, sign, column = pattern.rpartition("=")
    if not sign or not path or "/" in column or glob.has_magic(column) or os.path.lexists(os.path.expanduser(pattern)):
        return pattern, None
    if "://" in path and ("?" in path or not ("*" in path.rpartition("/")[2] or can_read(path, text_extensions))):
        return pattern, None  # a query, or a folder of a partition
    if not all(column.split("+")):
        raise ValueError(f"`{printable(pattern)}` has an empty name of a column: write FILE=COLUMN or FILE=ONE+OTHER")
    return path, column


def check_same_column(path: str, column: str | None, other: str | None) -> None:
    """Raise an error if a file is named twice with different columns."""
    if column != other:
        names = " and ".join(f"`{name}`" if name else "no column" for name in (column, other))
        raise ValueError(f"`{printable(path)}` is named twice, with {names}: name it once, e.g. FILE=ONE+OTHER")


def match_pattern(pattern: str, text_extensions: Sequence[str] = ()) -> list[Location]:
    """Return the locations that a path, folder or glob names."""
    typed, column = split_column(pattern, text_extensions)
    fixed, paths = expand(os.path.expanduser(typed))
    label = os.path.basename(os.path.normpath(fixed))
    home = os.path.expanduser(typed.split("/")[0]) if pattern.startswith("~") else None
    if label in (".", "..") or os.path.normpath(fixed) == home:
        label = ""  # no name of a folder that was not typed
    return [Location(path, absolute_path(fixed), label, pattern, True, column) for path in paths]


def split_patterns(data_args: SourceArguments) -> dict[str, list[str]]:
    """Return the values of `--train_file` and `--validation_file`, if they are given.

    Without the latter, the folders of the former that hold a saved data set with a validation split are both.
    """
    train, validation = data_args.train_file or [], [*(data_args.validation_file or [])]
    if not validation:
        for location in (location for pattern in train if "://" not in pattern for location in match_pattern(pattern)):
            names = {SPLITS_FILE} if os.path.isfile(os.path.join(location.path, SPLITS_FILE)) else set()
            if split := held_out_split(saved_splits(location.path, names)):
                logger.info(f"validation is the split `{split}` of {printable(location.path)}")
                validation.append(location.path + (f"={location.column}" if location.column else ""))
    return {split: values for split, values in (("train", train), ("validation", validation)) if values}


def is_cache(location: Location) -> bool:
    """Return whether a glob, such as `*.arrow`, has matched a cache beside a saved data set."""
    folder, name = os.path.split(location.path)
    is_named = name == os.path.basename(location.pattern)
    return bool(CACHE.fullmatch(name)) and not is_named and os.path.exists(os.path.join(folder, INFO_FILE))


def is_linked(location: Location) -> bool:
    """Return whether there is a link in a path, at the root of its argument or after it."""
    parent = os.path.dirname(location.root)
    return os.path.realpath(location.path) != os.path.join(
        os.path.realpath(parent), os.path.relpath(location.path, parent)
    )


def file_sizes(path: str) -> dict[tuple, int]:
    """Return the sizes in bytes of a file, or of all files in a folder without following its links, by identity."""
    paths = [path]
    if os.path.isdir(path):
        walk = [] if os.path.islink(path) else os.walk(path)
        paths = (os.path.join(folder, name) for folder, _, names in walk for name in names)
    sizes = {}
    for each in paths:
        try:
            status = os.stat(each, follow_symlinks=each == path)
        except OSError:
            continue
        if stat.S_ISREG(status.st_mode):
            sizes[identity(each, status)] = status.st_size
    return sizes
