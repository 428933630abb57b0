"""Checkpoints with a manifest, which is written last: a run is only resumed from a checkpoint that has one."""

import json
import logging
import math
import os
import shutil
from pathlib import Path
from typing import Any

from datasets import Dataset
from safetensors import safe_open
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import SaveStrategy, rotate_checkpoints, sort_checkpoints

from hf_llm.data.packing import PackingCollator
from hf_llm.files import check_output_folder, checksum, lock_folder, remove, set_umask_modes, write_text
from hf_llm.mappings import read_json_file
from hf_llm.models.adapters import save_adapter_configs
from hf_llm.models.inspection import count_parameters
from hf_llm.models.precision import cast_saved_weights
from hf_llm.training.facts import differences

logger = logging.getLogger(__name__)

CHECKPOINT_MANIFEST = "complete.json"
HALF_WRITTEN = "half_written"  # an empty file in a checkpoint while it is written, by which it is known as ours


def write_manifest(checkpoint: Path, run: dict[str, object]) -> None:
    """Write `complete.json`: the checkpoint's files with sizes in bytes and checksums, and the facts of the run."""
    paths = [path for path in sorted(checkpoint.rglob("*")) if path.is_file() and path.name != HALF_WRITTEN]
    names = {path: str(path.relative_to(checkpoint)) for path in paths}
    files = {name: path.stat().st_size for path, name in names.items()}
    manifest = {"run": run, "files": files, "checksums": {name: checksum(path) for path, name in names.items()}}
    write_text(checkpoint / CHECKPOINT_MANIFEST, json.dumps(manifest, indent=1) + "\n")


def read_manifest(checkpoint: Path) -> dict:
    """Read the manifest of a checkpoint, and check that the checkpoint is complete.

    Returns:
        `{"run": facts, "files": {path: bytes}, "checksums": {path: SHA-256}}`.

    Raises:
        ValueError: there is no manifest, or a file is missing or has another size.
    """
    if not checkpoint.is_dir():
        raise ValueError(f"there is no checkpoint `{checkpoint}`")
    try:
        manifest = read_json_file(checkpoint / CHECKPOINT_MANIFEST)
        entries = [manifest.setdefault(name, {}) for name in ("run", "files", "checksums")]
        if not (manifest["files"] and all(isinstance(entry, dict) for entry in entries)):
            raise ValueError
    except (OSError, ValueError):
        problem = f"has no {CHECKPOINT_MANIFEST}: it is half written or was not written by hf_llm"
        problem = "is half written" if (checkpoint / HALF_WRITTEN).exists() else problem
        raise ValueError(f"checkpoint `{checkpoint}` {problem}") from None
    for name, size in manifest["files"].items():
        path = checkpoint / name
        if not path.is_file() or path.stat().st_size != size:
            raise ValueError(f"checkpoint `{checkpoint}` is half written: {name} is missing or has another size")
    return manifest


def check_undamaged(checkpoint: Path) -> None:
    """Check that the files of a complete checkpoint hold what was written: a machine that lost its power fills them up.

    Raises:
        ValueError: one does not.
    """
    for name, expected in read_manifest(checkpoint)["checksums"].items():
        if checksum(checkpoint / name) != expected:
            raise ValueError(f"checkpoint `{checkpoint}` is damaged: {name} has changed since it was written")


def find_complete_checkpoints(output_dir: str) -> list[Path]:
    """List the complete checkpoints in a folder by their step, and log which ones are incomplete."""
    complete = []
    for name in sort_checkpoints(output_dir) if Path(output_dir).is_dir() else []:
        try:
            read_manifest(Path(name))
            complete.append(Path(name))
        except ValueError as error:
            logger.warning(f"Ignored: {error}")
    return complete


def is_damaged(checkpoint: Path) -> bool:
    """Whether a file of a complete checkpoint has changed, which is logged."""
    try:
        check_undamaged(checkpoint)
    except ValueError as error:
        logger.warning(f"Ignored: {error}")
        return True
    return False


def find_checkpoint(resume_from_checkpoint: str | None, output_dir: str) -> str | None:
    """Lock the folder of the run until this process ends, and find the checkpoint to resume from.

    Args:
        resume_from_checkpoint: `true` for the newest complete one in `output_dir`, the path of a checkpoint, or `false`
            or None for a new run.

    Returns:
        The checkpoint's folder; None starts from step 0.

    Raises:
        ValueError: the named checkpoint is incomplete; a checkpoint holds weights only; the run would mix its
            checkpoints with those of an earlier run or of another program in `output_dir`; or `output_dir` cannot be
            written to, has links to elsewhere, or is in use by another process.
    """
    check_output_folder(output_dir)
    lock_folder(output_dir)
    complete = find_complete_checkpoints(output_dir)
    check_checkpoints_are_ours(output_dir, complete)
    value = str(resume_from_checkpoint or "false").lower()
    while value == "true" and complete and is_damaged(complete[-1]):
        complete.pop()
    named = None if value in ("true", "false") else check_named(f"{resume_from_checkpoint}")
    if complete and value != "true" and (named is None or named.resolve() not in [c.resolve() for c in complete]):
        raise ValueError(
            f"`--output_dir` {output_dir} holds {complete[-1].name} of an earlier run: resume it with "
            "`--resume_from_checkpoint true`, or name another folder"
        )
    if named:
        check_resumable(named)
        return str(named)
    if complete:
        check_resumable(complete[-1])
        return str(complete[-1])
    if value == "true":
        logger.warning(f"No complete checkpoint in {output_dir}: starting from step 0")
    elif (Path(output_dir) / "config.json").exists():
        logger.warning(f"{output_dir} holds a model: this run will replace it and its results when it is done")
    return None


