"""The report of an evaluation, made from its folder alone."""

from hf_llm.files import write_json, write_json_lines
from hf_llm.publishing.evaluation_report import write_evaluation_report

SCORES = {"accuracy": 0.25, "accuracy_ci95_low": 0.125, "accuracy_ci95_high": 0.375, "eval_examples": 60}
BASELINE = {f"baseline_{name}": value / 2 for name, value in SCORES.items() if name != "eval_examples"} | {
    "accuracy_difference": 0.0625, "accuracy_difference_ci95_low": -0.03125, "accuracy_difference_ci95_high": 0.15625,
    "accuracy_p_value": 0.0325, "baseline": "gpt2",
}  # fmt: skip
ROWS = [{"prompt": "<b>2 + 2?</b>", "prediction": "four", "references": ["4"], "accuracy": 0.0}]


def page_of(folder):
    write_evaluation_report(folder)
    return (folder / "report.html").read_text(encoding="utf-8")


def test_two_models_are_shown_beside_each_other(tmp_path):
    """Scores of both in one picture, the difference with interval and p-value, both answers beside the reference."""
    figures = SCORES | BASELINE | {"model": "mine", "settings": {"task": "understanding"}}
    write_json(tmp_path / "eval_results.json", figures)
    write_json_lines(f"{tmp_path}/predictions.jsonl", ROWS)
    write_json_lines(f"{tmp_path}/baseline_predictions.jsonl", [ROWS[0] | {"prediction": "five"}])
    page = page_of(tmp_path)
    assert "<code>mine</code> against <code>gpt2</code>: understanding." in page
    for shown in ("gpt2 (baseline)", "-0.03125 to 0.1562", "0.0325", "four", "five", "&lt;b&gt;2 + 2?", "60 examples"):
        assert shown in page, shown
    assert page.index("<dd>four") < page.index("<dd>five") < page.index("<dd>4")


def test_each_of_several_tasks_has_its_sections(tmp_path):
    """Their predictions are in folders of their own."""
    task = SCORES | {"model": "mine", "settings": {"task": "understanding"}}
    write_json(tmp_path / "eval_results.json", {"a": task, "b": task})
    (tmp_path / "b").mkdir()
    write_json_lines(f"{tmp_path}/b/predictions.jsonl", ROWS)
    page = page_of(tmp_path)
    assert "<code>mine</code>: a, b." in page
    assert "<h2>a</h2>" in page and "<h2>b: answers</h2>" in page and "a: answers" not in page
    assert page.count("<svg") == 2 and "0.125 to 0.375" in page
