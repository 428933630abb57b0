"""Results of an evaluation: comparison with a baseline, figures, predictions, and the files that they are saved in."""

import logging
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState

from hf_llm.arguments import EvalArguments, EvalTaskArguments
from hf_llm.evaluation.evaluations import Evaluation
from hf_llm.evaluation.sampling import sample_scores
from hf_llm.evaluation.scoring import TaskResult, weighted_perplexity
from hf_llm.files import write_json, write_json_lines
from hf_llm.metrics.base import TaskMetric, paired_differences, paired_test, weighted_means

logger = logging.getLogger(__name__)

EVALUATION = "eval_results.json"
FEW_ROWS = 100


def results_folder(task_args: EvalTaskArguments, args: EvalArguments) -> str:
    """`--output_dir`, or by default a folder named after model and tasks, so that no other results are replaced."""
    tasks = [Path(name).stem for name in (*task_args.task, *args.harness)]
    names = [Path(args.model_name_or_path).name, *tasks]  # `name` for the model: `stem` would cut a "1.7B" at its dot
    return args.output_dir or f"outputs/eval/{'-'.join(names)}"


def compare_results(metric: TaskMetric, result: TaskResult, baseline: TaskResult) -> dict[str, float]:
    """Test whether the result differs from the baseline on the same rows.

    Perplexities are compared if both tokenizers split the gold completions into the same numbers of tokens.

    Returns:
        For every score `<name>_difference` (result - baseline), its 95 % interval and `<name>_p_value`.
    """
    if len(result.predictions) < FEW_ROWS:
        logger.warning(
            f"{len(result.predictions)} rows are few: a bootstrap's intervals are too narrow below {FEW_ROWS}"
        )
    if result.samples is not None and baseline.samples is not None:
        differences = paired_differences(partial(sample_scores, metric), [result.samples, baseline.samples])
    else:
        differences = paired_test(metric, result.answers(), baseline.answers(), result.references())
    if names := [*result.further_scores]:
        systems = [np.array([*each.further_scores.values()]).T for each in (result, baseline)]
        differences |= paired_differences(partial(weighted_means, names), systems)
    if result.losses is not None and baseline.losses is not None:
        if np.array_equal(result.losses[:, 1], baseline.losses[:, 1]):
            return differences | paired_differences(weighted_perplexity, [result.losses, baseline.losses])
        logger.warning("Perplexities are not compared: the two models have different tokens")
    return differences


def compare_and_save(
    args: EvalArguments, evaluations: list[Evaluation], results: list[list[TaskResult]]
) -> list[dict[str, float]]:
    """Compare the model with the baseline on each task, and save figures and predictions, all on rank 0.

    A single task is saved to `--output_dir`. Each of several tasks is saved to a folder of its own in it, and
    `eval_results.json` in `--output_dir` holds the figures of all tasks.

    Args:
        results: the results of the model, and of the baseline if there is one; one per evaluation in each list.

    Returns:
        For each evaluation the differences that `compare_results` finds, empty without a baseline.
    """
    if not PartialState().is_main_process:
        return [{} for _ in evaluations]
    folder, figures, differences = Path(f"{args.output_dir}"), {}, []
    for evaluation, *task_results in zip(evaluations, *results, strict=True):
        task_folder = folder / evaluation.name if len(evaluations) > 1 else folder
        save_predictions(task_results, task_folder)  # first: they are the hours of work
        differences.append(compare_results(evaluation.task.metric(), *task_results) if len(task_results) > 1 else {})
        figures[evaluation.name] = evaluation_figures(args, evaluation, task_results, differences[-1])
        write_json(task_folder / EVALUATION, figures[evaluation.name])
    if len(evaluations) > 1:
        write_json(folder / EVALUATION, figures)
    return differences


def save_predictions(results: list[TaskResult], folder: Path) -> None:
    """Write `predictions.jsonl`, and `baseline_predictions.jsonl` or nothing in its place."""
    for name, result in zip(("predictions", "baseline_predictions"), results, strict=False):
        write_json_lines(f"{folder}/{name}.jsonl", result.predictions)
    if len(results) == 1:
        (folder / "baseline_predictions.jsonl").unlink(missing_ok=True)  # of an earlier evaluation


def evaluation_figures(
    args: EvalArguments, evaluation: Evaluation, results: list[TaskResult], differences: dict[str, float]
) -> dict[str, Any]:
    """Assemble the content of `eval_results.json` of one task."""
    result, *baseline = results
    figures = dict(result.scores)
    for other in baseline:
        figures |= {f"baseline_{name}": value for name, value in other.scores.items()}
    models = {"model": args.model_name_or_path, "baseline": args.baseline}
    names = {role: Path(path).name for role, path in models.items() if path}  # without the folders of this machine
    return figures | result.report.metrics("eval") | differences | names | {"settings": evaluation.settings()}
