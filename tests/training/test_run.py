"""A run stops on errors, logs its speed, resumes exactly, and leaves a complete folder."""

import json
import logging
import shutil
import sys
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from tiny import TEXTS, new_model, new_tokenizer, new_trainer, packed
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from hf_llm.data.packing import pack
from hf_llm.publishing import hub
from hf_llm.training.run import describe_schedule, hide_resume_warnings, run_training, save_results
from hf_llm.training.stopping import enable_early_stopping

TOKENIZER = new_tokenizer()
REPORTS = {"train": [packed(TEXTS, TOKENIZER)[2]], "eval": [packed(TEXTS[:7], TOKENIZER)[2]]}
EVERY_STEP = {"save_strategy": "steps", "save_steps": 1}


def run(trainer, checkpoint=None):
    return run_training(trainer, checkpoint, packing=True, reports=REPORTS)


class AtStep(TrainerCallback):
    """Call `act(model)` at one event, e.g. `on_step_begin`, of one step."""

    def __init__(self, event, step, act):
        self.step, self.act = step, act
        setattr(self, event, self.call)

    def call(self, args, state, control, model=None, **kwargs):
        if state.global_step == self.step:
            self.act(model)


def break_weights(model):
    model.lm_head.weight.data[0, 0] = float("nan")


