"""List the files that a URL names."""

import fnmatch
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

from pyarrow.fs import FileSelector, FileType

from hf_llm.data.byte_streams import open_filesystem
from hf_llm.data.folder_rules import (
    PREPARED_FILES,
    bad_shard,
    no_reader,
    prepared_shards,
    reason_to_skip_file,
    reason_to_skip_folder,
    refuse_tokens,
    shard_name,
)
from hf_llm.data.formats import can_read
from hf_llm.data.found import Found, SkippedFile, SourceFile, summary
from hf_llm.data.saved_datasets import NOT_SAVED, files_not_saved, reason_to_skip_split, saved_splits
from hf_llm.messages import one_line, without_secrets


def find_urls(argument: str, pattern: str, text_extensions: Sequence[str] = ()) -> Found:
    """List the files that a URL names: a file, a folder or a glob. Folders are treated as those of `find_files`.

    Raises:
        ValueError: it cannot be reached, or matches no file.
    """
    shown, query = without_secrets(pattern), urlsplit(pattern).query
    try:
        filesystem, inner = open_filesystem(pattern)
        base = inner.split("*")[0].rpartition("/")[0] if "*" in inner else inner
        (entry,) = filesystem.get_file_info([base])
        if entry.type == FileType.File:
            entries = [entry]
        else:
            entries = filesystem.get_file_info(FileSelector(base, allow_not_found=True, recursive=True))
    except Exception as error:  # the network, access, a scheme without a package: each library has classes of its own
        problem = one_line(error).replace(f"?{query}", "") if query else one_line(error)
        raise ValueError(f"`{argument}` {shown} cannot be reached: {problem}") from None
    prefix, _, rest = pattern.rpartition(inner)
    suffix = rest if rest.startswith("?") else ""
    sizes = {info.path: info.size or 0 for info in entries if info.type == FileType.File}
    if "*" in inner:
        sizes = {path: size for path, size in sizes.items() if fnmatch.fnmatchcase(path, inner)}
    named = entry.type == FileType.File or ("*" in inner and inner.rpartition("/")[2] not in ("*", "**"))
    if named:
        reasons = {path: None if can_read(path, text_extensions) else no_reader(path) for path in sizes}
    else:
        reasons = reasons_in_folder(argument, prefix, base, sizes, text_extensions)
    files = [
        SourceFile(prefix + path + suffix, without_secrets(prefix + path), sizes[path])
        for path, reason in reasons.items()
        if not reason
    ]
    skipped = [
        SkippedFile(without_secrets(prefix + path), reason, sizes[path]) for path, reason in reasons.items() if reason
    ]
    if not files:
        only = f" to read, only {summary(skipped)}" if skipped else ""
        raise ValueError(f"`{argument}` {shown} matches no file{only}: give a file, a folder or a glob")
    return Found(files, sorted(skipped))


def reasons_in_folder(
    argument: str, prefix: str, base: str, paths: Iterable[str], text_extensions: Sequence[str]
) -> dict[str, str | None]:
    """Return for each file in a folder at a URL why it is not training text, or None.

    Args:
        argument: the flag that names the folder.
        prefix: of all paths, which makes them URLs.
        base: the folder.

    Raises:
        ValueError: the manifest of a prepared folder names anything but files in it; a file of a saved data set is
            missing; it is a folder of tokens.
    """
    names: dict[str, set[str]] = {}
    for path in paths:
        folder, _, name = path.rpartition("/")
        names.setdefault(folder, set()).add(name)
    base = base.rstrip("/")
    refuse_tokens(argument, prefix + base, names.get(base, set()))
    shards = prepared_shards(prefix + base, names.get(base, set()))
    if shards is not None:
        listed = {f"{base}/{shard_name(prefix + base, shard)}" for shard in shards}
        if missing := sorted(listed - set(paths)):
            raise bad_shard(prefix + base, missing[0], "does not exist")
        ours = {f"{base}/{name}" for name in PREPARED_FILES}
        return {path: None if path in listed else "not in the manifest" for path in paths if path not in ours}
    folders: dict[str, str | None] = {base: None, "": None}

    def reason_of_folder(folder: str) -> str | None:
        if folder not in folders:
            above, _, name = folder.rpartition("/")
            splits = saved_splits(prefix + above, names.get(above, set()))
            folders[folder] = (
                reason_of_folder(above)
                or reason_to_skip_split(name, splits, argument)
                or reason_to_skip_folder(prefix + folder, names.get(folder, set()))
            )
        return folders[folder]

    others = {f"{folder}/{name}" for folder in names for name in files_not_saved(prefix + folder, names[folder])}
    reasons = {}
    for path in paths:
        folder, _, name = path.rpartition("/")
        reason = reason_of_folder(folder) or (NOT_SAVED if path in others else None)
        reasons[path] = reason or reason_to_skip_file(name, names[folder], text_extensions)
    return reasons
