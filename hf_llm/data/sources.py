"""Load text from a Hub data set, files or the built-in sample, as the splits `train` and `validation`."""

import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, Features, IterableDataset, Value
from datasets.exceptions import DatasetsError

from hf_llm.arguments import (
    ReadingArguments,
    SourceArguments,
    TextArguments,
    TokenizationArguments,
    TokenizerArguments,
)
from hf_llm.data.byte_streams import BadFile, missing_column
from hf_llm.data.checks import refuse_bad_files
from hf_llm.data.columns import field_names, text_of, text_row
from hf_llm.data.folds import groups_of, hold_out, number_groups, rows_to_divide, split_validation
from hf_llm.data.found import SourceFile
from hf_llm.data.locations import find_files, find_sources, split_patterns
from hf_llm.data.mixtures import naming_source, read_mixture
from hf_llm.data.readers import read_documents, read_texts
from hf_llm.data.saved_datasets import held_out_split
from hf_llm.data.token_folders import load_token_rows
from hf_llm.messages import one_line, printable
from hf_llm.python_docs import python_docs

logger = logging.getLogger(__name__)

TextSource = TextArguments | TokenizerArguments | TokenizationArguments
TEXT = Features({"text": Value("string")})
GROUP = "group of the document"
Rows = TypeVar("Rows", Dataset, IterableDataset)


def load_splits(data_args: TextSource, seed: int) -> DatasetDict | dict:
    """Load the text that `data_args` names.

    Rows without text are dropped and counted. Without a validation split, `validation_fraction` of the rows is drawn
    with `seed`; a single document is cut in two instead, at the end of a paragraph, line or word. The limits keep the
    first rows: in file order, or in the order in which they were drawn.

    Returns:
        `train` and `validation`, each with at least one row and with the single column `text` of strings. With
        `--streaming`, `train` is read while it is used. With `--mixture`, each is a dictionary of the sources.

    Raises:
        ValueError: an argument, a file or a row is wrong.
    """
    if data_args.train_file and data_args.dataset_name:
        raise ValueError("`--dataset_name` and `--train_file` are both given: name the data with one of them")
    if data_args.validation_file and not data_args.train_file:
        raise ValueError("`--validation_file` is given without `--train_file`: name the training files as well")
    if isinstance(data_args, TextArguments) and data_args.mixture:
        return load_mixture(data_args, seed)
    if isinstance(data_args, TextArguments) and (tokens := load_token_splits(data_args)):
        return tokens
    if isinstance(data_args, TextArguments) and data_args.streaming:
        return load_streams(data_args)
    if data_args.train_file:
        splits = load_local_splits(data_args)
    elif data_args.dataset_name in (None, "python_docs"):
        splits = {str(split): rows.select_columns("text") for split, rows in python_docs().items()}
    else:
        splits = load_hub_texts(data_args)
    if isinstance(data_args, TextArguments) and data_args.fold:
        return hold_out_texts(rows_to_divide(splits, data_args.fold), data_args, seed)
    splits = {split: drop_empty_rows(rows, split) for split, rows in splits.items()}
    if "validation" not in splits:
        splits = split_validation(splits["train"], data_args.validation_fraction, seed)
    return DatasetDict({split: first_rows(splits[split], limit) for split, limit in data_args.limits().items()})


def hold_out_texts(documents: Dataset, data_args: TextArguments, seed: int) -> DatasetDict:
    """Hold out a fold of the documents; of the first ones, if their number is limited.

    Raises:
        ValueError: there are too few documents, or they have no column `group_field`.
    """
    if data_args.group_field:
        groups = number_groups(load_groups(data_args, data_args.group_field), data_args.group_field)
        documents = documents.add_column(GROUP, groups)  # pyright: ignore[reportCallIssue]
    documents = first_rows(drop_empty_rows(documents, "train"), data_args.max_train_samples)
    groups = documents[GROUP][:] if data_args.group_field else None
    splits = hold_out(documents.select_columns("text"), data_args, seed, groups=groups)
    return DatasetDict(
        {"train": splits["train"], "validation": first_rows(splits["validation"], data_args.max_eval_samples)}
    )


