"""What a training run shows while it runs: a bar on a terminal, lines of words and numbers, tables of scores."""

import sys
import time
from typing import Any

from tqdm.auto import tqdm
from transformers import ProgressCallback
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import has_length

from hf_llm.messages import format_duration, format_scores
from hf_llm.training.stopping import TimeBudget

HIDDEN_SCORES = ("epoch", "runtime", "samples_per_second", "steps_per_second", "num_input_tokens_seen")


class Console(ProgressCallback):
    """The Trainer's bars, with lines for a person to read in place of dictionaries. Add it last.

    A file gets the lines without bars. The evaluation after training is left to the report at the end of the run.

    Args:
        show_bars: whether bars are wanted, where there is a terminal.
        time_budget: limits the time that is left.
    """

    def __init__(self, show_bars: bool = True, time_budget: TimeBudget | None = None):
        super().__init__()
        self.show_bars, self.time_budget = show_bars and sys.stderr.isatty(), time_budget

    def on_train_begin(self, args, state, control, **kwargs):
        self.current_step = self.first_step = state.global_step
        self.start = time.time()
        if state.is_world_process_zero:
            bar = {"total": state.max_steps, "initial": state.global_step, "dynamic_ncols": True}
            self.training_bar = tqdm(**bar, unit="step", disable=not self.show_bars)

    def on_prediction_step(self, args, state, control, eval_dataloader=None, **kwargs):
        if state.is_world_process_zero and has_length(eval_dataloader):
            if self.prediction_bar is None:
                bar = {"total": len(eval_dataloader), "desc": "Evaluating", "unit": "batch", "leave": False}
                self.prediction_bar = tqdm(**bar, dynamic_ncols=True, disable=not self.show_bars)
            self.prediction_bar.update(1)

    def on_log(self, args, state, control, logs: Any = None, **kwargs):
        if self.prediction_bar is not None:  # the batches are done; a task is scored with a bar of its own
            self.on_predict(args, state, control)
        if state.is_world_process_zero and "loss" in logs:
            write_lines(log_line(logs, state, self.time_left(state)))

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        if self.training_bar is None or metrics is None:
            return
        scores = {name.removeprefix("eval_"): value for name, value in metrics.items()}
        heading = f"Validation, step {state.global_step:,}" if state.global_step else "Validation before training"
        shown = {name: value for name, value in scores.items() if name not in HIDDEN_SCORES}
        write_lines("", heading, *(f"  {line}" for line in format_scores(shown).splitlines()), "")

    def time_left(self, state: TrainerState) -> float | None:
        """Seconds until the last step at the speed so far, evaluations included; None before there is a speed."""
        done = state.global_step - self.first_step
        if not done:
            return None
        left = (time.time() - self.start) / done * (state.max_steps - state.global_step)
        return left if self.time_budget is None else min(left, self.time_budget.seconds_to_train())


def write_lines(*lines: str) -> None:
    """Print lines above the bars that are shown, at once, also into a file."""
    with tqdm.external_write_mode():
        print(*lines, sep="\n", flush=True)


def log_line(logs: dict[str, Any], state: TrainerState, seconds_left: float | None) -> str:
    """Write a log entry as words and numbers; figures that it lacks are left out.

    Example:
        step    50 of 1,500   loss 6.375   learning rate 4.8e-03   12,345 tokens/s   MFU 3.2%   1m23s left
    """
    whole = f"{state.max_steps:,}"
    fields = [f"step {state.global_step:>{len(whole)},} of {whole}", f"loss {logs['loss']:<#6.4g}"]
    if "learning_rate" in logs:
        fields.append(f"learning rate {logs['learning_rate']:.1e}")
    if "tokens_per_second" in logs:
        fields.append(f"{logs['tokens_per_second']:>7,.0f} tokens/s")
    if "mfu" in logs:
        fields.append(f"MFU {logs['mfu']:>5.1%}")
    if seconds_left is not None and state.global_step < state.max_steps:
        fields.append(f"{format_duration(seconds_left)} left")
    return "   ".join(fields)
