"""The last step: a model card beside the weights, and a push to the Hub that is checked file by file."""

import json
import logging
import math
import mmap
import re
import shlex
import textwrap
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    EvalResult,
    HfApi,
    ModelCard,
    ModelCardData,
    get_token,
)
from huggingface_hub.errors import HfHubHTTPError, HTTPError
from huggingface_hub.utils import filter_repo_objects, validate_repo_id
from transformers import AutoModelForMaskedLM, PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import HubStrategy

from hf_llm.files import atomic_path
from hf_llm.models.inspection import detect_auto_class

logger = logging.getLogger(__name__)

# The figures of a run that the model card shows.
REPORTED = ("eval_loss", "eval_perplexity", "eval_bits_per_byte", "train_tokens_packed", "num_input_tokens_seen")
# Never pushed: folders (checkpoints), unfinished files, anything pickled (`training_args.bin`, optimizer states), and
# what names this machine (logs, the best checkpoint's path). `hf upload --exclude` reads the same patterns.
NOT_PUSHED = [
    "*/*",
    ".*",
    "_*",
    "*.tmp",
    "*.bin",
    "*.pt",
    "*.pth",
    "*.pkl",
    "*.log",
    "complete.json",
    "trainer_state.json",
    "predictions.jsonl",  # with the texts that were evaluated
    "events.out.*",
]
# What `from_pretrained` or a reader would mix with the new files if an earlier push had left it in the repository.
REPLACED = ["*.safetensors", "*.bin", "*.pt", "*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt"]


def publish(trainer: Trainer, results: dict[str, float], *, base_model: str | None, dataset: str | None) -> None:
    """Write the model card, and with `--push_to_hub` push the final folder, which is complete on the disk by now.

    Raises:
        ConnectionError: the push failed; the message says how to push again.
    """
    args = trainer.args
    if not args.should_save:
        return
    write_model_card(
        args.output_dir,
        base_model=base_model,
        datasets=[dataset] if dataset else [],
        # The task's scores are those that have an interval.
        results={name: value for name, value in results.items() if name in REPORTED or f"{name}_ci95_low" in results},
        hyperparameters=hyperparameters(args),
    )
    if args.push_to_hub:
        repo_id = trainer.hub_model_id
        url = push_folder(
            args.output_dir,
            repo_id,
            private=args.hub_private_repo,
            revision=args.hub_revision,
            commit_message="Final model",
        )
        logger.info(f"Pushed and verified: {url}")


def check_base(args: TrainingArguments, model: PreTrainedModel) -> None:
    """Refuse to publish adapters on a base that only this machine has: nobody could load them.

    Raises:
        ValueError: the base is a local folder or file.
    """
    for config in getattr(model, "peft_config", {}).values():
        if args.push_to_hub and Path(config.base_model_name_or_path).exists():
            raise ValueError(
                f"`--push_to_hub` would publish adapters on the local base `{config.base_model_name_or_path}`: push "
                "that first and name it by its Hub id, or train all weights"
            )


def push_callbacks(trainer: Trainer) -> list[TrainerCallback]:
    """The callbacks of `--push_to_hub` for `run_training`."""
    return [PushCheckpoints(trainer)] if trainer.args.push_to_hub else []


class PushCheckpoints(TrainerCallback):
    """`--hub_strategy every_save`: pushes the model of each checkpoint while training goes on, one at a time.

    The Trainer itself would push all of the output folder's root, with `training_args.bin` in it: a pickle with user
    paths. So its `hub_strategy` is taken over here, to work on checkpoints that are complete. A push that fails costs
    a line in the log: the final one is still to come.

    Args:
        trainer: with `push_to_hub`. Add this callback after `CompleteCheckpoints`.

    Raises:
        ValueError: a private push was asked for, and the repository is public.
    """

    def __init__(self, trainer: Trainer):
        if trainer.args.should_save:
            _check_private(trainer.hub_model_id, trainer.args.hub_private_repo is not False)
        self.trainer = trainer
        self.strategy, trainer.args.hub_strategy = trainer.args.hub_strategy, HubStrategy.END
        self.pool, self.running = ThreadPoolExecutor(1), None

    def on_save(self, args, state, control, **kwargs):
        busy = self.running is not None and not self.running.done()
        if args.should_save and self.strategy != HubStrategy.END and (args.hub_always_push or not busy):
            self.running = self.pool.submit(self.push, args, state.global_step)

    def on_train_end(self, args, state, control, **kwargs):
        self.pool.shutdown()

    def push(self, args: TrainingArguments, step: int) -> None:
        folder, title = Path(args.output_dir) / f"checkpoint-{step}", f"Training in progress, step {step}"
        target = {"private": args.hub_private_repo, "revision": args.hub_revision}
        try:
            push_folder(folder, self.trainer.hub_model_id, commit_message=title, **target)
        except (ConnectionError, OSError, ValueError) as error:
            reason = textwrap.shorten(str(error.__cause__ or error), 300)
            logger.warning(f"Step {step} is not on the Hub, training goes on: {reason}")


