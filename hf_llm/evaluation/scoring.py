"""A task's own score of a model: during training as a callback, and after it."""

import difflib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from transformers import EarlyStoppingCallback, PreTrainedTokenizerBase, Trainer, TrainerCallback

from hf_llm.arguments import DataArguments, EvalArguments, EvalTaskArguments, TaskArguments
from hf_llm.data.prompting import ExamplesReport, Prompter, encode_prompts, new_prompter
from hf_llm.data.rows import load_rows
from hf_llm.evaluation.generation import BATCH_SIZE, complete, log_likelihoods
from hf_llm.evaluation.harness import load_harness
from hf_llm.evaluation.perplexity import TokenMetrics, perplexity
from hf_llm.mappings import format_mapping
from hf_llm.metrics.base import TaskMetric, paired_bootstrap, paired_differences, with_interval
from hf_llm.models.inspection import num_positions
from hf_llm.models.loading import load_for_generation, load_tokenizer, model_arguments
from hf_llm.tasks import Task, load_task

logger = logging.getLogger(__name__)

FEW_ROWS = 100


@dataclass
class TaskResult:
    """What a model did on the rows of a task.

    Args:
        scores: of all rows, each with its 95 % interval, e.g. `rouge1`, `rouge1_ci95_low`, `rouge1_ci95_high`.
        predictions: for each row `{"prompt", "prediction", "references"}` and its own scores.
        losses: of each gold completion in nats, and its tokens, (N, 2), where the task asks for their perplexity.
    """

    scores: dict[str, float | str]
    predictions: list[dict[str, Any]]
    report: ExamplesReport
    losses: np.ndarray | None = None

    def answers(self) -> list[str]:
        return [row["prediction"] for row in self.predictions]

    def references(self) -> list[list[str]]:
        return [row["references"] for row in self.predictions]


def evaluate_task(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    rows: Dataset,
    *,
    prompter: Prompter | None = None,
    max_length: int = 1024,
    batch_size: int = BATCH_SIZE,
    show_progress: bool = True,
) -> TaskResult:
    """Let the model answer every row of a task, and score the answers: greedy, the same on one rank and on many.

    Args:
        model: on its device; or the DeepSpeedEngine around it. Every rank calls with the same rows.
        rows: of `load_rows`, with the task's column names.
        prompter: as the model was trained with. Left out: a new one, without solved examples.
        max_length: of prompt and answer in tokens; at most the model's positions are used.

    Raises:
        ValueError: a row that cannot be scored or does not fit; it is named.

    Example:
        evaluate_task(model, tokenizer, load_task("summarization"), rows["validation"]).scores["rougeL"]
    """
    prompter = prompter or Prompter(tokenizer, task, min(max_length, num_positions(model)))
    prompts, report = encode_prompts(rows, prompter)
    score_references(task, prompts)
    return answer_and_score(model, prompter, rows, prompts, report, batch_size=batch_size, show_progress=show_progress)


def score_references(task: Task, prompts: Dataset) -> dict[str, float | str]:
    """The scores of the gold answers: what the metric cannot take is told before the model has worked for hours."""
    references = prompts["references"]
    return task.metric().compute(predictions=["".join(gold[:1]) for gold in references], references=references)


def answer_and_score(
    model: torch.nn.Module, prompter: Prompter, rows: Dataset, prompts: Dataset, report: ExamplesReport, **settings
) -> TaskResult:
    """`evaluate_task` from the prompts and the report of `encode_prompts` on."""
    task, ranked = prompter.task, len(prompts[0]["choices"]) > 0
    texts = (rank if ranked else generate)(model, prompter, rows, prompts, **settings)
    answers = [task.answer(text, row) for text, row in zip(texts, rows, strict=True)]
    metric, references, losses = task.metric(), prompts["references"], None
    scores = metric.compute(predictions=answers, references=references)
    row_scores = metric.row_scores(answers, references)
    if task.scores_perplexity:
        losses = completion_losses(model, prompter.tokenizer, prompts, **settings)
        scores |= with_interval(perplexity_of_rows, losses)
        for of_row, (loss, tokens) in zip(row_scores, losses.tolist(), strict=True):
            of_row["perplexity"] = perplexity(loss / tokens)
    predictions = [
        {"prompt": prompter.tokenizer.decode(ids), "prediction": answer, "references": gold, **of_row}
        for ids, answer, gold, of_row in zip(prompts["prompt"], answers, references, row_scores, strict=True)
    ]
    return TaskResult(scores, predictions, report, losses)


