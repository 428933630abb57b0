"""Count what the preparation does to the rows while it runs, and list the dropped rows at its end."""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.csv import CSVWriter, WriteOptions

from hf_llm.data.byte_streams import Problem
from hf_llm.preparation.input_counts import InputCounts
from hf_llm.preparation.row_steps import EXCERPT
from hf_llm.preparation.spool import Spool

# First the steps for one text at a time, then those that compare all texts.
STEPS = ("read", "cleaning", "length", "language", "quality", "decontamination", "anonymization")
STEPS += ("exact duplicates", "near duplicates", "repeated passages")
UNREADABLE = "cannot be read"
UNREADABLE_FILE = "file, or the rest of it, cannot be read"
DROPPED_FILE = "dropped.tsv.gz"
DROPPED_SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("row", pa.int64()),
        ("step", pa.string()),
        ("reason", pa.string()),
        ("like_source", pa.string()),
        ("like_row", pa.int64()),
    ]
)
DROPPED_COLUMNS = ("begin", "end", "reason", "source", "row", "like_source", "like_row")
# For N rows the numbers of their files, and their own numbers in these files, (N,) both.
RowIds = tuple[np.ndarray | list[int], np.ndarray | list[int]]
EXAMPLES = 3  # dropped rows of each reason in the report
UNREADABLE_EXAMPLES, FILE_EXAMPLES = 20, 5  # of all files, of one file
WRITE_ROWS = 1_000_000  # dropped rows that are written together


class Funnel:
    """Count the rows and bytes of text that enter each step, that it drops for each reason, and that it changes.

    Args:
        inputs: the counts of the sources.
        dropped: an empty spool; it gets one row for each dropped one.
    """

    def __init__(self, inputs: InputCounts, dropped: Spool):
        self.dropped_rows = {step: Counter() for step in STEPS}  # by reason
        self.removed_bytes: Counter[str] = Counter()  # by step: in dropped texts and in changed ones
        self.changed: Counter[str] = Counter()  # texts that a step changed
        self.replaced: Counter[str] = Counter()  # anonymized values by their kind
        self.examples: dict[str, list[dict]] = {}
        self.passages: list[tuple[str, int]] = []  # the most frequent repeated passages and their counts
        self.inputs, self.names, self.dropped = inputs, [file.name for file in inputs.files], dropped
        self.reasons: dict[tuple[str, str], int] = {}  # (step, reason) -> its code in `dropped`

    def count_dropped(
        self,
        step: str,
        reason: str,
        rows: RowIds,
        size: int,
        duplicate_of: RowIds | None = None,
        details: list[str] | None = None,
    ) -> None:
        """Count N dropped rows and store where they were.

        Args:
            size: bytes of all their texts.
            duplicate_of: the earlier rows of which they are duplicates, N too.
            details: N messages that are stored instead of `reason`.
        """
        self.dropped_rows[step][reason] += len(rows[0])
        self.removed_bytes[step] += size
        self.list_dropped(step, reason, rows, duplicate_of, details)

    def list_dropped(
        self,
        step: str,
        reason: str,
        rows: RowIds,
        duplicate_of: RowIds | None = None,
        details: list[str] | None = None,
    ) -> None:
        """Store where N dropped rows were, with the arguments of `count_dropped`."""
        number = len(rows[0])
        code = self.reasons.setdefault((step, reason), len(self.reasons))
        texts = pa.array(details) if details else pa.repeat(pa.scalar(""), number)
        columns: dict[str, np.ndarray] = {"reason": np.full(number, code, np.int16)}
        for prefix, ids in (("", rows), ("like_", duplicate_of or ([-1] * number, [-1] * number))):
            columns[f"{prefix}source"] = np.array(ids[0], np.int32)
            columns[f"{prefix}row"] = np.array(ids[1], np.int64)
        self.dropped.append(texts, columns)

    def count_unreadable(self, source: int, row: int, problem: Problem, size: int) -> None:
        """Count a row that cannot be read, or the rest of a file, which is listed with the dropped rows but is no row.

        Args:
            size: bytes of its text, of which only the steps for single texts failed.
        """
        self.inputs.count_unreadable(source, problem)
        message = self.inputs.stored_message(source, problem.message)
        if problem.is_file:
            self.list_dropped("read", UNREADABLE_FILE, ([source], [row]), details=[message])
            self.add_example("read", UNREADABLE_FILE, message, "")
        else:
            self.count_dropped("read", UNREADABLE, ([source], [row]), size, details=[message])
            if self.inputs.unreadable_rows[source] <= FILE_EXAMPLES:
                self.add_example("read", UNREADABLE, message, "")

    def count_changed(self, step: str, texts: int, size: int) -> None:
        """Count texts that a step changed, and the bytes that it removed from them."""
        self.changed[step] += texts
        self.removed_bytes[step] += size

    def add_example(self, step: str, reason: str, origin: str, text: str) -> None:
        """Keep a dropped row as an example for the report, if there are not enough of its reason yet."""
        examples = self.examples.setdefault(f"{step}: {reason}", [])
        if len(examples) < (UNREADABLE_EXAMPLES if step == "read" else EXAMPLES):
            examples.append({"origin": origin, "text": text[:EXCERPT]})

    def origin(self, source: int, row: int) -> str:
        """Name a row in the report by its file and its number in the file."""
        return f"`{self.names[source]}` row {row}"

    def explain_empty(self) -> str:
        """Explain in one line which step dropped the last row, and why."""
        step = [name for name in STEPS if self.dropped_rows[name]][-1:] or ["read"]
        reasons = [f"{reason} ({rows:,})" for reason, rows in self.dropped_rows[step[0]].most_common(3)]
        for unreadable in (UNREADABLE, UNREADABLE_FILE) if step == ["read"] else ():
            reasons += [example["origin"] for example in self.examples.get(f"read: {unreadable}", [])[:1]]
        why = ", ".join(reasons) or "the files have no rows"
        return f"no row of {self.inputs.rows.sum():,} is left after the step `{step[0]}`: {why}"

    def steps(self) -> list[dict]:
        """Return one entry of the manifest for each step, in the order of the pipeline."""
        rows, size, entries = int(self.inputs.rows.sum()), int(self.inputs.text_bytes.sum()), []
        for step in STEPS:
            entry = {"step": step, "rows_in": rows, "bytes_in": size}
            rows, size = rows - self.dropped_rows[step].total(), size - self.removed_bytes[step]
            entry |= {"rows_out": rows, "bytes_out": size, "changed": self.changed[step]}
            entries.append(entry | {"dropped": dict(sorted(self.dropped_rows[step].items()))})
        return entries


