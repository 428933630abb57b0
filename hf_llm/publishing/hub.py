"""The last step of a run: a model card, and a push to the Hub after which every file is compared."""

import json
import logging
import mmap
import shlex
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HTTPError
from huggingface_hub.utils import filter_repo_objects, validate_repo_id
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import HubStrategy

from hf_llm.arguments import DataArguments
from hf_llm.data.mixtures import read_mixture
from hf_llm.mappings import read_json_file
from hf_llm.messages import one_line
from hf_llm.publishing.card import card_hyperparameters, card_results, write_model_card
from hf_llm.publishing.run_report import try_report, write_run_report

logger = logging.getLogger(__name__)

# Never pushed: folders (checkpoints) other than the pictures of the card in `curves`, unfinished files, pickles
# (`training_args.bin`, optimizer states), and files with local paths or evaluated texts. `hf upload --exclude` reads
# the same patterns.
NOT_PUSHED = [
    *("[!c]*/*", "c[!u]*/*", "*/*/*", "*/*[!g]"),
    ".*",
    "_*",
    "*.tmp",
    "*.bin",
    "*.pt",
    "*.pth",
    "*.pkl",
    "*.log",
    "complete.json",
    "run.yaml",
    "environment.json",
    "log.jsonl",
    "trainer_state.json",
    "predictions.jsonl",
    "document_losses.jsonl",  # contains hashes of them
    "report.html",
    "samples.json",
    "events.out.*",
]
# What the client raises on an answer that is an HTML page, or JSON of another server.
NOT_A_HUB = (json.JSONDecodeError, KeyError, TypeError, AttributeError)
# Deleted from the repository if not pushed again: `from_pretrained` or a reader would mix them with the new files.
DELETED_IF_OLD = ["*.safetensors", "*.bin", "*.pt", "*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt"]


def dataset_names(data_args: DataArguments) -> list[str | None]:
    """Return the names of the data sets that are read, those of a mixture's sources too; None stands for others."""
    sources = read_mixture(data_args).sources.values() if data_args.mixture else [data_args]
    names = [source.dataset_name for source in sources]
    return [*dict.fromkeys(None if name == "python_docs" else name for name in names)]


def publish(
    trainer: Trainer, results: dict[str, float], *, base_model: str | None, datasets: Sequence[str | None]
) -> None:
    """Write report and model card, and with `--push_to_hub` push the final folder. Call it when all results are saved.

    Args:
        results: what `run_training` returns.
        base_model: the model that was fine-tuned, None for a new model.
        datasets: what `dataset_names` returns.

    Raises:
        ConnectionError: the push failed; the message says how to push again.
    """
    args = trainer.args
    if not args.should_save:
        return
    folder = Path(f"{args.output_dir}")
    try_report(write_run_report, folder)
    write_model_card(
        folder,
        base_model=base_model,
        datasets=datasets,
        results=card_results(results),
        hyperparameters=card_hyperparameters(args),
    )
    if args.push_to_hub:
        target = {"private": args.hub_private_repo, "revision": args.hub_revision}
        url = push_folder(folder, trainer.hub_model_id, commit_message="Final model", **target)
        logger.info(f"Pushed and verified: {url}")


