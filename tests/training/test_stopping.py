"""A run with a time budget stops in time, can be resumed, and says why it ended."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny import new_tokenizer, new_trainer
from transformers import TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerState

from hf_llm.training import stopping
from hf_llm.training.run import is_finished, run_training
from hf_llm.training.stopping import TimeBudget, round_down, stopping_callbacks

TOKENIZER = new_tokenizer()


class Clock(TrainerCallback):
    """A clock on which a step takes 10 seconds, an evaluation 20 and a checkpoint 5; add it before the budget."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(stopping, "time", SimpleNamespace(time=lambda: self.now))

    def on_step_end(self, args, state, control, **kwargs):
        self.now += 10

    def on_evaluate(self, args, state, control, **kwargs):
        self.now += 20

    def on_save(self, args, state, control, **kwargs):
        self.now += 5


def run(folder: Path, clock: Clock, seconds: float, checkpoint: str | None = None, **settings):
    args = new_trainer(folder, TOKENIZER, **{"save_strategy": "steps", "max_steps": 30} | settings).args
    callbacks = [clock, TimeBudget(seconds, args, start=clock.now)]
    trainer = new_trainer(folder, TOKENIZER, args=args, callbacks=callbacks)
    return trainer, run_training(trainer, checkpoint, packing=True, reports={"train": [], "eval": []})


@pytest.mark.parametrize("settings", [{}, {"eval_strategy": "epoch"}, {"save_strategy": "no"}])
def test_training_stops_in_time_for_the_last_evaluation(settings, tmp_path, monkeypatch, caplog):
    """All of it, with checkpoint and evaluation at the end, takes no longer than 200 seconds, and not much less."""
    clock = Clock(monkeypatch)
    trainer, metrics = run(tmp_path, clock, 200, **settings)
    assert 150 <= clock.now <= 200
    assert metrics["stopped_by"] == "time_budget" and 5 < trainer.state.global_step < 30
    assert f"Stopped by `--time_budget` at step {trainer.state.global_step} of 30" in caplog.text
    assert "is exceeded" not in caplog.text
    saved = [] if settings.get("save_strategy") else [f"checkpoint-{trainer.state.global_step}"]
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == saved
    evaluations = [entry["step"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert evaluations[-2:] != [trainer.state.global_step] * 2  # the last step is evaluated once


def test_a_stopped_run_resumes_to_its_last_step(tmp_path, monkeypatch):
    """Its checkpoint does not count as the end; a budget that suffices changes nothing."""
    trainer, _ = run(tmp_path, Clock(monkeypatch), 120, max_steps=8)
    checkpoint = f"{tmp_path}/checkpoint-{trainer.state.global_step}"
    saved = TrainerState.load_from_json(f"{checkpoint}/{TRAINER_STATE_NAME}")
    assert 0 < saved.global_step < 8 and not is_finished(saved, 8)
    trainer, metrics = run(tmp_path, Clock(monkeypatch), 1000, checkpoint, max_steps=8)
    assert trainer.state.global_step == 8 and "stopped_by" not in metrics


def test_a_budget_too_small_for_a_step_is_refused(tmp_path, monkeypatch):
    """When the evaluation at the start has shown it, and at once where it has passed; the remedy suffices."""
    with pytest.raises(ValueError, match=r"`--time_budget` 30s: 20s had passed before the first step, and .* take"):
        run(tmp_path, Clock(monkeypatch), 30)
    run(tmp_path, Clock(monkeypatch), 90)  # as the message says
    run_args = SimpleNamespace(time_budget="1s", early_stopping_patience=None)
    monkeypatch.setattr(stopping, "command_start", lambda: -9.0)
    with pytest.raises(ValueError, match=r"`--time_budget` 1s: .* had passed before the data were read: give more"):
        stopping_callbacks(new_trainer(tmp_path, TOKENIZER).args, run_args)


def test_the_log_says_early_how_many_steps_fit(tmp_path, monkeypatch, caplog):
    """In time to start again with a schedule that ends."""
    run(tmp_path, Clock(monkeypatch), 300, max_steps=100)
    assert "steps fit into `--time_budget` 5m" in caplog.text and "with `--max_steps" in caplog.text


def test_an_end_that_takes_longer_than_measured_is_said(tmp_path, monkeypatch, caplog):
    """Another process may need the machine."""
    clock = Clock(monkeypatch)
    clock.on_train_end = lambda *args, **kwargs: setattr(clock, "now", clock.now + 100)
    run(tmp_path, clock, 150)
    assert "`--time_budget` 2m30s is exceeded by" in caplog.text


def test_round_down_keeps_two_digits():
    """A number of steps for a person."""
    assert [round_down(number) for number in (0.3, 7.9, 89.9, 345.6, 12_345)] == [1, 7, 89, 340, 12_000]
