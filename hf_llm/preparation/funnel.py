"""What a preparation did to the rows: counted while it runs, and told to a person at its end."""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.csv import CSVWriter, WriteOptions

from hf_llm.preparation.row_steps import EXCERPT
from hf_llm.preparation.spool import Spool

# Of single texts, then of all together.
STEPS = ("read", "cleaning", "length", "language", "quality", "decontamination", "anonymization")
STEPS += ("exact duplicates", "near duplicates", "repeated passages")
UNREADABLE = "cannot be read"
DROPPED = "dropped.tsv.gz"  # nothing that is read as text: it lies beside the shards
DROPPED_ROWS = pa.schema(
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
Places = tuple[np.ndarray | list[int], np.ndarray | list[int]]
SHOWN = 3  # dropped rows of each reason in the report
SHOWN_UNREADABLE = 20
BLOCK = 1_000_000  # dropped rows that are written together


class Funnel:
    """How many rows and bytes of text come into each step, which it drops for what reason, how many it changes.

    Args:
        dropped: empty; it gets a row for each one that is dropped.
    """

    def __init__(self, dropped: Spool):
        self.rows = {step: Counter() for step in STEPS}  # dropped ones by their reason
        self.bytes: Counter[str] = Counter()  # by which a step makes the text smaller
        self.changed: Counter[str] = Counter()  # texts that a step changed
        self.read_rows = self.read_bytes = 0
        self.unreadable: Counter[int] = Counter()  # rows, or whole files, by the number of their source
        self.replaced: Counter[str] = Counter()  # values that were anonymised
        self.examples: dict[str, list[dict]] = {}
        self.passages: list[tuple[str, int]] = []  # the most frequent ones of those that were left out
        self.dropped = dropped
        self.reasons: dict[tuple[str, str], int] = {}  # and the numbers by which the dropped rows name them

    def drop(
        self,
        step: str,
        reason: str,
        rows: Places,
        size: int,
        like: Places | None = None,
        details: list[str] | None = None,
    ) -> None:
        """Count dropped rows.

        Args:
            rows: the number of each one's source, and its own there.
            size: bytes of them together.
            like: the same of the earlier rows that they are like.
            details: of each one, where they are noted in place of `reason`.
        """
        number = len(rows[0])
        self.rows[step][reason] += number
        self.bytes[step] += size
        code = self.reasons.setdefault((step, reason), len(self.reasons))
        texts = pa.array(details) if details else pa.repeat(pa.scalar(""), number)
        columns = {"reason": np.full(number, code, np.int16)}
        for kind, places in (("", rows), ("like_", like or ([-1] * number, [-1] * number))):
            columns[f"{kind}source"] = np.array(places[0], np.int32)
            columns[f"{kind}row"] = np.array(places[1], np.int64)
        self.dropped.append(texts, columns)

    def change(self, step: str, texts: int, size: int) -> None:
        """Count texts that a step changed, and the bytes by which it made them smaller."""
        self.changed[step] += texts
        self.bytes[step] += size

    def show(self, step: str, reason: str, place: str, text: str) -> None:
        """Keep a dropped row for the report, if there are not enough of its kind."""
        shown = self.examples.setdefault(f"{step}: {reason}", [])
        if len(shown) < (SHOWN_UNREADABLE if reason == UNREADABLE else SHOWN):
            shown.append({"place": place, "text": text[:EXCERPT]})

    def steps(self) -> list[dict]:
        """One entry for each step, in the order of the pipeline."""
        rows, size, entries = self.read_rows, self.read_bytes, []
        for step in STEPS:
            entry = {"step": step, "rows_in": rows, "bytes_in": size}
            rows, size = rows - self.rows[step].total(), size - self.bytes[step]
            entry |= {"rows_out": rows, "bytes_out": size, "changed": self.changed[step]}
            entries.append(entry | {"dropped": dict(sorted(self.rows[step].items()))})
        return entries


def write_dropped(folder: Path, funnel: Funnel, names: list[str]) -> None:
    """`dropped.tsv.gz`: of each row that was left out its place, the step and the reason, and the row it is like."""
    steps, reasons = (pa.array([pair[place] for pair in funnel.reasons], pa.string()) for place in (0, 1))
    sources = pa.array(names, pa.string())
    columns = {"row": np.empty(0)}
    if funnel.reasons:
        funnel.dropped.sort("source", "row")
        columns = {name: funnel.dropped.column(name) for name in DROPPED_COLUMNS}
    with (
        pa.CompressedOutputStream(str(folder / DROPPED), "gzip") as file,
        CSVWriter(file, DROPPED_ROWS, write_options=WriteOptions(delimiter="\t")) as writer,
    ):
        for start in range(0, len(columns["row"]), BLOCK):
            part = {name: column[start : start + BLOCK] for name, column in columns.items()}
            code, none = pa.array(part["reason"]), part["like_row"] < 0
            reason = reasons.take(code)
            if funnel.unreadable:
                details = funnel.dropped.texts(part["begin"], part["end"]).cast(pa.string())
                reason = pc.if_else(pc.equal(details, ""), reason, details)
            rows = [sources.take(pa.array(part["source"])), part["row"], steps.take(code), reason]
            rows += [sources.take(pa.array(part["like_source"], mask=none)), pa.array(part["like_row"], mask=none)]
            writer.write_table(pa.table(rows, DROPPED_ROWS))
