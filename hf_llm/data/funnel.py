"""What a preparation did to the rows: counted while it runs, and told to a person at its end."""

from collections import Counter
from pathlib import Path

from huggingface_hub import DatasetCardData
from matplotlib.figure import Figure

from hf_llm.checkpoints import write_text
from hf_llm.data.row_steps import EXCERPT

STEPS = ("read", "length", "language", "quality", "decontamination", "changes")  # of single texts
STEPS += ("exact duplicates", "near duplicates", "repeated passages")
SIZES = {  # as the Hub names them
    1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M", 10_000_000: "1M<n<10M",
    100_000_000: "10M<n<100M", 1_000_000_000: "100M<n<1B", float("inf"): "n>1B",
}  # fmt: skip
SHOWN = 3  # dropped rows of each reason in the report


class Funnel:
    """How many rows and bytes of text come into each step, and which it drops for what reason."""

    def __init__(self):
        self.rows = {step: Counter() for step in STEPS}  # dropped ones by their reason
        self.bytes: Counter[str] = Counter()  # by which a step makes the text smaller
        self.read_rows = self.read_bytes = 0
        self.replaced: Counter[str] = Counter()  # values that were anonymised
        self.examples: dict[str, list[dict]] = {}

    def drop(self, step: str, reason: str, rows: int, size: int) -> None:
        self.rows[step][reason] += rows
        self.bytes[step] += size

    def show(self, step: str, reason: str, place: str, text: str) -> None:
        """Keep a dropped row for the report, if there are not enough of its kind."""
        shown = self.examples.setdefault(f"{step}: {reason}", [])
        if len(shown) < SHOWN:
            shown.append({"place": place, "text": text[:EXCERPT]})

    def steps(self) -> list[dict]:
        """One entry for each step, in the order of the pipeline."""
        rows, size, entries = self.read_rows, self.read_bytes, []
        for step in STEPS:
            entry = {"step": step, "rows_in": rows, "bytes_in": size}
            rows, size = rows - self.rows[step].total(), size - self.bytes[step]
            entries.append(
                entry | {"rows_out": rows, "bytes_out": size, "dropped": dict(sorted(self.rows[step].items()))}
            )
        return entries


def write_report(folder: Path, manifest: dict, examples: dict[str, list[dict]]) -> None:
    """`report.md`, for a person to read: the funnel as a plot and a table, and some rows of what was dropped."""
    plot_funnel(folder / "funnel.png", manifest["steps"])
    lines = ["# What was prepared", "", f"{manifest['rows']:,} rows, {manifest['bytes']:,} bytes of text.", ""]
    lines += ["![Rows after each step](funnel.png)", "", "| step | rows in | rows out | bytes in | bytes out |"]
    lines += ["|---|---:|---:|---:|---:|"]
    for step in manifest["steps"]:
        numbers = (step[name] for name in ("rows_in", "rows_out", "bytes_in", "bytes_out"))
        lines += [f"| {step['step']} | {' | '.join(f'{number:,}' for number in numbers)} |"]
    dropped = [(step["step"], *found) for step in manifest["steps"] for found in step["dropped"].items()]
    lines += ["", "## Dropped rows", ""]
    for step, reason, rows in dropped:
        lines += [f"### {step}: {reason} ({rows:,})", ""]
        for row in examples.get(f"{step}: {reason}", []):
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
    sources = [f"- `{source['name']}` ({source['bytes']:,} bytes)" for source in manifest["sources"][:20]]
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