def load_groups(data_args: TextArguments, name: str) -> list[Any]:
    """Read a column beside the texts of all documents; None where a document has no columns.

    Raises:
        ValueError: no document has it.
    """
    if data_args.dataset_name not in (None, "python_docs"):
        return groups_of(load_hub_splits(data_args)["train"], name)
    if not data_args.train_file:
        return groups_of(python_docs()["train"], name)
    groups, reading = [], data_args.reading()
    for file in find_files("--train_file", data_args.train_file, data_args.text_extensions).files:
        column = file.column or data_args.dataset_text_field
        for _, problems, kept in read_documents(file.path, column, reading, [name]):
            if not any(problem.left_out for problem in problems.values()):  # as `read_texts` leaves them out
                groups += [json.loads(columns).get(name) if columns else None for columns in kept]
    return groups


def load_token_splits(data_args: TextArguments) -> dict[str, Any] | None:
    """Open the token folders of `--train_file`, and their validation split unless `--validation_file` names another.

    Returns:
        `train` and `validation`, packed rows, or text of `--validation_file`; None if there are no token folders.

    Raises:
        ValueError: the rows are not those that the run asks for.
    """
    files, held_out = data_args.train_file or [], data_args.validation_file
    train = load_token_rows("--train_file", files, "train", data_args)
    if train is None:
        return None
    if data_args.fold:
        raise ValueError(f"`--fold` {data_args.fold} divides documents, and `--train_file` has packed rows: name text")
    argument, held_out = ("--validation_file", held_out) if held_out else ("--train_file", files)
    validation = load_token_rows(argument, held_out, "validation", data_args)
    if validation is None:
        texts = load_text_files(find_files("--validation_file", held_out, data_args.text_extensions).files, data_args)
        validation = drop_empty_rows(texts, "validation")
    return {"train": train, "validation": validation}


def load_mixture(data_args: TextArguments, seed: int) -> dict[str, dict[str, Any]]:
    """Load the text of each source of a mixture, as `load_splits` does of one; their splits are not joined.

    Raises:
        ValueError: the mixture or a source is wrong; the source is named.
    """
    splits: dict[str, dict[str, Any]] = {"train": {}, "validation": {}}
    for name, source in read_mixture(data_args).sources.items():
        with naming_source(data_args.mixture, name):
            for split, rows in load_splits(source, seed).items():
                splits[f"{split}"][name] = rows
    return splits


def load_streams(data_args: TextArguments) -> dict[str, Any]:
    """Load text as `load_splits` does, with `train` read only while it is used. Each file is a shard of it.

    Raises:
        ValueError: as `load_splits`; there is no validation split, or nothing to stream.
    """
    if data_args.fold:
        raise ValueError(
            f"`--fold` {data_args.fold} divides rows that are read before training: leave `--streaming` out"
        )
    if data_args.dataset_name == "python_docs":
        splits: dict[str, Any] = {str(split): rows.select_columns("text") for split, rows in python_docs().items()}
        splits["train"] = splits["train"].to_iterable_dataset()
    elif data_args.dataset_name:
        splits = load_hub_texts(data_args, streaming=True)
        if "validation" in splits:
            splits["validation"] = Dataset.from_list(list(first_rows(splits["validation"], data_args.max_eval_samples)))
    elif data_args.train_file:
        field, reading, patterns = data_args.dataset_text_field, data_args.reading(), split_patterns(data_args)
        files = find_sources("--train_file", patterns["train"], reading.text_extensions).files
        refuse_bad_files(files, field, reading)
        # Two lists, of which `datasets` gives each rank a share.
        columns = [file.column or field for file in files]
        settings: Any = {"paths": [file.path for file in files], "columns": columns, "reading": reading}
        splits = {"train": IterableDataset.from_generator(stream_files, TEXT, settings)}
        if "validation" in patterns:
            files = find_files("--validation_file", patterns["validation"], reading.text_extensions).files
            splits["validation"] = first_rows(load_text_files(files, data_args), data_args.max_eval_samples)
    else:
        raise ValueError("`--streaming` has nothing to stream: give `--train_file` or `--dataset_name`")
    if "validation" not in splits:
        raise ValueError("`--streaming` does not split off validation rows: give `--validation_file`")
    train = first_rows(splits["train"], data_args.max_train_samples)
    return {"train": train, "validation": drop_empty_rows(splits["validation"], "validation")}


