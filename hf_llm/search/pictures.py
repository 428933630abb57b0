"""Pictures of a search: scores of the settings with intervals, and Optuna's own plots in the style of our pages."""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import matplotlib as mpl
import numpy as np
import optuna
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator
from optuna.exceptions import ExperimentalWarning
from optuna.trial import TrialState
from optuna.visualization import matplotlib as plots

from hf_llm.publishing.page import Picture
from hf_llm.publishing.plots import GRID, INK, LINES, SIZE, draw_curve, draw_scores, short_number, shorten, style_axes

MOST_SETTINGS = 15  # with intervals
MOST_CURVES, PRUNED_CURVES = 6, 2
FEW_TRIALS = 4  # below, the importance of a parameter is not estimated
# From poor to good, both seen on white and on black; few steps make a small file.
POOR_TO_GOOD = LinearSegmentedColormap.from_list("poor_to_good", ["#b4bac5", "#e6a26a", LINES[1]], N=24)


def draw_search(search: dict[str, Any], study: optuna.Study, logs: dict[int, list[dict[str, Any]]]) -> list[Picture]:
    """Draw what a search found.

    Args:
        search: what `judge` returns.
        study: its trials, for Optuna's plots.
        logs: log entries of one run of each of `settings_with_curves`, by the setting's number.

    Returns:
        Pictures in the order in which they are read; those that would be empty are left out.
    """
    metric = search["metric"]
    pictures = [*draw_intervals(search), *draw_curves(search, logs)]
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(trials) < 2:
        return pictures
    history = optuna_figure(plots.plot_optimization_history, study, target_name=metric)
    pictures.append(Picture(style_history(history), "history", f"{metric} of each setting, in the order of the search"))
    varied = sorted({name for trial in trials for name in trial.params if differs(name, trials)})
    if not varied:
        return pictures
    parallel = optuna_figure(plots.plot_parallel_coordinate, study, varied, target_name=metric)
    caption = "A line for each setting, from its score through its values; the more orange, the better."
    parallel = style_parallel(parallel, [metric, *varied], study.direction.name == "MAXIMIZE")
    pictures.append(Picture(parallel, "parallel_coordinates", f"{metric} and the parameters of each setting", caption))
    if len(trials) >= FEW_TRIALS and len(varied) > 1:
        importances = optuna_figure(plots.plot_param_importances, study, params=varied, target_name=metric)
        caption = "How much each parameter decides whether a setting is a good one (PED-ANOVA); rough for few settings."
        picture = Picture(style_importances(importances), "importances", "Importance of the parameters", caption)
        pictures.append(picture)
    return pictures


def draw_intervals(search: dict[str, Any]) -> Iterator[Picture]:
    """Draw the scores of the best settings with their intervals."""
    settings = {setting["number"]: setting for setting in search["settings"]}
    scores = {}
    for number in search["ranking"][:MOST_SETTINGS]:
        setting = settings[number]
        low, high = setting["low"], setting["high"]
        ends = (float("nan"), float("nan")) if low is None or high is None else (low, high)
        scores[f"{number}"] = (setting["mean"], *ends)
    if len(scores) > 1:
        figure = draw_scores("best settings", scores, search["metric"])
        figure.axes[0].set_ylabel("setting")
        caption = "Mean and 95 % interval over the runs of each setting; a wide one tells of few or different runs."
        yield Picture(figure, "scores", f"{search['metric']} of the best settings", caption)


def settings_with_curves(search: dict[str, Any]) -> list[int]:
    """Numbers of the settings whose evaluations are drawn: the best, and some that were stopped early."""
    pruned = [setting["number"] for setting in search["settings"] if setting["state"] == "pruned"]
    return [*search["ranking"][:MOST_CURVES], *pruned[:PRUNED_CURVES]]


