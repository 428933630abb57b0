"""A checkpoint is complete or ignored; a run is resumed from its own checkpoints only."""

import json
import logging
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import new_model, new_tokenizer, new_trainer
from transformers import AutoConfig, AutoModelForCausalLM

from hf_llm.arguments import AdapterArguments, ModelArguments
from hf_llm.models.loading import load_for_generation, load_to_finetune
from hf_llm.training import checkpoints
from hf_llm.training.checkpoints import (
    CHECKPOINT_MANIFEST,
    CompleteCheckpoints,
    check_same_run,
    check_weights,
    find_checkpoint,
    read_manifest,
    save_final_model,
    write_manifest,
)

RUN = {"rows": 10, "seed": 42, "batch": 8}


def write_checkpoint(output_dir, step, run=RUN):
    """Write a complete checkpoint, with a file in a subfolder as DeepSpeed does."""
    checkpoint = output_dir / f"checkpoint-{step}"
    (checkpoint / "global_step").mkdir(parents=True)
    (checkpoint / "model.safetensors").write_bytes(b"weights")
    (checkpoint / "rng_state.pth").write_bytes(b"random")
    (checkpoint / "global_step" / "rank_0.pt").write_bytes(b"optimizer")
    write_manifest(checkpoint, run)
    return checkpoint


def no_manifest(checkpoint):
    (checkpoint / "complete.json").unlink()


def killed_while_saving(checkpoint):
    (checkpoint / "complete.json").rename(checkpoint / "half_written")


def truncated(checkpoint):
    (checkpoint / "global_step" / "rank_0.pt").write_bytes(b"opt")


def missing(checkpoint):
    (checkpoint / "model.safetensors").unlink()


def filled_with_zeros(checkpoint):
    (checkpoint / "global_step" / "rank_0.pt").write_bytes(b"\0" * len(b"optimizer"))


def one_bit(checkpoint):
    (checkpoint / "model.safetensors").write_bytes(b"veights")


def manifest_of(content):
    def write(checkpoint):
        (checkpoint / CHECKPOINT_MANIFEST).write_text(json.dumps(content))

    return write


NOT_OURS = "has no complete.json: it is half written or was not written by hf_llm"
OTHER_MANIFESTS = [[], None, 3, "a", {}, {"name": "other"}, {"files": {}, "run": {}, "checksums": {}}]
OTHER_MANIFESTS += [
    {"files": files, "run": run, "checksums": {}} for files, run in (([], []), ({"a": 1}, None), (3, {}))
]

DAMAGES = {
    **{manifest_of(content): NOT_OURS for content in OTHER_MANIFESTS},
    filled_with_zeros: "is damaged: global_step/rank_0.pt has changed since it was written",
    one_bit: "is damaged: model.safetensors has changed since it was written",
    no_manifest: "has no complete.json: it is half written or was not written by hf_llm",
    killed_while_saving: "is half written",
    truncated: "is half written: global_step/rank_0.pt is missing or has another size",
    missing: "is half written: model.safetensors is missing or has another size",
}


def test_a_complete_checkpoint_is_recognised(tmp_path):
    """Its manifest has the facts of the run."""
    assert read_manifest(write_checkpoint(tmp_path, 3))["run"] == RUN


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_refused_when_named_and_ignored_when_not(tmp_path, damage, caplog):
    """Otherwise the newest complete one is used, and the log names the one that was ignored."""
    write_checkpoint(tmp_path, 5)
    damaged = write_checkpoint(tmp_path, 10)
    damage(damaged)
    with pytest.raises(ValueError, match=DAMAGES[damage]):
        find_checkpoint(str(damaged), str(tmp_path))
    with caplog.at_level(logging.WARNING, "hf_llm"):
        assert find_checkpoint("true", str(tmp_path)) == str(tmp_path / "checkpoint-5")
    assert f"Ignored: checkpoint `{damaged}` {DAMAGES[damage]}" in caplog.text


