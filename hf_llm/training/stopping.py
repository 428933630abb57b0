"""What ends a run before its last step: early stopping, and `--time_budget`, in time to evaluate and save within it."""

import logging
import time

import psutil
import torch
from accelerate import PartialState
from accelerate.utils import broadcast
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import TrainerControl, TrainerState
from transformers.trainer_utils import SaveStrategy

from hf_llm.arguments import FinetuneArguments, PretrainArguments, parse_duration
from hf_llm.messages import format_duration
from hf_llm.training.record import launcher

logger = logging.getLogger(__name__)

REST_SECONDS = 5.0  # for texts at the end, result files, report, model card, the end of the process; at least
REST_SHARE = 0.05  # of the budget for the same, up to 30 seconds
MARGIN = 1.25  # of the times that were measured: another process may need the machine too
WRITTEN_BYTES_PER_SECOND = 200e6  # of weights, until a checkpoint shows how fast the disk is
STEPS_TO_JUDGE = 10  # after which it is clear how many will fit


def enable_early_stopping(args: TrainingArguments, patience: int | None) -> list[TrainerCallback]:
    """Change `args` to keep the best weights and load them at the end, and return the callback that stops the run.

    The Trainer can only load the best checkpoint if one is saved at every evaluation, so the save strategy becomes
    the evaluation strategy.

    Args:
        args: changed in place, unless `patience` is None.
        patience: evaluations without an improvement after which the run stops. None: no callback.

    Raises:
        ValueError: nothing is evaluated during training.
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


def stopping_callbacks(
    args: TrainingArguments, run_args: PretrainArguments | FinetuneArguments
) -> list[TrainerCallback]:
    """Return the callbacks that may end a run before its last step: early stopping, the time budget.

    Args:
        args: changed in place, see `enable_early_stopping` and `TimeBudget`.

    Raises:
        ValueError: nothing is evaluated during training, or the time is over already.
    """
    budget = run_args.time_budget
    stopping = enable_early_stopping(args, run_args.early_stopping_patience)
    return [*stopping, *([TimeBudget(parse_duration(budget), args)] if budget else [])]


def command_start() -> float:
    """When the command was started (seconds of `time.time`): this process, or the launcher that started it."""
    process = psutil.Process()
    parent = process.parent() if launcher() in ("accelerate", "torchrun") else None
    return (parent or process).create_time()


class TimeBudget(TrainerCallback):
    """Stops training when the time that is left is what a last checkpoint, the final model and an evaluation take.

    How long they take is measured: the arguments get `eval_on_start`, and each later evaluation and checkpoint counts
    for the next. Add it after `TaskEvaluation`, whose time belongs to an evaluation. The learning rate follows the
    schedule of all steps, so that it stops where it is; a resumed run continues it, with a new budget. All ranks stop
    together, by the clock of rank 0.

    Args:
        seconds: from `start` to the end of the process, without a push to the Hub.
        args: the Trainer's arguments, changed as described.
        start: see `command_start`.

    Attributes:
        stopped: whether training was stopped.

    Raises:
        ValueError: the time does not suffice for the first step.
    """

    def __init__(self, seconds: float, args: TrainingArguments, start: float | None = None):
        self.seconds, self.start = seconds, command_start() if start is None else start
        self.step_seconds = self.evaluation_seconds = self.save_seconds = 0.0
        self.stopped = False
        args.eval_on_start = True
        self.check("before the data were read")

    def check(self, when: str, needed: float = 0.0) -> None:
        """Raise an error if no time is left, or less than the seconds that are needed."""
        left = self.seconds_left()
        if left > needed:
            return
        used = f"{format_duration(self.seconds - left)} had passed {when}"
        used += f", and evaluating and saving at the end take {format_duration(needed)}" if needed else ""
        enough = format_duration(max(60, 1.5 * (self.seconds - left + needed + REST_SECONDS)))
        raise ValueError(f"`--time_budget` {format_duration(self.seconds)}: {used}: give more, e.g. {enough}")

    def seconds_left(self) -> float:
        """Seconds until the end of the budget, the same on all ranks: those of rank 0."""
        left = torch.tensor(self.start + self.seconds - time.time(), dtype=torch.float64)
        if torch.distributed.is_initialized():
            left = broadcast(left.float().to(PartialState().device))
        return left.item()

    def reserve(self) -> float:
        """Seconds that the end of the run takes: checkpoint, final model, evaluation and the rest."""
        rest = max(REST_SECONDS, min(30.0, REST_SHARE * self.seconds))
        return MARGIN * (2 * self.save_seconds + self.evaluation_seconds) + rest

    def seconds_to_train(self) -> float:
        """Seconds that are left for steps, by the clock of this rank."""
        return self.start + self.seconds - time.time() - self.reserve()

    def lap(self) -> float:
        """Seconds since the last call."""
        now = time.time()
        seconds, self.mark = now - self.mark, now
        return seconds

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.first_step, self.mark = state.global_step, time.time()
        self.first_mark = self.mark
        weights = sum(getattr(p, "ds_numel", p.numel()) * p.element_size() for p in model.parameters())
        self.save_seconds = weights / WRITTEN_BYTES_PER_SECOND
        self.check("before training")

    def on_evaluate(self, args, state, control, **kwargs):
        self.evaluation_seconds = self.lap()
        if state.global_step == self.first_step:  # the one at the start
            self.first_mark = self.mark
            self.check("before the first step", self.reserve())

    def on_step_end(self, args, state, control, **kwargs):
        self.step_seconds = self.lap()
        if control.should_training_stop or state.global_step >= state.max_steps:
            return
        due = control.should_evaluate * self.evaluation_seconds + control.should_save * self.save_seconds
        left = self.seconds_left() - self.reserve() - due
        if left < self.step_seconds:
            self.stop(args, control)
        elif state.global_step == self.first_step + STEPS_TO_JUDGE:
            self.log_fitting_steps(state, left)

    def stop(self, args: TrainingArguments, control: TrainerControl) -> None:
        """Stop after this step, without the evaluation that would be repeated at the end.

        Training is stopped after the checkpoint is saved: saved with the wish to stop, it would look finished.
        """
        self.stopped, control.should_evaluate, control.should_log = True, False, True
        if args.save_strategy == SaveStrategy.NO:
            control.should_training_stop = True
        else:
            control.should_save = True

    def on_save(self, args, state, control, **kwargs):
        self.save_seconds = self.lap()
        control.should_training_stop = control.should_training_stop or self.stopped

    def on_epoch_end(self, args, state, control, **kwargs):
        if self.stopped:
            control.should_evaluate = control.should_save = False

    def log_fitting_steps(self, state: TrainerState, left: float) -> None:
        """Warn that not all steps will fit, while the run can still be started again with a schedule that does."""
        seconds = (time.time() - self.first_mark) / (state.global_step - self.first_step)
        fitting = state.global_step + int(left / seconds)
        if fitting < state.max_steps:
            logger.warning(
                f"About {fitting:,} of {state.max_steps:,} steps fit into `--time_budget` "
                f"{format_duration(self.seconds)}, and the learning rate follows the schedule of all: it would end in "
                f"time with `--max_steps {round_down(0.9 * fitting)}`"
            )


def round_down(number: float) -> int:
    """Keep two digits: 345.6 -> 340."""
    unit = 10 ** max(0, len(str(int(number))) - 2)
    return max(1, int(number) // unit * unit)


def log_last_and_best_step(trainer: Trainer) -> dict[str, str]:
    """Log that and why the run stopped early, and which step had the best metric; return `stopped_by`, if it did."""
    state, budget = trainer.state, time_budget(trainer)
    reason = "time_budget" if budget and budget.stopped else "early_stopping"
    stopped = state.global_step < state.max_steps
    if stopped and reason == "time_budget":
        rates = [entry["learning_rate"] for entry in state.log_history if "learning_rate" in entry]
        logger.warning(
            f"Stopped by `--time_budget` at step {state.global_step:,} of {state.max_steps:,}; the learning rate was "
            f"{rates[-1]:.2g}, and follows the schedule of all steps"
        )
    elif stopped:
        logger.warning(f"Stopped early, at step {state.global_step:,} of {state.max_steps:,}")
    if state.best_model_checkpoint and state.best_global_step:
        logger.info(f"Best by its metric, {state.best_metric:.6g}, was step {state.best_global_step:,}")
    return {"stopped_by": reason} if stopped else {}


def log_overrun(trainer: Trainer) -> None:
    """Warn that the run has taken more than its time budget, at its end."""
    if (budget := time_budget(trainer)) and (left := budget.seconds_left()) < 0:
        logger.warning(
            f"`--time_budget` {format_duration(budget.seconds)} is exceeded by {format_duration(-left)}: the end of "
            "the run took longer than was measured before"
        )


def time_budget(trainer: Trainer) -> TimeBudget | None:
    """The callback of `--time_budget`, if the run has one."""
    return next((c for c in trainer.callback_handler.callbacks if isinstance(c, TimeBudget)), None)
