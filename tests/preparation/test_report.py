"""The report shows what was dropped, and its plot can be read."""

import itertools
import json

import pytest

from hf_llm.arguments import PreparationArguments
from hf_llm.preparation.pipeline import prepare
from hf_llm.publishing.plots import draw_dropped, save_png


@pytest.fixture
def drawn(tmp_path):
    """Draw the plot of steps that drop these numbers of rows, and return its figure."""

    def draw(rows, *dropped):
        steps = []
        for number in dropped:
            steps.append({"step": f"step {len(steps)}", "rows_in": rows, "rows_out": rows - number})
            rows -= number
        figure = draw_dropped(steps)
        save_png(tmp_path / "funnel.png", figure)
        return figure

    return draw


@pytest.mark.parametrize(
    "numbers", [(1_000_000, 0, 3, 250_000), (28, 0, 0, 0), (5, 5), (2_000_000_000, 1, 1_900_000_000)]
)
def test_the_plot_shows_the_dropped_rows_of_each_step(drawn, numbers):
    """A bar and a label for each step, also for a few rows of a million; labels stay inside and apart."""
    figure = drawn(*numbers)
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == list(numbers[1:])
    labels = [text.get_text() for text in axes.texts]
    assert [label.split(" ")[0] for label in labels] == [f"{number:,}" for number in numbers[1:]]
    assert axes.get_title("left").startswith(f"{numbers[0]:,} rows read, {numbers[0] - sum(numbers[1:]):,} kept")
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in (*axes.texts, *axes.get_xticklabels(), axes.title)]
    assert all(box.x1 <= figure.bbox.x1 and box.x0 >= 0 for box in boxes)
    ticks = sorted((label.get_window_extent() for label in axes.get_xticklabels()), key=lambda box: box.x0)
    assert all(first.x1 <= second.x0 for first, second in itertools.pairwise(ticks))
    lengths = [bar.get_window_extent().width for bar in axes.patches]
    assert all(length > 20 for length, number in zip(lengths, numbers[1:], strict=True) if number)


def test_the_report_does_not_command_the_terminal(tmp_path):
    """Examples of dropped texts are shown with their control characters as escapes; tabs stay."""
    texts = ["a text that is long enough to be kept", "a\tb\x1b[31m\u202ec"]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    settings = {"files": [f"{tmp_path}/a.jsonl"], "output_dir": f"{tmp_path}/out", "min_chars": 20, "clean": False}
    prepare(PreparationArguments(**settings))
    report = (tmp_path / "out" / "report.md").read_text()
    assert r"a	b\x1b[31m\u202ec".replace(r"\t", "\t") in report and "\x1b" not in report
