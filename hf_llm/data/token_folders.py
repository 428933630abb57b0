"""Folders of packed token rows: text that is tokenized once, and used as it is by many runs and on any machine.

A folder holds shards in Arrow's stream format, which are memory-mapped, the tokenizer, and `tokens.json`: settings,
counts and the sizes of the shards. It has no paths of the machine that wrote it.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, concatenate_datasets
from datasets.fingerprint import Hasher
from datasets.utils import tqdm
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from hf_llm.arguments import TextArguments, TokenizationArguments
from hf_llm.data.arrow import hash_rows
from hf_llm.data.folder_rules import TOKENS_FILE
from hf_llm.data.packing import PackingReport, mean_attended_length, pack
from hf_llm.data.text_size import text_figures
from hf_llm.data.tokenization import tokenize, tokenizer_rules
from hf_llm.files import atomic_folder, checksum, write_json
from hf_llm.mappings import read_json_file
from hf_llm.messages import printable

VERSION = 1  # of the layout of a folder
BATCH_ROWS = 1000  # of a shard: as many are read together
CHECKED_BYTES = 1 << 20  # at both ends of a shard when it is opened; a whole one would be read to the end


class TokenRows(Dataset):
    """Packed rows of one split of token folders, read from the disk while they are used.

    Args:
        rows: `{"input_ids": list[int], "lengths": list[int]}`.
        folders: where they are.
        split: their entry in `tokens.json`; of several folders, the sums of its counts.
        settings: what `tokens.json` says of all splits.
    """

    def __init__(self, rows: Dataset, folders: list[Path], split: dict[str, Any], settings: dict[str, Any]):
        super().__init__(rows.data, fingerprint=split["data"])
        self.set_format("numpy")
        self.tokenizer, self.settings = f"{folders[0] / 'tokenizer'}", settings
        self.facts = {"rows": len(self), "data": split["data"]}  # compared when a run is resumed
        self.report, self.text = PackingReport(**split["report"]), split["text"]
        self.attended_length = split["attended_length"]

    def in_memory(self) -> Dataset:
        """Copy the rows to memory with the integers that `pack` gives: `map` writes to the folder of its rows."""
        schema = pa.schema({name: pa.list_(pa.int32()) for name in self.column_names})
        return Dataset(self.data.table.cast(schema), fingerprint=self._fingerprint).with_format("numpy")

    def check_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Check that a tokenizer gives the ids that the rows hold. It may have other special tokens or chat templates.

        Raises:
            ValueError: its rules or entries are others.
        """
        # The folder's tokenizer is read again: other versions of the libraries write the same one otherwise.
        saved = AutoTokenizer.from_pretrained(self.tokenizer)
        if tokenizer_rules(tokenizer) != tokenizer_rules(saved):
            folder = Path(self.tokenizer).parent
            raise ValueError(
                f"`--train_file` {folder} was made by another tokenizer (of {len(saved):,} entries) than "
                f"`{tokenizer.name_or_path}` (of {len(tokenizer):,}): make a folder by `recipes/tokenize_data.py "
                f"--tokenizer_name {tokenizer.name_or_path}`, or leave out `--tokenizer_name` for a new model"
            )


def is_token_folder(path: str | Path) -> bool:
    """Whether a path is a folder that `save_token_folder` wrote."""
    return (Path(path).expanduser() / TOKENS_FILE).is_file()