def hyperparameters(args: TrainingArguments) -> dict[str, Any]:
    """The settings of training that the model card shows, for readers who want to train the same way."""
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    names = ("learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "max_grad_norm", "warmup_steps", "seed")
    schedule = {"optim": args.optim.value, "lr_scheduler_type": args.lr_scheduler_type.value}
    return {"rows per step": batch, **schedule, **{name: getattr(args, name) for name in names}, "bf16": args.bf16}


def write_model_card(
    folder: str | Path,
    *,
    base_model: str | None,
    datasets: list[str],
    results: dict[str, float],
    hyperparameters: dict[str, Any],
    language: str | None = None,
    license: str | None = None,
) -> None:
    """Write `README.md`: where the model comes from, its results, how to load it, how it was trained.

    Local names stay out: of base model and data sets only Hub ids are named, and hyperparameters that hold a path or
    a token are left out.

    Example:
        >>> write_model_card("out", base_model=None, datasets=["karpathy/tiny_shakespeare"],
        ...                  results={"perplexity": 12.5}, hyperparameters={"learning_rate": 3e-4})
    """
    folder, base_model, datasets = Path(folder), _hub_id(base_model), [name for name in datasets if _hub_id(name)]
    data_names = ", ".join(datasets) or "local files"
    auto_class = detect_auto_class(str(folder))
    pipeline = "fill-mask" if auto_class is AutoModelForMaskedLM else "text-generation"
    evaluated_on = {"dataset_type": datasets[0] if len(datasets) == 1 else "custom", "dataset_name": data_names}
    eval_results = [
        EvalResult(task_type=pipeline, metric_type=name, metric_value=float(value), **evaluated_on)
        for name, value in results.items()
        if math.isfinite(value)  # the Hub reads the metadata as JSON, which has no NaN
    ]
    card_data = ModelCardData(
        model_name=folder.resolve().name,
        base_model=base_model,
        datasets=datasets or None,
        eval_results=eval_results or None,
        language=language,
        license=license,
        library_name="peft" if (folder / "adapter_config.json").is_file() else "transformers",
        pipeline_tag=pipeline,
        tags=["hf_llm"],
    )
    origin = f"Fine-tuned from `{base_model}`" if base_model else "Trained"
    public = {name: value for name, value in hyperparameters.items() if not _is_local_or_secret(value)}
    card = ModelCard(f"""---
{card_data.to_yaml()}
---

# {folder.resolve().name}

{origin} on {data_names} with hf_llm and the Hugging Face Trainer.

## Results

{_table("Metric", {name: f"{value:.6g}" for name, value in results.items()})}

## How to load it

```python
from transformers import {auto_class.__name__}, AutoTokenizer

name = "USER/REPOSITORY"  # this repository's id, or the folder it was downloaded to
model = {auto_class.__name__}.from_pretrained(name)
tokenizer = AutoTokenizer.from_pretrained(name)
```

## Hyperparameters

{_table("Name", public)}
""")
    if (token := get_token()) and token in str(card):
        raise ValueError("`README.md` would contain the Hub token: take it out of the arguments of the model card")
    with atomic_path(folder / "README.md") as temporary:
        card.save(temporary)


def push_folder(
    folder: str | Path, repo_id: str | None, *, private: bool | None, revision: str | None = None, commit_message: str
) -> str:
    """Push a finished model folder in one commit, compare every file on the Hub with its local one, return the URL.

    Only files in the folder's root go: no checkpoints, optimizer states, pickles or logs. `repo_id` None: the folder's
    name under the user's own namespace. `private` None: private. `revision`: a branch, created where it is missing.
    The token is huggingface_hub's own: `HF_TOKEN` or `hf auth login`. Whatever goes wrong, the folder is left as it is.

    Example:
        >>> push_folder("out/tiny-llama", None, private=None, commit_message="1000 steps")
        'https://huggingface.co/me/tiny-llama'
    """
    folder = Path(folder)
    names = sorted(path.name for path in folder.glob("*") if path.is_file())
    files = {name: folder / name for name in filter_repo_objects(names, ignore_patterns=NOT_PUSHED)}
    private, repo_id = private is not False, repo_id or folder.resolve().name
    validate_repo_id(repo_id)
    _check_complete(folder, files)
    _check_no_token(files)
    try:
        return _upload_and_verify(folder, files, repo_id, private, revision, commit_message)
    except (HTTPError, OSError, RuntimeError, json.JSONDecodeError) as error:  # an HTML error page is no JSON
        raise ConnectionError(_failure(error, folder, repo_id, private, revision)) from error


def _upload_and_verify(
    folder: Path, files: dict[str, Path], repo_id: str, private: bool, revision: str | None, commit_message: str
) -> str:
    api = HfApi()
    url = api.create_repo(repo_id, private=private, exist_ok=True)
    _check_private(url.repo_id, private)
    if revision is not None:
        api.create_branch(url.repo_id, branch=revision, exist_ok=True)
    remote = [entry.path for entry in api.list_repo_tree(url.repo_id, revision=revision)]
    stale = [name for name in filter_repo_objects(remote, allow_patterns=REPLACED) if name not in files]
    # `upload_folder` may split a push into several commits, and readers would see half a model in between.
    operations = [CommitOperationDelete(name) for name in stale]
    operations += [CommitOperationAdd(name, path) for name, path in files.items()]
    commit = api.create_commit(url.repo_id, operations, commit_message=commit_message, revision=revision)
    check = api.verify_repo_checksums(url.repo_id, local_dir=folder, revision=commit.oid)
    wrong = {mismatch["path"] for mismatch in check.mismatches} | set(check.extra_paths)  # extra: local only
    if wrong := sorted(wrong & files.keys()):
        raise OSError(
            f"`{', '.join(wrong)}` on the Hub at commit {commit.oid} is missing or differs from the local file."
        )
    return str(url)


def _check_private(repo_id: str, private: bool) -> None:
    if private and not HfApi().model_info(repo_id).private:
        raise ValueError(
            f"`{repo_id}` is a public repository: pass `--hub_private_repo false` (`private=False`) to push there, or "
            "name another"
        )


def _check_complete(folder: Path, files: Iterable[str]) -> None:
    index = folder / "model.safetensors.index.json"
    weights = set(json.loads(index.read_text())["weight_map"].values()) if index.is_file() else set()
    missing = sorted(weights - set(files))
    if not any(name.endswith(".safetensors") for name in files):
        missing.insert(0, "*.safetensors")
    if "config.json" not in files and "adapter_config.json" not in files:
        missing.insert(0, "config.json")
    if missing:
        raise ValueError(
            f"`{folder}` holds no complete model: {', '.join(missing)} missing; save the model there first"
        )


def _check_no_token(files: dict[str, Path]) -> None:
    token = (get_token() or "").encode()
    for name, path in files.items():
        if not token or not path.stat().st_size:
            continue
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if content.find(token) >= 0:
                raise ValueError(f"`{name}` contains the Hub token: remove it there; nothing was pushed")


def _failure(error: Exception, folder: Path, repo_id: str, private: bool, revision: str | None) -> str:
    command = ["hf", "upload", repo_id, str(folder), ".", "--private" if private else "--no-private"]
    command += ["--revision", revision] if revision else []
    command += [word for pattern in NOT_PUSHED for word in ("--exclude", pattern)]
    # The client wraps a failed transfer of a file in a RuntimeError that does not say why.
    cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
    if isinstance(cause, HfHubHTTPError) and cause.response.status_code in (401, 403):
        remedy = "Log in (`hf auth login`, or `HF_TOKEN`) and push"
    else:
        remedy = "Push"
    reason = textwrap.shorten(str(cause) or type(cause).__name__, 300).rstrip(".")
    return (
        f"Push to `{repo_id}` failed: {reason}. The local results in `{folder}` are complete. "
        f"{remedy} again with: {shlex.join(command)}"
    )


def _hub_id(name: str | None) -> str | None:
    """The name, if it can be a repository's on the Hub; None for a local folder or file."""
    if not name or Path(name).exists():
        return None
    try:
        validate_repo_id(name)
    except ValueError:
        return None
    return name


def _is_local_or_secret(value: Any) -> bool:
    """Whether a hyperparameter holds a local path or something like a token, at any depth."""
    if isinstance(value, dict):
        return any(map(_is_local_or_secret, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_is_local_or_secret, value))
    text = str(value)
    return text.startswith("hf_") or (bool(re.search(r"[/\\]", text)) and _hub_id(text) is None)


def _table(heading: str, rows: dict[str, Any]) -> str:
    if not rows:
        return "None were recorded."
    cells = ((name, " ".join(str(value).split()).replace("|", "\\|")) for name, value in rows.items())
    return "\n".join([f"| {heading} | Value |", "|---|---|", *(f"| `{name}` | {value} |" for name, value in cells)])
