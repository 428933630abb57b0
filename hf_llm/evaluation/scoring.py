"""Score a model on a task: encode its rows, generate or rank answers, compute its metric."""

import logging
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from hf_llm.data.examples import ExamplesReport, encode_prompts
from hf_llm.data.labelling import Labeller, encode_texts
from hf_llm.data.mixtures import SOURCE
from hf_llm.data.prompting import Prompter
from hf_llm.evaluation.answers import generate_answers
from hf_llm.evaluation.generation import BATCH_SIZE
from hf_llm.evaluation.labels import label_texts
from hf_llm.evaluation.likelihood import log_likelihoods
from hf_llm.evaluation.perplexity import perplexity
from hf_llm.evaluation.sampling import Sampling, score_answers, shown_answers
from hf_llm.evaluation.thoughts import decode_answer
from hf_llm.metrics.base import weighted_means, with_interval
from hf_llm.models.classifiers import WITH_HEAD, check_classifier, labels_of_head, labels_texts
from hf_llm.models.inspection import first_position, num_positions, unwrap_adapters
from hf_llm.tasks import Task

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
    further_scores: dict[str, list[float]] = field(default_factory=dict)
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
        prompts: the N rows of `encode_prompts`: prompt, completion, choices, references; or those of `encode_texts`.
        report: what encoding did to the rows.
        reference_scores: the scores of the gold answers, by the names that an evaluation gives them.
    """

    prompter: Prompter | Labeller
    rows: Dataset
    prompts: Dataset
    report: ExamplesReport
    reference_scores: dict[str, float | str]

    def __post_init__(self):
        repeated = [name for name, number in Counter(self.score_names()).items() if number > 1]
        if repeated:
            raise ValueError(
                f"`--mixture`: a source has scores of the name `{repeated[0]}`, which all rows together have too: name "
                "the source otherwise"
            )

    def sources(self) -> dict[str, list[int]]:
        """The numbers of the rows of each source, if they are those of a mixture."""
        names = np.array(self.rows[SOURCE] if SOURCE in self.rows.column_names else [])
        return {f"{name}": np.flatnonzero(names == name).tolist() for name in dict.fromkeys(names.tolist())}

    def score_names(self) -> list[str]:
        """Names of the scores of an evaluation, without texts such as signatures."""
        names = [name for name, value in self.reference_scores.items() if not isinstance(value, str)]
        return [*names, *(f"{source}_{name}" for source in self.sources() for name in names)]


def encode_task(prompter: Prompter | Labeller, rows: Dataset) -> EncodedTask:
    """Encode the prompts of a task's rows, and score the gold answers: invalid rows are found before hours of work.

    Raises:
        ValueError: a row has no reference or does not fit (the row is named), or the metric refuses the references.
    """
    rows = prompter.task.evaluated(rows)
    if isinstance(prompter, Labeller):
        texts, report = encode_texts(rows, prompter, "validation")
        references = [prompter.task.references(row) for row in rows.to_list()]
        prompts = texts.rename_column("input_ids", "prompt").add_column("references", references)  # pyright: ignore[reportCallIssue]
        return EncodedTask(prompter, rows, prompts, report, score_references(prompter.task, prompts))
    prompts, report = encode_prompts(rows, prompter)
    warn_of_unread_answers(prompter, rows, prompts)
    reference_scores = score_references(prompter.task, prompts)
    if choices := prompts[0]["choices"]:
        reference_scores |= prompter.task.ranking_scores(rows[0], [0.0] * len(choices))  # for their names
    return EncodedTask(prompter, rows, prompts, report, reference_scores)


def warn_of_unread_answers(prompter: Prompter, rows: Dataset, prompts: Dataset) -> None:
    """Warn if gold answers, read as generated ones, do not get the best score: calls of tools in an unknown form."""
    task = prompter.task
    if not prompts[0]["completion"] or not task.metric().needs_references:
        return
    pairs = zip(prompts["prompt"], prompts["completion"], strict=True)
    texts = [decode_answer(prompter.tokenizer, *pair)[0] for pair in pairs]
    answers = [task.answer(text, row) for text, row in zip(texts, rows.to_list(), strict=True)]
    references = prompts["references"]
    best = task.metric().row_scores(["".join(gold[:1]) for gold in references], references)
    scores = task.metric().row_scores(answers, references)
    if unread := sum(score != other for score, other in zip(scores, best, strict=True)):
        logger.warning(
            f"{unread} of {len(rows)} gold answers cannot be read back from what the template writes, and no answer "
            "is right there: compare only models with the same template"
        )


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
    prompter: Prompter | Labeller | None = None,
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
        prompter: the prompter that the model was trained with. Default: a new one, without solved examples; of a model
            with a classification head a `Labeller` with the labels in its config.
        max_length: tokens of prompt and answer together; at most the model's number of positions.
        batch_size: prompts per batch on each rank.
        show_progress: show progress bars on rank 0.
        sampling: several answers to each row, e.g. `Sampling(num_samples=8)`. None: one, by greedy search.

    Returns:
        The scores with their 95 % intervals and the N predictions, on every rank.

    Raises:
        ValueError: a row cannot be scored or does not fit, which is named; or the model has no head for the task.

    Example:
        >>> task = load_task("summarization")
        >>> result = evaluate_task(model, tokenizer, task, task.sample()["validation"])
        >>> result.scores["rougeL"], result.scores["rougeL_ci95_low"], result.predictions[0]["prediction"]
    """
    prompter = prompter or default_prompter(model, tokenizer, task, max_length)
    options = {"batch_size": batch_size, "show_progress": show_progress}
    return answer_and_score(model, encode_task(prompter, rows), sampling, **options)


