"""A comparison of runs for a person to read: on the terminal, as Markdown and as one HTML page."""

import os
import textwrap
from pathlib import Path
from typing import Any

from hf_llm.files import write_json
from hf_llm.messages import cut, escape_controls, format_interval, format_p_value, format_value
from hf_llm.metrics import lower_is_better
from hf_llm.publishing.compared_runs import (
    Group,
    environment_differences,
    setting_differences,
)
from hf_llm.publishing.comparison import Comparison
from hf_llm.publishing.page import Picture, Section, Table, Text, write_markdown, write_page
from hf_llm.publishing.paired_runs import Pair
from hf_llm.publishing.plots import draw_curve, draw_scores
from hf_llm.publishing.reporting import wrap_and_indent

CURVES = ("loss", "eval_loss", "eval_bits_per_byte")
MOST_CURVES = 12  # runs in one picture
WARNINGS = "Warnings"
MAX_CELL = 60  # characters of a setting


def write_comparison(comparison: Comparison, folder: str) -> None:
    """Write `comparison.md`, `comparison.html` and `comparison.json` to a folder."""
    path, sections = Path(folder), comparison_sections(comparison)
    title = f"Comparison of {len(comparison.groups)} {comparison.subject}"
    write_json(path / "comparison.json", comparison.figures())
    write_markdown(path / "comparison.md", title, comparison.verdict, sections)
    write_page(path / "comparison.html", title, comparison.verdict, sections)


def print_comparison(comparison: Comparison) -> None:
    """Print tables and verdict."""
    for section in terminal_sections(comparison):
        print(f"\n{section.heading}")
        for block in section.blocks:
            print(align(block) if isinstance(block, Table) else wrap_and_indent(block.text))  # pyright: ignore[reportAttributeAccessIssue]  # a Text
    print(f"\n{textwrap.fill(escape_controls(comparison.verdict), 100)}", flush=True)


def terminal_sections(comparison: Comparison) -> list[Section]:
    """The sections without pictures: what was compared, warnings, what differs, scores."""
    groups = comparison.groups
    sections = [Section("Compared", [Table.of({group.name: group.describe() for group in groups})])]
    if comparison.warnings:
        sections.append(Section(WARNINGS, [Text(warning, "bad") for warning in comparison.warnings]))
    for heading, differences in (
        ("Settings that differ", setting_differences(groups)),
        ("Environments that differ", environment_differences(groups)),
    ):
        if differences and len(groups) > 1:
            sections.append(Section(heading, [difference_table(groups, differences)]))
    return [*sections, Section("Scores", [score_table(comparison), Text(explain(comparison), "note")])]


def comparison_sections(comparison: Comparison) -> list[Section]:
    """The sections of the page, with pictures of scores and curves."""
    compared, *others, scores = terminal_sections(comparison)
    intervals = {
        group.name: (each.mean, each.low, each.high)
        for group, each in zip(comparison.groups, comparison.scores[comparison.score], strict=True)
        if each.low is not None and each.high is not None
    }
    if intervals:
        picture = draw_scores(comparison.score, intervals)
        what = f"{comparison.score} of each group with its 95 % interval"
        scores = Section(scores.heading, [*scores.blocks, Picture(picture, "scores", what)])
    curves = curve_pictures(comparison)
    warnings = [section for section in others if section.heading == WARNINGS]
    others = [section for section in others if section.heading != WARNINGS]
    return [*warnings, compared, scores, *others, *([Section("Curves", curves)] if curves else [])]


def curve_pictures(comparison: Comparison) -> list[Picture]:
    """Pictures of logged values over the steps, with a line for each run."""
    runs = [(group, run) for group in comparison.groups for run in group.runs if run.log][:MOST_CURVES]
    several = any(len(group.runs) > 1 for group in comparison.groups)
    folder = os.path.commonpath([os.path.dirname(os.path.abspath(run.folder)) for _, run in runs]) if runs else ""
    paths = [os.path.relpath(run.folder, folder) for _, run in runs]
    logs = {
        f"{group.name}: {path}" if several else group.name: run.log
        for (group, run), path in zip(runs, paths, strict=True)
    }
    names = dict.fromkeys([*CURVES, f"eval_{comparison.score}"])
    points = {name: max((sum(name in entry for entry in log) for log in logs.values()), default=0) for name in names}
    present = [name for name in names if points[name] > 1]  # one point is in the table
    return [Picture(draw_curve(name, logs), name, f"{name} of each run over the steps") for name in present]


def difference_table(groups: list[Group], differences: dict[str, list[Any]]) -> Table:
    """A row for each setting that differs, a column for each group."""
    rows = [
        [name, *("" if value is None else cut(f"{value}", MAX_CELL) for value in values)]
        for name, values in differences.items()
    ]
    return Table(["", *(group.name for group in groups)], rows)


def score_table(comparison: Comparison) -> Table:
    """A row for each score: the groups' values with their intervals; of two groups the difference and its p-value."""
    names, pairs = [group.name for group in comparison.groups], comparison.others
    if len(names) == 2:
        pairs = {comparison.score: in_order(comparison.pairs[0], names[0])} | pairs
    rows = []
    for score, estimates in comparison.scores.items():
        name = f"{score} (lower is better)" if lower_is_better(score) else score
        row = [name, *(format_interval(each.mean, each.low, each.high) for each in estimates)]
        if pair := pairs.get(score):
            test = "" if pair.p_value is None else format_p_value(pair.p_value)
            row += [format_difference(pair), test.removeprefix("p ").removeprefix("= ")]
        rows.append(row)
    return Table(["", *names, *([f"{names[0]} - {names[1]}", "p"] if pairs else [])], rows)


def in_order(pair: Pair, first: str) -> Pair:
    """The pair, whose groups are named with the better one first, as first minus second of the table."""
    return pair if pair.groups[0] == first else pair.reversed()


def format_difference(pair: Pair) -> str:
    """A difference with the interval of the question that was asked: over runs, or over rows."""
    source = pair.over_runs if pair.over_runs and pair.over_runs.low is not None else pair.over_rows
    if pair.problem or source is None:
        return format_value(pair.difference)
    return format_interval(pair.difference, source.low, source.high)


def explain(comparison: Comparison) -> str:
    """What the intervals and p-values of the table are."""
    several = any(len(group.runs) > 1 for group in comparison.groups)
    intervals = "over the runs of a group, or over the rows of a single run" if several else "over rows"
    text = f"In brackets: 95 % intervals {intervals}."
    if len(comparison.groups) == 2:
        text += f" The verdict is about {comparison.score}; the p-values of others are not corrected for their number."
    elif len(comparison.groups) > 2:
        text += " The best group is tested against each other one, with p-values corrected for all pairs (Holm)."
    if comparison.subject == "settings" and len(comparison.groups) > 1:
        text += (
            " Where there are two tests, over runs (would other seeds show the difference?) and over rows (would other "
            "rows?), p is the larger one."
        )
    return text


def align(table: Table) -> str:
    """Format a table for the terminal."""
    lines = [list(map(str, row)) for row in ([table.columns] if table.columns else []) + [*table.rows]]
    widths = [max(len(row[column]) for row in lines) for column in range(len(lines[0]))]
    texts = ("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in lines)
    return "\n".join(f"  {escape_controls(text)}" for text in texts)
