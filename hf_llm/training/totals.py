"""Loss and speed of a whole run, also of its steps before it was resumed."""

import json
import time
from pathlib import Path

from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import has_length, speed_metrics

from hf_llm.files import write_text
from hf_llm.mappings import read_json_file
from hf_llm.training.throughput import Throughput

TOTALS = "totals.json"


def count_steps_and_rows(trainer: Trainer) -> tuple[int, int]:
    """Steps of the whole run, from `--max_steps` or from the number of rows and epochs, and rows in these."""
    args = trainer.args
    if not has_length(trainer.train_dataset):
        return args.max_steps, args.max_steps * trainer.get_total_train_batch_size(args)
    _, _, _, rows, *_, max_steps = trainer.set_initial_training_values(args, trainer.get_train_dataloader())
    return max_steps, rows


class RunTotals(TrainerCallback):
    """Save the sums of the steps so far with each checkpoint, and add those of the checkpoint that a run resumes from.

    The Trainer's figures at the end of a resumed run, `train_loss` and `train_runtime` among them, are those of the
    steps since the checkpoint. Here they become those of all steps, in the log and in the results. Steps that a kill
    has lost, and their time, count once.

    Args:
        throughput: the callback that measures the speed; its totals continue too.
        checkpoint: folder that the run is resumed from.
    """

    def __init__(self, trainer: Trainer, throughput: Throughput, checkpoint: str | None):
        self.trainer, self.throughput = trainer, throughput
        self.before = {"steps": 0, "loss": 0.0, "runtime": 0.0, "tokens": 0, "training_seconds": 0.0}
        if checkpoint:
            self.before = read_json_file(Path(checkpoint) / TOTALS)
            self.steps, self.rows = count_steps_and_rows(trainer)
        throughput.total_tokens, throughput.total_seconds = self.before["tokens"], self.before["training_seconds"]

    def on_train_begin(self, args, state, control, **kwargs):
        self.start = time.time()

    def on_save(self, args, state, control, **kwargs):
        not_logged = self.trainer.accelerator.reduce(self.trainer._tr_loss.clone(), "mean")  # all ranks take part
        totals = {
            "steps": state.global_step,
            "loss": self.before["loss"] + self.trainer._total_loss_scalar + not_logged.item(),
            "runtime": self.before["runtime"] + time.time() - self.start,
            "tokens": self.throughput.total_tokens + self.throughput.tokens,
            "training_seconds": self.throughput.total_seconds + self.throughput.seconds,
        }
        if args.should_save:
            write_text(Path(f"{args.output_dir}/checkpoint-{state.global_step}") / TOTALS, json.dumps(totals) + "\n")

    def on_log(self, args, state, control, logs, **kwargs):
        if "train_loss" not in logs or not self.before["steps"]:
            return
        steps = state.global_step - self.before["steps"]  # of this process; 0: the run was finished
        runtime = self.before["runtime"] + (logs["train_runtime"] if steps else 0)
        rows = self.rows * state.global_step / self.steps
        figures = speed_metrics("train", time.time() - runtime, num_samples=rows, num_steps=state.global_step)
        figures["train_runtime"] = round(runtime, 4)
        figures["train_loss"] = (self.before["loss"] + logs["train_loss"] * steps) / state.global_step
        logs.update(figures)  # the Trainer returns these
        state.log_history[-1].update(figures)