def check_checkpoints_are_ours(output_dir: str, complete: list[Path]) -> None:
    """Check that no checkpoint of another program is in the folder, which the run would overwrite or remove.

    Args:
        complete: the complete ones; where there are some, a half-written one without its mark is ours too, unless it
            holds the pickled arguments of a stock Trainer, which ours do not.

    Raises:
        ValueError: there is one.
    """
    for name in sort_checkpoints(output_dir) if Path(output_dir).is_dir() else []:
        ours = any((Path(name) / mark).exists() for mark in (CHECKPOINT_MANIFEST, HALF_WRITTEN))
        ours = ours or (complete and not (Path(name) / TRAINING_ARGS_NAME).exists())
        if not ours:
            raise ValueError(
                f"`{name}` has no {CHECKPOINT_MANIFEST}: another program wrote it, and this run could overwrite it; "
                "move it away, or name another `--output_dir`"
            )


def check_named(name: str) -> Path:
    """Check that a folder which `--resume_from_checkpoint` names is a complete checkpoint.

    Raises:
        ValueError: it is not there, is incomplete, or is the folder of a run.
    """
    checkpoint = Path(name).expanduser()
    remedy = "give `true`, or the folder of a checkpoint"
    if not checkpoint.is_dir():
        raise ValueError(f"`--resume_from_checkpoint` {name}: there is no such folder; {remedy}")
    if inside := sort_checkpoints(str(checkpoint)):
        raise ValueError(f"`--resume_from_checkpoint` {name} is the folder of a run; {remedy}, e.g. {inside[-1]}")
    check_undamaged(checkpoint)
    return checkpoint


def check_resumable(checkpoint: Path) -> None:
    """Check that a complete checkpoint has more than weights.

    Raises:
        ValueError: it was saved with `--save_only_model`.
    """
    files = read_manifest(checkpoint)["files"]
    if not any(name.startswith("rng_state") for name in files):  # saved together with optimizer and schedule
        raise ValueError(
            f"checkpoint `{checkpoint}` holds weights only (`--save_only_model`), without the states of optimizer and "
            f"schedule that a resumed run continues with; {restart_remedy(checkpoint)}"
        )


def restart_remedy(checkpoint: Path) -> str:
    """How to use a checkpoint that cannot be resumed from, in an error message."""
    if (checkpoint / "adapter_config.json").exists():  # it could not be trained further
        return "start again in another `--output_dir`"
    return f"start from its weights by `--model_name_or_path {checkpoint}` in another `--output_dir`"


def check_same_run(checkpoint: str, run: dict[str, object]) -> None:
    """Refuse to resume from a checkpoint that was written with other data or settings: resuming would not be exact.

    Args:
        run: the facts of the new run, see `run_facts`.

    Raises:
        ValueError: facts differ; the message lists each with both values.
    """
    before = read_manifest(Path(checkpoint))["run"]
    if not run.get("best checkpoint"):  # none is chosen any more
        before.pop("best checkpoint", None)
    if changed := differences(before, run):
        raise ValueError(
            f"checkpoint `{checkpoint}` is of another run: {'; '.join(changed)}. Give the earlier values, or "
            f"{restart_remedy(Path(checkpoint))}"
        )


