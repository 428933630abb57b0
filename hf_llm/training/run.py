"""Train with the stock Trainer, resume, stop on a non-finite loss, save a final folder that is complete."""

import contextlib
import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import EarlyStoppingCallback, PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import SaveStrategy

from hf_llm.data.masking import MaskingCollator, SetMaskingEpoch
from hf_llm.data.streaming import FollowStream, StreamedRows
from hf_llm.distributed.zero import DeepSpeedInForce
from hf_llm.models.isolation import CheckAttention
from hf_llm.training.checkpoints import CompleteCheckpoints, check_same_run, run_facts, save_final_model
from hf_llm.training.throughput import Throughput, mean_attended, predicting_share

logger = logging.getLogger(__name__)


class StopOnNonFiniteLoss(TrainerCallback):
    """Ends the run at the first step whose loss is NaN or infinite, before anything of it is saved.

    A gradient that overflows ruins the weights one step before the loss shows it: weights that are about to be saved
    are looked at too. All ranks stop together: one that stopped alone would leave the others waiting.
    """

    def __init__(self, trainer: Trainer, checkpoint: str | None = None):
        self.trainer = trainer
        self.last_checkpoint = checkpoint or "none was saved"

    def on_save(self, args, state, control, model=None, **kwargs):
        self.check(args, state, model)  # saved at the end of an epoch; it has no manifest yet
        self.last_checkpoint = f"{args.output_dir}/checkpoint-{state.global_step}"

    def on_step_end(self, args, state, control, model=None, **kwargs):
        saving = control.should_save or state.global_step >= state.max_steps
        self.check(args, state, model if saving else None)

    def check(self, args, state, model: PreTrainedModel | None) -> None:
        """Look at the loss, and at the weights of `model`, on all ranks."""
        loss, parameters = self.trainer._tr_loss, []
        if model is not None:
            parameters = [getattr(p, "ds_tensor", p) for p in model.parameters()]  # ZeRO-3: this rank's part
        checks = [torch.isfinite(tensor).all().to(loss.device) for tensor in (loss, *parameters)]
        finite = torch.stack([checks[0], torch.stack(checks).all()]).float()
        finite = self.trainer.accelerator.reduce(finite, "sum") == args.world_size
        if not finite.all():
            what = "weights after" if finite[0] else "loss of"
            raise FloatingPointError(
                f"the {what} step {state.global_step} {'are' if finite[0] else 'is'} not finite; "
                f"last good checkpoint: {self.last_checkpoint}. "
                "Lower `--learning_rate`, or look at the rows of that step"
            )


def early_stopping(args: TrainingArguments, patience: int | None) -> list[TrainerCallback]:
    """Callbacks for `--early_stopping_patience`, with the best weights kept and loaded at the end.

    Raises:
        ValueError: nothing is evaluated while training.
    """
    if patience is None:
        return []
    if args.eval_strategy == "no":
        raise ValueError("`--early_stopping_patience` needs an evaluation to look at: add `--eval_strategy epoch`")
    args.load_best_model_at_end = True
    if args.metric_for_best_model in (None, "loss"):
        args.metric_for_best_model, args.greater_is_better = "loss", False
    args.save_strategy, args.save_steps = SaveStrategy(args.eval_strategy.value), args.eval_steps or args.save_steps
    return [EarlyStoppingCallback(patience)]


def train(trainer: Trainer, checkpoint: str | None) -> dict[str, float]:
    """`trainer.train()` and its metrics; of a checkpoint that leaves nothing to train, the state and what was written.

    The Trainer would train one step more there: it looks for the end of a run after a step, not before.
    """
    reached = TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME)) if checkpoint else None
    if reached is None:
        return trainer.train().metrics
    if not is_finished(trainer, reached):
        logger.info(f"Going on from step {reached.global_step:,}: {checkpoint}")
        with no_warning_of_tied_weights(trainer.model):
            return trainer.train(resume_from_checkpoint=checkpoint).metrics
    logger.warning(f"{checkpoint} is the end of the run: no step is left to train")
    args = trainer.args
    planned = args.num_train_epochs, args.max_steps, trainer.train_dataset
    # In an epoch of some rows, which a stream would not have.
    args.num_train_epochs, args.max_steps, trainer.train_dataset = 0, -1, trainer.eval_dataset
    trainer.train(resume_from_checkpoint=checkpoint)
    args.num_train_epochs, args.max_steps, trainer.train_dataset = planned
    state = trainer.state
    state.num_train_epochs, state.max_steps = reached.num_train_epochs, reached.max_steps
    state.log_history.pop()  # a training loss of 0, over no step
    written = Path(args.output_dir) / "train_results.json"
    return json.loads(written.read_text()) if written.exists() else {}