def generate(model: torch.nn.Module, prompter: Prompter, rows: Dataset, prompts: Dataset, **settings) -> list[str]:
    """What the model writes to each prompt."""
    task = prompter.task
    of_model = getattr(model, "module", model).generation_config.eos_token_id or []
    ends = {*prompter.end_token_ids, *(of_model if isinstance(of_model, list) else [of_model])}
    options = {"max_new_tokens": task.max_new_tokens, "do_sample": False, "eos_token_id": sorted(ends)}
    stop_strings = () if prompter.chat else task.stop_strings
    return complete(model, prompter.tokenizer, prompts["prompt"], stop_strings=stop_strings, **options, **settings)


def rank(model: torch.nn.Module, prompter: Prompter, rows: Dataset, prompts: Dataset, **settings) -> list[str]:
    """The likeliest choice of each row; of two alike the first."""
    task = prompter.task
    found = log_likelihoods(model, prompter.tokenizer, prompts["prompt"], prompts["choices"], **settings)
    if task.ranks_per_token():
        found = [np.divide(of_row, [*map(len, row["choices"])]) for of_row, row in zip(found, prompts, strict=True)]
    return [task.choices(row)[int(np.argmax(of_row))] for of_row, row in zip(found, rows, strict=True)]


def completion_losses(
    model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, prompts: Dataset, **settings
) -> np.ndarray:
    """Summed loss of each gold completion in nats, given its prompt, and its number of tokens, (N, 2)."""
    completions = [[completion] for completion in prompts["completion"]]
    found = log_likelihoods(model, tokenizer, prompts["prompt"], completions, **settings)
    return np.array([(-nats, len(ids)) for (nats,), (ids,) in zip(found, completions, strict=True)])


def perplexity_of_rows(losses: np.ndarray, weights: np.ndarray) -> dict[str, float]:
    """exp of the mean loss over the tokens of rows that count `weights` times each."""
    loss, tokens = weights @ losses
    return {"perplexity": perplexity(loss / tokens)}


def compare(metric: TaskMetric, result: TaskResult, baseline: TaskResult) -> dict[str, float]:
    """How much better the result is than the baseline on the same rows, with p-values by a paired bootstrap.

    Perplexities are compared where both models part the gold completions into as many tokens.
    """
    if len(result.predictions) < FEW_ROWS:
        logger.warning(f"{len(result.predictions)} rows are few: a bootstrap's p-values are too low below {FEW_ROWS}")
    differences = paired_bootstrap(metric, result.answers(), baseline.answers(), result.references())
    if result.losses is not None:
        if np.array_equal(result.losses[:, 1], baseline.losses[:, 1]):
            return differences | paired_differences(perplexity_of_rows, [result.losses, baseline.losses])
        logger.warning("Perplexities are not compared: the two models have different tokens")
    return differences


@dataclass
class Evaluation:
    """A task with its rows, to be scored on one model after the other."""

    name: str
    task: Task
    rows: DatasetDict
    task_args: TaskArguments
    max_length: int
    args: EvalArguments

    def settings(self) -> dict[str, Any]:
        """What the scores depend on beside the model, for the results file; of paths the last part."""
        names = ("task", "task_options", "prompt_style", "num_fewshot")
        task_args = {name: getattr(self.task_args, name) for name in names}
        if task_args["task_options"] is not None:
            task_args["task_options"] = format_mapping(task_args["task_options"])
        return task_args | {"max_length": self.max_length, "seed": self.args.seed, "dtype": self.args.dtype}

    def encode(self, tokenizer: PreTrainedTokenizerBase, positions: float) -> tuple:
        """Prompter, rows, prompts and report: the prompts as the model's tokenizer has them."""
        max_length = min(self.max_length, positions)
        try:
            prompter, rows = new_prompter(tokenizer, self.task, self.rows, self.task_args, max_length, self.args.seed)
            prompts, report = encode_prompts(rows["validation"], prompter)
            score_references(self.task, prompts)
        except ValueError as error:  # one of several tasks
            raise ValueError(f"{self.name}: {error}") from error
        return prompter, rows["validation"], prompts, report


def load_evaluations(
    tasks: dict[str, tuple[TaskArguments, DataArguments, EvalArguments]], args: EvalArguments
) -> list[Evaluation]:
    """Load the rows of each task, and check what would otherwise fail after hours.

    Args:
        tasks: name of each task, and its arguments.

    Raises:
        ValueError: none is asked for, or one cannot be loaded.
    """
    if not (tasks or args.harness):
        raise ValueError("nothing to score: give `--task` or `--harness`")
    if args.harness:
        load_harness(args.harness)
    for name in (args.model_name_or_path, args.baseline):
        if name:  # the second model is loaded hours later
            load_tokenizer(model_arguments(name, args.trust_remote_code))
    evaluations = []
    for name, (task_args, data_args, settings) in tasks.items():
        task = load_task(task_args.task, **task_args.task_options or {})
        rows = load_rows(data_args, task_args, task, settings.seed)
        evaluations.append(Evaluation(name, task, rows, task_args, data_args.max_length, settings))
    return evaluations


