"""A comparison says which setting or model is better only where seeds, folds and rows prove it."""

import json
import re

import numpy as np
import pytest

from hf_llm.evaluation import paired_rows
from hf_llm.mappings import dump_yaml
from hf_llm.publishing.compared_runs import environment_differences, read_results
from hf_llm.publishing.comparison import compare_results
from hf_llm.publishing.comparison_page import curve_pictures, print_comparison, write_comparison

ROWS = 200
HARDNESS = np.random.default_rng(0).normal(size=ROWS)  # of each row, for all models


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr(paired_rows, "RESAMPLES", 200)


def right_answers(level: float, seed: int) -> np.ndarray:
    """Which rows a model answers; the higher its level, the more."""
    return level + 2 * HARDNESS + np.random.default_rng(seed).normal(size=ROWS) > 0


def write_run(folder, right, log=(), environment=None, settings=None, **flags):
    """What finetune.py leaves, as far as it is compared."""
    folder.mkdir(parents=True)
    rows = [{"prompt": f"{i}?", "references": [f"{i}"], "accuracy": float(one)} for i, one in enumerate(right)]
    rows = [row | {"prediction": row["references"][0] if row["accuracy"] else "no"} for row in rows]
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    low, high = right.mean() - 0.05, right.mean() + 0.05
    scores = {"accuracy": float(right.mean()), "accuracy_ci95_low": low, "accuracy_ci95_high": high, "loss": 1.5}
    results = {f"eval_{name}": value for name, value in scores.items()} | {"eval_examples": ROWS, "train_loss": 1.0}
    (folder / "all_results.json").write_text(json.dumps(results))
    (folder / "run.yaml").write_text(dump_yaml({"output_dir": f"{folder}", "task": "understanding"} | flags))
    (folder / "environment.json").write_text(json.dumps(environment or {"ranks": 1}))
    (folder / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in log))
    return f"{folder}"


def write_evaluation(folder, right, model="mine"):
    """What eval.py leaves."""
    path = write_run(folder, right)
    for name in ("all_results.json", "run.yaml", "environment.json", "log.jsonl"):
        (folder / name).unlink()
    figures = {"accuracy": float(right.mean()), "accuracy_ci95_low": 0.4, "accuracy_ci95_high": 0.6}
    settings = {"task": "understanding", "task_options": None}
    (folder / "eval_results.json").write_text(json.dumps(figures | {"model": model, "settings": settings}))
    return path


def seeds_of(tmp_path, name, level, seeds, **flags):
    """Runs of a setting with several seeds."""
    first = sum(map(ord, name)) * 100
    return [write_run(tmp_path / f"{name}{s}", right_answers(level, first + s), seed=s, **flags) for s in seeds]


def compare(folders, **options):
    return compare_results(read_results(folders), **options)


def test_a_better_setting_is_called_better(tmp_path):
    """With three seeds of each and a large effect, whatever the order; the difference is that of the means."""
    a = seeds_of(tmp_path, "a", 0.5, (1, 2, 3), learning_rate=1e-3)
    b = seeds_of(tmp_path, "b", -0.5, (1, 2, 3), learning_rate=1e-4)
    for folders in (a + b, b + a):
        comparison = compare(folders)
        (pair,) = comparison.pairs
        assert pair.better == ("A" if folders[0] == a[0] else "B")
        assert comparison.first_is_better() == (folders[0] == a[0])
        means = [each.mean for each in comparison.scores["accuracy"]]
        assert pair.difference == pytest.approx(max(means) - min(means))
        assert pair.over_rows.rows == ROWS
        assert pair.over_runs.runs == (3, 3)
        assert f"{pair.better} is better than" in comparison.verdict


def test_runs_of_one_setting_are_never_better(tmp_path):
    """Runs that differ in seed, folder and what changes nothing are one group, however far their scores are apart."""
    folders = [
        write_run(tmp_path / f"{seed}", right_answers(seed, seed), seed=seed, logging_steps=seed) for seed in (1, 2)
    ]
    for subject in (None, "models"):
        comparison = compare(folders, subject=subject)
        assert not comparison.first_is_better()
        assert "better" not in comparison.verdict.replace("neither is called better", "").replace("none is better", "")
    assert len(compare(folders).groups) == 1


def test_one_run_of_each_tells_about_models_only(tmp_path):
    """A test over rows cannot tell settings apart: the verdict says so, and what it says of the models."""
    a = write_run(tmp_path / "a", right_answers(0.7, 1), learning_rate=1e-3)
    b = write_run(tmp_path / "b", right_answers(-0.7, 2), learning_rate=1e-4)
    settings, models = compare([a, b]), compare([a, b], subject="models")
    assert settings.pairs[0].better is None
    assert settings.pairs[0].over_rows.p_value < 0.01
    assert "cannot be told" in settings.verdict
    assert "two more seeds" in settings.verdict
    assert "that of A is better on such rows" in settings.verdict
    assert models.pairs[0].better == "A"