def load_token_rows(argument: str, patterns: list[str], split: str, data_args: TextArguments) -> TokenRows | None:
    """Open one split of token folders; their rows are not read.

    Args:
        argument: the flag that names the folders, for messages.
        patterns: its values.
        split: `train` or `validation`.
        data_args: the settings of the run, which must be those of the folders.

    Returns:
        The rows; None if no value of the argument is a token folder.

    Raises:
        ValueError: some values are others; the folders have other settings, or are not complete.
    """
    others = [pattern for pattern in patterns if not is_token_folder(pattern)]
    if len(others) == len(patterns):
        return None
    if others:
        raise ValueError(f"`{argument}` names a folder of tokens and `{printable(others[0])}`: give one kind of them")
    folders = [Path(pattern).expanduser() for pattern in patterns]
    settings = [read_settings(argument, folder) for folder in folders]
    for folder, found in zip(folders, settings, strict=True):
        check_layout(argument, folder, found, data_args)
        if found["tokenizer"] != settings[0]["tokenizer"]:
            raise ValueError(f"`{argument}`: {folders[0]} and {folder} were made by different tokenizers: name one")
    entries = [found["splits"][split] for found in settings]
    paths = [path for folder, entry in zip(folders, entries, strict=True) for path in shard_paths(folder, entry)]
    rows = concatenate_datasets([Dataset.from_file(f"{path}") for path in paths])
    return TokenRows(rows, folders, add_entries(entries), settings[0])


def read_settings(argument: str, folder: Path) -> dict[str, Any]:
    """Read what `tokens.json` says.

    Raises:
        ValueError: it, or the tokenizer beside it, was changed: the rows are still those that were written.
    """
    found = read_json_file(folder / TOKENS_FILE)
    changed = TOKENS_FILE if found.pop("checksum", None) != settings_checksum(found) else None
    for name, digest in {} if changed else found["tokenizer_files"].items():
        path = folder / "tokenizer" / name
        changed = changed if path.is_file() and checksum(path) == digest else f"tokenizer/{name}"
    if changed:
        raise ValueError(
            f"`{argument}` {folder}: {changed} is not as it was written: copy the folder again, or make another one by "
            "`recipes/tokenize_data.py`"
        )
    return found


def settings_checksum(settings: dict[str, Any]) -> str:
    """The checksum of what `tokens.json` says."""
    return Hasher.hash(json.dumps(settings, sort_keys=True))


def check_layout(argument: str, folder: Path, found: dict[str, Any], data_args: TextArguments) -> None:
    """Check that the rows of a folder are laid out as a run asks for.

    Raises:
        ValueError: they are not, or flags have no effect on them.
    """
    if found["version"] != VERSION:
        raise ValueError(f"`{argument}` {folder} has version {found['version']} of the layout, not {VERSION}")
    for name in ("max_length", "packing"):
        if found[name] != getattr(data_args, name):
            value = str(found[name]).lower()
            raise ValueError(
                f"`--{name}` is {str(getattr(data_args, name)).lower()}, and {folder} was made with {value}: give "
                f"`--{name} {value}`, or make another folder by `recipes/tokenize_data.py`"
            )
    if data_args.streaming:
        raise ValueError("`--streaming` has no effect on a folder of tokens, which is never read whole: leave it out")
    for name in ("max_train_samples", "max_eval_samples"):
        if getattr(data_args, name) is not None:
            raise ValueError(
                f"`--{name}` counts documents, and {folder} has packed rows: give it to `recipes/tokenize_data.py`, or "
                "limit the training by `--max_steps`"
            )


def shard_paths(folder: Path, entry: dict[str, Any]) -> Iterator[Path]:
    """The shards of a split.

    Raises:
        ValueError: one is missing or damaged.
    """
    for shard in entry["shards"]:
        path = folder / Path(shard["file"]).name
        size = path.stat().st_size if path.is_file() else 0
        if size != shard["bytes"]:
            raise ValueError(f"`{path}` has {size:,} of its {shard['bytes']:,} bytes: copy the folder again")
        if checksum(path, CHECKED_BYTES) != shard["sha256_of_ends"]:
            raise ValueError(f"`{path}` is damaged: its checksum is another: copy the folder again")
        yield path


