"""Duplicates are those of the definitions, which are written out here in slow and simple code."""

import itertools
import random

import daft
import numpy as np
import pyarrow as pa
import pytest
from daft import col

from hf_llm.metrics.segmentation import segment_words
from hf_llm.preparation.deduplication import (
    NUM_HASHES,
    band_keys,
    bucket_pairs,
    candidate_pairs,
    first_equal_document,
    first_near_duplicate,
    first_of_cluster,
    jaccard,
    minhash_signature,
    number_of_bands,
    space_separated_words,
)
from hf_llm.preparation.spool import Spool

BANDS, NGRAM = number_of_bands(0.8), 5


def ngram_set(text):
    words = segment_words(text)
    return {tuple(words[i : i + NGRAM]) for i in range(max(1, len(words) - NGRAM + 1))} if words else set()


def similarity(a, b):
    return len(a & b) / max(len(a | b), 1)


def change_words(text, share, rng):
    """Replace a share of the words."""
    words = text.split(" ")
    for index in rng.sample(range(len(words)), max(1, round(share * len(words)))):
        words[index] = f"w{rng.randrange(10**6)}"
    return " ".join(words)


@pytest.fixture(scope="module")
def documents():
    """500 texts of 20 to 200 words, some of them copies with 0 %, 1 %, 5 % and 20 % of the words changed."""
    rng = random.Random(0)
    texts = [" ".join(f"w{rng.randrange(2000)}" for _ in range(rng.randrange(20, 200))) for _ in range(400)]
    copies = [change_words(rng.choice(texts), share, rng) for share in (0.01, 0.05, 0.2) for _ in range(25)]
    return [*texts, *copies, *rng.sample(texts, 25)]


@pytest.fixture(scope="module")
def similar_pairs(documents):
    """Every pair of similarity 0.8 or more, found by comparing all pairs."""
    sets = [ngram_set(text) for text in documents]
    pairs = itertools.combinations(range(len(documents)), 2)
    return {(i, j) for i, j in pairs if similarity(sets[i], sets[j]) >= 0.8}


def signatures(texts):
    column = daft.from_pydict({"text": texts}).select(minhash_signature(col("text"), NGRAM)).to_arrow()["text"]
    return column.combine_chunks().flatten().to_numpy().reshape(-1, NUM_HASHES)


def test_words_are_those_of_segment_words():
    """Daft's expressions and Python's regular expressions find the same words in any script."""
    texts = ["GPT-2 was, in 2019, große_Sache!", "我在2019年用GPT。", "カレーは3人前、々", "हिन्दी में", "ที่นี่ x", "?!", ""]
    words = daft.from_pydict({"text": texts}).select(space_separated_words(col("text"))).to_pydict()["text"]
    assert words == [" ".join(segment_words(text)) for text in texts]


def test_jaccard_similarity_is_the_definition(documents):
    """Also for short texts and for texts without words."""
    texts = [
        *documents[:60],
        *documents[-110:],
        "one two",
        "One, two!",
        "two one",
        "!!!",
        "???",
        "床前明月光",
        "床前明月亮光",
    ]
    pairs = np.array([(i, j) for j in range(len(texts)) for i in range(j)])
    sets = [ngram_set(text) for text in texts]
    expected = [similarity(sets[i], sets[j]) for i, j in pairs]
    np.testing.assert_array_equal(jaccard(pa.array(texts), pairs, NGRAM), expected)
    assert max(expected) == 1 and 0 < sorted(expected)[-20] < 1


def test_equal_signatures_mean_equal_bands():
    """Different signatures have different keys, and changing any one hash changes the key of its band only."""
    draw = np.random.default_rng(0)
    signatures = draw.integers(2**32, size=(50, NUM_HASHES), dtype=np.uint32)
    keys = band_keys(signatures, BANDS)
    assert keys.shape == (50, BANDS) and len(np.unique(keys)) == 50 * BANDS
    for index in range(NUM_HASHES):
        other = signatures[:1].copy()
        other[0, index] ^= 1
        assert (band_keys(other, BANDS)[0] != keys[0]).sum() == 1


@pytest.mark.parametrize(("threshold", "bands"), [(0.95, 10), (0.8, 20), (0.7, 30), (0.5, 40), (0.1, 120)])
def test_bands_find_pairs_at_any_threshold(threshold, bands):
    """A lower threshold needs more bands; otherwise most pairs would be missed silently."""
    assert number_of_bands(threshold) == bands
    assert threshold < 0.3 or 1 - (1 - threshold ** (NUM_HASHES // bands)) ** bands >= 0.99


def test_a_document_is_paired_with_the_one_before_and_the_first_of_its_bucket():
    """For seven keys; a pair that is both appears twice."""
    left, right = bucket_pairs(np.array([7, 5, 7, 7, 9, 5, 7], np.uint64))
    assert sorted(zip(left.tolist(), right.tolist(), strict=True)) == sorted(
        [(1, 5), (1, 5), (0, 2), (0, 2), (2, 3), (0, 3), (3, 6), (0, 6)]
    )


def test_pairs_above_the_threshold_are_candidates(documents, similar_pairs):
    """At least 97 % of them, and only pairs of the given documents."""
    keys = band_keys(signatures(documents), BANDS)
    indices = np.arange(len(documents))
    pairs = {tuple(pair) for pair in candidate_pairs(keys.T, indices).tolist()}
    assert len(similar_pairs) > 30 and len(similar_pairs & pairs) >= 0.97 * len(similar_pairs)
    assert {i for pair in candidate_pairs(keys.T, indices[::2]) for i in pair} <= set(indices[::2].tolist())


def test_a_cluster_is_identified_by_its_first_document():
    """Chains of pairs form one cluster; a document without a pair is its own cluster."""
    assert first_of_cluster(np.array([[1, 2], [2, 5], [3, 4]]), 7).tolist() == [0, 1, 1, 3, 3, 1, 6]
    assert first_of_cluster(np.empty((0, 2), np.int64), 3).tolist() == [0, 1, 2]


def test_equal_documents_have_both_digests_in_common():
    """Documents with only one equal digest are not duplicates."""
    low, high = np.array([5, 5, 5, 7, 5], np.uint64), np.array([1, 2, 1, 1, 1], np.uint64)
    assert first_equal_document(low, high).tolist() == [0, 1, 0, 3, 0]


def test_near_duplicates_are_found_and_nothing_else(documents, similar_pairs, tmp_path, monkeypatch):
    """Compared with the exact similarity of all pairs; texts are read in blocks of a few."""
    monkeypatch.setattr("hf_llm.preparation.spool.BLOCK_BYTES", 5000)
    spool = Spool(tmp_path / "spool")
    keys = band_keys(signatures(documents), BANDS)
    spool.append(pa.array(documents, pa.large_string()), {f"band_{band}": keys[:, band] for band in range(BANDS)})
    first = first_near_duplicate(spool, np.arange(len(documents)), 0.8, NGRAM)
    spool.close()
    expected = first_of_cluster(np.array(sorted(similar_pairs)), len(documents))
    assert (first != expected).mean() < 0.01