class CompleteCheckpoints(TrainerCallback):
    """Write a checkpoint's manifest when all ranks have saved their files, and only then remove the oldest checkpoints.

    The Trainer removes old checkpoints before the other ranks have written the new one. So this callback sets the
    `save_total_limit` of its arguments to None, and removes them itself.

    Args:
        args: the Trainer's arguments, changed as described.
        run: facts for the manifest, which `check_same_run` compares when a run is resumed.
        checkpoint: folder that the run is resumed from. The best checkpoint so far is found next to it, wherever the
            folder of the run was then.
    """

    def __init__(self, args: TrainingArguments, run: dict[str, object], checkpoint: str | None = None):
        self.run, self.checkpoint, self.begun = run, checkpoint, Path()  # begun: the checkpoint that was last marked
        self.save_total_limit, args.save_total_limit = args.save_total_limit, None

    def on_train_begin(self, args, state, control, **kwargs):
        # Checkpoints after the one resumed from will be written again, and must not count as complete until then.
        for name in sort_checkpoints(str(args.output_dir)) if args.should_save else []:
            manifest = Path(name) / CHECKPOINT_MANIFEST
            if int(name.rpartition("-")[2]) > state.global_step and manifest.exists():
                manifest.replace(manifest.with_name(HALF_WRITTEN))
        if self.checkpoint and state.best_global_step and state.best_model_checkpoint is None:  # not where it was
            best = Path(self.checkpoint).with_name(f"checkpoint-{state.best_global_step}")
            if args.load_best_model_at_end:
                read_manifest(best)
            state.best_model_checkpoint = str(best)

    def on_step_end(self, args, state, control, **kwargs):
        if control.should_save:
            self.begin(args, state)

    on_epoch_end = on_step_end

    def on_evaluate(self, args, state, control, **kwargs):
        if args.save_strategy == SaveStrategy.BEST:  # whether this step is the best one is decided next
            self.begin(args, state)

    def on_step_begin(self, args, state, control, **kwargs):
        if self.begun.name and [*self.begun.glob("*")] == [self.begun / HALF_WRITTEN]:
            remove(self.begun)  # it was not written
        self.begun = Path()

    on_train_end = on_step_begin

    def begin(self, args: TrainingArguments, state: TrainerState) -> None:
        """Mark the checkpoint that is about to be written."""
        if args.should_save:
            self.begun = checkpoint_folder(args, state)
            self.begun.mkdir(parents=True, exist_ok=True)
            (self.begun / HALF_WRITTEN).touch()

    def on_save(self, args, state, control, **kwargs):
        args.distributed_state.wait_for_everyone()
        if not args.should_save:
            return
        checkpoint = checkpoint_folder(args, state)
        (checkpoint / TRAINING_ARGS_NAME).unlink(missing_ok=True)  # a pickle with paths; nothing reads it
        set_umask_modes(checkpoint)
        save_adapter_configs(checkpoint, kwargs["model"])
        write_manifest(checkpoint, self.run)
        (checkpoint / HALF_WRITTEN).unlink(missing_ok=True)
        rotate_checkpoints(str(args.output_dir), self.save_total_limit, state.best_model_checkpoint, use_mtime=True)


def checkpoint_folder(args: TrainingArguments, state: TrainerState) -> Path:
    """The folder of the checkpoint of this step."""
    return Path(f"{args.output_dir}/checkpoint-{state.global_step}")


def trainer_parts(trainer: Trainer) -> tuple[PreTrainedModel, Any, Dataset, PackingCollator]:
    """The model, the rows to train on (a `Dataset` or `StreamedRows`) and to evaluate on, and the collator."""
    parts = trainer.model, trainer.train_dataset, trainer.eval_dataset, trainer.data_collator
    return parts  # pyright: ignore[reportReturnType]  # the Trainer's own types allow much that `run_training` does not


def save_final_model(trainer: Trainer) -> None:
    """Save model, config, generation config and tokenizer to a temporary folder, check them, and move them into place.

    Readers of the output folder see the old model or the new one. `training_args.bin`, a pickle with user paths, is
    left out. All ranks must call.

    Raises:
        RuntimeError: weights are missing in the saved files.
    """
    args, (model, *_) = trainer.args, trainer_parts(trainer)
    folder, temporary = Path(f"{args.output_dir}"), Path(f"{args.output_dir}/_saving")
    if args.should_save:
        remove(temporary)  # left by a killed run; its shards may have other names
    trainer.accelerator.wait_for_everyone()
    model.config.use_cache = True  # off during training; users of the folder generate
    trainer.save_model(str(temporary), _internal_call=True)  # _internal_call: do not push
    trainer.accelerator.wait_for_everyone()
    if args.should_save:
        (temporary / TRAINING_ARGS_NAME).unlink()
        save_adapter_configs(temporary, model)
        set_umask_modes(temporary)
        check_weights(temporary, model)
        cast_saved_weights(temporary, model)
        for pattern in ("model*.safetensors*", "adapter_*", "*config.json"):  # a whole model, or an adapter
            for stale in folder.glob(pattern):
                if not (temporary / stale.name).exists():
                    stale.unlink()
        for path in sorted(temporary.iterdir(), key=lambda path: path.name == "config.json"):  # config.json last
            os.replace(path, folder / path.name)
        shutil.rmtree(temporary)
    trainer.accelerator.wait_for_everyone()
    model.config.use_cache = args.use_cache


def check_weights(folder: Path, model: PreTrainedModel) -> None:
    """Check that the folder's safetensors files hold as many elements as the model, or its adapter, has parameters.

    Tied parameters are counted once. Names are not compared, because transformers renames parameters of some models
    when it saves them, or splits their experts.

    Raises:
        RuntimeError: there are fewer elements than parameters.
    """
    saved = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as tensors:
            shapes = [tensors.get_slice(name).get_shape() for name in tensors.keys()]  # noqa: SIM118 not a mapping
        saved += sum(math.prod(shape) for shape in shapes)
    expected = count_parameters(model, trained=hasattr(model, "get_base_model"))
    if saved < expected:
        raise RuntimeError(f"{folder}: {saved} elements are saved of {expected} parameters")
