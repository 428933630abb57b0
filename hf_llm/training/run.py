"""Train with the stock Trainer, resume exactly, stop on a non-finite loss, save a complete final folder."""

import contextlib
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import has_length

from hf_llm.data.examples import ExamplesReport
from hf_llm.data.packing import mean_attended_length
from hf_llm.data.token_folders import TokenRows
from hf_llm.distributed.zero import DeepSpeedInForce, keep_weights_tied
from hf_llm.evaluation.paired_rows import DOCUMENTS
from hf_llm.evaluation.perplexity import TokenMetrics
from hf_llm.files import atomic_path, write_json, write_json_lines
from hf_llm.models.inspection import outputs_besides_logits
from hf_llm.models.isolation import CheckAttention
from hf_llm.training.added_losses import divide_added_losses
from hf_llm.training.checkpoints import CompleteCheckpoints, check_same_run, save_final_model, trainer_parts
from hf_llm.training.console import Console
from hf_llm.training.facts import run_facts
from hf_llm.training.recording import RunRecord
from hf_llm.training.stopping import log_last_and_best_step, log_overrun, time_budget
from hf_llm.training.throughput import Throughput, logits_share
from hf_llm.training.totals import RunTotals, count_steps_and_rows
from hf_llm.training.training_arguments import default_decay

logger = logging.getLogger(__name__)


class StopOnNonFiniteLoss(TrainerCallback):
    """Stop the run at the first step whose loss is NaN or infinite, before anything of that step is saved.

    A gradient that overflows ruins the weights one step before the loss shows it, so weights that are about to be
    saved are checked too. All ranks stop together: if only one stopped, the others would wait for it forever.

    Args:
        checkpoint: folder that the run was resumed from, named in the error until a newer one is saved.

    Raises:
        FloatingPointError: the loss, or a weight, is not finite; the message names the last good checkpoint.
    """

    def __init__(self, trainer: Trainer, checkpoint: str | None = None):
        self.trainer = trainer
        self.last_checkpoint = checkpoint or "none was saved"

    def on_save(self, args, state, control, model=None, **kwargs):
        self.check(args, state, model)  # before its manifest is written: a broken checkpoint stays incomplete
        self.last_checkpoint = f"{args.output_dir}/checkpoint-{state.global_step}"

    def on_step_end(self, args, state, control, model=None, **kwargs):
        saving = control.should_save or state.global_step >= state.max_steps
        self.check(args, state, model if saving else None)

    def check(self, args, state, model: PreTrainedModel | None) -> None:
        """Check the loss, and the weights of `model` unless it is None, on all ranks."""
        loss, parameters = self.trainer._tr_loss, []
        if model is not None:
            parameters = [getattr(p, "ds_tensor", p) for p in model.parameters()]  # ZeRO-3: this rank's shard
        checks = [torch.isfinite(tensor).all().to(loss.device) for tensor in (loss, *parameters)]
        finite = torch.stack([checks[0], torch.stack(checks).all()]).float()  # [loss, loss and weights]
        finite = self.trainer.accelerator.reduce(finite, "sum") == args.world_size
        if not finite.all():
            subject = "weights after" if finite[0] else "loss of"
            raise FloatingPointError(
                f"the {subject} step {state.global_step} {'are' if finite[0] else 'is'} not finite; "
                f"last good checkpoint: {self.last_checkpoint}. "
                "Lower `--learning_rate`, or look at the rows of that step"
            )


class KeepEvaluationRows(TrainerCallback):
    """Limits `dataloader_drop_last` to training: the Trainer would drop validation rows too, and change the scores."""

    def on_train_begin(self, args, state, control, **kwargs):
        args.dataloader_drop_last = False  # the loader of training is made


class KeepSteps(TrainerCallback):
    """Logs, evaluates and saves at the steps of the arguments. A resuming Trainer takes those in the checkpoint."""

    def on_train_begin(self, args, state, control, **kwargs):
        state.compute_steps(args, state.max_steps)


