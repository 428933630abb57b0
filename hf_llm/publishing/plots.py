"""Pictures of runs: curves over the steps, scores with intervals, rows that a preparation dropped.

Figures are matplotlib's, made without pyplot and its state. In a page they are inline SVG whose text is text and whose
colours follow the page, light or dark; in a model card they are PNG.
"""

import hashlib
import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from hf_llm.files import atomic_path
from hf_llm.messages import escape_controls, format_value

MAX_POINTS = 1000  # of a line
MARKED_POINTS = 40  # a line of at most so many has a marker at each
SIZE = (4.8, 2.7)  # inches: at 390 pixels, a phone, its letters are as large as those of a caption
STEPS = [1, 2, 2.5, 5, 10]  # between the numbers of an axis
LOG_RATIO = 30  # from which ratio of largest to median value on the axis is logarithmic

# The colours of a picture: ink, grid, lines. The lines are those of Okabe and Ito (2008), told apart by colour-blind
# readers as well, darker where white paper needs it. A page has a variable of each name, other ones when it is dark.
INK, GRID = "#374151", "#d9dde3"
LINES = ("#0072b2", "#d55e00", "#009e73", "#aa4499", "#b8860b", "#56a5d8")
VARIABLES = {INK: "--ink", GRID: "--grid"} | {color: f"--line-{number}" for number, color in enumerate(LINES, 1)}


