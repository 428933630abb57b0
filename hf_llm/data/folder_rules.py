"""What a folder holds besides training text, and is left out: cards, licences, metadata, outputs of earlier runs."""

import json
import os
import re
import textwrap
from collections.abc import Sequence

from hf_llm.data.byte_streams import file_format, open_bytes
from hf_llm.data.formats import can_read, is_document
from hf_llm.data.found import NO_READER
from hf_llm.data.office_documents import REMEDY, needs_package
from hf_llm.messages import printable, without_secrets

PREPARED_MANIFEST = "manifest.json"  # of a prepared folder
TOKENS_FILE = "tokens.json"  # of a folder of tokens
PREPARED_FILES = {PREPARED_MANIFEST, "README.md", "report.md", "funnel.png", "dropped.tsv.gz"}  # besides the shards
# Documents with these names, alone or before a separator: `LICENSE-MIT.txt`, `COPYING.LESSER`.
NO_TEXT = re.compile(
    r"readme.*|(licen[cs]es?|copying|notices?|citations?)([._-].*)?|"
    r"(copyright|authors|contributors|contributing|changelog|code[_-]of[_-]conduct|(data(set)?|model)[_-]?card|"
    r"data[_-]?sheet)(\..*)?",
    re.IGNORECASE,
)
METADATA = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "croissant.json", "data_card.json"}
# A folder with one of these is the output of a training, or a model.
MODEL_FILES = {
    "trainer_state.json", "training_args.bin", "tokenizer_config.json", "adapter_config.json", "all_results.json",
    "train_results.json", "eval_results.json", "predict_results.json", "model.safetensors", "pytorch_model.bin",
    "model.safetensors.index.json", "pytorch_model.bin.index.json", "adapter_model.safetensors",
}  # fmt: skip
# What else such a folder holds in a format that has a reader.
MODEL_TEXTS = {
    "config.json", "generation_config.json", "tokenizer.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "vocab.txt", "merges.txt", "preprocessor_config.json", "processor_config.json", "predictions.jsonl",
    "chat_template.json", "modules.json", "config_sentence_transformers.json", "sentence_bert_config.json",
}  # fmt: skip
PACKED = {".gz", ".zst", ".bz2", ".xz", ".lz4", ".zip", ".7z", ".br", ".z", ".lzma", ".rar", ".snappy", ".lzo"}


def reason_to_skip_file(name: str, names: set[str], text_extensions: Sequence[str] = ()) -> str | None:
    """Return why a file in a folder is not training text; None if it is.

    Args:
        names: of all files in its folder.
    """
    if reason := hidden(name):
        return reason
    if (is_document(name, text_extensions) or "." not in name) and NO_TEXT.fullmatch(name):
        return "a readme, card or licence"
    if name in METADATA or (name == "state.json" and "dataset_info.json" in names):
        return "metadata of a data set"
    if name in MODEL_FILES or (name in MODEL_TEXTS and names & MODEL_FILES):
        return "output of a training, or a model"
    if name == PREPARED_MANIFEST:
        return "a manifest, but not that of a prepared folder"
    return missing_package(name) if can_read(name, text_extensions) else no_reader(name)


def reason_to_skip_folder(path: str, names: set[str]) -> str | None:
    """Return why nothing in a subfolder is training text; None if something may be.

    Args:
        path: a path or URL.
        names: of all files in it.
    """
    if reason := hidden(os.path.basename(path)):
        return reason
    if holds_tokens(names):
        return "a folder of tokens"
    if names & MODEL_FILES:
        return "output of a training, or a model"
    return "a prepared folder" if prepared_shards(path, names) is not None else None


def holds_tokens(names: set[str]) -> bool:
    """Return whether a folder with these files is one that `recipes/tokenize_data.py` wrote."""
    return {TOKENS_FILE, "train-00000.arrow"} <= names