def score_model(name: str, evaluations: list[Evaluation], args: EvalArguments) -> list[TaskResult]:
    """Load a model and score it on one task after the other; what is wrong with one is told before the first."""
    model, tokenizer = load_for_generation(name, args.trust_remote_code, args.dtype)
    encoded = [evaluation.encode(tokenizer, num_positions(model)) for evaluation in evaluations]
    sizes = [evaluation.args.batch_size or BATCH_SIZE for evaluation in evaluations]
    return [answer_and_score(model, *of_task, batch_size=size) for of_task, size in zip(encoded, sizes, strict=True)]


def check_best_metric(name: str | None, scores: dict[str, float | str]) -> None:
    """Refuse a `metric_for_best_model` that no evaluation will have, before anything is trained."""
    known = ["loss", "perplexity", *(score for score, value in scores.items() if not isinstance(value, str))]
    asked = (name or "loss").removeprefix("eval_")
    if asked not in known:
        (near,) = difflib.get_close_matches(asked, known, 1, cutoff=0)
        raise ValueError(f"`--metric_for_best_model` {name} is no score of this task; the nearest is {near}")


class TaskEvaluation(TrainerCallback):
    """A task's own score at every evaluation of any Trainer: the stock one, or TRL's.

    The scores join the Trainer's metrics as `eval_*`: they are logged to every tracker, and serve
    `metric_for_best_model`, early stopping and `load_best_model_at_end`. Add it before an `EarlyStoppingCallback`.

    Example:
        >>> trainer = Trainer(model, args, train_dataset=train, eval_dataset=held_out, processing_class=tokenizer)
        >>> trainer.add_callback(TaskEvaluation(trainer, load_task("translation"), rows["validation"]))

    Args:
        rows: of `load_rows`, with the task's column names.
        prompter: as the model is trained with. Left out: a new one, without solved examples.
        batch_size: prompts at a time. Left out: `per_device_eval_batch_size`.

    Raises:
        ValueError: a row that cannot be scored or does not fit; it is named.
    """

    def __init__(
        self,
        trainer: Trainer,
        task: Task,
        rows: Dataset,
        prompter: Prompter | None = None,
        max_length: int = 1024,
        batch_size: int | None = None,
    ):
        self.trainer, self.task, self.rows = trainer, task, rows
        max_length = min(max_length, num_positions(trainer.model))
        self.prompter = prompter or Prompter(trainer.processing_class, task, max_length)
        self.prompts, self.report = encode_prompts(rows, self.prompter)  # a row that does not fit is told at the start
        self.reference_scores = score_references(task, self.prompts)
        self.batch_size = batch_size or trainer.args.per_device_eval_batch_size
        self.result: TaskResult | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        kinds = [type(callback) for callback in self.trainer.callback_handler.callbacks]
        if EarlyStoppingCallback in kinds[: kinds.index(TaskEvaluation)]:
            raise ValueError("add TaskEvaluation before EarlyStoppingCallback, which looks at its scores")
        if isinstance(self.trainer.compute_metrics, TokenMetrics | None):  # or there are scores that nobody knows yet
            check_best_metric(args.metric_for_best_model, self.reference_scores)

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        trainer = self.trainer
        settings = {"batch_size": self.batch_size, "show_progress": not args.disable_tqdm}
        with trainer.accelerator.autocast():  # around it all: weights are cast once, not at every token
            self.result = answer_and_score(
                trainer.model_wrapped, self.prompter, self.rows, self.prompts, self.report, **settings
            )
        numbers = {f"eval_{name}": value for name, value in self.result.scores.items() if not isinstance(value, str)}
        metrics.update(numbers)
        trainer.log(dict(numbers))


def results_folder(task_args: EvalTaskArguments, args: EvalArguments) -> str:
    """`--output_dir`, or a folder of its own for this model and these tasks: earlier results stay."""
    tasks = [Path(name).stem for name in (*task_args.task, *args.harness)]
    names = [Path(args.model_name_or_path).name, *tasks]  # of the model with what follows a dot, as in 1.7B
    return args.output_dir or f"outputs/eval/{'-'.join(names)}"
