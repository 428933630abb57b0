"""The result of a comparison in words: which is better, or that it cannot be told and what would be needed."""

from dataclasses import replace

from hf_llm.evaluation.paired_rows import RowTest
from hf_llm.messages import format_p_value, format_value
from hf_llm.metrics import lower_is_better
from hf_llm.publishing.compared_runs import Group
from hf_llm.publishing.paired_runs import Pair, mean_score, question_p_value
from hf_llm.statistics import SIGNIFICANT, Difference, runs_needed

POWERFUL = 2.8  # standard errors of a difference that is found in 80 % of the cases at p < 0.05


def decide(score: str, pair: Pair, groups: list[Group], subject: str) -> Pair:
    """Say which of two groups is better, or that it cannot be told and what would be needed."""
    pair = pair if pair.p_value is not None else replace(pair, p_value=question_p_value(pair))
    a, b = (next(group for group in groups if group.name == name) for name in pair.groups)
    lower = lower_is_better(score)
    ahead, behind = (b, a) if (pair.difference < 0) != bool(lower) else (a, b)
    means = [format_value(mean_score(score, group.runs)) for group in (ahead, behind)]
    facts = f"{score} {means[0]} against {means[1]}"
    if pair.problem:
        return replace(pair, p_value=None, words=f"{a.name} and {b.name} cannot be compared: {pair.problem}.")
    if a.runs[0].identity == b.runs[0].identity:
        same = f"{ahead.name} and {behind.name} were trained with the same settings and other seeds"
        return replace(pair, p_value=None, words=f"{same}: neither is called better ({facts}).")
    facts += f"; {evidence(pair)}"
    if pair.p_value is not None and pair.p_value < SIGNIFICANT:
        if lower is None:
            return replace(pair, words=f"{ahead.name} and {behind.name} differ: {facts}.")
        return replace(pair, better=ahead.name, words=f"{ahead.name} is better than {behind.name}: {facts}.")
    words = f"It cannot be told whether {ahead.name} or {behind.name} is better: {facts}. {needed(pair, ahead.name)}"
    return replace(pair, words=words.rstrip())


def evidence(pair: Pair) -> str:
    """The tests of a pair."""
    runs, rows, texts = pair.over_runs, pair.over_rows, []
    if runs is not None:
        texts.append(evidence_of_runs(runs))
    if rows is not None:
        texts.append(f"{format_p_value(rows.p_value)} over the {rows.rows:,} {rows.unit} that both were scored on")
    elif runs is None or not runs.paired:
        texts.append("not tested over rows, because the files do not have this score of each of the same rows")
    single = question_p_value(pair)
    if pair.p_value is not None and single is not None and pair.p_value > single:
        texts.append(f"{format_p_value(pair.p_value)} corrected for all pairs")
    return ", ".join(texts)


def evidence_of_runs(test: Difference) -> str:
    """The test over seeds and folds."""
    a, b = test.runs
    number = "one run of each" if a == b == 1 else f"{a} runs of each" if a == b else f"{a} and {b} runs"
    if test.p_value is None:
        return number
    return f"{format_p_value(test.p_value)} over {number}" + ", paired by seed and fold" * test.paired


def needed(pair: Pair, ahead: str) -> str:
    """What would be needed to tell two groups apart, if the difference found is the true one."""
    runs, rows = pair.over_runs, pair.over_rows
    if runs is not None and runs.p_value is None:
        text = "Train each with two more seeds or more: with one run of each it is not known how much a seed changes."
        if rows is not None and rows.p_value < SIGNIFICANT:
            text += f" Of these two models, that of {ahead} is better on such {rows.unit}, not its settings."
        return text
    if runs is not None and runs.p_value is not None and runs.p_value >= SIGNIFICANT:
        count = runs_needed(runs)
        if count is None:
            return "More seeds would not tell them apart: the difference is too small."
        more = max(count - min(runs.runs), 1)
        return f"About {more:,} more run{'s' * (more > 1)} of each would be needed, if the difference is as it looks."
    return "" if rows is None else needed_rows(rows)


def needed_rows(test: RowTest) -> str:
    """How many rows would show the difference in 80 % of the cases."""
    if not test.difference:
        return ""
    count = test.rows * (POWERFUL * test.std_error / test.difference) ** 2
    if count <= test.rows:
        return ""
    rounded = float(f"{count:.2g}")
    return f"About {rounded:,.0f} {test.unit} would be needed, not {test.rows:,}, if the difference is as it looks."


def repeated_runs(groups: list[Group]) -> list[str]:
    """Warnings of runs with the same settings, seed and fold, which count once."""
    warnings = []
    for group in groups:
        kept = {run.repetition: run for run in reversed(group.runs)}
        for run in group.runs:
            if (first := kept[run.repetition]) is not run and run.settings:
                warnings.append(f"{run.folder} has the settings, seed and fold of {first.folder}: they count once")
    return warnings


def one_setting(group: Group, score: str) -> str:
    """The verdict where all runs have the same settings."""
    values = [run.scores[score] for run in group.runs]
    return (
        f"All {len(values)} runs have the same settings: what differs between them is chance, and none is better. "
        f"{score} is {format_value(min(values))} to {format_value(max(values))}."
    )