def write_dropped(folder: Path, funnel: Funnel) -> None:
    """Write `dropped.tsv.gz`: for each dropped row its source, step and reason, and the row that it duplicates."""
    steps, reasons = (pa.array([key[i] for key in funnel.reasons], pa.string()) for i in (0, 1))
    sources = pa.array(funnel.names, pa.string())
    columns = {"row": np.empty(0)}
    if funnel.reasons:
        funnel.dropped.sort("source", "row")
        columns = {name: funnel.dropped.column(name) for name in DROPPED_COLUMNS}
    with (
        pa.CompressedOutputStream(str(folder / DROPPED_FILE), "gzip") as file,
        CSVWriter(file, DROPPED_SCHEMA, write_options=WriteOptions(delimiter="\t")) as writer,
    ):
        for start in range(0, len(columns["row"]), WRITE_ROWS):
            block = {name: column[start : start + WRITE_ROWS] for name, column in columns.items()}
            code, no_duplicate = pa.array(block["reason"]), block["like_row"] < 0
            reason = reasons.take(code)
            if any(step == "read" for step, _ in funnel.reasons):
                details = funnel.dropped.texts(block["begin"], block["end"]).cast(pa.string())
                reason = pc.if_else(pc.equal(details, ""), reason, details)
            rows = [sources.take(pa.array(block["source"])), block["row"], steps.take(code), reason]
            rows.append(sources.take(pa.array(block["like_source"], mask=no_duplicate)))
            rows.append(pa.array(block["like_row"], mask=no_duplicate))
            writer.write_table(pa.table(rows, DROPPED_SCHEMA))