def test_it_says_how_many_more_runs_would_be_needed(tmp_path):
    """A small difference between groups of seeds cannot be told, and gives a number of runs."""
    a = seeds_of(tmp_path, "a", 0.1, (1, 2), learning_rate=1e-3)
    b = seeds_of(tmp_path, "b", 0.0, (1, 2), learning_rate=1e-4)
    comparison = compare(a + b)
    assert comparison.pairs[0].better is None
    assert re.search(r"About [\d,]+ more runs of each would be needed", comparison.verdict)


def test_the_better_group_is_named_first_with_its_score_first(tmp_path):
    """Also for the scores that the verdict is not about, and whatever the order of the command line."""
    a = seeds_of(tmp_path, "a", 0.0, (1, 2), learning_rate=1e-3)
    b = seeds_of(tmp_path, "b", 0.1, (1, 2), learning_rate=1e-4)
    words = compare(a + b, score="loss").others["accuracy"].words
    assert words.startswith("It cannot be told whether B or A is better: accuracy ")
    higher, lower = (float(each) for each in words.split("accuracy ")[1].split(";")[0].split(" against "))
    assert higher > lower


def test_folds_are_paired(tmp_path):
    """Runs of folds are compared fold by fold with the corrected test, and not over rows, which are others in each."""

    def fold(name, level, lr):
        rights = [right_answers(level, 10 * number + len(name)) for number in range(1, 6)]
        return [write_run(tmp_path / f"{name}{i}", r, fold=f"{i}/5", learning_rate=lr) for i, r in enumerate(rights, 1)]

    (pair,) = compare(fold("a", 0.8, 1e-3) + fold("bb", -0.8, 1e-4)[::-1]).pairs
    assert pair.over_runs.paired
    assert pair.over_runs.test_share == 0.2
    assert pair.over_rows is None
    assert pair.better == "A"


def test_other_rows_cannot_be_compared(tmp_path):
    """By the gold answers, or by the fingerprint of the validation data: said at the top, and nothing is better."""
    a = write_evaluation(tmp_path / "a", right_answers(2, 1))
    b = write_evaluation(tmp_path / "b", right_answers(-2, 2)[:100])
    data = [{"data": {"validation": {"rows": 9, "fingerprint": name}}} for name in "xy"]
    c, d = (
        write_run(tmp_path / name, right_answers(level, 3), environment=each, learning_rate=level)
        for name, level, each in (("c", 2, data[0]), ("d", -2, data[1]))
    )
    for folder in (c, d):
        (tmp_path / folder[-1] / "predictions.jsonl").unlink()
    for folders in ([a, b], [c, d]):
        comparison = compare(folders)
        assert comparison.pairs[0].better is None
        assert comparison.pairs[0].p_value is None
        assert "OTHER ROWS" in comparison.warnings[0]
        assert "cannot be compared" in comparison.verdict


def test_evaluations_are_compared_as_models(tmp_path):
    """Two folders of eval.py: the test over rows decides, and a small difference asks for rows."""
    a, b = (write_evaluation(tmp_path / n, right_answers(v, 1), n) for n, v in (("a", 0.6), ("b", -0.6)))
    assert compare([a, b]).pairs[0].better == "A"
    c = write_evaluation(tmp_path / "c", right_answers(0.62, 5), "c")
    assert "rows would be needed" in compare([a, c]).verdict


def test_evaluations_of_one_setting_are_known(tmp_path):
    """Two models that differ in the seed of their training are not called better, whatever the rows say.

    Nor where one of them was evaluated beside a baseline.
    """
    models = [write_run(tmp_path / f"m{s}", right_answers(0, s), seed=s, learning_rate=1e-3) for s in (1, 2)]
    folders = [write_evaluation(tmp_path / f"e{i}", right_answers(3 * i, i)) for i in (0, 1)]
    for folder, model in zip(folders, models, strict=True):
        baseline = {"baseline": "base"} if model == models[0] else {}
        settings = {"model_name_or_path": model, "task": "understanding"} | baseline
        (tmp_path / folder / "run.yaml").write_text(dump_yaml(settings))
    comparison = compare(folders)
    assert comparison.pairs[0].over_rows.p_value < 0.01
    assert comparison.pairs[0].better is None
    assert "neither is called better" in comparison.verdict


def test_the_best_of_many_is_tested_with_all_pairs_counted(tmp_path):
    """With four settings the p-value of the best against another is six times as large as that of these two alone."""
    folders = {
        level: seeds_of(tmp_path, f"l{level}", level, (1, 2, 3), learning_rate=level) for level in (0.9, 0.1, 0.0, -0.1)
    }
    alone = compare(folders[0.9] + folders[-0.1]).pairs[0]
    pairs = compare([folder for each in folders.values() for folder in each]).pairs
    assert len(pairs) == 3
    corrected = next(pair for pair in pairs if pair.difference == pytest.approx(alone.difference))
    assert corrected.p_value >= 4 * alone.p_value  # all six pairs, less those with smaller p-values


