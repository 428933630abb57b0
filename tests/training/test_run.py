"""A run stops on errors, logs its speed, resumes exactly, and leaves a complete folder."""

import json
import logging
import shutil
import sys
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from tiny import TEXTS, new_model, new_tokenizer, new_trainer, packed
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from hf_llm.data.packing import PackingCollator, pack
from hf_llm.publishing import hub
from hf_llm.training import throughput
from hf_llm.training.checkpoints import check_weights, read_manifest, save_final_model
from hf_llm.training.run import describe_schedule, enable_early_stopping, hide_tied_weights_warning, run_training
from hf_llm.training.throughput import flops_per_token, logits_share, mean_attended_length

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
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-1", "checkpoint-2"]
    weights = load_file(tmp_path / "checkpoint-2" / "model.safetensors")
    assert all(tensor.isfinite().all() for tensor in weights.values())


def test_weights_that_the_last_step_breaks_are_not_saved(tmp_path):
    """No later step has a loss that would show it."""
    trainer = new_trainer(tmp_path, TOKENIZER)
    trainer.add_callback(AtStep("on_pre_optimizer_step", 3, break_gradients))
    with pytest.raises(FloatingPointError, match=r"weights after step 4 .* last good checkpoint: none was saved"):
        run(trainer)
    assert not list(tmp_path.iterdir())


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
        with hide_tied_weights_warning(model):
            new_trainer(tmp_path / "again", TOKENIZER, model)._load_from_checkpoint(checkpoint)
        assert any("missing keys" in message for message in caplog.messages) != tied


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
    assert after["eval_loss"] == before["eval_loss"] and "train_loss" not in after
    assert f"checkpoint-{again.state.global_step}" == checkpoint.name and again.state.max_steps > 0


def test_a_finished_run_keeps_its_figures(tmp_path):
    """Resumed again it trains nothing, and keeps the speed that was measured before."""
    before = run(new_trainer(tmp_path, TOKENIZER, **EVERY_STEP))
    after = run(new_trainer(tmp_path, TOKENIZER, **EVERY_STEP), str(tmp_path / "checkpoint-4"))
    figures = {name for name in before if name.startswith("train_")}
    assert {name: after[name] for name in figures} == {name: before[name] for name in figures}


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
    shown = hub.hyperparameters
    module = sys.modules[shown.__module__]
    monkeypatch.setattr(module, "hyperparameters", lambda args: shown(args) | {"adam_epsilon": args.adam_epsilon})
    shutil.copytree(finished[2] / "checkpoint-2", tmp_path / "checkpoint-2")
    trainer = new_trainer(tmp_path, TOKENIZER, **EVERY_STEP)
    run(trainer, str(tmp_path / "checkpoint-2"))
    assert trainer.state.global_step == 4


def test_manifests_keep_the_names_of_the_facts_of_a_run(finished):
    """A checkpoint from before is resumed: renaming one of these would make it a checkpoint of another run."""
    assert list(read_manifest(finished[2] / "checkpoint-2")["run"]) == [
        *("rows", "data", "ranks", "rows per step", "optim", "lr_scheduler_type", "learning_rate", "weight_decay"),
        *("adam_beta1", "adam_beta2", "max_grad_norm", "warmup_steps", "seed", "bf16"),
    ]


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


def test_the_cache_stays_off_in_training_after_saving(tmp_path):
    """With a cache, packed documents would see each other in the evaluation that follows."""
    trainer = new_trainer(tmp_path, TOKENIZER)
    save_final_model(trainer)
    assert trainer.model.config.use_cache is False


def test_saving_removes_what_an_earlier_model_left(tmp_path):
    """Shards of a larger model, and those of a run killed while saving, would be loaded with the new ones."""
    for stale in ("model-00001-of-00002.safetensors", "model.safetensors.index.json", "_saving/model-9.safetensors"):
        (tmp_path / stale).parent.mkdir(exist_ok=True)
        (tmp_path / stale).write_text("stale")
    (tmp_path / "notes.txt").write_text("the user's own")
    save_final_model(new_trainer(tmp_path, TOKENIZER))
    names = {path.name for path in tmp_path.iterdir()}
    assert {name for name in names if name.startswith("model")} == {"model.safetensors"}
    assert {"notes.txt", "config.json"} <= names and "_saving" not in names


