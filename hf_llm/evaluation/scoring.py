"""Score a model on a task: after training, or during it as a callback of the Trainer."""

import difflib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from transformers import EarlyStoppingCallback, PreTrainedTokenizerBase, Trainer, TrainerCallback

from hf_llm.arguments import DataArguments, EvalArguments, TaskArguments
from hf_llm.data.prompting import ExamplesReport, Prompter, encode_prompts, new_prompter
from hf_llm.data.rows import load_rows
from hf_llm.evaluation.generation import BATCH_SIZE, complete, model_and_tokenizer
from hf_llm.evaluation.harness import load_harness
from hf_llm.evaluation.likelihood import log_likelihoods
from hf_llm.evaluation.perplexity import TokenMetrics, perplexity
from hf_llm.files import write_json_lines
from hf_llm.mappings import format_mapping
from hf_llm.metrics.base import with_interval
from hf_llm.models.inspection import num_positions
from hf_llm.models.loading import load_for_generation, load_tokenizer, model_arguments
from hf_llm.tasks import Task, load_task


@dataclass
class TaskResult:
    """Scores and predictions of one model on the rows of one task.

    Args:
        scores: scores over all rows, each with its 95 % interval, e.g. `rouge1`, `rouge1_ci95_low`, `rouge1_ci95_high`.
        predictions: for each row `{"prompt": str, "prediction": str, "references": list[str]}` and the row's scores.
        report: what encoding did to the rows, e.g. how many documents were shortened.
        losses: (N, 2) summed loss in nats and number of tokens of each gold completion, if the task scores perplexity.
    """

    scores: dict[str, float | str]
    predictions: list[dict[str, Any]]
    report: ExamplesReport
    losses: np.ndarray | None = None

    def answers(self) -> list[str]:
        """The prediction of each row."""
        return [row["prediction"] for row in self.predictions]

    def references(self) -> list[list[str]]:
        """The gold answers of each row."""
        return [row["references"] for row in self.predictions]


@dataclass
class EncodedTask:
    """The rows of a task and their prompts as token ids, ready for any model with the prompter's tokenizer.

    Args:
        prompter: encoded the prompts.
        rows: N rows with the task's column names.
        prompts: the N rows of `encode_prompts`: prompt, completion, choices, references.
        report: what encoding did to the rows.
        reference_scores: the scores of the gold answers.
    """

    prompter: Prompter
    rows: Dataset
    prompts: Dataset
    report: ExamplesReport
    reference_scores: dict[str, float | str]


def encode_task(prompter: Prompter, rows: Dataset) -> EncodedTask:
    """Encode the prompts of a task's rows, and score the gold answers: invalid rows are found before hours of work.

    Raises:
        ValueError: a row has no reference or does not fit (the row is named), or the metric refuses the references.
    """
    prompts, report = encode_prompts(rows, prompter)
    return EncodedTask(prompter, rows, prompts, report, score_references(prompter.task, prompts))


def score_references(task: Task, prompts: Dataset) -> dict[str, float | str]:
    """Score the first gold answer of each row against all its gold answers.

    Args:
        prompts: rows with a column `references`, a list of gold answers each.
    """
    references = prompts["references"]
    return task.metric().compute(predictions=["".join(gold[:1]) for gold in references], references=references)  # pyright: ignore[reportReturnType]  # a dict


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
    """Let the model answer every row of a task, by greedy search or by ranking choices, and score the answers.

    The scores are the same on any number of ranks.

    Args:
        model: a model on its device, or the DeepSpeedEngine around it. Every rank must call with the same rows.
        tokenizer: the model's tokenizer.
        task: what is scored, e.g. `load_task("translation")`.
        rows: N rows as `load_rows` returns them, with the task's column names.
        prompter: the prompter that the model was trained with. Default: a new one, without solved examples.
        max_length: tokens of prompt and answer together; at most the model's number of positions.
        batch_size: prompts per batch on each rank.
        show_progress: show progress bars on rank 0.

    Returns:
        The scores with their 95 % intervals and the N predictions, on every rank.

    Raises:
        ValueError: a row cannot be scored or does not fit; the row is named.

    Example:
        >>> task = load_task("summarization")
        >>> result = evaluate_task(model, tokenizer, task, task.sample()["validation"])
        >>> result.scores["rougeL"], result.scores["rougeL_ci95_low"], result.predictions[0]["prediction"]
    """
    prompter = prompter or Prompter(tokenizer, task, int(min(max_length, num_positions(model))))
    return answer_and_score(model, encode_task(prompter, rows), batch_size=batch_size, show_progress=show_progress)