def run_training(
    trainer: Trainer,
    checkpoint: str | None,
    packing: bool,
    reports: dict[str, list],
    callbacks: Sequence[TrainerCallback] = (),
) -> dict[str, Any]:
    """Train, save the final folder and evaluate; the results go into the Trainer's own files.

    Args:
        trainer: stock Trainer over packed rows or `StreamedRows`, with a `PackingCollator`.
        checkpoint: folder to resume from; None starts from step 0.
        packing: check at the start that packed documents are isolated, if the collator packs.
        reports: under `train` and `eval`, the reports of encoding and packing, whose counts go into the results.
        callbacks: added last, so that they find each checkpoint complete, e.g. those of `push_callbacks`.

    Returns:
        The metrics of training and evaluation; of a run that ended before its last step also why, as `stopped_by`:
        "early_stopping" or "time_budget".

    Raises:
        ValueError: the checkpoint is of another run, or the model lets packed documents see each other.
        FloatingPointError: a loss is not finite.
    """
    args, rows, facts = trainer.args, trainer.train_dataset, run_facts(trainer)
    # A day in the prompts explains other data.
    variables = [report.chat_template_kwargs for report in reports["train"] if isinstance(report, ExamplesReport)]
    facts["chat_template_kwargs"] = next(filter(None, variables), None)
    logger.info(f"Precision: {'bfloat16' if args.bf16 else 'float16' if args.fp16 else 'float32'} on {args.device}")
    if checkpoint:
        check_same_run(checkpoint, facts)
        if not has_length(rows):
            rows.load(checkpoint)
    model, *_ = trainer_parts(trainer)
    divide_added_losses(trainer, model)
    keep_weights_tied(trainer)
    throughput = new_throughput(trainer)
    totals = RunTotals(trainer, throughput, checkpoint)
    record = RunRecord(trainer, totals.before["runtime"])
    add_callbacks(trainer, checkpoint, packing, facts, [throughput, totals], [*callbacks, record])
    logger.info(describe_schedule(args, len(rows) if has_length(rows) else None))
    trained = train(trainer, checkpoint)
    trained |= log_last_and_best_step(trainer)
    save_final_model(trainer)
    trained |= throughput.metrics(args.world_size)
    for report in reports["train"]:
        trained |= report.metrics("train")
    save_results(trainer, train=trained)
    evaluated = trainer.evaluate(ignore_keys=outputs_besides_logits(model))
    for report in reports["eval"]:
        evaluated |= report.metrics("eval")
    save_results(trainer, train=trained, eval=evaluated)
    save_document_losses(trainer)
    log_overrun(trainer)
    record.finish()
    return trained | evaluated


def save_results(trainer: Trainer, **splits: dict[str, Any]) -> None:
    """Write the Trainer's results files and its state, on rank 0: each appears complete, and none is read before.

    Args:
        splits: the metrics of `train_results.json` and so on; `all_results.json` has all of them.
    """
    if not trainer.is_world_process_zero():
        return
    folder = Path(f"{trainer.args.output_dir}")
    splits["all"] = {key: value for metrics in splits.values() for key, value in metrics.items()}
    for name, metrics in splits.items():
        write_json(folder / f"{name}_results.json", dict(sorted(metrics.items())))
    with atomic_path(folder / TRAINER_STATE_NAME) as temporary:
        trainer.state.save_to_json(str(temporary))


def save_document_losses(trainer: Trainer) -> None:
    """Write the losses of each validation document, where they are known, by which runs can be compared, on rank 0."""
    metrics = trainer.compute_metrics
    losses = metrics.document_losses() if isinstance(metrics, TokenMetrics) else []
    if losses and trainer.args.should_save:
        write_json_lines(f"{trainer.args.output_dir}/{DOCUMENTS}", losses)


def new_throughput(trainer: Trainer) -> Throughput:
    """The throughput callback of a run; documents of a stream or mixture are assumed to be as long as in evaluation."""
    model, rows, eval_rows, collator = trainer_parts(trainer)
    share = logits_share(rows, collator)
    if share < 1:
        logger.info(f"Logits are computed only where a label follows: for {share:.1%} of the tokens")
    measured: Any = rows if isinstance(rows, Dataset) else eval_rows
    attended = measured.attended_length if isinstance(measured, TokenRows) else mean_attended_length(measured)
    return Throughput(model, attended, share)


def add_callbacks(
    trainer: Trainer,
    checkpoint: str | None,
    packing: bool,
    facts: dict[str, Any],
    first: list[TrainerCallback],
    last: Sequence[TrainerCallback],
) -> None:
    """Add the callbacks of a run in the order in which they must be called: `first`, those of the Trainer, `last`."""
    args, (_, rows, _, collator) = trainer.args, trainer_parts(trainer)
    for printing in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(printing)
    for callback in [
        *([DeepSpeedInForce(trainer)] if args.deepspeed else []),
        KeepEvaluationRows(),
        KeepSteps(),
        CheckAttention(collator, packing and collator.position_ids),
        *collator.callbacks(),
        StopOnNonFiniteLoss(trainer, checkpoint),
        CompleteCheckpoints(args, facts, checkpoint),
        *last,
        Console(not args.disable_tqdm, time_budget(trainer)),
    ]:
        trainer.add_callback(callback)
    # First of all: the trackers log the throughput, and the manifest lists the file with the stream's position.
    trainer.callback_handler.callbacks[:0] = [*first, *([] if isinstance(rows, Dataset) else rows.callbacks())]


