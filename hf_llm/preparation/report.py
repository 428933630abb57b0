"""Write the report of a preparation and its data card, from the manifest and what the funnel counted."""

from pathlib import Path

from huggingface_hub import DatasetCardData

from hf_llm.data.found import LISTED, SECOND_NAME
from hf_llm.files import write_text
from hf_llm.messages import escape_controls, format_table, print_json
from hf_llm.metrics.language_codes import language_code
from hf_llm.preparation.funnel import DROPPED_FILE, UNREADABLE_FILE, Funnel
from hf_llm.publishing.plots import draw_dropped, save_png

SIZE_CATEGORIES = {  # rows below -> category of the Hub
    1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M", 10_000_000: "1M<n<10M",
    100_000_000: "10M<n<100M", 1_000_000_000: "100M<n<1B", float("inf"): "n>1B",
}  # fmt: skip


def write_report(folder: Path, manifest: dict, funnel: Funnel) -> None:
    """Write `report.md`: what was read, what each step dropped, as a plot and a table, and examples."""
    save_png(folder / "funnel.png", draw_dropped(manifest["steps"]))
    lines = ["# Preparation report", "", f"{manifest['rows']:,} rows, {manifest['bytes']:,} bytes of text.", ""]
    lines += [*input_lines(manifest), ""]
    lines += [
        "![Rows dropped by each step](funnel.png)",
        "",
        "| step | rows in | rows out | texts changed | bytes in | bytes out |",
    ]
    lines += ["|---|---:|---:|---:|---:|---:|"]
    for step in manifest["steps"]:
        numbers = (step[name] for name in ("rows_in", "rows_out", "changed", "bytes_in", "bytes_out"))
        lines += [f"| {step['step']} | {' | '.join(f'{number:,}' for number in numbers)} |"]
    dropped = [(step["step"], *count) for step in manifest["steps"] for count in step["dropped"].items() if count[1]]
    if files := manifest["input"]["unreadable_files"]:
        dropped.insert(0, ("read", UNREADABLE_FILE, files))
    if funnel.passages:
        lines += ["", "## Most frequent repeated passages", "", "| times | passage |", "|---:|---|"]
        lines += [f"| {count:,} | {' '.join(text.split()).replace('|', '/')} |" for text, count in funnel.passages]
    lines += ["", "## Dropped rows", ""]
    lines += [f"Some of each reason; all of them are in `{DROPPED_FILE}`." if dropped else "None.", ""]
    for step, reason, rows in dropped:
        lines += [f"### {step}: {reason} ({rows:,})", ""]
        for example in funnel.examples.get(f"{step}: {reason}", []):
            lines += [f"- {example['origin']}", ""]
            if example["text"]:
                lines += [*(f"      {line}" for line in example["text"].splitlines()), ""]
    write_text(folder / "report.md", escape_controls("\n".join(lines)) + "\n")  # the examples are foreign text


def input_lines(manifest: dict) -> list[str]:
    """Return the lines of the report about the files: what was read, what is lost, what was left out and why."""
    counts = manifest["input"]
    lines = [
        "| input | files | bytes |",
        "|---|---:|---:|",
        f"| read | {counts['files_read']:,} | {counts['bytes_read']:,} |",
        f"| lost in files and rows that cannot be read | ({counts['unreadable_files']:,}) | {counts['bytes_lost']:,} |",
        f"| left out | {counts['files_left_out']:,} | {counts['bytes_left_out']:,} |",
        f"| all | {counts['files']:,} | {counts['bytes']:,} |",
    ]
    if counts["unreadable_files"]:
        lines += ["", "The files in parentheses are among those read: each is lost as a whole or from some row on."]
    by_reason: dict[str, list[dict]] = {}
    for file in manifest["not_read"]:
        if not file["reason"].startswith(SECOND_NAME):
            by_reason.setdefault(file["reason"], []).append(file)
    if by_reason:
        lines += ["", "| why left out | files | bytes | names |", "|---|---:|---:|---|"]
    for reason, files in sorted(by_reason.items(), key=lambda group: -sum(file["bytes"] for file in group[1])):
        names = ", ".join(f"`{file['name']}`" for file in files[:LISTED]) + (", ..." if len(files) > LISTED else "")
        number, size = sum(file.get("files", 1) for file in files), sum(file["bytes"] for file in files)
        lines += [f"| {reason} | {number:,} | {size:,} | {names.replace('|', '/')} |"]
    return lines


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
    sources = [f"- `{source['name']}` ({source['bytes']:,} bytes{lost(source)})" for source in manifest["sources"][:20]]
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


def lost(source: dict) -> str:
    """Describe what is lost of a source in its line of the card."""
    if "lost_bytes" not in source:
        return ""
    what = "the file, or the rest of it" if "problem" in source else f"{source['unreadable_rows']:,} rows"
    return f"; {what}, {source['lost_bytes']:,} bytes, could not be read"


def print_summary(output_dir: str, manifest: dict) -> None:
    """Print the end of a preparation: changed and dropped rows of each step, totals, and the folder."""
    counts = manifest["input"]
    rows = {"files": counts["files"], "bytes of the files": counts["bytes"]}
    for name, files, size in (
        ("left out", counts["files_left_out"], counts["bytes_left_out"]),
        ("cannot be read", counts["unreadable_files"], counts["bytes_lost"]),
    ):
        rows |= {f"  files: {name}": f"-{files:,}"} if files else {}
        rows |= {f"  bytes: {name}": f"-{size:,}"} if size else {}
    rows |= {"rows read": manifest["steps"][0]["rows_in"]}
    for step in manifest["steps"]:
        if step["changed"]:
            rows[f"  {step['step']}: texts changed"] = step["changed"]
        rows |= {f"  {step['step']}: {reason}": f"-{number:,}" for reason, number in step["dropped"].items() if number}
    rows |= {f"  {kind} replaced": number for kind, number in manifest["replaced"].items()}
    rows |= {"rows": manifest["rows"], "bytes of text": manifest["bytes"]}
    rows |= {"tokens": manifest["tokens"]} if manifest["tokens"] is not None else {}
    rows |= {"shards": len(manifest["shards"])}
    print(f"\n{format_table(rows)}\n\nShards, manifest and report: {output_dir}", flush=True)
    totals = {name: manifest[name] for name in ("rows", "bytes", "tokens")}
    print_json(output_dir=output_dir, metrics={"rows_read": manifest["steps"][0]["rows_in"]} | totals)