def answer_and_score(model: torch.nn.Module, encoded: EncodedTask, **options) -> TaskResult:
    """Let the model answer every prompt of an encoded task, and score the answers.

    Args:
        options: `batch_size` and `show_progress`, as for `complete`.
    """
    task, prompts, tokenizer = encoded.prompter.task, encoded.prompts, encoded.prompter.tokenizer
    answer = rank_choices if len(prompts[0]["choices"]) > 0 else generate_answers
    texts = answer(model, encoded, **options)
    answers = [task.answer(text, row) for text, row in zip(texts, encoded.rows.to_list(), strict=True)]
    metric, references, losses = task.metric(), prompts["references"], None
    scores: Any = metric.compute(predictions=answers, references=references)  # a dict
    row_scores = metric.row_scores(answers, references)
    if task.scores_perplexity:
        losses = completion_losses(model, encoded, **options)
        scores |= with_interval(weighted_perplexity, losses)
        for one_row, (loss, tokens) in zip(row_scores, losses.tolist(), strict=True):
            one_row["perplexity"] = perplexity(loss / tokens)
    predictions = [
        {"prompt": tokenizer.decode(ids), "prediction": answer, "references": gold, **one_row}
        for ids, answer, gold, one_row in zip(prompts["prompt"], answers, references, row_scores, strict=True)
    ]
    return TaskResult(scores, predictions, encoded.report, losses)


def generate_answers(model: torch.nn.Module, encoded: EncodedTask, **options) -> list[str]:
    """Generate the answer to each prompt by greedy search."""
    prompter, task = encoded.prompter, encoded.prompter.task
    model_ends = getattr(model, "module", model).generation_config.eos_token_id or []
    ends = {*prompter.end_token_ids, *(model_ends if isinstance(model_ends, list) else [model_ends])}
    options |= {"max_new_tokens": task.max_new_tokens, "do_sample": False, "eos_token_id": sorted(ends)}
    stop_strings = () if prompter.chat else task.stop_strings
    return complete(model, prompter.tokenizer, encoded.prompts["prompt"], stop_strings=stop_strings, **options)


def rank_choices(model: torch.nn.Module, encoded: EncodedTask, **options) -> list[str]:
    """Return the most likely choice of each row, the first one of equally likely choices."""
    task, prompts = encoded.prompter.task, encoded.prompts
    scores = log_likelihoods(model, encoded.prompter.tokenizer, prompts["prompt"], prompts["choices"], **options)
    if task.ranks_per_token():
        lengths = [[*map(len, choices)] for choices in prompts["choices"]]
        scores = [np.divide(row_scores, tokens) for row_scores, tokens in zip(scores, lengths, strict=True)]
    return [task.choices(row)[int(np.argmax(row_scores))] for row_scores, row in zip(scores, encoded.rows, strict=True)]  # pyright: ignore[reportOptionalSubscript, reportArgumentType]  # each row is a dict and has choices


def completion_losses(model: torch.nn.Module, encoded: EncodedTask, **options) -> np.ndarray:
    """Compute the loss of each gold completion given its prompt.

    Returns:
        (N, 2): summed loss in nats, number of tokens.
    """
    prompts, completions = encoded.prompts["prompt"], [[completion] for completion in encoded.prompts["completion"]]
    scores = log_likelihoods(model, encoded.prompter.tokenizer, prompts, completions, **options)
    return np.array([(-nats, len(ids)) for (nats,), (ids,) in zip(scores, completions, strict=True)])


def weighted_perplexity(losses: np.ndarray, weights: np.ndarray) -> dict[str, float]:
    """exp(mean token loss) of rows with `losses` (N, 2), each counted `weights` (N,) times."""
    loss, tokens = weights @ losses
    return {"perplexity": perplexity(loss / tokens)}


@dataclass
class Evaluation:
    """A task and its rows, to be scored on one model after another.

    Args:
        rows: as `load_rows` returns them; `train` only serves solved examples.
        args: batch size, seed and precision for this task.
    """

    name: str
    task: Task
    rows: DatasetDict
    task_args: TaskArguments
    max_length: int
    args: EvalArguments

    def settings(self) -> dict[str, Any]:
        """What the scores depend on besides model and rows, for the results file."""
        names = ("task", "task_options", "prompt_style", "num_fewshot")
        settings = {name: getattr(self.task_args, name) for name in names}
        if settings["task_options"] is not None:
            settings["task_options"] = format_mapping(settings["task_options"])
        return settings | {"max_length": self.max_length, "seed": self.args.seed, "dtype": self.args.dtype}

    def encode(self, tokenizer: PreTrainedTokenizerBase, positions: float) -> EncodedTask:
        """Encode the prompts with a model's tokenizer.

        Args:
            positions: number of positions of the model, or infinity.
        """
        max_length = int(min(self.max_length, positions))
        try:
            prompter, rows = new_prompter(tokenizer, self.task, self.rows, self.task_args, max_length, self.args.seed)
            return encode_task(prompter, rows["validation"])
        except ValueError as error:  # says which of several tasks
            raise ValueError(f"{self.name}: {error}") from error


def check_evaluation(tasks: dict[str, tuple], args: EvalArguments) -> None:
    """Check what would otherwise fail after hours: the harness's tasks, and the tokenizer of each model.

    Raises:
        ValueError: there is nothing to score, a harness task is unknown, or a tokenizer cannot be loaded.
    """
    if not (tasks or args.harness):
        raise ValueError("nothing to score: give `--task` or `--harness`")
    if args.harness:
        load_harness(*args.harness)
    for name in (args.model_name_or_path, args.baseline):
        if name:
            load_tokenizer(model_arguments(name, args.trust_remote_code))


