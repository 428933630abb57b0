"""Remove lines or paragraphs that occur in an earlier document: menus, licences, quotations. The first one is kept.

The search takes eight bytes per passage, and a few times that while the hashes are sorted.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from daft import col
from daft.expressions import ExpressionsProjection
from daft.recordbatch import RecordBatch

from hf_llm.preparation.cleaning import trim_whitespace
from hf_llm.preparation.deduplication import digest
from hf_llm.preparation.spool import Spool, blocks

REPORTED_PASSAGES = 10  # the most frequent ones
PASSAGE_EXCERPT = 100  # characters of each in the report
SEPARATORS = {"lines": "\n", "paragraphs": "\n\n"}


def remove_repeated_passages(
    spool: Spool, rows: np.ndarray, target: Spool, unit: str, min_chars: int
) -> tuple[np.ndarray, list[tuple[str, int]]]:
    """Copy texts without the passages that occur earlier, in the same text or in a text before it.

    Args:
        spool: the texts.
        rows: the rows to copy, in this order, (N,).
        target: an empty spool; it gets N texts, some of them empty now, with their `source` and `row`.
        unit: "lines" or "paragraphs".
        min_chars: shorter passages are kept; many texts have them by chance.

    Returns:
        Bytes that were removed from each text, (N,), and the passages that were removed most often, with their counts.
    """
    begins, ends, sources, numbers = (spool.column(name)[rows] for name in ("begin", "end", "source", "row"))
    batches = list(blocks(ends - begins))
    hashes = [
        hash_passages(*split_passages(spool.texts(begins[batch], ends[batch]), unit, min_chars)[1:])
        for batch in batches
    ]
    borders, hashes = np.cumsum([0, *map(len, hashes)]), np.concatenate(hashes)
    repeated = seen_before(hashes)
    frequent, passages = most_frequent(hashes, repeated), []
    for batch, first, stop in zip(batches, borders[:-1], borders[1:], strict=True):
        texts = spool.texts(begins[batch], ends[batch])
        in_batch = [(index - first, count) for index, count in frequent if first <= index < stop]
        if in_batch:
            _, trimmed, long = split_passages(texts, unit, min_chars)
            indices = np.flatnonzero(long)
            passages += [(trimmed[int(indices[i])].as_py()[:PASSAGE_EXCERPT], count) for i, count in in_batch]
        texts = remove_passages(texts, unit, min_chars, repeated[first:stop])
        target.append(texts, {"source": sources[batch], "row": numbers[batch]})
    removed = ends - begins - (target.column("end") - target.column("begin"))
    return removed, sorted(passages, key=lambda passage: -passage[1])


def most_frequent(hashes: np.ndarray, repeated: np.ndarray) -> list[tuple[int, int]]:
    """Return `(index of the first occurrence, count of later ones)` of the passages that were repeated most often."""
    values, counts = np.unique(hashes[repeated], return_counts=True)
    chosen = np.lexsort([values, -counts])[:REPORTED_PASSAGES]
    return [(int(np.argmax(hashes == values[i])), int(counts[i])) for i in chosen]


def split_passages(texts: pa.Array, unit: str, min_chars: int) -> tuple[pa.ListArray, pa.Array, np.ndarray]:
    """Split N texts into P passages.

    Returns:
        The passages of each text, (N,) lists; all passages without surrounding white space, (P,) strings; and whether
        each has at least `min_chars` characters, (P,) bool.
    """
    lists = pc.split_pattern(texts, SEPARATORS[unit])
    trimmed = pc.utf8_trim_whitespace(lists.flatten())
    return lists, trimmed, pc.greater_equal(pc.utf8_length(trimmed), min_chars).to_numpy(zero_copy_only=False)


def hash_passages(passages: pa.Array, chosen: np.ndarray) -> np.ndarray:
    """Hash each passage that the boolean mask `chosen` selects, uint64."""
    batch = RecordBatch.from_arrow_table(pa.table({"text": passages.filter(pa.array(chosen))}))
    hashes = batch.eval_expression_list(ExpressionsProjection([digest(col("text"), 0).alias("hash")]))
    return hashes.to_arrow_table()["hash"].to_numpy()


def seen_before(hashes: np.ndarray) -> np.ndarray:
    """Whether an equal hash precedes each hash, (P,) bool: [7, 5, 7] -> [False, False, True]."""
    order = np.argsort(hashes, kind="stable")
    repeated = np.zeros(len(hashes), bool)
    repeated[order[1:]] = hashes[order[1:]] == hashes[order[:-1]]
    return repeated


def remove_passages(texts: pa.Array, unit: str, min_chars: int, repeated: np.ndarray) -> pa.Array:
    """Remove those long passages that `repeated` marks; a text that loses one is also trimmed of extra blank lines."""
    lists, _, long = split_passages(texts, unit, min_chars)
    kept = np.ones(len(long), bool)
    kept[np.flatnonzero(long)[repeated]] = False
    kept_before = np.concatenate([[0], np.cumsum(kept)])
    offsets = kept_before[lists.offsets.to_numpy() - lists.offsets[0].as_py()]
    passages = lists.flatten().filter(pa.array(kept))
    kept_lists = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), passages)
    joined = pc.binary_join(kept_lists, pa.scalar(SEPARATORS[unit], pa.large_string()))
    changed = np.diff(offsets) < lists.value_lengths().to_numpy()
    pairs = zip(joined.to_pylist(), changed.tolist(), strict=True)
    return pa.array([trim_whitespace(text) if removed else text for text, removed in pairs], pa.large_string())
