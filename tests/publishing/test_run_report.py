"""The report of a training run, made from its folder alone."""

import json

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from hf_llm.files import write_json, write_json_lines
from hf_llm.publishing.run_report import try_report, write_run_report

HOSTILE = "</dd><script>alert(1)</script>"
SCORES = {"eval_accuracy": 0.5, "eval_accuracy_ci95_low": 0.4, "eval_accuracy_ci95_high": 0.6}
SETTINGS = {
    "task": "understanding",
    "model_name_or_path": "models/base",
    "learning_rate": 1e-4,
    "train_file": ["d/a.jsonl"],
}


def write_run(folder, steps=60, evaluations=3, finished=True, **settings):
    """A made-up run: settings, environment, log, results, weights."""
    folder.mkdir(exist_ok=True)
    (folder / "run.yaml").write_text("# a comment\n" + yaml.safe_dump(settings))
    data = {"train": {"rows": 496, "fingerprint": "ab"}}
    write_json(folder / "environment.json", {"versions": {"torch": "2.13"}, "data": data, "finished": finished})
    log = [
        {"step": step, "loss": 2 + 1 / step, "grad_norm": 1.0, "learning_rate": 1e-3, "tokens_per_second": 5e3}
        for step in range(1, steps + 1)
    ]
    every = steps // evaluations
    log += [{"step": step, "eval_loss": 2.5, **SCORES} for step in range(every, steps + 1, every)]
    write_json_lines(f"{folder}/log.jsonl", sorted(log, key=lambda entry: entry["step"]))
    results = {"eval_loss": 2.25, "train_examples": 496, "train_runtime": 95.0}
    write_json(folder / "all_results.json", results | (SCORES | {"eval_examples": 172} if "task" in settings else {}))
    write_json(folder / "config.json", {"architectures": ["LlamaForCausalLM"], "hidden_size": 8})
    save_file({"a": np.zeros((3, 5)), "b": np.zeros(6)}, folder / "model.safetensors")


def test_the_report_of_a_long_run_is_small_and_shows_all_that_is_in_its_folder(tmp_path):
    """What was trained on what, curves, scores with intervals, predictions beside references, settings, versions.

    With 10,000 logged steps and 1,000 evaluations it has less than 500 kB, and pictures of earlier runs are gone.
    """
    run = tmp_path / "run"
    write_run(run, steps=10_000, evaluations=1000, **SETTINGS)
    row = {"prompt": HOSTILE, "prediction": HOSTILE, "references": ["gold"], "accuracy": 1}
    write_json_lines(f"{run}/predictions.jsonl", [row] * 30)
    (run / "curves").mkdir()
    (run / "curves" / "eval_rouge.png").touch()
    write_run_report(run)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "<code>base</code> fine-tuned for understanding on <code>a.jsonl</code>: 10,000 steps in 1m35s." in page
    for shown in ("0.4 to 0.6", "LlamaForCausalLM", "<td>21</td>", "496", "learning_rate", "versions.torch", "gold"):
        assert shown in page.replace(' class="short"', ""), shown
    assert "<script" not in page and page.count("gold") == 20 and "15 more predictions" in page
    pictures = ["eval_accuracy", "grad_norm", "learning_rate", "loss", "shares", "tokens_per_second"]
    assert sorted(path.stem for path in (run / "curves").glob("*.png")) == pictures
    assert page.count("<svg") == len(pictures) and len(page) < 500_000


def test_the_report_of_a_pretraining_run_shows_samples_and_the_data_funnel(tmp_path):
    """The funnel is that of the files of `prepare_data.py`, if the run was trained on them."""
    run, data = tmp_path / "run", tmp_path / "prepared"
    write_run(run, train_file=str(data))
    data.mkdir()
    steps = [{"step": "quality", "rows_in": 9, "rows_out": 7, "changed": 0, "bytes_out": 70}]
    write_json(data / "manifest.json", {"steps": steps, "rows": 7, "bytes": 70})
    write_json_lines(f"{run}/log.jsonl", [{"step": 1, "loss": 3.0}])
    write_json(run / "samples.json", {"A sample": f"Once {HOSTILE}"})
    write_json_lines(f"{run}/predictions.jsonl", [{"prompt": "of an earlier run"}])
    write_run_report(run)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "A new model pretrained on <code>prepared</code>" in page
    assert "9 rows read, 7 kept" in page and "Once &lt;/dd&gt;" in page and "earlier run" not in page


def test_an_unfinished_run_has_a_report_that_says_so(tmp_path):
    """Results in its folder are those of an earlier run, and not shown."""
    write_run(tmp_path, finished=False, **SETTINGS)
    write_json_lines(f"{tmp_path}/log.jsonl", [{"step": 1, "loss": 3.0}])
    write_run_report(tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "This run has not finished" in page and "validation loss" not in page


def test_a_run_without_a_log_of_its_own_has_a_report_from_the_trainer_s(tmp_path):
    """Older folders have only `trainer_state.json`."""
    state = {"log_history": [{"step": 1, "loss": 3.0}, {"step": 2, "loss": float("nan"), "train_loss": 2.0}]}
    (tmp_path / "trainer_state.json").write_text(json.dumps(state))
    write_run_report(tmp_path)
    assert "1 not finite" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_report_that_fails_costs_nothing_but_itself(tmp_path, caplog):
    """At the end of a run the failure is a warning; a folder without a run is an error for who asks for its report."""
    with pytest.raises(ValueError, match="holds no run"):
        write_run_report(tmp_path)
    try_report(write_run_report, tmp_path)
    assert "has no report.html: ValueError" in caplog.text
    write_run(tmp_path, task="understanding")
    write_json_lines(f"{tmp_path}/log.jsonl", [])
    (tmp_path / "predictions.jsonl").write_text("no json\n")
    try_report(write_run_report, tmp_path)
    assert "has no report.html: JSONDecodeError" in caplog.text