def test_true_means_the_newest_by_step(tmp_path):
    """100 is newer than 20, whatever the order of writing and of the alphabet."""
    for step in (100, 20, 3):
        write_checkpoint(tmp_path, step)
    assert find_checkpoint("True", str(tmp_path)) == str(tmp_path / "checkpoint-100")


@pytest.mark.parametrize("asked", ["true", "false", None])
def test_a_folder_without_complete_checkpoints_starts_from_step_0(tmp_path, asked):
    """A new folder, and one whose run was killed before its first checkpoint was complete."""
    assert find_checkpoint(asked, str(tmp_path / "new")) is None
    killed_while_saving(write_checkpoint(tmp_path, 5))
    assert find_checkpoint(asked, str(tmp_path)) is None


def test_a_named_checkpoint_is_used(tmp_path):
    """Also one in another output folder."""
    checkpoint = write_checkpoint(tmp_path / "a", 5)
    assert find_checkpoint(str(checkpoint), str(tmp_path / "b")) == str(checkpoint)


@pytest.mark.parametrize("asked", [None, "false"])
def test_a_new_run_does_not_mix_its_checkpoints_with_those_of_an_earlier_one(tmp_path, asked):
    """The error names the checkpoint and both remedies."""
    write_checkpoint(tmp_path, 5)
    with pytest.raises(ValueError, match=r"holds checkpoint-5 of an earlier run: .*--resume_from_checkpoint true`, or"):
        find_checkpoint(asked, str(tmp_path))


@pytest.mark.parametrize("asked", [None, "true", "named"])
@pytest.mark.parametrize("files", [("model.safetensors",), ("model.safetensors", "training_args.bin", "optimizer.pt")])
def test_a_checkpoint_of_another_program_is_not_overwritten(tmp_path, files, asked):
    """One of a stock Trainer, or weights from the Hub: the run would write to its name, or remove it as the oldest."""
    foreign = tmp_path / "out" / "checkpoint-7"
    foreign.mkdir(parents=True)
    for name in files:
        (foreign / name).write_text("of another program")
    asked = str(write_checkpoint(tmp_path / "elsewhere", 5)) if asked == "named" else asked
    with pytest.raises(ValueError, match=f"`{foreign}` has no complete.json: another program wrote it"):
        find_checkpoint(asked, str(tmp_path / "out"))
    shutil.move(foreign, tmp_path)  # the remedy
    find_checkpoint(asked, str(tmp_path / "out"))


def test_a_checkpoint_of_a_stock_trainer_beside_ours_is_not_overwritten(tmp_path):
    """It is known by its pickled arguments, which ours do not keep."""
    write_checkpoint(tmp_path, 5)
    train(tmp_path / "stock", ours=False, max_steps=1, save_only_model=True)
    shutil.move(tmp_path / "stock" / "checkpoint-1", tmp_path / "checkpoint-9")
    with pytest.raises(ValueError, match=r"checkpoint-9` has no complete\.json: another program wrote it"):
        find_checkpoint("true", str(tmp_path))


@pytest.mark.parametrize("strategy", ["steps", "epoch", "best"])
def test_a_kill_while_a_checkpoint_is_written_leaves_its_mark(tmp_path, monkeypatch, strategy):
    """Whatever is in it by then: so it is known as ours, and the run starts again. Complete ones have no mark."""
    settings = {"save_strategy": strategy, "eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "loss"}
    settings["save_total_limit"] = None

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("transformers.PreTrainedModel.save_pretrained", killed)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, **settings)
    (checkpoint,) = tmp_path.glob("checkpoint-*")
    assert [path.name for path in checkpoint.iterdir()] == ["half_written"]
    assert find_checkpoint("true", str(tmp_path)) is None
    train(tmp_path, **settings)
    assert (checkpoint / "complete.json").is_file() and not list(tmp_path.rglob("half_written"))


