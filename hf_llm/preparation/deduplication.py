"""Find duplicate documents: equal ones by their hashes, near duplicates by MinHash and exact Jaccard similarity.

A document is compared as the set of its word n-grams, in lower case and without the punctuation of sentences; in
scripts without spaces each character is a word. MinHash signatures, which find the pairs to compare, are Daft
expressions over letters and digits; the similarity of a pair counts symbols and operators too. The search for pairs
holds one column of eight bytes per document at a time, whatever the number of bands.
"""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from daft import Expression, col
from daft.expressions import ExpressionsProjection
from daft.functions import hash as daft_hash
from daft.functions import lower, minhash, normalize, regexp_replace
from daft.recordbatch import RecordBatch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from hf_llm.metrics.segmentation import UNSPACED_SCRIPTS
from hf_llm.preparation.hashing import mix
from hf_llm.preparation.spool import Spool, blocks

NUM_HASHES = 120  # of a signature; bands of 1 to 6, 8, 10 or 12 hashes divide it evenly
NGRAM_BITS = 40  # bits of an n-gram's hash in a 64-bit key; the others hold the number of its text
BAND_RECALL = 0.99  # share of the pairs at the threshold that must have a band in common

# Variants of one mark, which typography chooses: any quotation mark or apostrophe, any dash or hyphen.
QUOTATION_MARKS, DASHES = '["`\u00b4\u00ab\u00bb\u2018-\u201f\u2039\u203a]', r"[\u2010-\u2015\u2212\ufe58\ufe63\uff0d]"
# But a double one after a number is a sign of inches or seconds, and between spaces one has no word to stay with.
INCHES, LONE_MARKS = r'(\p{N})["\u201d]', "(?:^|\\s)[\u00ab\u00bb](?:\\s|$)"
# Punctuation of sentences: around words of two or more letters, before a space, and in scripts without spaces. Next to
# a number or a single letter, brackets and exclamation marks may be operators: `5!`, `(2 + 3) * 4`.
TWO_LETTERS = r"[\p{L}\p{M}]{2}"
AFTER_WORD = rf"({TWO_LETTERS})[.,;:!?\u2026'\p{{Pe}}]+(?:\s|$)"
BEFORE_WORD, BEFORE_SPACE = rf"(?:^|\s)['\u00a1\u00bf\p{{Ps}}]+({TWO_LETTERS})", r"[.,;:?\u2026]+(?:\s|$)"
IGNORED = (
    r"[[\p{C}--\s]\u0589\u060c\u061b\u061f\u06d4\u0964\u0965\u1362"  # Armenian, Arabic, Devanagari, Ethiopic
    r"\u3001-\u3003\u3008-\u301f\u30fb\uff01\uff08\uff09\uff0c\uff0e\uff1a\uff1b\uff1f]"
)
SYMBOLS = r"\s*([^\p{L}\p{M}\p{N}\s\p{C}]+)"


def digest(text: Expression, seed: int) -> Expression:
    """Hash a text to 64 bits; equal hashes under two seeds mean equal texts."""
    return daft_hash(text, seed=seed)


def words_of_letters(text: Expression) -> Expression:
    """Join the words that `segment_words` would find by single spaces; Daft finds them much faster."""
    return split_unspaced_scripts(regexp_replace(lower(text), r"[^\p{L}\p{M}\p{N}]+", " "))


def words_and_symbols(text: Expression) -> Expression:
    """Do the same, but keep symbols, each with the word before it: "“No”: 2 * x[1]!" -> "no 2* x[ 1]!"."""
    text = lower(text)
    for pattern, replacement in (
        (LONE_MARKS, " "),
        (INCHES, "$1\u2033"),
        (QUOTATION_MARKS, "'"),
        (DASHES, "-"),
        (AFTER_WORD, "$1 "),
        (BEFORE_WORD, " $1"),
        (BEFORE_SPACE, " "),
        (IGNORED, " "),
        (SYMBOLS, "$1 "),
    ):
        text = regexp_replace(text, pattern, replacement)
    return split_unspaced_scripts(text)


def split_unspaced_scripts(text: Expression) -> Expression:
    """Make a word of each character of scripts without spaces, and single spaces between words."""
    return normalize(regexp_replace(text, rf"[{UNSPACED_SCRIPTS}]\p{{M}}*", " $0 "), white_space=True)


def minhash_signature(text: Expression, ngram: int) -> Expression:
    """MinHash of a document's word n-grams, (NUM_HASHES,) uint32; a text of fewer words is one n-gram.

    Without symbols, which nearly doubles the speed: what is similar with them is similar without.
    """
    return minhash(words_of_letters(text), num_hashes=NUM_HASHES, ngram_size=ngram)


