"""Duplicates among documents: equal ones by their hashes, near ones by MinHash and exact Jaccard similarity.

A document stands for the set of its n-grams of words, in lower case and without punctuation; where a script has no
spaces, each character is a word. Signatures are Daft expressions; what is found with them needs one column of eight
bytes a document at a time, whatever the number of bands.
"""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from daft import Expression, col
from daft.functions import hash as hash_of
from daft.functions import lower, minhash, normalize, regexp_replace
from daft.recordbatch import RecordBatch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from hf_llm.metrics.segmentation import UNSPACED_SCRIPTS
from hf_llm.preparation.hashing import mix
from hf_llm.preparation.spool import Spool, blocks

HASHES = 120  # divided by 1 to 6, 8, 10, 12: into bands without a rest
GRAM_BITS = 40  # of the hash of an n-gram; the rest of 64 is for the number of its text
FOUND = 0.99  # of the pairs at the threshold are to share a band


def digest(text: Expression, seed: int) -> Expression:
    """64 bits of a text; two with different seeds tell equal texts from others."""
    return hash_of(text, seed=seed)


def separate_words(text: Expression) -> Expression:
    """Words as `segment_words` finds them, separated by single spaces; the engine's expressions are much faster."""
    letters = regexp_replace(lower(text), r"[^\p{L}\p{M}\p{N}]+", " ")
    return normalize(regexp_replace(letters, rf"([{UNSPACED_SCRIPTS}]\p{{M}}*)", " $1 "), white_space=True)


def signature(text: Expression, ngram: int) -> Expression:
    """MinHash of a document's n-grams of words, (HASHES,) uint32; a shorter document is one n-gram as a whole."""
    return minhash(separate_words(text), num_hashes=HASHES, ngram_size=ngram)