def stream_files(paths: list[str], columns: list[str], reading: ReadingArguments) -> Iterator[dict[str, str | None]]:
    """Yield the rows of files, each with its column of texts, up to the first that cannot be read.

    Raises:
        ValueError: a file or row cannot be read.
    """
    for path, column in zip(paths, columns, strict=True):
        for texts in read_texts(path, column, reading):
            yield from ({"text": text} for text in texts.to_pylist())


def load_hub_splits(data_args: SourceArguments, streaming: bool = False) -> dict[str, Any]:
    """Load a data set of the Hub, or a folder, by its name.

    Returns:
        `train`, if it has that split, and `validation`: the first of its splits `validation`, `validation_...` and
        `test`, if it has one of them.

    Raises:
        ValueError: it cannot be loaded, or has none of these splits.
    """
    name = data_args.dataset_name
    try:
        settings: Any = {"name": data_args.dataset_config_name, "streaming": streaming}  # it types no bool
        splits = datasets.load_dataset(f"{name}", **settings)
    except (OSError, ValueError, DatasetsError) as error:  # OSError: no network, no such data set
        raise ValueError(
            f"`--dataset_name` {name} cannot be loaded: {one_line(error)}: check the name, the network and "
            "--dataset_config_name, or give --train_file"
        ) from None
    chosen = {"train": splits["train"]} if "train" in splits else {}
    if validation := held_out_split(splits):
        chosen["validation"] = splits[validation]
        logger.info(f"{name}: validation is its split `{validation}`")
    if not chosen:
        raise ValueError(
            f"`--dataset_name` {name} has no split `train`, only {', '.join(splits)}: name another data set"
        )
    return chosen


def load_hub_texts(data_args: TextSource, streaming: bool = False) -> dict[str, Any]:
    """Load the column of texts of a data set of the Hub, or several columns joined, as `text`.

    Raises:
        ValueError: as `load_hub_splits`; it has no `train`, no such column, or the column does not hold strings.
    """
    splits, name, field = load_hub_splits(data_args, streaming), data_args.dataset_name, data_args.dataset_text_field
    if "train" not in splits:
        raise ValueError(f"`--dataset_name` {name} has no split `train`: name another data set")
    texts: dict[str, Any] = {}
    for split, rows in splits.items():
        columns = rows.column_names or list(next(iter(rows)))  # a stream may not know them
        if field not in columns:
            first = next(iter(rows), {})
            if missing := set(field.split("+")) - text_of(first, field)[1]:
                raise ValueError(missing_column(f"`--dataset_name` {name}", min(missing), field_names(first)))
            texts[split] = rows.map(text_row, fn_kwargs={"column": field}, remove_columns=columns, features=TEXT)
            continue
        if rows.features and getattr(rows.features[field], "dtype", None) not in ("string", "large_string"):
            raise ValueError(f"`--dataset_text_field` {field} holds {rows.features[field]}: name a column of strings")
        renamed = {} if field == "text" else {field: "text"}
        texts[split] = rows.select_columns(field).rename_columns(renamed)
    return texts


