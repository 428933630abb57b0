"""Lines or paragraphs that stand in many documents: menus, licences, quotations. The first of each stays.

A passage counts eight bytes while it is looked for, and some times as much while they are sorted.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from daft import col
from daft.recordbatch import RecordBatch

from hf_llm.preparation.cleaning import tidy
from hf_llm.preparation.deduplication import digest
from hf_llm.preparation.spool import Spool, blocks

PASSAGE_EXCERPT, FREQUENT = 100, 10  # characters, and passages, of the report
SEPARATORS = {"lines": "\n", "paragraphs": "\n\n"}


def drop_repeated_passages(
    spool: Spool, rows: np.ndarray, into: Spool, unit: str, min_chars: int
) -> tuple[np.ndarray, list[tuple[str, int]]]:
    """Copy texts without the passages that an earlier text, or the same one, has already.

    Args:
        spool: the texts.
        rows: those that are copied, in this order, (N,).
        into: an empty spool; it gets N texts, some of them empty now, and their `source` and `row`.
        unit: one of `SEPARATORS`.
        min_chars: shorter passages stay; every text may have them.

    Returns:
        Bytes that each text lost, (N,), and the passages that were left out most often, with how often.
    """
    begins, ends, sources, numbers = (spool.column(name)[rows] for name in ("begin", "end", "source", "row"))
    batches = list(blocks(ends - begins))
    hashes = [
        hashes_of(*long_passages(spool.texts(begins[batch], ends[batch]), unit, min_chars)[1:]) for batch in batches
    ]
    borders, hashes = np.cumsum([0, *map(len, hashes)]), np.concatenate(hashes)
    repeated = was_there(hashes)
    frequent, passages = most_frequent(hashes, repeated), []
    for number, batch in enumerate(batches):
        texts, first = spool.texts(begins[batch], ends[batch]), borders[number]
        of_batch = [(place - first, times) for place, times in frequent if first <= place < borders[number + 1]]
        if of_batch:
            _, trimmed, long = long_passages(texts, unit, min_chars)
            places = np.flatnonzero(long)
            passages += [(trimmed[int(places[place])].as_py()[:PASSAGE_EXCERPT], times) for place, times in of_batch]
        texts = without(texts, unit, min_chars, repeated[first : borders[number + 1]])
        into.append(texts, {"source": sources[batch], "row": numbers[batch]})
    lost = ends - begins - (into.column("end") - into.column("begin"))
    return lost, sorted(passages, key=lambda passage: -passage[1])


def most_frequent(hashes: np.ndarray, repeated: np.ndarray) -> list[tuple[int, int]]:
    """Of the passages that were left out most often, where each stands first, and how often it was left out."""
    values, times = np.unique(hashes[repeated], return_counts=True)
    chosen = np.lexsort([values, -times])[:FREQUENT]
    return [(int(np.argmax(hashes == values[place])), int(times[place])) for place in chosen]


def long_passages(texts: pa.Array, unit: str, min_chars: int) -> tuple[pa.ListArray, pa.Array, np.ndarray]:
    """The passages of each text; all of them without white space around; and which are long enough to count."""
    lists = pc.split_pattern(texts, SEPARATORS[unit])
    trimmed = pc.utf8_trim_whitespace(lists.flatten())
    return lists, trimmed, pc.greater_equal(pc.utf8_length(trimmed), min_chars).to_numpy(zero_copy_only=False)


def hashes_of(passages: pa.Array, chosen: np.ndarray) -> np.ndarray:
    """64 bits of each chosen passage, (P,) uint64."""
    batch = RecordBatch.from_arrow_table(pa.table({"text": passages.filter(pa.array(chosen))}))
    return batch.eval_expression_list([digest(col("text"), 0).alias("hash")]).to_arrow_table()["hash"].to_numpy()


def was_there(hashes: np.ndarray) -> np.ndarray:
    """For each hash whether an equal one stands before it, (P,) bool."""
    order = np.argsort(hashes, kind="stable")
    repeated = np.zeros(len(hashes), bool)
    repeated[order[1:]] = hashes[order[1:]] == hashes[order[:-1]]
    return repeated


def without(texts: pa.Array, unit: str, min_chars: int, repeated: np.ndarray) -> pa.Array:
    """The texts without the repeated ones of their long passages; where any is left out, blank lines are closed up."""
    lists, _, long = long_passages(texts, unit, min_chars)
    kept = np.ones(len(long), bool)
    kept[np.flatnonzero(long)[repeated]] = False
    before = np.concatenate([[0], np.cumsum(kept)])
    offsets = before[lists.offsets.to_numpy() - lists.offsets[0].as_py()]
    passages = lists.flatten().filter(pa.array(kept))
    kept_lists = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), passages)
    joined = pc.binary_join(kept_lists, pa.scalar(SEPARATORS[unit], pa.large_string()))
    changed = np.diff(offsets) < lists.value_lengths().to_numpy()
    texts = [tidy(text) if cut else text for text, cut in zip(joined.to_pylist(), changed.tolist(), strict=True)]
    return pa.array(texts, pa.large_string())
