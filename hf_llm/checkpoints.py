"""Checkpoints that are complete or ignored: a manifest is written last, and only what has one is resumed from."""

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from transformers import TrainerCallback
from transformers.trainer_utils import rotate_checkpoints, sort_checkpoints

logger = logging.getLogger(__name__)

MANIFEST = "complete.json"


def write_text(path: Path, text: str) -> None:
    """Write a file that appears complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.tmp")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)


def write_manifest(checkpoint: Path, run: dict[str, object]) -> None:
    """List the checkpoint's files with their sizes in `complete.json`, beside the facts of the run."""
    files = {str(f.relative_to(checkpoint)): f.stat().st_size for f in sorted(checkpoint.rglob("*")) if f.is_file()}
    write_text(checkpoint / MANIFEST, json.dumps({"run": run, "files": files}, indent=1) + "\n")


def read_manifest(checkpoint: Path) -> dict:
    """The manifest of a complete checkpoint.

    Raises:
        ValueError: no manifest, or a file is missing or has another size: the checkpoint is half written.
    """
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ValueError(
            f"checkpoint `{checkpoint}` has no {MANIFEST}: it is half written or not one of ours"
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


def check_writable(output_dir: str) -> None:
    """The output folder can be made or written to; told before the work instead of after it.

    Raises:
        ValueError: it cannot.
    """
    place = Path(output_dir)
    while not place.exists():
        place = place.parent
    if not (place.is_dir() and os.access(place, os.W_OK)):
        raise ValueError(f"`--output_dir` {output_dir}: `{place}` is no folder that can be written to; name another")


def new_folder(output_dir: str) -> Path:
    """The absolute path of a folder that is to be written.

    Raises:
        ValueError: it holds something already, or cannot be made.
    """
    target = Path(output_dir).expanduser().absolute()
    check_writable(str(target.parent))
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ValueError(
            f"`--output_dir` {output_dir} is there already and not an empty folder: name another, or remove it"
        )
    return target


@contextlib.contextmanager
def appearing(target: Path) -> Iterator[Path]:
    """A folder to write into, which takes the place of `target` when all of it is written."""
    beside = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(beside, ignore_errors=True)  # of a run that was ended
    beside.mkdir(parents=True)
    try:
        yield beside
        os.replace(beside, target)
    except BaseException:
        shutil.rmtree(beside)
        raise


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
                (Path(name) / MANIFEST).unlink(missing_ok=True)

    def on_save(self, args, state, control, **kwargs):
        args.distributed_state.wait_for_everyone()
        if not args.should_save:
            return
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        (checkpoint / "training_args.bin").unlink(missing_ok=True)  # a pickle with paths; nothing reads it
        write_manifest(checkpoint, self.run)
        rotate_checkpoints(args.output_dir, self.save_total_limit, state.best_model_checkpoint, use_mtime=True)