def refuse_tokens(argument: str, folder: str, names: set[str]) -> None:
    """Raise an error if an argument that takes text names a folder of tokens."""
    if holds_tokens(names):
        shown = printable(without_secrets(folder) if "://" in folder else folder)
        raise ValueError(
            f"`{argument}` {shown} holds tokens, not text: only `--train_file` of `recipes/pretrain.py` takes such a "
            "folder, alone and from a local disk: name the text that it was made of"
        )


def hidden(name: str) -> str | None:
    """Return why a file or folder is hidden: Unix hides names with a dot, Spark and macOS also those with `_`."""
    return f"hidden: its name begins with `{name[0]}`" if name.startswith((".", "_")) else None


def missing_package(name: str) -> str | None:
    """Return the reason for a document whose reader is not installed."""
    extension, _ = file_format(name)
    return f"no reader for {extension}: {REMEDY}" if needs_package(extension) else None


def no_reader(name: str) -> str:
    """Return the reason for a format without a reader; of a compressed file or archive with the extension before it.

    Example:
        >>> [no_reader(name) for name in ("x.tar.gz", "v1.2.gz", "Makefile")]
        ['no reader for .tar.gz', 'no reader for .gz', 'no reader for files without extension']
    """
    stem, last = os.path.splitext(name.lower())
    inner = os.path.splitext(stem)[1]
    both = last in PACKED and re.fullmatch(r"\.[a-z]\w{0,9}", inner)
    return NO_READER + f"{(inner + last if both else last) or 'files without extension'}"


def prepared_shards(folder: str, names: set[str]) -> list | None:
    """Return the entries of the shards in a prepared folder's manifest; None if it has no manifest of this kind.

    Args:
        folder: a path or URL.
        names: of all files in it.
    """
    if PREPARED_MANIFEST not in names:
        return None
    try:
        with open_bytes(os.path.join(folder, PREPARED_MANIFEST)) as file:
            manifest = json.loads(file.read())
    except (OSError, ValueError, RecursionError):
        return None
    shards = manifest.get("shards") if isinstance(manifest, dict) else None
    return shards if isinstance(shards, list) else None


def shard_path(folder: str, shard: object) -> str:
    """Return the path of a shard that a prepared folder's manifest names; the manifest may come from anybody.

    Raises:
        ValueError: it is not a file inside the folder.
    """
    path = os.path.join(folder, shard_name(folder, shard))
    if not os.path.isfile(path):
        raise bad_shard(folder, shard, "is not a file that exists")
    if not is_inside(path, folder):
        raise bad_shard(folder, shard, "leads out of the folder by a link")
    return path


def shard_name(folder: str, shard: object) -> str:
    """Return the path of a shard from its prepared folder or URL.

    Raises:
        ValueError: the entry in the manifest is not such a path.
    """
    name = shard.get("file") if isinstance(shard, dict) else None
    if not isinstance(name, str) or not name or "\0" in name:
        raise bad_shard(folder, shard, "does not name a file")
    if os.path.isabs(name) or "://" in name or ".." in name.split("/"):
        raise bad_shard(folder, shard, "is not a path inside the folder")
    return name


def bad_shard(folder: str, shard: object, problem: str) -> ValueError:
    """Make the error for an entry of a prepared folder's manifest."""
    manifest = printable(without_secrets(folder) if "://" in folder else folder) + f"/{PREPARED_MANIFEST}"
    entry = textwrap.shorten(printable(json.dumps(shard)), 200, placeholder="...")
    return ValueError(f"`{manifest}`: the shard {entry} {problem}: prepare the folder again")


def is_inside(path: str, folder: str) -> bool:
    """Return whether a path, with all links followed, is inside a folder."""
    if os.path.basename(os.path.dirname(folder)) == "snapshots":  # of the Hub's cache: links to `blobs` next to it
        folder = os.path.dirname(os.path.dirname(folder))
    root = os.path.realpath(folder)
    return os.path.commonpath([root, os.path.realpath(path)]) == root