def draw_curves(search: dict[str, Any], logs: dict[int, list[dict[str, Any]]]) -> Iterator[Picture]:
    """Draw the evaluations of one run of each setting while it trained."""
    curves = {f"setting {number}": log for number, log in logs.items()}
    figure = draw_curve(f"eval_{search['metric']}", curves, f"{search['metric']} while they trained")
    if any(np.size(line.get_xdata()) > 1 for line in figure.axes[0].lines):
        yield Picture(figure, "curves", f"{search['metric']} over the steps, for one run of each setting")


def differs(name: str, trials: list[Any]) -> bool:
    """Whether a parameter has several values, or is absent in some trials."""
    return len({repr(trial.params.get(name)) for trial in trials}) > 1


def optuna_figure(plot: Callable[..., Axes], *args: Any, **kwargs: Any) -> Figure:
    """Draw a plot of Optuna, which goes through pyplot and changes its style, without leaving traces there."""
    from matplotlib import pyplot

    pyplot.switch_backend("agg")  # no window
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        axes = plot(*args, **kwargs)
        figure = axes.get_figure(root=True)
        pyplot.close(figure)
    assert figure is not None  # for the type checker: new axes have a figure
    figure.set_size_inches(*SIZE)
    figure.set_layout_engine("constrained")
    return figure


def restyle(axes: Axes, title: str) -> None:
    """Give axes of Optuna the style of our own pictures."""
    axes.set_title("")
    style_axes(axes, title)
    axes.set_facecolor("white")
    if legend := axes.get_legend():
        legend.remove()


def style_history(figure: Figure) -> Figure:
    """The score of each setting as a point, the best so far as a line."""
    axes = figure.axes[0]
    restyle(axes, "history")
    axes.set_xlabel("setting")
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    for points in axes.collections:
        points.set(color=LINES[0], sizes=[18])
    for line in axes.lines:
        line.set(color=LINES[1], alpha=1, linewidth=1.3, drawstyle="steps-post", label="best so far")
    if axes.lines:
        legend = figure.legend(
            [axes.collections[0], axes.lines[0]], ["score", "best so far"], loc="outside lower left", ncols=2,
            frameon=False, fontsize=9, labelcolor=INK, handlelength=1.4,
        )  # fmt: skip
        legend.set_in_layout(True)
    return figure


def style_parallel(figure: Figure, names: list[str], maximize: bool) -> Figure:
    """One line for each setting, through its score and its values, in colours from poor to good.

    Args:
        names: of the axes, which Optuna cuts at their end, where they differ.
    """
    axes, colorbar, *others = figure.axes
    restyle(axes, "parameters and score")
    axes.grid(visible=False)
    lines = next(each for each in axes.collections if isinstance(each, LineCollection))
    lines.set(cmap=POOR_TO_GOOD if maximize else POOR_TO_GOOD.reversed(), linewidth=1.3)
    colorbar.remove()  # the first axis has the same numbers
    figure.set_layout_engine("none")
    names = [shorten(name.rpartition(".")[2], 18) for name in names]
    axes.set_xticks(range(len(names)), names, rotation=15 if len(names) > 3 else 0)
    for each in (axes, *others):
        each.tick_params(colors=INK, labelsize=8, length=2, pad=2)
        each.set_ylabel("")
        for spine in each.spines.values():
            spine.set_color(GRID)
        each.spines[["left"] if each is axes else ["right"]].set_visible(True)
        each.minorticks_off()
        if each.get_yscale() == "log":
            each.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            each.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
        each.set_position((0.1, 0.2, 0.79, 0.69))
    figure.set_size_inches(SIZE[0], SIZE[1] + 0.5)
    return figure


def style_importances(figure: Figure) -> Figure:
    """A bar for each parameter, the most important one at the top."""
    axes = figure.axes[0]
    restyle(axes, "importance of the parameters")
    axes.set(xlabel="", ylabel="")
    axes.grid(axis="y", visible=False)
    for bar in axes.patches:
        bar.set_color(LINES[0])
    for text in axes.texts:
        text.set(color=INK, fontsize=9)
    figure.set_size_inches(SIZE[0], 0.8 + 0.3 * len(axes.patches))
    return figure