def load_local_splits(data_args: TextSource) -> dict[str, Dataset]:
    """Load the texts of `--train_file` and, if it is set, of `--validation_file`."""
    extensions = data_args.text_extensions
    found = {
        split: find_files(f"--{split}_file", patterns, extensions)
        for split, patterns in split_patterns(data_args).items()
    }
    if "validation" in found and (both := {*found["train"].paths} & {*found["validation"].paths}):
        logger.warning(f"validation is not independent: {', '.join(sorted(both))} is in `--train_file` as well")
    return {split: load_text_files(files, data_args) for split, (files, _) in found.items()}


@dataclass
class TextFilesConfig(datasets.BuilderConfig):
    """What the cache's key is made of: files with the columns of their texts, sizes and times; how they are read."""

    files: list[tuple] | None = None
    reading: ReadingArguments = field(default_factory=ReadingArguments)


class TextFiles(datasets.ArrowBasedBuilder):
    """Files of several formats as one cached data set with one column.

    The loaders of `datasets` do not keep every text as it is: its JSON loader turns dates into timestamps, infers
    types of columns that are not read and does not name a broken line; its CSV loader reads the text "NA" as missing.
    """

    VERSION = datasets.Version("1.3.0")  # part of the cache's key: raise it when a reader changes
    BUILDER_CONFIG_CLASS = TextFilesConfig

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(features=TEXT)

    def _split_generators(self, dl_manager) -> list[datasets.SplitGenerator]:
        return [datasets.SplitGenerator("train", gen_kwargs={"files": [file[:2] for file in self.config.files]})]

    def _generate_tables(self, files: list[tuple[str, str]]) -> Iterator[tuple[tuple[int, int], pa.Table]]:
        for number, (path, column) in enumerate(files):
            for index, texts in enumerate(read_texts(path, column, self.config.reading)):
                yield (number, index), pa.table({"text": texts.cast(pa.string())})


def load_text_files(sources: list[SourceFile], data_args: TextSource) -> Dataset:
    """Read files into the cache of `datasets`, or load them from it."""
    column, files = data_args.dataset_text_field, []
    for source in sources:
        status = os.stat(source.path)
        # Unlike the modification time, the change time cannot be set back: the cache never serves an old version.
        version = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        files.append((source.path, source.column or column, *version))
    builder = TextFiles(dataset_name="hf_llm_text", files=files, reading=data_args.reading())
    if not os.path.exists(builder.cache_dir):
        refuse_bad_files(sources, column, data_args.reading())
    num_proc = min(data_args.dataset_num_proc or 1, len(files))
    try:
        builder.download_and_prepare(num_proc=num_proc if num_proc > 1 else None)
    except BadFile as error:
        hint = "`prepare_data.py --on_error skip` writes a folder without what cannot be read"
        raise ValueError(f"{error}; {hint}") from None  # without the traceback of a worker process
    if not sum(split.num_examples for split in (builder.info.splits or {}).values()):
        others = f" and {len(sources) - 1} other files" if len(sources) > 1 else ""
        raise ValueError(f"`{printable(sources[0].path)}`{others}: empty, without any row: name other files")
    return builder.as_dataset("train")  # pyright: ignore[reportReturnType]  # of one split not a dict


def drop_empty_rows(rows: Dataset, split: str) -> Dataset:
    """Drop the rows whose text is null, empty or only white space, and log how many.

    Raises:
        ValueError: no row is left.
    """
    blank = [
        pc.fill_null(pc.or_(pc.equal(pc.binary_length(chunk), 0), pc.utf8_is_space(chunk)), True).to_numpy(False)
        for chunk in rows.data["text"].chunks
    ]
    kept = np.flatnonzero(~np.concatenate(blank)) if blank else []
    if not len(kept):
        raise ValueError(f"`{split}` has {len(rows)} rows, all of them empty: check --dataset_text_field")
    if len(kept) == len(rows):
        return rows
    logger.warning(f"{split}: dropped {len(rows) - len(kept)} empty rows of {len(rows)}")
    return rows.select(kept)


def first_rows(rows: Rows, limit: int | None) -> Rows:
    """Return the first `limit` rows (default: all)."""
    return rows if limit is None else rows.take(limit)