def test_only_steps_that_are_the_best_leave_a_folder(tmp_path):
    """With `--save_strategy best`: the loss rises from the second step on."""
    settings = {"save_strategy": "best", "eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "loss"}
    kept = train(tmp_path, **settings, learning_rate=3.0, lr_scheduler_type="constant", save_total_limit=None)
    best = json.loads((tmp_path / kept[-1] / "trainer_state.json").read_text())["best_global_step"]
    assert kept[-1] == f"checkpoint-{best}" != "checkpoint-4"
    assert not list(tmp_path.rglob("half_written"))


@pytest.mark.parametrize(
    "name, message",
    [
        ("nowhere/checkpoint-5", "nowhere/checkpoint-5: there is no such folder; give `true`, or the folder of a"),
        ("yes", "yes: there is no such folder; give `true`, or the folder of a checkpoint"),
        ("earlier", "earlier is the folder of a run; give `true`, or the folder of a checkpoint, e.g. .*checkpoint-10"),
    ],
)
def test_a_name_that_is_no_checkpoint_is_not_called_half_written(tmp_path, name, message):
    """Nothing is there, or the folder of a run is."""
    for step in (3, 10):
        write_checkpoint(tmp_path / "earlier", step)
    with pytest.raises(ValueError, match=f"`--resume_from_checkpoint` {tmp_path}/{message}"):
        find_checkpoint(f"{tmp_path}/{name}", str(tmp_path / "out"))


def test_a_checkpoint_from_elsewhere_does_not_mix_with_those_of_an_earlier_run(tmp_path):
    """The later ones in the folder would be called half written, and the oldest removed."""
    named, _ = write_checkpoint(tmp_path / "a", 5), write_checkpoint(tmp_path / "b", 10)
    with pytest.raises(ValueError, match="b holds checkpoint-10 of an earlier run"):
        find_checkpoint(str(named), str(tmp_path / "b"))
    assert find_checkpoint(f"{tmp_path}/b/../a/checkpoint-5", str(tmp_path / "a")) == f"{tmp_path}/b/../a/checkpoint-5"


@pytest.mark.parametrize("asked", ["true", "named"])
def test_weights_alone_are_not_resumed_from(tmp_path, asked):
    """Optimizer, schedule and random state would start anew without a word. The remedy is for weights, not adapters."""
    train(tmp_path, save_only_model=True)
    asked = str(tmp_path / "checkpoint-4") if asked == "named" else asked
    remedy = f"start from its weights by `--model_name_or_path {tmp_path}/checkpoint-4` in another `--output_dir`"
    with pytest.raises(ValueError, match=r"holds weights only \(`--save_only_model`\)") as error:
        find_checkpoint(asked, str(tmp_path))
    assert str(error.value).endswith(remedy)
    (tmp_path / "checkpoint-4" / "adapter_config.json").touch()
    with pytest.raises(ValueError, match=r"; start again in another `--output_dir`$"):
        find_checkpoint(asked, str(tmp_path))


def test_the_best_checkpoint_is_found_where_the_folder_of_the_run_is_now(tmp_path):
    """The Trainer keeps its path, and would end with the last weights; where it is gone, the run stops at once."""
    best = {"eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "loss", "load_best_model_at_end": True}
    best |= {"learning_rate": 3.0, "lr_scheduler_type": "constant", "save_total_limit": None}
    train(tmp_path / "before", **best)
    (tmp_path / "before").rename(tmp_path / "moved")
    checkpoint = tmp_path / "moved" / "checkpoint-3"
    step = json.loads((checkpoint / "trainer_state.json").read_text())["best_global_step"]
    trainer = new_trainer(tmp_path / "moved", new_tokenizer(), **SAVING | best)
    trainer.add_callback(CompleteCheckpoints(trainer.args, RUN, str(checkpoint)))
    trainer.train(resume_from_checkpoint=str(checkpoint))
    assert Path(trainer.state.best_model_checkpoint) == tmp_path / "moved" / f"checkpoint-{step}"
    kept = load_file(tmp_path / "moved" / f"checkpoint-{step}" / "model.safetensors")
    assert all(torch.equal(p, kept[name]) for name, p in trainer.model.named_parameters())
    shutil.rmtree(tmp_path / "moved" / f"checkpoint-{step}")
    with pytest.raises(ValueError, match=f"there is no checkpoint `{tmp_path}/moved/checkpoint-{step}`"):
        trainer.train(resume_from_checkpoint=str(checkpoint))


def test_a_checkpoint_of_another_run_is_refused_with_every_difference(tmp_path):
    """Each difference with both values; equal facts pass."""
    checkpoint = str(write_checkpoint(tmp_path, 5))
    check_same_run(checkpoint, RUN)
    with pytest.raises(ValueError) as error:
        check_same_run(checkpoint, RUN | {"rows": 11, "batch": 4})
    assert str(error.value).endswith(
        "is of another run: rows was 10 and is 11; batch was 8 and is 4. Give the earlier values, or start from its "
        f"weights by `--model_name_or_path {checkpoint}` in another `--output_dir`"
    )


SAVING = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 2}


def train(output_dir, ours=True, **settings):
    """Train four steps with a checkpoint at each, and return the names of those that are left."""
    trainer = new_trainer(output_dir, new_tokenizer(), **SAVING | settings)
    if ours:
        trainer.add_callback(CompleteCheckpoints(trainer.args, RUN))
    trainer.train()
    return sorted(path.name for path in Path(output_dir).glob("checkpoint-*"))


def test_a_run_keeps_the_newest_checkpoints_complete_and_without_pickled_arguments(tmp_path):
    """`save_total_limit` of them; `training_args.bin`, which holds user paths, is removed."""
    assert train(tmp_path) == ["checkpoint-3", "checkpoint-4"]
    for step in (3, 4):
        files = read_manifest(tmp_path / f"checkpoint-{step}")["files"]
        assert {"model.safetensors", "optimizer.pt", "trainer_state.json"} <= set(files)
    assert not list(tmp_path.rglob("training_args.bin"))


def test_without_a_limit_all_checkpoints_stay(tmp_path):
    """As the Trainer's documentation says."""
    assert train(tmp_path, save_total_limit=None) == [f"checkpoint-{step}" for step in (1, 2, 3, 4)]


def test_the_best_checkpoint_is_not_removed(tmp_path):
    """With a learning rate that is far too high an early checkpoint is the best one; it and the last one are kept."""
    settings = {"eval_strategy": "steps", "eval_steps": 1, "learning_rate": 3.0, "lr_scheduler_type": "constant"}
    best = {"load_best_model_at_end": True, "metric_for_best_model": "loss", "greater_is_better": False}
    kept = train(tmp_path, **settings, **best)
    best = json.loads((tmp_path / "checkpoint-4" / "trainer_state.json").read_text())["best_model_checkpoint"]
    assert Path(best).name in ("checkpoint-1", "checkpoint-2"), "the loss was expected to rise"
    assert kept == [Path(best).name, "checkpoint-4"]


def test_the_old_checkpoint_goes_only_after_the_new_one_is_complete(tmp_path, monkeypatch):
    """Killed just before the manifest of step 3 is written, a run can still be resumed from step 2."""

    def killed_at_3(checkpoint, run):
        if checkpoint.name == "checkpoint-3":
            raise KeyboardInterrupt
        write_manifest(checkpoint, run)

    monkeypatch.setattr(checkpoints, "write_manifest", killed_at_3)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, save_total_limit=1)
    assert find_checkpoint("true", str(tmp_path)) == str(tmp_path / "checkpoint-2")