def train(trainer: Trainer, checkpoint: str | None) -> dict[str, float]:
    """Train from `checkpoint`, or from step 0 where it is None, and return the metrics of training."""
    model, *_ = trainer_parts(trainer)
    ignored = outputs_besides_logits(model)
    max_steps, _ = count_steps_and_rows(trainer)
    options: Any = trainer.args.lr_scheduler_kwargs or {}
    trainer.args.lr_scheduler_kwargs = options | default_decay(trainer.args, max_steps)
    if checkpoint is None:
        return trainer.train(ignore_keys_for_eval=ignored).metrics
    saved = TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME))
    if max_steps != saved.max_steps:
        logger.warning(f"The schedule was made for {saved.max_steps} steps, and continues as one for {max_steps}")
    if is_finished(saved, max_steps):
        logger.warning(f"{checkpoint} is the end of the run: no step is left to train")
        return load_finished_run(trainer, checkpoint, saved)
    logger.info(f"Resuming from step {saved.global_step:,}: {checkpoint}")
    with hide_resume_warnings(model):
        return trainer.train(resume_from_checkpoint=checkpoint, ignore_keys_for_eval=ignored).metrics


def is_finished(saved: TrainerState, max_steps: int) -> bool:
    """Whether a checkpoint was saved at the last of `max_steps`, or at the step at which the run stopped early."""
    callbacks: Any = saved.stateful_callbacks  # a dict, though declared as a list
    stopped = callbacks["TrainerControl"]["args"]["should_training_stop"]
    return saved.global_step >= max_steps or (stopped and saved.global_step < saved.max_steps)


def load_finished_run(trainer: Trainer, checkpoint: str, saved: TrainerState) -> dict[str, float]:
    """Load a checkpoint with nothing left to train, and return the training metrics of its steps.

    `Trainer.train` would train one step too many, because it compares the step with the last one only after a step.
    So it is called with zero epochs, in which it loads weights and state and trains nothing. For that it needs rows
    with a length, which a stream does not have: it gets those of the evaluation.
    """
    args = trainer.args
    original = args.num_train_epochs, args.max_steps, trainer.train_dataset
    args.num_train_epochs, args.max_steps, trainer.train_dataset = 0, -1, trainer.eval_dataset
    metrics = trainer.train(resume_from_checkpoint=checkpoint).metrics
    args.num_train_epochs, args.max_steps, trainer.train_dataset = original
    trainer.state.num_train_epochs, trainer.state.max_steps = saved.num_train_epochs, saved.max_steps
    trainer.state.log_history.pop()  # the figures, once more
    return metrics


@contextlib.contextmanager
def hide_resume_warnings(model: PreTrainedModel):
    """Hide warnings of a resuming Trainer that are not true here.

    All missing weights are tied to others, which are saved; and where steps of logs, evaluations and checkpoints are
    not those of the checkpoint, `KeepSteps` sees to it that the arguments are in force.
    """
    hidden = (
        f"There were missing keys in the checkpoint model loaded: {list(model.all_tied_weights_keys)}.",
        "Warning: The following arguments do not match the ones in the `trainer_state.json`",
    )
    logs = [logging.getLogger(f"transformers.{module}") for module in ("trainer", "trainer_utils")]
    is_other_message = lambda record: not record.getMessage().startswith(hidden)  # noqa: E731 (a filter is a function)
    for log in logs:
        log.addFilter(is_other_message)
    try:
        yield
    finally:
        for log in logs:
            log.removeFilter(is_other_message)


def describe_schedule(args: TrainingArguments, rows: int | None) -> str:
    """How many steps the rows make, for the log: packed examples are far fewer rows than one expects.

    Args:
        rows: number of packed rows; None: a stream.

    Raises:
        ValueError: the rows do not fill the only batch, which would be dropped.
    """
    batch = args.train_batch_size * args.world_size
    per_step = batch * args.gradient_accumulation_steps
    if rows is None:
        return (
            f"A stream of rows, {per_step:,} a step: {args.max_steps:,} steps at learning rate {args.learning_rate:g}"
        )
    batches = rows // batch if args.dataloader_drop_last else math.ceil(rows / batch)
    per_epoch = math.ceil(batches / args.gradient_accumulation_steps)
    if not batches:
        raise ValueError(
            f"`--dataloader_drop_last` drops all {rows} rows, which do not fill one batch of {batch}: leave it out, or "
            "give a smaller `--per_device_train_batch_size`"
        )
    steps = args.max_steps if args.max_steps > 0 else math.ceil(per_epoch * args.num_train_epochs)
    return (
        f"{rows:,} rows, {per_step:,} a step: {per_epoch:,} steps an epoch, {steps:,} in all at learning rate "
        f"{args.learning_rate:g}"
    )