def check_base(args: TrainingArguments, model: PreTrainedModel) -> None:
    """Refuse to publish adapters whose base model is local: nobody else could load them.

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
    """Return the callbacks of `--push_to_hub` for `run_training`."""
    return [PushCheckpoints(trainer)] if trainer.args.push_to_hub else []


class PushCheckpoints(TrainerCallback):
    """Pushes the model of each checkpoint in the background, one at a time, with `--hub_strategy every_save`.

    This replaces the Trainer's own pushes, which would include `training_args.bin`, a pickle with local paths, and
    files of unfinished checkpoints. A push that fails is only logged, since the final push is still to come.

    Args:
        trainer: with `push_to_hub`. Add this callback after `CompleteCheckpoints`. Its `hub_strategy` is changed.

    Raises:
        ValueError: a private push was asked for, and the repository is public.
    """

    def __init__(self, trainer: Trainer):
        if trainer.args.should_save:
            check_private(f"{trainer.hub_model_id}", trainer.args.hub_private_repo is not False)
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
        folder, title = Path(f"{args.output_dir}/checkpoint-{step}"), f"Training in progress, step {step}"
        target = {"private": args.hub_private_repo, "revision": args.hub_revision}
        try:
            push_folder(folder, self.trainer.hub_model_id, commit_message=title, **target)
        except (ConnectionError, OSError, ValueError) as error:
            logger.warning(f"Step {step} is not on the Hub, training continues: {one_line(error.__cause__ or error)}")


def push_folder(
    folder: str | Path, repo_id: str | None, *, private: bool | None, revision: str | None = None, commit_message: str
) -> str:
    """Push a finished model folder in one commit, and compare every file on the Hub with the local one.

    Only files in the folder's root are pushed: no checkpoints, optimizer states, pickles or logs. The token is that of
    `HF_TOKEN` or `hf auth login`. The local folder is never changed.

    Args:
        folder: a complete model, as `save_pretrained` writes it.
        repo_id: default: the folder's name, in the user's own namespace.
        private: default: private.
        revision: branch to push to, created if it is missing; default: main.
        commit_message: title of the commit.

    Returns:
        The repository's URL.

    Raises:
        ValueError: the model is incomplete, a file contains the token, the id is not valid, or a private push was asked
            for and the repository is public.
        ConnectionError: the push failed, or a file differs on the Hub; the message has the command that pushes again.

    Example:
        >>> push_folder("out/tiny-llama", None, private=None, commit_message="1000 steps")
        'https://huggingface.co/me/tiny-llama'
    """
    folder = Path(folder)
    paths = [*folder.glob("*"), *folder.glob("curves/*.png")]
    names = sorted(path.relative_to(folder).as_posix() for path in paths if path.is_file())
    files = {name: folder / name for name in filter_repo_objects(names, ignore_patterns=NOT_PUSHED)}
    private, repo_id = private is not False, repo_id or folder.resolve().name
    validate_repo_id(repo_id)
    check_no_links(files)
    check_complete(folder, files)
    check_no_token(files)
    try:
        return upload_and_verify(folder, files, repo_id, private, revision, commit_message)
    except (HTTPError, OSError, RuntimeError, *NOT_A_HUB) as error:
        raise ConnectionError(describe_failure(error, folder, repo_id, private, revision)) from error


def upload_and_verify(
    folder: Path, files: dict[str, Path], repo_id: str, private: bool, revision: str | None, commit_message: str
) -> str:
    """Push the files in one commit, and return the repository's URL if their checksums on the Hub are right."""
    api = HfApi()
    url = api.create_repo(repo_id, private=private, exist_ok=True)
    check_private(url.repo_id, private)
    if revision is not None:
        api.create_branch(url.repo_id, branch=revision, exist_ok=True)
    remote = [entry.path for entry in api.list_repo_tree(url.repo_id, revision=revision)]
    stale = [name for name in filter_repo_objects(remote, allow_patterns=DELETED_IF_OLD) if name not in files]
    # `upload_folder` may make several commits, between which readers would see half a model.
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


def check_private(repo_id: str, private: bool) -> None:
    """Refuse a private push to a public repository."""
    try:
        public = private and not HfApi().model_info(repo_id).private
    except NOT_A_HUB as error:
        raise ConnectionError(f"{describe_other_server(error)}, or run without `--push_to_hub`") from error
    if public:
        raise ValueError(
            f"`{repo_id}` is a public repository: pass `--hub_private_repo false` (`private=False`) to push there, or "
            "name another"
        )


def check_complete(folder: Path, files: Iterable[str]) -> None:
    """Refuse a folder without a configuration, or without some of the weights that its index lists."""
    index = folder / "model.safetensors.index.json"
    weights = set(read_json_file(index)["weight_map"].values()) if index.is_file() else set()
    missing = sorted(weights - set(files))
    if not any(name.endswith(".safetensors") for name in files):
        missing.insert(0, "*.safetensors")
    if "config.json" not in files and "adapter_config.json" not in files:
        missing.insert(0, "config.json")
    if missing:
        raise ValueError(
            f"`{folder}` does not hold a complete model: {', '.join(missing)} missing; save the model there first"
        )


def check_no_links(files: dict[str, Path]) -> None:
    """Refuse symbolic links, which may lead to files that nobody meant to publish."""
    if links := [name for name, path in files.items() if path.is_symlink()]:
        raise ValueError(
            f"`{', '.join(links)}` is a symbolic link: put the file there, or remove it; nothing was pushed"
        )


def check_no_token(files: dict[str, Path]) -> None:
    """Refuse files that contain the Hub token."""
    token = (get_token() or "").encode()
    for name, path in files.items():
        if not token or not path.stat().st_size:
            continue
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if content.find(token) >= 0:
                raise ValueError(f"`{name}` contains the Hub token: remove it there; nothing was pushed")


def describe_other_server(error: Exception) -> str:
    """Explain an answer that is not a Hub's."""
    return (
        f"the answer of `{constants.ENDPOINT}` is not a Hub's ({type(error).__name__}: {one_line(error)}): check "
        "HF_ENDPOINT and proxies"
    )


def describe_failure(error: Exception, folder: Path, repo_id: str, private: bool, revision: str | None) -> str:
    """Return the message of a failed push, with the command that pushes again."""
    command = ["hf", "upload", repo_id, str(folder), ".", "--private" if private else "--no-private"]
    command += ["--revision", revision] if revision else []
    command += [word for pattern in NOT_PUSHED for word in ("--exclude", pattern)]
    # The client hides the cause of a failed file transfer behind a RuntimeError.
    cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
    problem = describe_other_server(error) if isinstance(error, NOT_A_HUB) else one_line(cause)
    if isinstance(cause, HfHubHTTPError) and cause.response.status_code in (401, 403):
        remedy = "Log in (`hf auth login`, or `HF_TOKEN`) and push"
    else:
        remedy = "Push"
    return (
        f"Push to `{repo_id}` failed: {problem.rstrip('.')}. The local results in `{folder}` are complete. "
        f"{remedy} again with: {shlex.join(command)}"
    )