@pytest.mark.parametrize("lora_r", [None, 2])
def test_the_token_that_ends_an_answer_is_saved_with_the_model(tmp_path, lora_r):
    """A model, or an adapter on a base that does not know the token, stops generating at it; checkpoints too."""
    tokenizer = new_tokenizer()
    new_model(vocab_size=len(tokenizer)).save_pretrained(tmp_path / "base")
    model_args, adapters = ModelArguments(model_name_or_path=str(tmp_path / "base")), AdapterArguments(lora_r=lora_r)
    model = load_to_finetune(model_args, adapters, tokenizer, 64, False, SimpleNamespace(end="<|pad|>"))
    trainer = new_trainer(tmp_path / "out", tokenizer, model=model, **SAVING)
    trainer.add_callback(CompleteCheckpoints(trainer.args, RUN))
    trainer.train()
    save_final_model(trainer)
    for folder in (tmp_path / "out", tmp_path / "out" / "checkpoint-4"):
        saved, _ = load_for_generation(str(folder))
        assert saved.generation_config.eos_token_id == sorted([tokenizer.eos_token_id, tokenizer.pad_token_id])


def test_the_cache_stays_off_in_training_after_saving(tmp_path):
    """With a cache, packed documents would see each other in the evaluation that follows."""
    trainer = new_trainer(tmp_path, new_tokenizer())
    save_final_model(trainer)
    assert trainer.model.config.use_cache is False


