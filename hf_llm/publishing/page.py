"""Pages for a browser and the same content in Markdown: sections of tables, pictures and texts, described once.

A page is one file without outside resources; `templates/page.html.jinja` has its style. Whatever it is given is text:
what looks like HTML is shown and not obeyed.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape
from matplotlib.figure import Figure

import hf_llm
from hf_llm.files import write_text
from hf_llm.messages import escape_controls, format_value
from hf_llm.publishing.plots import save_png, to_svg

TEMPLATE = Path(__file__).parent / "templates" / "page.html.jinja"


@dataclass(frozen=True)
class Text:
    """A paragraph.

    Args:
        kind: `plain`, or how it is marked: `good`, `bad` or `note`.
    """

    text: str
    kind: str = "plain"


@dataclass(frozen=True)
class Table:
    """A table; numbers are formatted, and columns of them aligned to the right. `Table.of` takes names and values.

    Args:
        columns: headings; empty: none are shown.
        rows: a cell for each column: text, number, or None where there is nothing.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Table":
        return cls([], list(values.items()))


@dataclass(frozen=True)
class Picture:
    """A figure of `plots`.

    Args:
        name: of its PNG file, without the ending, e.g. `loss`.
        description: what is to be seen, for those who hear the page.
        caption: shown below it.
    """

    figure: Figure
    name: str
    description: str
    caption: str = ""


@dataclass(frozen=True)
class Texts:
    """Texts with labels, line by line as they are, e.g. `[{"prompt": ..., "model": ..., "reference": ...}]`."""

    items: Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class Highlights:
    """The few figures that a reader looks for first, large, e.g. `{"perplexity": 12.5}`.

    Args:
        notes: shown small after a figure, e.g. its interval.
    """

    values: Mapping[str, Any]
    notes: Mapping[str, str] = field(default_factory=dict)


Block = Text | Table | Picture | Texts | Highlights


@dataclass(frozen=True)
class Section:
    """A heading, none if it is empty, and what is below it; `folded`: shown when it is clicked, and in print."""

    heading: str
    blocks: Sequence[Block] = field(default_factory=list)
    folded: bool = False


def write_page(path: Path, title: str, lead: str, sections: Sequence[Section]) -> None:
    """Write a page, one HTML file that shows everything without a network.

    Args:
        title: what the page is of, e.g. the name of the run.
        lead: a sentence or two below it: the main result.

    Example:
        >>> write_page(Path("page.html"), "My run", "It is better.", [Section("Scores", [Table.of({"f1": 0.5})])])
    """
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"cell": format_cell, "shown": escape_controls, "prose": format_prose}
    environment.tests |= {"numeric": is_number} | {
        kind.__name__.lower(): partial(is_instance, kind) for kind in (Text, Table, Picture, Texts, Highlights)
    }
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    values = {"title": title, "lead": lead, "sections": sections, "version": hf_llm.__version__}
    write_text(path, template.render(values, to_svg=to_svg))


def write_markdown(path: Path, title: str, lead: str, sections: Sequence[Section], pictures: str = "pictures") -> None:
    """Write the content of a page as Markdown, its pictures as PNG files in a folder next to it.

    Args:
        pictures: name of the folder.
    """
    lines = [f"# {one_cell(title)}", "", escape_text(lead), ""]
    for section in sections:
        lines += [f"## {one_cell(section.heading)}", ""] if section.heading else []
        for block in section.blocks:
            lines += [*markdown_lines(block, pictures), ""]
            if isinstance(block, Picture):
                save_png(path.parent / pictures / f"{block.name}.png", block.figure)
    write_text(path, "\n".join(lines).rstrip() + "\n")


def markdown_lines(block: Block, pictures: str) -> list[str]:
    """Return the lines of a block in Markdown."""
    if isinstance(block, Text):
        text = escape_text(block.text)
        return [f"**{text}**" if block.kind in ("good", "bad") else text]
    if isinstance(block, Picture):
        image = f"![{one_cell(block.description)}]({pictures}/{block.name}.png)"
        return [image, "", escape_text(block.caption)] if block.caption else [image]
    if isinstance(block, Highlights):
        rows = {name: f"{format_cell(value)} {block.notes.get(name, '')}" for name, value in block.values.items()}
        block = Table.of(rows)
    if isinstance(block, Table):
        columns = block.columns or [""] * len(block.rows[0])
        numeric = [all(map(is_number, cells)) for cells in zip(*block.rows, strict=True)] or [False] * len(columns)
        right = numeric if block.columns else [False] * len(columns)
        lines = [columns, ["---:" if number else "---" for number in right], *block.rows]
        return [f"| {' | '.join(one_cell(format_cell(cell)) for cell in line)} |" for line in lines]
    lines = []
    for item in block.items:
        for label, text in item.items():
            lines += [f"{label}:", "", *(f"    {line}" for line in escape_controls(text).splitlines()), ""]
    return lines


def format_cell(value: Any) -> str:
    """Format a cell: numbers as on the terminal, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return format_value(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Name the values of nested mappings by their path, for a table.

    Example:
        >>> flatten({"versions": {"torch": "2.13"}, "seeds": [1, 2]})
        {'versions.torch': '2.13', 'seeds': [1, 2]}
    """
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def format_prose(text: str) -> Markup:
    """Return a text as HTML, in which what is in backticks is code."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(escape_controls(text)))))


def is_number(value: Any) -> bool:
    """Whether a cell is aligned to the right: a number, or nothing."""
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def is_instance(kind: type, value: Any) -> bool:
    """`isinstance` in the order of a template's test."""
    return isinstance(value, kind)


def one_cell(text: str) -> str:
    """Put a text into one cell or line of Markdown."""
    return " ".join(escape_text(text).split()).replace("|", "\\|")


def escape_text(text: str) -> str:
    """Escape what Markdown would take for HTML, and control characters."""
    return escape_controls(text).replace("&", "&amp;").replace("<", "&lt;")
