"""What a search says about its settings: means with intervals, the best against the second, and how sure that is.

Three questions are kept apart:

- Is the best better than the second? The t-test of their runs, without a correction for the number of settings: for a
  winner against its runner-up none is needed (Hung and Fithian, "Rank verification for exponential families", Annals of
  Statistics 47, 2019).
- Which settings may be the truly best? All but those that the best beats in a one-sided test at the level of 5 %
  divided by the number of the others (Gupta, "On some multiple decision rules", Technometrics 7, 1965).
- How good is the best? The mean of the setting that was chosen for its mean is too good. So each run is scored by the
  setting that is best on the other runs; the mean of these scores has not seen the choice.
"""

from collections.abc import Sequence
from math import isfinite
from typing import Any

import numpy as np

from hf_llm.messages import format_interval, format_p_value, format_value
from hf_llm.statistics import SIGNIFICANT, Difference, compare_runs, fold_interval, runs_needed


def judge(search: dict[str, Any]) -> dict[str, Any]:
    """Add the figures and the verdict to what a search has recorded.

    Args:
        search: `settings`, each with `number`, `parameters`, `state` and `runs` (`fold`, `seed`, `metrics`, `steps`),
            `metric`, `direction` ("maximize" or "minimize"), `num_folds` and `seeds` (None: one), and `test_share`,
            the share of the rows that each run holds out; 0 if all are scored on the same rows.

    Returns:
        The same with `mean`, `std`, `low` and `high` of each setting, and
        `best`: number of the best setting, None if none was completed.
        `ranking`: numbers of the completed settings, best first.
        `comparison`: the best against the second: `second`, `difference`, its interval `low`, `high`, `p_value`,
        `runs_needed` of each; None without a second.
        `candidates`: numbers of the settings among which the truly best is with 95 % confidence, best first.
        `chosen_mean`: mean score where each run is scored by the setting that is best on the others; None for a single
        run or setting.
        `verdict`: the best and how it compares with the second, in words.
        `notes`: sentences on what else to know of the choice.
    """
    share = search["test_share"]
    settings = [setting | estimate(setting, search["metric"], share) for setting in search["settings"]]
    complete = [setting for setting in settings if setting["state"] == "complete" and setting["mean"] is not None]
    sign = 1 if search["direction"] == "maximize" else -1
    ranked = sorted(complete, key=lambda setting: (-sign * setting["mean"], setting["number"]))
    scores = {setting["number"]: run_scores(setting, search["metric"]) for setting in ranked}
    found = [compare_runs(scores[ranked[0]["number"]], scores[other["number"]], share) for other in ranked[1:]]
    result = search | {
        "settings": settings,
        "best": ranked[0]["number"] if ranked else None,
        "ranking": list(scores),
        "comparison": describe_difference(ranked[1]["number"], found[0]) if found else None,
        "candidates": candidates(list(scores), found),
        "chosen_mean": chosen_mean(list(scores.values()), sign),
    }
    second = found[0] if found else None
    return result | {"verdict": verdict(result, ranked, second), "notes": notes(result, ranked, second)}


def run_scores(setting: dict[str, Any], metric: str) -> dict[tuple, float]:
    """The score of each run of a setting that has a finite one, by fold and seed."""
    found = {
        (run.get("fold"), run.get("seed")): run.get("metrics", {}).get(f"eval_{metric}") for run in setting["runs"]
    }
    return {run: value for run, value in found.items() if isinstance(value, int | float) and isfinite(value)}


def estimate(setting: dict[str, Any], metric: str, share: float) -> dict[str, float | None]:
    """Mean, standard deviation and interval of a setting's runs; None where there is no score."""
    scores = [*run_scores(setting, metric).values()]
    if not scores:
        return dict.fromkeys(("mean", "std", "low", "high"))
    found = fold_interval(scores, share)
    return {"mean": found.mean, "std": found.std, "low": found.low, "high": found.high}


def describe_difference(second: int, found: Difference) -> dict[str, Any]:
    """The comparison of the best with the second, for `search.json`."""
    return {
        "second": second,
        "difference": found.mean,
        "low": found.low,
        "high": found.high,
        "p_value": found.p_value,
        "runs": found.runs[0],
        "runs_needed": runs_needed(found),
    }


def candidates(ranking: Sequence[int], found: Sequence[Difference]) -> list[int]:
    """Numbers of the settings among which the truly best is with 95 % confidence, best first.

    Args:
        found: the best against each of the others.
    """
    if found and found[0].significant:
        return list(ranking[:1])
    level = SIGNIFICANT / max(len(found), 1)
    kept = [n for n, each in zip(ranking[1:], found, strict=True) if each.p_value is None or each.p_value / 2 >= level]
    return [*ranking[:1], *kept]


