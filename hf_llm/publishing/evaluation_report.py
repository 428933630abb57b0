"""The report of an evaluation: one page with scores, differences from the baseline and answers, from its folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_llm.evaluation.results import EVALUATION
from hf_llm.mappings import read_json_file
from hf_llm.messages import format_value
from hf_llm.publishing.page import Block, Picture, Section, Table, Text, Texts, flatten, write_page
from hf_llm.publishing.plots import draw_scores
from hf_llm.publishing.run_report import (
    OPEN_PREDICTIONS,
    REPORT,
    draw_score_intervals,
    interval,
    read_predictions,
    scores_with_interval,
    shown_prediction,
)  # fmt: skip


def write_evaluation_report(folder: str | Path) -> None:
    """Write `report.html` into the folder of an evaluation by `eval.py`, from its files alone.

    Args:
        folder: `--output_dir` of the evaluation, with `eval_results.json` and the predictions of each task.
    """
    folder = Path(folder)
    figures = read_json_file(folder / EVALUATION)
    tasks = {"": figures} if "settings" in figures else figures
    sections = []
    for name, results in tasks.items():
        heading = name or str(results["settings"].get("task") or "Scores")
        sections += [
            Section(heading, [*introduction(results), *draw_scores_of_models(results), *score_tables(results)]),
            *answer_sections(folder / name, heading),
            Section(f"{heading}: settings", [Table.of(flatten(results["settings"]))], folded=True),
        ]
    models = next(iter(tasks.values()))
    against = f" against `{models['baseline']}`" if "baseline" in models else ""
    lead = f"`{models['model']}`{against}: {', '.join(tasks) if '' not in tasks else sections[0].heading}."
    write_page(folder / REPORT, folder.resolve().name, lead, sections)


def introduction(results: Mapping[str, Any]) -> list[Block]:
    """Say how many rows were scored, and what was left out or cut."""
    counts = {key[5:].replace("_", " "): value for key, value in results.items() if key.startswith("eval_") and value}
    text = ", ".join(f"{format_value(value)} {name}" for name, value in counts.items())
    return [Text(f"Scored: {text}.")] if text else []


def draw_scores_of_models(results: Mapping[str, Any]) -> list[Picture]:
    """Draw the scores with their intervals, with a baseline one picture for each score."""
    prefixed = {f"eval_{key}": value for key, value in results.items()}
    if "baseline" not in results:
        return draw_score_intervals(prefixed)
    pictures = []
    for name in scores_with_interval(prefixed):
        if f"baseline_{name}_ci95_low" in results:
            keys = {results["model"]: name, f"{results['baseline']} (baseline)": f"baseline_{name}"}
            scores = {
                label: (results[key], results[f"{key}_ci95_low"], results[f"{key}_ci95_high"])
                for label, key in keys.items()
            }
            described = ", ".join(f"{label} {format_value(values[0])}" for label, values in scores.items())
            pictures.append(Picture(draw_scores(name, scores), name, f"{name}: {described}"))
    return pictures


def score_tables(results: Mapping[str, Any]) -> list[Block]:
    """Return the scores with their intervals, and with a baseline the differences and their p-values."""
    names = [key for key in results if f"{key}_ci95_low" in results]
    single = [name for name in names if not name.startswith("baseline_") and not name.endswith("_difference")]
    if "baseline" not in results:
        return [
            Table(
                ["score", "value", "95 % interval"], [[name, results[name], interval(name, results)] for name in single]
            )
        ]
    rows = []
    for name in single:
        row = [name, results[name], results.get(f"baseline_{name}"), results.get(key := f"{name}_difference")]
        rows.append([*row, interval(key, results) if key in names else None, results.get(f"{name}_p_value")])
    return [Table(["score", "model", "baseline", "difference", "95 % interval", "p-value"], rows)]


def answer_sections(folder: Path, heading: str) -> list[Section]:
    """Show the first answers, beside those of the baseline and the references."""
    items = [shown_prediction(row) for row in read_predictions(folder / "predictions.jsonl")]
    baseline = [shown_prediction(row) for row in read_predictions(folder / "baseline_predictions.jsonl")]
    if baseline:
        items = [put_beside(item, other["model"]) for item, other in zip(items, baseline, strict=True)]
    first, others = items[:OPEN_PREDICTIONS], items[OPEN_PREDICTIONS:]
    sections = [Section(f"{heading}: answers", [Texts(first)])] if first else []
    return sections + [Section(f"{len(others)} more answers", [Texts(others)], folded=True)] * bool(others)


def put_beside(texts: Mapping[str, str], baseline: str) -> dict[str, str]:
    """Add the baseline's answer after the model's."""
    beside: dict[str, str] = {}
    for label, text in texts.items():
        beside |= {label: text} | ({"baseline": baseline} if label == "model" else {})
    return beside
