"""Score a model on a task: encode its rows, generate or rank answers, compute its metric."""

import dataclasses
import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from transformers import PreTrainedTokenizerBase

from hf_llm.arguments import DataArguments, EvalArguments, TaskArguments
from hf_llm.data.examples import ExamplesReport, encode_prompts
from hf_llm.data.prompting import Prompter, new_prompter
from hf_llm.data.rows import load_rows
from hf_llm.evaluation.answers import generate_answers
from hf_llm.evaluation.generation import BATCH_SIZE
from hf_llm.evaluation.harness import load_harness
from hf_llm.evaluation.likelihood import log_likelihoods
from hf_llm.evaluation.perplexity import perplexity
from hf_llm.evaluation.sampling import Sampling, score_answers, shown_answers
from hf_llm.mappings import format_mapping
from hf_llm.metrics.base import weighted_means, with_interval
from hf_llm.models.inspection import num_positions
from hf_llm.models.loading import load_for_generation, load_tokenizer, model_arguments
from hf_llm.tasks import Task, load_task

logger = logging.getLogger(__name__)


@dataclass
class TaskResult:
    """Scores and predictions of one model on the rows of one task.

    Args:
        scores: scores over all rows, each with its 95 % interval, e.g. `rouge1`, `rouge1_ci95_low`, `rouge1_ci95_high`.
        predictions: for each row `{"prompt": str, "prediction": str, "references": list[str]}` and the row's scores;
            with several `samples`, the prediction is that of their majority.
        report: what encoding did to the rows, e.g. how many documents were shortened.
        losses: (N, 2) summed loss in nats and number of tokens of each gold completion, if the task scores perplexity.
        further_scores: scores of the N rows that the task does not compute from the predictions; their means are in
            `scores`.
        samples: the `sample_statistics` of the answers, if several were sampled for each row.
    """

    scores: dict[str, float | str]
    predictions: list[dict[str, Any]]
    report: ExamplesReport
    losses: np.ndarray | None = None
    further_scores: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    samples: np.ndarray | None = None

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
        reference_scores: the scores of the gold answers, by the names that an evaluation gives them.
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
    rows = prompter.task.evaluated(rows)
    prompts, report = encode_prompts(rows, prompter)
    reference_scores = score_references(prompter.task, prompts)
    if choices := prompts[0]["choices"]:
        reference_scores |= prompter.task.ranking_scores(rows[0], [0.0] * len(choices))  # for their names
    return EncodedTask(prompter, rows, prompts, report, reference_scores)


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
    sampling: Sampling | None = None,
) -> TaskResult:
    """Let the model answer every row of a task, by greedy search, by sampling or by ranking choices, and score it.

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
        sampling: several answers to each row, e.g. `Sampling(num_samples=8)`. None: one, by greedy search.

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
    options = {"batch_size": batch_size, "show_progress": show_progress}
    return answer_and_score(model, encode_task(prompter, rows), sampling, **options)


def answer_and_score(
    model: torch.nn.Module, encoded: EncodedTask, sampling: Sampling | None = None, **options
) -> TaskResult:
    """Let the model answer every prompt of an encoded task, and score the answers.

    Args:
        sampling: several answers to each row. None: one, by greedy search.
        options: `batch_size` and `show_progress`, as for `complete`.
    """
    task, prompts, tokenizer = encoded.prompter.task, encoded.prompts, encoded.prompter.tokenizer
    if len(prompts[0]["choices"]) > 0:
        texts, further = rank_choices(model, encoded, **options)
        texts, thoughts = [[text] for text in texts], [[""]] * len(prompts)
    else:
        texts, thoughts = generate_answers(model, encoded.prompter, prompts["prompt"], sampling, **options)
        further = {}
    rows, references, losses = encoded.rows.to_list(), prompts["references"], None
    answers = [[task.answer(text, row) for text in each] for each, row in zip(texts, rows, strict=True)]
    sampled = sampling is not None
    scores, row_scores, samples = score_answers(task.metric(), answers, references, sampled)
    if task.scores_perplexity:
        losses = completion_losses(model, encoded, **options)
        scores |= with_interval(weighted_perplexity, losses)
        for one_row, (loss, tokens) in zip(row_scores, losses.tolist(), strict=True):
            one_row["perplexity"] = perplexity(loss / tokens)
    if further:
        scores |= with_interval(partial(weighted_means, [*further]), np.array([*further.values()]).T)
        row_scores = [
            one | dict(zip(further, more, strict=True))
            for one, more in zip(row_scores, zip(*further.values(), strict=True), strict=True)
        ]
    shown = [shown_answers(*each, sampled) for each in zip(answers, thoughts, strict=True)]
    predictions = [
        {"prompt": tokenizer.decode(ids), **row_answers, "references": gold, **one_row}
        for ids, row_answers, gold, one_row in zip(prompts["prompt"], shown, references, row_scores, strict=True)
    ]
    return TaskResult(scores, predictions, encoded.report, losses, further, samples)


def rank_choices(model: torch.nn.Module, encoded: EncodedTask, **options) -> tuple[list[str], dict[str, list[float]]]:
    """Rank the choices of each row by their log-likelihood.

    Returns:
        The likeliest choice of each row, the first one of equally likely choices, and the rows' `ranking_scores`.
    """
    task, prompts, rows = encoded.prompter.task, encoded.prompts, encoded.rows.to_list()
    scores = log_likelihoods(model, encoded.prompter.tokenizer, prompts["prompt"], prompts["choices"], **options)
    further = [task.ranking_scores(row, row_scores) for row, row_scores in zip(rows, scores, strict=True)]
    if task.ranks_per_token():
        lengths = [[*map(len, choices)] for choices in prompts["choices"]]
        scores = [np.divide(row_scores, tokens) for row_scores, tokens in zip(scores, lengths, strict=True)]
    likeliest = [task.choices(row)[int(np.argmax(row_scores))] for row_scores, row in zip(scores, rows, strict=True)]  # pyright: ignore[reportOptionalSubscript]  # each row has choices
    return likeliest, {name: [row[name] for row in further] for name in further[0]}


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

    def sampling(self) -> Sampling | None:
        """How answers are sampled, with `--num_samples`."""
        args = self.args
        return (
            Sampling(args.num_samples, args.temperature, args.top_p, args.top_k, args.seed)
            if args.num_samples
            else None
        )

    def settings(self) -> dict[str, Any]:
        """What the scores depend on besides model and rows, for the results file."""
        names = ("task", "task_options", "prompt_style", "chat_template", "system_prompt", "num_fewshot")
        settings = {name: getattr(self.task_args, name) for name in names}
        fields = {field.name: field.default for field in dataclasses.fields(self.task)}
        options = {name: getattr(self.task, name) for name in fields if getattr(self.task, name) != fields[name]}
        settings["task_options"] = format_mapping(options) or None  # in effect, also those that the data decide
        settings["chat_template"] = settings["chat_template"] and Path(settings["chat_template"]).name
        settings["num_fewshot"] = settings["num_fewshot"] or 0
        settings |= vars(sampling) if (sampling := self.sampling()) else {}
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
    if args.num_samples and args.harness:
        raise ValueError("`--num_samples` has no effect on tasks of `--harness`: leave one of them out")
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
        if args.num_samples and task.choices(rows["validation"][0]) is not None:
            remedy = "leave it out" + ", or give `--task_options scoring=generated`" * (
                task_args.task == "understanding"
            )
            raise ValueError(f"`--num_samples` has no effect on {name}, whose choices are ranked: {remedy}")
        evaluations.append(Evaluation(name, task, rows, task_args, data_args.max_length, args))
    return evaluations


def score_model(name: str, evaluations: list[Evaluation], args: EvalArguments) -> list[TaskResult]:
    """Load a model and score it on each task; all tasks are encoded first, so that invalid rows are found early.

    Returns:
        One result per evaluation, on every rank.
    """
    model, tokenizer = load_for_generation(name, args.trust_remote_code, args.dtype)
    tasks = [evaluation.encode(tokenizer, num_positions(model)) for evaluation in evaluations]
    return [
        answer_and_score(model, encoded, evaluation.sampling(), batch_size=evaluation.args.batch_size or BATCH_SIZE)
        for encoded, evaluation in zip(tasks, evaluations, strict=True)
    ]
