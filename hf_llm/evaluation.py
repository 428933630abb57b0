"""Scores of a model: perplexity and bits per byte of held-out text; a task's own metric, in and after training."""

import math
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from datasets import Dataset
from transformers import EarlyStoppingCallback, EvalPrediction, PreTrainedTokenizerBase, Trainer, TrainerCallback

from hf_llm.data.packing import column
from hf_llm.data.prompting import ExamplesReport, Prompter, encode_prompts
from hf_llm.generation import complete, log_likelihoods
from hf_llm.metrics.base import TaskMetric, paired_bootstrap
from hf_llm.tasks import Task


def token_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Sum and number of the token losses of every row, for `Trainer(preprocess_logits_for_metrics=...)`.

    Keeps 16 bytes a row instead of its logits, so that memory does not grow with the evaluation set.

    Args:
        logits: (B, T, vocabulary); row i of a sequence predicts token i + 1.
        labels: (B, T); -100 is not counted.

    Returns:
        (B, 2) float64: summed loss in nats, number of predicted tokens.
    """
    logits = logits[0] if isinstance(logits, tuple) else logits
    rows = []
    for row_logits, row_labels in zip(logits[:, :-1], labels[:, 1:], strict=True):  # one row at a time: float32 copies
        loss = torch.nn.functional.cross_entropy(row_logits.float(), row_labels, ignore_index=-100, reduction="none")
        rows.append(torch.stack([loss.double().sum(), (row_labels != -100).sum().double()]))
    return torch.stack(rows)


class TokenMetrics:
    """Mean token loss and perplexity, for `Trainer(compute_metrics=...)` with `batch_eval_metrics`.

    The Trainer's own `eval_loss` averages the batches' means, whatever number of tokens each has; this one is the
    mean over tokens, and it takes that one's place, so that perplexity = exp(eval_loss) holds.
    """

    def __init__(self):
        self.total = np.zeros(2)

    def __call__(self, prediction: EvalPrediction, compute_result: bool) -> dict[str, float]:
        """Add one batch of `token_losses`; the scores after the last."""
        self.total += prediction.predictions.sum(0).cpu().numpy()
        if not compute_result:
            return {}
        (loss, tokens), self.total = self.total, np.zeros(2)
        return self.scores(loss, tokens)

    def scores(self, loss: float, tokens: float) -> dict[str, float]:
        """From the summed loss in nats and the number of predicted tokens."""
        mean = loss / max(tokens, 1)
        return {"loss": mean, "perplexity": perplexity(mean)}


def perplexity(loss: float) -> float:
    """exp(mean token loss in nats), infinite where a float cannot hold it."""
    return math.exp(loss) if loss < 700 else math.inf


class LanguageModelingMetrics(TokenMetrics):
    """`TokenMetrics`, and bits per byte, which compare between tokenizers.

    Bits per byte is the length of the text when coded with the model, per UTF-8 byte: the losses of the predicted
    tokens, plus log2(vocabulary) for each token that nothing predicts (the first of a row's piece where the
    tokenizer puts no BOS). Ends of documents are paid for. What zlib level 9 makes of the same text stands beside it.

    Args:
        documents: the evaluated text, rows `{"text": str}`.
        rows: what `pack` made of it.
    """

    def __init__(self, documents: Dataset, rows: Dataset, tokenizer: PreTrainedTokenizerBase):
        super().__init__()
        texts = column(documents, "text")
        self.num_bytes = pc.sum(pc.binary_length(texts)).as_py()
        self.zlib_bits_per_byte = zlib_bits_per_byte(text.as_py() for text in texts)
        pieces = pc.sum(pc.list_value_length(column(rows, "lengths"))).as_py()
        opened = tokenizer("a").input_ids[0] == tokenizer.bos_token_id
        self.unpredicted_bits = (pieces - opened * len(documents)) * math.log2(len(tokenizer))

    def scores(self, loss: float, tokens: float) -> dict[str, float]:
        return super().scores(loss, tokens) | {
            "bits_per_byte": (loss / math.log(2) + self.unpredicted_bits) / self.num_bytes,
            "zlib_bits_per_byte": self.zlib_bits_per_byte,
        }


def zlib_bits_per_byte(texts: Iterable[str]) -> float:
    """Bits per UTF-8 byte that zlib level 9 reaches on the texts, one after the other: what a model must beat."""
    compressor = zlib.compressobj(9)
    num_bytes = compressed = 0
    for text in texts:
        data = text.encode()
        num_bytes += len(data)
        compressed += len(compressor.compress(data))
    return 8 * (compressed + len(compressor.flush())) / num_bytes


@dataclass
class TaskResult:
    """What a model did on the rows of a task.

    Args:
        scores: of all rows, each with its 95 % interval, e.g. `rouge1`, `rouge1_ci95_low`, `rouge1_ci95_high`.
        predictions: for each row `{"prompt", "prediction", "references"}` and its own scores.
    """

    scores: dict[str, float | str]
    predictions: list[dict[str, Any]]
    report: ExamplesReport

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
    batch_size: int = 8,
    show_progress: bool = True,
) -> TaskResult:
    """Let the model answer every row of a task, and score the answers: greedy, the same on one rank and on many.

    Args:
        model: on its device; or the DeepSpeedEngine around it. Every rank calls with the same rows.
        rows: of `load_rows`, with the task's column names.
        prompter: as the model was trained with. Left out: a new one, without solved examples.

    Raises:
        ValueError: a row that cannot be scored or does not fit; it is named.

    Example:
        evaluate_task(model, tokenizer, load_task("summarization"), rows["validation"]).scores["rougeL"]
    """
    prompter = prompter or Prompter(tokenizer, task, max_length)
    prompts, report = encode_prompts(rows, prompter)
    ranked = len(prompts[0]["choices"]) > 0
    settings = {"batch_size": batch_size, "show_progress": show_progress}
    texts = (rank if ranked else generate)(model, prompter, rows, prompts, **settings)
    answers = [task.answer(text, row) for text, row in zip(texts, rows, strict=True)]
    metric, references = task.metric(), prompts["references"]
    scores = metric.compute(predictions=answers, references=references)
    if task.with_perplexity:
        scores["perplexity"] = completion_perplexity(model, tokenizer, prompts, **settings)
    predictions = [
        {"prompt": tokenizer.decode(ids), "prediction": answer, "references": gold, **of_row}
        for ids, answer, gold, of_row in zip(
            prompts["prompt"], answers, references, metric.row_scores(answers, references), strict=True
        )
    ]
    return TaskResult(scores, predictions, report)


def generate(model: torch.nn.Module, prompter: Prompter, rows: Dataset, prompts: Dataset, **settings) -> list[str]:
    """What the model writes to each prompt."""
    task = prompter.task
    options = {"max_new_tokens": task.max_new_tokens, "do_sample": False, "eos_token_id": prompter.end_token_ids}
    stop_strings = () if prompter.chat else task.stop_strings
    return complete(model, prompter.tokenizer, prompts["prompt"], stop_strings=stop_strings, **options, **settings)


def rank(model: torch.nn.Module, prompter: Prompter, rows: Dataset, prompts: Dataset, **settings) -> list[str]:
    """The likeliest choice of each row; of two alike the first."""
    task = prompter.task
    pairs = [(row["prompt"], choice) for row in prompts for choice in row["choices"]]
    found = np.array(log_likelihoods(model, prompter.tokenizer, pairs, **settings))
    if task.normalizes_length():
        found = found / [len(choice) for _, choice in pairs]
    ends = np.cumsum([len(choices) for choices in prompts["choices"]])[:-1]
    best = [int(part.argmax()) for part in np.split(found, ends)]
    return [task.choices(row)[i] for row, i in zip(rows, best, strict=True)]


def completion_perplexity(
    model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, prompts: Dataset, **settings
) -> float:
    """exp of the mean loss over the tokens of the gold completions, given their prompts."""
    pairs = list(zip(prompts["prompt"], prompts["completion"], strict=True))
    tokens = sum(len(completion) for _, completion in pairs)
    return perplexity(-sum(log_likelihoods(model, tokenizer, pairs, **settings)) / tokens)


def compare(metric: TaskMetric, result: TaskResult, baseline: TaskResult) -> dict[str, float]:
    """How much better the result is than the baseline on the same rows, with p-values by a paired bootstrap."""
    return paired_bootstrap(metric, result.answers(), baseline.answers(), result.references())


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
        self.prompter = prompter or Prompter(trainer.processing_class, task, max_length)
        self.batch_size = batch_size or trainer.args.per_device_eval_batch_size
        self.result: TaskResult | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        kinds = [type(callback) for callback in self.trainer.callback_handler.callbacks]
        if EarlyStoppingCallback in kinds[: kinds.index(TaskEvaluation)]:
            raise ValueError("add TaskEvaluation before EarlyStoppingCallback, which looks at its scores")

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        trainer = self.trainer
        self.result = evaluate_task(
            trainer.model_wrapped,
            trainer.processing_class,
            self.task,
            self.rows,
            prompter=self.prompter,
            batch_size=self.batch_size,
            show_progress=not args.disable_tqdm,
        )
        numbers = {f"eval_{name}": value for name, value in self.result.scores.items() if not isinstance(value, str)}
        metrics.update(numbers)
        trainer.log(dict(numbers))