def draw_curve(
    name: str, logs: Mapping[str, Sequence[Mapping[str, Any]]], title: str | None = None, xlabel: str = "step"
) -> Figure:
    """Draw how a logged value changes over the steps, with one line for each run.

    The axis is logarithmic where few values are far above the others. Values that are not finite are counted in the
    picture, since no line shows them.

    Args:
        name: of the value in the log entries, e.g. `loss`.
        logs: for each label the log entries of a run, e.g. `log.jsonl`; entries without the value are passed over.
        title: default: the name.

    Returns:
        A figure with a line of at most 1,000 points for each run that has the value. Empty axes: none has it.

    Example:
        >>> figure = draw_curve("loss", {"seed 1": [{"step": 1, "loss": 2.5}, {"step": 2, "loss": 2.25}]})
        >>> figure.axes[0].get_title("left")
        'loss'
    """
    points = {label: logged_points(name, log) for label, log in logs.items()}
    points = {label: values for label, values in points.items() if len(values)}
    figure = Figure(SIZE, layout="constrained")
    axes = new_axes(figure, name if title is None else title)
    axes.set_xlabel(xlabel)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=STEPS, integer=True))
    everything, not_finite = [np.empty(0)], 0
    for number, (label, values) in enumerate(points.items()):
        finite = values[np.isfinite(values[:, 1])]
        not_finite += len(values) - len(finite)
        everything.append(finite[:, 1])
        marker = "o" if len(finite) <= MARKED_POINTS else None
        steps, thinned = thin(finite, MAX_POINTS).T
        # After six runs the colours come again, dashed.
        style = ("-", "--", ":", "-.")[number // len(LINES) % 4]
        color = LINES[number % len(LINES)]
        line = {"color": color, "linestyle": style, "linewidth": 1.3}
        if len(thinned) < len(finite):  # a line through all extremes is a broad band: their middle is clearer
            axes.plot(steps, thinned, color=color, linewidth=0.8, alpha=0.3)
            steps, thinned = means(finite, MAX_POINTS // 5).T
        axes.plot(steps, thinned, label=label, marker=marker, markersize=2.8, **line)
    set_scale(axes, np.concatenate(everything))
    if not_finite:
        axes.text(
            0.99,
            0.97,
            f"{not_finite:,} not finite",
            transform=axes.transAxes,
            ha="right",
            va="top",
            color=INK,
            fontsize=9,
        )
    if len(points) > 1:
        draw_legend(figure, axes, len(points))
    return figure


def draw_scores(
    title: str, scores: Mapping[str, tuple[float, float, float]], xlabel: str = "", colors: Sequence[str] = LINES
) -> Figure:
    """Draw scores as points with their intervals, one below the other.

    Args:
        scores: for each label the score and the ends of its interval; ends that are NaN are not drawn.
        colors: those of the runs in `draw_curve` by default.

    Example:
        >>> draw_scores("accuracy", {"run A": (0.8, 0.75, 0.85), "run B": (0.7, 0.65, 0.75)}).axes[0].get_title("left")
        'accuracy'
    """
    figure = Figure((SIZE[0], 0.75 + 0.3 * len(scores)), layout="constrained")
    axes = new_axes(figure, title)
    for number, (score, low, high) in enumerate(scores.values()):
        color = colors[number % len(colors)]
        axes.plot([low, high], [number] * 2, color=color, linewidth=5, alpha=0.35, solid_capstyle="round")
        axes.plot([score], [number], "o", color=color, markersize=6)
        axes.annotate(
            format_value(score), (score, number), (0, 5), textcoords="offset points", ha="center", color=INK, fontsize=9
        )
    axes.set_yticks(range(len(scores)), [shorten(label) for label in scores])
    axes.set_ylim(len(scores) - 0.5, -0.7)
    axes.set_xlabel(xlabel)
    axes.grid(axis="y", visible=False)
    return figure


def draw_dropped(steps: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the rows that each step of a preparation drops, on a logarithmic axis, from which no small number vanishes.

    Args:
        steps: those of the preparation's `manifest.json`, with `step`, `rows_in` and `rows_out`.
    """
    names, dropped = [step["step"] for step in steps], [step["rows_in"] - step["rows_out"] for step in steps]
    rows = steps[0]["rows_in"]
    figure = Figure((SIZE[0], 0.27 * len(steps) + 0.9), layout="constrained")
    axes = new_axes(figure, f"{rows:,} rows read, {steps[-1]['rows_out']:,} kept")
    labels = [f"{number:,} ({number / max(rows, 1):.1%})" if number else "0" for number in dropped]
    axes.bar_label(axes.barh(names, dropped, color=LINES[1]), labels, padding=3, color=INK, fontsize=9)
    axes.set_xscale("symlog", linthresh=1)
    decades = math.log10(max(*dropped, 10))
    axes.set_xlim(0, 10 ** (1.6 * decades + 1))  # room for the labels
    axes.set_xticks([0, *(10**power for power in range(0, int(decades) + 1, 1 + int(decades) // 3))])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.minorticks_off()
    axes.invert_yaxis()
    axes.set_xlabel("rows dropped")
    axes.grid(axis="y", visible=False)
    return figure


def logged_points(name: str, log: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Return step and value of the entries that have a number of this name, (N, 2), in the order of the steps."""
    numbers = [(entry["step"], entry[name]) for entry in log if isinstance(entry.get(name), int | float)]
    points = np.array(numbers, dtype=float).reshape(-1, 2)
    return points[np.argsort(points[:, 0], kind="stable")]


def thin(points: np.ndarray, limit: int) -> np.ndarray:
    """Keep at most `limit` of the points (N, 2): the first, the last, and of each stretch the lowest and the highest.

    Example: of the values 1 5 2 0 3 4 with a limit of 4, the first and the last, and of the stretch 5 2 0 3 between
    them the highest, 5, and the lowest, 0, are kept.
    """
    if len(points) <= limit:
        return points
    stretches = np.array_split(np.arange(1, len(points) - 1), (limit - 2) // 2)
    ends = [(rows[points[rows, 1].argmin()], rows[points[rows, 1].argmax()]) for rows in stretches]
    return points[np.unique([0, len(points) - 1, *np.ravel(ends).tolist()])]


def means(points: np.ndarray, number: int) -> np.ndarray:
    """Return the means of as many stretches of the points (N, 2)."""
    return np.array([stretch.mean(axis=0) for stretch in np.array_split(points, number)])


def new_axes(figure: Figure, title: str) -> Axes:
    """Add axes in the style of all pictures."""
    axes = figure.add_subplot()
    style_axes(axes, title)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
    return axes


def style_axes(axes: Axes, title: str) -> None:
    """Give axes the letters, lines and colours of all pictures."""
    axes.set_title(shorten(title, 60), loc="left", fontsize=10, fontweight="bold", color=INK)
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.tick_params(colors=INK, labelsize=9, length=0)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=INK, fontsize=9)


def set_scale(axes: Axes, values: np.ndarray) -> None:
    """Make the value axis logarithmic where few values are far above the others, and its numbers short."""
    if len(values) and values.min() > 0 and values.max() > LOG_RATIO * np.median(values):
        axes.set_yscale("log")
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))


def draw_legend(figure: Figure, axes: Axes, runs: int) -> None:
    """Name the runs above the axes, where no name covers a line."""
    handles, labels = axes.get_legend_handles_labels()
    labels = [shorten(label) for label in labels]
    columns = min(3, max(1, int(SIZE[0] / (0.09 * max(map(len, labels)) + 0.4))))  # inches of a character and a line
    legend = figure.legend(
        handles, labels, loc="outside lower left", ncols=min(runs, columns), frameon=False,
        fontsize=9, labelcolor=INK, handlelength=1.4, columnspacing=1.2,
    )  # fmt: skip
    rows = math.ceil(runs / columns)
    figure.set_figheight(SIZE[1] + 0.18 * rows)
    legend.set_in_layout(True)


def short_number(value: float) -> str:
    """Format a number of an axis.

    Example:
        >>> [short_number(value) for value in (12500, 3e6, 0.25, 3e-5, 0)]
        ['12.5k', '3M', '0.25', '3e-5', '0']
    """
    size = abs(value)
    for unit, name in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= unit:
            return f"{value / (1e3 if name == 'k' else unit):.4g}{name}"
    if 0 < size < 1e-4:
        mantissa, exponent = f"{value:.3e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.4g}"


def shorten(label: str, limit: int = 28) -> str:
    """Make a label fit into a picture: one line, its end where it is too long, as names of runs differ at the end.

    A dollar sign would begin a formula.
    """
    label = escape_controls(" ".join(label.split()))
    label = label if len(label) <= limit else f"...{label[3 - limit :]}"
    return label.replace("$", r"\$")


def to_svg(figure: Figure, description: str) -> str:
    """Return a figure as an SVG element for a page: its text is text, its colours are the page's variables.

    Args:
        description: what is to be seen, for those who hear the page.
    """
    lay_out(figure)
    file = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    # The salt makes equal figures equal texts.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "hf_llm", "font.size": 9, "path.simplify": False}):
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    # Without the prolog, comments and the style, which would be that of the whole page.
    svg = re.sub(r"<!--.*?-->|<style.*?</style>|\s*\n\s*", lambda found: "\n" * found[0].isspace(), file.getvalue())
    start, _, body = svg[svg.index("<svg") :].partition(">")
    view = re.search('viewBox="[^"]*"', start)
    # A page has several pictures, and ids must differ: only those that are referred to are kept, with a prefix.
    prefix = f"p{hashlib.sha256(svg.encode()).hexdigest()[:8]}-"
    used = {*re.findall(r'(?:href="|url\()#([^")]+)', body)}
    body = re.sub("<[^>]*>", lambda tag: page_style(tag[0], prefix, used), body, flags=re.DOTALL)
    return f'<svg {view and view[0]} role="img" aria-label={quoteattr(description)}>{body.strip()}'


def page_style(tag: str, prefix: str, used: set[str]) -> str:
    """Give a tag the colours and letters of the page, ids with a prefix or none, and numbers of two decimals."""
    tag = re.sub(r' id="([^"]*)"', lambda found: f' id="{prefix}{found[1]}"' if found[1] in used else "", tag)
    tag = re.sub(r'(?:xlink:)?(href="|url\()#', rf"\1#{prefix}", tag)
    tag = re.sub(r" font-family: [^;]*;| transform=\"rotate\(-?0 [^\"]*\"", "", tag)
    for color, variable in VARIABLES.items():
        tag = tag.replace(color, f"var({variable}, {color})")
    return re.sub(r"(?<=\d\.\d\d)\d+", "", tag)


def lay_out(figure: Figure) -> None:
    """Find room for all texts once, which takes as long as drawing."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def save_png(path: Path, figure: Figure) -> None:
    """Write a figure as a PNG on white, which appears complete or not at all."""
    lay_out(figure)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=200, facecolor="white", metadata={"Software": None})