def test_a_run_that_was_repeated_counts_once(tmp_path):
    """The same settings, seed and fold twice are no two runs: a standard deviation of 0 would prove anything."""
    right = right_answers(0.5, 1)
    a = [write_run(tmp_path / f"a{i}", right, seed=1, learning_rate=1e-3) for i in range(3)]
    b = [write_run(tmp_path / f"b{i}", right_answers(0, 2), seed=1, learning_rate=1e-4) for i in range(3)]
    comparison = compare(a + b)
    assert comparison.pairs[0].over_runs.runs == (1, 1)
    assert comparison.pairs[0].better is None
    assert "count once" in comparison.warnings[0]


def test_bad_input_is_one_line(tmp_path):
    """No folder, no run, one folder twice, one folder, no shared score, an unknown score."""
    a = write_run(tmp_path / "a", right_answers(0, 1), learning_rate=1e-3)
    b = write_run(tmp_path / "b", right_answers(0, 2), learning_rate=1e-4)
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "all_results.json").write_text(
        '{"eval_rougeL": 0.5, "eval_rougeL_ci95_low": 0.4, "eval_rougeL_ci95_high": 0.6}'
    )
    (tmp_path / "running").mkdir()
    (tmp_path / "running" / "run.yaml").write_text("seed: 1\n")
    for folders, words in {
        ("nowhere",): "`nowhere` is not a folder",
        (f"{tmp_path}/empty",): "holds no run",
        (f"{tmp_path}/running",): "has not finished",
        (a, f"{a}/."): "is given twice",
        (a,): "two or more folders",
        (a, f"{tmp_path}/other"): "share no score",
    }.items():
        with pytest.raises(ValueError, match=words) as error:
            compare(folders)
        assert "\n" not in f"{error.value}"
    with pytest.raises(ValueError, match=r"^`acuracy` is not a score of .*the nearest is accuracy"):
        compare([a, b], score="acuracy")


def test_an_environment_that_is_not_recorded_is_no_difference(tmp_path):
    """Evaluations do not record their versions: beside a training run the table would list every package."""
    recorded = {"hf_llm": "1", "versions": {"torch": "2", "peft": "3"}}
    other = {"hf_llm": "1", "versions": {"torch": "1"}}
    a = write_run(tmp_path / "a", right_answers(0, 1), environment=recorded)
    b = write_run(tmp_path / "b", right_answers(0, 2), environment=other, learning_rate=1e-3)
    evaluation = write_evaluation(tmp_path / "c", right_answers(0, 3))
    assert not {"hf_llm", "torch", "peft"} & set(environment_differences(compare([a, evaluation]).groups))
    differences = environment_differences(compare([a, b, evaluation]).groups)
    assert differences["torch"] == ["2", "1", ""] and differences["peft"] == ["3", "None", ""]
    assert "hf_llm" not in differences


def test_the_curve_of_a_run_is_named_by_group_and_folder(tmp_path):
    """Without the folders that all runs share, which would leave no room for the group."""
    log = [{"step": step, "loss": 3 / step} for step in range(1, 3)]
    a, b = (write_run(tmp_path / "runs" / f"seed{s}", right_answers(0, s), log, seed=s) for s in (1, 2))
    (picture,) = curve_pictures(compare([a, b]))
    assert [text.get_text() for text in picture.figure.legends[0].get_texts()] == ["A: seed1", "A: seed2"]


def test_the_report_has_words_tables_and_pictures(tmp_path, capsys):
    """On the terminal, as Markdown, as one HTML page and as JSON: verdict, settings that differ, scores, curves."""
    log = [{"step": step, "loss": 3 / step} for step in range(1, 30)]
    a = write_run(tmp_path / "<b>a", right_answers(0.7, 1), log, learning_rate=1e-3)
    b = write_run(tmp_path / "b", right_answers(-0.7, 2), log, {"ranks": 2}, config_overrides={"hidden_size": 8})
    comparison = compare([a, b])
    write_comparison(comparison, f"{tmp_path}/out")
    print_comparison(comparison)
    printed = capsys.readouterr().out
    page, text = ((tmp_path / "out" / f"comparison.{kind}").read_text() for kind in ("html", "md"))
    for each in (printed, page, text):
        for words in ("learning_rate", "config_overrides.hidden_size", "ranks", "0.001", "cannot be told"):
            assert words in each
    assert page.count("<svg") == 2  # scores, loss
    assert "<b>a" not in page
    figures = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert figures["better"] is None
    assert figures["pairs"][0]["over_rows"]["rows"] == ROWS
