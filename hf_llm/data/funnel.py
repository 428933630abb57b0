"""What a preparation did to the rows: counted while it runs, and told to a person at its end."""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from huggingface_hub import DatasetCardData
from matplotlib.figure import Figure
from pyarrow.csv import CSVWriter, WriteOptions

from hf_llm.checkpoints import write_text
from hf_llm.data.row_steps import EXCERPT
from hf_llm.data.spool import Spool

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
SIZES = {  # as the Hub names them
    1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M", 10_000_000: "1M<n<10M",
    100_000_000: "10M<n<100M", 1_000_000_000: "100M<n<1B", float("inf"): "n>1B",
}  # fmt: skip
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


def write_report(folder: Path, manifest: dict, funnel: Funnel) -> None:
    """`report.md`, for a person to read: the funnel as a plot and a table, and some rows of what was dropped."""
    plot_funnel(folder / "funnel.png", manifest["steps"])
    lines = ["# What was prepared", "", f"{manifest['rows']:,} rows, {manifest['bytes']:,} bytes of text.", ""]
    lines += [
        "![Rows after each step](funnel.png)",
        "",
        "| step | rows in | rows out | texts changed | bytes in | bytes out |",
    ]
    lines += ["|---|---:|---:|---:|---:|---:|"]
    for step in manifest["steps"]:
        numbers = (step[name] for name in ("rows_in", "rows_out", "changed", "bytes_in", "bytes_out"))
        lines += [f"| {step['step']} | {' | '.join(f'{number:,}' for number in numbers)} |"]
    dropped = [(step["step"], *found) for step in manifest["steps"] for found in step["dropped"].items()]
    if funnel.passages:
        lines += ["", "## Passages that were left out most often", "", "| times | passage |", "|---:|---|"]
        lines += [f"| {times:,} | {' '.join(text.split()).replace('|', '/')} |" for text, times in funnel.passages]
    lines += ["", "## Dropped rows", "", f"All of them: `{DROPPED}`.", ""]
    for step, reason, rows in dropped:
        lines += [f"### {step}: {reason} ({rows:,})", ""]
        for row in funnel.examples.get(f"{step}: {reason}", []):
            lines += [f"- {row['place']}", ""]
            if row["text"]:
                lines += [*(f"      {line}" for line in row["text"].splitlines()), ""]
    write_text(folder / "report.md", "\n".join(lines) + "\n")


def plot_funnel(path: Path, steps: list[dict]) -> None:
    """Rows that are left after each step, as bars."""
    names, rows = ["in", *(step["step"] for step in steps)], [steps[0]["rows_in"], *(s["rows_out"] for s in steps)]
    height = 0.4 * len(names) + 0.8  # inches
    figure = Figure((7, height))
    axes = figure.add_axes((0.23, 0.6 / height, 0.75, 1 - 0.7 / height))
    axes.bar_label(axes.barh(names, rows), [f"{number:,}" for number in rows], padding=3)
    axes.invert_yaxis()
    axes.set_xlabel("rows")
    axes.margins(x=0.15)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120, metadata={"Software": None})


def write_card(folder: Path, manifest: dict) -> None:
    """`README.md`, the data card that the Hub shows, with what it needs to load the shards."""
    size = next(name for limit, name in SIZES.items() if manifest["rows"] < limit)
    language = manifest["settings"]["languages"]
    card = DatasetCardData(
        language=language,
        size_categories=size,
        task_categories=["text-generation"],
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": "part-*.parquet"}]}],
    )
    sources = [
        f"- `{source['name']}` ({source['bytes']:,} bytes"
        + (f"; {source['unreadable']:,} rows, or all of it, could not be read)" if "unreadable" in source else ")")
        for source in manifest["sources"][:20]
    ]
    if len(manifest["sources"]) > 20:
        sources.append(f"- and {len(manifest['sources']) - 20:,} more, in `manifest.json`")
    replaced = [f"- `{kind}`: {number:,}" for kind, number in manifest["replaced"].items()]
    lines = ["---", card.to_yaml(), "---", "", "# Prepared text", ""]
    lines += [f"{manifest['rows']:,} texts, {manifest['bytes']:,} bytes. Columns: `text`, `source`, `row`.", ""]
    lines += ["What was done, and what was left out: `report.md`; settings, versions and hashes: `manifest.json`.", ""]
    lines += ["## Sources", "", *sources, ""]
    if replaced:
        lines += ["## Personal data that was replaced", "", *replaced, ""]
    write_text(folder / "README.md", "\n".join(lines))