def number_of_bands(threshold: float) -> int:
    """Return the smallest number of bands in which nearly all pairs of this Jaccard similarity have one in common.

    For 0.8 these are 20 bands of 6 hashes, and 99.8 % of the pairs. Fewer and longer bands give fewer pairs of lower
    similarity to compare.
    """
    for hashes in (12, 10, 8, 6, 5, 4, 3, 2):
        if 1 - (1 - threshold**hashes) ** (NUM_HASHES // hashes) >= BAND_RECALL:
            return NUM_HASHES // hashes
    return NUM_HASHES


def band_keys(signatures: np.ndarray, bands: int) -> np.ndarray:
    """Hash each band of each document to 64 bits: (N, NUM_HASHES) uint32 -> (N, bands) uint64."""
    by_band = signatures.reshape(len(signatures), bands, NUM_HASHES // bands)
    keys = np.zeros(by_band.shape[:2], np.uint64)
    for hashes in np.moveaxis(by_band, 2, 0):
        keys = mix(keys, hashes.astype(np.uint64))
    return keys


def bucket_pairs(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pair each document with the one before it in its bucket of equal keys, and with the first of the bucket.

    These pairs connect the same clusters as all pairs of a bucket, whose number would be the square of its size.

    Args:
        keys: (N,).

    Returns:
        The earlier and the later document of each pair, (P,) int64 both.

    Example:
        >>> bucket_pairs(np.array([7, 5, 7, 7]))  # (0, 2), (2, 3), (0, 2), (0, 3)
        (array([0, 2, 0, 0]), array([2, 3, 2, 3]))
    """
    order = np.argsort(keys, kind="stable")
    later = np.flatnonzero(np.diff(keys[order]) == 0) + 1
    begins_bucket = np.ones(len(keys), bool)
    begins_bucket[later] = False
    first = np.maximum.accumulate(np.where(begins_bucket, np.arange(len(keys)), 0))
    left = np.concatenate([order[later - 1], order[first[later]]])
    return left, np.concatenate([order[later], order[later]])


def candidate_pairs(bands: Iterable[np.ndarray], candidates: np.ndarray) -> np.ndarray:
    """Return the pairs of documents that have the key of a band in common, each once, (P, 2) int64, sorted.

    Args:
        bands: for each band, the keys of all documents, (N,) uint64.
        candidates: indices of the documents to compare.
    """
    count, pairs = len(candidates), np.empty(0, np.int64)
    for keys in bands:
        left, right = bucket_pairs(keys[candidates])
        pairs = sorted_unique(np.concatenate([pairs, left * count + right]))
    return np.stack([candidates[pairs // max(count, 1)], candidates[pairs % max(count, 1)]], axis=1)


def sorted_unique(values: np.ndarray) -> np.ndarray:
    """Return what `np.unique` returns, faster: numpy 2.4 hashes the values instead of sorting them."""
    values = np.sort(values)
    return values[np.diff(values, prepend=values[:1] - 1) != 0]


def hash_ngram_sets(texts: pa.Array, ngram: int) -> tuple[np.ndarray, np.ndarray]:
    """Hash the word n-grams of N texts; a text of fewer words is one n-gram, and one without words has none.

    Returns:
        The distinct hashes of each text, one text after the other, (G,) uint64, and the offsets of the texts in them,
        (N + 1,). The hashes have `NGRAM_BITS` bits and may be compared only within one call.
    """
    lists = pc.split_pattern(evaluate(words_and_symbols(col("text")), texts), " ")
    words = lists.values.dictionary_encode().indices.to_numpy().astype(np.uint64) + np.uint64(1)
    offsets = lists.offsets.to_numpy()
    sizes, position = np.diff(offsets), np.arange(len(words))
    starts, ends = np.repeat(offsets[:-1], sizes), np.repeat(offsets[1:], sizes)
    hashes = np.zeros(len(words), np.uint64)
    for offset in range(ngram):
        inside = position + offset < ends
        hashes = mix(hashes, np.where(inside, words[np.where(inside, position + offset, 0)], np.uint64(0)))
    kept = (position + ngram <= ends) | (position == starts)
    kept &= pc.not_equal(lists.values, "").to_numpy(zero_copy_only=False)  # the only "word" of a text without words
    text_numbers = np.repeat(np.arange(len(texts)), sizes)
    keys = sorted_unique(pack_key(text_numbers[kept], hashes[kept] >> np.uint64(64 - NGRAM_BITS)))
    begins = np.searchsorted(keys >> np.uint64(NGRAM_BITS), np.arange(len(texts) + 1, dtype=np.uint64))
    return keys & np.uint64(2**NGRAM_BITS - 1), begins


def evaluate(expression: Expression, texts: pa.Array) -> pa.Array:
    """Evaluate an expression over the column `text` in threads of this process, whatever the runner."""
    projection, size = ExpressionsProjection([expression]), len(texts) // (os.cpu_count() or 1) + 1

    def evaluate_slice(start: int) -> pa.Array:
        batch = RecordBatch.from_arrow_table(pa.table({"text": texts[start : start + size]}))
        return batch.eval_expression_list(projection).to_arrow_table()["text"].combine_chunks()

    with ThreadPoolExecutor() as threads:  # Daft computes without Python's lock
        return pa.concat_arrays(threads.map(evaluate_slice, range(0, max(1, len(texts)), size)))


def pack_key(number: np.ndarray, ngram_hash: np.ndarray) -> np.ndarray:
    """Pack the number of a text or pair (upper bits) and the hash of an n-gram (lower bits) into one uint64."""
    return (number.astype(np.uint64) << np.uint64(NGRAM_BITS)) | ngram_hash


def jaccard(texts: pa.Array, pairs: np.ndarray, ngram: int) -> np.ndarray:
    """Compute the exact Jaccard similarity of pairs of texts: common n-grams / n-grams of either, (P,) float.

    Args:
        pairs: indices in `texts`, (P, 2).
    """
    hashes, begins = hash_ngram_sets(texts, ngram)
    sizes = np.diff(begins)[pairs]
    keys = [
        pack_key(np.repeat(np.arange(len(pairs)), number), hashes[concatenate_ranges(begins[side], number)])
        for side, number in zip(pairs.T, sizes.T, strict=True)
    ]
    keys = np.sort(np.concatenate(keys))  # an n-gram that both texts of a pair have is in it twice
    twice = keys[1:][keys[1:] == keys[:-1]] >> np.uint64(NGRAM_BITS)
    common = np.bincount(twice.astype(np.int64), minlength=len(pairs))
    return common / np.maximum(sizes.sum(1) - common, 1)


def concatenate_ranges(starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Concatenate the ranges of integers from each start: [5, 20], [3, 2] -> [5, 6, 7, 20, 21]."""
    return np.repeat(starts - (np.cumsum(sizes) - sizes), sizes) + np.arange(sizes.sum())


def first_of_cluster(pairs: np.ndarray, documents: int) -> np.ndarray:
    """Return for each document the first one of its cluster, (N,) int64; chains of pairs form one cluster.

    Example:
        >>> first_of_cluster(np.array([[1, 2], [2, 4]]), 5)
        array([0, 1, 1, 3, 1])
    """
    graph = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(documents, documents))
    _, component = connected_components(graph, directed=False)
    _, first = np.unique(component, return_index=True)
    return first[component]


def first_equal_document(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return for each document the first one with the same two digests, (N,) int64."""
    left, right = bucket_pairs(low)
    same = high[left] == high[right]
    return first_of_cluster(np.stack([left[same], right[same]], axis=1), len(low))


def first_near_duplicate(spool: Spool, candidates: np.ndarray, threshold: float, ngram: int) -> np.ndarray:
    """Return for each document the first one of its cluster of near duplicates, (N,) int64.

    Args:
        spool: the texts, with the columns `band_0`, `band_1`, ... of `band_keys`, `number_of_bands(threshold)` of them.
        candidates: indices of the documents to compare, without exact duplicates.
        threshold: smallest Jaccard similarity of a pair of near duplicates.
    """
    begins, ends = spool.column("begin"), spool.column("end")
    pairs = candidate_pairs((spool.column(f"band_{band}") for band in range(number_of_bands(threshold))), candidates)
    similar = np.zeros(len(pairs), bool)
    for block in blocks((ends - begins)[pairs].sum(1)):
        documents, indices = np.unique(pairs[block], return_inverse=True)
        texts = spool.texts(begins[documents], ends[documents])
        similar[block] = jaccard(texts, indices.reshape(-1, 2), ngram) >= threshold
    apart = pairs[~similar]
    for band in range(number_of_bands(threshold)):  # those with the same letters
        apart = apart[np.equal(*spool.column(f"band_{band}")[apart.T])]
    equal = pairs_of_equal_words(spool, np.unique(apart))
    return first_of_cluster(np.concatenate([pairs[similar], equal]), len(ends))


def pairs_of_equal_words(spool: Spool, documents: np.ndarray) -> np.ndarray:
    """Pair each document with the first one of the same words and symbols, (P, 2) int64.

    In a bucket of texts that differ in symbols alone, two equal ones may both be paired with other texts only.
    """
    begins, ends = spool.column("begin")[documents], spool.column("end")[documents]
    digests = [np.empty((2, 0), np.uint64)]
    for block in blocks(ends - begins):
        words = evaluate(words_and_symbols(col("text")), spool.texts(begins[block], ends[block]))
        hashes = np.stack([evaluate(digest(col("text"), seed), words).to_numpy() for seed in (0, 1)])
        empty = pc.equal(words, "").to_numpy(zero_copy_only=False)  # equal to no other text
        digests.append(np.where(empty, documents[block].astype(np.uint64), hashes))
    first = first_equal_document(*np.concatenate(digests, axis=1))
    return np.stack([documents[first], documents], axis=1)