def test_saving_removes_what_an_earlier_model_left(tmp_path):
    """Shards of a larger model, and those of a run killed while saving, would be loaded with the new ones."""
    for stale in ("model-00001-of-00002.safetensors", "model.safetensors.index.json", "_saving/model-9.safetensors"):
        (tmp_path / stale).parent.mkdir(exist_ok=True)
        (tmp_path / stale).write_text("stale")
    (tmp_path / "notes.txt").write_text("the user's own")
    save_final_model(new_trainer(tmp_path, new_tokenizer()))
    names = {path.name for path in tmp_path.iterdir()}
    assert {name for name in names if name.startswith("model")} == {"model.safetensors"}
    assert {"notes.txt", "config.json"} <= names and "_saving" not in names


def test_a_resumed_run_need_not_choose_a_best_checkpoint_any_more(tmp_path):
    """Its training is the same; chosen by another score, or only from now on, the best one would be another."""
    best = RUN | {"best checkpoint": {"metric_for_best_model": "loss"}}
    checkpoint = write_checkpoint(tmp_path, 5, best)
    check_same_run(checkpoint, RUN | {"best checkpoint": None})
    with pytest.raises(ValueError, match=r"best checkpoint\.metric_for_best_model was loss and is perplexity"):
        check_same_run(checkpoint, RUN | {"best checkpoint": {"metric_for_best_model": "perplexity"}})
    with pytest.raises(ValueError, match="best checkpoint was None and is"):
        check_same_run(write_checkpoint(tmp_path, 6, RUN | {"best checkpoint": None}), best)


def test_a_run_does_not_write_through_a_link(tmp_path):
    """One that is there at the start is refused; one that appears later under the temporary name is removed."""
    (tmp_path / "victim").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "_saving").symlink_to(tmp_path / "victim")
    with pytest.raises(ValueError, match="_saving` is a symbolic link"):
        find_checkpoint(None, f"{tmp_path}/out")
    save_final_model(new_trainer(tmp_path / "out", new_tokenizer()))
    assert not any((tmp_path / "victim").iterdir()) and (tmp_path / "out" / "model.safetensors").is_file()


@pytest.mark.parametrize("manifest", ["[" * 40_000, '{"run": {}}', '{"files": 3}', "[]"])
def test_a_manifest_of_another_kind_is_none(tmp_path, manifest):
    """Too deep for the parser, or not what `write_manifest` writes."""
    checkpoint = write_checkpoint(tmp_path, 5)
    (checkpoint / CHECKPOINT_MANIFEST).write_text(manifest)
    with pytest.raises(ValueError, match=r"has no complete\.json"):
        read_manifest(checkpoint)


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
