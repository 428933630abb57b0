"""Write what a run leaves besides its model, from its start: settings, environment, log."""

import json
import time
from pathlib import Path

from transformers import Trainer, TrainerCallback

from hf_llm.files import write_json, write_text
from hf_llm.training.environment import EnergyMeter, describe_environment, process_seconds
from hf_llm.training.record import ENVIRONMENT, LOG, SETTINGS, write_settings


class RunRecord(TrainerCallback):
    """Write `run.yaml` and `environment.json` when training begins, and append each entry of the log to `log.jsonl`.

    Add it last: other callbacks complete the entries. A resumed run begins with the entries up to its checkpoint.

    Args:
        trainer: its arguments have `settings` if they are from `parse_args`; else there is no `run.yaml`.
        seconds: of training before the checkpoint that the run is resumed from.
    """

    def __init__(self, trainer: Trainer, seconds: float = 0.0):
        self.trainer, self.before = trainer, seconds
        self.start, self.written = time.time(), 0
        self.environment = describe_environment(trainer) if trainer.is_world_process_zero() else {}

    @property
    def folder(self) -> Path:
        """The output folder."""
        return Path(f"{self.trainer.args.output_dir}")

    def on_train_begin(self, args, state, control, **kwargs):
        self.start = time.time()
        if state.is_world_process_zero:
            (self.folder / SETTINGS).unlink(missing_ok=True)
            if settings := getattr(args, "settings", None):
                write_settings(self.folder, settings)
            write_json(self.folder / ENVIRONMENT, self.environment)
            self.rewrite_log(state)
            self.energy = EnergyMeter()

    def on_log(self, args, state, control, **kwargs):
        state.log_history[-1]["seconds"] = round(self.before + time.time() - self.start, 3)
        if not state.is_world_process_zero:
            return
        if len(state.log_history) != self.written + 1:
            self.rewrite_log(state)
            return
        with open(self.folder / LOG, "a", encoding="utf-8") as file:  # flushed when it is closed
            file.write(json.dumps(in_order(state.log_history[-1])) + "\n")
        self.written += 1

    def rewrite_log(self, state) -> None:
        """Write all entries so far."""
        lines = [json.dumps(in_order(entry)) + "\n" for entry in state.log_history]
        write_text(self.folder / LOG, "".join(lines))
        self.written = len(lines)

    def finish(self) -> None:
        """Complete `environment.json`: call it when all results are saved."""
        if self.trainer.is_world_process_zero():
            self.environment |= self.energy.stop()
            self.environment |= {"finished": True, "wall_seconds": round(self.before + process_seconds(), 1)}
            write_json(self.folder / ENVIRONMENT, self.environment)


def in_order(entry: dict[str, float]) -> dict[str, float]:
    """Put step and epoch of an entry first, and the seconds last."""
    first = {name: entry[name] for name in ("step", "epoch") if name in entry}
    last = {"seconds": entry["seconds"]} if "seconds" in entry else {}
    return first | {name: value for name, value in entry.items() if name not in first | last} | last
