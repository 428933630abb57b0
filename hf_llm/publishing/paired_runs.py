"""Tests of the difference between two groups of runs: over rows, and over seeds and folds."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hf_llm.evaluation.paired_rows import RowTest, ScoredRows, compare_on_rows
from hf_llm.publishing.compared_runs import Group, Result
from hf_llm.statistics import Difference, difference, held_out_share


@dataclass(frozen=True)
class Pair:
    """Two groups compared in one score.

    Attributes:
        difference: of the mean scores, the first group's minus the second's.
        over_runs: the test over seeds and folds; None: they are not several, or the groups cannot be compared.
        over_rows: the test over rows that all runs of both were scored on.
        p_value: of the question that was asked; None: it has no test.
        better: name of the better group; None: it cannot be told.
        words: the result in a sentence or two.
        problem: why the scores cannot be compared at all.
        doubt: what a reader must know of the comparison.
    """

    groups: tuple[str, str]
    difference: float
    over_runs: Difference | None = None
    over_rows: RowTest | None = None
    p_value: float | None = None
    better: str | None = None
    words: str = ""
    problem: str = ""
    doubt: str = ""

    def reversed(self) -> "Pair":
        """The difference of the second group from the first, for a table that has them in this order."""
        tests: dict[str, Any] = {}
        for name in ("over_runs", "over_rows"):
            if (test := getattr(self, name)) is not None:
                bounds = {} if test.low is None else {"low": -test.high, "high": -test.low}
                tests[name] = replace(test, **bounds)
        return replace(self, groups=self.groups[::-1], difference=-self.difference, **tests)


def share_held_out(runs: Sequence[Result]) -> float:
    """The share of rows that each run holds out, if not all hold out the same; else 0."""
    if all(same_rows(runs[0], run) is not False for run in runs):
        return 0.0
    return held_out_share(runs[0].settings, ["others", "in each"])


def same_rows(a: Result, b: Result, score: str = "") -> bool | None:
    """Whether two results were scored on the same rows, by these or by their fingerprints; None: it is not known."""
    if a.fold != b.fold:
        return False
    by_kind = {rows.of_documents: rows for rows in b.rows_of(score)}
    for rows in a.rows_of(score):
        if other := by_kind.get(rows.of_documents):
            return other.in_order_of(rows) is not None
    fingerprints = [run.data("validation").get("fingerprint") for run in (a, b)]
    return None if None in fingerprints else fingerprints[0] == fingerprints[1]


def compare_pair(score: str, a: Group, b: Group, subject: str) -> Pair:
    """Test whether two groups differ in a score."""
    names = (a.name, b.name)
    pair = Pair(names, mean_score(score, a.runs) - mean_score(score, b.runs))
    if not np.isfinite(pair.difference):
        return replace(pair, problem=f"a score of {score} is not finite")
    runs = [*a.runs, *b.runs]
    proofs = [same_rows(runs[0], run, score) for run in runs]
    if all(proof is not False for proof in proofs):
        over_rows = compare_over_rows(score, a, b)
        scores = [[run.scores[score] for run in distinct(group)] for group in (a, b)]
        over_runs = difference(scores[0], scores[1])
        doubt = None in proofs and over_rows is None
        pair = replace(pair, doubt="it is not recorded whether they were scored on the same rows" if doubt else "")
        return replace(pair, over_rows=over_rows, over_runs=over_runs if subject == "settings" else None)
    matched = [(x, y) for x in distinct(a) for y in distinct(b) if x.repetition == y.repetition]
    matched = [(x, y) for x, y in matched if same_rows(x, y, score) is not False]
    if not matched or subject == "models":
        return replace(pair, problem="they were scored on OTHER ROWS, so their scores say nothing about each other")
    first, second = ([run.scores[score] for run in side] for side in zip(*matched, strict=True))
    over_runs = difference(first, second, paired=True, test_share=share_held_out([x for x, _ in matched]))
    return replace(pair, difference=over_runs.mean, over_runs=over_runs)


def mean_score(score: str, runs: Sequence[Result]) -> float:
    """Mean of a score over runs."""
    return float(np.mean([run.scores[score] for run in runs]))


def distinct(group: Group) -> list[Result]:
    """The runs of a group without repetitions of one seed and fold, which would count as independent."""
    return list({run.repetition: run for run in reversed(group.runs)}.values())[::-1]


def compare_over_rows(score: str, a: Group, b: Group) -> RowTest | None:
    """The paired test over rows of all runs of two groups; None if their files do not have this score of each row."""
    name, first = score.rpartition("/")[2], a.runs[0]
    for rows in first.rows_of(score):
        sides = [[aligned(run, rows, score) for run in distinct(group)] for group in (a, b)]
        known = [[each for each in side if each is not None] for side in sides]
        if [*map(len, known)] == [*map(len, sides)]:
            test = compare_on_rows(name, first.scores[score], known[0], known[1])
            if test is not None:
                return test
    return None


def aligned(run: Result, rows: ScoredRows, score: str) -> ScoredRows | None:
    """The rows of a run in the order of others; None if they are not the same."""
    own = [each for each in run.rows_of(score) if each.of_documents == rows.of_documents]
    return own[0].in_order_of(rows) if own else None


def correct(pairs: list[Pair], groups: int) -> list[Pair]:
    """Set the p-values of the question for all runs and rows, corrected for the number of pairs of groups (Holm).

    The best group was chosen after a look at all, so all pairs count, also those that are not shown.
    """
    values = [question_p_value(pair) for pair in pairs]
    order, number, largest = (
        np.argsort([1.0 if value is None else value for value in values]),
        groups * (groups - 1) // 2,
        0.0,
    )
    corrected = list(values)
    for rank, index in enumerate(order):
        if (value := values[index]) is not None:
            largest = max(largest, min(1.0, value * (number - rank)))
            corrected[index] = largest
    return [replace(pair, p_value=value) for pair, value in zip(pairs, corrected, strict=True)]


def question_p_value(pair: Pair) -> float | None:
    """The larger p-value of both tests: a better setting must be better beyond what seeds, and what rows, explain."""
    if pair.problem:
        return None
    if pair.over_runs is None:
        return pair.over_rows.p_value if pair.over_rows else None
    if pair.over_runs.p_value is None:
        return None
    return max(pair.over_runs.p_value, pair.over_rows.p_value if pair.over_rows else 0)