def add_entries(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Add up the counts of one split of several folders; of one folder, return them as they are."""
    if len(entries) == 1:
        return entries[0]
    reports = [entry["report"] for entry in entries]
    total = {name: sum(report[name] for report in reports) for name in reports[0]}
    capacity = sum(report["tokens_packed"] / report["packing_efficiency"] for report in reports)
    weights = [report["tokens_packed"] for report in reports]
    texts = [entry["text"] for entry in entries]
    text: dict[str, Any] = {name: sum(figures[name] for figures in texts) for name in texts[0]}
    if text:
        compressed = sum(figures["bytes"] * figures["zlib_bits_per_byte"] for figures in texts)
        text["zlib_bits_per_byte"] = compressed / text["bytes"]
    return {
        "data": Hasher.hash([entry["data"] for entry in entries]),
        "attended_length": float(np.average([entry["attended_length"] for entry in entries], weights=weights)),
        "report": total | {"packing_efficiency": total["tokens_packed"] / capacity},
        "text": text,
    }


def save_token_folder(
    folder: Path, splits: dict[str, Dataset], tokenizer: PreTrainedTokenizerBase, args: TokenizationArguments
) -> dict[str, Any]:
    """Tokenize and pack texts, and write a folder that appears when it is complete.

    Args:
        folder: the new folder.
        splits: `train` and `validation`, rows `{"text": str}`.
        args: how rows are laid out, and the size of a shard.

    Returns:
        What `tokens.json` holds.

    Raises:
        ValueError: the text of `train` does not fill one row.
    """
    settings: dict[str, Any] = {"version": VERSION, "max_length": args.max_length, "packing": args.packing}
    settings |= {"tokenizer": Hasher.hash(tokenizer_rules(tokenizer)), "entries": len(tokenizer), "splits": {}}
    with atomic_folder(folder) as temporary:
        tokenizer.save_pretrained(temporary / "tokenizer")
        files = sorted((temporary / "tokenizer").iterdir())
        settings["tokenizer_files"] = {path.name: checksum(path) for path in files}
        for split, documents in splits.items():
            rows, report = pack(tokenize(documents, tokenizer), args.max_length, args.packing)
            if split == "train":
                report.check_fills_row(args.max_length)
            settings["splits"][split] = {
                "data": hash_rows(rows),
                "attended_length": mean_attended_length(rows),
                "report": asdict(report),
                "text": text_figures(documents, rows) if split == "validation" else {},
                "shards": [*write_shards(temporary, split, rows, smallest_integer(len(tokenizer)), args.shard_bytes)],
            }
        write_json(temporary / TOKENS_FILE, settings | {"checksum": settings_checksum(settings)})
    return settings


def smallest_integer(values: int) -> pa.DataType:
    """The smallest unsigned type for that many values, from 0: that of half the size up to 65,536."""
    return pa.uint16() if values <= 1 << 16 else pa.uint32()


def write_shards(
    folder: Path, split: str, rows: Dataset, integer: pa.DataType, shard_bytes: int
) -> Iterator[dict[str, Any]]:
    """Write packed rows to shards, and yield the entry of each: its name, size and checksum."""
    schema = pa.schema({"input_ids": pa.list_(integer), "lengths": pa.list_(pa.uint32())})
    batches = rows.with_format("arrow").iter(BATCH_ROWS)
    with tqdm(total=len(rows), desc=f"Writing {split}") as bar:
        for number, shard in enumerate(split_batches((table.cast(schema) for table in batches), shard_bytes)):
            path = folder / f"{split}-{number:05}.arrow"
            with pa.OSFile(f"{path}", "wb") as file, pa.ipc.new_stream(file, schema) as writer:
                for table in shard:
                    writer.write_table(table)
                    bar.update(len(table))
            size = path.stat().st_size
            yield {"file": path.name, "bytes": size, "sha256_of_ends": checksum(path, CHECKED_BYTES)}


def split_batches(tables: Iterator[pa.Table], shard_bytes: int) -> Iterator[Iterator[pa.Table]]:
    """Yield groups of consecutive tables of about `shard_bytes` each; each must be used up before the next."""

    def take(table: pa.Table) -> Iterator[pa.Table]:
        size = table.nbytes
        yield table
        while size < shard_bytes and (following := next(tables, None)) is not None:
            size += following.nbytes
            yield following

    while (first := next(tables, None)) is not None:
        yield take(first)
