"""Files and folders that appear complete or not at all, locks against a second writer, and early checks of both.

What has a name already is replaced, never written through: a symbolic link that somebody else has planted would
lead to another file.
"""

import atexit
import contextlib
import errno
import fcntl
import fnmatch
import hashlib
import json
import logging
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

logger = logging.getLogger(__name__)

# Names in an output folder that a run writes: results, model, unfinished files, checkpoints, TensorBoard's logs.
WRITTEN_BY_RUNS = ("*.json", "*.jsonl", "*.safetensors", "*.bin", "*.jinja", "*.model", "*.txt", "*.md", ".*.tmp")
WRITTEN_BY_RUNS += ("*.html", "curves", "_saving", "checkpoint-*", "runs", "run.yaml", ".lock")

LOCKS: dict[Path, TextIO] = {}  # lock files that this process holds
WRITTEN_FOLDERS: list[Path] = []  # folders that this process writes to, or has written to
UNTIL_EXIT = contextlib.ExitStack()
atexit.register(UNTIL_EXIT.close)

CHECKED_BYTES = 32 << 20  # at the start and at the end of a file; a whole checkpoint may have hundreds of GB

# How libraries say that a file could not be written. torch and numpy name no reason; others number it: "os error 28".
WRITE_FAILED = re.compile(
    rf"(?i)\b(?:os error|errno) (?:{errno.ENOSPC}|{errno.EDQUOT}|{errno.EFBIG})\b"
    r"|No space left on device|Disk quota exceeded"
    r"|inline_container|PytorchStreamWriter|basic_ios::clear|\d+ requested and \d+ written"
)


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
        set_umask_modes(temporary)


def remove(path: Path) -> None:
    """Remove a file or a folder with its contents, if there is one; of a link, the link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def checksum(path: Path, ends: int = CHECKED_BYTES) -> str:
    """SHA-256 of the first and the last `ends` bytes of a file."""
    with open(path, "rb") as file:
        digest = hashlib.sha256(file.read(ends))
        file.seek(max(file.tell(), path.stat().st_size - ends))
        digest.update(file.read())
    return digest.hexdigest()


def umask_mode() -> int:
    """The mode of a new file by the umask of this process, e.g. 0o644."""
    umask = os.umask(0o077)  # it cannot be read without being set
    os.umask(umask)
    return 0o666 & ~umask


def set_umask_modes(folder: Path) -> None:
    """Give the files in a folder the mode of any new file: safetensors makes its own readable by their owner alone."""
    mode = umask_mode()
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(mode)


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


@contextlib.contextmanager
def locked(lock_file: Path, name: str) -> Iterator[None]:
    """Hold a lock file, which says who writes beside it; a second process is refused, and death releases the lock.

    Only rank 0 takes it. Python's other locks of files (`flock`) would be kept by worker processes that outlive a
    killed run; this one (POSIX) belongs to the process, and holds between the machines of a network file system. It
    would be released by this process opening and closing the lock file once more.

    Args:
        lock_file: e.g. `.lock` in the folder of a run.
        name: argument and value for the error message.

    Raises:
        ValueError: another process holds it.
    """
    lock_file = lock_file.absolute()
    WRITTEN_FOLDERS.append(lock_file.parent)
    if int(os.environ.get("RANK", 0)) > 0 or lock_file in LOCKS:
        yield
        return
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    LOCKS[lock_file] = take_lock(lock_file, name)
    try:
        yield
    finally:
        lock_file.unlink(missing_ok=True)
        LOCKS.pop(lock_file).close()


def take_lock(lock_file: Path, name: str) -> TextIO:
    """Open and lock a file, and write this process and its machine into it."""
    while True:
        file = open(os.open(lock_file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+")  # noqa: SIM115 (kept open)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            holder = file.read() or "another process"
            raise ValueError(f"{name} is in use: {holder} writes to it; wait for its end, or name another") from None
        except OSError as error:
            logger.warning(f"{name}: a second run in it would not be noticed: its file system has no locks ({error})")
            return file
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(lock_file), os.fstat(file.fileno())):
                break
        file.close()  # its last holder removed it between the two lines above
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")  # for the error message above
    file.flush()
    return file


def lock_folder(folder: str) -> None:
    """Lock the folder of a run until this process ends.

    Raises:
        ValueError: another process writes to it.
    """
    UNTIL_EXIT.enter_context(locked(Path(folder) / ".lock", f"`--output_dir` {folder}"))


def describe_full_disk(error: BaseException) -> str | None:
    """Explain an error that comes from a full disk, by the free space of the folders that this process writes to.

    Returns:
        One line, or None for other errors.
    """
    cause: BaseException | None = error
    while cause is not None and not is_write_failure(cause):
        cause = cause.__cause__ or cause.__context__
    if cause is None:
        return None
    from huggingface_hub.constants import HF_HOME

    folders = {f"`{folder}`": folder for folder in WRITTEN_FOLDERS}
    folders |= {"TMPDIR": Path(tempfile.gettempdir()), "HF_HOME": Path(os.environ.get("HF_DATASETS_CACHE", HF_HOME))}
    free = {}
    for name, folder in folders.items():
        folder = existing_parent(folder)
        free.setdefault(folder.stat().st_dev, f"{shutil.disk_usage(folder).free / 1e6:,.0f} MB for {name}")
    return f"no room to write a file: {cause}; free now: {', '.join(free.values())}: make room, or name another"


def is_write_failure(error: BaseException) -> bool:
    """Whether an error, without its causes, says that a disk is full. A plain `ValueError` may quote a user's text."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return True
    return type(error) is not ValueError and bool(WRITE_FAILED.search(str(error)))


def existing_parent(path: str | Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    path = Path(path)
    while not path.exists():
        path = path.parent
    return path


def check_writable(folder: str | Path, name: str | None = None) -> None:
    """Check before the work that a folder can be made or written to.

    Args:
        name: argument and value for the error message. Default: `--output_dir` and the folder.

    Raises:
        ValueError: it cannot.
    """
    existing = existing_parent(folder)
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


@contextlib.contextmanager
def new_folder(output_dir: str) -> Iterator[Path]:
    """Lock the name of a new folder, and check before the work that the folder can be made.

    Returns:
        Its absolute path; of a link, that of the folder it leads to.

    Raises:
        ValueError: it cannot be made, it holds something already, or another process is making it.
    """
    target, name = Path(output_dir).expanduser().absolute(), f"`--output_dir` {output_dir}"
    target = target.resolve() if target.is_symlink() else target
    check_writable(target.parent, name)
    with locked(target.with_name(f".{target.name}.lock"), name):
        if target.exists() and not (target.is_dir() and not any(target.iterdir())):
            raise ValueError(f"{name} exists already and is not an empty folder: name another, or remove it")
        yield target


def lock_output_file(path: str | None) -> None:
    """Check before the work that a results file can be written, and lock its name until this process ends.

    Raises:
        ValueError: it is a folder, its folder cannot be made or written to, or another process writes it.
    """
    if path is None:
        return
    target, name = Path(path).expanduser(), f"`--output_file` {path}"
    if target.is_dir():
        raise ValueError(f"{name} is a folder: name a file")
    check_writable(target.parent, name)
    UNTIL_EXIT.enter_context(locked(target.with_name(f".{target.name}.lock"), name))