def number_of_bands(threshold: float) -> int:
    """As few bands as find nearly all pairs of this Jaccard similarity: 20 of 6 hashes for 0.8, where 99.8 % share one.

    Fewer and longer bands bring fewer pairs that are not alike.
    """
    for hashes in (12, 10, 8, 6, 5, 4, 3, 2):
        if 1 - (1 - threshold**hashes) ** (HASHES // hashes) >= FOUND:
            return HASHES // hashes
    return HASHES


def band_keys(signatures: np.ndarray, bands: int) -> np.ndarray:
    """One key of 64 bits for each band of each document: (N, HASHES) uint32 -> (N, bands) uint64."""
    bands = signatures.reshape(len(signatures), bands, HASHES // bands)
    keys = np.zeros(bands.shape[:2], np.uint64)
    for hashes in np.moveaxis(bands, 2, 0):
        keys = mix(keys, hashes.astype(np.uint64))
    return keys


def bucket_pairs(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Documents with equal keys: each with the one before it, and with the first of its bucket.

    All pairs of a bucket would be the square of its size, and make no other clusters.

    Args:
        keys: (N,).

    Returns:
        Two columns of documents, the earlier one first, (P,) int64 both.
    """
    order = np.argsort(keys, kind="stable")
    behind = np.flatnonzero(np.diff(keys[order]) == 0) + 1
    begins = np.ones(len(keys), bool)
    begins[behind] = False
    first = np.maximum.accumulate(np.where(begins, np.arange(len(keys)), 0))
    left = np.concatenate([order[behind - 1], order[first[behind]]])
    return left, np.concatenate([order[behind], order[behind]])


def candidate_pairs(bands: Iterable[np.ndarray], candidates: np.ndarray) -> np.ndarray:
    """Pairs that share a band, each once, (P, 2) int64, sorted.

    Args:
        bands: the keys of one band after the other, (N,) uint64 each.
        candidates: the documents, among N, that are left to be compared.
    """
    count, found = len(candidates), np.empty(0, np.int64)
    for keys in bands:
        left, right = bucket_pairs(keys[candidates])
        found = sorted_unique(np.concatenate([found, left * count + right]))
    return np.stack([candidates[found // max(count, 1)], candidates[found % max(count, 1)]], axis=1)


def sorted_unique(values: np.ndarray) -> np.ndarray:
    """As `np.unique`, which is slower: it counts by hashing."""
    values = np.sort(values)
    return values[np.diff(values, prepend=values[:1] - 1) != 0]


def ngrams(texts: pa.Array, ngram: int) -> tuple[np.ndarray, np.ndarray]:
    """The set of n-grams of each text; a shorter text is one n-gram as a whole.

    Returns:
        Hashes of `GRAM_BITS` that compare within this call alone, (G,) uint64, and each text's first one, (N + 1,).
    """
    batch = RecordBatch.from_arrow_table(pa.table({"text": texts}))  # here, whatever the runner
    table = batch.eval_expression_list([separate_words(col("text"))]).to_arrow_table()
    lists = pc.split_pattern(table["text"].combine_chunks(), " ")
    tokens = lists.values.dictionary_encode().indices.to_numpy().astype(np.uint64) + np.uint64(1)
    offsets = lists.offsets.to_numpy()
    sizes, place = np.diff(offsets), np.arange(len(tokens))
    starts, ends = np.repeat(offsets[:-1], sizes), np.repeat(offsets[1:], sizes)
    grams = np.zeros(len(tokens), np.uint64)
    for step in range(ngram):
        inside = place + step < ends
        grams = mix(grams, np.where(inside, tokens[np.where(inside, place + step, 0)], np.uint64(0)))
    kept = (place + ngram <= ends) | (place == starts)
    kept &= pc.not_equal(lists.values, "").to_numpy(zero_copy_only=False)  # of a text without any word
    keys = sorted_unique(owned(np.repeat(np.arange(len(texts)), sizes)[kept], grams[kept] >> np.uint64(64 - GRAM_BITS)))
    begins = np.searchsorted(keys >> np.uint64(GRAM_BITS), np.arange(len(texts) + 1, dtype=np.uint64))
    return keys & np.uint64(2**GRAM_BITS - 1), begins


def owned(owner: np.ndarray, grams: np.ndarray) -> np.ndarray:
    """One number of a text (or pair) and of an n-gram in it: equal ones are found by sorting."""
    return (owner.astype(np.uint64) << np.uint64(GRAM_BITS)) | grams


def jaccard(texts: pa.Array, pairs: np.ndarray, ngram: int) -> np.ndarray:
    """Exact similarity of pairs of texts: size of the intersection of their n-grams over that of the union, (P,).

    Args:
        pairs: (P, 2) places in `texts`.
    """
    grams, begins = ngrams(texts, ngram)
    sizes = np.diff(begins)[pairs]
    keys = [
        owned(np.repeat(np.arange(len(pairs)), number), grams[ranges(begins[side], number)])
        for side, number in zip(pairs.T, sizes.T, strict=True)
    ]
    keys = np.sort(np.concatenate(keys))  # what both sides of a pair have is there twice
    twice = keys[1:][keys[1:] == keys[:-1]] >> np.uint64(GRAM_BITS)
    common = np.bincount(twice.astype(np.int64), minlength=len(pairs))
    return common / np.maximum(sizes.sum(1) - common, 1)


def ranges(starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Whole numbers from each start on, as many as its size says, one range behind the other."""
    return np.repeat(starts - (np.cumsum(sizes) - sizes), sizes) + np.arange(sizes.sum())


def first_of_cluster(pairs: np.ndarray, documents: int) -> np.ndarray:
    """For each document the first one that a chain of pairs leads to; itself where it is in no pair, (N,) int64."""
    graph = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(documents, documents))
    _, component = connected_components(graph, directed=False)
    _, first = np.unique(component, return_index=True)
    return first[component]


def equal_documents(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """For each document the first one with the same digests, (N,) int64."""
    left, right = bucket_pairs(low)
    same = high[left] == high[right]
    return first_of_cluster(np.stack([left[same], right[same]], axis=1), len(low))


def near_documents(spool: Spool, candidates: np.ndarray, threshold: float, ngram: int) -> np.ndarray:
    """For each document the first one of its cluster of near duplicates, (N,) int64.

    Args:
        spool: with the columns `band_0`, `band_1`, ... of `band_keys`, `number_of_bands(threshold)` of them.
        candidates: the documents that are compared; equal ones are known already.
        threshold: a pair is near from this Jaccard similarity on.
    """
    begins, ends = spool.column("begin"), spool.column("end")
    pairs = candidate_pairs((spool.column(f"band_{band}") for band in range(number_of_bands(threshold))), candidates)
    similar = np.zeros(len(pairs), bool)
    for block in blocks((ends - begins)[pairs].sum(1)):
        documents, places = np.unique(pairs[block], return_inverse=True)
        texts = spool.texts(begins[documents], ends[documents])
        similar[block] = jaccard(texts, places.reshape(-1, 2), ngram) >= threshold
    return first_of_cluster(pairs[similar], len(ends))
