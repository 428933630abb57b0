"""The first pass over all rows: one lazy Daft plan reads, cleans and hashes them; meanwhile they are counted."""

import logging
import sys

import daft
import pyarrow as pa
import pyarrow.compute as pc
from daft import DataType, col, lit
from daft.errors import UDFException
from daft.exceptions import DaftCoreException
from daft.functions import length_bytes, to_struct, when
from tqdm.auto import tqdm

from hf_llm.arguments import PreparationArguments
from hf_llm.data.byte_streams import Problem
from hf_llm.data.found import SourceFile
from hf_llm.messages import one_line, printable
from hf_llm.preparation.deduplication import NUM_HASHES, band_keys, digest, minhash_signature, number_of_bands
from hf_llm.preparation.document_source import DocumentSource
from hf_llm.preparation.funnel import Funnel
from hf_llm.preparation.kept_columns import KeptColumns
from hf_llm.preparation.processes import (
    BATCH_BYTES,
    REMEDY,
    SHARED_MEMORY,
    shared_memory_limits,
    worker_environment,
    worker_function,
)
from hf_llm.preparation.row_steps import RowSteps, too_short
from hf_llm.preparation.spool import Spool

BATCH_ROWS = 256  # per call of a worker process
UNREADABLE_COLUMNS = ["source", "row", "problem", "failure", "lost_bytes", "is_file", "left_out", "size"]
SKIP_HINT = "`--on_error skip` skips and counts what cannot be read"
MORSEL = 2000  # rows that Daft hands to a core at a time, without worker processes


def first_pass_plan(files: list[SourceFile], args: PreparationArguments, steps: RowSteps) -> daft.DataFrame:
    """Build the lazy plan of the first pass: read the documents, apply the steps, hash the texts.

    Returns:
        A frame with the columns of `DocumentSource` and of `RESULT_TYPE`, `size` (bytes of the text as it was read),
        and `hashes`: a struct of two digests and the MinHash signature.

    Raises:
        ValueError: there is too little shared memory for worker processes.
    """
    workers, max_bytes, batch = None, sys.maxsize, (MORSEL, sys.maxsize)
    if not steps.only_drop_empty:
        if args.runner == "native":
            workers, max_bytes = shared_memory_limits()
        batch = (BATCH_ROWS, min(BATCH_BYTES, max_bytes))
    problem = f"into `{SHARED_MEMORY}`: {REMEDY}"
    rows = DocumentSource(
        files, args.dataset_text_field, args.reading(), batch, max_bytes, problem, args.keep_columns
    ).read()
    rows = rows.with_column("size", length_bytes(col("text")))
    if steps.only_drop_empty:
        rows = drop_empty_in_daft(rows)
    else:
        names = [name for name in rows.column_names if name != "text"]
        rows = rows.select(*names, worker_function(steps, workers)(col("text")))
    hashes = {f"digest_{seed}": digest(col("text"), seed) for seed in (0, 1)}
    # Put the hashes into one struct: Daft 0.7 computes several columns on one core only.
    return rows.with_column(
        "hashes", to_struct(**hashes, signature=minhash_signature(col("text"), args.deduplication_ngram))
    )


def drop_empty_in_daft(rows: daft.DataFrame) -> daft.DataFrame:
    """Add the columns of `RESULT_TYPE` as the steps would when they only drop empty texts, without their processes."""
    no_string, empty = lit(None).cast(DataType.string()), col("size") == 0
    columns = {
        "step": when(empty, lit("length")).otherwise(no_string),
        "reason": when(empty, lit(too_short(1))).otherwise(no_string),
        "replaced": lit(None).cast(DataType.list(DataType.string())),
        "changed": lit(None).cast(DataType.list(DataType.string())),
        "removed_bytes": lit(None).cast(DataType.list(DataType.int64())),
        "failure": no_string,
    }
    return rows.with_columns(columns)


def run_first_pass(
    plan: daft.DataFrame, args: PreparationArguments, spool: Spool, funnel: Funnel, kept: KeptColumns
) -> None:
    """Run the first pass: count the dropped rows in `funnel`, and append the others to `spool` with their hashes.

    Raises:
        ValueError: a row cannot be read, with `--on_error stop`.
        OSError: a worker process was killed.
    """
    bands = number_of_bands(args.jaccard_threshold)
    # Errors of the engine are raised too, and that a process took long to end is none.
    logging.getLogger("daft_local_execution").setLevel(logging.CRITICAL)
    try:
        with worker_environment(), tqdm(desc="Reading and cleaning", unit=" rows") as bar:
            for batch in plan.to_arrow_iter():
                bar.update(len(batch))
                spool_rows(pa.table(batch), bands, args.on_error, spool, funnel, kept)
    except (DaftCoreException, EOFError, RuntimeError, UDFException) as error:
        raise OSError(
            f"a worker process ended: {one_line(error)}: if there is too little memory, give it more; {REMEDY}"
        ) from None
    if spool.size:
        spool.sort("source", "row")
        kept.sort()


def spool_rows(table: pa.Table, bands: int, on_error: str, spool: Spool, funnel: Funnel, kept: KeptColumns) -> None:
    """Count the rows of one batch, and append those that no step has dropped to `spool`."""
    table = drop_unreadable_rows(table, on_error, funnel)
    count_changed_texts(table, funnel)
    table = drop_rejected_rows(table, funnel)
    funnel.replaced.update(pc.list_flatten(table["replaced"]).to_pylist())
    hashes = table["hashes"].combine_chunks()
    keys = band_keys(hashes.field("signature").flatten().to_numpy().reshape(-1, NUM_HASHES), bands)
    columns = {name: table[name].to_numpy() for name in ("source", "row")}
    columns |= {name: hashes.field(name).to_numpy() for name in ("digest_0", "digest_1")}
    columns |= {f"band_{band}": keys[:, band] for band in range(bands)}
    spool.append(table["text"].combine_chunks(), columns)
    kept.append(table["kept"], columns)


def drop_unreadable_rows(table: pa.Table, on_error: str, funnel: Funnel) -> pa.Table:
    """Count the rows that were read and those that could not be read or treated, and return the others.

    Raises:
        ValueError: the first of them, with `--on_error stop`.
    """
    funnel.inputs.count_read(table["source"].to_numpy(), pc.fill_null(table["size"], 0).to_numpy())
    readable = pc.and_(pc.is_null(table["problem"]), pc.is_null(table["failure"]))
    unreadable = table.filter(pc.invert(readable))
    for row in unreadable.select(UNREADABLE_COLUMNS).to_pylist():
        if row["left_out"]:
            funnel.inputs.count_left_out(row["source"], row["left_out"], row["problem"], row["lost_bytes"])
            continue
        file = funnel.inputs.files[row["source"]]
        problem = row["problem"] or f"`{printable(file.path)}` row {row['row']} {row['failure']}"
        if on_error == "stop":
            problem = funnel.inputs.stored_message(row["source"], problem) if "://" in file.path else problem
            raise ValueError(f"{problem}; {SKIP_HINT}")
        lost_bytes = row["lost_bytes"] if row["problem"] else row["size"]
        funnel.count_unreadable(
            row["source"], row["row"], Problem(problem, lost_bytes, row["is_file"]), row["size"] or 0
        )
    return table.filter(readable) if len(unreadable) else table


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
