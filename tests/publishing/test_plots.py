"""Pictures of runs."""

import math
import re

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from hf_llm.publishing.plots import draw_curve, draw_dropped, draw_scores, save_png, short_number, thin, to_svg


def log(values, name="loss"):
    return [{"step": step, name: value} for step, value in enumerate(values, 1)]


def test_a_long_line_is_thinned_and_keeps_its_extremes():
    """Of 100,000 points at most 1,000 are left, in order, with the first, the last, the lowest and the highest."""
    values = np.sin(np.arange(100_000)).tolist()
    values[34_567], values[89_012] = 50.0, -50.0
    points = np.array([[step, value] for step, value in enumerate(values)])
    thinned = thin(points, 1000)
    assert len(thinned) <= 1000
    assert (np.diff(thinned[:, 0]) > 0).all()
    for kept in (0, 34_567, 89_012, 99_999):
        assert [kept, values[kept]] in thinned.tolist()


def test_a_short_line_is_drawn_as_it_is():
    """Every point of a short run is in the picture; entries without the value are passed over."""
    figure = draw_curve("loss", {"": [{"step": 0, "eval_loss": 9.0}, *log([3.0, 2.0, 2.5])]})
    (line,) = figure.axes[0].lines
    assert line.get_xydata().tolist() == [[1, 3.0], [2, 2.0], [3, 2.5]]


def test_values_that_are_not_finite_are_counted():
    """No line can show infinity, so the picture says how many there are."""
    figure = draw_curve("grad_norm", {"": log([1.0, math.inf, math.nan, 2.0], "grad_norm")})
    assert [text.get_text() for text in figure.axes[0].texts] == ["2 not finite"]
    assert draw_curve("loss", {"": log([math.nan])}).axes[0].texts[0].get_text() == "1 not finite"


def test_the_axis_is_logarithmic_where_few_values_are_far_above_the_others():
    """One gradient of 1,000 among those of 1 would make a flat line of the others."""
    scales = [draw_curve("loss", {"": log(values)}).axes[0].get_yscale() for values in ([1, 2, 3], [1, 1, 1000])]
    assert scales == ["linear", "log"]


def test_a_picture_for_a_page_needs_nothing_else():
    """Names are escaped, nothing is loaded, ids of two pictures differ, colours follow the page, a text is a text."""
    hostile = '<script>alert(1)</script> & "x" $\\frac{1}$'
    pictures = [
        to_svg(draw_curve("loss", {hostile: log([1, 2]), "b": log(values)}), hostile) for values in ([2, 3], [3, 4])
    ]
    ids = [name for picture in pictures for name in re.findall(r' id="([^"]*)"', picture)]
    assert ids and len(ids) == len(set(ids))
    for picture in pictures:
        assert "<script" not in picture and "&lt;script&gt;" in picture
        assert not re.search(r"https?:|<style|<!--|<\?xml", picture)
        assert "var(--line-1, #0072b2)" in picture and ">step</text>" in picture
        assert set(re.findall(r'(?:href="|url\()#([^")]*)', picture)) <= set(ids)
    assert pictures[0] == to_svg(draw_curve("loss", {hostile: log([1, 2]), "b": log([2, 3])}), hostile)


def test_many_runs_have_lines_that_differ():
    """Twelve runs have six colours and two kinds of lines, and all of them are named."""
    figure = draw_curve("loss", {f"run {number}": log([number, 1]) for number in range(12)})
    assert len({(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines}) == 12
    assert len(figure.legends[0].get_texts()) == 12


@pytest.mark.parametrize("length", [1, 15, 28])
def test_no_name_of_a_run_is_cut_off_at_the_edge(length):
    """The legend has as many columns as fit into the picture."""
    figure = draw_curve("loss", {f"{number}" + "n" * length: log([number, 1]) for number in range(6)})
    FigureCanvasAgg(figure).draw()
    legend = figure.legends[0].get_window_extent()
    assert legend.x0 >= 0 and legend.x1 <= figure.bbox.width


def test_scores_and_dropped_rows_are_drawn_and_saved(tmp_path):
    """Each score is a point on its interval; a step that drops nothing has a bar of no length; PNGs are pictures."""
    axes = draw_scores("f1", {"a": (0.5, 0.4, 0.6), "b": (0.7, math.nan, math.nan)}).axes[0]
    assert [text.get_text() for text in axes.texts] == ["0.5", "0.7"]
    assert axes.lines[0].get_xdata().tolist() == [0.4, 0.6]
    steps = [{"step": "read", "rows_in": 9, "rows_out": 9}, {"step": "length", "rows_in": 9, "rows_out": 4}]
    figure = draw_dropped(steps)
    assert [bar.get_width() for bar in figure.axes[0].patches] == [0, 5]
    save_png(tmp_path / "new" / "funnel.png", figure)
    assert (tmp_path / "new" / "funnel.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("value", "text"), [(2e-5, "2e-5"), (0.0005, "0.0005"), (8000, "8000"), (1.5e9, "1.5G")])
def test_numbers_of_an_axis_are_short(value, text):
    """As an engineer writes them."""
    assert short_number(value) == text
