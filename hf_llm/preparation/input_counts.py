"""Count what was read of each source and what was lost, so that every byte of the input is accounted for."""

import hashlib
import logging
import math
from collections import Counter

import numpy as np

from hf_llm.data.byte_streams import Problem, open_bytes
from hf_llm.data.found import Found, SkippedFile, SourceFile
from hf_llm.messages import printable

logger = logging.getLogger(__name__)


class InputCounts:
    """Rows, bytes of text and lost bytes of the files, by their numbers."""

    def __init__(self, found: Found):
        self.files, self.skipped = list(found.files), list(found.skipped)  # without what is left out in them
        self.rows = np.zeros(len(self.files), np.int64)
        self.text_bytes = np.zeros(len(self.files), np.int64)
        self.lost_bytes: Counter[int] = Counter()  # on the disk
        self.unreadable_rows: Counter[int] = Counter()
        self.first_problems: dict[int, Problem] = {}  # of a row
        self.file_problems: dict[int, Problem] = {}  # of a whole file, or of the rest of it

    def count_read(self, sources: np.ndarray, sizes: np.ndarray) -> None:
        """Count N rows, of which some may be unreadable.

        Args:
            sources: numbers of their files, (N,).
            sizes: bytes of their texts, (N,).
        """
        self.rows += np.bincount(sources, minlength=len(self.files))
        np.add.at(self.text_bytes, sources, sizes)

    def count_unreadable(self, source: int, problem: Problem) -> None:
        """Count a row that cannot be read, or the rest of a file, which is no row."""
        self.lost_bytes[source] += problem.lost_bytes
        if problem.is_file:
            self.rows[source] -= 1
            self.file_problems[source] = problem
        else:
            self.unreadable_rows[source] += 1
            self.first_problems.setdefault(source, problem)

    def count_left_out(self, source: int, name: str, reason: str, size: int) -> None:
        """Count what is in a file and is not read, such as a licence in an archive, as left out of a folder."""
        self.rows[source] -= 1
        file = self.files[source]
        size = min(size, file.size)
        self.files[source] = file._replace(size=file.size - size)
        self.skipped.append(SkippedFile(self.stored_message(source, name), reason, size))

    def lost(self, source: int) -> int:
        """Bytes of a file that are lost; the bytes of single rows are estimates."""
        return min(self.lost_bytes[source], self.files[source].size)

    def report(self, max_unreadable: float) -> None:
        """Warn of each file of which something is lost.

        Raises:
            ValueError: of all files together, more than this share of the bytes is lost.
        """
        total = sum(file.size for file in self.files) or 1
        for source in sorted(self.first_problems | self.file_problems):
            lost = self.lost(source) / total
            share = f"{'less than 0.01%' if 0 < lost < 0.0001 else f'{lost:.2%}'} of all bytes are lost"
            if problem := self.file_problems.get(source):
                logger.warning(f"{problem.message}; {share}")
            if problem := self.first_problems.get(source):
                rows = self.unreadable_rows[source]
                path = f"`{printable(self.files[source].path)}`"
                first = problem.message.removeprefix(path).lstrip()
                number = f"{rows:,} row{'s' * (rows != 1)}"
                logger.warning(f"{path}: {number} cannot be read; {share}; the first: {first}")
        lost = sum(map(self.lost, range(len(self.files))))
        if lost > max_unreadable * total:
            needed = math.ceil(1000 * lost / total) / 1000
            raise ValueError(
                f"{lost / total:.2%} of the bytes cannot be read ({lost:,} of {total:,}: {len(self.file_problems):,} "
                f"files and {self.unreadable_rows.total():,} rows, named above), more than `--max_unreadable` "
                f"{max_unreadable:g}: repair or leave out these files, or give --max_unreadable {needed:g}"
            )

    def sources(self) -> list[dict]:
        """Return the manifest's entry of each file: name, size in bytes, SHA-256, rows, and what is lost."""
        entries = []
        for number, file in enumerate(self.files):
            entry = describe_file(file, number in self.file_problems)
            entry |= {"rows": int(self.rows[number]), "bytes_of_text": int(self.text_bytes[number])}
            if number in self.first_problems or number in self.file_problems:
                entry |= {"unreadable_rows": self.unreadable_rows[number], "lost_bytes": self.lost(number)}
            if problem := self.file_problems.get(number):
                entry["problem"] = self.stored_message(number, problem.message)
            entries.append(entry)
        return entries

    def stored_message(self, source: int, message: str) -> str:
        """Return a message without the path of its file on this machine."""
        path, name = printable(self.files[source].path), self.files[source].name
        return message.replace(path, name)

    def totals(self) -> dict[str, int]:
        """Return the manifest's summary of the input. `bytes` is the sum of those that were read, lost and left out."""
        sizes = [file.size for file in self.files]
        lost = sum(map(self.lost, range(len(sizes))))
        left_out = sum(file.size for file in self.skipped)
        return {
            "files": len(sizes) + sum(file.files for file in self.skipped),
            "files_read": len(sizes),
            "files_left_out": sum(file.files for file in self.skipped),
            "unreadable_files": len(self.file_problems),
            "files_without_rows": int(np.sum(self.rows == 0)) - sum(not self.rows[each] for each in self.file_problems),
            "bytes": sum(sizes) + left_out,
            "bytes_read": sum(sizes) - lost,
            "bytes_left_out": left_out,
            "bytes_lost": lost,
            "rows": int(self.rows.sum()),
            "unreadable_rows": self.unreadable_rows.total(),
        }

    def not_read(self) -> list[dict]:
        """Return the manifest's entries of what was left out, a folder as one entry with its number of files."""
        return [
            {"name": file.name, "bytes": file.size, "reason": file.reason}
            | ({"files": file.files} if file.files != 1 else {})
            for file in self.skipped
        ]


def describe_file(file: SourceFile, unreadable: bool = False) -> dict:
    """Return the name, size in bytes and SHA-256 of a file, without the last one if it cannot be opened."""
    try:
        return {"name": file.name} | size_and_hash(file.path)
    except Exception:  # the network has classes of its own
        if not unreadable:
            raise
        return {"name": file.name, "bytes": file.size, "sha256": None}


def size_and_hash(path: str) -> dict:
    """Return the size in bytes and the SHA-256 of a file or URL."""
    size, sha256 = 0, hashlib.sha256()
    with open_bytes(path) as file:
        while chunk := file.read(1 << 20):
            size += len(chunk)
            sha256.update(chunk)
    return {"bytes": size, "sha256": sha256.hexdigest()}