def break_gradients(model):
    model.lm_head.weight.grad[0, 0] = float("inf")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of four steps with a checkpoint at each: trainer, metrics and folder."""
    folder = tmp_path_factory.mktemp("finished")
    trainer = new_trainer(folder, TOKENIZER, **EVERY_STEP)
    return trainer, run(trainer), folder


@pytest.mark.parametrize(
    "event, act, message",
    [
        ("on_step_begin", break_weights, "the loss of step 3 is not finite"),
        ("on_pre_optimizer_step", break_gradients, "the weights after step 3 are not finite"),
    ],
)
def test_a_loss_that_is_not_finite_stops_the_run_at_once(tmp_path, event, act, message):
    """At that step, before anything of it is saved; the error names the last good checkpoint.

    An infinite gradient breaks the weights while the loss of its own step is finite: they are not saved either.
    """
    trainer = new_trainer(tmp_path, TOKENIZER, **EVERY_STEP)
    trainer.add_callback(AtStep(event, 2, act))
    with pytest.raises(FloatingPointError, match=f"{message}; last good checkpoint: {tmp_path}/checkpoint-2. Lower"):
        run(trainer)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["checkpoint-1", "checkpoint-2"]
    weights = load_file(tmp_path / "checkpoint-2" / "model.safetensors")
    assert all(tensor.isfinite().all() for tensor in weights.values())


def test_weights_that_the_last_step_breaks_are_not_saved(tmp_path):
    """No later step has a loss that would show it."""
    trainer = new_trainer(tmp_path, TOKENIZER)
    trainer.add_callback(AtStep("on_pre_optimizer_step", 3, break_gradients))
    with pytest.raises(FloatingPointError, match=r"weights after step 4 .* last good checkpoint: none was saved"):
        run(trainer)
    assert not [path for path in tmp_path.iterdir() if path.name not in ("environment.json", "log.jsonl")]


def test_documents_one_token_longer_than_two_rows_do_not_stop_the_run(tmp_path):
    """A last piece of one token would have nothing to predict, and a loss of 0 / 0."""
    trainer = new_trainer(tmp_path, TOKENIZER, per_device_train_batch_size=1, max_steps=20)
    (ids,) = TOKENIZER(["a" * 300], add_special_tokens=False).input_ids
    trainer.train_dataset, _ = pack(Dataset.from_dict({"input_ids": [ids[:33]] * 5}), 16, packing=False)
    run(trainer)
    assert trainer.state.global_step == 20


def test_early_stopping_needs_an_evaluation(tmp_path):
    """Without one the run would never stop; without patience the arguments do not change."""
    args = new_trainer(tmp_path, TOKENIZER).args
    assert enable_early_stopping(args, None) == [] and not args.load_best_model_at_end
    with pytest.raises(ValueError, match=r"`--early_stopping_patience` needs .* add `--eval_strategy epoch`"):
        enable_early_stopping(args, 2)


def test_early_stopping_ends_the_run_and_keeps_the_best_weights(tmp_path):
    """It stops two evaluations after the best one, whose weights are saved."""
    settings = {"eval_strategy": "steps", "eval_steps": 1, "max_steps": 20, "learning_rate": 3.0}
    args = new_trainer(tmp_path, TOKENIZER, **settings).args
    callbacks = enable_early_stopping(args, 2)
    trainer = new_trainer(tmp_path, TOKENIZER, args=args, callbacks=callbacks)
    metrics = run(trainer)
    losses = [log["eval_loss"] for log in trainer.state.log_history if "eval_loss" in log]
    best = losses.index(min(losses))
    assert trainer.state.global_step == best + 3 < 20
    assert metrics["eval_loss"] == pytest.approx(losses[best])


def test_a_resumed_run_ends_with_the_same_bits(finished, tmp_path, caplog):
    """Resumed after two of four steps, every weight equals that of an uninterrupted run; the log names the step."""
    caplog.set_level(logging.INFO, "hf_llm")
    _, _, folder = finished
    shutil.copytree(folder / "checkpoint-2", tmp_path / "checkpoint-2")
    run(new_trainer(tmp_path, TOKENIZER, **EVERY_STEP), str(tmp_path / "checkpoint-2"))
    whole, resumed = load_file(folder / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())
    assert f"Resuming from step 2: {tmp_path}/checkpoint-2" in caplog.messages


def test_tied_weights_are_not_reported_as_missing(tmp_path, caplog, monkeypatch):
    """A checkpoint stores tied weights once; weights that are really missing are still reported."""
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    whole = new_trainer(tmp_path / "whole", TOKENIZER, new_model(tie_word_embeddings=True), **EVERY_STEP)
    checkpoint = str(run(whole) and tmp_path / "whole" / "checkpoint-2")
    for tied in (True, False):
        model, caplog.records[:] = new_model(tie_word_embeddings=tied), []
        with hide_resume_warnings(model):
            new_trainer(tmp_path / "again", TOKENIZER, model)._load_from_checkpoint(checkpoint)
        assert any("missing keys" in message for message in caplog.messages) != tied


def test_a_resumed_run_logs_and_saves_at_the_steps_of_its_own_arguments(tmp_path, caplog):
    """The Trainer would take those in the checkpoint, and only warn that they differ."""
    run(new_trainer(tmp_path, TOKENIZER, max_steps=2, save_strategy="steps", save_steps=2, logging_steps=2))
    longer = {"max_steps": 9, "save_strategy": "steps", "save_steps": 3, "logging_steps": 0.4}
    resumed = new_trainer(tmp_path, TOKENIZER, **longer)
    run(resumed, f"{tmp_path}/checkpoint-2")
    steps = [entry["step"] for entry in resumed.state.log_history if "loss" in entry]
    assert steps == [2, 4, 8]
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == [
        f"checkpoint-{step}" for step in (2, 3, 6, 9)
    ]
    assert not any("do not match" in message for message in caplog.messages)


@pytest.mark.parametrize("save_strategy", ["steps", "epoch"])
def test_a_run_killed_after_its_last_checkpoint_is_not_trained_further(tmp_path, save_strategy):
    """Within an epoch and at its end: equal weights and scores, no further step, and no training loss of 0.

    The learning rate is constant, so one more step would change the weights.
    """
    steps = 4 if save_strategy == "steps" else -1
    settings = {"save_strategy": save_strategy, "save_steps": 4, "max_steps": steps, "num_train_epochs": 1}
    settings |= {"lr_scheduler_type": "constant"}
    before = run(new_trainer(tmp_path, TOKENIZER, **settings))
    whole = load_file(tmp_path / "model.safetensors")
    (checkpoint,) = tmp_path.glob("checkpoint-*")
    (tmp_path / "train_results.json").unlink()
    again = new_trainer(tmp_path, TOKENIZER, **settings)
    after = run(again, str(checkpoint))
    resumed = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())
    assert after["eval_loss"] == before["eval_loss"] and after["train_loss"] == pytest.approx(before["train_loss"])
    assert f"checkpoint-{again.state.global_step}" == checkpoint.name and again.state.max_steps > 0


SPEEDS = ("train_runtime", "train_samples_per_second", "train_steps_per_second", "train_tokens_per_second", "train_mfu")


@pytest.mark.parametrize("logging_steps", [1, 3])
@pytest.mark.parametrize("step", [2, 4])
def test_a_resumed_run_reports_all_of_its_steps(tmp_path, step, logging_steps):
    """Loss, tokens and FLOPs are those of an undisturbed run, also of steps that were not logged before the checkpoint;
    the time is that of both processes. After the last step nothing is trained, and the time stays.
    """
    settings = EVERY_STEP | {"logging_steps": logging_steps}
    before = run(new_trainer(tmp_path, TOKENIZER, **settings))
    totals = tmp_path / f"checkpoint-{step}" / "totals.json"
    so_far = json.loads(totals.read_text())
    times = {"runtime": 1000.0, "training_seconds": 500.0}  # of the steps up to the checkpoint
    size = len(totals.read_text())
    totals.write_text(json.dumps(so_far | times).ljust(size))
    manifest = totals.with_name("complete.json")
    manifest.write_text(manifest.read_text().replace(f": {size}", f": {totals.stat().st_size}"))
    again = new_trainer(tmp_path, TOKENIZER, **settings)
    after = run(again, str(tmp_path / f"checkpoint-{step}"))
    assert set(after) == set(before)
    same = [name for name in before if name.startswith(("train_", "total_")) and name not in SPEEDS]
    assert {name: after[name] for name in same} == pytest.approx({name: before[name] for name in same})
    assert after["train_runtime"] == 1000 if step == 4 else 1000 < after["train_runtime"] < 1100
    assert after["train_steps_per_second"] == pytest.approx(4 / after["train_runtime"], abs=1e-3)
    assert after["train_samples_per_second"] == pytest.approx(8 / after["train_runtime"], abs=1e-3)
    tokens = again.state.num_input_tokens_seen
    assert tokens / 600 < after["train_tokens_per_second"] <= tokens / 500 + 0.1
    logged = [entry["train_loss"] for entry in again.state.log_history if "train_loss" in entry]
    assert logged == ([after["train_loss"]] if step == 2 else [])


@pytest.mark.parametrize("damaged", ["", '{"train_loss": 2.', "[]"])
def test_results_that_a_kill_has_cut_are_written_anew(tmp_path, damaged):
    """Nothing reads them before; what they hold of an earlier run does not come into the new ones."""
    for name in ("all_results.json", "train_results.json", "eval_results.json", "trainer_state.json"):
        (tmp_path / name).write_text(damaged)
    metrics = run(new_trainer(tmp_path, TOKENIZER))
    assert json.loads((tmp_path / "all_results.json").read_text()) == metrics
    assert json.loads((tmp_path / "trainer_state.json").read_text())["global_step"] == 4


def test_results_appear_complete_or_not_at_all(tmp_path, monkeypatch):
    """Killed at any moment of writing, the old file is there."""
    trainer = new_trainer(tmp_path, TOKENIZER)
    save_results(trainer, train={"train_loss": 1.0})
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert set(before) == {"train_results.json", "all_results.json", "trainer_state.json"}

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        save_results(trainer, train={"train_loss": 2.0}, eval={"eval_loss": 3.0})
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before


def test_more_steps_than_the_checkpoint_had_are_trained(finished, tmp_path, caplog):
    """A finished run continues when `--max_steps` is raised, with a warning that the schedule changes."""
    shutil.copytree(finished[2] / "checkpoint-4", tmp_path / "checkpoint-4")
    trainer = new_trainer(tmp_path, TOKENIZER, max_steps=6)
    run(trainer, str(tmp_path / "checkpoint-4"))
    assert trainer.state.global_step == 6 and "made for 4 steps, and continues as one for 6" in caplog.text


def test_early_stopping_is_resumed_with_the_patience_that_was_left(tmp_path):
    """Killed before or after the evaluation that stops it, it ends at the same step with the same best weights."""
    settings = {"eval_strategy": "steps", "eval_steps": 1, "max_steps": 20, "learning_rate": 3.0}

    def start(folder, checkpoint=None):
        args = new_trainer(folder, TOKENIZER, **settings).args
        trainer = new_trainer(folder, TOKENIZER, args=args, callbacks=enable_early_stopping(args, 2))
        return run(trainer, checkpoint)["eval_loss"], trainer.state.global_step

    loss, last = start(tmp_path / "whole")
    for killed in (last - 1, last):
        folder = tmp_path / str(killed)
        shutil.copytree(tmp_path / "whole", folder)
        assert start(folder, str(folder / f"checkpoint-{killed}")) == (loss, last)


@pytest.mark.parametrize(
    "settings, difference",
    [
        ({"seed": 7}, "seed was 42 and is 7"),
        ({"per_device_train_batch_size": 1}, "rows per step was 2 and is 1"),
        ({"learning_rate": 1e-2}, "learning_rate was 0.001 and is 0.01"),
    ],
)
def test_a_run_with_other_settings_is_not_resumed(finished, tmp_path, settings, difference):
    """The same holds for other data."""
    checkpoint = str(finished[2] / "checkpoint-2")
    with pytest.raises(ValueError, match=difference):
        run(new_trainer(tmp_path, TOKENIZER, **settings), checkpoint)
    other = new_trainer(tmp_path, TOKENIZER)
    other.train_dataset = packed([text.upper() for text in TEXTS], TOKENIZER)[1]
    with pytest.raises(ValueError, match="data was"):
        run(other, checkpoint)


def test_another_line_in_the_model_card_does_not_make_another_run(finished, tmp_path, monkeypatch):
    """The card lists settings for readers; which settings make a checkpoint usable is decided without it."""
    shown = hub.card_hyperparameters

    def more(args):
        return shown(args) | {"adam_epsilon": args.adam_epsilon}

    monkeypatch.setattr(sys.modules[shown.__module__], shown.__name__, more)
    monkeypatch.setattr(hub, shown.__name__, more)
    shutil.copytree(finished[2] / "checkpoint-2", tmp_path / "checkpoint-2")
    trainer = new_trainer(tmp_path, TOKENIZER, **EVERY_STEP)
    metrics = run(trainer, str(tmp_path / "checkpoint-2"))
    assert trainer.state.global_step == 4
    hub.publish(trainer, metrics, base_model=None, datasets=[])
    assert "| `adam_epsilon` |" in (tmp_path / "README.md").read_text()


def test_the_final_folder_is_complete_and_ready_to_use(finished):
    """Model, generation config and tokenizer load; the cache is on; the results are in the Trainer's own files."""
    trainer, metrics, folder = finished
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert all(torch.equal(p, trainer.model.get_parameter(name)) for name, p in model.named_parameters())
    assert json.loads((folder / "config.json").read_text())["use_cache"] is True
    assert model.generation_config.eos_token_id == TOKENIZER.eos_token_id
    assert AutoTokenizer.from_pretrained(folder).get_vocab() == TOKENIZER.get_vocab()
    assert not list(folder.rglob("training_args.bin")) and not (folder / "_saving").exists()
    results = json.loads((folder / "all_results.json").read_text())
    assert results["eval_perplexity"] == metrics["eval_perplexity"] and results["train_tokens_dropped"] == 0
    assert (folder / "train_results.json").exists() and (folder / "eval_results.json").exists()


def test_the_log_says_how_many_steps_the_rows_make():
    """From the number of epochs, or from `max_steps`."""
    plan = {"train_batch_size": 4, "gradient_accumulation_steps": 2, "world_size": 2, "dataloader_drop_last": False}
    plan |= {"num_train_epochs": 3, "max_steps": -1, "learning_rate": 5e-5}
    assert (
        describe_schedule(SimpleNamespace(**plan), 33)
        == "33 rows, 16 a step: 3 steps an epoch, 9 in all at learning rate 5e-05"
    )
    assert "20 in all" in describe_schedule(SimpleNamespace(**plan | {"max_steps": 20}), 33)
