"""What a search says about its settings."""

import numpy as np
import pytest
from scipy import stats

from hf_llm.search.verdict import candidates, chosen_mean, judge
from hf_llm.statistics import compare_runs


def search(scores: list[list[float]], num_folds: int = 0, **more) -> dict:
    """What a search records of settings with these scores, one for each run."""
    settings = []
    for number, row in enumerate(scores):
        runs = [{"fold": n + 1 if num_folds else None, "seed": 1, "metrics": {"eval_f1": x}} for n, x in enumerate(row)]
        runs = runs if num_folds else [run | {"seed": n} for n, run in enumerate(runs)]
        settings.append({"number": number, "parameters": {"lr": number}, "state": "complete", "runs": runs})
    seeds = [1] if num_folds else list(range(len(scores[0]) if scores else 1))
    record = {"settings": settings, "metric": "f1", "direction": "maximize", "num_folds": num_folds, "seeds": seeds}
    record["test_share"] = 1 / num_folds if num_folds else 0
    return record | more


def test_the_best_is_compared_with_the_second():
    """The p-value is that of Welch's test of seeds, the interval Student's; a clear winner is said to be better."""
    scores = [[0.70, 0.72, 0.71], [0.80, 0.83, 0.81], [0.60, 0.59, 0.61]]
    found = judge(search(scores))
    assert found["ranking"] == [1, 0, 2]
    assert found["comparison"]["p_value"] == pytest.approx(
        stats.ttest_ind(scores[1], scores[0], equal_var=False).pvalue
    )
    low, high = stats.t.interval(0.95, 2, np.mean(scores[1]), stats.sem(scores[1]))
    assert (found["settings"][1]["low"], found["settings"][1]["high"]) == pytest.approx((low, high))
    assert found["candidates"] == [1]
    assert found["verdict"].startswith(
        "Setting 1 is the best of 3 completed: f1 0.8133 [0.7754, 0.8513], over 3 seeds."
    )
    assert "It is better than the second (setting 0, 0.71): difference 0.1033" in found["verdict"]


def test_settings_that_cannot_be_told_apart_are_said_to_be_so():
    """With folds the test is that of Nadeau and Bengio; the verdict names the runs that it would take."""
    found = judge(search([[0.70, 0.75, 0.69, 0.73, 0.71], [0.71, 0.74, 0.72, 0.72, 0.74]], num_folds=5))
    differences = np.array([0.01, -0.01, 0.03, -0.01, 0.03])
    t = differences.mean() / (differences.std(ddof=1) * np.sqrt(1 / 5 + 1 / 4))
    assert found["comparison"]["p_value"] == pytest.approx(2 * stats.t.sf(t, 4))
    assert "not distinguishable from the second (setting 0, 0.716) with these runs" in found["verdict"]
    assert found["candidates"] == [1, 0]
    needed = judge(search([[0.70, 0.75, 0.69, 0.73, 0.71], [0.71, 0.74, 0.72, 0.72, 0.74]]))["comparison"][
        "runs_needed"
    ]
    assert needed > 5
    found = judge(search([[0.70, 0.75, 0.69, 0.73, 0.71], [0.71, 0.74, 0.72, 0.72, 0.74]]))
    assert f"about {needed - 5} more of each would be needed" in found["verdict"]


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (search([]), "No setting was completed"),
        (search([[0.5, 0.6]]), "the only one that was completed"),
        (search([[0.5], [0.6]]), "cannot be said from one run of each: search with `--seeds 1 2 3` or `--num_folds 5`"),
        (search([[0.5, 0.5], [0.5, 0.5]]), "not distinguishable"),
        (search([[3.0, 3.1], [2.0, 2.1]], direction="minimize"), "Setting 1 is the best of 2"),
    ],
)
def test_searches_with_little_to_say(record, words):
    """One setting, one run, equal scores, a loss: each has its verdict, and no p-value is invented."""
    assert words in judge(record)["verdict"]


def test_failed_and_pruned_settings_are_not_ranked():
    """A pruned setting has a score, of an early evaluation, which is not compared with those at the end."""
    record = search([[0.9, 0.9], [0.6, 0.7], [0.5, 0.6]])
    record["settings"][0]["state"] = "pruned"
    record["settings"].append(
        {"number": 3, "parameters": {}, "state": "failed", "runs": [{"metrics": {"eval_f1": np.nan}}]}
    )
    found = judge(record)
    assert found["best"] == 1
    assert found["settings"][3]["mean"] is None
    assert found["notes"][-2:] == [
        "1 setting was stopped after early evaluations and not compared.",
        "1 setting failed.",
    ]


def test_the_score_of_the_best_is_too_good_and_that_of_the_choice_is_not():
    """Of 8 equal settings the best has a mean far above theirs; runs scored by a choice without them do not."""
    generator = np.random.default_rng(0)
    best, chosen = [], []
    for _ in range(300):
        scores = generator.normal(size=(8, 4))
        runs = [dict(enumerate(row)) for row in scores.tolist()]
        best.append(scores.mean(1).max())
        chosen.append(chosen_mean(runs, 1))
    assert np.mean(best) > 0.6  # of standard errors of 0.5
    assert abs(np.mean(chosen)) < 4 * np.std(chosen) / np.sqrt(300)


def test_a_best_setting_is_called_in_five_percent_of_searches_without_one():
    """Of equal settings the first is called worse than another, or left out of the candidates, in 5 % of searches."""
    generator = np.random.default_rng(1)
    for number in (2, 6):
        called = kept = 0
        for _ in range(250):
            rows = sorted(enumerate(generator.normal(size=(number, 5)).tolist()), key=lambda row: -sum(row[1]))
            runs = [dict(enumerate(row)) for _, row in rows]
            found = [compare_runs(runs[0], other, 0) for other in runs[1:]]
            called += found[0].significant
            kept += 0 in candidates([n for n, _ in rows], found)
        assert called / 250 < 0.08  # 0.05 and two standard errors
        assert kept / 250 > 0.92
