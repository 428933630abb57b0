"""Write the report of a preparation and its data card, from the manifest and what the funnel counted."""

from pathlib import Path

from huggingface_hub import DatasetCardData
from matplotlib.figure import Figure

from hf_llm.files import write_text
from hf_llm.messages import format_table
from hf_llm.metrics.language_codes import language_code
from hf_llm.preparation.funnel import DROPPED_FILE, Funnel

SIZE_CATEGORIES = {  # rows below -> category of the Hub
    1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M", 10_000_000: "1M<n<10M",
    100_000_000: "10M<n<100M", 1_000_000_000: "100M<n<1B", float("inf"): "n>1B",
}  # fmt: skip


def write_report(folder: Path, manifest: dict, funnel: Funnel) -> None:
    """Write `report.md`: the rows after each step as a plot and a table, and examples of the dropped rows."""
    plot_funnel(folder / "funnel.png", manifest["steps"])
    lines = ["# Preparation report", "", f"{manifest['rows']:,} rows, {manifest['bytes']:,} bytes of text.", ""]
    lines += [
        "![Rows after each step](funnel.png)",
        "",
        "| step | rows in | rows out | texts changed | bytes in | bytes out |",
    ]
    lines += ["|---|---:|---:|---:|---:|---:|"]
    for step in manifest["steps"]:
        numbers = (step[name] for name in ("rows_in", "rows_out", "changed", "bytes_in", "bytes_out"))
        lines += [f"| {step['step']} | {' | '.join(f'{number:,}' for number in numbers)} |"]
    dropped = [(step["step"], *count) for step in manifest["steps"] for count in step["dropped"].items()]
    if funnel.passages:
        lines += ["", "## Most frequent repeated passages", "", "| times | passage |", "|---:|---|"]
        lines += [f"| {count:,} | {' '.join(text.split()).replace('|', '/')} |" for text, count in funnel.passages]
    lines += ["", "## Dropped rows", "", f"All of them: `{DROPPED_FILE}`.", ""]
    for step, reason, rows in dropped:
        lines += [f"### {step}: {reason} ({rows:,})", ""]
        for example in funnel.examples.get(f"{step}: {reason}", []):
            lines += [f"- {example['origin']}", ""]
            if example["text"]:
                lines += [*(f"      {line}" for line in example["text"].splitlines()), ""]
    write_text(folder / "report.md", "\n".join(lines) + "\n")


def plot_funnel(path: Path, steps: list[dict]) -> None:
    """Plot the number of rows after each step as horizontal bars."""
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
    """Write `README.md`, the data card of the Hub, with the metadata by which `load_dataset` finds the shards."""
    size = next(name for limit, name in SIZE_CATEGORIES.items() if manifest["rows"] < limit)
    languages = manifest["settings"]["languages"] or []
    card = DatasetCardData(
        language=list(dict.fromkeys(map(language_code, languages))) or None,
        size_categories=size,
        task_categories=["text-generation"],
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": "part-*.parquet"}]}],
    )
    sources = [
        f"- `{source['name']}` ({source['bytes']:,} bytes"
        + (f"; {source['unreadable']:,} rows, or the whole file, could not be read)" if "unreadable" in source else ")")
        for source in manifest["sources"][:20]
    ]
    if len(manifest["sources"]) > 20:
        sources.append(f"- and {len(manifest['sources']) - 20:,} more, in `manifest.json`")
    replaced = [f"- `{kind}`: {number:,}" for kind, number in manifest["replaced"].items()]
    lines = ["---", card.to_yaml(), "---", "", "# Prepared text", ""]
    lines += [f"{manifest['rows']:,} texts, {manifest['bytes']:,} bytes. Columns: `text`, `source`, `row`.", ""]
    lines += ["Rows after each step and dropped rows: `report.md`; settings, versions and hashes: `manifest.json`.", ""]
    lines += ["## Sources", "", *sources, ""]
    if replaced:
        lines += ["## Replaced personal data", "", *replaced, ""]
    write_text(folder / "README.md", "\n".join(lines))


def print_summary(output_dir: str, manifest: dict) -> None:
    """Print the end of a preparation: changed and dropped rows of each step, totals, and the folder."""
    rows = {"rows read": manifest["steps"][0]["rows_in"]}
    for step in manifest["steps"]:
        if step["changed"]:
            rows[f"  {step['step']}: texts changed"] = step["changed"]
        rows |= {f"  {step['step']}: {reason}": f"-{number:,}" for reason, number in step["dropped"].items() if number}
    rows |= {f"  {kind} replaced": number for kind, number in manifest["replaced"].items()}
    rows |= {"rows": manifest["rows"], "bytes of text": manifest["bytes"]}
    rows |= {"tokens": manifest["tokens"]} if manifest["tokens"] is not None else {}
    rows |= {"shards": len(manifest["shards"])}
    print(f"\n{format_table(rows)}\n\nShards, manifest and report: {output_dir}", flush=True)