@contextlib.contextmanager
def no_warning_of_tied_weights(model: PreTrainedModel):
    """The Trainer warns of weights that a checkpoint lacks, and of those that are tied to others too."""
    warning = f"There were missing keys in the checkpoint model loaded: {list(model.all_tied_weights_keys)}."
    log, expected = logging.getLogger("transformers.trainer"), lambda record: record.getMessage() != warning
    log.addFilter(expected)
    try:
        yield
    finally:
        log.removeFilter(expected)


def is_finished(trainer: Trainer, reached: TrainerState) -> bool:
    """Whether a checkpoint's state is that of the run's last step, or the one in which it stopped early."""
    max_steps = trainer.args.max_steps
    if not isinstance(trainer.train_dataset, StreamedRows):
        *_, max_steps = trainer.set_initial_training_values(trainer.args, trainer.get_train_dataloader())
    if max_steps != reached.max_steps:
        logger.warning(f"The schedule was made for {reached.max_steps} steps, and goes on as one for {max_steps}")
    stopped = reached.stateful_callbacks["TrainerControl"]["args"]["should_training_stop"]
    return reached.global_step >= max_steps or (stopped and reached.global_step < reached.max_steps)


def run_training(
    trainer: Trainer,
    checkpoint: str | None,
    packing: bool,
    reports: dict[str, list],
    callbacks: Sequence[TrainerCallback] = (),
) -> dict[str, float]:
    """Train, save the final folder, evaluate; results in the Trainer's own files.

    Args:
        trainer: stock Trainer over packed rows.
        checkpoint: folder to resume from.
        packing: prove at the start that packed documents are isolated.
        reports: what encoding and packing did to `train` and `eval`, for the results files.
        callbacks: added last, so that they find each checkpoint complete, e.g. those of `push_callbacks`.

    Returns:
        The metrics of training and evaluation.

    Raises:
        ValueError: the checkpoint is of another run, or the model lets packed documents see each other.
        FloatingPointError: a loss is not finite.
    """
    args, run = trainer.args, run_facts(trainer)
    logger.info(f"Precision: {'bfloat16' if args.bf16 else 'float16' if args.fp16 else 'float32'} on {args.device}")
    if checkpoint:
        check_same_run(checkpoint, run)
    rows, streamed = trainer.train_dataset, isinstance(trainer.train_dataset, StreamedRows)
    if streamed and checkpoint:
        rows.load(checkpoint)
    predicting = predicting_share(rows, trainer.data_collator)
    if predicting < 1:
        logger.info(f"Logits are computed only where a label follows: for {predicting:.1%} of the tokens")
    throughput = Throughput(trainer.model, mean_attended(trainer.eval_dataset if streamed else rows), predicting)
    for callback in [
        *([DeepSpeedInForce(trainer)] if args.deepspeed else []),
        CheckAttention(trainer.data_collator, packing),
        *([SetMaskingEpoch(trainer.data_collator)] if isinstance(trainer.data_collator, MaskingCollator) else []),
        StopOnNonFiniteLoss(trainer, checkpoint),
        CompleteCheckpoints(args, run),
        *callbacks,
    ]:
        trainer.add_callback(callback)
    # Before the trackers, so that they get its figures; and before the checkpoint's manifest is written.
    trainer.callback_handler.callbacks[:0] = [throughput, *([FollowStream(rows)] if streamed else [])]
    logger.info(plan_in_words(args, None if streamed else len(rows)))
    trained = train(trainer, checkpoint)
    tell_the_end(trainer.state)
    save_final_model(trainer)
    trained |= throughput.metrics(args.world_size)
    for report in reports["train"]:
        trained |= report.metrics("train")
    trainer.save_metrics("train", trained)
    trainer.save_state()
    evaluated = trainer.evaluate()
    for report in reports["eval"]:
        evaluated |= report.metrics("eval")
    trainer.save_metrics("eval", evaluated)
    return trained | evaluated


def plan_in_words(args: TrainingArguments, rows: int | None) -> str:
    """How many steps the rows make: packed examples are far fewer rows than one expects. None: of a stream."""
    per_step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    if rows is None:
        return (
            f"A stream of rows, {per_step:,} a step: {args.max_steps:,} steps at learning rate {args.learning_rate:g}"
        )
    an_epoch = max(1, rows // per_step) if args.dataloader_drop_last else -(-rows // per_step)
    steps = args.max_steps if args.max_steps > 0 else math.ceil(an_epoch * args.num_train_epochs)
    return (
        f"{rows:,} rows, {per_step:,} a step: {an_epoch:,} steps an epoch, {steps:,} in all at learning rate "
        f"{args.learning_rate:g}"
    )


def tell_the_end(state: TrainerState) -> None:
    """What the screen would not say: that the run stopped early, and whose weights are kept."""
    if state.global_step < state.max_steps:
        logger.warning(f"Stopped early, at step {state.global_step:,} of {state.max_steps:,}")
    if state.best_model_checkpoint and state.best_global_step:
        logger.info(f"Best by its metric, {state.best_metric:.6g}, was step {state.best_global_step:,}")