def load_evaluations(tasks: dict[str, tuple[TaskArguments, DataArguments, EvalArguments]]) -> list[Evaluation]:
    """Load the rows of each task.

    Args:
        tasks: the name of each task, and its arguments.

    Raises:
        ValueError: a task or its data cannot be loaded.
    """
    evaluations = []
    for name, (task_args, data_args, args) in tasks.items():
        task = load_task(task_args.task, **task_args.task_options or {})
        rows = load_rows(data_args, task_args, task, args.seed)
        evaluations.append(Evaluation(name, task, rows, task_args, data_args.max_length, args))
    return evaluations


def score_model(name: str, evaluations: list[Evaluation], args: EvalArguments) -> list[TaskResult]:
    """Load a model and score it on each task; all tasks are encoded first, so that invalid rows are found early.

    Returns:
        One result per evaluation, on every rank.
    """
    model, tokenizer = load_for_generation(name, args.trust_remote_code, args.dtype)
    tasks = [evaluation.encode(tokenizer, num_positions(model)) for evaluation in evaluations]
    sizes = [evaluation.args.batch_size or BATCH_SIZE for evaluation in evaluations]
    return [answer_and_score(model, encoded, batch_size=size) for encoded, size in zip(tasks, sizes, strict=True)]


def check_best_metric(name: str | None, scores: dict[str, float | str]) -> None:
    """Refuse a `metric_for_best_model` that no evaluation computes, before training starts.

    Args:
        scores: the scores that evaluations add to the loss and the perplexity; texts among them cannot be compared.
    """
    known = ["loss", "perplexity", *(score for score, value in scores.items() if not isinstance(value, str))]
    asked = (name or "loss").removeprefix("eval_")
    if asked not in known:
        (nearest,) = difflib.get_close_matches(asked, known, 1, cutoff=0)
        raise ValueError(f"`--metric_for_best_model` {name} is not a score of this task; the nearest is {nearest}")


class TaskEvaluation(TrainerCallback):
    """Scores a task at every evaluation of a Trainer, stock or TRL's.

    The scores join the Trainer's metrics as `eval_*`: they are logged to every tracker, and can be used for
    `metric_for_best_model`, early stopping and `load_best_model_at_end`. Add it before an `EarlyStoppingCallback`.

    Args:
        trainer: the Trainer that the callback is added to.
        task: what is scored, e.g. `load_task("translation")`.
        rows: N rows as `load_rows` returns them, with the task's column names.
        prompter: the prompter that the model is trained with. Default: a new one, without solved examples.
        max_length: tokens of prompt and answer together, for a new prompter; at most the model's number of positions.
        batch_size: prompts per batch on each rank. Default: `per_device_eval_batch_size`.

    Attributes:
        result: the `TaskResult` of the last evaluation, None before the first.

    Raises:
        ValueError: a row cannot be scored or does not fit; the row is named.

    Example:
        >>> task = load_task("translation")
        >>> trainer = Trainer(model, args, train_dataset=train, eval_dataset=validation, processing_class=tokenizer)
        >>> evaluation = TaskEvaluation(trainer, task, task.sample()["validation"])
        >>> trainer.add_callback(evaluation)
        >>> trainer.evaluate()["eval_chrf"]
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
        self.trainer = trainer
        model, tokenizer = model_and_tokenizer(trainer)
        prompter = prompter or Prompter(tokenizer, task, int(min(max_length, num_positions(model))))
        self.encoded = encode_task(prompter, rows)
        self.batch_size = batch_size or trainer.args.per_device_eval_batch_size
        self.result: TaskResult | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        kinds = [type(callback) for callback in self.trainer.callback_handler.callbacks]
        if EarlyStoppingCallback in kinds[: kinds.index(TaskEvaluation)]:
            raise ValueError("add TaskEvaluation before EarlyStoppingCallback, which reads its scores")
        if isinstance(self.trainer.compute_metrics, TokenMetrics | None):  # the names of other metrics are unknown
            check_best_metric(args.metric_for_best_model, self.encoded.reference_scores)

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        trainer, (model, _) = self.trainer, model_and_tokenizer(self.trainer)
        options = {"batch_size": self.batch_size, "show_progress": not args.disable_tqdm}
        with trainer.accelerator.autocast():  # around all of it: weights are cast once instead of at every token
            self.result = answer_and_score(model, self.encoded, **options)
        numbers = {f"eval_{name}": value for name, value in self.result.scores.items() if not isinstance(value, str)}
        metrics.update(numbers)
        trainer.log(dict(numbers))

    def save_predictions(self) -> None:
        """Write the predictions of the last evaluation to `predictions.jsonl` in the output folder, on rank 0."""
        if self.trainer.args.should_save and self.result is not None:
            write_json_lines(f"{self.trainer.args.output_dir}/predictions.jsonl", self.result.predictions)