@pytest.mark.parametrize("damage", ["lost", "cut"])
@pytest.mark.parametrize("tied", [True, False])
def test_incomplete_saved_weights_are_an_error(tmp_path, tied, damage):
    """A tensor is missing, or is only a shard of itself, as after a failed gathering under ZeRO-3."""
    model = new_model(tie_word_embeddings=tied)
    model.save_pretrained(tmp_path)
    check_weights(tmp_path, model)
    tensors = load_file(tmp_path / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    tensor = tensors.pop(name)
    save_file(tensors | ({name: tensor[:3].clone()} if damage == "cut" else {}), tmp_path / "model.safetensors")
    with pytest.raises(RuntimeError, match="elements are saved of"):
        check_weights(tmp_path, model)


@pytest.mark.parametrize("tied", [True, False])
def test_flops_of_a_token_equal_a_count_by_hand(tied):
    """6 for each parameter of a matrix product, 12 for each attended token, layer and channel; 0 for embeddings."""
    hidden, inner, layers, heads, head, vocab = 16, 32, 2, 2, 8, 300
    model = new_model(tie_word_embeddings=tied)
    block = hidden * heads * head + 2 * hidden * head + heads * head * hidden + 3 * hidden * inner + 2 * hidden
    parameters = layers * block + hidden + vocab * hidden  # the last is the output matrix
    attention = 12 * layers * heads * head * 10
    assert flops_per_token(model, attended=10.0) == 6 * parameters + attention
    without_logits = parameters - 0.75 * vocab * hidden
    assert flops_per_token(model, attended=10.0, logits_share=0.25) == 6 * without_logits + attention


def test_the_attended_length_is_averaged_over_tokens_not_over_documents():
    """Pieces of 3 and 1 tokens: three tokens are in a piece of 3, one in a piece of 1."""
    rows = packed(["x"], TOKENIZER)[1].select([0]).map(lambda row: {"lengths": [3, 1]})
    assert mean_attended_length(rows) == pytest.approx((3 * 3 + 1) / 4)


def test_skipped_logits_do_not_count_as_computed():
    """Three labels of four tokens are -100; they count only if the collator skips prompts."""
    rows = Dataset.from_list([{"labels": [-100, -100, 5]}, {"labels": [-100]}])
    assert logits_share(rows, PackingCollator(0, skip_prompts=True)) == 0.25
    assert logits_share(rows, PackingCollator(0)) == 1


def test_the_log_says_how_many_steps_the_rows_make():
    """From the number of epochs, or from `max_steps`."""
    plan = {"train_batch_size": 4, "gradient_accumulation_steps": 2, "world_size": 2, "dataloader_drop_last": False}
    plan |= {"num_train_epochs": 3, "max_steps": -1, "learning_rate": 5e-5}
    assert (
        describe_schedule(SimpleNamespace(**plan), 33)
        == "33 rows, 16 a step: 3 steps an epoch, 9 in all at learning rate 5e-05"
    )
    assert "20 in all" in describe_schedule(SimpleNamespace(**plan | {"max_steps": 20}), 33)


def test_throughput_excludes_evaluation_and_saving(tmp_path, monkeypatch):
    """With a clock on which a step takes 2 s, and an evaluation or a checkpoint 100 s."""
    clock = SimpleNamespace(now=0.0)

    def perf_counter():
        clock.now += 1e-5
        return clock.now

    def passes(seconds):
        return lambda *_, **__: setattr(clock, "now", clock.now + seconds)

    def after(wait, function):
        return lambda *args, **kwargs: wait() or function(*args, **kwargs)

    trainer = new_trainer(
        tmp_path, TOKENIZER, eval_strategy="steps", eval_steps=1, per_device_train_batch_size=1, **EVERY_STEP
    )
    monkeypatch.setattr(throughput, "time", SimpleNamespace(perf_counter=perf_counter))
    monkeypatch.setattr(throughput, "peak_flops", lambda device, bf16: (1e6, "a test"))
    callback = TrainerCallback()
    callback.on_step_begin = passes(2)
    trainer.add_callback(callback)
    for slow in ("compute_metrics", "save_model"):
        monkeypatch.setattr(trainer, slow, after(passes(100), getattr(trainer, slow)))
    lengths = [len(ids) for ids in trainer.train_dataset["input_ids"]]
    metrics = run(trainer)

    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert len(logs) == 4
    flops = flops_per_token(trainer.model, mean_attended_length(trainer.train_dataset))
    for log in logs:
        assert round(2 * log["tokens_per_second"]) in lengths
        assert log["mfu"] == pytest.approx(log["tokens_per_second"] * flops / 1e6, rel=1e-2)
    rate = sum(log["tokens_per_second"] for log in logs) / 4
    assert metrics["train_tokens_per_second"] == pytest.approx(rate, rel=1e-2)
    assert metrics["train_mfu"] == pytest.approx(rate * flops / 1e6, rel=1e-2)


@pytest.mark.parametrize("model_type", ["gpt_neox", "mixtral"])
def test_the_check_of_saved_weights_allows_renamed_parameters(tmp_path, model_type):
    """transformers renames an output layer, or splits experts, when it saves; nothing is missing then."""
    config = AutoConfig.for_model(
        model_type, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=64
    )
    config.num_key_value_heads = 2
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(tmp_path)
    check_weights(tmp_path, model)