def default_prompter(
    model: Any, tokenizer: PreTrainedTokenizerBase, task: Task, max_length: int
) -> Prompter | Labeller:
    """Create what encodes the rows for a model that writes, or for one with a classification head.

    Args:
        model: a model, or the DeepSpeedEngine around it.

    Raises:
        ValueError: the classification head is not for this task, or an encoder has none.
    """
    plain = unwrap_adapters(getattr(model, "module", model))
    length = int(min(max_length, num_positions(plain) - first_position(plain)))
    config, name = plain.config, type(plain).__name__
    if name.endswith(WITH_HEAD):
        check_classifier(config.name_or_path or name, config, type(task).__name__.lower(), task)
        return Labeller(tokenizer, task, length, labels_of_head(config, task, name))
    if labels_texts(config):
        raise ValueError(f"{name} has no classification head: load the model by AutoModelForSequenceClassification")
    return Prompter(tokenizer, task, length)


def answer_and_score(
    model: torch.nn.Module, encoded: EncodedTask, sampling: Sampling | None = None, **options
) -> TaskResult:
    """Let the model answer every prompt of an encoded task, and score the answers.

    Args:
        sampling: several answers to each row. None: one, by greedy search.
        options: `batch_size` and `show_progress`, as for `complete`.
    """
    task, prompts, tokenizer = encoded.prompter.task, encoded.prompts, encoded.prompter.tokenizer
    texts, thoughts, further = [], [[""]] * len(prompts), {}
    if isinstance(encoded.prompter, Labeller):
        answers = [[answer] for answer in label_texts(model, encoded.prompter, prompts, **options)]
    else:
        if len(prompts[0]["choices"]) > 0:
            ranked, further = rank_choices(model, encoded, **options)
            texts = [[text] for text in ranked]
        else:
            texts, thoughts = generate_answers(model, encoded.prompter, prompts["prompt"], sampling, **options)
        rows = encoded.rows.to_list()
        answers = [[task.answer(text, row) for text in each] for each, row in zip(texts, rows, strict=True)]
    references, losses, sampled = prompts["references"], None, sampling is not None
    if prompts[0].get("completion"):
        losses = completion_losses(model, encoded, **options)
    scores, row_scores, samples = score_answers(task.metric(), answers, references, sampled)
    scores |= computed_scores(losses, further) | source_scores(encoded, answers, losses, further, sampled)
    if losses is not None:
        for one_row, (loss, tokens) in zip(row_scores, losses.tolist(), strict=True):
            one_row["perplexity"] = perplexity(loss / tokens)
    if further:
        row_scores = [
            one | dict(zip(further, more, strict=True))
            for one, more in zip(row_scores, zip(*further.values(), strict=True), strict=True)
        ]
    shown = [shown_answers(*each, sampled) for each in zip(answers, thoughts, strict=True)]
    for row, text, answer in zip(shown, texts, answers, strict=False):  # what was written, where less of it is scored
        row |= {"text": text if sampled else text[0]} if [*map(str.strip, text)] != answer else {}
    predictions = [
        {"prompt": tokenizer.decode(ids), **row_answers, "references": gold, **one_row}
        for ids, row_answers, gold, one_row in zip(prompts["prompt"], shown, references, row_scores, strict=True)
    ]
    return TaskResult(scores, predictions, encoded.report, losses, further, samples)


def computed_scores(losses: np.ndarray | None, further: dict[str, list[float]]) -> dict[str, float]:
    """Scores of a `TaskResult` that its answers do not decide, with their intervals."""
    scores = {} if losses is None else with_interval(weighted_perplexity, losses)
    if further:
        scores |= with_interval(partial(weighted_means, [*further]), np.array([*further.values()]).T)
    return scores


def source_scores(
    encoded: EncodedTask,
    answers: list[list[str]],
    losses: np.ndarray | None,
    further: dict[str, list[float]],
    sampled: bool,
) -> dict[str, float]:
    """The scores of the rows of each source of a mixture, e.g. `web_accuracy`; none of other rows."""
    references, metric, scores = encoded.prompts["references"], encoded.prompter.task.metric(), {}
    for name, rows in encoded.sources().items():
        own, *_ = score_answers(metric, [answers[i] for i in rows], [references[i] for i in rows], sampled)
        own |= computed_scores(
            None if losses is None else losses[rows],
            {key: [values[i] for i in rows] for key, values in further.items()},
        )
        scores |= {f"{name}_{key}": value for key, value in own.items() if not isinstance(value, str)}
    return scores


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
