"""Compare training runs or evaluations: which setting, or which model, is better, or that it cannot be told.

Two questions have different tests. Whether a model is better on such rows is tested over the rows that both were scored
on. Whether its settings are better needs several runs of each, because another seed gives another model: the
difference must be larger than what seeds explain, and larger than what the choice of rows explains.
"""

import difflib
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hf_llm.metrics import lower_is_better
from hf_llm.publishing.compared_runs import Group, Result, group_results
from hf_llm.publishing.comparison_words import decide, one_setting, repeated_runs
from hf_llm.publishing.paired_runs import Pair, compare_pair, correct, share_held_out
from hf_llm.statistics import Estimate, fold_interval

UNTESTED = {"loss", "perplexity"}  # chosen as the score of the verdict only if there is no other


@dataclass(frozen=True)
class Comparison:
    """Groups of runs side by side.

    Attributes:
        groups: those that were compared.
        subject: `settings` or `models`.
        score: the one that the verdict is about.
        scores: for each shared score the estimate of each group.
        pairs: the best group with each other one, in `score`; p-values corrected for their number (Holm 1979).
        others: of two groups, the pairs in the other shared scores, without correction.
        warnings: what a reader must know first, e.g. that the rows are others.
        verdict: in words.
    """

    groups: list[Group]
    subject: str
    score: str
    scores: dict[str, list[Estimate]]
    pairs: list[Pair]
    others: dict[str, Pair]
    warnings: list[str]
    verdict: str

    def first_is_better(self) -> bool:
        """Whether the first group is better than every other one."""
        return len(self.groups) > 1 and all(pair.better == self.groups[0].name for pair in self.pairs)

    def figures(self) -> dict[str, Any]:
        """What `comparison.json` holds."""
        return {
            "verdict": self.verdict,
            "subject": self.subject,
            "score": self.score,
            "better": self.pairs[0].better if len({pair.better for pair in self.pairs}) == 1 else None,
            "warnings": self.warnings,
            "groups": {group.name: [run.folder for run in group.runs] for group in self.groups},
            "scores": {
                name: {group.name: asdict(each) for group, each in zip(self.groups, estimates, strict=True)}
                for name, estimates in self.scores.items()
            },
            "pairs": [asdict(pair) for pair in self.pairs],
            "others": {name: asdict(pair) for name, pair in self.others.items()},
        }


def compare_results(results: list[Result], score: str | None = None, subject: str | None = None) -> Comparison:
    """Compare runs or evaluations.

    Args:
        results: as `read_results` returns them.
        score: what the verdict is about. Default: the `metric_for_best_model` of the first run, or the first score
            that all have.
        subject: `settings` (runs with equal settings form a group) or `models` (each by itself). Default: models if
            all are evaluations, else settings.

    Raises:
        ValueError: fewer than two results, or they share no score.
    """
    if len(results) < 2:
        raise ValueError(f"`{results[0].folder}` is the only result: name two or more folders to compare")
    subject = subject or ("settings" if any(result.trained for result in results) else "models")
    shared = shared_scores(results)
    score = choose_score(results, shared, score)
    groups = group_results(results, each_alone=subject == "models")
    scores = {name: [estimate(name, group) for group in groups] for name in [score, *(n for n in shared if n != score)]}
    if len(groups) == 1:
        return Comparison(groups, subject, score, scores, [], {}, repeated_runs(groups), one_setting(groups[0], score))
    means = [each.mean for each in scores[score]]
    best = int(np.argmin(means) if lower_is_better(score) else np.argmax(means))
    pairs = [compare_pair(score, groups[best], group, subject) for group in groups if group is not groups[best]]
    pairs = [decide(score, pair, groups, subject) for pair in correct(pairs, len(groups))]
    others: dict[str, Pair] = {}
    if len(groups) == 2:
        for name in shared:
            if name != score:
                others[name] = decide(name, compare_pair(name, groups[0], groups[1], subject), groups, subject)
    notes = [(pair.groups, note) for pair in pairs for note in (pair.problem, pair.doubt) if note]
    warnings = [f"{first} and {second}: {note}" for (first, second), note in notes]
    verdict = " ".join(pair.words for pair in pairs)
    return Comparison(groups, subject, score, scores, pairs, others, warnings + repeated_runs(groups), verdict)


def shared_scores(results: list[Result]) -> list[str]:
    """The scores that all results have, in the order of the first.

    Raises:
        ValueError: there is none.
    """
    shared = [name for name in results[0].scores if all(name in result.scores for result in results)]
    if not shared:
        each = "; ".join(f"`{result.folder}`: {', '.join(result.scores) or 'none'}" for result in results[:4])
        raise ValueError(f"the folders share no score ({each}): evaluate all on the same task with recipes/eval.py")
    return shared


def choose_score(results: list[Result], shared: list[str], score: str | None) -> str:
    """The score of the verdict.

    Raises:
        ValueError: not all have it.
    """
    if score is not None:
        score = score.removeprefix("eval_")
        if score not in shared:
            lacking = next((result for result in results if score not in result.scores), results[0])
            (near,) = difflib.get_close_matches(score, shared, 1, cutoff=0)
            problem = f"`{score}` is not a score of `{lacking.folder}`"
            raise ValueError(f"{problem}; all have {', '.join(shared)}; the nearest is {near}")
        return score
    chosen_by = f"{results[0].settings.get('metric_for_best_model')}".removeprefix("eval_")
    if chosen_by in shared and chosen_by not in UNTESTED:
        return chosen_by
    return next((name for name in shared if name.rpartition("/")[2] not in UNTESTED), shared[0])


def estimate(score: str, group: Group) -> Estimate:
    """Mean score of a group, with the interval over its runs, or over the rows of a single one."""
    values = [run.scores[score] for run in group.runs]
    if len(values) == 1:
        low, high = group.runs[0].intervals.get(score, (None, None))
        return Estimate(values[0], None, low, high, 1)
    if not np.isfinite(values).all():
        return Estimate(float(np.mean(values)), None, None, None, len(values))
    return fold_interval(values, share_held_out(group.runs))
