"""Several sampled answers to each row: the mean of their scores, pass@k, and the majority's answer (maj@n)."""

import math
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from hf_llm.metrics.base import TaskMetric, weighted_means, with_interval

# Scores that say of an answer that it is right, if they are above 0.
RIGHT = ("exact_match", "exact", "accuracy", "tool_calls")


@dataclass
class Sampling:
    """How several answers to each row are drawn.

    Args:
        num_samples: answers to each row.
        temperature: the distribution is sharper below 1 and flatter above 1.
        top_p: sample from the most likely tokens whose probabilities add up to this.
        top_k: sample from this many most likely tokens; 0: from all.
        seed: with another one, all answers have other random numbers.

    Example:
        >>> result = evaluate_task(model, tokenizer, task, rows, sampling=Sampling(num_samples=8, temperature=0.7))
        >>> result.scores["pass@4"], result.scores["maj@8"]
    """

    num_samples: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 42

    def options(self) -> dict[str, Any]:
        """Arguments of `complete`; what else a model's generation_config may say of sampling has no effect."""
        neutral = {"do_sample": True, "min_p": None, "typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0}
        return neutral | {name: value for name, value in vars(self).items() if name != "num_samples"}


def majority(answers: list[str]) -> str:
    """The most frequent answer, of equally frequent ones the first; case, white space and empty answers do not count.

    Example:
        >>> majority(["4", "5", "", "", "", " 5"])
        '5'
    """
    keys = [" ".join(answer.casefold().split()) for answer in answers]
    votes = Counter(filter(None, keys)).most_common(1)
    return answers[keys.index(votes[0][0])] if votes else ""


def pass_at(k: int, samples: int) -> np.ndarray:
    """Estimate without bias, from `samples` answers, the probability that at least one of `k` answers is right.

    1 - C(n - c, k) / C(n, k) of Chen et al. 2021, "Evaluating Large Language Models Trained on Code".

    Returns:
        (samples + 1,): for each number of right answers, 0 to `samples`.

    Example:
        >>> pass_at(2, 3).tolist()
        [0.0, 0.6666666666666667, 1.0, 1.0]
    """
    ways = math.comb(samples, k)
    return np.array([1 - math.comb(samples - right, k) / ways for right in range(samples + 1)])


def sample_statistics(metric: TaskMetric, answers: list[list[str]], references: list[list[str]]) -> np.ndarray:
    """Compute the metric's statistics of all answers.

    Args:
        answers: N lists of n answers.
        references: N lists of gold answers.

    Returns:
        (N, n + 1, k): of each answer, and at the end of the majority's.
    """
    rows = [[*row, majority(row)] for row in answers]
    golds = [gold for row, gold in zip(rows, references, strict=True) for _ in row]
    statistics = metric.statistics([answer for row in rows for answer in row], golds)
    return statistics.reshape(len(rows), len(rows[0]), -1)


def sample_scores(metric: TaskMetric, statistics: np.ndarray, weights: np.ndarray) -> dict[str, float]:
    """Compute the scores of rows with these `sample_statistics` (N, n + 1, k), each counted `weights` (N,) times.

    Returns:
        The metric's scores over all answers, and if it says which ones are right, `pass@k` for n and the powers of 2
        below it, and `maj@n`, all on the scale of the metric.
    """
    samples = statistics[:, :-1]
    rows, number, width = samples.shape
    scores = metric.scores(samples.reshape(rows * number, width), np.repeat(weights, number))
    name = next((name for name in RIGHT if name in metric.score_names), None)
    if name is None or number == 1:
        return scores
    column = [*metric.score_names].index(name)
    right, full = (samples[:, :, column] > 0).sum(axis=1), samples[:, :, column].max()  # 1 or 100
    columns = {f"pass@{k}": full * pass_at(k, number)[right] for k in [*powers_of_2(number), number]}
    columns[f"maj@{number}"] = statistics[:, -1, column]
    counted = weights * metric.counted(statistics[:, -1])
    return scores | weighted_means([*columns], np.array([*columns.values()]).T, counted)


def powers_of_2(limit: int) -> list[int]:
    """The powers of 2 below a number: 1, 2, 4 for 8."""
    return [2**power for power in range((limit - 1).bit_length())]


def score_answers(
    metric: TaskMetric, answers: list[list[str]], references: list[list[str]], sampled: bool
) -> tuple[dict[str, float | str], list[dict[str, float]], np.ndarray | None]:
    """Score one answer to each row, or several sampled ones.

    Args:
        answers: N lists of n answers.
        references: N lists of gold answers.
        sampled: False: each row has one answer, of greedy search or ranking.

    Returns:
        The scores with their 95 % intervals, those of each row (means over its samples), and the statistics of samples.
    """
    if not sampled:
        firsts = [answer for (answer,) in answers]
        scores: Any = metric.compute(predictions=firsts, references=references)  # a dict
        return scores, metric.row_scores(firsts, references), None
    statistics = sample_statistics(metric, answers, references)
    samples = statistics[:, :-1]
    scores = with_interval(partial(sample_scores, metric), statistics)
    scores |= metric.details([text for row in answers for text in row], samples.reshape(-1, samples.shape[2]))
    means = samples.mean(axis=1).tolist()
    return scores, [dict(zip(metric.score_names, row, strict=False)) for row in means], statistics


def shown_answers(answers: list[str], thoughts: list[str], sampled: bool) -> dict[str, Any]:
    """The fields of a row of predictions: its answer and thought, or the majority's answer and all samples."""
    if not sampled:
        return {"prediction": answers[0]} | ({"thought": thoughts[0]} if thoughts[0] else {})
    return {"prediction": majority(answers), "samples": answers} | ({"thoughts": thoughts} if any(thoughts) else {})
