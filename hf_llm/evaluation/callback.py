"""Score a task at every evaluation of a Trainer, as a callback."""

import difflib

from datasets import Dataset
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback

from hf_llm.data.labelling import Labeller
from hf_llm.data.prompting import Prompter
from hf_llm.evaluation.generation import model_and_tokenizer
from hf_llm.evaluation.perplexity import TokenMetrics
from hf_llm.evaluation.scoring import TaskResult, answer_and_score, default_prompter, encode_task
from hf_llm.files import write_json_lines
from hf_llm.tasks import Task


def check_best_metric(name: str | None, known: list[str]) -> None:
    """Refuse a `metric_for_best_model` that no evaluation computes, before training starts.

    Args:
        known: names of the Trainer's own scores, and of those that evaluations add.
    """
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
        prompter: the prompter that the model is trained with. Default: as for `evaluate_task`.
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
        prompter: Prompter | Labeller | None = None,
        max_length: int = 1024,
        batch_size: int | None = None,
    ):
        self.trainer = trainer
        model, tokenizer = model_and_tokenizer(trainer)
        prompter = prompter or default_prompter(model, tokenizer, task, max_length)
        self.encoded = encode_task(prompter, rows)
        self.batch_size = batch_size or trainer.args.per_device_eval_batch_size
        self.result: TaskResult | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        kinds = [type(callback) for callback in self.trainer.callback_handler.callbacks]
        if EarlyStoppingCallback in kinds[: kinds.index(TaskEvaluation)]:
            raise ValueError("add TaskEvaluation before EarlyStoppingCallback, which reads its scores")
        if isinstance(metrics := self.trainer.compute_metrics, TokenMetrics | None):  # names of others are unknown
            losses = metrics.names if metrics else ("loss",)
            check_best_metric(args.metric_for_best_model, [*losses, *self.encoded.score_names()])

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
