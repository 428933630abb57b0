"""Checkpoints that are complete or ignored: a manifest is written last, and only what has one is resumed from."""

import json
import logging
import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from datasets.fingerprint import Hasher
from safetensors import safe_open
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import has_length, rotate_checkpoints, sort_checkpoints

from hf_llm.files import check_writable, write_text
from hf_llm.models.inspection import count_parameters

logger = logging.getLogger(__name__)

CHECKPOINT_MANIFEST = "complete.json"


def write_manifest(checkpoint: Path, run: dict[str, object]) -> None:
    """List the checkpoint's files with their sizes in `complete.json`, beside the facts of the run."""
    files = {str(f.relative_to(checkpoint)): f.stat().st_size for f in sorted(checkpoint.rglob("*")) if f.is_file()}
    write_text(checkpoint / CHECKPOINT_MANIFEST, json.dumps({"run": run, "files": files}, indent=1) + "\n")


def read_manifest(checkpoint: Path) -> dict:
    """The manifest of a complete checkpoint.

    Raises:
        ValueError: no manifest, or a file is missing or has another size: the checkpoint is half written.
    """
    try:
        manifest = json.loads((checkpoint / CHECKPOINT_MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ValueError(
            f"checkpoint `{checkpoint}` has no {CHECKPOINT_MANIFEST}: it is half written or not one of ours"
        ) from None
    for name, size in manifest["files"].items():
        path = checkpoint / name
        if not path.is_file() or path.stat().st_size != size:
            raise ValueError(f"checkpoint `{checkpoint}` is half written: {name} is missing or has another size")
    return manifest


def complete_checkpoints(output_dir: str) -> list[Path]:
    """The complete checkpoints of a run, oldest first; each incomplete one is named in the log."""
    complete = []
    for name in sort_checkpoints(output_dir) if Path(output_dir).is_dir() else []:
        try:
            read_manifest(Path(name))
            complete.append(Path(name))
        except ValueError as error:
            logger.warning(f"Ignored: {error}")
    return complete


def find_checkpoint(resume_from_checkpoint: str | None, output_dir: str) -> str | None:
    """The checkpoint folder that `--resume_from_checkpoint` (true, or a folder) means; None starts from step 0.

    Raises:
        ValueError: the named folder is half written; the output folder holds checkpoints of an earlier run, which
            would be mixed up with the new ones, or cannot be written to.
    """
    check_writable(output_dir)
    asked = str(resume_from_checkpoint or "false").lower()
    if asked not in ("true", "false"):
        read_manifest(Path(resume_from_checkpoint).expanduser())
        return str(Path(resume_from_checkpoint).expanduser())
    complete = complete_checkpoints(output_dir)
    if asked == "true":
        if not complete:
            logger.warning(f"No complete checkpoint in {output_dir}: starting from step 0")
        return str(complete[-1]) if complete else None
    if complete:
        raise ValueError(
            f"`--output_dir` {output_dir} holds {complete[-1].name} of an earlier run: go on with "
            "`--resume_from_checkpoint true`, or name another folder"
        )
    if (Path(output_dir) / "config.json").exists():
        logger.warning(f"{output_dir} holds a model: this run will replace it and its results when it is done")
    return None


def check_same_run(checkpoint: str, run: dict[str, object]) -> None:
    """Resuming is exact only where data, row length, batch and seed are the ones that the checkpoint was made with.

    Raises:
        ValueError: every difference, with both values.
    """
    before = read_manifest(Path(checkpoint))["run"]
    changed = [f"{key} was {before.get(key)} and is {value}" for key, value in run.items() if before.get(key) != value]
    if changed:
        raise ValueError(f"checkpoint `{checkpoint}` is of another run: {'; '.join(changed)}")


class CompleteCheckpoints(TrainerCallback):
    """Writes the manifest when every rank has finished its part, and only then removes the oldest checkpoints.

    The Trainer itself removes old checkpoints before the other ranks have written the new one. So its
    `save_total_limit` is taken over here.

    Args:
        run: facts written into the manifest, which `check_same_run` compares on resuming.
    """

    def __init__(self, args, run: dict[str, object]):
        self.run = run
        self.save_total_limit, args.save_total_limit = args.save_total_limit, None

    def on_train_begin(self, args, state, control, **kwargs):
        # Resumed from an earlier one: later checkpoints are written anew, and must not count as complete meanwhile.
        for name in sort_checkpoints(args.output_dir) if args.should_save else []:
            if int(name.rpartition("-")[2]) > state.global_step:
                (Path(name) / CHECKPOINT_MANIFEST).unlink(missing_ok=True)

    def on_save(self, args, state, control, **kwargs):
        args.distributed_state.wait_for_everyone()
        if not args.should_save:
            return
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        (checkpoint / "training_args.bin").unlink(missing_ok=True)  # a pickle with paths; nothing reads it
        write_manifest(checkpoint, self.run)
        rotate_checkpoints(args.output_dir, self.save_total_limit, state.best_model_checkpoint, use_mtime=True)


def save_final_model(trainer: Trainer) -> None:
    """Write model, config, generation config and tokenizer beside the final place, check them, then move them there.

    A reader of the folder sees the old model or the new one. Without `training_args.bin`: a pickle with user paths.
    """
    args = trainer.args
    beside = Path(args.output_dir) / "_saving"
    if args.should_save:
        shutil.rmtree(beside, ignore_errors=True)  # of a run that was killed here; its shards may have other names
    trainer.accelerator.wait_for_everyone()
    trainer.model.config.use_cache = True  # the Trainer switched it off for training; users of the folder generate
    trainer.save_model(str(beside), _internal_call=True)  # internal: the push has its own time and place
    trainer.accelerator.wait_for_everyone()
    if args.should_save:
        (beside / "training_args.bin").unlink()
        check_weights(beside, trainer.model)
        for pattern in ("model*.safetensors*", "adapter_*", "config.json"):  # a whole model, or an adapter
            for stale in Path(args.output_dir).glob(pattern):
                if not (beside / stale.name).exists():
                    stale.unlink()
        for path in sorted(beside.iterdir(), key=lambda path: path.name == "config.json"):  # config.json last
            os.replace(path, Path(args.output_dir) / path.name)
        shutil.rmtree(beside)
    trainer.accelerator.wait_for_everyone()
    trainer.model.config.use_cache = args.use_cache


def check_weights(folder: Path, model: PreTrainedModel) -> None:
    """The folder's safetensors files hold as many elements as the model, or its adapter, has parameters.

    Tied ones are counted once.

    Names are not compared: transformers saves some models under other names, or with their experts apart.
    """
    saved = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as tensors:
            shapes = [tensors.get_slice(name).get_shape() for name in tensors.keys()]  # noqa: SIM118 no mapping
        saved += sum(math.prod(shape) for shape in shapes)
    expected = count_parameters(model, trained=hasattr(model, "get_base_model"))
    if saved < expected:
        raise RuntimeError(f"{folder}: {saved} elements are saved of {expected} parameters")


def run_facts(trainer: Trainer) -> dict[str, Any]:
    """Everything that must be equal for a resumed run to be the same run; the keys are those of the manifests.

    The list on the model card (`publishing.hub.hyperparameters`) is a separate one, for readers only.
    """
    args, rows = trainer.args, trainer.train_dataset
    return {
        **(rows_facts(rows) if has_length(rows) else rows.facts),
        "ranks": args.world_size,
        **adapter_facts(trainer.model),
        **trainer.data_collator.facts(),
        **optimizer_facts(args),
    }


def optimizer_facts(args: TrainingArguments) -> dict[str, Any]:
    """Batch, optimizer, schedule, seed and precision: the saved optimizer state continues with the old ones."""
    return {
        "rows per step": args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size,
        "optim": args.optim.value,
        "lr_scheduler_type": args.lr_scheduler_type.value,
        "learning_rate": args.learning_rate,
        "weight_decay": args.weight_decay,
        "adam_beta1": args.adam_beta1,
        "adam_beta2": args.adam_beta2,
        "max_grad_norm": args.max_grad_norm,
        "warmup_steps": args.warmup_steps,
        "seed": args.seed,
        "bf16": args.bf16,
    }


def rows_facts(rows: Dataset) -> dict[str, Any]:
    """Number of rows, and a hash of a thousand of them."""
    spread = np.unique(np.linspace(0, len(rows) - 1, 1000).astype(int))
    return {"rows": len(rows), "data": Hasher.hash([ids.tolist() for ids in rows.select(spread)["input_ids"]])}


def adapter_facts(model: PreTrainedModel) -> dict[str, Any]:
    """Settings of adapters that loading their weights does not bring back."""
    if not hasattr(model, "peft_config"):
        return {}
    config = model.peft_config["default"]
    facts = {name: getattr(config, name) for name in ("lora_alpha", "lora_dropout", "use_dora")}
    return facts | {"lora_r": config.r, "lora_target_modules": sorted(config.target_modules)}