def chosen_mean(scores: Sequence[dict[tuple, float]], sign: int) -> float | None:
    """Mean score of the runs where each is scored by the setting that has the best mean on the other runs.

    Example: of A with 0.9, 0.5, 0.7 and B with 0.6, 0.8, 0.6, B is best without the first run and scores 0.6 in it, A
    without the second and scores 0.5, and without the third they are equal: A, the first, scores 0.7. The mean is 0.6,
    that of the best setting 0.7.
    """
    runs = [key for key in scores[0] if all(key in each for each in scores)] if scores else []
    if len(runs) < 2 or len(scores) < 2:
        return None
    held_out = []
    for run in runs:
        best = max(scores, key=lambda each: sign * sum(each[key] for key in runs if key != run))
        held_out.append(best[run])
    return float(np.mean(held_out))


def verdict(result: dict[str, Any], ranked: list[dict[str, Any]], found: Difference | None) -> str:
    """The best setting, its score, and whether it is better than the second."""
    if not ranked:
        return "No setting was completed: there is nothing to choose from."
    best, metric = ranked[0], result["metric"]
    runs = runs_in_words(result, len(run_scores(best, metric)))
    which = f"best of {len(ranked)} completed" if len(ranked) > 1 else "only one that was completed"
    first = f"Setting {best['number']} is the {which}: {metric} {with_interval(best)}, {runs}."
    return first if found is None else f"{first} {against_second(result, ranked[1], found)}"


def notes(result: dict[str, Any], ranked: list[dict[str, Any]], found: Difference | None) -> list[str]:
    """What else to know of the choice: other candidates, what the score of the best is worth, what was not compared."""
    lines, kept = [], result["candidates"]
    if found is not None and found.p_value is not None and len(kept) > 1:
        named = f"one of {', '.join(map(str, kept[:9]))}{' and others' if len(kept) > 9 else ''}"
        named = f"any of the {len(kept)}" if len(kept) == len(ranked) else named
        lines.append(f"The truly best setting may be {named} (95 % confidence).")
    if len(ranked) > 1:
        lines.append(optimism(result, ranked[0]["mean"]))
    if pruned := sum(setting["state"] == "pruned" for setting in result["settings"]):
        settings = "1 setting was" if pruned == 1 else f"{pruned} settings were"
        lines.append(f"{settings} stopped after early evaluations and not compared.")
    if failed := sum(setting["state"] == "failed" for setting in result["settings"]):
        lines.append(f"{failed} {'setting' if failed == 1 else 'settings'} failed.")
    return lines


def against_second(result: dict[str, Any], second: dict[str, Any], found: Difference) -> str:
    """Whether the best is better than the second, or how many runs would tell."""
    gap = f"setting {second['number']}, {format_value(second['mean'])}"
    if found.runs[0] == 1:
        return (
            f"Whether it is better than the second ({gap}) cannot be said from one run of each: search with "
            "`--seeds 1 2 3` or `--num_folds 5`."
        )
    test = f"difference {format_interval(found.mean, found.low, found.high)}"
    test += f", {format_p_value(found.p_value)}" if found.p_value is not None else ""
    if found.significant:
        return f"It is better than the second ({gap}): {test}."
    needed = result["comparison"]["runs_needed"]
    if needed is None:
        remedy = "more runs on these rows would hardly change that"
    elif needed <= found.runs[0]:
        # The power of the test is 80 %: by chance these runs have not found what so many find.
        remedy = f"a few runs more than these {found.runs[0]} might do"
    else:
        remedy = f"about {needed - found.runs[0]:,} more of each would be needed{in_seeds(result, needed)}"
    return f"It is not distinguishable from the second ({gap}) with these runs: {test}; {remedy}."


def in_seeds(result: dict[str, Any], needed: int) -> str:
    """What runs are as a value of `--seeds`, where each seed runs all folds."""
    folds = result.get("num_folds") or 0
    return f" ({-(-needed // folds)} seeds of {folds} folds)" if folds else ""


def optimism(result: dict[str, Any], best: float) -> str:
    """How much the score of the best owes to its being chosen, and where an honest score comes from."""
    test = "Score the final model on rows that the search has not seen."
    chosen = result["chosen_mean"]
    if chosen is None:
        return f"The best of several is chosen for its score, which is therefore too good. {test}"
    if chosen == best:
        return f"Without any one of its runs the same setting would be chosen. {test}"
    where = "" if result["test_share"] else " on these same rows"
    return (
        "The best of several is chosen for its score, which is therefore too good: settings that are chosen without "
        f"the run that scores them have {format_value(chosen)}{where}. {test}"
    )


def runs_in_words(result: dict[str, Any], runs: int) -> str:
    """The runs of a setting: "over 5 folds", "over 3 seeds", "over 10 runs (5 folds, 2 seeds)", "of one run"."""
    folds, seeds = result.get("num_folds") or 1, len(result.get("seeds") or [0])
    if runs == 1:
        return "of one run"
    if runs != folds * seeds:  # some have no score
        return f"over {runs} runs"
    if folds > 1 and seeds > 1:
        return f"over {runs} runs ({folds} folds, {seeds} seeds)"
    return f"over {folds} folds" if folds > 1 else f"over {seeds} seeds"


def with_interval(setting: dict[str, Any]) -> str:
    """The mean of a setting with its 95 % interval, if it has one."""
    return format_interval(setting["mean"], setting["low"], setting["high"])
