"""The files that a search leaves for a reader."""

import json
from pathlib import Path

import optuna
import pytest

from hf_llm.search.pictures import draw_search
from hf_llm.search.summary import write_results
from hf_llm.search.verdict import judge

SHARE = {"test_share": 0}
SCORES = {0: [0.70, 0.72], 1: [0.80, 0.83], 2: [0.60, 0.59], 3: [0.65, 0.66]}


def made_up_search(folder: Path, scores: dict[int, list[float]], metrics: bool = True) -> optuna.Study:
    """A folder as a search leaves it: runs of each setting, `search.json`, and its study."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study, settings = optuna.create_study(direction="maximize"), []
    rates, sizes = optuna.distributions.FloatDistribution(1e-5, 1e-1, log=True), (64, 128)
    widths = optuna.distributions.CategoricalDistribution(sizes)
    for number, values in scores.items():
        setting = {"learning_rate": 10.0 ** (-number - 2), "config_overrides.hidden_size": sizes[number % 2]}
        runs = []
        for seed, value in enumerate(values):
            run = f"trials/{number:04d}/seed_{seed}"
            (folder / run).mkdir(parents=True)
            lines = [f"learning_rate: {setting['learning_rate']}", f"seed: {seed}", "output_dir: x", "task: '<custom>'"]
            (folder / run / "run.yaml").write_text("# a comment\n" + "\n".join(lines))
            log = [{"step": step, "eval_f1": value * step / 20} for step in (10, 20)]
            (folder / run / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in log))
            measured = {"eval_f1": value} if metrics else {}
            runs.append({"fold": None, "seed": seed, "folder": run, "metrics": measured, "steps": 20})
        state = "complete" if metrics else "failed"
        settings.append({"number": number, "parameters": setting, "state": state, "runs": runs})
        if metrics:
            distributions = dict(zip(setting, (rates, widths), strict=True))
            value = sum(values) / len(values)
            trial = optuna.trial.create_trial(params=setting, distributions=distributions, value=value)
            study.add_trial(trial)
    command = "accelerate launch --num_processes 2 recipes/finetune.py --config recipes/configs/understanding.yaml"
    record = {"settings": settings, "metric": "f1", "direction": "maximize", "seeds": [0, 1], "command": command}
    (folder / "search.json").write_text(json.dumps(record | {"num_folds": None}))
    return study


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """The folder of a made-up search, with its results."""
    folder = tmp_path_factory.mktemp("my search")
    write_results(folder, made_up_search(folder, SCORES))
    return folder


def test_the_page_shows_settings_verdict_and_pictures(results):
    """Markdown and HTML have the verdict, a row for each setting, best first, and the pictures; nothing is loaded."""
    verdict = json.loads((results / "search.json").read_text())["verdict"]
    assert verdict.startswith("Setting 1 is the best of 4 completed: f1 0.815")
    text, page = (results / "search.md").read_text(), (results / "search.html").read_text()
    assert verdict in text and "f1 0.815" in page
    rows = [line for line in text.splitlines() if line.startswith("| ") and line.endswith("| complete |")]
    assert [row.split()[1] for row in rows] == ["1", "0", "3", "2"]
    assert "| 0.001 | 128 | 0.815 |" in rows[0]
    pictures = {path.stem for path in (results / "pictures").glob("*.png")}
    assert pictures == {"scores", "curves", "history", "parallel_coordinates", "importances"}
    assert page.count("<svg") == 5
    assert "http" not in page.replace("http://www.w3.org", "")


def test_the_axes_of_a_picture_have_the_ends_of_long_names(tmp_path):
    """`config_overrides.hidden_size` is `hidden_size`, in the order of Optuna's axes."""
    study, search = made_up_search(tmp_path, SCORES), judge(json.loads((tmp_path / "search.json").read_text()) | SHARE)
    figure = next(p.figure for p in draw_search(search, study, {}) if p.name == "parallel_coordinates")
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["f1", "hidden_size", "learning_rate"]


def test_best_yaml_has_all_settings_but_those_of_one_run(results):
    """The file is the best run's `run.yaml` without seed and folder, and its comments have the command to train."""
    text = (results / "best.yaml").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert lines == ["learning_rate: 0.001", "task: <custom>"]
    command = f"accelerate launch --num_processes 2 recipes/finetune.py --config '{results / 'best.yaml'}'"
    assert f"# {command} --output_dir outputs/best\n" in text


@pytest.mark.parametrize("scores", [{}, {0: [0.5], 1: [0.5]}])
def test_searches_of_few_settings_have_results(tmp_path, scores):
    """No setting, or equal ones of one run each: the page says what there is."""
    write_results(tmp_path, made_up_search(tmp_path, scores))
    assert (tmp_path / "best.yaml").exists() == bool(scores)
    assert (tmp_path / "search.html").exists()


def test_a_search_in_which_all_failed_says_so(tmp_path):
    """There is no best setting, and no file of an earlier one."""
    (tmp_path / "best.yaml").write_text("learning_rate: 1\n")
    search = write_results(tmp_path, made_up_search(tmp_path, SCORES, metrics=False))
    assert search["verdict"] == "No setting was completed: there is nothing to choose from."
    assert not (tmp_path / "best.yaml").exists()
