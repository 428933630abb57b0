"""A checkpoint is complete or ignored; a run is resumed from its own checkpoints only."""

import json
import logging
from pathlib import Path

import pytest
from tiny import new_tokenizer, new_trainer

from hf_llm.training import checkpoints
from hf_llm.training.checkpoints import (
    CompleteCheckpoints,
    check_same_run,
    find_checkpoint,
    read_manifest,
    write_manifest,
)

RUN = {"rows": 10, "seed": 42, "batch": 8}


def write_checkpoint(output_dir, step, run=RUN):
    """Write a complete checkpoint, with a file in a subfolder as DeepSpeed does."""
    checkpoint = output_dir / f"checkpoint-{step}"
    (checkpoint / "global_step").mkdir(parents=True)
    (checkpoint / "model.safetensors").write_bytes(b"weights")
    (checkpoint / "global_step" / "rank_0.pt").write_bytes(b"optimizer")
    write_manifest(checkpoint, run)
    return checkpoint


def no_manifest(checkpoint):
    (checkpoint / "complete.json").unlink()


def truncated(checkpoint):
    (checkpoint / "global_step" / "rank_0.pt").write_bytes(b"opt")


def missing(checkpoint):
    (checkpoint / "model.safetensors").unlink()


DAMAGES = {
    no_manifest: "has no complete.json: it is half written or was not written by hf_llm",
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
    no_manifest(write_checkpoint(tmp_path, 5))
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


def test_a_checkpoint_of_another_run_is_refused_with_every_difference(tmp_path):
    """Each difference with both values; equal facts pass."""
    checkpoint = str(write_checkpoint(tmp_path, 5))
    check_same_run(checkpoint, RUN)
    with pytest.raises(ValueError) as error:
        check_same_run(checkpoint, RUN | {"rows": 11, "batch": 4})
    assert "is of another run: rows was 10 and is 11; batch was 8 and is 4" in str(error.value)


def train(output_dir, **settings):
    """Train four steps with a checkpoint at each, and return the names of those that are left."""
    settings = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 2} | settings
    trainer = new_trainer(output_dir, new_tokenizer(), **settings)
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
    """Killed just before the manifest of step 3 is written, step 2 is still there to resume from."""

    def killed_at_3(checkpoint, run):
        if checkpoint.name == "checkpoint-3":
            raise KeyboardInterrupt
        write_manifest(checkpoint, run)

    monkeypatch.setattr(checkpoints, "write_manifest", killed_at_3)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, save_total_limit=1)
    assert find_checkpoint("true", str(tmp_path)) == str(tmp_path / "checkpoint-2")
